"""``depthwidth verify`` from the outside: what it prints, how it ends, and what survives when it is killed."""

import csv
import glob
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import PATIENCE

pytestmark = pytest.mark.slow

OWN = Path(__file__).parent / "own_jobs"


@pytest.fixture
def walk(monkeypatch, tmp_path):
    """The job of the tests, and a folder for its runs."""
    pytest.importorskip("torch")
    monkeypatch.setenv("DEPTHWIDTH_JOBS", str(OWN))
    return tmp_path / "runs"


def command(*arguments, **environment):
    """A process of its own, which can be killed."""
    surroundings = {**os.environ, "DEPTHWIDTH_JOBS": str(OWN), **environment}
    words = [sys.executable, "-m", "depthwidth", "verify", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings)  # noqa: S603


def killed_and_resumed(verb, folder, checkpoint, times, **environment):
    """Kill -9 a sweep whenever another of its runs is half-way, so many times, then let it end; the number of kills."""
    import torch

    kills, device = 0, "cuda" if torch.cuda.is_available() else "cpu"  # named, so that no process loads torch to find out
    for attempt in range(times + 1):
        verb = verb if attempt == 0 else ("resume",)
        process = command(*verb, "--out", folder, "--workers", "1", "--device", device, **environment)
        deadline = time.monotonic() + PATIENCE
        while attempt < times and process.poll() is None and time.monotonic() < deadline:
            # glob.glob passes over a folder that is removed meanwhile; pathlib's raises.
            if len(list(folder.glob("rows/*.csv"))) >= attempt and glob.glob(str(folder / "work" / "*" / checkpoint)):
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == (0 if attempt == times else -signal.SIGKILL), errors
    return kills


def values(folder):
    """Measured values without place and time."""
    from verify.rows import PROVENANCE
    from verify.runs.store import Store

    return {
        run: [{k: repr(v) for k, v in row.to_dict().items() if k not in PROVENANCE} for row in rows]
        for run, rows in Store(folder).rows().items()
    }


def test_the_list_needs_no_torch_and_is_quick(in_fresh_python):
    source = """
import sys
from verify.jobs import jobs
assert all(job.question and job.criterion and job.code for job in jobs().values()), jobs()
print([m for m in ("torch", "sympy", "pandas", "scipy", "matplotlib", "numpy") if m in sys.modules])
"""
    assert in_fresh_python(source).strip() == "[]"


@pytest.mark.parametrize("form", ["", "--json", "--csv", "--markdown"])
def test_every_command_prints_in_every_form(invoke, walk, form):
    assert invoke("verify", "run", "walk", "--out", walk, "--workers", "1").status == 0
    for arguments in (("list",), ("status", "--out", walk), ("report", "--out", walk)):
        result = invoke("verify", *arguments, *filter(None, [form]))
        assert (result.status, result.error) == (0, "")
        if form == "--json":
            assert json.loads(result.output)
        elif form == "--csv":
            assert list(csv.DictReader(io.StringIO(result.output)))
        else:
            assert "None" not in result.output


def test_doing_it_twice_is_doing_it_once(invoke, walk):
    assert "3 runs measured, 0 already done" in invoke("verify", "run", "walk", "--out", walk).output
    before = {path: path.read_bytes() for path in walk.glob("*/*") if path.is_file()}
    assert "0 runs measured, 3 already done" in invoke("verify", "run", "walk", "--out", walk).output
    assert "0 runs measured, 3 already done" in invoke("verify", "resume", "--out", walk).output
    assert before == {path: path.read_bytes() for path in walk.glob("*/*") if path.is_file()}


def test_killed_and_resumed_is_as_never_killed(invoke, walk, tmp_path):
    """kill -9 of the process and, by the system, of its workers; again and again, until it is through."""
    whole = tmp_path / "whole"
    assert invoke("verify", "run", "walk", "--size", "small", "--out", whole).status == 0
    kills = killed_and_resumed(("run", "walk", "--size", "small"), walk, "checkpoint.json", 3, WALK_PAUSE="0.01")
    assert kills == 3
    assert values(walk) == values(whole)
    assert len(values(walk)) == 6
    assert list((walk / "work").iterdir()) == []
    assert list((walk / "leases").iterdir()) == []


# Reports, archives, fits.


