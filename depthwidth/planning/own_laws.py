"""The rule that follows from a law of one's own: its shapes of least loss, found on a grid of widths and sizes.

A law gives the loss in columns of runs. Along the shapes of one size, in parameters without embeddings, the width decides the
depth, so that one width has the least loss. It is found once on a grid, and interpolated between sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError, shown
from ..numerics.expressions import Node, read
from .policy import TOKENS_PER_PARAMETER

if TYPE_CHECKING:
    import numpy as np

Curve = Callable[[float], tuple[float, float]]

COLUMNS = ("width", "depth", "parameters", "non_embedding", "tokens")
"""Columns of the loss. A size stands for all parameters too, and tokens are those of a usual training."""
WIDTHS = (8.0, 1e6)
DEPTHS = (1.0, 1e5)
"""Shapes among which the least loss is sought; at an end of them there is none."""
SIZES = (1e4, 1e15)
GRID = 801
"""Widths of the grid, 1.5 % apart; the least loss between them is that of a parabola."""
PER_DECADE = 8
"""Sizes of the grid in a factor of ten, between which ln width is a straight line."""


class _Least(NamedTuple):
    """The widths of least loss at a run of sizes, in logarithms, each of shape (sizes,)."""

    sizes: np.ndarray
    widths: np.ndarray


class OwnLaw:
    """A law ``loss = EXPRESSION`` with numbers for its coefficients.

    Parameters
    ----------
    text : the law.
    values : its coefficients.

    Raises
    ------
    InputError
        if it cannot be read, gives no loss, needs another column than :data:`COLUMNS`, or has no shape of least loss.
    """

    def __init__(self, text: str, values: Mapping[str, float]) -> None:
        left, equals, right = text.partition("=")
        if not equals or left.strip() != "loss":
            raise InputError(
                f"a rule follows from a law of the loss, such as loss = E + A * width**-alpha, not from {shown(text)}"
            )
        self.text, self.node = text.strip(), read(right.strip())
        self.names = tuple(sorted(self.node.variables - set(COLUMNS)))
        missing = [name for name in self.names if name not in values]
        if missing:
            raise InputError(f"the law {shown(self.text)} needs {', '.join(missing)}, neither a coefficient nor a shape")
        self.values = {name: values[name] for name in self.names}
        if not {"width", "depth"} & self.node.variables:
            raise InputError(f"the law {shown(self.text)} mentions neither width nor depth: no shape has the least loss")

    def least(self, c: float, **moved: float) -> _Least:
        """The widths of least loss in blocks of c parameters per squared width, some coefficients moved.

        Raises
        ------
        InputError
            if there is none at any size.
        """
        import numpy as np

        decades = math.log10(SIZES[1] / SIZES[0])
        sizes = np.geomspace(*SIZES, round(PER_DECADE * decades) + 1)[:, None]
        logs = np.linspace(math.log(WIDTHS[0]), math.log(WIDTHS[1]), GRID)
        loss = _loss(self.node, {**self.values, **moved}, sizes, np.exp(logs)[None, :], c)
        depth = sizes / (c * np.exp(2 * logs)[None, :])
        # Shapes that are too deep or too shallow, and points at which the law is not a number, are excluded.
        loss = np.where(np.isfinite(loss) & (depth >= DEPTHS[0]) & (depth <= DEPTHS[1]), loss, np.inf)
        best = loss.argmin(axis=1)
        rows = np.arange(len(best))
        beside = [loss[rows, np.clip(best + step, 0, GRID - 1)] for step in (-1, 0, 1)]
        inside = (
            np.isfinite(beside).all(axis=0) & (best > 0) & (best < GRID - 1) & (beside[0] > beside[1]) & (beside[2] > beside[1])
        )
        if not inside.any():
            raise InputError(
                f"the law {shown(self.text)} has no shape of least loss from width {WIDTHS[0]:g} to {WIDTHS[1]:g} and depth "
                f"{DEPTHS[0]:g} to {DEPTHS[1]:g} at any size"
            )
        kept = _longest(inside)
        low, middle, high = (column[kept] for column in beside)
        shift = (low - high) / (low - 2 * middle + high) / 2
        return _Least(np.log(sizes[kept, 0]), logs[best[kept]] + shift * (logs[1] - logs[0]))

    def error(self, c: float, covariances: Mapping[tuple[str, str], float]) -> np.ndarray:
        """Standard error of ln of the best width at each size of :meth:`least`, shape (sizes,): to first order."""
        import numpy as np

        own = self.least(c)
        slopes, names = [], []
        for name in self.names:
            deviation = math.sqrt(max(0.0, covariances.get((name, name), 0.0)))
            if deviation == 0:
                continue
            step = 0.1 * deviation  # a law is no straight line over whole errors
            moved = [self.least(c, **{name: self.values[name] + sign * step}) for sign in (-1, 1)]
            ends = [np.interp(own.sizes, one.sizes, one.widths) for one in moved]
            slopes.append((ends[1] - ends[0]) / (2 * step))
            names.append(name)
        if not names:
            return np.zeros(len(own.sizes))
        matrix = np.array([[covariances.get((a, b), 0.0) for b in names] for a in names])
        variance = np.einsum("is,ij,js->s", np.array(slopes), matrix, np.array(slopes))
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def _longest(inside: np.ndarray) -> slice:
    """The longest run of true entries."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    at = int(np.argmax(ends - starts))
    return slice(int(starts[at]), int(ends[at]))


def _loss(node: Node, values: Mapping[str, float], sizes: Any, widths: Any, c: float) -> Any:
    import numpy as np

    columns = {
        "width": widths,
        "depth": sizes / (c * widths**2),
        "parameters": sizes,
        "non_embedding": sizes,
        "tokens": TOKENS_PER_PARAMETER * sizes,
    }
    given = {name: np.float64(value) for name, value in values.items()} | columns
    return np.broadcast_to(node(given), np.broadcast_shapes(sizes.shape, widths.shape)).astype(float)


def curve_of(least: _Least, c: float, shift: np.ndarray | None = None) -> Curve:
    """The curve through the shapes of least loss, with ln width moved by `shift` at each size.

    The curve raises InputError below its sizes, and OverflowError above them.
    """
    import numpy as np

    widths = least.widths if shift is None else least.widths + shift
    first, last = math.exp(least.sizes[0]), math.exp(least.sizes[-1])

    def curve(parameters: float) -> tuple[float, float]:
        if parameters < first:
            raise InputError("the law has no shape of least loss at so few parameters")
        if parameters > last:
            raise OverflowError("the law has no shape of least loss at so many parameters")
        width = math.exp(float(np.interp(math.log(parameters), least.sizes, widths)))
        return parameters / (c * width**2), width

    return curve
