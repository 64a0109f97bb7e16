"""Norms of networks: power iteration against SVD, paths against enumeration, margins."""

import itertools
import math

import numpy as np
import pytest

from depthwidth.errors import InputError
from depthwidth.numerics import network_norms as norms


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (40, 3), (30, 50), (64, 64)])
def test_power_iteration_is_within_its_tolerance_of_svd(rng, shape):
    w = rng.standard_normal(shape)
    found, exact = norms.spectral_norm(w), np.linalg.norm(w, 2)
    assert found.converged
    assert found.residual <= norms.TOLERANCE
    assert exact * (1 - norms.TOLERANCE) <= found.value <= exact * (1 + 1e-14)


def test_close_and_equal_singular_values():
    """Forty values within 1e-3, too close for the iteration, and all values alike."""
    turns = [np.linalg.qr(np.random.default_rng(seed).standard_normal((40, 40)))[0] for seed in (1, 2)]
    for values in (np.linspace(1, 0.999, 40), np.ones(40)):
        found = norms.spectral_norm(turns[0] @ np.diag(values) @ turns[1])
        assert found.converged
        assert found.value == pytest.approx(1, rel=1e-6)


def test_an_iteration_that_stops_early_says_so(rng, monkeypatch):
    monkeypatch.setattr(norms, "MOST_STEPS", 2)
    monkeypatch.setattr(norms, "LARGEST_DECOMPOSED", 100)
    w = rng.standard_normal((200, 200))
    found = norms.spectral_norm(w)
    assert not found.converged
    assert found.residual > norms.TOLERANCE
    assert found.value < np.linalg.norm(w, 2) * (1 - 1e-6)
    assert not norms.network_norms([w]).converged


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_very_small_and_very_large_weights(scale):
    assert norms.spectral_norm(scale * np.diag([3.0, 1.0])).value == pytest.approx(3 * scale)
    assert norms.spectral_norm(np.zeros((3, 4))) == norms.SpectralNorm(0.0, 0.0, 0, True)


def enumerated(weights, power):
    """The path sum, one path after another."""
    sizes = [weights[0].shape[1], *(w.shape[0] for w in weights)]
    return sum(
        math.prod(abs(w[j, i]) ** power for w, (i, j) in zip(weights, itertools.pairwise(path), strict=True))
        for path in itertools.product(*map(range, sizes))
    )


@pytest.mark.parametrize("power", [1, 2, 1.5])
@pytest.mark.parametrize("sizes", [(3, 2), (2, 3, 4), (2, 3, 2, 3, 1)])
def test_one_forward_pass_sums_over_all_paths(rng, sizes, power):
    weights = [rng.standard_normal((after, before)) for before, after in itertools.pairwise(sizes)]
    assert norms.path_sum(weights, power) == pytest.approx(enumerated(weights, power), rel=1e-12)
    weights[0][0, 0] *= 1.01  # the control
    assert norms.path_sum(weights, power) == pytest.approx(enumerated(weights, power), rel=1e-12)
    assert norms.path_sum([np.maximum(w, 0) for w in weights], power) < 0.99 * enumerated(weights, power)


def test_path_sums_do_not_change_if_a_unit_is_rescaled_and_other_norms_do(rng):
    first, second = rng.standard_normal((4, 3)), rng.standard_normal((2, 4))
    turned = [first.copy(), second.copy()]
    turned[0][1] *= 5
    turned[1][:, 1] /= 5
    before, after = norms.network_norms([first, second]), norms.network_norms(turned)
    for name in ("l1_paths", "l2_paths"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-12)
    for name in ("spectral_product", "frobenius_product", "largest_row_product"):
        assert abs(getattr(after, name) / getattr(before, name) - 1) > 0.01


def test_the_l1_path_sum_is_below_the_product_of_row_norms_per_output(rng):
    """The path norm is the least product of L_{p,inf} norms over rescalings; the sum over outputs, at most as many times it."""
    weights = [rng.standard_normal((6, 3)), rng.standard_normal((2, 6))]
    found = norms.network_norms(weights)
    assert found.l1_paths < 2 * found.largest_row_product
    alone = [np.abs(w).sum(1).max() for w in weights]
    assert found.largest_row_product == pytest.approx(math.prod(alone))


def test_the_width_counts_the_inputs():
    found = norms.network_norms([np.ones((3, 9)), np.ones((2, 3))])
    assert (found.width, found.width_product, found.weights, found.depth) == (9, 6.0, 33, 2)


def test_group_norms(rng):
    w = rng.standard_normal((5, 4))
    assert norms.group_norm(w, 2, 2) == pytest.approx(np.linalg.norm(w))
    assert norms.group_norm(w, 1, 1) == pytest.approx(np.abs(w).sum())
    assert norms.group_norm(w, 2, 1) != pytest.approx(norms.group_norm(w.T, 2, 1))
    assert norms.group_norm(np.array([[1, 2], [0, 2]]), 3, 1.5) == pytest.approx((9**0.5 + 8**0.5) ** (2 / 3))


def test_margins_and_their_percentiles():
    values = [3, 1, 0.2, 5, 2, 0.9, 4, 1.5, 2.5, 0.1]
    assert norms.training_margin(values) == pytest.approx(0.145)
    assert norms.training_margin(values, 0.1) == pytest.approx(0.19)
    assert norms.margin_loss(values, 0.2) == 0.2
    assert norms.counted_margin(values) == 0.1
    assert norms.counted_margin([-3.0, *range(1, 20)]) == 1.0
    assert norms.counted_margin([-3.0, *range(1, 10)]) == 3.0
    assert norms.counted_margin(range(1, 101), 0.29) == 29.0
    logits = np.array([[1.0, 4.0, 2.0], [3.0, 3.0, 0.0]])
    assert norms.margins(logits, [1, 0]).tolist() == [2.0, 0.0]
    assert norms.margins(logits, [0, 2]).tolist() == [-3.0, -3.0]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: norms.network([]), "one matrix at least"),
        (lambda: norms.network([np.ones((2, 3)), np.ones((2, 4))]), "matrix 1 takes 4 features, but matrix 0 returns 2"),
        (lambda: norms.network_norms([[[1.0, math.nan]]]), "matrix 0 holds NaN or infinity"),
        (lambda: norms.network_norms([np.zeros((2, 2))]), "matrix 0 is zero"),
        (lambda: norms.spectral_norm(np.ones(3)), "has shape (3,)"),
        (lambda: norms.spectral_norm([["a"]]), "not an array of real numbers"),
        (lambda: norms.spectral_norm(np.eye(2), 0), "tolerance=0"),
        (lambda: norms.path_sum([np.eye(2)], 0), "power=0"),
        (lambda: norms.group_norm(np.eye(2), 0.5, 1), "p=0.5"),
        (lambda: norms.margins(np.eye(2), [0, 2]), "labels run from 0 to 2"),
        (lambda: norms.margins(np.eye(2), [0.0, 1.0]), "expected 2 whole numbers"),
        (lambda: norms.training_margin([]), "one finite number or more"),
        (lambda: norms.training_margin([1.0], 2), "share=2"),
        (lambda: norms.counted_margin([1.0, 2.0]), "a share of 0.1 of 2 points is less than one point"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