@pytest.fixture
def done(invoke, walk):
    """A folder with a finished sweep."""
    assert invoke("verify", "run", "walk", "--out", walk, "--workers", "1").status == 0
    return walk


def test_the_report_names_claim_criterion_and_verdict(invoke, done):
    (found,) = json.loads(invoke("verify", "report", "--out", done, "--json").output)
    assert found["outcome"] == "holds"
    assert found["criterion"] == "Every end lies within four standard deviations of the start."
    assert (found["runs"], found["done"]) == (3, 3)
    assert [line["passes"] for line in found["comparisons"]] == [True] * 3


def test_a_report_of_a_part_is_undecided(invoke, done):
    next((done / "rows").glob("*.csv")).unlink()
    (found,) = json.loads(invoke("verify", "report", "--out", done, "--json").output)
    assert found["outcome"] == "undecided"
    assert "1 of 3 runs are missing" in found["notes"][0]
    (standing,) = json.loads(invoke("verify", "status", "--out", done, "--json").output)
    assert (standing["done"], standing["left"], standing["failed"], standing["running"]) == (2, 1, 0, 0)
    assert standing["seconds_left"] > 0


def test_the_page_is_one_file_that_asks_for_nothing(invoke, done, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"
    assert invoke("verify", "report", "--out", done, "--html", path).status == 0
    text = path.read_text(encoding="utf-8")
    assert text.count("<svg") >= 1
    assert "holds" in text
    assert "Every end lies within" in text
    for asking in ("<script", "<link", "<img", "src=", "@import", "url(http"):
        assert asking not in text
    again = tmp_path / "again.html"
    invoke("verify", "report", "--out", done, "--html", again)
    assert again.read_text(encoding="utf-8") == text


def test_what_a_job_says_is_text_on_the_page(invoke, done):
    """Plans come from other machines: nothing in them may become part of the page's markup."""
    from verify.runs.page import as_page
    from verify.runs.report import reports
    from verify.runs.store import Store

    (found,) = reports(Store(done))
    found.plan["claim"] = "<script>alert(1)</script>"
    assert "<script" not in as_page([found])


def test_a_verdict_goes_by_what_was_predicted_before(invoke, done, monkeypatch):
    """A prediction that is changed afterwards is noticed, and only --now goes by it."""
    import dataclasses

    from verify.jobs import Prediction, find_job

    job = find_job("walk")
    late = tuple(
        dataclasses.replace(run, predictions=(Prediction("position", 5.0, "tests.walk", "2", "end", 40),))
        for run in job.runs("tiny")
    )
    monkeypatch.setitem(job.__dict__, "runs", lambda size: late)
    assert "3 already done" in invoke("verify", "run", "walk", "--out", done).output
    (before,) = json.loads(invoke("verify", "report", "--out", done, "--json").output)
    (now,) = json.loads(invoke("verify", "report", "--out", done, "--now", "--json").output)
    assert {line["predicted"] for line in before["comparisons"]} == {0.0}
    assert "3 rows have an earlier prediction" in before["notes"][0]
    assert {line["predicted"] for line in now["comparisons"]} == {5.0}
    assert "predicted today, after measuring" in now["notes"][0]
    assert len(list((done / "plans" / "earlier").iterdir())) == 1


LIMITED = '''
"""A claim about the job as a whole: its limit, and everything else that may go wrong, comes from the environment."""

import os

from verify.jobs import Job, Measurement, Prediction, Run, Verdict


def runs(size):
    if os.environ.get("TROUBLE") == "runs":
        raise LookupError("no idea")
    theory = (Prediction("x", 1.5, "a thought", "1"),)
    return [Run({"n": 1}, seed, predictions=theory if "ERROR" in os.environ else ()) for seed in range(3)]


def measure(spec, context):
    value = "seven" if os.environ.get("TROUBLE") == f"word {context.seed}" else 1.0
    error = float(os.environ["ERROR"]) if "ERROR" in os.environ else None
    yield Measurement("x", value, stderr=error, labels={"twice": 2 * context.seed})


def judge(rows, predictions):
    if os.environ.get("TROUBLE") == "judge":
        raise ZeroDivisionError("no judge")
    return Verdict("holds" if all(row.value < predictions[0].value for row in rows) else "fails", "compared")


JOB = Job("limited", "?", "x is small.", "x", "x is below the limit.", runs, measure, judge,
          predict=lambda size: [Prediction("limit", float(os.environ["LIMIT"]), "a limit", "1")])
'''


@pytest.fixture
def limited(invoke, monkeypatch, tmp_path):
    """A finished sweep of a job that is judged by one number for all runs, predicted to be 2."""
    pytest.importorskip("torch")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "limited.py").write_text(LIMITED)
    monkeypatch.setenv("DEPTHWIDTH_JOBS", str(tmp_path / "own"))
    monkeypatch.setenv("LIMIT", "2")
    assert invoke("verify", "run", "limited", "--out", tmp_path / "runs", "--workers", "1").status == 0
    return tmp_path / "runs"


