"""``depthwidth pareto``: the command and its page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from ..quantities import format_bytes, format_count, parse_count
from .options import COUNT, DTYPES, NUMBER, NumberFirst, formats, option
from .output import emit, loss_with_error, print_table, say
from .plots import picture_asked, plot_options

if TYPE_CHECKING:
    from ..planning.compute import LossLaw


@click.command(cls=NumberFirst)
@click.argument("parameters")
@option("--tokens", metavar="N", help="Training tokens of each shape.", show_default="20 per parameter of the largest")
@option("--law", metavar="NAME", default="hoffmann2022", help="Law of the loss: gemstones2025, hoffmann2022 or liu2026.")
@option(
    "--smallest", type=NUMBER, default=0.25, metavar="R", help="Parameters of the smallest shape, as a share of PARAMETERS."
)
@option("--accelerator", metavar="NAME", default="H100", help="Accelerator for generation; `depthwidth serve` lists them.")
@option("--tensor-parallel", "--tp", type=COUNT, default=1, help="Devices that divide heads and hidden features.")
@option("--context", type=COUNT, help="Tokens of each sequence.", show_default="the architecture's")
@option("--batch", type=COUNT, default=1, help="Sequences generated at once.")
@option("--dtype", metavar="NAME", default="bf16", help=f"Number format: {DTYPES}.")
@option("--preset", metavar="NAME", default="gpt3", help="Architecture: gpt3, llama2 or llama3.")
@option("--vocab", type=COUNT, help="Vocabulary size.")
@plot_options("Draw loss over latency, with memory.")
@option("--rows", type=COUNT, default=12, help="Rows of the table.")
@formats
def pareto(
    parameters: str,
    tokens: str | None,
    law: str,
    smallest: float,
    accelerator: str,
    tensor_parallel: int,
    context: int | None,
    batch: int,
    dtype: str,
    preset: str,
    vocab: int | None,
    rows: int,
    plot: str | None,
    theme: str | None,
    form: str | None,
) -> None:
    """List shapes of at most PARAMETERS, e.g. 7B, that no other beats in loss, latency and memory.

    Every depth and allowed width is scored: predicted loss for equal training tokens, estimated time of a generation step,
    memory of weights and cache. The printed rows are spread evenly in the logarithm of the time; --json has the whole front.
    """
    from ..hardware.accelerators import accelerator as accelerator_of
    from ..hardware.latency import GUESSES
    from ..hardware.parallelism import Parallelism, TrainingSetup
    from ..planning.candidates import Scorer, thin_evenly, unbeaten
    from ..planning.template import Template, without_none

    picture = picture_asked(plot, theme)
    largest = float(parse_count(parameters, "parameters"))
    template = Template.of(preset, **without_none({"vocab": vocab, "tensor_parallel": tensor_parallel}))
    scorer = Scorer(
        template, accelerator_of(accelerator), 20 * largest if tokens is None else float(parse_count(tokens, "tokens")), law,
        Parallelism(tensor=tensor_parallel), context=context, batch=batch, setup=TrainingSetup(dtype=dtype),
    )  # fmt: skip
    every = scorer.candidates(largest, smallest)
    front = every.at(unbeaten(every.loss, every.decode_seconds, every.serving_memory))
    chosen = thin_evenly(front, rows)
    printed = chosen.rows()  # the front holds the least loss of all

    changed = {
        (row["depth"], row["width"]): {
            "loss_stderr": _number_or_none(own), "loss_change": float(change), "loss_change_stderr": _number_or_none(error),
        }
        for row, own, change, error in zip(
            front.rows(), scorer.loss_errors(front), *scorer.loss_changes(front), strict=True
        )
    }  # fmt: skip

    def with_changes(found: list[dict[str, float]]) -> list[dict[str, Any]]:
        return [{**row, **changed[row["depth"], row["width"]]} for row in found]

    if picture is not None:
        errors = [row["loss_change_stderr"] for row in with_changes(printed)]
        picture.write("pareto_figure", front, chosen, errors, law=law)
    data: dict[str, Any] = {
        "candidates": len(every.depth), "tokens": scorer.tokens, "guesses": GUESSES, "front": with_changes(front.rows()),
    }  # fmt: skip
    title = (f"{len(front.depth):,} of {len(every.depth):,} shapes are unbeaten in loss, latency and memory "
             f"({law}, {format_count(scorer.tokens)} training tokens, {accelerator}):")  # fmt: skip
    emit(form, data, with_changes(printed), lambda: _print(title, with_changes(printed), scorer.law))


def _print(title: str, rows: list[dict[str, Any]], law: LossLaw) -> None:
    from ..planning.caveats import with_error

    say(title)
    known = any(row["loss_stderr"] is not None for row in rows)

    def change(row: dict[str, Any]) -> str:
        error = row["loss_change_stderr"]
        return f"{row['loss_change']:.2%}" if error is None or not row["loss_change"] else with_error(row["loss_change"], error)

    print_table(
        ("layers", "width", "parameters", "loss", "over the least", "ms per step", "memory", "training memory"),
        (
            (
                f"{row['depth']}", f"{row['width']:,}", format_count(row["parameters"]),
                loss_with_error(row["loss"], row["loss_stderr"]) if known else f"{row['loss']:.4f}",
                change(row), f"{row['decode_seconds'] * 1e3:.3g}", format_bytes(row["serving_memory"]),
                format_bytes(row["training_memory"]),
            )
            for row in rows
        ),
    )  # fmt: skip
    if known:
        say("loss, over the least: +- one standard error of the law's coefficients, if it is right; shapes share them.")
    else:
        say(f"No error of these losses is known ({law.name}): {law.words}.")
    say("Memory is that of weights and cache on a device, training memory that of one sequence. The times are a proxy, with")
    say("guessed overheads (`depthwidth serve`).")


def _number_or_none(error: float) -> float | None:
    """A standard error; None for NaN."""
    return None if math.isnan(error) else float(error)
