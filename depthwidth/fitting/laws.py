"""The laws that can be fitted by name: expressions in columns of runs, with prior constraints on each coefficient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, nearest, shown
from ..formulas.rules import levine_optimal_width
from ..numerics.expressions import Node, read
from ..planning.rules import find_rule, meet

Array = NDArray[np.float64]
Columns = Mapping[str, Array]

EXPONENTS = (0.05, 2.0)
"""Range of exponents at which searches start; it does not bound the fit."""


@dataclass(frozen=True)
class Law:
    """A law that can be fitted: ``left = right`` in columns of runs and coefficients."""

    name: str
    text: str
    """For example ``loss = E + A * width**-alpha``; read by the safe parser."""
    source: str
    ranges: Mapping[str, tuple[float, float]]
    """Range of start values of each coefficient that is not linear, and nothing of the others."""
    coefficients: tuple[str, ...]
    positive: frozenset[str] = frozenset()
    terms: tuple[tuple[str, str, str], ...] = ()
    """Factor, exponent and column of each term ``factor * column**-exponent``."""
    units: Mapping[str, str] = field(default_factory=dict)
    delta: float | None = None
    """Threshold of the Huber loss that its paper uses; None for least squares."""
    cells: tuple[str, ...] = ()
    """Columns whose combinations have a factor each, which is eliminated."""
    rule: bool = False
    """True if a shape of least loss follows from it."""
    inputs: tuple[str, ...] = ()
    """Quantities that a table must have, if the law's columns are computed from them by `derive`."""
    derive: Callable[[Columns], Columns] | None = None
    """Columns of the law from the quantities of a table."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the law holds fixed, to be saved with its coefficients."""

    @cached_property
    def sides(self) -> tuple[str, Node]:
        """The column on the left, and the expression on the right."""
        return two_sides(self.text)

    @property
    def left(self) -> str:
        """The column that the law predicts."""
        return self.sides[0]

    @property
    def right(self) -> Node:
        """The expression that predicts it."""
        return self.sides[1]

    @property
    def needs(self) -> tuple[str, ...]:
        """Quantities that a table must have."""
        return self.inputs or self.columns

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in which it is written."""
        return tuple(sorted({self.left, *(self.right.variables - set(self.coefficients)), *self.cells}))


def two_sides(text: str) -> tuple[str, Node]:
    """The column on the left of a law, and the expression on its right.

    Raises
    ------
    InputError
        if it is not of the form COLUMN = EXPRESSION, or the expression cannot be read.
    """
    left, equals, right = text.partition("=")
    if not equals or not left.strip().isidentifier():
        raise InputError(f"fit: {shown(text)} is not of the form COLUMN = LAW, for example loss = E + A * width**-alpha")
    return left.strip(), read(right.strip())


def _powers(name: str, source: str, constant: str, *terms: tuple[str, str, str], delta: float, rule: bool) -> Law:
    """A law that adds powers of columns to a constant, all of them positive."""
    text = " + ".join([*(f"{factor} * {column}**-{exponent}" for factor, exponent, column in terms), constant])
    factors, exponents = ([term[i] for term in terms] for i in (0, 1))
    return Law(
        name,
        f"loss = {text}",
        source,
        dict.fromkeys(exponents, EXPONENTS),
        (*exponents, *factors, constant),
        frozenset((*exponents, *factors, constant)),
        terms,
        dict.fromkeys((*factors, constant), "nats"),
        delta,
        rule=rule,
    )


REFERENCE_SIZE = 2e8
"""N_0 of the shape penalty: the size, in parameters without the embedding, at which x_0 is taken."""


def rule_widths(parameters: Array, rule: str = "levine2020") -> Array:
    """Best width by a rule, shape (points,), for `parameters` without the embedding in blocks of 12 per squared width.

    Raises
    ------
    InputError
        if there is no such rule, or it has no shape of such a size.
    """
    if rule == "levine2020":
        return np.asarray(levine_optimal_width(parameters))
    curve = find_rule(rule).curve()
    sizes, back = np.unique(parameters, return_inverse=True)
    met = [meet(curve, lambda depth, width: 12 * depth * width**2, float(size)) for size in sizes]
    for size, shape in zip(sizes, met, strict=True):
        if shape is None:
            raise InputError(f"fit: the rule {rule} has no shape of {size:.4g} parameters")
    return np.array([shape[1] for shape in met if shape is not None])[back]


def shape_penalty_law(rule: str = "levine2020", tokens: bool = True) -> Law:
    """The quadratic penalty for widths away from the best one, whose place drifts from the width of a rule.

    Parameters
    ----------
    rule : name of the rule.
    tokens : with a term for the number of training tokens, for runs that differ in it.
    """

    def derive(columns: Columns) -> Columns:
        size = columns["non_embedding"]
        extra = {"size": size / REFERENCE_SIZE, "offset": np.log(columns["width"] / rule_widths(size, rule))}
        return {**columns, **extra}

    base = "E + M * size**-g" + (" + D * tokens**-zeta" if tokens else "")
    exponents = {"g": (0.05, 1.0)} | ({"zeta": EXPONENTS} if tokens else {})
    factors = ("E", "M", *(["D"] if tokens else []))
    return Law(
        "shape-penalty",
        f"loss = ({base}) * (1 + k * (offset - x0 - s * log(size))**2)",
        f"quadratic penalty in ln width around {rule}, as in docs/fitting.md",
        {**exponents, "k": (0.005, 0.3), "x0": (-0.5, 0.5), "s": (-0.2, 0.2)},
        ("k", "x0", "s", *exponents, *factors),
        frozenset((*exponents, *factors)),
        (("D", "zeta", "tokens"),) if tokens else (),
        dict.fromkeys(factors, "nats"),
        None,
        rule=rule == "levine2020",
        inputs=("width", "non_embedding", "loss", *(["tokens"] if tokens else [])),
        derive=derive,
        constants={"N_0": REFERENCE_SIZE},
    )


def head_size_law(cells: tuple[str, ...] = ("width", "depth")) -> Law:
    """The quadratic penalty in the logarithm of the head dimension, with a factor for each cell of the columns `cells`."""
    return Law(
        "head-size",
        "loss = 1 + q * log(head_dim / h)**2",
        "quadratic penalty in ln head dimension, as in docs/fitting.md",
        {"q": (0.002, 0.05), "h": (40.0, 300.0)},
        ("q", "h"),
        frozenset(("h",)),
        units={"h": "dimensions"},
        cells=cells,
        inputs=("width", "depth", "head_dim", "loss"),
    )


def conditional_law(ratio: bool = True, tokens: bool = True) -> Law:
    """The conditional law of width and feed-forward share, in the numbers that losses determine.

    Each factor of the paper, a_0 + a_1 ln x + a_2/x, is its least value times 1 + kx (ln(x/xs) + xs/x - 1), with xs = a_2/a_1
    and kx = a_1 over that least value; likewise for the ratio r. The least value goes into the loss of the best shape.

    Parameters
    ----------
    ratio : with the factor for the feed-forward share.
    tokens : with a term for the number of training tokens.
    """

    def derive(columns: Columns) -> Columns:
        size = columns["non_embedding"]
        return {**columns, "size": size / REFERENCE_SIZE, "x": columns["width"] / np.sqrt(size)}

    base = "E + M * size**-g" + (" + D * tokens**-zeta" if tokens else "")
    share = " * (1 + kr * (log(ffn_ratio / rs) + rs / ffn_ratio - 1))" if ratio else ""
    exponents = {"g": (0.05, 1.0)} | ({"zeta": EXPONENTS} if tokens else {})
    factors = ("E", "M", *(["D"] if tokens else []))
    places = {"xs": (0.03, 0.2)} | ({"rs": (0.3, 4.0)} if ratio else {})
    curvatures = {"kx": (0.02, 0.5)} | ({"kr": (0.003, 0.1)} if ratio else {})
    return Law(
        "conditional",
        f"loss = ({base}) * (1 + kx * (log(x / xs) + xs / x - 1)){share}",
        "Bian et al. 2025, arXiv 2510.18245",
        {**exponents, **curvatures, **places},
        (*curvatures, *places, *exponents, *factors),
        frozenset((*exponents, *factors, *places)),
        (("D", "zeta", "tokens"),) if tokens else (),
        dict.fromkeys(factors, "nats"),
        inputs=("width", "non_embedding", "loss", *(["tokens"] if tokens else []), *(["ffn_ratio"] if ratio else [])),
        derive=derive,
        constants={"N_0": REFERENCE_SIZE},
    )


LAWS = {
    law.name: law
    for law in (
        _powers(
            "gemstones",
            "McLeish et al. 2025, arXiv 2502.06857, Approach 3",
            "epsilon",
            ("A", "alpha", "width"),
            ("B", "beta", "depth"),
            ("C", "gamma", "parameters"),
            ("D", "zeta", "tokens"),
            delta=1e-4,
            rule=True,
        ),
        _powers(
            "chinchilla",
            "Hoffmann et al. 2022, arXiv 2203.15556, Approach 3",
            "E",
            ("A", "alpha", "parameters"),
            ("B", "beta", "tokens"),
            delta=1e-3,
            rule=False,
        ),
        _powers(
            "inverse-depth",
            "Liu, Kangaslahti, Liu, Gore 2026, arXiv 2602.05970, Eq. 3",
            "L_0",
            ("c_m", "alpha_m", "width"),
            ("c_l", "alpha_l", "depth"),
            ("c_D", "alpha_D", "tokens"),
            delta=1e-3,
            rule=True,
        ),
        Law(
            "crossings",
            "width = exp(a + b * depth)",
            "Levine et al. 2020, arXiv 2006.12467",
            {"a": (3.0, 7.0), "b": (0.01, 0.2)},
            ("a", "b"),
            rule=True,
        ),
        shape_penalty_law(),
        head_size_law(),
        conditional_law(),
    )
}
"""Laws by name."""


def own_law(text: str, coefficients: tuple[str, ...], ranges: Mapping[str, tuple[float, float]]) -> Law:
    """A law in a user's own words.

    Parameters
    ----------
    text : for example ``loss = E + A * width**-alpha``.
    coefficients : names of its coefficients; every other name is a column.
    ranges : range of start values of some of them.

    Raises
    ------
    InputError
        if it cannot be read, or does not mention a coefficient.
    """
    right = two_sides(text)[1]
    if unused := set(coefficients) - right.variables:
        raise InputError(f"fit: the law does not mention {', '.join(sorted(unused))}")
    shapes = two_sides(text)[0] == "loss" and bool({"width", "depth"} & (right.variables - set(coefficients)))
    return Law("own", text, "", dict(ranges), coefficients, rule=shapes)


def find_law(name: str) -> Law:
    """The law called `name`.

    Raises
    ------
    InputError
        if there is none.
    """
    if name not in LAWS:
        raise InputError(
            f"fit: there is no law {shown(name)}{nearest(name, LAWS)}; there are {', '.join(LAWS)}, "
            "or write one, such as 'loss = E + A * width**-alpha'"
        )
    return LAWS[name]
