"""Entropy of attention while a model trains, against the softmax integrals at each head's own measured logit variance."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from depthwidth.errors import InputError

from ..files import write_whole
from ..records import read_record
from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._heads import BYTES, CALIBRATION_SEQUENCES, calibration_rows, fresh_gpt2, gpt2_config, training_spec
from ._training import data_spec, planned_text, training_of

TOLERANCE = 0.20
"""Allowed relative error of the distance of the entropy from that of uniform attention."""


class _Size(NamedTuple):
    marks: tuple[int, ...]
    """numbers of updates after which the heads are measured"""
    context: int
    width: int
    layers: int
    seeds: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size((0, 2, 4), 16, 16, 1, 1),
    "small": _Size((0, 50, 200, 600), 64, 96, 4, 1),
    "gpu": _Size((0, 50, 200, 600, 3000), 256, 384, 8, 3),
    "full": _Size((0, 50, 200, 600, 3000, 10_000, 40_000), 512, 768, 12, 5),
}


def runs(size: str) -> Iterator[Run]:
    """One training for each seed."""
    made = _SIZES[size]
    steps = max(made.marks)
    config, data = gpt2_config(made.context, made.width, made.layers), data_spec(BYTES[size])
    for seed in range(made.seeds):
        spec = {
            "config": config,
            "data": data,
            "training": training_spec(steps, made.context),
            "marks": list(made.marks),
            "sequences": CALIBRATION_SEQUENCES,
            "dtype": "float32",
        }
        labels = {"length": made.context, "heads": config["n_head"], "head_dim": made.width // config["n_head"]}
        yield Run(spec, seed, labels, cost=steps * made.context * made.layers * made.width**2)


def predict(size: str) -> Iterator[Prediction]:
    """The ratio of the measured distance from uniform attention to that at the measured logit variance."""
    yield Prediction("distance_ratio", 1.0, "depthwidth.numerics.softmax.overlap", version_of("depthwidth.numerics.softmax"))


class _Looks:
    """A probe that measures the heads before the updates with given numbers, and keeps its results in a file."""

    def __init__(self, marks: Sequence[int], batches: Any, path: Path) -> None:
        self.marks, self.batches, self.path = marks, batches, path
        self.found: dict[int, list[list[float]]] = {}
        with contextlib.suppress(InputError):  # nothing kept, or a damaged file
            kept = read_record(path, dict[int, list[list[float]]], "measurement")
            self.found = {int(mark): layers for mark, layers in kept.items()}

    def __call__(self, model: Any, step: int, optimizer: Any = None) -> None:
        if step in self.marks:
            self.found[step] = self.look(model)
            with contextlib.suppress(OSError):  # a full disk costs the look if the process is killed, not the training
                write_whole(self.path, json.dumps(self.found).encode())

    def look(self, model: Any) -> list[list[float]]:
        """For each layer the mean entropy of its heads, and that of Gaussian logits of their variances."""
        from depthwidth.numerics.softmax import overlap

        from ..measure.heads import measure_model

        report = measure_model(model, self.batches)
        length = self.batches.shape[1]
        rows = list(range(length // 2 + 1, length + 1))
        layers: list[list[tuple[float, float]]] = [[] for _ in report.forms]
        for head in report.heads:
            theory = overlap([head.logit_std**2] * len(rows), rows).entropy.mean()
            layers[head.layer].append((head.entropy, float(theory)))
        return [[math.fsum(values) / len(heads) for values in zip(*heads, strict=True)] for heads in layers]


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train a GPT-2 on bytes and measure its heads at the marks; a killed training continues, its earlier looks are kept."""
    from ..training.train import train

    text = planned_text(spec["data"])
    batches = calibration_rows(text, spec["sequences"], spec["training"]["context"])
    look = _Looks(spec["marks"], batches, context.folder / "looks.json")
    model, last = fresh_gpt2(spec["config"], context.seed), max(spec["marks"])
    if last:
        training = training_of(spec, context)
        folder = context.folder / "training"
        train(model, text, training, folder=folder, device=context.device, probes=(look,), progress=False)
    look(model, last)
    for mark in spec["marks"]:
        for layer, (entropy, theory) in enumerate(look.found[mark]):
            yield Measurement("entropy", entropy, f"layer.{layer}", mark)
            yield Measurement("gaussian_entropy", theory, f"layer.{layer}", mark)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each mark, by its worst layer; means over seeds."""
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.step is not None:
            quantities = found.setdefault((row.step, row.site), {"length": [row.labels["length"]]})
            quantities.setdefault(row.quantity, []).append(row.value)
    ratios: dict[int, dict[str, float]] = {}
    for (mark, site), its in found.items():
        if its.keys() >= {"entropy", "gaussian_entropy"}:
            n = int(its["length"][0])
            uniform = math.fsum(math.log(m) for m in range(n // 2 + 1, n + 1)) / (n - n // 2)
            measured, predicted = (uniform - mean(its[name]) for name in ("entropy", "gaussian_entropy"))
            ratios.setdefault(mark, {})[site] = measured / predicted
    if not ratios:
        return Verdict("undecided", "no rows")
    lines, good = [], []
    for mark, sites in sorted(ratios.items()):
        worst = max(sites, key=lambda site: abs(sites[site] - 1))
        passes = abs(sites[worst] - 1) <= TOLERANCE
        what = f"after {mark} updates: distance ratio, worst layer"
        lines.append(Comparison(what, 1.0, sites[worst], None, passes, worst, Limit.around(1.0, TOLERANCE)))
        good += [mark] if passes else []
    summary = f"logits are as concentrated as their variance says after {', '.join(map(str, good)) or 'no number of'} updates"
    return Verdict(outcome_of(len(good), len(ratios) - len(good)), summary, tuple(lines))


JOB = Job(
    name="attention-training",
    question="While a model trains, does a head's logit variance still determine how concentrated its attention is?",
    claim="The entropy is that of Gaussian logits with the measured variance: training keeps logits Gaussian.",
    measured="Entropy and logit variance of every head of a GPT-2 on bytes, after several numbers of updates.",
    criterion=f"In every layer the distance of the entropy from uniform attention's is within {100 * TOLERANCE:g} % of that at "
    "the measured variance. It holds at the numbers of updates that meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
)
