"""One forward and backward pass of moments through a tree: the weight variances at each site, and the records of the pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..numerics.interpolation import Table, TableFamily
from .signal import AnySignal, Number, Pullback, Signal, TokenSignal

if TYPE_CHECKING:
    from .positions import Positions

Array = Any


class Record(NamedTuple):
    """The moments of one site in one direction; for a range of blocks, arrays over them."""

    role: str
    """The site's path without the block's number"""
    layer: int | range | None
    direction: str
    """``forward`` or ``gradient``"""
    mean: Number
    second_moment: Number
    covariance: Number
    spread: Number = math.nan
    """Relative standard deviation over draws of the weights of the second moment, mean over the tokens of a sequence"""


class GradientStep(NamedTuple):
    """One post-norm block's part in the spread over draws of the gradient's mean second moment and mean covariance.

    Deviations are in units of the second moment. Those at the block's input are the first four numbers times those at its
    output, and independent ones with the variances that follow.
    """

    own: Number
    """Of the second moment by itself"""
    own_by_pair: Number
    pair_by_own: Number
    pair: Number
    noise: Number
    """Variance of the second moment"""
    noise_of_both: Number
    """Its covariance with the mean covariance"""
    noise_of_pairs: Number

    def advance(self, spread: tuple[Number, Number, Number]) -> tuple[Number, Number, Number]:
        """Variance of the second moment, its covariance with the mean covariance, and the variance of that, at the input."""
        v, x, z = spread
        a, b, c, d, *noise = self
        return (
            a * a * v + 2 * a * b * x + b * b * z + noise[0],
            a * c * v + (a * d + b * c) * x + b * d * z + noise[1],
            c * c * v + 2 * c * d * x + d * d * z + noise[2],
        )


class StepRecord(NamedTuple):
    """A residual's part in the spread over draws of the gradient, for one block or a range of blocks."""

    role: str
    """The residual's path without the block's number"""
    layer: int | range
    step: GradientStep


class Scales(Protocol):
    """The members of a :class:`~depthwidth.initialization.Recipe` that a trace reads; an import would be circular."""

    def tensor(self, role: str, /) -> Any:
        """The start of one tensor: `std`, `mean` and `multiplier`, each a number or one for each block."""

    def residual(self, role: str, /) -> Any:
        """The factors `skip` and `branch` of one residual, each a number or one for each block."""

    def along_blocks(self, role: str, layers: range, /) -> tuple[tuple[float, ...], ...]:
        """The numbers under this role that differ between these blocks, one for each block."""


