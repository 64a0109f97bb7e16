"""Multi-head softmax attention: self- and cross-attention, grouped and multi-query, full, causal and windowed."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from ..checks import check_fraction, check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..numerics.interpolation import Table
from ..signal import AnySignal, DrawSpread, Number, Pullback, Signal, Site, TokenSignal, Trace, finite
from .base import Branch, Child, Run, component
from .interfaces import AttentionLike
from .linear import Linear
from .norms import Norm
from .positions import Position

_SCORE_STEP = 0.1
"""Step of the logarithm of the scores' variance between tables; interpolation between them is right to 1e-4."""
LARGEST_SCORES = 64.0
"""Largest variance of attention scores, in nats^2, that the softmax integrals cover; larger ones count as this one.

At the limit sum p^2 over 128 keys is 0.68. Beyond it the exact value tends to 1, so that outputs for independent tokens come
out too small by up to a third; so does the gradient through queries and keys, which grows with the variance.
"""
_LARGE_SCORES, _LARGE_HEAD = 8.0, 64
"""Score variance and head dimension from which on heads count as infinite: sum p^2 is right to 1 %, and seconds are spared."""
_JOBS = {name: name for name in ("query", "key", "value", "out")}
_LOGSUMEXP_BYTES = 4  # a fused kernel keeps one float32 per query and head in place of the scores


