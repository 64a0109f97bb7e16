"""The best width or depth of a rule before any rounding, for a number of parameters or for the other dimension."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from ..checks import check_choice
from ..errors import InputError
from ..quantities import format_count, parse_count
from .budget import BUDGETS, Budget
from .policy import DEFAULT_RULE
from .rules import Curve, Quantity, find_rule, meet, rules
from .search import Search
from .template import Template


class Estimate(NamedTuple):
    """A continuous optimum and its uncertainty. ``float(estimate)`` is its value.

    For an array of parameters the numbers are arrays of its shape.
    """

    value: float
    low: float
    high: float
    """From the error of the rule's coefficients; equal to the value if the source gives none."""
    over_rules: tuple[float, float]
    """The smallest and the largest optimum of any rule."""
    rule: str
    kind: str
    error: str
    counted: str = ""
    """The convention of the number of parameters that was given."""

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        if getattr(self.value, "shape", ()):
            return f"{self.value} ({self.rule}, {self.kind}{self.counted and f'; {self.counted}'})"
        spread = " to ".join(format_count(v) for v in self.over_rules)
        moved = f"{format_count(self.low)} to {format_count(self.high)} within {self.error}; " if self.error else ""
        return f"{format_count(self.value)} ({moved}{spread} across rules{self.counted and f'; {self.counted}'})"


def optimal_width(
    parameters: Any = None,
    *,
    depth: float | None = None,
    rule: str = DEFAULT_RULE,
    kind: str = "parameters",
    template: Template | None = None,
    c: float | None = None,
) -> Estimate:
    """The optimal width for a number of parameters, or for a depth, before any rounding.

    Parameters
    ----------
    parameters : parameters as :func:`~depthwidth.planning.plan.plan` counts them; a number, text such as ``1T``, or an array.
    depth : the number of blocks, instead of `parameters`.
    rule : the rule whose curve to use, one of :func:`~depthwidth.planning.rules.rules`.
    kind : the parameters that are counted: ``parameters`` (all), ``non_embedding`` or ``active``.
    template : the architecture without its shape; that of GPT-3 by default.
    c : count c L d^2 instead, the N of the papers: parameters per layer and squared width, 12 if the feed-forward width is four
        times the width.

    Returns
    -------
    An :class:`Estimate`, continuous; of arrays for an array.

    Raises
    ------
    InputError
        if not exactly one of `parameters` and `depth` is given, or the rule is unknown or has no shape there.

    Examples
    --------
    >>> round(float(optimal_width("1T")), 1), round(float(optimal_width(1e12, c=12)), 1)
    (29635.5, 29657.0)
    >>> print(optimal_width(depth=24))
    585 (578 to 591 within one standard error of the fit, whose covariance is recalled, not confirmed; 460 to 2.4K across rules)
    """
    return _estimates(parameters, depth, rule, kind, template, c, given="depth", sought=1)


def optimal_depth(
    parameters: Any = None,
    *,
    width: float | None = None,
    rule: str = DEFAULT_RULE,
    kind: str = "parameters",
    template: Template | None = None,
    c: float | None = None,
) -> Estimate:
    """The optimal depth for a number of parameters, or for a width; see :func:`optimal_width`.

    Examples
    --------
    >>> round(float(optimal_depth("1T", c=12)), 3)
    94.747
    >>> round(float(optimal_depth(width=768)), 4)
    28.9151
    """
    return _estimates(parameters, width, rule, kind, template, c, given="width", sought=0)


def _estimates(
    parameters: Any, fixed: Any, rule: str, kind: str, template: Template | None, c: Any, given: str, sought: int
) -> Estimate:
    """One estimate, or for an array of parameters one of arrays."""
    numpy = sys.modules.get("numpy")  # an array of NumPy's has loaded it
    if numpy is None or not isinstance(parameters, numpy.ndarray):
        return _estimate(parameters, fixed, rule, kind, template, c, given, sought)
    if parameters.size == 0:
        raise InputError("parameters is an array without elements")
    each = [_estimate(number, fixed, rule, kind, template, c, given, sought) for number in parameters.ravel().tolist()]

    def joined(read: Callable[[Estimate], float]) -> Any:
        return numpy.array([read(one) for one in each]).reshape(parameters.shape)

    over_rules = joined(lambda one: one.over_rules[0]), joined(lambda one: one.over_rules[1])
    values = (joined(lambda one: one.value), joined(lambda one: one.low), joined(lambda one: one.high))
    first = each[0]
    counted = first.counted.partition(" ")[2]
    return Estimate(*values, over_rules, first.rule, first.kind, first.error, counted)


def _estimate(
    parameters: Any, fixed: Any, rule: str, kind: str, template: Template | None, c: Any, given: str, sought: int
) -> Estimate:
    name = ("optimal_depth", "optimal_width")[sought]
    if (parameters is None) == (fixed is None):
        raise InputError(f"{name} takes either parameters or {given}")
    check_choice(name, tuple(one for one in BUDGETS if one in ("parameters", "non_embedding", "active")), kind=kind)
    chosen = find_rule(rule)
    counted = ""
    if parameters is not None:
        exact = parse_count(parameters, "parameters")
        amount = float(exact)
        quantity, density, words = _count_shape(exact, rule, kind, template, c)
        counted = f"{format_count(amount)} {words}"
    else:
        amount, density = float(parse_count(fixed, given)), float(parse_count(12 if c is None else c, "c"))

        def quantity(depth: float, width: float) -> float:
            return depth if given == "depth" else width

    def at(curve: Curve) -> float | None:
        found = meet(curve, quantity, amount)
        return None if found is None else found[sought]

    value = at(chosen.curve(density))
    if value is None:
        raise InputError(f"{name}: {rule} has no shape of {given if parameters is None else 'parameters'} {amount:g}")
    moved = [value, *filter(None, map(at, chosen.variants(density).values()))]
    every = [v for r in rules(chosen.images).values() if r.independent and (v := at(r.curve(density))) is not None]
    return Estimate(value, min(moved), max(moved), (min(every), max(every)), rule, chosen.kind, chosen.error, counted)


def _count_shape(amount: Fraction, rule: str, kind: str, template: Template | None, c: Any) -> tuple[Quantity, float, str]:
    """The count of a shape, parameters per block and squared width, and the convention in words."""
    if c is not None:
        density = float(parse_count(c, "c"))

        def plain(depth: float, width: float) -> float:
            return density * depth * width**2

        return plain, density, "without the embedding, as c L d^2"
    search = Search(Budget(kind, amount), find_rule(rule), Template.of() if template is None else template)
    return search.quantity, search.density, BUDGETS[kind]
