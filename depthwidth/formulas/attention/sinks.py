"""Attention whose softmax has a sink: a trained term of the denominator without a key (gpt-oss)."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ..saturation._domains import SumP2
from ._domains import OURS, UNIT

SlopeShare = Annotated[Any, Domain(**UNIT, symbol="u_2", typical=(0.001, 0.06)), "E (S (1 - S))^2 of the share S of the keys"]
Plain = Annotated[
    Any,
    Domain(**UNIT, symbol="c", typical=(0.05, 0.9)),
    "second moment of the output without a sink, over that of a value; the same for the weighted mean of the keys",
]


@formula(
    kind="exact",
    source=OURS,
    status="derived",
    symbol="f_S",
    domain="exchangeable tokens; the share of the keys independent of how they divide it",
)
def sink_gradient(slope: SlopeShare, plain: Plain, P: SumP2) -> Any:
    r"""Gain of the gradient that moves the scores of a row together, through queries and keys.

    .. math:: f_S = u_2\, c\, (c + P)

    Derivation: docs/derivations/attention.md, (A20).

    Returns
    -------
    In units of the score variance times the gradient's second moment times the gain through the values.

    Examples
    --------
    >>> sink_gradient(0.04, 1.0, 1.0)  # a single key
    0.08
    """
    return slope * plain * (plain + P)
