"""The numbers of a recipe that differ from block to block: where blocks may stand for others that are not evaluated.

The error of a step along the depth compares evaluated blocks alone. A block that differs from its neighbours would be passed
over without a trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..numerics.interpolation import lagrange_weights
from ..numerics.recursion import State, sampled_states

Array = Any

_SMOOTH = 1e-6
"""Largest deviation of a variance or a squared factor from its interpolation between evaluated blocks, relative to itself."""
_ROUGH = 3e-4
"""Largest deviation of a variance or a squared factor in a gap from a cubic through evaluated blocks, relative to itself."""
_AROUND = 8
"""Blocks on each side of a rough one that are evaluated too: a spline's waves fall to a quarter from block to block."""


def follow_from_few(along: Iterable[Array], times: int, reach: float) -> bool:
    """True if these numbers, one for each block, follow from those of the blocks that :func:`sampled_states` evaluates.

    Their sums are such a recursion, and its increments are interpolated as those of the stream are. `reach` is its largest
    step, relative to the depth there.
    """
    import numpy as np

    for values in along:

        def add(state: State, number: int, values: Array = values) -> State:
            return (state[0] + float(values[number]),)

        sums = sampled_states(add, (0.0,), times, reach)
        if sums is None or not (np.abs(np.diff(sums[:, 0]) - values[:-1]) <= _SMOOTH * values[:-1]).all():
            return False
    return True


class VaryingNumbers:
    """The variances and squared factors of a recipe that differ between blocks, and the gaps over which they are smooth."""

    def __init__(self, along: Iterable[tuple[float, ...]], last: int, logs: Array) -> None:
        """`last` is the last block that may lie in a gap; `logs` is the variable along the depth."""
        import numpy as np

        self._values = np.square([values[: last + 1] for values in along])
        self._logs = logs
        self._alone = np.zeros(last + 1, dtype=bool)
        if self._values.size and last > 3:
            nodes = [logs[k : last - 3 + k] for k in (0, 1, 3, 4)]
            weights = lagrange_weights(nodes, logs[2 : last - 1])
            middle = sum(w * self._values[:, k : last - 3 + k] for w, k in zip(weights, (0, 1, 3, 4), strict=True))
            for block in np.flatnonzero(self._rough(middle, slice(2, last - 1)).any(0)) + 2:
                self._alone[max(0, block - _AROUND) : block + _AROUND + 1] = True

    def _rough(self, found: Array, blocks: slice) -> Array:
        exact = self._values[:, blocks]
        return abs(found - exact) > _ROUGH * exact

    def shorten(self, evaluated: list[int], layer: int) -> int:
        """The end of a gap after the last evaluated block: `layer`, or a nearer block if numbers inside are not smooth."""
        import numpy as np

        before = evaluated[-1]
        while self._values.size and layer - before > 1:
            nodes, inside = [*evaluated[-3:], layer], slice(before + 1, layer)
            weights = np.array(lagrange_weights(self._logs[nodes].tolist(), self._logs[inside]))
            smooth = not self._rough(self._values[:, nodes] @ weights, inside).any()
            if smooth and not self._alone[before : layer + 1].any():
                break
            layer = before + (layer - before) // 2
        return layer
