"""Bootstrapped training of tree attention: layers turn from full attention to trees, and trees grow level by level.

Treeformer (arXiv 2208.09015) names its algorithm "2-D bootstrapping": of layers (width) and of levels (height). Its stages are
recalled and not known in detail; each stage continues with the weights of the one before, as a deeper tree keeps its nodes.

    outcome = train(model, corpus, training, stages=Bootstrap.two_way(height=3, layers=2, steps=training.steps))
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from depthwidth.checks import check_whole
from depthwidth.errors import InputError, shown

from ..models.tree_attention import set_heights

Heights = tuple[int | None, ...]
"""The active height of each layer of tree attention, in the order of the blocks; None for full attention."""


@dataclass(frozen=True)
class Bootstrap:
    """Active heights of the layers of tree attention over a training.

    Parameters
    ----------
    stages : the first update of each stage, and the heights from then on. The first stage begins with update 0.

    Raises
    ------
    InputError
        if there is no stage, the first does not begin with update 0, later ones do not follow, or they differ in their layers.

    Examples
    --------
    >>> schedule = Bootstrap.two_way(height=3, layers=2, steps=800, until=0.5)
    >>> schedule.stages
    ((0, (None, None)), (100, (None, 1)), (200, (1, 1)), (300, (2, 2)), (400, (3, 3)))
    >>> schedule.heights_at(250)
    (1, 1)
    """

    stages: tuple[tuple[int, Heights], ...]

    def __post_init__(self) -> None:
        firsts = [first for first, _ in self.stages]
        if not firsts or firsts[0] != 0 or any(one >= other for one, other in itertools.pairwise(firsts)):
            raise InputError(f"Bootstrap: stages that begin with the updates {shown(firsts)} are not 0 and increasing numbers")
        if len({len(heights) for _, heights in self.stages}) != 1:
            raise InputError("Bootstrap: the stages are for different numbers of layers")

    @classmethod
    def evenly(cls, heights: Sequence[Sequence[int | None]], steps: int, until: float = 0.75) -> Bootstrap:
        """Stages of equal length; the last begins at the fraction `until` of all steps.

        Raises
        ------
        InputError
            if there are more stages than updates before it.
        """
        check_whole("Bootstrap", steps=steps)
        if not 0 <= until <= 1:
            raise InputError(f"Bootstrap: until={until:g} is not a fraction from 0 to 1")
        growing = max(len(heights) - 1, 1)
        return cls(tuple((round(index * until * steps / growing), tuple(each)) for index, each in enumerate(heights)))

    @classmethod
    def by_height(cls, height: int, layers: int, steps: int, until: float = 0.75) -> Bootstrap:
        """All layers at once: full attention, then trees of 1, 2, .. levels."""
        check_whole("Bootstrap", height=height, layers=layers)
        return cls.evenly([(level or None,) * layers for level in range(height + 1)], steps, until)

    @classmethod
    def by_layer(cls, height: int, layers: int, steps: int, until: float = 0.75) -> Bootstrap:
        """Whole trees, one layer after another, from the last to the first."""
        check_whole("Bootstrap", height=height, layers=layers)
        return cls.evenly([_converted(height, layers, count) for count in range(layers + 1)], steps, until)

    @classmethod
    def two_way(cls, height: int, layers: int, steps: int, until: float = 0.75) -> Bootstrap:
        """Trees of one level, one layer after another from the last; then all grow level by level."""
        check_whole("Bootstrap", height=height, layers=layers)
        heights = [_converted(1, layers, count) for count in range(layers + 1)]
        return cls.evenly([*heights, *((level,) * layers for level in range(2, height + 1))], steps, until)

    def heights_at(self, step: int) -> Heights:
        """The heights in update number `step`."""
        return next(heights for first, heights in reversed(self.stages) if first <= step)

    def apply(self, model: nn.Module, step: int) -> None:
        """Set the heights of update number `step`.

        Raises
        ------
        InputError
            if the model has another number of layers of tree attention, or trees of fewer levels.
        """
        set_heights(model, self.heights_at(step))

    def to_dict(self) -> dict[str, Any]:
        """The stages as plain JSON."""
        return {"stages": [[first, list(heights)] for first, heights in self.stages]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Bootstrap:
        """The stages from the result of :meth:`to_dict`."""
        return cls(tuple((int(first), tuple(heights)) for first, heights in data["stages"]))


def _converted(height: int, layers: int, count: int) -> Heights:
    return (None,) * (layers - count) + (height,) * count
