"""Fluctuations between networks: deviations of one draw of the weights from the mean, to first order in 1/width.

For one draw of the weights let q_t = x_t.x_t/d and c = x_t.x_t'/d for two tokens t, t' of a tensor with d features. Their
means over draws are written q and c as well. Three numbers describe how draws scatter: v = Var(q_t), w = Cov(q_t, q_t') and
u = Cov(c, q_t). The residual recursion of :mod:`depthwidth.signal.residual` carries them along the depth.

Derivation: docs/derivations/finite-width.md, whose numbers (W1) to (W6) stand at the functions.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import sqrt

Moment = Annotated[
    Any, Domain(symbol="m", unit="per feature", typical=(0.1, 2)), "moment of the stream: q for Var(q_t), c for Cov(q_t, q_t')"
]
BranchMoment = Annotated[
    Any, Domain(symbol="m_f", unit="per feature", typical=(0.1, 2)), "the same moment of the branch's output"
]
SecondMoment = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="q", unit="per feature", typical=(0.5, 2)),
    "second moment of the stream, of the first token of the pair",
]
Covariance = Annotated[Any, Domain(symbol="c", unit="per feature", typical=(0.05, 0.4)), "covariance of the stream"]
BranchSecondMoment = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="a", unit="per feature", typical=(0.5, 2)),
    "second moment of the branch's output for the first token",
]
BranchCovariance = Annotated[
    Any, Domain(symbol="a_2", unit="per feature", typical=(0.05, 0.4)), "covariance of the branch's outputs for both tokens"
]
Width = Annotated[Any, Domain(0, symbol="d", unit="dimensions", typical=(64, 4096)), "features"]
Omega = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="omega", typical=(2, 5)),
    "d times the relative variance over draws of the branch's squared norm; 4 for attention without shared values",
]
RelativeVariance = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="v", typical=(0.001, 0.05)),
    "Var(q_t)/q^2; for two tokens that differ, the mean over both",
]
RelativeSharedVariance = Annotated[Any, Domain(0, closed_low=True, symbol="w", typical=(0.001, 0.05)), "Cov(q_t, q_t')/q^2"]
RelativeCovariance = Annotated[
    Any, Domain(symbol="u", typical=(0.001, 0.05)), "Cov(c, q_t)/(c q); for two tokens that differ, the mean over both"
]
Correlation = Annotated[
    Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r", typical=(0.05, 0.95)), "correlation of two tokens"
]

NORM = "second-order expansion of c / sqrt(q_t q_t') in the deviations of one draw"


@formula(
    kind="exact",
    source="Isserlis' theorem",
    status="derived",
    symbol="v",
    domain="independent Gaussian features",
)
def gaussian_spread(
    moment: Annotated[Moment, "q for Var(q_t) and Cov(c, q_t), c for Cov(q_t, q_t')"],
    other_moment: Annotated[Any, Domain(symbol="m'", typical=(0.1, 2)), "q for Var(q_t), c for Cov(q_t, q_t') and Cov(c, q_t)"],
    width: Width,
) -> Any:
    r"""Covariance over draws of two mean products of features, each over d independent Gaussian features.

    .. math:: v = \frac{2 m m'}{d}

    Derivation: docs/derivations/finite-width.md, (W1).

    Returns
    -------
    v, w or u, in the unit of m m'.

    Examples
    --------
    >>> gaussian_spread(1.0, 1.0, 64)
    0.03125
    """
    return 2 * moment * other_moment / width


@formula(
    kind="exact",
    source="variance of |x + f|^2/d given x, for a last weight matrix that is Gaussian and independent of x",
    status="derived",
    symbol="Delta v",
    domain="for two different tokens: exact for branches that are linear in their input, and used for all",
)
def residual_spread(moment: Moment, branch_moment: BranchMoment, width: Width, omega: Omega) -> Any:
    r"""Increase of Var(q_t), or of Cov(q_t, q_t') over two tokens, by adding a branch with weights of its own.

    .. math:: \Delta v = \frac{m_f (4 m + \omega m_f)}{d}

    Derivation: docs/derivations/finite-width.md, (W3).

    Returns
    -------
    The increase, in the unit of m^2: 4 m m_f / d from the product of stream and branch, the rest from the branch's own size.

    Notes
    -----
    omega is :func:`~depthwidth.formulas.depth.feed_forward_matrix_spread` for a feed-forward part.

    Examples
    --------
    >>> residual_spread(1.0, 0.5, 64, 4)
    0.046875
    """
    return branch_moment * (4 * moment + omega * branch_moment) / width


@formula(
    kind="exact",
    source="covariance of |x + f|^2/d and (x + f).(x' + f')/d given x and x'",
    status="derived",
    symbol="Delta u",
    domain="exact for branches that are linear in their input, and used for all",
)
def residual_pair_spread(
    second_moment: SecondMoment,
    covariance: Covariance,
    branch_moment: BranchSecondMoment,
    branch_covariance: BranchCovariance,
    width: Width,
    omega: Omega,
) -> Any:
    r"""Increase of Cov(c, q_t) by adding a branch with weights of its own to the stream.

    .. math:: \Delta u = \frac{2 (q a_2 + c a) + \omega a a_2}{d}

    Derivation: docs/derivations/finite-width.md, (W3).

    Returns
    -------
    The increase, in the unit of q c.

    Examples
    --------
    >>> residual_pair_spread(1.0, 0.25, 0.5, 0.125, 64, 4)
    0.01171875
    """
    cross = 2 * (second_moment * branch_covariance + covariance * branch_moment)
    return (cross + omega * branch_moment * branch_covariance) / width


@formula(kind="asymptotic", source=NORM, status="derived", symbol="E c'", domain="first order in v, w and u")
def norm_covariance_factor(
    variance: RelativeVariance, shared_variance: RelativeSharedVariance, covariance: RelativeCovariance
) -> Any:
    r"""Factor by which fluctuations of the input change the mean correlation of two tokens after a norm.

    .. math:: E \frac{c}{\sqrt{q_t q_{t'}}} = \frac{c}{q} \left(1 - u + \tfrac34 v + \tfrac14 w\right)

    Derivation: docs/derivations/finite-width.md, (W4).

    Returns
    -------
    A factor near 1; for Gaussian features :func:`~depthwidth.formulas.moments.norm_correlation` over r.

    Examples
    --------
    >>> norm_covariance_factor(0.03125, 0.0078125, 0.03125)  # Gaussian features, d = 64, r = 1/2
    0.994140625
    """
    return 1 - covariance + (0.75 * variance + 0.25 * shared_variance)


@formula(kind="asymptotic", source="expansion of E[1/q_t]", status="derived", symbol="E 1/q", domain="first order in v")
def norm_gradient_factor(variance: RelativeVariance) -> Any:
    r"""Factor by which fluctuations of a norm's input change the second moment of the gradient at that input.

    .. math:: E \frac{1}{q_t} = \frac1q (1 + v)

    Derivation: docs/derivations/finite-width.md, (W5).

    Returns
    -------
    A factor above 1. It leaves out that the norm projects the gradient: for Gaussian features it is 1 + 2/d, and
    :func:`~depthwidth.formulas.moments.norm_gradient` has the exact (d - 2)/(d - 3), 1 + 1/d.

    Examples
    --------
    >>> norm_gradient_factor(0.03125)
    1.03125
    """
    return 1 + variance


@formula(
    kind="asymptotic", source="expansion of E[1/sqrt(q_t q_t')]", status="derived", symbol="E 1/q", domain="first order in v, w"
)
def norm_gradient_covariance_factor(variance: RelativeVariance, shared_variance: RelativeSharedVariance) -> Any:
    r"""Factor by which fluctuations of a norm's input change the gradient's covariance over two tokens at that input.

    .. math:: E \frac{1}{\sqrt{q_t q_{t'}}} = \frac1q \left(1 + \tfrac34 v + \tfrac14 w\right)

    Derivation: docs/derivations/finite-width.md, (W6).

    Returns
    -------
    A factor above 1; projections are left out, as in :func:`norm_gradient_factor`.

    Examples
    --------
    >>> norm_gradient_covariance_factor(0.03125, 0.0078125)
    1.025390625
    """
    return 1 + (0.75 * variance + 0.25 * shared_variance)


@formula(
    kind="asymptotic",
    source="variance of the sample correlation of Gaussian features (Fisher 1915)",
    status="derived",
    symbol="Delta r",
    domain="independent Gaussian features; d well above 1",
)
def correlation_spread(correlation: Correlation, width: Width) -> Any:
    r"""Standard deviation over draws of the correlation of two tokens.

    .. math:: \Delta r = \frac{1 - r^2}{\sqrt d}

    Returns
    -------
    A standard deviation; its square is right up to a relative remainder of order 1/d.

    Examples
    --------
    >>> correlation_spread(0.5, 144)
    0.0625
    """
    return (1 - correlation * correlation) / sqrt(width)


@formula(
    kind="approximation",
    source="two-point Gauss-Hermite rule over the correlation of two tokens",
    status="derived",
    symbol="E f",
    domain="a moment that is smooth over the spread of the correlation; the rule is exact for cubic polynomials",
)
def two_sided_mean(
    above: Annotated[
        Any, Domain(symbol="f_+", typical=(0.1, 1)), "f at one :func:`correlation_spread` above the mean correlation"
    ],
    below: Annotated[
        Any, Domain(symbol="f_-", typical=(0.1, 1)), "f at one :func:`correlation_spread` below the mean correlation"
    ],
) -> Any:
    r"""Mean over draws of a pair moment f(rho) whose correlation rho scatters around its mean r.

    .. math:: E f(\rho) = \frac{f(r + \Delta r) + f(r - \Delta r)}{2}

    Returns
    -------
    E f. The remainder is the fourth derivative of f times Delta r^4 / 12, of order 1/d^2.

    Examples
    --------
    >>> two_sided_mean(0.5625, 0.4375)
    0.5
    """
    return (above + below) / 2


@formula(
    kind="exact",
    source="product of the moments of two independent factors, one of them Gaussian",
    status="derived",
    symbol="kappa_g",
    domain="a gate independent of the linear part",
)
def gated_kurtosis(
    kurtosis: Annotated[
        Any, Domain(1, closed_low=True, symbol="kappa_4", typical=(2, 8)), "E f^4 / (E f^2)^2 of the activated gate"
    ],
) -> Any:
    r"""Kurtosis E h^4 / (E h^2)^2 of the hidden features h = f(u) v of a gated unit.

    .. math:: \kappa_g = 3 \kappa_4

    Returns
    -------
    kappa_g; 3 is the kurtosis of v, which is Gaussian.

    Examples
    --------
    >>> gated_kurtosis(6.0)
    18.0
    """
    return 3 * kurtosis


@formula(
    kind="approximation",
    source="the drift of collapsed tokens, in proportion to what tokens share",
    status="derived",
    symbol="ln f",
    domain="exact at r = 1, where all tokens are one, and no drift at r = 0; linear between is an assumption",
)
def collapsed_share(
    correlation: Correlation,
    collapsed: Annotated[
        Any,
        Domain(symbol="x", typical=(-0.05, 0.2)),
        "the drift or variance at r = 1, from :func:`~depthwidth.formulas.depth.post_norm_log_drift` or its variance",
    ],
) -> Any:
    r"""Drift or variance of a post-norm block's log gradient at tokens that are correlated but not identical.

    .. math:: \ln f = r x

    Returns
    -------
    The same quantity at r.

    Notes
    -----
    Measured in simulated stacks of 12 post-norm layers (96 to 384 draws, 32 tokens, d from 64 to 256, DeepScaleLM): with this
    share the gradient's second moment is within 2 % of the mean, at standard errors of 0.9 to 1.7 %.

    Examples
    --------
    >>> collapsed_share(0.5, -0.0234375)
    -0.01171875
    """
    return correlation * collapsed
