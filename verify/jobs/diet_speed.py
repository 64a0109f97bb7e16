"""Time of score biases: kept at inference, computed in each pass, and shared across layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import mean, stdev
from typing import Any, NamedTuple

from depthwidth.architecture import Transformer
from depthwidth.layers import DietAbs, DietRel

from ..rows import Row
from . import (
    BELOW_ZERO,
    Comparison,
    Context,
    Job,
    Limit,
    Measurement,
    Prediction,
    Run,
    Verdict,
    difference_error,
    outcome_of,
    version_of,
)
from ._timing import ratio_of, times_in_turn


class _Size(NamedTuple):
    layers: int
    width: int
    heads: int
    context: int
    batch: int
    repetitions: int
    seeds: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size(2, 16, 2, 16, 2, 2, 1),
    "small": _Size(4, 128, 4, 256, 4, 8, 3),
    "gpu": _Size(12, 768, 12, 512, 16, 20, 3),
    "full": _Size(24, 1024, 16, 512, 32, 50, 5),
}
BASE = "input"
SCHEMES = ("diet-rel", "diet-rel, shared", "diet-abs", "diet-abs, shared", "t5", "tupe", "shaw")
"""The word after the comma says that all layers have the same tables; those of t5 and tupe do anyway."""
MODES = ("kept", "computed", "training")
"""Inference with biases kept from pass to pass; inference that computes them in each pass; forward and backward."""
FREE = 0.1
"""Share of the time of positions at the input that a kept bias may cost."""


def tree_of(scheme: str, made: Mapping[str, Any]) -> Transformer:
    """An encoder with these positions."""
    name, shared = scheme.partition(",")[0], scheme.endswith("shared")
    positions: Any = name
    if name == "diet-rel":
        positions = DietRel(made["heads"], context=made["context"], shared_layers=shared)
    elif name == "diet-abs":
        rank = 2 * made["width"] // made["heads"]
        positions = DietAbs(made["heads"], context=made["context"], rank=rank, shared_layers=shared)
    choices = {choice: made[choice] for choice in ("width", "heads", "context")}
    return Transformer(depth=made["layers"], vocab=256, kind="encoder", head="masked-lm", positions=positions, **choices)


def flops_of(scheme: str, made: Mapping[str, Any], mode: str) -> float:
    """Operations of a forward pass of a batch; a kept bias has none, and Shaw's products with the queries are never kept."""
    kept = mode == "kept" and scheme != "shaw"
    tree = tree_of(BASE if kept else scheme, made)
    return float(tree.flops(tree.run(batch=made["batch"])))


