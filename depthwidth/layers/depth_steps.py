"""Steps along the depth of a stack: the distances of evaluated blocks, and the increments of the stream between them."""

from __future__ import annotations

from typing import Any

from ..numerics.interpolation import lagrange_weights

Array = Any

_KNOWN = 4
"""Number of evaluated blocks through which a polynomial, of one degree less, interpolates the increments of the stream."""


class Steps:
    """The lengths of the steps between evaluated blocks, from the errors of those before; an error is in tolerances."""

    def __init__(self) -> None:
        self.length = 1
        self._failures = 0
        self._rest = 0
        """Steps that must not be longer than the last one"""

    def halve(self, length: int) -> int:
        """Half of a length at which the error was too large. After many failures lengths grow again later."""
        self._failures += 1
        self._rest = min(2**self._failures, 16)
        self.length = length // 2
        return self.length

    def grow(self, length: int, error: float | None) -> None:
        """Set the length of the next step from the last one and its error; None for a step of one block."""
        if self._rest:
            self._rest -= 1
            self.length = length
        elif error is None:
            self.length = length + 1
        else:
            self._failures = 0
            self.length = int(length * min(2.0, 0.8 * max(error, 1e-9) ** (-1 / _KNOWN)))


class Increments:
    """The increments of the last few evaluated blocks, as a polynomial in ln(l + 1/2), l the blocks below."""

    def __init__(self, depth: int) -> None:
        self._logs = depth_variable(depth)
        self._known: list[tuple[int, Array]] = []

    def append(self, layer: int, added: Array) -> None:
        """Add the increment of one more block, and remove the oldest."""
        self._known = [*self._known[1 - _KNOWN :], (layer, added)]

    @property
    def blocks(self) -> list[int]:
        """Their blocks."""
        return [layer for layer, _ in self._known]

    def pop(self) -> None:
        """Remove the last increment."""
        self._known.pop()

    def between(self, low: int, high: int) -> Array:
        """Sum of the increments of the blocks after `low` and before `high`."""
        import numpy as np

        if high - low == 1:
            return 0.0
        layers, increments = zip(*self._known, strict=True)
        weights = np.array(lagrange_weights([self._logs[layer] for layer in layers], self._logs[low + 1 : high]))
        return weights.sum(axis=1) @ np.array(increments)


def depth_variable(depth: int) -> Array:
    """ln(l + 1/2) at each of N blocks: a variable in which the stream and the gradient are smooth."""
    import numpy as np

    return np.log(np.arange(depth) + 0.5)
