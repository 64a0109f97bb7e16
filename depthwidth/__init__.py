"""How deep, how wide: transformer shapes, counts and signal moments from theory.

The names below are the public interface. Importing this package is quick: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import formulas, layers
    from .activations import activation, gated
    from .architecture import TrainingMemory, Transformer
    from .budget import Budget
    from .coefficients import Coefficient, coefficient, reference
    from .description import Description, describe
    from .design import Design
    from .diagnosis import Finding, diagnose, headroom
    from .errors import InputError
    from .formula import Formula, find_formula
    from .initialization import Recipe, recipe, schemes
    from .planning import Estimate, Plan, optimal_depth, optimal_width, plan
    from .propagation import propagate
    from .published_tables import table, table_names
    from .rules import Rule, find_rule
    from .search import Shape
    from .sweeps import sweep
    from .template import Template
    from .text import Text, read_text

# Public name -> the module that defines it, by topic. The imports above say the same to type checkers.
_HOME = {
    # an architecture, and what it counts
    "Transformer": "architecture", "TrainingMemory": "architecture", "Design": "design",
    "Description": "description", "describe": "description",
    # a shape for a budget
    "plan": "planning", "optimal_width": "planning", "optimal_depth": "planning",
    "Budget": "budget", "Plan": "planning", "Shape": "search", "Estimate": "planning", "Template": "template",
    "Rule": "rules", "find_rule": "rules",
    # what happens in it at initialisation, and how to initialise it
    "propagate": "propagation", "sweep": "sweeps",
    "recipe": "initialization", "Recipe": "initialization", "schemes": "initialization",
    "diagnose": "diagnosis", "Finding": "diagnosis", "headroom": "diagnosis",
    "Text": "text", "read_text": "text",
    # formulas and the numbers in them
    "Formula": "formula", "find_formula": "formula", "activation": "activations", "gated": "activations",
    "Coefficient": "coefficients", "coefficient": "coefficients", "reference": "coefficients",
    "table": "published_tables", "table_names": "published_tables",
    # the mistakes a caller can make
    "InputError": "errors",
}  # fmt: skip

__all__ = [*_HOME, "formulas", "layers"]


def __getattr__(name: str) -> Any:
    if name in ("formulas", "layers"):
        return import_module(f".{name}", __name__)
    # No public name is also a module's, or importing that module would hide the name.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
