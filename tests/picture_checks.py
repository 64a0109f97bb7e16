"""Faults of a picture that can be found without an eye: texts that collide or are cut, axes without data, faint colours."""

import itertools

from depthwidth.plots.labels import overlap, text_box


def texts(figure):
    """The texts that are seen, each with its box in pixels."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    hidden = {id(label) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in undrawn(axis)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            yield text.get_text(), text_box(text, renderer)


def undrawn(axis):
    """The labels of ticks that lie beyond the ends of an axis, or are left from an earlier layout."""
    low, high = sorted(axis.get_view_interval())
    present = {id(tick) for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())}
    for tick in (*axis.majorTicks, *axis.minorTicks):
        if id(tick) not in present or not low <= tick.get_loc() <= high:
            yield from (tick.label1, tick.label2)


def collisions(figure, pixels=1.0):
    """Pairs of texts that overlap by more than some pixels in both directions."""
    shrunk = [(text, (box[0] + pixels / 2, box[1] + pixels / 2, box[2] - pixels / 2, box[3] - pixels / 2))
              for text, box in texts(figure)]  # fmt: skip
    return [(one, other) for (one, a), (other, b) in itertools.combinations(shrunk, 2) if overlap(a, b)]


def cut(figure, pixels=1.0):
    """Texts that reach beyond the page."""
    page = figure.bbox
    return [text for text, box in texts(figure) if box[0] < page.x0 - pixels or box[1] < page.y0 - pixels
            or box[2] > page.x1 + pixels or box[3] > page.y1 + pixels]  # fmt: skip


def empty(figure):
    """The titles of axes in which nothing is drawn inside of the limits."""
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_label() != "<colorbar>" and not any(inside(axes))]


def inside(axes):
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    for line in axes.lines:
        if not line.get_label().startswith("_leader"):
            yield from (left <= x <= right and low <= y <= high for x, y in line.get_xydata())
    yield from (True for mesh in axes.collections if type(mesh).__name__ == "QuadMesh")


def faults(figure):
    return {"collisions": collisions(figure), "cut": cut(figure), "empty": empty(figure)}


SOUND = {"collisions": [], "cut": [], "empty": []}


def luminance(color):
    """Relative luminance of WCAG 2.1."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """Contrast ratio of WCAG 2.1, from 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
