"""The measured rows on alternating updates still give the verdicts that docs/altup.md prints."""

from dataclasses import replace
from pathlib import Path

import pytest

from depthwidth.coefficients import data_directory
from verify.jobs import find_job
from verify.jobs.altup_quality import EQUAL
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
