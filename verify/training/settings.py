"""How a model is trained: every number that its losses depend on."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from depthwidth.errors import InputError, nearest, shown

SCHEDULES = ("cosine", "linear", "constant", "wsd")

_COUNTS = ("warmup", "evaluate_every", "evaluate_batches", "seed", "data_seed")

_SIZES = ("learning_rate", "weight_decay", "epsilon", "clip", "relative_clip", "diverged_above")

_FRACTIONS = ("beta1", "beta2", "momentum", "final", "cooldown")

_BELOW_ONE = ("beta1", "beta2")


@dataclass(frozen=True)
class Training:
    """How a model is trained: with the model and the corpus, all that its losses depend on.

    Examples
    --------
    >>> Training(steps=100, precision="half")
    Traceback (most recent call last):
    depthwidth.errors.InputError: Training: precision='half' is not one of float32, bfloat16
    """

    steps: int = 1000
    """Updates of the weights."""
    batch: int = 32
    """Sequences an update, over all processes and micro-batches together."""
    context: int = 128
    """Tokens a sequence."""
    micro_batch: int | None = None
    """Sequences a process takes at once; by default all of its share. Gradients of its micro-batches are averaged."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    """Times the learning rate, off the weights, at each update."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.0
    """Of SGD."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: int = 0
    """Updates over which the learning rate rises."""
    final: float = 0.1
    """Of the learning rate, what remains at the end."""
    cooldown: float = 0.2
    """Of the updates, those over which ``wsd`` falls."""
    clip: float | None = 1.0
    """Longest gradient, all parameters together."""
    relative_clip: float | None = None
    """Longest gradient, as C in ``sqrt(2 C weight_decay / learning_rate)`` norms of the weights
    (:func:`verify.training.optim.clip`)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products; weights, optimizer and loss are float32."""
    compile: bool = False
    seed: int = 0
    """Of dropout and whatever else draws at random."""
    data_seed: int = 0
    """Of which windows are read, and when."""
    evaluate_every: int = 0
    """Updates between two evaluations; 0 evaluates at the end only."""
    evaluate_batches: int = 8
    """Of `batch` sequences each; 0 never evaluates."""
    diverged_above: float | None = None
    """Loss in nats from which a run counts as diverged; by default twice the first one. NaN and infinity always do."""

    def __post_init__(self) -> None:
        for name, kind in (("optimizer", ("adamw", "sgd")), ("schedule", SCHEDULES), ("precision", ("float32", "bfloat16"))):
            value = getattr(self, name)
            if value not in kind:
                raise InputError(f"Training: {name}={shown(value)} is not one of {', '.join(kind)}{nearest(str(value), kind)}")
        optional = {"micro_batch", "clip", "relative_clip", "diverged_above"}
        for name, least in {
            **dict.fromkeys(("steps", "batch", "context", "micro_batch"), 1),
            **dict.fromkeys(_COUNTS, 0),
        }.items():
            value = getattr(self, name)
            right = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not right and not (value is None and name in optional):
                raise InputError(f"Training: {name}={shown(value)} is not a whole number from {least}")
        for name, most in {**dict.fromkeys(_SIZES, sys.float_info.max), **dict.fromkeys(_FRACTIONS, 1.0)}.items():
            value = getattr(self, name)
            right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most
            if not right and not (value is None and name in optional):
                raise InputError(f"Training: {name}={shown(value)} is not a number from 0{' to 1' if most == 1 else ''}")
        for name in _BELOW_ONE:
            if getattr(self, name) == 1:
                raise InputError(f"Training: {name}=1 would average nothing in; it is to be below 1")
        for name in ("clip", "relative_clip"):
            if getattr(self, name) == 0:
                raise InputError(f"Training: {name}=0 would stop every update; None clips nothing")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Training:
        """The way back from :meth:`to_dict`.

        Raises
        ------
        InputError
            if a name or value is not known.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        for name in data:
            if name not in names:
                raise InputError(f"Training: there is no {shown(name)}{nearest(str(name), names)}")
        return cls(**data)
