"""A page of reports: it explains itself, asks for nothing, calls noise undecided, and a bad picture costs itself only."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from statistics import mean
from xml.etree import ElementTree

import pytest
from helpers import one_quick_in

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import measured_reports
from measured_reports import report_of, rows_of
from test_records import PLAN, RUN, row

from verify.jobs import ABOVE_ZERO, BELOW_ZERO, Comparison, Limit, Verdict, jobs
from verify.runs.margins import flips, margin_in_words, outcome_in_noise, verdicts_without_seeds
from verify.runs.page import as_page
from verify.runs.pictures import gauge, over_seeds, picture, settings_of
from verify.runs.report import Report, reports
from verify.runs.store import Store

SECTIONS = ("The prediction, made beforehand", "The picture", "What would change our mind", "How it was run", "All comparisons")
ASKING = ("<script", "<link", "<img", "<iframe", " src=", "@import", "url(http", "srcset", "javascript:")
VOID = {"meta", "br"}


class Checked(HTMLParser):
    """Notes tags that are not closed in order, and references that leave the page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.ids, self.links = [], [], [], []
        self.feed(text)
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if tag == "article" else []
        self.links += [given[name] for name in ("href", "xlink:href") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


def report(*rows, comparisons=(), outcome="undecided", **plan):
    return Report({**PLAN, **plan}, rows, 1, Verdict(outcome, "s", comparisons), ())


def fails(axes, rows):
    raise KeyError("depth")


@one_quick_in(8, "name", measured_reports.names())
def test_the_page_of_a_job_is_whole_and_asks_for_nothing(name):
    page = as_page([report_of(name)])
    checked = Checked(page)
    assert checked.faults == []
    assert all(link.startswith("#") for link in checked.links)
    assert not [word for word in ASKING if word in page]
    assert [heading for heading in SECTIONS if f"<h3>{heading}</h3>" not in page] == []
    assert f"depthwidth verify run {name} --size small" in page
    assert page.count("<svg") >= 1
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)  # noqa: S314
    assert "cannot be drawn" not in page
    assert "None" not in re.sub(r"<[^>]*>", "", re.sub(r"<(svg|style).*?</\1>", "", page, flags=re.DOTALL))
    assert len(page) < 2**20


def test_the_parser_of_the_test_finds_what_is_broken():
    assert Checked("<p><b>x</p>").faults
    assert Checked("<p>x").faults
    assert not Checked('<p>x<br></p><svg><line x="1"/></svg>').faults


@one_quick_in(8, "name", measured_reports.names())
def test_a_limit_says_the_same_as_the_criterion(name):
    lines = [line for line in report_of(name).verdict.comparisons if line.limit is not None and line.passes is not None]
    told = [line.limit.is_met(line.measured, line.stderr) for line in lines]
    assert told == [line.passes for line in lines]


@pytest.mark.slow
def test_limits_are_declared_and_some_are_not_met():
    every = [line for name in measured_reports.names() for line in report_of(name).verdict.comparisons]
    assert sum(line.limit is not None for line in every) > 400
    assert {line.passes for line in every if line.limit is not None} == {True, False}


def test_noise_beyond_the_tolerance_is_not_called_a_success():
    quiet = Comparison("gap", 1.0, 1.01, 0.01, True, limit=Limit.around(1.0, 0.05))
    noisy = replace(quiet, stderr=0.5)
    assert [line.is_noisy for line in (quiet, noisy, replace(noisy, passes=False), replace(noisy, stderr=None))] == [0, 1, 0, 0]
    for lines, standing in (((quiet,), "holds"), ((noisy,), "undecided"), ((quiet, noisy), "holds on a range")):
        found = report(row(), comparisons=lines, outcome="holds")
        assert found.standing == standing
        page = as_page([found])
        assert f"<strong>{standing[0].upper()}{standing[1:]}</strong>" in page
        assert ('class="verdict holds"' in page) == (standing == "holds")
        assert ("By the letter of the criterion: holds" in page) == (standing != "holds")
        assert found.to_dict()["outcome"] == "holds"
        assert found.to_dict()["standing"] == standing
    assert outcome_in_noise(Verdict("fails", "s", (noisy,))) == "fails"


