"""``depthwidth moments``: the command and its pages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..quantities import parse_whole
from .inputs import match_of, norms_option, recipe_of, say_notes, tokenizer_option
from .options import COUNT, NUMBER, formats, option, scheme_option
from .output import Row, emit, print_table, say
from .plots import picture_asked, plot_options

if TYPE_CHECKING:
    from ..analysis.propagation import TraceOptions
    from ..architecture import Transformer


@click.command()
@click.argument("config")
@scheme_option("Initialisation scheme; `depthwidth init` lists them.")
@norms_option
@option("--context", type=COUNT, help="Sequence length in tokens.", show_default="the model's context")
@option("--source", type=COUNT, help="Sequence length of the encoder.", show_default="as --context")
@option("--lengths", metavar="L,L,..", help="Padded batch: the lengths of its sequences without padding.")
@option("--variance", type=NUMBER, help="Variance of the input of the first block.", show_default="from the embedding")
@option("--correlation", type=NUMBER, help="Correlation of that input between tokens.", show_default="from Zipf's law")
@option("--text", metavar="FILE", help="Take the correlation of the input from the repeated tokens of this text.")
@tokenizer_option
@option("--windows", type=COUNT, help="Compute every position; moments are averaged over N windows of the text.")
@option("--sampled", is_flag=True, help="Compute every position in eight texts drawn from Zipf's law; up to 512 tokens.")
@option(
    "--gradient",
    metavar="KIND",
    help="Gradient at the output of the last norm: unit (second moment 1) or loss (of the cross-entropy).",
    show_default="unit",
)
@option("--gradient-correlation", type=NUMBER, help="Correlation of the unit gradient between tokens.", show_default="0")
@option("--no-dropout", is_flag=True, help="Evaluate without dropout.")
@option("--attention", is_flag=True, help="Print the concentration of each attention layer instead of moments.")
@plot_options("Draw growth of signal and gradient and the correlation along the depth.")
@option("--beside", multiple=True, metavar="NAME", help="Another scheme in the picture (--plot); may be repeated.")
@formats
def moments(
    config: str,
    scheme: str,
    no_norms: bool,
    context: int | None,
    source: int | None,
    lengths: str | None,
    variance: float | None,
    correlation: float | None,
    text: str | None,
    tokenizer: str | None,
    windows: int | None,
    sampled: bool,
    gradient: str | None,
    gradient_correlation: float | None,
    no_dropout: bool,
    attention: bool,
    plot: str | None,
    theme: str | None,
    beside: tuple[str, ...],
    form: str | None,
) -> None:
    """Predict the moments of signal and gradient at initialisation, at every site of the model in CONFIG.

    CONFIG is a Hugging Face config.json, the folder that holds it, or the name of a repository of the hub. The table shows the
    residual stream; --json, --csv and --markdown list every site.

    Moments are averages per feature, without a unit. Those of the gradient are relative to the second moment 1 of the gradient
    at the output of the last norm; with --gradient loss they are in nats^2.

    With --lengths, values are averaged over non-padding tokens; repeat a length to give it more weight. For an encoder-decoder
    model, a length is a pair decoder:encoder.
    """
    from ..analysis.propagation import moments_of
    from ..architecture.hf import read_source

    picture = picture_asked(plot, theme)
    if beside and picture is None:
        raise InputError("--beside has no meaning without --plot")
    if attention:
        _refuse(plot=picture, gradient=gradient, gradient_correlation=gradient_correlation)
    fields = read_source(config)
    tree, made = recipe_of(fields, scheme, norms=not no_norms)
    batch = None if lengths is None else _lengths(lengths)
    for name, value in (("--context", context), ("--windows", windows), ("--attention", attention or None)):
        if batch is not None and value is not None:
            raise InputError(f"give --lengths or {name}, not both")
    match, sentence = match_of(tree, context, text, tokenizer, windows, correlation, mean=attention)
    if sampled:
        also = {"--text": text, "--correlation": correlation, "--attention": attention or None}
        for name, given_too in also.items():
            if given_too is not None:
                raise InputError(f"give --sampled or {name}, not both")
        match = "sample"
    given: TraceOptions = {
        "variance": variance, "correlation": correlation, "token_match": match,
        "gradient": _gradient(gradient, gradient_correlation), "context": context, "source": source, "dropout": not no_dropout,
    }  # fmt: skip
    if form is None:
        say_notes(fields)
    if sentence and form is None:
        say(f"{sentence}", "")
    if attention:
        from ..analysis.concentration import attention_profile

        profile: list[Row] = list(attention_profile(tree, made, **given))
        emit(form, profile, profile, lambda: print_attention(profile))
        return
    rows: list[Row] = list(moments_of(tree, made, lengths=batch, **given))
    if picture is not None:
        others = {name: recipe_of(fields, name, norms=not no_norms)[1] for name in beside}
        moved = {name: moments_of(tree, other, lengths=batch, **given) for name, other in others.items()}
        picture.write("moments_figure", {scheme: rows} | moved)
    emit(form, rows, rows, lambda: print_moments(tree, rows, of_loss=gradient == "loss"))


def _refuse(**options: Any) -> None:
    """Refuse options that do not apply to the concentration of attention."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"give --attention or --{name.replace('_', '-')}, not both")


