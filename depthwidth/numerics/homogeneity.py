"""Degrees of homogeneity in the weights along a graph of modules, and the places that break scale invariance.

A value f has degree k if f(c x) = c^k f(x) for weights x and every c > 0. A network is scale invariant if its output has degree
0: Li et al. 2022, arXiv 2202.00980, Definition A.1 and Table 2. Here the degree is kept separately for each weight: a value has
the powers p if it is multiplied by the product of c_w^p_w once each weight w is multiplied by its own c_w. At a sum, and at a
function that is not homogeneous, powers have conditions to meet; factors that meet them all change outputs by powers alone.

:func:`degrees` is for a graph whose weights share one factor; :class:`Place` follows a tree of components.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..checks import check_choice
from ..errors import InputError

Node = tuple[str, str, Sequence[str]]
"""A name, a module, and the names of the inputs."""

Powers = Mapping[str, float]
"""The degree of a value in each weight, by name; a weight that is absent has 0."""

Result = tuple[Powers, list[Powers]]
"""The powers of a module's output, and differences of powers that have to be zero."""


def product(*powers: Powers) -> Powers:
    """The powers of a product.

    >>> product({"a": 1}, {"a": 1, "b": 1})
    {'a': 2, 'b': 1}
    """
    found: dict[str, float] = {}
    for name, power in itertools.chain.from_iterable(one.items() for one in powers):
        found[name] = found.get(name, 0) + power
    return {name: power for name, power in found.items() if power}


def raise_powers(powers: Powers, exponent: float) -> Powers:
    """The powers of a value raised to an exponent."""
    return {name: exponent * power for name, power in powers.items() if exponent}


def difference(one: Powers, other: Powers) -> Powers:
    """The powers of a quotient."""
    return product(one, raise_powers(other, -1))


# A module's output from its inputs and the powers of its own weight.
_RULES: dict[str, Callable[[Sequence[Powers], Powers], Result]] = {
    "input": lambda _, own: ({}, []),
    "embedding": lambda inputs, own: (product(inputs[0], own), []),
    "linear": lambda inputs, own: (product(inputs[0], own), []),
    "bias": lambda inputs, own: (inputs[0], [difference(inputs[0], own)]),
    "norm": lambda _, own: ({}, []),
    "affine_norm": lambda _, own: (own, []),
    "relu": lambda inputs, own: (inputs[0], []),
    "row_norm": lambda _, own: ({}, []),
    "product": lambda inputs, own: (product(*inputs), []),
    "sum": lambda inputs, own: (inputs[0], [difference(inputs[0], other) for other in inputs[1:]]),
    "gelu": lambda inputs, own: ({}, [inputs[0]]),
    "softmax": lambda inputs, own: ({}, [inputs[0]]),
}
MODULES = tuple(_RULES)
"""The modules. ``row_norm`` divides by a row's sum; ``norm`` has no weights, ``affine_norm`` a gain and a bias."""


def joint_degree(powers: Powers, weights: Collection[str] | None = None) -> float:
    """The degree in these weights together, scaled by one factor; by default in all."""
    return sum(power for name, power in powers.items() if weights is None or name in weights)


def degrees(graph: Iterable[Node]) -> tuple[dict[str, float | None], list[str]]:
    """The degree of every node, None from a break on, and the names of the nodes at which homogeneity breaks.

    Only the first break on each path is named: a node after it has no degree to be judged by.

    Raises
    ------
    InputError
        if a module is unknown, a name occurs twice, an input is not a node before it, or the number of inputs is wrong.

    >>> mlp = [("z", "input", []), ("up", "linear", ["z"]), ("b", "bias", ["up"]), ("r", "relu", ["b"]), ("y", "linear", ["r"])]
    >>> degrees(mlp)
    ({'z': 0, 'up': 1, 'b': 1, 'r': 1, 'y': 2}, [])
    >>> degrees([*mlp, ("b2", "bias", ["y"]), ("out", "norm", ["b2"])])[1]
    ['b2']
    """
    found: dict[str, Powers | None] = {}
    breaks = []
    for name, module, inputs in graph:
        check_choice(name, MODULES, module=module)
        _require_inputs(name, module, inputs, found)
        given = [found[one] for one in inputs]
        known = [powers for powers in given if powers is not None]
        if len(known) < len(given):
            found[name] = None
            continue
        found[name], conditions = _RULES[module](known, {name: 1})
        if any(joint_degree(one) for one in conditions):
            found[name] = None
            breaks.append(name)
    return {name: None if powers is None else joint_degree(powers) for name, powers in found.items()}, breaks


