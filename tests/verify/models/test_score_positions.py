"""The torch side of positions in attention scores: worked matrices, directions, gradients, and biases that are kept."""

import numpy as np
import pytest

from depthwidth import Transformer, layers
from depthwidth.errors import InputError

torch = pytest.importorskip("torch")

from small_models import counted_flops  # noqa: E402

from verify import build  # noqa: E402
from verify.models.base import Pass, module  # noqa: E402
from verify.models.positions import RelativeBias  # noqa: E402

SCHEMES = ("input", "shaw", "t5", "tupe", "diet-rel", "diet-abs", "rotary", "alibi")
Q = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
K = torch.tensor([[1.0, 1], [2, 0], [0, 1]])
SEGMENTS = torch.tensor([[0, 0, 1]])


def filled(layer, **tables):
    part = module(layer)
    with torch.no_grad():
        for name, values in tables.items():
            getattr(part, name).copy_(torch.as_tensor(values).reshape(getattr(part, name).shape))
    return part


ABSOLUTE = filled(
    layers.DietAbs(1, context=3, rank=1, segments=2), query=[1.0, 0, 2], key=[0.5, 1, -1], segments=[[0.1, -0.2], [0.3, 0.4]]
)
RELATIVE = filled(
    layers.DietRel(1, context=3, segments=2), weight=[-0.5, -0.1, 0, 0.2, 0.7], segments=[[0.1, -0.2], [0.3, 0.4]]
)


@pytest.mark.parametrize(("part", "scale", "expected"), [
    (ABSOLUTE, 2**-0.5, [[1.3071, 2.5142, -1.2000], [0.8071, 0.1000, 0.5071], [2.7142, 3.7142, -0.8929]]),
    (ABSOLUTE, 0.5, [[1.1, 2.1, -1.2], [0.6, 0.1, 0.3], [2.3, 3.3, -1.1]]),
    (RELATIVE, 2**-0.5, [[0.8071, 1.4142, -0.7], [1.0071, 0.1, 0.4071], [2.4142, 1.9142, 1.1071]]),
], ids=["absolute", "absolute, scale of sqrt(d)", "relative"])  # fmt: skip
def test_worked_matrices(part, scale, expected):
    found = (Q @ K.T * scale + part(3) + part.between(SEGMENTS)[0])[0].detach()
    assert np.allclose(found, expected, atol=6e-5)


def test_worked_softmax_and_direction():
    scores = Q @ K.T * 2**-0.5 + ABSOLUTE(3) + ABSOLUTE.between(SEGMENTS)[0]
    expected = [[0.2260, 0.7556, 0.0184], [0.4477, 0.2207, 0.3316], [0.2670, 0.7258, 0.0072]]
    assert np.allclose(scores.softmax(-1)[0].detach(), expected, atol=6e-5)
    # Query less key: the row of the last token has the biases of positive differences.
    assert np.allclose(RELATIVE(3)[0].detach(), [[0, -0.1, -0.5], [0.2, 0, -0.1], [0.7, 0.2, 0]])
    assert not np.allclose(RELATIVE(3)[0].detach(), RELATIVE(3)[0].T.detach())


BUCKETS = {
    False: {-200: 15, -128: 15, -64: 14, -16: 10, -8: 8, -7: 7, -1: 1, 0: 0, 1: 17, 7: 23, 8: 24, 16: 26, 32: 28, 64: 30,
            127: 31, 200: 31},
    True: {-200: 31, -127: 31, -64: 26, -20: 17, -16: 16, -8: 8, -1: 1, 0: 0, 1: 0, 50: 0},
}  # fmt: skip


@pytest.mark.parametrize("causal", BUCKETS)
def test_buckets_of_t5(causal):
    part = RelativeBias(layers.RelativeBias(heads=1))
    part.causal = causal
    found = part.bucket(torch.tensor(list(BUCKETS[causal])))
    assert found.tolist() == list(BUCKETS[causal].values())
    part.causal = not causal
    assert part.bucket(torch.tensor(list(BUCKETS[causal]))).tolist() != list(BUCKETS[causal].values())


def attention(position, **changes):
    return layers.Attention(
        **({"width": 12, "heads": 3, "kv_heads": 3, "head_dim": 4, "value_dim": 4} | changes), position=position
    )


def drawn(layer, seed=0):
    part = module(layer).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_(generator=generator)
    return part


