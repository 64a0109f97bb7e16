"""Measures of capacity ranked by their agreement with the generalisation gap, over a grid of perceptrons."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from depthwidth.errors import InputError

from ..rows import Row
from . import ABOVE_ZERO, Comparison, Context, Job, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._digits import DIGITS, POINTS, USES, digits, error_of, measurements, perceptron, train_until

if TYPE_CHECKING:
    from depthwidth.analysis.measure_ranking import MeasureRank

# widths, matrices, batches, learning rates, samples, seeds
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[float, ...], int, int]] = {
    "tiny": ((8, 16), (2,), (20, 60), (1e-2,), 60, 1),
    "small": ((24, 64, 160), (2, 3, 4), (16, 100), (1e-3, 6e-3), 300, 3),
    "gpu": ((24, 64, 160, 400), (2, 3, 4, 5), (16, 50, 100), (1e-3, 2.5e-3, 6e-3), 300, 5),
    "full": ((24, 64, 160, 400, 1000), (2, 3, 4, 5, 6), (8, 16, 50, 100), (5e-4, 1e-3, 2.5e-3, 6e-3), 300, 10),
}
SETTINGS = ("width", "layers", "batch", "learning_rate")
_STEPS = {"tiny": 400, "small": 20_000, "gpu": 50_000, "full": 100_000}
FACTS = ("steps", "converged", "training_error", "test_error", "margin", "bounds_below_one")
"""Quantities that are no measures of capacity."""
BOUNDS = ("pac_bayes_bound_of_noisy_weights", "spectral_margin_bound")
"""Bounds that are cut off near 1, and therefore order nothing."""
ABOVE, BELOW = ("pacbayes_mag_flatness", "path_norm_over_margin"), ("pacbayes_flatness", "params")
"""Measures that are predicted to order networks, and those that are predicted not to, pair by pair."""


def runs(size: str) -> Iterator[Run]:
    """Every cell of the grid with each seed."""
    widths, depths, batches, rates, samples, seeds = _SIZES[size]
    for width, layers, batch, rate in itertools.product(widths, depths, batches, rates):
        training = {"learning_rate": rate, "batch": batch, "stop": 0.01, "most_steps": _STEPS[size]}
        spec = {"data": DIGITS, "samples": samples, "width": width, "layers": layers, "training": training, "dtype": "float32"}
        labels = {"width": width, "layers": layers, "batch": batch, "learning_rate": rate, "samples": samples}
        for seed in range(seeds):
            yield Run(spec, seed, labels, cost=1.0 + 50 / batch)


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train one perceptron to the stated loss and measure its capacity and its errors."""
    from ..measure.capacity import capacity

    train, test = digits(spec["samples"], "true", context.seed)
    model = perceptron(spec["width"], spec["layers"], context.seed)
    start = copy.deepcopy(model)
    steps, _ = train_until(model, train, spec["training"], context, context.seed)
    report = capacity(model, train, initial=start, seed=context.seed)
    yield from measurements(report, steps, error_of(model, test), spec["training"]["stop"])


def predict(size: str) -> Iterator[Prediction]:
    """The sign of each difference of Psi."""
    version = version_of("depthwidth.numerics.ranking")
    for above, below in itertools.product(ABOVE, BELOW):
        yield Prediction("psi_difference", 0.0, "numerics.ranking.granulated_kendall", version, f"{above} - {below}")


Cells = dict[tuple[Any, ...], dict[int, dict[str, float]]]
"""From settings to seeds to quantities."""


def cells_of(rows: Sequence[Row]) -> Cells:
    """The networks that reached the loss, by settings and seed."""
    found: Cells = {}
    for row in rows:
        key = tuple(row.labels[name] for name in SETTINGS)
        found.setdefault(key, {}).setdefault(row.seed or 0, {})[row.quantity] = row.value
    kept = {key: {seed: one for seed, one in some.items() if one.get("converged")} for key, some in sorted(found.items())}
    return {key: some for key, some in kept.items() if some}


