"""Members of an ensemble have the same losses as alone; a wrong learning rate or a leak between members is detected."""

import math
import os
import threading

import pytest
import torch
from small_gpt import SmallGPT
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from depthwidth import Transformer
from depthwidth.errors import InputError
from depthwidth.layers import AltUpRouting, LayerInputs
from verify.models.initialize import apply_init, parameter_groups
from verify.models.model import build
from verify.training.checkpoints import latest_checkpoint
from verify.training.corpus import zipf_markov
from verify.training.ensemble import train_ensemble
from verify.training.ensemble_passes import Passes
from verify.training.train import Training, WithLoss, language_loss, train, validation_loss

pytestmark = pytest.mark.slow

RATES = (1e-3, 3e-3, 1e-2)
SHORT = Training(steps=100, batch=4, context=16, warmup=5, clip=0.7, evaluate_batches=2)
BRIEF = Training(steps=12, batch=4, context=16, warmup=3, evaluate_batches=2, evaluate_every=5)


@pytest.fixture(scope="module")
def corpus():
    return zipf_markov(5000, vocab=32)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(training, **changes):
    return Training.from_dict({**training.to_dict(), **changes})


def trainings(base=SHORT):
    return [changed(base, learning_rate=rate, data_seed=i, seed=i) for i, rate in enumerate(RATES)]


def models(**options):
    return [SmallGPT(seed=i, **options) for i in range(len(RATES))]


def alone(some, corpus, each):
    return [train(model, corpus, training, device="cpu") for model, training in zip(some, each, strict=True)]


@pytest.fixture(scope="module")
def one_by_one(corpus):
    return alone(models(), corpus, trainings())


def furthest(ensemble, singles):
    return max(
        abs(a - b) for one, other in zip(ensemble, singles, strict=True) for a, b in zip(one.losses, other.losses, strict=True)
    )


def evaluations_apart(ensemble, singles):
    """Largest difference between corresponding validation losses or their standard errors."""
    found = [torch.tensor([one.evaluations for one in some], dtype=torch.float64) for some in (ensemble, singles)]
    return float((found[0] - found[1]).abs().max())


@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_losses_over_100_steps_are_those_of_training_one_by_one(corpus, one_by_one, mode):
    together = train_ensemble(trained := models(), corpus, trainings(), mode=mode, device="cpu")
    assert furthest(together, one_by_one) < 1e-4
    for member, single in zip(together, one_by_one, strict=True):
        assert member.evaluations[-1][1] == pytest.approx(single.evaluations[-1][1], abs=1e-4)
        assert (member.status, member.steps, member.tokens) == (single.status, single.steps, single.tokens)
        assert member.training == single.training
    # The modules passed in hold the trained weights.
    loss = functional.cross_entropy(trained[0](corpus.train[None, :16].long()).transpose(1, 2), corpus.train[None, 1:17].long())
    assert loss.item() < math.log(32)


@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_another_members_learning_rate_is_caught(corpus, one_by_one, mode):
    swapped = [changed(one, learning_rate=rate) for one, rate in zip(trainings(), (RATES[1], RATES[0], RATES[2]), strict=True)]
    together = train_ensemble(models(), corpus, swapped, mode=mode, device="cpu")
    assert furthest(together[:1], one_by_one[:1]) > 1e-2
    assert furthest(together[1:2], one_by_one[1:2]) > 1e-2
    assert furthest(together[2:], one_by_one[2:]) < 1e-4


def tree(**options):
    return Transformer(depth=2, width=32, heads=4, vocab=32, context=16, **options)


GEMMA = {
    "value_norm": True, "laurel": 3, "routed_altup": AltUpRouting(3), "layer_inputs": LayerInputs(30, 4),
    "blocks": ({"sparsity": 0.5}, {"borrowed_keys": True}),
}  # fmt: skip


@pytest.mark.parametrize(
    "shape",
    [
        tree(),
        tree(positions="rotary", norm="rmsnorm", activation="silu", gated=True, kv_heads=2, tied=False),
        tree(positions="alibi", bias=False),
        tree(placement="post", positions="relative"),
        tree(altup=2, positions="rotary"),
        tree(positions="rotary", norm="rmsnorm", gated=True, bias=False, placement="sandwich", qk_norm="head", **GEMMA),
    ],
    ids=["gpt2", "llama", "alibi", "post-norm, relative", "alternating updates", "copies of the stream"],
)
def test_any_tree_can_be_an_ensemble(corpus, shape):
    brief = trainings(changed(BRIEF, evaluate_every=0))
    singles = alone([build(shape, seed=i) for i in range(3)], corpus, brief)
    together = train_ensemble([build(shape, seed=i) for i in range(3)], corpus, brief, mode="batched", device="cpu")
    assert furthest(together, singles) < 1e-5


