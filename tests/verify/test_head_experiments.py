"""The experiments on heads at their smallest size, and what their jobs make of rows."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may ask a server

import pytest

from depthwidth.formulas import heads as laws

torch = pytest.importorskip("torch")

from verify.head_experiments import (  # noqa: E402
    FIELDS,
    attention_entropy,
    attention_training,
    diffuse_saturation,
    head_allocation,
    head_saturation,
    head_split,
    low_rank_bottleneck,
    train_lag_split,
    train_retrieval,
    with_head_dims,
)


def test_a_trained_head_reaches_the_predicted_error():
    """n = 16, half and one and a half times the critical dimension; a dimension fewer or more is told apart."""
    for d in (3, 7):
        error, stderr = train_retrieval(16, d, steps=300)
        assert stderr < 0.004
        assert error == pytest.approx(laws.best_retrieval_error(16, d), abs=0.02)
        for wrong in (d - 1, d + 1):
            assert abs(error - laws.best_retrieval_error(16, wrong)) > 0.02


def test_training_is_repeatable():
    one, again, other = (train_retrieval(16, 4, steps=5, seed=seed) for seed in (3, 3, 4))
    assert one == again != other


def test_rows_of_trained_heads():
    rows = list(head_saturation(lengths=(16,), factors=(1.0,), seeds=1, steps=30))
    rows += diffuse_saturation(lengths=(64,), dims=(4,), steps=60)
    for row in rows:
        assert set(row) == set(FIELDS)
        assert 0 < row["measured"] < 1
    # A diffuse student lies below the law of long rows, which its teacher's own truncation shares.
    assert 0.5 < rows[-1]["measured"] / rows[-1]["predicted"] < 1.05


@pytest.mark.hf
def test_rows_of_models():
    pytest.importorskip("transformers")
    (losses, cuts) = (
        list(low_rank_bottleneck(heads=(2,), width=16, fixed=4, context=16, steps=3, seeds=1)),
        list(head_allocation(shares=(0.5,), context=16, width=16, layers=1, steps=3, seeds=1, scratch_shares=(0.5,),
                             scratch_seeds=1)),
    )  # fmt: skip
    (entropies,) = list(attention_training(marks=(0,), context=16, width=16, layers=1))
    assert entropies["measured"] == pytest.approx(entropies["predicted"], abs=0.02)
    assert [row["setting"] for row in losses] == ["width / heads", "fixed size"]
    kinds = ["", " with values", " from scratch"]
    lost = [row for row in cuts if row["quantity"] == "loss"]
    assert [row["setting"].partition(",")[0] for row in lost] == [
        "whole", *(name + kind for kind in kinds for name in ("uniform", "allocated")), "reversed from scratch"
    ]  # fmt: skip
    assert all(4 < row["measured"] < 7 for row in losses + lost)
    (uniform, allocated, _) = [row for row in cuts if row["quantity"] == "parameters"]
    assert uniform["predicted"] == uniform["measured"] == allocated["predicted"]
    assert 0.99 < allocated["measured"] / allocated["predicted"] <= 1
    assert [(row["quantity"], row["layer"]) for row in cuts if "_dim" in row["quantity"]] == [
        ("head_dim", 0), ("value_dim", 0)
    ]  # fmt: skip


def test_layers_of_different_heads_are_built_as_counted():
    """Two layers of other head sizes: the tree's count is the module's, and equal sums of dimensions are equal parameters."""
    from depthwidth import Transformer
    from depthwidth.errors import InputError
    from verify.model import build

    tree = Transformer(depth=2, width=16, heads=4, vocab=20, context=8)
    uneven, even = (with_head_dims(tree, sizes) for sizes in (((6, 1), (2, 3)), ((4, 2), (4, 2))))
    model = build(uneven, seed=0)
    assert sum(p.numel() for p in model.parameters()) == uneven.parameters == even.parameters < tree.parameters
    assert model.decoder.block[0].attention.query.weight.shape == (24, 16)
    assert model.decoder.block[1].attention.value.weight.shape == (12, 16)
    with pytest.raises(InputError, match="3 head sizes are given to a model that is no decoder of 3 layers"):
        with_head_dims(tree, ((1, 1),) * 3)


def test_heads_that_serve_several_lags():
    """Fewer heads than lags meet the floor, as many beat the bound of dedication; a wrong rank's bound would be passed."""
    loss, floor = train_lag_split(2, size=6, budget=12, steps=300)
    assert 0 < floor <= loss < 1.03 * floor
    (row,) = head_split(heads=(4,), size=6, budget=12, seeds=1, starts=1, steps=400)
    assert row["predicted"] == laws.dedicated_lag_loss(3, 6, 1)
    assert laws.dedicated_lag_loss(4, 6, 1) < row["measured"] < 1.02 * row["predicted"]