def test_noise_in_the_rows_of_a_job_undecides_its_page():
    rows = [row for row in rows_of("attention-entropy") if row.quantity == "entropy"]
    assert report_of("attention-entropy", rows).standing == "holds on a range"
    noisy = report_of("attention-entropy", [replace(row, stderr=100 * (row.stderr or 0.01)) for row in rows])
    assert noisy.verdict.outcome == "holds"
    assert noisy.standing == "undecided"
    assert 'class="verdict open"' in as_page([noisy])


@pytest.mark.parametrize("sigmas", [-2.0, 0.0, 2.0])
def test_a_noise_that_the_criterion_counts_blurs_nothing(sigmas):
    """A difference that must exceed its own error, or may miss a band by it, has no tolerance beside the noise."""
    assert not Limit(high=0.0, sigmas=sigmas or 2).is_blurred(-1.0, 5.0)
    assert not Limit(1.0, 1.1, sigmas or -2).is_blurred(1.2, 0.1)
    assert Limit(1.0, 1.1).is_blurred(1.05, 0.1)


def test_the_value_that_would_change_a_verdict_does():
    """Differences of AltUp, moved to either side of the value that the page names."""
    found = report_of("altup-quality")
    (line,) = [line for line in found.verdict.comparisons if line.limit is not None]
    (said,) = flips(found.verdict, 3)
    limit = float(re.search(r"a value above (-[\d.]+) would not meet", said)[1])
    for moved, passes in ((limit - 1e-3, True), (limit + 1e-3, None)):
        by = moved - line.measured
        of_altup = [r.labels.get("arm") == "altup" and r.quantity == "loss" for r in found.measured]
        rows = [replace(r, value=r.value + by * ours) for r, ours in zip(found.measured, of_altup, strict=True)]
        again = report_of("altup-quality", rows).verdict.comparisons[0]
        assert again.measured == pytest.approx(moved)
        assert again.passes is passes


def test_the_number_of_seeds_that_would_change_a_verdict_does():
    for line, limit in (
        (Comparison("x", 1.0, 1.01, 0.06, True, limit=Limit.around(1.0, 0.05)), 0.05),
        (Comparison("x", None, -0.1, 0.2, None, limit=BELOW_ZERO), 0.1),
        (Comparison("x", None, 0.1, 0.2, False, limit=ABOVE_ZERO), 0.1),
    ):
        (said,) = flips(Verdict("undecided", "s", (line,)), 3)
        seeds = int(re.search(r"about ([\d,]+) seeds in place of 3", said)[1])
        for count, enough in ((seeds, True), (seeds - 1, False)):
            error = line.stderr * (3 / count) ** 0.5
            assert (2 * error <= limit * (1 + 1e-9)) == enough
    wrong = Comparison("x", None, 0.1, 0.02, False, limit=BELOW_ZERO)
    assert "more seeds at this mean would not" in flips(Verdict("fails", "s", (wrong,)), 3)[0]


def test_margins_in_words():
    near = Comparison("near", 1.0, 1.04, 0.01, True, limit=Limit.around(1.0, 0.05))
    far = Comparison("far", 1.0, 1.0, 0.01, True, limit=Limit.around(1.0, 0.05))
    out = Comparison("out", 1.0, 1.2, 0.05, False, limit=Limit.around(1.0, 0.05))
    for lines, words in (
        ((far, near), "Of 2 comparisons the closest to its limit, near, is inside by 0.01, which is 1.0 standard errors"),
        ((far, near, out), "out misses its limit by 0.15, which is 3.0 standard errors"),
        (
            (Comparison("x", 1.0, 1.0),),
            "The criterion is not a limit on one measured number, so no margin can be stated",
        ),
    ):
        assert margin_in_words(Verdict("holds", "s", lines)) == words


def test_a_limit_that_counts_a_noise_needs_one():
    """One seed: the difference is on the right side of zero, which says nothing."""
    one_seed = Verdict("undecided", "s", (Comparison("x", None, -0.1, None, None, limit=BELOW_ZERO),))
    assert margin_in_words(one_seed) == "The criterion counts the noise, which is not known, so no margin can be stated"
    assert flips(one_seed, 1) == []


def test_what_is_not_decided_says_why():
    crossing = Comparison("size of equal loss", 1e6, None, None, None, "the curves do not cross")
    expected = "size of equal loss, if it were measured; so far the curves do not cross"
    assert flips(Verdict("undecided", "s", (crossing,)), 2) == [expected]
    assert flips(Verdict("holds", "s", (crossing,)), 2) == []


