"""The options for pictures: a file and a theme, checked before anything is computed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ..errors import InputError
from .options import option

F = TypeVar("F", bound=Callable[..., Any])


class Picture(NamedTuple):
    """A requested picture."""

    path: str
    theme: str

    def write(self, name: str, *given: Any, **options: Any) -> None:
        """Draw one of the pictures of :mod:`depthwidth.plots` by its name and write it."""
        from .. import plots

        plots.save(getattr(plots, name)(*given, theme=self.theme, **options), self.path)


def plot_options(text: str) -> Callable[[F], F]:
    """The options ``--plot``, with `text` as its help, and ``--theme``."""

    def add(function: F) -> F:
        command = option("--theme", metavar="NAME", help="Colours of the picture: light or dark.", show_default="light")(
            function
        )
        return option("--plot", metavar="FILE", help=f"{text} FILE ends in .png, .svg, .pdf or .jpg.")(command)

    return add


def picture_asked(plot: str | None, theme: str | None) -> Picture | None:
    """The picture that the options ask for; None if they ask for none.

    Raises
    ------
    InputError
        if the file cannot be written, there is no such theme, a theme is given without a file, or matplotlib is not installed.
    """
    if plot is None:
        if theme is not None:
            raise InputError("--theme has no meaning without --plot")
        return None
    from ..plots.saving import check_target
    from ..plots.theme import LIGHT, MISSING, theme_of

    check_target(plot)
    found = LIGHT if theme is None else theme_of(theme)
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError(MISSING)
    return Picture(plot, found.name)
