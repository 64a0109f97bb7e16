"""The measured rows on tree attention still give the verdicts and the numbers that docs/treeformer.md prints."""

import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from depthwidth.coefficients import data_directory
from verify.jobs import find_job
from verify.rows import rows_from_csv

PAGE = " ".join((Path(__file__).resolve().parents[3] / "docs" / "treeformer.md").read_text(encoding="utf-8").split())


def rows(name):
    return rows_from_csv((data_directory() / "measured" / f"{name}.csv").read_bytes(), name)


def judged(name, its):
    return find_job(name).judge(its, ())


def test_the_verdict_on_costs():
    found = rows("treeformer_cost")
    verdict = judged("treeformer-cost", found)
    assert verdict.outcome == "holds"
    at = {line.what: line for line in verdict.comparisons}
    assert at["16,384 tokens: full attention over TF, time"].measured == pytest.approx(12.9, abs=0.05)
    for name, predicted, measured in (("TF", 713, 805), ("TC", 386, 433)):
        line = at[f"length of break-even of {name}, tokens"]
        assert (round(line.predicted), round(line.measured)) == (predicted, measured)
        assert re.search(rf"\b{predicted:,} (tokens )?for {name} \(measured: {measured:,}\)", PAGE)
    # A prediction without the starts of kernels says that trees are faster on shorter texts than they are.
    still = [replace(r, value=0.0) if "start_seconds" in r.quantity else r for r in found]
    for line in judged("treeformer-cost", still).comparisons:
        if line.what.startswith("length of break-even"):
            assert line.predicted < 0.93 * at[line.what].predicted
    # The control: a full attention ten times as quick would never be passed by much.
    turned = [replace(r, value=r.value / 20) if r.quantity == "full_seconds" else r for r in found]
    assert sum(not line.passes for line in judged("treeformer-cost", turned).comparisons) > 2


def test_the_page_prints_the_times():
    found = rows("treeformer_cost")
    for length in (256, 512, 4096, 16384):
        its = {
            name: statistics.mean(
                r.value for r in found if r.labels.get("length") == length and r.quantity == f"{name}_seconds"
            )
            for name in ("full", "leaf", "path")
        }
        printed = " | ".join(f"{1e3 * v:.1f}" if v < 0.01 else f"{1e3 * v:,.0f}" for v in its.values())
        assert printed in PAGE, printed


def test_the_verdict_on_quality():
    found = rows("treeformer_quality")
    verdict = judged("treeformer-quality", found)
    assert verdict.outcome == "holds on a range"
    failed = [line for line in verdict.comparisons if line.passes is False]
    assert [line.what for line in failed] == [
        f"{one}: loss with a learned tree less that with a fixed one" for one in ("TF", "TC")
    ]
    for line in (*failed, verdict.comparisons[-1]):
        assert f"{abs(line.measured):.2f}({100 * line.stderr:.0f})" in PAGE
    assert verdict.summary == "bootstrapping regains 77 % of what TF loses; bootstrapping regains 18 % of what TC loses"
    losses = {}
    for row in found:
        if row.quantity == "loss":
            losses.setdefault(row.labels["arm"], []).append(row.value)
    assert {len(its) for its in losses.values()} == {3}
    for its in losses.values():
        assert f"| {statistics.mean(its):.2f}(" in PAGE
    # The control: the arms exchanged.
    other = {"TF": "TF bootstrapped", "TF bootstrapped": "TF", "TC": "TC bootstrapped", "TC bootstrapped": "TC"}
    other |= {
        "TF fixed tree": "full",
        "full": "TF fixed tree",
        "TC fixed tree": "local window",
        "local window": "TC fixed tree",
    }
    turned = [replace(r, labels=r.labels | {"arm": other[r.labels["arm"]]}) for r in found]
    assert judged("treeformer-quality", turned).outcome == "fails"
