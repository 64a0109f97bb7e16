"""Lower bounds and models of the time of text generation: roofline, all-reduce, experts that a batch touches."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import maximum

Moved = Annotated[Any, Domain(0, closed_low=True, symbol="M", unit="bytes", typical=(1e8, 1e12)), "bytes read from memory"]


@formula(
    kind="exact",
    source="Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785",
    status="secondary",
    symbol="t",
    domain="a lower bound: memory and arithmetic overlap perfectly, both at their peak",
)
def roofline_seconds(
    moved: Moved,
    flops: Annotated[Any, Domain(0, closed_low=True, symbol="F", unit="operations", typical=(1e9, 1e15)), "operations"],
    bandwidth: Annotated[Any, Domain(0, symbol="B", unit="bytes per second", typical=(3e11, 8e12)), "bandwidth of the memory"],
    peak: Annotated[Any, Domain(0, symbol="P", unit="operations per second", typical=(1e14, 5e15)), "peak of the arithmetic"],
) -> Any:
    r"""Least time of a computation that reads memory and computes.

    .. math:: t = \max\left(\frac{M}{B}, \frac{F}{P}\right)

    Returns
    -------
    Seconds.

    Examples
    --------
    >>> roofline_seconds(16e9, 16e9, 4e12, 1e15)
    0.004
    """
    return maximum(moved / bandwidth, flops / peak)


@formula(
    kind="heuristic",
    source="Thakur, Rabenseifner, Gropp 2005, doi 10.1177/1094342005051521, with one latency for the whole call",
    status="recalled",
    symbol="t",
    domain="a ring of equal links; latency as measured for a call of few bytes",
)
def allreduce_seconds(
    size: Annotated[Any, Domain(0, closed_low=True, symbol="n", unit="bytes", typical=(1e3, 1e9)), "bytes on each device"],
    devices: Annotated[Any, Domain(1, closed_low=True, symbol="t", unit="devices", typical=(1, 8)), "devices that add up"],
    link: Annotated[Any, Domain(0, symbol="l", unit="bytes per second", typical=(3e10, 9e11)), "bandwidth out of a device"],
    latency: Annotated[
        Any, Domain(0, closed_low=True, symbol="a", unit="seconds", typical=(3e-6, 3e-5)), "time of a call of few bytes"
    ],
) -> Any:
    r"""Time of an all-reduce: a latency, and twice the share of the bytes that leaves each device.

    .. math:: T = a + \frac{2 (t - 1)}{t} \frac{n}{l}

    Returns
    -------
    Seconds.

    Examples
    --------
    >>> allreduce_seconds(4.5e8, 2, 4.5e11, 0.0)
    0.001
    """
    return latency + 2 * (devices - 1) / devices * size / link


@formula(
    kind="exact",
    source="expected number of distinct outcomes",
    status="derived",
    symbol="E_t",
    domain="tokens choose independently, every expert with the same probability; a trained router is less even",
)
def touched_experts(
    experts: Annotated[Any, Domain(1, closed_low=True, symbol="E", typical=(8, 512)), "experts of a layer"],
    top_k: Annotated[Any, Domain(0, symbol="k", typical=(1, 8)), "experts that a token chooses, at most all of them"],
    tokens: Annotated[Any, Domain(0, closed_low=True, symbol="n", unit="tokens", typical=(1, 512)), "tokens of a step"],
) -> Any:
    r"""Expected number of experts that a batch of tokens chooses at least once: those whose weights are read.

    .. math:: E_t = E \left(1 - \left(1 - \frac{k}{E}\right)^n\right)

    Returns
    -------
    A number of experts.

    Examples
    --------
    >>> touched_experts(8, 2, 1), round(touched_experts(8, 2, 8), 3)
    (2.0, 7.199)
    """
    return experts * (1 - (1 - top_k / experts) ** tokens)
