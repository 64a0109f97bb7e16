"""Training of very deep and narrow models with the DeepScaleLM recipe and without it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from depthwidth.analysis.propagation import propagate

from ..rows import Row, canonical
from . import Comparison, Context, Job, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._training import data_spec, decisions_of, measure_training, model_of, planned_text, recipe_of, training_flops, tree_of

STEEP = 1e3
"""Ratio of the gradient variances at the first and the last block, either way, beyond which a model is predicted not to train:
Adam equalises scales, but from 1e3 in variance on the gradients of the first blocks are lost in the noise of the last."""
SATURATED = 0.98
"""Token correlation at the output of the last block above which a model is predicted not to train: tokens differ by 2 %."""
MARGIN = 0.5
"""Share of the way from the entropy of token frequencies to the shallow model's loss, at which a model counts as trained."""

# depth, width, steps, batch, context, seeds, bytes of text, depth of the shallow model, precision
_SIZES: dict[str, tuple[tuple[int, int, int, int, int, int, int, int, str], ...]] = {
    "tiny": ((12, 32, 60, 16, 16, 1, 1 << 18, 3, "float32"),),
    "small": ((192, 32, 300, 8, 64, 2, 1 << 22, 12, "float32"), (500, 32, 300, 8, 64, 1, 1 << 22, 12, "float32")),
    "gpu": ((192, 128, 700, 32, 256, 1, 1 << 25, 12, "bfloat16"),),
    "full": (
        (192, 256, 20000, 64, 512, 3, 1 << 28, 12, "bfloat16"),
        (500, 160, 20000, 64, 512, 3, 1 << 28, 12, "bfloat16"),
    ),
}
_LEARNING_RATE = 1e-3
_VARIANTS = (
    ("post", "deepscale"), ("post", "xavier"), ("pre", "deepscale"), ("pre", "xavier"),
)  # fmt: skip


