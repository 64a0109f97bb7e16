"""Values of a recipe that the caller gives, over those of a scheme."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, nearest, shown
from .recipes import PerBlock, Recipe, ResidualScale
from .tensors import depths_of

TENSOR_VALUES = ("std", "mean", "multiplier", "learning_rate", "weight_decay")
"""The values of a tensor, the one that a plain number means first."""
RESIDUAL_VALUES = ("branch", "skip")
"""The values of a residual branch, the one that a plain number means first."""
_SIGNED = ("mean", "multiplier", "skip", "branch")
OWN = "as given"
"""The reason of a line that the caller gives."""


def with_own_values(
    made: Recipe, tree: Transformer, tensors: Mapping[str, Any] | None, residuals: Mapping[str, Any] | None
) -> Recipe:
    """The recipe with the caller's values in place of the scheme's; of several patterns that fit, the last one decides.

    Parameters
    ----------
    made : of `tree`.
    tensors : by role, or by a pattern of roles such as ``*.query.weight``, a standard deviation, or a mapping with some of
        :data:`TENSOR_VALUES`. A value is one number, or one for each block; a mean is one number.
    residuals : likewise by the role of a residual branch, a factor on the branch, or a mapping with ``skip`` and ``branch``.

    Raises
    ------
    InputError
        if a pattern fits no role, or a value is none that a tensor can have.
    """
    depths = depths_of(tree)
    lines = {line.role: line for line in made.tensors}
    for role, values in _values_by_role("tensors", tensors, list(lines), TENSOR_VALUES, depths):
        law = None if {"std", "mean"} & set(values) else lines[role].law
        lines[role] = lines[role]._replace(**values, law=law, reason=OWN)
    places = [f"{name}.block.{branch}" for name, stack in tree.stacks.items() for branch in stack.branches]
    scales = {line.role: line for line in made.residuals}
    for role, values in _values_by_role("residuals", residuals, places, RESIDUAL_VALUES, depths):
        scales[role] = scales.get(role, ResidualScale(role, 1.0, 1.0, ""))._replace(**values, reason=OWN)
    return replace(made, tensors=tuple(lines.values()), residuals=tuple(scales.values()))


def _values_by_role(
    name: str, given: Mapping[str, Any] | None, roles: Sequence[str], known: Sequence[str], depths: Mapping[str, int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each role with the checked values of each pattern that fits it."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"recipe: {name}={shown(given)} is not a mapping from roles to values")
    for pattern, value in (given or {}).items():
        found = [role for role in roles if fnmatchcase(role, str(pattern))]
        if not found:
            raise InputError(f"recipe: {name}: {shown(pattern)} fits no role{nearest(str(pattern), roles)}")
        table = value if isinstance(value, Mapping) else {known[0]: value}
        for one in table:
            if one not in known:
                raise InputError(f"recipe: {name}: there is no value {shown(one)}; known are {', '.join(known)}")
        for role in found:
            depth = depths.get(role.partition(".")[0], 0) if ".block." in role else 0
            yield role, {one: _check_value(f"{role}: {one}", table[one], 0 if one == "mean" else depth, one) for one in table}


def _check_value(what: str, value: Any, depth: int, name: str) -> PerBlock:
    """A number, or one for each of `depth` blocks; none below zero unless it may have a sign."""
    several = isinstance(value, (list, tuple))
    if several and len(value) != depth:
        room = f"for {depth} blocks" if depth else "where there is room for one"
        raise InputError(f"recipe: {what} has {len(value)} values {room}")
    for one in value if several else [value]:
        number = not isinstance(one, bool) and isinstance(one, (int, float)) and math.isfinite(one)
        if not number or (one < 0 and name not in _SIGNED):
            raise InputError(f"recipe: {what}={shown(one)} is not a finite number{'' if name in _SIGNED else ' from 0'}")
    if not several:
        return float(value)
    return tuple(float(one) for one in value) if len(set(value)) > 1 else float(value[0])
