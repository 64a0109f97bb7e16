"""Results as HTML: numbers are formatted here, with the words of ``depthwidth plan``; nothing is computed."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ..errors import printable
from ..planning.wording import assumptions, heads_words, loss_range, loss_words, range_words, reasons, suggestion, sureness
from ..quantities import format_bytes, format_count
from .charts import Dot, growth_chart, rules_chart
from .controls import Control, Settings, groups
from .state import Answer, Stability

_TEMPLATES = Path(__file__).parent / "templates"


@functools.lru_cache(maxsize=1)
def _environment() -> Environment:
    found = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters["printable"] = printable
    return found


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def whole_page(settings: Settings, found: Answer, steady: Stability | None) -> str:
    """The page with its controls and results; `steady` is None if the page's script asks for it."""
    return _render(
        "page.html",
        groups=groups(),
        settings=settings,
        position=_position,
        errors=sentences(found),
        hints=hints(found),
        headline=headline(found),
        results=results(found),
        evidence=evidence(found),
        depth=None if steady is None else depth(steady),
    )


def headline(found: Answer) -> Markup:
    """The first lines: the recommended shape, and the range of depths that costs little."""
    plan = found.plan
    if plan is None:
        return Markup(_render("headline.html", errors=sentences(found)))  # noqa: S704  (rendered with escapes)
    shape, rest = plan.headline, suggestion(plan).removeprefix(plan.headline).lstrip(", ")
    return Markup(_render("headline.html", errors={}, shape=_signs(shape), rest=rest, band=_signs(range_words(plan))))  # noqa: S704


def results(found: Answer) -> Markup:
    """Shape, range, costs and alternatives; empty if a setting is refused."""
    plan = found.plan
    if plan is None:
        return Markup("")
    roles = {True: "comparison", False: "rule"}
    dots = [
        Dot(
            one.rule,
            one.depth,
            f"{one.depth:.1f} × {one.width:,.0f}",
            "own" if one.rule == plan.rule.name else roles[one.comparison],
        )
        for one in plan.rules.values()
    ]
    dots.sort(key=lambda dot: (dot.role != "own", dot.depth))
    chart = rules_chart(dots, [one.depth for one in plan.ranges], plan.shape.depth)
    return Markup(  # noqa: S704
        _render(
            "results.html",
            answer=found,
            plan=plan,
            chart=Markup(chart),  # noqa: S704  (its texts are escaped)
            bands=_bands(found),
            why=[*reasons(plan), *sureness(plan)],
            assumed=assumptions(plan),
            costs=_cost_facts(found),
            table=_table(found),
        )
    )


def evidence(found: Answer) -> Markup:
    """The source of the rule, its cost on public runs, and notes; empty if a setting is refused."""
    plan = found.plan
    if plan is None:
        return Markup("")
    own = plan.rules.get(plan.rule.name)
    return Markup(_render("evidence.html", answer=found, plan=plan, evidence=_evidence(found), own=own))  # noqa: S704


def depth(steady: Stability) -> Markup:
    """The stability at depth."""
    chart = growth_chart(steady.forward, steady.gradient) if steady.forward else ""
    room = [one for one in steady.findings if one.severity == "fine" and one.name.startswith(("overflow_", "underflow_"))]
    listed = [one for one in steady.findings if one not in room]
    least = min((one.value for one in room), default=0.0)
    return Markup(  # noqa: S704
        _render("depth.html", steady=steady, chart=Markup(chart), listed=listed, room=len(room), least=least, number=_number)  # noqa: S704
    )


def sentences(found: Answer) -> dict[str, str]:
    """The sentence on each setting that is refused, fit to be shown."""
    return {name: printable(sentence) for name, sentence in found.errors.items()}


def hints(found: Answer) -> dict[str, str]:
    """For empty fields, the value that counts instead; a fixed hint is in the control."""
    plan = found.plan
    if plan is None:
        return {}
    tree, mixed = plan.tree, plan.tree.experts
    images = tree.stem.images
    return {
        "vocab": "none: images" if images else f"{tree.vocab:,} (preset)",
        "context": "patches of the image" if images else f"{tree.context:,} (preset)",
        "experts": f"{mixed.experts} (preset)" if mixed else "none",
        "top_k": f"{mixed.top_k}" if mixed else "none",
    }


