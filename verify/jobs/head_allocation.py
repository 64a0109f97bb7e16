"""Whether a trained model is better cut by measured need than evenly, at no more parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from ..tables import Row
from . import Comparison, Context, Job, Measurement, Outcome, Prediction, Run, Verdict, version_of

# shares of the query-key dimensions that stay, context, width, layers, steps, seeds
_SIZES: dict[str, tuple[tuple[float, ...], int, int, int, int, int]] = {
    "tiny": ((0.5,), 16, 32, 2, 30, 1),
    "small": ((0.5, 0.33, 0.2), 64, 96, 4, 600, 2),
    "gpu": ((0.5, 0.33, 0.2), 256, 384, 8, 4000, 3),
    "full": ((0.5, 0.33, 0.2), 512, 768, 12, 40_000, 5),
}


def runs(size: str) -> Iterator[Run]:
    """One model a seed: trained once, cut to every share."""
    shares, context, width, layers, steps, seeds = _SIZES[size]
    spec = {"shares": list(shares), "context": context, "width": width, "layers": layers, "steps": steps, "dtype": "float32"}
    for seed in range(seeds):
        yield Run(spec, seed, {"layers": layers, "width": width}, cost=steps * context * layers * width**2)


def predict(size: str) -> Iterator[Prediction]:
    """The sign of a difference: the loss of the allocated cut less that of the uniform one is not above 0."""
    version = version_of("depthwidth.head_allocation")
    for share in _SIZES[size][0]:
        yield Prediction("loss_difference", 0.0, "depthwidth.head_allocation", version, f"{share:g}")


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train, measure, cut; the loss of each cut, all heads changed together."""
    from ..head_experiments import cut_losses_of

    names = ("context", "width", "layers", "steps")
    found = cut_losses_of(context.seed, shares=spec["shares"], **{name: spec[name] for name in names})
    for name, share, _, error, loss, stderr in found:
        yield Measurement("loss", loss, f"{name}.{share:g}", stderr=stderr)
        yield Measurement("predicted_error", error, f"{name}.{share:g}")


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Share by share: allocated against uniform, pair by pair over seeds."""
    losses = {(row["run"], row["site"]): row["value"] for row in rows if row["quantity"] == "loss"}
    shares = sorted({site.partition(".")[2] for _, site in losses if site.startswith("uniform")}, key=float, reverse=True)
    if not shares:
        return Verdict("undecided", "no rows")
    lines, good, worse = [], [], []
    for share in shares:
        gaps = [
            losses[run, f"allocated.{share}"] - value for (run, site), value in losses.items() if site == f"uniform.{share}"
        ]
        noise = stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None
        gap = mean(gaps)
        passes = None if noise is None else gap <= 2 * noise
        lines.append(Comparison(f"{share} of the dimensions: loss allocated less uniform", None, gap, noise, passes))
        good += [share] if gap < 0 else []
        worse += [share] if passes is False else []
    summary = f"the allocated cut has the lower mean loss at {len(good)} of {len(shares)} shares"
    if any(line.passes is None for line in lines):
        return Verdict("undecided", f"{summary}; one seed says nothing of the noise", tuple(lines))
    outcome: Outcome = "fails" if len(worse) == len(shares) else "holds on a range" if worse else "holds"
    return Verdict(outcome, summary, tuple(lines))


JOB = Job(
    name="head-allocation",
    question="Cut to a budget, is a trained model better with head dimensions by measured need than with equal ones?",
    claim="The exact optimum over measured error curves loses no more than the uniform cut of as many parameters.",
    measured="Held-out loss after both cuts of one trained model, all heads changed together.",
    criterion="At every share the allocated loss is not above the uniform one by more than two standard errors over seeds.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
    uses=("verify.head_experiments", "verify.heads", "depthwidth.head_allocation"),
)
