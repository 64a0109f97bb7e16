"""``depthwidth verify`` from the outside: what it prints, how it ends, and what survives when it is killed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def values(folder):
    """What was measured, without where and when."""
    from verify.tables import PROVENANCE, Store

    return {
        run: [{k: repr(v) for k, v in row.items() if k not in PROVENANCE} for row in rows]
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
    assert "3 runs measured, 0 were there already" in invoke("verify", "run", "walk", "--out", walk).output
    before = {path: path.read_bytes() for path in walk.glob("*/*") if path.is_file()}
    assert "0 runs measured, 3 were there already" in invoke("verify", "run", "walk", "--out", walk).output
    assert "0 runs measured, 3 were there already" in invoke("verify", "resume", "--out", walk).output
    assert before == {path: path.read_bytes() for path in walk.glob("*/*") if path.is_file()}


def test_killed_and_resumed_is_as_never_killed(invoke, walk, tmp_path):
    """kill -9 of the process and, by the system, of its workers; again and again, until it is through."""
    whole = tmp_path / "whole"
    assert invoke("verify", "run", "walk", "--size", "small", "--out", whole).status == 0
    for attempt in range(20):
        verb = ("run", "walk", "--size", "small") if attempt == 0 else ("resume",)
        process = command(*verb, "--out", walk, "--workers", "1", WALK_PAUSE="0.03")
        try:
            process.wait(timeout=3.0)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
    assert attempt > 1
    assert process.returncode == 0
    assert values(walk) == values(whole)
    assert len(values(walk)) == 6
    assert list((walk / "work").iterdir()) == []
    assert list((walk / "leases").iterdir()) == []
