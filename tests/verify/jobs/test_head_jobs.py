"""The jobs on heads at their smallest size, and their verdicts on made rows."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from depthwidth.errors import InputError

torch = pytest.importorskip("torch")

from killing import Killed, killing  # noqa: E402

from verify.jobs import Context, _head_models, find_job  # noqa: E402
from verify.jobs._head_models import Setting, cut_losses_of, scratch_losses_of, with_head_dims  # noqa: E402
from verify.jobs._heads import calibration_rows, fresh_gpt2, gpt2_config, training_spec  # noqa: E402
from verify.jobs._training import planned_text  # noqa: E402
from verify.jobs.attention_entropy import measured_attention  # noqa: E402
from verify.measure import heads  # noqa: E402
from verify.rows import Row  # noqa: E402
from verify.runs.plans import make_plan  # noqa: E402
from verify.training import train as train_module  # noqa: E402
from verify.training.corpus import zipf_markov  # noqa: E402
from verify.training.train import Training  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.hf
def test_a_model_is_measured_where_it_lies(monkeypatch):
    """Every sum over a model on the device `meta` is taken there, of tokens that lie on the host."""
    pytest.importorskip("transformers")
    model = fresh_gpt2(gpt2_config(16, 16, 2), 0).to("meta")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self)
    collector, _ = heads.run_passes(model, torch.zeros(2, 16, dtype=torch.long), True)
    sums = [value for layer in collector.layers for value in layer.values() if isinstance(value, torch.Tensor)]
    assert len(sums) > 20
    assert {value.device.type for value in sums} == {"meta"}


@pytest.mark.hf
def test_a_fresh_model_is_put_on_the_device_and_measured_there(monkeypatch):
    pytest.importorskip("transformers")
    seen = []
    monkeypatch.setattr(heads, "measure_model", lambda model, batches, tree: seen.append(next(model.parameters()).device.type))
    fields = {"model_type": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 1, "n_positions": 16}
    for device in ("meta", "cpu"):
        with pytest.raises(AttributeError, match="forms"):  # of the report, which is none here
            measured_attention(fields, 0, torch.zeros(1, 16).long(), device)
    assert seen == ["meta", "cpu"]


SMALL = Setting(
    gpt2_config(16, 16, 2),
    zipf_markov(4000, vocab=256, seed=1),
    Training(**(training_spec(20, 16) | {"evaluate_batches": 4}), seed=3, data_seed=3),
)


@pytest.mark.hf
def test_cuts_and_models_from_scratch():
    pytest.importorskip("transformers")
    cuts, scratch = list(cut_losses_of(SMALL, (0.5,))), list(scratch_losses_of(SMALL, (0.5,)))
    both = ["uniform", "allocated"]
    assert [name for name, *_ in cuts] == ["whole", *both, *(f"{name} with values" for name in both)]
    assert [found.name for found in scratch] == [*both, "reversed"]
    losses = [(loss, stderr) for *_, loss, stderr in cuts] + [(found.loss, found.stderr) for found in scratch]
    assert all(4 < loss < 7 and 0 < stderr < 0.1 for loss, stderr in losses)  # ln 256 = 5.5 at the start
    uniform, allocated, turned = scratch
    assert uniform.dims == ((2, 2),) * 2
    assert turned.dims == allocated.dims[::-1]
    assert 0.99 < allocated.parameters / uniform.parameters <= 1


@pytest.mark.hf
def test_killed_trainings_of_models_go_on_bit_for_bit(monkeypatch, tmp_path):
    """Killed in the model that is measured, and in one from scratch: what is in a checkpoint is not trained again."""
    pytest.importorskip("transformers")
    whole = list(scratch_losses_of(SMALL, (0.5,)))
    setting = dataclasses.replace(SMALL, folder=tmp_path)
    left = 20 * (1 + len({found.dims for found in whole}))  # equal dimensions are one training
    for at, kept in ((8, 6), (14 + 5, 14 + 4)):  # checkpoints are two updates apart
        with monkeypatch.context() as patch:
            killing(patch, train_module, "_update", at)
            with pytest.raises(Killed):
                list(scratch_losses_of(setting, (0.5,)))
        left -= kept
    calls = killing(monkeypatch, train_module, "_update", 0)
    assert list(scratch_losses_of(setting, (0.5,))) == whole
    assert len(calls) == left
    calls.clear()
    assert list(scratch_losses_of(setting, (0.5,))) == whole
    assert not calls


@pytest.mark.hf
def test_trainings_are_asked_to_lie_on_the_device(monkeypatch):
    """The model that is measured: weights, text and checkpoints where the setting says."""
    pytest.importorskip("transformers")
    asked = []

    def spy(model, text, training, *, folder, device, progress):
        asked.append((str(folder), device))
        raise Killed

    monkeypatch.setattr(_head_models, "train", spy)
    with pytest.raises(Killed):
        next(cut_losses_of(dataclasses.replace(SMALL, device="cuda", folder=Path("there")), (0.5,)))
    assert asked == [("there/whole", "cuda")]


def test_layers_of_different_heads_are_built_as_counted():
    """Two layers of other head sizes: the tree's count is the module's, and equal sums of dimensions are equal parameters."""
    from depthwidth import Transformer
    from verify.models.model import build

    tree = Transformer(depth=2, width=16, heads=4, vocab=20, context=8)
    uneven, even = (with_head_dims(tree, sizes) for sizes in (((6, 1), (2, 3)), ((4, 2), (4, 2))))
    model = build(uneven, seed=0)
    assert sum(p.numel() for p in model.parameters()) == uneven.parameters == even.parameters < tree.parameters
    assert model.decoder.block[0].attention.query.weight.shape == (24, 16)
    assert model.decoder.block[1].attention.value.weight.shape == (12, 16)
    with pytest.raises(InputError, match="3 head sizes are given to a model that is no decoder of 3 layers"):
        with_head_dims(tree, ((1, 1),) * 3)


# ---- jobs ----


def carried_out(name, folder, size="tiny", **wanted):
    """The runs of a job with these labels, each as (run, measurements)."""
    found = find_job(name)
    for number, about in enumerate(make_plan(found, size)["runs"]):
        if wanted.items() <= about["labels"].items():
            own = folder / str(number)
            own.mkdir()
            yield about, list(found.measure(about["spec"], Context("cpu", own, about["seed"])))


@pytest.mark.hf
def test_entropy_of_a_model_with_larger_weights_is_as_predicted(tmp_path):
    """The first layer, whose input the text and the embedding decide: off uniform by what is predicted, to 15 %."""
    pytest.importorskip("transformers")
    ((about, found),) = carried_out("attention-entropy", tmp_path, model="gpt2, weights x4")
    assert len(found) == 6
    values = {(one.site, one.quantity): one.value for one in found}
    predicted = {(p["site"], p["quantity"]): p["value"] for p in about["predictions"]}
    variance, entropy = ("layer.0", "logit_variance"), ("layer.0", "entropy")
    assert values[variance] == pytest.approx(predicted[variance], rel=0.15)
    uniform = float(torch.arange(33.0, 65.0).log().mean())
    assert uniform - values[entropy] == pytest.approx(uniform - predicted[entropy], rel=0.15)
    assert values[entropy] < uniform - 0.1


@pytest.mark.hf
@pytest.mark.parametrize("name", ["attention-entropy", "head-allocation", "low-rank-bottleneck"])
def test_a_run_knows_its_text(name, tmp_path):
    """The hash of the tokens is in the description, and another text is refused."""
    pytest.importorskip("transformers")
    found = find_job(name)
    about = make_plan(found, "tiny")["runs"][0]
    spec = json.loads(json.dumps(about["spec"]))
    assert spec["data"]["sha256"] == planned_text(spec["data"]).identity()["sha256"]
    spec["data"]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="not the one that was planned with"):
        list(found.measure(spec, Context("cpu", tmp_path, 0)))


def test_a_text_that_is_too_short_to_measure_on():
    text = zipf_markov(1000, vocab=16, seed=1)
    assert calibration_rows(text, 4, 100).shape == (4, 100)
    with pytest.raises(InputError, match="10 sequences of 100 tokens, and the text has 950"):
        calibration_rows(text, 10, 100)


@pytest.mark.hf
def test_the_job_of_allocations_at_its_smallest(tmp_path):
    pytest.importorskip("transformers")
    (_, cuts), (_, scratch) = sorted(carried_out("head-allocation", tmp_path), key=lambda one: one[0]["labels"]["part"])
    lost = [one.site for one in cuts + scratch if one.quantity == "loss"]
    assert lost == [
        "whole.1", "uniform.0.5", "allocated.0.5", "uniform with values.0.5", "allocated with values.0.5",
        "uniform from scratch.0.5", "allocated from scratch.0.5", "reversed from scratch.0.5",
    ]  # fmt: skip
    counts = [one.value for one in scratch if one.quantity == "parameters"]
    assert 0.99 < counts[1] / counts[0] <= 1
    sizes = [one.value for one in scratch if one.quantity == "head_dim"]
    assert sizes[:2] == [4, 4]
    assert sizes[2:4] == sizes[:3:-1]


@pytest.mark.hf
def test_the_job_of_bottlenecks_counts_what_transformers_builds():
    """Its trees are Llamas, as many parameters as the library's own."""
    transformers = pytest.importorskip("transformers")
    from verify.jobs._training import recipe_of, tree_of
    from verify.models.model import build

    for about in make_plan(find_job("low-rank-bottleneck"), "tiny")["runs"]:
        spec = about["spec"]
        shape = spec["tree"]
        own = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=256, hidden_size=shape["width"], num_hidden_layers=2, num_attention_heads=shape["heads"],
            head_dim=shape["head_dim"], intermediate_size=2 * shape["width"], num_key_value_heads=shape["heads"],
        ))  # fmt: skip
        model = build(tree_of(spec), recipe=recipe_of(spec), seed=0)
        assert sorted(p.shape for p in model.parameters()) == sorted(p.shape for p in own.parameters())
        assert {line.std for line in recipe_of(spec).tensors if line.std} == {transformers.LlamaConfig().initializer_range}


