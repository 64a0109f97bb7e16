"""Branches lost to rounding: the size of the weakest branch's output relative to the stream it is added to."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ....architecture.number_formats import NumberFormat
from ..base import OURS, Check, Finding, Thresholds
from ..network import Network

STEPS_KEPT = 4
"""The first threshold, in half steps of the number format. Ours: four half steps are two bits of the branch's output."""


def thresholds(held: NumberFormat) -> Thresholds:
    """The bounds in one number format: below half a step of the sum, an addition has no effect."""
    return Thresholds(
        STEPS_KEPT * held.roundoff,
        held.roundoff,
        f"{OURS}, from {held.name}: a branch below half a step of the sum ({held.roundoff:.2g}) is rounded away; below "
        "four half steps it keeps less than 2 bits",
        at_most=False,
    )


def branch_share(network: Network) -> Iterator[Finding]:
    """The finding for the weakest branch; none with 8-bit formats, whose sums are held in a wider one."""
    # A branch whose scale starts at zero is meant to be silent.
    shares = [(math.sqrt(b.added / b.kept), b) for b in network.branches if b.added > 0 and b.kept > 0]
    if not shares or network.setting.matrices_only:
        return
    share, branch = min(shares, key=lambda pair: pair[0])
    site = f"{branch.stack}.block.{branch.layer}.{branch.name}"
    sentence = f"the weakest branch adds {share:.3g} of the stream's size"
    yield Finding("branch_share", site, share, thresholds(network.setting.formats[0]), sentence)


CHECK = Check(40, branch_share)
