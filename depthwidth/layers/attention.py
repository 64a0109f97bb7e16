"""Multi-head softmax attention: self- and cross-attention, grouped and multi-query, full, causal and windowed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import signal
from ..checks import check_fraction, check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..formulas.moments import linear_second_moment, norm_moment
from ..values import cached_property, once
from .attention_degrees import attention_degree, value_degree
from .base import Branch, Child, Run, component, share
from .linear import Linear
from .norms import Norm
from .positions import Position
from .tensor import ZEROS, Tensor

if TYPE_CHECKING:
    from ..signal import AnySignal, DrawSpread, Number, Pullback, Site
    from .interfaces import AttentionLike

_KINDS = {name: name for name in ("query", "key", "value", "out")}  # of the parts' weights
_LOGSUMEXP_BYTES = 4  # a fused kernel keeps one float32 per query and head instead of the scores


def _is_plain(layer: Attention) -> bool:
    """True if a stack attends to itself by a softmax of products, without norms of queries, keys or joined heads."""
    return type(layer) is Attention and not layer.cross and layer.query_norm is None and layer.inner_norm is None


@component
class Attention(Branch):
    """Softmax attention (Vaswani et al. 2017, arXiv 1706.03762).

    `kv_heads` keys and values serve `heads` queries: equal numbers are multi-head, one is multi-query (arXiv 1911.02150),
    a divisor in between is grouped-query attention (arXiv 2305.13245). With `memory_width` it is cross-attention, whose keys
    and values read the output of another stack, of that width.
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
    """Number of latest positions a query may see, its own included; on each side without a causal mask; None for all."""
    position: Position | None = None
    bias: bool = True
    """True if the query, key and value maps have biases."""
    out_bias: bool = True
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    scale: float | None = None
    """Factor on the scores; None for 1/sqrt(head_dim)."""
    softcap: float | None = None
    """Scores pass through softcap * tanh(score / softcap); None for no cap."""
    memory_width: int | None = None
    dropout: float = 0.0
    sinks: bool = False
    """True if the denominator of each head's softmax has one trained term more, stored as its logarithm (gpt-oss)."""
    inner_norm: Norm | None = None
    """A norm of the joined heads before the output map (BitNet)."""
    key_bias: bool = True
    """False if the key map has no bias, whatever the others have (Whisper)."""

    plain = property(_is_plain)
    takes_softmax = pulls_several = True
    degree, value_degree = attention_degree, value_degree
    factorised = routed = borrows = False
    """True if keys and values: are made from few features (latent attention); are routed by trees; are an earlier block's."""

    def __post_init__(self) -> None:
        dims = {"width": self.width, "heads": self.heads, "kv_heads": self.kv_heads}
        check_whole("Attention", **dims, head_dim=self.head_dim, value_dim=self.value_dim)
        given = {"window": self.window, "memory_width": self.memory_width}
        check_whole("Attention", **{name: value for name, value in given.items() if value is not None})
        check_fraction("Attention", dropout=self.dropout)
        _pair_dims(self)  # refuses positions of other sizes
        if not is_symbolic(self.heads, self.kv_heads) and self.heads % self.kv_heads:
            raise InputError(f"Attention: kv_heads={self.kv_heads} does not divide heads={self.heads}")

    @property
    def cross(self) -> bool:
        """True if keys and values read the output of another stack."""
        return self.memory_width is not None

    @cached_property
    def query(self) -> Linear:
        """The query map, all heads together."""
        return Linear(self.width, self.heads * self.head_dim, self.bias)

    @cached_property
    def key(self) -> Linear:
        """The key map, all key heads together."""
        return Linear(self.memory_width or self.width, self.kv_heads * self.head_dim, self.bias and self.key_bias)

    @cached_property
    def value(self) -> Linear:
        """The value map, all value heads together."""
        return Linear(self.memory_width or self.width, self.kv_heads * self.value_dim, self.bias)

    @cached_property
    def out(self) -> Linear:
        """The output map from the joined heads back to the residual stream."""
        return Linear(self.heads * self.value_dim, self.width, self.out_bias)

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """Penalty on the scores of each head, in nats per position of distance; None without penalties or a causal mask."""
        if not self.causal or self.position is None:
            return None
        return self.position.penalties(self.heads, self.score_scale)

    @property
    def penalises_distance(self) -> bool:
        return self.slopes is not None

    @property
    def score_scale(self) -> float:
        """Factor on the scores; if positions enlarge some of their dimensions more than others, its root mean square."""
        scale = float(self.head_dim**-0.5) if self.scale is None else self.scale
        return scale if self.position is None or self.cross else scale * self.position.score_gain(self.head_dim) ** 0.5

    @property
    def scores_tensor(self) -> str:
        """Path, from the attention, of the weight that takes a factor on the scores: the query norm's if there is one."""
        return "query.weight" if self.query_norm is None or not self.query_norm.affine else "query_norm.weight"

    @property
    def as_attention(self) -> AttentionLike:
        return self

    @property
    def normed_inside(self) -> bool:
        """True if a norm fixes the size of the joined heads."""
        return self.inner_norm is not None

    def tensors(self) -> dict[str, Tensor]:
        return {"sinks": Tensor((self.heads,), "score_bias", start=ZEROS)} if self.sinks else {}

    def children(self) -> tuple[Child, ...]:
        names = ("query", "key", "value", "query_norm", "key_norm", "position", "inner_norm", "out")
        parts = ((name, getattr(self, name)) for name in names)
        return tuple(Child(name, layer, kind=_KINDS.get(name, "")) for name, layer in parts if layer is not None)

    def choices(self) -> dict[str, Any]:
        if self.cross:  # in a design it has the choices of self-attention
            return {}
        norm, position = self.query_norm, self.position
        unlimited = {"positions": "none" if position is None else position.word}
        return (unlimited if self.window is None else {"window_positions": position}) | {
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "value_dim": self.value_dim,
            "window": self.window,
            "attention_bias": self.bias,
            "attention_out_bias": self.out_bias,
            "key_bias": self.key_bias,
            "qk_norm": _qk_norm(norm, self.head_dim),
            "logit_scale": self.scale,
            "score_softcap": self.softcap,
            "attention_dropout": self.dropout,
            "sinks": self.sinks,
            "inner_norm": self.inner_norm is not None,
        }

    def run_of(self, child: str, run: Run) -> Run:
        if self.cross and child in ("key", "value", "key_norm"):
            return replace(run, tokens=run.memory)
        return run

    def keys_seen(self, run: Run) -> int:
        """Query-key pairs of one sequence, summed over its queries."""
        keys = run.memory if self.cross else run.tokens
        if self.cross:
            return run.tokens * keys
        reach = keys if self.window is None else min(keys, self.window)
        if not self.causal:
            return _pairs_on_both_sides(run.tokens, reach - 1, run.masked)
        # The first `reach` queries see 1, 2, .. `reach` keys, all others `reach` each.
        return reach * (reach + 1) // 2 + (run.tokens - reach) * reach if run.masked else run.tokens * reach

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        from .attention_moments import mix_heads, score_gain, starting_bias

        trace, layer = site.trace, site.trace.layer
        if self.window is not None and self.window < trace.length and not (self.causal or self.cross):
            raise InputError(f"{site.role}: the moments of a window without a causal mask are not known")
        source = trace.memory if self.cross else x
        if source is None:
            raise InputError(f"{site.role}: there is no encoder output to attend to")
        query, _ = self.query.moments(x, site.at("query"))
        key, _ = self.key.moments(source, site.at("key"))
        value, _ = self.value.moments(source, site.at("value"))
        query = after_norm(self.query_norm, query, site, "query_norm")
        key = after_norm(self.key_norm, key, site, "key_norm")
        gain = score_gain(self)
        raw = gain * query.second_moment * key.second_moment
        scores = site.at("scores")
        # A rotation by the distance of two keys reduces the covariance of their scores.
        rotated = self._rotation_factor(trace.length)
        scores.record(signal.finite(x.of(raw, rotated * gain * query.first_second_moment * key.covariance), scores.role))
        bias = site.at("value").variance("bias") if self.bias else 0.0
        # All moments are proportional to the variance of the value weights, so one table serves layers that differ in it.
        weight = value.second_moment - bias
        mixed, pull_heads = mix_heads(self, raw, x, source, query, weight, trace, starting_bias(self, site))
        if self.sinks:
            from .attention_sinks import through_sinks

            logit = site.variance("sinks")
            mixed, pull_heads = through_sinks(self, mixed, pull_heads, raw, x, weight, rotated, logit, trace)
        mixed = site.at("mix").record(mixed.with_bias(bias))
        pull_norm: Pullback | None = None
        if self.inner_norm is not None:
            mixed, pull_norm = self.inner_norm.moments(mixed, site.at("inner_norm"))
        y, pull_out = self.out.moments(mixed, site.at("out"))

        def pull(g: AnySignal) -> AnySignal:
            g, memory_gradient = pull_heads(g)
            if self.cross:
                trace.add_memory_gradient(memory_gradient, layer)
            return g

        pull_mixed = site.at("mix").record_gradient(pull)
        if pull_norm is None:
            return y, lambda g: pull_mixed(pull_out(g))
        return y, lambda g: pull_mixed(pull_norm(pull_out(g)))

    def _rotation_factor(self, length: int) -> float:
        """Factor of the rotations on the covariance of two scores of a query, averaged over the pairs of keys that it sees."""
        if self.cross or self.position is None:
            return 1.0
        reach = length if self.window is None else min(length, self.window)
        return self.position.mean_rotation(self.head_dim, length, self.causal, reach)

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """The spread of two Gaussian matrices, value and output; equal tokens have as large an output as values.

        Heads that share their values count as one: those of one token differ by how they mix it, which is little where tokens
        correlate. Measured against layers with one to four value heads, omega is right to 10 %.
        """
        whole = None
        if not self.cross and self.window != 1:  # a window of one token is a map of that token alone
            value = linear_second_moment.body(x.averages[0], self.width, site.at("value").variance("weight"))
            if self.inner_norm is not None:
                value = norm_moment.body(value, value + self.inner_norm.eps, self.inner_norm.gain(site.at("inner_norm")))
            whole = linear_second_moment.body(value, self.out.inputs, site.at("out").variance("weight"))
        rank = self.kv_heads * self.value_dim / self.width
        # 3 and 1 are the kurtoses of Gaussian hidden features, and of a slope of 1.
        draw = signal.DrawSpread.of_matrices(rank, 3.0, 1.0, whole)
        return draw.normed_inside() if self.inner_norm is not None else _with_matches(self, draw, x, site)

    def own_flops(self, run: Run) -> int:
        # Scores and the weighted sum of values; softmax is not a matrix product and is customarily left out.
        return 2 * run.batch * self.keys_seen(run) * self.heads * _pair_dims(self)

    def own_saved(self, run: Run) -> int:
        return _saved_bytes(self, run)

    def own_stream(self, run: Run) -> int:
        return run.positions * self.width * run.value_bytes

    def score_flops(self, run: Run) -> int:
        return self.own_flops(run)

    def sharded(self, devices: int) -> Any:
        return _shard_heads(self, devices)

    def own_cache(self, run: Run) -> int:
        if not (self.causal or self.cross):
            return 0
        kept = run.memory if self.cross else run.tokens
        if self.window is not None:
            kept = min(kept, self.window)
        return run.batch * kept * self.kv_heads * (self.head_dim + self.value_dim)


