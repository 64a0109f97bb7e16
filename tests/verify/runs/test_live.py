"""The progress of a sweep: the clock, the files of workers, and the pages in a terminal and in a log."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import PATIENCE, heed_ctrl_c

pytest.importorskip("torch")
pytest.importorskip("rich")

from test_records import OTHER, PLAN, PLANNED, RUN, row

from depthwidth.progress import current_progress, during
from verify.jobs import Context
from verify.runs import live, watch
from verify.runs.executors import Task, execute
from verify.runs.live import Sweep
from verify.runs.status import progress_of, status_table
from verify.runs.store import Store

OWN = Path(__file__).parents[1] / "own_jobs"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@pytest.fixture
def two_runs(tmp_path):
    """A folder with a plan of two runs, the second twice as costly, and the first of which is held by this process."""
    store = Store(tmp_path).open()
    plan = {**PLAN, "runs": [PLANNED, {**PLANNED, "run": OTHER, "cost": 2.0, "seed": 2}]}
    store.write_plan(plan)
    return store, plan


def reports(store, run, share, **facts):
    store.work_folder(run).mkdir(exist_ok=True)
    (store.work_folder(run) / "progress").write_text(json.dumps({"share": share, **facts}))


def test_the_time_left_is_known_from_a_percent_of_the_first_run(two_runs, monkeypatch):
    store, plan = two_runs
    clock = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    sweep = Sweep(store, {run["run"]: (plan, run) for run in plan["runs"]}, workers=1)
    assert sweep.left().seconds is None
    sweep.begin([RUN])
    clock[0] += 5
    reports(store, RUN, 0.4)  # a checkpoint: what was done before does not count for the pace
    assert sweep.left().seconds is None
    clock[0] += 10
    reports(store, RUN, 0.5, step=50, steps=100, loss=3.0, rate=123.0)
    # A tenth of a unit of cost in 10 s: 100 s for each of the 0.5 + 2 units that are left.
    assert sweep.left().seconds == pytest.approx(250)
    whole, one = sweep.lines()
    assert (whole.words, whole.tail) == ("0 of 2 runs done, 1 at work", "about 4 min left")
    assert whole.share == pytest.approx(0.5 / 3)
    assert str(whole).endswith("17% done, about 4 min left, step 50 of 100, loss 3, 123 tokens/s")
    assert str(one) == "step 50 of 100, loss 3, 123 tokens/s, walk depth=2 seed=1, 50% done"
    sweep.end(RUN, 40.0)
    sweep.begin([OTHER])
    assert sweep.left().seconds == pytest.approx(80)
    assert sweep.share() == pytest.approx(1 / 3)
    sweep.end(OTHER, 0.0)
    assert sweep.left().seconds == 0
    assert sweep.lines()[0].tail == ""


def test_earlier_rows_tell_the_pace_of_a_job_that_has_not_begun(two_runs):
    store, plan = two_runs
    store.publish(RUN, [row(wall_s=3.0)])
    sweep = Sweep(store, {run["run"]: (plan, run) for run in plan["runs"]}, workers=4)
    sweep.drop(RUN)
    assert sweep.left().seconds == pytest.approx(6)
    assert status_table(store)[0]["seconds_left"] == pytest.approx(6)


@pytest.mark.parametrize(
    "text", ["", "0.5", "[]", '{"share": 2}', '{"share": NaN}', '{"share": 0.5, "step": -1}', '{"loss": 1}', "{" * 3000]
)
def test_a_damaged_report_of_progress_is_no_report(two_runs, text):
    store, _ = two_runs
    store.work_folder(RUN).mkdir()
    (store.work_folder(RUN) / "progress").write_text(text)
    assert progress_of(store, RUN) == {}
    reports(store, RUN, 0.5)
    assert progress_of(store, RUN) == {"share": 0.5}


def test_a_worker_writes_what_its_computation_announces(tmp_path, monkeypatch):
    """A job that says nothing of its progress itself."""
    monkeypatch.setattr("verify.runs.executors.PROGRESS_S", 0.01)
    file = tmp_path / "progress"

    def measure(spec, context):
        with during("", lambda: 0.25, facts=lambda: {"step": 5, "loss": float("nan"), "unknown": 1.0}):
            end = time.monotonic() + PATIENCE
            while not file.exists() and time.monotonic() < end:
                time.sleep(0.01)
        return ()

    monkeypatch.setattr("verify.runs.executors._same_job", lambda task: SimpleNamespace(measure=measure))
    execute(Task("walk", RUN, "c", {}, 1, str(tmp_path), "cpu"))
    assert json.loads(file.read_text()) == {"share": 0.25, "step": 5.0}


def test_a_share_that_a_job_reports_wins(tmp_path):
    context = Context("cpu", tmp_path, 1)
    context.progress(0.75)
    with during("", lambda: 0.1, facts=lambda: {"loss": 2.0}):
        context.write_progress(current_progress())
    assert json.loads((tmp_path / "progress").read_text()) == {"share": 0.75, "loss": 2.0}


@pytest.mark.parametrize("members", [0, 2])
def test_a_training_tells_step_loss_and_speed(members):
    from small_gpt import SmallGPT

    from verify.training.corpus import zipf_markov
    from verify.training.ensemble import train_ensemble
    from verify.training.settings import Training
    from verify.training.train import train

    text, plan, seen = zipf_markov(2000, vocab=8), Training(steps=3, batch=2, context=8, learning_rate=1e-3), []
    if members:
        models = [SmallGPT(vocab=8, width=8, depth=1, context=8) for _ in range(members)]
        train_ensemble(models, text, plan, mode="loop", on_step=lambda step, losses: seen.append(current_progress()))
    else:
        model = SmallGPT(vocab=8, width=8, depth=1, context=8)
        train(model, text, plan, probes=(lambda *_: seen.append(current_progress()),), progress=False)
    assert current_progress().share is None
    assert seen[-1].facts["steps"] == 3
    assert seen[-1].share == seen[-1].facts["step"] / 3 > 0
    assert 1 < seen[-1].facts["loss"] < 4
    assert ("rate" in seen[-1].facts) == (members == 0)


def test_a_watch_ends_when_all_runs_have_ended(two_runs, monkeypatch):
    store, _ = two_runs
    clock, page = [0.0], io.StringIO()
    monkeypatch.setattr(sys, "stdout", page)

    def sleep(seconds):
        clock[0] += seconds
        if clock[0] == 100:
            store.publish(RUN, [row()])
        if clock[0] == 104:
            store.write_failure(OTHER, {"error": "it fell"})

    monkeypatch.setattr(watch.time, "monotonic", lambda: 1000 + clock[0])
    monkeypatch.setattr(watch.time, "sleep", sleep)
    watch.watch_status(store)
    lines = page.getvalue().splitlines()
    times = [line for line in lines if "runs done" in line]
    assert len(times) == 5  # at once, after 10, 20 and 40 s, and when the first run ended
    assert "1 of 2 runs done, 0 at work" in times[-1]
    assert lines[-1] == "failed: walk depth=2 seed=2: it fell"
    assert not CONTROL.search(page.getvalue())


def in_terminal(*arguments, stop=None, width=100, **variables):
    """Output of a command in its own terminal, and its exit status; Ctrl-C follows once `stop` is seen."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    surroundings = {**os.environ, "DEPTHWIDTH_JOBS": str(OWN), "TERM": "xterm", "DEPTHWIDTH_QUIET": "", **variables}
    command = [sys.executable, "-m", "depthwidth", *map(str, arguments)]
    process = subprocess.Popen(  # noqa: S603
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings, preexec_fn=heed_ctrl_c
    )
    os.close(theirs)
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    page = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        if not read:
            break
        page += read
        if stop is not None and stop in page:
            process.send_signal(signal.SIGINT)
            stop = None
    os.close(ours)
    watchdog.cancel()
    return page.decode(), process.wait(timeout=PATIENCE)


