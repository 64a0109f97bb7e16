"""The jobs on alternating updates at their smallest size, and their verdicts on made rows."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from depthwidth import InputError, Transformer  # noqa: E402
from verify import build  # noqa: E402
from verify.jobs import Context, find_job  # noqa: E402
from verify.jobs._training import recipe_of  # noqa: E402
from verify.jobs.altup_long import ARMS  # noqa: E402
from verify.jobs.altup_quality import EQUAL, STILL, TABLE, arms, model_for  # noqa: E402
from verify.rows import Row  # noqa: E402
from verify.runs.plans import make_plan  # noqa: E402


def test_the_dense_model_of_equal_operations_has_no_fewer_and_hardly_more():
    trees = {name: Transformer(**tree) for name, tree in arms(6, 32, 2, 64).items()}
    asked = trees["altup"].flops_per_token()
    assert asked <= trees[EQUAL].flops_per_token() < 1.01 * asked
    assert trees["recycled"].parameters == trees["dense"].parameters + 6 * 6
    assert trees["same"].parameters == trees["altup"].parameters == trees["recycled"].parameters + 2 * 256 * 32 + 32


def planned(arm, name="altup-quality"):
    return next(one for one in make_plan(find_job(name), "tiny")["runs"] if one["labels"]["arm"] == arm)["spec"]


@pytest.mark.slow
def test_no_block_updates_the_still_stream(tmp_path):
    """Its part of the stack's output is its part of the embedding; in SameUp, whose tree is the same, it is not."""
    tokens = torch.arange(16)[None]
    moved = {}
    for arm in (STILL, "same"):
        spec = planned(arm)
        model = model_for(spec, Context("cpu", tmp_path, 0))
        seen = {}
        model.stem.register_forward_hook(lambda _, given, found, seen=seen: seen.update(input=found))
        model.decoder.norm.register_forward_pre_hook(lambda _, given, seen=seen: seen.update(output=given[0]))
        with torch.no_grad():
            model(tokens)
        half = spec["tree"]["width"]
        moved[arm] = [
            float((seen["output"] - seen["input"])[..., part].abs().max()) for part in (slice(half), slice(half, None))
        ]
        rates = {line.role: line.learning_rate for line in recipe_of(spec).tensors}
        for name in ("predict", "correct"):  # they stay as they are
            assert rates[f"decoder.block.{name}"] == (0.0 if arm == STILL else 1.0)
    assert moved[STILL][0] > 1e-3
    assert moved[STILL][1] == 0
    assert moved["same"][1] > 1e-3


@pytest.mark.slow
def test_wider_tables_start_with_projections_of_unit_gain(tmp_path):
    """A token's vector leaves its projection at the size that it has in the table; as shipped, at a ninth of it."""
    spec = planned(TABLE)
    for changed, gain in ((spec, 1.0), ({**spec, "changes": {}}, 0.02 * 32**0.5)):
        made = recipe_of(changed)
        model = build(Transformer(**spec["tree"]), made, seed=0)
        with torch.no_grad():
            table, out = model.stem.table.detach(), model.stem(torch.arange(256)[None])
        assert float(out.std() / table.std()) == pytest.approx(gain, rel=0.1)
    with pytest.raises(InputError, match="the model has no such tensors"):
        recipe_of({**spec, "changes": {"stem.nothing": {"std": 1.0}}})


@pytest.mark.slow
def test_the_long_job_is_evaluated_on_its_way(tmp_path):
    job = find_job("altup-long")
    context = [Context("cpu", tmp_path / str(seed), seed) for seed in range(2)]
    spec = planned(STILL, "altup-long")
    alone = {one.step: one.value for one in job.measure(spec, context[0]) if one.quantity == "validation_loss"}
    assert list(alone) == [0, 4, 8, 12, 16, 20, 24]
    assert alone[24] < alone[4]
    context = [Context("cpu", tmp_path / f"together {seed}", seed) for seed in range(2)]
    together = list(job.ensemble.measure([spec] * 2, context, tmp_path / "both"))
    assert [one.value for one in together[0] if one.step == 24][:1] == pytest.approx([alone[24]], rel=1e-5)


@pytest.mark.slow
def test_it_trains_at_the_smallest_size(tmp_path):
    job = find_job("altup-quality")
    every = make_plan(job, "tiny")["runs"]
    for number, about in enumerate(one for one in every if one["labels"]["arm"] in ("altup", EQUAL, TABLE)):
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