def ranking(cells: Cells, samples: int, without: int | None = None) -> tuple[MeasureRank, ...]:
    """All measures by Psi, averaged over the seeds of each cell; `without` one of them for a jackknife."""
    from depthwidth.analysis.measure_ranking import rank_measures  # loads numpy, which a list of jobs does without

    cells = {key: {seed: one for seed, one in some.items() if seed != without} for key, some in cells.items()}
    cells = {key: some for key, some in cells.items() if some}

    def average(some: Mapping[int, Mapping[str, float]], name: str) -> float | None:
        values = [one.get(name) for one in some.values()]
        return None if None in values else mean(v for v in values if v is not None)

    names = {name for some in cells.values() for one in some.values() for name in one} - {*FACTS, *BOUNDS}
    gaps = [mean(one["test_error"] - one["training_error"] for one in some.values()) for some in cells.values()]
    settings = {name: [key[i] for key in cells] for i, name in enumerate(SETTINGS)}
    measures = {name: [average(some, name) for some in cells.values()] for name in sorted(names)}
    whole = {name: values for name, values in measures.items() if None not in values}
    tested = min(len(some) for some in cells.values()) * (POINTS - samples)
    return rank_measures(whole, gaps, settings, tested)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each difference of Psi must exceed twice its jackknife error over seeds."""
    cells = cells_of(rows)
    seeds = sorted({seed for some in cells.values() for seed in some})
    if len(seeds) < 2:
        return Verdict("undecided", "runs are missing, or one seed does not show the noise")
    samples = int(rows[0].labels["samples"])
    try:
        whole = {one.measure: one for one in ranking(cells, samples)}
        parts = [{one.measure: one.mean for one in ranking(cells, samples, seed)} for seed in seeds]
    except InputError as error:
        return Verdict("undecided", str(error))
    psi = {name: one.mean for name, one in whole.items()}
    lines = [*_pairs(psi, parts), *_measures(whole, parts)]
    met, failed = (sum(line.passes is wanted for line in lines) for wanted in (True, False))
    undecided = len(ABOVE) * len(BELOW) - met - failed
    best = next(iter(whole.values()))
    worst = min(
        (one for one in whole.values() if one.worst_error is not None), key=lambda one: one.worst_error or 0, default=None
    )
    robust = "" if worst is None else f"; the least worst sign error is {worst.worst_error:.2f}, of {worst.measure}"
    summary = (
        f"{met} of {met + failed + undecided} differences as predicted; best by Psi {best.measure} ({best.mean:+.2f}){robust}"
    )
    return Verdict(outcome_of(met, failed, undecided), summary, tuple(lines))


def _pairs(psi: Mapping[str, float], parts: Sequence[Mapping[str, float]]) -> Iterator[Comparison]:
    for above, below in itertools.product(ABOVE, BELOW):
        if above in psi and below in psi:
            difference = psi[above] - psi[below]
            noise = _jackknife([part[above] - part[below] for part in parts])
            passes = None if abs(difference) <= 2 * noise else difference > 0
            yield Comparison(f"Psi of {above} less that of {below}", 0.0, difference, noise, passes, limit=ABOVE_ZERO)


def _measures(whole: Mapping[str, MeasureRank], parts: Sequence[Mapping[str, float]]) -> Iterator[Comparison]:
    for name, one in whole.items():
        by = ", ".join(f"{key} {value:+.2f}" for key, value in one.by_hyperparameter.items())
        worst = "" if one.worst_error is None else f"; worst sign error {one.worst_error:.2f} at {one.worst_environment}"
        noise = _jackknife([part[name] for part in parts if name in part])
        yield Comparison(f"Psi of {name}", None, one.mean, noise, None, f"tau {one.overall:+.2f}; {by}{worst}")


def _jackknife(values: Sequence[float]) -> float:
    """The standard error of a statistic from its values without each seed."""
    n = len(values)
    return stdev(values) * (n - 1) / math.sqrt(n) if n > 1 else math.inf


JOB = Job(
    name="measure-ranking",
    question="Which measures of capacity order networks by their generalisation gap when one hyperparameter changes?",
    claim="Flatness that follows the weights' magnitudes and the path norm over the margin do; isotropic flatness and the "
    "number of parameters do not (arXiv 1912.02178, and a grid of 24 cells).",
    measured="Measures and generalisation gap of perceptrons on scikit-learn's digits over width, depth, batch and learning "
    "rate, all trained to a cross-entropy of 0.01; agreement by the granulated coefficient Psi.",
    criterion="Psi of pacbayes-mag-flatness and of path-norm-over-margin exceeds that of pacbayes-flatness and of params by "
    "more than two jackknife errors over seeds.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
    uses=USES,
)
