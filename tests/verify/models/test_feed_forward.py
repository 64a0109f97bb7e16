"""Mixtures of experts against their definition."""

import pytest

from depthwidth import Transformer

torch = pytest.importorskip("torch")

from small_models import SMALL  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from verify import build  # noqa: E402


def test_every_expert_of_a_mixture_is_a_feed_forward_part():
    tree = Transformer(**SMALL, experts=4, top_k=2, gated=True, shared_ffn=6, shared_gate=True)
    model = build(tree, "xavier", seed=0)
    part = model.decoder.block[0].feed_forward
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(0))
    chances = (x @ part.router.weight.T).softmax(-1)

    def through(gate, up, down):
        """A gated part with zero biases, as the recipe leaves them."""
        return (F.gelu(x @ gate.T) * (x @ up.T)) @ down.T

    parts = [through(*(getattr(part.expert, n).weight[e] for n in ("gate", "up", "down"))) for e in range(4)]
    best = chances.topk(2, dim=-1).values[:, 1:]
    weights = torch.where(chances >= best, chances, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    expected = sum(weights[:, e, None] * parts[e] for e in range(4))
    shared = through(*(getattr(part.shared, n).weight for n in ("gate", "up", "down")))
    expected = expected + torch.sigmoid(x @ part.shared_gate.weight.T) * shared
    torch.testing.assert_close(part.branch(x[None])[0], expected, rtol=1e-4, atol=1e-5)
