"""Concentration of attention: effective tokens of each softmax, the context at which it condenses, and three remedies.

:func:`concentration` takes the variance of the scores, the correlation between tokens, the length and the mask of each softmax;
:func:`attention_profile` takes them from the propagated moments of a transformer. :func:`phase_diagram` covers a grid of logit
scales and lengths. :func:`trainability` covers the two failures of deep stacks at initialisation, over query-key and residual
gain.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from ..checks import whole
from ..errors import InputError
from ..formulas import saturation as laws
from ..formulas.attention import score_variance as variance_within_row
from ..formulas.saturation import DIFFUSE, LARGEST_VARIANCE

if TYPE_CHECKING:
    from ..architecture import Transformer
    from ..initialization import Recipe
    from .propagation import PropagationOptions

Array = Any


class Concentration(NamedTuple):
    """One softmax. Averages are over the rows of the mask."""

    logit_variance: float
    """sigma^2 of a row's logits after their common part is removed, nats^2"""
    entropy: float
    """nats"""
    effective_tokens: float
    """1 / E sum p^2 of the longest row"""
    squared_sum: float
    """E sum p^2"""
    jacobian_trace: float
    """1 - E sum p^2: the share of the gradient's trace that reaches the logits"""
    gradient_saturation: float
    """(S2 - 1/n)/(1 - 1/n) averaged over rows of two or more: 0 if attention is uniform, 1 if no gradient passes"""
    ratio: float
    """logit scale over the condensation point sqrt(2 ln n) of the longest row"""
    phase: str
    """diffuse (ratio below 0.3), transitional (to 1) or condensed"""
    condensed_context: float
    """At this logit scale rows of fewer tokens than this are condensed, exp(sigma^2/2). With logits that grow with the
    logarithm of the length, rows of more tokens than this, exp(2 (ln n)^2 / sigma^2)."""
    condensed_rows: float
    """share of the mask's rows, of two or more tokens, that are condensed"""
    headroom: float
    """factor by which the logits may grow before the longest row condenses; below 1 it is condensed"""
    scale: float
    """Remedy 1: factor on the scores (its square root on queries and on keys) that makes them diffuse; 1 if they are"""
    qk_norm_gain: float
    """Remedy 2: product of the gains of query and key norms that puts the longest row on the edge of the diffuse phase"""
    length_temperature: float
    """Remedy 3: factor on scores times ln n that does the same; rows then keep their phase as the length grows"""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {name: value if math.isfinite(value) else None for name, value in self._asdict().items() if name != "phase"} | {
            "phase": self.phase
        }


def phase_of(ratio: float) -> str:
    """Diffuse, transitional or condensed, by logit scale over condensation point."""
    return "diffuse" if ratio < DIFFUSE else "transitional" if ratio < 1 else "condensed"


