"""``depthwidth evidence``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import click

from ..errors import InputError
from .options import COUNT, Sections, formats, option
from .output import emit, print_table, say
from .plots import picture_asked, plot_options

if TYPE_CHECKING:
    from ..fitting.tournament import Score, Tournament


class _Evidence(Sections):
    sections: ClassVar = {"Table": "--column", "Judgement": "--refit", "Output": "--plot"}


@click.command(cls=_Evidence)
@click.argument("runs", metavar="[RUNS]", required=False)
@option("--column", "columns", multiple=True, metavar="NAME=COLUMN", help="The column, or an expression, for a quantity.")
@option("--where", multiple=True, metavar="CONDITION", help="Only these rows, e.g. 'tokens >= 5e10' or 'width >= 512'.")
@option("--least", is_flag=True, help="Among rows of equal shape and tokens, keep the least loss (best recipe).")
@option("--refit", multiple=True, metavar="RULE", help="gemstones2025 or measured2025, if it was fitted to RUNS.")
@option("--head-size", is_flag=True, help="Judge head dimensions at equal shape instead of rules.")
@option("--draws", type=COUNT, help="Samples of models.", show_default="200, or 100 for head sizes")
@option("--seed", type=COUNT, default=0, help="Seed of the samples.")
@option("--bands", is_flag=True, help="List the measured best widths and losses that the bands of combined2026 should hold.")
@plot_options("Draw the mean cost of each rule with its error, and that of head dimensions.")
@option("--cells", is_flag=True, help="List every size and token count, not only the mean over them.")
@formats
def evidence(
    runs: str | None, columns: tuple[str, ...], where: tuple[str, ...], least: bool, refit: tuple[str, ...], head_size: bool,
    draws: int | None, seed: int, bands: bool, cells: bool, plot: str | None, theme: str | None, form: str | None,
) -> None:  # fmt: skip
    """Print the cost of each rule's shape on runs of many shapes.

    \b
    depthwidth evidence
    depthwidth evidence runs.csv --where 'tokens >= 5e10' --cells
    depthwidth evidence --bands

    Without RUNS, a .csv, .jsonl or .parquet table, it prints the results on public runs. The cost is the loss above that of the
    best width at equal size and tokens, by a quadratic surface in their logarithms; its error comes from resampling models.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..fitting.tournament import head_sizes, published_scores, tournament
    from ..planning.combined import calibration_rows
    from .fit import pairs

    picture = picture_asked(plot, theme)
    if bands:
        if runs is not None or cells or picture is not None:
            raise InputError("--bands has no meaning with RUNS, --cells or --plot")
        measured = calibration_rows()
        emit(form, measured, measured, lambda: _print_bands(measured))
        return
    if runs is None:
        given = {"--column": columns, "--where": where, "--least": least, "--refit": refit, "--head-size": head_size}
        for name, value in {**given, "--draws": draws, "--seed": seed}.items():
            if value:
                raise InputError(f"{name} has no meaning without RUNS")
        scores, found = published_scores(), None
    elif head_size:
        if refit:
            raise InputError("--refit has no meaning with --head-size")
        scores, found = head_sizes(
            runs, columns=pairs(columns, "column"), where=where, least=least, draws=100 if draws is None else draws, seed=seed
        ), None  # fmt: skip
    else:
        found = tournament(
            runs, columns=pairs(columns, "column"), where=where, least=least, refit=refit,
            draws=200 if draws is None else draws, seed=seed,
        )  # fmt: skip
        scores = found.scores
    if picture is not None:
        picture.write("evidence_figure", scores)
    rows = [asdict(score) for score in scores if cells or score.parameters is None]
    emit(form, rows, rows, lambda: _print(scores, cells, found, runs is None))


def _print(scores: Sequence[Score], cells: bool, found: Tournament | None, published: bool) -> None:
    for data in dict.fromkeys(score.data for score in scores):
        means = [score for score in scores if score.data == data and score.parameters is None]
        print_table(
            ("rule", "loss", "error", "from", "to", "shapes measured"),
            ((_name(one), *_costs(one), f"{one.inside:.0%}") for one in means),
            title=f"{data}: mean loss above the best shape",
        )
        if cells:
            rows = [score for score in scores if score.data == data and score.parameters is not None]
            print_table(
                ("rule", "parameters", "tokens", "shape", "best width", "loss", "error", "from", "to"),
                (
                    (
                        _name(one), f"{one.parameters:.3g}", "" if one.tokens is None else f"{one.tokens:.3g}",
                        f"{one.depth:.3g} x {one.width:.0f}", f"{one.best_width:.0f}", *_costs(one),
                    )
                    for one in rows
                ),
                title=f"{data}: each size",
            )  # fmt: skip
    say("error: standard error over resampled models; from, to: 68.3 % interval.")
    say("shapes measured: share of sizes at which the runs enclose the preferred width; elsewhere the cost is extrapolated.")
    if any(score.refitted for score in scores):
        say("refitted: the rule was fitted to these runs, and is refitted without the model nearest to the best shape.")
    if published:
        from ..planning.combined import LAW, calibration_words

        say(f"Bands of {LAW}, with each source left out in turn, held {calibration_words()}, at 50% and 90% (--bands).")
    if found is not None:
        say(
            f"{found.rows:,} rows of {found.models:,} models; a factor e of width from the best costs "
            f"{found.curvature:.3g} +- {found.curvature_stderr:.2g} in ln loss; residual {found.residual:.3%}."
        )
        for note in found.notes:
            say(f"Note: {note}.")


def _print_bands(rows: list[dict[str, Any]]) -> None:
    from ..planning.combined import LAW, calibration_words

    for quantity, title, form in (("width", "best width", "{:,.0f}"), ("loss", "loss above the best shape", "{:.2%}")):
        some = [row for row in rows if row["quantity"] == quantity]
        print_table(
            ("source", "parameters", *(("width",) if quantity == "loss" else ()), "measured", "50% band", "", "90% band", ""),
            (
                (
                    row["source"], f"{row['parameters']:.3g}", *((f"{row['width']:,.0f}",) if row["width"] else ()),
                    form.format(row["value"]), *_band(row, 50, form), *_band(row, 90, form),
                )
                for row in some
            ),
            title=f"{title}, and its bands by the other sources",
        )  # fmt: skip
    say(f"{LAW}: the bands held {calibration_words()}, at 50% and 90%. Cells of one source are not independent.")
    say("A measured value has an error of its own, which is in its bands; a loss within its noise may be below 0.")


def _band(row: dict[str, Any], share: int, form: str) -> tuple[str, str]:
    ends = (form.format(row[f"{end}_{share}"]) for end in ("low", "high"))
    return " to ".join(ends), "" if row[f"inside_{share}"] else "outside"


def _name(score: Score) -> str:
    return f"{score.rule}, refitted" if score.refitted else score.rule


def _costs(score: Score) -> tuple[str, str, str, str]:
    return f"{score.cost:.3%}", f"{score.stderr:.3%}", f"{score.low:.3%}", f"{score.high:.3%}"
