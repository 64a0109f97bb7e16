"""The table of dense models equivalent to a mixture of experts, for several commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .output import print_table, say

if TYPE_CHECKING:
    from ..planning.mixtures import MixtureVerdict


def print_mixture(verdicts: tuple[MixtureVerdict, ...], trained_on: str) -> None:
    """Print one row per law, and the factor between the laws."""
    from ..planning.mixtures import spread

    print_table(
        ("law", "worth", "outside its data in"),
        ((v.law, "-" if v.worth is None else f"{v.worth:.2f}", ", ".join(v.outside) or "nothing") for v in verdicts),
        title=f"Dense model of equal loss, in active parameters of the mixture ({trained_on})",
        words=("outside its data in",),
    )
    ends = spread(verdicts)
    if ends is not None:
        apart = f"{ends[1] / ends[0]:.1f}"
        say(f"The laws disagree by a factor of {apart}; ling2025 compares training FLOPs, the others parameters.", "")
