"""The jobs on alternating updates at their smallest size, and their verdicts on made rows."""

import pytest

torch = pytest.importorskip("torch")

from depthwidth import Transformer  # noqa: E402
from verify.jobs import Context, find_job  # noqa: E402
from verify.jobs.altup_quality import EQUAL, arms  # noqa: E402
from verify.rows import Row  # noqa: E402
from verify.runs.plans import make_plan  # noqa: E402


def test_the_dense_model_of_equal_operations_has_no_fewer_and_hardly_more():
    trees = {name: Transformer(**tree) for name, tree in arms(6, 32, 2, 64).items()}
    asked = trees["altup"].flops_per_token()
    assert asked <= trees[EQUAL].flops_per_token() < 1.01 * asked
    assert trees["recycled"].parameters == trees["dense"].parameters + 6 * 6
    assert trees["same"].parameters == trees["altup"].parameters == trees["recycled"].parameters + 2 * 256 * 32 + 32


@pytest.mark.slow
def test_it_trains_at_the_smallest_size(tmp_path):
    job = find_job("altup-quality")
    every = make_plan(job, "tiny")["runs"]
    for number, about in enumerate(one for one in every if one["labels"]["arm"] in ("altup", EQUAL)):
        found = list(job.measure(about["spec"], Context("cpu", tmp_path / str(number), 0)))
        losses = {one.step: one.value for one in found if one.quantity == "validation_loss"}
        assert losses[20] < 5.45  # ln 256 = 5.545 at the start


@pytest.mark.slow
def test_both_models_are_timed_at_the_smallest_size(tmp_path):
    job = find_job("altup-speed")
    about = make_plan(job, "tiny")["runs"][0]
    found = {(one.quantity, one.site): one for one in job.measure(about["spec"], Context("cpu", tmp_path, 0))}
    assert set(found) == {(name, site) for name in ("time_ratio", "flop_rate") for site in ("forward", "training")} | {
        ("byte_rate", "")
    }
    assert all(one.value > 0 for one in found.values())


def losses(**means):
    names = {"equal": EQUAL}
    return [
        Row(quantity="loss", value=value + 0.001 * seed, seed=seed, labels={"arm": names.get(name, name)})
        for name, value in means.items()
        for seed in range(3)
    ]


MEANS = {"dense": 2.2, "recycled": 2.19, "same": 2.15, "altup": 2.1, "table": 2.14, "equal": 2.18}


def test_the_verdict_on_losses():
    judge = find_job("altup-quality").judge
    assert judge(losses(**MEANS), ()).outcome == "holds"
    assert judge(losses(**MEANS | {"equal": 2.05}), ()).outcome == "fails"
    assert judge(losses(**MEANS | {"equal": 2.1001}), ()).outcome == "undecided"
    assert judge(losses(dense=2.2, altup=2.1), ()).summary == "runs are missing"
    assert judge(losses(**MEANS | {"same": float("inf")}), ()).summary == "a run diverged"


def times(ratio):
    labels = {"form": "full, 2 streams", "dense_flops": 10**9, "added_flops": 10**8, "traffic_bytes": 10**7}
    values = {"time_ratio": ratio, "flop_rate": 1e10, "byte_rate": 1e9}
    return [
        Row(run="a", quantity=name, site="" if name == "byte_rate" else site, value=value, labels=labels,
            predicted=1.1 if name == "time_ratio" else None, stderr=0.001)
        for name, value in values.items()
        for site in ("forward", "training")
    ]  # fmt: skip


@pytest.mark.parametrize(("ratio", "outcome"), [(1.15, "holds"), (1.09, "fails"), (1.21, "fails"), (1.2, "holds")])
def test_the_verdict_on_times(ratio, outcome):
    """The band reaches from 1.1 by 10^7 bytes at 10^9 a second, a tenth of the dense model's second, to 1.2."""
    assert find_job("altup-speed").judge(times(ratio), ()).outcome == outcome