def _require_inputs(name: str, module: str, inputs: Sequence[str], found: Mapping[str, Powers | None]) -> None:
    if name in found:
        raise InputError(f"the node {name!r} is there twice")
    if absent := [one for one in inputs if one not in found]:
        raise InputError(f"the input {absent[0]!r} of {name!r} is not a node before it")
    several = module in ("product", "sum")
    least, words = (2, "two inputs or more") if several else (0, "no input") if module == "input" else (1, "one input")
    if len(inputs) < least or (len(inputs) > least and not several):
        raise InputError(f"{name}: a module {module!r} has {words}")


class Condition(NamedTuple):
    """Powers that have to be zero at one place, for factors on weights to change the output by powers alone."""

    place: str
    powers: Powers
    reason: str
    exact: bool = True
    """False if what breaks it is an epsilon, which matters little while what it is added to is large."""
    opaque: bool = False
    """True if nothing is known of how the weights enter: a factor on any of them breaks it."""

    def broken_by(self, weights: Collection[str]) -> bool:
        """True if one factor on all of these weights breaks it."""
        if self.opaque:
            return any(name in self.powers for name in weights)
        return bool(joint_degree(self.powers, weights))


class Walk:
    """The state that the places of one pass through a tree share."""

    def __init__(self) -> None:
        self.conditions: list[Condition] = []
        self.memory: Powers | None = None
        """Powers of the encoder's output, which cross-attention reads."""
        self.score_bias: Powers | None = None
        """Powers of a table that all blocks of a stack add to their scores."""
        self.block_inputs: Powers | None = None
        """Powers of the vectors that the stem makes for the blocks."""
        self.kept: dict[Hashable, tuple[Powers, Powers]] = {}
        """Powers of the last keys and values, for each window: what later blocks borrow."""


_STATED = ("moments", "embed", "children", "tensors")


class Place:
    """The place of a component in one pass: its path, by which its weights are named, and the conditions that it adds."""

    def __init__(self, path: str, walk: Walk) -> None:
        self.path, self.walk = path, walk

    def at(self, name: str) -> Place:
        """The place of a part."""
        return Place(".".join(filter(None, (self.path, name))), self.walk)

    def weight(self, name: str = "weight") -> Powers:
        """The powers of one of its own weights."""
        return {f"{self.path}.{name}": 1}

    def apply(self, module: str, *inputs: Powers, own: Powers | None = None, reason: str = "") -> Powers:
        """The powers after a module of :data:`MODULES`, whose weight has the powers `own`."""
        powers, conditions = _RULES[module](inputs, own or {})
        for one in conditions:
            self.require(one, reason)
        return powers

    def require(self, powers: Powers, reason: str, *, exact: bool = True) -> None:
        """Add the condition that these powers are zero."""
        if powers:
            self.walk.conditions.append(Condition(self.path, powers, reason, exact))

    def through(self, layer: Any, x: Powers) -> Powers:
        """The powers of a component's output; unknown if its class states parts or moments of its own, and no degrees."""
        kinds = type(layer).__mro__
        own = next(kind for kind in kinds if "degree" in vars(kind))
        if any(name in vars(kind) for kind in kinds[: kinds.index(own)] for name in _STATED):
            return self.unknown(layer, x)
        return layer.degree(x, self)  # type: ignore[no-any-return]

    def unknown(self, layer: Any, x: Powers, reason: str = "") -> Powers:
        """The powers of an unknown output: a factor on any weight in the component or its input breaks it."""
        inside = {f"{node.site}.{name}": 1.0 for node in layer.walk(self.path) for name in node.layer.tensors()}
        reason = reason or f"the degrees of {type(layer).__name__} are not derived"
        self.walk.conditions.append(Condition(self.path, {**x, **inside}, reason, opaque=True))
        return {}


def relu_weights(scores: Sequence[Sequence[float]]) -> list[list[float]]:
    """Attention weights of degree 0 whatever that of the scores: their positive parts over the row's sum.

    Dividing needs no epsilon, which would break invariance; a row without a positive score has weights 0.

    >>> relu_weights([[-1.0, 4.0], [-1.0, 1.0], [-2.0, 0.0]])
    [[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    """
    rows = [[max(score, 0.0) for score in row] for row in scores]
    return [[score / total for score in row] if (total := sum(row)) > 0 else [0.0] * len(row) for row in rows]
