"""``depthwidth rules``."""

from __future__ import annotations

from typing import Any

import click

from .options import formats
from .output import emit, print_table, say
from .plots import picture_asked, plot_options


@click.command()
@plot_options("Draw the best width against size for every rule for text, with the bands of the combined rule.")
@formats
def rules(plot: str | None, theme: str | None, form: str | None) -> None:
    """List the rules for the ratio of depth to width, with the range of their data and the paper of each.

    `depthwidth plan BUDGET --rules` prints the optimum of each rule at a budget, `depthwidth plan BUDGET --rule NAME` uses one
    of them.
    """
    picture = picture_asked(plot, theme)
    if picture is not None:
        picture.write("rules_figure")
    rows = _rows()
    emit(form, rows, rows, lambda: _print(rows))


def _rows() -> list[dict[str, Any]]:
    from ..planning.rules import default_rule, find_rule, rule_names

    defaults = {default_rule(images=images).name for images in (False, True)}
    found = [find_rule(name) for name in rule_names()]
    return [
        {
            "rule": rule.name,
            "kind": rule.kind,
            "default": rule.name in defaults,
            "for": "images" if rule.images else "text",
            "fitted_on": {name: [low, high] for name, low, high in rule.fitted_on} or None,
            "error": rule.error or None,
            "optimum": not rule.comparison,
            "pooled": rule.pooled,
            "source": rule.source,
        }
        for rule in found
    ]


def _print(rows: list[dict[str, Any]]) -> None:
    def fitted(row: dict[str, Any]) -> str:
        ranges = (f"{name} {low:g} to {high:g}" for name, (low, high) in (row["fitted_on"] or {}).items())
        return ", ".join(ranges) or "not stated"

    print_table(
        ("rule", "for", "kind", "fitted on", "source"),
        ((row["rule"], row["for"], row["kind"], fitted(row), row["source"]) for row in rows),
        words=("for", "kind", "fitted on", "source"),
    )
    for row in rows:
        if row["default"]:
            say(f"Default for {row['for']}: {row['rule']}.")
        if not row["optimum"]:
            say(f"{row['rule']} describes published models, not an optimum; it is left out of ranges across rules.")
        if row["pooled"]:
            say(f"{row['rule']} combines the sources of other rules; it is left out of ranges across rules.")
