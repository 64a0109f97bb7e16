"""Exact averages of the softmax: worked values, limits, and the inverse."""

import math

import numpy as np
import pytest
from helpers import agrees, check, golden, one_quick_in, table
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.errors import InputError
from depthwidth.formulas import saturation as s
from depthwidth.formulas.saturation import softmax_entropy
from depthwidth.numerics.retrieval import planted

EXACT = golden("softmax_iid_logits_exact")


@one_quick_in(4, "row", EXACT, ids=lambda r: f"{r['n']}-{r['sigma']}")
def test_the_grid_of_exact_values(row):
    """n to 131072, sigma to 8; printed to six digits, the entropy computed there from two rounded numbers."""
    n, variance = int(row["n"]), float(row["sigma"]) ** 2
    assert s.log_partition(variance, n) == pytest.approx(float(row["E_lnZ"]), abs=2e-6)
    assert s.squared_sum(variance, n) == pytest.approx(float(row["E_sum_p2"]), rel=2e-5)
    assert s.entropy(variance, n) == pytest.approx(float(row["E_entropy_nats"]), abs=3e-5)
    assert s.effective_tokens(variance, n) == pytest.approx(float(row["one_over_E_sum_p2"]), rel=2e-5)


LARGEST = table("64, 1 | .10727\n256, 2 | .18607\n1024, 1 | .01624\n1024, 3 | .27453\n4096, 2 | .05645")


@pytest.mark.parametrize(("where", "value"), LARGEST)
def test_largest_weight(where, value):
    n, sigma = map(float, where.split(","))
    # The printed values come from a grid in g that is good to 1e-5: at (256, 2) 800,000 draws give 0.18607 +- 0.00013, and two
    # finer grids .186075.
    assert s.largest_weight(sigma**2, int(n)) == pytest.approx(float(value), abs=1e-5)


INVERSE = table("""
    1024 | 4 | 3.8301
    1024 | 16 | 2.4080
    1024 | 64 | 1.7442
    256 | 4 | 3.2284
    256 | 16 | 1.9077
    256 | 64 | 1.2089
    16384 | 4 | 4.8493
    16384 | 16 | 3.2386
    16384 | 64 | 2.5539
    4096 | 16 | 2.8448
""")


@pytest.mark.parametrize(("n", "tokens", "sigma"), INVERSE)
def test_the_inverse(n, tokens, sigma):
    found = s.logit_std_for_tokens(float(tokens), int(n))
    check(found, sigma)
    assert s.effective_tokens(found**2, int(n)) == pytest.approx(float(tokens), rel=1e-9)


def test_the_inverse_ends():
    assert s.logit_std_for_tokens(64, 64) == 0
    assert s.logit_std_for_tokens([2.0, 4.0], 64).shape == (2,)
    with pytest.raises(InputError, match="fewer tokens in the row"):
        s.logit_std_for_tokens(65, 64)
    with pytest.raises(InputError, match=f"variance above {s.LARGEST_VARIANCE:g}"):
        s.logit_std_for_tokens(1.0001, 64)


PROPERTY = given(st.floats(0, 100), st.integers(2, 131072))


@pytest.mark.slow
@PROPERTY
def test_the_identity_between_entropy_and_partition_function(variance, n):
    """E H = E ln Z - sigma^2 (1 - E S2), with the derivative of E ln Z by the variance in place of the sum of squares.

    d E ln Z / d sigma^2 = (1 - E S2)/2 by Gaussian integration by parts, so that the two sides come from different integrals.
    """
    assert s.entropy(variance, n) == pytest.approx(
        softmax_entropy(s.log_partition(variance, n), variance, s.squared_sum(variance, n)), abs=1e-9
    )
    h = 1e-3 * (1 + variance)
    low = max(variance - h, 0.0)
    slope = (s.log_partition(variance + h, n) - s.log_partition(low, n)) / (variance + h - low)
    middle = (variance + h + low) / 2
    assert slope == pytest.approx((1 - s.squared_sum(middle, n)) / 2, abs=2e-5)


@pytest.mark.slow
@PROPERTY
def test_bounds(variance, n):
    shared = s.squared_sum(variance, n)
    assert 1 / n - 1e-12 <= shared <= 1
    assert -1e-9 <= s.entropy(variance, n) <= math.log(n) + 1e-9
    assert s.largest_weight(variance, n) ** 2 <= shared + 1e-9  # by Jensen's inequality, from p_max^2 <= sum p^2
    assert s.jacobian_trace(variance, n) == pytest.approx(1 - shared)


@one_quick_in(4, ("n", "sigma"), [(16, 1.0), (64, 2.0), (256, 0.5), (1024, 3.0)])
def test_simulation(n, sigma, rng):
    """20,000 rows: each average within four standard errors, and the identity on the rows themselves."""
    logits = sigma * rng.standard_normal((20_000, n))
    top = logits.max(1, keepdims=True)
    weights = np.exp(logits - top)
    log_z = np.log(weights.sum(1)) + top[:, 0]
    p = weights / weights.sum(1, keepdims=True)
    shared = (p**2).sum(1)
    own = log_z - (p * logits).sum(1)
    drawn = {"log_partition": log_z, "entropy": own, "squared_sum": shared, "largest_weight": p.max(1)}
    for name, values in drawn.items():
        se = values.std() / math.sqrt(values.size)
        assert abs(values.mean() - getattr(s, name)(sigma**2, n)) < 4 * se, name
        # The negative control: 5 % more variance is told apart.
        assert abs(values.mean() - getattr(s, name)(1.05 * sigma**2, n)) > 4 * se, name
    identity = own - log_z + sigma**2 * (1 - shared)
    assert abs(identity.mean()) < 4 * identity.std() / math.sqrt(identity.size)


