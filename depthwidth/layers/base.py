"""The contract of a component: its own tensors, its children, and the counts that follow from them.

A component is a frozen dataclass, made with :func:`component`. It describes itself, and nothing inside its children:

- ``tensors()``: each weight it holds: shape, kind, fans, start;
- ``children()``: its parts, each with the number of copies that exist and the number a token passes through;
- ``own_flops(run)``: the matrix-multiply operations of its own on one forward pass;
- ``own_saved(run)``, ``own_cache(run)``: bytes it keeps for the backward pass, values it keeps for generation;
- ``moments(x, site)``: the second moments of its output, and the map of a gradient from its output to its input.

Every count of a tree is the sum of these over its nodes, in exact integers.

Three base classes say what is asked of a component by its place in the tree: :class:`Branch` of what is added to the residual
stream, :class:`~depthwidth.layers.block.BlockLike` of what a stack repeats, :class:`Layer` of everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, dataclass_transform

from ..errors import InputError
from ..signal import AnySignal, DrawSpread, Pullback, Site
from .interfaces import AttentionLike, FeedForwardLike, MixtureLike
from .tensor import Shape as Shape
from .tensor import Tensor


class Child(NamedTuple):
    """A part of a component. Of `copies` equal ones, a token passes through `active`."""

    name: str
    """Part of the dotted path of everything inside; empty for the content of a wrapper, which takes the wrapper's own path."""
    layer: Layer
    copies: int = 1
    active: int = 1
    kind: str = ""
    """The job of the part's own matrix or table, a name of :data:`~depthwidth.layers.tensor.KINDS`, if the part is a plain
    :class:`~depthwidth.layers.Linear` or table that does not know its job."""
    reads: str = ""
    """The activation whose output the part reads, by name; empty if it reads none."""


class Node(NamedTuple):
    """A component at its place in a tree."""

    site: str
    """Dotted path from the root, ``decoder.attention.query``; the root's own is the empty string."""
    layer: Layer
    copies: int
    """How many of it exist in the whole tree."""
    active: int
    """How many of those one token passes through."""


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def component(cls: type[T]) -> type[T]:
    """A frozen dataclass whose comparison and repr are :class:`Layer`'s.

    Generating those anew for each class is most of what a dataclass costs to define (1.4 of 2.3 ms, measured), and every
    command would pay it some twenty times over at start-up.
    """
    return dataclass(frozen=True, eq=False, repr=False)(cls)


@dataclass(frozen=True)
class Run:
    """The sizes of one pass over one batch, and the conventions of a count.

    Parameters
    ----------
    tokens : positions of each sequence.
    memory : positions of the encoder's output that cross-attention reads.
    batch : sequences.
    masked : leave out attention scores that a causal mask hides, as a kernel that skips them does; otherwise they are counted,
        as in the published 6N + 12LdT.
    value_bytes : size of one activation.
    fused : the attention kernel keeps no score matrix for the backward pass.
    """

    tokens: int
    memory: int = 0
    batch: int = 1
    masked: bool = False
    value_bytes: int = 2
    fused: bool = True

    @property
    def positions(self) -> int:
        """Token positions in the whole batch."""
        return self.tokens * self.batch


