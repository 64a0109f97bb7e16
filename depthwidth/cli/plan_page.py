"""The page of ``depthwidth plan`` for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..quantities import format_bytes, format_count
from .output import fitted_range, print_facts, print_table, say

if TYPE_CHECKING:
    from ..planning.altup_buy import AltUpBuy
    from ..planning.plan import Plan, RuleShape


def print_plan(plan: Plan, *, rules: bool = False, explain: bool = False) -> None:
    """Print a plan: the range that costs little, the suggestion, its reasons, the assumptions, and alternatives."""
    from ..planning.wording import assumptions, explanations, range_words, reasons, suggestion, sureness

    say(heading=range_words(plan))
    say(f"Suggested: {suggestion(plan)}.")
    for reason in reasons(plan):
        say(reason)
    for sentence in sureness(plan):
        say(sentence)
    say(f"Assumed: {assumptions(plan)}.", "")
    _print_table(plan)
    if rules:
        _print_rules(plan)
    if plan.mixture:
        from .mixture_page import print_mixture

        print_mixture(plan.mixture, f"{format_count(plan.tokens)} training tokens")
    free = plan.flop_optimum
    if free is not None:
        optimum = f"{free.depth:.1f} layers x {free.width:,.0f} wide, trained on {format_count(free.tokens)} tokens"
        say(f"Optimum of the Gemstones law with a free number of tokens: {optimum}")
        say("(for its own block and vocabulary; unreliable outside 1e19 to 1e21 FLOPs).", "")
    if explain:
        say(heading="Counts")
        print_facts(plan.facts())
        say(heading="Origin of the numbers")
        print_facts(explanations(plan))
    for note in plan.notes:
        say(f"Note: {note}.")


def _print_table(plan: Plan) -> None:
    """Print five to seven shapes: the suggestion, wider and deeper ones, known models."""
    rows = plan.table()

    def loss(row: dict[str, object]) -> str:
        return "0" if row["choice"] == "suggested" else f"{row['loss_at_budget']:+.2%} +- {row['loss_at_budget_stderr']:.2%}"

    def heads(row: dict[str, object]) -> str:
        shared = f"/{row['kv_heads']}" if row["kv_heads"] != row["heads"] else ""
        return f"{row['heads']}{shared} x {row['head_dim']}" if row["heads"] else "-"

    cached = any(row["kv_cache_bytes_per_token"] is not None for row in rows)
    several = plan.devices > 1
    suggested = next((row["decode_seconds"] for row in rows if row["choice"] == "suggested"), None)

    def seconds(row: dict[str, Any]) -> str:
        return f"{row['decode_seconds'] / suggested:.2f}" if row["decode_seconds"] and suggested else "-"

    def memory(row: dict[str, Any]) -> str:
        amount = row["training_memory_per_device"]
        return "-" if amount is None else format_bytes(amount)

    print_table(
        ("shape", "layers", "width", "heads", "parameters", "loss", "training FLOPs per token",
         "training memory per device" if several else "training memory", *(("cache per token",) if cached else ()),
         *(("time per token",) if suggested else ())),
        (
            (
                row["choice"], str(row["depth"]), f"{row['width']:,}", heads(row), format_count(row["parameters"], 4),
                loss(row), f"{row['training_flops_per_token']:.3g}", memory(row),
                *((format_bytes(row["kv_cache_bytes_per_token"] or 0),) if cached else ()),
                *((seconds(row),) if suggested else ()),
            )
            for row in rows
        ),
    )  # fmt: skip
    say(f"loss: predicted, against the suggestion at equal budget, +- one standard error, if {plan.rule.name} is right")
    if plan.known:
        say("(known models: the loss of their ratio of width to depth in this architecture; their other numbers are their own)")
    if suggested:
        say("time per token: estimate for generation, relative to the suggestion; a proxy, partly guessed (`depthwidth serve`)")
    say("(other data sets have 0.6 to 2.5 times the measured curvature; --rules has other rules, --explain the sources)", "")


def _print_optimum(plan: Plan) -> None:
    """Print the optimum of the plan's own rule before rounding, and the two bands around it."""
    rows = []
    own = plan.rules.get(plan.rule.name)
    if own is not None:
        rows.append((f"{plan.rule.name} optimum", f"{own.depth:.1f}", f"{own.width:,.0f}", own.kind))
    for label, band in (("  coefficient error", plan.coefficient_band), ("range across rules", plan.rule_band)):
        if band is not None:
            rows.append((label, _interval(band.depth, ".1f"), _interval(band.width, ",.0f"), band.over))
    print_table(("", "depth", "width", "basis"), rows, words=("basis",))


