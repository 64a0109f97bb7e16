"""Writing pictures: the formats, and files that are whole or absent."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .theme import DARK, LIGHT, Theme, drawing, theme_in

FORMATS = (".png", ".pdf", ".svg", ".jpg")
RESOLUTION = 200
"""Pixels per inch of PNG and JPEG."""

_METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None}, ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
}  # fmt: skip


def check_target(path: str | Path) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises
    ------
    InputError
        if its ending is not one of the formats, or its folder is missing or not writable.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"plot: {shown(str(path))} does not end in {', '.join(FORMATS)}")
    folder = Path(path).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"plot: {shown(str(path))} cannot be written: its folder does not exist or is not writable")


def save(figure: Any, path: str | Path) -> None:
    """Write a figure in the format of the file's ending. The same figure always gives the same bytes: no date is in them.

    Raises
    ------
    InputError
        what :func:`check_target` raises, or if the file cannot be written.
    """
    from ..files import open_whole

    check_target(path)
    ending = Path(path).suffix.lower()
    try:
        with drawing(theme_in(figure)), open_whole(Path(path)) as file:
            # A picture that cannot be drawn or written leaves no file.
            figure.savefig(file, dpi=RESOLUTION, format=ending.removeprefix("."), metadata=_METADATA.get(ending))
    except OSError as error:
        raise InputError(f"plot: {shown(str(path))} cannot be written ({error.strerror})") from None


def svg_of(figure: Any) -> str:
    """A figure as the text of one ``<svg>`` element, short and without a date."""
    text = io.StringIO()
    with drawing(theme_in(figure)):
        figure.savefig(text, format="svg", metadata=_METADATA[".svg"])
    found = re.search(r"<svg.*</svg>", text.getvalue(), re.DOTALL)
    return _shorter(found[0]) if found else ""


_DRAWING = re.compile(r"\bd=\"([^\"]*)\"")
_PLACES = re.compile(r"\b(?:x|y|transform)=\"[^\"]*\"")
_DIGITS = re.compile(r"(-?\d+\.\d\d)\d+")
_STEP = re.compile(r"([A-Za-z])([^A-Za-z]*)")
_LETTER = re.compile(r' transform="translate\((\d+\.?\d*) 0\)"/>')
"""The place of a letter in its line, in hundredths of the size of the font."""
_GLYPH = re.compile(r"(id=\"|href=\"#)DejaVuSans(-[A-Z])?[a-z]*-")


def _shorter(svg: str) -> str:
    """The same drawing without comments, description and spaces, with coordinates to a hundredth of a point."""

    def place(found: re.Match[str]) -> str:
        # A transform ends in the scale of the letters, which keeps its digits.
        moved, scale, rest = found[0].partition("scale")
        return _DIGITS.sub(r"\1", moved) + scale + rest

    def path(found: re.Match[str]) -> str:
        parts, last = [], ""
        for command, numbers in _STEP.findall(_DIGITS.sub(r"\1", found[1])):
            parts.append(("" if command == last and command in "LQ" else command) + " ".join(numbers.split()))
            last = command
        return f'd="{" ".join(parts)}"'

    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = _LETTER.sub(lambda found: f' x="{float(found[1]):.0f}"/>', svg)
    svg = _DRAWING.sub(path, _PLACES.sub(place, svg))
    svg = _GLYPH.sub(lambda found: found[1] + (found[2] or "-R")[1:], svg)
    return re.sub(r"\s*\n\s*", "\n", svg)


def dark_colours(svg: str = "", within: str = "", light: Theme = LIGHT, dark: Theme = DARK) -> str:
    """Style rules that give a drawing of the light theme the colours of the dark one.

    Parameters
    ----------
    svg : the drawing, whose colours alone are then named; without it all are.
    within : a selector of elements around it, to which the rules are limited.
    light, dark : the themes.
    """
    pairs = [(light.background, dark.background), (light.text, dark.text), (light.muted, dark.muted), (light.grid, dark.grid),
             (light.accent, dark.accent), *zip(light.series, dark.series, strict=True)]  # fmt: skip
    return "".join(
        f'{within}[style*="{name}: {old}"]{{{name}:{new}!important}}'
        for old, new in pairs if not svg or old in svg for name in ("fill", "stroke")
    )  # fmt: skip


def for_both_pages(svg: str) -> str:
    """An ``<svg>`` of the light theme with a style sheet that gives it the colours of the dark one on dark pages."""
    sheet = f"<style>@media (prefers-color-scheme: dark){{{dark_colours(svg)}}}</style>"
    head = svg.index(">") + 1
    return svg[:head] + sheet + svg[head:]
