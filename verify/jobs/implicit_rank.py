"""Gradient descent on a factor of a matrix, against the least nuclear norm of all that fit the measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, difference_error, outcome_of, version_of

CLOSE = 1e-3
"""Largest relative gap to the least nuclear norm that counts as reaching it, with enough measurements."""
SMALL = 1e-3
"""The largest scale of the start at which this gap is required."""
COMMUTING = 1e-2
"""Largest relative error of the trace that the theorem of commuting measurements gives."""
STEP = 0.2
"""Step of the descent times the squared norm of the measurements."""


class _Problem(NamedTuple):
    kind: str
    """``gaussian``, ``completion`` or ``diagonal`` measurements."""
    rank: int
    """Of the truth."""
    per_parameter: float
    """Measurements over size times rank."""

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.per_parameter:g} n r, rank {self.rank}"


ENOUGH = (_Problem("gaussian", 2, 3), _Problem("completion", 2, 3))
FEW = (_Problem("gaussian", 2, 1), _Problem("gaussian", 4, 0.75))
DIAGONAL = _Problem("diagonal", 2, 0.2)

# size, scales of the start, most steps, seeds
_SIZES: dict[str, tuple[int, tuple[float, ...], int, int]] = {
    "tiny": (12, (0.1, 1e-3), 2000, 1),
    "small": (20, (1.0, 0.1, 1e-2, 1e-3, 1e-4), 100_000, 3),
    "gpu": (50, (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5), 200_000, 3),
    "full": (100, (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6), 1_000_000, 5),
}


def sensing(kind: str, size: int, rank: int, count: int, seed: int) -> tuple[Any, Any]:
    """Symmetric measurements (count, size, size) and their values of a matrix of this rank and Frobenius norm 1."""
    import numpy as np

    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((size, rank))
    truth = factor @ factor.T
    if kind == "diagonal":
        truth = np.diag(np.diag(truth) * (np.arange(size) < rank))
        measurements = np.zeros((count, size, size))
        measurements[:, np.arange(size), np.arange(size)] = rng.standard_normal((count, size)) / np.sqrt(count)
    elif kind == "gaussian":
        drawn = rng.standard_normal((count, size, size))
        measurements = (drawn + drawn.transpose(0, 2, 1)) / (2 * np.sqrt(count))
    else:
        row, column = np.triu_indices(size)
        measurements = np.zeros((count, size, size))
        for number, place in enumerate(rng.choice(len(row), count, replace=False)):
            measurements[number, row[place], column[place]] += 0.5
            measurements[number, column[place], row[place]] += 0.5
    truth /= np.linalg.norm(truth)
    return measurements, np.einsum("mij,ij->m", measurements, truth)


def descent(measurements: Any, values: Any, scale: float, steps: int) -> Any:
    """X = U U' after gradient descent on half the squared error from U = scale I, until it fits to 1e-7 or the steps end."""
    import numpy as np

    flat = measurements.reshape(len(values), -1)
    size = measurements.shape[1]
    step, enough = STEP / np.linalg.norm(flat, 2) ** 2, 1e-7 * np.linalg.norm(values)
    u = scale * np.eye(size)
    for number in range(steps):
        error = flat @ (u @ u.T).ravel() - values
        if number % 50 == 0 and np.linalg.norm(error) < enough:
            break
        u = u - step * ((error @ flat).reshape(size, size) @ u)
    return u @ u.T


def runs(size: str) -> Iterator[Run]:
    """One run for each problem and seed; the diagonal ones with the traces that the theorem gives."""
    import numpy as np

    from depthwidth.numerics.factorisation import commuting_limit

    n, scales, steps, seeds = _SIZES[size]
    for problem in (*ENOUGH, *FEW, DIAGONAL):
        count = max(2, round(problem.per_parameter * n * problem.rank))
        for seed in range(seeds):
            predictions = []
            if problem is DIAGONAL:
                measurements, values = sensing("diagonal", n, problem.rank, count, seed)
                diagonals = np.einsum("mii->mi", measurements)
                for scale in scales:
                    limit = float(commuting_limit(diagonals, values, np.full(n, scale**2)).sum())
                    name = "depthwidth.numerics.factorisation.commuting_limit"
                    version = version_of("depthwidth.numerics.factorisation")
                    predictions.append(Prediction("nuclear_norm", limit, name, version, site=_site(scale)))
            spec = {
                "kind": problem.kind, "size": n, "rank": problem.rank, "count": count, "scales": list(scales), "steps": steps,
                "step": STEP, "dtype": "float64",
            }  # fmt: skip
            labels = {"problem": problem.name, "measurements": count, "size": n}
            yield Run(spec, seed, labels, tuple(predictions), cost=steps * count * n**2)


