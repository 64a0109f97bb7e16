"""Short forms of public objects: a few lines of text at a prompt, a table in a notebook.

A class describes itself once, by :meth:`overview`; :func:`with_overview` makes both forms of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from .errors import printable

SHOWN_ROWS = 8
"""Rows of an overview. A longer table shows its first and its last rows, and says how many it leaves out."""


class Overview(NamedTuple):
    """The short description of an object: a title, facts, and a table."""

    title: str
    facts: Mapping[str, str] = {}
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    words: Collection[str] = ()
    """Columns of words, which are aligned to the left as the first column is."""
    whole: str = ""
    """The expression that gives the whole table, such as ``.frame()``."""

    def _parts(self) -> tuple[Sequence[Sequence[str]], str, Sequence[Sequence[str]]]:
        """The first rows, a sentence on those left out, and the last rows."""
        if len(self.rows) <= SHOWN_ROWS:
            return self.rows, "", ()
        half = SHOWN_ROWS // 2
        left_out = len(self.rows) - 2 * half
        return (
            self.rows[:half],
            f"... {left_out} row{'s' if left_out > 1 else ''} more" + (f"; {self.whole} has all" if self.whole else ""),
            self.rows[-half:],
        )

    def text(self) -> str:
        """The overview as a few lines of text."""
        lines = [printable(self.title)]
        width = max(map(len, self.facts), default=0)
        lines += [f"  {printable(name):<{width}}  {printable(value)}" for name, value in self.facts.items()]
        if self.rows:
            first, left_out, last = self._parts()
            table = align_table(self.columns, [*first, *last], self.words)
            if left_out:
                table.insert(2 + len(first), left_out)
            lines += [f"  {line}" for line in table]
        return "\n".join(lines)

    def html(self) -> str:
        """The overview as HTML, whose text is escaped and which refers to nothing outside."""
        from html import escape

        def cell(tag: str, text: str, left: bool, more: str = "") -> str:
            return f'<{tag} style="text-align:{"left" if left else "right"}"{more}>{escape(printable(text))}</{tag}>'

        def row(cells: Sequence[str], tag: str = "td") -> str:
            sides = [i == 0 or column in self.words for i, column in enumerate(self.columns)]
            return "<tr>" + "".join(cell(tag, text, left) for text, left in zip(cells, sides, strict=True)) + "</tr>"

        parts = [f"<p><strong>{escape(printable(self.title))}</strong></p>"]
        if self.facts:
            lines = (
                f"<tr>{cell('th', name, left=True)}{cell('td', value, left=True)}</tr>" for name, value in self.facts.items()
            )
            parts.append(f"<table>{''.join(lines)}</table>")
        if self.rows:
            first, left_out, last = self._parts()
            between = f"<tr>{cell('td', left_out, True, f' colspan={len(self.columns)}')}</tr>" if left_out else ""
            body = "".join([*map(row, first), between, *map(row, last)])
            parts.append(f"<table><thead>{row(self.columns, 'th')}</thead><tbody>{body}</tbody></table>")
        return "\n".join(parts)


class HasOverview(Protocol):
    """An object with an overview."""

    def overview(self) -> Overview:
        """The short description."""


C = TypeVar("C", bound="type[HasOverview]")


def with_overview(cls: C) -> C:
    """Give a class with a method ``overview`` its ``__repr__`` and, for notebooks, ``_repr_html_``.

    Examples
    --------
    >>> @with_overview
    ... class Curve:
    ...     def overview(self):
    ...         return Overview("Curve of 2 points", {"law": "d = 4 L"}, ("depth", "width"), [("1", "4"), ("10", "40")])
    >>> Curve()
    Curve of 2 points
      law  d = 4 L
      depth  width
      -----  -----
      1          4
      10        40
    """

    def __repr__(self: Any) -> str:  # noqa: N807
        text: str = self.overview().text()
        return text

    def _repr_html_(self: Any) -> str:
        """HTML for notebooks."""
        text: str = self.overview().html()
        return text

    for method in (__repr__, _repr_html_):
        setattr(cls, method.__name__, method)
    return cls


def align_table(columns: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str] = ()) -> list[str]:
    """The lines of an aligned table: the header, a rule, and the rows.

    Parameters
    ----------
    columns : the names of the columns.
    rows : the cells.
    words : columns that are aligned to the left, as the first one is; the others are aligned to the right.
    """
    lines = [list(map(printable, row)) for row in (columns, *rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    left = [i == 0 or column in words for i, column in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            f"{cell:<{width}}" if to_left else f"{cell:>{width}}"
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [line(lines[0]), "  ".join("-" * width for width in widths), *map(line, lines[1:])]
