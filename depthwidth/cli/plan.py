"""``depthwidth plan``: the command and its page."""

from __future__ import annotations

from typing import Any, ClassVar

import click

from ..errors import InputError, shown
from .inputs import say_source
from .options import COUNT, DTYPES, NUMBER, OPTIMIZERS, NumberFirst, Sections, formats, option
from .output import emit, say
from .plots import picture_asked, plot_options

_APPLIES_TO = {
    "tokens": ("flops",),
    "tokens_per_parameter": ("flops",),
    "masked": ("flops",),
    "dtype": ("memory", "weights"),
}
"""The kinds of budget to which an option applies, if not to all."""


class _Plan(Sections, NumberFirst):
    sections: ClassVar = {
        "Budget": "--non-embedding",
        "Shape": "--rule",
        "Architecture": "--preset",
        "Counting": "--tokens",
        "Output": "--rules",
    }


@click.command(cls=_Plan)
@click.argument("budget", required=False)
@option("--non-embedding", "counts", flag_value="non_embedding", help="BUDGET excludes the embedding.")
@option("--active", "counts", flag_value="active", help="BUDGET counts active parameters (mixtures of experts).")
@option("--flops", metavar="N", help="Budget of training FLOPs, e.g. 1e22.")
@option("--memory", metavar="BYTES", help="Budget of training memory of each device, e.g. 80GB.")
@option("--weights", metavar="BYTES", help="Budget of memory for all weights, e.g. 16GB.")
@option(
    "--rule",
    metavar="NAME",
    help="Rule for the ratio of depth to width, or the FILE.csv of a fit.",
    show_default="levine2020, sovit2023 for images",
)
@option("--depth", type=COUNT, help="Fixed number of layers.")
@option("--width", type=COUNT, help="Fixed width; with --depth as well, BUDGET may be left out.")
@option("--layers-at-most", type=COUNT, metavar="N", help="Largest number of layers.")
@option("--heads", type=COUNT, help="Number of query heads; the head dimension then follows from the width.")
@option("--head-dim", type=COUNT, help="Head dimension.", show_default="128 from width 1536, 64 below, or as heads divide")
@option("--tensor-parallel", "--tp", type=COUNT, default=1, help="Number of devices that divide heads and hidden features.")
@option(
    "--pipeline", "--pipeline-parallel", "--pp", type=COUNT, default=1, help="Number of pipeline stages that divide the layers."
)
@option("--multiple", type=COUNT, help="Step of allowed widths.", show_default="128 from width 1024, finer below")
@option("--preset", metavar="NAME", help="Architecture: gpt3, llama2, llama3, mixtral or vit.", show_default="gpt3")
@option("--like", metavar="CONFIG", help="Architecture of a config.json or repository, without its shape.")
@option("--vocab", type=COUNT, help="Vocabulary size.")
@option("--vocab-multiple", type=COUNT, metavar="N", help="Round the vocabulary up to a multiple of N.")
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
@option("--kind", "stacks", metavar="NAME", help="Stacks: decoder, encoder or encoder-decoder.")
@option("--tokens", type=COUNT, help="Number of training tokens (--flops).")
@option("--tokens-per-parameter", type=NUMBER, metavar="R", help="Training tokens per parameter (--flops).", show_default="20")
@option("--batch", type=COUNT, help="Sequences per batch, for memory.", show_default="1")
@option("--dtype", metavar="NAME", help=f"Number format (--memory, --weights): {DTYPES}.", show_default="bf16")
@option("--recompute", metavar="NAME", help="Recompute activations: none, selective or full, for memory.", show_default="none")
@option("--data-parallel", "--dp", type=COUNT, help="Replicas of the model, for memory.", show_default="1")
@option("--sequence-parallel", is_flag=True, default=None, help="Also divide the tokens of norms and dropout, for memory.")
@option("--microbatches", type=COUNT, help="Micro-batches of a step, for memory.", show_default="as many as stages")
@option("--expert-parallel", "--ep", type=COUNT, help="Replicas that divide the experts, for memory.", show_default="1")
@option("--context-parallel", "--cp", type=COUNT, help="Devices that divide each sequence, for memory.", show_default="1")
@option("--zero", type=click.IntRange(0, 3), metavar="STAGE", help="Stage of ZeRO, for memory; 3 is FSDP.", show_default="0")
@option("--optimizer", metavar="NAME", help=f"Optimiser, for memory: {OPTIMIZERS}.", show_default="adamw")
@option("--gradients", metavar="DTYPE", help="Number format of gradients, for memory.", show_default="as --dtype")
@option("--masked", is_flag=True, default=None, help="Exclude attention scores hidden by the causal mask (--flops).")
@option("--rules", "with_rules", is_flag=True, help="Also print the optimum of every rule, with its paper.")
@option("--explain", is_flag=True, help="Print the origin of every number.")
@option("--save", metavar="FILE", help="Write a config.json that transformers loads, and the recipe next to it.")
@option("--scheme", metavar="NAME", help="Initialisation scheme of that recipe (--save).", show_default="shipped")
@plot_options("Draw the loss against depth, and the shapes of this budget with rules and known models.")
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
    tokens: int | None,
    tokens_per_parameter: float | None,
    batch: int | None,
    dtype: str | None,
    recompute: str | None,
    masked: bool | None,
    plot: str | None,
    theme: str | None,
    with_rules: bool,
    explain: bool,
    save: str | None,
    scheme: str | None,
    altup: int | None,
    form: str | None,
    **words: Any,
) -> None:
    """Choose depth and width for BUDGET parameters (e.g. 1T, 1.3B, 6.7e9), or for --flops, --memory or --weights.

    A unit sets the kind of BUDGET: 80GB is training memory, 1e22FLOPs are FLOPs.

    \b
    depthwidth plan 1T
    depthwidth plan 7B --preset llama3 --tensor-parallel 8 --layers-at-most 48
    depthwidth plan --flops 1e22 --tokens 500B

    Prints the range of layers that costs little, a suggested shape with the reason, and a table of alternatives with loss,
    FLOPs, memory and cache. Counts are exact for the architecture, with embedding, biases, gates and experts. Options without a
    default follow the architecture.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..planning.budget import kind_by_unit
    from ..planning.plan import plan as make_plan

    given = {"flops": flops, "memory": memory, "weights": weights}
    if budget is not None:
        by_unit = counts or kind_by_unit(budget)
        if given.get(by_unit) is not None:
            raise InputError(f"{shown(budget)} and --{by_unit} are the same budget; give one")
        given[by_unit] = budget
    asked = _requested_budget(given, words, None if budget else counts)
    kind = next(iter(asked), counts or "parameters")
    applied = {"tokens": tokens, "tokens_per_parameter": tokens_per_parameter, "dtype": dtype, "masked": masked}
    _check_options(kind, applied)
    picture = picture_asked(plot, theme)
    if scheme is not None and save is None:
        raise InputError("--scheme has no meaning without --save")
    if like is not None and preset is not None:
        raise InputError("give --preset or --like, not both")
    conventions: dict[str, Any] = {**applied, "batch": batch, "recompute": recompute}
    fields = None
    if like is not None:
        from ..architecture.hf import read_source

        fields = read_source(like)
    found = make_plan(asked.get(kind), rule=rule, kind=kind, preset=preset, like=fields, **conventions, **words)
    if picture is not None:
        picture.write("plan_figure", found)
    if save is not None:
        found.save(save, scheme or "shipped")
    buy = None
    if altup is not None:
        from ..planning.altup_buy import altup_buy

        buy = altup_buy(found, altup)

    def page() -> None:
        from .plan_page import print_altup, print_plan

        print_plan(found, rules=with_rules, explain=explain)
        say_source(fields)
        if buy is not None:
            if found.notes:
                say("")
            print_altup(buy)

    data = found.to_dict() | ({} if buy is None else {"altup": buy.to_dict()}) if form == "json" else None
    emit(form, data, found.rows() if form in ("csv", "markdown") else [], page)


def _requested_budget(given: dict[str, str | None], words: dict[str, Any], counts: str | None) -> dict[str, str]:
    """The budget by its kind; empty if a depth and a width are given. `counts` names an option that needs a budget."""
    if counts is not None:
        raise InputError(f"--{counts.replace('_', '-')} has no meaning without BUDGET")
    asked = {kind: amount for kind, amount in given.items() if amount is not None}
    if len(asked) != 1 and (asked or words["depth"] is None or words["width"] is None):
        raise InputError("plan takes one budget: BUDGET parameters, --flops, --memory or --weights")
    return asked


def _check_options(kind: str, applied: dict[str, Any]) -> None:
    """Refuse options without a meaning for a kind of budget."""
    for name, value in applied.items():
        if value is not None and kind not in _APPLIES_TO[name]:
            option = name.replace("_", "-")
            raise InputError(f"--{option} has no meaning for a budget of {kind.replace('_', ' ')}")
