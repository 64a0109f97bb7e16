"""A whole attention layer: all of its moments, forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..moments import least_correlation
from .gradients import (
    key_gradient_covariance,
    key_gradient_second_moment,
    query_gradient_covariance,
    query_gradient_second_moment,
    query_noise,
    value_gradient_covariance,
    value_gradient_second_moment,
)
from .output import output_covariance, output_second_moment
from .scores import raw_score_variance, score_variance
from .token_directions import causal_token_terms, grown, no_terms, token_terms
from .token_norms import equal_norm_covariance_shift, equal_norm_shift, norm_fluctuation, short_row_covariance_shift

if TYPE_CHECKING:
    from ...numerics.softmax import AttentionOverlap


class AttentionMoments(NamedTuple):
    """Moments of an attention layer's output and of its input's gradient. Numbers, or arrays of one shape."""

    second_moment: Any
    """of the output before its projection, per feature"""
    covariance: Any
    """between two tokens of the output"""
    value_gradient: Any
    """second moment of the input's gradient through the values"""
    query_gradient: Any
    """through the queries"""
    key_gradient: Any
    """through the keys"""
    value_gradient_covariance: Any
    """between two tokens, of the input's gradient through the values"""
    query_gradient_covariance: Any
    """through the queries"""
    key_gradient_covariance: Any
    """through the keys"""
    overlap: AttentionOverlap
    """the averages of the softmax, with its entropy"""

    @property
    def gradient(self) -> Any:
        """Second moment of the input's gradient in self-attention: the three paths are independent."""
        return self.value_gradient + self.query_gradient + self.key_gradient

    @property
    def gradient_covariance(self) -> Any:
        """Covariance between two tokens of the input's gradient in self-attention."""
        return self.value_gradient_covariance + self.query_gradient_covariance + self.key_gradient_covariance


def attention_moments(
    signal: Any,
    correlation: Any,
    *,
    length: Any,
    width: Any,
    head_dim: int | None = None,
    value_gain: Any = 1.0,
    score_gain: Any = 1.0,
    dropout: Any = 0.0,
    gradient: Any = 1.0,
    gradient_correlation: Any = 0.0,
    causal: bool = False,
    queries: Any = None,
    row_correlation: Any = None,
    overlap: AttentionOverlap | None = None,
    equal_norms: bool | None = None,
) -> AttentionMoments:
    """Moments of an attention layer, forward and backward, from those of its input and of its output's gradient.

    Parameters
    ----------
    signal : q, second moment of the input per feature; 1 after a layer norm. A number or an array.
    correlation : r, of two tokens; of two keys' tokens in cross-attention. From -1/(L - 1), the least that L tokens can have.
    length : L, tokens; keys in cross-attention. 2 or more.
    width : d, of the tokens; ``math.inf`` for the limit of infinite width.
    head_dim : d_h. Given, the norm and product of queries fluctuate as they do in so many dimensions; otherwise they do not.
    value_gain : A_v, width times the variance of a value weight.
    score_gain : A_q A_k, the same for queries and keys, multiplied.
    dropout : p, of the probabilities.
    gradient : gamma, second moment of the output's gradient per feature.
    gradient_correlation : r_g = kappa/gamma, between two tokens. A loss on every token has about 0, which makes the gradient
        small: the result is linear in it.
    causal : a token attends to itself and those before it. The results are then averages over tokens, and over pairs of tokens.
    queries : L_q, if it differs from `length`: cross-attention, not with `causal`.
    row_correlation : rho, of two queries' tokens, if it differs from `correlation`.
    overlap : the averages of the softmax if they are known already, as from
        :class:`depthwidth.numerics.softmax.OverlapTable`.
    equal_norms : whether all tokens have one norm, as after a layer norm (True), or those of Gaussian vectors (False): the
        output's terms of :func:`equal_norm_shift` or :func:`norm_fluctuation`, of order s/d, that of
        :func:`short_row_covariance_shift`, and (A24) to (A28) of docs/derivations/attention.md. All are left out by default.

    Returns
    -------
    :class:`AttentionMoments`. In cross-attention the query path belongs to the tokens that ask and the two others to those
    attended to, so that the sums `gradient` and `gradient_covariance` do not apply.

    Raises
    ------
    InputError
        if an argument is outside its range.

    Examples
    --------
    >>> layer = attention_moments(1.0, 0.2, length=64, width=256, head_dim=64, gradient_correlation=0.5)
    >>> print(f"{layer.second_moment:.4f} {layer.covariance:.4f} {layer.gradient:.3f}")
    0.2286 0.2151 0.745
    """
    from ...errors import InputError
    from ...numerics.softmax import attention_overlap

    asking = length if queries is None else queries
    rho = correlation if row_correlation is None else row_correlation
    if causal and (queries is not None or row_correlation is not None):
        raise InputError("attention_moments: under a causal mask queries and keys are the same tokens")
    signal, correlation, rho, length, width, value_gain, score_gain, dropout, gradient, gradient_correlation, asking = (
        _number_or_array(v)
        for v in (
            signal,
            correlation,
            rho,
            length,
            width,
            value_gain,
            score_gain,
            dropout,
            gradient,
            gradient_correlation,
            asking,
        )
    )
    _check_correlation("correlation", correlation, length)
    _check_correlation("row_correlation", rho, asking)
    s = raw_score_variance(score_gain, 1.0, signal)
    s2 = score_variance(s, correlation)
    o = attention_overlap(s2, rho, length, causal, head_dim) if overlap is None else overlap
    if equal_norms is not None and head_dim is not None:
        o = _with_token_products(o, s2, rho, width, head_dim, equal_norms)
    terms = no_terms
    if equal_norms is not None and causal:
        terms = causal_token_terms(s2, correlation, length, width, head_dim, equal_norms)
    elif equal_norms is not None:
        terms = token_terms(o, s2, correlation, length, width, head_dim, equal_norms)
    pairs = terms.of_pairs(rho)
    o = o._replace(
        P=_at_most_one(o.P * terms.P),
        T=o.T * terms.T,
        R=o.R * terms.keys,
        P2=o.P2 * pairs.P,
        R2=o.R2 * pairs.keys,
    )
    kappa = gradient * gradient_correlation
    # The correlation that the key path weighs; any number where the Jacobians do not overlap at all.
    rho_k = o.R2 / (o.T2 + _TINY)
    noise = query_noise(o.P, o.M3, o.A22)
    keys = key_gradient_second_moment(value_gain, gradient, kappa, correlation, rho_k, o.R, o.T2, s, asking, length, dropout)
    two_paths = terms.beside * (gradient * o.P + (asking - 1) * kappa * rho * o.P2)
    keys = keys + value_gain * asking / length * two_paths
    value = value_gain * signal
    second_moment = output_second_moment(value, correlation, o.P, o.M3, o.A22, s, width, dropout)
    covariance = output_covariance(value, correlation, o.P2, rho, s, width)
    if equal_norms is not None:
        M4 = o.T - o.P + 2 * o.M3 - o.A22
        norms = equal_norm_shift if equal_norms else norm_fluctuation
        second_moment = second_moment + norms.body(value, correlation, o.P, o.M3, M4, s, width)
        covariance = covariance + short_row_covariance_shift.body(value, correlation, o.P, o.M3, o.P2, rho, s, width)
    if equal_norms:
        covariance = covariance + equal_norm_covariance_shift.body(value, correlation, o.P, o.M3, o.P2, rho, s, width)
    return AttentionMoments(
        second_moment,
        covariance,
        value_gradient_second_moment(value_gain, gradient, kappa, o.P, o.P2, asking, length, dropout),
        query_gradient_second_moment(value_gain, gradient, correlation, terms.asked * o.T, s, width, dropout, noise),
        keys,
        value_gradient_covariance(value_gain, gradient, kappa, o.P, o.P2, asking, length),
        query_gradient_covariance(value_gain, kappa, correlation, pairs.asked * o.T2, s, width, (1 - o.P) ** 2 - o.T2),
        key_gradient_covariance(keys, length),
        o,
    )


