"""Every scheme on trees with positions in attention scores: biases start at zero, tables can learn, reasons are given."""

import math

import pytest
from helpers import one_quick_in

from depthwidth import Transformer, layers, propagate, recipe
from depthwidth.errors import InputError
from depthwidth.initialization import at_block, schemes, with_position_rate

POSITIONS = ["diet-rel", "diet-abs", "shaw", "tupe", layers.DietAbs(4, context=12, rank=3, segments=2, shared_layers=False)]


def tree(positions, kind="encoder"):
    head = "masked-lm" if kind == "encoder" else "lm"
    return Transformer(3, 32, 4, vocab=50, context=12, kind=kind, positions=positions, head=head)


@pytest.mark.parametrize("scheme", schemes())
@one_quick_in(3, "positions", POSITIONS)
def test_every_scheme_starts_them_and_says_why(positions, scheme):
    model = tree(positions, "decoder")
    found = recipe(model, scheme)
    lines = [line for line in found.tensors if ".position." in line.role]
    assert lines
    for line in lines:
        assert line.reason
        assert math.isfinite(at_block(line.std, 0))
        assert at_block(line.learning_rate, 0) > 0
        bias = line.role.endswith(("position.weight", "segments", "query")) and positions != "tupe"
        if (bias and scheme != "shipped") or positions == "shaw":  # transformers draws score biases, as T5's
            assert (at_block(line.std, 0), line.mean) == (0.0, 0.0), line
    drawn = [line for line in lines if at_block(line.std, 0) > 0]
    assert bool(drawn) == (positions not in ("diet-rel", "shaw") or (positions, scheme) == ("diet-rel", "shipped"))


@pytest.mark.slow
@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_moments_of_their_starts(positions, kind):
    for scheme in ("xavier", "mup"):
        frame = propagate(tree(positions, kind), scheme)
        assert frame.second_moment.map(math.isfinite).all()


def test_a_rate_of_their_own():
    found = recipe(tree("tupe"), "xavier")
    fast = with_position_rate(found, 4)
    roles = [line.role for line, base in zip(fast.tensors, found.tensors, strict=True) if line != base]
    assert roles == ["encoder.position.weight", "encoder.position.query.weight", "encoder.position.key.weight"]
    assert {fast.tensor(role).learning_rate / found.tensor(role).learning_rate for role in roles} == {4.0}
    for wrong in (0, -1, float("nan"), "fast"):
        with pytest.raises(InputError, match="factor"):
            with_position_rate(found, wrong)


def test_nonsense_is_refused_in_one_sentence():
    for make, sentence in (
        (lambda: layers.DietAbs(4, context=12, rank=0), "DietAbs: rank=0 is not a whole number"),
        (lambda: layers.DietAbs(4, context=12, rank=2.5), "DietAbs: rank=2.5 is not a whole number"),
        (lambda: layers.DietRel(4, context=0), "DietRel: context=0 is not a whole number"),
        (lambda: layers.DietRel(0, context=4), "DietRel: heads=0 is not a whole number"),
        (lambda: layers.DietRel(4, context=4, segments=-1), "DietRel: segments=-1 is not a whole number"),
        (lambda: layers.SegmentBias(4, segments=0), "SegmentBias: segments=0 is not a whole number"),
        (lambda: layers.ShawVectors(4, -1, 4), "ShawVectors: reach=-1 is not a whole number"),
        (lambda: layers.UntiedPositions(4, context=4, width=8, head_dim=2, shared_heads=True), "heads cannot share a bias"),
        (lambda: Transformer(2, 32, 4, value_dim=5, positions="shaw"), "8 dimensions, and the heads 8 and values 5"),
        (lambda: tree("diet").parameters, "did you mean 'diet-rel'"),
        (lambda: tree("diet-rel").forward_flops(13), "score biases for 12 positions; context=13 is beyond them"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence) as refused:
            make()
        assert "\n" not in str(refused.value)
