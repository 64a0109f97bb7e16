"""Printing: tables for people by default; JSON, CSV or Markdown for programs. Nothing is computed here.

Tables are plain aligned text, written here: loading and running a library for them takes 50 to 80 ms, a third of a whole
``depthwidth plan`` (measured with rich 15 and tabulate 0.10).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from ..display import align_table
from ..errors import InputError, printable
from .live import make_room

Row = Mapping[str, Any]


def say(*lines: str, heading: str = "", error: bool = False) -> None:
    """Print lines, each on one line whatever it holds; all that commands print for people passes here.

    Names of files, jobs and quantities are anyone's: a newline or an escape sequence in them is printed escaped, so that it
    neither forges a line nor reaches the terminal.

    Parameters
    ----------
    lines : the lines.
    heading : bold text at the start of the first.
    error : print to the standard error.
    """
    make_room()
    first, *others = lines or ("",)
    bold = click.style(printable(heading), bold=True) if heading else ""
    click.echo("\n".join([bold + printable(first), *map(printable, others)]), err=error)


def emit(form: str | None, data: Any, rows: Sequence[Row], human: Callable[[], None]) -> None:
    """Print `data` as JSON, `rows` as CSV or Markdown, or by default call `human`, which prints a page for people."""
    make_room()
    if form == "json":
        import json  # most pages need none

        try:
            text = json.dumps(data, indent=2, allow_nan=False)
        except ValueError:
            raise InputError("a number of the result is infinite or undefined, and JSON has none such") from None
        click.echo(text)
    elif form == "csv":
        click.echo(as_csv(rows), nl=False)
    elif form == "markdown":
        click.echo(as_markdown(rows))
    else:
        human()


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as comma-separated values with a header; nested values as JSON.

    Text that a spreadsheet would take for a formula begins with an apostrophe; what a terminal would act on is escaped.
    """
    import csv  # most pages need neither
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0]) if rows else []
    writer.writerow(map(_csv_cell, names))
    writer.writerows([_csv_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d[\d_,]*)?\.?\d*([eE][+-]?\d+)?%?|[+-]?(inf|nan)")


def _csv_cell(value: Any) -> Any:
    value = _flat(value)
    if not isinstance(value, str):
        return value
    if _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        value = f"'{value}"
    return "\n".join(map(printable, value.split("\n")))


def as_markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(map(_markdown_cell, rows[0])) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(map(_markdown_cell, row.values())) + " |" for row in rows]
    return "\n".join(lines)


def _markdown_cell(value: Any) -> str:
    return printable(str(_flat(value))).replace("|", "\\|")


def _flat(value: Any) -> Any:
    if value is None:
        return ""
    if not isinstance(value, (dict, list, tuple)):
        return value
    import json

    return json.dumps(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", words: Sequence[str] = ()) -> None:
    """Print an aligned table: the first column and those named in `words` to the left, the others to the right."""
    if title:
        say(heading=title)
    say(*align_table(columns, rows, words), "")


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, one pair per line."""
    width = max(map(len, facts))
    say(*(f"{name:<{width}}  {value}" for name, value in facts.items()), "")


def fitted_range(extrapolated: bool | None) -> str:
    """The place of a shape relative to the range that a rule was fitted on."""
    return "not stated" if extrapolated is None else "outside" if extrapolated else "inside"


def loss_with_error(loss: float, error: float | None) -> str:
    """A loss in nats with its standard error, or with the words that none is known.

    >>> loss_with_error(2.5, 0.01), loss_with_error(2.5, None)
    ('2.5000 +- 0.0100', '2.5000 +- not known')
    """
    return f"{loss:.4f} +- " + ("not known" if error is None else f"{error:.4f}")