def concentration(
    score_variance: Any,
    correlation: Any,
    length: int,
    *,
    causal: bool = False,
    window: int | None = None,
    head_dim: int | None = None,
    length_scaled: bool = False,
    slopes: tuple[float, ...] | None = None,
) -> list[Concentration]:
    """Concentration of the softmax of each layer.

    Parameters
    ----------
    score_variance : ss, variance of a raw score q.k times its scale, in nats^2, for each layer: the second moment that
        ``propagate`` gives at a site that ends in ``attention.scores``. A number or a sequence. 0 to 1e4.
    correlation : r, of the scores within one row, which is that of the tokens attended to. A number or a sequence. -1 to 1. The
        common part of a row's scores does not change the softmax: the logits' variance is (1 - r) ss.
    length : n, tokens of the sequence; keys in cross-attention. From 2.
    causal : whether rows have 1 to n tokens under a causal mask, instead of n.
    window : largest number of tokens of a row. From 2.
    head_dim : d_h, to include the fluctuation of the query norms, which takes 30 times as long.
    length_scaled : whether scores are multiplied by s ln(row's length), as in scalable softmax; `score_variance` is that of the
        longest row.
    slopes : penalties on distance (ALiBi) in nats per position, one per head; requires `causal`. Entropy, effective tokens,
        squared sum, trace and saturation are then averages over heads with these penalties; ratio, phase, headroom and
        remedies are still those of the Gaussian part of the scores.

    Returns
    -------
    One :class:`Concentration` for each layer.

    Raises
    ------
    InputError
        if a variance is negative or above 1e4, a correlation outside [-1, 1], a length below 2, or slopes are given without
        a causal mask.

    Examples
    --------
    >>> found = concentration([1.0, 16.0], [0.0, 0.0], 1024)
    >>> [(layer.phase, round(layer.effective_tokens, 1), round(layer.scale, 3)) for layer in found]
    [('diffuse', 379.4, 1.0), ('condensed', 3.7, 0.279)]
    """
    from ..numerics.softmax import overlap, row_lengths

    ss, r = np.broadcast_arrays(
        np.atleast_1d(np.asarray(score_variance, dtype=float)), np.atleast_1d(np.asarray(correlation, dtype=float))
    )
    if not np.all((ss >= 0) & (ss <= LARGEST_VARIANCE)):
        raise InputError(f"concentration: score_variance is outside [0, {LARGEST_VARIANCE:g}]")
    if not np.all(np.abs(r) <= 1):
        raise InputError("concentration: correlation is outside [-1, 1]")
    length = whole("concentration", "length", length, 2, laws.LONGEST)
    window = None if window is None else whole("concentration", "window", window, 2, laws.LONGEST)
    variance = np.asarray(variance_within_row(ss, r))
    longest = length if window is None else min(length, window)
    rows, weights = np.array([float(longest)]), np.ones(1)
    if causal:
        some, share = row_lengths(int(longest))
        # A row length between whole numbers represents a range of them; rounding moves it by 1 in 128 at most.
        rows = np.append(np.round(some), float(longest))
        # Rows beyond the window all have the window's length.
        weights = np.append(share * (longest / length), 1 - longest / length)
    spread = variance[:, None] * ((np.log(rows) / math.log(longest)) ** 2 if length_scaled else np.ones(rows.size))
    if slopes is not None:
        if not causal:
            raise InputError("concentration: slopes need a causal mask")
        from ..numerics.alibi_softmax import concentration_of_heads

        squares, entropy = concentration_of_heads(spread, tuple(int(n) for n in rows), slopes)
    else:
        average = overlap(spread, np.broadcast_to(rows, spread.shape), head_dim)
        squares, entropy = average.P, average.entropy
    last = squares[:, -1]
    two = rows >= 2
    shares = weights[two] / weights[two].sum()
    saturated = ((squares[:, two] - 1 / rows[two]) / (1 - 1 / rows[two])) @ shares
    critical = laws.condensation_point(int(longest))
    condensed = (np.sqrt(spread[:, two]) > laws.condensation_point(rows[two])) @ shares
    result = []
    for i, s2 in enumerate(variance.tolist()):
        sigma = math.sqrt(s2)
        ratio = sigma / critical
        own_share = math.sqrt(max(1 - float(r[i]), 0.0))
        result.append(
            Concentration(
                logit_variance=s2,
                entropy=float(entropy[i] @ weights),
                effective_tokens=1 / float(last[i]),
                squared_sum=float(squares[i] @ weights),
                jacobian_trace=1 - float(squares[i] @ weights),
                gradient_saturation=max(0.0, float(saturated[i])),
                ratio=ratio,
                phase=phase_of(ratio),
                condensed_context=_condensed_context(s2, int(longest), length_scaled),
                condensed_rows=float(condensed[i]),
                headroom=1 / ratio if ratio else math.inf,
                scale=min(1.0, DIFFUSE / ratio) if ratio else 1.0,
                qk_norm_gain=DIFFUSE * critical / own_share if own_share else math.inf,
                length_temperature=DIFFUSE * critical / (sigma * math.log(longest)) if sigma else math.inf,
            )
        )
    return result


