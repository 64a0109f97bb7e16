"""Jobs: one claim a file.

A job says what it asks, predicts it with :mod:`depthwidth`, measures it, and judges by a criterion written down before.
A file in this folder (or in the folder that ``DEPTHWIDTH_JOBS`` names) that defines ``JOB`` is a job; nothing else has to be
told of it. Importing it must be quick and must not import torch: what needs torch is imported where it is measured.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from depthwidth import __version__
from depthwidth.coefficients import data_directory
from depthwidth.errors import InputError, nearest, shown

from ..rows import Row, canonical, digest_of

Size = Literal["tiny", "small", "gpu", "full"]
SIZES: dict[str, str] = {
    "tiny": "seconds on a CPU; the tests run it",
    "small": "minutes on a CPU",
    "gpu": "ten minutes of one GPU at most",
    "full": "what one would run with a cluster",
}


def check_size(size: str) -> None:
    """Refuse what is not the name of a size.

    Raises
    ------
    InputError
        with the names there are.
    """
    if size not in SIZES:
        raise InputError(f"there is no size {shown(size)}; there are {', '.join(SIZES)}")


Outcome = Literal["holds", "holds on a range", "fails", "undecided"]
OUTCOMES: dict[str, str] = {
    "holds": "the criterion is met everywhere it was checked",
    "holds on a range": "the criterion is met on a part that the verdict names",
    "fails": "the criterion is not met",
    "undecided": "runs are missing, or the noise is too large to tell",
}

JOBS_VARIABLE = "DEPTHWIDTH_JOBS"


@dataclass(frozen=True)
class Prediction:
    """A number that theory gives for something to be measured."""

    quantity: str
    value: float
    formula: str
    """Where it comes from, by a name that ``depthwidth formulas show`` or Python's import knows."""
    version: str
    """Of that formula: :func:`version_of`."""
    site: str = ""
    step: int | None = None
    stderr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Measurement:
    """One number that a run found."""

    quantity: str
    value: float
    site: str = ""
    step: int | None = None
    stderr: float | None = None


@dataclass(frozen=True)
class Run:
    """One training or measurement.

    Parameters
    ----------
    spec : everything that defines it, as plain JSON: the tree's choices, recipe, data and their hash, steps, precision. Two
        runs with the same spec, seed and code are the same run.
    seed : of everything random in it.
    labels : a few plain values that tables and fits group by.
    predictions : what theory says it will find.
    cost : how much work it is, in any unit that is the same over the job's runs; the estimate of time left goes by it.
    cpus, gpus : what it occupies while it runs. Half a GPU lets two share one.
    """

    spec: Mapping[str, Any]
    seed: int
    labels: Mapping[str, Any] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    cost: float = 1.0
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Context:
    """What a run is given beside its spec."""

    device: str
    """``cpu`` or ``cuda``; where there are several GPUs, each process sees its own only."""
    folder: Path
    """Its own folder, which survives when the process is killed: for checkpoints. Nobody else writes there meanwhile."""
    seed: int
    threads: int = 1

    def progress(self, done: float) -> None:
        """Tell ``status`` what share of the work, from 0 to 1, is done."""
        waiting = self.folder / ".progress.part"
        try:
            waiting.write_text(f"{done:.4f}")
            waiting.replace(self.folder / "progress")
        except OSError:
            pass  # a full disk shows when a checkpoint is written; this file is for people


@dataclass(frozen=True)
class Comparison:
    """One line of a report: what was predicted, what was found, and whether that meets the criterion."""

    what: str
    predicted: float | None
    measured: float | None
    stderr: float | None = None
    passes: bool | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Verdict:
    """What the rows say about the claim, by the job's criterion."""

    outcome: Outcome
    summary: str
    comparisons: tuple[Comparison, ...] = ()


def outcome_of(met: int, failed: int, undecided: int = 0) -> Outcome:
    """The outcome of a claim that was checked in several places, from how many of them met the criterion.

    Examples
    --------
    >>> outcome_of(3, 0), outcome_of(2, 1), outcome_of(2, 0, 1), outcome_of(0, 1, 2), outcome_of(0, 0, 3)
    ('holds', 'holds on a range', 'holds on a range', 'fails', 'undecided')
    """
    if not met:
        return "fails" if failed else "undecided"
    return "holds on a range" if failed or undecided else "holds"


Runs = Callable[[str], Iterable[Run]]
Measure = Callable[[Mapping[str, Any], Context], Iterable[Measurement]]
MeasureTogether = Callable[[Sequence[Mapping[str, Any]], Sequence[Context], Path], Iterable[Iterable[Measurement]]]
Judge = Callable[[Sequence[Row], Sequence[Prediction]], Verdict]


@dataclass(frozen=True)
class Ensemble:
    """How several runs of a job are carried out in one program, which fills a GPU that one of them would not.

    Parameters
    ----------
    shape : of a spec; runs with equal shapes go together.
    measure : specs, as many contexts, and a folder for what they have in common; the measurements of each run, in order. They
        must be those that the runs have alone, to rounding. It may be killed at any moment, as :attr:`Job.measure`.
    """

    shape: Callable[[Mapping[str, Any]], Hashable]
    measure: MeasureTogether


