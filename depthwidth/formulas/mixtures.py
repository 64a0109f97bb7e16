"""Laws of mixtures of experts: the dense model equivalent to a mixture. They disagree; each states its domain."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, fitted, formula
from ..mathematics import log

LING = "Tian et al. 2025, arXiv 2507.17702"
CLARK = "Clark et al. 2022, arXiv 2202.01169"
KRAJEWSKI = "Krajewski et al. 2024, arXiv 2402.07871"
ABNAR = "Abnar et al. 2025, arXiv 2501.12370"
Experts = Annotated[Any, Domain(1, closed_low=True, symbol="E", unit="experts", typical=(2, 256)), "experts of a layer"]
Size = Annotated[Any, Domain(0, symbol="N", unit="parameters", typical=(1e7, 5e9))]
Granularity = Annotated[
    Any,
    Domain(0, symbol="G", typical=(1, 16)),
    "granularity: how many times smaller an expert is than the dense part it replaces",
]
Tokens = Annotated[Any, Domain(0, symbol="D", unit="tokens", typical=(1e10, 1e12)), "training tokens"]
Exponent = Domain(symbol="alpha", typical=(0.1, 0.6))

# The arguments of both laws of Clark et al.
SizeSlope = Annotated[Any, Domain(symbol="a", typical=(-0.09, -0.08)), "slope in log N"]
ExpertSlope = Annotated[Any, Domain(symbol="b", typical=(-0.14, -0.1)), "slope in log E"]
ProductSlope = Annotated[Any, Domain(symbol="c", typical=(0.009, 0.012)), "slope in their product"]
FirstExperts = Annotated[Any, Domain(1, symbol="E_s", unit="experts", typical=(1.5, 5)), "experts at which the benefit begins"]
LastExperts = Annotated[Any, Domain(1, symbol="E_m", unit="experts", typical=(300, 500)), "experts at which it ends"]


@formula(
    kind="fitted",
    source=f"{LING}, Eqs. 8 to 10",
    status="primary",
    symbol="EL",
    domain="over 300 models to 28B parameters, active shares 0.8 to 100 %, granularity 2 to 16, 1e18 to 1e22 FLOPs",
)
def ling_efficiency_leverage(
    active_share: Annotated[
        Any, Domain(0, 1, closed_high=True, symbol="A", typical=(0.01, 0.5)), "share of experts that a token chooses"
    ],
    granularity: Annotated[Any, Domain(0, symbol="G", typical=(2, 16)), "2 d_model / d_expert"],
    flops: Annotated[Any, Domain(0, symbol="C", unit="operations", typical=(1e18, 1e22)), "training FLOPs"],
    a: Annotated[Any, Domain(symbol="alpha", typical=(1.0, 1.5)), "exponent at C = 1 and G = 1"] = fitted("ling2025", "a"),
    d: Annotated[Any, Domain(symbol="delta", typical=(-0.1, -0.05)), "its change per factor of ten of the FLOPs"] = fitted(
        "ling2025", "d"
    ),
    gamma: Annotated[Any, Domain(symbol="gamma", typical=(0.01, 0.03)), "its change per squared doubling of G"] = fitted(
        "ling2025", "gamma"
    ),
    beta: Annotated[Any, Domain(symbol="beta", typical=(-0.2, -0.1)), "its change per doubling of G"] = fitted(
        "ling2025", "beta"
    ),
    A_start: Annotated[Any, Domain(0, symbol="A_s", typical=(0.01, 0.03)), "share below which leverage saturates"] = fitted(
        "ling2025", "A_start"
    ),
    A_max: Annotated[Any, Domain(0, symbol="A_m", typical=(1e16, 1e17)), "share at which it begins"] = fitted(
        "ling2025", "A_max"
    ),
) -> Any:
    r"""Training FLOPs of a dense model of equal loss over those of a mixture.

    .. math:: EL = \hat A^{\alpha + \delta \log_{10} C + \gamma (\log_2 G)^2 + \beta \log_2 G}, \qquad
        \frac{1}{\hat A} = \frac{1}{A + \left(\frac{1}{A_s} - \frac{1}{A_m}\right)^{-1}} + \frac{1}{A_m}

    Returns
    -------
    A factor, above 1 if the mixture is the better buy.

    Notes
    -----
    The paper prints no bases of its logarithms; only 10 and 2 give its own figures: over 7 at A = 3.1 %, G = 12, C = 1e22, and
    a best granularity of about 12. A shared expert and attention of 20 to 50 % of the FLOPs are assumed.

    Examples
    --------
    >>> round(ling_efficiency_leverage(0.031, 12, 1e22), 2)
    7.24
    """
    start = 1 / (1 / A_start - 1 / A_max)
    share = 1 / (1 / (active_share + start) + 1 / A_max)
    doublings = log(granularity, 2)
    return share ** (a + d * log(flops, 10) + gamma * doublings**2 + beta * doublings)


@formula(
    kind="fitted",
    source=f"{CLARK}, Eqs. 6 and 8",
    status="secondary",
    symbol="L",
    domain="dense sizes 15M to 1.3B, 1 to 512 experts of the dense part's size in every other block, top-1, 130B tokens",
)
def clark_loss(
    parameters: Annotated[Size, "parameters of the dense model, active in the mixture"],
    experts: Experts,
    a: SizeSlope = fitted("clark2022", "a"),
    b: ExpertSlope = fitted("clark2022", "b"),
    c: ProductSlope = fitted("clark2022", "c"),
    d: Annotated[Any, Domain(symbol="d", typical=(1.1, 1.2)), "log of the loss at N = 1"] = fitted("clark2022", "d"),
    E_start: FirstExperts = fitted("clark2022", "E_start"),
    E_max: LastExperts = fitted("clark2022", "E_max"),
) -> Any:
    r"""Validation loss of a routed model from the size of its dense base and the number of experts.

    .. math:: \log_{10} L = a \log_{10} N + b \log_{10} \hat E + c \log_{10} N \log_{10} \hat E + d, \qquad
        \frac{1}{\hat E} = \frac{1}{E - 1 + \left(\frac{1}{E_s} - \frac{1}{E_m}\right)^{-1}} + \frac{1}{E_m}

    Returns
    -------
    Nats per token. With positive c the benefit of experts shrinks with size, and vanishes when the rise of c log N equals b.

    Notes
    -----
    Coefficients of S-Base routing; ``data/coefficients/clark2022.csv`` has those of RL-R and hash routing too. On the authors'
    released losses the root mean square error is 0.9, 1.8 and 1.2 %.

    Examples
    --------
    >>> round(clark_loss(1.3e9, 1), 4), round(clark_loss(1.3e9, 64), 4)
    (2.2374, 2.0498)
    """
    seen = _saturated_experts(experts, E_start, E_max)
    return 10 ** (a * log(parameters, 10) + b * log(seen, 10) + c * log(parameters, 10) * log(seen, 10) + d)


@formula(
    kind="fitted",
    source=f"{CLARK}, section 5.2: the effective parameter count",
    status="derived",
    symbol="N_e",
    domain="as of the loss law; the count of a dense model, beyond 1.3B an extrapolation",
)
def clark_dense_equivalent(
    parameters: Annotated[Size, "parameters of the dense model, active in the mixture"],
    experts: Experts,
    a: SizeSlope = fitted("clark2022", "a"),
    b: ExpertSlope = fitted("clark2022", "b"),
    c: ProductSlope = fitted("clark2022", "c"),
    E_start: FirstExperts = fitted("clark2022", "E_start"),
    E_max: LastExperts = fitted("clark2022", "E_max"),
) -> Any:
    r"""Parameters of the dense model that has the loss of a routed one.

    .. math:: \log_{10} N_e = \frac{(a + c e) \log_{10} N + b (e - e_1)}{a + c e_1}, \qquad
        e = \log_{10} \hat E(E),\ e_1 = \log_{10} \hat E(1)

    Returns
    -------
    Parameters.

    Examples
    --------
    >>> f"{clark_dense_equivalent(1.3e9, 64):.3g}"
    '3.91e+09'
    """
    one, many = (log(_saturated_experts(count, E_start, E_max), 10) for count in (1, experts))
    return 10 ** (((a + c * many) * log(parameters, 10) + b * (many - one)) / (a + c * one))


def _saturated_experts(experts: Any, start: Any, end: Any) -> Any:
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / end)) + 1 / end)


@formula(
    kind="fitted",
    source=f"{KRAJEWSKI}, Eq. 9",
    status="secondary",
    symbol="L",
    domain="64 times the dense part's parameters in experts, 129M to 3.7B parameters, 16B to 130B tokens, granularity 1 to 16",
)
def krajewski_loss(
    parameters: Annotated[Size, "total parameters without the embedding"],
    tokens: Tokens,
    granularity: Granularity,
    c: Annotated[
        Any, Domain(0, closed_low=True, symbol="c", unit="nats", typical=(0.4, 0.5)), "loss left at infinite size"
    ] = fitted("krajewski2024", "c"),
    g: Annotated[
        Any, Domain(0, closed_low=True, symbol="g", unit="nats", typical=(1, 3)), "factor of the granularity's term"
    ] = fitted("krajewski2024", "g"),
    gamma: Annotated[Any, Domain(0, symbol="gamma", typical=(0.5, 0.7)), "exponent of the granularity"] = fitted(
        "krajewski2024", "gamma"
    ),
    a: Annotated[Any, Domain(0, symbol="a", unit="nats", typical=(15, 20)), "factor of the parameters' term"] = fitted(
        "krajewski2024", "a"
    ),
    alpha: Annotated[Any, Domain(0, symbol="alpha", typical=(0.1, 0.13)), "exponent of the parameters"] = fitted(
        "krajewski2024", "alpha"
    ),
    b: Annotated[Any, Domain(0, symbol="b", unit="nats", typical=(25, 35)), "factor of the tokens' term"] = fitted(
        "krajewski2024", "b"
    ),
    beta: Annotated[Any, Domain(0, symbol="beta", typical=(0.12, 0.15)), "exponent of the tokens"] = fitted(
        "krajewski2024", "beta"
    ),
) -> Any:
    r"""Loss of a mixture of 64-fold expansion from its size, tokens and granularity.

    .. math:: L = c + \left(\frac{g}{G^\gamma} + a\right) \frac{1}{N^\alpha} + \frac{b}{D^\beta}

    Returns
    -------
    Nats per token.

    Examples
    --------
    >>> round(krajewski_loss(3.7e9, 6.6e10, 16), 4)
    2.7308
    """
    return c + (g / granularity**gamma + a) / parameters**alpha + b / tokens**beta


@formula(
    kind="fitted",
    source=f"{KRAJEWSKI}, the dense law next to Eq. 9",
    status="secondary",
    symbol="L",
    domain="dense models of the same recipe",
)
def krajewski_dense_loss(
    parameters: Annotated[Size, "parameters without the embedding"],
    tokens: Tokens,
    c: Annotated[
        Any, Domain(0, closed_low=True, symbol="c", unit="nats", typical=(0.4, 0.5)), "loss left at infinite size"
    ] = fitted("krajewski2024", "c", "dense"),
    a: Annotated[Any, Domain(0, symbol="a", unit="nats", typical=(15, 20)), "factor of the parameters' term"] = fitted(
        "krajewski2024", "a", "dense"
    ),
    alpha: Annotated[Any, Domain(0, symbol="alpha", typical=(0.1, 0.13)), "exponent of the parameters"] = fitted(
        "krajewski2024", "alpha", "dense"
    ),
    b: Annotated[Any, Domain(0, symbol="b", unit="nats", typical=(25, 35)), "factor of the tokens' term"] = fitted(
        "krajewski2024", "b", "dense"
    ),
    beta: Annotated[Any, Domain(0, symbol="beta", typical=(0.12, 0.15)), "exponent of the tokens"] = fitted(
        "krajewski2024", "beta", "dense"
    ),
) -> Any:
    r"""Loss of a dense model of the recipe of :func:`krajewski_loss`.

    .. math:: L = c + \frac{a}{N^\alpha} + \frac{b}{D^\beta}

    Returns
    -------
    Nats per token.

    Examples
    --------
    >>> round(krajewski_dense_loss(1e8, 6.6e10), 4)
    3.1986
    """
    return c + a / parameters**alpha + b / tokens**beta


@formula(
    kind="fitted",
    source=f"{ABNAR}, Eq. 6",
    status="secondary",
    symbol="L",
    domain="sparsity 0 to 98 %; the authors report R^2 = 68 % on held-out sparsities",
)
def abnar_loss(
    parameters: Annotated[Size, "total parameters"],
    sparsity: Annotated[
        Any, Domain(0, 1, closed_low=True, symbol="S", typical=(0.1, 0.98)), "share of experts that a token does not choose"
    ],
    tokens: Tokens,
    a: Annotated[Any, Domain(0, symbol="a", unit="nats", typical=(1e4, 2e4)), "factor of the parameters' term"] = fitted(
        "abnar2025", "a"
    ),
    alpha: Annotated[Any, Domain(0, symbol="alpha", typical=(0.5, 0.7)), "exponent of the parameters"] = fitted(
        "abnar2025", "alpha"
    ),
    b: Annotated[Any, Domain(0, symbol="b", unit="nats", typical=(5e3, 6e3)), "factor of the tokens' term"] = fitted(
        "abnar2025", "b"
    ),
    beta: Annotated[Any, Domain(0, symbol="beta", typical=(0.3, 0.5)), "exponent of the tokens"] = fitted("abnar2025", "beta"),
    c: Annotated[Any, Domain(symbol="c", unit="nats", typical=(0.4, 0.5)), "factor of the active share's term"] = fitted(
        "abnar2025", "c"
    ),
    lam: Annotated[Any, Domain(symbol="lambda", typical=(0.1, 0.2)), "exponent of the active share"] = fitted(
        "abnar2025", "lambda"
    ),
    d: Annotated[Any, Domain(0, symbol="d", unit="nats", typical=(15, 20)), "factor of the joint term"] = fitted(
        "abnar2025", "d"
    ),
    delta: Annotated[Any, Domain(symbol="delta", typical=(0.1, 0.2)), "exponent of the active share in it"] = fitted(
        "abnar2025", "delta"
    ),
    gamma: Annotated[Any, Domain(0, symbol="gamma", typical=(0.1, 0.2)), "exponent of the parameters in it"] = fitted(
        "abnar2025", "gamma"
    ),
    e: Annotated[
        Any, Domain(0, closed_low=True, symbol="e", unit="nats", typical=(0.9, 1.0)), "loss left at infinite size"
    ] = fitted("abnar2025", "e"),
) -> Any:
    r"""Loss of a mixture from its total parameters, sparsity and tokens.

    .. math:: L = \frac{a}{N^\alpha} + \frac{b}{D^\beta} + c (1 - S)^\lambda + \frac{d}{(1 - S)^\delta N^\gamma} + e

    Returns
    -------
    Nats per token.

    Examples
    --------
    >>> round(abnar_loss(1e9, 0.0, 1e11), 4), round(abnar_loss(8e9, 0.875, 1e11), 4)
    (2.3486, 2.1642)
    """
    active = 1 - sparsity
    return a / parameters**alpha + b / tokens**beta + c * active**lam + d / (active**delta * parameters**gamma) + e