@component
class Layer:
    """A component of a transformer. Subclasses are frozen dataclasses; the module's docstring lists their methods."""

    embedding = False
    """Whether its own weights count as embedding: a table of tokens, positions or segments, or the output matrix."""
    owner = False
    """Whether schemes ask it about the weights inside it (:attr:`depthwidth.initialization.Weight.owner`)."""

    @cached_property
    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values == other._values

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), self._values))

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        values = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"{type(self).__name__}({values})"

    def tensors(self) -> dict[str, Tensor]:
        """Each weight that this component holds itself, by name."""
        return {}

    def children(self) -> tuple[Child, ...]:
        """The parts, in the order a signal meets them."""
        return ()

    def choices(self) -> dict[str, Any]:
        """The choices of a :class:`~depthwidth.architecture.design.Design` that this component itself stands for."""
        return {}

    @property
    def as_attention(self) -> AttentionLike | None:
        """The softmax attention that this component is or wraps; None if there is none."""
        return None

    @property
    def as_feed_forward(self) -> FeedForwardLike | None:
        """The feed-forward part that this component is or wraps, of a mixture one expert; None if there is none."""
        return None

    @property
    def as_mixture(self) -> MixtureLike | None:
        """The mixture of experts that this component is or wraps; None if there is none."""
        return None

    def own_flops(self, run: Run) -> int:
        """Floating-point operations of this component alone in a forward pass: two per multiply-add of a matrix product."""
        return 0

    def own_saved(self, run: Run) -> int:
        """Bytes this component alone keeps from the forward pass for the backward one."""
        return 0

    def own_cache(self, run: Run) -> int:
        """Values this component alone keeps while text is generated, after `run.tokens` positions."""
        return 0

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The moments of the output, and the map of a gradient from the output to the input.

        Parameters
        ----------
        x : moments of the input, a :class:`~depthwidth.signal.Signal` or :class:`~depthwidth.signal.TokenSignal`.
        site : the component's site, with the variances of its weights (``site.variance("weight")``) and the sites of its parts
            (``site.at("query")``); ``site.record(y)`` and ``site.record_gradient(pull)`` record its moments.

        Raises
        ------
        InputError
            for a component whose moments are not known.
        """
        raise InputError(f"{site.role}: the moments of {type(self).__name__} are not known")

    def run_of(self, child: str, run: Run) -> Run:
        """The pass of `child` when this component's pass is `run`; the same unless a component overrides it."""
        return run

    # Sums over the tree. Each component is counted once however often it is used: copies multiply.

    @cached_property
    def own_parameters(self) -> int:
        """Weights this component holds itself."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors().values())

    @cached_property
    def parameters(self) -> int:
        """All trainable weights."""
        return self.own_parameters + sum(c.copies * c.layer.parameters for c in self.children())

    @cached_property
    def active_parameters(self) -> int:
        """Weights that one token passes through: of a mixture of experts, only those it is routed to."""
        return self.own_parameters + sum(c.active * c.layer.active_parameters for c in self.children())

    @cached_property
    def embedding_parameters(self) -> int:
        """Weights of the token, position, segment and patch tables and of an output matrix that is not tied to them."""
        own = self.own_parameters if self.embedding else 0
        return own + sum(c.copies * c.layer.embedding_parameters for c in self.children())

    @property
    def non_embedding_parameters(self) -> int:
        """All weights except the embedding's: the N of Kaplan et al. and of Levine et al."""
        return self.parameters - self.embedding_parameters

    @property
    def trained_size(self) -> int:
        """The N of rules and loss laws: active parameters without the embedding."""
        return self.active_parameters - self.embedding_parameters

    def flops(self, run: Run) -> int:
        """Operations of a forward pass."""
        return self.own_flops(run) + sum(c.active * c.layer.flops(self.run_of(c.name, run)) for c in self.children())

    def saved_bytes(self, run: Run) -> int:
        """Bytes kept for the backward pass when nothing is recomputed."""
        return self.own_saved(run) + sum(c.active * c.layer.saved_bytes(self.run_of(c.name, run)) for c in self.children())

    def cache_values(self, run: Run) -> int:
        """Keys and values kept while text is generated."""
        return self.own_cache(run) + sum(c.active * c.layer.cache_values(self.run_of(c.name, run)) for c in self.children())

    def walk(self, site: str = "", copies: int = 1, active: int = 1) -> Iterator[Node]:
        """Every component of the tree, parents first. A repeated block appears once, with its number of copies."""
        yield Node(site, self, copies, active)
        for child in self.children():
            # A child without a name is a wrapper's content: it has the wrapper's own site.
            place = ".".join(filter(None, (site, child.name)))
            yield from child.layer.walk(place, copies * child.copies, active * child.active)

    def replace(self, **changes: Any) -> Any:
        """The same component with some fields changed."""
        return replace(self, **changes)


@component
class Branch(Layer):
    """A component whose output a :class:`~depthwidth.layers.block.Residual` adds to the residual stream.

    A subclass has a `width`, the features of the stream, as a field or a property. The rest has defaults.
    """

    if TYPE_CHECKING:  # a default here would be the default of a dataclass field of this name

        @property
        def width(self) -> int:
            """Features of the residual stream."""

    owner = True
    causal = False
    """Whether it mixes positions and a position reads only itself and earlier ones."""

    @property
    def last(self) -> str:
        """Path, from the branch, of the output that is added to the stream: its last part by default."""
        children = self.children()
        return children[-1].name if children else ""

    @property
    def penalises_distance(self) -> bool:
        """Whether attention scores fall with distance, so that the correlation of two tokens depends on theirs (ALiBi)."""
        return False

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """How strongly the size of the output varies between draws of the weights, for the input `x` of the branch.

        By default as two square Gaussian matrices in a row. It sets corrections of the order of one over the width.
        """
        return DrawSpread.of_matrices(1.0, 3.0, 1.0)


def check_branch(owner: str, branch: object) -> None:
    """Refuse what cannot be the branch of a residual.

    Raises
    ------
    InputError
        if it is not a :class:`Branch`, or has no width.
    """
    if not isinstance(branch, Branch):
        raise InputError(f"{owner}: {type(branch).__name__} is not a Branch, so that it cannot be added to the stream")
    if not hasattr(branch, "width"):
        raise InputError(f"{owner}: {type(branch).__name__} has no width, the features of the residual stream")
