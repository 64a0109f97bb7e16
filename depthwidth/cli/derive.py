"""``depthwidth derive``."""

from __future__ import annotations

import click

from .options import formats
from .output import Row, emit, say


@click.command()
@click.argument("name", required=False)
@formats
def derive(name: str | None, form: str | None) -> None:
    """Derive the closed form NAME from its definition, step by step; without NAME, list the formulas that can be derived."""
    from ..formulas._derivation import derivable
    from ..formulas._derivation import derive as derivation_of

    if name is None:
        rows: list[Row] = [{"formula": known} for known in derivable()]
        emit(form, rows, rows, lambda: say(*derivable()))
        return
    found = derivation_of(name)
    data = found.to_dict()
    emit(form, data, data["steps"], lambda: say(*str(found).splitlines()))
