"""Headroom of a network's values in number formats: bits to overflow, bits to underflow, the share rounded to zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Unpack

from ...architecture import Transformer
from ...architecture.number_formats import NumberFormat, number_format
from ...initialization import Recipe, recipe
from ..propagation import PropagationOptions
from .network import Network, Setting, Size


def headroom(
    tree: Transformer,
    init: str | Recipe = "shipped",
    formats: Sequence[str] = ("fp16", "bf16", "e4m3", "e5m2"),
    *,
    batch: int = 1,
    loss_scale: float = 1.0,
    **given: Unpack[PropagationOptions],
) -> list[dict[str, Any]]:
    """Bits of headroom of activations, scores, logits and gradients in several number formats.

    Parameters
    ----------
    tree, init, batch, loss_scale, given : as in :func:`~depthwidth.analysis.diagnosis.diagnose`.
    formats : names of :data:`~depthwidth.architecture.number_formats.NUMBER_FORMATS`.

    Returns
    -------
    A row for each format and kind of tensor: `format`, `kind`, `overflow_site`, `overflow_bits`, `underflow_site`,
    `underflow_bits` and `lost`. Bits are binary logarithms: of the largest number over the largest value expected, and of the
    smallest standard deviation over the smallest number. `lost` is the share of values that is rounded to zero there.

    Raises
    ------
    InputError
        if a format is unknown, or for the reasons of :func:`~depthwidth.analysis.diagnosis.diagnose`.

    Examples
    --------
    >>> small = Transformer(depth=2, width=64, heads=4, vocab=500, context=32)
    >>> row = headroom(small, "xavier", ["fp16"])[0]
    >>> row["kind"], round(row["overflow_bits"]), row["lost"] < 1e-4
    ('activations', 14, True)
    """
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    rows = []
    known = [number_format(name) for name in formats]
    network = Network(Setting(tree, (number_format("fp32"),) * 2, False, batch, float(loss_scale), given), made)
    for one in known:
        for kind, sizes in network.sizes.items():
            if sizes:
                high, low = largest(sizes), smallest(sizes)
                rows.append(
                    {
                        "format": one.name,
                        "kind": kind,
                        "overflow_site": high.site,
                        "overflow_bits": overflow_bits(one, high),
                        "underflow_site": low.site,
                        "underflow_bits": underflow_bits(one, low),
                        "lost": share_lost(low.deviation, one),
                    }
                )
    return rows


def share_lost(deviation: float, held_in: NumberFormat) -> float:
    """The share of Gaussian values of this standard deviation that a format rounds to zero.

    >>> share_lost(1.0, number_format("fp16")) < 1e-7
    True
    """
    return math.erf(held_in.smallest / 2 / (deviation * math.sqrt(2))) if deviation > 0 else 1.0


def largest(sizes: Sequence[Size]) -> Size:
    """The site with the highest peak."""
    return max(sizes, key=lambda size: size.peak)


def smallest(sizes: Sequence[Size]) -> Size:
    """The site with the smallest standard deviation."""
    return min(sizes, key=lambda size: size.deviation)


def overflow_bits(held_in: NumberFormat, size: Size) -> float:
    """Binary logarithm of the format's largest number over the site's peak."""
    return math.log2(held_in.largest / size.peak)


def underflow_bits(held_in: NumberFormat, size: Size) -> float:
    """Binary logarithm of the site's standard deviation over the format's smallest number."""
    return math.log2(size.deviation / held_in.smallest)


def bits_at_share_lost(lost: float) -> float:
    """The underflow bits at which this share of a Gaussian is rounded to zero.

    >>> round(bits_at_share_lost(0.01), 2)
    5.32
    """
    return -1 - math.log2(NormalDist().inv_cdf(0.5 + lost / 2))
