"""A torch module as a chain of matrices and ReLUs, if it is one: the networks of the margin bound and of path norms.

The linear maps are found in the order in which a forward pass calls them, with the batch norms after them, and the chain's
output is compared with the module's. A module that computes anything else differs there, whatever its code looks like.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depthwidth.errors import InputError

Array = Any
State = Mapping[str, Tensor]
AGREEMENT = 1e-4
"""Largest difference of the chain's outputs from the module's, relative to the largest output, in the module's precision."""
LINEAR = (nn.Linear,)
BATCH_NORMS = (nn.BatchNorm1d,)
NORMS = ("LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d")
"""Ends of the names of modules that divide by a statistic of their own input."""


class NoChain(Exception):  # noqa: N818, an answer rather than an error
    """The module is not a chain of matrices and ReLUs; the message gives the reason."""


@dataclass(frozen=True)
class Step:
    """A linear map, and the batch norms that scale its output."""

    linear: str
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """The maps of a chain, the first one first, by the names of their modules."""

    steps: tuple[Step, ...]
    epsilons: Mapping[str, float]
    """Of the batch norms."""

    @property
    def folded(self) -> bool:
        """True if batch norms are folded into matrices."""
        return any(step.norms for step in self.steps)

    def matrices(self, state: State) -> tuple[list[Array], list[Array | None]]:
        """Matrices (outputs, inputs) and biases of a state, with batch norms folded in, in doubles."""
        weights, biases = [], []
        for step in self.steps:
            place = f"{step.linear}." if step.linear else ""  # a model may be one linear map
            w, b = _array(state[f"{place}weight"]), state.get(f"{place}bias")
            bias = np.zeros(len(w)) if b is None else _array(b)
            for name in step.norms:
                deviation = np.sqrt(_array(state[f"{name}.running_var"]) + self.epsilons[name])
                gain = _array(state[f"{name}.weight"]) / deviation if f"{name}.weight" in state else 1 / deviation
                shift = _array(state[f"{name}.bias"]) if f"{name}.bias" in state else 0.0
                w, bias = gain[:, None] * w, gain * (bias - _array(state[f"{name}.running_mean"])) + shift
            weights.append(w)
            biases.append(bias if bias.any() else None)
        return weights, biases


def find_chain(model: nn.Module, inputs: Tensor) -> Chain:
    """The chain that a module in evaluation mode is.

    Parameters
    ----------
    model : the module.
    inputs : points on which both are compared, at the points themselves, their negatives and three times them.

    Raises
    ------
    NoChain
        if it is none.
    """
    _check_parts(model)
    if not inputs.is_floating_point():
        raise NoChain("its inputs are tokens: the theorem is for vectors that a chain of matrices and ReLUs reads")
    chain = _called(model, inputs[:2])
    state = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    weights, biases = chain.matrices(state)
    if any(after.shape[1] != w.shape[0] for w, after in itertools.pairwise(weights)):
        raise NoChain("its linear maps do not feed one another: it is no chain of matrices and ReLUs")
    few = inputs[:128]
    probes = torch.cat([few, -few, 3 * few])
    with torch.no_grad():
        theirs = model(probes)
    if not isinstance(theirs, Tensor) or probes.flatten(1).shape[1] != weights[0].shape[1]:
        raise NoChain("its first linear map does not read the whole input")
    ours = run_chain(weights, biases, _array(probes.flatten(1)))
    if ours.shape != tuple(theirs.shape) or np.abs(ours - _array(theirs)).max() > AGREEMENT * np.abs(ours).max():
        raise NoChain("its output is not that of a chain of its matrices with ReLUs between them")
    return chain


def run_chain(weights: list[Array], biases: list[Array | None], x: Array) -> Array:
    """The output of a chain, (points, outputs), at inputs (points, features)."""
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = x @ w.T if b is None else x @ w.T + b
        if i < len(weights) - 1:
            x = np.maximum(x, 0)
    return x


def _array(value: Tensor) -> Array:
    return value.detach().double().cpu().numpy()


def _check_parts(model: nn.Module) -> None:
    """Refuse a module with weights outside of linear maps and batch norms."""
    for name, part in model.named_modules():
        kind, place = type(part).__name__, f" at {name}" if name else ""
        if kind.endswith(NORMS):
            raise NoChain(
                f"it holds {kind}{place}: such a norm undoes any factor on the weights before it, so that one function has any "
                "product of norms; the PAC-Bayes bound of noisy weights holds for it"
            )
    for name, part in model.named_modules():
        if not isinstance(part, LINEAR + BATCH_NORMS) and next(part.parameters(recurse=False), None) is not None:
            place = f" at {name}" if name else ""
            raise NoChain(f"it holds {type(part).__name__}{place}: the theorem is for chains of matrices and ReLUs")


def _called(model: nn.Module, inputs: Tensor) -> Chain:
    """The linear maps and batch norms of a module in the order of a forward pass."""
    names = {part: name for name, part in model.named_modules()}
    calls: list[nn.Module] = []
    handles = [
        part.register_forward_hook(lambda part, args, out: calls.append(part))
        for part in names
        if isinstance(part, LINEAR + BATCH_NORMS)
    ]
    try:
        with torch.no_grad():
            model(inputs)
    except Exception as error:  # a model may raise anything for inputs of another shape
        raise InputError(f"capacity: {type(model).__name__} does not take these inputs: {str(error)[:160]}") from None
    finally:
        for handle in handles:
            handle.remove()
    if len(set(calls)) < len(calls) or len(calls) < len(handles):
        raise NoChain("a linear map of it is called twice or not at all")
    steps: list[Step] = []
    for part in calls:
        if isinstance(part, LINEAR):
            steps.append(Step(names[part]))
            continue
        if not steps or getattr(part, "running_var", None) is None:
            raise NoChain("it holds a batch norm that cannot be folded into a matrix before it")
        steps[-1] = Step(steps[-1].linear, (*steps[-1].norms, names[part]))
    if not steps:
        raise NoChain("it has no linear map")
    epsilons = {names[part]: float(getattr(part, "eps", 0.0)) for part in calls if isinstance(part, BATCH_NORMS)}
    return Chain(tuple(steps), epsilons)