def _condensed_context(variance: float, length: int, length_scaled: bool) -> float:
    """Number of tokens at the condensation point; inf if it overflows."""
    try:
        if not length_scaled:
            return float(laws.condensed_length(variance))
        return float(laws.length_scaled_condensed_length(variance, length)) if variance else math.inf
    except InputError:
        return math.inf


def attention_profile(
    tree: Transformer, init: str | Recipe = "shipped", **given: Unpack[PropagationOptions]
) -> list[dict[str, Any]]:
    """Concentration of every softmax of a transformer at initialisation, from its propagated moments.

    Parameters
    ----------
    tree, init, given : as in :func:`depthwidth.analysis.propagation.propagate`, except `lengths`.

    Returns
    -------
    A row per softmax: `site`, `layer` and the fields of :class:`Concentration`. A score variance above 1e4, the limit of the
    integrals, counts as 1e4.

    Raises
    ------
    InputError
        for the reasons of :func:`~depthwidth.analysis.propagation.propagate`, or if `lengths` is given.

    Examples
    --------
    >>> from depthwidth import Transformer
    >>> rows = attention_profile(Transformer(2, 64, 2, vocab=100, context=64), "xavier")
    >>> [(row["layer"], row["phase"], round(row["effective_tokens"])) for row in rows]
    [(0, 'transitional', 26), (1, 'diffuse', 35)]
    """
    from .propagation import moments_of

    if given.get("lengths") is not None:
        raise InputError("attention is computed for one length: give context instead of lengths")
    run = tree.run(given.get("context"), given.get("source"))
    blocks = {name: list(stack.blocks()) for name, stack in (("encoder", tree.encoder), ("decoder", tree.decoder)) if stack}
    found = []
    for row in moments_of(tree, init, **given):
        if row["direction"] != "forward" or not row["site"].endswith(".scores"):
            continue
        stack, cross = row["site"].partition(".")[0], row["site"].endswith(".cross_attention.scores")
        name = row["site"].removesuffix(".scores").split(".", 3)[3]
        attention = dict(blocks[stack][row["layer"]].branches)[name].branch.as_attention
        length = run.memory if cross or (stack == "encoder" and run.memory) else run.tokens
        slopes = attention.slopes if attention is not None and not cross and tree.kind != "encoder-decoder" else None
        (one,) = concentration(
            min(float(row["second_moment"]), LARGEST_VARIANCE), min(1.0, max(-1.0, row["correlation"])), length,
            causal=bool(getattr(attention, "causal", False)) and not cross,
            window=None if cross else getattr(attention, "window", None),
            slopes=slopes,
        )  # fmt: skip
        found.append({"site": row["site"], "layer": row["layer"]} | one.to_dict())
    return found


def query_key_gains(
    tree: Transformer, init: str | Recipe = "shipped", **given: Unpack[PropagationOptions]
) -> tuple[float, ...]:
    """The query-key gain of every self-attention at initialisation, as :func:`trainability` has it: the root of ss/ln n.

    Parameters
    ----------
    tree, init, given : as in :func:`depthwidth.analysis.propagation.propagate`.

    Raises
    ------
    InputError
        for the reasons of :func:`~depthwidth.analysis.propagation.propagate`, or if the context is a single token.

    Examples
    --------
    >>> from depthwidth import Transformer
    >>> [round(gain, 2) for gain in query_key_gains(Transformer(2, 64, 2, vocab=100, context=64), "xavier")]
    [0.49, 0.49]
    """
    from .propagation import moments_of

    tokens = tree.run(given.get("context"), given.get("source")).tokens
    if tokens < 2:
        raise InputError("query_key_gains: a context of one token has no logarithm to compare scores with")
    return tuple(
        math.sqrt(float(row["second_moment"]) / math.log(tokens))
        for row in moments_of(tree, init, **given)
        if row["direction"] == "forward" and row["site"].endswith(".attention.scores")
    )


class PhaseDiagram(NamedTuple):
    """Averages over a grid of logit scales (rows) and lengths (columns)."""

    logit_std: Array
    length: Array
    entropy: Array
    effective_tokens: Array
    ratio: Array
    """logit scale over condensation point"""

    @property
    def phase(self) -> Array:
        """0 diffuse, 1 transitional, 2 condensed."""
        return (self.ratio >= DIFFUSE).astype(int) + (self.ratio >= 1)


