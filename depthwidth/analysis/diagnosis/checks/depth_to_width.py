"""Validity of the predictions: depth over width, to whose first order they are correct."""

from __future__ import annotations

from collections.abc import Iterator

from ..base import OURS, Check, Finding, Thresholds
from ..network import Network

FIRST_ORDER = Thresholds(
    1.5,
    15.0,
    f"{OURS}: finite-width corrections were compared with simulations up to N/d = 1.5 (d = 128, N = 192), and up to 3.9 "
    "(d = 256, N = 1000) except in post-norm stacks without scales",
)
"""The first threshold is the largest ratio at which every kind of stack was simulated; the limit is ten times that."""


def depth_to_width(network: Network) -> Iterator[Finding]:
    """The finding for the deepest stack."""
    stack, depth = max(network.stacks, key=lambda pair: pair[1])
    ratio = depth / network.setting.tree.width
    sentence = f"depth over width is {ratio:.3g}; the predictions are accurate to first order in it"
    yield Finding("depth_to_width", stack, ratio, FIRST_ORDER, sentence)


CHECK = Check(90, depth_to_width)
