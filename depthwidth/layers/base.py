"""The contract of a component: its own tensors, its children, and the counts that follow from them.

A component is a frozen dataclass, made with :func:`component`. It describes itself, and nothing inside its children:

- ``tensors()``: each weight it holds: shape, kind, fans, start;
- ``children()``: its parts, each with the number of copies that exist and the number a token passes through;
- ``own_flops(run)``: the operations of its own matrix products in one forward pass;
- ``own_saved(run)``, ``own_cache(run)``: bytes it keeps for the backward pass, values it keeps for generation;
- ``moments(x, site)``: the second moments of its output, and the map of a gradient from its output to its input;
- ``degree(x, at)``: the degrees of its output in the weights, which determine scale invariance.

Every count of a tree is the sum of these over its nodes, in exact integers.

Three base classes list the members that a place in the tree requires: :class:`Branch` for a component whose output is added to
the residual stream, :class:`~depthwidth.layers.block.BlockLike` for one that a stack repeats, :class:`Layer` for all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from .. import signal
from ..errors import InputError
from ..values import cached_property, frozen, frozen_fields
from .tensor import Shape as Shape
from .tensor import Tensor

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, DrawSpread, NormedOutput, Pullback, Site
    from .interfaces import AttentionLike, FeedForwardLike, MixtureLike


class Child(NamedTuple):
    """A part of a component: `copies` equal copies, and a token passes through `active`.

    Fewer of them than copies are the chosen experts of a mixture; more are passes through weights that several blocks share.
    """

    name: str
    """Its name in dotted paths; empty for the content of a wrapper, which has the wrapper's path."""
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
    """Dotted path from the root, ``decoder.attention.query``; the empty string for the root."""
    layer: Layer
    copies: int
    """Number of copies in the whole tree."""
    active: int
    """Number of copies that one token passes through, each as often as it is used."""


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def component(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass with the comparison, hash and repr of :class:`Layer`."""
    return frozen_fields(cls)


@frozen
class Run:
    """The sizes of one pass over one batch, and the conventions of a count.

    Parameters
    ----------
    tokens : positions of each sequence.
    memory : positions of the encoder's output that cross-attention reads.
    batch : sequences.
    masked : exclude the attention scores that a causal mask hides, as a kernel does that skips them; by default they are
        counted, as in the published 6N + 12LdT.
    value_bytes : size of one activation.
    fused : the attention kernel keeps no score matrix for the backward pass.
    rescored : attention keeps nothing that it computes from queries and keys, and computes it again in the backward pass
        (selective recomputation, Korthikanti et al. 2022, arXiv 2205.05198).
    """

    tokens: int
    memory: int = 0
    batch: int = 1
    masked: bool = False
    value_bytes: int = 2
    fused: bool = True
    rescored: bool = False

    @property
    def positions(self) -> int:
        """Token positions in the whole batch."""
        return self.tokens * self.batch


@component
class Layer:
    """A component of a transformer. Subclasses are frozen dataclasses; the module's docstring lists their methods."""

    embedding = False
    """True if its own weights count as embedding: a table of tokens, positions or segments, or the output matrix."""
    owner = False
    """True if schemes ask it about the weights inside it (:attr:`depthwidth.initialization.Weight.owner`)."""
    routed_parts: ClassVar[tuple[str, ...]] = ()
    """Names of the parts whose copies expert parallelism divides among devices."""

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

    def in_full(self) -> str:
        """Every field of this component and of its parts; recorded runs identify it by them."""
        values = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"{type(self).__name__}({values})"

    def __repr__(self) -> str:
        return self.in_full()

    def tensors(self) -> dict[str, Tensor]:
        """Each weight that this component holds itself, by name."""
        return {}

    def children(self) -> tuple[Child, ...]:
        """The parts, in the order a signal meets them."""
        return ()

    def choices(self) -> dict[str, Any]:
        """Values of the :class:`~depthwidth.architecture.design.Design` fields that this component itself determines."""
        return {}

    @property
    def as_attention(self) -> AttentionLike | None:
        """The softmax attention that this component is or wraps; None if there is none."""
        return None

    @property
    def as_feed_forward(self) -> FeedForwardLike | None:
        """The feed-forward part that this component is or wraps; of a mixture, one expert; None if there is none."""
        return None

    @property
    def as_mixture(self) -> MixtureLike | None:
        """The mixture of experts that this component is or wraps; None if there is none."""
        return None

    def own_flops(self, run: Run) -> int:
        """Floating-point operations of this component alone in a forward pass: two per multiply-add of a matrix product."""
        return 0

    def own_saved(self, run: Run) -> int:
        """Bytes that this component alone keeps from the forward pass for the backward pass."""
        return 0

    def own_cache(self, run: Run) -> int:
        """Values that this component alone caches for text generation, after `run.tokens` positions."""
        return 0

    def own_bias(self, run: Run) -> int:
        """Values of a score bias that this component alone makes in a pass, and keeps between passes at inference."""
        return 0

    def own_stream(self, run: Run) -> int:
        """The part of :meth:`own_saved` that has the features of the residual stream, which sequence parallelism divides."""
        return 0

    def sharded(self, devices: int) -> Any:
        """The part of this component on each of so many devices that divide its features (tensor parallelism).

        By default its parts are divided, and its own weights are on every device. Features are divided as in Megatron-LM
        (Shoeybi et al. 2019, arXiv 1909.08053): heads, hidden features and rows of the vocabulary; norms and biases of outputs
        are on every device.

        Raises
        ------
        InputError
            if heads or hidden features cannot be divided evenly.
        """
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        divided = {name: _shard_value(part, devices) for name, part in parts.items()}
        return self.replace(**{name: part for name, part in divided.items() if part is not parts[name]})

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
            if the moments of this component are not known.
        """
        raise InputError(f"{site.role}: the moments of {type(self).__name__} are not known")

    def degree(self, x: Powers, at: Place) -> Powers:
        """The powers of the output in the weights, given those of the input (:mod:`depthwidth.numerics.homogeneity`).

        Parameters
        ----------
        x : powers of the input.
        at : the component's place. It gives the powers of its weights (``at.weight("weight")``), the places of its parts
            (``at.at("query")``), the powers of a part's output (``at.through(part, x)``), and those of an operation
            (``at.apply("sum", x, y)``).
        """
        return at.unknown(self, x)

    def run_of(self, child: str, run: Run) -> Run:
        """The sizes of `child`'s pass, given this component's `run`; the same by default."""
        return run

    # Sums over the tree: each component is counted once and multiplied by its copies.

    @cached_property
    def own_parameters(self) -> int:
        """Number of weights that this component holds itself."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors().values())

    @cached_property
    def parameters(self) -> int:
        """Number of trainable weights, all copies included."""
        return self.own_parameters + sum(c.copies * c.layer.parameters for c in self.children())

    @cached_property
    def active_parameters(self) -> int:
        """Number of weights that one token passes through: in a mixture of experts, only those of the chosen experts."""
        return self.own_parameters + sum(min(c.active, c.copies) * c.layer.active_parameters for c in self.children())

    @cached_property
    def embedding_parameters(self) -> int:
        """Number of weights in tables of tokens, positions, segments and patches, and in an output matrix that is not tied."""
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
        """Bytes kept for the backward pass if nothing is recomputed."""
        return self.own_saved(run) + sum(c.active * c.layer.saved_bytes(self.run_of(c.name, run)) for c in self.children())

    def stream_bytes(self, run: Run) -> int:
        """The part of :meth:`saved_bytes` that has the features of the residual stream."""
        return self.own_stream(run) + sum(c.active * c.layer.stream_bytes(self.run_of(c.name, run)) for c in self.children())

    def score_flops(self, run: Run) -> int:
        """Operations of attention's scores and weighted sums in a forward pass, which `rescored` repeats."""
        return sum(c.active * c.layer.score_flops(self.run_of(c.name, run)) for c in self.children())

    def cache_values(self, run: Run) -> int:
        """Number of keys and values cached for text generation."""
        return self.own_cache(run) + sum(c.active * c.layer.cache_values(self.run_of(c.name, run)) for c in self.children())

    def bias_values(self, run: Run) -> int:
        """Values of the score biases that are made in a pass, and kept between passes at inference."""
        return self.own_bias(run) + sum(c.active * c.layer.bias_values(self.run_of(c.name, run)) for c in self.children())

    def walk(self, site: str = "", copies: int = 1, active: int = 1) -> Iterator[Node]:
        """Every component of the tree, parents first. A repeated block appears once, with its number of copies."""
        yield Node(site, self, copies, active)
        for child in self.children():
            # A child without a name is the content of a wrapper and has the wrapper's site.
            path = ".".join(filter(None, (site, child.name)))
            yield from child.layer.walk(path, copies * child.copies, active * child.active)

    def replace(self, **changes: Any) -> Any:
        """The same component with some fields changed."""
        return replace(self, **changes)


@component
class Branch(Layer):
    """A component whose output a :class:`~depthwidth.layers.block.Residual` adds to the residual stream.

    A subclass has a `width`, the features of the stream, as a field or a property. All other members have defaults.
    """

    if TYPE_CHECKING:  # a default here would be the default of a dataclass field of this name

        @property
        def width(self) -> int:
            """Features of the residual stream."""

    owner = True
    causal = False
    """True if it mixes positions, and each position reads only itself and earlier ones."""

    def stream_bytes(self, run: Run) -> int:
        """The part of its own bytes that has the features of the residual stream; those of its parts are features inside."""
        return self.own_stream(run)

    @property
    def last(self) -> str:
        """Path, from the branch, of the output that is added to the stream: its last part by default."""
        children = self.children()
        return children[-1].name if children else ""

    @property
    def pulls_several(self) -> bool:
        """True if its pullback takes several gradients at once, along a first axis of the moments at each position."""
        return False

    @property
    def penalises_distance(self) -> bool:
        """True if attention scores fall with distance (ALiBi), on which the correlation of two tokens then depends."""
        return False

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """The variation of the output's size between draws of the weights, for the input `x` of the branch.

        By default that of two square Gaussian matrices in a row. It sets the corrections of order 1/width.
        """
        return signal.DrawSpread.of_matrices(1.0, 3.0, 1.0)

    def through_norm(self, x: AnySignal, site: Site, *, normed: bool) -> NormedOutput | None:
        """Factors on the gradient through the branch and a norm of its output; None if :meth:`draw_spread` has them.

        `x` is the input of the branch, and `normed` says that it is a norm's output.
        """
        return None


def _shard_value(part: Any, devices: int) -> Any:
    """A field's value on one of so many devices: components are divided, all else stays."""
    if isinstance(part, Layer):
        return part.sharded(devices)
    if type(part) is tuple and any(isinstance(one, Layer) for one in part):
        return tuple(_shard_value(one, devices) for one in part)
    return part


def share(owner: str, devices: int, **values: int) -> int:
    """The part of a count on each of so many devices.

    Raises
    ------
    InputError
        if they do not divide it evenly.
    """
    ((name, value),) = values.items()
    if value % devices:
        raise InputError(f"{owner}: {name}={value} cannot be divided evenly among {devices} devices")
    return value // devices


def check_branch(owner: str, branch: object) -> None:
    """Refuse an object that cannot be the branch of a residual.

    Raises
    ------
    InputError
        if it is not a :class:`Branch`, or has no width.
    """
    if not isinstance(branch, Branch):
        raise InputError(f"{owner}: {type(branch).__name__} is not a Branch, so it cannot be added to the residual stream")
    if not hasattr(branch, "width"):
        raise InputError(f"{owner}: {type(branch).__name__} has no width, the features of the residual stream")
