"""A feed-forward part that cuts most of its hidden features to zero."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ..errors import InputError, shown
from ..formula import is_symbolic
from ..signal import AnySignal, Pullback, Site
from .base import Run, component
from .feed_forward import FeedForward


@component
class SparseFeedForward(FeedForward):
    """A feed-forward part whose activation reads ``relu(z - mean(z) - c std(z))`` in place of z (Gemma 3n).

    Mean and deviation are those over the hidden features of a token, and Phi(c) = `sparsity`: of Gaussian features this share
    is cut to zero. Operations are those of dense matrices, as the library computes them.
    """

    sparsity: float = field(kw_only=True)
    """Share of features that are cut, in (0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.sparsity, int | float) and not isinstance(self.sparsity, bool)
        if not is_symbolic(self.sparsity) and not (number and 0 < self.sparsity < 1):
            raise InputError(f"SparseFeedForward: sparsity={shown(self.sparsity)} is not in (0, 1)")

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"sparsity": self.sparsity}

    degree = FeedForward.degree  # the cut is proportional to the features

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(f"{site.role}: the moments of SparseFeedForward are not derived")

    def own_saved(self, run: Run) -> int:
        # In addition to those of the dense part: the features before the cut, from which their deviation is computed.
        return super().own_saved(run) + run.positions * self.hidden * run.value_bytes
