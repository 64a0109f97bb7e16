"""The error of a smaller head: certificates, and losses by the spectrum of the query-key form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

from ...errors import InputError
from ...formula import Domain, formula
from ...mathematics import exp, tanh
from .._regime import require
from ..saturation._domains import Length
from ._domains import OURS, RECONSTRUCTION

Eta = Annotated[
    Any,
    Domain(0, 100, True, True, symbol="eta", unit="nats", typical=(0.05, 2.0)),
    "largest difference of the logits, up to a common constant",
]
Variance = Annotated[
    Any, Domain(0, 300, True, True, symbol="sigma^2", unit="nats^2", typical=(1.0, 2.0)), "variance of the full logits"
]
Kept = Annotated[
    Any,
    Domain(0, 300, True, True, symbol="sigma_r^2", unit="nats^2", typical=(0.1, 0.9)),
    "variance of the smaller head's logits, at most sigma^2",
]
Tokens = Annotated[Length, "tokens"]


@formula(kind="exact", source=OURS, status="derived", symbol="TV")
def total_variation_bound(
    eta: Annotated[
        Eta, "largest difference of the logits, up to a common constant; for a truncated form, s_{r+1} |x_q| max |x_j|"
    ],
) -> Any:
    r"""Largest change of attention weights, in total variation, if every logit moves by at most eta.

    .. math:: \mathrm{TV}(p, p') \le \tanh(\eta/2)

    Derivation: docs/derivations/heads.md, (H12).

    Returns
    -------
    0 to 1; attained by two tokens.

    Notes
    -----
    A truncated form changes the logits by at most s_{r+1} |x_q| max |x_j|, s being its plain singular values.

    Examples
    --------
    >>> round(total_variation_bound(0.5), 6)
    0.244919
    """
    return tanh(eta / 2)


@formula(kind="exact", source=OURS, status="derived", symbol="|o - o'|")
def output_certificate(
    eta: Eta,
    radius: Annotated[Any, Domain(0, closed_low=True, symbol="R_v"), "radius of the smallest ball that holds the values"],
) -> Any:
    r"""Largest change of an attention output if every logit moves by at most eta.

    .. math:: \lVert o - o' \rVert \le 2 R_v \tanh(\eta/2)

    Derivation: docs/derivations/heads.md, (H13).

    Returns
    -------
    Units of radius.

    Examples
    --------
    >>> round(output_certificate(0.5, 1.0), 6)
    0.489837
    """
    return 2 * radius * tanh(eta / 2)


@formula(
    kind="exact",
    source=f"{OURS}; the 1/n is the confirmed content of Yu et al. 2025, arXiv 2510.03784, Theorem 5.1",
    status="derived",
    symbol="|p - p'|^2",
)
def bounded_logit_error(
    length: Tokens,
    range_nats: Annotated[
        Any, Domain(0, 700, True, True, symbol="Delta", typical=(0.5, 4.0)), "largest minus smallest logit, before and after"
    ],
    eta: Eta,
) -> Any:
    r"""Largest squared change of attention weights if bounded logits move by at most eta.

    .. math:: \lVert p - p' \rVert^2 \le \frac{2 e^\Delta}{n} \tanh(\eta/2)

    Derivation: docs/derivations/heads.md, (H14).

    Returns
    -------
    Times the variance of values that are independent of the keys, the squared change of the output: it vanishes as 1/n.

    Examples
    --------
    >>> round(bounded_logit_error(1024, 2.0, 0.2), 6)
    0.001438
    """
    return 2 * exp(range_nats) / length * tanh(eta / 2)


@formula(
    kind="asymptotic",
    source=RECONSTRUCTION,
    status="derived",
    symbol="MSE",
    order=1,
    domain="n to infinity; an over-estimate by 10 % at n = 16 exp(2 sigma^2)",
    accuracy=0.075,
    within={"variance": (0, 1), "length": (256, math.inf)},
)
def fixed_query_error(variance: Variance, kept_variance: Kept, length: Tokens) -> Any:
    r"""Squared error per value channel of a head that keeps part of the logits' variance, for one query.

    .. math:: \mathrm{MSE} \approx \left(e^{\sigma^2} - e^{\sigma_r^2}\right)/n

    Derivation: docs/derivations/heads.md, (H15).

    Returns
    -------
    Units of the value's variance; values independent of the keys.

    Examples
    --------
    >>> round(1024 * fixed_query_error(1.0, 0.9, 1024), 4)
    0.2587
    """
    require(kept_variance <= variance, "heads.fixed_query_error: a smaller head cannot keep more variance than there is")
    return (exp(variance) - exp(kept_variance)) / length


@formula(
    kind="asymptotic",
    source=RECONSTRUCTION,
    status="derived",
    symbol="MSE/MSE_0",
    order=1,
    domain="n to infinity",
    accuracy=0.04,
    within={"lost_variance": (0, 1)},
    given="rows of 256 entries and more, logits of a variance of at most 1",
)
def relative_truncation_error(
    lost_variance: Annotated[
        Any, Domain(0, closed_low=True, symbol="tau^2", unit="nats^2"), "logit variance lost, sigma^2 - sigma_r^2"
    ],
) -> Any:
    r"""Relative squared error of a diffuse head that loses part of the logits' variance. It does not fall with the length.

    .. math:: 1 - e^{-\tau^2}, \qquad \tau^2 = \sigma^2 - \sigma_r^2

    Derivation: docs/derivations/heads.md, (H16).

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(relative_truncation_error(0.5), 4)
    0.3935
    """
    return 1 - exp(-lost_variance)


def _spectrum(spectrum: Sequence[float]) -> list[float]:
    values = [float(v) for v in spectrum]
    if not values or not all(0 <= v < math.inf for v in values):
        raise InputError("a spectrum is a sequence of squared singular values, none of them negative, at least one of them")
    if any(b > a * (1 + 1e-12) + 1e-300 for a, b in pairwise(values)):
        raise InputError("a spectrum is sorted, largest first")
    return values


def power_spectrum(rank: int, exponent: float, total: float) -> list[float]:
    """The spectrum s_m^2 proportional to m^-exponent, m = 1 to `rank`, with this sum: a stand-in if nothing was measured.

    >>> [round(v, 4) for v in power_spectrum(3, 1.0, 1.1)]
    [0.6, 0.3, 0.2]
    """
    if rank < 1 or total < 0 or not math.isfinite(exponent):
        raise InputError("a power-law spectrum needs a rank from 1, a finite exponent and a sum of 0 or more")
    shape = [m**-exponent for m in range(1, rank + 1)]
    return [total * v / sum(shape) for v in shape]


def weight_growth(spectrum: Sequence[float]) -> list[float]:
    r"""F(0), F(1), ..., F(R): the second moment of an unnormalised attention weight with the first r directions kept.

    F(r) is the product over m <= r of (1 - 2 s_m^2)^(-1/2), the average of exp(sigma_q^2) over Gaussian queries. Our
    reconstruction of the diffuse case, not a theorem of Yu et al. 2025. Derivation: docs/derivations/heads.md, (H17).

    Raises
    ------
    InputError
        if the largest s_m^2 is 1/2 or more: then the average is infinite, and attention is not diffuse.

    >>> [round(v, 4) for v in weight_growth(power_spectrum(16, 1.0, 1.0))[:3]]
    [1.0, 1.5648, 1.8647]
    """
    values = _spectrum(spectrum)
    if values[0] >= 0.5:
        raise InputError(f"the largest squared singular value is {values[0]:.3g} nats^2; diffuse laws hold only below 0.5")
    grown = [1.0]
    for v in values:
        grown.append(grown[-1] / math.sqrt(1 - 2 * v))
    return grown


def diffuse_errors(spectrum: Sequence[float], length: int) -> list[float]:
    """Absolute squared error per unit-variance value channel of a diffuse head cut to rank 0, 1, ..., R: (F(R) - F(r))/n.

    The limit of long rows, an over-estimate at finite n: 48 to 54 % at n = 64, 22 to 26 % at 256, 8 to 16 % at 1024 for a
    harmonic spectrum.
    """
    grown = weight_growth(spectrum)
    return [(grown[-1] - f) / length for f in grown]


def readout_errors(spectrum: Sequence[float], gains: Sequence[float] | None = None) -> list[float]:
    """Loss of a head that reads content out, at rank 0, 1, ..., R: the sum over m > r of s_m^2 times gain_m, at any length.

    `gains` are the squared lengths of the value images of the whitened key directions, 1 where values are the whitened keys.
    Derivation: docs/derivations/heads.md, (H18).
    """
    values = _spectrum(spectrum)
    weights = [1.0] * len(values) if gains is None else [float(g) for g in gains]
    if len(weights) != len(values) or not all(0 <= g < math.inf for g in weights):
        raise InputError("gains are as many as singular values, none of them negative")
    lost = [0.0]
    for value, gain in zip(reversed(values), reversed(weights), strict=True):
        lost.append(lost[-1] + value * gain)
    return lost[::-1]


def saturation_dim(errors: Sequence[float], tolerance: float) -> int:
    """The least rank whose error, above that of the full rank, is at most `tolerance` (in the errors' unit).

    >>> saturation_dim(diffuse_errors(power_spectrum(16, 1.0, 1.0), 256), 1e-3)
    13
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance={tolerance} is negative")
    return next(rank for rank, error in enumerate(errors) if error - errors[-1] <= tolerance)
