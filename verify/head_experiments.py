"""Predicted against trained and measured heads: look-up students, diffuse students, attention entropy, bottleneck, allocation.

    python -m verify.head_experiments head-saturation --out data/measured/head_saturation.csv

Each function is one experiment: it writes its predictions down first, then trains or measures, and yields one row a number.
Sizes are those of a CPU in minutes; arguments make them larger.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth import __version__
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.formulas import heads as laws
from depthwidth.formulas.attention import score_variance
from depthwidth.initialization import recipe, shipped_options
from depthwidth.layers import Stack
from depthwidth.propagation import moments_of
from depthwidth.softmax_integrals import overlap

Row = dict[str, Any]
FIELDS = (
    "experiment",
    "setting",
    "length",
    "heads",
    "head_dim",
    "layer",
    "quantity",
    "predicted",
    "measured",
    "stderr",
    "seed",
    "steps",
)


def row(experiment: str, quantity: str, predicted: float | None, measured: float, stderr: float | None, **where: Any) -> Row:
    """One number of an experiment, every column there."""
    found = dict.fromkeys(FIELDS)
    found |= {"experiment": experiment, "quantity": quantity, "predicted": predicted, "measured": measured, "stderr": stderr}
    return found | where


# ---- one head that looks a token up ----


def _errors(weights: Tensor, targets: Tensor, gain: Tensor | float) -> Tensor:
    """Squared error of copying the target's value, exactly averaged over independent values of variance 1."""
    hit = weights.gather(-1, targets[..., None])[..., 0]
    return 1 - 2 * gain * hit + gain**2 * (weights**2).sum(-1)


