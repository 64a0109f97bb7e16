"""Trees that grow while a model trains: stages, masked tokens, resuming, and an ensemble."""

import dataclasses

import pytest

from depthwidth import Transformer
from depthwidth.errors import InputError
from depthwidth.layers import Tree

torch = pytest.importorskip("torch")

from verify import build  # noqa: E402
from verify.models.tree_attention import tree_parts  # noqa: E402
from verify.training.bootstrap import Bootstrap  # noqa: E402
from verify.training.corpus import zipf_markov  # noqa: E402
from verify.training.ensemble import train_ensemble  # noqa: E402
from verify.training.masking import hidden_positions, masked_loss  # noqa: E402
from verify.training.train import Training, train  # noqa: E402

CORPUS = zipf_markov(4000, vocab=16, strength=2.0)
LOSS = masked_loss(16, 0.2)
TRAINING = Training(steps=8, batch=4, context=16, learning_rate=1e-2, evaluate_batches=2)
SCHEDULE = Bootstrap(((0, (None, None)), (2, (None, 1)), (4, (1, 1)), (6, (2, 2))))


def model(reads="leaf", seed=0, dtype=torch.float32):
    tree = Transformer(
        depth=2, width=16, heads=2, vocab=17, context=16, kind="encoder", head="masked-lm", tree=Tree(2, reads), ffn=32
    )
    return build(tree, "xavier", seed=seed, dtype=dtype)


def heights(one):
    return [part.height for part in tree_parts(one)]


def test_schedules():
    assert Bootstrap.by_height(2, 2, 100).stages == ((0, (None, None)), (38, (1, 1)), (75, (2, 2)))
    assert Bootstrap.by_layer(3, 2, 100, 0.5).stages == ((0, (None, None)), (25, (None, 3)), (50, (3, 3)))
    assert SCHEDULE.heights_at(5) == (1, 1)
    assert SCHEDULE.heights_at(100) == (2, 2)
    assert Bootstrap.from_dict(SCHEDULE.to_dict()) == SCHEDULE


@pytest.mark.parametrize(
    ("problem", "make"),
    [("not 0 and increasing", lambda: Bootstrap(((1, (1,)),))), ("not 0 and increasing", lambda: Bootstrap(())),
     ("different numbers of layers", lambda: Bootstrap(((0, (1,)), (5, (1, 1))))),
     ("not 0 and increasing", lambda: Bootstrap.by_height(5, 1, 3)),
     ("until=2 is not a fraction", lambda: Bootstrap.by_height(2, 1, 30, 2)),
     ("height=0 is not", lambda: Bootstrap.by_layer(0, 1, 30)),
     ("share=0 is not between", lambda: masked_loss(16, 0.0))],
)  # fmt: skip
def test_schedules_without_a_meaning_are_refused(problem, make):
    with pytest.raises(InputError, match=problem):
        make()


def test_hidden_positions():
    """A share of all positions, whatever the token; the same sequence hides the same, another one others."""
    tokens = torch.randint(16, (64, 128), generator=torch.Generator().manual_seed(0))
    hidden = hidden_positions(tokens, 0.15)
    assert abs(hidden.double().mean().item() - 0.15) < 5 * (0.15 * 0.85 / hidden.numel()) ** 0.5
    assert torch.equal(hidden[3], hidden_positions(tokens[3], 0.15))
    assert not torch.equal(hidden[3], hidden[4])
    for token in range(16):
        seen = hidden[tokens == token].double()
        assert abs(seen.mean().item() - 0.15) < 5 * (0.15 * 0.85 / seen.numel()) ** 0.5


