"""``depthwidth plan``: the command and its page."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, shown
from ..quantities import format_count
from .options import COUNT, DTYPES, NumberFirst, formats
from .output import emit, fitted_range, print_facts, print_table

if TYPE_CHECKING:
    from ..planning.plan import Plan

_MEANT_FOR = {
    "tokens": ("flops",),
    "tokens_per_parameter": ("flops",),
    "masked": ("flops",),
    "batch": ("memory",),
    "recompute": ("memory",),
    "dtype": ("memory", "weights"),
}
"""The kinds of budget that each convention belongs to."""


@click.command(cls=NumberFirst)
@click.argument("budget", required=False)
@click.option("--non-embedding", "counts", flag_value="non_embedding", help="BUDGET leaves out the embedding.")
@click.option("--active", "counts", flag_value="active", help="BUDGET counts what one token meets (mixtures of experts).")
@click.option("--flops", metavar="N", help="Budget of training FLOPs, as 1e22.")
@click.option("--memory", metavar="BYTES", help="Budget of training memory, as 80GB.")
@click.option("--weights", metavar="BYTES", help="Budget of bytes of weights, as 16GB.")
@click.option("--rule", metavar="NAME", help="Rule that decides between depth and width  [levine2020].")
@click.option("--preset", help="Architecture: gpt3, llama2, llama3, mixtral, vit  [gpt3].")
@click.option("--like", metavar="CONFIG", help="Architecture: all but the shape of a Hugging Face config.json.")
@click.option("--vocab", type=COUNT, help="Number of tokens.")
@click.option("--context", type=COUNT, help="Positions.")
@click.option(
    "--head-dim",
    type=COUNT,
    help="Dimensions of a head  [128 for widths from 1536, 64 below, others where heads must divide].",
)
@click.option("--kv-heads", type=COUNT, help="Key and value heads.")
@click.option("--ffn-ratio", metavar="R", help="Feed-forward width per width, as 4 or 8/3.")
@click.option("--gated/--plain", default=None, help="Gated or plain feed-forward part.")
@click.option("--tied/--untied", default=None, help="Whether the output matrix is the token embedding.")
@click.option("--bias/--no-bias", default=None, help="Whether linear maps have biases.")
@click.option("--norm", help="layernorm or rmsnorm.")
@click.option("--positions", help="learned, sinusoidal, rotary, alibi, relative or none.")
@click.option("--experts", type=COUNT, help="Experts of each feed-forward part.")
@click.option("--top-k", type=COUNT, help="Experts that a token is routed to.")
@click.option("--kind", help="decoder, encoder or encoder-decoder.")
@click.option("--tensor-parallel", "--tp", type=COUNT, default=1, help="Heads divide among N devices.")
@click.option("--multiple", type=COUNT, help="Widths are multiples of N  [64 or 128].")
@click.option("--tokens", type=COUNT, help="Training tokens, for a FLOPs budget.")
@click.option("--tokens-per-parameter", type=float, metavar="R", help="Training tokens per parameter  [20].")
@click.option("--batch", type=COUNT, help="Sequences at once, for a memory budget  [1].")
@click.option("--dtype", help=f"Number format: {DTYPES}  [bf16].")
@click.option("--recompute", help="none or full, for a memory budget  [none].")
@click.option("--masked", is_flag=True, default=None, help="Leave attention scores behind the causal mask out of FLOPs.")
@click.option("--plot", metavar="FILE", help="Draw the curve of equal budget with the rules and known models.")
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
    form: str | None,
    **design: Any,
) -> None:
    """The shape to build with BUDGET parameters (1T, 1.3B, 6.7e9), or with --flops, --memory or --weights.

    Counts are exact for the real architecture: embedding, vocabulary, biases, gates and experts included.
    """
    from ..planning.plan import plan as make_plan
    from ..planning.template import Template, without_none

    given = {"flops": flops, "memory": memory, "weights": weights, counts or "parameters": budget}
    asked = {kind: amount for kind, amount in given.items() if amount is not None}
    if len(asked) != 1:
        raise InputError("plan takes one budget: BUDGET parameters, --flops, --memory or --weights")
    ((kind, amount),) = asked.items()
    for name, value in (("tokens", tokens), ("tokens_per_parameter", tokens_per_parameter), ("batch", batch), ("dtype", dtype),
                        ("recompute", recompute), ("masked", masked)):  # fmt: skip
        if value is not None and kind not in _MEANT_FOR[name]:
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
        raise InputError("give an architecture by --preset or by --like, not both")
    else:
        from ..architecture.hf import read_design

        template = Template.like(read_design(like), choices, **without_none(shape))
    found = make_plan(amount, rule=rule, kind=kind, template=template, **without_none(options))
    if plot is not None:
        plot_plan(found, plot)
    emit(form, found.to_dict(), found.rows(), lambda: print_plan(found))


def _ratio(text: str) -> Fraction:
    try:
        return Fraction(text[:32])
    except (ValueError, ZeroDivisionError):
        raise InputError(f"ffn_ratio {shown(text)} is not a ratio like 4, 2.6875 or 8/3") from None


def print_plan(plan: Plan) -> None:
    """Print a plan: its shape, the optimum of each rule, and shapes of equal budget."""
    click.secho(plan.headline, bold=True, nl=False)
    click.echo(f", for {plan.budget}\n")
    print_facts(plan.facts())
    _print_optimum(plan)
    _print_rules(plan)
    _print_choices(plan)
    free = plan.flop_optimum
    if free is not None:
        optimum = f"{free.depth:.1f} layers x {free.width:,.0f} wide, trained on {format_count(free.tokens)} tokens"
        click.echo(f"Optimum of the Gemstones law with a free number of tokens: {optimum}")
        click.echo("(for its own block and vocabulary; unreliable outside 1e19 to 1e21 FLOPs).\n")
    click.echo(f"loss penalty: relative loss compared with the {plan.rule.name} optimum of the same size")
    click.echo("loss change: relative loss compared with the recommended shape, difference in size included\n")
    for note in plan.notes:
        click.echo(f"Note: {note}.")


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
    print_table(
        ("rule", "depth", "width", "loss penalty", "kind", "fitted range"),
        (
            (
                r.rule, f"{r.depth:.1f}", f"{r.width:,.0f}",
                "" if r.loss_penalty is None else f"{r.loss_penalty:.2%}", r.kind, fitted_range(r.extrapolated),
            )
            for r in plan.rules.values()
        ),
        title="Optimum of each rule at this budget, before rounding",
        words=("kind", "fitted range"),
    )  # fmt: skip


def _print_choices(plan: Plan) -> None:
    print_table(
        ("choice", "depth", "width", "heads", "feed-forward", "parameters", "off budget", "loss penalty", "loss change"),
        (
            (
                row["choice"], str(row["depth"]), f"{row['width']:,}", f"{row['heads']} x {row['head_dim']}",
                f"{row['ffn']:,}", format_count(row["parameters"], 4), f"{row['budget_miss']:+.2%}",
                f"{row['loss_penalty']:.2%}", f"{row['loss_change']:+.2%}",
            )
            for row in plan.rows()
        ),
        title="Shapes of equal budget",
    )  # fmt: skip


def _interval(ends: tuple[float, float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"
