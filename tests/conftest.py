"""Fixtures for all tests: strict floating point, a seeded generator, and the command line run in-process."""

import os

# Several test processes with one thread per core would slow each other down. It must be set before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asks the hub or reads a cache that happens to be there; those of tests/test_hub.py have a server of their own.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = os.path.join(os.sep, "nonexistent", "huggingface")

# A command that is slow on a busy machine would print a line of progress; the tests of progress ask for it.
os.environ.setdefault("DEPTHWIDTH_QUIET", "1")

# Compiled files are kept even if the environment says otherwise: tests start many interpreters, each of which would compile
# the packages anew, as each worker would its tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import gc
import linecache
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import PATIENCE
from hypothesis import settings

# Every run uses the same examples, so that a failure in continuous integration can be reproduced locally.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

sys.dont_write_bytecode = False  # see above

gc.disable()  # until everything is collected: see below


def pytest_collection_finish():
    """Collect garbage while tests run only, and rarely: modules and test items stay, and looking through them takes seconds."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    linecache.clearcache()  # it holds every source; each example that runs would ask for the date of each of them


def pytest_ignore_collect(collection_path, config):
    """Files of slow tests alone are not even imported by the quick ones, unless they are named."""
    quick = config.getoption("-m") == "not slow" and collection_path.suffix == ".py"
    if quick and WHOLLY_SLOW.search(collection_path.read_text(encoding="utf-8")):
        return True
    return None


WHOLLY_SLOW = re.compile(r"^pytestmark = .*\bpytest\.mark\.slow\b", re.MULTILINE)


SLOW_EXAMPLES = {
    "CONTRIBUTING.md",
    "depthwidth.formulas._usage.used_formulas",
    "depthwidth.planning.compute.compute_optimum",
    "docs/derivations/finite-width.md",
    "docs/derivations/heads.md",
    "docs/fitting.md",
    "docs/pictures.md",
    "docs/training.md",
}
"""Pages and docstrings with examples that take more than 0.3 s."""


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(config, items):
    for item in items:
        if {item.name, item.nodeid.partition("::")[0]} & SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)
    if "fuzz" not in (config.getoption("-m") or ""):
        for item in items:
            if item.get_closest_marker("fuzz"):
                item.add_marker(pytest.mark.skip(reason="many mutated inputs; pytest -m fuzz runs them"))


@pytest.fixture(autouse=True)
def strict_floating_point():
    """Raise an error, not a warning, for an overflow, an invalid operation or a division by zero."""
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20061246)


@pytest.fixture
def invoke(capsys, monkeypatch):
    """Run the command line as :func:`main` does, and return its exit status, output and error text."""
    from depthwidth.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["depthwidth", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(status=stop.value.code or 0, output=captured.out, error=captured.err)

    return run


@pytest.fixture
def in_fresh_python():
    """Run Python source in a new interpreter and return its output."""

    def run(source):
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