def report_of(invoke, folder, *words):
    (found,) = json.loads(invoke("verify", "report", "--out", folder, "--json", *words).output)
    return found["outcome"], " ".join(found["notes"])


def test_a_claim_about_the_whole_job_goes_by_what_was_predicted_before(invoke, limited, monkeypatch):
    assert report_of(invoke, limited) == ("holds", "")
    created = json.loads((limited / "plans" / "limited.tiny.json").read_text())["created"]
    monkeypatch.setenv("LIMIT", "0")
    for _ in range(2):
        assert "3 already done" in invoke("verify", "run", "limited", "--out", limited).output
        outcome, notes = report_of(invoke, limited)
        assert outcome == "holds"
        assert "predicts something else for the job as a whole" in notes
        assert report_of(invoke, limited, "--now")[0] == "fails"
        assert "1 predictions differ" in report_of(invoke, limited, "--now")[1]
    assert json.loads((limited / "plans" / "limited.tiny.json").read_text())["created"] == created
    assert not (limited / "plans" / "earlier").exists()
    monkeypatch.setenv("LIMIT", "2")
    invoke("verify", "run", "limited", "--out", limited)
    assert report_of(invoke, limited) == ("holds", "")


def test_before_anything_is_measured_the_last_prediction_counts(invoke, limited, monkeypatch):
    for path in (limited / "rows").glob("*.csv"):
        path.unlink()
    monkeypatch.setenv("LIMIT", "0")
    assert invoke("verify", "run", "limited", "--out", limited).status == 0
    assert report_of(invoke, limited) == ("fails", "")


def test_a_plan_that_came_after_measuring_says_so(invoke, limited):
    from verify.runs.store import Store

    store = Store(limited)
    store.write_plan({**store.plans()[0], "created": "2999-01-01T00:00:00Z"})
    assert "3 of its runs had been measured when this plan was made" in report_of(invoke, limited)[1]


def test_a_job_that_yields_no_number_is_one_failed_run(invoke, limited, monkeypatch):
    monkeypatch.setenv("TROUBLE", "word 1")
    result = invoke("verify", "run", "limited", "--out", limited.parent / "other", "--workers", "1")
    assert result.status == 3
    assert "2 runs measured" in result.output
    assert "the value of 'x' is 'seven', not a number" in result.error


def test_a_job_that_fails_to_plan_or_to_judge_is_one_sentence(invoke, limited, monkeypatch):
    monkeypatch.setenv("TROUBLE", "judge")
    (found,) = json.loads(invoke("verify", "report", "--out", limited, "--json").output)
    assert (found["outcome"], found["comparisons"]) == ("undecided", [])
    assert "it could not be judged: ZeroDivisionError: no judge, at limited.py line" in found["summary"]
    monkeypatch.setenv("TROUBLE", "runs")
    result = invoke("verify", "run", "limited", "--out", limited.parent / "other")
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert "limited cannot say what to run: LookupError: no idea, at limited.py line" in result.error


def test_a_job_that_is_gone_stops_nobody_else(invoke, limited, walk, monkeypatch):
    """Its rows are kept and its plan is shown; nobody judges it."""
    assert invoke("verify", "run", "walk", "--out", limited, "--workers", "1").status == 0
    next((limited / "rows").glob("*.csv")).unlink()
    outcomes = {one["job"]: one["outcome"] for one in json.loads(invoke("verify", "report", "--out", limited, "--json").output)}
    assert outcomes["limited"] == "undecided"
    result = invoke("verify", "resume", "--out", limited)
    assert result.status == 3
    assert "Skipped: there is no job 'limited'" in result.error
    assert invoke("verify", "resume", "walk", "--out", limited).status == 0
    assert "holds no plan of moments" in invoke("verify", "resume", "walk", "moments", "--out", limited).error
    outcomes = {one["job"]: one["outcome"] for one in json.loads(invoke("verify", "report", "--out", limited, "--json").output)}
    assert outcomes["walk"] == "holds"


