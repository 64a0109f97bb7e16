"""A page of reports: whatever one picture cannot draw costs that picture only."""

import pytest
from helpers import one_quick_in

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from test_records import PLAN, RUN, row

from verify.jobs import Verdict
from verify.runs.report import Report, _svg, as_page, reports
from verify.runs.store import Store


def report(*rows, **plan):
    return Report({**PLAN, **plan}, rows, 1, Verdict("undecided", "s"), ())


def fails(axes, rows):
    raise KeyError("depth")


def test_a_picture_that_cannot_be_drawn_is_named():
    assert "This picture cannot be drawn: KeyError" in _svg(fails, [row()])
    assert "<svg" in _svg(lambda axes, rows: axes.plot([1, 2]), [row()])


@one_quick_in(6, "value", [1e308, -1e308, 5e-324, float("inf"), float("nan"), 0.0], first=4)
def test_numbers_that_a_picture_cannot_show(value):
    page = as_page([report(row(value=value, predicted=1e-300, stderr=1e308), row(value=1.0, predicted=1.0, quantity="other"))])
    assert page.count("<svg") >= 1
    assert page.endswith("</html>\n")


@pytest.mark.slow
def test_labels_that_a_jobs_own_pictures_do_not_know():
    page = as_page([report(row(predicted=1.0), job="optimal-width-transfer"), report(row(predicted=1.0), job="walk-of-nobody")])
    assert "This picture cannot be drawn" in page
    assert page.count("<svg") == 2


def test_rows_of_an_unknown_job_are_reported(tmp_path):
    store = Store(tmp_path).open()
    store.write_plan({**PLAN, "job": "walk-of-nobody"})
    store.publish(RUN, [row(job="walk-of-nobody", predicted=1.0, stderr=0.1)])
    (found,) = reports(store)
    assert "is not installed" in found.verdict.summary
    assert "<svg" in as_page([found])