@component
class Attention(Branch):
    """Softmax attention (Vaswani et al. 2017, arXiv 1706.03762).

    `kv_heads` keys and values serve `heads` queries: equal numbers are multi-head, one is multi-query (arXiv 1911.02150),
    a divisor between is grouped-query attention (arXiv 2305.13245). `memory_width` makes it cross-attention, whose keys and
    values read another stack's output of that width.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    """Dimensions of one query and one key."""
    value_dim: int
    """Dimensions of one value."""
    causal: bool = True
    window: int | None = None
    """How many latest positions a query may see, its own included; None for all."""
    position: Position | None = None
    bias: bool = True
    """Whether the query, key and value maps have biases."""
    out_bias: bool = True
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    scale: float | None = None
    """What scores are multiplied by; None for 1/sqrt(head_dim)."""
    softcap: float | None = None
    """Scores pass through softcap * tanh(score / softcap) where given."""
    memory_width: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        dims = {"width": self.width, "heads": self.heads, "kv_heads": self.kv_heads}
        check_whole("Attention", **dims, head_dim=self.head_dim, value_dim=self.value_dim)
        if self.window is not None:
            check_whole("Attention", window=self.window)
        if self.memory_width is not None:
            check_whole("Attention", memory_width=self.memory_width)
        check_fraction("Attention", dropout=self.dropout)
        if not is_symbolic(self.heads, self.kv_heads) and self.heads % self.kv_heads:
            raise InputError(f"Attention: kv_heads={self.kv_heads} does not divide heads={self.heads}")

    @property
    def cross(self) -> bool:
        """Whether it reads another stack's output."""
        return self.memory_width is not None

    @property
    def query(self) -> Linear:
        """The query map, all heads together."""
        return Linear(self.width, self.heads * self.head_dim, self.bias)

    @property
    def key(self) -> Linear:
        """The key map, all key heads together."""
        return Linear(self.memory_width or self.width, self.kv_heads * self.head_dim, self.bias)

    @property
    def value(self) -> Linear:
        """The value map, all value heads together."""
        return Linear(self.memory_width or self.width, self.kv_heads * self.value_dim, self.bias)

    @property
    def out(self) -> Linear:
        """The output map from the joined heads back to the residual stream."""
        return Linear(self.heads * self.value_dim, self.width, self.out_bias)

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """By how much the scores of each head fall with distance, nats a position; None without such penalties or a mask."""
        if not self.causal or self.position is None:
            return None
        return self.position.penalties(self.heads, self.score_scale)

    @property
    def penalises_distance(self) -> bool:
        return self.slopes is not None

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by."""
        return float(self.head_dim**-0.5) if self.scale is None else self.scale

    @property
    def scores_tensor(self) -> str:
        """Path, from the attention, of the weight where a factor on the scores belongs: of the query's norm if it has one."""
        return "query.weight" if self.query_norm is None or not self.query_norm.affine else "query_norm.weight"

    @property
    def as_attention(self) -> AttentionLike:
        return self

    def children(self) -> tuple[Child, ...]:
        parts = (
            ("query", self.query), ("key", self.key), ("value", self.value),
            ("query_norm", self.query_norm), ("key_norm", self.key_norm),
            ("position", self.position), ("out", self.out),
        )  # fmt: skip
        return tuple(Child(name, layer, kind=_JOBS.get(name, "")) for name, layer in parts if layer is not None)

    def choices(self) -> dict[str, Any]:
        if self.cross:  # a design gives it the choices of self-attention
            return {}
        norm, position = self.query_norm, self.position
        whole = {"positions": "none" if position is None else position.word}
        return (whole if self.window is None else {"window_positions": position}) | {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "value_dim": self.value_dim,
            "window": self.window,
            "attention_bias": self.bias,
            "attention_out_bias": self.out_bias,
            "qk_norm": "none" if norm is None else "head" if norm.width == self.head_dim else "full",
            "logit_scale": self.scale,
            "score_softcap": self.softcap,
            "attention_dropout": self.dropout,
        }

    def run_of(self, child: str, run: Run) -> Run:
        if self.cross and child in ("key", "value", "key_norm"):
            return replace(run, tokens=run.memory)
        return run

    def keys_seen(self, run: Run) -> int:
        """Query-key pairs of one sequence, summed over its queries."""
        keys = run.memory if self.cross else run.tokens
        if self.cross or not self.causal:
            return run.tokens * keys
        reach = keys if self.window is None else min(keys, self.window)
        # The first `reach` queries see 1, 2, .. reach keys, the others reach each.
        return reach * (reach + 1) // 2 + (run.tokens - reach) * reach if run.masked else run.tokens * reach

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        trace = site.trace
        source = trace.memory if self.cross else x
        if source is None:
            raise InputError(f"{site.role}: there is no encoder's output to attend to")
        query, _ = self.query.moments(x, site.at("query"))
        key, _ = self.key.moments(source, site.at("key"))
        value, _ = self.value.moments(source, site.at("value"))
        query = self._normed(self.query_norm, query, site, "query_norm")
        key = self._normed(self.key_norm, key, site, "key_norm")
        gain = self.head_dim * (1 / self.head_dim if self.scale is None else self.scale**2)
        raw = gain * query.second_moment * key.second_moment
        scores = site.at("scores")
        # Two keys' scores share what a rotation by their distance leaves of their covariance.
        left = self._left_by_rotation(trace.length)
        scores.record(finite(x.of(raw, left * gain * query.first_second_moment * key.covariance), scores.role))
        bias = site.at("value").variance("bias") if self.bias else 0.0
        # Everything is proportional to the values' weights, so that tables serve layers of different ones.
        weight = value.second_moment - bias
        mixing = self._tokens if isinstance(x, TokenSignal) else self._exchangeable
        mixed, back = mixing(raw, x, source, query, weight, trace)
        mixed = site.at("mix").record(mixed.with_bias(bias))
        y, pull_out = self.out.moments(mixed, site.at("out"))
        layer = trace.layer

        def pull(g: AnySignal) -> AnySignal:
            asking, sent = back(g)
            if self.cross:
                trace.add_memory_gradient(sent, layer)
            return asking

        pull_mixed = site.at("mix").record_gradient(pull)
        return y, lambda g: pull_mixed(pull_out(g))

    def _left_by_rotation(self, length: int) -> float:
        """Factor of rotations on the covariance of two keys' scores, averaged over the pairs that a query sees."""
        if self.cross or self.position is None:
            return 1.0
        reach = length if self.window is None else min(length, self.window)
        return self.position.mean_rotation(self.head_dim, reach, self.causal)

    @staticmethod
    def _normed(norm: Norm | None, signal: AnySignal, site: Site, name: str) -> Any:
        return signal if norm is None else norm.moments(signal, site.at(name))[0]

    def _capped(self, scores: Number) -> Number:
        """Variance of the scores after the soft cap, at most :data:`LARGEST_SCORES`."""
        if self.softcap is not None:
            from .activations import activation

            scores = self.softcap**2 * activation("tanh").second_moment(scores / self.softcap**2)
        return min(scores, LARGEST_SCORES) if isinstance(scores, float) else scores.clip(None, LARGEST_SCORES)

    def _tokens(self, scores: Number, x: AnySignal, source: AnySignal, query: AnySignal, weight: Number, trace: Trace) -> Any:
        """The heads' output, position by position, and the map from its gradient to that of the querying tokens.

        In cross-attention the map also returns the source's gradient, as the second of two.
        """
        from ..signal.attention import token_attention
        from ..signal.positions import Positions

        normed = self.query_norm is not None
        # Scores of tokens of second moment 1; what bounds the largest bounds all.
        largest = float(scores.max())
        bound = self._capped(largest) / largest
        unit = float(scores[-1]) if normed else float(scores[-1] / x.second_moment[-1] / _last(source.second_moment))
        large = largest * bound > _LARGE_SCORES and self.head_dim >= _LARGE_HEAD
        head_dim = self.head_dim if trace.finite_width and not large else None
        dropout = self.dropout if trace.dropout else 0.0
        slopes = self._slopes(x)
        if slopes:
            from ..signal.alibi_attention import biased_attention

            width = self.width if trace.finite_width else None
            biased = biased_attention(x.positions, slopes, window=self.window, head_dim=head_dim, width=width, dropout=dropout)
            moved: Any = biased(x.second_moment, x.covariance, unit * bound, normed=normed)
            return self._passed(moved, x, source, weight)
        attend = token_attention(
            x.positions,
            Positions.one(trace.source_length) if self.cross else None,
            causal=self.causal and not self.cross,
            window=None if self.cross else self.window,
            head_dim=head_dim,
            width=(self.memory_width or self.width) if trace.finite_width else None,
            dropout=dropout,
            rotation=None if self.position is None or self.cross else self.position.rotation(self.head_dim),
        )
        memory = _as_arrays(source) if self.cross else None
        moved = attend(x.second_moment, x.covariance, unit * bound, memory=memory, normed=normed)
        return self._passed(moved, x, source, weight)

    def _slopes(self, x: TokenSignal) -> tuple[float, ...] | None:
        """Slopes of the penalties on scores that are followed, one for each head; one zero if only other blocks have some."""
        from ..signal.positions import Distances

        if x.positions.length == 1:  # it sees itself alone, at no distance
            return None
        if self.slopes and not self.cross and (x.positions.dense or isinstance(x.positions, Distances)):
            return self.slopes
        return (0.0,) if isinstance(x.positions, Distances) else None

    def _passed(self, moved: Any, x: AnySignal, source: AnySignal, weight: Number) -> Any:
        """The heads' output and its pullback, from those of attention for values with the second moment of the source."""
        value = _last(weight) / _last(source.second_moment)
        back_gain = value * self.heads * self.value_dim / self.width

        def back(g: AnySignal) -> tuple[AnySignal, AnySignal]:
            (asked, asked_pair), (sent, sent_pair) = moved.pull(back_gain * g.second_moment, back_gain * g.covariance)
            if self.cross:
                return x.of(asked, asked_pair), Signal(float(sent[0]), float(sent_pair[0, 0]))
            return x.of(asked + sent, asked_pair + sent_pair), None

        return x.of(value * moved.second_moment, value * moved.covariance), back

    def _exchangeable(self, scores: Number, x: Signal, source: Signal, query: Signal, weight: Number, trace: Trace) -> Any:
        """The heads' output and the map of its gradient, as :meth:`_tokens`, for exchangeable tokens."""
        parts = self._read_table(self._capped(scores), source, query, trace)

        def share(g: Signal, columns: Any, owner: Signal) -> Signal:
            # Linear in the gradient's two moments: one column for each of the four parts.
            one, other, pair_one, pair_other = columns
            gain = weight / owner.second_moment
            gamma, kappa = gain * g.second_moment, gain * g.covariance
            return Signal(gamma * one + kappa * other, gamma * pair_one + kappa * pair_other)

        def back(g: Signal) -> tuple[Signal, Signal | None]:
            return share(g, parts[2:6], x), share(g, parts[6:10], source) if self.cross else None

        return Signal(weight * parts[0], weight * parts[1]), back

    def _read_table(self, scores: Number, source: Signal, query: Signal, trace: Trace) -> Any:
        """The layer's moments for exchangeable tokens of second moment 1 and values of gain 1.

        First second moment and covariance of the output. Then the 2 by 2 matrix, row by row, from second moment and covariance
        of the output's gradient to those of the input's. In cross-attention this is the gradient of the querying tokens, and a
        second matrix gives that of the source.
        """
        rate = self.dropout if trace.dropout else 0.0
        moving = query.correlation if self.cross else source.correlation
        fixed = source.correlation if self.cross else 0.0
        # After a norm, which leaves no spread, all tokens have one size in every draw.
        equal = source.spread is None if trace.finite_width else None
        given = (self, fixed, rate, equal, trace.length, trace.source_length)
        family = trace.family(given, functools.partial(_exchangeable_table, *given), _SCORE_STEP)
        clipped = min(1.0, max(0.0, moving)) if isinstance(moving, float) else moving.clip(0.0, 1.0)
        return family(scores, clipped)

    def columns(
        self, scores: float, source: float, rate: float, equal: bool | None, length: int, source_length: int, r: Any
    ) -> Any:
        """Rows of :meth:`_read_table` for correlations r of the tokens.

        In cross-attention r is the correlation of the querying tokens, `source` that of the tokens attended to. `equal` is True
        if all tokens have one size; None leaves finite width out.
        """
        import numpy as np

        from ..formulas.attention import attention_moments

        asking = length
        length = source_length if self.cross else length
        if self.window is not None and not self.cross:
            length = min(length, self.window)
        given = {
            "signal": 1.0,
            "correlation": r,
            "length": length,
            "width": self.memory_width or self.width,
            "head_dim": None if equal is None else self.head_dim,
            "score_gain": scores,
            "dropout": rate,
            "causal": self.causal and not self.cross,
            "equal_norms": equal,
        }
        if self.cross:
            given |= {"queries": asking, "correlation": source + 0.0 * r, "row_correlation": r}
            known = None
        else:
            from ..numerics.softmax import overlap_table

            known = overlap_table(scores, length, self.causal, given["head_dim"])(r)
        one = attention_moments(**given, gradient_correlation=0.0, overlap=known)
        both = attention_moments(**given, gradient_correlation=1.0, overlap=one.overlap)
        # A gradient of correlation 1 has both moments 1, so that the difference is what the covariance adds.
        heads = self.heads * self.value_dim / self.width
        if not self.cross:
            parts = [(one.gradient, both.gradient), (one.gradient_covariance, both.gradient_covariance)]
        else:
            parts = [
                (one.query_gradient, both.query_gradient),
                (one.query_gradient_covariance, both.query_gradient_covariance),
                tuple(m.value_gradient + m.key_gradient for m in (one, both)),
                tuple(m.value_gradient_covariance + m.key_gradient_covariance for m in (one, both)),
            ]
        columns = [one.second_moment, one.covariance]
        for alone, together in parts:
            columns += [heads * alone, heads * (together - alone)]
        return np.stack([np.broadcast_to(column, r.shape) for column in columns], axis=-1)

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """That of two square Gaussian matrices, value and output."""
        return DrawSpread.of_matrices(1.0, 3.0, 1.0)  # the kurtosis of Gaussian hidden features, and of a slope of 1

    def own_flops(self, run: Run) -> int:
        # Scores and the weighted sum of values; softmax is not a matrix product and is left out, as everyone does.
        return 2 * run.batch * self.keys_seen(run) * self.heads * (self.head_dim + self.value_dim)

    def own_saved(self, run: Run) -> int:
        keys = run.memory if self.cross else run.tokens
        source = keys * run.batch
        values = run.positions * self.width  # the input, once for query, key and value together
        values += run.positions * self.heads * self.head_dim + source * self.kv_heads * (self.head_dim + self.value_dim)
        values += run.positions * self.heads * self.value_dim  # what the output map reads
        if run.fused:
            return values * run.value_bytes + run.positions * self.heads * _LOGSUMEXP_BYTES
        scores = run.positions * keys * self.heads
        # Without dropout the softmax alone; with it, the dropped-out copy and a mask of one byte each as well.
        per_score = 2 * run.value_bytes + 1 if self.dropout else run.value_bytes
        return values * run.value_bytes + scores * per_score

    def own_cache(self, run: Run) -> int:
        if not (self.causal or self.cross):
            return 0
        kept = run.memory if self.cross else run.tokens
        if self.window is not None:
            kept = min(kept, self.window)
        return run.batch * kept * self.kv_heads * (self.head_dim + self.value_dim)


def _last(values: Number) -> float:
    """The number at the last position, or the number itself."""
    return float(values) if isinstance(values, float | int) else float(values[-1])


def _as_arrays(signal: AnySignal) -> tuple[Any, Any]:
    """The moments of exchangeable tokens as arrays over a single node."""
    import numpy as np

    return np.array([signal.second_moment]), np.array([[signal.covariance]])


@functools.lru_cache(maxsize=256)
def _exchangeable_table(
    attention: Attention, source: float, rate: float, equal: bool | None, length: int, source_length: int, scores: float
) -> Table:
    """:meth:`Attention.columns` over the correlation, made once."""
    return Table(functools.partial(attention.columns, scores, source, rate, equal, length, source_length), 0.0, 1.0)
