"""The training loop agrees with a plain loop, and interruptions do not change its results."""

import contextlib
import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import PATIENCE, one_quick_in
from small_gpt import SmallGPT
from torch.nn import functional
from train_script import TRAINING as SCRIPT
from train_script import corpus as script_corpus
from train_script import model as script_model
from train_script import run as script_run

from depthwidth import Transformer
from depthwidth.errors import InputError
from verify import build
from verify.training import checkpoints, optim
from verify.training.checkpoints import latest_checkpoint
from verify.training.corpus import Corpus, ZipfMarkov, zipf_markov
from verify.training.ensemble import train_ensemble
from verify.training.train import Outcome, Training, language_loss, measuring, tensorboard, train, wandb

HERE = Path(__file__).parent
SHORT = Training(steps=12, batch=6, context=16, warmup=3, learning_rate=3e-3, evaluate_batches=2)


@pytest.fixture(scope="module")
def corpus():
    return zipf_markov(5000, vocab=32)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return script_run(tmp_path_factory.mktemp("unbroken"))


def changed(training, **changes):
    return Training.from_dict({**training.to_dict(), **changes})


def plain_loop(corpus, training, model):
    """The losses of the same run by a second, simple implementation with torch's plain optimizers."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if training.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=training.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(training.beta1, training.beta2), foreach=False, fused=False)
    losses = []
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * optim.schedule_factor(training, step)
        inputs, targets = corpus.batch(training.data_seed, step, training.batch, training.context)
        loss = functional.cross_entropy(model(inputs).transpose(1, 2), targets)
        optimizer.zero_grad()
        loss.backward()
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@one_quick_in(
    2,
    "changes",
    [
        {},
        {"micro_batch": 4},  # six sequences in micro-batches of four and two
        {"optimizer": "sgd", "learning_rate": 0.3, "momentum": 0.9, "weight_decay": 0.01, "clip": 0.5},
        {"clip": None, "schedule": "wsd"},
    ],
    ids=str,
    first=1,
)
def test_losses_are_those_of_a_plain_loop(corpus, changes):
    training = changed(SHORT, **changes)
    outcome = train(SmallGPT(), corpus, training, device="cpu")
    # The order of sums differs, which changes the last bits of float32; the difference grows over twelve updates.
    assert outcome.losses == pytest.approx(plain_loop(corpus, training, SmallGPT()), rel=2e-5)
    assert outcome.status == "finished"
    assert outcome.tokens == 12 * 6 * 16


@one_quick_in(
    5, "changes", [{"learning_rate": 3.1e-3}, {"beta2": 0.99}, {"warmup": 4}, {"clip": 0.5}, {"data_seed": 1}], ids=str
)
def test_the_comparison_can_fail(corpus, changes):
    outcome = train(SmallGPT(), corpus, SHORT, device="cpu")
    assert outcome.losses != pytest.approx(plain_loop(corpus, changed(SHORT, **changes), SmallGPT()), rel=2e-5)


def test_micro_batches_change_nothing_but_rounding(corpus):
    whole, parts = (train(SmallGPT(), corpus, changed(SHORT, micro_batch=m), device="cpu").losses for m in (None, 2))
    assert parts == pytest.approx(whole, rel=2e-5)


@pytest.mark.slow
def test_loss_approaches_its_floor_and_does_not_pass_it():
    corpus = zipf_markov(60_000, vocab=16, strength=2.0, validation=0.3)
    training = Training(steps=150, batch=16, context=16, learning_rate=1e-2, warmup=10, evaluate_batches=30)
    outcome = train(SmallGPT(vocab=16), corpus, training, device="cpu")
    step, loss, error = outcome.evaluations[-1]
    assert step == 150
    # Above the entropy rate by less than a quarter of the distance to the entropy of single tokens.
    unigrams = ZipfMarkov(vocab=16, strength=2.0).unigram_entropy()
    assert corpus.entropy - 4 * error < loss < corpus.entropy + (unigrams - corpus.entropy) / 4


# Kills, full disks, damaged files.


@contextlib.contextmanager
def script(folder):
    """Trainings in processes of their own, one after the other: how each is killed -> its exit status and output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parents[2]}{os.pathsep}{HERE}"}
    command = [sys.executable, str(HERE / "train_script.py"), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, bufsize=1, env=environment, **pipes) as process:  # noqa: S603

        def run(how):
            process.stdin.write(f"{how}\n")
            line = process.stdout.readline()
            assert line.startswith("["), line + process.communicate(timeout=PATIENCE)[0]
            return json.loads(line)

        alarm = threading.Timer(PATIENCE, process.kill)
        alarm.start()
        yield run
        alarm.cancel()
        process.stdin.close()


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_as_the_unbroken_one(tmp_path, unbroken):
    with script(tmp_path) as run:
        check_kills(tmp_path, run, unbroken)


