"""Real transformers in torch, to check the predictions of :mod:`depthwidth`: built, initialised, measured and trained.

The names below are the public interface. Importing this package is quick: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .convert import from_hf as from_hf
    from .initialize import apply_init as apply_init
    from .initialize import parameter_groups as parameter_groups
    from .model import build as build
    from .probes import probe as probe

# Public name -> the module that defines it. The imports above say the same to type checkers. No name is also a module's.
_HOME = {
    "build": "model", "from_hf": "convert", "apply_init": "initialize", "parameter_groups": "initialize", "probe": "probes",
}  # fmt: skip

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
