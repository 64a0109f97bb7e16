"""Does a wrong number fail a test? Change one number or sign at a time and run the tests nearest to it.

    python tests/mutation.py                    # all of tests/mutations.toml, one after the other
    python tests/mutation.py --only shared      # those with this text in place, change or reason
    python tests/mutation.py --workers 2

Each mutation of the table names a place (a file or a folder), a text that occurs there exactly once, what replaces it, and the
tests that must then fail. It is applied to a copy of what git tracks, in a temporary folder; the checkout is left alone. Tests
are first run without a change, since one that fails anyway kills nothing.

The exit status is 0 if every mutation is killed, 1 if one survives, is no longer found, or could not be tried.
"""

from __future__ import annotations

import argparse
import compileall
import functools
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("mutations.toml")
LONGEST = 900
"""Seconds that tests may take; a change under which they hang is seen."""


@dataclass(frozen=True)
class Mutation:
    """One change of the source, and the tests that must fail under it."""

    place: str
    """A file, or a folder in one file of which the text stands, so that a file may be split or moved within it."""
    old: str
    new: str
    tests: str
    """Arguments of pytest, separated by spaces."""
    why: str
    """Description of the number."""

    def __str__(self) -> str:
        return f"{self.place}: {self.old} -> {self.new}"

    def target(self, root: Path) -> Path:
        """The file that holds the text.

        Raises
        ------
        LookupError
            if the text does not occur exactly once.
        """
        counts = {path: text.count(self.old) for path, text in _texts(root / self.place).items()}
        found = [path for path, count in counts.items() if count]
        if sum(counts.values()) != 1:
            where = ", ".join(f"{counts[path]} in {path.relative_to(root)}" for path in found) or "nowhere"
            raise LookupError(f"{self.place}: {self.old!r} should occur once, and occurs {where}")
        return found[0]

    def applied(self, text: str) -> str:
        """The text of the file with the change made."""
        return text.replace(self.old, self.new)


@functools.cache
def _texts(place: Path) -> dict[Path, str]:
    """The sources at a place. Every change is taken back, so that they are read once."""
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return {path: path.read_text(encoding="utf-8") for path in files if path.is_file()}


def mutations() -> list[Mutation]:
    """The table."""
    return [Mutation(**row) for row in tomllib.loads(TABLE.read_text(encoding="utf-8"))["mutation"]]


def copy_checkout(folder: Path) -> None:
    """Copy what git tracks, and new files that it does not ignore."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        text=True,
    )
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def compile_sources(folder: Path) -> None:
    """Compile the packages once. A file's hash tells whether its source was changed since."""
    for package in ("depthwidth", "verify"):
        compileall.compile_dir(folder / package, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)


def run_tests(tests: str, folder: Path) -> tuple[str, str]:
    """Run tests in a copy: ``passed``, ``failed`` or ``error`` (no test was run), and the last line that they printed."""
    # No compiled file is written: one passes for current if size and second of its source are the same, as they may be.
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", "-rf", *tests.split()]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return "failed", f"no end after {LONGEST} s"
    lines = [line for line in done.stdout.splitlines() if line.strip()] or done.stderr.splitlines() or [""]
    failed = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])
    # 2: the run was interrupted, as by an error while the tests were collected.
    outcome = {0: "passed", 1: "failed", 2: "failed"}.get(done.returncode, "error")
    return outcome, failed


def try_one(mutation: Mutation, folder: Path) -> tuple[str, str]:
    """``killed``, ``SURVIVED``, ``NOT FOUND`` or ``ERROR``, and why."""
    try:
        path = mutation.target(folder)
    except LookupError as error:
        return "NOT FOUND", str(error)
    text = path.read_text(encoding="utf-8")
    path.write_text(mutation.applied(text), encoding="utf-8")
    try:
        outcome, line = run_tests(mutation.tests, folder)
    finally:
        path.write_text(text, encoding="utf-8")
    return {"failed": "killed", "passed": "SURVIVED"}.get(outcome, "ERROR"), line


def main() -> None:
    """Try the mutations and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="only mutations with this text in place, change or reason")
    parser.add_argument("--workers", type=int, default=1, help="copies of the checkout to run tests in side by side  [1]")
    parser.add_argument("--unchecked", action="store_true", help="do not run the tests without a change first")
    options = parser.parse_args()
    chosen = [one for one in mutations() if options.only is None or options.only in f"{one} {one.why}"]
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(options.workers) as pool:
        idle: SimpleQueue[Path] = SimpleQueue()
        for i in range(options.workers):
            copy_checkout(Path(work) / str(i))
            compile_sources(Path(work) / str(i))
            idle.put(Path(work) / str(i))

        def unchanged(tests: str) -> str:
            folder = idle.get()
            try:
                outcome, line = run_tests(tests, folder)
            finally:
                idle.put(folder)
            return "" if outcome == "passed" else f"{tests}: {outcome} without a change: {line}"

        def changed(mutation: Mutation) -> str:
            folder, start = idle.get(), time.monotonic()
            try:
                outcome, line = try_one(mutation, folder)
            finally:
                idle.put(folder)
            print(f"{outcome:9} {mutation}  [{time.monotonic() - start:.0f} s]\n          {line}", flush=True)  # noqa: T201
            return outcome

        broken = [] if options.unchecked else list(filter(None, pool.map(unchanged, dict.fromkeys(m.tests for m in chosen))))
        outcomes = Counter(pool.map(changed, chosen))
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))  # noqa: T201
    for line in broken:
        print(f"these tests kill nothing: {line}")  # noqa: T201
    sys.exit(1 if broken or set(outcomes) != {"killed"} else 0)


if __name__ == "__main__":
    main()
