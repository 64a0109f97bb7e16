"""Bounds on attention weights and entropy, and how logits have to grow with the length."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import Constant, exp, log, sqrt
from ._domains import NATS, Length

Range = Annotated[
    Any,
    Domain(0, 700, True, True, symbol="Delta", unit=NATS, typical=(0.5, 6.0)),
    "largest minus smallest logit, divided by the temperature",
]
Cosine = Annotated[Any, Domain(-1, 1, True, False, symbol="rho", typical=(0.0, 0.9)), "cosine between different tokens"]
_VELICKOVIC = "Velickovic et al. 2024, arXiv 2410.01104, Lemma 2.1 and Theorem 2.2"


@formula(kind="exact", source=_VELICKOVIC, status="secondary", symbol="p_low")
def dispersion_lower(range_nats: Range, length: Length) -> Any:
    r"""Least weight a token can have when logits lie in a bounded range.

    .. math:: p_j \ge e^{-\Delta} / n

    Returns
    -------
    0 to 1/n.

    Examples
    --------
    >>> f"{dispersion_lower(4.0, 1024):.3e}"
    '1.789e-05'
    """
    return exp(-range_nats) / length


@formula(kind="exact", source=_VELICKOVIC, status="secondary", symbol="p_high")
def dispersion_upper(range_nats: Range, length: Length) -> Any:
    r"""Largest weight a token can have when logits lie in a bounded range: attention disperses as 1/n.

    .. math:: p_j \le e^{\Delta} / n

    Returns
    -------
    1/n or more; above 1 it says nothing.

    Examples
    --------
    >>> round(dispersion_upper(4.0, 1024), 5)
    0.05332
    """
    return exp(range_nats) / length


_CHEN = "Chen, Lin, Polyanskiy, Rigollet 2025, arXiv 2510.05554"


@formula(kind="exact", source=f"{_CHEN}; formula derived for this package", status="derived", symbol="p_self")
def self_weight(
    gamma: Annotated[
        Any,
        Domain(0, 50, True, True, symbol="gamma", typical=(0.5, 3.0)),
        "logits are gamma ln n times the cosine of two tokens",
    ],
    cosine: Cosine,
    length: Annotated[Length, "tokens"],
) -> Any:
    r"""Weight of a token on itself when logits grow with the logarithm of the length.

    .. math:: p = \frac{n^{\gamma(1 - \rho)}}{n^{\gamma(1 - \rho)} + n - 1}

    Returns
    -------
    1/n to 1; one half near gamma = 1/(1 - rho).

    Examples
    --------
    >>> round(self_weight(3.0, 0.5, 4096), 5)
    0.98462
    """
    return 1 / (1 + (length - 1) * exp(-gamma * (1 - cosine) * log(length)))


@formula(
    kind="asymptotic",
    source=_CHEN,
    status="secondary",
    symbol="gamma_c",
    accuracy=0.004,
    given="64 tokens and more, compared with the growth at which a token has weight one half on itself",
)
def critical_length_scaling(cosine: Cosine) -> Any:
    r"""Growth of the logits with ln n at which attention passes from collapsing tokens to copying them.

    .. math:: \gamma_c = \frac{1}{1 - \rho}

    Returns
    -------
    Logits per ln n and cosine.

    Examples
    --------
    >>> critical_length_scaling(0.5)
    2.0
    """
    return 1 / (1 - cosine)


@formula(
    kind="exact",
    source="Nakanishi 2025, arXiv 2501.19399, Eq. 11; the bound derived for this package",
    status="derived",
    symbol="p_max",
)
def ssmax_weight(
    scale: Annotated[
        Any,
        Domain(0, 50, True, True, symbol="s", typical=(0.1, 1.0)),
        "learned per head; 0.168 initially, and 1/ln n for plain softmax",
    ],
    gap: Annotated[
        Any, Domain(0, 1e3, True, True, symbol="Delta", typical=(1.0, 5.0)), "largest logit minus the others, before scaling"
    ],
    length: Length,
) -> Any:
    r"""Largest weight of scalable softmax, whose logits are multiplied by s ln n, when all others are equal.

    .. math:: p_{max} = \frac{1}{1 + (n - 1)\, n^{-s \Delta}}

    Returns
    -------
    1/n to 1; the switch is at a gap of 1/s at every length.

    Notes
    -----
    With the gap to the second largest logit it is a lower bound, with the gap to the smallest an upper one.

    Examples
    --------
    >>> round(ssmax_weight(0.43, 3.0, 256), 5)
    0.83369
    """
    return 1 / (1 + (length - 1) * exp(-scale * gap * log(length)))


@formula(kind="exact", source="Zhai et al. 2023, arXiv 2303.06296, Theorem 3.1", status="primary", symbol="H_low")
def entropy_lower_bound(
    spectral_bound: Annotated[
        Any, Domain(0, 300, True, True, symbol="S", typical=(0.5, 12.0)), "product of the spectral norms of W_K W_Q' and X X'"
    ],
    length: Annotated[Length, "tokens, T in the paper"],
) -> Any:
    r"""Smallest attention entropy under a spectral bound on the logits; the bound is attained.

    .. math:: H \ge \ln(1 + (T - 1)\beta) + \frac{S \sqrt{T (T - 1)}\, \beta}{1 + (T - 1) \beta},
        \qquad \beta = \exp\!\left(-S \sqrt{T/(T - 1)}\right)

    Returns
    -------
    nats; falls as T S exp(-S).

    Examples
    --------
    >>> round(entropy_lower_bound(4, 128), 5)
    3.9859
    """
    beta = exp(-spectral_bound * sqrt(length / (length - Constant.of(1))))
    held = 1 + (length - 1) * beta
    return log(held) + spectral_bound * sqrt(length * (length - Constant.of(1))) * beta / held
