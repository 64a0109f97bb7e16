"""``depthwidth text``."""

from __future__ import annotations

import click

from .options import COUNT, formats
from .output import emit, print_facts


@click.command()
@click.argument("file")
@click.option(
    "--tokenizer",
    metavar="KIND",
    default="words",
    show_default=True,
    help="bytes, words, ids or a tokenizer.json.",
)
@click.option("--context", type=COUNT, default=1024, show_default=True, help="Tokens of a window.")
@formats
def text(file: str, tokenizer: str, context: int, form: str | None) -> None:
    """How often two positions of the text in FILE hold the same token, beside Zipf's law."""
    from ..analysis.text import read_text

    row = read_text(file, tokenizer).summary(context)

    def human() -> None:
        print_facts({key.replace("_", " "): f"{v:.5g}" if isinstance(v, float) else str(v) for key, v in row.items()})

    emit(form, row, [row], human)