@dataclass
class Trace:
    """One pass of moments through a tree.

    Parameters
    ----------
    recipe : the variances of all weights and the residual scales.
    length, source_length : tokens of a sequence, and of the encoder's sequence.
    dropout : apply dropout, as in training.
    finite_width : propagate spreads and correct for them.
    positions : the positions whose moments are computed separately; None for exchangeable tokens.
    layer : the current block, or a range of blocks that are evaluated together as arrays; None outside the blocks.
    """

    recipe: Scales
    length: int
    source_length: int
    dropout: bool = True
    finite_width: bool = True
    positions: Positions | None = None
    layer: int | range | None = None
    score_bias: Any = None
    """The score bias that the blocks of the stack at work share, :class:`~depthwidth.layers.positions.BiasMoments`"""
    memory: AnySignal | None = None
    """The encoder's output, which cross-attention reads"""
    memory_gradient: AnySignal | None = None
    """The gradient at that output, to which every decoder block adds its contribution"""
    records: list[Record] = field(default_factory=list)
    families: dict[Any, TableFamily] = field(default_factory=dict)
    """The tables of this trace, see :meth:`family`"""
    gradient_steps: list[StepRecord] = field(default_factory=list)
    _diverted: BlockRecords | None = field(default=None, init=False)
    """The records of one block, inside :meth:`divert`"""
    silent: bool = False
    """True while nothing is recorded"""
    end: tuple[str, int] | None = None
    """The residual, by its path without the block's number, and the block, whose norm after the sum ends the stack; None if
    the stack ends otherwise"""

    def ends_at(self, role: str) -> Number:
        """1 if this residual of the current block ends the stack, otherwise 0; one number for each of several blocks."""
        if self.end is None or role != self.end[0]:
            return 0.0
        if isinstance(self.layer, range):
            import numpy as np

            return (np.array(self.layer) == self.end[1]).astype(float)
        return float(self.layer == self.end[1])

    def family(self, key: Any, make: Callable[[float], Table], step: float, same: float = 1e-6) -> TableFamily:
        """The :class:`~depthwidth.numerics.interpolation.TableFamily` of this key, private to this trace.

        The tables of a family depend on the order of requests, and the numbers of a trace must not depend on another trace.
        `make` may cache the tables themselves.
        """
        family = self.families.get(key)
        if family is None:
            family = self.families[key] = TableFamily(make, step, same)
        return family

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Record nothing inside this context."""
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before

    @contextmanager
    def divert(self) -> Iterator[BlockRecords]:
        """Record one block apart inside this context; the numbers are averaged at its end."""
        before = self._diverted
        self._diverted = found = BlockRecords()
        try:
            yield found
            found.average(self.length)
        finally:
            self._diverted = before

    def record(self, role: str, layer: int | range | None, direction: str, mean: Number, signal: AnySignal) -> None:
        """Record the moments of a site; of gradients that are side by side, those of the first."""
        if self.silent:
            return
        if self._diverted is not None:
            self._diverted.waiting.append((role, direction, mean, signal))
            return
        signal = signal.whole().first
        second, pair = signal.averages
        self.records.append(Record(role, layer, direction, _mean_of(signal, mean), second, pair, signal.deviation(self.length)))

    def record_gradient_step(self, role: str, layer: int | range, step: GradientStep) -> None:
        """Record a residual's part in the spread over draws of the gradient at its input."""
        found = self.gradient_steps if self._diverted is None else self._diverted.gradient_steps
        found.append(StepRecord(role, layer, step))

    def add_memory_gradient(self, gradient: AnySignal, layer: int | range | None) -> None:
        """Add the gradient of decoder block `layer`, or of each block of a range, with respect to the encoder's output."""
        if self.silent:
            return
        if isinstance(layer, range):
            gradient = Signal(float(gradient.second_moment.sum()), float(gradient.covariance.sum()))
        self.memory_gradient = gradient if self.memory_gradient is None else self.memory_gradient.plus(gradient)


class BlockRecords:
    """The records of one block, with their numbers in one array: those of many blocks are interpolated together."""

    sites: list[tuple[str, str]]
    """Role and direction of each record"""
    numbers: Array
    """Second moment, covariance, mean and spread of each record, as in :class:`Record`; (4, records)"""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, str, Number, AnySignal]] = []
        """Role, direction, mean and signal of each record before :meth:`average`"""
        self.gradient_steps: list[StepRecord] = []

    def average(self, length: int) -> None:
        """Average the signals over positions, in one product if all have the same ones, and drop them.

        `length` is that of a sequence.
        """
        import numpy as np

        signals = [signal.whole().first for *_, signal in self.waiting]
        shapes = {signal.covariance.shape if isinstance(signal, TokenSignal) else () for signal in signals}
        if len(shapes) != 1 or () in shapes:
            averages = [signal.averages for signal in signals]
        else:
            averages = signals[0].positions.averages_of([(signal.second_moment, signal.covariance) for signal in signals])
        self.numbers = np.array([
            (second, pair, _mean_of(signal, mean), signal.deviation(length))
            for signal, (second, pair), (_, _, mean, _) in zip(signals, averages, self.waiting, strict=True)
        ]).reshape(-1, 4).T  # fmt: skip
        self.sites = [(role, direction) for role, direction, *_ in self.waiting]
        self.waiting = []

    def with_numbers(self, numbers: Array) -> BlockRecords:
        """The same sites with other numbers."""
        found = BlockRecords()
        found.sites, found.numbers, found.gradient_steps = self.sites, numbers, self.gradient_steps
        return found