@pytest.mark.parametrize("part", ["plans", "leases"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(invoke, walk, monkeypatch, part):
    from verify.runs import claims
    from verify.runs import store as tables

    real = tables.write_whole

    def full(path, data):
        if path.parent.name == part:
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    for module in (tables, claims):
        monkeypatch.setattr(module, "write_whole", full)
    result = invoke("verify", "run", "walk", "--out", walk, "--workers", "1")
    assert result.status == 3
    assert "No space left on device" in result.error
    assert "Traceback" not in result.error
    for module in (tables, claims):
        monkeypatch.setattr(module, "write_whole", real)
    assert invoke("verify", "run", "walk", "--out", walk, "--workers", "1").status == 0
    assert len(values(walk)) == 3


@pytest.mark.parametrize(
    "words",
    [("run", "walk", "--size", "huge"), ("run", "walk", "--workers", "0"), ("run", "walk", "--address", "auto"),
     ("run", "wolk"), ("import", "nothing.zip")],
    ids=" ".join,
)  # fmt: skip
def test_bad_input_makes_no_folder(invoke, walk, words):
    result = invoke("verify", *words, "--out", walk)
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert not walk.exists()


def test_evidence_is_written_as_a_table_only(invoke, done, tmp_path):
    assert "goes into a .csv file" in invoke("verify", "export", tmp_path / "e.zip", "--evidence", "--out", done).error
    assert not (tmp_path / "e.zip").exists()


def test_evidence_has_the_columns_of_every_row(invoke, limited, tmp_path, monkeypatch):
    """The rows that were predicted and have an error, with all their digits."""
    from verify.rows import rows_from_csv

    monkeypatch.setenv("ERROR", "0.1234567890123")
    folder = tmp_path / "with errors"
    assert invoke("verify", "run", "limited", "--out", folder, "--workers", "1").status == 0
    assert (
        "no predicted and measured rows" in invoke("verify", "export", tmp_path / "e.csv", "--evidence", "--out", limited).error
    )
    assert invoke("verify", "export", tmp_path / "e.csv", "--evidence", "--out", folder).status == 0
    rows = rows_from_csv((tmp_path / "e.csv").read_bytes())
    assert [(row.seed, row.predicted, row.stderr, row.labels) for row in rows] == [
        (seed, 1.5, 0.1234567890123, {"twice": 2 * seed}) for seed in range(3)
    ]


def test_a_damaged_plan_is_named_by_the_report(invoke, done, limited):
    path = limited / "plans" / "limited.tiny.json"
    (done / "plans" / path.name).write_bytes(path.read_bytes()[:100])
    result = invoke("verify", "report", "--out", done)
    assert result.status == 0
    assert "Left out: limited.tiny.json: it is not JSON" in result.error


READERS = [
    ("status", "--json"),
    ("report",),
    ("report", "--json"),
    ("fit", "walk", "total = a", "--start", "a=1", "--errors", "curvature"),
]


@pytest.mark.parametrize("harmed", ["rows/*.csv", "plans/*.json"])
def test_what_a_command_leaves_out_is_named(invoke, done, harmed):
    """Verdicts and fits leave damaged rows out, the list of plans damaged plans: a sentence names them."""
    assert all("Left out" not in invoke("verify", *words, "--out", done).error for words in READERS)
    path = sorted(done.glob(harmed))[0]
    path.write_bytes(path.read_bytes()[:100])
    for words in READERS:
        assert invoke("verify", *words, "--out", done).error.startswith(f"Left out: {path.name}: "), words


def test_rows_go_to_another_machine_and_come_back(invoke, done, tmp_path):
    archive, other = tmp_path / "rows.zip", tmp_path / "other"
    assert invoke("verify", "export", archive, "--out", done).output.startswith("3 runs in")
    first = invoke("verify", "import", archive, "--out", other)
    assert (first.status, first.output) == (0, "3 new runs, 0 already here; 1 new plans\n")
    assert values(other) == values(done)
    second = invoke("verify", "import", archive, "--out", other)
    assert (second.status, second.output) == (0, "0 new runs, 3 already here; 0 new plans\n")
    assert "0 runs measured, 3 already done" in invoke("verify", "resume", "--out", other).output
    assert invoke("verify", "report", "--out", other).output == invoke("verify", "report", "--out", done).output
    again = tmp_path / "again.zip"
    invoke("verify", "export", again, "--out", other)
    assert again.read_bytes() == archive.read_bytes()


def test_the_same_run_with_other_values_is_a_conflict_and_ours_stay(invoke, done, tmp_path):
    from verify.runs.store import Store

    archive, other = tmp_path / "rows.zip", tmp_path / "other"
    invoke("verify", "export", archive, "--out", done)
    theirs = Store(other).open()
    for number, (run, rows) in enumerate(Store(done).rows().items()):
        changed = [replace(row, date="another day", wall_s=9.0, value=row.value * (1.5 if number == 0 else 1)) for row in rows]
        theirs.publish(run, changed)
    before = values(other)
    result = invoke("verify", "import", archive, "--out", other)
    assert result.status == 3
    assert result.output == "0 new runs, 2 already here; 1 new plans\n"
    assert "position differs by 0.33 of its value" in result.error
    assert values(other) == before


def test_a_conflict_of_a_training_is_told(tmp_path):
    """Its last loss is a row of the run and one of its last step: equal gaps, at a step and at none."""
    from verify.rows import Row
    from verify.runs.transfer import _difference

    def rows(loss, **changes):
        row = Row(quantity="loss", value=loss, device="cpu", torch="2", **changes)
        return [row, replace(row, quantity="validation_loss", step=20)]

    assert "loss differs by 0.5 of its value" in _difference("r", rows(1.0), rows(2.0))
    assert "loss differs (1 and inf)" in _difference("r", rows(1.0), rows(float("inf")))
    assert "the values are the same" in _difference("r", rows(1.0), rows(1.0, stderr=2.0))


def archive_with(path, files):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil.csv", "/etc/evil.csv", "rows/../../evil.csv", "rows/evil.csv", "evil", "plans/evil.json", "rows/a/b.csv",
     "rows\\..\\evil.csv", "leases/0123456789abcdef.json", "rows/0123456789abcdef.0123456789abcdef.csv/"],
)  # fmt: skip
def test_an_archive_that_holds_anything_else_is_refused_whole(invoke, done, tmp_path, name):
    good = next((done / "rows").glob("*.csv"))
    archive = archive_with(tmp_path / "evil.zip", {f"rows/{good.name}": good.read_bytes(), name: b"x"})
    result = invoke("verify", "import", archive, "--out", tmp_path / "other")
    assert result.status == 2
    assert "nothing was imported" in result.error
    assert values(tmp_path / "other") == {}
    assert not list(tmp_path.rglob("*evil.csv"))