@dataclass(frozen=True)
class Job:
    """A claim and how to check it.

    Parameters
    ----------
    name : as the command line calls it; the file's name with ``-`` for ``_``.
    question, claim, measured, criterion : a sentence each: what is asked, what theory says, which quantity is measured, and
        what must be found for the claim to hold.
    runs : the runs of a size, each with its predictions.
    measure : carries out one run: spec and context in, measurements out. It may be killed at any moment and called again with
        the same folder; it must then end with the same numbers.
    judge : a pure function of the rows and of the job's own predictions: the verdict.
    ensemble : how several runs are carried out together, where that can be done.
    predict : predictions about the job as a whole, by size (a crossing, a slope).
    uses : modules whose code decides what is measured, besides that of `measure`. A change in them makes other runs.
    figures : pictures for the report, from rows; each a title and a function that draws on matplotlib axes.
    """

    name: str
    question: str
    claim: str
    measured: str
    criterion: str
    runs: Runs
    measure: Measure
    judge: Judge
    ensemble: Ensemble | None = None
    predict: Callable[[str], Iterable[Prediction]] = lambda _: ()
    uses: tuple[str, ...] = ()
    figures: tuple[tuple[str, Callable[[Any, Sequence[Row]], None]], ...] = ()

    @functools.cached_property
    def code(self) -> str:
        """A digest of the code that decides what is measured: the module of :attr:`measure`, and what it :attr:`uses`.

        Comments, docstrings and layout do not count. Where a shared function measures, this job's own file is not part of it:
        what that says of a run stands in the run's spec.
        """
        return code_of(sys.modules[self.measure.__module__], *self.uses)

    @functools.cached_property
    def judging(self) -> str:
        """A digest of the code that judges: the module of :attr:`judge`."""
        return code_of(sys.modules[self.judge.__module__])

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        words = {name: getattr(self, name) for name in ("name", "question", "claim", "measured", "criterion")}
        return words | {"code": self.code}


def run_name(job: str, code: str, run: Run) -> str:
    """The name of a run: a digest of everything that decides what it finds."""
    return digest_of(canonical({"job": job, "code": code, "seed": run.seed, "spec": run.spec}).encode())


# The version of a piece of code.


def code_of(*modules: str | ModuleType) -> str:
    """A digest of what modules do: their source without comments, docstrings and layout."""
    return digest_of("\n".join(_essence(_source(module)) for module in modules).encode())


def version_of(*modules: str) -> str:
    """The version of a formula that lives in `modules`: the package's, and a digest of their code and of all they import of it.

    Fitted coefficients of laws that the code names count as code.

    Examples
    --------
    >>> version_of("depthwidth.formulas.shape").startswith("0.1.0+")
    True
    """
    return f"{__version__}+{_version_of(modules)}"


@functools.cache
def _version_of(modules: tuple[str, ...]) -> str:
    known: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in known:
            known[name] = _essence(_source(name))
            waiting += _imported(name)
    for file in sorted((data_directory() / "coefficients").glob("*.csv")):
        law = repr(file.name.partition(".")[0])
        if any(law in code for code in known.values()):
            known[file.name] = file.read_text(encoding="utf-8")
    return digest_of(canonical(sorted(known.items())).encode())[:8]


@functools.cache
def _imported(module: str) -> tuple[str, ...]:
    """The modules of the same package that a module imports, wherever in its code it does."""
    package = module.partition(".")[0]
    found = importlib.util.find_spec(module)
    folder = module if found is not None and found.submodule_search_locations else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), folder) if node.level else node.module
            names |= {str(base), *(f"{base}.{alias.name}" for alias in node.names)}
    return tuple(sorted(name for name in names if name.startswith(f"{package}.") and _is_module(name)))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # it is a name in a module, not in a package
        return False


def _source(module: str | ModuleType) -> str:
    if isinstance(module, str):
        found = importlib.util.find_spec(module)
        path = found.origin if found is not None else None
    else:
        path = module.__file__
    if path is None:
        raise InputError(f"the source of {module} cannot be found")
    return Path(path).read_text(encoding="utf-8")


def _essence(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A string that stands alone does nothing.
            node.body = [  # type: ignore[attr-defined]
                line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return ast.unparse(tree)


# Finding jobs.


@functools.cache
def _jobs(own: str) -> dict[str, Job]:
    modules = [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
        if not info.name.startswith("_")
    ]
    if own:
        folder = Path(own)
        if not folder.is_dir():
            raise InputError(f"{JOBS_VARIABLE}={shown(own)} is not a folder")
        modules += [_load(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
    found: dict[str, Job] = {}
    for module in modules:
        job = getattr(module, "JOB", None)
        if not isinstance(job, Job):
            raise InputError(f"{module.__file__} defines no JOB")
        if job.name in found:
            raise InputError(f"there are two jobs called {job.name}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", job.name):
            raise InputError(f"a job's name is made of small letters, digits and -, not {shown(job.name)}")
        found[job.name] = job
    return dict(sorted(found.items()))


def _load(path: Path) -> ModuleType:
    name = f"verify_own_jobs_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise InputError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from None
    return module


def jobs() -> dict[str, Job]:
    """All jobs by name: those of this folder, and those of the folder that ``DEPTHWIDTH_JOBS`` names.

    Raises
    ------
    InputError
        if a file there is no job, or two jobs have one name.
    """
    return _jobs(os.environ.get(JOBS_VARIABLE, ""))


def find_job(name: str) -> Job:
    """The job called `name`.

    Raises
    ------
    InputError
        if there is none.
    """
    known = jobs()
    if name not in known:
        raise InputError(f"there is no job {shown(name)}{nearest(name, known)}; there are {', '.join(known)}")
    return known[name]
