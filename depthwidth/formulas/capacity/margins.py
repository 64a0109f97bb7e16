"""The spectrally normalised margin bound with its constants, and the lemmas it rests on."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import e, log, sqrt
from ._domains import (
    DRAWN,
    HALF,
    MEASURE,
    NEYSHABUR,
    PROXY,
    Depth,
    Divergence,
    Failure,
    InputNorm,
    Margin,
    Noise,
    Samples,
    Spectra,
    SquaredSpectra,
    StableRanks,
    Width,
)

RelativeChange = Annotated[
    Any, Domain(0, closed_low=True, symbol="u", typical=(0.01, 1.0)), "sum over layers of the change's spectral norm over s_i"
]


@formula(
    kind="exact",
    source=f"Lemma 2 of {NEYSHABUR}",
    status="rederived",
    symbol="D",
    domain="changes of each layer up to s_i/d: a bound",
)
def perturbation_bound(norm: InputNorm, spectra: Spectra, relative_change: RelativeChange) -> Any:
    r"""Largest change of the output, in the 2-norm, if the weights change.

    .. math:: D = e B \prod_i s_i \sum_i \frac{\lVert U_i\rVert_2}{s_i}

    Returns
    -------
    Logits.

    Notes
    -----
    The constant e cannot fall below 0.63 e: a chain of scalars reaches (1 + 1/d)^d - 1.

    Examples
    --------
    >>> round(perturbation_bound(1, 1, 1), 4)
    2.7183
    """
    return e * norm * spectra * relative_change


@formula(
    kind="exact",
    source=f"proof of {NEYSHABUR}",
    status="rederived",
    symbol="t",
    domain="all layers at once, with probability 1/2: a bound",
)
def noise_norm(depth: Depth, width: Width, noise: Noise) -> Any:
    r"""Spectral norm that Gaussian noise exceeds in no layer, with probability one half or more.

    .. math:: t = \sigma \sqrt{2 h \ln(4 d h)}

    Returns
    -------
    Spectral norm.

    Notes
    -----
    From Pr[norm > t] <= 2 h exp(-t^2/(2 h sigma^2)) and a union over layers.

    Examples
    --------
    >>> round(noise_norm(2, 64, 0.1), 3)
    2.826
    """
    return noise * sqrt(2 * width * log(4 * depth * width))


@formula(
    kind="exact", source=f"constants of the proof of {NEYSHABUR}", status="derived", symbol="K", domain="all networks: a bound"
)
def margin_divergence(
    depth: Depth, width: Width, norm: InputNorm, squared_spectra: SquaredSpectra, stable_ranks: StableRanks, margin: Margin
) -> Any:
    r"""Divergence of the perturbed weights from the prior in the spectral margin bound, with its constants.

    .. math:: K = \frac{(42 e)^2}{2} \frac{d^2 B^2 h \ln(4 h d)}{\gamma^2} \prod_i s_i^2 \sum_i \frac{F_i^2}{s_i^2}

    Returns
    -------
    Nats.

    Examples
    --------
    >>> round(margin_divergence(2, 1, 1, 1, 2, 1))
    108416
    """
    spectral = squared_spectra * stable_ranks
    return (42 * e) ** 2 / 2 * (depth * norm / margin) ** 2 * width * log(4 * width * depth) * spectral


@formula(kind="exact", source=f"proof of {NEYSHABUR}", status="derived", symbol="N", domain="all networks: a bound")
def covering_size(depth: Depth, samples: Samples) -> Any:
    r"""Scales of the weights over which the prior of the spectral margin bound is drawn.

    .. math:: N = d\, m^{1/(2d)}

    Returns
    -------
    Number of grid points; their failures are united.

    Examples
    --------
    >>> covering_size(2, 10000)
    20.0
    """
    return depth * samples ** (HALF / depth)


Priors = Annotated[Any, Domain(1, closed_low=True, symbol="N", typical=(1.0, 50.0)), "priors whose failures are united"]


@formula(kind="exact", source=f"Lemma 1 of {NEYSHABUR}", status="rederived", symbol="G", domain=DRAWN)
def derandomised_gap(divergence: Divergence, samples: Samples, failure: Failure, priors: Priors = 1) -> Any:
    r"""Test error minus margin loss, if noise on the weights moves no logit by a quarter of the margin half of the time.

    .. math:: G = 4 \sqrt{\frac{K + \ln(6 m N/\delta)}{m - 1}}

    Returns
    -------
    Share of test points; at 1 and above the bound says nothing.

    Examples
    --------
    >>> round(derandomised_gap(108416, 10**6, 0.05, 2 * 10**1.5), 4)
    1.3172
    """
    return 4 * sqrt((divergence + log(6 * samples * priors / failure)) / (samples - 1))


@formula(kind="exact", source=f"Theorem 1 of {NEYSHABUR}, with constants", status="derived", symbol="G", domain=DRAWN)
def spectral_margin_gap(
    depth: Depth,
    width: Width,
    norm: InputNorm,
    squared_spectra: SquaredSpectra,
    stable_ranks: StableRanks,
    margin: Margin,
    samples: Samples,
    failure: Failure,
) -> Any:
    r"""Test error minus margin loss by the spectral margin bound, with its constants.

    .. math:: G = 4 \sqrt{\frac{K + \ln(6 d\, m^{1 + 1/(2d)}/\delta)}{m - 1}}

    Returns
    -------
    Share of test points; at 1 and above the bound says nothing, as for networks of 64 units trained on digits (8e4 and more).

    Notes
    -----
    Several margins may be tried if `failure` is divided by their number. K is :func:`margin_divergence`.

    Examples
    --------
    >>> round(spectral_margin_gap(2, 64, 1, 1, 128, 1, 10000, 0.05), 2)
    1460.06
    """
    divergence = margin_divergence.body(depth, width, norm, squared_spectra, stable_ranks, margin)
    return derandomised_gap.body(divergence, samples, failure, covering_size.body(depth, samples))


@formula(
    kind="heuristic", source=f"Theorem 1 of {NEYSHABUR}, without its constant", status="rederived", symbol="O_G", domain=PROXY
)
def spectral_margin_order(
    depth: Depth,
    width: Width,
    norm: InputNorm,
    squared_spectra: SquaredSpectra,
    stable_ranks: StableRanks,
    margin: Margin,
    samples: Samples,
    failure: Failure,
) -> Any:
    r"""Expression under the O of the spectral margin bound, in the recalled form.

    .. math:: O_G = \sqrt{\frac{d^2 B^2 h \ln(d h) \prod_i s_i^2 \sum_i F_i^2/s_i^2 + \ln(d m/\delta)}{\gamma^2 m}}

    Returns
    -------
    Share of test points, up to a constant.

    Notes
    -----
    The proof gives the logarithm of d m/delta without the division by gamma^2.

    Examples
    --------
    >>> round(spectral_margin_order(2, 64, 1, 1, 128, 1, 10000, 0.05), 5)
    3.98753
    """
    spectral = (depth * norm) ** 2 * width * log(depth * width) * squared_spectra * stable_ranks
    return sqrt((spectral + log(depth * samples / failure)) / samples) / margin


GroupSum = Annotated[Any, Domain(0, symbol="t", typical=(1.0, 100.0)), "sum over layers of (2,1-norm over s_i)^(2/3)"]


@formula(kind="exact", source="Bartlett, Foster, Telgarsky 2017", status="secondary", symbol="R", domain=MEASURE)
def spectral_complexity(spectra: Spectra, group_sum: GroupSum) -> Any:
    r"""Spectral complexity: product of the spectral norms, corrected for the layers' group norms.

    .. math:: R = \prod_i s_i \Bigl(\sum_i (\lVert W_i\rVert_{2,1}/s_i)^{2/3}\Bigr)^{3/2}

    Returns
    -------
    Complexity; its square over margin^2 is the capacity.

    Examples
    --------
    >>> round(spectral_complexity(1, 2 * 64 ** (2 / 3)), 2)
    181.02
    """
    return spectra * group_sum ** (3 * HALF)