def runs(size: str) -> Iterator[Run]:
    """Deep models by placement and scheme, and a shallow one of as many parameters."""
    for depth, width, steps, batch, context, seeds, limit, shallow, precision in _SIZES[size]:
        data = data_spec(limit)
        wide = 32 * max(1, round(width * math.sqrt(depth / shallow) / 32))
        variants = [("deep", *variant, depth, width) for variant in _VARIANTS]
        variants.append(("shallow", "pre", "gpt2", shallow, wide))
        for model, placement, scheme, layers, size_of in variants:
            for seed in range(seeds):
                tree = {
                    "depth": layers, "width": size_of, "heads": max(1, size_of // 64), "vocab": 256, "context": context,
                    "positions": "learned", "placement": placement, "activation": "gelu", "bias": True, "tied": False,
                }  # fmt: skip
                training = {
                    "steps": steps, "batch": batch, "context": context, "learning_rate": _LEARNING_RATE,
                    "warmup": steps // 10, "evaluate_every": max(1, steps // 10), "precision": precision,
                }  # fmt: skip
                spec: dict[str, Any] = {
                    "tree": tree, "scheme": scheme, "options": {}, "data": data, "training": training, "dtype": precision,
                }  # fmt: skip
                spec["decided"] = decisions_of(spec)
                labels = {"model": model, "placement": placement, "scheme": scheme, "depth": layers, "width": size_of}
                labels["beside"] = depth  # a shallow model is compared with the deep ones of as many parameters
                yield Run(spec, seed, labels, _predictions(_key(spec)), training_flops(spec), gpus=1.0)


def _key(spec: Mapping[str, Any]) -> str:
    return canonical({name: spec[name] for name in ("tree", "scheme", "options")})


@functools.cache
def _predictions(key: str) -> tuple[Prediction, ...]:
    """By propagation: the ratio of gradients over the depth, and the correlation at the last block."""
    spec = json.loads(key)
    tree = tree_of(spec)
    frame = propagate(tree, recipe_of(spec))
    at = {(row.site, row.direction): row for row in frame.itertuples()}
    first, last = "decoder.block.0", f"decoder.block.{tree.depth - 1}"
    ratio = at[first, "gradient"].second_moment / at[last, "gradient"].second_moment
    top = at[last, "forward"]
    correlation = top.covariance / top.second_moment
    version = version_of("depthwidth.analysis.propagation", "depthwidth.initialization")
    formula = "depthwidth.propagate"
    return (
        Prediction("gradient_ratio", ratio, formula, version),
        Prediction("correlation", correlation, formula, version, last),
    )


def _predicted_to_train(gradient_ratio: float, correlation: float) -> bool:
    return 1 / STEEP < gradient_ratio < STEEP and correlation < SATURATED


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Gradient ratio and correlation of the fresh model, then its training."""
    text = planned_text(spec["data"])
    counts = text.counts() + 1.0  # no token of the validation text is impossible
    shares = counts / counts.sum()
    unigram = -float((shares * _log(shares)).sum())
    model = model_of(spec, context).to(context.device)
    ratio, correlation = _at_start(model, text.to(context.device), spec, context)
    last = f"decoder.block.{spec['tree']['depth'] - 1}"
    yield Measurement("gradient_ratio", ratio)
    yield Measurement("correlation", correlation, last)
    yield Measurement("unigram_entropy", unigram)
    found = list(measure_training(spec, context, model))
    yield from found
    loss = next(one.value for one in found if one.quantity == "loss")
    # judge() decides if it trains, by the loss of the shallow model, which is another run.
    yield Measurement("beats_unigram", float(math.isfinite(loss) and loss < unigram))


def _log(x: Any) -> Any:
    import numpy

    return numpy.log(x)


def _at_start(model: Any, text: Any, spec: Mapping[str, Any], context: Context) -> tuple[float, float]:
    """Gradient variance at the output of the first block over that at the last, and the correlation at the last."""
    import torch

    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            output.retain_grad()
            kept[name] = output

        return hook

    blocks = model.decoder.block
    hooks = [blocks[0].register_forward_hook(keep("first")), blocks[-1].register_forward_hook(keep("last"))]
    plan = spec["training"]
    inputs, targets = text.batch(context.seed, 0, plan["batch"], plan["context"])
    model.train()
    model(inputs, targets)[1].backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)
    first, last = (kept[name].grad.double().square().mean() for name in ("first", "last"))
    with torch.no_grad():
        x = kept["last"].double()
        tokens = x.shape[1]
        square = x.square().sum((1, 2))
        pairs = (x.sum(1).square().sum(1) - square) / (tokens - 1)
    return float(first / last), float(pairs.sum() / square.sum())


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """For each norm placement: the deep DeepScaleLM model trains, and the vanilla one does not."""
    runs_of: dict[str, dict[str, Any]] = {}
    for row in rows:
        about = runs_of.setdefault(row.run, {"labels": row.labels, "predicted": {}, "values": {}, "errors": {}})
        if row.step is None:
            about["values"][row.quantity] = row.value
            about["predicted"][row.quantity] = row.predicted
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for about in runs_of.values():
        labels = about["labels"]
        its_key = tuple(str(labels.get(name, "")) for name in ("model", "placement", "scheme", "depth", "beside"))
        groups.setdefault(its_key, []).append(about)
    shallow: dict[str, list[float]] = {}
    for key, its in groups.items():
        if key[0] == "shallow":
            shallow.setdefault(key[4], []).extend(about["values"]["loss"] for about in its)
    if any(not math.isfinite(mean(shallow.get(key[4], [math.inf]))) for key in groups) or not groups:
        return Verdict("undecided", "the shallow model that the others are measured against is missing or diverged")
    floors = {about["values"]["unigram_entropy"] for about in runs_of.values()}
    worst = max(mean(losses) for losses in shallow.values())
    if worst > min(floors):
        why = f"the shallow model's loss, {worst:.3f}, is not below the entropy of token frequencies, {min(floors):.3f}"
        return Verdict("undecided", f"{why}: the training was too short")
    lines: list[Comparison] = []
    held: list[str] = []
    failed: list[str] = []
    trains: dict[tuple[str, ...], bool | None] = {}
    for key, its in groups.items():
        floor = its[0]["values"]["unigram_entropy"]
        beside = mean(shallow[key[4]])
        wanted = floor - MARGIN * (floor - beside)
        losses = [about["values"]["loss"] for about in its]
        outcomes = {loss <= wanted for loss in losses}
        trains[key] = outcomes.pop() if len(outcomes) == 1 else None
        name = " ".join(key[:4])
        loss = mean(losses) if all(map(math.isfinite, losses)) else math.inf
        predicted = its[0]["predicted"]
        hoped = _predicted_to_train(predicted["gradient_ratio"], predicted["correlation"])
        agrees = None if trains[key] is None else trains[key] == hoped
        lines.append(
            Comparison(f"{name}: trains", float(hoped), _as_number(trains[key]), None, agrees,
                       f"loss {loss:.3f}, shallow {beside:.3f}, token frequencies {floor:.3f}")
        )  # fmt: skip
        for quantity in ("gradient_ratio", "correlation"):
            measured = mean(about["values"][quantity] for about in its)
            lines.append(Comparison(f"{name}: {quantity} at initialisation", predicted[quantity], measured))
    deep = sorted({(key[1], *key[3:]) for key in groups if key[0] == "deep"})
    for placement, depth, among in deep:
        ours, vanilla = (trains.get(("deep", placement, scheme, depth, among)) for scheme in ("deepscale", "xavier"))
        (held if ours is True and vanilla is False else failed).append(f"{placement}-norm at depth {depth}")
    summary = f"DeepScaleLM trains and the vanilla model does not: {', '.join(held) or 'nowhere'}"
    summary += f"; not so: {', '.join(failed)}" if failed else ""
    return Verdict(outcome_of(len(held), len(failed)), summary, tuple(lines))


def _as_number(value: bool | None) -> float | None:
    return None if value is None else float(value)


JOB = Job(
    name="deep-stability",
    question="Does a very deep, narrow model train with the DeepScaleLM recipe if the vanilla one diverges or stalls?",
    claim="With DeepScaleLM the gradient keeps its size over 192 and 500 layers, and the model trains; vanilla it does not.",
    measured="Validation loss after equal steps, beside a shallow model of as many parameters; gradient ratio at the start.",
    criterion=(
        f"A model trains if it gets at least {MARGIN:g} of the way from the entropy of token frequencies to the loss of the "
        "shallow model. "
        "For each norm placement the claim holds if every seed with DeepScaleLM trains and every vanilla one does not."
    ),
    runs=runs,
    measure=measure,
    judge=judge,
)
