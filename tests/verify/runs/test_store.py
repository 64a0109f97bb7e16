"""Rows on disk: whole or not there, checked when read, and in one process's hands."""

import errno
import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

from depthwidth import InputError
from verify.rows import COLUMNS, PROVENANCE, Row, digest_of, rows_from_csv, rows_to_csv
from verify.runs import claims
from verify.runs import store as stored
from verify.runs.claims import Leases
from verify.runs.leases import SILENCE_S, lease_holder
from verify.runs.store import Store

ROOT = Path(__file__).parents[3]
RUN = "0123456789abcdef"
OTHER = "fedcba9876543210"


def row(run=RUN, **changes):
    made = {
        "job": "walk", "run": run, "step": 10, "site": "end", "quantity": "loss", "predicted": None, "value": 0.1 + 0.2,
        "stderr": 1e-300, "formula": "", "seed": 3, "labels": {"depth": 2, "name": 'with, "quotes"\nand lines'}, "code": "c",
        "commit": "", "depthwidth": "0.1.0", "torch": "2", "device": "cpu", "dtype": "float32", "wall_s": 1.5, "date": "d",
    }  # fmt: skip
    return Row(**(made | changes))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs").open()


def file_of(store, run=RUN):
    (path,) = (store.root / "rows").glob(f"{run}.*.csv")
    return path


# Text and back.


