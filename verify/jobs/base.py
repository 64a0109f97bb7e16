"""The definition of a job: its runs, their predictions and measurements, and the verdict on its claim.

A job states a question and a claim, predicts with :mod:`depthwidth`, measures, and judges by a criterion that was written down
before anything was measured.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

from depthwidth.display import Overview, with_overview
from depthwidth.errors import InputError, shown
from depthwidth.progress import Progress, current_progress

from ..files import write_whole
from ..rows import Row, canonical, digest_of
from .versions import code_behind, code_of

Size = Literal["tiny", "small", "gpu", "full"]
SIZES: dict[str, str] = {
    "tiny": "seconds on a CPU; run by the tests",
    "small": "minutes on a CPU",
    "gpu": "at most ten minutes of one GPU",
    "full": "a cluster",
}


def check_size(size: str) -> None:
    """Refuse a name that is not a size.

    Raises
    ------
    InputError
        with the known names.
    """
    if size not in SIZES:
        raise InputError(f"there is no size {shown(size)}; there are {', '.join(SIZES)}")


Outcome = Literal["holds", "holds on a range", "fails", "undecided"]
OUTCOMES: dict[str, str] = {
    "holds": "the criterion is met wherever it was checked",
    "holds on a range": "the criterion is met on a part, which the verdict names",
    "fails": "the criterion is not met",
    "undecided": "runs are missing, or the noise is too large",
}


@with_overview
@dataclass(frozen=True)
class Prediction:
    """A number that theory gives for a quantity to be measured."""

    quantity: str
    value: float
    formula: str
    """Its source, by a name that ``depthwidth formulas show`` or Python's import knows."""
    version: str
    """Version of that formula: :func:`verify.jobs.version_of`."""
    site: str = ""
    step: int | None = None
    stderr: float | None = None

    def overview(self) -> Overview:
        """The number and its source, for a prompt or a notebook."""
        error = "" if self.stderr is None else f" +- {self.stderr:.2g}"
        place = {"site": self.site} if self.site else {}
        step = {} if self.step is None else {"step": f"{self.step:,}"}
        facts = {"value": f"{self.value:.6g}{error}", **place, **step, "formula": self.formula, "version": self.version}
        return Overview(f"Prediction of {self.quantity}", facts)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """One number measured in a run. Site, step and quantity together occur once in a run."""

    quantity: str
    value: float
    site: str = ""
    step: int | None = None
    stderr: float | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Labels of this number alone, as plain JSON; its row has them beside those of the run."""


@dataclass(frozen=True)
class Run:
    """One training or one measurement.

    Parameters
    ----------
    spec : everything that defines it, as plain JSON: the tree's choices, recipe, data and their hash, steps, precision. Two
        runs with the same spec, seed and code are the same run.
    seed : seed of all its random numbers.
    labels : a few plain values by which tables and fits group rows.
    predictions : the values that theory predicts.
    cost : amount of work, in any unit that is the same for all runs of the job; the estimate of the time left uses it.
    cpus, gpus : processors and GPUs that it occupies. Half a GPU lets two runs share one.
    """

    spec: Mapping[str, Any]
    seed: int
    labels: Mapping[str, Any] = field(default_factory=dict)
    predictions: tuple[Prediction, ...] = ()
    cost: float = 1.0
    cpus: float = 1.0
    gpus: float = 0.0


FACTS = ("step", "steps", "loss", "rate")
"""Facts of a training that are kept of :attr:`depthwidth.progress.Progress.facts`."""


@dataclass(frozen=True)
class Context:
    """The surroundings of a run: everything that it is given besides its spec."""

    device: str
    """``cpu`` or ``cuda``; on a machine with several GPUs each process sees only its own."""
    folder: Path
    """A folder for checkpoints, which no other process uses and which survives if this one is killed."""
    seed: int
    threads: int = 1
    reported: list[float] = field(default_factory=list, compare=False, repr=False)
    """The share that :meth:`progress` reported last, if it ever did."""

    def progress(self, done: float) -> None:
        """Report the finished share of the work, from 0 to 1, for the display of the sweep's progress.

        A job need not: the progress of trainings, and of all that is announced with :func:`depthwidth.progress.during`, is
        written every few seconds by itself.
        """
        self.reported[:] = [done]
        self.write_progress(current_progress())

    def write_progress(self, at: Progress) -> None:
        """Write the share that was reported, or that of `at`, with the facts of `at`."""
        share = self.reported[0] if self.reported else at.share
        if share is None or not math.isfinite(share):
            return
        facts = {name: float(value) for name, value in at.facts.items() if name in FACTS and math.isfinite(value)}
        record = {"share": round(min(1.0, max(0.0, share)), 4), **facts}
        with contextlib.suppress(OSError):  # a full disk shows when a checkpoint is written; this file is for people
            write_whole(self.folder / "progress", json.dumps(record).encode())


@dataclass(frozen=True)
class Limit:
    """The measured values that meet a criterion.

    Parameters
    ----------
    low, high : the ends; None if there is none.
    sigmas : number of standard errors by which the value must lie inside the ends; negative if it may lie that far outside.
    tolerance : the deviation that the criterion allows aside from the noise, if the ends do not tell it.
    """

    low: float | None = None
    high: float | None = None
    sigmas: float = 0.0
    tolerance: float | None = None

    @classmethod
    def around(cls, center: float, tolerance: float, sigmas: float = 0.0) -> Limit:
        """All values that differ from a center by at most a tolerance."""
        return cls(center - tolerance, center + tolerance, sigmas, tolerance)

    @classmethod
    def forgiving(cls, margin: float, stderr: float, *, low: float | None = None, high: float | None = None) -> Limit:
        """Ends that are a margin beyond `low` or `high`, or two standard errors if these are more.

        Examples
        --------
        >>> Limit.forgiving(0.25, 0.5, low=0.0).ends(0.5), Limit.forgiving(0.25, 0.125, low=0.0).ends(0.125)
        ((-1.0, inf), (-0.25, inf))
        """
        sigmas = -max(0.0, 2 - margin / stderr) if stderr else 0.0
        return cls(None if low is None else low - margin, None if high is None else high + margin, sigmas, margin)

    def ends(self, stderr: float | None) -> tuple[float, float]:
        """The ends at a standard error; infinite if there is none.

        Examples
        --------
        >>> Limit(high=0.0, sigmas=2).ends(0.1), Limit.around(1.0, 0.5).ends(None)
        ((-inf, -0.2), (0.5, 1.5))
        """
        moved = self.sigmas * (stderr or 0.0)
        low = -math.inf if self.low is None else self.low + moved
        return low, math.inf if self.high is None else self.high - moved

    def is_met(self, measured: float, stderr: float | None) -> bool:
        """True if the value meets the criterion."""
        low, high = self.ends(stderr)
        return low < measured < high if self.sigmas > 0 else low <= measured <= high

    def is_blurred(self, measured: float, stderr: float) -> bool:
        """True if two standard errors exceed the deviation that the criterion allows, and reach beyond its ends."""
        low, high = (-math.inf if self.low is None else self.low), (math.inf if self.high is None else self.high)
        allowed = self.tolerance
        if allowed is None:
            if self.sigmas:  # the noise alone is the criterion, or a part of it
                return False
            allowed = min((high - low) / 2, abs(measured - low), abs(measured - high))
        return 2 * stderr > allowed and not low <= measured - 2 * stderr <= measured + 2 * stderr <= high


BELOW_ZERO = Limit(high=0.0, sigmas=2)
"""A difference that is negative by two standard errors."""
ABOVE_ZERO = Limit(low=0.0, sigmas=2)
"""A difference that is positive by two standard errors."""


@dataclass(frozen=True)
class Comparison:
    """One line of a report: a prediction, the measurement, and whether the criterion is met."""

    what: str
    predicted: float | None
    measured: float | None
    stderr: float | None = None
    passes: bool | None = None
    note: str = ""
    limit: Limit | None = None
    """The values that meet the criterion, if it is a limit on the measured one."""

    @property
    def is_noisy(self) -> bool:
        """True if the criterion is met, but the noise exceeds the allowed range, so nothing is decided."""
        if not self.passes or self.limit is None or self.measured is None or not self.stderr:
            return False
        return self.limit.is_blurred(self.measured, self.stderr)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """The judgement on a claim, by the job's criterion."""

    outcome: Outcome
    summary: str
    comparisons: tuple[Comparison, ...] = ()