class Kept(SmallGPT):
    """A model with three kinds of buffers: changed in place (batch norm), replaced by a new tensor, and never changed."""

    def __init__(self, **options):
        super().__init__(**options)
        self.batch_norm = torch.nn.BatchNorm1d(32)
        self.register_buffer("mean_size", torch.zeros(32))
        self.register_buffer("ones", torch.ones(32))

    def forward(self, tokens):
        x = self.batch_norm(self.tokens(tokens).transpose(1, 2)).transpose(1, 2) * self.ones
        if self.training:
            self.mean_size = 0.9 * self.mean_size + 0.1 * x.detach().abs().mean((0, 1))
        for block in self.blocks:
            x = block(x + self.mean_size)
        return self.head(self.norm(x))


def kept():
    return [Kept(seed=i) for i in range(len(RATES))]


def apart(some, others):
    """The largest difference between the buffers of two lists of models, relative to the entry, or to 1 if that is larger."""
    return max(
        float(((a.double() - b.double()).abs() / b.double().abs().clamp(min=1.0)).max())
        for one, other in zip(some, others, strict=True)
        for a, b in zip(one.buffers(), other.buffers(), strict=True)
    )


@pytest.mark.parametrize(("mode", "compile"), [("batched", False), ("loop", False), ("batched", True), ("loop", True)], ids=str)
def test_buffers_that_a_pass_changes_are_each_members_own(corpus, monkeypatch, mode, compile):  # noqa: A002, torch's name
    """After 20 updates, buffers equal those of single runs, and so do validation losses, which use the running means."""
    compile_for_real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda graph, **_: compile_for_real(graph, backend="aot_eager"))
    each = trainings(changed(BRIEF, steps=20, evaluate_every=7))
    singles = alone(by_themselves := kept(), corpus, each)
    together = train_ensemble(members := kept(), corpus, [changed(t, compile=compile) for t in each], mode=mode, device="cpu")
    assert furthest(together, singles) < 1e-5
    assert apart(members, by_themselves) < 1e-5  # float32 sums in another order
    assert evaluations_apart(together, singles) < 1e-5
    # Negative control: initial buffers, which would remain if updates were lost, give clearly different values.
    assert members[0].batch_norm.num_batches_tracked == 20
    assert apart(kept(), by_themselves) > 0.1
    forgetful = Kept()
    forgetful.load_state_dict({**members[0].state_dict(), **dict(Kept().named_buffers())})
    loss = WithLoss(forgetful, language_loss(forgetful))
    assert abs(validation_loss(loss, corpus, 2, 4, 16)[0] - singles[0].evaluations[-1][1]) > 1e-2


def test_after_the_tries_of_auto_buffers_are_still_the_members(corpus, monkeypatch):
    def tried(self):
        assert fastest_mode(self) in ("batched", "loop")
        return "batched"

    fastest_mode = Passes.fastest_mode
    monkeypatch.setattr(Passes, "fastest_mode", tried)
    alone(by_themselves := kept(), corpus, trainings(BRIEF))
    train_ensemble(members := kept(), corpus, trainings(BRIEF), device="cpu")
    assert apart(members, by_themselves) < 1e-5


@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_weights_that_are_not_trained_stay_each_members_own(corpus, mode):
    def made():
        some = models()
        for model in some:
            model.positions.weight.requires_grad_(False)
        return some

    before = [model.positions.weight.clone() for model in made()]
    together = train_ensemble(members := made(), corpus, trainings(BRIEF), mode=mode, device="cpu")
    singles = alone(made(), corpus, trainings(BRIEF))
    assert furthest(together, singles) < 1e-5
    assert evaluations_apart(together, singles) < 1e-5
    assert all(torch.equal(model.positions.weight, kept) for model, kept in zip(members, before, strict=True))
    assert (
        furthest(together, alone(models(), corpus, trainings(BRIEF))) > 1e-4
    )  # negative control: models in which they are trained
    odd = made()
    odd[1].positions.weight.requires_grad_(True)
    for order in (odd, odd[::-1]):
        with pytest.raises(InputError, match=r"does not train positions|trains weights that the first member does not"):
            train_ensemble(order[:2], corpus, BRIEF, mode=mode, device="cpu")
        with pytest.raises(InputError, match=r"does not train positions|trains weights that the first member does not"):
            train_ensemble(order[1:], corpus, BRIEF, mode=mode, device="cpu")


