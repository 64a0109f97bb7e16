"""The table of errors in docs/accuracy.md is computed from the rows that are kept."""

import dataclasses

import pytest

pytest.importorskip("torch")

import accuracy


def test_the_page_has_the_table_that_the_kept_rows_give():
    assert accuracy.page_table(accuracy.PAGE.read_text(encoding="utf-8")) == accuracy.table()


def test_an_error_is_relative_but_for_correlations():
    row = next(row for row in accuracy.kept("moments.csv") if row.quantity == "variance")
    tenth_more = dataclasses.replace(row, predicted=1.1 * row.value)
    assert accuracy.error(tenth_more) == pytest.approx(10.0)
    assert accuracy.error(dataclasses.replace(tenth_more, quantity="correlation")) == pytest.approx(0.1 * row.value)


def test_a_prediction_that_is_off_shows_in_the_table(monkeypatch):
    """Negative control: one prediction in a hundred a fifth too large moves the 99th percentile."""
    kept = accuracy.kept

    def off(file):
        return [
            dataclasses.replace(row, predicted=1.2 * row.predicted) if place % 50 == 0 else row
            for place, row in enumerate(kept(file))
        ]

    before = accuracy.moments_lines()
    monkeypatch.setattr(accuracy, "kept", off)
    assert all(one != other for one, other in zip(before[:3], accuracy.moments_lines()[:3], strict=True))
