"""The Hugging Face families, one or a few related ones to a file.

Every :class:`~depthwidth.architecture.hf.family.Family` at the top level of a file in this folder is found by itself.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from ..family import Family


def _listed() -> dict[str, Family]:
    files = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = [import_module(f"{__name__}.{file}") for file in files]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Family)]
    return {family.model_type: family for family in found}


FAMILIES: dict[str, Family] = _listed()
"""Every family by its ``model_type``."""
