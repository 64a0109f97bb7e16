"""Norm measures, sharpness and PAC-Bayes measures, each with the normalisation of its paper or its code."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import exp, log, maximum, sqrt
from ._domains import (
    DRAWN,
    DZIUGAITE,
    EXPLORING,
    JIANG,
    MEASURE,
    PROXY,
    QUARTER,
    THIRD,
    WHOLE,
    Depth,
    Divergence,
    Failure,
    Margin,
    Noise,
    Samples,
    Spectra,
    SquaredNorm,
    SquaredSpectra,
    Weights,
    Widths,
)

SquaredNorms = Annotated[Any, Domain(0, symbol="Pi_F", typical=(1.0, 1e4)), "product of the squared Frobenius norms"]


@formula(kind="exact", source=f"{EXPLORING}, section 2.2", symbol="C", domain=MEASURE)
def l2_capacity(squared_norms: SquaredNorms, depth: Depth, margin: Margin) -> Any:
    r"""Capacity by Frobenius norms.

    .. math:: C = \frac{\prod_i 4 F_i^2}{\gamma^2}

    Returns
    -------
    Capacity, to which the squared gap times the number of samples is proportional.

    Examples
    --------
    >>> l2_capacity(14.25 * 7, 2, 0.5)
    6384.0
    """
    return 4**depth * squared_norms / margin**2


Paths = Annotated[
    Any, Domain(0, symbol="Sigma_1", typical=(1.0, 1000.0)), "sum over paths from input to output of the product of |weights|"
]


@formula(kind="exact", source=f"{EXPLORING}, section 2.2", symbol="C", domain=MEASURE)
def l1_path_capacity(paths: Paths, depth: Depth, margin: Margin) -> Any:
    r"""Capacity by the l1-path norm.

    .. math:: C = \frac{1}{\gamma^2}\Bigl(\sum_{paths} \prod_i 2 |w_i|\Bigr)^2

    Returns
    -------
    Capacity, to which the squared gap times the number of samples is proportional.

    Examples
    --------
    >>> l1_path_capacity(16, 2, 0.5)
    16384.0
    """
    return 4**depth * (paths / margin) ** 2


SquaredPaths = Annotated[
    Any, Domain(0, symbol="Sigma_2", typical=(1.0, 1000.0)), "sum over paths from input to output of the product of weights^2"
]


@formula(kind="exact", source=f"{EXPLORING}, section 2.2", symbol="C", domain=MEASURE)
def l2_path_capacity(squared_paths: SquaredPaths, depth: Depth, widths: Widths, margin: Margin) -> Any:
    r"""Capacity by the l2-path norm, which needs the widths.

    .. math:: C = \frac{1}{\gamma^2}\sum_{paths} \prod_i 4 h_i w_i^2

    Returns
    -------
    Capacity, to which the squared gap times the number of samples is proportional.

    Examples
    --------
    >>> l2_path_capacity(43.5, 2, 4, 0.5)
    11136.0
    """
    return 4**depth * widths * squared_paths / margin**2


@formula(kind="exact", source=f"{EXPLORING}, section 2.2", symbol="C", domain=MEASURE)
def spectral_capacity(squared_spectra: SquaredSpectra, widths: Widths, margin: Margin) -> Any:
    r"""Capacity by spectral norms and widths.

    .. math:: C = \frac{\prod_i h_i s_i^2}{\gamma^2}

    Returns
    -------
    Capacity, to which the squared gap times the number of samples is proportional.

    Examples
    --------
    >>> round(spectral_capacity(53.25659, 4, 0.5), 3)
    852.105
    """
    return widths * squared_spectra / margin**2


Product = Annotated[
    Any,
    Domain(0, symbol="p", typical=(1.0, 1000.0)),
    "product of the layers' Frobenius norms, or of their largest l1 norms of a unit",
]
Inputs = Annotated[Any, Domain(1, symbol="n", unit="dimensions", typical=(8, 4096), **WHOLE), "features of the input"]


@formula(kind="exact", source=f"code of {EXPLORING}", symbol="I", domain=MEASURE)
def norm_product_index(product: Product, depth: Depth, inputs: Inputs, margin: Margin, samples: Samples) -> Any:
    r"""Bound by a product of norms as its authors compute it, constants left out.

    .. math:: I = \sqrt{d + \ln n}\, \frac{p}{\gamma \sqrt m}

    Returns
    -------
    Share of test points, up to a constant.

    Examples
    --------
    >>> round(norm_product_index(10.5, 2, 2, 0.5, 10000), 5)
    0.34463
    """
    return sqrt(depth + log(inputs)) * product / (margin * sqrt(samples))


GroupProduct = Annotated[Any, Domain(0, symbol="p", typical=(1.0, 1000.0)), "product of the layers' L_{3,1.5} norms"]
RankSum = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="R_s", typical=(2.0, 500.0)),
    "sum of F_i^2/s_i^2, with F_i that of the weights or of their way from the start",
]
Change = Annotated[Any, Domain(0, symbol="alpha", typical=(0.01, 1.0)), "largest norm of the change"]
Worst = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="L_+", typical=(1.0, 3.0)),
    "largest loss with each weight within alpha (|w| + 1) of its value",
]
Loss = Annotated[Any, Domain(0, closed_low=True, symbol="L", typical=(0.01, 1.0)), "training loss"]


@formula(kind="exact", source=f"{EXPLORING}, eq 3", symbol="zeta", domain=MEASURE)
def relative_sharpness(worst: Worst, loss: Loss) -> Any:
    r"""Sharpness: the relative rise of the training loss under the worst small change of the weights.

    .. math:: \zeta = \frac{L_+ - L}{1 + L}

    Returns
    -------
    Sharpness. It changes if a unit's input and output weights are rescaled against each other, so it is no capacity by itself.

    Examples
    --------
    >>> relative_sharpness(1.5, 1.0)
    0.25
    """
    return (worst - loss) / (1 + loss)


@formula(
    kind="exact",
    source=f"{EXPLORING}, section 2.3",
    symbol="K",
    domain="a prior with the noise of the posterior: a bound's divergence",
)
def gaussian_divergence(squared_norm: SquaredNorm, noise: Noise) -> Any:
    r"""Divergence of Gaussian noise about the weights from the same noise about the prior's centre.

    .. math:: K = \frac{\lVert w\rVert^2}{2 \sigma^2}

    Returns
    -------
    Nats.

    Examples
    --------
    >>> round(gaussian_divergence(21.25, 0.1), 6)
    1062.5
    """
    return squared_norm / (2 * noise**2)


@formula(kind="exact", source=f"{EXPLORING}, eqs 4-5", symbol="G", domain=DRAWN)
def pac_bayes_penalty(divergence: Divergence, samples: Samples, failure: Failure) -> Any:
    r"""Test loss minus training loss, both of noisy weights; the training loss with noise is the loss plus expected sharpness.

    .. math:: G = 4 \sqrt{\frac{K + \ln(2 m/\delta)}{m}}

    Returns
    -------
    Loss, of a loss between 0 and 1.

    Examples
    --------
    >>> round(pac_bayes_penalty(1062.5, 1000, 0.05), 5)
    4.14362
    """
    return 4 * sqrt((divergence + log(2 * samples / failure)) / samples)


Weight = Annotated[Any, Domain(0, closed_low=True, symbol="w", typical=(0.01, 1.0)), "absolute value of a weight"]
Scale = Annotated[Any, Domain(0, symbol="alpha", typical=(0.001, 0.1)), "scale of the noise"]


@formula(kind="exact", source=f"{EXPLORING}, figures", symbol="sigma", domain=MEASURE)
def magnitude_noise(weight: Weight, scale: Scale) -> Any:
    r"""Standard deviation of the noise that grows with a weight's magnitude.

    .. math:: \sigma = \alpha (10 |w| + 1)

    Returns
    -------
    Standard deviation.

    Examples
    --------
    >>> round(magnitude_noise(1.0, 0.01), 6)
    0.11
    """
    return scale * (10 * weight + 1)


Value = Annotated[Any, Domain(0, symbol="mu", typical=(1.0, 1e4)), "measure before it is normalised"]


@formula(kind="exact", source=f"code of {DZIUGAITE}, measures of {JIANG}", symbol="M", domain=MEASURE)
def reported_measure(value: Value, samples: Samples) -> Any:
    r"""Measure as the comparisons report it; those called log-... report its logarithm.

    .. math:: M = \sqrt{\mu/m}

    Returns
    -------
    Square root of the measure over the number of samples.

    Examples
    --------
    >>> reported_measure(400, 10000)
    0.2
    """
    return sqrt(value / samples)


SquaredProduct = Annotated[
    Any, Domain(0, symbol="Pi", typical=(0.5, 1000.0)), "product of the layers' squared norms, spectral or Frobenius"
]


@formula(kind="exact", source=f"{JIANG}, eqs 34 and 38, by the code of {DZIUGAITE}", symbol="mu", domain=MEASURE)
def geometric_norm_sum(squared_product: SquaredProduct, depth: Depth, margin: Margin) -> Any:
    r"""Sum over layers of squared norms over the margin, with their geometric mean for each.

    .. math:: \mu = d \Bigl(\frac{\Pi}{\gamma^2}\Bigr)^{1/d}

    Returns
    -------
    Measure before it is normalised. A margin of 1 gives the measure without it.

    Examples
    --------
    >>> geometric_norm_sum(16, 2, 2)
    4.0
    """
    return depth * (squared_product / margin**2) ** (1 / depth)


@formula(kind="exact", source=f"{JIANG}, eqs 48 and 49, by the code of {DZIUGAITE}", symbol="mu", domain=MEASURE)
def flatness_measure(squared_norm: SquaredNorm, noise: Noise, samples: Samples) -> Any:
    r"""PAC-Bayes measure with the largest noise under which the training accuracy falls by 0.1.

    .. math:: \mu = \frac{\lVert w\rVert^2}{4 \sigma^2} + \ln\frac{m}{\sigma} + 10

    Returns
    -------
    Measure before it is normalised.

    Notes
    -----
    `noise` is a standard deviation. The published code passes the variance as the standard deviation of its sampler: its values
    are of other noise than its sigma says.

    Examples
    --------
    >>> round(flatness_measure(4.0, 0.1, 1000), 3)
    119.21
    """
    return squared_norm / (4 * noise**2) + log(samples / noise) + 10


Distance = Annotated[Any, Domain(0, closed_low=True, symbol="D", typical=(0.0, 1.0)), "distance of the weight from its start"]
Floor = Annotated[Any, Domain(0, symbol="epsilon", typical=(1e-4, 1e-2)), "noise of a weight of 0"]


@formula(
    kind="exact",
    source=f"{JIANG}, eqs 56 and 57, by the code of {DZIUGAITE}",
    symbol="mu",
    domain="one weight: a measure's part",
)
def magnitude_flatness_term(
    squared_norm: SquaredNorm, weights: Weights, distance: Distance, noise: Noise, floor: Floor = 0.001
) -> Any:
    r"""One weight's part of the magnitude-aware PAC-Bayes measure, to be summed over weights.

    .. math:: \mu = \frac14 \ln\frac{\epsilon^2 + (\sigma^2 + 1) \lVert w\rVert^2/\omega}{\epsilon^2 + \sigma^2 D^2}

    Returns
    -------
    Part of the measure; ln(m/sigma) + 10 is added once.

    Notes
    -----
    A weight's noise has variance sigma^2 w^2 + epsilon^2. The published code passes this variance as a standard deviation.

    Examples
    --------
    >>> round(magnitude_flatness_term(100.0, 1000, 0.1, 0.5), 4)
    0.9779
    """
    above = floor**2 + (noise**2 + 1) * squared_norm / weights
    return QUARTER * log(above / (floor**2 + noise**2 * distance**2))


Difference = Annotated[
    Any,
    Domain(0, 1, True, True, symbol="Delta", typical=(0.005, 0.2)),
    "absolute difference of two networks' generalisation gaps",
]
TestPoints = Annotated[Any, Domain(1, symbol="n", typical=(5000, 20000), **WHOLE), "test points"]


@formula(kind="exact", source=f"code of {DZIUGAITE}", symbol="W", domain="pairs of networks: a measure's weight")
def pair_certainty(difference: Difference, test_points: TestPoints) -> Any:
    r"""Certainty that the order of two gaps is not the test set's noise, by Hoeffding's inequality for each.

    .. math:: W = \max\bigl(0, 1 - 2 e^{-n \Delta^2/2}\bigr)^2

    Returns
    -------
    Certainty. Pairs of 0.5 and below are left out; the others weigh W - 0.5.

    Examples
    --------
    >>> round(pair_certainty(0.02, 10000), 4)
    0.5319
    """
    return maximum(1 - 2 * exp(-test_points * difference**2 / 2), 0) ** 2


DistanceSum = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="S", typical=(1.0, 1000.0)),
    "sum of the layers' h_i (distance from the start)^2/s_i^2",
]


@formula(kind="exact", source=f"code of {EXPLORING}", symbol="I", domain=MEASURE)
def spectral_distance_index(depth: Depth, spectra: Spectra, distance_sum: DistanceSum, margin: Margin, samples: Samples) -> Any:
    r"""Spectral margin bound as its first author computes it, by distances from the start, constants and logarithms left out.

    .. math:: I = \frac{d \prod_i s_i}{\gamma \sqrt m} \Bigl(\sum_i h_i \frac{\lVert W_i - W_{i,0}\rVert_F^2}{s_i^2}\Bigr)^{1/2}

    Returns
    -------
    Share of test points, up to a constant.

    Examples
    --------
    >>> spectral_distance_index(2, 3, 16, 0.5, 10000)
    0.48
    """
    return depth * spectra * sqrt(distance_sum / samples) / margin


Complexity = Annotated[
    Any, Domain(0, symbol="R", typical=(1.0, 1000.0)), "spectral complexity, with distances from the start for the group norms"
]


@formula(kind="exact", source=f"code of {EXPLORING}", symbol="I", domain=MEASURE)
def spectral_group_index(complexity: Complexity, weights: Weights, margin: Margin, samples: Samples) -> Any:
    r"""Bound by the spectral complexity as the authors of the measures compute it, constants left out.

    .. math:: I = \frac{R \ln m \ln\omega}{\gamma \sqrt m}

    Returns
    -------
    Share of test points, up to a constant.

    Examples
    --------
    >>> round(spectral_group_index(181.02, 8192, 1, 10000), 3)
    150.235
    """
    return complexity * log(samples) * log(weights) / (margin * sqrt(samples))


@formula(kind="exact", source=f"code of {EXPLORING}", symbol="I", domain=MEASURE)
def group_product_index(product: GroupProduct, depth: Depth, inputs: Inputs, margin: Margin, samples: Samples) -> Any:
    r"""Bound by a product of L_{3,1.5} norms as its authors compute it, which falls more slowly with samples.

    .. math:: I = \sqrt{d + \ln n}\, \frac{p}{\gamma\, m^{1/3}}

    Returns
    -------
    Share of test points, up to a constant.

    Examples
    --------
    >>> round(group_product_index(10.5, 2, 2, 0.5, 1000), 4)
    3.4463
    """
    return sqrt(depth + log(inputs)) * product / (margin * samples**THIRD)


@formula(kind="exact", source=f"{JIANG}, eqs 29 and 30, by the code of {DZIUGAITE}", symbol="mu", domain=MEASURE)
def spectral_margin_measure(squared_spectra: SquaredSpectra, stable_ranks: RankSum, margin: Margin) -> Any:
    r"""Norms of the spectral margin bound without widths, depth and constants.

    .. math:: \mu = \frac{1}{\gamma^2} \prod_i s_i^2 \sum_j \frac{F_j^2}{s_j^2}

    Returns
    -------
    Measure before it is normalised.

    Examples
    --------
    >>> round(spectral_margin_measure(53.25659, 2.73894, 0.5), 3)
    583.466
    """
    return squared_spectra * stable_ranks / margin**2


@formula(kind="exact", source=f"{JIANG}, eqs 50 and 51", status="recalled", symbol="mu", domain=MEASURE)
def sharpness_measure(squared_norm: SquaredNorm, weights: Weights, change: Change, samples: Samples, noise: Noise) -> Any:
    r"""Measure of the largest change of the weights, at its worst, under which the training accuracy falls by 0.1.

    .. math:: \mu = \frac{\lVert w\rVert^2 \ln(2 \omega)}{4 \alpha^2} + \ln\frac{m}{\sigma} + 10

    Returns
    -------
    Measure before it is normalised.

    Examples
    --------
    >>> round(sharpness_measure(4.0, 1000, 0.1, 1000, 0.1), 2)
    779.3
    """
    return squared_norm * log(2 * weights) / (4 * change**2) + log(samples / noise) + 10


@formula(kind="heuristic", source=f"{EXPLORING}, eq 1", symbol="VC", domain=PROXY)
def layered_vc_order(depth: Depth, weights: Weights) -> Any:
    r"""VC dimension of a network of ReLUs, up to a constant and logarithms.

    .. math:: VC = d\, \omega

    Returns
    -------
    Points, up to a factor.

    Examples
    --------
    >>> layered_vc_order(3, 21000)
    63000
    """
    return depth * weights