def outcome_of(met: int, failed: int, undecided: int = 0) -> Outcome:
    """The outcome of a claim that was checked in several places, from the number of places with each result.

    Examples
    --------
    >>> outcome_of(3, 0), outcome_of(2, 1), outcome_of(2, 0, 1), outcome_of(0, 1, 2), outcome_of(0, 0, 3)
    ('holds', 'holds on a range', 'holds on a range', 'fails', 'undecided')
    """
    if not met:
        return "fails" if failed else "undecided"
    return "holds on a range" if failed or undecided else "holds"


def difference_error(one: Sequence[float], other: Sequence[float]) -> float:
    """The standard error of the difference of two means, of at least two independent values each.

    Examples
    --------
    >>> difference_error([1.0, 3.0], [2.0, 2.0])
    1.0
    """
    return math.sqrt(stdev(one) ** 2 / len(one) + stdev(other) ** 2 / len(other))


Runs = Callable[[str], Iterable[Run]]
Measure = Callable[[Mapping[str, Any], Context], Iterable[Measurement]]
MeasureTogether = Callable[[Sequence[Mapping[str, Any]], Sequence[Context], Path], Iterable[Iterable[Measurement]]]
Judge = Callable[[Sequence[Row], Sequence[Prediction]], Verdict]


@dataclass(frozen=True)
class Ensemble:
    """Several runs of a job carried out in one program, to fill a GPU that one of them would not fill.

    Parameters
    ----------
    shape : maps a spec to a key; runs with equal keys may go together.
    measure : takes specs, as many contexts, and a common folder; yields the measurements of each run, in order. They equal
        those of the runs carried out alone, to rounding. It may be killed at any moment, like :attr:`Job.measure`.
    """

    shape: Callable[[Mapping[str, Any]], Hashable]
    measure: MeasureTogether


