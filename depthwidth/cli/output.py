"""Printing: tables for people by default; JSON, CSV or Markdown for programs. Nothing is computed here.

Tables are plain aligned text, written here: loading and running a library for them takes 50 to 80 ms, a third of a whole
``depthwidth plan`` (measured with rich 15 and tabulate 0.10).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

Row = Mapping[str, Any]


def emit(form: str | None, data: Any, rows: Sequence[Row], human: Callable[[], None]) -> None:
    """Print `data` as JSON, `rows` as CSV or Markdown, or by default call `human`, which prints a page for people."""
    if form == "json":
        click.echo(json.dumps(data, indent=2, allow_nan=False))
    elif form == "csv":
        click.echo(as_csv(rows), nl=False)
    elif form == "markdown":
        click.echo(as_markdown(rows))
    else:
        human()


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as comma-separated values with a header; nested values as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _flat(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(str(_flat(value)).replace("|", "\\|") for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)


def _flat(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, (dict, list, tuple)) else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", words: Sequence[str] = ()) -> None:
    """Print an aligned table: the first column and those named in `words` to the left, the others to the right."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    left = [i == 0 or column in words for i, column in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            f"{cell:<{width}}" if to_left else f"{cell:>{width}}"
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        )
        return "  ".join(aligned).rstrip()

    if title:
        click.secho(title, bold=True)
    click.echo("\n".join([line(lines[0]), "  ".join("-" * width for width in widths), *map(line, lines[1:])]) + "\n")


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, one pair per line."""
    width = max(map(len, facts))
    click.echo("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()) + "\n")


def fitted_range(extrapolated: bool | None) -> str:
    """The place of a shape relative to the range that a rule was fitted on."""
    return "not stated" if extrapolated is None else "outside" if extrapolated else "inside"