def _mean_of(signal: AnySignal, mean: Number) -> Number:
    """The mean of a site, averaged over positions."""
    return signal.positions.mean(mean) if isinstance(signal, TokenSignal) and not isinstance(mean, float) else mean


class Site:
    """A named place in the tree during a trace: a component reads its weights' variances and records its moments here."""

    def __init__(self, trace: Trace, role: str) -> None:
        self.trace = trace
        self.role = role
        self._children: dict[str, Site] = {}
        self._weights: dict[str, Any] = {}

    def at(self, child: str) -> Site:
        """The site of a part; a part without a name has its owner's site."""
        if not child:
            return self
        site = self._children.get(child)
        if site is None:
            role = f"{self.role}.{child}" if self.role else child
            site = self._children[child] = Site(self.trace, role)
        return site

    def variance(self, tensor: str) -> Number:
        """Variance of one entry of a weight, its forward multiplier included."""
        variance = self._weights.get(tensor)
        if variance is None:
            init = self.trace.recipe.tensor(f"{self.role}.{tensor}")
            variance = self._weights[tensor] = _square(_product(init.std, init.multiplier))
        return self.at_layer(variance)

    def gain(self, offset: float = 0.0, tensor: str = "weight") -> Number:
        """Mean square of a norm's gain, or of another factor on features, its forward multiplier included.

        The stored gain is the gain minus `offset`.
        """
        moments = self._weights.get(f"gain {tensor}")
        if moments is None:
            init = self.trace.recipe.tensor(f"{self.role}.{tensor}")
            means = _square(_product(init.mean + offset, init.multiplier))
            moments = self._weights[f"gain {tensor}"] = (means, _square(_product(init.std, init.multiplier)))
        return self.at_layer(moments[0]) + self.at_layer(moments[1])

    def scales(self) -> tuple[Number, Number]:
        """The factors on a residual's skip path and on its branch."""
        scales = self._weights.get("scales")
        if scales is None:
            residual = self.trace.recipe.residual(self.role)
            scales = self._weights["scales"] = (residual.skip, residual.branch)
        return self.at_layer(scales[0]), self.at_layer(scales[1])

    def at_layer(self, value: Any) -> Number:
        """A number of the block at work, given one for every block alike or one for each."""
        if not isinstance(value, tuple):
            return float(value)
        layer = self.trace.layer
        if isinstance(layer, range):
            import numpy as np

            return np.array(value[layer.start : layer.stop])
        return float(value[layer or 0])

    def record(self, signal: AnySignal, mean: Number = 0.0) -> Any:
        """Record the signal at a component's output here, and its mean over weights and inputs; return the signal."""
        if not self.trace.silent:
            self.trace.record(self.role, self.trace.layer, "forward", mean, signal)
        return signal

    def record_gradient(self, pull: Pullback) -> Pullback:
        """`pull`, after a record of the gradient at the component's output here."""
        layer = self.trace.layer

        trace, role = self.trace, self.role

        def record_and_pull(gradient: AnySignal) -> AnySignal:
            if not trace.silent:
                trace.record(role, layer, "gradient", 0.0, gradient)
            return pull(gradient)

        return record_and_pull


def _product(a: Any, b: Any) -> Any:
    """The product of two numbers, or of one number for each block."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        length = len(a) if isinstance(a, tuple) else len(b)
        each_a, each_b = (x if isinstance(x, tuple) else (x,) * length for x in (a, b))
        return tuple(x * y for x, y in zip(each_a, each_b, strict=True))
    return a * b


def _square(a: Any) -> Any:
    return tuple(x * x for x in a) if isinstance(a, tuple) else a * a
