"""Attention against its definition, and which positions it reads."""

import pytest
from helpers import one_quick_in

from depthwidth import Transformer

torch = pytest.importorskip("torch")

from small_models import SMALL, tokens_of  # noqa: E402

from verify import build  # noqa: E402
from verify.models.base import Pass  # noqa: E402


def later_tokens_matter(tree, place=5):
    """Positions whose logits change if the token at `place` changes."""
    model = build(tree, "xavier", seed=0).eval()
    tokens = tokens_of(tree, batch=1)
    other = tokens.clone()
    other[0, place] = (other[0, place] + 1) % tree.vocab
    return (model(tokens) - model(other)).abs().amax(-1)[0] > 1e-6


@one_quick_in(3, "positions", ["learned", "sinusoidal", "rotary", "alibi", "relative", "none"], first=2)
@pytest.mark.parametrize("more", [{}, {"score_softcap": 2.0}, {"kv_heads": 1, "value_dim": 3}], ids=["plain", "softcap", "mqa"])
def test_who_sees_whom(positions, more):
    shape = {**SMALL, "depth": 1, "positions": positions, **more}
    assert later_tokens_matter(Transformer(**shape)).tolist() == [t >= 5 for t in range(9)]
    assert later_tokens_matter(Transformer(**shape, window=2)).tolist() == [t in (5, 6) for t in range(9)]
    assert later_tokens_matter(Transformer(**shape, kind="encoder")).all()


def naive(q, k, v, scale, bias, softcap=None):
    """Attention written as loops."""
    out = torch.zeros(*q.shape[:3], v.shape[-1])
    heads, kv = q.shape[1], k.shape[1]
    for b in range(q.shape[0]):
        for h in range(heads):
            for i in range(q.shape[2]):
                scores = torch.stack([scale * q[b, h, i] @ k[b, h // (heads // kv), j] for j in range(k.shape[2])])
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = (scores + bias[h, i]).softmax(0)
                out[b, h, i] = weights @ v[b, h // (heads // kv)]
    return out


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("positions", ["alibi", "relative"])
def test_attention_is_its_definition(positions, softcap):
    tree = Transformer(
        **{**SMALL, "heads": 6, "depth": 1}, positions=positions, kv_heads=3, head_dim=5, value_dim=2, logit_scale=0.9,
        window=4, score_softcap=softcap, bias=False,
    )  # fmt: skip
    model = build(tree, "xavier", seed=0)
    part = model.decoder.block[0].attention
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    place = torch.arange(9)
    distance = place[:, None] - place
    if positions == "alibi":
        slopes = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8])  # four heads' and two between
        bias = -slopes[:, None, None] * distance.abs()
    else:
        torch.nn.init.normal_(model.decoder.position.weight)
        bias = torch.stack([torch.stack([model.decoder.position.weight[max(0, i - j)] for j in range(9)]) for i in range(9)])
        bias = bias.permute(2, 0, 1)  # the first 16 buckets are one distance each
    bias = bias.masked_fill((distance < 0) | (distance > 3), -torch.inf)
    y = part.norm_in(x)
    q, k, v = (p(y).unflatten(-1, (-1, d)).transpose(1, 2) for p, d in ((part.query, 5), (part.key, 5), (part.value, 2)))
    mixed = naive(q, k, v, 0.9, bias, softcap)
    expected = x + part.out(mixed.transpose(1, 2).flatten(2))
    run = Pass(bias=None if model.decoder.position is None else model.decoder.position(9))
    torch.testing.assert_close(part(x, run), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part(x[:1], Pass(bias=run.bias)), expected[:1], rtol=1e-4, atol=1e-5)
