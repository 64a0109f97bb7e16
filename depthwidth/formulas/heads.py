r"""How many dimensions a head needs, how many heads a layer, and what is lost with fewer.

Sharp heads, which look one token up, need about 2 ln n dimensions and gain nothing beyond 6 ln n. Diffuse heads lose what the
discarded singular directions of their query-key form carried; absolutely, that falls as 1/n, relatively it does not. How many
heads a layer needs is the number of things it must deliver, below which no width helps.

What is whose: the budget D = sum of H d_m over groups of heads, the trade of heads against head dimension in early layers and
the smaller head dimension of later ones are the confirmed structure of Yu et al. 2025 (arXiv 2510.03784), whose theorems could
not be read; formulas here whose source says *our reconstruction* are ours and not that paper's. Theorems of other papers carry
their names; statements that give an order without a constant are of kind ``heuristic`` and take the constant to be 1.

A spectrum below is the squared singular values s_m^2, in nats^2, of the whitened query-key form C_q^(1/2) M C_k^(1/2): the part
of the logits' variance that each direction carries, largest first.

Derivation: docs/derivations/heads.md, whose numbers (H1) to (H27) stand at the functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

from ..checks import whole
from ..errors import InputError
from ..formula import Domain, fitted, formula
from ..mathematics import Constant, exp, log, maximum, minimum, sqrt, tanh
from ._quadrature import in_doubles
from ._regime import require
from .saturation import LONGEST, Length, Miss, largest_normal

_WHOLE: dict[str, Any] = {"closed_low": True, "integer": True}
HeadDim = Annotated[Any, Domain(1, 1e6, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(32, 256))]
SmallHead = Annotated[Any, Domain(1, 4096, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(4, 32))]
SphereDim = Annotated[Any, Domain(2, 1e6, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(4, 128))]
ShortLength = Annotated[Any, Domain(2, LONGEST, True, True, integer=True, symbol="n", unit="tokens", typical=(16, 1024))]
Width = Annotated[Any, Domain(1, symbol="d", unit="dimensions", typical=(256, 8192), **_WHOLE)]
Heads = Annotated[Any, Domain(1, symbol="H", typical=(1, 64), **_WHOLE)]
Depth = Annotated[Any, Domain(1, symbol="L", unit="layers", typical=(2, 96), **_WHOLE)]
Eta = Annotated[Any, Domain(0, 100, True, True, symbol="eta", unit="nats", typical=(0.05, 2.0))]
Variance = Annotated[Any, Domain(0, 300, True, True, symbol="sigma^2", unit="nats^2", typical=(1.0, 2.0))]
Kept = Annotated[Any, Domain(0, 300, True, True, symbol="sigma_r^2", unit="nats^2", typical=(0.1, 0.9))]
Lag = Annotated[Any, Domain(0, 4096, True, True, integer=True, symbol="T", unit="tokens", typical=(1, 32))]

_OURS = "derived for this package"
_MEMORY = f"{_OURS}; mechanism of Lucibello and Mezard 2023, arXiv 2304.14964"
_BHOJANAPALLI = "Bhojanapalli et al. 2020, arXiv 2002.07028"
_RECONSTRUCTION = f"{_OURS}: our reconstruction, not a theorem of Yu et al. 2025, arXiv 2510.03784"


# ---- sharp heads ----


@formula(kind="asymptotic", source=_MEMORY, status="derived", symbol="d_crit", domain="Gaussian keys, annealed average")
def critical_head_dim(length: Length) -> Any:
    r"""Head dimension below which no logit scale lets a head look one token up.

    .. math:: d_{crit} = 2 \ln n

    Derivation: docs/derivations/heads.md, (H2).

    Parameters
    ----------
    length : n, tokens to choose from.

    Returns
    -------
    Dimensions. At finite n the error of the best head is near one half there (:func:`best_retrieval_error`); 4 ln n is
    comfortable and 6 ln n is as good as any.

    Examples
    --------
    >>> round(critical_head_dim(1024), 3)
    13.863
    """
    return 2 * log(length)


def _require_retrieval(name: str, head_dim: Any, length: Any) -> Any:
    slack = head_dim - 2 * log(length)
    require(slack >= 0, f"heads.{name}: no logit scale retrieves with fewer than 2 ln n dimensions")
    return slack


@formula(kind="asymptotic", source=_MEMORY, status="derived", symbol="sigma_min", domain="Gaussian keys, annealed average")
def smallest_noise(head_dim: HeadDim, length: ShortLength) -> Any:
    r"""Smallest standard deviation of the distractors' logits at which a head can look one token up.

    .. math:: \sigma_{min} = \sqrt{d_h} - \sqrt{d_h - 2 \ln n}

    Derivation: docs/derivations/heads.md, (H3).

    Parameters
    ----------
    head_dim : d_h >= 2 ln n.
    length : n, tokens to choose from.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(smallest_noise(64, 1024), 4)
    0.9192
    """
    return sqrt(head_dim) - sqrt(_require_retrieval("smallest_noise", head_dim, length))


@formula(kind="asymptotic", source=_MEMORY, status="derived", symbol="Delta_min", domain="Gaussian keys, annealed average")
def smallest_gap(head_dim: HeadDim, length: ShortLength) -> Any:
    r"""Smallest logit of a target, above the distractors' mean, at which a head can look it up.

    .. math:: \Delta_{min} = d_h \left(1 - \sqrt{1 - 2 \ln n / d_h}\right)

    Derivation: docs/derivations/heads.md, (H4).

    Parameters
    ----------
    head_dim : d_h >= 2 ln n.
    length : n, tokens to choose from.

    Returns
    -------
    nats; falls to ln n with the relative excess ln n / (2 d_h), so that more dimensions soon buy nothing.

    Examples
    --------
    >>> round(smallest_gap(64, 1024), 3)
    7.354
    """
    return head_dim * (1 - sqrt(_require_retrieval("smallest_gap", head_dim, length) / (head_dim * Constant.of(1))))


@formula(kind="exact", source=f"{_OURS}: planted target averaged over the target's norm", status="derived", symbol="NMSE*",
         domain="independent Gaussian keys, the best logit scale and output gain")  # fmt: skip
def best_retrieval_error(length: ShortLength, head_dim: SmallHead) -> Any:
    r"""Least normalised squared error of a head that copies the value of one token out of n.

    .. math:: \mathrm{NMSE}^* = \min_c \left[1 - \frac{(E\,p_t)^2}{E \sum_j p_j^2}\right]

    Derivation: docs/derivations/heads.md, (H5).

    Parameters
    ----------
    length : n, tokens to choose from.
    head_dim : d_h, dimensions of the keys.

    Returns
    -------
    0 to 1. Trained heads reach it without any fitted number (n = 16 to 1024), to 0.01 above it where it is below 0.05.

    Examples
    --------
    >>> round(best_retrieval_error(64, 12), 3)
    0.144
    """

    def least(n: float, d: float) -> float:
        from ..numerics.retrieval import best_retrieval

        return best_retrieval(int(n), int(d)).error

    return in_doubles("best_retrieval_error", least, length, head_dim, one_by_one=True)


@formula(kind="exact", source=f"{_OURS}: median of the largest of n cosines", status="derived", symbol="x_n",
         domain="keys uniform on the sphere")  # fmt: skip
def largest_cosine(length: ShortLength, head_dim: SphereDim) -> Any:
    r"""Median of the largest cosine between a query and n random unit keys.

    .. math:: x_n = 2\, B^{-1}\!\left(2^{-1/n};\ \tfrac{d_h - 1}{2}, \tfrac{d_h - 1}{2}\right) - 1

    Derivation: docs/derivations/heads.md, (H6).

    Parameters
    ----------
    length : n, keys.
    head_dim : d_h, from 2.

    Returns
    -------
    -1 to 1.

    Examples
    --------
    >>> round(largest_cosine(1024, 32), 4)
    0.5345
    """

    def quantile(n: Any, d: Any) -> Any:
        from scipy.special import betainccinv

        half = (d - 1) / 2
        # From the upper tail, which keeps its digits at large n.
        found = 2 * betainccinv(half, half, -_expm1(-math.log(2) / n)) - 1
        return found if getattr(found, "ndim", 0) else float(found)

    return in_doubles("largest_cosine", quantile, length, head_dim)


def _expm1(x: Any) -> Any:
    import numpy as np

    return np.expm1(x)


@formula(kind="approximation", source=f"{_OURS}: every distractor placed at the largest cosine", status="derived",
         symbol="beta", domain="sufficient in half of random key draws; conservative")  # fmt: skip
def unit_key_temperature(length: ShortLength, head_dim: SphereDim, miss: Miss) -> Any:
    r"""Inverse temperature that suffices for one target among n unit-norm keys.

    .. math:: \beta \ge \frac{\ln \frac{(n-1)(1-\epsilon)}{\epsilon}}{1 - x_n}

    Derivation: docs/derivations/heads.md, (H7).

    Parameters
    ----------
    length : n, keys.
    head_dim : d_h, from 2.
    miss : epsilon, the weight that the distractors may keep.

    Returns
    -------
    What the cosine is multiplied by; :func:`~depthwidth.formulas.saturation.gap_for_weight` is its floor at large d_h.

    Examples
    --------
    >>> round(unit_key_temperature(1024, 32, 0.01), 2)
    24.76
    """
    from .saturation import gap_for_weight

    return gap_for_weight.body(length, miss) / (1 - largest_cosine.body(length, head_dim))


@formula(kind="exact", source=f"{_OURS}: extremes of a cosine", status="derived", symbol="p_cap")
def qk_norm_cap(
    length: ShortLength, head_dim: HeadDim, gain: Annotated[Any, Domain(0, 100, True, True, symbol="g", typical=(0.1, 1.0))] = 1
) -> Any:
    r"""Largest weight that a head with normalised queries and keys can give to one token.

    .. math:: p_{max} \le \frac{1}{1 + (n - 1) \exp(-2 g \sqrt{d_h})}

    Derivation: docs/derivations/heads.md, (H8).

    Parameters
    ----------
    length : n, tokens.
    head_dim : d_h; logits are g sqrt(d_h) times a cosine.
    gain : g, product of the gains of the two norms.

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(qk_norm_cap(1024, 16), 4)
    0.7445
    """
    return 1 / (1 + (length - 1) * exp(-2 * gain * sqrt(head_dim)))


# ---- low rank ----


@formula(kind="exact", source=f"{_BHOJANAPALLI}, Theorem 1", status="primary", symbol="d_p")
def dense_pattern_head_dim(length: ShortLength) -> Any:
    r"""Head dimension from which every positive attention matrix can be represented, for every input of full rank.

    .. math:: d_p \ge n

    Parameters
    ----------
    length : n, tokens; the width must be n or more too.

    Returns
    -------
    Dimensions. Below it some input and matrix cannot be matched; sparse patterns need only order ln n.

    Examples
    --------
    >>> dense_pattern_head_dim(128)
    128
    """
    return length


@formula(kind="exact", source=f"{_BHOJANAPALLI}, section 3", status="primary", symbol="H")
def bottleneck_heads(width: Width, length: ShortLength) -> Any:
    r"""Number of heads of size d/H beyond which a head has fewer dimensions than there are tokens.

    .. math:: H = d / n

    Parameters
    ----------
    width : d.
    length : n, tokens.

    Returns
    -------
    Heads; BERT-large on 128 tokens has 8.

    Examples
    --------
    >>> bottleneck_heads(1024, 128)
    8.0
    """
    return width / (length * Constant.of(1))


@formula(kind="approximation", source=f"{_BHOJANAPALLI}; counts matched to its tables", status="rederived", symbol="N",
         domain="within 1 % of the printed counts of ten models with 1.6M for positions, biases and norms")  # fmt: skip
def fixed_head_parameters(
    depth: Depth,
    heads: Heads,
    head_dim: Annotated[Any, Domain(1, symbol="d_p", unit="dimensions", typical=(32, 256), **_WHOLE)],
    width: Width,
    ffn: Annotated[Any, Domain(1, symbol="d_ff", unit="dimensions", typical=(1024, 4096), **_WHOLE)],
    vocab: Annotated[Any, Domain(1, symbol="V", unit="tokens", typical=(1e4, 1e5), **_WHOLE)] = 30000,
    rest: Annotated[Any, Domain(0, closed_low=True, symbol="N_rest", typical=(1e5, 1e6))] = 1.6e6,
) -> Any:
    r"""Parameters of an encoder whose head size does not depend on the number of heads.

    .. math:: N = L (4 H d_p d + 2 d\, d_{ff}) + V d + N_{rest}

    Parameters
    ----------
    depth : L, layers.
    heads : H, heads of a layer.
    head_dim : d_p, dimensions of each.
    width : d.
    ffn : d_ff.
    vocab : V.
    rest : N_rest, positions, biases and norms.

    Returns
    -------
    A count.

    Examples
    --------
    >>> round(fixed_head_parameters(24, 8, 128, 512, 4096) / 1e6, 1)
    168.0
    """
    return depth * (4 * heads * head_dim * width + 2 * width * ffn) + vocab * width + rest


@formula(kind="exact", source="occupancy of n boxes by n balls", status="derived", symbol="R",
         domain="independent uniform arg-max")  # fmt: skip
def hardmax_rank(length: ShortLength) -> Any:
    r"""Average rank of a hard-max attention matrix whose rows pick independently: 0.632 n.

    .. math:: E R = n \left(1 - (1 - 1/n)^n\right)

    Derivation: docs/derivations/heads.md, (H9).

    Parameters
    ----------
    length : n, tokens.

    Returns
    -------
    The number of distinct columns picked.

    Notes
    -----
    The limit (1 - 1/e) n is that of "Limitation and Redundancy of Transformers: A Rank Perspective" (OpenReview GoK1PfVgXU).

    Examples
    --------
    >>> round(hardmax_rank(64), 3)
    40.641
    """
    return length * (1 - (1 - Constant.of(1) / length) ** length)


@formula(kind="exact", source="every row's own column, and those below", status="derived", symbol="R",
         domain="independent uniform arg-max")  # fmt: skip
def causal_hardmax_rank(length: ShortLength) -> Any:
    r"""Average rank of a causal hard-max attention matrix whose rows pick independently.

    .. math:: E R = (n + 1)/2

    Derivation: docs/derivations/heads.md, (H10).

    Parameters
    ----------
    length : n, tokens.

    Returns
    -------
    The number of distinct columns picked.

    Examples
    --------
    >>> causal_hardmax_rank(64)
    32.5
    """
    return (length + 1) / Constant.of(2)


@formula(kind="approximation", source=f"{_OURS}: Poisson picks with log-normal rates of the keys' norms", status="derived",
         symbol="R/n", domain="Gaussian keys, d_h >= 8; within 0.015 for n from 64 to 1024")  # fmt: skip
def gaussian_hardmax_fraction(
    length: Annotated[Any, Domain(16, LONGEST, True, True, integer=True, symbol="n", unit="tokens", typical=(64, 1024))],
    head_dim: Annotated[Any, Domain(8, 1e6, True, True, integer=True, symbol="d_h", typical=(8, 256))],
) -> Any:
    r"""Rank over length of a hard-max attention matrix with Gaussian queries and keys.

    .. math:: \frac{E R}{n} \approx E_g\!\left[1 - \exp\!\left(-e^{\tau g - \tau^2/2}\right)\right],
        \qquad \tau = \frac{b_n^2}{\sqrt{2 d_h}}

    Derivation: docs/derivations/heads.md, (H11).

    Parameters
    ----------
    length : n, tokens, from 16.
    head_dim : d_h, from 8.

    Returns
    -------
    0 to 1 - 1/e. With unit-norm keys the limit is reached at 4 to 8 dimensions: all of the dependence is on the keys' norms.

    Examples
    --------
    >>> round(gaussian_hardmax_fraction(256, 32), 3)
    0.509
    """

    def average(n: Any, d: Any) -> Any:
        import numpy as np

        tau = np.asarray(largest_normal.body(n) ** 2 / np.sqrt(2 * np.asarray(d)))[..., None]
        g = np.linspace(-9.0, 9.0, 721)
        with np.errstate(under="ignore"):
            picked = -np.expm1(-np.exp(np.minimum(tau * g - tau**2 / 2, 50.0)))
            found = (picked * np.exp(-g * g / 2)).sum(-1) * (g[1] - g[0]) / math.sqrt(2 * math.pi)
        return found if found.ndim else float(found)

    return in_doubles("gaussian_hardmax_fraction", average, length, head_dim)


@formula(kind="approximation", source=f"{_OURS}: inverse of the rank law", status="derived", symbol="d_h",
         domain="95 % of the limit, Gaussian keys")  # fmt: skip
def head_dim_for_hardmax_rank(length: Length) -> Any:
    r"""Head dimension at which a hard-max matrix with Gaussian keys reaches 95 % of its largest rank.

    .. math:: d_h \approx 3.2\, b_n^4

    Parameters
    ----------
    length : n, tokens.

    Returns
    -------
    Dimensions.

    Examples
    --------
    >>> round(head_dim_for_hardmax_rank(256))
    168
    """
    return 3.2 * largest_normal.body(length) ** 4


# ---- certificates, and the error of a smaller head ----


@formula(kind="exact", source=_OURS, status="derived", symbol="TV")
def total_variation_bound(eta: Eta) -> Any:
    r"""Largest change of attention weights, in total variation, when every logit moves by at most eta.

    .. math:: \mathrm{TV}(p, p') \le \tanh(\eta/2)

    Derivation: docs/derivations/heads.md, (H12).

    Parameters
    ----------
    eta : largest difference of the logits up to a common constant, nats. Of a truncated form: s_{r+1} |x_q| max |x_j|, with s
        its plain singular values.

    Returns
    -------
    0 to 1; attained by two tokens.

    Examples
    --------
    >>> round(total_variation_bound(0.5), 6)
    0.244919
    """
    return tanh(eta / 2)


@formula(kind="exact", source=_OURS, status="derived", symbol="|o - o'|")
def output_certificate(eta: Eta, radius: Annotated[Any, Domain(0, closed_low=True, symbol="R_v")]) -> Any:
    r"""Largest change of an attention output when every logit moves by at most eta.

    .. math:: \lVert o - o' \rVert \le 2 R_v \tanh(\eta/2)

    Derivation: docs/derivations/heads.md, (H13).

    Parameters
    ----------
    eta : largest difference of the logits up to a common constant, nats.
    radius : R_v, of the smallest ball that holds the values.

    Returns
    -------
    Units of radius.

    Examples
    --------
    >>> round(output_certificate(0.5, 1.0), 6)
    0.489837
    """
    return 2 * radius * tanh(eta / 2)


@formula(kind="exact", source=f"{_OURS}; the 1/n is the confirmed content of Yu et al. 2025, arXiv 2510.03784, Theorem 5.1",
         status="derived", symbol="|p - p'|^2")  # fmt: skip
def bounded_logit_error(
    length: Length, range_nats: Annotated[Any, Domain(0, 700, True, True, symbol="Delta", typical=(0.5, 4.0))], eta: Eta
) -> Any:
    r"""Largest squared change of attention weights when bounded logits move by at most eta.

    .. math:: \lVert p - p' \rVert^2 \le \frac{2 e^\Delta}{n} \tanh(\eta/2)

    Derivation: docs/derivations/heads.md, (H14).

    Parameters
    ----------
    length : n, tokens.
    range_nats : Delta, largest minus smallest logit, before and after.
    eta : largest difference of the logits up to a common constant, nats.

    Returns
    -------
    Times the variance of values that are independent of the keys, the squared change of the output: it vanishes as 1/n.

    Examples
    --------
    >>> round(bounded_logit_error(1024, 2.0, 0.2), 6)
    0.001438
    """
    return 2 * exp(range_nats) / length * tanh(eta / 2)


@formula(kind="asymptotic", source=_RECONSTRUCTION, status="derived", symbol="MSE", order=1,
         domain="n to infinity; an over-estimate by 10 % at n = 16 exp(2 sigma^2)")  # fmt: skip
def fixed_query_error(variance: Variance, kept_variance: Kept, length: Length) -> Any:
    r"""Squared error per value channel of a head that keeps part of the logits' variance, for one query.

    .. math:: \mathrm{MSE} \approx \left(e^{\sigma^2} - e^{\sigma_r^2}\right)/n

    Derivation: docs/derivations/heads.md, (H15).

    Parameters
    ----------
    variance : sigma^2 of the full logits, nats^2.
    kept_variance : sigma_r^2 <= sigma^2 of those of the smaller head.
    length : n, tokens.

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


@formula(kind="asymptotic", source=_RECONSTRUCTION, status="derived", symbol="MSE/MSE_0", order=1, domain="n to infinity")
def relative_truncation_error(lost_variance: Annotated[Any, Domain(0, closed_low=True, symbol="tau^2", unit="nats^2")]) -> Any:
    r"""Relative squared error of a diffuse head that loses part of the logits' variance. It does not fall with the length.

    .. math:: 1 - e^{-\tau^2}, \qquad \tau^2 = \sigma^2 - \sigma_r^2

    Derivation: docs/derivations/heads.md, (H16).

    Parameters
    ----------
    lost_variance : tau^2, nats^2.

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
    """The spectrum s_m^2 proportional to m^-exponent, m = 1 to `rank`, with this sum: a stand-in where nothing was measured.

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
        where the largest s_m^2 is 1/2 or more: then the average is infinite, and attention is not diffuse.

    >>> [round(v, 4) for v in weight_growth(power_spectrum(16, 1.0, 1.0))[:3]]
    [1.0, 1.5648, 1.8647]
    """
    values = _spectrum(spectrum)
    if values[0] >= 0.5:
        raise InputError(f"the largest squared singular value is {values[0]:.3g} nats^2; diffuse laws hold below 0.5 only")
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
    """What a head that reads content out loses at rank 0, 1, ..., R: the sum over m > r of s_m^2 times gain_m, at any length.

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


# ---- how many heads ----


@formula(kind="exact", source="Mahdavi, Liao, Thrampoulidis 2024, arXiv 2306.02010; explicit form recalled", status="recalled",
         symbol="N", domain="queries of Kruskal rank n, contexts of rank n, n < d")  # fmt: skip
def memorised_examples(heads: Heads, length: ShortLength, head_dim: HeadDim) -> Any:
    r"""Examples that one attention layer can memorise: linear in the heads, in their dimension only up to n.

    .. math:: N = H (\min(n, d_h) - 1) + 1

    Parameters
    ----------
    heads : H.
    length : n, tokens of an example.
    head_dim : d_h.

    Returns
    -------
    A count.

    Examples
    --------
    >>> memorised_examples(8, 32, 64)
    249
    """
    return heads * (minimum(length, head_dim) - 1) + 1


@formula(kind="heuristic", source="Adler 2025, arXiv 2509.22840 v1: order of growth, constant taken as 1", status="secondary",
         symbol="D_K")  # fmt: skip
def relation_key_dim(
    relations: Annotated[Any, Domain(2, closed_low=True, symbol="m", typical=(1e3, 1e6))], width: Width
) -> Any:
    r"""Total key dimension, over all heads, that recovering so many relations between items takes, to an order of magnitude.

    .. math:: D_K = H d_h \sim \frac{m \ln m}{d}

    Parameters
    ----------
    relations : m, directed pairs.
    width : d, of the items' embeddings.

    Returns
    -------
    Dimensions.

    Examples
    --------
    >>> round(relation_key_dim(1e5, 1024))
    1124
    """
    return relations * log(relations) / width


_AMSEL = "Amsel, Yehudai, Bruna 2025, arXiv 2407.16153, Theorem 2"
FullDim = Annotated[Any, Domain(2, symbol="d", unit="dimensions", typical=(128, 512), **_WHOLE)]
Rank = Annotated[Any, Domain(1, symbol="r", unit="dimensions", typical=(1, 16), **_WHOLE)]


@formula(kind="heuristic", source=f"{_AMSEL}: order, constant taken as 1", status="secondary", symbol="H")
def low_rank_heads_high_dim(
    width: FullDim, rank: Rank, error: Annotated[Any, Domain(0, 1, symbol="epsilon", typical=(0.2, 0.9))]
) -> Any:
    r"""Heads of low rank that finding the nearest of two points takes, in high dimension. One full-rank head is enough.

    .. math:: H = \Omega\!\left((d/r)^{1/\epsilon}\right)

    Parameters
    ----------
    width : d, of the points.
    rank : r <= d, of a head.
    error : epsilon, squared.

    Returns
    -------
    Heads, to the order.

    Examples
    --------
    >>> low_rank_heads_high_dim(64, 32, 0.5)
    4.0
    """
    require(rank <= width, "heads.low_rank_heads_high_dim: a head's rank is at most the width")
    return (width / (rank * Constant.of(1))) ** (1 / error)


@formula(kind="heuristic", source=f"{_AMSEL}: order, constant taken as 1", status="secondary", symbol="ln H")
def log_low_rank_heads_high_accuracy(width: FullDim, rank: Rank) -> Any:
    r"""Logarithm of the number of low-rank heads that finding the nearest of two points takes, at high accuracy.

    .. math:: \ln H = \Omega\!\left(d - r \ln(d/r)\right)

    Parameters
    ----------
    width : d, of the points.
    rank : r <= d, of a head.

    Returns
    -------
    To the order.

    Examples
    --------
    >>> round(log_low_rank_heads_high_accuracy(64, 8), 2)
    47.36
    """
    require(rank <= width, "heads.log_low_rank_heads_high_accuracy: a head's rank is at most the width")
    return width - rank * log(width / (rank * Constant.of(1)))


@formula(kind="heuristic", source="Sanford, Hsu, Telgarsky 2023, arXiv 2306.02896: order, constant taken as 1",
         status="recalled", symbol="m")  # fmt: skip
def sparse_average_dim(chosen: Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="q", typical=(1, 64))],
                       length: ShortLength) -> Any:  # fmt: skip
    r"""Embedding dimension that averaging q chosen tokens out of n takes one attention unit.

    .. math:: m \sim q \ln n

    Parameters
    ----------
    chosen : q, tokens averaged.
    length : n, tokens.

    Returns
    -------
    Dimensions, to the order; at least of order q.

    Examples
    --------
    >>> round(sparse_average_dim(4, 1024), 1)
    27.7
    """
    return chosen * log(length)


