"""Plug-ins: installed packages that add components, rules, schemes, families, jobs and activations.

A package names its additions as entry points, in ``pyproject.toml``:

.. code-block:: toml

    [project.entry-points."depthwidth.schemes"]
    tiny = "mypackage.schemes:tiny"

An entry point is loaded when an unknown name is requested, or when all names of its group are listed; never on
import, for ``--help``, or for a name that is known. Loading runs code of the installed package, as importing it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from .errors import InputError

GROUPS = {
    "depthwidth.components": "a component class, or a module whose import registers its torch module",
    "depthwidth.rules": "a depthwidth.planning.rules.Rule",
    "depthwidth.schemes": "a depthwidth.initialization.Scheme",
    "depthwidth.families": "a depthwidth.architecture.hf.Family",
    "depthwidth.jobs": "a verify.jobs.Job",
    "depthwidth.activations": "a depthwidth.layers.ActivationEntry",
    "depthwidth.positions": "a depthwidth.layers.PositionEntry",
}
"""The groups of entry points, and the object that each names."""


def plugins(group: str) -> Iterator[tuple[str, Any]]:
    """Name and object of every installed entry point of a group, each loaded once in a process.

    Raises
    ------
    InputError
        if a package cannot be loaded; the sentence names it.
    """
    for name in _find_entries(group):
        yield name, _load(group, name)


@cache
def _find_entries(group: str) -> tuple[str, ...]:
    from importlib.metadata import entry_points

    return tuple(dict.fromkeys(point.name for point in entry_points(group=group)))


@cache
def _load(group: str, name: str) -> Any:
    from importlib.metadata import entry_points

    point = next(iter(entry_points(group=group, name=name)))
    try:
        return point.load()
    except Exception as error:  # whatever the code of another package raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"the plug-in {name} ({group}, {point.value}) cannot be loaded: {reason}") from error
