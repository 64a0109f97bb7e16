"""The inputs of several commands: a configuration with its recipe, a text with its match probability."""

from __future__ import annotations

from typing import Any

import click

from ..errors import InputError

tokenizer_option = click.option(
    "--tokenizer", metavar="KIND", help="Its tokens: bytes, words, ids or a tokenizer.json  [words; bytes for few]."
)


def match_of(
    tree: Any, context: int | None, text: str | None, tokenizer: str | None, windows: int | None, correlation: float | None
) -> tuple[Any, str]:
    """How often positions of a text match, for ``propagate``, and a sentence that says how that was found."""
    if text is None:
        for option, value in (("--tokenizer", tokenizer), ("--windows", windows)):
            if value is not None:
                raise InputError(f"{option} has no meaning without --text")
        return None, ""
    if correlation is not None:
        raise InputError("give the input by --text or by --correlation, not both")
    if not tree.vocab:
        raise InputError("--text has no meaning for a model of images")
    from ..analysis.text import read_text

    found, length = read_text(text, tokenizer, tree.vocab), tree.run(context).tokens
    measured = found.within(length)
    error = "" if measured.stderr is None else f" +- {measured.stderr:.2g}"
    start = f"the first {len(found):,}" if found.truncated else f"{len(found):,}"
    sentence = (
        f"Text: {start} tokens ({found.kind}) of {found.source}; two positions within windows of {min(length, len(found))} "
        f"hold the same one with probability {measured.value:.4g}{error}, over the whole text {found.match_probability():.4g}."
    )
    return (measured.value if windows is None else found.match_matrix(length, windows)), sentence


def recipe_of(config: str, scheme: str) -> tuple[Any, Any]:
    """The tree in a configuration file, and a scheme's recipe for it."""
    from ..architecture import Transformer
    from ..architecture.hf import read_json
    from ..initialization import recipe, shipped_options

    fields = read_json(config)
    tree = Transformer.from_config(fields)
    return tree, recipe(tree, scheme, **(shipped_options(fields) if scheme == "shipped" else {}))