def phase_diagram(logit_std: Any, length: Any) -> PhaseDiagram:
    """Entropy and effective tokens for every pair of a logit scale and a length.

    Parameters
    ----------
    logit_std : logit scales in nats, 0 to 100.
    length : lengths in tokens, whole numbers from 2.

    Raises
    ------
    InputError
        for a scale below 0 or above 100, or a length that is not a whole number from 2.

    Examples
    --------
    >>> found = phase_diagram([1.0, 4.0], [64, 1024])
    >>> found.effective_tokens.round(1).tolist()
    [[25.8, 379.4], [2.2, 3.7]]
    >>> found.phase.tolist()
    [[1, 0], [2, 2]]
    """
    from ..numerics.softmax import overlap

    sigma, n = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (logit_std, length))
    if sigma.ndim != 1 or n.ndim != 1:
        raise InputError("phase_diagram: logit_std and length are sequences of numbers")
    if not np.all((sigma >= 0) & (sigma <= 100)):
        raise InputError("phase_diagram: logit_std is outside [0, 100]")
    if not np.all((n >= 2) & (n <= laws.LONGEST) & (n % 1 == 0)):
        raise InputError("phase_diagram: length is outside the whole numbers of [2, 2^40]")
    nodes, spread = _length_nodes(n)
    # One scale and all lengths at a time, as the lengths share their integrals.
    columns = [overlap(np.full(nodes.size, s * s), nodes) for s in sigma.tolist()]
    entropy = np.stack([c.entropy for c in columns]) @ spread
    shared = np.exp(np.log(np.stack([c.P for c in columns])) @ spread)
    return PhaseDiagram(sigma, n, entropy, 1 / shared, sigma[:, None] / laws.condensation_point(n))


_EXACT_LENGTHS, _LENGTH_NODES = 32, 28


def _length_nodes(n: Array) -> tuple[Array, Array]:
    """Lengths to integrate at, and the matrix from values there to values at `n`.

    Many lengths above 32 are interpolated by polynomials in ln n: with 24 nodes averages and their logarithms have an error of
    1e-12 up to n = 131072. Shorter ones are integrated directly.
    """
    long = n > _EXACT_LENGTHS
    if long.sum() <= 2 * _LENGTH_NODES:
        return n, np.eye(n.size)
    cheb = np.polynomial.chebyshev
    low, high = math.log(_EXACT_LENGTHS), math.log(n.max())
    x = np.cos(np.pi * (np.arange(_LENGTH_NODES) + 0.5) / _LENGTH_NODES)
    nodes = np.unique(np.round(np.exp(low + (high - low) * (x + 1) / 2)))

    def basis(lengths: Array) -> Array:
        return cheb.chebvander(2 * (np.log(lengths) - low) / (high - low) - 1, nodes.size - 1)

    short = n[~long]
    spread = np.zeros((short.size + nodes.size, n.size))
    spread[np.arange(short.size), np.flatnonzero(~long)] = 1
    spread[short.size :, long] = np.linalg.solve(basis(nodes).T, basis(n[long]).T)
    return np.concatenate([short, nodes]), spread


class Trainability(NamedTuple):
    """The last layer of a stack over query-key gain (columns) and residual gain of the attention layers (rows)."""

    beta: Array
    residual_gain: Array
    correlation: Array
    """of two tokens after the last block; near 1 is rank collapse"""
    squared_sum: Array
    """of the attention weights in the last layer; near 1 is entropy collapse"""
    boundary: Array
    """for each residual gain, the query-key gain at which the last layer's attention condenses; NaN if none of the grid does"""
    critical_gain: float | None
    """residual gain below which uniform attention collapses tokens; None if every finite gain leads to collapse"""


