"""Attention whose weights are the positive parts of its scores over their sum."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..signal import AnySignal, Pullback, Site
from .attention import Attention
from .base import component


@component
class ReluAttention(Attention):
    """``N(ReLU(Q K^T)) V``, N the division of each row by its sum (SIBERT: Li et al. 2022, arXiv 2202.00980).

    A positive factor on all scores leaves its attention weights unchanged: their degree of homogeneity is 0. Two
    decisions keep this exact:

    - a row without a positive score has weights of zero, and no gradient. n symmetric scores leave one with probability 2^-n
      (:func:`~depthwidth.formulas.scale_invariance.dead_row_probability`);
    - the sum has no epsilon, which would add a number of degree 0 to one of the scores' degree.

    It is for encoders: of a causal mask's first token, which sees itself alone, half the heads would have no weights.
    """

    takes_softmax = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.causal:
            raise InputError(
                "ReluAttention: it has no causal form, because half the heads of the first token would have no weights; "
                "use kind='encoder'"
            )
        if self.cross or self.sinks or self.softcap is not None:
            raise InputError("ReluAttention: it has neither a memory, sinks nor a soft cap")
        if self.position is not None and self.position.adds_scores:
            raise InputError(f"ReluAttention: {type(self.position).__name__} adds to scores, which then have no single degree")

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"attention_weights": "relu"}

    degree = Attention.degree

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused: the gradient has no second moment.

        Gaussian scores of a row have just two positive ones with probability n(n-1) 2^-(n+1). The mean square of the
        derivative by one of these is then 2/(3 pi r^2) at radius r, and its average over r dr diverges as a logarithm.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(
            f"{site.role}: the moments of attention by ReLU scores are not derived: rows with two positive scores near "
            "zero leave its gradient without a second moment"
        )
