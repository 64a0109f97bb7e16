"""``depthwidth table``."""

from __future__ import annotations

import click

from .options import formats
from .output import Row, emit, print_table


@click.command()
@click.argument("name", required=False)
@formats
def table(name: str | None, form: str | None) -> None:
    """Print the published table NAME with the values of our formulas; without NAME, list the tables."""
    from ..analysis.published_tables import table as rows_of
    from ..analysis.published_tables import table_names

    rows: list[Row] = list(rows_of(name)) if name is not None else [{"table": known} for known in table_names()]
    emit(
        form,
        rows,
        rows,
        lambda: print_table(
            tuple(rows[0]), ([f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)
        ),
    )