def job(name):
    pytest.importorskip("verify.runs.store")
    from verify.jobs import find_job

    return find_job(name)


def made(job, values, size="small"):
    """Rows as the framework would have them: a value for each run and prediction, by `values(run, prediction)`."""
    return [
        Row(run=f"{i}", labels=dict(run.labels), quantity=quantity, site=site, seed=run.seed, predicted=predicted, value=value,
            stderr=stderr)
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


# ---- the jobs without language models of their own, and the one that follows a training ----


@pytest.mark.parametrize("name", ["diffuse-saturation", "head-split"])
def test_a_small_job_holds_at_its_smallest(name, tmp_path):
    found = job(name)
    plan = make_plan(found, "tiny")
    rows = []
    for about, measured in carried_out(name, tmp_path):
        (prediction,), (one,) = about["predictions"], measured
        rows.append(
            Row(run=about["run"], labels=about["labels"], quantity=one.quantity, predicted=prediction["value"], value=one.value,
                stderr=one.stderr, seed=about["seed"])
        )  # fmt: skip
    assert len(rows) == len(plan["runs"])
    assert found.judge(rows, ()).outcome == "holds"
    # The controls: twice as much is above the law and the bound, 0.4 times below the floor and half of the law.
    assert found.judge([replace(row, value=2 * row.value) for row in rows], ()).outcome != "holds"
    assert found.judge([replace(row, value=0.4 * row.value) for row in rows], ()).outcome != "holds"


def test_diffuse_students_are_nearer_to_the_law_at_greater_length():
    found = job("diffuse-saturation")

    def ratios(short, long):
        def values(run):
            ratio = {64: short, 256: long}[run.labels["length"]]
            return [(p.quantity, "", p.value, ratio * p.value, 0.001) for p in run.predictions]

        return values

    assert found.judge(made(found, ratios(0.67, 0.8)), ()).outcome == "holds"
    assert found.judge(made(found, ratios(0.8, 0.67)), ()).outcome == "holds on a range"
    assert found.judge(made(found, ratios(0.4, 1.1)), ()).outcome == "fails"


@pytest.mark.hf
def test_heads_are_measured_along_a_training_and_earlier_looks_survive_a_kill(monkeypatch, tmp_path):
    """Killed at the last of four updates: the looks at 0 and 2 are those of before, which are not taken again."""
    pytest.importorskip("transformers")
    from verify.jobs import attention_training

    found = job("attention-training")
    about = make_plan(found, "tiny")["runs"][0]
    looked, real = [], attention_training._Looks.look

    def look(self, model):
        looked.append(model)
        return real(self, model)

    monkeypatch.setattr(attention_training._Looks, "look", look)

    def measured(folder):
        folder.mkdir(exist_ok=True)
        looked.clear()
        return list(found.measure(about["spec"], Context("cpu", folder, about["seed"]))), len(looked)

    whole, count = measured(tmp_path / "whole")
    assert count == 3
    with monkeypatch.context() as patch:
        killing(patch, train_module, "_update", 4)
        with pytest.raises(Killed):
            measured(tmp_path / "killed")
    again, count = measured(tmp_path / "killed")
    assert (again, count) == (whole, 1)
    assert [(one.quantity, one.step) for one in whole] == [
        (quantity, step) for step in (0, 2, 4) for quantity in ("entropy", "gaussian_entropy")
    ]
    # Fresh attention is Gaussian.
    assert whole[0].value == pytest.approx(whole[1].value, abs=0.02)


def test_the_job_along_a_training_judges_each_number_of_updates():
    found = job("attention-training")
    uniform = sum(map(float, torch.arange(33.0, 65.0).log())) / 32

    def rows(*ratios):
        return [
            Row(quantity=quantity, value=uniform - 0.5 * factor, site="layer.0", step=50 * mark, labels={"length": 64})
            for mark, ratio in enumerate(ratios)
            for quantity, factor in (("entropy", ratio), ("gaussian_entropy", 1.0))
        ]

    assert found.judge(rows(1.1, 0.85), ()).outcome == "holds"
    verdict = found.judge(rows(1.1, 0.7), ())
    assert verdict.outcome == "holds on a range"
    assert "after 0 updates" in verdict.summary
    assert found.judge(rows(0.7), ()).outcome == "fails"
    assert found.judge([], ()).outcome == "undecided"
