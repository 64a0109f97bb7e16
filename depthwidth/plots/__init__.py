"""Pictures of plans, moments, heads, evidence and laws, drawn with matplotlib (the ``plots`` extra).

Each function whose name ends in ``_figure`` returns a ``matplotlib.figure.Figure``, and takes ``theme="light"`` or ``"dark"``;
:func:`~depthwidth.plots.saving.save` writes it as PNG, SVG, PDF or JPEG. Without matplotlib they raise
:class:`~depthwidth.errors.InputError`. Importing this package loads neither matplotlib nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..lazy import load_name

if TYPE_CHECKING:
    from .collapse import collapse_figure
    from .compute import compute_figure
    from .evidence import evidence_figure
    from .fit import fit_figure
    from .heads import heads_figure
    from .moments import moments_figure
    from .pareto import pareto_figure
    from .plan import plan_figure
    from .rules import rules_figure
    from .saving import check_target, save
    from .theme import DARK, LIGHT, Theme

_HOME = {
    "plan_figure": "plan",
    "rules_figure": "rules",
    "moments_figure": "moments",
    "heads_figure": "heads",
    "collapse_figure": "collapse",
    "compute_figure": "compute",
    "pareto_figure": "pareto",
    "evidence_figure": "evidence",
    "fit_figure": "fit",
    "save": "saving",
    "check_target": "saving",
    "Theme": "theme",
    "LIGHT": "theme",
    "DARK": "theme",
}

__all__ = [
    "DARK", "LIGHT", "Theme", "check_target", "collapse_figure", "compute_figure", "evidence_figure", "fit_figure",
    "heads_figure", "moments_figure", "pareto_figure", "plan_figure", "rules_figure", "save",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    return load_name(__name__, name, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
