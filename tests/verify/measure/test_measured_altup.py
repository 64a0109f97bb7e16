"""The measured rows on alternating updates still give the verdicts that docs/altup.md prints."""

from dataclasses import replace

import pytest

from depthwidth.coefficients import data_directory
from verify.jobs import find_job
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
