"""The jobs on tree attention: judges on rows whose truth is known, and the smallest runs."""

import math

import pytest

from depthwidth.formulas import treeformer
from verify.jobs import Context, find_job
from verify.jobs.treeformer_cost import height_of, measured_break_even, predicted_break_even
from verify.jobs.treeformer_quality import ARMS, CONTROLS
from verify.rows import Row
from verify.runs.plans import make_plan

STEPS = {
    "pair_seconds": 2e-9, "level_seconds": 1e-7, "level_start_seconds": 2e-5, "leaf_token_seconds": 2e-6,
    "leaf_start_seconds": 5e-5, "node_token_seconds": 2e-7, "node_start_seconds": 4e-5,
}  # fmt: skip
STARTS = ("level_start_seconds", "leaf_start_seconds", "node_start_seconds")


def cost_rows(even=1.0, flops=1.0, gain=1.0):
    """Times that follow the steps, with the break-even moved by `even`, and operations off by `flops`."""
    rows = [Row(quantity=name, labels={"part": "steps"}, value=value, seed=0) for name, value in STEPS.items()]
    for length in (128, 512, 2048, 8192, 32768):
        height = math.log2(length / 64)
        tf = length * (2 * height * STEPS["level_seconds"] + STEPS["leaf_token_seconds"])
        tc = length * (2 * height * STEPS["level_seconds"] + (height + 1) * STEPS["node_token_seconds"])
        tf += 2 * height * STEPS["level_start_seconds"] + STEPS["leaf_start_seconds"]
        tc += 2 * height * STEPS["level_start_seconds"] + (height + 1) * STEPS["node_start_seconds"]
        labels = {"part": "length", "length": length, "height": height_of(length)}
        expected = float(treeformer.leaf_attention_flops(length, height_of(length), 128))
        values = {"full_seconds": STEPS["pair_seconds"] * length**2 * gain / even, "leaf_seconds": tf, "path_seconds": tc}
        rows += [Row(quantity=name, labels=labels, value=value, seed=0) for name, value in values.items()]
        rows.append(Row(quantity="leaf_flops", labels=labels, value=flops * expected, predicted=expected, seed=0))
    return rows


def test_the_judge_of_costs():
    judge = find_job("treeformer-cost").judge
    verdict = judge(cost_rows(), ())
    assert verdict.outcome == "holds"
    breaks = {line.what: line for line in verdict.comparisons if "break-even" in line.what}
    for line in breaks.values():
        assert line.measured == pytest.approx(line.predicted, rel=0.05)  # interpolated between lengths
    assert judge(cost_rows(even=1.5), ()).outcome == "holds"
    for wrong in (cost_rows(even=8.0), cost_rows(flops=1.1), cost_rows(even=1 / 8)):
        assert judge(wrong, ()).outcome == "holds on a range"
    assert judge([row for row in cost_rows() if row.quantity != "leaf_seconds"], ()).outcome == "undecided"


def test_lengths_of_break_even():
    times = {n: (1e-9 * n**2, 1e-6 * n) for n in (250, 500, 2000, 4000)}
    assert measured_break_even(times) == pytest.approx(1000)
    assert measured_break_even({n: (b, a) for n, (a, b) in times.items() if n < 1000}) == 0
    assert measured_break_even({n: both for n, both in times.items() if n < 1000}) == math.inf
    even = predicted_break_even(STEPS, "leaf")
    height = math.log2(even / 64)
    token = 2 * height * STEPS["level_seconds"] + STEPS["leaf_token_seconds"]
    start = 2 * height * STEPS["level_start_seconds"] + STEPS["leaf_start_seconds"]
    assert STEPS["pair_seconds"] * even**2 == pytest.approx(token * even + start, rel=1e-6)
    assert predicted_break_even({**STEPS, **dict.fromkeys(STARTS, 0.0)}, "leaf") < 0.96 * even


def quality_rows(noise, tf, tc, full=2.0, seeds=3, fixed=0.2):
    losses = {"full": full, "TF": 2.6, "TF bootstrapped": 2.6 - tf, "TC": 2.7, "TC bootstrapped": 2.7 - tc}
    losses |= {"TF fixed tree": 2.6 + fixed, "TC fixed tree": 2.9, "local window": 2.4}
    return [
        Row(quantity="loss", labels={"arm": arm}, value=losses[arm] + noise * (seed - 1), seed=seed)
        for arm in (*ARMS, *CONTROLS) for seed in range(seeds)
    ]  # fmt: skip