@pytest.mark.slow
def test_output_variance_is_that_of_drawn_values(rng):
    logits, values = rng.standard_normal((2, 20_000, 256))
    p = np.exp(logits)
    out = ((p / p.sum(1, keepdims=True)) * values).sum(1)
    assert abs((out**2).mean() - s.output_variance(1.0, 256)) < 4 * (out**2).std() / math.sqrt(out.size)


def test_the_diffuse_form_is_as_wrong_outside_as_the_text_says():
    assert s.effective_tokens(4.0, 1024) / (1024 * math.exp(-4.0)) == pytest.approx(1.87, abs=0.02)


@given(st.floats(-20, 60), st.floats(0, 60), st.integers(2, 100_000))
def test_a_planted_target_is_bounded(gap, variance, n):
    found = planted(gap, variance, n)
    assert -1e-12 <= found.squared <= found.probability + 1e-12 <= 1 + 1e-9
    assert found.squared_sum <= 1 + 1e-9
    assert found.squared >= found.probability**2 - 1e-9


def test_a_target_like_the_others_is_one_of_n():
    """Averaged over a Gaussian gap the target is an entry like any other."""
    z, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    found = [planted(2.0 * g, 4.0, 64) for g in z]
    assert np.dot(w, [f.probability for f in found]) == pytest.approx(1 / 64, rel=1e-9)
    assert np.dot(w, [f.squared_sum for f in found]) == pytest.approx(s.squared_sum(4.0, 64), rel=1e-9)


def test_wrong_input_gets_one_sentence():
    for call, sentence in (
        (lambda: s.entropy(-1.0, 64), "saturation.entropy: variance=-1.0 is outside [0, 10000]"),
        (lambda: s.entropy(1.0, 1), "saturation.entropy: length=1 is outside the whole numbers of [2, 1.09951e+12]"),
        (lambda: s.finite_head_entropy(1.0, 64, 0), "head_dim=0 is outside"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert sentence in str(caught.value)


def test_symbols_are_refused_in_a_sentence():
    import sympy

    with pytest.raises(InputError, match="without a closed form"):
        s.entropy(sympy.Symbol("v"), 64)


def test_a_slightly_wrong_value_is_told_apart():
    assert not agrees(s.squared_sum(4.04, 1024), "0.0285382")


@pytest.mark.parametrize(("variance", "n"), [(0.0, 64), (1.0, 64), (4.0, 1024), (9.0, 7)])
def test_the_softmax_jacobian_s_norm(variance, n):
    from depthwidth.formulas.attention import jacobian_norm
    from depthwidth.numerics.softmax import overlap

    row = overlap(variance, n)
    assert s.jacobian_squared_norm(variance, n) == pytest.approx(jacobian_norm(row.P, row.M3, row.M4, row.A22), rel=1e-9)
    if not variance:
        assert s.jacobian_squared_norm(variance, n) == pytest.approx((1 - 1 / n) / n, rel=1e-12)


def test_the_norm_of_drawn_jacobians(rng):
    logits = rng.normal(0.0, 1.5, (20000, 12))
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    jacobians = p[:, :, None] * np.eye(12) - p[:, :, None] * p[:, None, :]
    norms = (jacobians**2).sum(axis=(1, 2))
    noise = norms.std() / len(norms) ** 0.5
    assert abs(s.jacobian_squared_norm(2.25, 12) - norms.mean()) < 5 * noise
    assert abs(s.jacobian_squared_norm(2.0, 12) - norms.mean()) > 5 * noise


FINITE = {
    "squared_sum": lambda p: (p**2).sum(axis=1),
    "entropy": lambda p: -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1),
    "largest_weight": lambda p: p.max(axis=1),
    "jacobian_trace": lambda p: 1 - (p**2).sum(axis=1),
    "jacobian_squared_norm": lambda p: (p**2).sum(axis=1) - 2 * (p**3).sum(axis=1) + (p**2).sum(axis=1) ** 2,
    "output_variance": lambda p: (p**2).sum(axis=1),
}


@one_quick_in(3, "name", FINITE)
def test_heads_of_a_few_dimensions(name, rng):
    """Logits as products of drawn queries and keys, within five standard errors; infinite heads are another number."""
    dims, n, sigma = 3, 24, 1.5
    query, keys = rng.normal(size=(30000, dims)), rng.normal(size=(30000, n, dims))
    logits = sigma * np.einsum("bd,bnd->bn", query, keys) / dims**0.5
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    values = FINITE[name](p)
    noise = values.std() / len(values) ** 0.5
    found = getattr(s, name)
    assert abs(found(sigma**2, n, head_dim=dims) - values.mean()) < 5 * noise
    assert abs(found(sigma**2, n) - values.mean()) > 5 * noise
    assert found(sigma**2, n, head_dim=math.inf) == found(sigma**2, n)
    arrays = found(np.array([1.0, 2.25]), n, head_dim=np.array([math.inf, dims]))
    assert arrays == pytest.approx([found(1.0, n), found(2.25, n, head_dim=dims)], rel=1e-12)


def test_a_head_of_half_a_dimension_is_refused():
    with pytest.raises(InputError, match=r"head_dim=1\.5 is outside the whole numbers of \[1, inf\]"):
        s.entropy(1.0, 64, head_dim=1.5)
    with pytest.raises(InputError, match="head_dim=0 is outside"):
        s.largest_weight(1.0, 64, head_dim=0)
