"""The measured rows on scale-invariant training still give the verdict that docs/scale_invariance.md prints."""

from dataclasses import replace
from pathlib import Path

import pytest

from depthwidth.coefficients import data_directory
from verify.jobs import find_job
from verify.jobs.scale_invariance import INVARIANT, OPTIMIZERS
from verify.rows import rows_from_csv

PAGE = Path(__file__).resolve().parents[3] / "docs" / "scale_invariance.md"


def judged(rows):
    job = find_job("scale-invariance")
    return job.judge(rows, list(job.predict("small")))


def test_the_longer_runs_are_robust_to_the_loss_alone():
    found = rows_from_csv((data_directory() / "measured" / "scale_robustness.csv").read_bytes(), "scale_robustness")
    job = find_job("scale-robustness")
    verdict = job.judge(found, ())
    assert verdict.outcome == "holds on a range"
    assert [line.passes for line in verdict.comparisons[:3]] == [False, False, True]
    page = PAGE.read_text(encoding="utf-8")
    for line in verdict.comparisons[3:]:
        assert f"{line.measured:.2f} ± {line.stderr:.2f}" in page
    # The control: the scale-invariant encoder ends alike from all starts.
    usual = {
        row.seed: row.value for row in found if row.labels["arm"] == INVARIANT and row.quantity == "loss" and of_usual(row)
    }
    alike = [
        replace(row, value=usual[row.seed]) if row.quantity == "loss" and row.labels["arm"] == INVARIANT else row
        for row in found
    ]
    assert job.judge(alike, ()).outcome == "holds"


def of_usual(row):
    return row.labels["start"] == row.labels["loss_factor"] == 1


def test_the_verdict():
    found = rows_from_csv((data_directory() / "measured" / "scale_invariance.csv").read_bytes(), "scale_invariance")
    verdict = judged(found)
    assert verdict.outcome == "fails"
    assert [line.passes for line in verdict.comparisons[:3]] == [None, None, None]
    laws = [line for line in verdict.comparisons if line.passes is not None]
    assert [line.what for line in laws] == ["norm from start 1", "effective learning rate from start 1"]
    assert not any(line.passes for line in laws)
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for line in laws:
        digits = 3 if line.what.startswith("norm") else 4
        assert f"{line.measured:.{digits}f} against {line.predicted:.{digits}f}" in page
    losses = {line.what: line for line in verdict.comparisons if ": loss at start" in line.what}
    for arm in OPTIMIZERS:
        for start in ("0.01", "0.1", "1", "10", "100"):
            assert f"{losses[f'{arm}: loss at start {start}, loss factor 1'].measured:.2f}" in page
    (told,) = [line for line in verdict.comparisons if line.what == "norm from start 1, by all gradients before"]
    assert told.passes is None  # it was added afterwards
    assert told.measured == pytest.approx(told.predicted, rel=1e-7)
    assert f"gives {told.predicted:.4f} where {told.measured:.4f} was measured" in page
    # The control: a norm as the law has it.
    told, found_norm = laws[0].predicted, laws[0].measured
    turned = [replace(row, value=row.value * told / found_norm) if row.quantity == "norm" else row for row in found]
    assert judged(turned).outcome == "holds on a range"
    assert {row.labels["arm"] for row in found if row.quantity == "norm"} == {INVARIANT}
    assert max(row.value for row in found if row.quantity == "loss") == pytest.approx(1.82, abs=0.01)
