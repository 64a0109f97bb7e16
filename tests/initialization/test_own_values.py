"""Values of single tensors and branches that the caller gives, over those of a scheme."""

import pytest

from depthwidth import Transformer, propagate
from depthwidth.errors import InputError
from depthwidth.initialization import parameters, recipe

TREE = Transformer(depth=3, width=32, heads=4, vocab=50, context=12)
QUERY, OUT = "decoder.block.attention.query.weight", "decoder.block.attention.out.weight"


def test_a_tensor_has_the_value_that_is_given_and_all_others_the_schemes():
    plain, own = recipe(TREE, "gpt2"), recipe(TREE, "gpt2", tensors={QUERY: 0.5})
    assert own.tensor(QUERY).std == 0.5
    assert own.tensor(QUERY).reason == "as given"
    assert [line for line in own.tensors if line.role != QUERY] == [line for line in plain.tensors if line.role != QUERY]
    assert own.residuals == plain.residuals
    assert recipe(TREE, "gpt2", tensors={}).tensors == plain.tensors


def test_patterns_blocks_and_several_values():
    tensors = {"*.weight": {"learning_rate": 2}, "*.out.weight": {"std": [0.1, 0.2, 0.3], "multiplier": -1}}
    own = recipe(TREE, "normal", std=0.03, tensors=tensors)
    assert own.tensor(OUT)[1:6] == ((0.1, 0.2, 0.3), 0.0, -1.0, 2.0, 1.0)
    assert (own.tensor(QUERY).std, own.tensor(QUERY).learning_rate) == (0.03, 2.0)
    rows = {row["parameter"]: row["std"] for row in own.rows(TREE)}
    assert rows["decoder.block.1.attention.out.weight"] == 0.2
    assert len(rows) == len(list(parameters(TREE)))
    scaled = recipe(TREE, "normal", residuals={"*.attention": 0.5, "*.feed_forward": {"skip": 0.9, "branch": (1, 2, 3)}})
    assert scaled.residual("decoder.block.attention")[1:3] == (1.0, 0.5)
    assert scaled.residual("decoder.block.feed_forward")[1:3] == (0.9, (1.0, 2.0, 3.0))


@pytest.mark.slow
def test_moments_follow_the_given_values():
    """The scores' variance is proportional to that of the query's matrix, the stream to the branch's factor."""

    def score(**own):
        rows = propagate(TREE, recipe(TREE, "normal", **own)).query("direction == 'forward'")
        return float(rows[rows.site == "decoder.block.0.attention.scores"].second_moment.iloc[0])

    assert score(tensors={QUERY: 0.04}) == pytest.approx(4 * score(), rel=1e-9)
    assert score(tensors={QUERY: {"multiplier": 2}}) == pytest.approx(4 * score(), rel=1e-9)

    def top(**own):
        rows = propagate(TREE, recipe(TREE, "normal", **own)).query("direction == 'forward'")
        return float(rows[rows.site == "decoder.block.2"].second_moment.iloc[0])

    zero = top(residuals={"*": 0})
    assert zero == pytest.approx(2 * 0.02**2, rel=1e-9)  # token and position: branches add nothing
    assert top() > 1.01 * zero


@pytest.mark.slow
def test_torch_modules_have_the_given_values():
    torch = pytest.importorskip("torch")
    from verify import build

    tensors = {QUERY: [0.1, 0.2, 0.3], "*.norm_in.weight": {"mean": 0.5}}
    own = recipe(TREE, "normal", tensors=tensors, residuals={"*.attention": 0.25})
    model = build(TREE, own, seed=0)
    stds = [block.attention.query.weight.std().item() for block in model.decoder.block]
    assert stds == pytest.approx([0.1, 0.2, 0.3], rel=0.1)
    assert torch.equal(model.decoder.block[1].attention.norm_in.weight, torch.full((32,), 0.5))
    assert [block.attention.scale for block in model.decoder.block] == [0.25] * 3


REFUSED = {
    "tensors: 'decoder.block.attention.querry.weight' fits no role (did you mean 'decoder.block.attention.query.weight'?)": {
        "tensors": {"decoder.block.attention.querry.weight": 1}
    },
    "tensors: there is no value 'variance'; known are std, mean": {"tensors": {QUERY: {"variance": 1}}},
    "query.weight: std=-1 is not a finite number from 0": {"tensors": {QUERY: -1}},
    "query.weight: std=nan is not": {"tensors": {QUERY: float("nan")}},
    "query.weight: std=True is not": {"tensors": {QUERY: True}},
    "query.weight: std has 2 values for 3 blocks": {"tensors": {QUERY: [1, 2]}},
    "query.weight: mean has 3 values where there is room for one": {"tensors": {QUERY: {"mean": [1, 2, 3]}}},
    "stem.tokens.weight: std has 2 values where there is room for one": {"tensors": {"stem.tokens.weight": [1, 2]}},
    "tensors=5 is not a mapping": {"tensors": 5},
    "residuals: '*.cross_attention' fits no role": {"residuals": {"*.cross_attention": 1}},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_no_tensor_can_have_is_refused(problem):
    with pytest.raises(InputError) as caught:
        recipe(TREE, "normal", **REFUSED[problem])
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
