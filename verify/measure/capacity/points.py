"""The data of a measurement of capacity, and a model's logits, losses and margins on them at any weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from depthwidth.errors import InputError, shown
from depthwidth.numerics.network_norms import margins

from ...models.model import IGNORED

Parameters = Mapping[str, Tensor]
ROWS, SEQUENCES = 1024, 16
"""Points and sequences of a forward pass."""


@dataclass(frozen=True)
class Fit:
    """A model's fit to the data at its own weights."""

    loss: float
    """Mean cross-entropy over targets, in nats."""
    error: float
    """Share of targets with a margin of 0 or below."""
    margins: Any
    """One for each target."""
    input_norm: float | None
    """Largest 2-norm of an input; None for tokens."""


class Points:
    """A model with its data. A sample is a point, or a sequence of tokens, whose error is the mean over its targets.

    Parameters
    ----------
    model : any module in evaluation mode whose output is logits, (points, classes) or (sequences, length, classes): a tensor,
        the first of a tuple, or the ``logits`` of an output of the transformers library.
    data : inputs and targets; or tokens alone, (sequences, length), of a model that predicts the next one.
    """

    def __init__(self, model: nn.Module, data: Any, batch: int | None = None) -> None:
        self.model = model
        self.parameters = {name: one.detach() for name, one in model.named_parameters()}
        self.buffers = dict(model.named_buffers())
        place = next(iter(self.parameters.values())).device
        inputs, targets = _read(model, data)
        self.inputs, self.targets = inputs.to(place), targets.to(place)
        self.batch = (ROWS if self.targets.ndim == 1 else SEQUENCES) if batch is None else batch
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise InputError(f"capacity: batch={shown(batch)} is not a whole number from 1")
        self._check_output()

    @property
    def samples(self) -> int:
        """Points, or sequences: what may be independent."""
        return len(self.inputs)

    @property
    def counted(self) -> int:
        """Targets that are not left out."""
        return int((self.targets != IGNORED).sum())

    def _check_output(self) -> None:
        try:
            logits = self._logits(self.parameters, self.inputs[:1])
        except InputError:
            raise
        except Exception as error:  # a model may raise anything for inputs of another shape
            line = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"capacity: {type(self.model).__name__} does not take these inputs: {line[:160]}") from None
        if tuple(logits.shape[:-1]) != tuple(self.targets[:1].shape) or logits.ndim not in (2, 3):
            raise InputError(
                f"capacity: logits have shape {tuple(logits.shape)} and targets {tuple(self.targets[:1].shape)} for one "
                "sample, expected one vector of logits for each target"
            )
        known = self.targets[self.targets != IGNORED]
        if not 0 <= int(known.min()) <= int(known.max()) < logits.shape[-1]:
            raise InputError(
                f"capacity: targets run from {int(known.min())} to {int(known.max())}, expected 0 to {logits.shape[-1] - 1}, "
                f"or {IGNORED} for positions that are left out"
            )

    def _logits(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        found = functional_call(self.model, {**self.buffers, **parameters}, (inputs,))
        found = getattr(found, "logits", found)
        if isinstance(found, (tuple, list)) and found:
            found = found[0]
        if not isinstance(found, Tensor):
            raise InputError(f"capacity: the output of {type(self.model).__name__} has no logits")
        return found

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.inputs.split(self.batch), self.targets.split(self.batch), strict=True)

    def fit(self) -> Fit:
        """The model's fit at its own weights."""
        of_points, loss = [], 0.0
        with torch.no_grad():
            for inputs, targets in self._parts():
                logits = self._logits(self.parameters, inputs)
                loss += float(_losses(logits, targets))
                keep = targets != IGNORED
                of_points.append(margins(logits[keep].double().cpu().numpy(), targets[keep].cpu().numpy()))
        found = np.concatenate(of_points)
        norm = None
        if self.inputs.is_floating_point():
            norm = float(self.inputs.flatten(1).double().norm(dim=1).max())
        return Fit(loss / self.counted, float(np.mean(found <= 0)), found, norm)

    def loss(self, parameters: Parameters) -> float:
        """Mean cross-entropy at other weights."""
        with torch.no_grad():
            return float(sum(_losses(self._logits(parameters, x), y) for x, y in self._parts())) / self.counted

    def loss_and_gradient(self, parameters: Parameters) -> tuple[float, dict[str, Tensor]]:
        """Mean cross-entropy at other weights, and its gradient."""
        free = {name: one.detach().requires_grad_() for name, one in parameters.items()}
        total, sums = 0.0, {name: torch.zeros_like(one) for name, one in free.items()}
        for inputs, targets in self._parts():
            loss = _losses(self._logits(free, inputs), targets)
            for name, one in zip(free, torch.autograd.grad(loss, list(free.values()), allow_unused=True), strict=True):
                if one is not None:
                    sums[name] += one
            total += float(loss.detach())
        return total / self.counted, {name: one / self.counted for name, one in sums.items()}

    def errors(self, parameters: Parameters) -> float:
        """Mean over samples of the share of wrong targets at other weights."""
        wrong = []
        with torch.no_grad():
            for inputs, targets in self._parts():
                logits = self._logits(parameters, inputs)
                keep = (targets != IGNORED).double()
                false = (logits.argmax(-1) != targets).double() * keep
                wrong.append(false if targets.ndim == 1 else false.sum(1) / keep.sum(1).clamp(min=1))
        return float(torch.cat(wrong).mean())


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def _read(model: nn.Module, data: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets, after the checks that need no output of the model."""
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(one, "shape") for one in data):
        inputs, targets = (torch.as_tensor(one) for one in data)
    elif hasattr(data, "shape"):
        inputs, targets = _next_tokens(model, torch.as_tensor(data))
    else:
        raise InputError("capacity: data is neither a pair of inputs and targets nor tokens (sequences, length)")
    if targets.is_floating_point() or targets.ndim not in (1, 2):
        raise InputError(
            f"capacity: targets have shape {tuple(targets.shape)} and type {targets.dtype}, expected whole numbers"
        )
    if len(inputs) != len(targets):
        raise InputError(f"capacity: there are {len(inputs)} inputs and {len(targets)} targets")
    targets = targets.long()
    if len(inputs) < 2 or not (targets != IGNORED).any():
        raise InputError(f"capacity: the data have {len(inputs)} samples, expected 2 at least with a target")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        raise InputError("capacity: the inputs hold NaN or infinity")
    return inputs, targets


def _next_tokens(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and, as targets, those that follow. The last position has none."""
    if not _predicts_next(model):
        raise InputError(
            f"capacity: {type(model).__name__} is not known to predict the next token: give inputs and targets, with {IGNORED} "
            "for positions that are left out"
        )
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] < 2:
        raise InputError(f"capacity: tokens have shape {tuple(tokens.shape)}, expected (sequences, length) of whole numbers")
    return tokens[:, :-1], tokens[:, 1:]


def _predicts_next(model: nn.Module) -> bool:
    tree = getattr(model, "tree", None)
    if tree is not None:
        return bool(tree.kind == "decoder")
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
