"""The attention heads of a live model, ours or the transformers library's, and the norms of tokens that reach them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from depthwidth.analysis.head_capacity import HeadNorms, head_norms
from depthwidth.errors import InputError

from ...models.attention import Attention
from ...models.convert import from_hf
from ...models.model import Model
from .points import Points


class NoHeads(Exception):  # noqa: N818, an answer rather than an error
    """The heads of the model cannot be read; the message says why."""


def our_model(model: nn.Module) -> Model:
    """The model as ours, with copies of the weights of one of the transformers library.

    Raises
    ------
    NoHeads
        if no tree describes it.
    """
    if isinstance(model, Model):
        return model
    if not hasattr(model, "config"):
        raise NoHeads("attention heads are read in models of this package and of the transformers library")
    try:
        found = from_hf(model)
    except InputError as error:
        raise NoHeads(f"its heads are not read: {error}") from None
    if not isinstance(found, Model):
        raise NoHeads("it has two towers: measure each by itself")
    return found


def layer_heads(model: Model) -> dict[str, tuple[HeadNorms, ...]]:
    """The norms of all heads by attention layer, in the order of the blocks.

    Raises
    ------
    NoHeads
        if a layer's scores are not those of plain dot products.
    """
    found = {}
    for name, part in model.named_modules():
        if not isinstance(part, Attention):
            continue
        if type(part) is not Attention or part.layer.cross:
            raise NoHeads(f"{name} is no plain self-attention, for which alone the covering arguments are written")
        if part.query_norm is not None or part.inner_norm is not None:
            raise NoHeads(f"{name} normalises queries and keys or its output, which the covering arguments leave out")
        found[name] = _heads(name, part)
    if not found:
        raise NoHeads("it has no attention")
    return found


def _heads(site: str, part: Attention) -> tuple[HeadNorms, ...]:
    layer: Any = part.layer
    q, k, v, o = (_weight(one) for one in (part.query, part.key, part.value, part.out))
    group = layer.heads // layer.kv_heads
    dim, value_dim = layer.head_dim, layer.value_dim
    found = []
    for head in range(layer.heads):
        shared = head // group
        found.append(
            head_norms(
                site, head, q[head * dim : (head + 1) * dim], k[shared * dim : (shared + 1) * dim],
                v[shared * value_dim : (shared + 1) * value_dim], o[:, head * value_dim : (head + 1) * value_dim],
                part.mix.scale,
            )
        )  # fmt: skip
    return tuple(found)


def _weight(linear: nn.Module) -> Any:
    weight: Any = linear.weight
    factor: Any = getattr(linear, "multiplier", 1.0)
    return factor * weight.detach().double().cpu().numpy()


def input_norms(model: Model, points: Points | None, sites: Any) -> dict[str, float]:
    """The largest norm of a token at the input of each attention layer, on the data.

    Without data it is sqrt(width), as after a norm without a gain.
    """
    if points is None:
        return dict.fromkeys(sites, math.sqrt(model.tree.width))
    largest = dict.fromkeys(sites, 0.0)

    def keep(site: str) -> Any:
        def hook(part: nn.Module, args: Any) -> None:
            largest[site] = max(largest[site], float(args[0].detach().double().norm(dim=-1).max()))

        return hook

    handles = [model.get_submodule(site).register_forward_pre_hook(keep(site)) for site in sites]
    try:
        with torch.no_grad():
            for inputs in points.inputs.split(points.batch):
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return largest
