"""Flows on factors, their limits in closed form, and weight decay as a nuclear norm, each beside another way to compute it."""

import numpy as np
import pytest
from numerics.least_norm import least_nuclear_norm, least_penalised
from scipy.optimize import linprog, minimize

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas.implicit_rank import remaining_imbalance, singular_value_rate
from depthwidth.numerics.factorisation import (
    balanced_factors,
    certificate,
    commuting_limit,
    factor_rates,
    gradient_flow,
    greedy_path,
    imbalance,
    product,
    product_rate,
    soft_thresholded,
    symmetric_flow,
)
from depthwidth.numerics.spectra import effective_rank, numerical_rank


def tanh_slope(target):
    """Gradient of a loss that is not quadratic, of a product that need not be square."""
    return lambda w: np.tanh(w - target) + 0.1 * (w - target)


def decayed_minimum(loss_and_slope, shape, head_dim, decay, rng, steps=4000):
    """A minimum over factors with weight decay, by L-BFGS from a random start: objective, product, and factors' half norm."""
    (m, n), cut = shape, shape[0] * head_dim

    def both(flat):
        a, b = flat[:cut].reshape(m, head_dim), flat[cut:].reshape(n, head_dim)
        loss, g = loss_and_slope(a @ b.T)
        slopes = (g @ b + decay * a, g.T @ a + decay * b)
        return loss + decay / 2 * (flat**2).sum(), np.concatenate([one.ravel() for one in slopes])

    start = rng.standard_normal((m + n) * head_dim) / 2
    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 1e-16, "gtol": 1e-9, "maxcor": 30}
    found = minimize(both, start, jac=True, method="L-BFGS-B", options=options)
    a, b = found.x[:cut].reshape(m, head_dim), found.x[cut:].reshape(n, head_dim)
    return found.fun, a @ b.T, (found.x**2).sum() / 2


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_end_to_end_rate_is_that_of_the_factors(depth, rng):
    """And of balanced factors only: with unequal ones the product moves otherwise."""
    w, g = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))

    def moved(factors):
        step = 1e-6
        later = [one + step * rate for one, rate in zip(factors, factor_rates(g, factors), strict=True)]
        earlier = [one - step * rate for one, rate in zip(factors, factor_rates(g, factors), strict=True)]
        return (product(later) - product(earlier)) / (2 * step)

    factors = balanced_factors(w, depth)
    assert product(factors) == pytest.approx(w)
    assert max((np.abs(one).max() for one in imbalance(factors)), default=0) < 1e-12
    expected = product_rate(g, w, depth)
    assert moved(factors) == pytest.approx(expected, abs=1e-7)
    left, sizes, right = np.linalg.svd(w, full_matrices=False)
    for i, size in enumerate(sizes):
        slope = left[:, i] @ g @ right[i]
        assert left[:, i] @ expected @ right[i] == pytest.approx(singular_value_rate(size, depth, slope), rel=1e-9)
    if depth > 1:
        factors[0], factors[1] = 2 * factors[0], factors[1] / 2
        assert np.abs(moved(factors) - expected).max() > 0.1


def test_balance_is_kept_by_the_flow_and_shrunk_by_decay(rng):
    target = rng.standard_normal((5, 4))
    starts = [rng.standard_normal((3, 4)), rng.standard_normal((5, 3))]
    [before] = imbalance(starts)
    for decay in (0.0, 0.3):
        for time, factors in zip((3.0, 6.0), gradient_flow(tanh_slope(target), starts, [3.0, 6.0], decay), strict=True):
            left = remaining_imbalance(decay, time)
            assert np.abs(imbalance(factors)[0] - left * before).max() < 1e-6
            assert np.abs(imbalance(factors)[0] - 0.9 * left * before).max() > 1e-3