def test_a_damaged_file_in_an_archive_is_left_out_and_named(invoke, done, tmp_path):
    files = {f"rows/{path.name}": path.read_bytes() for path in (done / "rows").glob("*.csv")}
    name = next(iter(files))
    files[name] = files[name].replace(b"end", b"way", 1)
    plan = (done / "plans" / "walk.tiny.json").read_bytes()
    files["plans/walk.tiny.json"] = plan.replace(b"four standard", b"forty standard")
    result = invoke("verify", "import", archive_with(tmp_path / "rows.zip", files), "--out", tmp_path / "other")
    assert result.status == 3
    assert result.error.count("Damaged:") == 2
    assert len(values(tmp_path / "other")) == 2


def test_an_archive_that_unpacks_to_too_much_is_refused(invoke, done, tmp_path, monkeypatch):
    from verify.runs import transfer

    monkeypatch.setattr(transfer, "LARGEST_FILE", 1000)
    invoke("verify", "export", tmp_path / "rows.zip", "--out", done)
    result = invoke("verify", "import", tmp_path / "rows.zip", "--out", tmp_path / "other")
    assert result.status == 2
    assert "more than 1000 bytes" in result.error


def test_one_flat_table_for_other_programs(invoke, done, tmp_path):
    assert invoke("verify", "export", tmp_path / "rows.csv", "--out", done).status == 0
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["steps"] for row in rows} == {"40"}
    assert "labels" not in rows[0]


