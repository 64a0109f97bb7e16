"""The copies of the residual stream that the blocks of a stack keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..checks import check_whole
from .base import Layer, component

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, Pullback, Site

MOST_STREAMS = 1024
"""Most streams: their matrices are followed entry by entry, and a typing error must not fill the memory."""


@component
class Streams(Layer):
    """Copies of the residual stream, made before the first block and joined after the last.

    These are equal at the start, and their mean is read at the end. A subclass overrides :meth:`open` and :meth:`close`, and
    its torch module the methods of the same names.
    """

    count: int

    keeps_degree: ClassVar[bool] = False
    """True if making and joining the copies has no weights, nor any sum of different degrees. A subclass without it has
    :meth:`open_degree` and :meth:`close_degree` of its own, or unknown degrees."""

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, smallest=2, count=self.count)

    def outer_width(self, width: int) -> int:
        """Features of the stack's input and output, given those of a stream."""
        return width

    def open(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The moments of the copies, given those of the stem's output, and the map of a gradient back."""
        return x, lambda g: g

    def close(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The moments of the joined stream, given those of the last block's output, and the map of a gradient back."""
        return x, lambda g: g

    def open_degree(self, x: Powers, at: Place) -> Powers:
        """The powers that all copies have, given those of the stem's output."""
        return x if self.keeps_degree or type(self) is Streams else at.unknown(self, x)

    def close_degree(self, x: Powers, at: Place) -> Powers:
        """The powers of the joined stream, given those that all copies have after the last block."""
        return x if self.keeps_degree or type(self) is Streams else at.unknown(self, x)