def _print_rules(plan: Plan) -> None:
    """Print the optimum of each rule at the budget, before rounding, and its paper."""
    from ..planning.caveats import with_error

    _print_optimum(plan)

    def penalty(rule: RuleShape) -> str:
        return "" if rule.loss_penalty is None else with_error(rule.loss_penalty, rule.loss_penalty_stderr or 0.0)

    print_table(
        ("rule", "depth", "width", "loss penalty", "kind", "fitted range"),
        (
            (r.rule, f"{r.depth:.1f}", f"{r.width:,.0f}", penalty(r), r.kind, fitted_range(r.extrapolated))
            for r in plan.rules.values()
        ),
        title="Optimum of each rule at this budget, before rounding",
        words=("kind", "fitted range"),
    )
    say(f"loss penalty: relative loss compared with the {plan.rule.name} optimum of the same size", "")
    print_facts({rule.rule: rule.source for rule in plan.rules.values()})


def print_altup(buy: AltUpBuy) -> None:
    """Print the cost of alternating updates, the dense models of that cost, and measurements for and against."""
    from ..architecture.design import ALTUP_FORMS
    from ..planning.altup_buy import QUANTITIES
    from ..planning.caveats import with_error

    dense = buy.dense
    print_table(
        ("form", "parameters", "training FLOPs per token", "training memory", "bytes of stream per token"),
        (
            (cost.form, *(f"{amount} ({over:+.2%})" for amount, over in zip(
                (format_count(cost.parameters, 4), f"{cost.flops_per_token:.4g}", format_bytes(float(cost.memory), 4)),
                cost.over(dense).values(), strict=True)), f"{cost.stream_bytes:,}")
            for cost in buy.costs
        ),
        title=f"Alternating updates of {buy.streams} streams on the recommended shape",
    )  # fmt: skip
    print_table(
        ("form", "equal in", "dense model", "depth", "width", "loss change"),
        (
            (
                r.form,
                r.equal_in,
                r.direction,
                f"{r.depth:.2f}",
                f"{r.width:,.0f}",
                f"{r.loss_change:+.3%} +- {r.loss_change_stderr:.3%}",
            )
            for r in buy.rivals
        ),
        title="Dense models of equal cost, before rounding, and their predicted loss",
        words=("equal in", "dense model"),
    )
    needs = "; ".join(
        f"{form}: "
        + ", ".join(
            f"{with_error(buy.needed_gain(form, name), buy.needed_gain_stderr(form, name), 3)} at equal {name}"
            for name in QUANTITIES
        )
        for form in ALTUP_FORMS
    )
    say(f"{buy.table_share:.1%} of the parameters that the full form adds are its wider embedding and output matrix.")
    say(f"To be worth its cost, AltUp must lower the loss by as much as these dense models do: {needs}.")
    say("(+- one standard error of the measured exponent of the loss and of the penalty, if the rule is right)", "")
    print_table(
        ("setting", "metric", "dense", "AltUp", "gain", "status"),
        (
            (e.setting, e.metric, *("" if v is None else f"{v:g}" for v in (e.baseline, e.altup)), f"{e.gain:+.3g}", e.status)
            for e in buy.evidence if e.metric in ("accuracy of predicted spans, %", "SuperGLUE") or "T5" not in e.setting
        ),
        title="Measured gains; below zero AltUp is worse",
        words=("metric", "status"),
    )  # fmt: skip
    say("No law predicts the loss with AltUp. Its authors report gains for T5; later trainings by others have mixed results.")
    say(buy.verdict())


def _interval(ends: tuple[float, float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"
