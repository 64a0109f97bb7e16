"""A request for a plan, in words: a budget, an architecture, limits of the shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from fractions import Fraction
from os import PathLike
from typing import Any, NamedTuple

from ..architecture.design import Design
from ..checks import check_choice
from ..errors import InputError, nearest, shown
from ..quantities import parse_bytes, parse_count, parse_flops
from . import policy
from .budget import BUDGETS, Budget, kind_by_unit
from .limits import Limits
from .template import Template, without_none

_LIMITS = frozenset(field.name for field in fields(Limits))
_SHAPE = frozenset(("ffn_ratio", "head_dim", "heads", "tensor_parallel", "pipeline", "multiple", "vocab_multiple"))
_CONVENTIONS = frozenset(field.name for field in fields(Budget)) - {"kind", "amount"}
_DESIGN = {field.name for field in fields(Design)} - {"depth", "width", "heads", "head_dim", "ffn", "kind"} | {"stacks"}
"""Choices of a design; its `kind` is called ``stacks``, as a budget has a kind too."""

Source = Mapping[str, Any] | str | PathLike[str]
"""A configuration: a mapping, a file, a folder, or an object of the transformers library."""


class Request(NamedTuple):
    """A budget, an architecture, limits, and the name of the architecture for people."""

    budget: Budget
    template: Template
    limits: Limits
    architecture: str
    source: Mapping[str, Any] | None = None
    """Fields of the configuration whose architecture is kept; None without one."""


def read_request(*arguments: Any) -> Request:
    """The request that the arguments of :func:`~depthwidth.planning.plan.plan` make; see :func:`_read`."""
    found = _read(*arguments)
    made = found.template  # the devices among which its heads and blocks divide are those of the training
    return found._replace(budget=replace(found.budget, tensor_parallel=made.tensor_parallel, pipeline=made.pipeline))


def _read(
    budget: Budget | str | float | None,
    kind: str,
    template: Template | None,
    preset: str | None,
    like: Any,
    options: Mapping[str, Any],
) -> Request:
    """The request that the arguments of :func:`~depthwidth.planning.plan.plan` make.

    Raises
    ------
    InputError
        if a name is unknown, a value is out of range, or two of them contradict each other.
    """
    options = without_none(options)
    _check_names(options)
    limits = Limits(**{name: options[name] for name in _LIMITS & set(options)})
    shape = {name: options[name] for name in _SHAPE & set(options)}
    amounts = {name: options[name] for name in BUDGETS if name in options}
    # A template has a context of its own, so that the option is the length to count at.
    counted = _CONVENTIONS if template is not None else _CONVENTIONS - {"context"}
    choices = {name: options[name] for name in (_DESIGN - counted) & set(options)}
    made, architecture, source = _architecture(template, preset, like, shape, _rename_choices(choices))
    if made.heads is not None and made.head_dim is not None:
        limits = _with_width(limits, made)
    limits.check(made)
    conventions = {name: options[name] for name in counted & set(options)}
    if isinstance(budget, Budget):
        if conventions or amounts:
            raise InputError(f"plan: {next(iter({**conventions, **amounts}))} belongs to the Budget that was given")
        return Request(_unless_fixed(budget, limits), made, limits, architecture, source)
    check_choice("plan", tuple(BUDGETS), kind=kind)
    if budget is not None or not (amounts or _fixes_shape(limits)):
        amounts = {kind_by_unit(budget, kind): budget, **amounts}
    if len(amounts) > 1:
        raise InputError(f"plan takes one budget, not {' and '.join(amounts)}")
    if not amounts:
        return Request(_own_budget(made, limits, conventions), made, limits, architecture, source)
    ((name, amount),) = amounts.items()
    parse = parse_bytes if name in ("memory", "weights") else parse_flops if name == "flops" else parse_count
    return Request(
        _unless_fixed(Budget(name, parse(amount, "budget"), **conventions), limits), made, limits, architecture, source
    )


def _check_names(options: Mapping[str, Any]) -> None:
    known = {*_LIMITS, *_SHAPE, *_CONVENTIONS, *_DESIGN, *BUDGETS}
    for name in options:
        if name not in known:
            raise InputError(f"plan: there is no option {shown(name)}{nearest(name, known)}")


def template_of(preset: str | None = None, like: Any = None, options: Mapping[str, Any] | None = None) -> tuple[Template, str]:
    """The architecture of a preset or of a configuration, with choices of its shape and design, and its name.

    Raises
    ------
    InputError
        if a name is unknown or both a preset and a configuration are given.
    """
    given = without_none(options or {})
    _check_names(given)
    shape = {name: given[name] for name in _SHAPE & set(given)}
    choices = {name: value for name, value in given.items() if name not in shape}
    return _architecture(None, preset, like, shape, _rename_choices(choices))[:2]


def _rename_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind" if name == "stacks" else name: value for name, value in choices.items()}


def _architecture(
    template: Template | None, preset: str | None, like: Any, shape: dict[str, Any], choices: dict[str, Any]
) -> tuple[Template, str, Mapping[str, Any] | None]:
    """The template, its name, and the fields of the configuration that it is like."""
    if "ffn_ratio" in shape:
        shape["ffn_ratio"] = parse_ratio(shape["ffn_ratio"])
    if template is not None:
        if not isinstance(template, Template):
            raise InputError(f"plan: template={shown(template)} is not a Template; make one with Template.of or Template.like")
        for name in (*shape, *choices, *(() if preset is None else ("preset",)), *(() if like is None else ("like",))):
            raise InputError(f"plan: {name} belongs to the template that was given")
        return template, "given", None
    if like is None:
        name = "gpt3" if preset is None else preset
        return Template.of(name, **shape, **choices), str(name), None
    if preset is not None:
        raise InputError("give preset or like, not both")
    from ..architecture.hf import as_fields, read_design, text_part

    fields = text_part(as_fields(like))
    return Template.like(read_design(fields), choices, **shape), str(fields.get("model_type")), fields


def _fixes_shape(limits: Limits) -> bool:
    return limits.depth is not None and limits.width is not None


def _unless_fixed(budget: Budget, limits: Limits) -> Budget:
    """The budget, unless the shape is fixed."""
    if _fixes_shape(limits):
        raise InputError("plan: a budget, a depth and a width together leave nothing to choose; leave out one of the three")
    return budget


def _with_width(limits: Limits, template: Template) -> Limits:
    """The limits with the width that a number of heads and a head dimension make."""
    heads, head_dim = template.heads or 0, template.head_dim or 0
    width = Fraction(heads * head_dim) / template.attention_ratio
    if limits.width not in (None, width) or width.denominator != 1:
        raise InputError(f"plan: heads={heads} of head_dim={head_dim} make a width of {float(width):,.6g}")
    return replace(limits, width=width.numerator)


def template_with_width(template: Template, width: int) -> Template:
    """The template with the usual head dimension that divides a width.

    Raises
    ------
    InputError
        if it holds none.
    """
    if template.heads is None and template.head_dim is None:
        for head_dim in policy.head_dims_near(template.head_dim_at(width)):
            found = replace(template, head_dim=head_dim)
            if found.holds(width):
                return found
    elif template.holds(width):
        return template
    beside = " or ".join(f"{found:,}" for found in template.nearest_widths(width))
    raise InputError(f"plan: width={width} holds no whole number of heads; {beside} does")


def _own_budget(template: Template, limits: Limits, conventions: Mapping[str, Any]) -> Budget:
    """The parameters of the one shape that the limits leave."""
    depth, width = limits.depth or 0, limits.width or 0
    return Budget("parameters", Fraction(template_with_width(template, width).at(depth, width).parameters), **conventions)


def parse_ratio(value: Any) -> Fraction:
    """A ratio such as 4, 2.6875 or ``8/3``.

    >>> parse_ratio("8/3"), parse_ratio(3.5)
    (Fraction(8, 3), Fraction(7, 2))

    Raises
    ------
    InputError
        if it is not one.
    """
    if isinstance(value, Fraction):
        return value
    above, slash, below = value.partition("/") if isinstance(value, str) else (value, "", "")
    try:
        # A decimal with many places stands for a simple ratio.
        return (parse_count(above) / (parse_count(below) if slash else 1)).limit_denominator(1000)
    except InputError:  # their exponents have at most three digits: no text takes long to read
        raise InputError(f"ffn_ratio {shown(value)} is not a ratio like 4, 2.6875 or 8/3") from None
