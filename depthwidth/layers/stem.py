"""Stems, which turn an input into the residual stream, and the stem of token tables with positions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import signal
from ..checks import check_fraction, check_whole
from ..errors import InputError
from .base import Child, Layer, Run, component
from .linear import Linear
from .norms import Norm
from .positions import Position
from .tensor import Tensor

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, Pullback, Site

_KINDS = {"tokens": "tokens", "segments": "segments", "projection": "projection"}  # of the parts' weights
SEGMENT_MATCH = 2 / 3
"""Probability that two positions are in the same one of two segments, if the cut is uniform: E[u^2 + (1-u)^2]."""


@component
class Stem(Layer):
    """A component that turns an input into the residual stream.

    Abstract: a subclass has `width` (features of the stream), `vocab` (number of tokens, 0 for images) and `dropout` as
    fields or properties.
    """

    if TYPE_CHECKING:  # a default here would be the default of a dataclass field of this name

        @property
        def width(self) -> int:
            """Features of the residual stream."""

        @property
        def vocab(self) -> int:
            """Number of tokens in the vocabulary; 0 for images."""

        @property
        def dropout(self) -> float:
            """Dropout rate on the features of the stream."""

    owner = True
    images = False
    """True if it reads images instead of tokens."""

    @property
    def fixed_context(self) -> int | None:
        """The number of tokens of every input; None if inputs may be of any length."""
        return None

    @property
    def longest(self) -> int | None:
        """The largest number of tokens it can read; None without a limit."""
        return None

    @property
    def rank(self) -> int | None:
        """Upper bound on the rank of its output over all tokens; None without a bound."""
        return None

    @property
    def summed_tables(self) -> int:
        """Number of tables of equal variance whose rows are summed into the stream."""
        return 1

    @property
    def fixed_variance(self) -> float:
        """Second moment of the fixed vectors that it adds, such as sines and cosines."""
        return 0.0

    @property
    def learned_positions(self) -> bool:
        """True if it adds trained vectors for positions."""
        return False

    @property
    def segmented(self) -> bool:
        """True if it adds vectors for segments."""
        return False

    @property
    def block_inputs(self) -> tuple[int, int] | None:
        """Number of blocks that it makes a vector for at each token, and features of the vector; None if it makes none."""
        return None

    @property
    def shares_tokens(self) -> bool:
        """True if its token table is that of the model's own stem."""
        return False

    def with_shared_tokens(self) -> Stem:
        """The same stem with the token table of the model's own stem.

        Raises
        ------
        InputError
            if it reads no tokens.
        """
        raise InputError(f"{type(self).__name__} has no table of tokens that another stem could share")

    def table_scale(self, kind: str) -> float:
        """The factor on the rows of its tables of this kind."""
        return 1.0

    def embed(self, site: Site, identity: AnySignal, segment_match: float) -> tuple[Any, Pullback]:
        """The moments of the first block's input, and the map of a gradient back through the stem.

        Parameters
        ----------
        identity : a signal of second moment 1 whose covariance is the probability that two positions hold the same token.
        segment_match : the probability that two positions are in the same segment.
        """
        raise InputError(f"{site.role}: the moments of {type(self).__name__} are not known")


@component
class Embedding(Layer):
    """A table with one trainable vector of `width` features for each of `rows` tokens, segments or positions."""

    rows: int
    width: int
    embedding = True

    def __post_init__(self) -> None:
        check_whole("Embedding", rows=self.rows, width=self.width)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.rows, self.width), "table")}

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.apply("embedding", x, own=at.weight("weight"))

    shared = False
    """True if it holds no rows itself and reads those of the model's own stem."""

    def row_variance(self, site: Site) -> Any:
        """Variance of one entry of a row, given the table's site."""
        return site.variance("weight")


@component
class SharedEmbedding(Embedding):
    """The token table of a model's own stem, read by the other stem of its encoder. It holds no weights itself."""

    shared = True

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.apply("embedding", x, own={"stem.tokens.weight": 1})

    def row_variance(self, site: Site) -> Any:
        return signal.Site(site.trace, "stem.tokens").variance("weight")


