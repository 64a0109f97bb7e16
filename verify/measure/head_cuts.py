"""Truncation of queries, keys and values to fewer dimensions: the best subspaces on the measured text, and the losses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from depthwidth.formulas import heads as laws
from depthwidth.layers.positions import positions_as
from depthwidth.layers.rotary import Rotary

from .head_forms import LayerForms, ValueForms


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def query_key_spectrum(
    queries: Tensor, keys: Tensor, cross: Tensor, value_variance: float, scale: float
) -> tuple[list[float], list[float]]:
    """Squared singular values of the whitened form, and the share of the values' variance that each key direction predicts."""
    _, s, vh = torch.linalg.svd(_root(queries) @ _root(keys))
    values, vectors = torch.linalg.eigh(keys)
    kept = values > 1e-10 * values.max().clamp(min=1e-300)
    inverse = (vectors[:, kept] / values[kept].sqrt()) @ vectors[:, kept].T
    images = cross @ inverse @ vh.T
    gains = (images * images).sum(0) / value_variance if value_variance > 0 else torch.zeros_like(s)
    return ((s * scale) ** 2).tolist(), gains.tolist()


def _sum_by_key(form: LayerForms) -> Tensor:
    """Second moments of the queries, summed over the query heads of each key head: (kv_heads, d_h, d_h)."""
    kv_heads, dims = form.keys.shape[:2]
    return form.queries.view(kv_heads, -1, dims, dims).sum(1)


def query_key_cuts(position: Any, form: LayerForms, rank: int) -> list[tuple[Tensor, Tensor]]:
    """For each key head the maps of queries and of keys, each (d_h, d_h) with at most `rank` columns that are not zero."""
    made = []
    rotary = positions_as(Rotary, position)
    for q, k in zip(_sum_by_key(form), form.keys, strict=True):
        if rotary is not None:
            mask = torch.diag(_kept_dimensions(_drop_order(q, k, rotary), len(q), rank).to(q.dtype))
            made.append((mask, mask))
            continue
        root_q, root_k = _root(q), _root(k)
        u, s, vh = torch.linalg.svd(root_q @ root_k)
        kept = min(rank, int((s > 1e-12 * s[0].clamp(min=1e-300)).sum()))
        to_q, to_k = torch.zeros_like(q), torch.zeros_like(k)
        to_q[:, :kept] = root_k @ vh.T[:, :kept] / s[:kept].sqrt()
        to_k[:, :kept] = root_q @ u[:, :kept] / s[:kept].sqrt()
        # Only the product of the maps matters, so both are given the same norm.
        balance = ((to_k**2).sum() / (to_q**2).sum().clamp(min=1e-300)) ** 0.25 if kept else torch.ones((), dtype=q.dtype)
        made.append((to_q * balance, to_k / balance))
    return made


