"""A live model, ours or the transformers library's, as one of ours, and the norms of tokens that reach its heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError

from ...models.convert import from_hf
from ...models.model import Model
from .points import Points


class NoHeads(Exception):  # noqa: N818, an answer rather than an error
    """The heads of the model cannot be read; the message gives the reason."""


def our_model(model: nn.Module) -> Model:
    """The model as ours, with copies of the weights of one of the transformers library.

    Raises
    ------
    NoHeads
        if no tree describes it.
    """
    own = _with_tree(model)
    if own is not None:
        return own
    if not hasattr(model, "config"):
        raise NoHeads("attention heads are read in models of this package and of the transformers library")
    try:
        found = from_hf(model)
    except InputError as error:
        raise NoHeads(f"its heads are not read: {error}") from None
    own = _with_tree(found)
    if own is None:
        raise NoHeads("it has two towers: measure each by itself")
    return own


def _with_tree(model: Any) -> Model | None:
    return model if isinstance(getattr(model, "tree", None), Transformer) else None


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
