# mypy: disable-error-code="misc, no-any-return"
"""A tree as a torch module: the same components, trained.

Each component of :mod:`depthwidth.layers` has one module here, registered with :func:`module`. Parameters are called by their
place in the tree, ``decoder.block.17.attention.query.weight``, so that recipes, probes and copied weights find them by name.

>>> from depthwidth import Transformer
>>> tree = Transformer(depth=2, width=32, heads=4, vocab=50, context=16)
>>> model = build(tree, seed=1)
>>> sum(p.numel() for p in model.parameters()) == tree.parameters
True
>>> tokens = torch.arange(16)[None]
>>> model(tokens).shape
torch.Size([1, 16, 50])
>>> logits, loss = model(tokens[:, :-1], tokens[:, 1:])
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError, shown
from depthwidth.formula import is_symbolic
from depthwidth.initialization import Recipe, at_block, parameters, stacks
from depthwidth.initialization import recipe as find_recipe

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016, arXiv 1606.08415
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
"""Those of :data:`depthwidth.layers.ACTIVATIONS`, as torch functions."""

IGNORED = -100
"""Target of positions that count for no loss."""


TRAINED_SCALES = ("rezero", "skipinit")
"""Schemes whose branch scale is where a trainable scalar starts."""


@functools.singledispatch
def module(layer: layers.Layer) -> nn.Module:
    """The module of one component. Register a new component with ``module.register(Component, Module)``.

    Raises
    ------
    InputError
        if no module is registered for the component.
    """
    raise InputError(f"{type(layer).__name__} has no torch module: register one with verify.models.model.module")


def _optional(layer: layers.Layer | None) -> nn.Module | None:
    return None if layer is None else module(layer)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else factor * x


def _dropped(x: Tensor, rate: float, training: bool) -> Tensor:
    return F.dropout(x, rate) if rate and training else x


# Linear maps, norms, tables. Their `multiplier` scales the output, as a recipe may want.


class _Unset:
    """For torch's modules that draw weights when they are made: a recipe sets ours."""

    def reset_parameters(self) -> None:
        """Nothing."""


class Linear(_Unset, nn.Linear):
    """``multiplier * (W x + b)``."""

    multiplier = 1.0

    def __init__(self, layer: layers.Linear) -> None:
        super().__init__(layer.inputs, layer.outputs, layer.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Features (..., inputs) to (..., outputs)."""
        return _scaled(super().forward(input), self.multiplier)


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension, with or without gain and bias."""

    multiplier = 1.0

    def __init__(self, layer: layers.LayerNorm) -> None:
        super().__init__()
        self.width, self.eps = layer.width, layer.eps
        self.weight = nn.Parameter(torch.empty(layer.width)) if layer.affine else None
        self.bias = nn.Parameter(torch.empty(layer.width)) if layer.affine and layer.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., width), normalised."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _scaled(F.layer_norm(x, (self.width,), weight, bias, self.eps), self.multiplier)


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension; with a unit offset the stored weights are the gain less one."""

    multiplier = 1.0

    def __init__(self, layer: layers.RMSNorm) -> None:
        super().__init__()
        self.width, self.eps, self.unit_offset = layer.width, layer.eps, layer.unit_offset
        self.weight = nn.Parameter(torch.empty(layer.width)) if layer.affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., width), normalised."""
        weight = self.weight
        if weight is not None:
            weight = (weight + 1 if self.unit_offset else weight).to(x.dtype)
        return _scaled(F.rms_norm(x, (self.width,), weight, self.eps), self.multiplier)


