"""Positions: added to the embedding, rotated into queries and keys, or added to attention scores; and trained vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..checks import check_whole
from ..errors import InputError
from .base import Layer, component, share
from .tensor import Tensor

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, Number, Site

P = TypeVar("P", bound="Position")

MOST_ANGLES = 2**16
"""Largest number of features whose angles are followed; their products with thousands of distances take gigabytes."""


class BiasMoments(NamedTuple):
    """The part of a score bias that a softmax sees, over draws of its tables."""

    variance: Number
    """Of an entry, in nats^2; a number, or one for each of several blocks"""
    rank: float = float("inf")
    """Features over which an entry is a sum of products; infinite for entries that are drawn themselves"""
    own: float = 1.0
    """Share of the variance that differs between the keys of a row"""
    pair: float = 0.0
    """Share that two rows have in common for one key"""


@component
class Position(Layer):
    """A description of the order of tokens to a model. Each method's default is for positions without that effect.

    Abstract: a subclass sets `home`, the part of a model that holds it.
    """

    home = ""
    """``stem`` (added to the embedding), ``attention`` (acts on its queries, keys or scores) or ``stack`` (a table of score
    biases that all blocks share)."""
    adds_scores = False
    """True if it adds to the scores of attention, beyond rotating queries and keys."""

    @property
    def word(self) -> str | Position:
        """Its word in a :class:`~depthwidth.architecture.design.Design`; the component itself if no word expresses it fully."""
        return self

    # For positions in the stem.

    @property
    def vectors_width(self) -> int | None:
        """Features of the trained vectors that it adds; None if it adds none."""
        return None

    @property
    def longest(self) -> int | None:
        """The largest number of positions; None without a limit."""
        return None

    @property
    def fixed_variance(self) -> float:
        """Second moment of the fixed vectors that it adds."""
        return 0.0

    def add(self, x: AnySignal, identity: AnySignal, site: Site, width: int) -> Any:
        """The moments of `x`, of `width` features, with the position vectors added.

        `identity` has second moment 1 and, for covariance, the probability that two positions hold the same token.
        """
        return x

    def sharded(self, devices: int) -> Any:
        heads = getattr(self, "heads", None)
        return self if heads is None else self.replace(heads=share(type(self).__name__, devices, heads=heads))

    def fitted(self, heads: int, width: int) -> Position:
        """The same positions for attention of this number of heads, or for an embedding of this width."""
        return self

    # For positions in attention.

    def penalties(self, heads: int, scale: float) -> tuple[float, ...] | None:
        """Penalty on the scores of each head, in nats per position of distance, if scores are multiplied by `scale`."""
        return None

    def score_gain(self, head_dim: int) -> float:
        """Factor on the variance of the scores."""
        return 1.0

    def rotation(self, head_dim: int, length: int) -> Callable[[Any], Any] | None:
        """The factor of rotation on a query-key product, averaged over the head, as a function of an array of distances.

        `length` is that of the sequence.
        """
        return None

    def mean_rotation(self, head_dim: int, length: int, causal: bool, reach: int | None = None) -> float:
        """That factor, averaged over the pairs of keys that a query sees, of `reach` keys or of all."""
        return 1.0

    def content_scale(self, head_dim: int) -> float | None:
        """The factor on the products of queries and keys that goes with these positions; None for the usual one."""
        return None

    def pair_dims(self, head_dim: int, value_dim: int) -> int:
        """Features of the products that each head adds for each pair of query and key to those of scores and values."""
        return 0

    def key_degree(self, key: Powers, at: Place) -> Powers:
        """The powers of the vectors that a query is multiplied with, given those of keys."""
        return key

    def value_degree(self, value: Powers, at: Place) -> Powers:
        """The powers of the averaged vectors, given those of values."""
        return value

    def score_bias(self, site: Site) -> BiasMoments | None:
        """The score bias at the start, by the tables at `site`; None if it is zero, or neglected.

        Raises
        ------
        InputError
            if its moments are not known.
        """
        return None


def positions_as(kind: type[P], value: object) -> P | None:
    """`value`, a component or a design's word for one, if it is a component of this kind; otherwise None."""
    return value if isinstance(value, kind) else None


@component
class LearnedPositions(Position):
    """A trainable vector for each of `context` positions, added to the token embedding.

    Some families keep `offset` more rows than there are positions (OPT: 2).
    """

    context: int
    width: int
    offset: int = 0
    embedding = True
    home = "stem"
    word = "learned"

    def __post_init__(self) -> None:
        check_whole("LearnedPositions", context=self.context, width=self.width)
        check_whole("LearnedPositions", smallest=0, offset=self.offset)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.context + self.offset, self.width), "positions")}

    def choices(self) -> dict[str, Any]:
        return {"position_offset": self.offset}

    @property
    def vectors_width(self) -> int | None:
        return self.width

    @property
    def longest(self) -> int | None:
        return self.context

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.apply("sum", x, at.weight("weight"), reason="vectors of positions are added to a stream of another degree")

    def add(self, x: AnySignal, identity: AnySignal, site: Site, width: int) -> Any:
        return x.plus(identity.times(site.at("positions").variance("weight"), 0.0))


def check_angles(position: Position, features: int) -> None:
    """Refuse more features than an array of their angles should have."""
    if features > MOST_ANGLES:
        name = type(position).__name__
        raise InputError(f"{name}: the angles of {features:,} features are not computed; at most {MOST_ANGLES:,}")
