"""Training on a simulated device, in a script of its own because it changes torch itself.

The script registers a backend ``claimed``. Tensors on it are fake: they have shapes and types but no values, and an operation
that also receives a tensor on the host fails, as it would on a GPU. Reading a value returns 1.

    python claimed_device.py WHAT[,WHAT...] TREE...
"""

import sys

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import backend_registration as backends

from depthwidth import Transformer
from verify.models.model import build
from verify.training import ensemble, train
from verify.training.corpus import Corpus, zipf_markov
from verify.training.train import Training, measuring

DEVICE = "claimed:0"
# One block, as another would be on the device of the first; and two micro-batches of unequal size.
SHAPE = {"depth": 1, "width": 32, "heads": 4, "vocab": 16, "context": 16}
TREES = {
    "learned": Transformer(**SHAPE, dropout=0.1),
    "rotary": Transformer(**SHAPE, positions="rotary", norm="rmsnorm", activation="silu", gated=True, kv_heads=2, bias=False),
    "alibi": Transformer(**SHAPE, positions="alibi"),
    "relative": Transformer(**SHAPE, positions="relative", placement="post"),
}


class Backend(backends._DummyBackendModule):
    """The attributes that torch requires of a backend."""

    def get_amp_supported_dtype(self):
        """The types that autocast supports; training makes an autocast context even if it is disabled."""
        return [torch.bfloat16]


class Claimed(FakeTensorMode):
    """Fake tensors that never initialise their device, because it does not exist."""

    avoid_device_init = True


class Stray(nn.Module):
    """A model that creates a tensor on the host in every forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        """Logits plus a tensor on the host."""
        return self.model(tokens) + torch.ones(16)


KEPT = Backend(), backends._DummyPrivateUse1Hook(), backends._DummyDeviceGuard()  # torch itself holds no reference to them


def claim():
    """Register the backend, and make fake tensors return 1 when a value is read."""
    backends._setup_privateuseone_for_python_backend("claimed", *KEPT)

    def number(tensor):
        return 1.0 if tensor.is_floating_point() else 1

    def filled(shape, value):
        return [filled(shape[1:], value) for _ in range(shape[0])] if shape else value

    answers = {
        "item": number,
        "tolist": lambda t: filled(tuple(t.shape), number(t)),
        "__float__": lambda t: float(number(t)),
        "__int__": lambda t: int(number(t)),
        "__bool__": lambda _: True,
    }
    for name, answer in answers.items():
        real = getattr(torch.Tensor, name)
        setattr(torch.Tensor, name, lambda t, real=real, answer=answer: answer(t) if isinstance(t, FakeTensor) else real(t))

    def to(model, device):
        """Move a model. Torch's own method changes tensors in place, which fails for fake ones."""
        memo = {}
        for module in model.modules():
            for kept, wrap in ((module._parameters, nn.Parameter), (module._buffers, torch.Tensor.detach)):
                for key, tensor in kept.items():
                    if tensor is not None:
                        if id(tensor) not in memo:
                            memo[id(tensor)] = wrap(tensor.detach().to(device))
                        kept[key] = memo[id(tensor)]
        return model

    nn.Module.to = to
    train.weights_digest = ensemble.weights_digest = lambda _: ""  # fake tensors have no bytes
    Corpus.identity = lambda _: {}


def main(ways, *names):
    """Train each tree in each way; print the way and the name of each that succeeds."""
    corpus = zipf_markov(20_000, vocab=16, strength=2.0)
    models = {(what, name): [build(TREES[name], seed=i) for i in range(3)] for what in ways.split(",") for name in names}
    claim()
    with Claimed(allow_non_fake_inputs=True):
        for (what, name), (first, *others) in models.items():
            try_one(what, first, others, corpus)
            sys.stdout.write(f"{what} {name}\n")


def try_one(what, first, others, corpus):
    """Train for four updates that use every feature."""
    training = Training(
        steps=4, batch=4, context=16, micro_batch=3, warmup=2, evaluate_every=2, evaluate_batches=2,
        relative_clip=None if what == "ensemble" else 2.0,
    )  # fmt: skip
    if what == "ensemble":
        outcomes = ensemble.train_ensemble([first, *others], corpus, training, mode="batched", device=DEVICE)
    else:
        rows = []
        probes = [measuring({1}, rows.extend)] if what == "probes" else []
        model = Stray(first) if what == "stray" else first
        outcomes = [train.train(model, corpus, training, device=DEVICE, probes=probes, progress=False)]
        assert bool(rows) == (what == "probes")
    assert all(one.status == "finished" and one.steps == 4 for one in outcomes)


if __name__ == "__main__":
    main(*sys.argv[1:])