def _drop_order(q: Tensor, k: Tensor, position: Rotary) -> list[list[int]]:
    """Units of dimensions in the order in which they are dropped: pairs of rotated dimensions, and single unrotated ones.

    Without a set S of dimensions the variance of the logits falls by the sum of q_ij k_ij over i and j in S. The next unit is
    always the one with the least additional loss per dimension.
    """
    dims = len(q)
    rotated = int(dims * position.fraction) // 2 * 2
    if position.interleaved:
        units = [[i, i + 1] for i in range(0, rotated, 2)]
    else:
        units = [[i, i + rotated // 2] for i in range(rotated // 2)]
    units += [[i] for i in range(rotated, dims)]
    product = q * k
    coupled, order = torch.zeros(dims, dtype=q.dtype), []
    while units:
        added = [float(product[u][:, u].sum() + 2 * coupled[u].sum()) / len(u) for u in units]
        unit = units.pop(min(range(len(units)), key=added.__getitem__))
        coupled = coupled + product[:, unit].sum(1)
        order.append(unit)
    return order


def _kept_dimensions(order: list[list[int]], dims: int, rank: int) -> Tensor:
    """Mask of the dimensions that are kept, shape (dims,): `rank` of them, or one fewer if only pairs remain to be dropped."""
    kept = torch.ones(dims, dtype=torch.bool)
    left = dims
    for unit in order:
        if left - len(unit) >= rank:
            kept[unit] = False
            left -= len(unit)
    if left > rank:
        kept[next(unit for unit in order if kept[unit[0]])] = False
    return kept


def cut_losses(position: Any, form: LayerForms) -> list[list[float]]:
    """For each key head, the fraction of the logits' variance that is lost by truncation to 0, 1, ..., d_h dimensions."""
    made = []
    rotary = positions_as(Rotary, position)
    for q, k in zip(_sum_by_key(form), form.keys, strict=True):
        whole = float((q * k).sum())
        if whole <= 0:
            made.append([0.0] * (len(q) + 1))
            continue
        if rotary is not None:
            order = _drop_order(q, k, rotary)
            gone = [~_kept_dimensions(order, len(q), rank) for rank in range(len(q) + 1)]
            losses = [max(0.0, float((q * k)[g][:, g].sum())) / whole for g in gone]
        else:
            s2 = torch.linalg.svdvals(_root(q) @ _root(k)) ** 2
            losses = [e / float(s2.sum()) for e in laws.readout_errors(s2.tolist())]
        made.append(losses)
    return made


def query_key_loss(form: LayerForms, maps: list[tuple[Tensor, Tensor]]) -> float:
    """Fraction of the logits' variance that is lost with the maps of :func:`query_key_cuts`, over all heads of the layer."""
    dims = form.keys.shape[-1]
    gone = whole = 0.0
    for q, k, (to_q, to_k) in zip(_sum_by_key(form), form.keys, maps, strict=True):
        rest = torch.eye(dims, dtype=q.dtype) - to_q @ to_k.T
        gone += float(torch.einsum("ij,jk,kl,il->", q, rest, k, rest))
        whole += float((q * k).sum())
    return gone / whole if whole else 0.0


class ValueCut(NamedTuple):
    """Truncation of the values of one key-value head: the map to fewer dimensions, and a map back per query head."""

    to: Tensor
    """Shape (d_v, d_v); the columns of removed dimensions are zero."""
    back: tuple[Tensor, ...]
    """One per query head, shape (d_v, d_v), with the same zero columns."""


def _value_bases(form: ValueForms, kv_heads: int) -> list[Tensor]:
    """For each key-value head, rows (at most d_v, d_v) that project its value on directions, most important first.

    Let C be the mean covariance of the outputs of its query heads and G the sum of their W_h' W_h. The squared singular values
    of the whitened map [W_h C^(1/2)] are the eigenvalues of C^(1/2) G C^(1/2).
    """
    heads = len(form.mixed)
    each = torch.arange(heads).view(kv_heads, -1)
    bases = []
    for own in each:
        root = _root(form.mixed[own, own].mean(0))
        gram = form.gram[own, own].sum(0)
        carried, vectors = torch.linalg.eigh(root @ gram @ root)
        carried, vectors = carried.flip(0), vectors.flip(1)
        kept = carried > 1e-13 * carried[0].clamp(min=1e-300)
        bases.append((vectors[:, kept] / carried[kept].sqrt()).T @ root @ gram)
    return bases


def value_cuts(form: ValueForms, kv_heads: int, rank: int, bases: Sequence[Tensor] | None = None) -> list[ValueCut]:
    """The truncation of every key-value head's value to `rank` dimensions."""
    heads, dims = form.means.shape
    each = torch.arange(heads).view(kv_heads, -1)
    made = []
    for own, rows in zip(each, _value_bases(form, kv_heads) if bases is None else bases, strict=True):
        read = rows[:rank]
        back = []
        for head in own:
            shared = form.mixed[head, head] @ read.T
            back.append(shared @ torch.linalg.pinv(read @ shared, hermitian=True, rtol=1e-12) if len(read) else shared)
        # Only the product of the maps matters, so each direction is given the same norm in both.
        balance = ((sum((b * b).sum(0) for b in back) + 1e-300) / ((read * read).sum(1) + 1e-300)) ** 0.25
        empty = read.new_zeros(dims, dims - len(read))
        made.append(ValueCut(torch.cat([read.T * balance, empty], 1), tuple(torch.cat([b / balance, empty], 1) for b in back)))
    return made


def residual_maps(cuts: Sequence[ValueCut]) -> Tensor:
    """For each head, the map from its output to the part that truncation removes: (heads, d_v, d_v)."""
    kept = torch.stack([back @ cut.to.T for cut in cuts for back in cut.back])
    return torch.eye(kept.shape[-1], dtype=kept.dtype) - kept


def value_loss(form: ValueForms, cuts: Sequence[ValueCut]) -> float:
    """Relative squared error of the layer's output after truncation, including the covariances between heads."""
    gone = residual_maps(cuts)
    whole = float((form.mixed * form.gram).sum())
    lost = float((gone[:, None] @ form.mixed @ gone[None].transpose(-1, -2) * form.gram).sum())
    return lost / whole if whole > 0 else 0.0


def value_loss_curve(form: ValueForms, kv_heads: int) -> Callable[[int], float]:
    """The :func:`value_loss` as a function of the number of value dimensions; results are cached."""
    bases = _value_bases(form, kv_heads)
    empty = float((form.mixed * form.gram).sum()) <= 0

    @functools.cache
    def lost(rank: int) -> float:
        if empty or rank >= form.means.shape[1]:
            return 0.0
        return value_loss(form, value_cuts(form, kv_heads, rank, bases)) if rank else 1.0

    return lost


def value_losses(form: ValueForms, kv_heads: int) -> list[float]:
    """Relative squared error of a layer's output with values truncated to 0, 1, ..., d_v dimensions.

    Exact on the calibration text if the layer's input and attention weights are unchanged.
    """
    return list(map(value_loss_curve(form, kv_heads), range(form.means.shape[1] + 1)))
