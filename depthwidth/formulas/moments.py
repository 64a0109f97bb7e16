"""The effect of each component of a transformer on the moments of a signal, forward, and of its gradient, backward.

A signal at one site is described by two uncentred moments per feature: q = E[x_t^2], and c = E[x_t x_t'] over two different
tokens; r = c/q is its correlation along the sequence. A gradient has the same two, gamma and kappa. Means are over weights and
inputs, and tokens are exchangeable. Attention has a file of its own (:mod:`.attention`), activations too (:mod:`.gaussian`).
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import harmonic, harmonic_of_squares

SecondMoment = Annotated[Any, Domain(0, symbol="q", unit="per feature", typical=(0.1, 10)), "second moment"]
Covariance = Annotated[Any, Domain(symbol="c", unit="per feature", typical=(0.01, 0.09)), "covariance between two tokens"]
Variance = Annotated[
    Any, Domain(0, closed_low=True, symbol="s_w^2", typical=(1e-4, 1e-2)), "variance of one weight, whose mean is zero"
]
Features = Annotated[Any, Domain(0, symbol="d", unit="dimensions", typical=(64, 4096)), "features"]
GradientMoment = Annotated[
    Any, Domain(0, closed_low=True, symbol="gamma", unit="per feature", typical=(0.1, 10)), "second moment of the gradient"
]
Dropout = Annotated[Any, Domain(0, 1, closed_low=True, symbol="p", typical=(0.05, 0.5)), "dropout rate"]
Scale = Annotated[Any, Domain(symbol="lambda", typical=(0.1, 1)), "factor on the skip path"]
BranchScale = Annotated[Any, Domain(symbol="beta", typical=(0.05, 1)), "factor on the branch"]
Correlation = Annotated[
    Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r", typical=(0.05, 0.95)), "correlation between two tokens"
]

KEDIA = "Kedia et al. 2024, arXiv 2403.09635"
NormInput = Annotated[SecondMoment, "second moment of the norm's input"]
NormWidth = Annotated[
    Any,
    Domain(3, symbol="d", unit="dimensions", typical=(64, 4096)),
    "features normalised over; for RMSNorm, which does not centre, one more",
]
OutputWeightVariance = Annotated[Variance, "variance of one entry of the output matrix"]


@formula(kind="exact", source=f"{KEDIA}, linear layer (authors' code)", symbol="q'")
def linear_second_moment(
    second_moment: Annotated[SecondMoment, "second moment of the input; with c in its place, the result is c'"],
    inputs: Annotated[Features, "features of the input"],
    weight_variance: Variance,
) -> Any:
    r"""Second moment after a random linear layer; the covariance between tokens is multiplied by the same factor.

    .. math:: q' = d\, s_w^2\, q

    Returns
    -------
    q' per feature of the output. A bias of variance s_b^2 adds s_b^2 to q' and to c'.

    Examples
    --------
    >>> linear_second_moment(1.25, 100, 0.01)
    1.25
    """
    return inputs * weight_variance * second_moment


@formula(kind="exact", source=f"{KEDIA}, linear layer (authors' code)", symbol="gamma'")
def linear_gradient(
    gradient: Annotated[GradientMoment, "second moment of the output's gradient"],
    outputs: Annotated[Any, Domain(0, symbol="d_out", unit="dimensions", typical=(64, 4096)), "features of the output"],
    weight_variance: Variance,
) -> Any:
    r"""Second moment of the gradient with respect to the input of a random linear layer; kappa has the same factor.

    .. math:: \gamma' = d_{out}\, s_w^2\, \gamma

    Returns
    -------
    gamma' per feature of the input.

    Examples
    --------
    >>> linear_gradient(2.0, 400, 0.01)
    8.0
    """
    return outputs * weight_variance * gradient


@formula(kind="exact", source=f"{KEDIA}, dropout (authors' code)", symbol="q'")
def dropout_second_moment(
    second_moment: Annotated[SecondMoment, "second moment, uncentred; gamma in the backward pass"],
    rate: Annotated[Dropout, "dropout rate; what is kept is divided by 1 - p"],
) -> Any:
    r"""Second moment after dropout with rescaling, forward and backward; the covariance between tokens does not change.

    .. math:: q' = \frac{q}{1-p}

    Returns
    -------
    q' per feature, uncentred.

    Examples
    --------
    >>> round(dropout_second_moment(5.0, 0.1) - 2.0**2, 4)
    1.5556
    """
    return second_moment / (1 - rate)


@formula(
    kind="asymptotic",
    source=f"expansion of the expected sample correlation; replaces r(1-1/d) of {KEDIA}",
    status="derived",
    symbol="r'",
    order=2,
    domain="independent Gaussian features; d well above 1",
    accuracy=0.005,
    within={"width": (8, math.inf)},
)
def norm_correlation(
    correlation: Annotated[Correlation, "correlation between two tokens at the norm's input"],
    width: Annotated[
        Any,
        Domain(2, closed_low=True, symbol="d", unit="dimensions", typical=(64, 4096)),
        "features normalised over; for RMSNorm, which does not centre, one more",
    ],
) -> Any:
    r"""Correlation between two tokens after each is normalised over its own d features.

    .. math:: r' = r\left(1 - \frac{1 - r^2}{2(d-1)}\right)

    Returns
    -------
    r' after the norm. The exact value is :math:`r\,\Gamma(d/2)^2/(\Gamma((d-1)/2)\Gamma((d+1)/2))\,
    {}_2F_1(1/2, 1/2; (d+1)/2; r^2)`; the remainder here falls as the square of d.

    Examples
    --------
    >>> round(norm_correlation(0.3, 64), 5)
    0.29783
    """
    return correlation * (1 - (1 - correlation**2) / (2 * (width - 1)))


@formula(
    kind="exact",
    source=f"projection and E[1/s^2] of a Gaussian sample; replaces gamma/sigma^2 of {KEDIA}",
    status="derived",
    symbol="gamma'",
    domain="independent Gaussian features, an output gradient that does not depend on them",
)
def norm_gradient(
    gradient: Annotated[GradientMoment, "second moment of the gradient with respect to the norm's output"],
    second_moment: NormInput,
    width: NormWidth,
) -> Any:
    r"""Second moment of the gradient with respect to the input of a LayerNorm without affine weights.

    .. math:: \gamma' = \frac{\gamma}{q}\, \frac{d-2}{d-3}

    Returns
    -------
    gamma' at the norm's input. Two directions of the gradient are projected out, and E[1/s^2] adds 3/d.

    Examples
    --------
    >>> round(norm_gradient(1.0, 1.0, 16), 4)
    1.0769
    """
    return gradient / second_moment * (width - 2) / (width - 3)


@formula(
    kind="asymptotic",
    source=f"projections and E[1/(s s')] of two correlated Gaussian samples; replaces kappa/sigma^2 of {KEDIA}",
    status="derived",
    symbol="kappa'",
    order=2,
    domain="independent Gaussian features, an output gradient that does not depend on them; d well above 1",
    accuracy=0.012,
    within={"width": (16, 300)},
)
def norm_gradient_covariance(
    gradient_covariance: Annotated[
        Any,
        Domain(symbol="kappa", unit="per feature", typical=(0.01, 0.9)),
        "covariance between two tokens of the gradient with respect to the norm's output",
    ],
    second_moment: NormInput,
    correlation: Annotated[Correlation, "correlation between the two tokens at the norm's input"],
    width: NormWidth,
) -> Any:
    r"""Covariance between two tokens of the gradient with respect to the input of a LayerNorm without affine weights.

    .. math:: \kappa' = \frac{\kappa}{q}\left(1 - \frac{1 - 3r^2}{2(d-1)}\right)

    Returns
    -------
    kappa' at the norm's input; the remainder falls as the square of d.

    Notes
    -----
    The two projections have the trace d - 3 + c^2, c the sample correlation, and
    :math:`E[1/(s s')] = \frac{d}{2q}\frac{\Gamma(n/2 - 1/2)^2}{\Gamma(n/2)^2}\, {}_2F_1(1/2, 1/2; n/2; r^2)`, n = d - 1.

    Examples
    --------
    >>> round(norm_gradient_covariance(1.0, 1.0, 0.0, 101), 4)
    0.995
    """
    return gradient_covariance / second_moment * (1 - (1 - 3 * correlation**2) / (2 * (width - 1)))


@formula(
    kind="asymptotic",
    source="division by the root mean square, which does not fluctuate in the limit",
    status="derived",
    symbol="m'",
    domain="width to infinity; for LayerNorm, features without a common mean",
    accuracy=0.017,
    within={"factor": (1, 1)},
    given="64 and more Gaussian features",
)
def norm_moment(
    moment: Annotated[
        Any,
        Domain(symbol="m", unit="per feature", typical=(0.1, 2)),
        "moment at the norm's input; of a gradient, at its output",
    ],
    size: Annotated[
        Any,
        Domain(0, symbol="q", unit="per feature", typical=(0.1, 10)),
        "second moment of the norm's input, its epsilon included; for two tokens, the geometric mean of theirs",
    ],
    gain: Annotated[
        Any, Domain(0, closed_low=True, symbol="g^2", typical=(0.5, 2)), "mean square of the norm's trainable gain"
    ] = 1,
    factor: Annotated[
        Any,
        Domain(symbol="k", typical=(0.9, 1.1)),
        "factor of fluctuations at finite width, :mod:`~depthwidth.formulas.finite_width`; 1 in the limit",
    ] = 1,
) -> Any:
    r"""Second moment or covariance at a norm's output, and of a gradient at its input.

    .. math:: m' = \frac{g^2 k}{q}\, m

    Returns
    -------
    m', per feature.

    Examples
    --------
    >>> norm_moment(0.5, 2.0)
    0.25
    """
    return gain * factor * moment / size


@formula(
    kind="asymptotic",
    source="subtraction of the mean over features, which does not fluctuate in the limit",
    status="derived",
    symbol="m'",
    domain="width to infinity",
    accuracy=0.016,
    given="64 and more independent features of one mean",
)
def centred_moment(
    moment: Annotated[Any, Domain(symbol="m", unit="per feature", typical=(0.5, 2)), "uncentred moment"],
    mean: Annotated[Any, Domain(symbol="mu", typical=(-0.5, 0.5)), "expected feature of the first token"],
    other_mean: Annotated[
        Any,
        Domain(symbol="mu'", typical=(-0.5, 0.5)),
        "expected feature of the second token; that of the first for a second moment",
    ],
) -> Any:
    r"""Second moment or covariance of features whose mean a LayerNorm has subtracted.

    .. math:: m' = m - \mu \mu'

    Returns
    -------
    m', per feature. Of d independent features with one mean, a fraction 1/d of m' less is left.

    Examples
    --------
    >>> centred_moment(1.0, 0.5, 0.5)
    0.75
    """
    return moment - mean * other_mean


@formula(kind="exact", source=f"{KEDIA}, residual (authors' code)", symbol="q'", domain="branch and stream independent")
def residual_second_moment(
    second_moment: Annotated[SecondMoment, "second moment of the stream"],
    branch_moment: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="q_f", unit="per feature", typical=(0.1, 10)),
        "second moment of the branch's output",
    ],
    skip: Scale = 1,
    branch: BranchScale = 1,
) -> Any:
    r"""Second moment of a residual stream after a branch is added; covariances add the same way, and gradients backward.

    .. math:: q' = \lambda^2 q + \beta^2 q_f

    Returns
    -------
    q' per feature.

    Examples
    --------
    >>> residual_second_moment(1.0, 0.5)
    1.5
    """
    return skip * skip * second_moment + branch * branch * branch_moment


@formula(
    kind="exact",
    source="the square of the sum of all tokens is not negative",
    status="derived",
    symbol="r_min",
)
def least_correlation(
    length: Annotated[Any, Domain(2, closed_low=True, integer=True, symbol="L", unit="tokens", typical=(2, 2048)), "tokens"],
) -> Any:
    r"""The least correlation that all pairs of this many tokens of one second moment can have; their sum is then 0.

    .. math:: r_{min} = -\frac{1}{L - 1}

    Returns
    -------
    A correlation, from -1 for two tokens towards 0 for many.

    Examples
    --------
    >>> least_correlation(3)
    -0.5
    """
    return -1 / (length - 1)


@formula(
    kind="exact",
    source=f"{KEDIA}, text form, as the finite sum",
    status="derived",
    symbol="m",
    domain="token frequencies falling as 1/rank (Zipf)",
)
def zipf_match_probability(
    vocab: Annotated[Any, Domain(1, closed_low=True, symbol="V", unit="tokens", typical=(2, 200000)), "vocabulary size"],
) -> Any:
    r"""Probability that two positions hold the same token, when frequencies follow Zipf's law: the sum of squared frequencies.

    .. math:: m = \frac{\sum_{k=1}^V k^{-2}}{\left(\sum_{k=1}^V k^{-1}\right)^2}

    Returns
    -------
    A probability, 1 for a vocabulary of one token. The published text form, pi^2 / (6 ln^2 V), is the leading term for large V
    and 11 to 17 % too large at 1,000 to 50,000 tokens.

    Examples
    --------
    >>> round(zipf_match_probability(50257), 6)
    0.012652
    >>> round(zipf_match_probability(2), 6)  # (1 + 1/4) / (1 + 1/2)^2
    0.555556
    """
    return harmonic_of_squares(vocab) / harmonic(vocab) ** 2


Overlap = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="P", typical=(0.001, 0.3)),
    "expected sum of squared probabilities of one token's prediction, E sum p^2",
]
PairOverlap = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="P_2", typical=(0.001, 0.2)),
    "expected sum of products of two tokens' probabilities, E sum p p'",
]
SumCubes = Annotated[
    Any, Domain(0, 1, closed_low=True, closed_high=True, symbol="M_3", typical=(1e-5, 0.1)), "E sum p^3 of one prediction"
]
SquaredSum = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="S_4", typical=(1e-6, 0.1)),
    "E (sum p^2)^2 of one prediction",
]
PairCubes = Annotated[
    Any, Domain(0, 1, closed_low=True, closed_high=True, symbol="M_21", typical=(1e-6, 0.05)), "E sum p^2 p' of two predictions"
]
Jacobians = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="T_2", typical=(0.001, 0.2)),
    "E trace of the product of the softmax's two Jacobians",
]
CrossSquares = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="S_13", typical=(1e-6, 0.05)),
    "E sum p^2 sum p p' of two predictions",
]
BothSquares = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="S_22", typical=(1e-6, 0.05)),
    "E sum p^2 sum p'^2 of two predictions",
]
Logits = Annotated[
    Any, Domain(0, closed_low=True, symbol="sigma^2", unit="nats^2", typical=(0.1, 4)), "variance of a logit, d s_w^2 q"
]
OutputWidth = Annotated[
    Any, Domain(0, closed_high=True, symbol="d", unit="dimensions", typical=(64, 4096)), "features of the output matrix's input"
]
Vocabulary = Annotated[Any, Domain(1, closed_low=True, symbol="V", unit="tokens", typical=(100, 50000)), "vocabulary size"]
Match = Annotated[
    Any,
    Domain(0, 1, closed_low=True, closed_high=True, symbol="m", typical=(0.001, 0.05)),
    "probability that two targets are the same token",
]


LOSS = "derivative of the cross-entropy, averaged over weights and targets by Gaussian integration by parts"
LOSS_DOMAIN = (
    "targets independent of the logits; Gaussian output weights independent of the features, which have one second moment and"
    " one correlation"
)


@formula(kind="exact", source=LOSS, status="derived", symbol="gamma", domain=LOSS_DOMAIN)
def loss_gradient_second_moment(
    weight_variance: OutputWeightVariance,
    P: Overlap,
    M3: SumCubes,
    S4: SquaredSum,
    vocab: Vocabulary,
    logit_variance: Logits,
    width: OutputWidth,
) -> Any:
    r"""Second moment of the gradient of the summed cross-entropy with respect to the output matrix's input.

    .. math:: \gamma = s_w^2 \left[1 - \frac{2}{V} + P + \frac{\sigma^2}{d}(1 - P - 6 M_3 + 6 S_4)\right]

    Derivation: docs/derivations/loss.md, (G2).

    Returns
    -------
    gamma per feature; divide by the square of the number of positions for the gradient of the mean. The last term is there as
    a weight takes part in the probabilities that multiply it.

    Examples
    --------
    >>> round(loss_gradient_second_moment(0.01, 0.0027, 2e-5, 8e-6, 1000, 1.0, 64) / 0.01, 4)
    1.0163
    """
    own = 1 - P - 6 * M3 + 6 * S4
    return weight_variance * (1 - 2 / vocab + P + logit_variance / width * own)


@formula(kind="exact", source=LOSS, status="derived", symbol="kappa", domain=LOSS_DOMAIN)
def loss_gradient_covariance(
    weight_variance: OutputWeightVariance,
    P: Overlap,
    P2: PairOverlap,
    M21: PairCubes,
    T2: Jacobians,
    S13: CrossSquares,
    S22: BothSquares,
    vocab: Vocabulary,
    match: Match,
    logit_variance: Logits,
    correlation: Correlation,
    width: OutputWidth,
) -> Any:
    r"""Covariance over two positions of the gradient with the second moment :func:`loss_gradient_second_moment`.

    .. math:: \kappa = s_w^2 \left[m - \frac{2}{V} + P_2
              + \frac{\sigma^2}{d}\bigl(r\,(1 - 2P + S_{22} + T_2) + 4 (S_{13} - M_{21})\bigr)\right]

    Derivation: docs/derivations/loss.md, (G3).

    Returns
    -------
    kappa per feature.

    Examples
    --------
    >>> round(loss_gradient_covariance(0.01, 0.0027, 0.0024, 2e-5, 0.0024, 7e-6, 8e-6, 1000, 0.0293, 1.0, 0.9, 64) / 0.01, 4)
    0.0437
    """
    own = correlation * (1 - 2 * P + S22 + T2) + 4 * (S13 - M21)
    return weight_variance * (match - 2 / vocab + P2 + logit_variance / width * own)
