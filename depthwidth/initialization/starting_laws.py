"""Starting values that no normal law describes: decays, steps and shares of state-space mixers and of RWKV.

A law gives the values as a function of uniform random numbers, of a feature's place along the last dimension, and of the block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..values import frozen

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]


class _Kind(NamedTuple):
    """A kind of law."""

    words: str
    values: Callable[..., Any]
    """A function of uniform numbers, the last dimension's size, the block, the depth, and the law's numbers."""
    drawn: bool
    """True if the values are random; they then have the same distribution at each place."""
    by_block: bool = False
    """True if the values differ between blocks."""


def _log_integers(uniform: Array, size: int, block: int, depth: int) -> Any:
    import numpy as np

    return np.broadcast_to(np.log(np.arange(1.0, size + 1)), uniform.shape)


def _log_uniform(uniform: Array, size: int, block: int, depth: int, low: float, high: float) -> Any:
    import numpy as np

    return np.log(low + (high - low) * uniform)


def _log_even_steps(uniform: Array, size: int, block: int, depth: int, least: float, most: float, floor: float) -> Any:
    import numpy as np

    step = np.maximum(np.exp(uniform * (math.log(most) - math.log(least)) + math.log(least)), floor)
    return step + np.log(-np.expm1(-step))  # softplus makes the step of it again


def _shares(uniform: Array, size: int, block: int, depth: int, power: float, rise: float) -> Any:
    import numpy as np

    share = (np.arange(size) / size) ** (power * (1 - block / depth)) + rise * _progress(block, depth)
    return np.broadcast_to(share, uniform.shape)


def _decays(uniform: Array, size: int, block: int, depth: int) -> Any:
    import numpy as np

    place = np.arange(size) / max(size - 1, 1)
    return np.broadcast_to(-5 + 8 * place ** (0.7 + 1.3 * _progress(block, depth)), uniform.shape)


def _progress(block: int, depth: int) -> float:
    """From 0 in the first block to 1 in the last."""
    return block / max(depth - 1, 1)


_KINDS = {
    "log-integers": _Kind("the logarithms of 1, 2, ..", _log_integers, drawn=False),
    "log-uniform": _Kind("the logarithms of uniform numbers", _log_uniform, drawn=True),
    "steps": _Kind("steps of uniform logarithm, before softplus", _log_even_steps, drawn=True),
    "shares": _Kind("powers of a feature's place, by block", _shares, drawn=False, by_block=True),
    "decays": _Kind("powers of a feature's place from -5 to 3, by block", _decays, drawn=False, by_block=True),
}
_GRID = 20_000
"""Midpoints of a mean over uniform numbers: 1e-8 of means and standard deviations of a smooth law, 1e-5 with a floor."""


@frozen
class StartingLaw:
    """A law of starting values.

    Parameters
    ----------
    kind : ``log-integers``, ``log-uniform`` (least, largest), ``steps`` (least, largest, floor), ``shares`` (power, rise) or
        ``decays``.
    numbers : of the kind, in this order.
    """

    kind: str
    numbers: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InputError(f"StartingLaw: there is no kind {self.kind!r}; known are {', '.join(_KINDS)}")

    @property
    def words(self) -> str:
        """The law in one phrase."""
        return _KINDS[self.kind].words

    @property
    def by_block(self) -> bool:
        """True if the values differ between blocks."""
        return _KINDS[self.kind].by_block

    def values(self, uniform: Array, block: int, depth: int) -> Array:
        """The values from uniform numbers of the tensor's shape, in a block of a stack of `depth`."""
        found: Array = _KINDS[self.kind].values(uniform, uniform.shape[-1], block, depth, *self.numbers)
        return found

    def mean_and_std(self, size: int, block: int, depth: int) -> tuple[float, float]:
        """Mean and standard deviation over the entries of a tensor whose last dimension has this size."""
        return _mean_and_std(self, _GRID if _KINDS[self.kind].drawn else size, block, depth)


@lru_cache(maxsize=1024)
def _mean_and_std(law: StartingLaw, count: int, block: int, depth: int) -> tuple[float, float]:
    import numpy as np

    values = law.values((np.arange(count) + 0.5) / count, block, depth)
    return float(values.mean()), float(values.std())
