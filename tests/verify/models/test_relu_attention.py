"""The scale-invariant encoder and its attention: weights, dead rows, refusals, and equal outputs under factors."""

import itertools
import math

import pytest

from depthwidth import SCALE_INVARIANT, Design, InputError, Transformer, layers, propagate, recipe, schemes
from depthwidth.formulas.scale_invariance import dead_row_probability
from depthwidth.numerics import homogeneity

torch = pytest.importorskip("torch")

from verify import build  # noqa: E402
from verify.models.base import Pass, module  # noqa: E402
from verify.models.relu_attention import relu_weights  # noqa: E402

SIZES = {"vocab": 40, "context": 12, "head": "masked-lm"}
BODY = ("stem", "encoder")


def encoder(**changes):
    return Transformer(3, 32, 4, **{**SCALE_INVARIANT, **SIZES, **changes})


def scaled_outputs(tree, factor, dtype=torch.float64, seed=0, parts=BODY):
    """Features of the stack before and after weights of `parts` are multiplied by `factor`, and their gradient norms."""
    model = build(tree, "normal", seed=seed).to(dtype).eval()
    tokens = torch.randint(40, (4, 12), generator=torch.Generator().manual_seed(1))
    target = torch.randn(4, 12, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    chosen = [weight for name, weight in model.named_parameters() if name.startswith(parts)]
    found = []
    for one in (1.0, factor):
        with torch.no_grad():
            for weight in chosen:
                weight.mul_(one)
        model.zero_grad()
        y = model.encoder(model.stem(tokens))
        (y * target).mean().backward()
        gradients = torch.cat([weight.grad.flatten() for weight in chosen])
        weights = torch.cat([weight.detach().flatten() for weight in chosen])
        found.append((y.detach(), gradients, weights))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e-3, 0.1, 10.0, 1e3])
def test_the_encoder_does_not_depend_on_the_scale_of_its_weights(factor):
    (one, gradient, weights), (other, after, _) = scaled_outputs(encoder(), factor)
    assert float((one - other).abs().max()) < 1e-12
    assert torch.allclose(after * factor, gradient, rtol=0, atol=1e-12 * float(gradient.norm()))
    assert abs(float(gradient @ weights)) < 1e-12 * float(gradient.norm() * weights.norm())  # Euler
    (one, *_), (other, *_) = scaled_outputs(encoder(), factor, torch.float32)
    assert float((one - other).norm() / one.norm()) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"attention_weights": "softmax"},
        {"activation": "gelu"},
        {"norm_affine": True},
        {"norm_eps": 1e-5},
        {"bias": True},
        {"embedding_projection": "first"},
        {"positions": "sinusoidal"},
    ],
)
def test_each_choice_is_needed(change):
    # Biases of zero and gains of one are drawn, so that factors act on them.
    tree = encoder(**change)
    model = build(tree, "normal", seed=0).double().eval()
    tokens = torch.randint(40, (2, 12), generator=torch.Generator().manual_seed(1))
    chosen = [weight for name, weight in model.named_parameters() if name.startswith(BODY)]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in chosen:
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
        one = model.encoder(model.stem(tokens))
        for weight in chosen:
            weight.mul_(0.1)
        other = model.encoder(model.stem(tokens))
    assert float((one - other).norm() / one.norm()) > 1e-6


def test_a_head_of_which_the_activation_leaves_nothing_is_finite():
    """Its norm has an epsilon, which those of the body do not have."""
    tree = encoder()
    assert (tree.head.norm.eps, tree.encoder.norm.eps) == (1e-5, 0.0)
    model = build(tree, "normal", seed=0)
    with torch.no_grad():
        model.head.transform.bias.fill_(-100.0)
    logits, loss = model(torch.zeros(1, 12, dtype=torch.long), torch.ones(1, 12, dtype=torch.long))
    loss.backward()
    assert logits.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_counts_of_the_encoder():
    """Two matrices make the stream, four and two each block; the head's transform alone has biases."""
    tree = encoder()
    width, vocab, context = 32, 40, 12
    block = 4 * width**2 + 8 * width**2
    head = width * width + width + width * vocab
    assert tree.parameters == vocab * width + context * width + width**2 + 3 * block + head
    plain = encoder(attention_weights="softmax")
    assert tree.parameters == plain.parameters
    assert tree.forward_flops(12) == plain.forward_flops(12)
    assert tree.kv_cache_bytes(12) == 0


def test_the_design_is_read_back():
    from depthwidth.architecture.hf.writing import design_of

    for tree in (encoder(), encoder(embedding_width=16), encoder(positions="rotary", embedding_width=16)):
        assert Transformer.of_design(design_of(tree)) == tree
    assert design_of(encoder()).embedding_projection == "plain"
    with pytest.raises(InputError, match="bert cannot express"):
        encoder().to_config("bert")