_COUNT = "Yu et al. 2026, arXiv 2510.06662"


@formula(kind="exact", source=f"{_COUNT}, Theorem 2(2)", status="primary", symbol="k",
         domain="bounded weights, H < D; parameters grow at least as eps^-k")  # fmt: skip
def too_few_heads_exponent(
    length: Annotated[Any, Domain(4, LONGEST, True, True, integer=True, symbol="T", unit="tokens", typical=(128, 4096))],
    head_width: Annotated[Any, Domain(1, symbol="w", typical=(1, 32), **_WHOLE)],
    heads: Annotated[Any, Domain(1, symbol="s", typical=(1, 3), **_WHOLE)],
    intrinsic_dim: Annotated[Any, Domain(2, symbol="D", typical=(4, 12), **_WHOLE)],
) -> Any:
    r"""Exponent of the parameters over the accuracy for a layer with fewer heads than the target's intrinsic dimension.

    .. math:: M = \Omega(\epsilon^{-k}), \qquad k = \frac{T/4 - s - D + 1}{(w + 1) s + 1} - 1

    Parameters
    ----------
    length : T, tokens.
    head_width : w, dimensions of a head.
    heads : s < D.
    intrinsic_dim : D, minima over parts of the sequence that the target depends on.

    Returns
    -------
    k; 0 or less says nothing. With D heads the exponent does not depend on T.

    Examples
    --------
    >>> round(too_few_heads_exponent(1024, 8, 3, 4), 2)
    7.93
    """
    require(heads < intrinsic_dim, "heads.too_few_heads_exponent: says something for fewer heads than D only")
    return (length / Constant.of(4) - heads - intrinsic_dim + 1) / ((head_width + 1) * heads + 1) - 1


