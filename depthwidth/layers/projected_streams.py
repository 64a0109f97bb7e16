"""Copies of the stream made by matrices, and joined by others."""

from __future__ import annotations

from typing import Any

from ..checks import check_whole
from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site
from ..values import cached_property
from .base import Child, Run, component
from .linear import Linear
from .streams import Streams


@component
class ProjectedStreams(Streams):
    """All copies but the first are maps of the stem's output, rescaled to its root mean square (Gemma 3n).

    After the last block a map of each is rescaled to the root mean square of the first; the mean of all is the stream.
    """

    width: int

    floor = 1e-5
    """Least mean square by which a map's output is divided."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("ProjectedStreams", width=self.width)

    @cached_property
    def map(self) -> Linear:
        """The map of one copy."""
        return Linear(self.width, self.width, False)

    def children(self) -> tuple[Child, ...]:
        return tuple(Child(f"{name}_{copy}", self.map) for name in ("make", "join") for copy in range(self.count - 1))

    def open(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(f"{site.role}: the moments of several copies of the stream that differ are not derived")

    def open_degree(self, x: Powers, at: Place) -> Powers:
        return self._sized("make", x, at)

    def close_degree(self, x: Powers, at: Place) -> Powers:
        return self._sized("join", x, at)

    def _sized(self, name: str, x: Powers, at: Place) -> Powers:
        """The powers of maps of `x` that have its root mean square, so that no weight of theirs has a degree."""
        for copy in range(self.count - 1):
            place = at.at(f"{name}_{copy}")
            made = place.through(self.map, x)
            place.require(made, f"the mean square has a floor of {self.floor:g}", exact=False)
        return x

    def own_saved(self, run: Run) -> int:
        # The stem's output, the last block's copies, and at each end the outputs of the maps, which are rescaled.
        return run.positions * self.width * (3 * self.count - 1) * run.value_bytes
