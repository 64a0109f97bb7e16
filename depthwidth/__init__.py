"""Depth and width of transformers: shapes, counts and signal moments from theory.

The names below are the public interface. Importing this package is fast, because each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .lazy import load_name

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import formulas, layers
    from .analysis.description import Description, describe
    from .analysis.diagnosis import Finding, diagnose, headroom
    from .analysis.propagation import propagate
    from .analysis.published_tables import table, table_names
    from .analysis.sweeps import sweep
    from .analysis.text import Text, read_text
    from .architecture import TrainingMemory, Transformer
    from .architecture.design import SCALE_INVARIANT, Design
    from .coefficients import Coefficient, coefficient, reference
    from .errors import AccuracyWarning, InputError
    from .fitting import Fit, fit
    from .formula import Formula, find_formula
    from .hardware.parallelism import Parallelism, TrainingSetup, training_memory
    from .initialization import Recipe, recipe, schemes
    from .layers.activations import activation, gated
    from .planning.budget import Budget
    from .planning.estimates import Estimate, optimal_depth, optimal_width
    from .planning.judging import Shape
    from .planning.plan import Plan, plan
    from .planning.rules import Rule, find_rule
    from .planning.template import Template

# Public name -> the module that defines it, by topic. The imports above repeat this for type checkers.
_HOME = {
    # architectures and their counts
    "Transformer": "architecture",
    "TrainingMemory": "architecture",
    "Design": "architecture.design",
    "SCALE_INVARIANT": "architecture.design",
    "Parallelism": "hardware.parallelism",
    "TrainingSetup": "hardware.parallelism",
    "training_memory": "hardware.parallelism",
    "Description": "analysis.description",
    "describe": "analysis.description",
    # shapes for a budget
    "plan": "planning.plan",
    "optimal_width": "planning.estimates",
    "optimal_depth": "planning.estimates",
    "Budget": "planning.budget",
    "Plan": "planning.plan",
    "Shape": "planning.judging",
    "Estimate": "planning.estimates",
    "Template": "planning.template",
    "Rule": "planning.rules",
    "find_rule": "planning.rules",
    # laws fitted to training runs
    "fit": "fitting.fit",
    "Fit": "fitting.result",
    # signal and gradient at initialisation, and initialisation schemes
    "propagate": "analysis.propagation",
    "sweep": "analysis.sweeps",
    "recipe": "initialization",
    "Recipe": "initialization",
    "schemes": "initialization",
    "diagnose": "analysis.diagnosis",
    "Finding": "analysis.diagnosis",
    "headroom": "analysis.diagnosis",
    "Text": "analysis.text",
    "read_text": "analysis.text",
    # formulas and coefficients
    "Formula": "formula",
    "find_formula": "formula",
    "activation": "layers.activations",
    "gated": "layers.activations",
    "Coefficient": "coefficients",
    "coefficient": "coefficients",
    "reference": "coefficients",
    "table": "analysis.published_tables",
    "table_names": "analysis.published_tables",
    # errors in a caller's input
    "InputError": "errors",
    "AccuracyWarning": "errors",
}

__all__ = [*_HOME, "formulas", "layers"]


def __getattr__(name: str) -> Any:
    if name in ("formulas", "layers"):
        return import_module(f".{name}", __name__)
    return load_name(__name__, name, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