def check_kills(tmp_path, run, unbroken):
    for how in ("kill-in-write=1", "kill-at=23", "kill-in-write=2"):
        assert run(how) == [-signal.SIGKILL, ""]
        if how == "kill-in-write=1":
            assert latest_checkpoint(tmp_path) is None
            assert len(list(tmp_path.glob(".*.part"))) == 1
    assert latest_checkpoint(tmp_path).step == 28
    newest = max(tmp_path.glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-100])  # a truncated file
    assert latest_checkpoint(tmp_path).step == 21
    status, output = run("whole")
    assert status == 0
    found = json.loads(output)
    assert found["losses"] == [loss.hex() for loss in unbroken.losses]
    assert found["evaluations"] == [list(one) for one in unbroken.evaluations]
    assert len(list(tmp_path.glob("step-*"))) == 2
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.slow
def test_weights_after_a_stop_are_those_of_the_unbroken_run(tmp_path, unbroken):
    first = train(script_model(), script_corpus(), SCRIPT, folder=tmp_path, checkpoint_every=7, device="cpu", time_limit=0.0)
    assert (first.status, first.steps) == ("stopped", 1)
    broken = script_run(tmp_path)
    assert broken.losses == unbroken.losses
    assert broken.evaluations == unbroken.evaluations
    assert broken.seconds > first.seconds


@pytest.mark.slow
def test_a_forgotten_optimizer_is_caught(tmp_path, unbroken):
    """Negative control: if one moment of one weight is missing in the checkpoint, the losses differ."""
    train(script_model(), script_corpus(), SCRIPT, folder=tmp_path, device="cpu", time_limit=0.0)
    found = latest_checkpoint(tmp_path)
    tensors = {name: tensor for name, tensor in found.tensors.items() if name != "optimizer/exp_avg/norm.bias"}
    tensors["optimizer/exp_avg/norm.bias"] = torch.zeros(32)
    for path in tmp_path.glob("step-*"):
        path.unlink()
    checkpoints.save_checkpoint(tmp_path, found.step, tensors, found.state)
    assert script_run(tmp_path).losses != unbroken.losses


def test_doing_it_twice_is_doing_it_once(tmp_path, corpus):
    first = train(model := SmallGPT(), corpus, SHORT, folder=tmp_path, device="cpu")
    again = train(other := SmallGPT(), corpus, SHORT, folder=tmp_path, device="cpu", probes=[refuse])
    assert again.losses == first.losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    written = Outcome.from_dict(json.loads((tmp_path / "outcome.json").read_text()))
    assert (written.losses, written.evaluations, written.status) == (first.losses, first.evaluations, "finished")
    with pytest.raises(InputError, match="contains another run"):
        train(SmallGPT(), corpus, changed(SHORT, learning_rate=1.0), folder=tmp_path, device="cpu")
    with pytest.raises(InputError, match="contains another run"):
        train(SmallGPT(seed=5), corpus, SHORT, folder=tmp_path, device="cpu")
    with pytest.raises(InputError, match="contains another run"):
        train(SmallGPT(), zipf_markov(5000, vocab=32, seed=1), SHORT, folder=tmp_path, device="cpu")


def refuse(_, step, optimizer=None):
    raise AssertionError(f"update {step} was repeated")


