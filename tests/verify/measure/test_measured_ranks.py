"""The measured rows on the ranks of heads still give the verdict that docs/effective_rank.md prints."""

from dataclasses import replace
from pathlib import Path

from depthwidth.coefficients import data_directory
from verify.jobs import find_job
from verify.rows import rows_from_csv


def test_the_verdict():
    found = rows_from_csv((data_directory() / "measured" / "head_rank.csv").read_bytes(), "head_rank")
    judge = find_job("head-rank").judge
    verdict = judge(found, ())
    page = (Path(__file__).resolve().parents[3] / "docs" / "effective_rank.md").read_text(encoding="utf-8")
    page = " ".join(page.split())
    assert verdict.outcome == "holds on a range"
    assert "**Holds on a range**" in page
    judged = [line for line in verdict.comparisons if line.passes is not None]
    assert len(judged) == 2
    for line in judged:
        assert line.passes
        assert f"{line.measured:.2f} are used and {line.predicted:.2f} certified" in page or (
            f"{line.measured:.2f} dimensions are used and {line.predicted:.2f} certified" in page
        )
    # The control: heads that use all of their dimensions.
    full = [replace(row, value=float(row.labels["head_dim"])) if row.quantity == "numerical_rank" else row for row in found]
    assert judge(full, ()).outcome == "fails"