@formula(kind="fitted", source=f"{_COUNT}, fit on MS MARCO", status="primary", symbol="E/E_0", domain="H < 12, T from 8 to 64")
def head_count_decay(
    heads: Annotated[Any, Domain(0, symbol="H", typical=(1, 11), **_WHOLE)],
    length: Annotated[Any, Domain(1, symbol="T", unit="tokens", typical=(8, 64), **_WHOLE)],
    alpha: Annotated[Any, Domain(symbol="alpha", typical=(-1.5, -1.0))] = fitted("yu2026_heads", "alpha"),
    delta: Annotated[Any, Domain(symbol="delta", typical=(0.2, 0.3))] = fitted("yu2026_heads", "delta"),
) -> Any:
    r"""Factor by which training error falls with the number of heads at a given length.

    .. math:: E \propto \exp\!\left(\alpha H / T^\delta\right)

    Parameters
    ----------
    heads : H.
    length : T, tokens.
    alpha, delta : the fit.

    Returns
    -------
    Relative to no heads at the same length.

    Examples
    --------
    >>> round(head_count_decay(4, 16), 4)
    0.0608
    """
    return exp(alpha * heads / length**delta)


# ---- linear-bias heads ----


@formula(kind="exact", source=f"{_OURS}: least squares over one geometric kernel", status="derived", symbol="epsilon^2")
def one_head_lag_error(decay: Annotated[Any, Domain(0, 1, True, False, symbol="z", typical=(0.1, 0.95))], lag: Lag) -> Any:
    r"""Squared error of one linear-bias head that should pick the token at a given lag.

    .. math:: \epsilon^2 = 1 - z^{2T}(1 - z^2)

    Derivation: docs/derivations/heads.md, (H20).

    Parameters
    ----------
    decay : z, of the weights (1 - z) z^s over lags s; any real output gain.
    lag : T.

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> one_head_lag_error(0.5, 3)
    0.98828125
    """
    return 1 - decay ** (2 * lag) * (1 - decay**2)