def test_a_full_disk_costs_checkpoints_only(tmp_path, corpus, monkeypatch):
    plain = train(SmallGPT(), corpus, SHORT, device="cpu")
    flush, calls = os.fsync, 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls > 2:  # the first checkpoint, with its file and its folder, still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    outcome = train(SmallGPT(), corpus, SHORT, folder=tmp_path, checkpoint_every=5, device="cpu")
    assert outcome.losses == plain.losses
    assert outcome.status == "finished"
    assert outcome.warnings == tuple(f"no checkpoint after {step} updates: No space left on device" for step in (10, 12))
    assert [path.name[:15] for path in tmp_path.iterdir()] == ["step-0000000005"]
    monkeypatch.setattr(os, "fsync", flush)
    assert train(SmallGPT(), corpus, SHORT, folder=tmp_path, device="cpu").losses == plain.losses


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "garbage"])
def test_a_broken_checkpoint_is_passed_over(tmp_path, damage):
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path, step, {"x": torch.full((100,), float(step))}, {"n": step})
    assert len(list(tmp_path.iterdir())) == 2
    newest = max(tmp_path.iterdir())
    data = newest.read_bytes()
    newest.write_bytes({
        "truncate": data[:-1], "empty": b"", "garbage": b"\x80\x04K*." * 50,
        "flip": data[:200] + bytes([data[200] ^ 1]) + data[201:],
    }[damage])  # fmt: skip
    found = latest_checkpoint(tmp_path)
    assert (found.step, found.state, float(found.tensors["x"].sum())) == (2, {"n": 2}, 200.0)


def test_checkpoints_hold_tied_weights_once(tmp_path, corpus):
    train(SmallGPT(), corpus, SHORT, folder=tmp_path, device="cpu")
    names = latest_checkpoint(tmp_path).tensors
    assert "model/tokens.weight" in names
    assert "model/head.weight" not in names


# Divergence.


def test_a_diverged_run_is_a_result(tmp_path, corpus):
    training = changed(SHORT, learning_rate=1e4, clip=None, warmup=0)
    outcome = train(SmallGPT(), corpus, training, folder=tmp_path, device="cpu")
    assert outcome.status == "diverged"
    assert outcome.diverged_at == len(outcome.losses) - 1
    assert outcome.losses[-1] > 2 * outcome.losses[0]
    assert (
        train(SmallGPT(), corpus, training, folder=tmp_path, device="cpu", probes=[refuse]).diverged_at == outcome.diverged_at
    )


def test_not_a_number_is_a_diverged_loss(tmp_path, corpus):
    def poison(model, step, _):
        if step == 4:
            model.norm.weight.data[0] = math.nan

    outcome = train(SmallGPT(), corpus, SHORT, folder=tmp_path, device="cpu", probes=[poison])
    assert (outcome.status, outcome.diverged_at, outcome.steps) == ("diverged", 4, 5)
    assert math.isnan(outcome.final_loss)
    assert json.loads((tmp_path / "outcome.json").read_text())["losses"][-1] == "nan"
    assert math.isnan(Outcome.from_dict(outcome.to_dict()).losses[-1])


def test_threshold_may_be_given(corpus):
    losses = train(SmallGPT(), corpus, SHORT, device="cpu").losses
    above = train(SmallGPT(), corpus, changed(SHORT, diverged_above=losses[0] + 1e-6), device="cpu")
    below = train(SmallGPT(), corpus, changed(SHORT, diverged_above=losses[0] - 1e-6), device="cpu")
    assert (above.status, below.status, below.diverged_at) == ("finished", "diverged", 0)


# Schedules, clipping, groups.


def factors(**options):
    training = Training(**{"steps": 20, "final": 0.2, **options})
    return [optim.schedule_factor(training, step) for step in range(training.steps)]


