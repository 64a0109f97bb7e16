"""Inputs that several commands share: a configuration with its recipe, a text with its match probability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from .options import option
from .output import say

tokenizer_option = option(
    "--tokenizer",
    metavar="KIND",
    help="Tokens of the text: bytes, words, ids or a tokenizer.json.",
    show_default="words, bytes for a vocabulary up to 300",
)


def match_of(
    tree: Any,
    context: int | None,
    text: str | None,
    tokenizer: str | None,
    windows: int | None,
    correlation: float | None,
    *,
    mean: bool = False,
) -> tuple[Any, str]:
    """The `token_match` of a text for ``propagate``, and a sentence on the text; (None, "") without a text.

    Several windows are averaged over their moments, or with `mean` over their matches.
    """
    if text is None:
        for name, value in (("--tokenizer", tokenizer), ("--windows", windows)):
            if value is not None:
                raise InputError(f"{name} has no meaning without --text")
        return None, ""
    if correlation is not None:
        raise InputError("give --text or --correlation, not both")
    if not tree.vocab:
        raise InputError("--text has no meaning for a model of images")
    from ..analysis.text import read_text

    found, length = read_text(text, tokenizer, tree.vocab), tree.run(context).tokens
    measured = found.within(length)
    error = "" if measured.stderr is None else f" +- {measured.stderr:.2g}"
    start = f"the first {len(found):,}" if found.truncated else f"{len(found):,}"
    sentence = (
        f"Text: {start} tokens ({found.kind}) of {found.source}. Two positions hold the same token with probability "
        f"{measured.value:.4g}{error} within windows of {min(length, len(found))}, {found.match_probability():.4g} overall."
    )
    if windows is None:
        return measured.value, sentence
    _check_work(tree, length, 1 if mean else windows)
    return (found.match_matrix if mean else found.match_matrices)(length, windows), sentence


LONGEST_WORK = 900.0
"""Seconds of one processor that the moments of windows may take."""
LARGEST_WORK = 8 * 2**30
"""Bytes that they may take."""
_SECONDS, _BYTES = 3.5e-9, 250
"""Of a window and a block: times L^3, and times L^2. Measured with GPT-2's blocks and 512 and 1024 tokens."""


def _check_work(tree: Any, length: int, windows: int) -> None:
    """Refuse windows whose pairs of positions take too much, with a length that does not."""
    depth = sum(stack.depth for stack in tree.stacks.values())
    seconds, size = _SECONDS * depth * windows * length**3, _BYTES * depth * length**2
    if seconds > LONGEST_WORK or size > LARGEST_WORK:
        fewer = int(min((LONGEST_WORK / (_SECONDS * depth * windows)) ** (1 / 3), (LARGEST_WORK / (_BYTES * depth)) ** 0.5))
        raise InputError(
            f"--windows {windows} of {length:,} tokens, position by position through {depth} blocks, take about "
            f"{seconds / 60:.2g} minutes and {size / 2**30:.2g} GiB; give --context {fewer} or less, or fewer windows"
        )


norms_option = option("--no-norms", is_flag=True, help="Leave out the norms of residual branches and the last one.")


def recipe_of(fields: Mapping[str, Any], scheme: str, *, norms: bool = True) -> tuple[Any, Any]:
    """The tree of a configuration, and the recipe of a scheme for it; without its norms if `norms` is false."""
    from ..architecture import Transformer
    from ..initialization import recipe, shipped_options

    tree = Transformer.from_config(fields)
    tree = tree if norms else tree.without_norms()
    name, at, version = scheme.partition("@")
    if name != "shipped":
        return tree, recipe(tree, scheme)
    options = {**shipped_options(fields), **({"version": version} if at else {})}
    return tree, recipe(tree, name, **options)


def say_notes(fields: Mapping[str, Any]) -> None:
    """Print the source of a configuration, if it is not the named file, and the parts that its tree leaves out."""
    from ..architecture.hf import notes_on

    for note in notes_on(fields):
        say(f"Note: {note}.")


def say_source(fields: Mapping[str, Any] | None) -> None:
    """Print the source of a configuration, if it is not the named file."""
    if fields is None:  # without an import of the readers of configurations
        return
    from ..architecture.hf import source_notes

    for note in source_notes(fields):
        say(f"Note: {note}.")
