"""Blocks that share weights as torch modules."""

import copy

import pytest

from depthwidth import Transformer, recipe

torch = pytest.importorskip("torch")

from verify import apply_init, build  # noqa: E402

TREE = Transformer(4, 24, 3, vocab=11, context=8, kind="encoder", placement="post", shared_groups=2)
TOKENS = torch.randint(0, 11, (2, 8), generator=torch.Generator().manual_seed(0))


def weights_of(model):
    return [block.attention.query.weight for block in model.encoder.block]


@pytest.mark.parametrize(
    "made", [lambda model: model, copy.deepcopy, lambda model: model.double(), lambda model: model.to("cpu")]
)
def test_blocks_of_a_group_have_one_set_of_weights(made):
    model = made(build(TREE, seed=0))
    one, two, three, four = weights_of(model)
    assert one is two
    assert three is four
    assert one is not three
    assert sum(p.numel() for p in model.parameters()) == TREE.parameters


def test_the_output_is_that_of_copies():
    shared = build(TREE, "xavier", seed=0)
    own = build(Transformer(4, 24, 3, vocab=11, context=8, kind="encoder", placement="post"), "xavier", seed=1)
    own.load_state_dict(shared.state_dict())
    assert torch.equal(own(TOKENS), shared(TOKENS))
    with torch.no_grad():
        own.encoder.block[1].attention.query.weight.mul_(-1)
    assert not torch.allclose(own(TOKENS), shared(TOKENS), atol=1e-3)


def test_the_gradient_is_the_sum_over_uses():
    shared = build(TREE, "xavier", seed=0)
    own = build(Transformer(4, 24, 3, vocab=11, context=8, kind="encoder", placement="post"), "xavier", seed=1)
    own.load_state_dict(shared.state_dict())
    for model in (shared, own):
        model(TOKENS, TOKENS)[1].backward()
    one, two, *_ = (weight.grad for weight in weights_of(own))
    assert torch.allclose(weights_of(shared)[0].grad, one + two, atol=1e-6)


def test_every_block_has_hooks_and_scales_of_its_own():
    model, seen = build(TREE, recipe(TREE, "unit-scaling"), seed=0), []
    for index, block in enumerate(model.encoder.block):
        block.attention.query.register_forward_hook(lambda *_, index=index: seen.append(index))
    model(TOKENS)
    assert seen == [0, 1, 2, 3]
    assert len({block.attention.skip for block in model.encoder.block}) == 4


def test_multipliers_reach_every_use():
    model = build(TREE, "unit-scaling", seed=0)
    factors = [block.attention.query.multiplier for block in model.encoder.block]
    assert factors[0] != 1.0
    assert len(set(factors)) == 1


def test_scales_that_differ_within_a_group_cannot_be_folded():
    model = build(TREE, seed=0)
    report = apply_init(model, recipe(TREE, "unit-scaling"), fold=True)
    assert any("in block 1, which has the weights of block 0" in one for one in report.needs_code)
    report = apply_init(model, recipe(TREE, "deepnorm"), fold=True)
    assert not any("which has the weights" in one for one in report.needs_code)
