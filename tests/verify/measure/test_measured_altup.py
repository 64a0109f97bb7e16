"""The measured rows on alternating updates still give the verdicts that docs/altup.md prints."""

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from depthwidth.coefficients import data_directory
from verify.jobs import difference_error, find_job
from verify.jobs.altup_quality import EQUAL, STILL, TABLE
from verify.rows import rows_from_csv


def rows(name):
    return rows_from_csv((data_directory() / "measured" / f"{name}.csv").read_bytes(), name)


def test_the_verdict_on_time():
    found = rows("altup_speed")
    verdict = find_job("altup-speed").judge(found, ())
    assert (verdict.outcome, len(verdict.comparisons)) == ("holds on a range", 8)
    outside = [line for line in verdict.comparisons if not line.passes]
    assert [line.what.partition(":")[0] for line in outside] == ["recycled, 4 streams, training"]
    assert outside[0].measured == pytest.approx(1.107, abs=5e-4)
    # The control: a dense model twice as quick would put every ratio outside.
    turned = [replace(r, value=2 * r.value) if r.quantity == "time_ratio" else r for r in found]
    assert find_job("altup-speed").judge(turned, ()).outcome == "fails"


def test_the_verdict_on_loss():
    found = rows("altup_quality")
    verdict = find_job("altup-quality").judge(found, ())
    assert verdict.outcome == "holds"
    page = " ".join((Path(__file__).resolve().parents[3] / "docs" / "altup.md").read_text(encoding="utf-8").split())
    printed = [line for line in verdict.comparisons if "table" not in line.what]
    assert len(printed) == 5
    for line in printed:
        assert f"{line.measured:+.3f} ± {line.stderr:.3f}" in page
    # The control: arms exchanged.
    other = {"altup": EQUAL, EQUAL: "altup"}
    turned = [replace(r, labels=r.labels | {"arm": other.get(r.labels["arm"], r.labels["arm"])}) for r in found]
    assert find_job("altup-quality").judge(turned, ()).outcome == "fails"


def printed_page():
    return " ".join((Path(__file__).resolve().parents[3] / "docs" / "altup.md").read_text(encoding="utf-8").split())


def test_the_page_prints_the_longer_training_and_its_verdict():
    found = rows("altup_long")
    verdict = find_job("altup-long").judge(found, ())
    page = printed_page()
    assert f"The verdict is *{verdict.outcome}*" in page
    assert len(verdict.comparisons) == 12
    for line in verdict.comparisons:
        assert f"{line.measured:+.3f} ± {line.stderr:.3f}" in page
    dense = [line.measured for line in verdict.comparisons[:6]]
    still = [line.measured for line in verdict.comparisons[6:]]
    assert dense[0] < dense[2] < dense[-1] < 0  # the lead shrinks
    assert still[-1] < still[2] < still[0]  # and this one grows
    other = {"altup": STILL, STILL: "altup", EQUAL: "altup"}
    turned = [replace(r, labels=r.labels | {"arm": other[r.labels["arm"]]}) for r in found if r.labels["arm"] != STILL]
    turned += [replace(r, labels=r.labels | {"arm": EQUAL}) for r in found if r.labels["arm"] == "altup"]
    assert find_job("altup-long").judge(turned, ()).outcome == "fails"


def test_the_page_prints_the_controls_on_the_tables():
    losses = {}
    for row in rows("altup_tables"):
        losses.setdefault(row.labels["arm"], []).append(row.value)
    assert {name: len(values) for name, values in losses.items()} == dict.fromkeys(("altup", STILL, TABLE, EQUAL), 3)
    page = printed_page()
    for one, other in (("altup", EQUAL), (STILL, EQUAL), (TABLE, EQUAL), ("altup", STILL)):
        gap = statistics.mean(losses[one]) - statistics.mean(losses[other])
        assert f"{gap:+.3f} ± {difference_error(losses[one], losses[other]):.3f}" in page


def test_the_page_prints_both_widths_and_the_verdict():
    found = rows("altup_width")
    verdict = find_job("altup-width").judge(found, ())
    page = printed_page().partition("**Twice the width**")[2].partition("### Ours: time")[0]
    assert f"The verdict is *{verdict.outcome}*" in page
    *leads, change = verdict.comparisons
    assert len(leads) == 4
    for line in leads:
        assert f"{line.measured:+.3f} ± {line.stderr:.3f}" in page
    left = 100 * leads[2].measured / leads[0].measured
    assert f"The lead falls by {change.measured:.3f} ± {change.stderr:.3f}, to {left:.0f} %" in page
    losses = {}
    for row in found:
        losses.setdefault((row.labels["width"], row.labels["arm"]), []).append(row.value)
    for width in (32, 64):
        printed = " | ".join(f"{statistics.mean(losses[width, arm]):.3f}" for arm in ("altup", STILL, EQUAL))
        assert f"| {width} | {printed} |" in page
    # The control: widths exchanged.
    turned = [replace(r, labels=r.labels | {"width": 96 - r.labels["width"]}) for r in found]
    assert find_job("altup-width").judge(turned, ()).outcome == "holds on a range"
