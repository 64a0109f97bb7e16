"""The growth of parallel streams: none at the identity start, and judged on both sides of its thresholds."""

import math
from dataclasses import replace

import pytest

from depthwidth import Transformer
from depthwidth.analysis.diagnosis import diagnose
from depthwidth.initialization import recipe
from depthwidth.numerics.altup import mixing, spectral_radius

SIZES = {"depth": 6, "width": 64, "heads": 2, "kind": "encoder", "vocab": 50, "context": 16, "positions": "none"}
TREE = Transformer(**SIZES, altup=2)


def growth(tree, made):
    return [one for one in diagnose(tree, made, remedies=()) if one.name == "stream_growth"]


def scaled(tree, predict=1.0, correct=1.0):
    made, factors = recipe(tree, "xavier"), {"predict": predict, "correct": correct}
    lines = (t._replace(multiplier=factors.get(t.role.rpartition(".")[2], t.multiplier)) for t in made.tensors)
    return replace(made, tensors=tuple(lines))


def test_the_identity_start_keeps_the_streams():
    (found,) = growth(TREE, "xavier")
    assert (found.value, found.severity, found.site) == (1.0, "fine", "encoder")
    assert "the streams keep their size" in found.sentence


def test_a_model_of_one_stream_has_no_such_finding():
    assert growth(Transformer(**SIZES), "xavier") == []


@pytest.mark.parametrize(
    ("radius", "severity"), [(9.9, "fine"), (10.1, "watch"), (math.exp(5.95), "watch"), (math.exp(6.05), "problem"),
                             (0.101, "fine"), (0.099, "watch"), (math.exp(-6.05), "problem")],
)  # fmt: skip
def test_every_threshold_judges_on_both_sides(radius, severity):
    """Without corrections the streams are multiplied by P alone, here a multiple of the identity in each of six blocks."""
    (found,) = growth(TREE, scaled(TREE, predict=radius ** (1 / 6), correct=0.0))
    assert found.value == pytest.approx(radius)
    assert found.severity == severity


def test_the_value_is_that_of_the_matrices():
    (found,) = growth(TREE, scaled(TREE, 0.8, 0.7))
    expected = spectral_radius(mixing([[0.8, 0.0], [0.0, 0.8]], [0.7, 0.7], block % 2) for block in range(6))
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert abs(found.value - spectral_radius([mixing([[0.8, 0.0], [0.0, 0.8]], [0.6, 0.6], 0)] * 6)) > 0.01
