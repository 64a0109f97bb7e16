"""``depthwidth init``: the command and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .inputs import match_of, norms_option, recipe_of, say_notes, tokenizer_option
from .options import formats, option
from .output import Row, emit, print_table, say

if TYPE_CHECKING:
    from ..initialization import Recipe


@click.command()
@click.argument("config", required=False)
@option("--scheme", metavar="NAME", default="deepscale", help="Initialisation scheme.")
@norms_option
@option("--text", metavar="FILE", help="Text whose repeated tokens DeepScaleLM corrects for.", show_default="Zipf's law")
@tokenizer_option
@formats
def init(config: str | None, scheme: str, no_norms: bool, text: str | None, tokenizer: str | None, form: str | None) -> None:
    """List the initialisation of every tensor of the model in CONFIG, with reasons; without CONFIG, list the schemes.

    CONFIG is a Hugging Face config.json, the folder that holds it, or the name of a repository of the hub. If blocks differ,
    the table shows the first and the last block; --json, --csv and --markdown list every tensor.
    """
    from ..architecture.hf import read_source
    from ..initialization import embedding_correlation, recipe, scheme_lines, scheme_options, schemes

    if text is not None and "embedding_correlation" not in scheme_options(scheme):
        able = ", ".join(name for name in schemes() if "embedding_correlation" in scheme_options(name))
        raise InputError(f"--text has no meaning for {scheme}, which does not depend on how often tokens repeat; {able} does")
    if config is None:
        if no_norms:
            raise InputError("--no-norms has no meaning without CONFIG")
        if text is not None or tokenizer is not None:
            raise InputError("--text and --tokenizer have no meaning without CONFIG")
        known: list[Row] = list(scheme_lines())
        emit(form, known, known, lambda: _print_schemes(known))
        return
    fields = read_source(config)
    tree, made = recipe_of(fields, scheme, norms=not no_norms)
    match, source = match_of(tree, None, text, tokenizer, None, None)
    if match is not None:
        made = recipe(tree, scheme, embedding_correlation=embedding_correlation(tree, match))
        if form is None:
            say(f"{source}", "")
    rows: list[Row] = made.rows(tree)
    emit(form, rows, rows, lambda: print_recipe(made))
    if form is None:
        say_notes(fields)


def _print_schemes(known: list[Row]) -> None:
    rows = ((row["scheme"], row["starts"], row["source"]) for row in known)
    print_table(("scheme", "starting values", "source"), rows, words=("starting values", "source"))
    say("--scheme NAME chooses one of them.")


def print_recipe(made: Recipe) -> None:
    """Print one line per kind of tensor and per branch; if blocks differ, the first and the last."""

    def ends(value: Any) -> str:
        if isinstance(value, str):  # an identity matrix, or fixed values
            return value
        return f"{value[0]:.4g} to {value[-1]:.4g}" if isinstance(value, tuple) else f"{value:.4g}"

    say(f"  {made.source} ({made.status})", "", heading=made.scheme)
    print_table(
        ("tensor", "std", "mean", "multiplier", "learning rate", "weight decay", "reason"),
        (
            (t.role, *(ends(v) for v in (t.std, t.mean, t.multiplier, t.learning_rate, t.weight_decay)), t.reason)
            for t in made.tensors
        ),
        words=("reason",),
    )
    if made.residuals:
        print_table(
            ("branch", "skip factor", "branch factor", "reason"),
            ((r.role, ends(r.skip), ends(r.branch), r.reason) for r in made.residuals),
            words=("reason",),
        )
    for note in (*made.extras.get("notes", ()), *made.extras.get("remarks", ())):
        say(f"Note: {note}")