def test_schedules_at_their_ends():
    assert factors(schedule="constant", warmup=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert set(factors(schedule="constant")) == {1.0}
    cosine, linear = factors(schedule="cosine"), factors(schedule="linear")
    assert cosine[0] == linear[0] == 1.0
    assert cosine[10] == pytest.approx(0.6) == linear[10]
    assert linear[-1] == pytest.approx(1 - 0.8 * 19 / 20)
    assert all(a > b for some in (cosine, linear) for a, b in itertools.pairwise(some))
    wsd = factors(schedule="wsd", cooldown=0.25)
    assert wsd[:16] == [1.0] * 16
    assert wsd[16:] == pytest.approx([0.84, 0.68, 0.52, 0.36])


def clipped(training, gradient_scale=1.0, weight_decay=(0.1, 0.1), lr=0.5):
    weights = [torch.nn.Parameter(torch.full((3, 4), 2.0)), torch.nn.Parameter(torch.full((5, 5), 1.0))]
    groups = [{"params": [w], "lr": lr, "weight_decay": decay} for w, decay in zip(weights, weight_decay, strict=True)]
    optimizer = optim.make_optimizer(training, groups, torch.device("cpu"))
    for i, weight in enumerate(weights):
        weight.grad = gradient_scale * (1.0 + torch.arange(weight.numel(), dtype=torch.float32).view_as(weight) + i)
    before = [weight.grad.clone() for weight in weights]
    norm = optim.clip(training, optimizer)
    return weights, before, norm


def total(tensors):
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


def test_clipping_keeps_direction_and_sets_length():
    weights, before, norm = clipped(Training(clip=3.0))
    assert float(norm) == pytest.approx(total(before))
    assert total(w.grad for w in weights) == pytest.approx(3.0, rel=1e-5)
    assert weights[0].grad / before[0] == pytest.approx(torch.full((3, 4), float(weights[0].grad[0, 0])), rel=1e-5)
    weights, before, _ = clipped(Training(clip=1e6))
    assert all(torch.equal(w.grad, b) for w, b in zip(weights, before, strict=True))


def test_relative_clipping_is_that_of_the_paper():
    """The limit is sqrt(2 C lambda / eta) times the norm of the decaying weights; shorter gradients are unchanged."""
    training = Training(optimizer="sgd", clip=None, relative_clip=4.0)
    weights, before, _ = clipped(training)
    limit = math.sqrt(2 * 4 * 0.1 / 0.5) * total(w.detach() for w in weights)
    assert total(before) > limit
    assert total(w.grad for w in weights) == pytest.approx(limit, rel=1e-6)
    weights, before, _ = clipped(training, gradient_scale=1e-3)
    assert all(torch.equal(w.grad, b) for w, b in zip(weights, before, strict=True))
    weights, before, _ = clipped(training, weight_decay=(0.1, 0.0))
    assert torch.equal(weights[1].grad, before[1])  # without weight decay it is not clipped
    assert total([weights[0].grad]) == pytest.approx(math.sqrt(2 * 4 * 0.1 / 0.5) * total([weights[0].detach()]), rel=1e-6)
    assert total([weights[0].grad]) != pytest.approx(math.sqrt(4 * 0.1 / 0.5) * total([weights[0].detach()]), rel=1e-2)


@pytest.mark.slow
def test_norm_of_scale_invariant_weights_goes_to_its_equilibrium():
    """SGD with decay on a scale-invariant loss: |x|^4 -> eta sigma^2 / (2 lambda) from any initial norm."""
    eta, decay, size = 0.05, 0.05, 200
    generator = torch.Generator().manual_seed(0)
    training = Training(optimizer="sgd", clip=None, weight_decay=decay, learning_rate=eta)
    for start in (0.2, 5.0):
        x = torch.nn.Parameter(torch.full((1, size), start / math.sqrt(size)))
        optimizer = optim.make_optimizer(training, [{"params": [x], "lr": eta, "weight_decay": decay}], torch.device("cpu"))
        squares = []
        for step in range(2500):
            optimizer.zero_grad()
            noise = torch.randn(1, size, generator=generator) / math.sqrt(size)  # a gradient of length sigma = 1 on the sphere
            (noise * (x / x.norm())).sum().backward()
            optimizer.step()
            if step >= 1500:
                squares.append(float(x.detach().norm()) ** 4)
        # Squared norm of a random gradient tangent to the sphere: 1 minus the component along x.
        expected = eta * (1 - 1 / size) / (2 * decay)
        # The norm is correlated over 1 / (4 eta lambda) = 100 updates, so 1,000 updates hold ten independent values of relative
        # standard deviation sqrt(2 / size); the tolerance is four standard errors of their mean.
        assert sum(squares) / len(squares) == pytest.approx(expected, rel=4 * math.sqrt(2 / size / 10))


def test_a_recipe_sets_rate_and_decay_of_each_weight(corpus):
    transformers = pytest.importorskip("transformers")
    from depthwidth import recipe
    from verify.models.initialize import apply_init
    from verify.models.locate import tree_of

    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=32, n_positions=16, resid_pdrop=0, embd_pdrop=0,
                                     attn_pdrop=0)  # fmt: skip
    made = transformers.GPT2LMHeadModel(config)
    tree = tree_of(made)
    scheme = recipe(tree, "mup", base_width=8)
    apply_init(made, scheme, tree=tree)
    outcome = train(made, corpus, SHORT, recipe=scheme, tree=tree, device="cpu")
    assert outcome.status == "finished"
    assert outcome.losses[-1] < outcome.losses[0]
    apply_init(made, scheme, tree=tree)
    assert train(made, corpus, SHORT, device="cpu").losses != outcome.losses


