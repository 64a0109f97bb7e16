"""Latent attention: counts by hand, and moments against a simulation that is written out here."""

import math

import numpy as np
import pytest
from passes import Given, start

from depthwidth import Transformer
from depthwidth.errors import InputError
from depthwidth.formulas.finite_width import norm_projection
from depthwidth.layers import ALiBi, Latent, LatentAttention, RMSNorm, Rotary, RotaryScaling, RouterRule
from depthwidth.layers.base import Run
from depthwidth.signal import Signal, TokenSignal
from depthwidth.signal.positions import Positions


def attention(width=24, heads=3, still=4, rotary=2, value=5, rank=7, query_rank=6, **more):
    shape = {"kv_heads": heads, "head_dim": still + rotary, "value_dim": value, "position": Rotary(), "bias": False}
    latent = Latent(rank, rotary, query_rank)
    return LatentAttention(width=width, heads=heads, **{"out_bias": False, **shape, **more}, latent=latent)


def test_weights_operations_and_cache_by_hand():
    """The cache of a token is its latent features and one rotary key, whatever the number of heads."""
    layer, run = attention(), Run(tokens=10, batch=2)
    queries, keys = 24 * 6 + 6 + 6 * 3 * 6, 24 * 7 + 7 + 7 * 3 * 4 + 24 * 2
    assert layer.parameters == queries + keys + 7 * 3 * 5 + 15 * 24
    assert attention(query_rank=None).parameters == layer.parameters - queries + 24 * 3 * 6
    assert attention(bias=True, out_bias=True).parameters == layer.parameters + 6 + 7 + 2 + 24
    products = layer.parameters - 6 - 7  # all but the gains of two norms
    assert layer.flops(run) == 2 * 20 * products + 2 * 2 * 100 * 3 * (6 + 5)
    assert layer.cache_values(run) == 2 * 10 * (7 + 2) == attention(heads=9).cache_values(run)
    assert attention(window=4).cache_values(run) == 2 * 4 * (7 + 2)
    assert attention(causal=False).cache_values(run) == 0