@pytest.mark.slow
def test_a_sweep_in_a_terminal_and_in_a_log(tmp_path):
    """A bar that moves, a line for each run, and nothing left of the bar; in a pipe plain lines; with --quiet only failures."""
    run = ("verify", "run", "walk", "--workers", "1", "--device", "cpu")
    page, status = in_terminal(*run, "--out", tmp_path / "terminal", width=80, WALK_PAUSE="0.06")
    assert status == 0
    assert re.search(r"\d of 3 runs done, 1 at work.*━.*\d+% about \d+ s left", page)
    assert "[3/3] walk steps=40 seed=2" in page
    assert page.rpartition("\x1b[2K")[2].startswith("3 runs measured, 0 already done")
    plain = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "\n", re.sub(r"\x1b\[[0-9;]*m", "", page)).replace("\r", "\n")
    assert max(len(line) for line in plain.splitlines() if "rows in" not in line) <= 80

    surroundings = {**os.environ, "DEPTHWIDTH_JOBS": str(OWN), "DEPTHWIDTH_QUIET": "", "WALK_TROUBLE": "raise 1"}
    for more, lines in (((), 3), (("--quiet",), 0)):
        words = [sys.executable, "-m", "depthwidth", *run, "--out", str(tmp_path / f"log{lines}"), *more]
        done = subprocess.run(words, capture_output=True, text=True, env=surroundings, check=False)  # noqa: S603
        assert done.returncode == 3
        assert len(re.findall(r"^\[\d/3\] walk", done.stderr, re.MULTILINE)) == lines
        assert done.stderr.count("the walker stumbled") >= 1
        assert not CONTROL.search(done.stderr + done.stdout)
        assert done.stdout.splitlines()[0].startswith("2 runs measured, 0 already done, 1 FAILED")


@pytest.mark.slow
def test_ctrl_c_ends_a_watch_cleanly(two_runs):
    store, _ = two_runs
    page, status = in_terminal("verify", "status", "--watch", "--out", store.root, width=40, stop=b"Ctrl-C ends the watch")
    assert status == 0
    assert "Error" not in page
    assert "Traceback" not in page
    assert page.rpartition("\x1b[2K")[2].startswith("job   size")


def test_watching_is_for_people(invoke, two_runs):
    result = invoke("verify", "status", "--watch", "--json", "--out", two_runs[0].root)
    assert result.status == 2
    assert "leave out --json" in result.error


@pytest.mark.parametrize("cost", [5e-324, 1e30, 0.0])
def test_the_time_left_is_a_finite_number(cost):
    """Costs of a plan are anyone's: seconds per unit of the least of them are infinite."""
    from verify.runs.clock import Pace, time_left

    pace = Pace()
    pace.add("walk", 1e12, 5e-324)
    assert 0 <= time_left({"walk": [cost]}, [pace], 2).seconds <= 1e12
