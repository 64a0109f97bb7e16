"""What the commands print for people, a page each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from ..quantities import format_count
from .output import Row, print_facts, print_table

if TYPE_CHECKING:
    from ..analysis.description import Description
    from ..evidence import Evidence
    from ..formula import Formula
    from ..initialization import Recipe
    from ..planning.head_allocation import Allocation
    from ..planning.plan import Plan


def print_plan(plan: Plan) -> None:
    """A plan: its shape, what each rule wants, and the shapes along the curve of equal budget."""
    click.secho(plan.headline, bold=True, nl=False)
    click.echo(f" for a budget of {plan.budget}\n")
    print_facts(plan.facts())
    _print_wants(plan)
    _print_rules(plan)
    _print_choices(plan)
    free = plan.flop_optimum
    if free is not None:
        shape_wanted = f"{free.depth:.1f} layers, {free.width:,.0f} wide, on {format_count(free.tokens)} tokens"
        click.echo(f"With the tokens free, the Gemstones law wants {shape_wanted}")
        click.echo("(its own block and vocabulary; not to be trusted outside 1e19 to 1e21 FLOPs).\n")
    click.echo(f"*  relative loss against the best shape of {plan.rule.name} at the same size")
    click.echo("** relative loss against the recommended shape, difference in size included")
    for note in plan.notes:
        click.echo(f"Note: {note}.")


def _print_wants(plan: Plan) -> None:
    """What the plan's own rule wants before rounding, and the two bands about it."""
    rows = []
    own = plan.rules.get(plan.rule.name)
    if own is not None:
        rows.append((f"{plan.rule.name} wants", f"{own.depth:.1f}", f"{own.width:,.0f}", own.kind))
    for label, band in (("by its coefficients", plan.coefficient_band), ("over the rules", plan.rule_band)):
        if band is not None:
            rows.append((label, _interval(band.depth, ".1f"), _interval(band.width, ",.0f"), band.over))
    print_table(("", "depth", "width", "meaning"), rows, words=("meaning",))


def _print_rules(plan: Plan) -> None:
    print_table(
        ("rule", "depth", "width", "penalty*", "kind", "fitted range"),
        (
            (
                r.rule, f"{r.depth:.1f}", f"{r.width:,.0f}",
                "" if r.loss_penalty is None else f"{r.loss_penalty:.2%}", r.kind, _where(r.extrapolated),
            )
            for r in plan.rules.values()
        ),
        title="What each rule wants at this budget, before rounding",
        words=("kind", "fitted range"),
    )  # fmt: skip


def _print_choices(plan: Plan) -> None:
    print_table(
        ("choice", "depth", "width", "heads", "ffn", "parameters", "budget", "penalty*", "loss**"),
        (
            (
                row["choice"], str(row["depth"]), f"{row['width']:,}", f"{row['heads']} x {row['head_dim']}",
                f"{row['ffn']:,}", format_count(row["parameters"], 4), f"{row['budget_miss']:+.2%}",
                f"{row['loss_penalty']:.2%}", f"{row['loss_change']:+.2%}",
            )
            for row in plan.rows()
        ),
        title="Shapes along the curve of equal budget",
    )  # fmt: skip


def _where(extrapolated: bool | None) -> str:
    """Where a shape lies in a rule's fitted range."""
    return "not stated" if extrapolated is None else "outside" if extrapolated else "inside"


