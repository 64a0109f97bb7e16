# mypy: disable-error-code="misc, no-any-return"
"""Attention: self or cross, with grouped queries, any mask and any position component."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.errors import InputError

from .base import Branch, Pass, apply_dropout, builds, module, optional, scale_by


class Mix(nn.Module):
    """Softmax attention itself: queries, keys and values in, mixed values out. It has no weights; probes read it."""

    heads_apart = True
    """Its output keeps a dimension for the heads: (batch, heads, length, dim)."""
    fused = True
    """Its weights are those of torch's fused kernels, which take over if nothing but scores decides them."""
    settings: ClassVar = {"score_softcap": "softcap"}

    def __init__(self, scale: float, softcap: float | None, dropout: float) -> None:
        super().__init__()
        self.scale, self.softcap, self.rate = scale, softcap, dropout

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        causal: bool,
        sinks: Tensor | None = None,
        more: Callable[[Tensor], Tensor | None] | None = None,
    ) -> Tensor:
        """Queries (batch, heads, length, dim); keys and values (batch, kv_heads, source, dim).

        `mask` is true for keys that a query sees, or a term of the scores; without a mask `causal` hides later keys. With
        `sinks` (heads,) the denominator of the softmax also includes their exponential. `more` maps the weights (batch, heads,
        length, source) to a term of the mixed values.
        """
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = (part[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for part in (k, v))
        rate = self.rate if self.training else 0.0
        if self.fused and sinks is None and more is None and self.softcap is None:
            if mask is not None and mask.dim() == 3:  # torch's fused kernel for processors refuses a mask of three dimensions
                mask = mask[None]
            return F.scaled_dot_product_attention(q, k, v, mask, rate, causal, scale=self.scale)
        weights = apply_dropout(self.weights(self.scores(q, k, mask, causal), sinks).to(v.dtype), rate, True)
        y, summand = weights @ v, None if more is None else more(weights)
        return y if summand is None else y + summand

    def weights(self, scores: Tensor, sinks: Tensor | None) -> Tensor:
        """Weights of the values, in float32 or finer: (batch, heads, length, source)."""
        keys = scores.shape[-1]
        if sinks is not None:
            scores = torch.cat((scores, sinks[None, :, None, None].expand(*scores.shape[:-1], 1)), dim=-1)
        return F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))[..., :keys]

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Scores (batch, heads, length, source), minus infinity for hidden keys; as many key heads as query heads."""
        scores = q @ k.transpose(-2, -1) * self.scale
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is None:
            return scores
        return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


@builds(layers.Attention)
class Attention(Branch):
    """Multi-head attention: self or cross, grouped queries, any mask and any position component.

    If `clip` is given, queries and keys (after their norms) and values are clipped to [-clip, clip] (OLMo). The tree does not
    hold it.
    """

    clip: float | None = None
    late_norms = False
    """True if queries and keys are normalised after their rotation (Hunyuan)."""
    temperature: tuple[float, float] | None = None
    """If given, a rate b and a length n: without positions the query at p, from 1 on, is multiplied by
    1 + b log(1 + floor(p / n)) (Llama 4)."""
    settings: ClassVar = {"qkv_clip": "clip", "late_norms": "late_norms", "temperature": "temperature"}

    def __init__(self, layer: layers.Attention) -> None:
        super().__init__()
        self.layer = layer
        self.query, self.key, self.value = module(layer.query), module(layer.key), module(layer.value)
        self.query_norm, self.key_norm = optional(layer.query_norm), optional(layer.key_norm)
        self.value_norm: nn.Module | None = None  # of kinds of attention that have one
        self.position = optional(layer.position)
        if self.position is not None:
            self.position.causal = layer.causal
        self.mix = Mix(layer.head_dim**-0.5 if layer.scale is None else layer.scale, layer.softcap, layer.dropout)
        self.sinks = nn.Parameter(torch.empty(layer.heads)) if layer.sinks else None
        self.inner_norm = optional(layer.inner_norm)
        self.out = module(layer.out)
        # A norm without weights undoes a factor of its input.
        self.query.deferred = layer.query_norm is not None and not layer.query_norm.parameters

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        return self.out(self.joined(x, run))

    def joined(self, x: Tensor, run: Pass) -> Tensor:
        """The heads' outputs, joined and normalised if there is a norm of them: (batch, length, heads value_dim)."""
        layer, source = self.layer, x
        if layer.cross:
            if run.memory is None:
                raise InputError("cross-attention has no encoder output to attend to")
            source = run.memory
        q, k, v = self.query(x), self.key(source), self.value(source)
        query_norm, key_norm = (None, None) if self.late_norms else (self.query_norm, self.key_norm)
        q = split_heads(q, layer.heads, layer.head_dim, query_norm, layer.query_norm)
        k = split_heads(k, layer.kv_heads, layer.head_dim, key_norm, layer.key_norm)
        v = split_heads(v, layer.kv_heads, layer.value_dim, self.value_norm)
        if self.clip is not None:
            q, k, v = (part.clamp(-self.clip, self.clip) for part in (q, k, v))
        if self.query.deferred:
            q = scale_by(q, self.query.multiplier)
        if self.position is not None:
            q, k = self.position.encode(q, k, run)
        elif self.temperature is not None:
            rate, near = self.temperature
            position = torch.arange(1, q.shape[-2] + 1, device=q.device)
            q = q * (1 + rate * torch.log1p(torch.floor(position / near)))[:, None].to(q.dtype)
        if self.late_norms and self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if not layer.cross:
            run.kept["keys and values", layer.window] = k, v
        mask, causal = (None, False) if layer.cross else self._mask(x.shape[1], q, run)
        y = self.mixed(q, k, v, mask, causal).transpose(1, 2).flatten(2)
        return y if self.inner_norm is None else self.inner_norm(y)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """The mixed values of each head, with the arguments of :class:`Mix`."""
        more = None
        if self.position is not None and self.position.pairwise:
            mask, causal, more = self._with_pairs(mask, causal, q), False, self.position.values
        return self.mix(q, k, v, mask, causal, self.sinks, more)

    def _with_pairs(self, mask: Tensor | None, causal: bool, q: Tensor) -> Tensor:
        """The mask as a term of the scores, including the positions' term for each query: (batch, heads, length, length)."""
        summand: Tensor = self.position.scores(q, self.mix.scale)  # type: ignore[union-attr]
        if causal:
            mask = torch.ones(summand.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is None:
            return summand
        return summand.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else summand + mask

    def _mask(self, length: int, q: Tensor, run: Pass) -> tuple[Tensor | None, bool]:
        """The mask for :class:`Mix`, or None; and True if the mask is the plain causal one."""
        layer = self.layer
        near = self._near(length)
        biased = run.bias is not None or (self.position is not None and self.position.biased)
        if near is None and not biased:
            return None, layer.causal
        # Blocks with equal positions that have no weights share one mask.
        position = layer.position if layer.position is None or not layer.position.parameters else id(self)
        key = ("mask", type(self), layer.causal, near, layer.heads, position)
        return run.table(key, functools.partial(self._build_mask, length, q, run)), False

    def _near(self, length: int) -> int | None:
        """The number of keys within which a query sees any, if it does not see all of `length`."""
        window = self.layer.window
        return window if window is not None and window < length else None

    def _seen(self, length: int, device: torch.device) -> Tensor:
        """True for the keys that a query sees: (length, length)."""
        position = torch.arange(length, device=device)
        distance, near = position[:, None] - position, self._near(length)
        seen = distance >= 0 if self.layer.causal else torch.ones_like(distance, dtype=torch.bool)
        return seen if near is None else seen & ((distance if self.layer.causal else distance.abs()) < near)

    def _build_mask(self, length: int, q: Tensor, run: Pass) -> Tensor:
        bias = run.bias
        if self.position is not None and self.position.biased:
            own = self.position.bias(self.layer.heads, length, self.mix.scale, q.device)
            between = self.position.between(run.segments)
            own = own if between is None else own + between
            bias = own if bias is None else bias + own
        if bias is not None and not self.layer.causal and self._near(length) is None:
            return bias.to(q.dtype)
        seen = self._seen(length, q.device)
        return seen if bias is None else bias.masked_fill(~seen, -torch.inf).to(q.dtype)


def split_heads(x: Tensor, heads: int, dim: int, norm: nn.Module | None = None, layer: layers.Norm | None = None) -> Tensor:
    """Features (batch, length, heads * dim) as (batch, heads, length, dim), normalised over all heads or over each."""
    whole = layer is not None and layer.width != dim
    if norm is not None and whole:
        x = norm(x)
    x = x.unflatten(-1, (heads, dim))
    return (x if norm is None or whole else norm(x)).transpose(1, 2)
