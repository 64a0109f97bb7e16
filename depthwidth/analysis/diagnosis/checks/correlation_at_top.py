"""Rank collapse: the correlation of two tokens after the last block."""

from __future__ import annotations

from ..base import SEPARATED, Check, Finding, Thresholds, worst_stack
from ..network import Network

COLLAPSE = Thresholds(0.97, 1 - 1.6e-6, SEPARATED)
"""Gradients of queries are proportional to (1 - r)^2 (``attention.query_gradient_second_moment``; Noci et al. 2022, arXiv
2206.03126)."""


def correlation_at_top(network: Network, stack: str, depth: int) -> Finding | None:
    """The finding for one stack; None if its last block has no row."""
    row = network.at(f"{stack}.block.{depth - 1}")
    if row is None:
        return None
    r = float(row["covariance"] + row["mean"] ** 2) / float(row["second_moment"])
    left = (1 - r) ** 2
    sentence = f"two tokens have correlation {r:.4g} after the last block: queries and keys keep {left:.2g} of their gradient"
    return Finding("correlation_at_top", row["site"], r, COLLAPSE, sentence)


CHECK = Check(30, worst_stack(correlation_at_top))
