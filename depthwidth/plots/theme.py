"""The look of every picture: colours for light and dark pages, and one colour, dash and marker for each rule and scheme.

Hues are those of Okabe and Ito, which the common kinds of colour blindness tell apart. A style also has a dash and a marker of
its own, so that lines can be distinguished without colour.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from ..errors import InputError, shown
from ..values import frozen

F = TypeVar("F", bound=Callable[..., Any])

MISSING = "plot: matplotlib is not installed; pip install 'depthwidth[plots]'"
"""The sentence without the extra."""

WIDTH = 5.6
"""Width of every picture in inches: at 400 pixels its text of 10 points is still 10 pixels high."""


@frozen
class Theme:
    """Colours of a page."""

    name: str
    background: str
    text: str
    muted: str
    """Of what stands back: leaders, known models, notes."""
    grid: str
    accent: str
    """Of what the picture is about."""
    series: tuple[str, ...]
    """Blue, vermilion, green, purple, ochre, sky, grey, in this order in every theme."""

    def rc(self) -> dict[str, Any]:
        """Settings of matplotlib."""
        from matplotlib.rcsetup import cycler

        return {
            "figure.facecolor": self.background, "axes.facecolor": self.background, "savefig.facecolor": self.background,
            "text.color": self.text, "axes.labelcolor": self.text, "axes.edgecolor": self.muted,
            "xtick.color": self.muted, "ytick.color": self.muted, "xtick.labelcolor": self.text, "ytick.labelcolor": self.text,
            "axes.titlecolor": self.text, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold",
            "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 8.5, "font.size": 9.5,
            "font.family": "DejaVu Sans", "figure.titlesize": 11, "figure.titleweight": "bold",
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
            "grid.color": self.grid, "grid.linewidth": 0.6, "lines.linewidth": 1.6, "lines.markersize": 5,
            "legend.frameon": False, "axes.formatter.useoffset": False, "axes.formatter.limits": (-4, 6),
            "axes.unicode_minus": True, "errorbar.capsize": 2,
            "axes.prop_cycle": cycler(color=self.series) + cycler(linestyle=_DASHES) + cycler(marker=_MARKERS),
            "svg.hashsalt": "depthwidth", "svg.fonttype": "path", "pdf.fonttype": 42,
        }  # fmt: skip


_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.3)),
    (0, (5, 1.4, 1.2, 1.4)),
    (0, (9, 2)),
    (0, (3, 1.2)),
    (0, (2, 2.4)),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LIGHT = Theme(
    "light", "#ffffff", "#1c1e21", "#6a6f76", "#e3e5e8", "#b3123f",
    ("#0072b2", "#c9510c", "#00805c", "#a4478b", "#a87700", "#3a9bd6", "#5c6066"),
)  # fmt: skip
DARK = Theme(
    "dark", "#16181d", "#e8eaed", "#9aa0a8", "#2e323a", "#ff6b8f",
    ("#5ab0ee", "#ff8f52", "#3ccb9c", "#e39bcb", "#e3b53c", "#a9dcff", "#b9bec5"),
)  # fmt: skip
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}


def theme_of(theme: str | Theme) -> Theme:
    """A theme by its name.

    Raises
    ------
    InputError
        if there is none of that name.
    """
    found = theme if isinstance(theme, Theme) else THEMES.get(theme)
    if found is None:
        raise InputError(f"plot: the theme {shown(theme)} is not one of {', '.join(THEMES)}")
    return found


class Style(NamedTuple):
    """The line of one rule, scheme or law."""

    color: str
    dash: Any
    """As ``linestyle`` of matplotlib."""
    marker: str

    def line(self) -> dict[str, Any]:
        """Arguments of ``plot`` for a line without markers."""
        return {"color": self.color, "linestyle": self.dash, "marker": ""}

    def point(self) -> dict[str, Any]:
        """Arguments of ``plot`` for markers without a line."""
        return {"color": self.color, "linestyle": "", "marker": self.marker}


_PLACES = {
    # rules
    "levine2020": (0, 0, 0), "gemstones2025": (1, 1, 1), "liu2026": (2, 2, 2), "measured2025": (3, 3, 3),
    "completep2025": (4, 4, 4), "nanochat": (5, 5, 5), "marin": (6, 6, 6), "gpt3": (1, 2, 5), "sovit2023": (2, 3, 0),
    "combined2026": (0, 4, 3),
    # laws that are not rules
    "hoffmann2022": (3, 1, 5),
    # schemes
    "shipped": (0, 0, 0), "gpt2": (2, 2, 2), "xavier": (1, 1, 3), "kaiming": (5, 3, 4), "normal": (6, 1, 1),
    "deepnorm": (4, 5, 6), "deepscale": (3, 3, 5), "completep": (0, 4, 4), "mup": (1, 5, 1), "depth-mup": (2, 4, 6),
    "rezero": (4, 2, 0), "skipinit": (6, 3, 1), "t-fixup": (5, 4, 5), "admin": (2, 6, 0), "ds-init": (3, 1, 2),
    "layernorm-scaling": (1, 3, 3), "unit-scaling": (0, 2, 5),
}  # fmt: skip
"""Of each name the numbers of its colour, dash and marker: the same in every picture, today and tomorrow."""


def style_of(name: str, theme: Theme) -> Style:
    """The style of a rule, scheme or law. A name that is not known here, as of a plugin, always gets the same one, too.

    >>> style_of("levine2020", LIGHT).color == style_of("levine2020", LIGHT).color != style_of("gemstones2025", LIGHT).color
    True
    """
    code = zlib.crc32(name.encode("utf-8", "replace"))
    color, dash, marker = _PLACES.get(name) or (code % 7, code // 7 % 7, code // 49 % 7)
    return Style(theme.series[color], _DASHES[dash], _MARKERS[marker])


def nth_style(index: int, theme: Theme) -> Style:
    """The style of the line of this number, of lines without names of their own."""
    turn = index // 7
    return Style(theme.series[index % 7], _DASHES[(index + turn) % 7], _MARKERS[(index + 2 * turn) % 7])


def ramp(theme: Theme) -> Any:
    """A map from amounts to colours that stand out from the page, from little to much, in grey as well."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    low, high = (0.3, 1.0) if theme is DARK else (0.0, 0.85)
    return ListedColormap([mpl.colormaps["cividis"](low + (high - low) * i / 255) for i in range(256)])


