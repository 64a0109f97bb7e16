"""Alternating updates at two widths: their lead over a dense model of equal operations as the output matrix widens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean

from ..rows import Row
from . import BELOW_ZERO, Comparison, Ensemble, Job, Prediction, Run, Verdict, difference_error, outcome_of, version_of
from ._heads import BYTES, training_spec
from ._training import shape_of
from .altup_quality import EQUAL, STILL, arms, measure, measure_together, runs_of

# layers, widths, heads, context, steps, seeds
_SIZES: dict[str, tuple[int, tuple[int, int], int, int, int, int]] = {
    "tiny": (2, (8, 16), 2, 16, 20, 1),
    "small": (4, (32, 64), 2, 64, 500, 3),
    "gpu": (8, (128, 512), 4, 128, 5000, 3),
    "full": (12, (256, 1024), 8, 512, 50_000, 5),
}
ARMS = ("altup", STILL, EQUAL)


def runs(size: str) -> Iterator[Run]:
    """Each arm at each width with each seed, on the same text in the same order."""
    layers, widths, heads, context, steps, seeds = _SIZES[size]
    for width in widths:
        trees = {name: tree for name, tree in arms(layers, width, heads, context).items() if name in ARMS}
        for run in runs_of(trees, width, training_spec(steps, context), BYTES[size], seeds):
            yield replace(run, labels={**run.labels, "width": width})


def predict(size: str) -> Iterator[Prediction]:
    """The signs: the loss of AltUp less that of the dense model is below 0, and nearer to 0 at the larger width."""
    law, version = "altup.predict_flops", version_of("depthwidth.formulas.altup")
    yield Prediction("loss_difference", 0.0, law, version, EQUAL)
    yield Prediction("difference_of_leads", 0.0, law, version, EQUAL)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """AltUp must lead at both widths, and by less at the larger one, beyond twice the noise over seeds."""
    found: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        if row.quantity == "loss":
            found.setdefault((int(row.labels["width"]), row.labels["arm"]), []).append(row.value)
    widths = sorted({width for width, _ in found})
    if len(widths) < 2 or any((width, arm) not in found for width in widths for arm in ARMS):
        return Verdict("undecided", "runs are missing")
    if not all(math.isfinite(loss) for losses in found.values() for loss in losses):
        return Verdict("undecided", "a run diverged")
    if min(map(len, found.values())) < 2:
        return Verdict("undecided", "one seed does not show the noise")
    lines: list[Comparison] = []
    leads: list[tuple[float, float]] = []
    for width in widths:
        for rival in (EQUAL, STILL):
            one, other = found[width, "altup"], found[width, rival]
            gap, noise = mean(one) - mean(other), difference_error(one, other)
            note = f"AltUp {mean(one):.4f}, {rival} {mean(other):.4f}"
            passes = gap < -2 * noise if rival == EQUAL else None
            what = f"loss of AltUp less that of {rival}, width {width}"
            lines.append(Comparison(what, None, gap, noise, passes, note, None if passes is None else BELOW_ZERO))
            if rival == EQUAL:
                leads.append((gap, noise))
    (first, noise), (last, more) = leads[0], leads[-1]
    change, error = last - first, math.hypot(noise, more)
    what = f"lead over {EQUAL} at width {widths[-1]} less that at {widths[0]}"
    lines.append(Comparison(what, None, change, error, bool(lines[0].passes) and change > 2 * error))
    judged = [line.passes for line in lines if line.passes is not None]
    words = " and ".join(
        f"{gap:+.4f} +- {error:.4f} at width {width}" for width, (gap, error) in zip(widths, leads, strict=True)
    )
    return Verdict(outcome_of(sum(judged), len(judged) - sum(judged)), f"AltUp less {EQUAL}: {words}", tuple(lines))


JOB = Job(
    name="altup-width",
    question="Is the lead of alternating updates at a small width that of its wider output matrix?",
    claim="AltUp lowers the loss at equal FLOPs (Baykal et al. 2023); with 256 tokens an output matrix of rank 32 limits a "
    "model more than one of rank 64, so that the lead of twice the rank should fall with the width.",
    measured="Held-out loss of small language models on bytes at two widths: AltUp, the same tables with a stream that no "
    "block updates, and a dense model of AltUp's FLOPs.",
    criterion="At each width AltUp is better than the dense model of equal FLOPs by more than two standard errors over seeds, "
    "and its lead is smaller at the larger width by more than two standard errors. The still stream is not judged.",
    runs=runs,
    measure=measure,
    judge=judge,
    ensemble=Ensemble(shape_of, measure_together),
    predict=predict,
)
