"""Concentration of attention in transformers' own models at initialisation, against moments and softmax integrals."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..rows import Row, canonical
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._heads import calibration_rows
from ._training import corpus_of, data_spec, planned_text

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.10
"""Allowed error of a layer's entropy, relative to its distance from the entropy of uniform attention."""

_SEQUENCES = 8
_BYTES = 1 << 18
"""Bytes of text, of which the first eight sequences are used."""


def _models(layers: int, width: int, context: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """GPT-2 and Llama as shipped, and with weights four times as large, so that attention is not uniform."""
    for scale, note in ((0.02, ""), (0.08, ", weights x4")):
        shared = {"vocab_size": 256, "initializer_range": scale}
        yield f"gpt2{note}", {
            "model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": context, **shared,
        }  # fmt: skip
        yield f"llama{note}", {
            "model_type": "llama", "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 64,
            "intermediate_size": 8 * width // 3, "max_position_embeddings": context, **shared,
        }  # fmt: skip


# layers, width, context, seeds
_SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (2, 128, 64, 1),
    "small": (4, 256, 256, 3),
    "gpu": (12, 768, 1024, 5),
    "full": (24, 1024, 1024, 10),
}


Concentrated = tuple[float, float, float]
QUANTITIES = ("logit_variance", "entropy", "squared_sum")


def predicted_attention(fields: Mapping[str, Any], batches: Tensor) -> list[Concentrated]:
    """Logit variance, entropy and sum of squared weights of each layer of a configuration at initialisation.

    Score variance and token correlation come from the propagation through the tree; the text, `batches` of shape (sequences,
    context), enters through the frequency with which two tokens of a sequence are equal. Averages are over the later half of
    the rows, as in :func:`measured_attention`.
    """
    import torch

    from depthwidth.analysis.propagation import moments_of
    from depthwidth.architecture import Transformer
    from depthwidth.formulas.attention import score_variance
    from depthwidth.initialization import recipe, shipped_options
    from depthwidth.numerics.softmax import overlap

    tree = Transformer.from_config(dict(fields))
    n = batches.shape[1]
    counts = torch.stack([torch.bincount(b, minlength=tree.vocab) for b in batches]).double()
    match = float((counts / n).square().sum(1).mean())
    match = (match - 1 / n) / (1 - 1 / n)  # between different positions of one sequence
    made = recipe(tree, "shipped", **shipped_options(dict(fields)))
    sites = moments_of(tree, made, token_match=match, context=n, dropout=False)
    scores = [r for r in sites if r["site"].endswith("attention.scores") and r["direction"] == "forward"]
    lengths, found = range(n // 2 + 1, n + 1), []
    for r in scores:
        variance = float(score_variance(r["second_moment"], r["correlation"]))
        rows = overlap([variance] * len(lengths), list(lengths), tree.head_dim)
        found.append((variance, float(rows.entropy.mean()), float(rows.P.mean())))
    return found


def measured_attention(fields: Mapping[str, Any], seed: int, batches: Tensor, device: str = "cpu") -> list[list[Concentrated]]:
    """The same numbers of every head of the model as transformers initialises it, layer by layer."""
    import tempfile

    from ..measure.head_models import load_model
    from ..measure.heads import measure_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(fields)), encoding="utf-8")
        model, tree, _ = load_model(path, seed)
    report = measure_model(model.to(device), batches, tree=tree)
    layers: list[list[Concentrated]] = [[] for _ in report.forms]
    for head in report.heads:
        layers[head.layer].append((head.logit_std**2, head.entropy, head.squared_sum))
    return layers


@functools.cache
def _predicted(fields: str, context: int, sha256: str) -> tuple[Prediction, ...]:
    """The predictions for one configuration on one text."""
    version = version_of("depthwidth.analysis.propagation", "depthwidth.initialization")
    batches = calibration_rows(corpus_of(_BYTES, 256), _SEQUENCES, context)
    return tuple(
        Prediction(quantity, value, "depthwidth.numerics.softmax.overlap", version, f"layer.{layer}")
        for layer, values in enumerate(predicted_attention(json.loads(fields), batches))
        for quantity, value in zip(QUANTITIES, values, strict=True)
    )


def runs(size: str) -> Iterator[Run]:
    """One run for each family, weight scale and seed."""
    layers, width, context, seeds = _SIZES[size]
    data = data_spec(_BYTES)
    for name, fields in _models(layers, width, context):
        for seed in range(seeds):
            labels = {"model": name, "layers": layers, "width": width, "length": context}
            cost = layers * context * (width * width + context * width) / 1e6
            spec = {"config": fields, "data": data, "sequences": _SEQUENCES, "context": context, "dtype": "float32"}
            yield Run(spec, seed, labels, _predicted(canonical(fields), context, data["sha256"]), cost)


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """One model on the text: means over the heads of each layer. A killed measurement, of seconds, starts again."""
    batches = calibration_rows(planned_text(spec["data"]), spec["sequences"], spec["context"])
    for layer, heads in enumerate(measured_attention(spec["config"], context.seed, batches, context.device)):
        for k, quantity in enumerate(QUANTITIES):
            values = [head[k] for head in heads]
            spread = math.sqrt(sum((v - mean(values)) ** 2 for v in values) / max(1, len(values) - 1) / len(values))
            yield Measurement(quantity, mean(values), f"layer.{layer}", stderr=spread)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each layer of each model, by the mean over seeds."""
    layers: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.quantity == "entropy":
            layers.setdefault((row.labels["model"], row.site), []).append(row)
    if not layers:
        return Verdict("undecided", "no rows")
    lines, good = [], []
    for (model, site), its in layers.items():
        n = int(its[0].labels["length"])
        uniform = math.fsum(math.log(m) for m in range(n // 2 + 1, n + 1)) / (n - n // 2)
        measured, predicted = mean(row.value for row in its), its[0].expected
        noise = 3 * max((row.stderr or 0.0) for row in its)
        limit = Limit.around(predicted, TOLERANCE * abs(uniform - measured), -3)
        passes = limit.is_met(measured, noise / 3)
        below = f"{uniform - measured:.4g} below uniform, predicted {uniform - predicted:.4g}"
        lines.append(Comparison(f"{model} {site}: entropy", predicted, measured, noise / 3, passes, below, limit))
        good += [f"{model} {site}"] if passes else []
    outcome = outcome_of(len(good), len(layers) - len(good))
    named = f": {', '.join(good)}" if good and outcome != "holds" else ""
    return Verdict(outcome, f"{len(good)} of {len(layers)} layers are as concentrated as predicted{named}", tuple(lines))


JOB = Job(
    name="attention-entropy",
    question="Is attention at initialisation as concentrated as moment propagation and the softmax integrals predict?",
    claim="Entropy and squared weights of every layer follow from the recipe and the text's repetitions alone.",
    measured="Logit variance, entropy and sum of squared weights of every head of transformers' GPT-2 and Llama.",
    criterion=f"The distance of the mean entropy from uniform attention's is within {100 * TOLERANCE:g} % of the predicted one "
    "and three standard errors. It holds on the layers that meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
)