def _saved_bytes(attention: Attention, run: Run) -> int:
    """Bytes that attention keeps for the backward pass."""
    keys = run.memory if attention.cross else run.tokens
    source = keys * run.batch
    values = run.positions * attention.width  # the input, once for query, key and value together
    values += run.positions * attention.heads * attention.head_dim + source * attention.kv_heads * (
        attention.head_dim + attention.value_dim
    )
    values += run.positions * attention.heads * attention.value_dim  # the input of the output map
    if run.rescored:
        return values * run.value_bytes
    if run.fused:
        return values * run.value_bytes + run.positions * attention.heads * _LOGSUMEXP_BYTES
    scores = run.positions * keys * attention.heads
    # The softmax; with dropout also its dropped-out copy, and a mask of one byte per score.
    per_score = 2 * run.value_bytes + 1 if attention.dropout else run.value_bytes
    return values * run.value_bytes + scores * per_score


def _shard_heads(attention: Attention, devices: int) -> Any:
    """A part of the heads; a key-value head is on several devices if there are fewer of them than devices."""
    heads = share("Attention", devices, heads=attention.heads)
    if attention.kv_heads % devices and devices % attention.kv_heads:
        raise InputError(f"Attention: kv_heads={attention.kv_heads} cannot be divided evenly among {devices} devices")
    kv_heads = max(1, attention.kv_heads // devices)
    sizes: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads}
    for name, copies in (("query_norm", devices), ("key_norm", attention.kv_heads // kv_heads), ("inner_norm", devices)):
        norm = getattr(attention, name)
        if norm is not None:
            sizes[name] = norm.sharded_with(copies)
    position = attention.position
    return attention.replace(**sizes, position=position and position.fitted(heads, attention.width))


def _pair_dims(attention: Attention) -> int:
    """Features of the products that each head has for each pair of query and key."""
    dims = attention.head_dim + attention.value_dim
    if attention.position is None or attention.cross:
        return dims
    return dims + attention.position.pair_dims(attention.head_dim, attention.value_dim)


def _pairs_on_both_sides(tokens: int, near: int, masked: bool) -> int:
    """Query-key pairs if each query sees `near` keys on each side; if masked, without those beyond the ends of the sequence."""
    return tokens * (2 * near + 1) - near * (near + 1) if masked else tokens * min(tokens, 2 * near + 1)


def _qk_norm(norm: Norm | None, head_dim: int) -> str:
    """A design's word for the norm of queries."""
    if norm is None:
        return "none"
    if norm.width != head_dim:
        return "full"
    return "heads" if norm.separate else "head" if norm.affine else "unit"


def _with_matches(attention: Attention, draw: DrawSpread, x: AnySignal, site: Site) -> DrawSpread:
    """The variation between draws of weights and texts: texts differ in their share of equal tokens.

    Later blocks than the first follow the stream, which varies more.
    """
    layer, finite = site.trace.layer, site.trace.finite_width
    first = layer == 0 or (isinstance(layer, range) and layer.start == 0)
    if draw.whole is None or not (first and finite and isinstance(x, signal.TokenSignal) and x.positions.match):
        return draw
    from .attention_moments import match_slopes

    return draw._replace(matches=once(lambda: match_slopes(attention, _raw_scores(attention, x, site), x, site.trace.length)))


def _raw_scores(attention: Attention, x: AnySignal, site: Site) -> Number:
    """Variance of the scores of two tokens that have nothing in common."""
    from .attention_moments import score_gain

    with site.trace.silence():
        query = after_norm(attention.query_norm, attention.query.moments(x, site.at("query"))[0], site, "query_norm")
        key = after_norm(attention.key_norm, attention.key.moments(x, site.at("key"))[0], site, "key_norm")
    return score_gain(attention) * query.second_moment * key.second_moment


def after_norm(norm: Norm | None, x: AnySignal, site: Site, name: str) -> Any:
    """The signal after a norm, the part `name`; the signal itself without one."""
    return x if norm is None else norm.moments(x, site.at(name))[0]
