"""The moments of a tensor at one site of a network, and of the gradient there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import InputError

if TYPE_CHECKING:
    from .initialization import Recipe


class Signal(NamedTuple):
    """Two uncentred moments per feature of a tensor whose tokens are exchangeable; a gradient has the same two.

    Uncentred, because behind a random linear map only these survive: a mean that all tokens share is part of the covariance.
    """

    second_moment: float
    """E[x_t^2]"""
    covariance: float
    """E[x_t x_t'] over two different tokens"""
    spread: Spread | None = None
    """How far both vary between draws of the weights at finite width; None where that is left out."""

    @property
    def correlation(self) -> float:
        """Covariance over second moment; 0 for a signal that is 0."""
        return self.covariance / self.second_moment if self.second_moment else 0.0

    def times(self, factor: float, pair_factor: float | None = None) -> Signal:
        """The signal with its second moment times `factor` and its covariance times `pair_factor`, the same by default."""
        return Signal(self.second_moment * factor, self.covariance * (factor if pair_factor is None else pair_factor))

    def scaled(self, factor: float) -> Signal:
        """The moments of `factor` times the tensor, its spread included."""
        spread = None if self.spread is None else Spread(*(factor**4 * part for part in self.spread))
        return Signal(factor**2 * self.second_moment, factor**2 * self.covariance, spread)

    def plus(self, other: Signal) -> Signal:
        """The sum of two independent signals."""
        return Signal(self.second_moment + other.second_moment, self.covariance + other.covariance)


class Spread(NamedTuple):
    """Variances over draws of the weights, for one pair of tokens, with q_t = x_t.x_t/d and c = x_t.x_t'/d of one draw."""

    second_moment: float
    """Var(q_t)"""
    second_moments: float
    """Cov(q_t, q_t')"""
    covariance: float
    """Cov(c, q_t)"""

    @classmethod
    def of_gaussian(cls, signal: Signal, width: int) -> Spread:
        """The spread of independent Gaussian features."""
        q, c = signal.second_moment, signal.covariance
        return cls(2 * q * q / width, 2 * c * c / width, 2 * q * c / width)


Pullback = Callable[[Signal], Signal]
"""From the gradient behind a component to the gradient in front of it."""


class Row(NamedTuple):
    """What is known of one site in one direction."""

    role: str
    layer: int | None
    direction: str
    mean: float
    second_moment: float
    covariance: float


@dataclass
class Walk:
    """One pass of moments through a tree: what is known on the way, and what is written down.

    `layer` is the block the walk is in, None outside the blocks. With `dropout` the network is in training mode.
    """

    recipe: Recipe
    length: int
    source_length: int
    dropout: bool = True
    finite_width: bool = True
    layer: int | None = None
    memory: Signal | None = None
    """The encoder's output, which cross-attention reads."""
    memory_gradient: Signal | None = None
    """What has come back to it so far; every decoder block adds its share."""
    rows: list[Row] = field(default_factory=list)
    tables: dict[Any, Any] = field(default_factory=dict)
    """Integrals tabulated for this walk."""


class Place:
    """A site of the tree during a walk: where a component finds its weights' variances and leaves its moments."""

    def __init__(self, walk: Walk, role: str) -> None:
        self.walk = walk
        self.role = role
        self._children: dict[str, Place] = {}
        self._weights: dict[str, Any] = {}

    def at(self, child: str) -> Place:
        """The place of a part; a part without a name stands at its owner's."""
        if not child:
            return self
        found = self._children.get(child)
        if found is None:
            role = f"{self.role}.{child}" if self.role else child
            found = self._children[child] = Place(self.walk, role)
        return found

    def variance(self, tensor: str) -> float:
        """Variance of one entry of a weight, its forward multiplier included."""
        found = self._weights.get(tensor)
        if found is None:
            given = self.walk.recipe.tensor(f"{self.role}.{tensor}")
            found = self._weights[tensor] = _product(given.std, given.multiplier)
        return self._here(found) ** 2

    def gain(self, offset: float = 0.0) -> float:
        """Mean square of a norm's gain, its forward multiplier included; the gain is stored as its difference from `offset`."""
        found = self._weights.get("gain")
        if found is None:
            given = self.walk.recipe.tensor(f"{self.role}.weight")
            means = _product(given.mean + offset, given.multiplier)
            found = self._weights["gain"] = (means, _product(given.std, given.multiplier))
        return self._here(found[0]) ** 2 + self._here(found[1]) ** 2

    def scales(self) -> tuple[float, float]:
        """The factors on a residual's skip path and branch."""
        found = self._weights.get("scales")
        if found is None:
            given = self.walk.recipe.residual(self.role)
            found = self._weights["scales"] = (given.skip, given.branch)
        return self._here(found[0]), self._here(found[1])

    def _here(self, value: Any) -> float:
        return float(value[self.walk.layer or 0] if isinstance(value, tuple) else value)

    def forward(self, signal: Signal, mean: float = 0.0) -> Signal:
        """Write down the signal that a component puts out here, and its mean over weights and inputs."""
        self.walk.rows.append(Row(self.role, self.walk.layer, "forward", mean, signal.second_moment, signal.covariance))
        return signal

    def traced(self, pull: Pullback) -> Pullback:
        """`pull`, writing down the gradient that arrives behind the component here."""
        layer = self.walk.layer

        def traced(gradient: Signal) -> Signal:
            self.walk.rows.append(Row(self.role, layer, "gradient", 0.0, gradient.second_moment, gradient.covariance))
            return pull(gradient)

        return traced


def _product(a: Any, b: Any) -> Any:
    """The product of two numbers, or of one number for each block."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        length = len(a) if isinstance(a, tuple) else len(b)
        each_a, each_b = (x if isinstance(x, tuple) else (x,) * length for x in (a, b))
        return tuple(x * y for x, y in zip(each_a, each_b, strict=True))
    return a * b


def check_signal(what: str, second_moment: float, correlation: float) -> Signal:
    """A signal from what a caller gives.

    Raises
    ------
    InputError
        if the second moment is not positive and finite, or the correlation not in [-1, 1].
    """
    if not 0 < second_moment < float("inf"):
        raise InputError(f"{what}: variance={second_moment} is not a positive number")
    if not -1 <= correlation <= 1:
        raise InputError(f"{what}: correlation={correlation} is outside [-1, 1]")
    return Signal(second_moment, second_moment * correlation)
