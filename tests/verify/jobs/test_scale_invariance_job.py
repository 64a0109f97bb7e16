"""The job on scale-invariant training at its smallest size, and its verdicts on made rows."""

import dataclasses
import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from depthwidth.formulas.scale_invariance import angle_per_step, equilibrium_norm  # noqa: E402
from verify.jobs import Context, find_job, scale_robustness  # noqa: E402
from verify.jobs import scale_invariance as job  # noqa: E402
from verify.rows import Row  # noqa: E402

JOB = find_job("scale-invariance")
ETA, DECAY = (job.OPTIMIZERS[job.INVARIANT][name] for name in ("learning_rate", "weight_decay"))


def made_rows(loss_of, *, steps=100_000, norm=1.0, learnt=1.0):
    """Rows of three seeds whose losses are `loss_of(arm, start, factor)`, of a run of as many steps."""
    for arm, (start, factor), seed in itertools.product(job.OPTIMIZERS, job.settings(), range(3)):
        labels = {"arm": arm, "start": start, "loss_factor": factor, "absorbed": job.absorbed(start, factor, steps)}
        values = {"loss": loss_of(arm, start, factor) + 0.001 * seed, "unigram_loss": 1.0 + learnt}
        if arm == job.INVARIANT:
            values |= {"norm": norm * equilibrium_norm(ETA, DECAY, 2.0), "gradient": 2.0, "angle": angle_per_step(ETA, DECAY)}
        for quantity, value in values.items():
            yield Row(job=JOB.name, run=f"{arm}{start}{factor}{seed}", quantity=quantity, value=value, seed=seed, labels=labels)


def robust(arm, start, factor):
    return 1.0 if arm == job.INVARIANT else 1.0 + 0.1 * abs(torch.tensor(start * factor).log10().item())


def judged(rows):
    return JOB.judge(list(rows), list(JOB.predict("small")))


def test_the_verdict_on_made_rows():
    assert judged(made_rows(robust)).outcome == "holds"
    assert judged(made_rows(lambda *setting: 1.0)).outcome == "holds on a range"  # the laws hold, the spread is not smaller
    turned = {job.INVARIANT: job.ADAM, job.ADAM: job.INVARIANT, job.SGD: job.INVARIANT}
    worse = judged(made_rows(lambda arm, *rest: robust(turned[arm], *rest), norm=1.2))
    assert worse.outcome == "fails"
    assert judged(made_rows(robust, norm=1.2)).outcome == "holds on a range"
    assert judged(itertools.islice(made_rows(robust), 30)).outcome == "undecided"


def test_what_cannot_be_told_is_untested():
    short = judged(made_rows(robust, steps=700))
    assert short.outcome == "holds on a range"
    assert [one.passes for one in short.comparisons[:3]] == [
        None,
        None,
        True,
    ]
    assert "untested, as the law asks for more steps" in short.summary
    unlearnt = judged(made_rows(lambda arm, *rest: robust(arm, *rest) + (arm == job.SGD), learnt=1.1))
    assert [one.passes for one in unlearnt.comparisons[:3]] == [None, True, None]
    one_seed = [row for row in made_rows(robust) if row.seed == 0]
    assert judged(one_seed).outcome == "undecided"
    diverged = [dataclasses.replace(row, value=float("inf")) if row.quantity == "loss" and row.labels["arm"] == job.INVARIANT
                and row.labels["start"] == 100 else row for row in made_rows(robust)]  # fmt: skip
    assert not judged(diverged).comparisons[0].passes


def test_the_steps_that_the_law_asks_for():
    total = ETA * DECAY * (1 - job.COOLDOWN / 2)
    assert not job.absorbed(100.0, 1.0, 700)
    assert job.absorbed(100.0, 1.0, 1 + int(4.6052 / total))
    assert job.absorbed(1.0, 10.0, 700) == job.absorbed(10**-0.5, 1.0, 700)


def test_the_long_runs_forget_all_factors():
    """The small size of scale-robustness: a factor of 100 before the learning rate falls, in every arm's comparison."""
    long = find_job("scale-robustness")
    runs = list(long.runs("small"))
    assert all(run.labels["absorbed"] for run in runs)
    made = next(run.spec["training"] for run in runs if run.labels["arm"] == job.INVARIANT)
    constant = made["learning_rate"] * made["weight_decay"] * made["steps"] * (1 - made["cooldown"])
    assert constant > math.log(100)
    labelled = {(run.labels["arm"], (run.labels["start"], run.labels["loss_factor"])) for run in runs}
    assert labelled == {(arm, one) for arm, every in scale_robustness.SETTINGS.items() for one in every}

    def rows(loss_of):
        for run in runs:
            arm, start, factor = (run.labels[name] for name in ("arm", "start", "loss_factor"))
            for quantity, value in (("loss", loss_of(arm, start, factor) + 0.001 * run.seed), ("unigram_loss", 2.0)):
                yield Row(job=long.name, run=f"{run.labels}", quantity=quantity, value=value, seed=run.seed, labels=run.labels)

    assert long.judge(list(rows(robust)), []).outcome == "holds"
    assert long.judge(list(rows(lambda *setting: 1.0)), []).outcome == "fails"


@pytest.mark.slow
def test_a_run_measures_norm_and_angle(tmp_path):
    """A factor of 100 on the start stays in the norm over a few steps, and turns the weights less."""
    runs = [run for run in JOB.runs("tiny") if run.labels["arm"] == job.INVARIANT and run.labels["loss_factor"] == 1]
    made = {run.labels["start"]: run for run in runs}
    found = {}
    for start in (1.0, 100.0):
        rows = list(JOB.measure(made[start].spec, Context("cpu", tmp_path / str(start), 0)))
        found[start] = {row.quantity: row.value for row in rows}
    assert set(found[1.0]) == {"loss", "unigram_loss", "norm", "relaxed_norm", "gradient", "angle"}
    assert found[100.0]["norm"] > 50 * found[1.0]["norm"]
    for start in (1.0, 100.0):  # gradients are orthogonal to the weights, so that each step of the law is a step of training
        assert found[start]["relaxed_norm"] == pytest.approx(found[start]["norm"], rel=1e-4)
    assert found[100.0]["angle"] < 0.1 * found[1.0]["angle"]


@pytest.mark.slow
def test_an_ordinary_run_measures_its_loss(tmp_path):
    made = [run for run in JOB.runs("tiny") if run.labels["arm"] == job.SGD]
    scaled = next(run for run in made if run.labels["loss_factor"] == 10)
    rows = {row.quantity: row.value for row in JOB.measure(scaled.spec, Context("cpu", tmp_path, 0))}
    assert set(rows) == {"loss", "unigram_loss"}
    assert 0 < rows["loss"] < 2 * rows["unigram_loss"]  # in the units of the loss itself
