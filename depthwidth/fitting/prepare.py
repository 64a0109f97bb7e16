"""The table of a law: the requirements of each named law on a table of runs, and the form of the law for this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from .crossings import crossings
from .laws import Law, conditional_law, find_law, head_size_law, shape_penalty_law
from .table import Runs, Table, guess, open_table, read_runs

Columns = Mapping[str, str] | None
Read = Callable[[Sequence[str], Columns, Sequence[str]], Runs]
"""Reads quantities of the table, with columns named or guessed, and further ones if the table has them."""


def prepare_law(
    law: str, runs: Any, columns: Columns, where: Sequence[str], rule: str = "levine2020", least: bool = False
) -> tuple[Law, Runs]:
    """A named law, in the form that suits the table, and the table's columns.

    Raises
    ------
    InputError
        if there is no such law, or the table lacks a column.
    """
    table = open_table(runs)
    special = {"shape-penalty": _penalty, "head-size": _head_size, "conditional": _conditional, "crossings": _crossings}

    def read(needs: Sequence[str], named: Columns = columns, optional: Sequence[str] = ("parameters",)) -> Runs:
        found = read_runs(table, needs, columns=named, where=where, optional=optional)
        return found.least("loss") if least and "loss" in found.columns else found

    if law in special:
        return special[law](table, read, dict(columns or {}), rule)
    known = find_law(law)
    return known, read(known.needs)


def _varies(runs: Runs, name: str) -> bool:
    column = runs.columns.get(name)
    return column is not None and bool(np.ptp(column) > 0.01 * np.abs(column).mean())


def _own_tokens(runs: Runs) -> tuple[bool, Runs]:
    """True if the tokens vary by more than a power of the size, so that they have a term of their own; and a note if not."""
    if not _varies(runs, "tokens"):
        return False, runs
    size, tokens = np.log(runs["non_embedding"]), np.log(runs["tokens"])
    rest = tokens - np.polyval(np.polyfit(size, tokens, 1), size) if np.ptp(size) > 0 else tokens - tokens.mean()
    if rest.std() > _OWN:
        return True, runs
    return False, replace(runs, notes=(*runs.notes, "tokens follow the size and have no term of their own"))


_OWN = 0.2
"""Standard deviation of ln(tokens) beside a power of the size from which their own term can be told from that of the size."""


def _penalty(table: Table, read: Read, given: dict[str, str], rule: str) -> tuple[Law, Runs]:
    """With a term for tokens if these vary."""
    needs = shape_penalty_law(rule, tokens=False).needs
    found = read(needs, given, ("tokens", "parameters"))
    own, found = _own_tokens(found)
    return shape_penalty_law(rule, tokens=own), found


def _head_size(table: Table, read: Read, given: dict[str, str], rule: str) -> tuple[Law, Runs]:
    """With one factor for each cell of shape and tokens; cells are the models."""
    width, heads = (given.get(name) or guess(name, table.names) for name in ("width", "heads"))
    if "head_dim" not in given and guess("head_dim", table.names) is None and width and heads:
        given["head_dim"] = f"({width}) / ({heads})"
    plain = head_size_law(())
    found = read(plain.needs, given, ("tokens", "parameters"))
    cells = ("width", "depth", *(name for name in ("tokens", "parameters") if _varies(found, name)))
    labels = np.stack([found[name] for name in cells])
    _, cell = np.unique(labels, axis=1, return_inverse=True)
    cell = cell.ravel()
    several = np.array([np.ptp(found["head_dim"][cell == c]) > 0 for c in range(cell.max() + 1)])[cell]
    if not several.any():
        raise InputError("fit: no shape was trained with two head dimensions")
    shapes = [" x ".join(f"{value:g}" for value in column[:2]) for column in labels.T]
    words = np.array([f"{shape} ({c})" for shape, c in zip(shapes, cell, strict=True)])
    models, model = np.unique(words[several], return_inverse=True)
    kept = found.only(several)
    notes = [note for note in found.notes if "tells models apart" not in note]
    if not several.all():
        notes.append(f"{np.sum(~several):,} rows of shapes with a single head dimension carry no information and are left out")
    return head_size_law(cells), replace(kept, model=model, models=tuple(map(str, models)), notes=tuple(notes))


def _conditional(table: Table, read: Read, given: dict[str, str], rule: str) -> tuple[Law, Runs]:
    """With a factor for the feed-forward share if the table has it and it varies, and a term for tokens likewise."""
    plain = conditional_law(ratio=False, tokens=False)
    found = read(plain.needs, given, ("tokens", "parameters", "ffn_ratio"))
    own, found = _own_tokens(found)
    return conditional_law(ratio=_varies(found, "ffn_ratio"), tokens=own), found


def _crossings(table: Table, read: Read, given: dict[str, str], rule: str) -> tuple[Law, Runs]:
    """Crossings as the table has them, or those of its losses."""
    known = find_law("crossings")
    if "loss" not in given and guess("loss", table.names) is None:
        return known, read(("depth", "width"), given, ())
    width, depth = (given.get(name) or guess(name, table.names) for name in ("width", "depth"))
    notes: tuple[str, ...] = ()
    if "non_embedding" not in given and guess("non_embedding", table.names) is None and width and depth:
        given["non_embedding"] = f"12 * ({depth}) * ({width})^2"
        notes = ("the size is 12 depth width^2, as no column has parameters without the embedding",)
    needs = ("width", "depth", "non_embedding", "loss")
    found = read(needs, given, ("tokens",))
    return known, crossings(replace(found, notes=(*found.notes, *notes)))
