# mypy: disable-error-code="misc, no-any-return"
"""Attention: self or cross, with grouped queries, any mask and position."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.errors import InputError

from .base import Pass, Residual, _dropped, _optional, module
from .positions import ALiBi, Rotary


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


module.register(layers.Attention, Attention)