def test_the_same_table_as_parquet(invoke, done, tmp_path):
    pytest.importorskip("pyarrow")
    import pandas

    for ending in ("csv", "parquet"):
        assert invoke("verify", "export", tmp_path / f"rows.{ending}", "--out", done).status == 0
    typed, plain = pandas.read_parquet(tmp_path / "rows.parquet"), pandas.read_csv(tmp_path / "rows.csv")
    assert list(typed.columns) == list(plain.columns)
    assert typed["value"].tolist() == plain["value"].tolist()
    assert {str(typed[name].dtype) for name in ("predicted", "value", "stderr")} == {"float64"}


def test_a_fit_from_the_command_line(invoke, done, tmp_path):
    words = ("verify", "fit", "walk", "position = m + 0 * steps", "--start", "m=0.1", "--site", "end", "--out", done)
    result = invoke(*words, "--errors", "curvature", "--json", "--save", "drift", "--into", tmp_path)
    assert result.status == 0
    ends = [rows[-1].value for rows in values_plain(done)]
    assert json.loads(result.output)["coefficients"][0]["value"] == pytest.approx(sum(ends) / 3, rel=1e-6)
    assert {path.name for path in tmp_path.glob("drift*")} == {"drift.csv", "drift.covariance.csv", "drift.rows.csv"}
    assert "68.3 % interval" in invoke(*words).output


def values_plain(folder):
    from verify.runs.store import Store

    return list(Store(folder).rows().values())


# How things end.


def test_a_run_that_fails_ends_with_status_3_and_resume_tries_it_again(invoke, walk, monkeypatch):
    monkeypatch.setenv("WALK_TROUBLE", "raise 1")
    result = invoke("verify", "run", "walk", "--out", walk, "--workers", "1")
    assert result.status == 3
    assert "1 FAILED" in result.output
    assert "RuntimeError: the walker stumbled" in result.error
    assert "failed: walk steps=40 seed=1: RuntimeError" in invoke("verify", "status", "--out", walk).output
    monkeypatch.setenv("WALK_TROUBLE", "")
    assert invoke("verify", "resume", "--out", walk).status == 0


def test_damaged_rows_are_set_aside_and_measured_again(invoke, done):
    before = values(done)
    path = next((done / "rows").glob("*.csv"))
    path.write_bytes(path.read_bytes()[:200])
    assert f"damaged: {path.name}" in invoke("verify", "status", "--out", done).output
    result = invoke("verify", "resume", "--out", done)
    assert result.status == 0
    assert f"Set aside {path.name}" in result.error
    assert "1 runs measured, 2 already done" in result.output
    assert values(done) == before


def test_a_damaged_plan_is_made_again(invoke, done):
    path = done / "plans" / "walk.tiny.json"
    path.write_bytes(path.read_bytes()[:500])
    result = invoke("verify", "resume", "--out", done)
    assert (result.status, "3 already done" in result.output) == (0, True)
    assert len(json.loads(path.read_bytes())["runs"]) == 3


def test_a_damaged_plan_remembers_how_many_runs_go_together(invoke, walk):
    from verify.runs.store import Store

    assert invoke("verify", "run", "walk", "--out", walk, "--workers", "1", "--ensemble", "2").status == 0
    path = walk / "plans" / "walk.tiny.json"
    path.write_bytes(path.read_bytes().replace(b"four standard", b"forty standard"))
    result = invoke("verify", "resume", "--out", walk)
    assert "are no longer planned, and `depthwidth verify run walk --size tiny` plans them again" in result.error
    assert Store(walk).plans()[0]["ensemble"] == 2


def test_a_job_that_changed_is_planned_again_and_not_mixed(invoke, done, monkeypatch):
    from verify.jobs import find_job

    monkeypatch.setitem(find_job("walk").__dict__, "code", "0" * 16)
    result = invoke("verify", "resume", "--out", done)
    assert result.status == 3
    assert "Skipped: walk has changed since" in result.error
    (found,) = json.loads(invoke("verify", "report", "--now", "--out", done, "--json").output)
    assert found["outcome"] == "holds"
    assert "the code that measures has changed" in found["notes"][0]
    assert "judged by those recorded before" in found["notes"][1]