def test_every_scheme_initialises_it():
    tree = encoder()
    for name in schemes():
        std = recipe(tree, name).tensor("encoder.block.attention.query.weight").std
        assert min(std if isinstance(std, tuple) else (std,)) > 0, name


def test_moments_are_refused_in_one_sentence():
    with pytest.raises(InputError, match="the moments of attention by ReLU scores are not derived"):
        propagate(encoder(), "normal")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "decoder", "head": "lm"}, "no causal form, because half the heads of the first token"),
        ({"score_softcap": 30.0}, "soft cap"),
        ({"positions": "alibi"}, "ALiBi adds to scores"),
        ({"positions": "relative"}, "score biases of a stack"),
        ({"positions": "shaw"}, "ShawVectors adds to scores"),
        ({"tree": layers.Tree(2)}, "so is tree; give one"),
        ({"value_norm": True}, "so is value_norm; give one"),
        ({"attention_weights": "sparsemax"}, "attention_weights='sparsemax'"),
    ],
)
def test_refusals(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        encoder(**changes)


def test_weights_are_those_of_the_definition():
    scores = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.tensor([homogeneity.relu_weights(rows) for rows in scores.tolist()], dtype=torch.float64)
    torch.testing.assert_close(relu_weights(scores), expected, rtol=1e-14, atol=0)
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(relu_weights(scores * factor), expected, rtol=1e-14, atol=0)


def test_a_row_without_a_positive_score_is_zero_and_has_no_gradient():
    scores = torch.tensor([[-1.0, -2.0], [0.0, 0.0], [1.0, 3.0], [-torch.inf, 2.0]], requires_grad=True)
    weights = relu_weights(scores)
    assert weights.tolist() == [[0, 0], [0, 0], [0.25, 0.75], [0, 1]]
    (weights * torch.tensor([1.0, 2.0])).sum().backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[:2].abs().sum() == 0
    torch.testing.assert_close(scores.grad[2], torch.tensor([-3.0, 1.0]) / 16)


@pytest.mark.parametrize("factor", [1e-30, 1e-10, 1e10])
def test_gradients_stay_finite_at_extreme_scores(factor):
    scores = (factor * torch.tensor([[1.0, 3.0, -1.0]])).requires_grad_()
    (relu_weights(scores) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    torch.testing.assert_close(scores.grad * factor, torch.tensor([[-3.0, 1.0, 0.0]]) / 16)


def test_the_gradient_by_scores_has_no_second_moment():
    """Of two positive scores at radius r its mean square is 2/(3 pi r^2): with density r dr every decade of r adds as much."""
    angles = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * math.pi / 2
    for radius in (1e-6, 1.0):
        scores = radius * torch.stack((angles.cos(), angles.sin()), dim=1)
        scores.requires_grad_()
        (slope,) = torch.autograd.grad(relu_weights(scores)[:, 0].sum(), scores)
        assert float(slope[:, 0].square().mean()) * radius**2 == pytest.approx(2 / (3 * math.pi), rel=1e-3)


def test_dead_rows_are_as_frequent_as_predicted():
    generator = torch.Generator().manual_seed(0)
    for tokens in (1, 2, 4):
        rows = relu_weights(torch.randn(20000, tokens, generator=generator))
        share, expected = float((rows.sum(-1) == 0).float().mean()), dead_row_probability(tokens)
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 20000)


def test_groups_windows_and_dropout():
    layer = layers.ReluAttention(width=12, heads=4, kv_heads=2, head_dim=4, value_dim=3, causal=False, window=2)
    part = module(layer).double().eval()
    with torch.no_grad():
        for weight in part.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(4))
    x = torch.randn(1, 6, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    y = part.joined(x, Pass()).detach()
    q, k, v = (one(x)[0].detach() for one in (part.query, part.key, part.value))
    for head, token in itertools.product(range(4), range(6)):
        near = [other for other in range(6) if abs(other - token) < 2]
        group = slice(head // 2 * 4, head // 2 * 4 + 4)
        scores = [[float(q[token, head * 4 : head * 4 + 4] @ k[other, group]) for other in near]]
        weights = torch.tensor(homogeneity.relu_weights(scores)[0], dtype=torch.float64)
        expected = weights @ v[near, head // 2 * 3 : head // 2 * 3 + 3]
        torch.testing.assert_close(y[0, token, head * 3 : head * 3 + 3], expected)
    dropped = module(layer.replace(dropout=0.999)).double().train()
    dropped.load_state_dict(part.state_dict())
    assert not torch.allclose(dropped.joined(x, Pass()).detach(), y)


def test_the_choices_are_those_of_a_design():
    assert set(SCALE_INVARIANT) <= set(Design.__dataclass_fields__)
