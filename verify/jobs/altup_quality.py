"""Alternating updates against dense models, on held-out text: at equal width, and at equal operations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from depthwidth.architecture import Transformer

from ..rows import Row
from . import (
    BELOW_ZERO,
    Comparison,
    Context,
    Ensemble,
    Job,
    Measurement,
    Prediction,
    Run,
    Verdict,
    difference_error,
    version_of,
)
from ._heads import BYTES, training_spec
from ._training import (
    data_spec,
    decisions_of,
    measure_training,
    measure_trainings,
    model_of,
    shape_of,
    training_flops,
)

if TYPE_CHECKING:
    from ..models.model import Model

# layers, width, heads, context, steps, seeds
_SIZES: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (2, 16, 2, 16, 20, 1),
    "small": (6, 32, 2, 64, 500, 3),
    "gpu": (8, 256, 4, 128, 5000, 3),
    "full": (12, 768, 12, 512, 50_000, 5),
}
FORMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "recycled": {"altup": 2, "altup_form": "recycled"},
    "same": {"altup": 2, "altup_select": "same"},
    "altup": {"altup": 2},
}
TABLE, STILL, EQUAL = "table", "still", "dense, equal FLOPs"
"""A wider embedding and output matrix with trained projections, without AltUp; SameUp whose second stream no block updates, so
that its tables are as wide as AltUp's and nothing else is; and a dense model of AltUp's operations."""


def arms(layers: int, width: int, heads: int, context: int) -> dict[str, dict[str, Any]]:
    """The tree of each arm, by name."""
    base: dict[str, Any] = {
        "depth": layers, "width": width, "heads": heads, "head_dim": width // heads, "ffn": 4 * width, "vocab": 256,
        "context": context, "positions": "rotary", "norm": "rmsnorm", "bias": False, "tied": False,
    }  # fmt: skip
    found = {name: base | more for name, more in FORMS.items()}
    found[TABLE] = base | {"embedding_width": 2 * width}
    found[STILL] = base | FORMS["same"]
    asked = int(Transformer(**found["altup"]).flops_per_token())
    found[EQUAL] = _with_flops(base, asked)
    return found


def changes_of(arm: str, width: int) -> dict[str, dict[str, float]]:
    """The recipe's lines that differ in an arm.

    The projections of wider tables start with a gain of one: with all matrices from N(0, 0.02^2) a token's vector would leave
    its table and projection at a sixth of its size, near the epsilon of the first norm, and so would the output's. Still
    streams keep their P and g.
    """
    if arm == TABLE:
        return {"stem.projection.weight": {"std": (2 * width) ** -0.5}, "head.transform.weight": {"std": width**-0.5}}
    if arm == STILL:
        return {f"decoder.block.{name}": {"learning_rate": 0.0, "weight_decay": 0.0} for name in ("predict", "correct")}
    return {}


def _with_flops(base: dict[str, Any], asked: int) -> dict[str, Any]:
    """The widest model with at most these operations a token, and then hidden features until it has as many."""

    def flops(tree: Mapping[str, Any]) -> int:
        return int(Transformer(**tree).flops_per_token())

    tree = base
    while flops(wider := {**tree, "width": tree["width"] + 2, "ffn": 4 * (tree["width"] + 2)}) <= asked:
        tree = wider
    each = (flops({**tree, "ffn": tree["ffn"] + 1}) - flops(tree)) or 1
    return {**tree, "ffn": tree["ffn"] - (flops(tree) - asked) // each}


def runs(size: str) -> Iterator[Run]:
    """Each arm with each seed, on the same text in the same order."""
    layers, width, heads, context, steps, seeds = _SIZES[size]
    trees = arms(layers, width, heads, context)
    yield from runs_of(trees, width, training_spec(steps, context), BYTES[size], seeds)


def runs_of(trees: Mapping[str, dict[str, Any]], width: int, training: dict[str, Any], text: int, seeds: int) -> Iterator[Run]:
    """Each of these arms with each seed."""
    data = data_spec(text)
    for name, tree in trees.items():
        spec: dict[str, Any] = {
            "arm": name, "tree": tree, "scheme": "shipped", "options": {"family": "llama"}, "data": data,
            "training": training, "dtype": "float32", "changes": changes_of(name, width),
        }  # fmt: skip
        spec["decided"] = decisions_of(spec)
        made = Transformer(**tree)
        labels = {"arm": name, "parameters": made.parameters, "flops_per_token": made.flops_per_token()}
        for seed in range(seeds):
            yield Run(spec, seed, labels, cost=training_flops(spec))


def model_for(spec: Mapping[str, Any], context: Context) -> Model:
    """The fresh model of a run; in the arm of a still stream its blocks correct the first alone."""
    import torch

    model = model_of(spec, context)
    with torch.no_grad():
        for name, weight in model.named_parameters() if spec["arm"] == STILL else ():
            if name.endswith(".correct"):
                weight[1:] = 0.0
    return model


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """The losses of one training."""
    return measure_training(spec, context, model_for(spec, context))


def measure_together(
    specs: Sequence[Mapping[str, Any]], contexts: Sequence[Context], folder: Path
) -> Iterator[tuple[Measurement, ...]]:
    """The measurements of :func:`measure` for several seeds of an arm, trained in one program."""
    return measure_trainings(specs, contexts, folder, model_for)


def predict(size: str) -> Iterator[Prediction]:
    """The sign of a difference: the loss of AltUp less that of a dense model of equal operations is below 0."""
    yield Prediction("loss_difference", 0.0, "altup.predict_flops", version_of("depthwidth.formulas.altup"), EQUAL)


_PAIRS = (
    ("altup", EQUAL),
    ("altup", "dense"),
    ("recycled", "dense"),
    ("same", "dense"),
    (TABLE, "dense"),
    (STILL, "dense"),
    ("altup", "same"),
    ("altup", TABLE),
    ("altup", STILL),
)
"""The differences reported; the first decides."""


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """AltUp must be better than the dense model of equal operations by more than twice the noise over seeds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.quantity == "loss":
            found.setdefault(row.labels["arm"], []).append(row.value)
    if not all(math.isfinite(loss) for losses in found.values() for loss in losses):
        return Verdict("undecided", "a run diverged")
    if any(name not in found for name in ("altup", "dense", EQUAL)):
        return Verdict("undecided", "runs are missing")
    lines: list[Comparison] = []
    for one, other in _PAIRS:
        if one not in found or other not in found:
            continue
        first, second = found[one], found[other]
        note = f"{one} {mean(first):.4f}, {other} {mean(second):.4f}"
        noise = difference_error(first, second) if min(len(first), len(second)) > 1 else None
        gap = mean(first) - mean(second)
        clear = not lines and noise is not None and abs(gap) > 2 * noise
        lines.append(Comparison(f"loss of {one} less that of {other}", None, gap,
                                noise, gap < 0 if clear else None, note, None if lines else BELOW_ZERO))  # fmt: skip
    decides = lines[0]
    if decides.stderr is None or decides.measured is None:
        return Verdict("undecided", "one seed does not show the noise", tuple(lines))
    summary = f"AltUp is {decides.measured:+.4f} +- {decides.stderr:.4f} nats from a dense model of equal FLOPs"
    for other, words in (("dense", "one of equal width"), (STILL, "one with its tables and a still stream")):
        if other in found:
            summary += f", {mean(found['altup']) - mean(found[other]):+.4f} from {words}"
    if abs(decides.measured) <= 2 * decides.stderr:
        return Verdict("undecided", summary, tuple(lines))
    return Verdict("holds" if decides.measured < 0 else "fails", summary, tuple(lines))


JOB = Job(
    name="altup-quality",
    question="Is a two-fold wider representation by alternating updates a better buy than a wider dense model?",
    claim="AltUp lowers the loss at nearly the operations of the dense model (Baykal et al. 2023, arXiv 2301.13310).",
    measured="Held-out loss of small language models on bytes: dense, Recycled-AltUp, SameUp, AltUp, wider tables by trained "
    "projections or by streams that no block updates, and a dense model of AltUp's FLOPs.",
    criterion="AltUp is better than the dense model of equal FLOPs by more than two standard errors over seeds.",
    runs=runs,
    measure=measure,
    judge=judge,
    ensemble=Ensemble(shape_of, measure_together),
    predict=predict,
)
