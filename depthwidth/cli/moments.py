"""``depthwidth moments``: the command and its pages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..quantities import parse_whole
from .inputs import match_of, recipe_of, tokenizer_option
from .options import COUNT, formats, scheme_option
from .output import Row, emit, print_table

if TYPE_CHECKING:
    from ..analysis.propagation import TraceOptions


@click.command()
@click.argument("config")
@scheme_option("Scheme; `depthwidth init` lists them.")
@click.option("--context", type=COUNT, help="Tokens of a sequence  [the model's].")
@click.option("--source", type=COUNT, help="Tokens of the encoder's sequence  [as --context].")
@click.option(
    "--lengths", metavar="L,L,..", help="A padded batch: its sequences' lengths without padding, which no token attends to."
)
@click.option("--variance", type=float, help="Variance of the first block's input  [the embedding's].")
@click.option("--correlation", type=float, help="Its correlation between tokens  [the embedding's, by Zipf's law].")
@click.option("--text", metavar="FILE", help="Text whose repeated tokens make the inputs correlate.")
@tokenizer_option
@click.option("--windows", type=COUNT, help="Follow positions one by one, over N windows of the text.")
@click.option("--gradient", metavar="KIND", help="Behind the last norm: unit, of second moment 1, or the loss's own  [unit].")
@click.option("--gradient-correlation", type=float, help="Of the unit gradient between tokens  [0].")
@click.option("--no-dropout", is_flag=True, help="Evaluation mode.")
@click.option("--attention", is_flag=True, help="How concentrated each layer's attention is, instead.")
@click.option("--plot", metavar="FILE", help="Draw variance, correlation and gradient along the depth.")
@formats
def moments(
    config: str,
    scheme: str,
    context: int | None,
    source: int | None,
    lengths: str | None,
    variance: float | None,
    correlation: float | None,
    text: str | None,
    tokenizer: str | None,
    windows: int | None,
    gradient: str | None,
    gradient_correlation: float | None,
    no_dropout: bool,
    attention: bool,
    plot: str | None,
    form: str | None,
) -> None:
    """Predicted moments of signal and gradient at every site of the transformer in CONFIG, at initialisation.

    With --lengths they are averages over the tokens of a batch that are no padding; a length may stand several times, and in a
    model of two stacks be a pair, decoder:encoder.
    """
    from ..analysis.propagation import moments_of

    if plot is not None:
        from .plots import check_target, plot_moments

        check_target(plot)
    tree, made = recipe_of(config, scheme)
    batch = None if lengths is None else _lengths(lengths)
    for option, value in (("--context", context), ("--windows", windows), ("--attention", attention or None)):
        if batch is not None and value is not None:
            raise InputError(f"give --lengths or {option}, not both")
    match, sentence = match_of(tree, context, text, tokenizer, windows, correlation)
    given: TraceOptions = {
        "variance": variance, "correlation": correlation, "token_match": match,
        "gradient": _gradient(gradient, gradient_correlation), "context": context, "source": source, "dropout": not no_dropout,
    }  # fmt: skip
    if sentence and form is None:
        click.echo(f"{sentence}\n")
    if attention:
        from ..analysis.concentration import attention_profile

        profile: list[Row] = list(attention_profile(tree, made, **given))
        emit(form, profile, profile, lambda: print_attention(profile))
        return
    rows: list[Row] = list(moments_of(tree, made, lengths=batch, **given))
    if plot is not None:
        plot_moments(rows, plot)
    emit(form, rows, rows, lambda: print_moments(rows))


def _gradient(kind: str | None, correlation: float | None) -> tuple[float, float] | str:
    """The gradient behind the last norm, as ``propagate`` takes it."""
    from ..checks import check_choice

    if kind is not None:
        check_choice("moments", ("unit", "loss"), gradient=kind)
    if kind != "loss":
        return 1.0, correlation or 0.0
    if correlation is not None:
        raise InputError("--gradient-correlation has no meaning for --gradient loss, which has a correlation of its own")
    return "loss"


def _lengths(text: str) -> list[Any]:
    """Lengths, or pairs of them, as they are typed: ``512,128,64`` or ``64:512,32:128``."""
    found: list[Any] = []
    for part in text.split(","):
        lengths = [parse_whole(one, "lengths") for one in part.split(":")]
        found.append(lengths[0] if len(lengths) == 1 else tuple(lengths))
    return found


def print_attention(rows: list[Row]) -> None:
    """Every softmax, one line each."""
    print_table(
        ("site", "logit variance", "entropy", "effective tokens", "gradient saturation", "phase", "would condense at"),
        (
            (
                row["site"],
                *(f"{row[name]:.4g}" for name in ("logit_variance", "entropy", "effective_tokens", "gradient_saturation")),
                row["phase"],
                f"{row['condensed_context']:.3g} tokens or fewer" if (row["condensed_context"] or 0) >= 2 else "no context",
            )
            for row in rows
        ),
        title="Attention at initialisation",
    )


def print_moments(rows: list[Row]) -> None:
    """The residual stream at a dozen depths, forward and backward."""
    for stack in dict.fromkeys(row["site"].partition(".")[0] for row in rows if row["layer"] is not None):
        stream = {(row["layer"], row["direction"]): row for row in rows if row["site"] == f"{stack}.block.{row['layer']}"}
        layers = sorted({layer for layer, _ in stream})
        print_table(
            ("behind block", "variance", "correlation", "gradient variance", "gradient correlation"),
            (
                (
                    str(layer),
                    *(f"{stream[layer, d][q]:.5g}" for d in ("forward", "gradient") for q in ("variance", "correlation")),
                )
                for layer in sorted({layers[round(i * (len(layers) - 1) / 11)] for i in range(12)})
            ),
            title=f"The residual stream of the {stack}",
        )
    widest = max(row["log_variance"] for row in rows)
    if widest > _WIDE:
        typical, factor = math.exp(-widest / 2), math.exp(math.sqrt(widest))
        click.echo(f"Note: gradients differ between draws of the weights. A typical one is {typical:.2g} of the mean, and")
        click.echo(f"one draw in three is more than {factor:.2g} times as large or as small.")


_WIDE = 0.1
"""A variance of the logarithm from which a mean says little: draws differ by a third either way."""