def test_the_folder_is_that_of_the_environment(invoke, walk, monkeypatch, tmp_path):
    monkeypatch.setenv("DEPTHWIDTH_RUNS", str(tmp_path / "mine"))
    assert invoke("verify", "run", "walk").status == 0
    assert len(values(tmp_path / "mine")) == 3
    monkeypatch.delenv("DEPTHWIDTH_RUNS")
    monkeypatch.chdir(tmp_path)
    assert "there is no folder 'runs'" in invoke("verify", "status").error


BAD = [
    (("run",), "Missing argument"),
    (("run", "wlak"), "did you mean 'walk'"),
    (("run", "walk", "--size", "huge"), "there is no size 'huge'"),
    (("run", "walk", "--workers", "0"), "workers=0"),
    (("run", "walk", "--executor", "slurm"), "slurm"),
    (("run", "walk", "--address", "auto"), "the local executor takes no address"),
    (("run", "walk", "--out", "/proc/nothing"), "cannot be written to"),
    (("resume", "--out", "nowhere"), "there is no folder 'nowhere'"),
    (("resume", "--out", "."), "holds no plan"),
    (("status", "--out", "nowhere"), "there is no folder"),
    (("report", "--out", "."), "holds no plan"),
    (("report", "walk", "--out", "."), "has no plan of 'walk'"),
    (("export", "rows.zip", "--out", "."), "has no rows"),
    (("export", "rows.txt", "--out", "."), "does not end in .zip, .csv or .parquet"),
    (("import", "nowhere.zip", "--out", "."), "there is no file"),
    (("import", __file__, "--out", "."), "is not an archive"),
    (("fit", "walk", "y = a", "--start", "a=1", "--out", "."), "has no rows of 'walk'"),
    (("fit", "walk", "y = a", "--out", "."), "--start"),
    (("nonsense",), "No such command"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[" ".join(a)[:50] for a, _ in BAD])
def test_every_mistake_is_one_sentence_and_status_2(invoke, walk, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    result = invoke("verify", *arguments)
    assert result.status == 2
    assert result.output == ""
    assert result.error.startswith("Error: ")
    assert result.error.count("\n") == 1
    assert sentence in result.error


def test_without_torch_jobs_are_listed_and_not_run(invoke, walk, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    assert invoke("verify", "list").status == 0
    result = invoke("verify", "run", "walk", "--out", walk)
    assert result.status == 2
    assert result.error == "Error: running jobs needs torch; pip install 'depthwidth[verify]'\n"


def test_the_other_commands_do_not_import_the_verifier(in_fresh_python):
    source = """
import sys
from click.testing import CliRunner
from depthwidth.cli import cli
assert CliRunner().invoke(cli, ["table"]).exit_code == 0
assert CliRunner().invoke(cli, ["--help"]).exit_code == 0
print([m for m in sys.modules if m.split(".")[0] in ("verify", "torch")])
"""
    assert in_fresh_python(source).strip() == "[]"


def test_a_plan_remembers_how_many_runs_go_together(invoke, walk):
    from verify.runs.store import Store

    def together(*words):
        assert invoke("verify", "run", "walk", "--out", walk, "--workers", "1", *words).status == 0
        return Store(walk).plans()[0]["ensemble"]

    assert [together("--ensemble", "2"), together(), together("--ensemble", "3")] == [2, 2, 3]


# The real thing: a training that is killed.


@pytest.mark.parametrize(
    ("ensemble", "checkpoint"), [(1, "training/*.safetensors"), (2, "*.safetensors")], ids=["alone", "together"]
)
def test_a_training_that_is_killed_ends_with_the_same_loss_bit_for_bit(
    invoke, walk, tmp_path, monkeypatch, ensemble, checkpoint
):
    monkeypatch.setenv("DEPTHWIDTH_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}, and half of it is {n / 2}.\n" for n in range(6000)))
    monkeypatch.setenv("DEPTHWIDTH_CORPUS", str(text))
    whole = tmp_path / "whole"
    sweep = ("run", "training", "--ensemble", ensemble)
    assert invoke("verify", *sweep, "--out", whole, "--workers", "1").status == 0
    assert killed_and_resumed(sweep, walk, checkpoint, 1) == 1
    assert values(walk) == values(whole)
    assert len(values(walk)) == 4
