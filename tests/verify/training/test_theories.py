"""Alternating updates, tree attention and positions in scores: each is saved, loaded, resumed and trained in an ensemble."""

import pytest

from depthwidth import Transformer, layers

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from verify import build  # noqa: E402
from verify.training.corpus import zipf_markov  # noqa: E402
from verify.training.ensemble import train_ensemble  # noqa: E402
from verify.training.masking import masked_loss  # noqa: E402
from verify.training.train import Training, train  # noqa: E402

FORMS = {
    "altup": {"altup": 2},
    "same stream": {"altup": 2, "altup_select": "same"},
    "recycled": {"altup": 2, "altup_form": "recycled"},
    "along the sequence": {"depth": 3, "sequence_stride": 4},
    "experts inside": {"altup": 2, "experts": 2, "top_k": 1, "ffn": 16},
    "TF": {"tree": layers.Tree(2)},
    "TF with biases": {"tree": layers.Tree(2), "positions": "diet-rel"},
    "TC": {"tree": layers.Tree(2, "path")},
    "diet-rel": {"positions": "diet-rel"},
    "diet-abs": {"positions": layers.DietAbs(2, context=16, rank=3)},
    "segments": {"positions": layers.DietRel(2, context=16, segments=2, shared_layers=True)},
    "shaw": {"positions": "shaw"},
    "t5": {"positions": "t5"},
    "tupe": {"positions": "tupe"},
}
CORPUS = zipf_markov(2000, vocab=16, strength=2.0)
BRIEF = Training(steps=4, batch=4, context=16, learning_rate=1e-2, evaluate_batches=1)
HOW = {"loss": masked_loss(16, 0.2), "device": "cpu"}


def made(name, seed=0):
    sizes = {"depth": 2, "width": 16, "heads": 2, "ffn": 32, "vocab": 17, "context": 16, "kind": "encoder", "head": "masked-lm"}
    return build(Transformer(**sizes | FORMS[name]), "xavier", seed=seed, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_saved_loaded_resumed_and_in_an_ensemble(name, tmp_path):
    tokens = torch.arange(32).reshape(2, 16) % 16
    one = made(name)
    fresh = one(tokens).detach()
    whole = train(one, CORPUS, BRIEF, **HOW)
    assert whole.losses != train(made(name, seed=1), CORPUS, BRIEF, **HOW).losses
    # Saved and loaded into another start: the same outputs, which training has changed.
    save_file(dict(one.state_dict()), tmp_path / "model.safetensors")
    other = made(name, seed=2)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(tokens), one(tokens))
    assert not torch.allclose(fresh, one(tokens), atol=1e-4)
    # Stopped after each update and resumed, bit for bit.
    kept = {**HOW, "folder": tmp_path / "run", "checkpoint_every": 1}
    for _ in range(BRIEF.steps):
        train(made(name), CORPUS, BRIEF, time_limit=0.0, **kept)
    assert train(made(name), CORPUS, BRIEF, **kept).losses == whole.losses
    # Two members in one program.
    alone = [whole, train(made(name, seed=3), CORPUS, BRIEF, **HOW)]
    mode = "loop" if name == "experts inside" else "batched"  # routing has shapes that depend on the tokens
    together = train_ensemble([made(name), made(name, seed=3)], CORPUS, BRIEF, mode=mode, **HOW)
    for member, single in zip(together, alone, strict=True):
        assert member.losses == pytest.approx(single.losses, abs=1e-6)
    assert together[0].losses != pytest.approx(together[1].losses, abs=1e-3)
