"""nanochat: a constant ratio of width to depth."""

from __future__ import annotations

from typing import Any

from ...formula import fitted, formula
from ._domains import Depth, Ratio, Width


@formula(kind="heuristic", source="nanochat, public code", status="primary", symbol="d_x", domain="small language models")
def nanochat_width(depth: Depth, ratio: Ratio = fitted("heuristics", "ratio", "nanochat")) -> Any:
    r"""Width that nanochat gives a model of this depth.

    .. math:: d_x = \rho L

    Returns
    -------
    Width in dimensions.

    Notes
    -----
    No derivation. The project's log finds a ratio of 128 worse than 64 at 1e18 training FLOPs.

    Examples
    --------
    >>> nanochat_width(12)
    768.0
    """
    return ratio * depth


@formula(kind="heuristic", source="nanochat, public code", status="primary", symbol="L", domain="small language models")
def nanochat_depth(width: Width, ratio: Ratio = fitted("heuristics", "ratio", "nanochat")) -> Any:
    r"""Depth that nanochat gives a model of this width: the inverse of :func:`nanochat_width`.

    .. math:: L = d_x / \rho

    Returns
    -------
    Depth in layers, not rounded.

    Examples
    --------
    >>> nanochat_depth(1536)
    24.0
    """
    return width / ratio