def test_the_loss_is_that_of_hidden_tokens():
    one, tokens = model().eval(), torch.randint(16, (4, 16))
    hidden = hidden_positions(tokens, 0.2)
    logits = one(torch.where(hidden, 16, tokens))
    expected = torch.nn.functional.cross_entropy(logits[hidden], tokens[hidden])
    assert torch.allclose(LOSS(one, tokens, tokens), expected)
    assert not torch.allclose(torch.nn.functional.cross_entropy(one(tokens)[hidden], tokens[hidden]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("reads", ["leaf", "path"])
def test_a_model_trains_through_the_stages(reads):
    one, seen = model(reads), []

    def look(trained, step, optimizer):
        seen.append(heights(trained))

    outcome = train(one, CORPUS, TRAINING, loss=LOSS, stages=SCHEDULE, device="cpu", probes=(look,))
    assert outcome.status == "finished"
    assert seen == [list(SCHEDULE.heights_at(step)) for step in range(8)]
    assert heights(one) == [2, 2]
    without = train(model(reads), CORPUS, TRAINING, loss=LOSS, device="cpu")
    assert outcome.losses[0] != without.losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("reads", ["leaf", "path"])
def test_a_tree_learns(reads):
    """In 60 updates the loss falls, and its hyperplanes move."""
    one = model(reads)
    before = [part.planes.clone() for part in tree_parts(one)]
    outcome = train(one, CORPUS, dataclasses.replace(TRAINING, steps=60, batch=8), loss=LOSS, device="cpu")
    assert outcome.status == "finished"
    assert sum(outcome.losses[-10:]) < 0.95 * sum(outcome.losses[:10])
    moved = [(part.planes - start).abs().max().item() for part, start in zip(tree_parts(one), before, strict=True)]
    assert min(moved) > 1e-2


@pytest.mark.slow
def test_a_stopped_run_resumes_in_its_stage(tmp_path):
    """With the losses of a run that was not stopped, bit for bit; and another schedule is another run."""
    whole = train(model(), CORPUS, TRAINING, loss=LOSS, stages=SCHEDULE, device="cpu")
    given = {"loss": LOSS, "stages": SCHEDULE, "device": "cpu", "folder": tmp_path, "checkpoint_every": 1}
    for _ in range(8):  # stopped after each update
        outcome = train(model(), CORPUS, TRAINING, time_limit=0.0, **given)
    outcome = train(model(), CORPUS, TRAINING, **given)
    assert outcome.losses == whole.losses
    assert outcome.evaluations == whole.evaluations
    again = model(seed=0)
    assert train(again, CORPUS, TRAINING, **given).losses == whole.losses
    assert heights(again) == [2, 2]
    with pytest.raises(InputError, match="contains another run"):
        train(model(), CORPUS, TRAINING, **{**given, "stages": Bootstrap(((0, (2, 2)),))})


@pytest.mark.slow
@pytest.mark.parametrize(("reads", "mode"), [("leaf", "batched"), ("leaf", "loop"), ("path", "batched")])
def test_members_of_an_ensemble_grow_as_they_do_alone(reads, mode):
    """In double precision: rounding that turns a single decision shows in the loss."""
    made = [[model(reads, s, torch.float64) for s in range(2)] for _ in range(2)]
    alone = [train(one, CORPUS, TRAINING, loss=LOSS, stages=SCHEDULE, device="cpu") for one in made[0]]
    members = made[1]
    outcomes = train_ensemble(members, CORPUS, TRAINING, loss=LOSS, stages=SCHEDULE, device="cpu", mode=mode)
    for outcome, other in zip(outcomes, alone, strict=True):
        assert outcome.losses == pytest.approx(other.losses, abs=1e-6)
        assert outcome.validation_loss == pytest.approx(other.validation_loss, abs=1e-6)
    assert heights(members[0]) == [2, 2]
    assert outcomes[0].losses != pytest.approx(outcomes[1].losses, abs=1e-3)


def test_compiled_ensembles_do_not_grow():
    with pytest.raises(InputError, match="stages change the models"):
        train_ensemble([model()], CORPUS, dataclasses.replace(TRAINING, compile=True), loss=LOSS, stages=SCHEDULE)
