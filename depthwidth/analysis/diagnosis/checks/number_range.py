"""Overflow and underflow: bits of headroom of activations, scores, logits and gradients in the number format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ....architecture.number_formats import NumberFormat
from ..base import OURS, Check, Finding, Remedy, Thresholds
from ..network import Network
from ..precision import bits_at_share_lost, largest, overflow_bits, share_lost, smallest, underflow_bits

OUTLIER_BITS = 4.0
"""The first threshold of overflow. Ours: four bits, a factor of 16, for the outliers that develop in training."""
LOST, HALF_LOST = 0.01, 0.5
"""The thresholds of underflow, as shares of values rounded to zero. Ours: one per cent is noticeable, half is a problem."""
LOST_SHOWN = 1e-4
"""Shares below this are not mentioned."""


def overflow_thresholds(held: NumberFormat) -> Thresholds:
    """The bounds on the bits between the largest value expected and the format's largest number."""
    source = f"{OURS}: below 0 it overflows; 4 bits are reserved for outliers from training ({held.source})"
    return Thresholds(OUTLIER_BITS, 0.0, source, at_most=False)


def underflow_thresholds(held: NumberFormat) -> Thresholds:
    """The bounds on the bits between the smallest standard deviation and the format's smallest number."""
    return Thresholds(
        bits_at_share_lost(LOST),
        bits_at_share_lost(HALF_LOST),
        f"{OURS}: {LOST:.0%} and {HALF_LOST:.0%} of Gaussian values are rounded to zero ({held.source}; for gradients see "
        "Micikevicius et al. 2018, arXiv 1710.03740)",
        at_most=False,
    )


def number_range(network: Network) -> Iterator[Finding]:
    """Two findings for each kind of tensor: ``overflow_KIND`` and ``underflow_KIND``."""
    setting = network.setting
    kinds = ("activations", "gradients") if setting.matrices_only else ("activations", "scores", "logits", "gradients")
    for kind in kinds:
        if network.sizes[kind]:
            yield _overflow(network, kind)
            yield _underflow(network, kind)


def _overflow(network: Network, kind: str) -> Finding:
    held, top = network.setting.format_of(kind), largest(network.sizes[kind])
    bits = overflow_bits(held, top)
    sentence = (
        f"{kind} reach {top.peak:.3g}, and the largest number of {held.name} is {held.largest:.3g}: {bits:.1f} bits of headroom"
    )
    return Finding(f"overflow_{kind}", top.site, bits, overflow_thresholds(held), sentence)


def _underflow(network: Network, kind: str) -> Finding:
    held, low = network.setting.format_of(kind), smallest(network.sizes[kind])
    bits = underflow_bits(held, low)
    lost = share_lost(low.deviation, held)
    zeros = f"; {lost:.2%} of them are rounded to zero" if lost > LOST_SHOWN else ""
    size = f"standard deviation {low.deviation:.2g}"
    sentence = f"the smallest {kind} have {size}: {bits:.1f} bits above the smallest number of {held.name}{zeros}"
    return Finding(f"underflow_{kind}", low.site, bits, underflow_thresholds(held), sentence)


def rescale(network: Network, finding: Finding) -> Remedy | None:
    """A power of two that leaves just the outliers' bits above the largest value.

    It is the loss scale for gradients, the tensor scale for 8-bit activations, and nothing for other formats and kinds.
    """
    setting = network.setting
    kind = finding.name.partition("_")[2]
    if kind != "gradients" and not setting.matrices_only:
        return None
    room = overflow_bits(setting.format_of(kind), largest(network.sizes[kind])) - OUTLIER_BITS
    exponent = math.floor(room)
    factor = 2.0**exponent
    if kind == "gradients":
        setting = replace(setting, loss_scale=setting.loss_scale * factor)
        after = CHECK.again(Network(setting, network.made), finding)
        return None if after is None else Remedy(f"loss scale {setting.loss_scale:.17g}", after.value)
    moved = finding.value + (exponent if finding.name.startswith("underflow") else -exponent)
    return Remedy(f"scale {factor:.17g} on {kind}", moved)


CHECK = Check(70, number_range, rescale)