@formula(kind="exact", source=f"{_OURS}: minimum of the error over the decay", status="derived", symbol="z")
def best_lag_decay(lag: Lag) -> Any:
    r"""Decay with which one linear-bias head picks a given lag best.

    .. math:: z^2 = \frac{T}{T + 1}

    Derivation: docs/derivations/heads.md, (H21).

    Parameters
    ----------
    lag : T.

    Returns
    -------
    z, 0 to 1.

    Examples
    --------
    >>> round(best_lag_decay(4), 4)
    0.8944
    """
    return sqrt(lag / (lag + Constant.of(1)))


def lag_error(decays: Sequence[float], lag: int) -> float:
    """Squared error of linear-bias heads with these decays, and free real gains, that should pick the token at `lag`.

    The sum of the squares of the first lag + 1 Taylor coefficients of the Blaschke product over (w - z)/(1 - z w): exact, and
    0 from lag + 1 heads on, whose gains then diverge as decays approach one another.
    Derivation: docs/derivations/heads.md, (H19).

    >>> round(lag_error([0.3, 0.6, 0.8], 4), 10)
    0.830982391
    """
    if not decays or not all(0 <= z < 1 for z in decays):
        raise InputError("decays are numbers from 0 to below 1, at least one")
    lag = whole("lag_error", "lag", lag, 0, 4096)
    b = [1.0] + [0.0] * lag
    for z in decays:
        # Multiply by (w - z), then divide by (1 - z w).
        b = [(b[i - 1] if i else 0.0) - z * b[i] for i in range(lag + 1)]
        for i in range(1, lag + 1):
            b[i] += z * b[i - 1]
    return math.fsum(v * v for v in b)


