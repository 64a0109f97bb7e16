"""``depthwidth compare``."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..quantities import format_bytes, format_count
from .options import COUNT, DTYPES, formats, option
from .output import emit, print_table, say

if TYPE_CHECKING:
    from ..planning.compare import Comparison


@click.command()
@click.argument("models", nargs=-1, required=True)
@option("--rule", metavar="NAME", help="Rule for the best shape.", show_default="levine2020, sovit2023 for images")
@option("--preset", metavar="NAME", help="Architecture of shapes: gpt3, llama2, llama3, mixtral or vit.", show_default="gpt3")
@option("--like", metavar="CONFIG", help="Architecture of shapes: that of a config.json or repository.")
@option("--head-dim", type=COUNT, help="Head dimension of shapes.", show_default="128 from width 1536, 64 below")
@option("--vocab", type=COUNT, help="Vocabulary size of shapes.")
@option("--context", type=COUNT, help="Sequence length in tokens.", show_default="each model's context")
@option("--batch", type=COUNT, default=1, help="Sequences per batch.")
@option("--dtype", metavar="NAME", default="bf16", help=f"Number format: {DTYPES}.")
@formats
def compare(
    models: tuple[str, ...],
    rule: str | None,
    preset: str | None,
    like: str | None,
    head_dim: int | None,
    vocab: int | None,
    context: int | None,
    batch: int,
    dtype: str,
    form: str | None,
) -> None:
    """Compare two or more MODELS in predicted loss (with its error), FLOPs and memory.

    \b
    depthwidth compare 32x4096 48x3328 --preset llama3
    depthwidth compare model-a/config.json folder-of-model-b 24x2048

    A model is a Hugging Face config.json, the folder that holds it, the name of a repository of the hub, or LAYERSxWIDTH, a
    shape of --preset or --like. Changes of the loss are predicted for equal numbers of training tokens, against the first
    model.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..planning.budget import Budget
    from ..planning.compare import compare as make_comparison
    from ..planning.compare import is_shape
    from ..planning.requests import template_of

    for name, value in {"preset": preset, "like": like, "head-dim": head_dim, "vocab": vocab}.items():
        if value is not None and not any(map(is_shape, models)):
            raise InputError(f"--{name} has no meaning without a shape, such as 32x4096")
    template, _ = template_of(preset, like, {"head_dim": head_dim, "vocab": vocab})
    conventions = Budget("parameters", Fraction(1), context=context, batch=batch, dtype=dtype)
    found = make_comparison(models, template=template, rule=rule, budget=conventions)
    emit(form, found.to_dict(), found.rows(), lambda: _print(found))


def _print(found: Comparison) -> None:
    from ..planning.caveats import with_error

    def loss(row: dict[str, Any]) -> str:
        return f"{row['loss_change']:+.2%} +- {row['loss_change_stderr']:.2%}" if row["loss_change_stderr"] else "0"

    def heads(row: dict[str, Any]) -> str:
        shared = f"/{row['kv_heads']}" if row["kv_heads"] != row["heads"] else ""
        return f"{row['heads']}{shared} x {row['head_dim']}" if row["heads"] else "-"

    def amount(size: float | None) -> str:
        return "-" if size is None else format_bytes(size)

    print_table(
        ("model", "layers", "width", "heads", "parameters", "penalty of shape", "loss", "training FLOPs per token",
         "training memory", "cache per token"),
        (
            (
                row["name"], str(row["depth"]), f"{row['width']:,}", heads(row), format_count(row["parameters"], 4),
                with_error(row["loss_penalty"], row["loss_penalty_stderr"]), loss(row),
                f"{row['training_flops_per_token']:.3g}", amount(row["training_memory_per_device"]),
                amount(row["kv_cache_bytes_per_token"]),
            )
            for row in found.rows()
        ),
    )  # fmt: skip
    for sentence in found.sentences():
        say(f"{sentence}.")
    say(f"(+- one standard error of the measured penalty and of the loss's exponent in size, if {found.rule.name} is right)")
    for note in found.notes:
        say(f"Note: {note}.")