# Outputs of models.


def test_losses_of_models_that_return_this_or_that(corpus):
    inputs, targets = corpus.batch(0, 0, 4, 16)
    base = SmallGPT()
    expected = functional.cross_entropy(base(inputs).transpose(1, 2), targets).item()

    class Pair(SmallGPT):
        def forward(self, tokens, targets=None):
            logits = super().forward(tokens)
            return logits, functional.cross_entropy(logits.transpose(1, 2), targets)

    class Named(SmallGPT):
        def forward(self, tokens):
            return SimpleNamespace(logits=super().forward(tokens), loss=None)

    class Scalar(SmallGPT):
        def forward(self, tokens, targets):
            return functional.cross_entropy(super().forward(tokens).transpose(1, 2), targets)

    class Neither(SmallGPT):
        def forward(self, tokens):
            return SimpleNamespace(hidden=super().forward(tokens))

    for kind in (SmallGPT, Pair, Named, Scalar):
        model = kind()
        assert language_loss(model)(model, inputs, targets).item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(InputError, match="neither logits nor a loss"):
        language_loss(model := Neither())(model, inputs, targets)


def test_any_module_can_be_trained_with_a_loss_of_its_own(corpus):
    model = torch.nn.Embedding(32, 32)
    outcome = train(model, corpus, SHORT, loss=lambda m, x, y: functional.cross_entropy(m(x).transpose(1, 2), y), device="cpu")
    assert outcome.status == "finished"


# Probes and loggers.


def test_probes_see_gradients_and_both_weights(corpus):
    seen = []

    @contextlib.contextmanager
    def watch(model, step):
        before = model.norm.weight.detach().clone()
        yield
        seen.append((step, float(model.norm.weight.grad.norm()), float((model.norm.weight - before).detach().norm())))

    probe = lambda model, step, _: watch(model, step) if step in {0, 5} else None  # noqa: E731
    watched = train(SmallGPT(dropout=0.1), corpus, SHORT, probes=[probe], device="cpu")
    assert [step for step, *_ in seen] == [0, 5]
    assert all(gradient > 0 and moved > 0 for _, gradient, moved in seen)
    assert watched.losses == train(SmallGPT(dropout=0.1), corpus, SHORT, device="cpu").losses


def test_rows_of_probes_along_training(corpus):
    rows = []
    probe = measuring(
        {0, 11}, rows.extend, quantities=("variance", "gradient_variance", "update_ratio"), sites=["norm", "blocks.*.up"]
    )
    watched = train(SmallGPT(), corpus, SHORT, probes=[probe], device="cpu")
    assert {(row["step"], row["quantity"]) for row in rows} == {
        (step, quantity) for step in (0, 11) for quantity in ("variance", "gradient_variance", "update_ratio")
    }
    assert all(row["value"] > 0 for row in rows)
    assert watched.losses == train(SmallGPT(), corpus, SHORT, device="cpu").losses