def best_lag_error(heads: int, lag: int) -> float:
    """The least :func:`lag_error` of so many heads, at equal decays: no others were found to beat them, up to 6 heads.

    >>> round(best_lag_error(3, 8), 4)
    0.8645
    """
    heads = whole("best_lag_error", "heads", heads)
    if heads > lag:
        return 0.0
    from scipy.optimize import minimize_scalar

    return min(
        float(minimize_scalar(lambda z: lag_error([z] * heads, lag), bounds=(low / 8, (low + 1) / 8 - 1e-9), method="bounded",
                              options={"xatol": 1e-9}).fun)
        for low in range(8)
    )  # fmt: skip


# ---- heads against head dimension ----

_SPLIT = f"{_RECONSTRUCTION}; the budget D = sum of H d is that paper's"
Prefactor = Annotated[Any, Domain(0, symbol="a", typical=(0.5, 4.0))]
OtherPrefactor = Annotated[Any, Domain(0, symbol="b", typical=(0.5, 4.0))]
Power = Annotated[Any, Domain(0, symbol="p", typical=(0.5, 3.0))]
OtherPower = Annotated[Any, Domain(0, symbol="q", typical=(0.5, 3.0))]
Budget = Annotated[Any, Domain(0, symbol="D", unit="dimensions", typical=(16, 1024))]