MEANS = {"dense": 2.2, "recycled": 2.19, "same": 2.15, "altup": 2.1, "table": 2.14, "still": 2.12, "equal": 2.18}


def test_the_verdict_on_losses():
    judge = find_job("altup-quality").judge
    assert judge(losses(**MEANS), ()).outcome == "holds"
    assert judge(losses(**MEANS | {"equal": 2.05}), ()).outcome == "fails"
    assert judge(losses(**MEANS | {"equal": 2.1001}), ()).outcome == "undecided"
    assert judge(losses(dense=2.2, altup=2.1), ()).summary == "runs are missing"
    assert judge(losses(**MEANS), ()).summary.endswith("-0.0200 from one with its tables and a still stream")
    fewer = judge(losses(dense=2.2, altup=2.1, equal=2.18), ())
    assert [line.what for line in fewer.comparisons] == [f"loss of altup less that of {one}" for one in (EQUAL, "dense")]
    assert judge(losses(**MEANS | {"same": float("inf")}), ()).summary == "a run diverged"


def curves(**ends):
    """Losses that fall to their ends, in two evaluations."""
    return [
        Row(quantity="validation_loss", step=step, value=ends[name] + more + 0.001 * seed, seed=seed, labels={"arm": arm})
        for name, arm in zip(("altup", "still", "equal"), ARMS, strict=True) for step, more in ((10, 1.0), (20, 0.0))
        for seed in range(3)
    ]  # fmt: skip


def test_the_verdict_on_the_long_training_is_that_of_its_end():
    judge = find_job("altup-long").judge
    assert judge(curves(altup=2.0, still=2.1, equal=2.1), ()).outcome == "holds"
    assert judge(curves(altup=2.0, still=1.9, equal=2.1), ()).outcome == "holds on a range"
    assert judge(curves(altup=2.0, still=1.9, equal=2.0), ()).outcome == "fails"
    early = [
        row if row.step == 20 or row.labels["arm"] != "altup" else dataclasses.replace(row, value=0.0)
        for row in curves(altup=2.0, still=1.9, equal=1.9)
    ]
    assert judge(early, ()).outcome == "fails"
    assert len(judge(early, ()).comparisons) == 4
    assert judge(curves(altup=2.0, still=2.1, equal=2.1)[:-6], ()).summary == "runs are missing"
    assert judge(curves(altup=2.0, still=2.1, equal=float("inf")), ()).summary == "a run diverged"


def widths(**leads):
    """Losses of the three arms at two widths, with AltUp ahead of the dense model by so much."""
    return [
        Row(quantity="loss", value=value + 0.001 * seed, seed=seed, labels={"arm": arm, "width": width})
        for width, lead in zip((32, 64), leads.values(), strict=True)
        for arm, value in zip(ARMS, (2.5 - lead, 2.45, 2.5), strict=True)
        for seed in range(3)
    ]


def test_the_verdict_on_two_widths():
    judge = find_job("altup-width").judge
    assert judge(widths(narrow=0.1, wide=0.05), ()).outcome == "holds"
    assert judge(widths(narrow=0.1, wide=0.1), ()).outcome == "holds on a range"
    assert judge(widths(narrow=0.1, wide=-0.1), ()).outcome == "holds on a range"
    assert judge(widths(narrow=-0.1, wide=-0.2), ()).outcome == "fails"
    assert [line.passes for line in judge(widths(narrow=0.1, wide=0.05), ()).comparisons] == [True, None, True, None, True]
    assert judge(widths(narrow=0.1, wide=0.05)[:9], ()).summary == "runs are missing"
    assert judge(widths(narrow=0.1, wide=float("inf")), ()).summary == "a run diverged"


@pytest.mark.slow
def test_both_widths_train_at_the_smallest_size(tmp_path):
    job = find_job("altup-width")
    every = make_plan(job, "tiny")["runs"]
    assert [(one["labels"]["width"], one["labels"]["arm"]) for one in every] == [(w, arm) for w in (8, 16) for arm in ARMS]
    (about,) = [one for one in every if (one["labels"]["width"], one["labels"]["arm"]) == (16, "altup")]
    found = {one.quantity: one.value for one in job.measure(about["spec"], Context("cpu", tmp_path, 0))}
    assert found["loss"] < 5.5  # ln 256 = 5.545 at the start


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