def _interval(ends: tuple[float, float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"


def print_description(found: Description) -> None:
    """A description: the shape, its counts and costs, the rules' verdicts, the components, and what moments say of training."""
    shape, counts, costs = found.shape(), found.parameters(), found.costs
    lengths = f"{costs['counted_context']} tokens" + (
        f" after {costs['counted_source']}" if costs["counted_source"] is not None else ""
    )
    print_facts({name.replace("_", " "): f"{value}" for name, value in shape.items() if value is not None})
    print_facts({name.replace("_", " "): f"{value:,}" for name, value in counts.items()})
    click.echo(f"\nAt {lengths}, batch {costs['counted_batch']}, {costs['dtype']}, "
                  f"scores behind the mask {'left out' if costs['masked'] else 'counted'}:")  # fmt: skip
    print_facts(found.cost_facts())
    _print_verdicts(found)
    _print_components(found)
    _print_diagnosis(found)
    for finding in found.findings():
        click.echo(f"Note: {finding}")


def _print_verdicts(found: Description) -> None:
    print_table(
        ("rule", "best depth", "best width", "width is", "loss penalty", "kind", "fitted range"),
        (
            (
                v.rule, f"{v.best_depth:.1f}", f"{v.best_width:,.0f}", f"{v.width_ratio:.2f} x", f"{v.loss_penalty:.2%}",
                v.kind, _where(v.extrapolated),
            )
            for v in found.verdicts
        ),
        title="The shape, by rules at the same number of parameters without the embedding (those that a token meets)",
        words=("kind", "fitted range"),
    )  # fmt: skip


def _print_components(found: Description) -> None:
    print_table(
        ("component", "kind", "copies", "parameters", "active", "forward FLOPs"),
        (
            (
                row["site"], row["component"], str(row["copies"]), f"{row['parameters']:,}",
                f"{row['active_parameters']:,}", f"{float(row['forward_flops']):.4g}",
            )
            for row in found.rows()
        ),
        title="Components",
        words=("kind",),
    )  # fmt: skip


def _print_diagnosis(found: Description) -> None:
    """Each kind of finding in a line, and those that stand out in a sentence."""
    if found.diagnosis:
        judged = found.diagnosed_dtype
        if judged != found.dtype:
            judged = f"{judged} beside weights of {found.dtype}"
        print_table(
            ("finding", "value", "threshold", "verdict", "where"),
            (
                (
                    f.name.replace("_", " "), f"{f.value:.4g}", f"{'<' if f.rule.at_most else '>'} {f.threshold:.3g}",
                    f.severity, f.site,
                )
                for f in found.diagnosis
            ),
            title=f"Signal and gradient at initialisation, {found.diagnosed_context:,} tokens, {judged} (headroom in bits)",
            words=("verdict", "where"),
        )  # fmt: skip
    for f in found.diagnosis:
        if f.severity != "fine":
            click.echo(f.advice)
    if found.undiagnosed:
        click.echo(f"Note: {found.undiagnosed}")


def print_formula(found: Formula, card: dict[str, Any], measured: tuple[Evidence, ...]) -> None:
    """A formula with its arguments and documentation, and how far measurements are from it."""
    from ..formula import KINDS, STATUSES

    click.secho(found.name, bold=True, nl=False)
    click.echo(f"  {found.summary}\n")
    facts = {
        "formula": card["latex"] or "no closed form: an integral, or a root that is searched for",
        "kind": f"{found.kind}: {KINDS[found.kind]}",
        "source": found.source,
        "status": f"{found.status}: {STATUSES[found.status]}",
    }
    if found.order is not None:
        facts["remainder"] = f"relative to the value, falls as one over the size to the power {found.order:g}"
    print_facts(facts | ({"claimed for": found.validity} if found.validity else {}))
    print_table(
        ("argument", "symbol", "domain", "unit", "default"),
        (
            (a["name"], a["symbol"], a["domain"], a["unit"], "" if a["default"] is None else f"{a['default']:g}")
            for a in card["arguments"]
        ),
        words=("symbol", "domain", "unit"),
    )
    click.echo(_notes(found.__doc__ or "") + "\n")
    _print_evidence(measured)


def _print_evidence(measured: tuple[Evidence, ...]) -> None:
    """What measurements say of a formula: errors in per cent, each with the standard error of its measurement."""
    if not measured:
        click.echo("Evidence: none; no measurement of ours bears on this formula by itself.")
        return
    print_table(
        ("measured", "settings", "median error", "worst error", "worst at", "date", "device", "file"),
        (
            (
                item.what, f"{item.settings:,}", _error(item.median_error, item.median_stderr),
                _error(item.worst_error, item.worst_stderr, "+"), item.worst_at, item.date, item.device,
                f"data/measured/{item.file}",
            )
            for item in measured
        ),
        title="Evidence: error of the formula against what was measured; noise is one standard error of that",
        words=("worst at", "date", "device", "file"),
    )  # fmt: skip


def _error(error: float | None, noise: float | None, sign: str = "") -> str:
    if error is None or noise is None:
        return "undecided"
    figures = ".3g" if abs(error) >= 1 else ".2g"
    return f"{100 * error:{sign}{figures}} % (noise {100 * noise:.2g})"


def _notes(documentation: str) -> str:
    """What it returns and its notes: what stands before them is printed already."""
    from inspect import cleandoc

    heading, rest = "Returns\n-------\n", cleandoc(documentation)
    return "Returns: " + rest.partition(heading)[2].partition("Examples\n")[0].strip()


def print_attention(rows: list[Row]) -> None:
    """Every softmax, one line each."""
    print_table(
        ("site", "logit variance", "entropy", "effective tokens", "gradient saturation", "phase", "would condense at"),
        (
            (
                row["site"],
                *(f"{row[name]:.4g}" for name in ("logit_variance", "entropy", "effective_tokens", "gradient_saturation")),
                row["phase"],
                f"{row['condensed_context']:.3g} tokens or fewer" if (row["condensed_context"] or 0) >= 2 else "no context",
            )
            for row in rows
        ),
        title="Attention at initialisation",
    )


def print_moments(rows: list[Row]) -> None:
    """The residual stream at a dozen depths, forward and backward."""
    for stack in dict.fromkeys(row["site"].partition(".")[0] for row in rows if row["layer"] is not None):
        stream = {(row["layer"], row["direction"]): row for row in rows if row["site"] == f"{stack}.block.{row['layer']}"}
        layers = sorted({layer for layer, _ in stream})
        print_table(
            ("behind block", "variance", "correlation", "gradient variance", "gradient correlation"),
            (
                (
                    str(layer),
                    *(f"{stream[layer, d][q]:.5g}" for d in ("forward", "gradient") for q in ("variance", "correlation")),
                )
                for layer in sorted({layers[round(i * (len(layers) - 1) / 11)] for i in range(12)})
            ),
            title=f"The residual stream of the {stack}",
        )
    widest = max(row["log_variance"] for row in rows)
    if widest > _WIDE:
        typical, factor = math.exp(-widest / 2), math.exp(math.sqrt(widest))
        click.echo(f"Note: gradients differ between draws of the weights. A typical one is {typical:.2g} of the mean, and")
        click.echo(f"one draw in three is more than {factor:.2g} times as large or as small.")


_WIDE = 0.1
"""A variance of the logarithm from which a mean says little: draws differ by a third either way."""


def print_recipe(made: Recipe) -> None:
    """One line for each kind of tensor and branch; where blocks differ, the first and the last."""

    def ends(value: Any) -> str:
        return f"{value[0]:.4g} .. {value[-1]:.4g}" if isinstance(value, tuple) else f"{value:.4g}"

    click.secho(made.scheme, bold=True, nl=False)
    click.echo(f"  {made.source} ({made.status})\n")
    print_table(
        ("tensor", "std", "mean", "multiplier", "learning rate", "weight decay", "reason"),
        (
            (t.role, *(ends(v) for v in (t.std, t.mean, t.multiplier, t.learning_rate, t.weight_decay)), t.reason)
            for t in made.tensors
        ),
        words=("reason",),
    )
    if made.residuals:
        print_table(
            ("branch", "skip factor", "branch factor", "reason"),
            ((r.role, ends(r.skip), ends(r.branch), r.reason) for r in made.residuals),
            words=("reason",),
        )
    for note in (*made.extras.get("notes", ()), *made.extras.get("remarks", ())):
        click.echo(f"Note: {note}")


def print_heads(found: Allocation, report: Any) -> None:
    """An allocation of heads, equal layers in one line, and before it what was measured of each head, if anything was."""
    if report is not None:
        _print_measured_heads(report)
    _print_layers(found)
    total = found.parameters + found.parameters_saved
    saved = f" ({found.parameters_saved / total:.1%})"
    click.echo(f"{format_count(found.parameters)} attention parameters, {format_count(found.parameters_saved)}{saved} fewer.")
    for note in found.notes:
        click.echo(f"Note: {note}.")


def _print_measured_heads(report: Any) -> None:
    print_table(
        ("layer", "head", "kind", "logit std", "tokens attended", "entropy", "largest weight", "by position", "rank 99 %"),
        (
            (
                str(r["layer"]), str(r["head"]), r["kind"], f"{r['logit_std']:.3f}", f"{r['effective_tokens']:.1f}",
                f"{r['entropy']:.3f}", f"{r['largest_weight']:.3f}", f"{r['positional_share']:.1%}", str(r["rank_99"]),
            )
            for r in report.rows()
        ),
        title=f"Measured on {report.tokens:,} tokens of {report.source}, {report.context} at a time",
        words=("kind",),
    )  # fmt: skip


def _print_layers(found: Allocation) -> None:
    print_table(
        ("layers", "heads", "query, key dims", "value dims", "error", "of it values", "parameters saved", "FLOPs saved",
         "criterion; values"),
        (
            (
                f"{first.layer}" if first is last else f"{first.layer} to {last.layer}",
                f"{last.heads}" + (f" ({last.kv_heads} kv)" if last.kv_heads != last.heads else ""), str(last.head_dim),
                str(last.value_dim), f"{last.error:.2%}", f"{last.value_error:.2%}", format_count(last.parameters_saved),
                format_count(last.flops_saved), f"{last.criterion}; {last.value_criterion}",
            )
            for first, last in found.runs()
        ),
        title=f"Heads at {found.context:,} tokens; savings are a layer's, FLOPs per token forward",
        words=("criterion; values",),
    )  # fmt: skip