@formula(kind="exact", source=_SPLIT, status="derived", symbol="H*", domain="error a H^-p + b d^-q at H d = D")
def split_heads(a: Prefactor, p: Power, b: OtherPrefactor, q: OtherPower, budget: Budget) -> Any:
    r"""Best number of heads of a budget of dimensions, for power-law errors.

    .. math:: H^* = \left(\frac{a p}{b q}\right)^{1/(p + q)} D^{q/(p + q)}

    Derivation: docs/derivations/heads.md, (H24).

    Parameters
    ----------
    a, p : the error falls as a H^-p with the number of heads,
    b, q : and as b d^-q with their dimension.
    budget : D = H d.

    Returns
    -------
    H*, not rounded; d* is D over it.

    Examples
    --------
    >>> round(split_heads(1, 2, 1, 1, 64), 4)
    5.0397
    """
    return (a * p / (b * q)) ** (1 / (p + q)) * budget ** (q / (p + q))


@formula(kind="exact", source=_SPLIT, status="derived", symbol="kappa", domain="error a H^-p + b d^-q at H d = D")
def split_prefactor(a: Prefactor, p: Power, b: OtherPrefactor, q: OtherPower) -> Any:
    r"""Prefactor of the error at the best split: kappa D^-rho.

    .. math:: \kappa = a\, \frac{p + q}{q} \left(\frac{a p}{b q}\right)^{-p/(p + q)}

    Derivation: docs/derivations/heads.md, (H25).

    Parameters
    ----------
    a, p : the error falls as a H^-p with the number of heads,
    b, q : and as b d^-q with their dimension.

    Returns
    -------
    kappa.

    Examples
    --------
    >>> round(split_prefactor(1, 2, 1, 1), 5)
    1.88988
    """
    return a * (p + q) / q * (a * p / (b * q)) ** (-p / (p + q))


