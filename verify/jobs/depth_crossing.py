"""The size at which a deeper network overtakes a shallower one of as many parameters: a small ablation of Levine et al."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

from depthwidth.formulas.depth_pairs import depth_pair_crossing

from ..rows import Row
from . import Comparison, Job, Prediction, Run, Verdict, outcome_of
from ._shapes import Budget, draw_losses, from_shape, losses, seed_noise, shape_run
from ._training import TOGETHER, data_spec, measure_training

_SIZES: dict[str, tuple[Budget, dict[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]]]] = {
    # pairs of depths, and the widths of the shallow and of the deep one
    "tiny": (Budget(20, 8, 32, 1 << 18, 256, "float32", 2, 16), {(1, 2): ((32, 64, 96), (32, 48, 64))}),
    "small": (
        Budget(600, 16, 64, 1 << 22, 256, "float32", 2, 16),
        {(2, 4): ((64, 96, 128, 192, 256), (64, 96, 128, 160, 192))},
    ),
    "gpu": (
        Budget(1200, 32, 256, 1 << 25, 1024, "bfloat16", 2, 16),
        {
            (2, 4): ((96, 128, 192, 256, 320, 448), (64, 96, 128, 192, 256, 320)),
            (3, 6): ((96, 128, 192, 256, 320, 448), (64, 96, 128, 192, 256, 320)),
        },
    ),
    "full": (
        Budget(60_000, 64, 512, 1 << 31, 8192, "bfloat16", 3, 32),
        {
            (3, 6): ((96, 128, 192, 256, 320, 384, 512, 640), (64, 96, 128, 160, 192, 256, 384, 448)),
            (6, 12): ((128, 160, 192, 256, 320, 448, 640, 832), (96, 128, 160, 192, 256, 320, 448, 576)),
            (12, 24): ((192, 256, 320, 448, 512, 704, 960, 1344), (128, 192, 256, 320, 384, 512, 704, 960)),
        },
    ),
}
DRAWS = 400


def runs(size: str) -> Iterator[Run]:
    """For each pair, both depths at several widths, all on equal tokens."""
    budget, pairs = _SIZES[size]
    data = data_spec(budget.limit, budget.vocab)
    for pair, both in pairs.items():
        for depth, widths in zip(pair, both, strict=True):
            for width in widths:
                for seed in range(budget.seeds):
                    yield shape_run(depth, width, budget, data, seed, {"pair": f"{pair[0]}-{pair[1]}"})


def predict(size: str) -> Iterator[Prediction]:
    """The size at which each pair of depths is equal."""
    for shallow, deep in _SIZES[size][1]:
        yield from_shape("crossing", depth_pair_crossing(shallow, deep), "depth_pair_crossing", f"{shallow}-{deep}")


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """For each pair of depths the size at which their losses cross, with a bootstrap interval."""
    lines: list[Comparison] = []
    verdicts: dict[str, str] = {}
    found: list[tuple[int, float]] = []
    for prediction in predictions:
        pair = prediction.site
        shallow, deep = map(int, pair.split("-"))
        its = [row for row in rows if row.labels["pair"] == pair]
        crossing, low, high, why = crossing_of(its, shallow, deep)
        # If the range of sizes contains the prediction and surely no crossing, the prediction is wrong.
        absent = False if low < prediction.value < high else None
        met = absent if crossing is None else low <= prediction.value <= high
        verdicts[pair] = "undecided" if met is None else "met" if met else "not met"
        error = None if crossing is None else (high - low) / 3.92  # of a 95 % interval
        note = why or f"95 % interval {low:.3g} to {high:.3g}"
        lines.append(Comparison(f"depths {pair}: size of equal loss", prediction.value, crossing, error, met, note))
        if crossing is not None:
            found.append((deep, crossing))
    sizes = [size for _, size in sorted(found)]
    grows = all(one < other for one, other in pairwise(sizes))
    if len(sizes) > 1:
        lines.append(Comparison("crossings grow with depth", 1.0, float(grows), passes=grows))
    met_pairs, failed = ([pair for pair, v in verdicts.items() if v == which] for which in ("met", "not met"))
    undecided = len(verdicts) - len(met_pairs) - len(failed)
    outcome = outcome_of(len(met_pairs), len(failed), undecided) if grows else "fails"
    return Verdict(
        outcome, "; ".join(f"depths {pair}: {verdict}" for pair, verdict in verdicts.items()) or "no rows", tuple(lines)
    )


def crossing_of(rows: Sequence[Row], shallow: int, deep: int) -> tuple[float | None, float, float, str]:
    """The size at which two depths have equal loss, with its 95 % interval; or None and the reason.

    Each depth's mean losses are fitted by a parabola in ln N (three numbers; a power law with a floor is no better determined
    by so few sizes). Noise of the size that seeds show is added to the means, and the crossing found again, many times. If
    there is no crossing, in spite of the noise, the interval is the range of sizes without one.
    """
    import numpy as np

    curves = {depth: _curve(rows, depth) for depth in (shallow, deep)}
    if any(len(curve) < 3 for curve in curves.values()):
        return None, math.nan, math.nan, "fewer than three sizes of a depth"
    if not all(math.isfinite(loss) for curve in curves.values() for cell in curve.values() for loss in cell):
        return None, math.nan, math.nan, "a run diverged"
    sigma = seed_noise([cell for curve in curves.values() for cell in curve.values()])
    if not sigma > 0:
        return None, math.nan, math.nan, "one seed shows no noise"
    low = max(min(curve) for curve in curves.values())
    high = min(max(curve) for curve in curves.values())

    def crossing(noise: Any) -> float | None:
        """The one size in the common range at which the shallow network stops being better."""
        fits = []
        for curve in curves.values():
            x = np.log(list(curve))
            y = np.array([mean(cell) + noise() / math.sqrt(len(cell)) for cell in curve.values()])
            fits.append(np.polyfit(x, y, 2))
        difference: Any = fits[1] - fits[0]  # deep less shallow: falls through zero
        slope: Any = np.polyder(difference)
        roots = [float(r.real) for r in np.roots(difference) if abs(r.imag) < 1e-9]
        falling = [r for r in roots if math.log(low) <= r <= math.log(high) and np.polyval(slope, r) < 0]
        return math.exp(falling[0]) if len(falling) == 1 else None

    best = crossing(lambda: 0.0)
    rng = np.random.default_rng(0)
    drawn = [crossing(lambda: float(rng.normal(0, sigma))) for _ in range(DRAWS)]
    kept = [value for value in drawn if value is not None]
    if len(kept) < 0.025 * DRAWS:
        return None, low, high, f"the curves do not cross between {low:.3g} and {high:.3g}"
    if best is None or len(kept) < 0.9 * DRAWS:
        lost = f"in {DRAWS - len(kept)} of {DRAWS} draws of the noise"
        return None, math.nan, math.nan, f"the curves do not cross between {low:.3g} and {high:.3g} {lost}"
    ends = np.quantile(kept, [0.025, 0.975])
    return best, float(ends[0]), float(ends[1]), ""


def _curve(rows: Sequence[Row], depth: int) -> dict[int, list[float]]:
    found = losses(rows, "depth", "size")
    return {size: cell for (of, size), cell in sorted(found.items()) if of == depth}


def _draw(axes: Any, rows: Sequence[Row]) -> None:
    cells = losses(rows, "pair", "depth", "size")
    draw_losses(axes, cells, lambda pair, depth: f"pair {pair}, depth {depth}", "parameters, 12 depth width^2")


JOB = Job(
    name="depth-crossing",
    question="At which number of parameters does a deeper network overtake a shallower one?",
    claim="Two depths are equal at the size whose best depth by the 2020 curve is their geometric mean; it grows with depth.",
    measured="Validation loss of both depths at several widths, on equal tokens, over seeds.",
    criterion=(
        "For each pair the curves cross once, the shallow ahead below and the deep above, and the 95 % bootstrap interval of "
        "the crossing holds the predicted one; over pairs the crossing grows with depth."
    ),
    runs=runs,
    measure=measure_training,
    judge=judge,
    ensemble=TOGETHER,
    predict=predict,
    figures=(("Loss against size", _draw),),
)
