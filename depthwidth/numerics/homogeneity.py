"""Degrees of homogeneity in the weights along a graph of modules, and the places that break scale invariance.

A value f has degree k if f(c x) = c^k f(x) for weights x and every c > 0. A network is scale invariant if its output has degree
0: Li et al. 2022, arXiv 2202.00980, Definition A.1 and Table 2. The graph is in topological order, each node once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..checks import check_choice
from ..errors import InputError

Node = tuple[str, str, Sequence[str]]
"""A name, a module, and the names of the inputs."""

# A module's degree from those of its inputs; None if it has none at these.
_RULES: dict[str, Callable[[list[float]], float | None]] = {
    "input": lambda _: 0,
    "embedding": lambda degrees: degrees[0] + 1,
    "linear": lambda degrees: degrees[0] + 1,
    "bias": lambda degrees: 1 if degrees == [1] else None,
    "norm": lambda _: 0,
    "affine_norm": lambda _: 1,
    "relu": lambda degrees: degrees[0],
    "row_norm": lambda _: 0,
    "product": sum,
    "sum": lambda degrees: degrees[0] if len(set(degrees)) == 1 else None,
    "gelu": lambda degrees: 0 if degrees == [0] else None,
    "softmax": lambda degrees: 0 if degrees == [0] else None,
}
MODULES = tuple(_RULES)
"""The modules. ``row_norm`` divides by a row's sum; ``norm`` has no weights, ``affine_norm`` a gain and a bias."""


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
    found: dict[str, float | None] = {}
    breaks = []
    for name, module, inputs in graph:
        check_choice(name, MODULES, module=module)
        _require_inputs(name, module, inputs, found)
        given = [found[one] for one in inputs]
        known = [degree for degree in given if degree is not None]
        found[name] = _RULES[module](known) if len(known) == len(given) else None
        if found[name] is None and len(known) == len(given):
            breaks.append(name)
    return found, breaks


def _require_inputs(name: str, module: str, inputs: Sequence[str], found: dict[str, float | None]) -> None:
    if name in found:
        raise InputError(f"the node {name!r} is there twice")
    if absent := [one for one in inputs if one not in found]:
        raise InputError(f"the input {absent[0]!r} of {name!r} is not a node before it")
    several = module in ("product", "sum")
    least, words = (2, "two inputs or more") if several else (0, "no input") if module == "input" else (1, "one input")
    if len(inputs) < least or (len(inputs) > least and not several):
        raise InputError(f"{name}: a module {module!r} has {words}")


def relu_weights(scores: Sequence[Sequence[float]]) -> list[list[float]]:
    """Attention weights of degree 0 whatever that of the scores: their positive parts over the row's sum.

    Dividing needs no epsilon, which would break invariance; a row without a positive score has weights 0.

    >>> relu_weights([[-1.0, 4.0], [-1.0, 1.0], [-2.0, 0.0]])
    [[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    """
    rows = [[max(score, 0.0) for score in row] for row in scores]
    return [[score / total for score in row] if (total := sum(row)) > 0 else [0.0] * len(row) for row in rows]
