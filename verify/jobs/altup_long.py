"""Alternating updates in a longer training, against the same tables with a still stream and a dense model of equal FLOPs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from ..rows import Row
from . import BELOW_ZERO, Comparison, Ensemble, Job, Prediction, Run, Verdict, difference_error, outcome_of, version_of
from ._heads import BYTES, training_spec
from ._training import shape_of
from .altup_quality import EQUAL, STILL, arms, measure, measure_together, runs_of

# layers, width, heads, context, steps, seeds
_SIZES: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (2, 16, 2, 16, 24, 1),
    "small": (4, 32, 2, 64, 1500, 3),
    "gpu": (8, 256, 4, 128, 20_000, 3),
    "full": (12, 768, 12, 512, 500_000, 5),
}
ARMS = ("altup", STILL, EQUAL)
RIVALS = (EQUAL, STILL)
EVALUATIONS = 6


def runs(size: str) -> Iterator[Run]:
    """Each arm with each seed, evaluated at six times."""
    layers, width, heads, context, steps, seeds = _SIZES[size]
    trees = {name: tree for name, tree in arms(layers, width, heads, context).items() if name in ARMS}
    training: dict[str, Any] = training_spec(steps, context) | {"evaluate_every": steps // EVALUATIONS}
    yield from runs_of(trees, width, training, BYTES[size], seeds)


def predict(size: str) -> Iterator[Prediction]:
    """The sign of two differences: the loss of AltUp less that of each rival is below 0 at the end."""
    for rival in RIVALS:
        yield Prediction("loss_difference", 0.0, "altup.predict_flops", version_of("depthwidth.formulas.altup"), rival)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """At the end AltUp must be below each rival by more than twice the noise over seeds; leads are reported by step."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.quantity == "validation_loss" and row.step:  # not at the start
            found.setdefault((row.labels["arm"], row.step), []).append(row.value)
    steps = sorted({step for _, step in found})
    if not steps or any((arm, step) not in found for arm in ARMS for step in steps):
        return Verdict("undecided", "runs are missing")
    if not all(math.isfinite(loss) for losses in found.values() for loss in losses):
        return Verdict("undecided", "a run diverged")
    if min(map(len, found.values())) < 2:
        return Verdict("undecided", "one seed does not show the noise")
    lines: list[Comparison] = []
    for rival in RIVALS:
        for step in steps:
            one, other = found["altup", step], found[rival, step]
            gap, noise = mean(one) - mean(other), difference_error(one, other)
            passes = gap < -2 * noise if step == steps[-1] else None
            note = f"AltUp {mean(one):.4f}, {rival} {mean(other):.4f}"
            what = f"loss of AltUp less that of {rival}, step {step:,}"
            lines.append(Comparison(what, None, gap, noise, passes, note, None if passes is None else BELOW_ZERO))
    judged = [line for line in lines if line.passes is not None]
    words = "; ".join(
        f"AltUp is {line.measured:+.4f} +- {line.stderr:.4f} nats from {rival}"
        for rival, line in zip(RIVALS, judged, strict=True)
    )
    met = sum(bool(line.passes) for line in judged)
    return Verdict(outcome_of(met, len(judged) - met), f"at the end {words}", tuple(lines))


JOB = Job(
    name="altup-long",
    question="Does the lead of alternating updates last in a longer training, and is it more than that of wider tables?",
    claim="AltUp lowers the loss at equal FLOPs (Baykal et al. 2023); its lead over a dense OLMo-1B was early and vanished "
    "(Hyper-Connections, ICLR 2025).",
    measured="Held-out loss over the steps of small language models on bytes: AltUp, the same tables with a stream that no "
    "block updates, and a dense model of AltUp's FLOPs.",
    criterion="At the end AltUp is better by more than two standard errors over seeds than the dense model of equal FLOPs, and "
    "than the model with its tables and a still stream. It holds against those for which this is so.",
    runs=runs,
    measure=measure,
    judge=judge,
    ensemble=Ensemble(shape_of, measure_together),
    predict=predict,
)