@dataclass(frozen=True)
class Job:
    """A claim and the way to check it.

    Parameters
    ----------
    name : its name on the command line; the name of its file with ``-`` for ``_``.
    question, claim, measured, criterion : one sentence each: the question, the answer of theory, the quantity that is measured,
        and the result for which the claim holds.
    runs : the runs of a size, each with its predictions.
    measure : carries out one run: spec and context in, measurements out. It may be killed at any moment and called again with
        the same folder; it must then end with the same numbers.
    judge : the verdict, a pure function of the rows and of the job's own predictions.
    ensemble : the way to carry out several runs together, if there is one.
    predict : predictions for the job as a whole, by size (a crossing, a slope).
    uses : further modules whose code decides the measured numbers. The module of `measure` and all modules of ``verify`` that
        it imports count by themselves; so does, through the spec, whatever a recipe decides.
    figures : pictures for the report; each a title and a function that draws rows on matplotlib axes, which have the look of
        :mod:`depthwidth.plots` (``plots.measured.draw_means`` draws means over seeds with their errors).
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
        """A digest of the code that decides the measured numbers: :func:`verify.jobs.versions.code_behind` of `measure`.

        Comments, docstrings and layout do not count. If a shared function measures, this job's own file is not part of it: the
        run's spec holds everything in the file that describes a run.
        """
        return code_behind(sys.modules[self.measure.__module__], *self.uses)

    @functools.cached_property
    def judging(self) -> str:
        """A digest of the code that judges: the module of :attr:`judge`."""
        return code_of(sys.modules[self.judge.__module__])

    def to_dict(self) -> dict[str, Any]:
        """The sentences and the code's digest as plain data."""
        words = {name: getattr(self, name) for name in ("name", "question", "claim", "measured", "criterion")}
        return words | {"code": self.code}


def run_name(job: str, code: str, run: Run) -> str:
    """The name of a run: a digest of everything that decides its measurements."""
    return digest_of(canonical({"job": job, "code": code, "seed": run.seed, "spec": run.spec}).encode())
