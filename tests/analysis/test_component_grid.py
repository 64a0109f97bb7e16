"""The official grids of component settings, and what is predicted for each."""

import math

import numpy as np
import pytest

from depthwidth.analysis.component_grid import GRIDS, QUANTITIES, axes, cells, count, predict, predict_grid
from depthwidth.errors import InputError
from depthwidth.formulas.attention import attention_moments

# As published: settings per component, by the authors' released output.
PUBLISHED = {"linear": 13122, "relu": 450, "gelu": 450, "layernorm": 4050, "dropout": 4374, "softmax": 625, "attention": 26244}


def test_the_grids_have_the_published_sizes():
    assert {component: count(component) for component in GRIDS} == PUBLISHED
    assert sum(PUBLISHED.values()) == 49315


@pytest.mark.parametrize("component", GRIDS)
def test_one_call_gives_what_single_calls_give(component):
    every, grid = cells(component), predict_grid(component)
    assert set(grid) <= set(QUANTITIES)
    assert all(values.shape == (PUBLISHED[component],) and np.isfinite(values).all() for values in grid.values())
    rng = np.random.default_rng(5)
    for i in rng.integers(0, PUBLISHED[component], 6):
        alone = predict(component, {name: values[i].item() for name, values in every.items()})
        for quantity, values in grid.items():
            # The double integrals over two rows choose their grid by all lengths of a call, and are good to 3e-8.
            close = 1e-7 if component == "attention" else 1e-12
            # The variance of a probability is the difference of sum p^2 / n and 1 / n^2, of which a rounding is left.
            rounding = 1e-15 / every["length"][i] ** 2 if (component, quantity) == ("softmax", "variance") else 1e-300
            assert float(alone[quantity]) == pytest.approx(values[i], rel=close, abs=rounding)


def test_worked_values_of_the_simple_components():
    """From the theory's own check lines: linear 1.25 and 0.55, dropout 1.5556 and 1.5."""
    linear = dict(zip(axes("linear"), (0.5, 1.0, 0.3, 0.1, 2.0, 0.5, 100, 400, 100), strict=True))
    found = predict("linear", linear)
    assert (found["variance"], found["covariance"]) == (pytest.approx(1.25), pytest.approx(0.55))
    assert (found["gradient_variance"], found["gradient_covariance"]) == (pytest.approx(16.0), pytest.approx(8.0))
    dropout = dict(zip(axes("dropout"), (2.0, 1.0, 0.3, 0.1, 1.0, 0.5, 100, 100), strict=True))
    assert predict("dropout", dropout)["variance"] == pytest.approx(1.5556, abs=5e-5)
    assert predict("dropout", dropout | {"dropout": 0.5, "mean": 1.0, "std": 0.5})["variance"] == pytest.approx(1.5)


def test_attention_with_unequal_norms_is_a_little_above_attention_with_equal_ones():
    settings = dict(zip(axes("attention"), (1 / 3, 1.0, 0.6, 0.0, 1.0, 1 / 3, 100, 64, 300), strict=True))
    found = predict("attention", settings)
    layer = attention_moments(1.0, 1 / 3, length=300, width=100, head_dim=64, score_gain=0.6**4, gradient_correlation=1 / 3)
    assert 1 < found["variance"] / layer.second_moment < 1.001
    assert 1 < found["gradient_variance"] / (0.64 * layer.gradient) < 1.001


@pytest.mark.slow
def test_the_covariance_of_a_normed_gradient_against_its_exact_value():
    """E of (d - 3 + c^2)/sqrt(S S') over two correlated Gaussian samples, by simulation; and a wrong sign."""
    from depthwidth.formulas.moments import norm_gradient_covariance

    rng = np.random.default_rng(1)
    width, r = 24, 0.5
    z, u, v = (rng.standard_normal((200_000, width)) for _ in range(3))
    x, y = (math.sqrt(r) * z + math.sqrt(1 - r) * own for own in (u, v))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    sx, sy, sxy = (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)
    values = (width - 3 + sxy**2 / (sx * sy)) / np.sqrt(sx * sy)
    mean, error = values.mean(), values.std() / math.sqrt(values.size)
    found = norm_gradient_covariance(1.0, 1.0, r, width)
    assert abs(found - mean) < 4 * error + 2 / width**2  # the remainder is of second order
    assert abs((2 - found) - mean) > 10 * error + 1e-3


def test_mistakes_are_told_in_a_sentence():
    with pytest.raises(InputError, match=r"no grid of .linaer. .did you mean .linear."):
        axes("linaer")
    with pytest.raises(InputError, match="'std' is missing or unknown"):
        predict("softmax", {"correlation": 0.0})
    with pytest.raises(InputError, match="outside"):
        predict("softmax", {"std": 1.0, "correlation": 1.5, "gradient_std": 1.0, "length": 300})
