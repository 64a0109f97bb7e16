"""``depthwidth fit``: the command, and the page of a fit, which ``depthwidth verify fit`` shares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import click

from ..errors import InputError, shown
from ..quantities import numbered
from .options import COUNT, NUMBER, Sections, formats, option
from .output import emit, print_table, say
from .plots import picture_asked, plot_options

if TYPE_CHECKING:
    from ..fitting import Fit

LAWS = "gemstones, chinchilla, inverse-depth, crossings, shape-penalty, head-size, conditional"
"""The names of laws. Written out, as importing them would slow the help page; a test compares."""


class _Fit(Sections):
    sections: ClassVar = {"Table": "--column", "Minimum": "--loss", "Errors": "--errors", "Output": "--correlation"}


@click.command(cls=_Fit)
@click.argument("runs", metavar="RUNS")
@option("--law", default="gemstones", metavar="LAW", help=f"{LAWS}, or a law of your own.")
@option("--column", "columns", multiple=True, metavar="NAME=COLUMN", help="The column, or an expression, for a quantity.")
@option("--where", multiple=True, metavar="CONDITION", help="Only these rows, e.g. 'step % 2385 == 0' or 'width >= 512'.")
@option("--least", is_flag=True, help="Among rows equal in the law's quantities, keep the least loss (best recipe).")
@option(
    "--start",
    "starts_at",
    multiple=True,
    metavar="NAME=VALUE",
    help="For a law of your own: the expected VALUE of a coefficient.",
)
@option("--rule", metavar="NAME", help="For shape-penalty: the rule that gives the best width.", show_default="levine2020")
@option("--loss", metavar="NAME", help="Objective: huber or squares.", show_default="that of the law's paper")
@option("--delta", type=NUMBER, help="Threshold of the Huber loss.", show_default="that of the law's paper, or 0.001")
@option("--plain", is_flag=True, help="Fit the loss itself instead of its logarithm.")
@option("--starts", type=COUNT, default=24, help="Number of random starts.")
@option("--seed", type=COUNT, default=1, help="Seed of the starts and of the bootstrap.")
@option(
    "--errors",
    default="bootstrap",
    metavar="NAME",
    help="Source of the errors: bootstrap over models, curvature, profile or none.",
)
@option("--draws", type=COUNT, default=100, help="Number of bootstrap fits.")
@option("--no-held-out", is_flag=True, help="Skip the prediction of unseen models and the jackknife.")
@option("--correlation", is_flag=True, help="Print the correlations of the coefficients.")
@plot_options("Draw the intervals of coefficients and the errors of predictions.")
@option("--save", metavar="FILE", help="Write coefficients as FILE.csv, which `plan --rule FILE.csv` uses.")
@formats
def fit(
    runs: str, law: str, columns: tuple[str, ...], where: tuple[str, ...], starts_at: tuple[str, ...], rule: str | None,
    loss: str | None, delta: float | None, plain: bool, starts: int, seed: int, errors: str, draws: int, no_held_out: bool,
    correlation: bool, save: str | None, least: bool, plot: str | None, theme: str | None, form: str | None,
) -> None:  # fmt: skip
    """Fit a law to RUNS, a .csv, .jsonl or .parquet table of training runs.

    \b
    depthwidth fit runs.csv
    depthwidth fit runs.jsonl --law chinchilla --column parameters=n_params --save our_law
    depthwidth fit runs.csv --law 'loss = E + A * width**-p + B / depth' --where 'tokens > 1e9'

    Prints the coefficients with their errors over models, the residuals, the errors on unseen models, and the coefficients that
    the runs do not determine. Columns are guessed by name unless --column says otherwise. In a law of your own, every name
    without a column is a coefficient; the law is never executed as code.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..fitting import fit as make_fit
    from ..fitting.saving import check_name
    from ..fitting.saving import save as write

    if rule is not None and law != "shape-penalty":
        raise InputError("--rule has no meaning without --law shape-penalty")
    picture = picture_asked(plot, theme)
    if save is not None:
        check_name(save)
    found = make_fit(
        runs, law, columns=pairs(columns, "column"), where=where,
        start={name: _number(name, value) for name, value in pairs(starts_at, "start").items()}, loss=loss, delta=delta,
        logarithm=not plain, errors=errors, draws=draws, held_out=not no_held_out, starts=starts, seed=seed, least=least,
        **({} if rule is None else {"rule": rule}),
    )  # fmt: skip
    if picture is not None:
        picture.write("fit_figure", found)
    path = None if save is None else write(found, save, source=runs)
    emit(form, found.to_dict(), found.rows(), lambda: print_fit(found, correlation))
    if path is not None and form is None:
        say(f"Written to {path}" + (f"; `depthwidth plan 1B --rule {path}` uses it." if found.law.rule else "."))


