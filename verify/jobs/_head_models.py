"""Small language models whose heads are measured, cut to fewer dimensions, or trained from scratch with other dimensions."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.layers import Residual, Stack

from ..training.settings import Training
from ..training.train import WithLoss, language_loss, train, validation_loss
from ._heads import CALIBRATION_SEQUENCES, calibration_rows, fresh_gpt2

if TYPE_CHECKING:
    from ..training.corpus import Corpus


def train_language_model(
    model: nn.Module, text: Corpus, training: Training, folder: Path | None, device: torch.device | str
) -> tuple[float, float | None]:
    """Train in place by :func:`verify.training.train.train`, and continue from the folder's last checkpoint.

    Returns
    -------
    Loss on the validation text, nats per token, infinite if it diverged; its standard error over batches of windows.
    """
    outcome = train(model, text, training, folder=folder, device=device, progress=False)
    if outcome.status == "diverged":
        return math.inf, None
    return _with_error(*outcome.evaluations[-1][1:])


def held_out_loss(model: nn.Module, text: Corpus, training: Training) -> tuple[float, float | None]:
    """Loss of a model on the validation text and its standard error; the text is on the model's device."""
    module = WithLoss(model, language_loss(model))
    return _with_error(*validation_loss(module, text, training.evaluate_batches, training.batch, training.context))


def _with_error(loss: float, error: float) -> tuple[float, float | None]:
    return loss, error if math.isfinite(error) else None


@dataclass(frozen=True)
class Setting:
    """A small language model whose heads are measured: its configuration, text and training."""

    config: Mapping[str, Any]
    """of a GPT-2: :func:`verify.jobs._heads.gpt2_config`"""
    text: Corpus
    training: Training
    """with its seeds, of which the first is also that of the weights"""
    folder: Path | None = None
    """for checkpoints; every training has its own folder in it"""
    device: torch.device | str = "cpu"

    def folder_of(self, name: str) -> Path | None:
        """The folder of one training."""
        return None if self.folder is None else self.folder / name

    def train_whole(self) -> tuple[Any, float, float | None]:
        """The trained model with all its dimensions, its loss and standard error.

        Raises
        ------
        InputError
            if it diverged.
        """
        model = fresh_gpt2(self.config, self.training.seed)
        loss, stderr = train_language_model(model, self.text, self.training, self.folder_of("whole"), self.device)
        if not math.isfinite(loss):
            raise InputError("the model whose heads were to be measured diverged in training")
        return model, loss, stderr

    def measure(self, model: Any) -> Any:
        """A report on the model's heads, measured on the first sequences of the text."""
        from ..measure.heads import measure_model

        return measure_model(model, calibration_rows(self.text, CALIBRATION_SEQUENCES, self.training.context))


Cut = tuple[str, float, int, float, float, float | None]


def cut_losses_of(setting: Setting, shares: Sequence[float]) -> Iterator[Cut]:
    """Train a GPT-2, measure it, and cut it four times to each share of its dimensions, all heads together.

    Yields (cut, share, dimensions, predicted relative error, loss, its standard error). The cut is "whole", "uniform" (one head
    dimension in every layer), "allocated" (the exact optimum over layers at no more parameters), and the last two again with
    values cut like queries and keys: "uniform with values", "allocated with values".
    """
    from ..measure.head_shrinking import shrink_heads

    model, loss, stderr = setting.train_whole()
    report = setting.measure(model)
    whole, layers = report.tree.head_dim, report.tree.depth
    yield "whole", 1.0, whole, 0.0, loss, stderr
    text = setting.text.to(setting.device)
    needs, free = report.needs(), report.allocate(multiple=1)
    for share in shares:
        dims = max(1, round(share * whole))
        for values, suffix in ((False, ""), (True, " with values")):
            flat = _of_one_size(free, dims, dims if values else whole)
            best = report.allocate(multiple=1, budget=flat.parameters, values=values)
            for name, made in (("uniform", flat), ("allocated", best)):
                other = copy.deepcopy(model)
                shrink_heads(other, made, report)
                error = math.fsum(n.error_of(got.head_dim, got.value_dim) for n, got in zip(needs, made.layers, strict=True))
                yield name + suffix, share, dims, error / layers, *held_out_loss(other, text, setting.training)


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
    stderr: float | None


def scratch_losses_of(setting: Setting, shares: Sequence[float]) -> Iterator[Scratch]:
    """Train small models from scratch, with one head dimension in every layer and with allocated ones, at equal parameters.

    The allocation comes from a GPT-2 with full heads, trained with the same seed and measured: query-key and value dimensions
    of each layer by the exact optimum under the uniform model's parameters. "reversed" is the control: the same dimensions with
    the layers in reverse order. All models start from the same seed and see the same batches.
    """
    from ..models.model import build

    model, _, _ = setting.train_whole()
    report = setting.measure(model)
    free = report.allocate(multiple=1)
    for share in shares:
        dims = max(1, round(share * report.tree.head_dim))
        flat = _of_one_size(free, dims, dims)
        best = report.allocate(multiple=1, budget=flat.parameters)
        even, found = (tuple((got.head_dim, got.value_dim) for got in made.layers) for made in (flat, best))
        for name, sizes in (("uniform", even), ("allocated", found), ("reversed", found[::-1])):
            tree = with_head_dims(report.tree, sizes)
            # The folder is named by the dimensions: on a GPU a second measurement may round to another allocation.
            place = setting.folder_of("-".join(f"{head_dim}.{value_dim}" for head_dim, value_dim in sizes))
            fresh = build(tree, seed=setting.training.seed)
            loss, stderr = train_language_model(fresh, setting.text, setting.training, place, setting.device)
            yield Scratch(name, share, sizes, tree.parameters, loss, stderr)


def with_head_dims(tree: Transformer, sizes: Sequence[tuple[int, int]]) -> Transformer:
    """A decoder with the given dimensions, of a query and key and of a value, in each of its layers.

    Raises
    ------
    InputError
        if the number of sizes is not that of the layers, or the model is not a decoder alone.
    """
    stack = tree.decoder
    if stack is None or tree.encoder is not None or len(sizes) != tree.depth:
        raise InputError(f"{len(sizes)} head sizes are given to a model that is no decoder of {len(sizes)} layers")
    blocks = []
    for block, (head_dim, value_dim) in zip(stack.blocks(), sizes, strict=True):
        blocks.append(block.replace_branches(functools.partial(_resized, head_dim=head_dim, value_dim=value_dim)))
    return tree.replace(decoder=Stack.of(blocks, stack.norm, stack.position))


def _resized(part: Residual, **sizes: int) -> Residual:
    """The residual with other sizes of heads, if its branch is attention."""
    if part.branch.as_attention is None:
        return part
    resized: Residual = part.replace(branch=part.branch.replace(**sizes))
    return resized


def _of_one_size(allocation: Any, dims: int, value_dim: int) -> Any:
    """The allocation with one head dimension and one value dimension in every layer, and its parameters."""
    layer = allocation.measured.tree.attention.replace(head_dim=dims, value_dim=value_dim)
    sizes = {"head_dim": dims, "value_dim": value_dim, "parameters": layer.parameters}
    return replace(allocation, layers=tuple(replace(got, **sizes) for got in allocation.layers))