def runs(size: str) -> Iterator[Run]:
    """One run for each scheme and seed, each with positions at the input."""
    made = _SIZES[size]._asdict()
    seeds = made.pop("seeds")
    version = version_of("depthwidth.formulas.positions", "depthwidth.layers")
    for scheme in SCHEMES:
        ratios = {mode: flops_of(scheme, made, mode) / flops_of(BASE, made, mode) for mode in MODES}
        predictions = tuple(
            Prediction("time_ratio", ratio, "positions.absolute_bias_flops", version, mode) for mode, ratio in ratios.items()
        )
        labels = {"positions": scheme, "bias_bytes": tree_of(scheme, made).score_bias_bytes(dtype="fp32")}
        for seed in range(seeds):
            yield Run({"scheme": scheme, **made}, seed, labels, predictions, cost=flops_of(scheme, made, "training"))


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Time both models in turn: ``time_ratio`` with its standard error over repetitions, for each mode."""
    import torch

    from ..models.model import build

    models = {
        name: build(tree_of(name, spec), "xavier", seed=context.seed).to(context.device) for name in (BASE, spec["scheme"])
    }
    generator = torch.Generator().manual_seed(context.seed)
    tokens = torch.randint(256, (spec["batch"], spec["context"]), generator=generator).to(context.device)

    def kept(model: Any) -> None:
        with torch.no_grad():
            model(tokens)

    def computed(model: Any) -> None:
        model.eval()  # drops what was kept
        kept(model)

    def training(model: Any) -> None:
        model.zero_grad()
        model(tokens, tokens)[1].backward()

    for mode, work in zip(MODES, (kept, computed, training), strict=True):
        for model in models.values():
            model.train(mode == "training")
        works = {name: partial(work, model) for name, model in models.items()}
        times = times_in_turn(works, spec["repetitions"], context.device)
        ratio, error = ratio_of(times, spec["scheme"], BASE)
        yield Measurement("time_ratio", ratio, mode, stderr=error)


_PAIRS = (
    ("diet-rel", "kept", "diet-rel", "computed"),
    ("diet-abs", "kept", "diet-abs", "computed"),
    ("diet-rel, shared", "computed", "diet-rel", "computed"),
    ("diet-abs, shared", "computed", "diet-abs", "computed"),
    ("diet-rel", "kept", "shaw", "kept"),
    ("diet-abs", "kept", "shaw", "kept"),
)
"""Pairs of a scheme and a mode each; the first must be the quicker."""


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Kept biases of DIET must be nearly free, and the pairs in order, each beyond twice the noise over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    expected: dict[tuple[str, str], float | None] = {}
    for row in rows:
        if row.quantity == "time_ratio":
            place = row.labels["positions"], row.site
            found.setdefault(place, []).append(row.value)
            expected[place] = row.predicted
    if any((scheme, mode) not in found for scheme in SCHEMES for mode in MODES):
        return Verdict("undecided", "runs are missing")
    if min(map(len, found.values())) < 2:
        return Verdict("undecided", "one seed does not show the noise")
    lines = []
    for scheme in SCHEMES:
        for mode in MODES:
            values = found[scheme, mode]
            noise = stdev(values) / math.sqrt(len(values))
            judged = mode == "kept" and scheme.startswith("diet")
            limit = Limit(high=1 + FREE, sigmas=-2, tolerance=FREE) if judged else None
            passes = None if limit is None else limit.is_met(mean(values), noise)
            what = f"{scheme}, {mode}: time over that of positions at the input"
            lines.append(Comparison(what, expected[scheme, mode], mean(values), noise, passes, limit=limit))
    for one, mode, other, its in _PAIRS:
        first, second = found[one, mode], found[other, its]
        gap, noise = mean(first) - mean(second), difference_error(first, second)
        lines.append(Comparison(f"{one} {mode} less {other} {its}", None, gap, noise, gap < -2 * noise, limit=BELOW_ZERO))
    judged_lines = [line.passes for line in lines if line.passes is not None]
    ratios = ", ".join(
        f"{mean(found[name, 'kept']):.3f} and {mean(found[name, 'computed']):.3f} ({name})" for name in SCHEMES[:4]
    )
    summary = f"time at inference over that of positions at the input, bias kept and computed: {ratios}"
    return Verdict(outcome_of(sum(judged_lines), len(judged_lines) - sum(judged_lines)), summary, tuple(lines))


JOB = Job(
    name="diet-speed",
    question="Do score biases cost time, and do keeping them and sharing them across layers save it?",
    claim="A bias that does not depend on the input costs no time worth counting once it is kept (Chen et al. 2021, Table 1: "
    "0 to 1 %), relative vectors that meet each query cost much (13 to 65 %).",
    measured="Time of an encoder with each scheme over that with positions at the input, timed in turn: at inference with "
    "biases kept or computed in each pass, and in training.",
    criterion=f"Kept, each of DIET's biases costs less than {100 * FREE:g} % of the time; keeping saves time, sharing across "
    "layers saves time if biases are computed in each pass, and kept biases are quicker than Shaw's vectors, each beyond two "
    "standard errors over seeds.",
    runs=runs,
    measure=measure,
    judge=judge,
)
