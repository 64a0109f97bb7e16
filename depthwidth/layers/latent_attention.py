"""Multi-head latent attention: keys and values of all heads from few features of a token, which are cached in their place."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

from ..checks import check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..formulas.moments import linear_second_moment
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, DrawSpread, Number, Pullback, Site, Spread, TokenSignal, finite
from ..values import cached_property, frozen
from .attention import Attention
from .attention_degrees import mixed_degree
from .attention_moments import mix_heads, starting_bias
from .base import Child, Run, component
from .linear import Linear
from .norms import Norm, RMSNorm
from .positions import Position


@frozen
class Latent:
    """The sizes of latent attention.

    Parameters
    ----------
    rank : latent features of a token, from which its keys and values are made.
    rotary : dimensions of a query and a key that have positions; those of the key are shared by all heads.
    query_rank : latent features from which queries are made; None if they are made from the stream.
    """

    rank: int
    rotary: int
    query_rank: int | None = None

    def __post_init__(self) -> None:
        check_whole("Latent", rank=self.rank, rotary=self.rotary)
        if self.query_rank is not None:
            check_whole("Latent", query_rank=self.query_rank)


@component
class LatentAttention(Attention):
    """Attention whose keys and values are maps of few normalised features (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    A head's query and key have `head_dim` dimensions, of which the last ``latent.rotary`` have positions. There the key is a
    map of the stream, one for all heads. Everything else of keys and values is a map of ``latent.rank`` features, which pass
    through a norm first; and likewise queries, if there is a ``latent.query_rank``. Biases are those of the maps that read the
    stream into latent features and into the rotary key.
    """

    latent: Latent = field(kw_only=True)

    factorised = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross or self.query_norm is not None or self.key_norm is not None:
            raise InputError("LatentAttention: it has neither norms of single heads nor a memory")
        if self.sinks or self.inner_norm is not None:
            raise InputError("LatentAttention: it has neither sinks nor a norm of its joined heads")
        if self.position is not None and self.position.penalties(1, 1.0) is not None:
            raise InputError(f"LatentAttention: {type(self.position).__name__} does not rotate queries and keys")
        if self.position is not None and self.position.pair_dims(self.head_dim, self.head_dim):
            raise InputError(
                f"LatentAttention: {type(self.position).__name__} has products with queries, part of which rotates"
            )
        if not is_symbolic(self.heads, self.kv_heads) and self.heads != self.kv_heads:
            raise InputError(f"LatentAttention: kv_heads={self.kv_heads} is not heads={self.heads}; every head has its own key")
        if not is_symbolic(self.head_dim, self.latent.rotary) and self.head_dim <= self.latent.rotary:
            raise InputError(
                f"LatentAttention: head_dim={self.head_dim} leaves no dimensions besides the {self.latent.rotary} that rotate"
            )

    @property
    def still(self) -> int:
        """Dimensions of a query and a key without positions."""
        return self.head_dim - self.latent.rotary

    @cached_property
    def query_latent(self) -> Linear | None:
        """The map from the stream to the latent features of queries; None if queries read the stream."""
        rank = self.latent.query_rank
        return None if rank is None else Linear(self.width, rank, self.bias)

    @cached_property
    def query_latent_norm(self) -> Norm | None:
        """The norm of the queries' latent features."""
        rank = self.latent.query_rank
        return None if rank is None else RMSNorm(rank)

    @cached_property
    def query(self) -> Linear:
        """The query map, all heads together."""
        return Linear(self.latent.query_rank or self.width, self.heads * self.head_dim, False)

    @cached_property
    def rotary_key(self) -> Linear:
        """The map from the stream to the part of the keys that has positions."""
        return Linear(self.width, self.latent.rotary, self.bias)

    @cached_property
    def latent_map(self) -> Linear:
        """The map from the stream to the latent features of keys and values."""
        return Linear(self.width, self.latent.rank, self.bias)

    @cached_property
    def latent_norm(self) -> Norm:
        """The norm of the latent features of keys and values."""
        return RMSNorm(self.latent.rank)

    @cached_property
    def key(self) -> Linear:
        """The map from latent features to the part of the keys without positions, all heads together."""
        return Linear(self.latent.rank, self.heads * self.still, False)

    @cached_property
    def value(self) -> Linear:
        """The map from latent features to values, all heads together."""
        return Linear(self.latent.rank, self.heads * self.value_dim, False)

    @property
    def score_scale(self) -> float:
        scale = float(self.head_dim**-0.5) if self.scale is None else self.scale
        return scale * math.sqrt(1 + self.latent.rotary / self.head_dim * (self._rotary_gain - 1))

    @property
    def _rotary_gain(self) -> float:
        """Factor of the positions on the variance of the rotary part of the scores."""
        return 1.0 if self.position is None else self.position.score_gain(self.latent.rotary)

    def children(self) -> tuple[Child, ...]:
        parts = (
            ("query_latent", self.query_latent, "latent"),
            ("query_latent_norm", self.query_latent_norm, ""),
            ("query", self.query, "query"),
            ("latent_map", self.latent_map, "latent"),
            ("latent_norm", self.latent_norm, ""),
            ("key", self.key, "key"),
            ("rotary_key", self.rotary_key, "key"),
            ("value", self.value, "value"),
            ("position", self.position, ""),
            ("out", self.out, "out"),
        )
        return tuple(Child(name, layer, kind=kind) for name, layer, kind in parts if layer is not None)

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"latent": self.latent}

    def degree(self, x: Powers, at: Place) -> Powers:
        """A score is the sum of a product of latent features and one of the parts with positions."""
        source = x
        if self.query_latent is not None and self.query_latent_norm is not None:
            source = at.at("query_latent").through(self.query_latent, x)
            source = at.at("query_latent_norm").through(self.query_latent_norm, source)
        query = at.at("query").through(self.query, source)
        z = at.at("latent_norm").through(self.latent_norm, at.at("latent_map").through(self.latent_map, x))
        key, turned = at.at("key").through(self.key, z), at.at("rotary_key").through(self.rotary_key, x)
        key = at.apply("sum", key, turned, reason="keys with positions and those without have different degrees")
        value = at.at("value").through(self.value, z)
        return at.at("out").through(self.out, mixed_degree(self, at.apply("product", query, key), value, at))

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The moments of plain attention between tokens of the latent features, which queries and rotary keys follow.

        A norm of many features makes a map of the stream linear but for its size. So queries, rotary keys and values that pass
        a norm have the gradients of maps without one: of order one, whatever the ranks. Corrections of order 1/rank are those
        of the values' norm.
        """
        trace = site.trace
        z, pull_latent = self._latent_features(x, site, "latent_map", self.latent_map, self.latent_norm)
        source = x
        if self.query_latent is not None and self.query_latent_norm is not None:
            source, _ = self._latent_features(x, site, "query_latent", self.query_latent, self.query_latent_norm)
        query, _ = self.query.moments(source, site.at("query"))
        key, _ = self.key.moments(z, site.at("key"))
        turned, _ = self.rotary_key.moments(x, site.at("rotary_key"))
        value, _ = self.value.moments(z, site.at("value"))
        scale = 1 / self.head_dim if self.scale is None else self.scale**2
        gain, rotary_gain = scale * self.still, scale * self.latent.rotary * self._rotary_gain
        still, moving = gain * key.second_moment, rotary_gain * turned.second_moment
        raw = query.second_moment * (still + moving)
        scores = site.at("scores")
        rotated = self._mean_cosine(trace.length)
        pair = query.first_second_moment * (gain * key.covariance + rotated * rotary_gain * turned.covariance)
        scores.record(finite(x.of(raw, pair), scores.role))
        # Of a thousandth, so that blocks that hardly differ share their tables.
        share = round(float(moving[-1] / (still[-1] + moving[-1])), 3) if isinstance(x, TokenSignal) else 0.0
        plain = self._plain(trace.finite_width, share)
        mixed, pull_heads = mix_heads(plain, raw, z, z, query, value.second_moment, trace, starting_bias(self, site))
        mixed = site.at("mix").record(mixed)
        y, pull_out = self.out.moments(mixed, site.at("out"))

        def pull(g: AnySignal) -> AnySignal:
            g, _ = pull_heads(g)
            with trace.silence():  # the sum of all paths, of which only one passes here
                return pull_latent(g.times(plain.width / self.latent.rank))

        pull_mixed = site.at("mix").record_gradient(pull)
        return y, lambda g: pull_mixed(pull_out(g))

    @staticmethod
    def _latent_features(x: AnySignal, site: Site, name: str, reading: Linear, norm: Norm) -> tuple[Any, Pullback]:
        """The normalised features that a map reads from the stream."""
        read, pull_read = reading.moments(x, site.at(name))
        if site.trace.finite_width:
            read = read.spread_as(Spread.of_gaussian(read, reading.outputs))
        z, pull_norm = norm.moments(read, site.at("latent_norm" if name == "latent_map" else f"{name}_norm"))
        return z, lambda g: pull_read(pull_norm(g))

    def _plain(self, finite_width: bool, share: Number) -> Attention:
        """Plain attention with the same heads, between tokens of as many features as fluctuate in both maps of a key.

        `share` is that of the rotary dimensions in the variance of the scores.
        """
        features = 1 / (1 / self.width + 1 / self.latent.rank) if finite_width else self.latent.rank
        position = None if self.position is None or not share else _Turned(self.position, self.latent.rotary, share)
        return Attention(
            width=max(1, round(features)), heads=self.heads, kv_heads=self.heads, head_dim=self.head_dim,
            value_dim=self.value_dim, causal=self.causal, window=self.window, position=position, bias=False, out_bias=False,
            softcap=self.softcap, dropout=self.dropout,
        )  # fmt: skip

    def _mean_cosine(self, length: int) -> float:
        """Factor of the rotations on the covariance of the rotary part of two scores, averaged over pairs of keys."""
        if self.position is None:
            return 1.0
        reach = length if self.window is None else min(length, self.window)
        return self.position.mean_rotation(self.latent.rotary, length, self.causal, reach)

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """The spread of two Gaussian matrices, value and output; the Jacobian also has the map to the latent features.

        The norm there leaves the size of the output of equal tokens as it is.
        """
        size = site.at("latent_norm").gain()
        value = linear_second_moment.body(size, self.latent.rank, site.at("value").variance("weight"))
        whole = linear_second_moment.body(value, self.out.inputs, site.at("out").variance("weight"))
        draw = DrawSpread.of_matrices(self.heads * self.value_dim / self.width, 3.0, 1.0, whole)
        return draw._replace(backward=draw.backward + self.width / self.latent.rank)

    def own_saved(self, run: Run) -> int:
        # The stream once, and the latent features after their norms, which the maps to heads read; then as plain attention.
        features = self.latent.rank + (self.latent.query_rank or 0)
        return super().own_saved(run) + run.positions * features * run.value_bytes

    def own_cache(self, run: Run) -> int:
        """The latent features and the rotary key of every token, for all heads together."""
        if not self.causal:
            return 0
        kept = run.tokens if self.window is None else min(run.tokens, self.window)
        return run.batch * kept * (self.latent.rank + self.latent.rotary)


@component
class _Turned(Position):
    """Positions in some dimensions of a head: `share` of the variance of its scores."""

    position: Position
    dims: int
    share: float
    home = "attention"

    def rotation(self, head_dim: int, length: int) -> Callable[[Any], Any] | None:
        return _turn(self.position, self.dims, self.share, length)


@functools.lru_cache(maxsize=64)
def _turn(position: Position, dims: int, share: float, length: int) -> Callable[[Any], Any] | None:
    """One function for equal arguments, by which tables of attention are found again."""
    turn = position.rotation(dims, length)
    return None if turn is None else lambda distance: 1 - share * (1 - turn(distance))
