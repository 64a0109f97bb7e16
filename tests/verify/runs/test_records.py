"""Records that anyone may have written: each is held against its schema, a bad one is named and nothing else stops."""

import json
import os
from dataclasses import replace

import pytest

from depthwidth import InputError
from verify import rows
from verify.records import FailureRecord, check_record, read_record
from verify.rows import Row, canonical, digest_of, rows_from_csv, rows_to_csv
from verify.runs import claims
from verify.runs.plans import load_plans
from verify.runs.store import Store, read_plan

RUN = "0123456789abcdef"
OTHER = "fedcba9876543210"
PREDICTION = {"quantity": "loss", "value": 1.5, "formula": "f", "version": "1", "site": "end", "step": None, "stderr": None}
PLANNED = {
    "run": RUN, "seed": 1, "spec": {"steps": 4}, "labels": {"depth": 2}, "cost": 1.0, "cpus": 1.0, "gpus": 0.0,
    "predictions": [PREDICTION],
}  # fmt: skip
PLAN = {
    "job": "walk", "size": "tiny", "code": "c", "created": "2026-01-01T00:00:00Z", "question": "q", "claim": "c",
    "measured": "m", "criterion": "c", "predictions": [], "runs": [PLANNED],
}  # fmt: skip


def sealed(plan):
    return json.dumps({**plan, "sha256": digest_of(canonical(plan).encode())}).encode()


def changed(path, value):
    """The plan with something else at a path of keys; Ellipsis removes it."""
    plan = json.loads(json.dumps(PLAN))
    at = plan
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return plan


FIRST = ("runs", 0, "predictions", 0)
BAD_PLANS = [
    (("question",), ..., "missing required field `question`"),
    (("claim",), 3, r"expected `str`, got `int` - at `\$.claim`"),
    (("size",), "huge", "size"),
    (("job",), "../walk", "job"),
    (("predictions",), 1.5, r"`\$.predictions`"),
    (("ensemble",), 0, "ensemble"),
    (("ensemble",), "many", "ensemble"),
    (("runs",), {}, r"`\$.runs`"),
    (("runs", 0), 3, "runs"),
    (("runs", 0, "run"), RUN + "\n", "run"),
    (("runs", 0, "cost"), "much", "cost"),
    (("runs", 0, "cost"), -1.0, "cost"),
    (("runs", 0, "cost"), 1e308, "cost"),
    (("runs", 0, "labels"), {"depth": [1]}, "labels"),
    (("runs", 0, "labels"), [], "labels"),
    (("runs", 0, "spec"), [], "spec"),
    (("runs", 0, "seed"), True, "seed"),
    ((*FIRST,), 1.5, "predictions"),
    ((*FIRST, "value"), "1.5", "value"),
    ((*FIRST, "value"), None, "value"),
    ((*FIRST, "extra"), 1, "unknown field `extra`"),
    ((*FIRST, "formula"), ..., "formula"),
    ((*FIRST, "stderr"), -1.0, "stderr"),
    (("runs",), [PLANNED, PLANNED], "names a run twice"),
    (("predictions",), [PREDICTION, PREDICTION], "predicts one quantity twice"),
]


@pytest.mark.parametrize(("path", "value", "fault"), BAD_PLANS, ids=str)
def test_a_correctly_sealed_plan_is_held_against_its_schema(path, value, fault):
    assert read_plan(sealed(PLAN)) == PLAN
    found = read_plan(sealed(changed(path, value)))
    assert isinstance(found, str)
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(found)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a": NaN}', b"\xff", b'{"runs": 1' + b"0" * 5000 + b"}", b"null"], ids=len)
def test_what_is_no_plan_at_all(data):
    assert isinstance(read_plan(data), str)


def test_what_a_job_plans_can_be_read(tmp_path):
    store = Store(tmp_path).open()
    with pytest.raises(InputError, match="labels"):
        store.write_plan(changed(("runs", 0, "labels"), {"depth": [1]}))
    store.write_plan(PLAN)
    assert store.plans() == [PLAN]


def test_damage_to_a_plan_says_what_is_no_longer_planned_and_how_to_plan_it(tmp_path):
    store = Store(tmp_path).open()
    store.write_plan({**PLAN, "ensemble": 3})
    path = tmp_path / "plans" / "walk.tiny.json"
    path.write_bytes(path.read_bytes().replace(b"1.5", b"2.5"))
    (damage,) = store.damaged()
    assert damage.ensemble == 3
    assert str(damage) == (
        f"walk.tiny.json: it is not what was written; its runs ({RUN}) are no longer planned, and `depthwidth verify run walk "
        "--size tiny` plans them again; rows that are there stay"
    )


def test_a_damaged_plan_of_an_unknown_job_stops_nothing(tmp_path):
    store = Store(tmp_path).open()
    (tmp_path / "plans" / "walk-of-nobody.tiny.json").write_text("{")
    plans, passed = load_plans(store, store.tidy())
    assert plans == []
    assert "walk-of-nobody tiny, whose plan was damaged, cannot be planned again" in passed[0]


