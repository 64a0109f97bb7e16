"""Thresholds and the record of networks that trained or did not, on which they are calibrated."""

import json
import math

import diagnosis_table as record
import pytest

from depthwidth.analysis.diagnosis.base import Thresholds
from depthwidth.analysis.diagnosis.checks import correlation_at_top, forward_growth, gradient_ratio
from depthwidth.coefficients import reference

ROWS = {row["network"]: row for row in reference("trainability")}


def max_side(ratio):
    """A ratio or its inverse, whichever is larger."""
    return max(ratio, 1 / ratio)


EDGES = {
    "gradient_ratio": (
        gradient_ratio.LIMIT,
        "Mixtral-8x22B-v0.1",
        "18 + 18 layers, post-norm, xavier",
        lambda v: max(v, 1 / v),
    ),
    "correlation_at_top": (
        1 / (1 - correlation_at_top.COLLAPSE.limit),
        "6 + 6 layers, post-norm, xavier",
        "18 + 18 layers, post-norm, xavier",
        lambda r: 1 / (1 - r),
    ),
}
"""By finding: the limit, the most extreme trained network, the least extreme untrained one, and the size that is compared."""


@pytest.mark.slow
@pytest.mark.parametrize("name", EDGES)
def test_a_limit_lies_halfway_between_trained_and_untrained(name):
    limit, trained, untrained, size = EDGES[name]
    assert (ROWS[trained]["trained"], ROWS[untrained]["trained"]) == ("1", "0")
    ends = [record.findings_of(ROWS[network])[name] for network in (trained, untrained)]
    middle = math.sqrt(size(ends[0].value) * size(ends[1].value))
    assert limit == pytest.approx(middle, rel=0.05)  # the limit is rounded to two digits
    assert [end.severity for end in ends] == ["watch", "problem"]


@pytest.mark.slow
def test_the_limit_of_growth_is_ten_times_the_largest_trained():
    found = record.findings_of(ROWS["Qwen3-30B-A3B"])["forward_growth"]
    assert pytest.approx(10 * found.value, rel=0.1) == forward_growth.LIMIT


def test_the_page_counts_the_record():
    """Rates are out of the networks that the record holds, and names of wrongly judged ones are in it."""
    page = record.PAGE.read_text(encoding="utf-8")
    trained = sum(row["trained"] == "1" for row in ROWS.values())
    assert f"lists {len(ROWS)} networks" in page
    assert f"{trained} trained and {len(ROWS) - trained} did not" in page
    first, second = record.printed(page).split("\n\n")
    assert all(f"of {trained} " in line for line in first.splitlines() if line.startswith("| gradient ratio"))
    judged = [line.split(" | ")[0].removeprefix("| ") for line in second.splitlines()[2:]]
    assert set(judged) <= set(ROWS)
    counts = {kind: sum(ROWS[name]["trained"] == kind for name in judged) for kind in "01"}
    total = first.splitlines()[-1].split(" | ")
    assert total[2] == f"{counts['1']} of {trained}"
    assert total[3] == f"{len(ROWS) - trained - counts['0']} of {len(ROWS) - trained} |"


def test_every_row_is_a_network():
    for row in ROWS.values():
        assert bool(row["config"]) != bool(row["design"])
        assert row["trained"] in "01"
        assert json.loads(row["config"] or row["design"])


def test_wrong_judgements_are_counted():
    """A network that trained is a false alarm only with a problem, one that did not is a miss only without."""

    def made(value):
        return {"gradient_ratio": gradient_ratio.Finding("gradient_ratio", "", value, Thresholds(10, 100, ""), "")}

    rows = [({"network": f"{trained}-{v}", "trained": trained}, made(v)) for trained in "10" for v in (1.0, 20.0, 200.0)]
    first, second = record.tables(rows).split("\n\n")
    assert "| gradient ratio | 2 of 3 | 1 of 3 | 1 of 3 |" in first
    assert [line.split(" | ")[0] for line in second.splitlines()[2:]] == ["| 1-200.0", "| 0-1.0", "| 0-20.0"]