_TINY = 1e-300
_ROUNDING = 1e-9


def _check_correlation(name: str, correlation: Any, length: Any) -> None:
    """Refuse a correlation that no such tokens have."""
    import numpy

    from ...errors import InputError

    least = least_correlation.body(numpy.maximum(length, 2)) * (1 + _ROUNDING)
    fine = numpy.greater_equal(correlation, least)
    if not fine.all():
        wrong, bound = (numpy.broadcast_to(v, fine.shape)[~fine][0] for v in (correlation, least))
        raise InputError(
            f"attention_moments: {name}={wrong:.4g} is below {bound:.4g}, the least value possible for that many tokens"
        )


def _with_token_products(o: Any, s2: Any, rho: Any, width: Any, head_dim: int, equal_norms: bool) -> Any:
    """P2 and R2 with the spread of the product of two queries' tokens, x.x'/d, in addition to that of the queries, q.q'/d_h.

    The key path weighs by the product after the map of the keys, which spreads it once more, by (1 + rho^2)/d; R and R2.

    dP2/drho = s2 T2 by Price's theorem, and dT2/drho is what R2 - rho T2 is of the queries' variance, (1 + rho^2)/d_h.
    """
    spread = ((1 - rho**2) ** 2 if equal_norms else 1 + rho**2) / width
    mapped = (o.R2 - rho * o.T2) * head_dim
    growth = mapped / (1 + rho**2) * spread
    R = o.R * grown((o.R - o.T) / (o.R + _TINY) * head_dim / width)
    return o._replace(P2=o.P2 + s2 / 2 * growth, R2=o.R2 + growth + mapped / width, R=R)


def _at_most_one(value: Any) -> Any:
    """The value without the rounding of a product."""
    if isinstance(value, float):
        return min(value, 1.0)
    import numpy

    return numpy.minimum(value, 1.0)


def _number_or_array(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        import numpy

        return numpy.asarray(value)
    return value
