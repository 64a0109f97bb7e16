"""The checks: each file here defines one as ``CHECK``, and is found by listing this folder."""

from __future__ import annotations

import functools
import pkgutil
from importlib import import_module

from ..base import Check

_ADDED: list[Check] = []


def add_check(check: Check) -> Check:
    """Add a check of your own to every later :func:`~depthwidth.analysis.diagnosis.diagnose`.

    Examples
    --------
    >>> from depthwidth.analysis.diagnosis import Check, Finding, Thresholds
    >>> bound = Thresholds(100, 1000, "an example")
    >>> def depth(network):
    ...     layers = network.setting.tree.depth
    ...     yield Finding("depth", network.setting.tree.stack_name, layers, bound, f"there are {layers} blocks")
    >>> check = add_check(Check(100, depth))
    >>> check in all_checks()
    True
    >>> remove_check(check)
    """
    _ADDED.append(check)
    return check


def remove_check(check: Check) -> None:
    """Remove a check that :func:`add_check` added."""
    _ADDED.remove(check)


def all_checks() -> tuple[Check, ...]:
    """Every check, by its order: the files of this folder, and those added."""
    return tuple(sorted((*_list_checks(), *_ADDED), key=lambda check: check.order))


@functools.cache
def _list_checks() -> tuple[Check, ...]:
    modules = (import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return tuple(module.CHECK for module in modules)
