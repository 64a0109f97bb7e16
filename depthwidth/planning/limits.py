"""Limits that a caller sets on a shape: a depth, a width, a largest depth."""

from __future__ import annotations

import math

from ..checks import LARGEST, check_whole
from ..errors import InputError
from ..quantities import numbered
from ..values import frozen
from .template import Template


@frozen
class Limits:
    """Limits that a shape must keep, whatever the rule; without arguments there are none.

    Parameters
    ----------
    depth : the number of layers (of the decoder, in a model of two stacks).
    width : the width.
    layers_at_most : the largest number of layers.

    Raises
    ------
    InputError
        if a number is not positive and whole, or the limits contradict each other.
    """

    depth: int | None = None
    width: int | None = None
    layers_at_most: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in self._given() if value is not None}
        check_whole("plan", largest=LARGEST, **given)
        if self.depth is not None and self.layers_at_most is not None and self.depth > self.layers_at_most:
            raise InputError(f"plan: depth={self.depth} is more than layers_at_most={self.layers_at_most}")

    def _given(self) -> tuple[tuple[str, int | None], ...]:
        return ("depth", self.depth), ("width", self.width), ("layers_at_most", self.layers_at_most)

    @property
    def any(self) -> bool:
        """True if there is a limit."""
        return any(value is not None for _, value in self._given())

    def words(self) -> str:
        """The limits in words, as in ``24 layers``; empty if there is none."""
        parts = (
            numbered(self.depth, "layer") if self.depth is not None else "",
            f"width {self.width:,}" if self.width is not None else "",
            "at most " + numbered(self.layers_at_most, "layer") if self.layers_at_most is not None else "",
        )
        return " and ".join(filter(None, parts))

    def check(self, template: Template) -> None:
        """Refuse limits that no shape of a template meets.

        Raises
        ------
        InputError
            in one sentence.
        """
        least, stages = smallest_depth(template), template.pipeline
        if self.depth is not None and self.depth % stages:
            raise InputError(f"plan: depth={self.depth} cannot be divided evenly among pipeline={stages} stages")
        for name in ("depth", "layers_at_most"):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"plan: {name}={value} is below {least}, the fewest layers of this architecture")

    def depths(self, depth: float, template: Template) -> set[int]:
        """The allowed depths nearest to a continuous one, on either side."""
        if self.depth is not None:
            return {self.depth}
        stages, least = template.pipeline, smallest_depth(template)
        beside = {rounding(depth / stages) * stages for rounding in (math.floor, math.ceil)}
        return {self.within(max(least, found), stages) for found in beside}

    def within(self, depth: int, stages: int = 1) -> int:
        """A depth, or the largest allowed one if it is above."""
        return depth if self.layers_at_most is None else min(depth, self.layers_at_most // stages * stages)


def smallest_depth(template: Template) -> int:
    """The fewest layers of a template's pattern of blocks that divide among its stages."""
    return -(-template.least_depth // template.pipeline) * template.pipeline