def trainability(
    beta: Any,
    residual_gain: Any,
    *,
    depth: int,
    length: int | None = None,
    activation: str = "tanh",
    value_variance: float = 1.0,
    weight_variance: float = 1.0,
    mlp_residual: float = 0.0,
    correlation: float = 0.5,
) -> Trainability:
    """Rank collapse and entropy collapse after `depth` blocks (Giorlandino and Goldt 2025, arXiv 2505.24333).

    A block is attention, residual connection and norm, then a feed-forward layer f(W x) with output weights of the same
    variance, its residual connection and norm.

    Parameters
    ----------
    beta : query-key gains; raw scores have variance beta^2 ln n. 0 or more.
    residual_gain : alpha of the attention layers. 0 or more.
    depth : blocks, from 1.
    length : n, tokens: attention by its exact average at this length. None for the authors' limit of infinite length.
    activation : f, as :func:`depthwidth.activation` takes it.
    value_variance, weight_variance : width times the variance of the weights of attention and feed-forward.
    mlp_residual : alpha of the feed-forward layers.
    correlation : p of two tokens at the input of the first block, 0 to 1.

    Raises
    ------
    InputError
        if an argument is outside its range.

    Examples
    --------
    >>> found = trainability([0.5, 4.0], [0.0, 1.0], depth=12)
    >>> found.correlation.round(3).tolist()
    [[1.0, 1.0], [0.998, 0.985]]
    """
    from ..layers import activations

    beta, alpha = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (beta, residual_gain))
    if not (np.all((beta >= 0) & (beta <= 1e3)) and np.all((alpha >= 0) & (alpha <= 1e3))):
        raise InputError("trainability: gains are outside [0, 1000]")
    depth = whole("trainability", "depth", depth, largest=100_000)
    if not (value_variance > 0 and weight_variance > 0 and mlp_residual >= 0 and 0 <= correlation <= 1):
        raise InputError("trainability: variances are positive, mlp_residual is 0 or more and correlation is in [0, 1]")
    f = activations.activation(activation)
    second = weight_variance * f.second_moment(weight_variance)
    slope = weight_variance**2 * f.derivative_second_moment(weight_variance) / second
    slope = (second * slope + mlp_residual**2) / (second + mlp_residual**2)
    shared = _squared_sum_table(float(beta.max()), length)
    p = np.full((alpha.size, beta.size), float(correlation))
    kept = alpha[:, None] ** 2
    with np.errstate(divide="ignore"):
        for _ in range(depth):
            last = shared((1 - p) * beta**2)
            at_input = p
            moment = p + (1 - p) * last
            p = (value_variance + kept) * p / (value_variance * moment + kept)
            pair = weight_variance * f.pair_moment(weight_variance, np.clip(p, -1, 1).ravel()).reshape(p.shape)
            p = np.clip((pair + mlp_residual**2 * p) / (second + mlp_residual**2), 0, 1)
        critical = np.sqrt(2 / (1 - np.minimum(at_input, 1)))
    above = beta >= critical
    first = np.where(above.any(1), beta[np.argmax(above, axis=1)], np.nan)
    gain = None if slope <= 1 + 1e-12 else laws.critical_residual_gain(value_variance, float(slope))
    return Trainability(beta, alpha, p, last, first, gain)


def _squared_sum_table(largest_gain: float, length: int | None) -> Any:
    """E sum p^2 as a function of (1 - p) beta^2, the variance of the logits over ln n."""
    if length is None:
        return lambda x: np.maximum(0.0, 1 - np.sqrt(2 / np.maximum(x, 1e-300)))
    length = whole("trainability", "length", length, 2, laws.LONGEST)
    if largest_gain**2 * math.log(length) > LARGEST_VARIANCE:
        raise InputError(f"trainability: the scores' variance exceeds {LARGEST_VARIANCE:g}")
    from scipy.interpolate import CubicSpline

    from ..numerics.softmax import overlap

    scale = np.linspace(0.0, max(largest_gain, 0.1), 241)
    table = CubicSpline(scale, overlap(scale**2 * math.log(length), np.full(scale.size, length)).P)
    return lambda x: np.clip(table(np.sqrt(np.maximum(x, 0.0))), 0, 1)