X = torch.randn(2, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("causal", [False, True])
def test_relative_vectors_by_hand(causal):
    layer = attention(layers.ShawVectors(head_dim=4, reach=2, heads=3), causal=causal)
    part = drawn(layer)
    q, k, v = (getattr(part, name)(X).unflatten(-1, (3, 4)) for name in ("query", "key", "value"))
    expected = torch.zeros_like(v)
    for i in range(6):
        seen = range(i + 1) if causal else range(6)
        steps = [max(-2, min(2, j - i)) + 2 for j in seen]
        keys = torch.stack([k[:, j] + part.position.key[step] for j, step in zip(seen, steps, strict=True)], dim=1)
        values = torch.stack([v[:, j] + part.position.value[step] for j, step in zip(seen, steps, strict=True)], dim=1)
        weights = (torch.einsum("bhd,bjhd->bhj", q[:, i], keys) / 2).softmax(-1)
        expected[:, i] = torch.einsum("bhj,bjhd->bhd", weights, values)
    assert torch.allclose(part.branch(X, Pass()), part.out(expected.flatten(2)))


POSITIONS = {
    "diet-rel": layers.DietRel(3, context=7, segments=2),
    "diet-abs": layers.DietAbs(3, context=7, rank=2, shared_layers=False),
    "shared by heads": layers.DietRel(3, context=7, shared_heads=True),
    "tupe": layers.UntiedPositions(3, context=7, width=5, head_dim=2, shared_layers=False),
    "shaw": layers.ShawVectors(4, 2, 3),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_gradients_of_tables(name):
    part = drawn(attention(POSITIONS[name]))
    tables = dict(part.position.named_parameters())
    segments = torch.tensor([[0, 0, 1, 1, 0, 1]] * 2)

    def loss(*values):
        given = {f"position.{key}": value for key, value in zip(tables, values, strict=True)}
        return torch.func.functional_call(part, given, (X, Pass(segments=segments))).square().sum()

    assert torch.autograd.gradcheck(loss, tuple(table.detach().requires_grad_() for table in tables.values()))


@pytest.mark.parametrize("name", POSITIONS)
def test_tables_of_zeros_leave_attention_alone_and_others_do_not(name):
    part = drawn(attention(POSITIONS[name], causal=False, scale=0.5))
    plain = drawn(attention(None, causal=False, scale=0.5), seed=5)
    plain.load_state_dict({key: value for key, value in part.state_dict().items() if not key.startswith("position.")})
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(part(X[:, order], Pass()), part(X, Pass())[:, order])
    with torch.no_grad():
        for table in part.position.parameters():
            table.zero_()
    assert torch.allclose(part(X, Pass()), plain(X, Pass()))
    assert torch.allclose(part(X[:, order], Pass()), part(X, Pass())[:, order])


def tree(positions, **changes):
    sizes = {"vocab": 50, "context": 12, "kind": "encoder", "head": "masked-lm"} | changes
    return Transformer(2, 24, 3, positions=positions, **sizes)


TOKENS = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("positions", SCHEMES)
def test_every_scheme_counts_builds_and_gets_gradients(positions, kind):
    whole = tree(positions, kind=kind, head="lm" if kind == "decoder" else "masked-lm")
    model = build(whole, "xavier", seed=0)
    assert sum(p.numel() for p in model.parameters()) == whole.parameters
    assert counted_flops(lambda: model(TOKENS)) == whole.forward_flops(12, batch=3)
    _, loss = model(TOKENS, TOKENS.roll(1, 1))
    loss.backward()
    lost = [name for name, p in model.named_parameters() if p.grad is None or (p.grad == 0).all()]
    # The table of keys has no gradient as long as that of queries is zero.
    expected = [f"{kind}.position.key"] if positions == "diet-abs" else []
    assert [name for name in lost if "bias" not in name] == expected


@pytest.mark.parametrize("position", [
    layers.DietAbs(3, context=12, rank=4), layers.DietRel(3, context=12, segments=2), layers.RelativeBias(3),
    layers.UntiedPositions(3, context=12, width=24, head_dim=8),
], ids=["absolute", "relative", "buckets", "untied"])  # fmt: skip
def test_a_kept_bias_is_the_computed_one_until_a_weight_changes(position):
    model = build(tree(position), "normal", seed=0)
    homes = [part for part in model.modules() if hasattr(part, "_kept")]
    with torch.no_grad():
        for part in homes:
            for parameter in part.parameters():
                parameter.normal_()
    model.train()
    with torch.no_grad():
        computed = model(TOKENS)
        assert all(part._kept is None for part in homes)
        model.eval()
        first, second = model(TOKENS), model(TOKENS)
        assert all(part._kept is not None for part in homes)
        assert torch.equal(first, second)
        assert torch.equal(first, computed)
        kept = counted_flops(lambda: model(TOKENS))
        for part in homes:
            next(part.parameters()).mul_(2.0)
        changed = model(TOKENS)
        assert not torch.equal(changed, first)
        model.train()
        assert torch.equal(model(TOKENS), changed)
    # Kept, the bias costs no operations, and the bytes that the tree says.
    whole = model.tree
    run = whole.run_of("encoder", whole.run(12))
    own = sum(node.active * node.layer.flops(run) for node in whole.walk() if node.layer == position)
    assert kept == whole.forward_flops(12, batch=3) - own
    if whole.score_bias_bytes():  # those of T5 are not counted
        model.eval()
        with torch.no_grad():
            model(TOKENS)
        sizes = [part._kept[1].untyped_storage().nbytes() for part in homes]
        assert sum(sizes) == whole.score_bias_bytes(12, batch=1 if position.segments == 0 else 3, dtype="fp32") / (
            1 if position.segments == 0 else 3
        )


@pytest.mark.parametrize("positions", ["diet-rel", "diet-abs", "t5", "alibi"])
def test_biases_reach_the_fused_kernel_as_it_reads_them_fastest(positions, monkeypatch):
    """Of four dimensions, since torch sends three to its slow form on a processor, and a table in one piece."""
    model = build(tree(positions), "normal", seed=0).eval()
    with torch.no_grad():
        for part in model.modules():
            for parameter in part.parameters(recurse=False) if hasattr(part, "_kept") else ():
                parameter.normal_()
    fused, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(q, k, v, mask, *more, **options):
        seen.append(mask)
        found, slow = fused(q, k, v, mask, *more, **options), fused(q, k, v, mask[0], *more, **options)
        assert torch.allclose(found, slow, atol=1e-6)
        assert not torch.allclose(found, fused(q, k, v, None, *more, **options), atol=1e-3)
        return found

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    with torch.no_grad():
        model(TOKENS)
    assert len(seen) == model.tree.depth
    for mask in seen:
        assert mask.dim() == 4
        assert mask.is_contiguous()


def test_segments_reach_every_block():
    model = build(tree(layers.DietRel(3, context=12, segments=2)), "normal", seed=0).eval()
    segments = (TOKENS % 2).long()
    assert torch.equal(model(TOKENS), model(TOKENS, segments=segments))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("position.segments"):
                parameter.normal_()
    assert not torch.allclose(model(TOKENS), model(TOKENS, segments=segments))
    shared = build(tree("rotary", score_bias=layers.SegmentBias(3, 2, shared_layers=True)), "normal", seed=0).eval()
    plain = shared(TOKENS, segments=segments)
    with torch.no_grad():
        shared.encoder.position.segments.normal_()
    assert not torch.allclose(plain, shared(TOKENS, segments=segments))


def test_biases_reach_attention_in_chunks_and_windows():
    for changes in ({"chunk": 4}, {"window": 3}):
        model = build(tree("diet-rel", kind="decoder", head="lm", **changes), "normal", seed=0).eval()
        before = model(TOKENS)
        with torch.no_grad():
            model.decoder.block[0].attention.position.weight.normal_(std=3.0)
        assert not torch.allclose(before, model(TOKENS))


def test_longer_sequences_are_refused():
    for positions in ("diet-rel", "diet-abs", "tupe"):
        with pytest.raises(InputError, match="score biases for 12 positions; a sequence of 13 is beyond them"):
            build(tree(positions), "normal", seed=0)(torch.zeros(1, 13, dtype=torch.long))


def test_attention_that_cannot_take_them_says_so():
    for positions, sentence in (("shaw", "LatentAttention: ShawVectors has products with queries"),):
        with pytest.raises(InputError, match=sentence):
            Transformer(2, 24, 3, positions=positions, latent=layers.Latent(rank=8, rotary=2), vocab=50, context=12)
    for positions in ("diet-rel", "shaw", "alibi"):
        with pytest.raises(InputError, match=r"TreeAttention: .* adds to scores, and means of nodes have none"):
            Transformer(2, 24, 3, positions=positions, tree=layers.Tree(2, "path"), vocab=50, context=12, kind="encoder")
    latent = Transformer(2, 24, 3, positions="diet-rel", latent=layers.Latent(rank=8, rotary=2), vocab=50, context=12)
    assert build(latent, "normal", seed=0)(TOKENS).isfinite().all()