def _gradient(kind: str | None, correlation: float | None) -> tuple[float, float] | str:
    """The gradient at the output of the last norm, as an argument of ``propagate``."""
    from ..checks import check_choice

    if kind is not None:
        check_choice("moments", ("unit", "loss"), gradient=kind)
    if kind != "loss":
        return 1.0, correlation or 0.0
    if correlation is not None:
        raise InputError("--gradient-correlation has no meaning for --gradient loss, whose correlation is computed")
    return "loss"


def _lengths(text: str) -> list[Any]:
    """Parse lengths, or pairs of them: ``512,128,64`` or ``64:512,32:128``."""
    found: list[Any] = []
    for part in text.split(","):
        lengths = [parse_whole(one, "lengths") for one in part.split(":")]
        found.append(lengths[0] if len(lengths) == 1 else tuple(lengths))
    return found


def print_attention(rows: list[Row]) -> None:
    """Print one line per softmax."""
    print_table(
        ("site", "logit variance", "entropy", "effective tokens", "gradient saturation", "phase", "condensed below"),
        (
            (
                row["site"],
                *(f"{row[name]:.4g}" for name in ("logit_variance", "entropy", "effective_tokens", "gradient_saturation")),
                row["phase"],
                f"{row['condensed_context']:.3g} tokens" if (row["condensed_context"] or 0) >= 2 else "no context",
            )
            for row in rows
        ),
        title="Attention at initialisation (entropy in nats, logit variance in nats^2)",
    )


def print_moments(tree: Transformer, rows: list[Row], *, of_loss: bool) -> None:
    """Print the residual stream at a dozen depths; the gradient is that of the loss, or of unit second moment."""
    from ..analysis.propagation import large_scores

    unit = "in nats^2 per feature" if of_loss else "relative to that at the output of the last norm"
    for stack in dict.fromkeys(row["site"].partition(".")[0] for row in rows if row["layer"] is not None):
        stream = {(row["layer"], row["direction"]): row for row in rows if row["site"] == f"{stack}.block.{row['layer']}"}
        layers = sorted({layer for layer, _ in stream})
        print_table(
            ("after block", "variance", "correlation", "gradient variance", "gradient correlation"),
            (
                (
                    str(layer),
                    *(f"{stream[layer, d][q]:.5g}" for d in ("forward", "gradient") for q in ("variance", "correlation")),
                )
                for layer in sorted({layers[round(i * (len(layers) - 1) / 11)] for i in range(12)})
            ),
            title=f"The residual stream of the {stack} (variance per feature, without a unit; gradient variance {unit})",
        )
    widest = max(row["log_variance"] or 0.0 for row in rows)
    if widest > _WIDE:
        typical, factor = math.exp(-widest / 2), math.exp(math.sqrt(widest))
        say(f"Note: gradients differ between draws of the weights. The median is {typical:.2g} of the mean, and one draw in")
        say(f"three is more than {factor:.2g} times larger or smaller than the median.")
    if warned := large_scores(tree, [row["site"] for row in rows], [row["second_moment"] for row in rows]):
        say(f"Note: {warned}.")


_WIDE = 0.1
"""Variance of the logarithm above which the spread between draws is reported. Ours: draws then differ by a third either way."""