@contextmanager
def drawing(theme: str | Theme = "light") -> Iterator[Theme]:
    """Context with the settings of a theme, for drawing and writing.

    Raises
    ------
    InputError
        if there is no such theme, or matplotlib is not installed.
    """
    found = theme_of(theme)
    try:
        import matplotlib as mpl
    except ImportError:
        raise InputError(MISSING) from None
    with mpl.rc_context(found.rc()):
        yield found


def picture(draw: F) -> F:
    """Let a function that draws take ``theme`` by its name, and draw with the settings of that theme."""

    @functools.wraps(draw)
    def themed(*given: Any, theme: str | Theme = "light", **options: Any) -> Any:
        with drawing(theme) as found:
            return draw(*given, theme=found, **options)

    made: Any = themed
    return made  # type: ignore[no-any-return]


def new_figure(height: float, theme: Theme = LIGHT, title: str = "") -> Any:
    """An empty figure of a height in inches with a title, which remembers its theme; to be called within :func:`drawing`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(WIDTH, height), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    figure.depthwidth_theme = theme
    if title:
        figure.suptitle(title, x=0.015, ha="left")
    return figure


def theme_in(figure: Any) -> Theme:
    """The theme of a figure; that of light pages if it was not begun here."""
    found: Theme = getattr(figure, "depthwidth_theme", LIGHT)
    return found