def test_seeds_are_left_out_one_at_a_time():
    found = report_of("altup-quality")
    (said,) = verdicts_without_seeds(found.plan, found.measured, found.judged)
    assert said == "With any one of the 3 seeds left out, the criterion gives the same verdict"
    spoiled = [replace(r, value=r.value + 3) if r.seed == 2 and r.labels.get("arm") == "altup" else r for r in found.measured]
    other = report_of("altup-quality", spoiled)
    assert other.verdict.outcome == "undecided"
    assert verdicts_without_seeds(other.plan, other.measured, other.judged) == ["Without seed 2 the criterion gives: holds"]
    assert verdicts_without_seeds(found.plan, [r for r in found.measured if r.seed], "holds") == []  # two seeds


def test_error_bars_are_those_of_the_seeds():
    rows = [row(value=value, predicted=1.0, seed=seed, stderr=9.0) for seed, value in enumerate((1.0, 2.0, 3.0))]
    assert over_seeds(rows) == [(1.0, 2.0, pytest.approx(1 / 3**0.5))]
    assert over_seeds(rows[:1]) == [(1.0, 1.0, 9.0)]
    assert over_seeds([replace(rows[0], labels={"depth": 4}), *rows[1:]])[0] == (1.0, 1.0, 9.0)
    groups = settings_of(rows_of("altup-quality"))
    assert {len(values) for values in groups.values()} == {3}
    of_altup = [r.value for r in rows_of("altup-quality") if r.quantity == "loss" and r.labels["arm"] == "altup"]
    assert mean(groups["altup"]) == pytest.approx(mean(of_altup))


def test_a_gauge_shows_the_limit_the_prediction_and_the_value():
    drawn = gauge(Comparison("x", 1.0, 1.2, 0.05, False, limit=Limit.around(1.0, 0.05)))
    assert all(f'class="{name}' in drawn for name in ("zone", "told", "bar out", "dot out"))
    assert gauge(Comparison("x", None, 1.2)) == ""
    for bad in (float("nan"), float("inf"), None, 1e308, -1e308):
        assert "nan" not in gauge(Comparison("x", -1e308, bad, 1.0, True, limit=Limit(high=0.0)))


def test_a_picture_that_cannot_be_drawn_is_named():
    assert "This picture cannot be drawn: KeyError" in picture(fails, [row()])
    assert "This picture cannot be drawn: ValueError" in picture(lambda axes, rows: axes.errorbar([1], [1], [-1]), [row()])
    assert "<svg" in picture(lambda axes, rows: axes.plot([1, 2]), [row()])


@one_quick_in(6, "value", [1e308, -1e308, 5e-324, float("inf"), float("nan"), 0.0], first=4)
def test_numbers_that_a_picture_cannot_show(value):
    page = as_page([report(row(value=value, predicted=1e-300, stderr=1e308), row(value=1.0, predicted=1.0, quantity="other"))])
    assert page.count("<svg") >= 1
    assert Checked(page).faults == []


@pytest.mark.slow
def test_labels_that_a_jobs_own_pictures_do_not_know():
    page = as_page([report(row(predicted=1.0), job="optimal-width-transfer"), report(row(predicted=1.0), job="walk-of-nobody")])
    assert "This picture cannot be drawn" in page
    assert page.count("<svg") == 2
    assert Checked(page).faults == []


def test_names_are_text_on_the_page():
    page = as_page(
        [report(row(predicted=1.0, quantity="<script>"), question="<b>Why</b>?", comparisons=(Comparison("<i>", 1, 1),))]
    )
    assert "<script" not in page
    assert "<b>Why" not in page
    assert "&lt;i&gt;" in page


def test_rows_of_an_unknown_job_are_reported(tmp_path):
    store = Store(tmp_path).open()
    store.write_plan({**PLAN, "job": "walk-of-nobody"})
    store.publish(RUN, [row(job="walk-of-nobody", predicted=1.0, stderr=0.1)])
    (found,) = reports(store)
    assert "is not installed" in found.verdict.summary
    assert "<svg" in as_page([found])


def test_several_reports_have_a_list_with_links():
    page = as_page([report(row(), question="One?"), report(row(), question="Two?")])
    checked = Checked(page)
    assert checked.ids == ["report-0", "report-1"]
    assert checked.links[:2] == ["#report-0", "#report-1"]
    assert "<nav>" not in as_page([report(row())])


def test_every_job_has_a_name_that_the_page_can_show():
    assert set(measured_reports.names()) <= set(jobs())
