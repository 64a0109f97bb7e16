"""``depthwidth text``."""

from __future__ import annotations

import click

from .options import COUNT, formats, option
from .output import emit, print_facts


@click.command()
@click.argument("file")
@option("--tokenizer", metavar="KIND", default="words", help="Tokens: bytes, words, ids or a tokenizer.json.")
@option("--context", type=COUNT, default=1024, help="Window length in tokens.")
@formats
def text(file: str, tokenizer: str, context: int, form: str | None) -> None:
    """Measure how often two positions of the text in FILE hold the same token, and compare with Zipf's law."""
    from ..analysis.text import read_text

    row = read_text(file, tokenizer).summary(context)

    def human() -> None:
        print_facts({key.replace("_", " "): f"{v:.5g}" if isinstance(v, float) else str(v) for key, v in row.items()})

    emit(form, row, [row], human)
