"""Bytes of weights, gradients and optimiser states for each parameter, by the stages of ZeRO (Rajbhandari et al. 2019)."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula

ZERO = "Rajbhandari et al. 2019, arXiv 1910.02054"
_DOMAIN = "bytes that last over a step; what a stage gathers for a while is not counted"
Replicas = Annotated[
    Any, Domain(0, symbol="N_d", unit="devices", typical=(1, 1024)), "data-parallel devices that share what is divided"
]
Weight = Annotated[Any, Domain(0, closed_low=True, symbol="w", unit="bytes per parameter", typical=(2, 4)), "bytes of a weight"]
Gradient = Annotated[
    Any, Domain(0, closed_low=True, symbol="g", unit="bytes per parameter", typical=(2, 4)), "bytes of a gradient"
]
States = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="K", unit="bytes per parameter", typical=(4, 16)),
    "bytes of the optimiser: 12 for Adam with a float32 copy of the weights",
]


@formula(kind="exact", source=f"{ZERO}, section 5.1", status="primary", symbol="m", domain=_DOMAIN)
def zero1_bytes(replicas: Replicas, weight: Weight = 2, gradient: Gradient = 2, states: States = 12) -> Any:
    r"""Bytes per parameter on each device if optimiser states are divided (stage 1).

    .. math:: m = w + g + \frac{K}{N_d}

    Returns
    -------
    Bytes per parameter.

    Examples
    --------
    >>> zero1_bytes(64) * 7.5
    31.40625
    """
    return weight + gradient + states / replicas


@formula(kind="exact", source=f"{ZERO}, section 5.2", status="primary", symbol="m", domain=_DOMAIN)
def zero2_bytes(replicas: Replicas, weight: Weight = 2, gradient: Gradient = 2, states: States = 12) -> Any:
    r"""Bytes per parameter on each device if optimiser states and gradients are divided (stage 2).

    .. math:: m = w + \frac{g + K}{N_d}

    Returns
    -------
    Bytes per parameter.

    Examples
    --------
    >>> zero2_bytes(64) * 7.5
    16.640625
    """
    return weight + (gradient + states) / replicas


@formula(kind="exact", source=f"{ZERO}, section 5.3", status="primary", symbol="m", domain=_DOMAIN)
def zero3_bytes(replicas: Replicas, weight: Weight = 2, gradient: Gradient = 2, states: States = 12) -> Any:
    r"""Bytes per parameter on each device if all three are divided (stage 3, or fully sharded data parallelism).

    .. math:: m = \frac{w + g + K}{N_d}

    Returns
    -------
    Bytes per parameter.

    Examples
    --------
    >>> zero3_bytes(64) * 7.5
    1.875
    """
    return (weight + gradient + states) / replicas