@formula(kind="exact", source=_SPLIT, status="derived", symbol="err*", domain="error a H^-p + b d^-q at H d = D")
def split_error(a: Prefactor, p: Power, b: OtherPrefactor, q: OtherPower, budget: Budget) -> Any:
    r"""Error at the best split of a budget of dimensions between heads and head dimension.

    .. math:: \mathrm{err}^* = \kappa D^{-\rho}, \qquad \rho = \frac{p q}{p + q}

    Derivation: docs/derivations/heads.md, (H25).

    Parameters
    ----------
    a, p : the error falls as a H^-p with the number of heads,
    b, q : and as b d^-q with their dimension.
    budget : D = H d.

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


@formula(kind="heuristic", source=f"{_OURS}: canonical tensor decomposition, count of freedoms", status="derived", symbol="H")
def shared_lag_heads(
    lags: Annotated[Any, Domain(1, symbol="M", typical=(1, 16), **_WHOLE)],
    value_dim: Annotated[Any, Domain(1, symbol="d_x", typical=(4, 64), **_WHOLE)],
) -> Any:
    r"""Rank-one heads that serve M lags jointly, by counting freedoms: dedicating heads to lags is not optimal.

    .. math:: H \approx \frac{M d_x^2}{M + 2 d_x - 2}

    Parameters
    ----------
    lags : M, positions to be read, each through its own d_x x d_x map.
    value_dim : d_x.

    Returns
    -------
    Heads of one dimension each.

    Examples
    --------
    >>> round(shared_lag_heads(4, 16), 1)
    30.1
    """
    return lags * value_dim**2 / (lags + 2 * value_dim - Constant.of(2))


Lags = Annotated[Any, Domain(1, symbol="M", typical=(2, 16), **_WHOLE)]
MapSize = Annotated[Any, Domain(1, 4096, True, True, integer=True, symbol="d_x", unit="dimensions", typical=(8, 64))]


@formula(kind="exact", source=f"{_OURS}: rank of the maps over lags; least where the maps are uncorrelated and of one size",
         status="derived", symbol="loss/loss_0", domain="linear sequence model on white noise")  # fmt: skip
def fewer_heads_than_lags_loss(heads: Heads, lags: Lags) -> Any:
    r"""Least relative loss of H heads of any dimension that deliver M lags through uncorrelated maps of one size.

    .. math:: \frac{\mathrm{loss}}{\mathrm{loss}_0} \ge \max\!\left(0,\, 1 - \frac{H}{M}\right)

    H attention patterns span at most H directions over the lags, whatever their values do.

    Derivation: docs/derivations/heads.md, (H22).

    Parameters
    ----------
    heads : H.
    lags : M, positions to be read, each through its own map A_m.

    Returns
    -------
    0 to 1, reached by free patterns and full value rank. Maps that are correlated by chance leave less: :func:`lag_floor`.

    Examples
    --------
    >>> fewer_heads_than_lags_loss(1, 4)
    0.75
    """
    return maximum(0, 1 - heads / (lags * Constant.of(1)))


def lag_floor(gram: Sequence[Sequence[float]], heads: int) -> float:
    """Least relative loss of so many heads of any dimension, for lags whose maps have these inner products tr(A_m' A_n).

    The sum of the smallest M - H eigenvalues over the trace: the best that H patterns of any sign can do. For uncorrelated maps
    of one size it is :func:`fewer_heads_than_lags_loss`.

    Raises
    ------
    InputError
        where `gram` is not square, symmetric and positive, or `heads` is not a whole number from 1.

    >>> lag_floor([[1.0, 0.5], [0.5, 1.0]], 1)
    0.25
    """
    import numpy as np

    matrix = np.asarray(gram, dtype=float)
    heads = whole("lag_floor", "heads", heads)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T) or not np.trace(matrix) > 0:
        raise InputError("gram is a square, symmetric matrix of inner products with a positive trace")
    values = np.linalg.eigvalsh(matrix)
    return max(0.0, float(values[: max(0, len(values) - heads)].sum() / values.sum()))


@formula(kind="exact", source=f"{_SPLIT}; an upper bound, which heads that serve several lags beat", status="derived",
         symbol="loss/loss_0", domain="linear sequence model on white noise, singular values k^-a")  # fmt: skip
def dedicated_lag_loss(
    value_rank: Annotated[Any, Domain(1, 4096, True, True, integer=True, symbol="d_m", unit="dimensions", typical=(1, 8))],
    size: MapSize,
    exponent: Annotated[Any, Domain(0, 20, True, True, symbol="a", typical=(0.5, 2.0))],
    kernel_error: Annotated[Any, Domain(0, 1, True, True, symbol="epsilon^2", typical=(0.0, 0.5))] = 0,
) -> Any:
    r"""Relative loss of heads dedicated to lags: what their value rank cuts off, and what their patterns miss.

    .. math:: \frac{\mathrm{loss}}{\mathrm{loss}_0} = t + (1 - t)\,\epsilon^2, \qquad
        t = \frac{\sum_{k > d_m} k^{-2a}}{\sum_{k \le d_x} k^{-2a}}

    Derivation: docs/derivations/heads.md, (H23).

    Parameters
    ----------
    value_rank : d_m <= d_x, dimensions of the values of a lag's group, over all its heads where their patterns are one.
    size : d_x, of the square map through which the lag is read.
    exponent : a; the map's singular values fall as k^-a.
    kernel_error : epsilon^2 of the group's pattern: 0 for a free position bias, :func:`best_lag_error` for linear biases.

    Returns
    -------
    0 to 1. A dedication bounds the best loss from above: four lags in 16 dimensions at 4 heads of 8 lose 0.036 so, and 0.029
    where heads may serve several (``head_split.csv``).

    Examples
    --------
    >>> round(dedicated_lag_loss(8, 16, 1), 4)
    0.0359
    """
    require(value_rank <= size, "heads.dedicated_lag_loss: the rank is at most the map's size")

    def tail(rank: float, whole: float, power: float) -> float:
        parts = [k ** (-2 * power) for k in range(1, int(whole) + 1)]
        return math.fsum(parts[int(rank) :]) / math.fsum(parts)

    lost = in_doubles("dedicated_lag_loss", tail, value_rank, size, exponent, one_by_one=True)
    return lost + (1 - lost) * kernel_error


@formula(kind="heuristic", source=f"{_OURS}: working rule from the least retrieval error", status="derived", symbol="d_h")
def comfortable_head_dim(
    length: Length, share: Annotated[Any, Domain(0, closed_low=True, symbol="kappa", typical=(1, 3))] = 2
) -> Any:
    r"""Head dimension for a layer that may have to look tokens up, before rounding to the hardware's multiple.

    .. math:: d_h = 2 \kappa \ln n

    Parameters
    ----------
    length : n, tokens.
    share : kappa. 1 leaves half of the error, 2.2 about 1 %, 3 as good as nothing; 2 by default.

    Returns
    -------
    Dimensions; never below 1.

    Examples
    --------
    >>> round(comfortable_head_dim(8192), 2)
    36.04
    """
    return maximum(1, 2 * share * log(length))
