"""The combined rule: one line through the best widths of eight sources, with the spread between them as part of its error."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ...mathematics import exp, log, sqrt
from ._domains import Parameters

COMBINED = "our random-effects fit to eight sources (docs/evidence.md)"
_COMBINED_RANGE = "3.3e6 to 1e10 parameters without embeddings; one source below 2e7, one weak source above 3e9"
CombinedCentre = Annotated[
    Any,
    Domain(0, symbol="N_0", unit="parameters", typical=(1e8, 3e8)),
    "size at which the errors of height and slope are independent",
]


_HeightError = Annotated[
    Any, Domain(0, closed_low=True, symbol="sigma_h", typical=(0.02, 0.07)), "standard error of ln of the best width at N_0"
]
_SlopeError = Annotated[Any, Domain(0, closed_low=True, symbol="sigma_u", typical=(0.02, 0.07)), "standard error of the slope"]
_HeightSpread = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="tau_h", typical=(0.02, 0.07)),
    "standard deviation of ln width at N_0 between sources",
]
_SlopeSpread = Annotated[
    Any, Domain(0, closed_low=True, symbol="tau_u", typical=(0.02, 0.07)), "standard deviation of the slope between sources"
]
_PointSpread = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="tau_p", typical=(0.02, 0.07)),
    "standard deviation of ln width about the line of its source",
]


@formula(kind="fitted", source=COMBINED, status="measured", symbol="w^*", domain=_COMBINED_RANGE)
def combined_optimal_width(
    parameters: Annotated[Parameters, "actual number of parameters without embeddings"],
    ln_width: Annotated[Any, Domain(symbol="u_0", typical=(6.6, 6.9)), "ln of the best width at N_0"] = fitted(
        "combined2026", "ln_width"
    ),
    slope: Annotated[Any, Domain(symbol="u_1", typical=(0.3, 0.36)), "slope of ln of the best width over ln N"] = fitted(
        "combined2026", "slope"
    ),
    N_0: CombinedCentre = fitted("combined2026", "N_0"),
) -> Any:
    r"""Best width by all sources together: a power of the number of parameters.

    .. math:: w^*(N) = e^{u_0} \left(\frac{N}{N_0}\right)^{u_1}

    Returns
    -------
    Width in dimensions, not rounded.

    Notes
    -----
    Blocks of every kind count as one: parameters of a block per squared width, 12 to 15 in the sources, add to their spread.

    Examples
    --------
    >>> round(combined_optimal_width(1e9))
    1470
    """
    return exp(ln_width + slope * log(parameters / N_0))


@formula(kind="fitted", source=COMBINED, status="measured", symbol="s_w", domain=_COMBINED_RANGE)
def combined_relative_width_error(
    parameters: Annotated[Parameters, "actual number of parameters without embeddings"],
    height_error: _HeightError = fitted("combined2026", "height_error"),
    slope_error: _SlopeError = fitted("combined2026", "slope_error"),
    height_spread: _HeightSpread = fitted("combined2026", "height_spread"),
    slope_spread: _SlopeSpread = fitted("combined2026", "slope_spread"),
    point_spread: _PointSpread = fitted("combined2026", "point_spread"),
    N_0: CombinedCentre = fitted("combined2026", "N_0"),
) -> Any:
    r"""Standard error of ln of the best width that one more source would find, the spread between sources included.

    .. math:: s_w(N) = \sqrt{\sigma_h^2 + \tau_h^2 + \tau_p^2 + (\sigma_u^2 + \tau_u^2) \ln^2\frac{N}{N_0}}

    Returns
    -------
    A relative error. Bands are Student's quantiles of it, with six degrees of freedom.

    Examples
    --------
    >>> round(combined_relative_width_error(1e9), 3)
    0.122
    """
    x = log(parameters / N_0)
    return sqrt(height_error**2 + height_spread**2 + point_spread**2 + (slope_error**2 + slope_spread**2) * x**2)