def _site(scale: float) -> str:
    return f"start {scale:g}"


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Descend from each start; the relative gap to the least nuclear norm, effective ranks and the relative error."""
    import numpy as np

    from depthwidth.numerics.nuclear_norm import least_nuclear_norm
    from depthwidth.numerics.spectra import ranks

    measurements, values = sensing(spec["kind"], spec["size"], spec["rank"], spec["count"], context.seed)
    least = least_nuclear_norm(measurements, values, semidefinite=True)
    yield Measurement("nuclear_norm", least.value, "least")
    yield Measurement("bound", least.bound, "least")
    yield Measurement("effective_rank", ranks(np.linalg.svd(least.matrix, compute_uv=False)).effective, "least")
    flat = measurements.reshape(len(values), -1)
    for number, scale in enumerate(spec["scales"]):
        found = descent(measurements, values, scale, spec["steps"])
        measured, site = ranks(np.linalg.svd(found, compute_uv=False)), _site(scale)
        yield Measurement("nuclear_norm", measured.nuclear_norm, site)
        yield Measurement("gap", measured.nuclear_norm / least.value - 1, site)
        yield Measurement("effective_rank", measured.effective, site)
        misfit = float(np.linalg.norm(flat @ found.ravel() - values) / np.linalg.norm(values))
        yield Measurement("misfit", misfit, site)
        context.progress((number + 1) / len(spec["scales"]))


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Enough measurements, few, and commuting ones, judged separately; means over seeds."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row.labels["problem"], row.site, row.quantity), []).append(row.value)
    if not found:
        return Verdict("undecided", "no rows")
    scales = sorted({float(site.removeprefix("start ")) for _, site, _ in found if site != "least"})
    lines = [line for problem in ENOUGH for line in _enough(found, problem.name, scales)]
    lines += [line for problem in FEW for line in _few(found, problem.name, scales)]
    lines += _commuting(rows)
    passes = [line.passes for line in lines if line.passes is not None]
    summary = (
        "a small start reaches the least nuclear norm with enough measurements; with few it leaves it for a lower rank"
        if passes and all(passes)
        else f"{sum(passes)} of {len(passes)} comparisons hold"
    )
    return Verdict(outcome_of(sum(passes), len(passes) - sum(passes)), summary, tuple(lines))


def _enough(
    found: Mapping[tuple[str, str, str], Sequence[float]], problem: str, scales: Sequence[float]
) -> Iterator[Comparison]:
    for scale in scales:
        gaps = found.get((problem, _site(scale), "gap"))
        if gaps:
            asked = scale <= SMALL
            yield Comparison(
                f"{problem}: gap from a start of {scale:g}", 0.0, mean(gaps), None, mean(gaps) <= CLOSE if asked else None,
                limit=Limit(high=CLOSE) if asked else None,
            )  # fmt: skip


def _few(found: Mapping[tuple[str, str, str], Sequence[float]], problem: str, scales: Sequence[float]) -> Iterator[Comparison]:
    """The gap grows again below a start of 0.01, and the effective rank falls below that of the least norm."""
    smallest, reference = scales[0], min(scales, key=lambda scale: abs(scale - 1e-2))
    there, here = (found.get((problem, _site(scale), "gap")) for scale in (smallest, reference))
    ranks, least = (found.get((problem, site, "effective_rank")) for site in (_site(smallest), "least"))
    if not (there and here and ranks and least) or smallest == reference:
        return
    error = difference_error(there, here) if len(there) > 1 else None
    note = f"from {here and mean(here):.4g} at a start of {reference:g}"
    yield Comparison(
        f"{problem}: gap from a start of {smallest:g}",
        mean(here),
        mean(there),
        error,
        mean(there) > mean(here),
        note,
        Limit(low=mean(here)),
    )
    yield Comparison(
        f"{problem}: effective rank from a start of {smallest:g}, below that of the least norm",
        mean(least), mean(ranks), None, mean(ranks) < mean(least), limit=Limit(high=mean(least)),
    )  # fmt: skip


def _commuting(rows: Sequence[Row]) -> Iterator[Comparison]:
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.predicted is not None and row.quantity == "nuclear_norm":
            pairs.setdefault(row.site, []).append((row.predicted, row.value))
    for site, values in pairs.items():
        worst = max(values, key=lambda pair: abs(pair[1] / pair[0] - 1))
        yield Comparison(
            f"commuting measurements: trace from a {site}, worst seed", worst[0], worst[1], None,
            abs(worst[1] / worst[0] - 1) <= COMMUTING, limit=Limit.around(worst[0], COMMUTING * abs(worst[0])),
        )  # fmt: skip


JOB = Job(
    name="implicit-rank",
    question="Does gradient descent on a factor from a small start find the matrix of least nuclear norm?",
    claim="With enough measurements, and if they commute, as the start vanishes; with few it finds a lower rank instead.",
    measured="Nuclear norm and effective rank of the fit by gradient descent, over scales of the start, and the least norm.",
    criterion=f"With 3 n r measurements the mean gap is at most {100 * CLOSE:g} % from starts of {SMALL:g} and less; with n r "
    "and fewer it is larger at the smallest start than at 0.01, and the effective rank is below that of the least norm; traces "
    f"of commuting measurements are within {100 * COMMUTING:g} % of the theorem's.",
    runs=runs,
    measure=measure,
    judge=judge,
)
