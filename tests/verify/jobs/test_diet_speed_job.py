"""The job on the time of score biases: its smallest run, its predictions, and its verdict on made and measured rows."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from depthwidth.coefficients import data_directory  # noqa: E402
from verify.jobs import Context, find_job  # noqa: E402
from verify.jobs.diet_speed import BASE, MODES, SCHEMES, flops_of, tree_of  # noqa: E402
from verify.rows import Row, rows_from_csv  # noqa: E402

SIZES = {"layers": 3, "width": 16, "heads": 2, "context": 8, "batch": 2}


def test_operations_of_a_mode_are_those_of_its_biases():
    bias = 2 * 8 * 8 * 16 * 2  # the product of two tables of 16 features, for two heads
    base = flops_of(BASE, SIZES, "computed")
    assert flops_of("diet-abs", SIZES, "kept") == base
    assert flops_of("diet-abs", SIZES, "computed") == flops_of("diet-abs", SIZES, "training") == base + 3 * bias
    assert flops_of("diet-abs, shared", SIZES, "computed") == base + bias
    assert flops_of("shaw", SIZES, "kept") == flops_of("shaw", SIZES, "computed") > base
    three, one = (tree_of(name, SIZES).score_bias_bytes(dtype="fp32") for name in ("diet-rel", "diet-rel, shared"))
    assert three == 3 * one == 3 * 2 * 8 * 8 * 4


@pytest.mark.slow
def test_it_times_at_the_smallest_size(tmp_path):
    job = find_job("diet-speed")
    for run in job.runs("tiny"):
        if run.labels["positions"] in ("diet-abs, shared", "shaw"):
            found = list(job.measure(run.spec, Context("cpu", tmp_path, 0)))
            assert [one.site for one in found] == list(MODES)
            assert all(one.value > 0 and one.stderr >= 0 for one in found)


def rows(**changed):
    """Ratios as claimed: kept biases are free, computed ones cost for each layer, Shaw's vectors most."""
    means = {(name, mode): 1.3 for name in SCHEMES for mode in MODES}
    means |= {(name, "kept"): 1.01 for name in SCHEMES}
    means |= {(f"{name}, shared", "computed"): 1.1 for name in ("diet-rel", "diet-abs")} | {("shaw", "kept"): 1.5}
    means |= {tuple(name.split("/")): value for name, value in changed.items()}
    return [
        Row(quantity="time_ratio", site=mode, value=value + 0.01 * seed, predicted=1.0, seed=seed, labels={"positions": name})
        for (name, mode), value in means.items() for seed in range(3)
    ]  # fmt: skip


def test_the_verdict():
    judge = find_job("diet-speed").judge
    good = judge(rows(), ())
    assert good.outcome == "holds"
    for wrong in ({"diet-rel/kept": 1.2}, {"diet-abs/computed": 1.0}, {"diet-rel, shared/computed": 1.4}, {"shaw/kept": 1.0}):
        assert judge(rows(**wrong), ()).outcome == "holds on a range", wrong
    assert judge(rows()[:-9], ()).summary == "runs are missing"
    assert judge([row for row in rows() if row.seed == 0], ()).outcome == "undecided"


def test_the_page_prints_the_committed_rows_and_their_verdict():
    found = rows_from_csv((data_directory() / "measured" / "diet_speed.csv").read_bytes())
    page = (Path(__file__).parents[3] / "docs" / "positions.md").read_text(encoding="utf-8")
    verdict = find_job("diet-speed").judge(found, ())
    assert f"The verdict is *{verdict.outcome}*: nine of ten" in page
    assert [line.passes for line in verdict.comparisons].count(True) == 9
    (failed,) = [line for line in verdict.comparisons if line.passes is False]
    assert failed.what.startswith("diet-abs, shared computed")
    assert f"{failed.measured:.3f}({1000 * failed.stderr:.0f})" in page
    for line in verdict.comparisons:
        if ": time over" in line.what:
            digits = 2 if "shaw" in line.what else 3
            assert f"{line.measured:.{digits}f}({10**digits * line.stderr:.0f})" in page, line.what
