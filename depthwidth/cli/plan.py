"""``depthwidth plan``: the command and its page."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import click

from ..errors import InputError, shown
from ..quantities import format_bytes, format_count, parse_count
from .options import COUNT, DTYPES, NUMBER, NumberFirst, Sections, formats, option
from .output import emit, fitted_range, print_facts, print_table, say

if TYPE_CHECKING:
    from ..planning.altup_buy import AltUpBuy
    from ..planning.plan import Plan, RuleShape

_APPLIES_TO = {
    "tokens": ("flops",),
    "tokens_per_parameter": ("flops",),
    "masked": ("flops",),
    "batch": ("memory",),
    "recompute": ("memory",),
    "dtype": ("memory", "weights"),
}
"""The kinds of budget to which each option applies."""


class _Plan(Sections, NumberFirst):
    sections: ClassVar = {
        "Budget": "--non-embedding",
        "Shape": "--rule",
        "Architecture": "--preset",
        "Counting": "--tokens",
        "Output": "--plot",
    }


@click.command(cls=_Plan)
@click.argument("budget", required=False)
@option("--non-embedding", "counts", flag_value="non_embedding", help="BUDGET excludes the embedding.")
@option("--active", "counts", flag_value="active", help="BUDGET counts active parameters (mixtures of experts).")
@option("--flops", metavar="N", help="Budget of training FLOPs, e.g. 1e22.")
@option("--memory", metavar="BYTES", help="Budget of training memory of the whole model, e.g. 80GB.")
@option("--weights", metavar="BYTES", help="Budget of memory for all weights, e.g. 16GB.")
@option("--rule", metavar="NAME", help="Rule for the ratio of depth to width.", show_default="levine2020, sovit2023 for images")
@option("--head-dim", type=COUNT, help="Head dimension.", show_default="128 from width 1536, 64 below, or as heads divide")
@option("--tensor-parallel", "--tp", type=COUNT, default=1, help="Number of devices among which heads divide.")
@option("--multiple", type=COUNT, help="Step of allowed widths.", show_default="128 from width 1024, finer below")
@option("--preset", metavar="NAME", help="Architecture: gpt3, llama2, llama3, mixtral or vit.", show_default="gpt3")
@option("--like", metavar="CONFIG", help="Architecture of a Hugging Face config.json, without its shape.")
@option("--vocab", type=COUNT, help="Vocabulary size.")
@option("--context", type=COUNT, help="Context length in tokens.")
@option("--kv-heads", type=COUNT, help="Number of key-value heads.")
@option("--ffn-ratio", metavar="R", help="Feed-forward width over width, e.g. 4 or 8/3.")
@option("--gated/--plain", default=None, help="Gated or plain feed-forward layers.")
@option("--tied/--untied", default=None, help="Tie the output matrix to the token embedding or not.")
@option("--bias/--no-bias", default=None, help="Linear layers with or without biases.")
@option("--norm", metavar="NAME", help="Norm: layernorm or rmsnorm.")
@option(
    "--positions",
    metavar="NAME",
    help="Positions: learned, rotary, alibi, relative, diet-rel, diet-abs, shaw, tupe, sinusoidal or none.",
)
@option("--experts", type=COUNT, help="Number of experts per feed-forward layer.")
@option("--top-k", type=COUNT, help="Experts per token.")
@option("--altup", type=COUNT, metavar="K", help="Compare alternating updates of K streams with dense models of equal cost.")
@option("--kind", metavar="NAME", help="Stacks: decoder, encoder or encoder-decoder.")
@option("--tokens", type=COUNT, help="Number of training tokens (--flops).")
@option("--tokens-per-parameter", type=NUMBER, metavar="R", help="Training tokens per parameter (--flops).", show_default="20")
@option("--batch", type=COUNT, help="Sequences per batch (--memory).", show_default="1")
@option("--dtype", metavar="NAME", help=f"Number format (--memory, --weights): {DTYPES}.", show_default="bf16")
@option("--recompute", metavar="NAME", help="Recompute activations: none, selective or full (--memory).", show_default="none")
@option("--masked", is_flag=True, default=None, help="Exclude attention scores hidden by the causal mask (--flops).")
@option("--plot", metavar="FILE", help="Plot the curve of equal budget with the rules and known models.")
@formats
def plan(
    budget: str | None,
    counts: str | None,
    flops: str | None,
    memory: str | None,
    weights: str | None,
    rule: str | None,
    preset: str | None,
    like: str | None,
    head_dim: int | None,
    ffn_ratio: str | None,
    tensor_parallel: int,
    multiple: int | None,
    tokens: int | None,
    tokens_per_parameter: float | None,
    batch: int | None,
    dtype: str | None,
    recompute: str | None,
    masked: bool | None,
    plot: str | None,
    altup: int | None,
    form: str | None,
    **design: Any,
) -> None:
    """Choose depth and width for BUDGET parameters (e.g. 1T, 1.3B, 6.7e9), or for --flops, --memory or --weights.

    \b
    depthwidth plan 1T
    depthwidth plan 7B --preset llama3 --rule gemstones2025
    depthwidth plan --flops 1e22 --tokens 500B

    Prints the recommended shape, the optimum of every published rule with the loss it predicts, and shapes of other depths for
    the same budget. Counts are exact for the architecture, with embedding, biases, gates and experts. Options without a
    default follow the architecture.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..planning.plan import plan as make_plan
    from ..planning.template import Template, without_none

    given = {"flops": flops, "memory": memory, "weights": weights, counts or "parameters": budget}
    asked = {kind: amount for kind, amount in given.items() if amount is not None}
    if len(asked) != 1:
        raise InputError("plan takes one budget: BUDGET parameters, --flops, --memory or --weights")
    ((kind, amount),) = asked.items()
    for name, value in (("tokens", tokens), ("tokens_per_parameter", tokens_per_parameter), ("batch", batch), ("dtype", dtype),
                        ("recompute", recompute), ("masked", masked)):  # fmt: skip
        if value is not None and kind not in _APPLIES_TO[name]:
            option = name.replace("_", "-")
            raise InputError(f"--{option} has no meaning for a budget of {kind.replace('_', ' ')}")
    if plot is not None:
        from .plots import check_target, plot_plan

        check_target(plot)
    options = {
        "tokens": tokens, "tokens_per_parameter": tokens_per_parameter, "batch": batch, "dtype": dtype, "recompute": recompute,
        "masked": masked,
    }  # fmt: skip
    shape: dict[str, Any] = {
        "ffn_ratio": None if ffn_ratio is None else _ratio(ffn_ratio),
        "head_dim": head_dim, "tensor_parallel": tensor_parallel, "multiple": multiple,
    }  # fmt: skip
    choices = without_none(design)
    if like is None:
        template = Template.of("gpt3" if preset is None else preset, **shape, **choices)
    elif preset is not None:
        raise InputError("give --preset or --like, not both")
    else:
        from ..architecture.hf import read_design

        template = Template.like(read_design(like), choices, **without_none(shape))
    found = make_plan(amount, rule=rule, kind=kind, template=template, **without_none(options))
    if plot is not None:
        plot_plan(found, plot)
    if altup is None:
        emit(form, found.to_dict(), found.rows(), lambda: print_plan(found))
        return
    from ..planning.altup_buy import altup_buy

    buy = altup_buy(found, altup)

    def page() -> None:
        print_plan(found)
        if found.notes:
            say("")
        _print_altup(buy)

    emit(form, found.to_dict() | {"altup": buy.to_dict()}, found.rows(), page)