def test_the_judge_of_quality():
    judge = find_job("treeformer-quality").judge
    assert judge(quality_rows(0.01, 0.3, 0.2), ()).outcome == "holds"
    assert judge(quality_rows(0.01, 0.3, -0.2), ()).outcome == "holds on a range"
    assert judge(quality_rows(0.01, 0.3, 0.2, fixed=-0.1), ()).outcome == "holds on a range"
    assert judge(quality_rows(0.5, 0.3, 0.2), ()).outcome == "fails"  # as large as the noise
    last = judge(quality_rows(0.01, 0.3, 0.2), ()).comparisons[-1]
    assert last.measured == pytest.approx(-0.1)
    assert last.passes is None
    assert judge(quality_rows(0.01, 0.3, 0.2, seeds=1), ()).outcome == "undecided"
    assert judge(quality_rows(0.01, math.nan, 0.2), ()).outcome == "undecided"
    assert "regains 50 % of what TF loses" in judge(quality_rows(0.01, 0.3, 0.2), ()).summary


def carried_out(name, folder, wanted):
    pytest.importorskip("torch")
    found = find_job(name)
    for number, about in enumerate(make_plan(found, "tiny")["runs"]):
        if wanted(about["labels"]):
            place = folder / str(number)
            place.mkdir()
            yield about, list(found.measure(about["spec"], Context("cpu", place, about["seed"])))


@pytest.mark.slow
def test_the_smallest_run_of_costs(tmp_path):
    for about, measured in carried_out("treeformer-cost", tmp_path, lambda labels: labels.get("length") != 512):
        values = {one.quantity: one.value for one in measured}
        if about["labels"]["part"] == "steps":
            assert all(0 <= value < 1 for value in values.values())
            assert all(value > 0 for name, value in values.items() if name not in STARTS)
            continue
        predicted = next(p["value"] for p in about["predictions"])
        assert 0.8 < values["imbalance"] < 1.5
        assert values["leaf_flops"] == pytest.approx(predicted, rel=0.2)
        assert min(values[f"{form}_seconds"] for form in ("full", "leaf", "path")) > 0


@pytest.mark.slow
def test_the_smallest_runs_of_quality(tmp_path):
    """Bootstrapped models train otherwise than those with trees from the start, and end with whole trees."""
    losses = {}
    for about, measured in carried_out("treeformer-quality", tmp_path, lambda labels: labels["arm"] != "TC"):
        losses[about["labels"]["arm"]] = next(one.value for one in measured if one.quantity == "loss")
        layers = {one.site for one in measured if one.quantity == "imbalance"}
        assert layers == (set() if about["labels"]["arm"] in ("full", "local window") else {"layer.0", "layer.1"})
    assert len(set(losses.values())) == 7
    assert all(1 < loss < 4 for loss in losses.values())


@pytest.mark.slow
def test_a_fixed_tree_stays_as_it_was_drawn_and_a_window_has_the_keys_of_a_leaf(tmp_path):
    pytest.importorskip("torch")
    from depthwidth import Transformer
    from verify import build
    from verify.jobs._training import recipe_of, tree_of
    from verify.models.initialize import parameter_groups

    specs = {one.labels["arm"]: one.spec for one in find_job("treeformer-quality").runs("small") if one.seed == 0}
    for arm, still in (("TF fixed tree", True), ("TF", False)):
        tree, made = tree_of(specs[arm]), recipe_of(specs[arm])
        groups = parameter_groups(build(tree, made, seed=0), made, 1e-2, 0.1, tree=tree)
        rates = {name: group["lr"] for group in groups for name in group["names"]}
        for name in ("planes", "thresholds"):
            assert (rates[f"encoder.block.0.attention.{name}"] == 0) == still
        assert rates["encoder.block.0.attention.query.weight"] > 0
    tree = specs["local window"]["tree"]
    leaf = tree["context"] / 2 ** specs["TF"]["tree"]["tree"]["height"]
    assert 2 * Transformer(**tree).stack.first("as_attention").window - 1 == leaf + 1