def train_retrieval(
    length: int, head_dim: int, *, seed: int = 0, steps: int = 1500, batch: int = 32, queries: int = 16, rate: float = 6e-3
) -> tuple[float, float]:
    """Least error that a trained head reaches when it copies the value of one of `length` Gaussian tokens, and its stderr.

    Keys are N(0, I) in 64 dimensions (32 from 64 tokens on), the query is one of them. Learned: the two maps to `head_dim`
    dimensions, a scale and an output gain; Adam with a one-cycle rate.
    """
    generator = torch.Generator().manual_seed(seed)
    width = 64 if length < 64 else 32
    maps = [nn.Parameter(torch.randn(width, head_dim, generator=generator) / width**0.5) for _ in range(2)]
    scale, gain = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.Adam([*maps, scale, gain], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)

    def errors(rows: int, asking: int) -> Tensor:
        keys = torch.randn(rows, length, width, generator=generator)
        targets = torch.randint(0, length, (rows, asking), generator=generator)
        asked = keys.gather(1, targets[..., None].expand(-1, -1, width))
        logits = scale * (asked @ maps[0]) @ (keys @ maps[1]).transpose(1, 2)
        return _errors(torch.softmax(logits, -1), targets, gain)

    for _ in range(steps):
        optimizer.zero_grad()
        errors(batch, queries).mean().backward()
        optimizer.step()
        schedule.step()
    # Long rows cost most to draw, so that each answers more queries; a standard error of 0.002 there still needs many of them.
    fresh, asking = (max(8, 2048 // length), queries) if length < 1024 else (16, 4 * queries)
    with torch.no_grad():
        drawn = torch.cat([errors(64, asking).mean(1) for _ in range(fresh)])
    return float(drawn.mean()), float(drawn.std() / math.sqrt(len(drawn)))


def head_saturation(
    lengths: Sequence[int] = (16, 64, 256, 1024),
    factors: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    seeds: int = 2,
    steps: int = 1500,
) -> Iterator[Row]:
    """Trained look-up heads: is their error that of the theory, the knee at 2 ln n dimensions, with nothing fitted.

    Prediction: :func:`~depthwidth.formulas.heads.best_retrieval_error`. Holds where no trained error is more than 0.02 from it.
    """
    settings = [(n, max(1, round(f * laws.critical_head_dim(n)))) for n in lengths for f in factors]
    predicted = {pair: laws.best_retrieval_error(*pair) for pair in settings}
    for n, d in settings:
        for seed in range(seeds):
            error, stderr = train_retrieval(n, d, seed=seed, steps=steps)
            where = {"length": n, "heads": 1, "head_dim": d, "seed": seed, "steps": steps}
            yield row("head-saturation", "retrieval error", predicted[n, d], error, stderr, **where)


def train_diffuse(
    length: int,
    head_dim: int,
    spectrum: Sequence[float],
    *,
    seed: int = 0,
    steps: int = 800,
    batch: int = 64,
    rate: float = 1e-2,
) -> tuple[float, float]:
    """Error of a student of `head_dim` dimensions for a random-attention teacher with this spectrum, and its stderr.

    Per channel of unit-variance values that are independent of the keys: the sum of squared differences of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    rank = len(spectrum)
    teacher = torch.tensor(spectrum).sqrt()
    # Small enough that the student's own logits start with a variance near 0.1: larger starts stay stuck at long rows.
    size = (0.1 / (rank * rank * head_dim)) ** 0.25
    maps = [nn.Parameter(size * torch.randn(rank, head_dim, generator=generator)) for _ in range(2)]
    optimizer = torch.optim.Adam(maps, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)

    def errors(rows: int) -> Tensor:
        keys, asked = torch.randn(rows, length, rank, generator=generator), torch.randn(rows, 8, rank, generator=generator)
        wanted = torch.softmax((asked * teacher) @ keys.transpose(1, 2), -1)
        given = torch.softmax((asked @ maps[0]) @ (keys @ maps[1]).transpose(1, 2), -1)
        return ((wanted - given) ** 2).sum(-1)

    for _ in range(steps):
        optimizer.zero_grad()
        (length * errors(batch).mean()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        drawn = torch.cat([errors(64).mean(1) for _ in range(max(16, 4096 // length))])
    return float(drawn.mean()), float(drawn.std() / math.sqrt(len(drawn)))


def diffuse_saturation(
    lengths: Sequence[int] = (64, 256), dims: Sequence[int] = (1, 4, 8, 12), seeds: int = 1, steps: int = 800
) -> Iterator[Row]:
    """Diffuse heads of fewer dimensions: does what they lose fall as 1/n, as the large-length law says.

    Prediction: :func:`~depthwidth.formulas.heads.diffuse_errors` of a harmonic spectrum, an over-estimate at finite n. Holds
    where the trained error is 0.5 to 1 times it, nearer to 1 at the larger length.
    """
    spectrum = laws.power_spectrum(16, 1.0, 1.0)
    predicted = {n: laws.diffuse_errors(spectrum, n) for n in lengths}
    for n in lengths:
        for d in dims:
            for seed in range(seeds):
                error, stderr = train_diffuse(n, d, spectrum, seed=seed, steps=steps)
                where = {"length": n, "heads": 1, "head_dim": d, "seed": seed, "steps": steps}
                yield row("diffuse-saturation", "truncation error", predicted[n][d], error, stderr, **where)


# ---- heads that read several lags ----


def lag_maps(lags: int, size: int, generator: torch.Generator) -> Tensor:
    """Maps of size x size, one a lag: singular values 1/k, directions drawn, squares that add up to 1 over all lags."""
    values = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    sides = [torch.linalg.qr(torch.randn(lags, size, size, generator=generator, dtype=torch.float64))[0] for _ in range(2)]
    maps = sides[0] * values @ sides[1].transpose(1, 2)
    return maps / maps.square().sum().sqrt()


def train_lag_split(
    heads: int,
    *,
    lags: int = 4,
    size: int = 16,
    budget: int = 32,
    seed: int = 0,
    start: int = 0,
    steps: int = 4000,
    rate: float = 2e-2,
) -> tuple[float, float]:
    """Least relative loss that training finds for heads with free position biases, and the floor that no heads can pass.

    Task: the sum over lags 1 to `lags` of a map of the token that far back, tokens white noise; the loss is the population's,
    exact. `heads` share `budget` dimensions of values; each learns its weights over lags 0 to twice `lags` and its value map.
    `seed` decides the maps, `start` where training begins.
    """
    maps = lag_maps(lags, size, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(1000 * (seed + 1) + start)
    floor = laws.lag_floor(torch.einsum("mij,nij->mn", maps, maps).tolist(), heads)
    reach, rank = 2 * lags + 1, budget // heads
    wanted = torch.zeros(reach, size, size, dtype=torch.float64)
    wanted[1 : lags + 1] = maps
    logits = nn.Parameter(torch.randn(heads, reach, generator=generator, dtype=torch.float64))
    sides = [
        nn.Parameter(torch.randn(heads, rank, size, generator=generator, dtype=torch.float64) / (size * budget**0.5) ** 0.5)
        for _ in range(2)
    ]
    optimizer = torch.optim.Adam([logits, *sides], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)

    def loss() -> Tensor:
        values = sides[0].transpose(1, 2) @ sides[1]
        made = torch.softmax(logits, -1).T @ values.flatten(1)
        return (made - wanted.flatten(1)).square().sum()

    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    return float(loss().detach()), floor


def head_split(
    heads: Sequence[int] = (1, 2, 4, 8, 16, 32),
    lags: int = 4,
    size: int = 16,
    budget: int = 32,
    seeds: int = 3,
    starts: int = 2,
    steps: int = 4000,
) -> Iterator[Row]:
    """One budget of value dimensions, split among ever more heads that read four lags: is sharing better than dedication.

    Predictions: no head count passes the floor; with as many heads as lags or more, training is not above the bound of heads
    dedicated to lags, :func:`~depthwidth.formulas.heads.dedicated_lag_loss`, which is the same at every split. Each row is the
    best of a few starts on one draw of the maps; `predicted` is the floor where heads are fewer than lags, and else the bound.
    """
    bound = laws.dedicated_lag_loss(budget // lags, size, 1)
    for count in heads:
        for seed in range(seeds):
            found = [
                train_lag_split(count, lags=lags, size=size, budget=budget, seed=seed, start=start, steps=steps)
                for start in range(starts)
            ]
            floor = found[0][1]
            where = {"length": lags, "heads": count, "head_dim": budget // count, "seed": seed, "steps": steps}
            predicted = floor if count < lags else bound
            yield row("head-split", "relative loss", predicted, min(loss for loss, _ in found), None, **where)


# ---- entropy at initialisation ----

ENTROPY_MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 256, "vocab_size": 256},
    "gpt2, weights x4": {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 256, "vocab_size": 256,
                         "initializer_range": 0.08},
    "llama": {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4,
              "intermediate_size": 688, "max_position_embeddings": 256, "vocab_size": 256},
    "llama, weights x4": {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4,
                          "intermediate_size": 688, "max_position_embeddings": 256, "vocab_size": 256,
                          "initializer_range": 0.08},
}  # fmt: skip


Concentrated = tuple[float, float, float]
ENTROPY_QUANTITIES = ("logit_variance", "entropy", "squared_sum")


def predicted_attention(fields: Mapping[str, Any]) -> list[Concentrated]:
    """Logit variance, entropy and sum of squared weights of each layer of a configuration at initialisation, on our text.

    Score variance and token correlation are those of the walk through the tree; the text enters by how often two of its tokens
    are equal. Averages are over the rows that :func:`measured_attention` takes: the later half.
    """
    from .heads import calibration_tokens

    tree = Transformer.from_config(dict(fields))
    batches, _ = calibration_tokens(tree)
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


def measured_attention(fields: Mapping[str, Any], seed: int) -> list[list[Concentrated]]:
    """The same of every head of the model that transformers initialises, layer by layer."""
    import json

    from .heads import calibration_tokens, load_model, measure_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(fields)), encoding="utf-8")
        model, tree, _ = load_model(path, seed)
    report = measure_model(model, calibration_tokens(tree)[0], tree=tree)
    layers: list[list[Concentrated]] = [[] for _ in report.forms]
    for head in report.heads:
        layers[head.layer].append((head.logit_std**2, head.entropy, head.squared_sum))
    return layers


def attention_entropy(models: Sequence[str] = tuple(ENTROPY_MODELS), seeds: int = 3) -> Iterator[Row]:
    """Models as transformers initialises them: is attention as concentrated as moments and softmax integrals say.

    Holds where the entropy's distance from that of uniform attention is within 10 % of the predicted distance.
    """
    for name in models:
        fields = ENTROPY_MODELS[name]
        wanted = predicted_attention(fields)
        drawn = [measured_attention(fields, seed) for seed in range(seeds)]
        tree = Transformer.from_config(dict(fields))
        for layer, predicted in enumerate(wanted):
            heads = torch.tensor([head for run in drawn for head in run[layer]], dtype=torch.float64)
            for k, quantity in enumerate(ENTROPY_QUANTITIES):
                where = {
                    "setting": name,
                    "length": tree.context,
                    "heads": tree.heads,
                    "head_dim": tree.head_dim,
                    "layer": layer,
                }
                stderr = float(heads[:, k].std() / math.sqrt(len(heads)))
                yield row("attention-entropy", quantity, predicted[k], float(heads[:, k].mean()), stderr, **where)


# ---- small language models ----


def _llama(**shape: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**shape))


def train_language_model(
    model: nn.Module, tokens: Tensor, *, context: int, steps: int, seed: int, batch: int = 16, rate: float = 2e-3
) -> tuple[float, float]:
    """Train on the first nine tenths of a stream of tokens; loss on the last, nats per token, with its standard error."""
    generator = torch.Generator().manual_seed(seed)
    cut = len(tokens) * 9 // 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        starts = torch.randint(0, cut - context - 1, (batch,), generator=generator)
        rows = torch.stack([tokens[s : s + context] for s in starts])
        optimizer.zero_grad()
        _loss_on(model, rows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return held_out_loss(model, tokens[cut:], context)


def _loss_on(model: nn.Module, rows: Tensor) -> Tensor:
    from .heads import next_token_loss

    out = model(rows)
    return next_token_loss(out if isinstance(out, Tensor) else out.logits, rows)


def held_out_loss(model: nn.Module, tokens: Tensor, context: int) -> tuple[float, float]:
    """Mean loss over whole rows of a stream, and its standard error over rows."""
    model.eval()
    rows = tokens[: len(tokens) // context * context].view(-1, context)[:128]
    with torch.no_grad():
        losses = torch.tensor([float(_loss_on(model, r[None])) for r in rows], dtype=torch.float64)
    return float(losses.mean()), float(losses.std() / math.sqrt(len(losses)))


def _corpus(characters: int) -> Tensor:
    from .heads import _text

    text, _ = _text(None, characters)
    return torch.frombuffer(bytearray(text[:characters].encode("utf-8", "ignore")), dtype=torch.uint8).long()


def bottleneck_loss(
    heads: int, head_dim: int, *, seed: int, width: int, context: int, steps: int, layers: int = 2
) -> tuple[float, float]:
    """Held-out loss of a small model on bytes with so many heads of so many dimensions."""
    torch.manual_seed(seed)
    model = _llama(
        vocab_size=256, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, head_dim=head_dim,
        intermediate_size=2 * width, max_position_embeddings=context, num_key_value_heads=heads,
    )  # fmt: skip
    return train_language_model(model, _corpus(400_000), context=context, steps=steps, seed=seed)


def low_rank_bottleneck(
    heads: Sequence[int] = (1, 4, 16, 32), width: int = 64, fixed: int = 32, context: int = 64, steps: int = 400, seeds: int = 2
) -> Iterator[Row]:
    """More heads: do they hurt when they share a width, and help when each keeps its size (Bhojanapalli et al. 2020).

    Two-layer models on bytes, heads of width/H against heads of `fixed` dimensions. The theory gives an order, not a number: at
    the largest H the fixed size wins, by more than twice the standard error over seeds.
    """
    for count in heads:
        for name, size in (("width / heads", max(2, width // count)), ("fixed size", fixed)):
            for seed in range(seeds):
                loss, stderr = bottleneck_loss(count, size, seed=seed, width=width, context=context, steps=steps)
                where = {"setting": name, "length": context, "heads": count, "head_dim": size, "seed": seed, "steps": steps}
                yield row("low-rank-bottleneck", "loss", None, loss, stderr, **where)


def _gpt2(context: int, width: int, layers: int) -> dict[str, Any]:
    """The configuration of a small GPT-2 on bytes, four heads a layer, without dropout."""
    return {
        "model_type": "gpt2", "vocab_size": 256, "n_embd": width, "n_head": 4, "n_layer": layers, "n_positions": context,
        "bos_token_id": 0, "eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip


def _trained_gpt2(seed: int, tokens: Tensor, *, context: int, width: int, layers: int, steps: int) -> tuple[Any, float, float]:
    """A GPT-2 of transformers, trained; its held-out loss and standard error."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**_gpt2(context, width, layers)))
    return (model, *train_language_model(model, tokens, context=context, steps=steps, seed=seed))


Cut = tuple[str, float, int, float, float, float]


def cut_losses_of(seed: int, *, shares: Sequence[float], context: int, width: int, layers: int, steps: int) -> Iterator[Cut]:
    """Train a GPT-2 on bytes, measure it, and cut it four times to each share of its dimensions, all heads together.

    Yields (cut, share, dimensions, predicted relative error, loss, its standard error) with cut "whole", "uniform" (one head
    dimension in every layer), "allocated" (the exact optimum over layers at no more parameters), and both again with the share
    taken of values as of queries and keys: "uniform with values", "allocated with values".
    """
    import copy

    from .heads import measure_model, shrink_heads

    tokens = _corpus(400_000)
    cut = len(tokens) * 9 // 10
    model, loss, stderr = _trained_gpt2(seed, tokens, context=context, width=width, layers=layers, steps=steps)
    yield "whole", 1.0, width // 4, 0.0, loss, stderr
    report = measure_model(model, tokens[: 16 * context].view(16, context))
    needs, free = report.needs(), report.allocate(multiple=1)
    for share in shares:
        dims = max(1, round(share * width / 4))
        for values, suffix in ((False, ""), (True, " with values")):
            flat = _of_one_size(free, dims, dims if values else width // 4)
            best = report.allocate(multiple=1, budget=flat.parameters, values=values)
            for name, made in (("uniform", flat), ("allocated", best)):
                other = copy.deepcopy(model)
                shrink_heads(other, made, report)
                error = math.fsum(n.error_of(got.head_dim, got.value_dim) for n, got in zip(needs, made.layers, strict=True))
                yield name + suffix, share, dims, error / layers, *held_out_loss(other, tokens[cut:], context)


@dataclass(frozen=True)
class Scratch:
    """A model trained from scratch with these dimensions."""

    name: str
    """"uniform", "allocated" or "reversed" """
    share: float
    dims: tuple[tuple[int, int], ...]
    """of each layer: of a query and key, of a value"""
    parameters: int
    """of the whole model"""
    loss: float
    stderr: float


def scratch_losses_of(
    seed: int, *, shares: Sequence[float], context: int, width: int, layers: int, steps: int
) -> Iterator[Scratch]:
    """Train small models from scratch, with one head dimension in every layer and with allocated ones, at equal parameters.

    The allocation is that of a GPT-2 with full heads that was trained by the same seed and measured: query-key and value
    dimensions of each layer by the exact optimum under the uniform model's parameters. "reversed" is the control: the same
    dimensions, the last layer's in the first. All models start from weights of the same seed and see the same batches.
    """
    from .heads import measure_model
    from .model import build

    tokens = _corpus(400_000)
    model, _, _ = _trained_gpt2(seed, tokens, context=context, width=width, layers=layers, steps=steps)
    report = measure_model(model, tokens[: 16 * context].view(16, context))
    free = report.allocate(multiple=1)
    for share in shares:
        dims = max(1, round(share * width / 4))
        flat = _of_one_size(free, dims, dims)
        best = report.allocate(multiple=1, budget=flat.parameters)
        even, found = (tuple((got.head_dim, got.value_dim) for got in made.layers) for made in (flat, best))
        for name, sizes in (("uniform", even), ("allocated", found), ("reversed", found[::-1])):
            tree = with_head_dims(report.tree, sizes)
            loss, stderr = train_language_model(build(tree, seed=seed), tokens, context=context, steps=steps, seed=seed)
            yield Scratch(name, share, sizes, tree.parameters, loss, stderr)


def with_head_dims(tree: Transformer, sizes: Sequence[tuple[int, int]]) -> Transformer:
    """A decoder with so many dimensions of queries and keys, and of values, in each of its layers.

    Raises
    ------
    InputError
        where there are not as many sizes as layers, or the model is no decoder alone.
    """
    stack = tree.decoder
    if stack is None or tree.encoder is not None or len(sizes) != tree.depth:
        raise InputError(f"{len(sizes)} head sizes are given to a model that is no decoder of {len(sizes)} layers")
    blocks = []
    for block, (head_dim, value_dim) in zip(stack.blocks(), sizes, strict=True):
        branch = block.attention.branch.replace(head_dim=head_dim, value_dim=value_dim)
        blocks.append(block.replace(attention=block.attention.replace(branch=branch)))
    return tree.replace(decoder=Stack.of(blocks, stack.norm, stack.position))


def head_allocation(
    shares: Sequence[float] = (0.5, 0.33, 0.2),
    context: int = 64,
    width: int = 96,
    layers: int = 4,
    steps: int = 600,
    seeds: int = 2,
    scratch_shares: Sequence[float] = (0.33, 0.2),
    scratch_seeds: int = 3,
) -> Iterator[Row]:
    """Is an allocation better than one head dimension for all layers, cut from a trained model and trained from scratch.

    Holds where the allocated loss is not above the uniform one by more than two standard errors over seeds, at every share and
    pair by pair. The column `predicted` of a cut's loss holds the predicted relative error, not a loss; of the parameters of a
    model from scratch, which may differ by 1 %, those of the uniform one.
    """
    size = {"context": context, "width": width, "layers": layers, "steps": steps}
    for seed in range(seeds):
        for name, share, dims, error, loss, stderr in cut_losses_of(seed, shares=shares, **size):
            where = {"setting": f"{name}, {share:g} of the dimensions", "length": context, "heads": 4, "head_dim": dims,
                     "seed": seed, "steps": steps}  # fmt: skip
            yield row("head-allocation", "loss", error, loss, stderr, **where)
    for seed in range(scratch_seeds):
        wanted: dict[float, int] = {}
        for found in scratch_losses_of(seed, shares=scratch_shares, **size):
            wanted.setdefault(found.share, found.parameters)  # the uniform one is first
            where = {"setting": f"{found.name} from scratch, {found.share:g} of the dimensions", "length": context, "heads": 4,
                     "head_dim": max(1, round(found.share * width / 4)), "seed": seed, "steps": steps}  # fmt: skip
            yield row("head-allocation", "loss", None, found.loss, found.stderr, **where)
            yield row("head-allocation", "parameters", wanted[found.share], found.parameters, None, **where)
            for layer, sizes in enumerate(found.dims if found.name == "allocated" else ()):
                for quantity, value in zip(("head_dim", "value_dim"), sizes, strict=True):
                    yield row("head-allocation", quantity, None, value, None, **where, layer=layer)


def attention_training(
    marks: Sequence[int] = (0, 50, 200, 600), context: int = 64, width: int = 96, layers: int = 4, seeds: int = 1
) -> Iterator[Row]:
    """A model while it trains: does a head's logit variance still say how concentrated it is.

    A GPT-2 on bytes is measured at these steps. Prediction: the softmax integrals at each head's own measured logit variance;
    what is tested is the Gaussian shape of its logits. Holds where the entropy's distance from uniform attention is within 20 %
    of the predicted one.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    from .heads import measure_model

    tokens = _corpus(400_000)
    batches = tokens[: 16 * context].view(16, context)
    rows = range(context // 2 + 1, context + 1)
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**_gpt2(context, width, layers)))
        done = 0
        for mark in marks:
            if mark > done:
                train_language_model(model, tokens, context=context, steps=mark - done, seed=seed + mark)
                done = mark
            found: list[list[tuple[float, float]]] = [[] for _ in range(layers)]
            for head in measure_model(model, batches).heads:
                theory = overlap([head.logit_std**2] * len(rows), list(rows)).entropy.mean()
                found[head.layer].append((float(theory), head.entropy))
            for layer, pairs in enumerate(found):
                predicted, measured = (math.fsum(pair[k] for pair in pairs) / len(pairs) for k in (0, 1))
                where = {"length": context, "heads": 4, "head_dim": width // 4, "layer": layer, "seed": seed, "steps": mark}
                yield row("attention-training", "entropy", predicted, measured, None, setting="gpt2 in training", **where)


def _of_one_size(allocation: Any, dims: int, value_dim: int) -> Any:
    """The same allocation with one head dimension and one value dimension in every layer, its parameters counted."""
    from dataclasses import replace

    layer = allocation.measured.tree.attention.replace(head_dim=dims, value_dim=value_dim)
    sizes = {"head_dim": dims, "value_dim": value_dim, "parameters": layer.parameters}
    return replace(allocation, layers=tuple(replace(got, **sizes) for got in allocation.layers))


EXPERIMENTS: dict[str, Callable[..., Iterator[Row]]] = {
    "head-saturation": head_saturation,
    "diffuse-saturation": diffuse_saturation,
    "head-split": head_split,
    "attention-entropy": attention_entropy,
    "attention-training": attention_training,
    "low-rank-bottleneck": low_rank_bottleneck,
    "head-allocation": head_allocation,
}


def main() -> None:
    """Run one experiment and write its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("seeds", "steps") if getattr(options, name) is not None}
    if options.experiment.startswith("attention") and "steps" in given:
        raise InputError(f"{options.experiment} takes no --steps")
    stamp = {"version": __version__, "torch": torch.__version__, "device": "cpu", "dtype": "float32",
             "date": datetime.date.today().isoformat()}  # fmt: skip
    waiting = options.out.with_suffix(".part")  # a table is there whole, or not at all
    with waiting.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*FIELDS, *stamp], lineterminator="\n")
        writer.writeheader()
        for found in EXPERIMENTS[options.experiment](**given):
            numbers = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in found.items()}
            writer.writerow(numbers | stamp)
            file.flush()
            print(*(f"{k}={v}" for k, v in numbers.items() if v is not None), file=sys.stderr)  # noqa: T201
    waiting.replace(options.out)


if __name__ == "__main__":
    main()
