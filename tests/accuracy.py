"""The errors of docs/accuracy.md, computed from the kept rows in data/measured.

    python tests/accuracy.py            # print the tables of moments
    python tests/accuracy.py --write    # and put them into docs/accuracy.md, between the marks

A test compares the page with what this prints.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from verify.rows import Row, rows_from_csv

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "data" / "measured"
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- computed: python tests/accuracy.py --write -->\n", "<!-- end of the computed table -->\n"
PERCENTILES = (50, 90, 99)


def kept(file: str) -> list[Row]:
    """The rows of a file of data/measured that have a prediction, of whatever job."""
    rows = rows_from_csv((MEASURED / file).read_bytes(), file)
    return [row for row in rows if row.predicted is not None and math.isfinite(row.value)]


FIXED = 1e-4
"""Standard error below which a quantity counts as fixed by a norm: about a thousand roundings of float32."""


def _in_unit(row: Row, gap: float) -> float:
    """A difference from the row's value: in per cent of it, of a correlation as it is."""
    return gap if row.quantity == "correlation" else 100 * gap / abs(row.value)


def error(row: Row) -> float:
    """Relative error in per cent; of a correlation the difference."""
    return _in_unit(row, abs(row.predicted - row.value))


def noise(row: Row) -> float:
    """One standard error, in the unit of `error`."""
    return _in_unit(row, row.stderr)


def _print(values: Iterable[float], quantity: str) -> str:
    if quantity == "correlation":
        return ", ".join(f"{value:.3f}" for value in values)
    return ", ".join(f"{value:.2g}" for value in values) + " %"


def _line(what: str, rows: Iterable[Row], quantity: str, command: str) -> str:
    """A line of the table: percentiles and the largest error, and the median of the standard errors."""
    those = [row for row in rows if row.quantity == quantity]
    errors = [*np.percentile([error(row) for row in those], PERCENTILES), max(error(row) for row in those)]
    median = float(np.median([noise(row) for row in those]))
    name = "gradient variance" if quantity == "gradient_variance" else quantity
    share = f"{_mean_square_deviation(those):.2g}"
    return f"| {what} | {name} | {_print(errors, quantity)} | {_print([median], quantity)} | {share} | {command} |"


def _mean_square_deviation(rows: Iterable[Row]) -> float:
    """Mean of ((predicted - value) / standard error)^2, 1 if all errors are noise, over what no norm fixes in every draw."""
    random = [row for row in rows if row.stderr > FIXED * (1.0 if row.quantity == "correlation" else abs(row.value))]
    return float(np.mean([((row.predicted - row.value) / row.stderr) ** 2 for row in random]))


def _vanilla_post_norm(row: Row) -> bool:
    return row.labels["placement"] == "post" and row.labels["scheme"] == "xavier"


def _stacks(rows: Iterable[Row]) -> int:
    return len({tuple(sorted((k, v) for k, v in row.labels.items() if k not in ("relative_error", "z"))) for row in rows})


def moments_lines() -> list[str]:
    """Of the job `moments`: all stacks, and those of the largest depths and widths."""
    rows = kept("moments.csv")
    lines = []
    groups: tuple[tuple[str, Callable[[Row], bool]], ...] = (
        ("{} stacks, 1 to {} layers, width 64 to 1024", lambda row: True),
        ("of these, {} of {} layers and width 1024", lambda row: row.labels["depth"] == 192 and row.labels["width"] == 1024),
        ("of these, {} of {} layers and width 256", lambda row: row.labels["depth"] == 1000),
    )
    for text, chosen in groups:
        those = [row for row in rows if chosen(row)]
        what = text.format(_stacks(those), max(row.labels["depth"] for row in those))
        for quantity in ("variance", "correlation"):
            lines.append(_line(what, those, quantity, "[2]"))
            what = "the same"
        usual = [row for row in those if not _vanilla_post_norm(row)]
        what = "the same" if len(usual) == len(those) else "the same, except vanilla post-norm"
        lines.append(_line(what, usual, "gradient_variance", "[2]"))
    return lines


def components_lines() -> list[str]:
    """Of the job `components`: attention over the official grid, beside the authors' own formulas."""
    found: dict[str, dict[str, float]] = {}
    settings = 0
    for row in rows_from_csv((MEASURED / "components_summary.csv").read_bytes(), "components_summary.csv"):
        if row.labels["component"] == "attention" and row.labels["grid"] == "official":
            found.setdefault(row.labels["of"], {})[row.quantity] = row.value
            settings = row.labels["settings"]
    lines = []
    what = f"{settings:,} settings of attention in the official component simulations (Kedia et al. 2024)"
    for quantity, name in (
        ("variance", "variance of the attention output"),
        ("gradient_variance", "gradient variance through attention"),
    ):
        ours, theirs = (
            ", ".join(f"{found[quantity][f'{whose}_p{p}']:.2g}" for p in PERCENTILES) for whose in ("error", "authors")
        )
        median = f"{found[quantity]['noise_p50']:.2g} %"
        lines.append(f"| {what} | {name} | {ours} % (the authors' formulas: {theirs} %) | {median} | | [1] |")
        what = "the same"
    return lines


def transformers_lines() -> list[str]:
    """Of the job `transformers-init`."""
    rows = kept("transformers_init.csv")
    what = "the GPT-2, BERT and Llama of transformers as initialised, on real text"
    lines = []
    for quantity in ("variance", "correlation", "gradient_variance"):
        lines.append(_line(what, rows, quantity, "[3]"))
        what = "the same"
    return lines


def table() -> str:
    """The whole table, in Markdown."""
    columns = (
        "measured",
        "quantity",
        "error: 50th, 90th, 99th percentile, largest if given",
        "standard error of the measurement, median",
        "mean square deviation in standard errors",
        "reproduce",
    )
    head = f"| {' | '.join(columns)} |\n"
    lines = [*components_lines(), *moments_lines(), *transformers_lines()]
    return head + "|---|---|---|---|---|---|\n" + "".join(f"{line}\n" for line in lines)


def page_table(page: str) -> str:
    """The table as the page has it."""
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/accuracy.md")
    computed = table()
    print(computed, end="")  # noqa: T201
    if parser.parse_args().write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page.replace(page_table(page), computed), encoding="utf-8")


if __name__ == "__main__":
    main()
