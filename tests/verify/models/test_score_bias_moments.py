"""Moments of stacks with score biases that start away from zero, beside those of the modules."""

import math

import pytest

from depthwidth import Recipe, Transformer, layers, propagate, recipe
from depthwidth.errors import InputError
from depthwidth.formulas import positions as laws

torch = pytest.importorskip("torch")

from verify.jobs.moments import NOISE  # noqa: E402
from verify.measure.stacks import sample_stack  # noqa: E402

TOKENS, CORRELATION = 32, 0.2


def started(made, stds):
    """The recipe with these tables drawn, by the ends of their roles."""

    def line(one):
        std = next((value for end, value in stds.items() if one.role.endswith(end)), None)
        return one if std is None else one._replace(std=std, mean=0.0)

    return Recipe(made.scheme, made.source, made.status, tuple(map(line, made.tensors)), made.residuals, made.extras)


def stack(positions, depth=1, width=128, heads=8, kind="encoder", **changes):
    return Transformer(
        depth, width, heads, context=TOKENS, vocab=50, kind=kind, positions=positions, head="none", final_norm=False,
        norm_affine=False, bias=False, activation="relu", **changes,
    )  # fmt: skip


def predicted(tree, made):
    """Second moment and covariance of each block's output, and second moment of the gradient at its input."""
    frame, name = propagate(tree, made, variance=1.0, correlation=CORRELATION), tree.stack_name

    def at(direction, site, column):
        return float(frame[(frame.direction == direction) & (frame.site == site)][column].iloc[0])

    blocks = [f"{name}.input", *(f"{name}.block.{layer}" for layer in range(tree.depth))]
    return [
        [at("forward", site, "second_moment") for site in blocks[1:]],
        [at("forward", site, "covariance") for site in blocks[1:]],
        [at("gradient", site, "second_moment") for site in blocks[:-1]],
    ]


def misses(tree, made, found, tolerance):
    """The quantities and blocks that miss by more than the tolerance and the noise."""
    mean, error = found.mean(0), found.std(0, ddof=1) / math.sqrt(len(found))
    return [
        (quantity, layer)
        for quantity, values in enumerate(predicted(tree, made))
        for layer, value in enumerate(values)
        if abs(value - mean[quantity, layer]) > tolerance * mean[quantity, layer] + NOISE * error[quantity, layer]
    ]


DRAWN = {
    "relative": (layers.DietRel(8, context=TOKENS), {"position.weight": 1.4}, 1.4**2),
    "absolute": (
        layers.DietAbs(8, context=TOKENS, rank=4, shared_layers=False),
        {"position.query": 0.5**0.5, "position.key": 0.5**0.5}, 1.0,
    ),
    "untied": (
        layers.UntiedPositions(8, context=TOKENS, width=64, head_dim=16),
        {"position.weight": 1.5, "position.query.weight": 0.125, "position.key.weight": 0.125}, 1.5**4 / 2,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", DRAWN)
def test_one_block_with_a_drawn_bias(name, kind):
    """Within 2 %, beyond the noise. Without the bias the prediction misses: the control."""
    position, stds, _ = DRAWN[name]
    tree = stack(position, kind=kind)
    plain = recipe(tree, "xavier")
    made = started(plain, stds)
    found = sample_stack(tree, made, CORRELATION, 80)
    assert misses(tree, made, found, 0.02) == []
    zero = started(plain, dict.fromkeys(stds, 0.0))
    assert misses(tree, zero, found, 0.02) != []


@pytest.mark.slow
def test_forty_eight_blocks_with_drawn_biases():
    """Within 5 % end to end, beyond the noise."""
    tree = stack(layers.DietRel(4, context=TOKENS), 48, 64, 4)
    made = started(recipe(tree, "xavier"), {"position.weight": 2.0})
    found = sample_stack(tree, made, CORRELATION, 24)
    assert misses(tree, made, found, 0.05) == []
    assert misses(tree, started(made, {"position.weight": 0.0}), found, 0.05) != []


@pytest.mark.parametrize("name", DRAWN)
def test_variance_of_the_bias_from_its_tables(name):
    position, stds, variance = DRAWN[name]
    tree = stack(position)
    from depthwidth.signal import Site, Trace

    home = "encoder.position" if tree.stack.position is not None else "encoder.block.attention.position"
    site = Site(Trace(started(recipe(tree, "xavier"), stds), TOKENS, TOKENS), home)
    assert float(position.score_bias(site).variance) == pytest.approx(variance)


@pytest.mark.slow
def test_biases_that_start_at_zero_change_nothing():
    for positions in ("diet-rel", "diet-abs", "shaw"):
        for kind in ("encoder", "decoder"):
            one, other = (predicted(tree, recipe(tree, "xavier")) for tree in (stack(positions, 2, 32, 2, kind),
                                                                               stack("none", 2, 32, 2, kind)))  # fmt: skip
            assert one == other


@pytest.mark.slow
def test_a_bias_makes_rows_differ():
    """Positions decorrelate the rows of two tokens, so that the output's covariance falls and its second moment rises."""
    tree = stack(layers.DietRel(8, context=TOKENS))
    made = recipe(tree, "xavier")
    plain, biased = (predicted(tree, started(made, {"position.weight": std})) for std in (0.0, 1.4))
    assert biased[0][0] > plain[0][0]
    assert biased[2][0] != plain[2][0]
    assert laws.biased_row_correlation(CORRELATION, 1.0, 2.0) < CORRELATION


def test_moments_that_are_not_known_are_refused():
    vectors = stack("shaw")
    with pytest.raises(InputError, match="the moments of relative vectors are known if they start at zero"):
        propagate(vectors, started(recipe(vectors, "xavier"), {"position.key": 0.1}))
    both = stack("diet-rel", score_bias=layers.DietAbs(8, context=TOKENS, rank=2))
    drawn = started(recipe(both, "xavier"), {"position.weight": 1.0, "position.query": 1.0, "position.key": 1.0})
    with pytest.raises(InputError, match="the moments of two score biases that do not start at zero are not known"):
        propagate(both, drawn)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_texts_with_repeated_tokens(kind):
    """The bias has its effect with equal tokens apart too, and none at a variance of zero."""
    tree = stack(layers.DietRel(8, context=TOKENS), kind=kind)
    made = recipe(tree, "xavier")
    outputs = []
    for std in (0.0, 1e-2, 1.4):
        frame = propagate(tree, started(made, {"position.weight": std}))
        site = f"{tree.stack_name}.block.0.attention"
        outputs.append(float(frame[(frame.direction == "forward") & (frame.site == site)].second_moment.iloc[0]))
    assert outputs[1] == pytest.approx(outputs[0], rel=1e-3)
    assert outputs[2] > 1.2 * outputs[0]
