"""Moments of transformers' own GPT-2, BERT and Llama, as the library initialises them, on real text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from depthwidth.analysis.propagation import propagate
from depthwidth.architecture import Transformer
from depthwidth.initialization import recipe, shipped_options

from . import Context, Job, Measurement, Prediction, Run, version_of
from .moments import WITHIN, judge

_VOCABULARY = 1024  # tokens are bytes; the other rows of the table stay unused

# depth, width, tokens, draws, windows of text
_SIZES = {
    "tiny": (2, 64, 24, 12, 1),
    "small": (12, 256, 64, 48, 2),
    "gpu": (12, 768, 128, 96, 4),
    "full": (24, 1024, 256, 512, 8),
}


def _config(family: str, depth: int, width: int, tokens: int) -> dict[str, Any]:
    """A configuration of the family with its own defaults except for the shape."""
    heads = max(1, width // 64)
    shapes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_layer": depth, "n_embd": width, "n_head": heads, "n_positions": tokens,
                 "bos_token_id": 0, "eos_token_id": 0},
        "bert": {"num_hidden_layers": depth, "hidden_size": width, "num_attention_heads": heads,
                 "intermediate_size": 4 * width, "max_position_embeddings": tokens},
        "llama": {"num_hidden_layers": depth, "hidden_size": width, "num_attention_heads": heads,
                  "num_key_value_heads": max(1, heads // 2), "intermediate_size": 8 * width // 3,
                  "max_position_embeddings": tokens},
    }  # fmt: skip
    return {"model_type": family, "vocab_size": _VOCABULARY, **shapes[family]}


def runs(size: str) -> Iterator[Run]:
    """One run for each family and window of text; the text is Python's own sources, and part of the run's description."""
    depth, width, tokens, draws, windows = _SIZES[size]
    for window, text in enumerate(_texts(windows, tokens)):
        for family in ("gpt2", "bert", "llama"):
            spec = {"config": _config(family, depth, width, tokens), "tokens": text, "draws": draws, "dtype": "float32"}
            labels = {"family": family, "window": window, "depth": depth, "width": width}
            cost = draws * depth * (width / 64) ** 2 * (1 + tokens / 64)
            yield Run(spec, 1, labels, tuple(_predictions(spec)), cost)


def _texts(windows: int, tokens: int) -> list[list[int]]:
    """Windows of real text as bytes: sources of the standard library, spread over one long file."""
    import argparse
    from pathlib import Path

    data = Path(argparse.__file__).read_bytes()
    return [list(data[start : start + tokens]) for start in range(5000, 5000 + 7919 * windows, 7919)]


def _tree(spec: Mapping[str, Any]) -> Transformer:
    return Transformer.from_config(spec["config"])


def _predictions(spec: Mapping[str, Any]) -> Iterator[Prediction]:
    import numpy as np

    tree = _tree(spec)
    text = np.array(spec["tokens"])
    frame = propagate(
        tree, recipe(tree, "shipped", **shipped_options(spec["config"])), dropout=False,
        token_match=(text[:, None] == text).astype(float), segment_match=1.0,  # transformers puts all in one segment
    )  # fmt: skip
    version = version_of("depthwidth.analysis.propagation", "depthwidth.initialization", "depthwidth.architecture.hf")
    known = {(row.site, row.direction): row for row in frame.itertuples()}
    last = _sites(tree)[-1]
    for site in _sites(tree):
        row = known[site, "forward"]
        yield Prediction("variance", row.second_moment, "depthwidth.propagate", version, site)
        yield Prediction("correlation", row.covariance / row.second_moment, "depthwidth.propagate", version, site)
        if tree.decoder is not None or site != last:  # the gradient at the output of a post-norm stack is given
            gradient = known[site, "gradient"].second_moment
            yield Prediction("gradient_variance", gradient, "depthwidth.propagate", version, site)


def _sites(tree: Transformer) -> list[str]:
    """The sites whose residual stream transformers returns: the input of each block, and the last output if no norm follows."""
    name = tree.stack_name
    outputs = [f"{name}.block.{layer}" for layer in range(tree.depth)]
    return [f"{name}.input", *(outputs if tree.decoder is None else outputs[:-1])]


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Means over draws of the weights, and of the gradient at the output of the last norm, with their standard errors."""
    import numpy as np

    draws = []
    for draw in range(spec["draws"]):
        draws.append(_one_draw(spec, context.seed * 1_000_003 + draw, context.device))
        context.progress((draw + 1) / spec["draws"])
    found = np.array(draws)  # (draws, sites, 3)
    mean, error = found.mean(0), found.std(0, ddof=1) / math.sqrt(len(found))
    tree = _tree(spec)
    sites = _sites(tree)
    for at, site in enumerate(sites):
        variance, pair = found[:, at, 0], found[:, at, 1]
        yield Measurement("variance", mean[at, 0], site, stderr=error[at, 0])
        ratio = pair.mean() / variance.mean()
        spread = np.std((pair - ratio * variance) / variance.mean(), ddof=1)  # of a ratio of means, to first order
        yield Measurement("correlation", ratio, site, stderr=spread / math.sqrt(len(found)))
        if tree.decoder is not None or at < len(sites) - 1:
            yield Measurement("gradient_variance", mean[at, 2], site, stderr=error[at, 2])


def _one_draw(spec: Mapping[str, Any], seed: int, device: str) -> list[tuple[float, float, float]]:
    import torch
    import transformers

    choices = {key: value for key, value in spec["config"].items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(spec["config"]["model_type"], **choices)
    torch.manual_seed(seed)
    with torch.device(device):  # where weights are drawn too
        model = transformers.AutoModel.from_config(config).eval()
    output = model(input_ids=torch.tensor([spec["tokens"]], device=device), output_hidden_states=True)
    last = output.last_hidden_state
    stream = output.hidden_states[: len(_sites(_tree(spec)))]
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.autograd.grad(last, stream, torch.randn(last.shape, generator=generator).to(device))
    found = []
    for x, gradient in zip(stream, gradients, strict=True):
        y = x[0].detach().double()
        length, width = y.shape
        own = float(y.square().sum()) / width
        both = float(y.sum(0).square().sum()) / width
        pairs = (both - own) / (length * (length - 1))
        found.append((own / length, pairs, float(gradient.double().square().mean())))
    return found


JOB = Job(
    name="transformers-init",
    question="Do transformers' GPT-2, BERT and Llama, freshly initialised, have the predicted moments on real text?",
    claim="The token kernel of the text, propagated through the blocks, gives variance, correlation and gradient of each.",
    measured="Second moment and correlation of the hidden states, and second moment of their gradient, over initialisations.",
    criterion=f"At every block: {WITHIN}. It holds on the models where all blocks meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
)
