"""What every component of a transformer is: its own tensors, its children, and the counts that follow from them.

A component is a frozen dataclass. It says four things of itself, and nothing of what lies inside its children:

- ``tensors()``: the name and shape of each weight it holds;
- ``children()``: its parts, each with the number of copies that exist and the number a token passes through;
- ``own_flops(run)``: the matrix-multiply operations of its own on one forward pass;
- ``own_saved(run)``, ``own_cache(run)``: bytes it keeps for the backward pass, values it keeps for generation.

Every count of a tree is the sum of these over its nodes, in exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, dataclass_transform

from ..checks import check_whole as check_whole  # head_allocation takes it from here
from ..errors import InputError
from ..signal import AnySignal, Place, Pullback

Shape = tuple[int, ...]


class Child(NamedTuple):
    """A part of a component. Of `copies` equal ones, a token passes through `active`."""

    name: str
    layer: Layer
    copies: int = 1
    active: int = 1


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
    """One pass over one batch, as counts see it.

    `tokens` positions are read per sequence, `memory` positions are there for cross-attention, `batch` sequences are read
    at once. With `masked`, attention scores that a causal mask hides are left out, as a kernel that skips them does;
    without it they are counted, as published 6N + 12LdT figures do. `value_bytes` is the size of one activation. A `fused`
    attention kernel stores no score matrix for the backward pass.
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
    """A component of a transformer. Subclasses are frozen dataclasses; see the module's docstring for what they say."""

    embedding = False
    """Whether its own weights count as embedding: a table of tokens, positions or segments, or the output matrix."""

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

    def tensors(self) -> dict[str, Shape]:
        """Name and shape of each weight this component holds itself."""
        return {}

    def children(self) -> tuple[Child, ...]:
        """The parts, in the order a signal meets them."""
        return ()

    def own_flops(self, run: Run) -> int:
        """Floating-point operations of this component alone in a forward pass: two per multiply-add of a matrix product."""
        return 0

    def own_saved(self, run: Run) -> int:
        """Bytes this component alone keeps from the forward pass for the backward one."""
        return 0

    def own_cache(self, run: Run) -> int:
        """Values this component alone keeps while text is generated, after `run.tokens` positions."""
        return 0

    def moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback]:
        """What becomes of a signal here, and the map that takes a gradient behind this component to one in front of it.

        Raises
        ------
        InputError
            for a component whose moments are not known.
        """
        raise InputError(f"{place.role}: the moments of {type(self).__name__} are not known")

    def run_of(self, child: str, run: Run) -> Run:
        """The pass that `child` sees when this component sees `run`; the same unless a component says otherwise."""
        return run

    # Sums over the tree. Each component is counted once however often it is used: copies multiply.

    @cached_property
    def own_parameters(self) -> int:
        """Weights this component holds itself."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    @cached_property
    def parameters(self) -> int:
        """All trainable weights."""
        return self.own_parameters + sum(c.copies * c.layer.parameters for c in self.children())

    @cached_property
    def active_parameters(self) -> int:
        """Weights that one token meets: of a mixture of experts, only those it is routed to."""
        return self.own_parameters + sum(c.active * c.layer.active_parameters for c in self.children())

    @cached_property
    def embedding_parameters(self) -> int:
        """Weights of the token, position, segment and patch tables and of an output matrix that is not tied to them."""
        own = self.own_parameters if self.embedding else 0
        return own + sum(c.copies * c.layer.embedding_parameters for c in self.children())

    @property
    def non_embedding_parameters(self) -> int:
        """All weights but the embedding's: the N of Kaplan et al. and of Levine et al."""
        return self.parameters - self.embedding_parameters

    @property
    def trained_size(self) -> int:
        """The N that rules and loss laws speak of: without the embedding, and of a mixture only what a token meets."""
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
            # A child without a name is a wrapper's content: it stands at the wrapper's own place.
            place = ".".join(filter(None, (site, child.name)))
            yield from child.layer.walk(place, copies * child.copies, active * child.active)

    def replace(self, **changes: Any) -> Any:
        """The same component with some fields changed."""
        return replace(self, **changes)