class Recorder:
    def __init__(self):
        self.rows, self.closed = [], False

    def log(self, step, values):
        self.rows.append((step, dict(values)))

    def close(self):
        self.closed = True


def test_loggers_get_numbers_and_an_end(corpus):
    recorder = Recorder()
    outcome = train(SmallGPT(), corpus, changed(SHORT, evaluate_every=6), loggers=[recorder], log_every=4, device="cpu")
    losses = {step: values["train/loss"] for step, values in recorder.rows if "train/loss" in values}
    assert losses == {step: outcome.losses[step - 1] for step in (4, 8, 12)}
    assert {step: values["val/loss"] for step, values in recorder.rows if "val/loss" in values} == {
        step: loss for step, loss, _ in outcome.evaluations
    }
    assert [step for step, *_ in outcome.evaluations] == [0, 6, 12]
    assert recorder.closed


def test_tensorboard_by_its_library(tmp_path, corpus):
    pytest.importorskip("tensorboard")
    train(SmallGPT(), corpus, SHORT, loggers=[tensorboard(tmp_path)], device="cpu")
    assert any(path.stat().st_size > 200 for path in tmp_path.rglob("events*"))


def test_absent_loggers_are_asked_for_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        wandb()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        tensorboard("x")


def test_wandb_by_its_library(monkeypatch, corpus):
    logged, made = [], {}
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: made.update(options) or run))
    train(SmallGPT(), corpus, SHORT, loggers=[wandb(project="p")], device="cpu")
    assert made == {"project": "p"}
    assert logged[0][0] == 10
    assert logged[-1] == "end"


def test_the_bar_shows_loss_and_speed(corpus, capsys):
    train(SmallGPT(), corpus, SHORT, progress=True, device="cpu")
    shown = capsys.readouterr()
    assert "tokens/s" in shown.err
    assert "12/12" in shown.err
    assert not shown.out