class Embedding(_Unset, nn.Embedding):
    """A table of vectors, one a token, position or segment."""

    multiplier = 1.0

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Numbers (...) to vectors (..., width)."""
        return _scaled(super().forward(input), self.multiplier)


# Positions.


class LearnedPositions(Embedding):
    """A vector for each position."""

    def __init__(self, layer: layers.LearnedPositions) -> None:
        super().__init__(layer.context + layer.offset, layer.width)
        self.context, self.offset = layer.context, layer.offset

    def at(self, length: int, width: int, device: torch.device) -> Tensor:
        """Vectors of the first positions: (length, width)."""
        if length > self.context:
            raise InputError(f"this model has {self.context} learned positions; a sequence of {length} is beyond them")
        return self(torch.arange(self.offset, self.offset + length, device=device))


class SinusoidalPositions(nn.Module):
    """Sines and cosines in turn, of wavelengths from 2 pi to 10000 * 2 pi (arXiv 1706.03762, section 3.5)."""

    def __init__(self, layer: layers.SinusoidalPositions) -> None:
        super().__init__()

    def at(self, length: int, width: int, device: torch.device) -> Tensor:
        """Vectors of the first positions: (length, width)."""
        angles = torch.outer(torch.arange(length, device=device).float(), _frequencies(10000.0, width + width % 2, device))
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


def _frequencies(base: float, dims: int, device: torch.device) -> Tensor:
    """base^(-2i / dims) for each pair i; of an odd number the last has no partner of its own."""
    return base ** (-torch.arange(0, dims, 2, device=device).float() / dims)


class Rotary(nn.Module):
    """Rotation of queries and keys by angles proportional to the position.

    The other attributes are for models that stretch their positions beyond the training length: `frequencies` and `amplitude`
    in place of the plain ones; `far_frequencies` for sequences longer than `near` (LongRoPE, arXiv 2402.13753); a base that
    grows with the length, by `growth` beyond `near` (dynamic NTK). Layers with the same `name` share them.
    """

    name = ""
    near: int | None = None
    growth: float | None = None

    def __init__(self, layer: layers.Rotary) -> None:
        super().__init__()
        self.layer = layer
        self.amplitude = 1.0
        self.register_buffer("frequencies", None, persistent=False)
        self.register_buffer("far_frequencies", None, persistent=False)

    def angles(self, length: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each position and pair: (length, pairs) each, float32."""
        near = length if self.near is None else self.near
        far = length > near
        frequencies = self.frequencies if not far or self.far_frequencies is None else self.far_frequencies
        if frequencies is None:
            base, turned = self.layer.base, int(self.layer.fraction * dim + 1e-6)  # a fraction of 3/10 is a little less
            if far and self.growth is not None:
                base *= (self.growth * length / near - self.growth + 1) ** (turned / (turned - 2))
            frequencies = _frequencies(base, turned, device)[: dim // 2]
        with torch.autocast(device.type, enabled=False):  # a position of 1000 has no bf16
            angles = torch.arange(length, device=device).float()[:, None] * frequencies.float()
        return angles.cos() * self.amplitude, angles.sin() * self.amplitude

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys (..., length, dim), rotated."""
        turned = 2 * cos.shape[-1]
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        if self.layer.interleaved:
            one, two = x[..., 0:turned:2], x[..., 1:turned:2]
            pairs = torch.stack((one * cos - two * sin, two * cos + one * sin), dim=-1).flatten(-2)
        else:
            one, two = x[..., : turned // 2], x[..., turned // 2 : turned]
            pairs = torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1)
        return pairs if turned == x.shape[-1] else torch.cat((pairs, x[..., turned:]), dim=-1)


class ALiBi(nn.Module):
    """A penalty on scores of ``slope * distance``, the slopes a geometric series over the heads (arXiv 2108.12409).

    Falcon scales the penalty like the scores, and computes it in bf16: `scale` and `coarse`.
    """

    scale = 1.0
    coarse = False

    def __init__(self, layer: layers.ALiBi) -> None:
        super().__init__()

    def slopes(self, heads: int, device: torch.device) -> Tensor:
        """One for each head."""
        return torch.tensor(layers.ALiBi().slopes(heads), device=device)

    def bias(self, heads: int, length: int, device: torch.device) -> Tensor:
        """What is added to scores: (heads, length, length)."""
        place = torch.arange(length, device=device)
        if self.coarse:  # of the key's place alone, from which causal softmax differs by a constant, but for the rounding
            penalty = self.slopes(heads, device).bfloat16()[:, None] * place
            return self.scale * penalty.float()[:, None].expand(-1, length, -1)
        distance = (place[:, None] - place).abs()
        return -self.scale * self.slopes(heads, device)[:, None, None] * distance


class RelativeBias(nn.Module):
    """A trainable score bias for each head and bucket of distances (T5)."""

    multiplier = 1.0
    causal = True

    def __init__(self, layer: layers.RelativeBias) -> None:
        super().__init__()
        self.max_distance = layer.max_distance
        self.weight = nn.Parameter(torch.empty(layer.buckets, layer.heads))

    def forward(self, length: int) -> Tensor:
        """What is added to scores: (heads, length, length)."""
        place = torch.arange(length, device=self.weight.device)
        table = self.weight[self.bucket(place - place[:, None])]
        return _scaled(table.permute(2, 0, 1), self.multiplier)

    def bucket(self, relative: Tensor) -> Tensor:
        """The bucket of a key's position less its query's: exact when near, logarithmic up to `max_distance`.

        Half of the buckets are for each direction where both are seen.
        """
        buckets = self.weight.shape[0]
        start = torch.zeros_like(relative)
        if self.causal:
            distance = (-relative).clamp(min=0)
        else:
            start = (relative > 0).long() * (buckets // 2)
            buckets = max(1, buckets // 2)
            distance = relative.abs()
        exact = max(1, buckets // 2)
        ratio = max(self.max_distance, exact + 1) / exact
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(ratio) * (buckets - exact)
        return start + torch.where(distance < exact, distance, (exact + far.long()).clamp(max=buckets - 1))


# Residual branches.


@dataclass
class Pass:
    """What the blocks of a stack share in one pass: another stack's output, a score bias, tables made once."""

    memory: Tensor | None = None
    bias: Tensor | None = None
    tables: dict[Hashable, Any] = field(default_factory=dict)

    def table(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The table of this key, made when it is first asked for."""
        if key not in self.tables:
            self.tables[key] = make()
        return self.tables[key]


class Residual(nn.Module):
    """``norm_stream(skip x + scale dropout(norm_out(branch(norm_in(x)))))``: what every branch is.

    A subclass says what `branch` does. `skip` and `scale` are a recipe's; a trainable `alpha` stands in place of `scale`
    where the recipe is ReZero's or SkipInit's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_module("norm_in", None)  # first, as a signal meets it
        self.norm_out: nn.Module | None = None
        self.norm_stream: nn.Module | None = None
        self.rate = 0.0
        self.skip = self.scale = 1.0
        self.register_parameter("alpha", None)

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """Features (batch, length, width) to what is added to the stream."""
        raise NotImplementedError

    def added(self, x: Tensor, run: Pass) -> Tensor:
        """What is added to the stream: the branch with its norms, dropout and scale."""
        y = self.branch(x if self.norm_in is None else self.norm_in(x), run)
        y = _dropped(y if self.norm_out is None else self.norm_out(y), self.rate, self.training)
        return _scaled(y, self.scale) if self.alpha is None else self.alpha * y

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) behind this branch."""
        y = _scaled(x, self.skip) + self.added(x, run)
        return y if self.norm_stream is None else self.norm_stream(y)


class Mix(nn.Module):
    """Softmax attention proper: queries, keys and values in, mixed values out. It has no weights; probes read it."""

    def __init__(self, scale: float, softcap: float | None, dropout: float) -> None:
        super().__init__()
        self.scale, self.softcap, self.rate = scale, softcap, dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Queries (batch, heads, length, dim); keys and values (batch, kv_heads, source, dim).

        `mask` says which keys a query sees, or what is added to scores; `causal` hides later keys without one.
        """
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = (part[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for part in (k, v))
        rate = self.rate if self.training else 0.0
        if self.softcap is None:
            return F.scaled_dot_product_attention(q, k, v, mask, rate, causal, scale=self.scale)
        weights = F.softmax(self.scores(q, k, mask, causal), dim=-1, dtype=torch.float32).to(v.dtype)
        return _dropped(weights, rate, True) @ v

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Scores (batch, heads, length, source), hidden ones minus infinity; keys as many as queries."""
        scores = q @ k.transpose(-2, -1) * self.scale
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is None:
            return scores
        return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


class Attention(Residual):
    """Multi-head attention: self or cross, grouped queries, any mask and position of the tree.

    Queries, keys and values are clipped to [-clip, clip] where it is given (OLMo; the tree does not hold it).
    """

    clip: float | None = None

    def __init__(self, layer: layers.Attention) -> None:
        super().__init__()
        self.layer = layer
        self.query, self.key, self.value = module(layer.query), module(layer.key), module(layer.value)
        self.query_norm, self.key_norm = _optional(layer.query_norm), _optional(layer.key_norm)
        self.position = _optional(layer.position)
        scale = layer.head_dim**-0.5 if layer.scale is None else layer.scale
        if isinstance(self.position, ALiBi) and isinstance(layer.position, layers.ALiBi) and layer.position.scaled:
            self.position.scale = scale
        self.mix = Mix(scale, layer.softcap, layer.dropout)
        self.out = module(layer.out)

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """Features (batch, length, width) to the same."""
        layer, source = self.layer, x
        if layer.cross:
            if run.memory is None:
                raise InputError("cross-attention has no encoder's output to attend to")
            source = run.memory
        q, k, v = self.query(x), self.key(source), self.value(source)
        if self.clip is not None:
            q, k, v = (part.clamp(-self.clip, self.clip) for part in (q, k, v))
        q = self._heads(q, layer.heads, layer.head_dim, self.query_norm)
        k = self._heads(k, layer.kv_heads, layer.head_dim, self.key_norm)
        v = self._heads(v, layer.kv_heads, layer.value_dim, None)
        if isinstance(self.position, Rotary):
            make = functools.partial(self.position.angles, x.shape[1], layer.head_dim, x.device)
            cos, sin = run.table(("rotary", self.position.name, layer.position, layer.head_dim), make)
            q, k = self.position.rotate(q, cos, sin), self.position.rotate(k, cos, sin)
        mask, causal = (None, False) if layer.cross else self._mask(x.shape[1], q, run)
        y = self.mix(q, k, v, mask, causal)
        return self.out(y.transpose(1, 2).flatten(2))

    @staticmethod
    def _heads(x: Tensor, heads: int, dim: int, norm: nn.Module | None) -> Tensor:
        """Features (batch, length, heads * dim) as (batch, heads, length, dim); a norm over all heads comes before."""
        whole = norm is not None and norm.width != dim
        x = norm(x) if whole and norm is not None else x
        x = x.unflatten(-1, (heads, dim))
        return (norm(x) if norm is not None and not whole else x).transpose(1, 2)

    def _mask(self, length: int, q: Tensor, run: Pass) -> tuple[Tensor | None, bool]:
        """What :class:`Mix` takes as mask and whether the plain causal one does."""
        layer = self.layer
        near = layer.causal and layer.window is not None and layer.window < length
        biased = run.bias is not None or isinstance(self.position, ALiBi)
        if not (near or biased):
            return None, layer.causal
        key = ("mask", layer.causal, layer.window if near else None, layer.heads, layer.position)
        return run.table(key, functools.partial(self._masked, length, near, q, run)), False

    def _masked(self, length: int, near: bool, q: Tensor, run: Pass) -> Tensor:
        place = torch.arange(length, device=q.device)
        distance = place[:, None] - place
        seen = distance >= 0 if self.layer.causal else torch.ones_like(distance, dtype=torch.bool)
        if near and self.layer.window is not None:
            seen = seen & (distance < self.layer.window)
        bias = run.bias
        if isinstance(self.position, ALiBi):
            penalty = self.position.bias(self.layer.heads, length, q.device)
            bias = penalty if bias is None else bias + penalty
        if bias is None:
            return seen
        return bias.masked_fill(~seen, -torch.inf).to(q.dtype)


class Activation(nn.Module):
    """``f(x)``, or ``f(gate) * x`` where there is a gate. It has no weights; probes read it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Hidden features, shape kept."""
        f = ACTIVATIONS[self.name]
        return f(x) if gate is None else f(gate) * x


class FeedForward(Residual):
    """Two maps with an activation between, or three with a gate."""

    def __init__(self, layer: layers.FeedForward) -> None:
        super().__init__()
        self.gate = _optional(layer.gate)
        self.up = module(layer.up)
        self.activation = Activation(layer.activation)
        self.hidden_rate = layer.dropout
        self.down = module(layer.down)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (..., width) to the same."""
        hidden = self.activation(self.up(x), None if self.gate is None else self.gate(x))
        return self.down(_dropped(hidden, self.hidden_rate, self.training))


class StackedLinear(nn.Module):
    """The same linear map for each expert, their weights stacked: (experts, outputs, inputs)."""

    multiplier = 1.0

    def __init__(self, layer: layers.Linear, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, layer.outputs, layer.inputs))
        self.bias = nn.Parameter(torch.empty(experts, layer.outputs)) if layer.bias else None

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Features (tokens, inputs) of the tokens of one expert to (tokens, outputs)."""
        y = F.linear(x, self.weight[expert], None if self.bias is None else self.bias[expert])
        return _scaled(y, self.multiplier)


class Experts(nn.Module):
    """Equal feed-forward parts, their weights stacked."""

    def __init__(self, layer: layers.FeedForward, experts: int) -> None:
        super().__init__()
        self.gate = None if layer.gate is None else StackedLinear(layer.gate, experts)
        self.up = StackedLinear(layer.up, experts)
        self.activation = Activation(layer.activation)
        self.rate = layer.dropout
        self.down = StackedLinear(layer.down, experts)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Features (tokens, width) of the tokens of one expert to the same."""
        hidden = self.activation(self.up(x, expert), None if self.gate is None else self.gate(x, expert))
        return self.down(_dropped(hidden, self.rate, self.training), expert)


class MixtureOfExperts(Residual):
    """Each token through the `top_k` experts its router scores highest, and through a shared part where there is one.

    The router's probabilities are divided by their sum over the chosen experts where the tree says `renormalized`. Which tokens
    go where is data, so that ``torch.compile`` breaks its graph here.
    """

    def __init__(self, layer: layers.MixtureOfExperts) -> None:
        super().__init__()
        self.experts, self.top_k, self.renormalized = layer.experts, layer.top_k, layer.renormalized
        self.router = module(layer.router)
        self.expert = Experts(layer.expert, layer.experts)
        self.shared_gate = module(layers.Linear(layer.expert.width, 1, bias=False)) if layer.shared_gate else None
        self.shared = FeedForward(layer.shared) if layer.shared is not None else None

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (..., width) to the same."""
        flat = x.flatten(0, -2)
        probabilities = F.softmax(self.router(flat), dim=-1, dtype=torch.float32)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.renormalized:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        y = torch.zeros_like(flat)
        for expert in range(self.experts):
            token, place = torch.where(chosen == expert)
            part = weights[token, place, None] * self.expert(flat[token], expert)
            y = y.index_add(0, token, part.to(y.dtype))
        if self.shared is not None:
            common = self.shared.branch(flat)
            y = y + (common if self.shared_gate is None else torch.sigmoid(self.shared_gate(flat)) * common)
        return y.view_as(x)


def _residual(layer: layers.Residual) -> Residual:
    made = module(layer.branch)
    if not isinstance(made, Residual):
        raise InputError(f"the module of {type(layer.branch).__name__} is not a Residual, so it cannot be a branch")
    made.norm_in, made.norm_out = _optional(layer.norm_in), _optional(layer.norm_out)
    made.norm_stream = _optional(layer.norm_stream)
    made.rate = layer.dropout
    return made


# Blocks and stacks.


class Block(nn.Module):
    """Attention, cross-attention where there is one, feed-forward; one after the other, or side by side.

    Branches side by side are added to the stream together; where they have norms for the stream, the sum goes through them in
    turn.
    """

    def __init__(self, layer: layers.Block) -> None:
        super().__init__()
        self.parallel = layer.parallel
        self.norm = _optional(layer.norm)
        self.attention = module(layer.attention)
        self.cross_attention = _optional(layer.cross_attention)
        self.feed_forward = module(layer.feed_forward)

    def branches(self) -> list[Residual]:
        """In the order a signal meets them."""
        present = (self.attention, self.cross_attention, self.feed_forward)
        return [branch for branch in present if isinstance(branch, Residual)]

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) behind this block."""
        branches = self.branches()
        if not self.parallel:
            for branch in branches:
                x = branch(x, run)
            return x
        y = x if self.norm is None else self.norm(x)
        x = _scaled(x, branches[0].skip)  # they state one skip
        for branch in branches:
            x = x + branch.added(y, run)
        for branch in branches:
            x = x if branch.norm_stream is None else branch.norm_stream(x)
        return x


class Stack(nn.Module):
    """The blocks of an encoder or a decoder and the norm behind them."""

    def __init__(self, layer: layers.Stack) -> None:
        super().__init__()
        self.position = _optional(layer.position)
        if isinstance(self.position, RelativeBias):
            first = layer.repeats[0].block.attention.branch
            self.position.causal = isinstance(first, layers.Attention) and first.causal
        self.block = nn.ModuleList(module(block) for block in layer.blocks())
        self.norm = _optional(layer.norm)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """The stream (batch, length, width), and that of another stack to attend to, to the last block's, normed."""
        run = Pass(memory, None if self.position is None else self.position(x.shape[1]))
        for block in self.block:
            x = block(x, run)
        return x if self.norm is None else self.norm(x)


# What turns tokens or images into the stream.


class TokenStem(nn.Module):
    """Token vectors, positions and segments added together; norm, dropout, projection."""

    def __init__(self, layer: layers.TokenStem) -> None:
        super().__init__()
        self.scale, self.rate = layer.scale, layer.dropout
        self.tokens = module(layer.tokens)
        self.positions = _optional(layer.positions)
        self.segments = _optional(layer.segments)
        self.norm = _optional(layer.norm)
        self.projection = _optional(layer.projection)
        # A narrow embedding is widened before what is as wide as the stream is added to it (OPT), otherwise at the end.
        parts = (layer.positions, layer.segments, layer.norm)
        widths = [part.width for part in parts if part is not None and hasattr(part, "width")]
        self.widened_first = layer.projection is not None and any(width != layer.tokens.width for width in widths)

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Tokens (batch, length), and segments of the same shape or none for all 0, to (batch, length, width)."""
        x = _scaled(self.tokens(tokens), self.scale)
        if self.projection is not None and self.widened_first:
            x = self.projection(x)
        if self.positions is not None:
            x = x + self.positions.at(x.shape[1], x.shape[2], x.device).to(x.dtype)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        x = _dropped(x if self.norm is None else self.norm(x), self.rate, self.training)
        return x if self.projection is None or self.widened_first else self.projection(x)


class Patches(_Unset, nn.Conv2d):
    """Square patches of an image, each mapped linearly to a vector."""

    multiplier = 1.0

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__(layer.channels, layer.width, layer.patch, stride=layer.patch, bias=layer.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Images (batch, channels, height, width) to (batch, patches, width)."""
        return _scaled(super().forward(input), self.multiplier).flatten(2).transpose(1, 2)


class PatchStem(nn.Module):
    """Patches of an image, a class token before them, learned positions added, dropout."""

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__()
        self.size, self.rate = (layer.channels, layer.height, layer.width_pixels), layer.dropout
        self.patch = Patches(layer)
        self.class_token = nn.Parameter(torch.empty(1, 1, layer.width)) if layer.class_token else None
        self.positions = nn.Parameter(torch.empty(1, layer.context, layer.width))
        self.multipliers: dict[str, float] = {}

    def forward(self, images: Tensor, segments: Tensor | None = None) -> Tensor:
        """Images (batch, channels, height, width) to (batch, tokens, width)."""
        if tuple(images.shape[1:]) != self.size:
            raise InputError(f"images of shape {list(images.shape[1:])} are given to a model of {list(self.size)}")
        x = self.patch(images)
        if self.class_token is not None:
            first = _scaled(self.class_token, self.multipliers.get("class_token", 1.0))
            x = torch.cat((first.expand(len(x), -1, -1).to(x.dtype), x), dim=1)
        x = x + _scaled(self.positions, self.multipliers.get("positions", 1.0))
        return _dropped(x, self.rate, self.training)


# Heads.


class Unembedding(nn.Module):
    """One logit for each token; a tied one has no matrix of its own and is given the embedding's."""

    multiplier = 1.0

    def __init__(self, layer: layers.Unembedding) -> None:
        super().__init__()
        self.weight = None if layer.tied else nn.Parameter(torch.empty(layer.vocab, layer.width))
        self.bias = nn.Parameter(torch.empty(layer.vocab)) if layer.bias else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (..., width) to logits (..., vocab)."""
        return _scaled(F.linear(x, embedding if self.weight is None else self.weight, self.bias), self.multiplier)


class LanguageHead(nn.Module):
    """Logits over the vocabulary, behind a transform where there is one.

    A transform with a norm is BERT's, with an activation between. A transform alone is a projection. `scale` multiplies the
    features (T5's tied head; the tree does not hold it).
    """

    scale = 1.0

    def __init__(self, layer: layers.LanguageHead) -> None:
        super().__init__()
        self.transform = _optional(layer.transform)
        self.activation = Activation(layer.activation) if layer.norm is not None and layer.transform is not None else None
        self.norm = _optional(layer.norm)
        self.unembedding = module(layer.unembedding)
        self.softcap = layer.softcap

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (batch, length, width) to logits (batch, length, vocab)."""
        if self.transform is not None:
            x = self.transform(x)
        if self.activation is not None:
            x = self.activation(x)
        if self.norm is not None:
            x = self.norm(x)
        logits = self.unembedding(_scaled(x, self.scale), embedding)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class Pooler(nn.Module):
    """A linear map and a tanh of the first token's features."""

    def __init__(self, layer: layers.Pooler) -> None:
        super().__init__()
        self.linear = module(layers.Linear(layer.width, layer.outputs))
        self.activation = Activation("tanh")

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to (batch, outputs)."""
        return self.activation(self.linear(x[:, 0]))


class ClassifierHead(nn.Module):
    """One logit for each class, read from the first token."""

    def __init__(self, layer: layers.ClassifierHead) -> None:
        super().__init__()
        self.pooler = _optional(layer.pooler)
        self.linear = module(layers.Linear(layer.width, layer.classes, layer.bias))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to logits (batch, classes)."""
        return self.linear(x[:, 0] if self.pooler is None else self.pooler(x))


# The whole.


class Model(nn.Module):
    """A transformer. Its ``tree`` says what it is; :func:`build` makes it."""

    def __init__(self, tree: Transformer) -> None:
        super().__init__()
        self.tree = tree
        self.stem = module(tree.stem)
        self.encoder = _optional(tree.encoder)
        self.decoder = _optional(tree.decoder)
        self.head = _optional(tree.head)

    def features(self, tokens: Tensor, source: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """The stream behind the last norm: (batch, length, width)."""
        if self.encoder is None or self.decoder is None:
            if source is not None:
                raise InputError("source has no meaning for a model of one stack")
            return (self.decoder or self.encoder)(self.stem(tokens, segments))
        if source is None:
            raise InputError("an encoder-decoder model takes source tokens besides its own: model(tokens, source=...)")
        memory = self.encoder(self.stem(source, segments))
        return self.decoder(self.stem(tokens), memory)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        source: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, and the loss where targets are given.

        Parameters
        ----------
        tokens : (batch, length) whole numbers; images (batch, channels, height, width) for a model of images.
        targets : of each position (batch, length), not shifted; -100 counts for nothing. A classifier's are (batch,).
        source : (batch, source length), what the encoder of an encoder-decoder model reads.
        segments : of `tokens` (of `source` where there is one), for a model that has them; all 0 by default.

        Returns
        -------
        Logits (batch, length, vocab) or (batch, classes); a model without a head gives its features. With `targets` also the
        cross-entropy in nats, averaged over the positions that count.
        """
        x = self.features(tokens, source, segments)
        logits = x if self.head is None else self.head(x, getattr(getattr(self.stem, "tokens", None), "weight", None))
        if targets is None:
            return logits
        if not isinstance(self.head, (LanguageHead, ClassifierHead)):
            raise InputError("targets need a model with a language head or a classifier")
        loss = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED)
        return logits, loss

    def express(self, recipe: Recipe | None) -> None:
        """Take the multipliers and residual scales of a recipe, or none; weights stay as they are.

        ReZero and SkipInit train a scalar for each branch, which is a parameter more than the tree has.
        """
        for name, role, block, _ in parameters(self.tree):
            multiplier = 1.0 if recipe is None else at_block(recipe.tensor(role).multiplier, block)
            place, _, leaf = name.rpartition(".")
            owner = self.get_submodule(place)
            if leaf == "weight":
                norm = getattr(self.get_submodule(place.rpartition(".")[0]), "query_norm", None)
                if place.endswith(".query") and norm is not None and norm.weight is None:
                    owner = norm  # a norm without weights would undo a factor in front of it
                owner.multiplier = multiplier
            elif isinstance(owner, PatchStem):
                owner.multipliers[leaf] = multiplier
        for stack, depth, branches in stacks(self.tree):
            for block in range(depth):
                for branch in branches:
                    self._scale(f"{stack}.block.{block}.{branch}", f"{stack}.block.{branch}", block, recipe)

    def _scale(self, place: str, role: str, block: int, recipe: Recipe | None) -> None:
        residual = getattr(self.get_submodule(place.rpartition(".")[0]), place.rpartition(".")[2])
        if residual is None:
            return
        line = None if recipe is None else recipe.residual(role)
        residual.skip = 1.0 if line is None else float(at_block(line.skip, block))
        residual.scale = 1.0 if line is None else float(at_block(line.branch, block))
        trained = recipe is not None and recipe.scheme in TRAINED_SCALES
        some = next(residual.parameters())
        residual.alpha = nn.Parameter(torch.full((), residual.scale, dtype=some.dtype, device=some.device)) if trained else None


for _component, _made in (
    (layers.Linear, Linear),
    (layers.LayerNorm, LayerNorm),
    (layers.RMSNorm, RMSNorm),
    (layers.LearnedPositions, LearnedPositions),
    (layers.SinusoidalPositions, SinusoidalPositions),
    (layers.Rotary, Rotary),
    (layers.ALiBi, ALiBi),
    (layers.RelativeBias, RelativeBias),
    (layers.Embedding, lambda layer: Embedding(layer.rows, layer.width)),
    (layers.Attention, Attention),
    (layers.FeedForward, FeedForward),
    (layers.MixtureOfExperts, MixtureOfExperts),
    (layers.Residual, _residual),
    (layers.Block, Block),
    (layers.Stack, Stack),
    (layers.TokenStem, TokenStem),
    (layers.PatchStem, PatchStem),
    (layers.Unembedding, Unembedding),
    (layers.LanguageHead, LanguageHead),
    (layers.Pooler, Pooler),
    (layers.ClassifierHead, ClassifierHead),
):
    module.register(_component, _made)


def build(
    tree: Transformer,
    recipe: Recipe | str | None = None,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Model:
    """The torch module of a tree, its weights set as a recipe says.

    Parameters
    ----------
    tree : any :class:`~depthwidth.Transformer` whose dimensions are numbers.
    recipe : a :class:`~depthwidth.Recipe` of this tree, or the name of a scheme; ``shipped`` by default. Its multipliers and
        residual scales stand in the modules and not in the weights.
    seed : of the weights; drawn from torch's global generator by default, so that ``torch.manual_seed`` decides.
    dtype, device : of the weights. On the device ``meta`` the model has shapes and no weights.

    Raises
    ------
    InputError
        if the tree has symbols for dimensions or a component without a module, or the recipe is for another tree.
    """
    if not isinstance(tree, Transformer):
        raise InputError(f"build: {shown(tree)} is not a Transformer")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise InputError(f"build: seed={shown(seed)} is not a whole number from 0")
    if any(is_symbolic(getattr(node.layer, one.name)) for node in tree.walk() for one in fields(node.layer)):
        raise InputError("build: a dimension of the tree is a symbol; give every dimension a number")
    with torch.device("meta"):
        model = Model(tree).to(dtype)
    where = torch.device("cpu" if device is None else device)
    if where.type != "meta":
        from .initialize import apply_init

        model.to_empty(device=where)
        if recipe is None or isinstance(recipe, str):
            recipe = find_recipe(tree, recipe or "shipped")
        apply_init(model, recipe, seed=int(torch.randint(2**31, ())) if seed is None else seed)
    return model