def _number(name: str, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"--start {name}={shown(text)} is not a finite number")
    return found


def pairs(texts: tuple[str, ...], name: str) -> dict[str, str]:
    """Values of a repeated option ``--name KEY=VALUE``.

    Raises
    ------
    InputError
        if one has no key or value, or a key is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.strip().isidentifier() and value.strip()):
            raise InputError(f"--{name} {shown(text)} is not of the form NAME=VALUE")
        if key.strip() in found:
            raise InputError(f"--{name} gives {key.strip()} twice")
        found[key.strip()] = value.strip()
    return found


def print_fit(found: Fit, correlation: bool = False) -> None:
    """Print a fit: the law, its coefficients, its goodness, its predictions of unseen models, and the verdict."""
    say(heading=found.law.text)
    if found.law.source:
        say(f"Form of {found.law.source}.")
    rows = f"{numbered(found.points, 'row')} of {numbered(found.groups, 'model')}"
    say(f"{rows}; {found.minimised}; objective {found.objective:.7g}.")
    guesses = [f"{role} from {column}" for role, column in found.guesses.items() if role != column]
    if guesses:
        say(f"Columns: {', '.join(guesses)}.")
    say("")
    bare = found.method == "none"
    jackknife = found.jackknife is not None
    columns = (
        "coefficient",
        "value",
        *(() if bare else ("error", "from", "to")),
        *(("jackknife",) if jackknife else ()),
        "verdict",
    )
    print_table(
        columns,
        (
            (
                row["name"], f"{row['value']:.5g}",
                *(() if bare else (f"{row['stderr']:.2g}", f"{row['low']:.4g}", f"{row['high']:.4g}")),
                *((f"{row['jackknife']:.2g}",) if jackknife else ()), row["verdict"],
            )
            for row in found.rows()
        ),
        words=("verdict",),
    )  # fmt: skip
    if not bare:
        how = f"{len(found.draws)} bootstrap fits over models" if found.method == "bootstrap" else found.method
        say(
            f"error: standard error by {how}; from, to: 68.3 % interval; jackknife: error from leaving out one model at a time",
            "",
        )
    if correlation and not bare:
        print_table(
            ("correlation", *found.names),
            ((name, *(f"{value:+.2f}" for value in row)) for name, row in zip(found.names, found.correlation, strict=True)),
        )
    _print_goodness(found)
    settled = () if bare or found.verdicts else ("The rows pin down every coefficient",)
    for sentence in (*settled, *found.sentences):
        say(f"{sentence}.")
    for note in (*found.notes, *((f"eliminated: {found.factor}",) if found.factor else ())):
        say(f"Note: {note}.")


def _print_goodness(found: Fit) -> None:
    logarithm = found.logarithm

    def size(value: float) -> str:
        return f"{value:.3%}" if logarithm else f"{value:.4g}"

    rows = [("fitted models", size(found.residual_rms), size(found.residual_median), size(found.residual_worst))]
    held = found.held_out
    if held is not None:
        rows.append(("each model from the others", size(held.one_model), size(held.one_model_median), ""))
        if held.surface is not None:
            rows.append(("the same by a quadratic surface", size(held.surface), "", ""))
        if held.large is not None and held.large_bias is not None:
            start = f"{held.ordered_by} from {held.large_from:.4g}, from smaller models"
            rows.append((start, size(held.large), f"mean {size(held.large_bias)}", ""))
    print_table(("error of predictions", "root mean square", "median", "largest"), rows)
    say(f"The law explains {found.explained:.2%} of the variance" + (" of the logarithm." if logarithm else "."))