def test_callers_keep_their_random_numbers(corpus):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(SmallGPT(dropout=0.1), corpus, SHORT, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_dropout_has_its_own_seed(corpus):
    losses = [train(SmallGPT(dropout=0.2), corpus, changed(SHORT, seed=seed), device="cpu").losses for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_bfloat16_is_near(corpus):
    exact, rough = (
        train(SmallGPT(), corpus, changed(SHORT, precision=p), device="cpu").losses for p in ("float32", "bfloat16")
    )
    assert rough != exact
    # With eight bits of mantissa each product is rounded by at most 2**-9; losses are means over many products.
    assert rough == pytest.approx(exact, rel=2**-9)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": 0}, "steps=0 is not a whole number from 1"),
        ({"batch": True}, "batch=True is not a whole number"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"learning_rate": math.inf}, "learning_rate=inf is not a number from 0"),
        ({"weight_decay": math.nan}, "weight_decay=nan"),
        ({"beta1": 1.5}, "beta1=1.5 is not a number from 0 to 1"),
        ({"beta1": 1.0}, "beta1 must be below 1"),
        ({"beta2": 1}, "beta2 must be below 1"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"clip": 0}, "sets every gradient to zero"),
        ({"stepz": 3}, "there is no setting 'stepz'.*did you mean 'steps'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_a_sentence(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        Training.from_dict(wrong)


class Looked(torch.nn.Module):
    """A model whose vocabulary size cannot be told, because its table is a plain parameter."""

    def __init__(self, rows=20):
        super().__init__()
        self.table = torch.nn.Parameter(0.1 * torch.randn(rows, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, tokens):
        return functional.embedding(tokens, self.table) @ self.table.T


class Single(torch.nn.Module):
    """One embedding, of positions if `positions` is true and of tokens otherwise, and a head."""

    def __init__(self, rows, outputs, positions):
        super().__init__()
        self.table, self.head, self.positions = torch.nn.Embedding(rows, 8), torch.nn.Linear(8, outputs), positions

    def forward(self, tokens):
        x = self.table(torch.arange(tokens.shape[1]).expand_as(tokens) if self.positions else tokens)
        return self.head(x)


class Theirs(SmallGPT):
    """A model that returns its table as models of the transformers library do."""

    def get_input_embeddings(self):
        return self.tokens


@pytest.mark.parametrize(
    "model",
    [
        lambda: build(Transformer(depth=1, width=16, heads=2, vocab=31, context=16)),
        lambda: Theirs(vocab=31),
        lambda: Single(31, 31, positions=False),
    ],
    ids=["ours", "transformers", "one embedding"],
)
def test_a_vocabulary_that_is_too_small_is_said_beforehand(corpus, model):
    assert corpus.largest_token() == 31
    with pytest.raises(InputError, match="the corpus contains token 31, but the model's vocabulary is 0 to 30"):
        train(model(), corpus, SHORT, device="cpu", probes=[refuse])
    with pytest.raises(InputError, match="the corpus contains token 31, but the model's vocabulary is 0 to 30"):
        train_ensemble([model(), model()], corpus, SHORT, device="cpu", on_step=refuse)


def test_a_vocabulary_that_is_too_small_is_said_where_it_is_found(corpus):
    for model in (Looked, lambda: Single(31, 32, positions=False), lambda: Single(32, 31, positions=False)):
        with pytest.raises(InputError, match="table of the model has too few rows for tokens 0 to 31 in windows of 16"):
            train(model(), corpus, SHORT, device="cpu")
        for mode, every in itertools.product(("loop", "batched"), (0, 1)):  # found in training, or in an evaluation before it
            each = changed(SHORT, evaluate_every=every, evaluate_batches=8)
            with pytest.raises(InputError, match="table of the model has too few rows for tokens 0 to 31 in windows of 16"):
                train_ensemble([model(), model()], corpus, each, mode=mode, device="cpu")


def test_a_table_of_positions_or_a_rare_token_is_no_reason_to_refuse(corpus):
    assert train(Single(16, 32, positions=True), corpus, SHORT, device="cpu").status == "finished"
    few = Corpus(corpus.train.clamp(max=19), corpus.validation.clamp(max=19), 32)
    assert train(SmallGPT(vocab=20), few, SHORT, device="cpu").status == "finished"
    halves = train(Single(16, 16, positions=False), corpus, SHORT, device="cpu", loss=of_halves)
    assert halves.status == "finished"


def of_halves(model, inputs, targets):
    return functional.cross_entropy(model(inputs // 2).flatten(0, 1), (targets // 2).flatten())


def test_an_index_error_of_the_models_own_stays_one(corpus):
    class Wrong(SmallGPT):
        def forward(self, tokens):
            return [super().forward(tokens)][1]

    with pytest.raises(IndexError, match="list index"):
        train(Wrong(), corpus, SHORT, device="cpu")


def test_without_a_parameter_to_train_that_is_said(corpus):
    with pytest.raises(InputError, match="the model has no trainable parameters"):
        train(SmallGPT().requires_grad_(False), corpus, SHORT, device="cpu")
    with pytest.raises(InputError, match="the models have no trainable parameters"):
        train_ensemble([SmallGPT().requires_grad_(False)], corpus, SHORT, device="cpu")


def test_a_folder_that_is_none_is_refused_before_a_step(tmp_path, corpus):
    (tmp_path / "p3.py").write_text("print()")
    for folder, sentence in (("p3.py", "is a file, not a folder"), ("p3.py/sub", "cannot be created: Not a directory")):
        with pytest.raises(InputError, match=sentence):
            train(SmallGPT(), corpus, SHORT, folder=tmp_path / folder, device="cpu", probes=[refuse])
        with pytest.raises(InputError, match=sentence):
            train_ensemble([SmallGPT()], corpus, SHORT, folder=tmp_path / folder, device="cpu", on_step=refuse)
    assert (tmp_path / "p3.py").read_text() == "print()"


def test_training_is_json_and_back():
    assert Training.from_dict(json.loads(json.dumps(SHORT.to_dict()))) == SHORT
