"""The atlas: a page for each topic of formulas, with closed form, arguments, source, accuracy, evidence, plot and users."""

from __future__ import annotations

import functools
import inspect
import io
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import sympy
from sympy.printing.mathml import mathml

from depthwidth.errors import InputError
from depthwidth.evidence import Evidence, all_evidence
from depthwidth.formula import KINDS, STATUSES, Formula, Parameter, formulas
from depthwidth.formulas._usage import used_formulas
from depthwidth.plots import ticks
from depthwidth.plots.saving import dark_colours
from depthwidth.plots.theme import LIGHT

LONGEST_EXPRESSION = 400
"""The largest number of operations in a closed form that the atlas prints."""
POINTS = 61
_DARK = "[data-md-color-scheme=slate] figure svg "
"""The drawings of a page that is shown in dark colours."""


def pages() -> dict[str, str]:
    """Markdown by file name: the index, and one page a topic."""
    every = formulas()
    topics: dict[str, list[Formula]] = {}
    for one in every:
        topics.setdefault(one.topic, []).append(one)
    users, measured = used_formulas(), all_evidence()
    found = {"atlas/index.md": _index(topics)}
    for topic, members in topics.items():
        lines = [f"# Formulas: {topic.replace('_', ' ')}", "", f"<style>{dark_colours(within=_DARK)}</style>", ""]
        for one in members:
            lines += _entry(one, users.get(one.name, ()), measured.get(one.name, ()))
        found[f"atlas/{topic}.md"] = "\n".join(lines)
    return found


def _index(topics: dict[str, list[Formula]]) -> str:
    lines = ["# Atlas of formulas", "", f"{sum(map(len, topics.values()))} formulas in {len(topics)} topics.", ""]
    lines += ["| kind | meaning |", "|---|---|", *(f"| {name} | {text} |" for name, text in KINDS.items()), ""]
    lines += ["| status | meaning |", "|---|---|", *(f"| {name} | {text} |" for name, text in STATUSES.items()), ""]
    lines += ["| topic | formulas |", "|---|---|"]
    for topic, members in topics.items():
        names = ", ".join(f"[{one.__name__}]({topic}.md#{_anchor(one)})" for one in members)
        lines.append(f"| [{topic.replace('_', ' ')}]({topic}.md) | {names} |")
    return "\n".join(lines)


def _anchor(one: Formula) -> str:
    return one.__name__


def _entry(one: Formula, users: Sequence[str], measured: Sequence[Evidence]) -> Iterator[str]:
    yield f"## {one.__name__} {{ #{_anchor(one)} }}"
    yield ""
    yield one.summary
    yield ""
    form = _closed_form(one)
    if form:
        yield form
        yield ""
    yield f"*{one.kind}*, {one.status}: {one.source}."
    yield ""
    yield "| argument | letter | domain | unit | typical | meaning |"
    yield "|---|---|---|---|---|---|"
    for p in one.parameters.values():
        low, high = p.domain.typical
        cells = (f"`{p.name}`", p.letter, f"`{p.domain}`", p.domain.unit, f"{low:g} to {high:g}", p.meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    yield ""
    if one.validity:
        yield f"Valid for: {one.validity}."
        yield ""
    if one.claim:
        yield f"Accuracy: {one.claim}."
        yield ""
    for item in measured:
        yield f"Measured: {item}."
        yield ""
    drawn = plot(one)
    if drawn:
        yield drawn
        yield ""
    if users:
        yield f"Used by {', '.join(f'`{name}`' for name in users)}."
        yield ""


def _closed_form(one: Formula) -> str:
    """The equation as MathML, which browsers draw without a script, over its LaTeX to copy."""
    try:
        if not one.closed or sympy.count_ops(one.expr) > LONGEST_EXPRESSION:
            return ""
        equation = sympy.Eq(sympy.Symbol(one.symbol), one.expr, evaluate=False)
        drawn = mathml(equation, printer="presentation")
    except (InputError, TypeError, ValueError, AttributeError, NotImplementedError, RecursionError):
        return ""
    body = f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">{drawn}</math>'
    return f"<div>{body}</div>\n\n<details><summary>LaTeX</summary><pre>{escape(one.latex())}</pre></details>"


def plot(one: Formula) -> str:
    """The formula over the typical range of its first argument, the others in the middle of theirs, as inline SVG."""
    chosen = next((p for p in one.parameters.values() if p.domain.typical[0] < p.domain.typical[1]), None)
    if chosen is None:
        return ""
    xs = _range(chosen)
    fixed = {p.name: _middle(p) for p in one.parameters.values() if p is not chosen and not _has_default(p)}
    ys = []
    for x in xs:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = float(one(**{chosen.name: x, **fixed}))
        except (InputError, TypeError, ValueError, ArithmeticError):
            value = float("nan")
        ys.append(value)
    finite = np.isfinite(ys)
    if finite.sum() < 2:
        return ""
    at = ", ".join(f"{name} = {value:g}" for name, value in fixed.items())
    return _svg(
        np.asarray(xs)[finite], np.asarray(ys)[finite], f"{chosen.letter}", one.symbol, at, logarithmic=_is_logarithmic(chosen)
    )


def _has_default(p: Parameter) -> bool:
    return p.default is not inspect.Parameter.empty


def _is_logarithmic(p: Parameter) -> bool:
    low, high = p.domain.typical
    return low > 0 and high / low >= 30


def _range(p: Parameter) -> list[float]:
    low, high = p.domain.typical
    xs = np.geomspace(low, high, POINTS) if _is_logarithmic(p) else np.linspace(low, high, POINTS)
    return sorted({float(round(x)) for x in xs}) if p.domain.integer else [float(x) for x in xs]


def _middle(p: Parameter) -> float:
    low, high = p.domain.typical
    middle = float(np.sqrt(low * high)) if _is_logarithmic(p) else (low + high) / 2
    return float(round(middle)) if p.domain.integer else float(f"{middle:.3g}")


@functools.cache
def _axes() -> Any:
    """One pair of axes for all plots: to make new ones would take five times as long."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update(LIGHT.rc() | {"svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(4.2, 2.2))
    figure.subplots_adjust(0.18, 0.2, 0.97, 0.97)
    return axes


def _svg(xs: Any, ys: Any, name: str, symbol: str, at: str, *, logarithmic: bool) -> str:
    axes = _axes()
    axes.clear()
    axes.plot(xs, ys, color=LIGHT.series[0], linestyle="-", marker="")
    if logarithmic:
        axes.set_xscale("log")
    if (ys > 0).all() and ys.max() / ys.min() >= 100:
        axes.set_yscale("log")
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    ticks.set_ticks(axes.xaxis, most=5)
    ticks.set_ticks(axes.yaxis, most=4)
    axes.set_xlabel(name)
    axes.set_ylabel(symbol)
    text = io.StringIO()
    axes.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace("\n", " ")
    note = f"<figcaption>{escape(at)}</figcaption>" if at else ""
    return f"<figure>{drawn}{note}</figure>"
