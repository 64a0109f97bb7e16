"""Softmax attention whose output is gated."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site
from .attention import Attention
from .attention_degrees import joined_degree
from .base import Child, Run, component
from .linear import Linear


@component
class GatedAttention(Attention):
    """``out(heads * sigmoid(gate(x)))``: each feature of the joined heads has a gate (Qiu et al. 2025, arXiv 2505.06708)."""

    @property
    def gate(self) -> Linear:
        """The map whose sigmoid gates the joined heads."""
        return Linear(self.width, self.heads * self.value_dim, self.bias)

    @property
    def row_groups(self) -> int:
        """Groups of heads by which transformers stores the query map and the gate together."""
        return self.heads

    def children(self) -> tuple[Child, ...]:
        *inner, out = super().children()
        return (*inner, Child("gate", self.gate, kind="gate"), out)

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"attention_gate": True}

    def degree(self, x: Powers, at: Place) -> Powers:
        at.apply("gelu", at.at("gate").through(self.gate, x), reason="sigmoid of the gate")
        return at.at("out").through(self.out, joined_degree(self, x, at))

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(f"{site.role}: the moments of GatedAttention are not derived")

    def own_saved(self, run: Run) -> int:
        # In addition to those of attention: the gate's sigmoid, and the heads before it.
        return super().own_saved(run) + 2 * run.positions * self.heads * self.value_dim * run.value_bytes
