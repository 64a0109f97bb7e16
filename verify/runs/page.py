"""The report as one HTML page that explains itself: no script, no link, pictures inside, light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthwidth.errors import InputError, printable, shown
from depthwidth.plots.theme import DARK, LIGHT
from depthwidth.progress import announced, for_people

from ..files import write_whole
from ..jobs import OUTCOMES, SIZES, Comparison, Prediction
from .margins import flips, margin_in_words, nearest_first, number, seeds_of, verdicts_without_seeds
from .pictures import gauge, pictures
from .plans import predictions_of

if TYPE_CHECKING:
    from .report import Report

MOST_LINES = 60
"""Comparisons in a table; of more, those nearest to their limit and those not met come first."""
MOST_PREDICTIONS = 10

_CLASS = {"holds": "holds", "holds on a range": "part", "fails": "fails", "undecided": "open"}


def _colors(theme: Any) -> str:
    blue, vermilion, green, _, ochre, *_ = theme.series
    return (
        f"--ground:{theme.background};--text:{theme.text};--muted:{theme.muted};--line:{theme.grid};--holds:{green};"
        f"--fails:{vermilion};--open:{ochre};--told:{theme.accent};--blue:{blue}"
    )


_STYLE = f"""
:root {{ color-scheme: light dark; {_colors(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colors(DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  color: var(--text); background: var(--ground); overflow-wrap: break-word; }}
h1 {{ font-size: 1.15rem; font-weight: 600; color: var(--muted); margin: 0 0 1rem; }}
h2 {{ font-size: 1.55rem; line-height: 1.25; margin: 0.2rem 0 1rem; }}
h3 {{ font-size: 1.1rem; margin: 2rem 0 0.5rem; }}
article {{ border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2.5rem; }}
nav li {{ margin: 0.25rem 0; }} a {{ color: var(--blue); }}
.name, .note, figcaption, .small {{ color: var(--muted); font-size: 0.9rem; margin: 0; }}
.verdict {{ border-left: 5px solid var(--state); padding: 0.6rem 1rem; margin: 1rem 0; }}
.verdict strong, .word {{ color: var(--state); }} .verdict strong {{ font-size: 1.25rem; display: block; }}
.verdict p {{ margin: 0.3rem 0; }}
.holds {{ --state: var(--holds); }} .fails {{ --state: var(--fails); }} .part, .open {{ --state: var(--open); }}
.unjudged {{ --state: var(--muted); }}
blockquote {{ margin: 0.5rem 0; padding-left: 1rem; border-left: 3px solid var(--line); }}
figure {{ margin: 1rem 0; }} figure > svg {{ width: min(100%, 40rem); height: auto; display: block; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.9rem; width: 100%; }}
th, td {{ padding: 0.3rem 0.6rem 0.3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; color: var(--muted); }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.what {{ min-width: 10rem; }} td.code {{ min-width: 14rem; }} td.gauged {{ width: 190px; min-width: 190px; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; margin: 0.5rem 0; }}
dt {{ color: var(--muted); }} dd {{ margin: 0; min-width: 0; }}
code {{ font: 0.88em ui-monospace, monospace; overflow-wrap: anywhere; }}
.gauge {{ width: 180px; height: 22px; display: block; }}
.gauge .axis {{ stroke: var(--line); }} .gauge .zone {{ fill: var(--holds); opacity: 0.22; }}
.gauge .told {{ stroke: var(--told); stroke-width: 2; stroke-dasharray: 3 2; }}
.gauge .bar {{ stroke-width: 2; }} .gauge .in {{ stroke: var(--holds); fill: var(--holds); }}
.gauge .out {{ stroke: var(--fails); fill: var(--fails); }} .gauge .open {{ stroke: var(--open); fill: var(--open); }}
@media (max-width: 40rem) {{
  dl {{ grid-template-columns: 1fr; gap: 0; }} dd {{ margin-bottom: 0.5rem; }} h2 {{ font-size: 1.3rem; }} }}
@media print {{ body {{ max-width: none; }} article {{ break-before: page; }} }}
"""


def page(found: Sequence[Report], path: str | Path) -> None:
    """Write reports as one self-contained HTML file.

    Raises
    ------
    InputError
        if it cannot be written, or matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"html: {shown(str(path))} does not end in .html")
    text = as_page(found)
    try:
        write_whole(target, text.encode())
    except OSError as error:
        raise InputError(f"html: {shown(str(path))} cannot be written ({error.strerror})") from None


def as_page(found: Sequence[Report]) -> str:
    """The text of :func:`page`."""
    body = "\n".join(_article(number, one) for number, one in enumerate(announced("page", found)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Predicted and measured</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>depthwidth verify: predictions and measurements</h1>\n"
        f"{_contents(found)}{body}\n</body></html>\n"
    )


def _contents(found: Sequence[Report]) -> str:
    if len(found) < 2:
        return ""
    lines = "".join(
        f'<li><a href="#report-{number}">{_safe(one.plan["question"])}</a> '
        f'<span class="word {_CLASS[one.standing]}">{_safe(one.standing)}</span></li>'
        for number, one in enumerate(found)
    )
    return f"<nav><ul>{lines}</ul></nav>\n"


def _article(place: int, one: Report) -> str:
    plan = one.plan
    return (
        f'<article id="report-{place}"><p class="name">{_safe(plan["job"])}, size {_safe(plan["size"])}</p>'
        f"<h2>{_safe(plan['question'])}</h2>{_verdict(one)}{_prediction(one)}{_figures(one)}{_change(one)}{_how(one)}{_table(one)}"
        "</article>"
    )


def _verdict(one: Report) -> str:
    verdict, standing = one.verdict, one.standing
    words = [f"{_sentence(verdict.summary)}", _sentence(margin_in_words(verdict))]
    if standing != verdict.outcome:
        words.append(
            f"By the letter of the criterion: {verdict.outcome}. Here comparisons whose noise exceeds the allowed range count "
            "as undecided."
        )
    notes = "".join(f'<p class="note">Note: {_safe(_sentence(note))}</p>' for note in one.notes)
    text = "".join(f"<p>{_safe(sentence)}</p>" for sentence in words)
    meaning = OUTCOMES[standing] if standing == verdict.outcome else "The criterion is met, but not beyond the noise everywhere"
    return (
        f'<section class="verdict {_CLASS[standing]}"><strong>{_safe(standing[0].upper() + standing[1:])}</strong>'
        f'<p class="note">{_safe(_sentence(meaning))}</p>{text}{notes}</section>'
    )


def _prediction(one: Report) -> str:
    plan = one.plan
    first = min((row.date for row in one.measured if row.date), default="")
    when = f"Recorded {plan['created']}; " + (f"the first row was measured {first}" if first else "nothing is measured yet")
    parts = [
        "<h3>The prediction, made beforehand</h3>", f"<blockquote>{_safe(plan['claim'])}</blockquote>",
        f"<p>The criterion, stated with it: {_safe(plan['criterion'])}</p>",
        f"<p>Measured: {_safe(plan['measured'])}</p>", f'<p class="small">{_safe(_sentence(when))}</p>', _predicted(plan),
    ]  # fmt: skip
    return "".join(parts)


def _predicted(plan: Mapping[str, Any]) -> str:
    """The predicted numbers: each of the job as a whole, and the range of each quantity over the runs."""
    rows = [
        (f"{one.quantity} {one.site}".strip(), number(one.value), "1", one.formula, one.version) for one in predictions_of(plan)
    ]
    groups: dict[tuple[str, str], list[Prediction]] = {}
    for run in plan["runs"]:
        for one in predictions_of(run):
            groups.setdefault((one.quantity, one.formula), []).append(one)
    for (quantity, formula), its in groups.items():
        low, high = number(min(one.value for one in its)), number(max(one.value for one in its))
        versions = _joined(one.version for one in its)
        rows.append((quantity, low if low == high else f"{low} to {high}", f"{len(its):,}", formula, versions))
    if not rows:
        return '<p class="small">The prediction is the sign or the order that the claim states; no number was predicted.</p>'
    lines = [
        f'<tr><td>{_safe(what)}</td><td class="n">{_safe(value)}</td><td class="n">{count}</td>'
        f'<td class="code"><code>{_safe(formula)}</code><br><span class="small">{_safe(version)}</span></td></tr>'
        for what, value, count, formula, version in rows[:MOST_PREDICTIONS]
    ]
    more = f'<p class="small">and {len(rows) - MOST_PREDICTIONS} more</p>' if len(rows) > MOST_PREDICTIONS else ""
    head = '<tr><th>quantity</th><th class="n">predicted</th><th class="n">numbers</th><th>formula and its version</th></tr>'
    return f'<div class="wide"><table>{head}{"".join(lines)}</table></div>{more}'


def _figures(one: Report) -> str:
    found = pictures(one.plan["job"], one.measured)
    drawn = "".join(
        f"<figure><figcaption><b>{_safe(title)}</b>{' ' + _safe(caption) if caption else ''}</figcaption>{svg}</figure>"
        if svg.startswith("<svg") else f"<figure><figcaption><b>{_safe(title)}</b></figcaption><p>{_safe(svg)}</p></figure>"
        for title, caption, svg in found
    )  # fmt: skip
    gauges = [line for line in nearest_first(one.verdict) if gauge(line)][:8]
    if gauges:
        cells = [f'<td class="what">{_safe(line.what)}</td><td class="gauged">{gauge(line)}</td>' for line in gauges]
        rows = "".join(f"<tr>{both}</tr>" for both in cells)
        drawn = (
            f"<figure><figcaption><b>The comparisons nearest to their limit.</b> {_LEGEND}</figcaption>"
            f'<div class="wide"><table>{rows}</table></div></figure>{drawn}'
        )
    if not drawn:
        drawn = f"<p>{'No row has a prediction or a limit to draw' if one.measured else 'There is nothing to draw yet'}.</p>"
    return f"<h3>The picture</h3>{drawn}"


_LEGEND = (
    "Dot: measured, with two standard errors. Shaded: what meets the criterion. Dashed: predicted. "
    "Each line has a scale of its own."
)


def _change(one: Report) -> str:
    seeds = len(seeds_of(one.measured))
    sentences = [*flips(one.verdict, seeds), *verdicts_without_seeds(one.plan, one.measured, one.judged)]
    missing = len(one.plan["runs"]) - one.done
    if missing:
        sentences.insert(0, f"{missing} runs that are missing, once they are measured")
    if seeds == 1:
        sentences.append("Every run has one seed: a second one would show how much of a difference is chance")
    if not sentences:
        sentences = [f"Another result by the criterion: {one.plan['criterion']}"]
    listed = "".join(f"<li>{_safe(_sentence(one))}</li>" for one in sentences)
    return f"<h3>What would change our mind</h3><ul>{listed}</ul>"


def _how(one: Report) -> str:
    plan, rows = one.plan, one.measured
    runs: dict[str, float] = {}
    for row in rows:
        runs[row.run] = max(runs.get(row.run, 0.0), row.wall_s or 0.0)
    total = sum(runs.values())
    seeds, dates = seeds_of(rows), sorted({row.date for row in rows if row.date})
    facts = {
        "Command": f"depthwidth verify run {plan['job']} --size {plan['size']}",
        "Size": f"{plan['size']}: {SIZES.get(plan['size'], '')}",
        "Runs": f"{one.done} of {len(plan['runs'])} done" + (f", seeds {_listed(seeds)}" if seeds else ""),
        "Cost": f"{for_people(total)} in all, {for_people(total / len(runs))} a run" if total else "not recorded",
        "Device": _joined(f"{row.device}, {row.dtype}" for row in rows if row.device or row.dtype),
        "Code": _joined((f"depthwidth {plan['depthwidth']}" if plan.get("depthwidth") else "", f"digest {plan['code']}")),
        "Commit": _joined((row.commit for row in rows if row.commit), plan.get("commit", "")),
        "Libraries": _joined(f"torch {row.torch}" for row in rows if row.torch),
        "Measured": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "not yet",
    }  # fmt: skip
    listed = "".join(
        f"<dt>{_safe(name)}</dt><dd>{f'<code>{_safe(value)}</code>' if name == 'Command' else _safe(value)}</dd>"
        for name, value in facts.items() if value
    )  # fmt: skip
    return f"<h3>How it was run</h3><dl>{listed}</dl>"


def _joined(values: Iterable[str], otherwise: str = "") -> str:
    found = list(dict.fromkeys(filter(None, values))) or [otherwise]
    return "; ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds[:8])) + (f" and {len(seeds) - 8} more" if len(seeds) > 8 else "")


def _table(one: Report) -> str:
    every = one.verdict.comparisons
    if not every:
        return "<h3>All comparisons</h3><p>There is nothing to compare yet.</p>"
    first = list(every)
    if len(every) > MOST_LINES:
        near = {id(line): place for place, line in enumerate(nearest_first(one.verdict))}
        first = sorted(every, key=lambda line: near.get(id(line), len(near)))[:MOST_LINES]
    lines = "".join(map(_line, first))
    head = (
        '<tr><th>what</th><th class="n">predicted</th><th class="n">measured</th><th class="n">standard error</th>'
        "<th>criterion</th><th></th></tr>"
    )
    more = (
        f'<p class="small">{len(every) - MOST_LINES:,} comparisons farther from their limit are left out; '
        "<code>depthwidth verify report --csv</code> lists all.</p>" if len(every) > MOST_LINES else ""
    )  # fmt: skip
    return f'<h3>All comparisons</h3><div class="wide"><table>{head}{lines}</table></div>{more}'


def _line(line: Comparison) -> str:
    state, word = _state(line)
    numbers = "".join(f'<td class="n">{number(value)}</td>' for value in (line.predicted, line.measured, line.stderr))
    note = f'<br><span class="small">{_safe(line.note)}</span>' if line.note else ""
    return (
        f'<tr><td class="what">{_safe(line.what)}{note}</td>{numbers}<td><span class="word {state}">{word}</span></td>'
        f'<td class="gauged">{gauge(line)}</td></tr>'
    )


def _state(line: Comparison) -> tuple[str, str]:
    if line.is_noisy:
        return "open", "undecided: noise"
    if line.passes is None:
        return "unjudged", "not judged" if line.limit is None else "not decided"
    return ("holds", "met") if line.passes else ("fails", "not met")


def _sentence(text: str) -> str:
    text = str(text).strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _safe(text: object) -> str:
    return html.escape(printable(str(text)).replace("+-", "\N{PLUS-MINUS SIGN}"))
