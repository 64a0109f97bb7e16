# mypy: disable-error-code="misc"
"""Training of scale-invariant weights: SGD, weight decay, relative global clipping (Li et al. 2022, arXiv 2202.00980).

:class:`RelativeClipSGD` is an optimizer for any model; :func:`clip_relative_to_weights` gives its clipping to any optimizer:

>>> import torch
>>> model = torch.nn.Linear(8, 8, bias=False)
>>> optimizer = RelativeClipSGD(model.parameters(), lr=0.1, weight_decay=0.01)
>>> _ = model(torch.ones(1, 8)).sum().backward()
>>> optimizer.step()

In :func:`verify.training.train.train` the recipe is ``Training(optimizer="scale-invariant", relative_clip=4, clip=None)`` with
the groups of :func:`scale_invariant_groups`: scale-invariant weights by SGD, all others by AdamW.

The laws of the norm are formulas (:mod:`depthwidth.formulas.scale_invariance`). At equilibrium ``|x|^4`` is
``eta sigma^2/(2 lambda)``: the paper prints lambda/eta in sections 2 and 4, and its own stationary point gives eta/lambda.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from depthwidth.errors import InputError, shown

from .settings import Training

Groups = list[dict[str, Any]]

RATIO = 4.0
"""The clipping constant C of the paper, whose square root is 2."""


def relative_scale(groups: Iterable[dict[str, Any]], ratio: float) -> Tensor | None:
    r"""Factor at most 1 that brings the gradient of all decaying weights together to ``sqrt(2 C lambda/eta) |x|``.

    Each weight enters with the lambda/eta of its own group, so that groups may differ:
    ``2 C sum of lambda_i/eta_i |x_i|^2`` is the square of the threshold. Nothing synchronises with the device.

    Parameters
    ----------
    groups : parameter groups with ``params``, ``lr`` and ``weight_decay``; weights without a gradient are left out.
    ratio : C. At C = 1 the threshold is the gradient norm that keeps the weights' norm as it is.

    Returns
    -------
    A tensor of shape (); None if no weight decays.
    """
    decaying = _decaying(groups)
    if not decaying:
        return None
    norms = torch.stack(torch._foreach_norm([weight.detach() for weight, _ in decaying]))
    rates = torch.tensor([rate for _, rate in decaying], dtype=norms.dtype, device=norms.device)
    limit = (2 * ratio) ** 0.5 * torch.linalg.vector_norm(norms * rates.sqrt())
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([weight.grad for weight, _ in decaying])))
    return (limit / length.clamp(min=1e-30)).clamp(max=1.0)


def scale_decaying(groups: Iterable[dict[str, Any]], ratio: float) -> Tensor | None:
    """Multiply the gradients of all decaying weights by :func:`relative_scale`, in place, and return it."""
    groups = list(groups)
    factor = relative_scale(groups, ratio)
    if factor is not None:
        torch._foreach_mul_([weight.grad for weight, _ in _decaying(groups)], factor)
    return factor


def _decaying(groups: Iterable[dict[str, Any]]) -> list[tuple[Tensor, float]]:
    """Weights with a gradient, a learning rate and weight decay, with lambda/eta."""
    return [
        (weight, float(group["weight_decay"] / group["lr"]))
        for group in groups
        if group["weight_decay"] > 0 and group["lr"] > 0
        for weight in group["params"]
        if weight.grad is not None
    ]


def clip_relative_to_weights(optimizer: torch.optim.Optimizer, ratio: float = RATIO) -> RemovableHandle:
    """Make every step of an optimizer clip the gradient at ``sqrt(2 C lambda/eta)`` times the norm of the weights first.

    One norm is that of all weights with weight decay together; the others are not clipped. ``optimizer.clipped`` counts the
    steps that were clipped, as a tensor.

    Parameters
    ----------
    optimizer : any optimizer whose groups have ``lr`` and ``weight_decay``.
    ratio : C, above 1.

    Returns
    -------
    A handle whose ``remove()`` ends the clipping.

    Raises
    ------
    InputError
        if `ratio` is not above 1, no group has weight decay, or all weights that decay are zero, which clipping would hold
        there; at a step, if it is given a closure, whose gradients come too late.
    """
    _check_ratio(ratio)
    decaying = [weight for group in optimizer.param_groups if group.get("weight_decay", 0) > 0 for weight in group["params"]]
    if not decaying:
        raise InputError("relative clipping needs weight decay: its threshold is sqrt(2 C weight_decay/lr) times a norm")
    if not any(bool(weight.detach().any()) for weight in decaying):
        raise InputError("relative clipping holds weights that are all zero at zero; draw them first")
    optimizer.clipped = torch.zeros((), dtype=torch.long, device=decaying[0].device)

    def clip_first(one: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(args[1:]) or kwargs.get("closure") is not None:
            raise InputError("relative clipping takes no closure: its gradients would come after the clipping")
        factor = scale_decaying(one.param_groups, ratio)
        if factor is not None:
            one.clipped += factor < 1

    return optimizer.register_step_pre_hook(clip_first)


def _check_ratio(ratio: float) -> None:
    if not 1 < ratio < float("inf"):
        raise InputError(f"the clipping constant {shown(ratio)} is not a number above 1; at 1 the norm has no equilibrium")


class RelativeClipSGD(torch.optim.SGD):
    """SGD with weight decay and relative global clipping, for weights whose scale does not matter.

    A step is ``x <- (1 - eta lambda) x - eta g min(1, N/|g|)`` with ``N = sqrt(2 C lambda/eta) |x|``: algorithm 1 of Li et al.
    2022, with one norm over all weights. With momentum alpha it is ``v <- alpha v + g + lambda x; x <- x - eta v``.

    Parameters
    ----------
    params : weights, or parameter groups with their own ``lr`` and ``weight_decay``.
    lr : learning rate eta, above 0; without units, per step.
    weight_decay : lambda, above 0: a step takes eta lambda of the weights.
    ratio : C, above 1, 4 in the paper; None does not clip.
    momentum : alpha, from 0 to below 1; the paper has none.
    options : of :class:`torch.optim.SGD`.

    Raises
    ------
    InputError
        if a number is out of range, or as :func:`clip_relative_to_weights`.

    Examples
    --------
    >>> x = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = RelativeClipSGD([x], lr=0.5, weight_decay=0.04)
    >>> x.grad = torch.tensor([-400.0, 300.0])  # its norm is cut to sqrt(2 * 4 * 0.04 / 0.5) * 5 = 4
    >>> optimizer.step()
    >>> [round(value, 4) for value in x.tolist()], int(optimizer.clipped)
    ([4.54, 2.72], 1)
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float,
        ratio: float | None = RATIO,
        momentum: float = 0.0,
        **options: Any,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 < value < float("inf"):
                raise InputError(f"RelativeClipSGD: {name}={shown(value)} is not a number above 0")
        if not 0 <= momentum < 1:
            raise InputError(f"RelativeClipSGD: momentum={shown(momentum)} is not a number from 0 to below 1")
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum, **options)
        if ratio is not None:
            clip_relative_to_weights(self, ratio)


