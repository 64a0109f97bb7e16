"""Kendall's coefficient, plain and granulated, and the errors of environments."""

import itertools

import numpy as np
import pytest

from depthwidth.errors import InputError
from depthwidth.numerics.ranking import granulated_kendall, kendall, sign_errors

GRID = list(itertools.product((8, 16, 32), (2, 4), (0.1, 0.01)))
SETTINGS = {name: [row[k] for row in GRID] for k, name in enumerate(("width", "depth", "rate"))}


def test_a_measure_that_is_the_gap_agrees_everywhere_and_its_opposite_nowhere(rng):
    gap = rng.standard_normal(len(GRID))
    for sign in (1, -1):
        found = granulated_kendall(sign * gap, gap, SETTINGS)
        assert set(found.by_hyperparameter) == set(SETTINGS)
        assert {found.overall, found.mean, *found.by_hyperparameter.values()} == {float(sign)}
        assert set(sign_errors(sign * gap, gap, SETTINGS).values()) == {(1 - sign) / 2}


def test_it_counts_pairs(rng):
    """Of distinct values: agreeing pairs less the others, over all."""
    measure, gap = rng.standard_normal((2, 40))
    pairs = list(itertools.combinations(range(40), 2))
    agreeing = sum((measure[i] < measure[j]) == (gap[i] < gap[j]) for i, j in pairs)
    assert kendall(measure, gap) == pytest.approx(2 * agreeing / len(pairs) - 1)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 3)  # ties count 0, and pairs of all


def test_one_strong_hyperparameter_does_not_carry_the_others():
    """A measure that follows the width and opposes the depth: the plain coefficient sees the width, psi both."""
    gap = [10 * width + depth for width, depth, _ in GRID]
    measure = [10 * width - depth for width, depth, _ in GRID]
    found = granulated_kendall(measure, gap, SETTINGS)
    assert found.overall > 0.4
    assert found.by_hyperparameter == {"width": 1.0, "depth": -1.0, "rate": 0.0}
    assert found.mean == pytest.approx(0.0)
    errors = sign_errors(measure, gap, SETTINGS)
    assert max(errors.values()) == errors["depth", 2, 4] == 1.0
    assert errors["width", 8, 32] == 0.0
    assert errors["rate", 0.1, 0.01] == 0.5


def test_pairs_without_weight_are_left_out():
    weights = np.ones((len(GRID), len(GRID)))
    depths = np.array(SETTINGS["depth"])
    weights[depths[:, None] != depths] = 0
    gap = np.arange(len(GRID))
    assert ("depth", 2, 4) not in sign_errors(gap, gap, SETTINGS, weights)
    assert ("width", 8, 16) in sign_errors(gap, gap, SETTINGS, weights)


def test_an_environment_is_the_same_in_both_orders():
    """Networks in any order: two values are one environment."""
    settings = {"width": [8, 16, 16, 8], "depth": [2, 2, 3, 3]}
    assert len(sign_errors([1, 2, 3, 4], [1, 2, 3, 4], settings)) == 2
    assert sign_errors([1, 2, 3, 4], [1, 2, 4, 3], settings)["width", 8, 16] == 0.5


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: kendall([1], [1]), "two networks at least"),
        (lambda: kendall([1, 2], [1]), "one number for each network"),
        (lambda: kendall([1, float("nan")], [1, 2]), "NaN or infinity"),
        (lambda: granulated_kendall([1, 2], [1, 2], {"width": [8, 8]}), "have equal settings"),
        (lambda: granulated_kendall([1, 2], [1, 2], {"width": [8]}), "one for each of 2 networks"),
        (lambda: granulated_kendall([1, 2], [1, 2], {"a": [1, 2], "b": [1, 2]}), "no two networks differ in one"),
        (lambda: sign_errors([1, 2], [1, 2], {"a": [1, 2]}, [[0, 1], [2, 0]]), "expected a symmetric 2 x 2"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