# Small records.

NOT_RECORDS = [
    "", "[" * 100_000, "[]", '"x"', "null", '{"error": 3}', '{"since": NaN}', '{"a": 1, "a": 1}', '{"error": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_RECORDS, ids=range(len(NOT_RECORDS)))
@pytest.mark.parametrize("part", ["failed", "leases"])
def test_a_bad_record_is_named_and_set_aside(tmp_path, part, text):
    store = Store(tmp_path).open()
    path = tmp_path / part / f"{RUN}.json"
    path.write_text(text)
    store.write_failure(OTHER, {"error": "it fell", "job": "walk"})
    assert store.failures()[OTHER]["error"] == "it fell"
    assert claims.running(store) == {}
    (damage,) = store.damaged()
    assert damage.path == path
    assert str(damage).count("\n") == 0
    store.tidy()
    assert not path.exists()
    assert store.damaged() == []


@pytest.mark.parametrize("text", ["[]", "{}", '["x"]', "[" * 100_000, f'["{RUN}", 3]'])
def test_members_that_are_none_are_named(tmp_path, text):
    store = Store(tmp_path).open()
    folder = store.begin_ensemble([RUN, OTHER])
    assert store.ensembles() == [[RUN, OTHER]]
    (folder / "members.json").write_text(text)
    assert store.ensembles() == []
    assert "start again" in str(store.damaged()[0])


def test_pipes_in_place_of_files_are_damage(tmp_path):
    """None of them is waited for."""
    store = Store(tmp_path).open()
    for name in ("plans/walk.tiny.json", f"rows/{RUN}.{OTHER}.csv", f"failed/{RUN}.json", f"leases/{RUN}.json"):
        os.mkfifo(tmp_path / name)
    assert (store.plans(), store.rows(), claims.running(store)) == ([], {}, {})
    assert sum("is not a regular file" in str(one) for one in store.damaged()) == 4
    assert len(store.tidy()) == 4
    assert store.damaged() == []


def test_a_record_says_the_place_that_differs(tmp_path):
    (tmp_path / "f.json").write_text('{"error": "e", "deaths": -1}')
    with pytest.raises(InputError, match=r"deaths"):
        read_record(tmp_path / "f.json", FailureRecord, "failure")
    check_record({"error": "e", "deaths": 1}, FailureRecord, "it")


# Rows.


def row(**changes):
    made = {"job": "walk", "run": RUN, "quantity": "loss", "value": 1.0, "seed": 1, "wall_s": 1.0, "labels": {"depth": 2}}
    return Row(**(made | changes))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b'"{""depth"":2}"', b'"{""depth"":[2]}"', "labels must be an object of plain values"),
        (b'"{""depth"":2}"', b'"{""depth"":NaN}"', "labels must be"),
        (b'"{""depth"":2}"', b"[" * 100_000, "labels must be"),
        (b'"{""depth"":2}"', b'"{""depth"":""\\ud800""}"', "labels must be"),
        (b",1.0,,", b",1.0,-1.0,", "stderr must be a number that is not negative"),
        (b",1.0,d", b",nan,d", "wall_s must be a number of seconds"),
        (b",1.0,d", b",1e300,d", "wall_s must be a number of seconds"),
        (b",1,", b",1" + b"0" * 400 + b",", "seed must be a whole number"),
        (b"loss", b"\xff", "is not a table"),
        (b"loss", b"x" * 200_000, "is not a table"),
    ],
)  # fmt: skip
def test_a_row_is_held_against_its_columns(old, new, fault):
    data = rows_to_csv([row(date="d")])
    assert rows_from_csv(data) == [row(date="d")]
    harmed = data.replace(old, new, 1)
    assert harmed != data
    with pytest.raises(InputError, match=fault):
        rows_from_csv(harmed)


@pytest.mark.parametrize(
    "changes", [{"stderr": -1.0}, {"wall_s": float("nan")}, {"labels": {"a": (1, 2)}}, {"seed": 2**70}], ids=str
)
def test_what_could_not_be_read_is_not_written(changes):
    with pytest.raises(InputError):
        rows_to_csv([replace(row(), **changes)])


def test_reading_stops_at_too_many_rows(monkeypatch):
    monkeypatch.setattr(rows, "MOST_ROWS", 3)
    assert len(rows_from_csv(rows_to_csv([row()] * 3))) == 3
    with pytest.raises(InputError, match="holds more than 3 rows"):
        rows_from_csv(rows_to_csv([row()] * 4) + b"and no table at all")


@pytest.mark.slow
def test_without_the_validator_it_is_one_sentence(in_fresh_python, tmp_path):
    source = f"""
import sys
sys.modules["msgspec"] = None
sys.argv = ["depthwidth", "verify", "status", "--out", {str(tmp_path)!r}]
from depthwidth.__main__ import main
sys.stderr = sys.stdout
try:
    main()
except SystemExit as stop:
    print(stop.code)
"""
    assert in_fresh_python(source) == "Error: reading runs needs msgspec; pip install 'depthwidth[verify]'\n2\n"
