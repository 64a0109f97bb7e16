"""More heads of a shared width against more heads of a fixed size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from ..rows import Row
from . import BELOW_ZERO, Comparison, Job, Prediction, Run, Verdict, difference_error, version_of
from ._heads import BYTES, training_spec
from ._training import TOGETHER, data_spec, decisions_of, measure_training, training_flops

_LAYERS = 2

# heads, width, fixed head size, context, steps, seeds
_SIZES: dict[str, tuple[tuple[int, ...], int, int, int, int, int]] = {
    "tiny": ((2, 16), 32, 16, 16, 20, 1),
    "small": ((1, 4, 16, 32), 64, 32, 64, 400, 2),
    "gpu": ((1, 4, 16, 32, 64), 256, 64, 128, 3000, 3),
    "full": ((4, 8, 16, 32, 64), 512, 128, 256, 30_000, 5),
}


def runs(size: str) -> Iterator[Run]:
    """More and more heads, of a shared width and of a fixed size, in models built and initialised like Llama."""
    heads, width, fixed, context, steps, seeds = _SIZES[size]
    data = data_spec(BYTES[size])
    for count in heads:
        for name, dims in (("shared", max(2, width // count)), ("fixed", fixed)):
            tree = {
                "depth": _LAYERS, "width": width, "heads": count, "head_dim": dims, "ffn": 2 * width, "vocab": 256,
                "context": context, "positions": "rotary", "norm": "rmsnorm", "activation": "silu", "gated": True,
                "bias": False, "tied": False,
            }  # fmt: skip
            for seed in range(seeds):
                spec: dict[str, Any] = {
                    "size": name, "tree": tree, "scheme": "shipped", "options": {"family": "llama"}, "data": data,
                    "training": training_spec(steps, context), "dtype": "float32",
                }  # fmt: skip
                spec["decided"] = decisions_of(spec)
                labels = {"heads": count, "size": name, "head_dim": dims}
                yield Run(spec, seed, labels, cost=training_flops(spec))


def predict(size: str) -> Iterator[Prediction]:
    """The sign of a difference: at the most heads, the loss of the fixed size less that of the shared width is below 0."""
    yield Prediction("loss_difference", 0.0, "heads.bottleneck_heads", version_of("depthwidth.formulas.heads"), "most heads")


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """With the most heads the fixed size must win by more than twice the noise over seeds."""
    found: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        if row.quantity == "loss":
            found.setdefault((int(row.labels["heads"]), row.labels["size"]), []).append(row.value)
    if not all(math.isfinite(loss) for losses in found.values() for loss in losses):
        return Verdict("undecided", "a run diverged")
    counts = sorted({count for count, _ in found})
    if not counts or any((count, name) not in found for count in counts for name in ("shared", "fixed")):
        return Verdict("undecided", "runs are missing")
    lines = []
    for count in counts:
        shared, fixed = found[count, "shared"], found[count, "fixed"]
        noise = difference_error(shared, fixed) if min(len(shared), len(fixed)) > 1 else None
        note = f"shared width {mean(shared):.4f}, fixed size {mean(fixed):.4f}"
        gap, judged = mean(fixed) - mean(shared), count == counts[-1]
        passes = gap < 0 if judged and noise is not None and abs(gap) > 2 * noise else None
        what = f"{count} heads: loss of the fixed size less that of the shared width"
        lines.append(Comparison(what, None, gap, noise, passes, note, BELOW_ZERO if judged else None))
    last = lines[-1]
    if last.stderr is None or last.measured is None:
        return Verdict("undecided", "one seed does not show the noise", tuple(lines))
    best = min(counts, key=lambda count: mean(found[count, "shared"]))
    summary = (
        f"at {counts[-1]} heads the fixed size is {-last.measured:+.4f} nats better; heads of a shared width do best at {best}"
    )
    if last.measured < -2 * last.stderr and best < counts[-1]:
        return Verdict("holds", summary, tuple(lines))
    return Verdict("fails" if last.measured > 2 * last.stderr else "undecided", summary, tuple(lines))


JOB = Job(
    name="low-rank-bottleneck",
    question="Do more heads hurt if they share a fixed width, and help if each keeps its size?",
    claim="Heads of d/H dimensions meet a low-rank bottleneck as H rises; heads of a fixed size do not (arXiv 2002.07028).",
    measured="Held-out loss of small language models on bytes.",
    criterion="At the most heads the fixed size is better by more than two standard errors over seeds, and the shared width "
    "does best at fewer heads.",
    runs=runs,
    measure=measure_training,
    judge=judge,
    ensemble=TOGETHER,
    predict=predict,
)