@component
class TokenStem(Stem):
    """Token embedding, with optional positions and segments added, then an optional norm and projection to the stream's width.

    The embedding may be narrower than the stream, whose rank it then bounds; `projection` widens it.
    """

    tokens: Embedding
    positions: Position | None = None
    segments: Embedding | None = None
    norm: Norm | None = None
    projection: Linear | None = None
    scale: float = 1.0
    """Factor on the token embedding (Gemma: the square root of the width)."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fraction("TokenStem", dropout=self.dropout)

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.projection.outputs if self.projection else self.tokens.width

    @property
    def vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return self.tokens.rows

    def children(self) -> tuple[Child, ...]:
        parts = ((name, getattr(self, name)) for name in ("tokens", "positions", "segments", "norm", "projection"))
        return tuple(Child(name, layer, kind=_KINDS.get(name, "")) for name, layer in parts if layer is not None)

    @property
    def summed_tables(self) -> int:
        return 1 + self.learned_positions + self.segmented

    @property
    def fixed_variance(self) -> float:
        return 0.0 if self.positions is None else self.positions.fixed_variance

    @property
    def learned_positions(self) -> bool:
        return self.positions is not None and self.positions.vectors_width is not None

    @property
    def segmented(self) -> bool:
        return self.segments is not None

    @property
    def shares_tokens(self) -> bool:
        return self.tokens.shared

    def with_shared_tokens(self) -> Stem:
        return replace(self, tokens=SharedEmbedding(self.tokens.rows, self.tokens.width))

    @property
    def longest(self) -> int | None:
        return None if self.positions is None else self.positions.longest

    @property
    def rank(self) -> int:
        return min(self.tokens.width, self.vocab)

    def table_scale(self, kind: str) -> float:
        return self.scale if kind == "tokens" else 1.0

    def choices(self) -> dict[str, Any]:
        return {
            "vocab": self.vocab,
            **({} if self.positions is None else {"positions": self.positions.word}),
            "segments": self.segments.rows if self.segments else 0,
            "embedding_norm": self.norm is not None,
            "embedding_width": self.tokens.width,
            "embedding_projection": self._projection_place,
            "embedding_scale": self.scale,
            "embedding_dropout": self.dropout,
        }

    @property
    def _projection_place(self) -> str:
        """A design's word for the place of the projection."""
        if self.projection is None:
            return "first"
        if not self.projection.bias:
            own = [self._added_width, None if self.norm is None else self.norm.width]
            same = self.projection.inputs == self.projection.outputs
            return "plain" if same or self.projection.inputs in own else "first"
        return "last" if self.projection.inputs != self.projection.outputs else "always"

    def embed(self, site: Site, identity: AnySignal, segment_match: float) -> tuple[Any, Pullback]:
        x = identity.times(self.scale**2 * self.tokens.row_variance(site.at("tokens")))
        narrow = self.projection is not None and self.projection.inputs != self.projection.outputs
        after_projection = narrow and self._added_width == self.width  # positions and segments are as wide as the stream
        if not after_projection:
            x = self._add_positions(x, identity, segment_match, site)
        if site.trace.finite_width:
            x = x.spread_as(signal.Spread.of_tokens(x, self.tokens.width))
        pulls: list[Pullback] = []
        if self.norm is not None:
            before = self.norm.read(x)
            x, pull_norm = self.norm.moments(before, site.at("norm"))
            x = x.spread_as(before.spread and before.spread.after_norm(before, x))
            pulls.append(pull_norm)
        rate = self.dropout if site.trace.dropout else 0.0
        x = x.after_dropout(rate).spread_as(x.spread)
        if self.projection is not None:
            x, pull_projection = self.projection.moments(x, site.at("projection"))
            pulls.append(pull_projection)
            if after_projection:
                x = self._add_positions(x, identity, segment_match, site)
            if site.trace.finite_width:
                x = x.spread_as(signal.Spread.of_tokens(x, min(self.projection.inputs, self.projection.outputs)))
        site.record(x)

        def pull(g: AnySignal) -> AnySignal:
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g.after_dropout(rate)

        return x, site.record_gradient(pull)

    def degree(self, x: Powers, at: Place) -> Powers:
        x = at.at("tokens").through(self.tokens, x)
        narrow = self.projection is not None and self.projection.inputs != self.projection.outputs
        first = narrow and self._added_width == self.width
        if self.projection is not None and first:
            x = at.at("projection").through(self.projection, x)
        if self.positions is not None:
            x = at.at("positions").through(self.positions, x)
        if self.segments is not None:
            segments = at.at("segments").through(self.segments, {})
            x = at.apply("sum", x, segments, reason="vectors of segments are added to a stream of another degree")
        if self.norm is not None:
            x = at.at("norm").through(self.norm, x)
        return x if self.projection is None or first else at.at("projection").through(self.projection, x)

    @property
    def _added_width(self) -> int | None:
        """Features of the learned positions or segments; None without them."""
        if self.positions is not None and self.positions.vectors_width is not None:
            return self.positions.vectors_width
        return None if self.segments is None else self.segments.width

    def _add_positions(self, x: AnySignal, identity: AnySignal, segment_match: float, site: Site) -> Any:
        """The moments of `x` with positions and segments added."""
        if self.positions is not None:
            x = self.positions.add(x, identity, site, self.tokens.width)
        if self.segments is not None:
            q, zero = site.at("segments").variance("weight"), 0.0 * identity.covariance
            x = x.plus(identity.of(q * identity.second_moment, q * segment_match + zero))
        return x

    def own_saved(self, run: Run) -> int:
        mask = run.positions * self.tokens.width if self.dropout else 0
        return mask + (run.positions * self.tokens.width * run.value_bytes if self.projection else 0)

    def own_stream(self, run: Run) -> int:
        return self.own_saved(run)

    def sharded(self, devices: int) -> Any:
        """A part of the vocabulary, which is filled up to a multiple of the devices; other tables stay whole."""
        return self.replace(tokens=self.tokens.replace(rows=-(-self.tokens.rows // devices)))
