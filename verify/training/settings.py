"""Training settings: every number that the losses of a run depend on, apart from the model and the corpus."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depthwidth.errors import InputError, nearest, shown

OPTIMIZERS = ("adamw", "sgd", "scale-invariant")

SCHEDULES = ("cosine", "linear", "constant", "wsd")

_COUNTS = ("warmup", "evaluate_every", "evaluate_batches", "seed", "data_seed")

_SIZES = ("learning_rate", "weight_decay", "epsilon", "clip", "relative_clip", "diverged_above")

_FRACTIONS = ("beta1", "beta2", "momentum", "final", "cooldown")

_BELOW_ONE = ("beta1", "beta2")


@dataclass(frozen=True)
class Training:
    """Training settings. Together with the model and the corpus they determine the losses.

    Examples
    --------
    >>> Training(steps=100, precision="half")
    Traceback (most recent call last):
    depthwidth.errors.InputError: Training: precision='half' is not one of float32, bfloat16
    """

    steps: int = 1000
    """Number of weight updates."""
    batch: int = 32
    """Sequences per update, summed over all processes and micro-batches."""
    context: int = 128
    """Tokens per sequence."""
    micro_batch: int | None = None
    """Sequences per forward pass of one process; by default its whole share of the batch. Gradients of micro-batches are
    averaged."""
    optimizer: Literal["adamw", "sgd", "scale-invariant"] = "adamw"
    """``scale-invariant`` is SGD for scale-invariant weights and AdamW for all others, which groups tell apart
    (:func:`verify.training.scale_invariant.scale_invariant_groups`)."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    """Decoupled weight decay: each update subtracts this times the learning rate times the weights."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.0
    """Momentum of SGD; AdamW ignores it."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: int = 0
    """Number of updates over which the learning rate rises linearly."""
    final: float = 0.1
    """Learning rate at the end of the schedule, as a fraction of the peak."""
    cooldown: float = 0.2
    """Fraction of all updates over which ``wsd`` decays the learning rate."""
    clip: float | None = 1.0
    """Largest allowed norm of the gradient of all parameters together; None does not clip."""
    relative_clip: float | None = None
    """Largest allowed gradient norm relative to the weights: C in ``sqrt(2 C weight_decay / learning_rate)`` times the norm of
    the weights (:func:`verify.training.optim.clip`); None does not clip."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; weights, optimizer state and loss stay in float32."""
    compile: bool = False
    seed: int = 0
    """Seed of dropout and of all other random numbers drawn during training."""
    data_seed: int = 0
    """Seed of the choice and order of the windows read from the corpus."""
    evaluate_every: int = 0
    """Number of updates between evaluations; 0 evaluates at the end only."""
    evaluate_batches: int = 8
    """Number of batches per evaluation, of `batch` sequences each; 0 never evaluates."""
    diverged_above: float | None = None
    """Loss in nats per token above which a run counts as diverged; by default twice the first loss. NaN and infinity always
    count as diverged."""

    def __post_init__(self) -> None:
        for name, kind in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", ("float32", "bfloat16"))):
            value = getattr(self, name)
            if value not in kind:
                raise InputError(f"Training: {name}={shown(value)} is not one of {', '.join(kind)}{nearest(str(value), kind)}")
        optional = {"micro_batch", "clip", "relative_clip", "diverged_above"}
        for name, least in {
            **dict.fromkeys(("steps", "batch", "context", "micro_batch"), 1),
            **dict.fromkeys(_COUNTS, 0),
        }.items():
            value = getattr(self, name)
            valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not valid and not (value is None and name in optional):
                raise InputError(f"Training: {name}={shown(value)} is not a whole number from {least}")
        for name, most in {**dict.fromkeys(_SIZES, sys.float_info.max), **dict.fromkeys(_FRACTIONS, 1.0)}.items():
            value = getattr(self, name)
            valid = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most
            if not valid and not (value is None and name in optional):
                raise InputError(f"Training: {name}={shown(value)} is not a number from 0{' to 1' if most == 1 else ''}")
        for name in _BELOW_ONE:
            if getattr(self, name) == 1:
                raise InputError(f"Training: {name} must be below 1: with {name}=1 the running average never changes")
        for name in ("clip", "relative_clip"):
            if getattr(self, name) == 0:
                raise InputError(f"Training: {name}=0 sets every gradient to zero; use None to disable clipping")
        if self.relative_clip is not None and self.relative_clip <= 1:
            raise InputError(
                f"Training: relative_clip={shown(self.relative_clip)} is not above 1; at 1 the norm has no equilibrium"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain numbers and strings."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Training:
        """Settings from the result of :meth:`to_dict`.

        Raises
        ------
        InputError
            if a name is unknown or a value is invalid.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        for name in data:
            if name not in names:
                raise InputError(f"Training: there is no setting {shown(name)}{nearest(str(name), names)}")
        return cls(**data)
