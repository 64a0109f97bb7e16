r"""The share of a softmax that its keys take in the presence of a sink: a term of the denominator without a key.

With scores :math:`s_j` and a sink of logit :math:`\sigma` the keys have :math:`S = Z / (Z + e^\sigma)` of the weight, where
:math:`Z = \sum_j e^{s_j}` (gpt-oss). For the rest :math:`R = 1 - S`,

.. math:: E\,R^k = \int_0^\infty \frac{t^{k-1}}{(k-1)!}\; E\,u^k e^{-ut}\; L(t)^n\,dt,
          \qquad L(t) = E\,e^{-t e^{g}},

with :math:`g` the own part of a score, and :math:`\ln u` the sink's logit less
the common part of the scores. The integrals are sums over even steps of :math:`\ln t` and of :math:`g`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any

_REACH, _STEP = 9.0, 0.125
"""Standard deviations on either side of a Gaussian mean, and the step between nodes."""
_TAIL, _LOG_STEP = 14.0, 0.2
"""The distance by which the integral over ln t exceeds the range of its integrand, and the step."""


class KeyShare(NamedTuple):
    """Averages over the share S of the keys: arrays in (0, 1)."""

    mean: Array
    """E S"""
    second: Array
    """E S^2"""
    slope: Array
    """E (S (1 - S))^2, the square of its derivative by ln Z"""

    @property
    def deviation(self) -> Array:
        """Standard deviation of S."""
        return (self.second - self.mean**2).clip(0.0) ** 0.5


def key_share(variance: Any, correlation: Any, keys: Any, sink_variance: Any = 0.0) -> KeyShare:
    r"""Averages over S for Gaussian scores and a Gaussian logit of the sink, of mean 0.

    Parameters
    ----------
    variance : of one score, nats^2, at least 0.
    correlation : of two scores of a row, in [0, 1].
    keys : n, number of keys of the row, at least 1.
    sink_variance : of the sink's logit.

    Returns
    -------
    :class:`KeyShare`, of the shape to which the arguments broadcast, right to 1e-6.

    Examples
    --------
    >>> share = key_share(0.0, 0.0, 3)
    >>> round(float(share.mean), 4), round(float(share.second), 4)
    (0.75, 0.5625)
    """
    import numpy as np

    own, common, keys = np.broadcast_arrays(
        (1 - correlation) * variance, correlation * variance + sink_variance, np.asarray(keys, dtype=float)
    )
    settings, place = np.unique(np.stack([own.ravel(), common.ravel()]), axis=1, return_inverse=True)
    place = place.reshape(own.shape)
    rests = np.empty((4, *own.shape))
    for index, (a, b) in enumerate(settings.T):
        at = place == index
        rests[:, at] = _rests(float(a), float(b), keys[at])
    one, two, three, four = rests
    return KeyShare(1 - one, 1 - 2 * one + two, two - 2 * three + four)


def _rests(own: float, common: float, keys: Array) -> Array:
    """E R^k for k from 1 to 4, of rows with these numbers of keys: (4, rows)."""
    import numpy as np

    g = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    weights = np.exp(-g * g / 2)
    weights /= weights.sum()
    far = _TAIL + _REACH * common**0.5
    log_t = np.arange(-far - own / 2 - np.log(keys.max()), far, _LOG_STEP)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        log_kept = np.log(np.exp(-np.exp(log_t[:, None] + own**0.5 * g)) @ weights)
        kept = np.exp(keys[:, None] * log_kept)
        ut = log_t[:, None] + common**0.5 * g
        powers = [np.exp(k * ut - np.exp(ut)) @ weights / factorial for k, factorial in ((1, 1), (2, 1), (3, 2), (4, 6))]
    return _LOG_STEP * np.stack([kept @ power for power in powers])
