"""Fahim and Karim 2026: a critical depth, as a warning."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ...mathematics import log

DELUSION = "Fahim and Karim 2026, arXiv 2601.20994"
_DELUSION_RANGE = "30 models of 17M to 7B; a warning only: Gemstones models of width 256 improve up to 80 layers"
DelusionWidth = Annotated[Any, Domain(0, symbol="W", unit="dimensions", typical=(256, 4096)), "width"]


@formula(kind="heuristic", source=DELUSION, status="secondary", symbol="D_crit", domain=_DELUSION_RANGE)
def depth_delusion_critical_depth(
    width: Annotated[Any, Domain(1, symbol="W", unit="dimensions", typical=(256, 4096)), "width"],
    log_coefficient: Annotated[
        Any, Domain(0, symbol="kappa", unit="layers", typical=(2, 3)), "layers per unit of ln W"
    ] = fitted("depth_delusion2026", "log_coefficient"),
) -> Any:
    r"""Depth beyond which added layers are said to raise the loss at this width: the logarithmic form.

    .. math:: D_{crit} \approx 2.43 \ln W

    Returns
    -------
    Depth in layers. To be used as a warning only: other published runs contradict it.

    Notes
    -----
    It differs twofold from :func:`depth_delusion_critical_depth_power` at width 4096, and both claim the same range.

    Examples
    --------
    >>> round(depth_delusion_critical_depth(1024), 4)
    16.8435
    """
    return log_coefficient * log(width)


@formula(kind="heuristic", source=f"{DELUSION}, abstract", status="derived", symbol="D_crit", domain=_DELUSION_RANGE)
def depth_delusion_critical_depth_power(
    width: DelusionWidth,
    exponent: Annotated[Any, Domain(0, symbol="q", typical=(0.3, 0.6)), "exponent of the width"] = fitted(
        "depth_delusion2026", "critical_depth_exponent"
    ),
    anchor_width: Annotated[
        Any,
        Domain(0, symbol="W_0", unit="dimensions", typical=(256, 1024)),
        "width of a point through which the power law is drawn; the source states no prefactor",
    ] = fitted("depth_delusion2026", "anchor_width"),
    anchor_depth: Annotated[Any, Domain(0, symbol="D_0", unit="layers", typical=(10, 20)), "depth of that point"] = fitted(
        "depth_delusion2026", "anchor_depth"
    ),
) -> Any:
    r"""Depth beyond which added layers are said to raise the loss at this width: the power form of the abstract.

    .. math:: D_{crit} = D_0 \left(\frac{W}{W_0}\right)^{0.44}

    Returns
    -------
    Depth in layers. To be used as a warning only.

    Examples
    --------
    >>> round(depth_delusion_critical_depth_power(4096))
    40
    """
    return anchor_depth * (width / anchor_width) ** exponent