@pytest.mark.hf
def test_entropy_of_a_model_with_larger_weights_is_as_predicted():
    """The first layer, whose input the text and the embedding decide: off uniform by what is predicted, to 15 %."""
    pytest.importorskip("transformers")
    rows = {(r["layer"], r["quantity"]): r for r in attention_entropy(("gpt2, weights x4",), seeds=1)}
    assert len(rows) == 12
    variance, entropy = rows[0, "logit_variance"], rows[0, "entropy"]
    assert variance["measured"] == pytest.approx(variance["predicted"], rel=0.1)
    uniform = 5.2376
    assert uniform - entropy["measured"] == pytest.approx(uniform - entropy["predicted"], rel=0.15)
    assert entropy["measured"] < uniform - 0.8


# ---- jobs, where the framework is ----


def job(name):
    pytest.importorskip("verify.tables")
    from verify.jobs import find_job

    return find_job(name)


def made(job, values, size="small"):
    """Rows as the framework would have them: a value for each run and prediction, by `values(run, prediction)`."""
    return [
        {"run": f"{i}", "labels": dict(run.labels), "quantity": quantity, "site": site, "step": None, "seed": run.seed,
         "predicted": predicted, "value": value, "stderr": stderr}
        for i, run in enumerate(job.runs(size)) for quantity, site, predicted, value, stderr in values(run)
    ]  # fmt: skip


def test_the_job_of_look_ups_judges_by_its_tolerance():
    found = job("head-saturation")

    def values(off):
        return lambda run: [(p.quantity, "", p.value, p.value + off, 0.001) for p in run.predictions]

    assert found.judge(made(found, values(0.019)), ()).outcome == "holds"
    assert found.judge(made(found, values(-0.021)), ()).outcome == "fails"
    assert found.judge([], ()).outcome == "undecided"


def test_the_job_of_bottlenecks_judges_by_the_noise():
    found = job("low-rank-bottleneck")

    def losses(gap):
        def values(run):
            shared = run.labels["size"] == "shared"
            loss = 2.0 + 0.001 * run.seed + (gap * run.labels["heads"] / 32 if shared else 0.0)
            return [("loss", "", None, loss, 0.01)]

        return values

    assert found.judge(made(found, losses(0.1)), ()).outcome == "holds"
    assert found.judge(made(found, losses(-0.1)), ()).outcome == "fails"
    assert found.judge(made(found, losses(0.0)), ()).outcome == "undecided"
    assert found.judge([], ()).outcome == "undecided"


def test_the_job_of_allocations_compares_cuts_of_one_model():
    found = job("head-allocation")

    def cuts(gap):
        def values(run):
            base = 2.0 + run.seed  # the models differ far more than the cuts
            return [("loss", f"{name}.{share}", None, base + (gap + 0.0001 * run.seed) * (name == "allocated"), 0.01)
                    for share in ("0.5", "0.2") for name in ("uniform", "allocated")]  # fmt: skip

        return values

    assert found.judge(made(found, cuts(-0.01)), ()).outcome == "holds"
    assert found.judge(made(found, cuts(0.01)), ()).outcome == "fails"
    assert found.judge([], ()).outcome == "undecided"


def test_the_job_of_allocations_compares_models_from_scratch_of_equal_parameters():
    found = job("head-allocation")

    def models(gap, parameters=1000):
        def values(run):
            if run.labels["part"] == "cut":
                return []
            noise = 0.001 * (-1) ** run.seed
            offs = (("uniform", 0.0), ("allocated", gap + noise), ("reversed", 0.0123))
            return [row for name, off in offs for row in (
                ("loss", f"{name} from scratch.0.33", None, 2.0 + run.seed + off, 0.01),
                ("parameters", f"{name} from scratch.0.33", None, parameters if off else 1000, None),
            )]  # fmt: skip

        return values

    better = found.judge(made(found, models(-0.01)), ())
    assert (better.outcome, len(better.comparisons)) == ("holds", 1)
    assert "from scratch with 0.33" in better.comparisons[0].what
    assert better.comparisons[0].note == "the same dimensions in reverse order: +0.0123"
    assert found.judge(made(found, models(0.01)), ()).outcome == "fails"
    assert found.judge(made(found, models(-0.01, 1005)), ()).outcome == "holds"
    unequal = found.judge(made(found, models(-0.01, 1011)), ())
    assert unequal.outcome == "undecided"
    assert "1011 against 1000 parameters" in unequal.summary


@pytest.mark.hf
def test_the_job_of_entropies_judges_by_the_distance_from_uniform():
    pytest.importorskip("transformers")
    found = job("attention-entropy")
    uniform = sum(map(torch.log, torch.arange(33.0, 65.0))) / 32

    def values(factor):
        return lambda run: [
            (p.quantity, p.site, p.value, float(uniform - factor * (uniform - p.value)), 0.0)
            for p in run.predictions if p.quantity == "entropy"
        ]  # fmt: skip

    assert found.judge(made(found, values(1.05), "tiny"), ()).outcome == "holds"
    assert found.judge(made(found, values(1.3), "tiny"), ()).outcome == "fails"
    assert found.judge([], ()).outcome == "undecided"