def values(found: Answer) -> dict[str, int]:
    """For empty fields, the number used instead, which is the position of their slider."""
    if found.plan is None or found.plan.tree.stem.images:
        return {}
    tree, mixed = found.plan.tree, found.plan.tree.experts
    own = {"experts": mixed.experts, "top_k": mixed.top_k} if mixed else {}
    return {"vocab": tree.vocab, "context": tree.context, **own}


def _position(control: Control, text: str) -> int:
    """The place of a slider in a browser without scripts, where it is hidden: that of its value if there is one."""
    return control.steps.index(text) if text in control.steps else 0


def _bands(found: Answer) -> list[tuple[str, str, str, str]]:
    """Intervals around the suggestion: name, depths, widths, and the varied quantity."""
    plan, rows = found.plan, []
    if plan is None:
        return []
    for one in plan.ranges:
        low, high = math.ceil(one.depth[0]), math.floor(one.depth[1])
        if low <= high:
            error = f"± {max(one.stderr):.2%}, if {plan.rule.name} is right"
            rows.append((f"less than {one.loss * 100:g}% lost", f"{low} to {high}", "", error))
    for label, band in (("range across rules", plan.rule_band), ("coefficient error", plan.coefficient_band)):
        if band is not None:
            rows.append((label, _between(band.depth, ".1f"), _between(band.width, ",.0f"), band.over))
    for best in plan.best_depths:
        words = f"loses {loss_range(*best.loss)}"
        rows.append((f"{best.level:.0%} of all sources", _between(best.depth, ".1f"), _between(best.width, ",.0f"), words))
    return rows


def _between(ends: tuple[float, float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"


def _cost_facts(found: Answer) -> list[tuple[str, str]]:
    plan, costs = found.plan, found.costs
    if plan is None or costs is None:
        return []
    shape, tree, memory = plan.shape, plan.tree, costs.training_memory_per_device
    facts = [("total parameters", f"{shape.parameters:,}"), ("non-embedding", f"{shape.non_embedding_parameters:,}")]
    if tree.experts is not None:
        facts.append(("active", f"{shape.active_parameters:,}"))
    facts += [
        ("training tokens", format_count(plan.tokens)),
        ("training FLOPs per token", f"{costs.training_flops_per_token:.3g}"),
        ("training FLOPs", f"{costs.training_flops_per_token * plan.tokens:.3g}"),
        ("devices", f"{plan.devices:,}"),
        ("training memory per device", "not divisible so" if memory is None else format_bytes(memory)),
    ]  # fmt: skip
    if costs.kv_cache_bytes_per_token is not None:
        facts.append(("cache per token", format_bytes(costs.kv_cache_bytes_per_token)))
    if costs.decode_seconds is not None:
        facts.append(("time per token on an H100", f"{costs.decode_seconds * 1e3:.3g} ms"))
    return facts


def _table(found: Answer) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the alternatives to the suggestion."""
    columns = ["shape", "layers", "width", "heads", "parameters", "loss", "memory per device", "cache per token"]
    rows = []
    for row in found.plan.table() if found.plan is not None else ():
        memory, cache = row["training_memory_per_device"], row["kv_cache_bytes_per_token"]
        rows.append([
            row["choice"], str(row["depth"]), f"{row['width']:,}", _signs(heads_words(row)),
            format_count(row["parameters"], 4), _signs(loss_words(row)),
            "-" if memory is None else format_bytes(memory), "-" if cache is None else format_bytes(cache),
        ])  # fmt: skip
    return columns, rows


def _evidence(found: Answer) -> list[tuple[str, ...]]:
    """Data set, measured size, cost at that size and mean cost."""
    rows: list[tuple[str, ...]] = []
    for one in found.evidence:
        tokens = "" if one.nearest.tokens is None else f", {format_count(one.nearest.tokens)} tokens"
        rows.append((
            one.data, f"{format_count(one.nearest.parameters or 0)}{tokens}",
            *(f"{_percent(score.cost)} ± {_percent(score.stderr)}" for score in (one.nearest, one.mean)),
        ))  # fmt: skip
    return rows


def _signs(text: str) -> str:
    """The text of a terminal with the signs of print."""
    return text.replace(" x ", " × ").replace("+-", "±")


def _percent(share: float) -> str:
    return f"{share:.3%}"


def _number(value: float) -> str:
    return f"{value:.4g}"
