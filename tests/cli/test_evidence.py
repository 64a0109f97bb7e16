"""``depthwidth evidence``: the committed results, and judgements of a table."""

import csv
import json

import pytest

from depthwidth.fitting.tournament import published_scores


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("width", "layers", "non_embedding", "val_loss"))
        for width in (256, 362, 512, 724, 1024):
            for depth in (4, 8, 16, 32):
                writer.writerow(
                    (width, depth, 12 * depth * width**2, 3 - 0.1 * (width * depth) ** 0.1 + 0.01 * (width / depth / 40))
                )
    return path


def test_the_committed_results_are_printed(invoke):
    printed = json.loads(invoke("evidence", "--json").output)
    assert len(printed) == sum(score.parameters is None for score in published_scores())
    assert len(json.loads(invoke("evidence", "--cells", "--json").output)) == len(published_scores())
    page = invoke("evidence").output
    assert "gemstones/dolma: mean loss above the best shape" in page
    assert "measured2025, refitted" in page


def test_the_measured_shares_of_the_bands_are_printed(invoke):
    words = "12 and 22 of 22 best widths, 34 and 53 of 55 losses"
    assert words in invoke("evidence").output
    page = invoke("evidence", "--bands").output
    assert words in page
    rows = json.loads(invoke("evidence", "--bands", "--json").output)
    assert [row["quantity"] for row in rows] == ["width"] * 22 + ["loss"] * 55
    assert page.count("outside") == sum(2 - row["inside_50"] - row["inside_90"] for row in rows)
    assert all(row["low_90"] < row["low_50"] < row["high_50"] < row["high_90"] for row in rows)
    result = invoke("evidence", "--bands", "--cells")
    assert result.status == 2
    assert "--bands has no meaning with" in result.error


def test_a_table_is_judged(invoke, table):
    result = invoke("evidence", table, "--draws", "10", "--cells")
    assert result.status == 0, result.error
    assert "runs: each size" in result.output
    assert "20 rows of 20 models" in result.output
    assert "left out in turn" not in result.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.csv",), "there is no table 'none.csv'"),
        (("RUNS", "--refit", "levine2020"), "'levine2020' cannot be refitted"),
        (("RUNS", "--head-size", "--refit", "measured2025"), "--refit has no meaning with --head-size"),
        (("RUNS", "--draws", "1"), "draws=1 is not a whole number from 2"),
        (("RUNS", "--column", "width"), "--column 'width' is not of the form NAME=VALUE"),
        (("--least",), "--least has no meaning without RUNS"),
        (("--where", "width > 3"), "--where has no meaning without RUNS"),
        (("--draws", "10"), "--draws has no meaning without RUNS"),
        (("--head-size",), "--head-size has no meaning without RUNS"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(invoke, table, words, sentence):
    result = invoke("evidence", *(table if word == "RUNS" else word for word in words))
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)
    assert sentence in result.error