@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_a_checkpoint_holds_what_a_pass_changes(tmp_path, corpus, mode):
    whole = train_ensemble(unbroken := kept(), corpus, trainings(BRIEF), mode=mode, device="cpu")

    def stop(step, _):
        if step == 8:
            raise KeyboardInterrupt

    options = {"mode": mode, "device": "cpu", "folder": tmp_path, "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(kept(), corpus, trainings(BRIEF), on_step=stop, **options)
    assert latest_checkpoint(tmp_path).step == 6
    resumed = train_ensemble(members := kept(), corpus, trainings(BRIEF), **options)
    assert apart(members, unbroken) == 0
    assert [one.evaluations for one in resumed] == [one.evaluations for one in whole]


def test_buffers_of_different_shapes_go_in_a_loop(corpus):
    def made():
        some = models()
        some[0].register_buffer("table", torch.ones(3))
        some[1].register_buffer("table", torch.ones(4))
        some[2].register_buffer("table", torch.ones(5))
        return some

    with pytest.raises(InputError, match="buffers of different names or shapes; use mode='loop'"):
        train_ensemble(made(), corpus, trainings(BRIEF), mode="batched", device="cpu")
    singles = alone(made(), corpus, trainings(BRIEF))
    assert furthest(train_ensemble(made(), corpus, trainings(BRIEF), device="cpu"), singles) < 1e-5


def test_a_mixture_of_experts_goes_in_a_loop(corpus):
    """Routing decides the number of tokens per expert, and torch's vmap does not support sizes that depend on data."""

    def made():
        return [build(tree(experts=4), seed=i) for i in range(3)]

    with pytest.raises(InputError, match=r"these models cannot be batched into one pass; use mode='loop'.*dynamic shape"):
        train_ensemble(made(), corpus, trainings(BRIEF), mode="batched", device="cpu")
    together = train_ensemble(made(), corpus, trainings(BRIEF), device="cpu")
    assert furthest(together, alone(made(), corpus, trainings(BRIEF))) < 1e-5


def test_an_error_of_the_loss_stays_what_it_is(corpus):
    def wrong(model, inputs, targets):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train_ensemble(models(), corpus, BRIEF, mode="batched", device="cpu", loss=wrong)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": 3},
        {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1},
        {"relative_clip": 4.0, "clip": None, "optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.01},
        {"clip": None, "schedule": "wsd"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_whatever_a_single_run_may_do(corpus, changes, mode):
    each = [changed(one, **{"learning_rate": one.learning_rate, **changes}) for one in trainings(BRIEF)]
    together = train_ensemble(models(), corpus, each, mode=mode, device="cpu")
    singles = alone(models(), corpus, each)
    assert furthest(together, singles) < 1e-5
    assert [[step for step, *_ in one.evaluations] for one in together] == [[0, 5, 10, 12]] * 3


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_members_that_differ_in_all_they_may(corpus, optimizer):
    """In ``batched`` some members share an optimizer and others cannot; each is clipped by its own norm or not at all."""
    base = changed(BRIEF, optimizer=optimizer, learning_rate=3e-3 if optimizer == "adamw" else 0.3)
    each = [
        base,
        changed(base, clip=0.1, data_seed=1),
        changed(base, clip=None, schedule="linear", data_seed=2),
        changed(base, weight_decay=0.3, warmup=0, data_seed=3),
        changed(base, relative_clip=2.0, data_seed=4),
        changed(base, beta1=0.5, momentum=0.9, data_seed=5),
    ]
    some = [[SmallGPT(seed=i) for i in range(len(each))] for _ in range(3)]
    singles = alone(some[0], corpus, each)
    assert furthest(train_ensemble(some[1], corpus, each, mode="batched", device="cpu"), singles) < 1e-5
    alike = [changed(one, clip=1.0, relative_clip=None) for one in each]
    assert furthest(train_ensemble(some[2], corpus, alike, mode="batched", device="cpu"), singles) > 1e-3


class Calls(TorchDispatchMode):
    """Counts calls that run on the device; views of existing tensors do not count."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += not func.is_view
        return func(*args, **(kwargs or {}))


def test_batched_an_update_takes_as_many_calls_whatever_the_members(corpus):
    """On a GPU the number of calls decides the time, because launching a call of a small model takes longer than running it."""

    def calls(members, mode):
        each = [changed(BRIEF, evaluate_batches=0, data_seed=i) for i in range(members)]
        some, after = [SmallGPT(seed=i) for i in range(members)], []
        with Calls() as counted:
            train_ensemble(some, corpus, each, mode=mode, device="cpu", on_step=lambda *_: after.append(counted.made))
        return after[4] - after[3]

    assert calls(6, "batched") == calls(2, "batched")
    assert calls(6, "loop") > 2 * calls(2, "loop")


def test_batched_an_evaluation_takes_as_many_calls_whatever_the_members(corpus):
    def calls(members, mode):
        each = [changed(BRIEF, steps=1, evaluate_batches=2, micro_batch=3, data_seed=i) for i in range(members)]
        before = [changed(one, evaluate_batches=0) for one in each]
        found = []
        for some in (each, before):
            with Calls() as counted:
                train_ensemble([SmallGPT(seed=i) for i in range(members)], corpus, some, mode=mode, device="cpu")
            found.append(counted.made)
        return found[0] - found[1]

    assert calls(6, "batched") == calls(2, "batched")
    assert calls(6, "loop") > 2 * calls(2, "loop")


def test_what_only_training_can_do_together_is_evaluated_one_by_one(corpus):
    class Asks(SmallGPT):
        def forward(self, tokens):
            logits = super().forward(tokens)
            return logits if self.training or logits.sum() > math.inf else 2 * logits

    some = [Asks(seed=i) for i in range(3)]
    together = train_ensemble(some, corpus, trainings(BRIEF), mode="batched", device="cpu")
    singles = alone([Asks(seed=i) for i in range(3)], corpus, trainings(BRIEF))
    assert furthest(together, singles) < 1e-5
    assert evaluations_apart(together, singles) < 1e-5


def test_with_dropout_the_loop_draws_what_a_single_run_draws(corpus):
    each = trainings(BRIEF)
    singles = alone(models(dropout=0.2), corpus, each)
    assert furthest(train_ensemble(models(dropout=0.2), corpus, each, mode="loop", device="cpu"), singles) < 1e-5
    batched = train_ensemble(models(dropout=0.2), corpus, each, mode="batched", device="cpu")
    assert 1e-3 < furthest(batched, singles) < 1.0  # other random numbers, different for each member


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


class Watched:
    """The default loss; it records the threads that call it."""

    def __init__(self, model, fails=None):
        self.loss, self.threads, self.fails = language_loss(model), set(), fails

    def __call__(self, model, inputs, targets):
        self.threads.add((threading.get_ident(), torch.get_num_threads()))
        if model is self.fails:
            raise ZeroDivisionError
        return self.loss(model, inputs, targets)


def test_members_side_by_side_have_to_the_last_bit_the_losses_of_one_thread(corpus, three_threads):
    each, some, watched = trainings(BRIEF), models(), Watched(SmallGPT())
    together = train_ensemble(some, corpus, each, mode="loop", device="cpu", loss=watched)
    here = (threading.get_ident(), 3)
    assert len(watched.threads - {here}) > 1
    assert {threads for _, threads in watched.threads - {here}} == {1}
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    in_turn = train_ensemble(models(), corpus, each, mode="loop", device="cpu", loss=(one_thread := Watched(SmallGPT())))
    assert one_thread.threads == {(threading.get_ident(), 1)}
    assert [one.losses for one in together] == [one.losses for one in in_turn]
    assert [one.evaluations for one in together] == [one.evaluations for one in in_turn]


def test_members_that_draw_random_numbers_do_so_in_one_order(corpus, three_threads):
    watched, each = Watched(SmallGPT()), trainings(BRIEF)
    together = train_ensemble(models(dropout=0.2), corpus, each, mode="loop", device="cpu", loss=watched)
    assert watched.threads == {(threading.get_ident(), 3)}
    assert furthest(together, alone(models(dropout=0.2), corpus, each)) < 1e-5


def test_an_error_of_one_member_is_the_callers(corpus, three_threads):
    some = models()
    with pytest.raises(ZeroDivisionError):
        train_ensemble(some, corpus, trainings(BRIEF), mode="loop", device="cpu", loss=Watched(some[0], fails=some[1]))
    assert torch.get_num_threads() == 3


def test_a_recipe_sets_the_rates_of_each_member(corpus):
    from depthwidth import recipe

    scheme = recipe(tree(), "mup", base_width=8)

    def made():
        some = [build(tree(), scheme, seed=i) for i in range(3)]
        for model in some:
            apply_init(model, scheme, tree=tree())
        return some

    each = trainings(BRIEF)
    some = made()
    groups = [
        parameter_groups(m, scheme, t.learning_rate, t.weight_decay, tree=tree()) for m, t in zip(some, each, strict=True)
    ]
    together = train_ensemble(some, corpus, each, groups=groups, mode="batched", device="cpu")
    singles = [train(m, corpus, t, recipe=scheme, tree=tree(), device="cpu") for m, t in zip(made(), each, strict=True)]
    assert furthest(together, singles) < 1e-5
    assert furthest(train_ensemble(made(), corpus, each, mode="batched", device="cpu"), singles) > 1e-3


@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_compiled_there_is_one_graph_for_all_members(corpus, monkeypatch, three_threads, mode):
    """Uses the compiler's tracing and autograd, but not its code generator, which takes a minute."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counted, compile_for_real = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda graph, **_: compile_for_real(graph, backend=counted))
    each = [changed(one, compile=True, micro_batch=3) for one in trainings(changed(BRIEF, steps=4))]
    together = train_ensemble(models(depth=1), corpus, each, mode=mode, device="cpu")
    assert furthest(together, alone(models(depth=1), corpus, [changed(one, compile=False) for one in each])) < 1e-5
    assert counted.frame_count < 2 * len(each)  # one graph for micro-batches of 3 and one for 1, not one per member


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_the_same(corpus, one_by_one):
    """Batched and compiled with CUDA graphs, in float32 without TF32, only the order of sums differs."""
    each = [changed(one, compile=True) for one in trainings()]
    assert furthest(train_ensemble(models(), corpus, each, mode="batched", device="cuda"), one_by_one) < 1e-3


@pytest.mark.parametrize("mode", ["batched", "loop"])
def test_one_diverges_and_the_others_go_on(corpus, mode):
    each = trainings(changed(BRIEF, clip=None))
    each[1] = changed(each[1], learning_rate=1e4, warmup=0)
    together = train_ensemble(models(), corpus, each, mode=mode, device="cpu")
    assert [one.status for one in together] == ["finished", "diverged", "finished"]
    singles = alone(models(), corpus, each)
    assert (together[1].diverged_at, together[1].steps) == (singles[1].diverged_at, singles[1].steps)
    assert furthest([together[0], together[2]], [singles[0], singles[2]]) < 1e-5


def test_all_diverged_is_the_end(corpus):
    together = train_ensemble(models(), corpus, changed(BRIEF, clip=None, learning_rate=1e4, warmup=0), device="cpu")
    assert {one.status for one in together} == {"diverged"}


def test_an_interrupted_ensemble_ends_bit_for_bit_the_same(tmp_path, corpus):
    whole = train_ensemble(models(), corpus, trainings(BRIEF), mode="batched", device="cpu")

    def stop(step, _):
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ensemble(
            models(), corpus, trainings(BRIEF), mode="batched", device="cpu", folder=tmp_path, checkpoint_every=3, on_step=stop
        )
    assert latest_checkpoint(tmp_path).step == 6
    seen = []
    resumed = train_ensemble(
        models(), corpus, trainings(BRIEF), device="cpu", folder=tmp_path, on_step=lambda step, _: seen.append(step)
    )
    assert seen == [7, 8, 9, 10, 11, 12]
    assert [one.losses for one in resumed] == [one.losses for one in whole]
    assert [one.evaluations for one in resumed] == [one.evaluations for one in whole]
    again = train_ensemble(models(), corpus, trainings(BRIEF), device="cpu", folder=tmp_path, on_step=lambda *_: 1 / 0)
    assert [one.losses for one in again] == [one.losses for one in whole]
    with pytest.raises(InputError, match="contains another ensemble"):
        train_ensemble(models(), corpus, changed(BRIEF, beta2=0.9), device="cpu", folder=tmp_path)


def test_a_full_disk_costs_checkpoints_only(tmp_path, corpus, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    together = train_ensemble(models(), corpus, trainings(BRIEF), device="cpu", folder=tmp_path, checkpoint_every=6)
    assert together[0].status == "finished"
    assert together[0].warnings == tuple(f"no checkpoint after {step} updates: No space left on device" for step in (6, 12))


@pytest.mark.parametrize(
    ("members", "each", "sentence"),
    [
        ([], [], "one training per model"),
        ([SmallGPT()], [BRIEF, BRIEF], "one training per model"),
        ([SmallGPT(), SmallGPT()], [BRIEF, changed(BRIEF, steps=3)], "differ in steps"),
        ([SmallGPT(), SmallGPT(width=16)], BRIEF, "different names or shapes"),
        ([SmallGPT()] * 2, BRIEF, "belongs to two members"),
    ],
)
def test_what_is_not_alike_is_said_in_a_sentence(corpus, members, each, sentence):
    with pytest.raises(InputError, match=sentence):
        train_ensemble(members, corpus, each, device="cpu")