def _ratio(text: str) -> Fraction:
    above, slash, below = text.partition("/")
    try:
        # A decimal with many places stands for a simple ratio.
        return (parse_count(above) / (parse_count(below) if slash else 1)).limit_denominator(1000)
    except InputError:  # their exponents have at most three digits: no text takes long to read
        raise InputError(f"ffn_ratio {shown(text)} is not a ratio like 4, 2.6875 or 8/3") from None


def print_plan(plan: Plan) -> None:
    """Print a plan: its shape, the optimum of each rule, and shapes of equal budget."""
    say(f", for {plan.budget}", "", heading=plan.headline)
    print_facts(plan.facts())
    _print_optimum(plan)
    _print_rules(plan)
    _print_choices(plan)
    free = plan.flop_optimum
    if free is not None:
        optimum = f"{free.depth:.1f} layers x {free.width:,.0f} wide, trained on {format_count(free.tokens)} tokens"
        say(f"Optimum of the Gemstones law with a free number of tokens: {optimum}")
        say("(for its own block and vocabulary; unreliable outside 1e19 to 1e21 FLOPs).", "")
    say(f"loss penalty: relative loss compared with the {plan.rule.name} optimum of the same size")
    say("(+- one standard error of the measured penalty; other data sets have 0.6 to 2.5 times its curvature)")
    say("loss change: relative loss compared with the recommended shape, difference in size included", "")
    for note in plan.notes:
        say(f"Note: {note}.")


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
    from ..planning.caveats import with_error

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


def _print_choices(plan: Plan) -> None:
    from ..planning.caveats import with_error

    print_table(
        ("choice", "depth", "width", "heads", "feed-forward", "parameters", "off budget", "loss penalty", "loss change"),
        (
            (
                row["choice"], str(row["depth"]), f"{row['width']:,}",
                f"{row['heads']} x {row['head_dim']}" if row["heads"] else "-", f"{row['ffn']:,}" if row["ffn"] else "-",
                format_count(row["parameters"], 4), f"{row['budget_miss']:+.2%}",
                with_error(row["loss_penalty"], row["loss_penalty_stderr"]), f"{row['loss_change']:+.2%}",
            )
            for row in plan.rows()
        ),
        title="Shapes of equal budget",
    )  # fmt: skip


def _print_altup(buy: AltUpBuy) -> None:
    """Print the cost of alternating updates, the dense models of that cost, and what was measured on either side."""
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
    say(f"To be the better buy AltUp must lower the loss by as much as these dense models: {needs}.")
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
    say("No law predicts the loss with AltUp. Its authors report gains for T5, later trainings by others mixed ones.")


def _interval(ends: tuple[float, float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"
