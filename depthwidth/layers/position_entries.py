"""The schemes of positions by name. A user's scheme is one entry more, with a component and its torch module."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import layers
from ..errors import InputError, nearest, shown
from ..plugins import plugins
from .positions import LearnedPositions, Position


class PositionSizes(NamedTuple):
    """The sizes of a model that a scheme of positions may read."""

    context: int
    width: int
    """Of the embedding for positions in the stem, otherwise of the stream"""
    heads: int
    head_dim: int
    offset: int = 0
    """Rows of a learned table in addition to `context`"""


class PositionEntry(NamedTuple):
    """A scheme of positions.

    `make` returns the component for a model of these sizes; `about` is one phrase.
    """

    name: str
    make: Callable[[PositionSizes], Position]
    about: str


_REACH = 16  # Shaw et al. 2018 find no difference from 2 on; their translation models have 16


def _learned_positions(sizes: PositionSizes) -> Position:
    return LearnedPositions(sizes.context, sizes.width, sizes.offset)


def _relative(sizes: PositionSizes) -> Position:
    return layers.RelativeBias(sizes.heads)


def _diet_rel(sizes: PositionSizes) -> Position:
    return layers.DietRel(sizes.heads, context=sizes.context)


def _shaw(sizes: PositionSizes) -> Position:
    return layers.ShawVectors(sizes.head_dim, min(_REACH, sizes.context - 1), sizes.heads)


def _diet_abs(sizes: PositionSizes) -> Position:
    return layers.DietAbs(sizes.heads, context=sizes.context, rank=sizes.head_dim)


def _tupe(sizes: PositionSizes) -> Position:
    return layers.UntiedPositions(sizes.heads, context=sizes.context, width=sizes.width, head_dim=sizes.head_dim)


POSITION_ENTRIES: dict[str, PositionEntry] = {
    entry.name: entry
    for entry in (
        PositionEntry("learned", _learned_positions, "a trained vector for each position, added to the embedding"),
        PositionEntry("input", _learned_positions, "another name of `learned`"),
        PositionEntry("sinusoidal", lambda _: layers.SinusoidalPositions(), "fixed sines and cosines, added to the embedding"),
        PositionEntry("rotary", lambda _: layers.Rotary(), "queries and keys rotated by the position"),
        PositionEntry("alibi", lambda _: layers.ALiBi(), "a fixed penalty linear in distance"),
        PositionEntry("relative", _relative, "a score bias for each bucket of distances, shared by layers"),
        PositionEntry("t5", _relative, "another name of `relative`"),
        PositionEntry("diet-rel", _diet_rel, "a score bias for each difference of positions"),
        PositionEntry("diet-abs", _diet_abs, "a score bias by a product of two tables, shared by layers"),
        PositionEntry("shaw", _shaw, "vectors of clipped differences, added to keys and values"),
        PositionEntry("tupe", _tupe, "positions with a query and a key map of their own, shared by layers"),
    )
}
"""Every scheme by name; a design may also have ``none``, or a component."""


def register_position(entry: PositionEntry) -> PositionEntry:
    """Make a scheme of positions known by its name.

    Raises
    ------
    InputError
        if the name is taken.
    """
    if entry.name in POSITION_ENTRIES or entry.name == "none":
        raise InputError(f"there are positions named {shown(entry.name)} already")
    POSITION_ENTRIES[entry.name] = entry
    return entry


def position_entry(owner: str, name: str) -> PositionEntry:
    """The scheme of this name, those of installed packages included.

    Raises
    ------
    InputError
        if there is none.
    """
    if name not in POSITION_ENTRIES:
        for found, entry in plugins("depthwidth.positions"):
            POSITION_ENTRIES.setdefault(found, entry)
    if name not in POSITION_ENTRIES:
        known = (*POSITION_ENTRIES, "none")
        raise InputError(f"{owner}: positions={shown(name)} is not one of {', '.join(known)}{nearest(str(name), known)}")
    return POSITION_ENTRIES[name]


def check_positions(owner: str, name: str) -> None:
    """Refuse a name that no scheme of positions has.

    Raises
    ------
    InputError
        if there is none.
    """
    if name != "none":
        position_entry(owner, name)
