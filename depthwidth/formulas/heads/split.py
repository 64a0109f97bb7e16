"""A budget of dimensions, split between heads and head dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from ...errors import InputError
from ...formula import Domain, formula
from ._domains import SPLIT

Prefactor = Annotated[Any, Domain(0, symbol="a", typical=(0.5, 4.0)), "prefactor of the error in the number of heads"]
OtherPrefactor = Annotated[Any, Domain(0, symbol="b", typical=(0.5, 4.0)), "prefactor of the error in the head dimension"]
Power = Annotated[
    Any, Domain(0, symbol="p", typical=(0.5, 3.0)), "exponent of the error in the number of heads: it falls as a H^-p"
]
OtherPower = Annotated[
    Any, Domain(0, symbol="q", typical=(0.5, 3.0)), "exponent of the error in the head dimension: it falls as b d^-q"
]
Budget = Annotated[Any, Domain(0, symbol="D", unit="dimensions", typical=(16, 1024)), "dimensions of all heads, H d"]


@formula(kind="exact", source=SPLIT, status="derived", symbol="H*", domain="error a H^-p + b d^-q at H d = D")
def split_heads(a: Prefactor, p: Power, b: OtherPrefactor, q: OtherPower, budget: Budget) -> Any:
    r"""Best number of heads for a budget of dimensions, for power-law errors.

    .. math:: H^* = \left(\frac{a p}{b q}\right)^{1/(p + q)} D^{q/(p + q)}

    Derivation: docs/derivations/heads.md, (H24).

    Returns
    -------
    H*, not rounded; d* is D over it.

    Examples
    --------
    >>> round(split_heads(1, 2, 1, 1, 64), 4)
    5.0397
    """
    return (a * p / (b * q)) ** (1 / (p + q)) * budget ** (q / (p + q))


@formula(kind="exact", source=SPLIT, status="derived", symbol="kappa", domain="error a H^-p + b d^-q at H d = D")
def split_prefactor(a: Prefactor, p: Power, b: OtherPrefactor, q: OtherPower) -> Any:
    r"""Prefactor of the error at the best split: kappa D^-rho.

    .. math:: \kappa = a\, \frac{p + q}{q} \left(\frac{a p}{b q}\right)^{-p/(p + q)}

    Derivation: docs/derivations/heads.md, (H25).

    Returns
    -------
    kappa.

    Examples
    --------
    >>> round(split_prefactor(1, 2, 1, 1), 5)
    1.88988
    """
    return a * (p + q) / q * (a * p / (b * q)) ** (-p / (p + q))


@formula(kind="exact", source=SPLIT, status="derived", symbol="err*", domain="error a H^-p + b d^-q at H d = D")
def split_error(a: Prefactor, p: Power, b: OtherPrefactor, q: OtherPower, budget: Budget) -> Any:
    r"""Error at the best split of a budget of dimensions between heads and head dimension.

    .. math:: \mathrm{err}^* = \kappa D^{-\rho}, \qquad \rho = \frac{p q}{p + q}

    Derivation: docs/derivations/heads.md, (H25).

    Returns
    -------
    Units of a and b.

    Examples
    --------
    >>> round(split_error(1, 2, 1, 1, 64), 6)
    0.118118
    """
    return split_prefactor.body(a, p, b, q) * budget ** (-(p * q) / (p + q))


def group_budgets(prefactors: Sequence[float], exponent: float, budget: float) -> list[float]:
    """Shares of a budget over groups whose errors are kappa_m D_m^-rho: proportional to kappa_m^(1/(1 + rho)).

    Our reconstruction; that groups share a budget is the structure of Yu et al. 2025.

    >>> [round(v, 3) for v in group_budgets([split_prefactor(a, 2, 1, 1) for a in (1, 4)], 2 / 3, 24)]
    [10.347, 13.653]
    """
    if not prefactors or not all(k > 0 for k in prefactors) or not (exponent > 0 and budget > 0):
        raise InputError("prefactors, exponent and budget are positive")
    shares = [k ** (1 / (1 + exponent)) for k in prefactors]
    return [budget * share / sum(shares) for share in shares]
