"""``depthwidth compute``: the command and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..quantities import format_count, parse_count
from .inputs import say_source
from .options import COUNT, NumberFirst, formats, option
from .output import emit, loss_with_error, print_table, say
from .plots import picture_asked, plot_options

if TYPE_CHECKING:
    from ..planning.compute import ComputeOptimum


@click.command(cls=NumberFirst)
@click.argument("flops")
@option("--law", "names", multiple=True, metavar="NAME", help="Law of the loss; may be repeated.", show_default="all")
@option("--served", metavar="TOKENS", help="Tokens read and written in the model's life, charged to FLOPS.", show_default="0")
@option("--preset", metavar="NAME", help="Architecture: gpt3, llama2 or llama3.", show_default="gpt3")
@option("--like", metavar="CONFIG", help="Architecture of a config.json or repository, without its shape.")
@option("--vocab", type=COUNT, help="Vocabulary size.")
@option("--context", type=COUNT, help="Context length in tokens.")
@option("--masked", is_flag=True, help="Exclude attention scores hidden by the causal mask.")
@plot_options("Draw width, depth, parameters and tokens by each law, with errors.")
@formats
def compute(
    flops: str,
    names: tuple[str, ...],
    served: str | None,
    preset: str | None,
    like: str | None,
    masked: bool,
    plot: str | None,
    theme: str | None,
    form: str | None,
    **design: Any,
) -> None:
    """Find the width, depth and training tokens of least predicted loss for FLOPS, e.g. 1e21.

    \b
    depthwidth compute 1e21
    depthwidth compute 1e21 --served 1T --preset llama3

    FLOPS counts the operations of training, exact for the architecture; with --served also those of a forward pass of each
    served token. The table also gives the best shape at the optimum's parameters and tokens, if operations were free.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..planning.compute import LAWS, Architecture, compute_optimum, parameter_optimum
    from ..planning.template import Template, without_none

    picture = picture_asked(plot, theme)
    choices, fields = without_none(design), None
    if like is None:
        template = Template.of("gpt3" if preset is None else preset, **choices)
    elif preset is not None:
        raise InputError("give --preset or --like, not both")
    else:
        from ..architecture.hf import read_design, read_source

        fields = read_source(like)
        template = Template.like(read_design(fields), choices)
    amount = float(parse_count(flops, "flops"))
    tokens = 0.0 if served is None else float(parse_count(served, "served"))
    found = [compute_optimum(amount, law, template, served=tokens, masked=masked) for law in names or LAWS]
    free = [parameter_optimum(one.parameters, one.tokens, one.law, template) for one in found]
    made = Architecture(template)
    rows: list[dict[str, Any]] = []
    for one, (depth, width, loss) in zip(found, free, strict=True):
        error = LAWS[one.law].loss_error(made.counts(depth, width, one.tokens))
        equal = {"depth": depth, "width": width, "loss": loss, "loss_stderr": None if error is None else float(error)}
        rows.append({**one.to_dict(), "equal_parameters": equal})

    if picture is not None:
        picture.write("compute_figure", found)

    def page() -> None:
        _print(amount, tokens, found, rows)
        say_source(fields)

    emit(form, rows, rows, page)


def _print(flops: float, served: float, found: list[ComputeOptimum], rows: list[dict[str, Any]]) -> None:
    from ..planning.compute import LAWS

    life = f", {format_count(served)} tokens served included" if served else ""
    say(f"Least predicted loss for {flops:.4g} FLOPs{life}:")
    print_table(
        ("law", "layers", "width", "parameters", "tokens", "tokens / parameter", "loss", "outside its data in"),
        (
            (
                one.law, f"{one.depth:.1f}", f"{one.width:,.0f}", format_count(one.parameters), format_count(one.tokens),
                f"{one.tokens / one.parameters:.1f}", loss_with_error(one.loss, one.loss_stderr),
                ", ".join(one.extrapolated) or "nothing",
            )
            for one in found
        ),
        words=("outside its data in",),
    )  # fmt: skip
    print_table(
        ("law", "layers", "width", "parameters", "tokens"),
        ((one.law, *(_interval(one, name) for name in ("depth", "width", "parameters", "tokens"))) for one in found),
        title="One standard error either way, of the law's coefficients",
    )
    print_table(
        ("law", "layers", "width", "loss"),
        (
            (row["law"], f"{row['equal_parameters']['depth']:.1f}", f"{row['equal_parameters']['width']:,.0f}",
             loss_with_error(row["equal_parameters"]["loss"], row["equal_parameters"]["loss_stderr"]))
            for row in rows
        ),
        title="Best shape at these parameters and tokens, if operations were free",
    )  # fmt: skip
    say("loss: +- one standard error of the law's coefficients, if it is right.")
    for one in found:
        say(f"{one.law}: {LAWS[one.law].words}.")
        if one.at_edge:
            say(f"{one.law}: the optimum is at the edge of the searched shapes; this law has none for this architecture.")


def _interval(one: ComputeOptimum, name: str) -> str:
    if one.bands is None:
        return "not known"
    low, high = one.bands[name]
    return f"{low:,.1f} to {high:,.1f}" if name == "depth" else f"{format_count(low)} to {format_count(high)}"