class SplitOptimizer(torch.optim.Optimizer):
    """Several optimizers with separate parameters that step together, with the groups and the state of all."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for part in parts for group in part.param_groups], dict(parts[0].defaults))
        self.state: dict[Any, Any] = collections.defaultdict(dict)
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Step all of them.

        Raises
        ------
        InputError
            if a closure is given.
        """
        if closure is not None:
            raise InputError("SplitOptimizer: a closure would be evaluated by each of its optimizers")
        for part in self.parts:
            part.step()


def scale_invariant_groups(
    model: nn.Module,
    training: Training,
    invariant: Callable[[str], bool] | Sequence[str],
    rate: float | None = None,
    decay: float | None = None,
) -> Groups:
    """Parameter groups for ``Training(optimizer="scale-invariant")``: scale-invariant weights, and all others.

    Parameters
    ----------
    model : any module.
    training : its learning rate and weight decay are those of the scale-invariant weights.
    invariant : the names of scale-invariant weights: their prefixes, or a function that selects them.
    rate, decay : learning rate of all other weights, and weight decay of their matrices; by default as in `training`.

    Raises
    ------
    InputError
        if no trainable weight is scale invariant.
    """
    tells = invariant if callable(invariant) else (lambda name: name.startswith(tuple(invariant)))
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    inside = [weight for name, weight in trained if tells(name)]
    if not inside:
        raise InputError("scale_invariant_groups: no trainable weight has one of these names")
    rate = training.learning_rate if rate is None else rate
    decay = training.weight_decay if decay is None else decay
    matrices, vectors = ([w for name, w in trained if not tells(name) and (w.dim() >= 2) is flat] for flat in (True, False))
    groups: Groups = [
        {"params": inside, "lr": training.learning_rate, "weight_decay": training.weight_decay, "scale_invariant": True}
    ]
    others = ((matrices, decay), (vectors, 0.0))
    return groups + [{"params": params, "lr": rate, "weight_decay": own} for params, own in others if params]


def split_optimizer(training: Training, groups: Groups, fused: bool | None) -> torch.optim.Optimizer:
    """SGD for groups marked ``scale_invariant``, AdamW for all others.

    Raises
    ------
    InputError
        if no group is marked.
    """
    inside = [group for group in groups if group.get("scale_invariant")]
    outside = [group for group in groups if not group.get("scale_invariant")]
    if not inside:
        raise InputError("train: optimizer='scale-invariant' needs groups of scale-invariant weights: scale_invariant_groups()")
    parts: list[torch.optim.Optimizer] = [
        torch.optim.SGD(inside, lr=training.learning_rate, momentum=training.momentum, fused=fused)
    ]
    if outside:
        betas = (training.beta1, training.beta2)
        parts.append(torch.optim.AdamW(outside, lr=training.learning_rate, betas=betas, eps=training.epsilon, fused=fused))
    return SplitOptimizer(parts)
