"""Packages whose public names are loaded when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load_name(package: str, name: str, homes: Mapping[str, str]) -> Any:
    """The value of a public name of `package`, kept there for the next use.

    Parameters
    ----------
    package : the package's full name.
    name : the name.
    homes : for each public name the module that defines it, relative to the package. No name may equal that of a submodule,
        because importing the submodule would hide it.

    Raises
    ------
    AttributeError
        if the package has no such name.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(import_module(f".{homes[name]}", package), name)
    setattr(sys.modules[package], name, value)
    return value