@pytest.mark.slow
def test_the_commuting_flow_ends_where_the_closed_form_says(rng):
    a = rng.standard_normal((3, 6))
    y = a @ np.array([1.0, 0.6, 0, 0, 0, 0])
    for scale in (1.0, 0.1, 0.01):
        start = scale * np.eye(6)
        [u] = symmetric_flow(lambda x: np.diag(a.T @ (a @ np.diag(x) - y)), start, [400.0])
        end = u @ u.T
        limit = commuting_limit(a, y, np.full(6, scale**2))
        assert np.diag(end) == pytest.approx(limit, abs=1e-4)
        assert np.abs(end - np.diag(np.diag(end))).max() < 1e-12


def test_the_commuting_limit_tends_to_the_least_sum(rng):
    """From starts of one value, the nearer the smaller; from any start ln x moves within the span of the measurements."""
    a = rng.standard_normal((15, 40))
    truth = np.zeros(40)
    truth[:6] = 0.3 + rng.random(6)
    y = a @ truth
    least = linprog(np.ones(40), A_eq=a, b_eq=y).fun
    gaps = {scale: commuting_limit(a, y, np.full(40, scale**2)).sum() / least - 1 for scale in (1, 0.1, 0.01, 1e-3, 1e-4, 1e-6)}
    assert list(gaps.values()) == sorted(gaps.values(), reverse=True)
    assert gaps[1] > 1
    assert 0 <= gaps[1e-6] < 1e-3
    start = 1e-6 * (0.5 + rng.random(40))
    x = commuting_limit(a, y, start)
    assert a @ x == pytest.approx(y)
    moved = np.log(x / start)
    assert np.abs(moved - a.T @ np.linalg.lstsq(a.T, moved, rcond=None)[0]).max() < 1e-8


def test_measured_gaps_of_the_commuting_case():
    rows = reference("implicit_commuting_alpha_sweep")
    gaps = [float(row["gap_percent"]) for row in rows]
    assert gaps == sorted(gaps, reverse=True)
    for row, gap in zip(rows, gaps, strict=True):
        assert 100 * (float(row["l1_norm_gd"]) / float(row["l1_norm_min"]) - 1) == pytest.approx(gap, rel=2e-2)


def test_balanced_factors_have_the_least_norm(rng):
    """Half the sum of squares is the nuclear norm, of heads that share keys that of the stack; other factors have more."""
    queries, keys = rng.standard_normal((3 * 6, 4)), rng.standard_normal((6, 4))
    stack = queries @ keys.T
    factors = balanced_factors(stack)
    norm = np.linalg.norm(stack, "nuc")
    assert sum((one**2).sum() for one in factors) / 2 == pytest.approx(norm)
    assert ((queries**2).sum() + (keys**2).sum()) / 2 > 1.05 * norm
    assert norm < 0.95 * sum(np.linalg.norm(one, "nuc") for one in stack.reshape(3, 6, 6))


@pytest.mark.parametrize("decay", [0.2, 0.7, 2.0])
@pytest.mark.parametrize("head_dim", [1, 2, 4, 6])
def test_decay_thresholds_the_singular_values(decay, head_dim, rng):
    target = rng.standard_normal((6, 5))

    def loss(w):
        return ((w - target) ** 2).sum() / 2, w - target

    objective, w, half = decayed_minimum(loss, (6, 5), head_dim, decay, rng)
    expected = soft_thresholded(target, decay, head_dim)
    assert np.abs(w - expected).max() < 1e-5
    assert half == pytest.approx(np.linalg.norm(expected, "nuc"), abs=1e-5)
    assert objective == pytest.approx(loss(expected)[0] + decay * np.linalg.norm(expected, "nuc"), rel=1e-9)
    above = int((np.linalg.svd(target, compute_uv=False) > decay).sum())
    found = certificate(expected - target, expected, decay)
    assert found.optimal == (head_dim >= above)
    assert found.misalignment < 1e-9
    assert found.rank == above


