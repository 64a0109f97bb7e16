"""Dey et al. 2025 (CompleteP): the measured ratios of width to depth at three sizes."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ...mathematics import Constant, log
from .._interpolation import broken_line
from ._domains import Parameters

COMPLETEP = "Dey et al. 2025, arXiv 2505.01618"
_COMPLETEP_RANGE = "5e7 to 1.5e9 parameters without embeddings, 20 tokens per parameter; held constant outside"


def _completep_line(parameters: Any, *ratios: Any) -> Any:
    sizes = (50_000_000, 300_000_000, 1_500_000_000)
    return broken_line(log(parameters), [(log(Constant.of(n)), ratio) for n, ratio in zip(sizes, ratios, strict=True)])


@formula(kind="fitted", source=f"{COMPLETEP}, three sizes", status="secondary", symbol="rho^*", domain=_COMPLETEP_RANGE)
def completep_aspect(
    parameters: Parameters,
    ratio_50M: Annotated[Any, Domain(0, symbol="rho_1", typical=(30, 50)), "measured ratio at 5e7 parameters"] = fitted(
        "completep2025", "ratio_50M"
    ),
    ratio_300M: Annotated[Any, Domain(0, symbol="rho_2", typical=(40, 60)), "measured ratio at 3e8 parameters"] = fitted(
        "completep2025", "ratio_300M"
    ),
    ratio_1500M: Annotated[Any, Domain(0, symbol="rho_3", typical=(50, 80)), "measured ratio at 1.5e9 parameters"] = fitted(
        "completep2025", "ratio_1500M"
    ),
) -> Any:
    r"""Best ratio of width to depth measured at three sizes with CompleteP, linear in ln N between them.

    .. math:: \rho^*(N) = \rho_i + (\rho_{i+1} - \rho_i)\, \frac{\ln N - \ln N_i}{\ln N_{i+1} - \ln N_i}

    Returns
    -------
    Width per layer. A broken line through a table, not a law: outside 5e7 to 1.5e9 the nearest ratio is kept.

    Notes
    -----
    The three ratios are read from notes and are approximate. The same ratios were best with muP.

    Examples
    --------
    >>> round(completep_aspect(3e8), 6)
    50.0
    """
    return _completep_line(parameters, ratio_50M, ratio_300M, ratio_1500M)


@formula(kind="fitted", source=f"{COMPLETEP}, three sizes", status="secondary", symbol="rho_min", domain=_COMPLETEP_RANGE)
def completep_lowest_aspect(
    parameters: Parameters,
    ratio_50M: Annotated[Any, Domain(0, symbol="rho_1", typical=(10, 14)), "measured ratio at 5e7 parameters"] = fitted(
        "completep2025", "lowest_ratio_50M"
    ),
    ratio_300M: Annotated[Any, Domain(0, symbol="rho_2", typical=(12, 18)), "measured ratio at 3e8 parameters"] = fitted(
        "completep2025", "lowest_ratio_300M"
    ),
    ratio_1500M: Annotated[Any, Domain(0, symbol="rho_3", typical=(10, 14)), "measured ratio at 1.5e9 parameters"] = fitted(
        "completep2025", "lowest_ratio_1500M"
    ),
) -> Any:
    r"""Lowest ratio of width to depth within 1 % of the best loss under CompleteP, linear in ln N between three sizes.

    .. math:: \rho_{min}(N) = \rho_i + (\rho_{i+1} - \rho_i)\, \frac{\ln N - \ln N_i}{\ln N_{i+1} - \ln N_i}

    Returns
    -------
    Width per layer. An upper bound: deeper shapes were not all trained. muP needs 38.7 at 1.5e9.

    Examples
    --------
    >>> round(completep_lowest_aspect(1.5e9), 6)
    11.8
    """
    return _completep_line(parameters, ratio_50M, ratio_300M, ratio_1500M)