REFUSED = {
    "head_dim=2 leaves no dimensions besides the 2 that rotate": {"still": 0},
    "kv_heads=1 is not heads=3": {"kv_heads": 1},
    "ALiBi does not rotate": {"position": ALiBi()},
    "neither norms of single heads nor a memory": {"query_norm": RMSNorm(6)},
    "neither sinks nor a norm of its joined heads": {"sinks": True},
    "rank=0 is not": {"rank": 0},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_sizes_that_do_not_fit_are_refused(problem):
    with pytest.raises(InputError, match=problem):
        attention(**REFUSED[problem])


@pytest.mark.slow
def test_stretched_positions_enlarge_the_rotary_part_of_the_scores():
    """YaRN's factor a on queries and keys: a^4 in the variance of 2 of 6 dimensions."""
    stretched = attention(position=Rotary(scaling=RotaryScaling("yarn", 4.0, 8, amplitude=1.2)))
    assert stretched.score_scale == pytest.approx(math.sqrt((2 / 3 + 1.2**4 / 3) / 6))
    given = weights(24, 6, 7, 3 * 5)

    def scores(layer):
        site = start(given, length=8)
        layer.moments(Signal(1.0, 0.3), site)
        return next(record.second_moment for record in site.trace.records if record.role == "part.scores")

    assert scores(stretched) / scores(attention()) == pytest.approx((2 + 1.2**4) / 3)


def weights(width, query_rank, rank, mixed, query=1.0, rotary=1.0):
    """One over the inputs for all maps; scores have the variance `query` if the rotary key has that factor too."""
    each = {"query_latent": 1 / width, "latent_map": 1 / width, "rotary_key": rotary / width, ".query": query / query_rank,
            ".key": 1 / rank, ".value": 1 / rank, ".out": 1 / mixed}  # fmt: skip
    return Given(**{f"{name}.weight": variance for name, variance in each.items()})


SIZES = {"width": 192, "heads": 6, "still": 16, "rotary": 8, "value": 16, "rank": 96, "query_rank": 128}
LENGTH, R, R_GRADIENT = 16, 0.3, 0.2


def simulated(draws, causal, query, rotary, turned=True, chunk=100):
    """Second moment and covariance of the output, and of the gradient at the input of a norm of the tokens.

    Means over draws of weights, tokens and output gradients, with standard errors.
    """
    torch = pytest.importorskip("torch")
    d, heads, still, rot, value, rank, query_rank = SIZES.values()
    generator, found = torch.Generator().manual_seed(1), []

    def drawn(*shape):
        return torch.randn(chunk, *shape, generator=generator)

    def mapped(x, outputs, variance=1.0):
        return x @ drawn(x.shape[-1], outputs) * math.sqrt(variance / x.shape[-1])

    def normed(x):
        return x / x.square().mean(-1, keepdim=True).sqrt()

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def tokens(r):
        return math.sqrt(r) * drawn(1, d) + math.sqrt(1 - r) * drawn(LENGTH, d)

    def turn(x):
        angles = torch.arange(LENGTH)[:, None] * 10000.0 ** (-torch.arange(0, rot, 2) / rot) * turned
        one, two = x.chunk(2, -1)
        return torch.cat((one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()), -1)

    def moments(x):
        square, total = x.square().sum((1, 2)), x.sum(1).square().sum(1)
        return square / (LENGTH * d), (total - square) / (LENGTH * (LENGTH - 1) * d)

    for _ in range(draws // chunk):
        stream = normed(tokens(R)).requires_grad_()
        x = normed(stream)
        queries, z = split(mapped(normed(mapped(x, query_rank)), heads * (still + rot), query)), normed(mapped(x, rank))
        keys, shared = split(mapped(z, heads * still)), turn(mapped(x, rot, rotary))[:, None]
        queries = torch.cat((queries[..., :still], turn(queries[..., still:])), -1)
        scores = queries @ torch.cat((keys, shared.expand(-1, heads, -1, -1)), -1).transpose(2, 3) / math.sqrt(still + rot)
        if causal:
            scores = scores + torch.full((LENGTH, LENGTH), -math.inf).triu(1)
        y = mapped((scores.softmax(-1) @ split(mapped(z, heads * value))).transpose(1, 2).flatten(2), d)
        (gradient,) = torch.autograd.grad(y, stream, tokens(R_GRADIENT))
        with torch.no_grad():
            pair = moments(stream)[1]
            found.append(torch.stack((pair, *moments(y), *moments(gradient)), 1).double().numpy())
    found = np.concatenate(found)
    return found.mean(0), found.std(0, ddof=1) / math.sqrt(len(found))


def predicted(pair, causal, query, rotary, position):
    """The same by the component, and by the projections of the norm before it."""
    layer = attention(**SIZES, causal=causal, position=position)
    site = start(weights(192, 128, 96, 96, query, rotary), length=LENGTH)
    x = Signal(1.0, pair)
    if causal:
        positions = Positions.every(LENGTH)
        x = TokenSignal(np.ones(LENGTH), np.full((LENGTH, LENGTH), pair), positions)
    y, pull = layer.moments(x, site)
    g = pull(x.of(1.0 + 0 * x.second_moment, R_GRADIENT + 0 * x.covariance))
    kept = norm_projection(1.0, 192), norm_projection(pair, 192)
    return [*y.averages, *(moment * share for moment, share in zip(g.averages, kept, strict=True))]


def off(mean, error, expected):
    """Relative differences beyond two standard errors."""
    difference = np.abs(np.array(expected) - mean)
    return (difference - 2 * error).clip(0) / mean


@pytest.mark.slow
@pytest.mark.parametrize(("causal", "query", "rotary"), [(False, 0.7, 1.0), (True, 0.7, 1.0), (True, 0.2, 3.0)])
def test_moments_are_those_of_a_simulation(causal, query, rotary):
    """Within 2 % forward and backward; without the rotary part's share of the scores, or with a wrong one, they are not."""
    mean, error = simulated(600, causal, query, rotary)
    assert off(mean[1:], error[1:], predicted(mean[0], causal, query, rotary, Rotary())).max() < 0.02
    wrong = predicted(mean[0], causal, 6 * query, rotary, Rotary())
    assert off(mean[1:], error[1:], wrong).max() > 0.05


@pytest.mark.slow
def test_moments_without_positions_are_those_of_a_simulation():
    mean, error = simulated(600, True, 1.5, 1.0, turned=False)
    assert off(mean[1:], error[1:], predicted(mean[0], True, 1.5, 1.0, None)).max() < 0.02


def test_a_design_with_latent_attention():
    """Every block has it; its sizes are a choice that a design reads back."""
    choices = {"positions": Rotary(), "norm": "rmsnorm", "bias": False, "head_dim": 12, "value_dim": 8}
    tree = Transformer(depth=2, width=32, heads=4, vocab=50, context=16, latent=Latent(8, 4), **choices)
    assert tree.attention.latent == Latent(8, 4)
    assert tree.attention.factorised
    assert tree.attention.choices()["latent"] == Latent(8, 4)
    with pytest.raises(InputError, match="kv_heads=2 is not heads=4"):
        Transformer(depth=2, width=32, heads=4, kv_heads=2, latent=Latent(8, 4), **choices)


@pytest.mark.slow
def test_a_stack_of_latent_attention_and_mixtures_is_that_of_built_models():
    """Four blocks like DeepSeek-V3's: beyond two standard errors, variances within 2 % and the gradient within 12 %.

    With the variation of a single expert between draws the gradient was 27 % too large.
    """
    torch = pytest.importorskip("torch")
    from drawn_models import drawn_models

    from depthwidth import propagate, recipe

    dense = {"experts": None, "shared_ffn": None, "choice_bias": False, "ffn": 256}
    tree = Transformer(
        depth=4, width=128, heads=4, vocab=256, context=LENGTH, norm="rmsnorm", bias=False, gated=True, activation="silu",
        tied=False, positions=Rotary(), head_dim=40, value_dim=32, latent=Latent(64, 16, 96), ffn=96, experts=8, top_k=2,
        shared_ffn=96, router=RouterRule("sigmoid", 4, 2, 2, 2.5, untrained_bias=True), choice_bias=True,
        blocks=(dense, {}, {}, {}),
    )  # fmt: skip
    made, found = recipe(tree, "kaiming"), []
    for seed, model in drawn_models(tree, made, 24):
        outputs = []
        for block in model.decoder.block:
            block.register_forward_hook(lambda module, given, output, outputs=outputs: outputs.append(output))
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.stack([torch.randperm(256, generator=generator)[:LENGTH] for _ in range(4)])
        logits = model(tokens)
        (gradient,) = torch.autograd.grad(logits, outputs[:1], torch.randn(logits.shape, generator=generator) / math.sqrt(2))
        found.append([*(one.square().mean().item() for one in outputs), gradient.square().mean().item()])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / math.sqrt(len(found))
    rows = propagate(tree, made, token_match=0.0)
    rows = rows[rows.site.str.fullmatch(r"decoder\.block\.\d")]
    forward = rows[rows.direction == "forward"].sort_values("site").second_moment.tolist()
    (back,) = rows[(rows.direction == "gradient") & (rows.site == "decoder.block.0")].second_moment
    assert off(mean[:4], error[:4], forward).max() < 0.02
    assert off(mean[4:], error[4:], [back]).max() < 0.12
    assert off(mean[4:], error[4:], [1.25 * back]).max() > 0.12


def test_heads_of_latent_attention_are_neither_allocated_nor_measured():
    """Keys and values of all heads share their features, so that no head has a rank of its own to cut."""
    from depthwidth.planning.head_allocation import present_shape

    with pytest.raises(InputError, match="one set of latent features for all heads"):
        present_shape({"model_type": "deepseek_v3"})
    pytest.importorskip("torch")
    from verify.measure.head_models import check_measurable

    with pytest.raises(InputError, match="one set of latent features for all heads"):
        check_measurable(Transformer.from_config({"model_type": "deepseek_v3"}))