def test_a_product_that_is_not_stationary_has_no_certificate(rng):
    target = rng.standard_normal((6, 5))
    w = soft_thresholded(target, 0.5)
    assert certificate(w - target, w, 0.5).optimal
    assert not certificate(1.1 * w - target, 1.1 * w, 0.5).optimal
    assert not certificate(w - target, w, 0.45).optimal


def selection(rng, width, rank, candidates=6, samples=120):
    """A task of choosing the one key that a query asks for; keys lie in few dimensions, with noise."""
    basis = np.linalg.qr(rng.standard_normal((width, rank)))[0]
    keys = rng.standard_normal((samples, candidates, rank)) @ basis.T + 0.1 * rng.standard_normal((samples, candidates, width))
    queries = keys[:, 0] + 0.3 * rng.standard_normal((samples, width))

    def loss_and_slope(w):
        scores = np.einsum("sd,de,sce->sc", queries, w, keys, optimize=True)
        scores -= scores.max(1, keepdims=True)
        p = np.exp(scores)
        p /= p.sum(1, keepdims=True)
        loss = -np.log(p[:, 0]).mean()
        p[:, 0] -= 1
        return loss, queries.T @ np.einsum("sc,sce->se", p, keys) / samples

    return loss_and_slope


@pytest.mark.slow
def test_heads_beyond_the_certified_rank_change_nothing(rng):
    """Selection by attention weights: from the rank of the nuclear-norm optimum on the objective is one, below it is higher."""
    decay, loss = 0.03, selection(rng, 8, 3)
    w = least_penalised(loss, (8, 8), decay, step=1.0)
    found = certificate(loss(w)[1], w, decay)
    assert found.optimal
    rank = numerical_rank(np.linalg.svd(w, compute_uv=False))
    assert 1 < rank <= found.rank < 8
    least = loss(w)[0] + decay * np.linalg.norm(w, "nuc")
    for head_dim in (rank - 1, rank, 8):
        objective, reached, half = decayed_minimum(loss, (8, 8), head_dim, decay, rng)
        assert half == pytest.approx(np.linalg.norm(reached, "nuc"), rel=1e-5)
        if head_dim < rank:
            assert objective > least * (1 + 1e-4)
            assert certificate(loss(reached)[1], reached, decay).excess > 1e-3
        else:
            assert objective == pytest.approx(least, rel=1e-6)
            assert numerical_rank(np.linalg.svd(reached, compute_uv=False)) == rank


@pytest.mark.slow
def test_small_starts_reach_the_least_norm_only_with_enough_measurements(rng):
    """With 3 n r measurements the gap falls with the start; with n r it rises again, while the effective rank falls."""
    n, rank = 8, 1
    gaps, ranks = {}, {}
    factor = rng.standard_normal((n, rank)) / np.sqrt(n)
    for m in (28, 9):
        measured = rng.standard_normal((m, n, n)) / np.sqrt(m)
        measured = (measured + measured.transpose(0, 2, 1)) / 2
        y = np.einsum("mij,ij->m", measured, factor @ factor.T)
        least = np.trace(least_nuclear_norm(measured, y))

        def gradient(x, measured=measured, y=y):
            return np.einsum("mij,m->ij", measured, np.einsum("mij,ij->m", measured, x) - y)

        for scale in (0.1, 1e-2, 1e-4):
            start = scale * np.eye(n)
            [u] = symmetric_flow(gradient, start, [300.0], tolerance=1e-6)
            sizes = np.linalg.svd(u, compute_uv=False) ** 2
            gaps[m, scale], ranks[m, scale] = sizes.sum() / least - 1, effective_rank(sizes)
    assert gaps[28, 0.1] > gaps[28, 1e-2] > gaps[28, 1e-4]
    assert gaps[28, 1e-4] < 1e-3
    assert ranks[9, 1e-4] < ranks[9, 1e-2] < ranks[9, 0.1]