@pytest.mark.parametrize("value", [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 3])
def test_numbers_come_back_bit_for_bit(value):
    (back,) = rows_from_csv(rows_to_csv([row(value=value)]))
    assert repr(back.value) == repr(float(value))
    assert replace(back, value=0) == row(value=0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"value": "low"}, "value must be a number, not 'low'"),
        ({"value": None}, "value must be a number, not None"),
        ({"value": True}, "value must be a number, not True"),
        ({"step": 1.5}, "step must be a whole number or nothing, not 1.5"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"site": None}, "site must be text, not None"),
        ({"labels": [1]}, "labels must be an object"),
        ({"labels": {"depth": math.nan}}, "must be plain JSON"),
        ({"labels": {"depth": {1, 2}}}, "must be plain JSON"),
        ({"wall_s": None}, "wall_s must be a number, not None"),
    ],
    ids=str,
)
def test_a_row_that_is_not_as_it_should_be_is_refused(store, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        store.publish(RUN, [row(**changes)])
    assert store.rows() == {}


def test_rows_of_nothing_or_of_another_run_are_refused(store):
    with pytest.raises(InputError, match="measured nothing"):
        store.publish(RUN, [])
    with pytest.raises(InputError, match=f"rows of {OTHER} are offered"):
        store.publish(RUN, [row(), row(OTHER)])
    assert store.rows() == {}


# Damage.


def truncated(data):
    return data[: len(data) // 2]


def one_line_less(data):
    return b"".join(data.splitlines(keepends=True)[:-1])


def one_digit_other(data):
    return data.replace(b"0.30000000000000004", b"0.30000000000000005")


def zeros(data):
    return bytes(len(data))


@pytest.mark.parametrize("harm", [truncated, one_line_less, one_digit_other, zeros, lambda _: b"", lambda data: data + b"x"])
def test_a_damaged_file_is_noticed_set_aside_and_measured_again(store, harm):
    store.publish(RUN, [row(), row(step=20)])
    store.publish(OTHER, [row(OTHER)])
    path = file_of(store)
    before = path.read_bytes()
    path.write_bytes(harm(before))
    assert set(store.rows()) == {OTHER}
    assert store.rows_of(RUN) is None
    (damage,) = store.damaged()
    assert damage.path == path
    assert "are not those that were written" in str(damage)
    assert [one.path for one in store.tidy()] == [path]
    assert not path.exists()
    (kept,) = (store.root / "aside").iterdir()
    assert kept.read_bytes() == harm(before)
    assert store.publish(RUN, [row(), row(step=20)])
    assert file_of(store).read_bytes() == before
    assert store.damaged() == []


def test_a_file_with_the_right_digest_and_the_wrong_content_is_noticed(store):
    """As a newer version with other columns would write it."""
    data = rows_to_csv([row()]).replace(b"quantity", b"quality")
    (store.root / "rows" / f"{RUN}.{digest_of(data)}.csv").write_bytes(data)
    data = rows_to_csv([row()])
    (store.root / "rows" / f"{OTHER}.{digest_of(data)}.csv").write_bytes(data)
    reasons = " ".join(map(str, store.damaged()))
    assert "does not begin with the columns" in reasons
    assert "rows of another run" in reasons
    assert store.rows() == {}


def test_a_damaged_plan_is_noticed(store):
    plan = {
        "job": "walk",
        "size": "tiny",
        "code": "c",
        "created": "t",
        "question": "",
        "claim": "",
        "measured": "",
        "criterion": "",
        "predictions": [],
        "runs": [],
    }
    store.write_plan(plan)
    assert store.plans() == [plan]
    path = store.root / "plans" / "walk.tiny.json"
    sealed = json.loads(path.read_bytes())
    for data in (b"", b"{", b"[]", json.dumps({**sealed, "criterion": "anything"}).encode(), json.dumps(plan).encode()):
        path.write_bytes(data)
        assert store.plans() == []
        assert len(store.damaged()) == 1
    path.write_bytes(json.dumps(sealed).encode())
    os.rename(path, store.root / "plans" / "walk.full.json")
    assert "it is the plan of walk tiny" in str(store.damaged()[0])


def test_a_plan_that_changes_keeps_the_earlier_one(store):
    plan = {
        "job": "walk",
        "size": "tiny",
        "code": "c",
        "created": "t",
        "question": "",
        "claim": "",
        "measured": "",
        "criterion": "",
        "predictions": [],
        "runs": [],
    }
    store.write_plan(plan)
    store.write_plan({**plan, "code": "d"})
    assert [one["code"] for one in store.plans()] == ["d"]
    (kept,) = (store.root / "plans" / "earlier").iterdir()
    assert stored.read_plan(kept.read_bytes()) == plan


# A disk that is full, a process that is killed.


def test_a_full_disk_leaves_nothing_half_written(store, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.publish(RUN, [row()])
    monkeypatch.undo()
    assert list((store.root / "rows").iterdir()) == []
    assert store.publish(RUN, [row()])


def write_under_a_limit(root, limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write past the limit is an error, EFBIG, like one past a disk's end
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Store(root).publish(RUN, [row(step=step) for step in range(1000)])
    except OSError as error:
        os._exit(7 if error.errno == errno.EFBIG else 8)
    os._exit(0)


def test_a_write_that_really_runs_out_of_room(store):
    """The kernel refuses the file's second half; the first must not stay."""
    process = multiprocessing.get_context("spawn").Process(target=write_under_a_limit, args=(store.root, 20_000))
    process.start()
    process.join(60)
    assert process.exitcode == 7
    assert list((store.root / "rows").iterdir()) == []
    assert store.rows() == {}


WRITER = """
import sys
from verify.runs.store import Store
sys.path.insert(0, {here!r})
from test_store import row
store = Store({root!r})
for number in range(100000):
    run = f"{{number:016x}}"
    store.publish(run, [row(run, step=step, value=number + step / 7) for step in range(50)])
    if number == 3:
        print("going", flush=True)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_writing(store):
    """kill -9 at ten moments: every file that is there is whole, and there are no gaps."""
    here = os.path.dirname(__file__)
    for moment in range(5):
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", WRITER.format(here=here, root=str(store.root))], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(0.013 * (moment + 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = Store(store.root).rows()
        assert Store(store.root).damaged() == []
        assert len(found) > 3
        for number, run in enumerate(sorted(found)):
            assert int(run, 16) == number
            assert [r.value for r in found[run]] == [number + step / 7 for step in range(50)]
    leftovers = list((store.root / "rows").glob(".*.part"))
    for path in leftovers:
        os.utime(path, (1, 1))
    store.tidy()
    assert list((store.root / "rows").glob(".*.part")) == []


# Leases.


def test_a_run_is_in_one_hand(store):
    with Leases(store) as one, Leases(store) as other:
        assert one.claim(RUN) == "ours"
        assert other.claim(RUN) == "busy"
        assert set(claims.running(store)) == {RUN}
        store.publish(RUN, [row()], one[RUN])
        one.release(RUN)
        assert other.claim(RUN) == "done"
    assert claims.running(store) == {}


def hold(root, channel):
    leases = Leases(Store(root)).__enter__()
    channel.send(leases.claim(RUN))
    time.sleep(600)


def test_the_hold_of_a_killed_process_ends_at_once(store):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(store.root, theirs))
    process.start()
    assert ours.recv() == "ours"
    with Leases(store) as leases:
        assert leases.claim(RUN) == "busy"
        process.kill()
        process.join()
        assert claims.running(store) == {}
        assert leases.claim(RUN) == "ours"


def test_a_process_number_that_was_given_to_another_is_not_taken_for_the_owner(store):
    with Leases(store) as leases:
        leases.claim(RUN)
        path = store.root / "leases" / f"{RUN}.json"
        about = json.loads(path.read_bytes())
        path.write_text(json.dumps({**about, "started": "12345"}))  # our number, another start
        assert lease_holder(path) is None


def test_the_hold_of_another_machine_ends_when_it_is_silent(store):
    path = store.root / "leases" / f"{RUN}.json"
    path.write_text(json.dumps({"token": "t", "machine": "elsewhere", "pid": 1, "started": "1", "since": 0}))
    store.tidy()
    with Leases(store) as leases:
        assert leases.claim(RUN) == "busy"
        os.utime(path, (time.time() - SILENCE_S - 1,) * 2)
        assert leases.claim(RUN) == "ours"


def test_who_lost_a_run_writes_no_rows_of_it(store):
    """As when a machine slept, another took over, and the first wakes up."""
    with Leases(store) as slept, Leases(store) as awake:
        slept.claim(RUN)
        lease = slept[RUN]
        lease.path.unlink()
        assert awake.claim(RUN) == "ours"
        assert not store.publish(RUN, [row(value=1.0)], lease)
        assert store.publish(RUN, [row(value=2.0)], awake[RUN])
        assert not store.publish(RUN, [row(value=3.0)])
        slept.release(RUN)
        assert awake[RUN].held()
    assert [r.value for r in store.rows()[RUN]] == [2.0]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"machine": "m"}'])
def test_a_damaged_lease_holds_nothing_for_ever(store, text):
    path = store.root / "leases" / f"{RUN}.json"
    path.write_text(text)
    os.utime(path, (1, 1))
    with Leases(store) as leases:
        assert leases.claim(RUN) == "ours"


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        Store(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written to"):
        Store(tmp_path / "file" / "runs").open()


def test_the_documented_columns_are_those_that_are_written():
    assert tuple(row().to_dict()) == tuple(COLUMNS)
    assert [one.name for one in fields(Row)] == list(COLUMNS)
    with pytest.raises(TypeError, match="extra"):
        row(extra=1)
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/verify.md", "data/README.md")]
    assert all(f"`{name}`" in page for name in COLUMNS for page in pages)
    assert set(PROVENANCE) < set(COLUMNS)
