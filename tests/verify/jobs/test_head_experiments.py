"""The experiments on heads at their smallest size, and what their jobs make of rows."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may ask a server

import dataclasses
import json

import pytest

from depthwidth.errors import InputError
from depthwidth.formulas import heads as laws

torch = pytest.importorskip("torch")

from verify.jobs import Context, find_job  # noqa: E402
from verify.jobs import _head_experiments as head_experiments  # noqa: E402
from verify.jobs._head_experiments import (  # noqa: E402
    FIELDS,
    Setting,
    attention_training,
    calibration_rows,
    cut_losses_of,
    diffuse_saturation,
    head_split,
    main,
    measured_attention,
    scratch_losses_of,
    train_lag_split,
    train_retrieval,
    with_head_dims,
)
from verify.jobs._heads import gpt2_config, training_spec  # noqa: E402
from verify.jobs._training import planned_text  # noqa: E402
from verify.measure import heads  # noqa: E402
from verify.rows import Row  # noqa: E402
from verify.runs.sweep import make_plan  # noqa: E402
from verify.training import train as train_module  # noqa: E402
from verify.training.corpus import zipf_markov  # noqa: E402
from verify.training.train import Training  # noqa: E402


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


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def killing(monkeypatch, owner, name, at):
    """Let the call number `at` of a function be the last; returns how many calls there were."""
    real, calls = getattr(owner, name), []

    def once_more(*given, **named):
        calls.append(name)
        if len(calls) == at:
            raise Killed
        return real(*given, **named)

    monkeypatch.setattr(owner, name, once_more)
    return calls


@pytest.mark.parametrize("at", [1, 4, 12, 30])
def test_a_killed_look_up_training_goes_on_bit_for_bit(monkeypatch, tmp_path, at):
    """Killed before the first checkpoint, between two, and at its last update; checkpoints are three updates apart."""
    whole = train_retrieval(16, 4, steps=30)
    with monkeypatch.context() as patch:
        killing(patch, torch.optim.Adam, "step", at)
        with pytest.raises(Killed):
            train_retrieval(16, 4, steps=30, folder=tmp_path)
    calls = killing(monkeypatch, torch.optim.Adam, "step", 0)
    assert train_retrieval(16, 4, steps=30, folder=tmp_path) == whole
    assert len(calls) == 30 - 3 * ((at - 1) // 3)
    calls.clear()
    assert train_retrieval(16, 4, steps=30, folder=tmp_path) == whole
    assert not calls
    with pytest.raises(InputError, match="holds another fit"):
        train_retrieval(16, 4, steps=31, folder=tmp_path)


def test_a_full_disk_costs_a_checkpoint_not_the_training(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(head_experiments, "save_checkpoint", full)
    assert train_retrieval(16, 4, steps=5, folder=tmp_path) == train_retrieval(16, 4, steps=5)


def test_a_look_up_training_lies_on_its_device(monkeypatch):
    """On the device `meta`, which refuses to work with tensors of another and to say a number; generators do not know it."""
    asked, real = [], torch.Generator

    class Generator(real):
        def __new__(cls, device="cpu"):
            asked.append(device)
            return real.__new__(cls)

    monkeypatch.setattr(torch, "Generator", Generator)
    steps = killing(monkeypatch, torch.optim.Adam, "step", 0)
    with pytest.raises(RuntimeError, match="item"):  # the error that is asked for at the end
        train_retrieval(16, 4, steps=2, device="meta")
    assert (asked, len(steps)) == (["meta"], 2)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **more: randn(*size, **(more | {"device": None})))
    with pytest.raises((RuntimeError, NotImplementedError), match="device"):  # the control: tokens drawn elsewhere
        train_retrieval(16, 4, steps=2, device="meta")


@pytest.mark.hf
def test_a_model_is_measured_where_it_lies(monkeypatch):
    """Every sum over a model on the device `meta` is taken there, of tokens that lie on the host."""
    pytest.importorskip("transformers")
    model = head_experiments._fresh_gpt2(gpt2_config(16, 16, 2), 0).to("meta")
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self)
    collector, _ = heads._passes(model, torch.zeros(2, 16, dtype=torch.long), True)
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


def test_rows_of_diffuse_students():
    (row,) = diffuse_saturation(lengths=(64,), dims=(4,), steps=60)
    assert set(row) == set(FIELDS)
    # A diffuse student lies below the law of long rows, which its teacher's own truncation shares.
    assert 0.5 < row["measured"] / row["predicted"] < 1.05


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

    monkeypatch.setattr(head_experiments, "train", spy)
    with pytest.raises(Killed):
        next(cut_losses_of(dataclasses.replace(SMALL, device="cuda", folder=head_experiments.Path("there")), (0.5,)))
    assert asked == [("there/whole", "cuda")]


@pytest.mark.hf
def test_rows_along_a_training():
    pytest.importorskip("transformers")
    (fresh,) = attention_training(marks=(0,), context=16, width=16, layers=1)
    rows = list(attention_training(marks=(0, 2, 4), context=16, width=16, layers=1))
    assert fresh["measured"] == pytest.approx(fresh["predicted"], abs=0.02)
    assert [row["steps"] for row in rows] == [0, 2, 4]
    assert rows[0] == fresh
    assert len({row["measured"] for row in rows}) == 3


def test_mistakes_in_what_is_typed(capsys, monkeypatch):
    for words in (["attention-training", "--steps", "3"], ["head-saturation"]):
        monkeypatch.setattr("sys.argv", ["head_experiments", *words, "--out", "nowhere.csv"])
        with pytest.raises(SystemExit) as found:
            main()
        assert found.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


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


def test_heads_that_serve_several_lags():
    """Fewer heads than lags meet the floor, as many beat the bound of dedication; a wrong rank's bound would be passed."""
    loss, floor = train_lag_split(2, size=6, budget=12, steps=300)
    assert 0 < floor <= loss < 1.03 * floor
    (row,) = head_split(heads=(4,), size=6, budget=12, seeds=1, starts=1, steps=400)
    assert row["predicted"] == laws.dedicated_lag_loss(3, 6, 1)
    assert laws.dedicated_lag_loss(4, 6, 1) < row["measured"] < 1.02 * row["predicted"]


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
