"""The predicted width against its neighbours at equal parameters and tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from depthwidth.coefficients import coefficient
from depthwidth.formulas.rules import levine_optimal_width
from depthwidth.formulas.shape_penalty import loss_exponent
from depthwidth.quantities import format_count

from ..rows import Row
from . import Comparison, Job, Limit, Prediction, Run, Verdict, outcome_of
from ._shapes import Budget, draw_losses, from_shape, losses, seed_noise, shape_run
from ._training import TOGETHER, data_spec, measure_training

FACTOR = 1.3
"""Allowed factor between the best width and the predicted one: that of the paper's own test with tuned learning rates."""
DRAWS = 400

# size, depths
_SIZES: dict[str, tuple[Budget, tuple[tuple[float, tuple[int, ...]], ...]]] = {
    "tiny": (Budget(20, 8, 32, 1 << 18, 256, "float32", 2, 16), ((5e4, (1, 2, 4)),)),
    "small": (Budget(600, 16, 64, 1 << 22, 256, "float32", 2, 16), ((6e5, (1, 2, 3, 5, 8, 14)),)),
    "gpu": (Budget(1500, 32, 256, 1 << 25, 1024, "bfloat16", 2, 16), ((1e6, (1, 2, 3, 4, 6, 10)), (6e6, (3, 4, 6, 9, 14, 20)))),
    "full": (
        Budget(60_000, 64, 512, 1 << 31, 8192, "bfloat16", 3, 32),
        ((2e6, (1, 2, 3, 4, 6, 9, 14)), (1e7, (3, 4, 6, 8, 12, 18, 26)), (6e7, (6, 8, 12, 16, 22, 32, 48))),
    ),
}


def _width(size: float, depth: int, multiple: int) -> int:
    return multiple * round(math.sqrt(size / (12 * depth)) / multiple)


def runs(size: str) -> Iterator[Run]:
    """Shapes of each size, from wide and shallow to narrow and deep."""
    budget, sizes = _SIZES[size]
    data = data_spec(budget.limit, budget.vocab)
    for parameters, depths in sizes:
        for depth in depths:
            for seed in range(budget.seeds):
                yield shape_run(depth, _width(parameters, depth, budget.head_dim), budget, data, seed, {"budget": parameters})


def predict(size: str) -> Iterator[Prediction]:
    """The best width at each size, and how much the loss rises with the squared logarithm of a width off it."""
    for parameters, _ in _SIZES[size][1]:
        yield from_shape("best_width", levine_optimal_width(parameters), "levine_optimal_width", f"{parameters:g}")
    yield from_shape("curvature", coefficient("shape_penalty", "k").value, "shape_penalty")


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """For each size the vertex of a parabola through ln loss against ln width."""
    lines: list[Comparison] = []
    verdicts: dict[str, str] = {}
    curvature = next((p.value for p in predictions if p.quantity == "curvature"), None)
    for prediction in predictions:
        if prediction.quantity != "best_width":
            continue
        its = [row for row in rows if f"{row.labels['budget']:g}" == prediction.site]
        best, low, high, k, why = vertex_of(its, float(prediction.site))
        inside = best is not None and prediction.value / FACTOR <= best <= prediction.value * FACTOR
        surely_outside = high < prediction.value / FACTOR or low > prediction.value * FACTOR
        met = True if inside else False if surely_outside else None
        widths = [row.labels["width"] for row in its]
        if not widths or not min(widths) < prediction.value < max(widths):
            met, why = None, "the predicted width is not among those that were trained"
        verdicts[prediction.site] = {True: "met", False: "not met", None: "undecided"}[met]
        limit = Limit(prediction.value / FACTOR, prediction.value * FACTOR)
        error = None if best is None else (high - low) / 3.92  # of a 95 % interval
        note = why or f"95 % interval {low:.4g} to {high:.4g}"
        lines.append(Comparison(f"{prediction.site} parameters: best width", prediction.value, best, error, met, note, limit))
        if k is not None:
            lines.append(Comparison(f"{prediction.site} parameters: curvature", curvature, k))
    met_sizes, failed = ([size for size, v in verdicts.items() if v == which] for which in ("met", "not met"))
    outcome = outcome_of(len(met_sizes), len(failed), len(verdicts) - len(met_sizes) - len(failed))
    return Verdict(outcome, "; ".join(f"{size} parameters: {v}" for size, v in verdicts.items()) or "no rows", tuple(lines))


def vertex_of(rows: Sequence[Row], parameters: float) -> tuple[float | None, float, float, float | None, str]:
    """The width of least loss, the ends of its 95 % interval, and the curvature; or None and the reason."""
    import numpy as np

    cells = dict(sorted(losses(rows, "width", "size").items()))
    if len(cells) < 3:
        return None, math.nan, math.nan, None, "fewer than three shapes"
    if not all(math.isfinite(loss) for cell in cells.values() for loss in cell):
        return None, math.nan, math.nan, None, "a run diverged"
    sigma = seed_noise(list(cells.values()))
    if not sigma > 0:
        return None, math.nan, math.nan, None, "one seed shows no noise"
    x = np.log([width for width, _ in cells])
    # Rounded widths leave sizes a few per cent apart; the loss is corrected to the common size, to first order.
    slope = float(loss_exponent(parameters))
    carry = np.array([slope * math.log(parameters / size) for _, size in cells])
    y = np.log([mean(cell) for cell in cells.values()]) + carry
    noise = np.array([sigma / mean(cell) / math.sqrt(len(cell)) for cell in cells.values()])

    def fitted(values: Any) -> tuple[float, float]:
        second, first, _ = np.polyfit(x, values, 2, w=1 / noise)
        return float(second), float(np.exp(-first / (2 * second))) if second > 0 else math.nan

    k, best = fitted(y)
    if not k > 0:
        return None, math.nan, math.nan, k, "the loss has no minimum in ln width"
    rng = np.random.default_rng(0)
    drawn = [fitted(y + rng.normal(0, noise)) for _ in range(DRAWS)]
    kept = [width for second, width in drawn if second > 0]
    if len(kept) < 0.9 * DRAWS:
        return None, math.nan, math.nan, k, "the noise of seeds hides the minimum"
    low, high = (float(end) for end in np.quantile(kept, [0.025, 0.975]))
    if not math.exp(x[0]) <= best <= math.exp(x[-1]):
        return None, low, high, k, f"the minimum, at {best:.4g}, lies outside the widths that were trained"
    return best, low, high, k, ""


def _draw(axes: Any, rows: Sequence[Row]) -> None:
    cells = losses(rows, "budget", "width")
    best = {(budget,): float(levine_optimal_width(budget)) for budget, _ in cells}
    draw_losses(axes, cells, lambda budget: f"{format_count(budget)} parameters", "width (dotted: predicted best)", best)


JOB = Job(
    name="optimal-width-transfer",
    question="Does the predicted width beat its neighbours at equal parameters and tokens?",
    claim="The loss is least at the width of the 2020 curve, and rises with the squared logarithm of the width off it.",
    measured="Validation loss of shapes of equal size, from wide and shallow to narrow and deep, on equal tokens, over seeds.",
    criterion=(
        f"At each size a parabola through ln loss against ln width has its minimum within a factor of {FACTOR} of the "
        "predicted width; it fails if the 95 % interval of the minimum lies wholly outside that."
    ),
    runs=runs,
    measure=measure_training,
    judge=judge,
    ensemble=TOGETHER,
    predict=predict,
    figures=(("Loss against width", _draw),),
)