def test_measured_gaps_fall_with_the_start_only_with_enough_measurements():
    rows = reference("implicit_mf_alpha_sweep")
    gaps = {(r["measurements"], r["rank_truth"], r["m"], r["alpha"]): float(r["gap_percent"]) for r in rows}
    assert gaps["gauss", "2", "120", "0.001"] < 0.1
    assert gaps["compl", "2", "120", "0.001"] < 0.1
    assert gaps["gauss", "2", "40", "0.0001"] > gaps["gauss", "2", "40", "0.01"]
    assert gaps["gauss", "4", "60", "0.0001"] > gaps["gauss", "4", "60", "0.01"]
    for r in rows:
        gap = 100 * (float(r["nuclear_norm_gd"]) / float(r["min_nuclear_norm"]) - 1)
        assert gap == pytest.approx(float(r["gap_percent"]), rel=1e-5, abs=2e-3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gradient_flow(lambda w: w, [np.ones((2, 3)), np.ones((2, 3))], [1.0]), "do not chain"),
        (lambda: gradient_flow(lambda w: w, [np.ones((2, 2))], [2.0, 1.0]), "times are at least 0 and increase"),
        (lambda: gradient_flow(lambda w: w, [np.ones((2, 2))], [1.0], -1.0), "decay is at least 0"),
        (lambda: gradient_flow(lambda w: w, [], [1.0]), "one or more matrices"),
        (lambda: commuting_limit([[1.0, 1.0]], [-1.0], [1.0, 1.0]), "no positive entries"),
        (lambda: commuting_limit([[1.0, 1.0]], [1.0], [1.0]), "A is (measurements, entries)"),
        (lambda: greedy_path(lambda x: x, 2, 2, push=0.0), "push and time are above 0"),
        (lambda: greedy_path(lambda x: x, 2, 0), "ranks"),
        (lambda: soft_thresholded(np.eye(2), -1.0), "decay is at least 0"),
        (lambda: soft_thresholded(np.eye(2), 1.0, 0), "head_dim"),
        (lambda: certificate(np.eye(2), np.eye(2), 0.0), "decay is above 0"),
        (lambda: certificate(np.eye(2), np.eye(3), 1.0), "of one shape"),
    ],
)
def test_bad_input_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)


def test_a_symmetric_product_fits_no_negative_eigenvalue(rng):
    """It is the flow of [U', U] while those are transposes; unequal factors fit negative eigenvalues, as rounding would."""
    target = np.diag([2.0, 1.0, -1.0])
    start = 0.3 * rng.standard_normal((3, 3))
    both = gradient_flow(lambda x: x - target, [start.T, start], [0.5, 1.5])
    for u, factors in zip(symmetric_flow(lambda x: x - target, start, [0.5, 1.5]), both, strict=True):
        assert product(factors) == pytest.approx(u @ u.T, abs=1e-6)
    [u] = symmetric_flow(lambda x: x - target, start, [200.0])
    assert u @ u.T == pytest.approx(np.diag([2, 1, 0]), abs=3e-3)
    [factors] = gradient_flow(lambda x: x - target, [start.T, 1.01 * start], [200.0])
    assert product(factors) == pytest.approx(target, abs=1e-5)


def test_the_greedy_path_of_a_target_takes_its_eigenvalues_in_turn(rng):
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    values = np.array([3.0, 2.0, 1.0, -1.0, -2.0])
    target = (basis * values) @ basis.T
    path = greedy_path(lambda x: x - target, 5, 5)
    assert len(path) == 3
    for rank, x in enumerate(path, 1):
        kept = np.where(np.arange(5) < rank, values, 0)
        assert np.abs(x - (basis * kept) @ basis.T).max() < 1e-5


def test_a_product_of_zeros_is_certified_by_its_gradient_alone():
    assert certificate(0.5 * np.eye(3), np.zeros((3, 3)), 1.0).optimal
    assert not certificate(2 * np.eye(3), np.zeros((3, 3)), 1.0).optimal
