"""Head dimensions by measured need against equal ones at no more parameters: in a trained model, cut, and from scratch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._heads import BYTES, gpt2_config, training_spec
from ._training import data_spec, planned_text, training_of

EQUAL = 0.01
"""Largest relative difference of parameters at which the losses of two models are compared."""


class _Size(NamedTuple):
    shares: tuple[float, ...]
    """of the dimensions that remain when a trained model is cut"""
    scratch_shares: tuple[float, ...]
    """of the dimensions that models from scratch have"""
    context: int
    width: int
    layers: int
    steps: int
    seeds: int
    scratch_seeds: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size((0.5,), (0.5,), 16, 32, 2, 30, 1, 1),
    "small": _Size((0.5, 0.33, 0.2), (0.33, 0.2), 64, 96, 4, 600, 2, 3),
    "gpu": _Size((0.5, 0.33, 0.2), (0.33, 0.2), 256, 384, 8, 3000, 3, 3),
    "full": _Size((0.5, 0.33, 0.2), (0.33, 0.2), 512, 768, 12, 40_000, 5, 5),
}

_KINDS = {
    "": "cut to {} of the query-key dimensions",
    " with values": "cut to {} of all dimensions",
    " from scratch": "from scratch with {} of the dimensions",
}
"""The part of a site that follows "uniform" or "allocated", and its meaning."""


def runs(size: str) -> Iterator[Run]:
    """For each seed one trained model that is cut to every share, and one that is measured, with models from scratch."""
    made = _SIZES[size]
    shape = {
        "config": gpt2_config(made.context, made.width, made.layers), "data": data_spec(BYTES[size]),
        "training": training_spec(made.steps, made.context), "dtype": "float32",
    }  # fmt: skip
    cost = made.steps * made.context * made.layers * made.width**2
    labels = {"layers": made.layers, "width": made.width}
    for seed in range(made.seeds):
        yield Run({"part": "cut", "shares": list(made.shares), **shape}, seed, {**labels, "part": "cut"}, cost=cost)
    for seed in range(made.scratch_seeds):
        spec = {"part": "scratch", "shares": list(made.scratch_shares), **shape}
        yield Run(spec, seed, {**labels, "part": "scratch"}, cost=(1 + 3 * len(made.scratch_shares)) * cost)


def predict(size: str) -> Iterator[Prediction]:
    """The sign of a difference: the allocated loss less the uniform one is not above 0."""
    version = version_of("depthwidth.planning.head_allocation")
    for kind in _KINDS:
        for share in _SIZES[size].scratch_shares if kind == " from scratch" else _SIZES[size].shares:
            yield Prediction("loss_difference", 0.0, "depthwidth.planning.head_allocation", version, f"{share:g}{kind}")


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train, measure and cut, all heads together; or train from scratch with the measured dimensions. The loss of each model.

    A killed training continues from its own checkpoints; measuring and cutting take seconds and start again.
    """
    from ._head_models import Setting, cut_losses_of, scratch_losses_of

    setting = Setting(spec["config"], planned_text(spec["data"]), training_of(spec, context), context.folder, context.device)
    shares = spec["shares"]
    if spec["part"] == "cut":
        for name, share, _, error, loss, stderr in cut_losses_of(setting, shares):
            yield Measurement("loss", loss, f"{name}.{share:g}", stderr=stderr)
            yield Measurement("predicted_error", error, f"{name}.{share:g}")
        return
    for done, found in enumerate(scratch_losses_of(setting, shares), 2):
        context.progress(done / (1 + 3 * len(shares)))
        site = f"{found.name} from scratch.{found.share:g}"
        yield Measurement("loss", found.loss, site, stderr=found.stderr)
        yield Measurement("parameters", found.parameters, site)
        for layer, (head_dim, value_dim) in enumerate(found.dims):
            yield Measurement("head_dim", head_dim, f"{site}.{layer}")
            yield Measurement("value_dim", value_dim, f"{site}.{layer}")


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """For each kind of model and share: allocated against uniform, in pairs over seeds."""
    losses, parameters = (
        {(row.run, row.site): row.value for row in rows if row.quantity == quantity} for quantity in ("loss", "parameters")
    )
    if not all(map(math.isfinite, losses.values())):
        return Verdict("undecided", "a run diverged")
    lines, lower, worse = [], 0, 0
    for kind, meaning in _KINDS.items():
        shares = {site.partition(".")[2] for _, site in losses if site.partition(".")[0] == f"uniform{kind}"}
        for share in sorted(shares, key=float, reverse=True):
            uniform, allocated = (f"{name}{kind}.{share}" for name in ("uniform", "allocated"))
            pairs = [(run, value) for (run, site), value in losses.items() if site == uniform and (run, allocated) in losses]
            gaps = [losses[run, allocated] - value for run, value in pairs]
            if not gaps:
                continue
            gap, noise = mean(gaps), stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None
            passes = None if noise is None else gap <= 2 * noise
            for run, _ in pairs:
                own = [parameters[run, site] for site in (allocated, uniform) if (run, site) in parameters]
                if len(own) == 2 and abs(own[0] / own[1] - 1) > EQUAL:
                    return Verdict("undecided", f"{meaning.format(share)}: {own[0]:g} against {own[1]:g} parameters")
            turned = [losses[at] - value for run, value in pairs if (at := (run, f"reversed{kind}.{share}")) in losses]
            note = f"the same dimensions in reverse order: {mean(turned):+.4f}" if turned else ""
            what = f"{meaning.format(share)}: loss allocated less uniform"
            lines.append(Comparison(what, None, gap, noise, passes, note, Limit(high=0, sigmas=-2)))
            lower += gap < 0
            worse += passes is False
    if not lines:
        return Verdict("undecided", "no rows")
    summary = f"the allocated model has the lower mean loss in {lower} of {len(lines)} comparisons"
    if any(line.passes is None for line in lines):
        return Verdict("undecided", f"{summary}; one seed does not show the noise", tuple(lines))
    return Verdict(outcome_of(len(lines) - worse, worse), summary, tuple(lines))


JOB = Job(
    name="head-allocation",
    question="Is a model better with head dimensions by measured need than with equal ones: trained and cut, or from scratch?",
    claim="The exact optimum over measured error curves loses no more than equal head dimensions of as many parameters.",
    measured="Held-out loss after cuts of one trained model, all heads changed together, and of models trained from scratch.",
    criterion="In no comparison is the allocated loss above the uniform one by more than two standard errors over seeds.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
    uses=("depthwidth.planning.head_allocation",),
)
