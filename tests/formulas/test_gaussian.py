"""Moments of activations: worked values, their definitions at 50 digits, their limits, and simulations."""

import functools
import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy
from helpers import agrees, check, one_quick_in
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.errors import InputError
from depthwidth.formula import Correlation, Positive, formula, formulas
from depthwidth.formulas import gaussian
from depthwidth.layers.activations import ACTIVATIONS, Activation, activation

ALL = formulas(topic="gaussian")
FAMILIES = ["identity", "relu", "leaky_relu", "relu2", "gelu", "erf"]
CORRELATIONS = [0.0, 0.1, -0.1, 0.5, -0.5, 0.9, -0.9, 0.99, -0.99, 0.9999, -0.9999, 1 - 1e-8, 1e-8 - 1, 1.0, -1.0]
VARIANCES = [1e-6, 1e-3, 1.0, 37.0, 1e3, 1e6]


def of(family, quantity):
    return getattr(gaussian, f"{family}_{quantity}")


def table(text):
    return [tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines()]


# ---- worked values ----

RELU = table("""
0    | 0.31831 | 0       | 0.25
0.1  | 0.36990 | 0.0757  | 0.26594
0.25 | 0.45331 | 0.19804 | 0.29022
0.5  | 0.60900 | 0.42642 | 0.33333
0.75 | 0.78800 | 0.68901 | 0.38497
0.95 | 0.95336 | 0.93159 | 0.44946""")


@pytest.mark.parametrize(("rho", "kernel", "centred", "slopes"), RELU)
def test_relu_worked_values(rho, kernel, centred, slopes):
    rho = float(rho)
    check(2 * gaussian.relu_pair_moment(1.0, 1.0, rho), kernel)
    check(gaussian.relu_derivative_pair_moment(1.0, 1.0, rho), slopes)
    mean, second = gaussian.relu_mean(1.0), gaussian.relu_second_moment(1.0)
    check((gaussian.relu_pair_moment(1.0, 1.0, rho) - mean**2) / (second - mean**2), centred)
    assert not agrees(2 * gaussian.relu_pair_moment(1.0, 1.0, rho + 1e-3 - 2e-3 * (rho > 0)), kernel)


@pytest.mark.parametrize(
    ("mu", "sigma", "mean", "variance", "on"),
    [
        (0.5, 1, "0.69780", "0.55344", "0.69146"),
        (1, 1, "1.08332", "0.75109", "0.84134"),
        (-1, 2, "0.39559", "0.68206", "0.30854"),
    ],
)
def test_relu_of_inputs_with_a_mean(mu, sigma, mean, variance, on):
    a = float(sigma**2)
    check(gaussian.relu_mean(a, mu), mean)
    check(gaussian.relu_second_moment(a, mu) - gaussian.relu_mean(a, mu) ** 2, variance)
    check(gaussian.relu_derivative_second_moment(a, mu), on)
    assert not agrees(gaussian.relu_mean(a, mu + 1e-3), mean)


GELU = table("""
0.25 | 0.08921 | 0.08351 | 0.07555 | 0.35569
0.4  | 0.13487 | 0.14556 | 0.12737 | 0.39026
0.5  | 0.16287 | 0.18956 | 0.16303 | 0.40725
1    | 0.28209 | 0.42522 | 0.34564 | 0.45585
2    | 0.46066 | 0.92208 | 0.70988 | 0.48951
4    | 0.71365 | 1.92987 | 1.42057 | 0.50604""")


@pytest.mark.parametrize(("a", "mean", "second", "variance", "slope"), GELU)
def test_gelu_worked_values(a, mean, second, variance, slope):
    a = float(a)
    check(gaussian.gelu_mean(a), mean)
    check(gaussian.gelu_second_moment(a), second)
    check(gaussian.gelu_second_moment(a) - gaussian.gelu_mean(a) ** 2, variance)
    check(gaussian.gelu_derivative_second_moment(a), slope)
    for f, printed in ((gaussian.gelu_mean, mean), (gaussian.gelu_second_moment, second)):
        assert not agrees(f(a * 1.001), printed)


@pytest.mark.parametrize(
    ("rho", "value", "slopes"),
    [
        (0, ".07958", ".25"),
        (0.25, ".14769", ".29509"),
        (0.5, ".22729", ".34227"),
        (0.75, ".31923", ".39429"),
        (0.95, ".40277", ".44242"),
    ],
)
def test_gelu_pairs_worked_values(rho, value, slopes):
    check(gaussian.gelu_pair_moment(1.0, 1.0, rho), value)
    check(gaussian.gelu_derivative_pair_moment(1.0, 1.0, rho), slopes)


def test_block_gains_of_xavier_initialization():
    """Feed-forward gains at A_1 = A_2 = 0.4 and four times the width: 0.32 and 0.2329 forward, 0.32 and 0.2498 backward."""
    check(4 * 0.4 * gaussian.relu_second_moment(0.4), "0.32")
    check(4 * 0.4 * gaussian.gelu_second_moment(0.4), "0.2329")
    check(4 * 0.4 * 0.4 * gaussian.relu_derivative_second_moment(0.4), "0.32")
    check(4 * 0.4 * 0.4 * gaussian.gelu_derivative_second_moment(0.4), "0.2498")


def test_gelu_by_tanh_differs_by_less_than_three_in_ten_thousand():
    for a in (0.25, 1.0, 4.0):
        exact, approximate = activation("gelu"), activation("gelu_tanh")
        assert approximate.second_moment(a) == pytest.approx(exact.second_moment(a), rel=3e-4)
        assert approximate.second_moment(a) != pytest.approx(exact.second_moment(a), rel=1e-8)


# ---- the numeric forms against the formula as written, at 300 digits, on the whole domain ----

GRID = {
    "variance": VARIANCES,
    "other_variance": VARIANCES,
    "linear_variance": [1e-6, 1.0, 1e6],
    "correlation": CORRELATIONS,
    "gate_correlation": [-1.0, 0.0, 0.3, 1.0],
    "slope": [0.01, 0.5],
    "mean": [-30.0, -5.0, -2.1, -1.9, -0.5, 0.0, 1.0, 8.0],
}


def worst_error(f, number=None):
    """The largest relative error of the numbers, or of `number`, on the grid; where a value underflows it does not count."""
    compiled = sympy.lambdify([p.symbol() for p in f.parameters.values()], f.expr, "mpmath")
    worst = (0.0, ())
    # A mean far below zero cancels all but the last of many digits in the formula as written.
    with mpmath.workdps(600 if "mean" in f.parameters else 60):
        for values in itertools.product(*(GRID[name] for name in f.parameters)):
            if "mean" in f.parameters and abs(values[-1]) > 25 * math.sqrt(values[0]):
                continue
            exact = mpmath.re(compiled(*map(mpmath.mpf, values)))
            error = abs((number or f)(*values) - exact) / abs(exact) if exact else mpmath.mpf(0)
            worst = max(worst, (float(error), values))
    return worst


@one_quick_in(4, "f", ALL, ids=lambda f: f.__name__)
def test_numbers_keep_their_digits_on_the_whole_domain(f):
    error, values = worst_error(f)
    limit = 1e-11 if "mean" in f.parameters else 2e-12 if f.__name__ == "gelu_derivative_pair_moment" else 5e-14
    assert error < limit, f"{f.__name__}{values}: {error:.1e}"


@pytest.mark.parametrize("name", ["relu_pair_moment", "relu2_pair_moment", "gelu_pair_moment"])
def test_the_formula_as_written_would_lose_them(name):
    """The negative control of the test above: without the numeric form it fails."""

    f = getattr(gaussian, name)
    assert worst_error(f, f.body)[0] > 1e-9


@pytest.mark.parametrize("f", [f for f in ALL if f.numeric is not f.body], ids=lambda f: f.__name__)
def test_arrays_and_tensors_use_the_numeric_form(f):
    torch = pytest.importorskip("torch")
    grid = {**GRID, "variance": [1e-3, 1.0, 1e3], "other_variance": [0.5, 1e3]}
    points = np.array(list(itertools.product(*(grid[name] for name in f.parameters)))).T
    if "mean" in f.parameters:
        points = points[:, np.abs(points[1]) < 25 * np.sqrt(points[0])]
    one_by_one = np.array([f(*map(float, values)) for values in points.T])
    assert f(*points) == pytest.approx(one_by_one, rel=1e-12, abs=1e-300)
    assert f(*map(torch.tensor, points)).numpy() == pytest.approx(one_by_one, rel=1e-11, abs=1e-300)


def test_symbols_and_mpmath_use_the_formula_as_written():
    a, b, rho = (p.symbol() for p in gaussian.relu_pair_moment.parameters.values())
    assert gaussian.relu_pair_moment(a, b, rho) == gaussian.relu_pair_moment.expr
    assert isinstance(gaussian.relu_pair_moment(mpmath.mpf(1), mpmath.mpf(1), mpmath.mpf(0.5)), mpmath.mpf)


def test_a_stable_form_is_used_for_numbers_only():
    @formula(kind="exact", source="arithmetic", status="derived")
    def shifted(x: Positive, y: Correlation = 0) -> float:
        return x + y

    assert shifted.numeric is shifted.body

    @shifted.stable
    def other(x, y=0):
        return 10 * x + y

    assert shifted.body(1, 2) == 3
    assert shifted(1.0) == 10
    assert shifted(np.array([1.0, 2.0]), 1).tolist() == [11, 21]
    assert shifted.with_fixed(y=0.5)(2.0) == 20.5
    assert shifted(sympy.Symbol("x")) == sympy.Symbol("x")
    assert shifted(mpmath.mpf(3)) == 3
    assert other(1) == 10
    with pytest.raises(InputError):
        shifted(-1.0)


# ---- the definitions, integrated at 50 digits ----


def mp_activation(family):
    """The activation and its derivative in multiple precision, and the order at which a kinked one is homogeneous."""
    ramp = lambda x: x if x > 0 else mpmath.mpf(0)  # noqa: E731
    step = lambda x: mpmath.mpf(1) if x > 0 else mpmath.mpf(0)  # noqa: E731
    tenth = mpmath.mpf(1) / 10
    return {
        "identity": (lambda x: x, lambda x: mpmath.mpf(1)),
        "relu": (ramp, step),
        "leaky_relu": (lambda x: x if x > 0 else tenth * x, lambda x: mpmath.mpf(1) if x > 0 else tenth),
        "relu2": (lambda x: ramp(x) ** 2, lambda x: 2 * ramp(x)),
        "gelu": (lambda x: x * mpmath.ncdf(x), lambda x: mpmath.ncdf(x) + x * mpmath.npdf(x)),
        "erf": (mpmath.erf, lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x)),
    }[family]


def arguments(family, quantity):
    return {"slope": 1 / mpmath.mpf(10)} if family == "leaky_relu" else {}


def one_point(f, variance):
    """E f(x) by Gauss-Legendre on intervals that double away from zero."""
    sigma = mpmath.sqrt(variance)
    ends = sorted({mpmath.mpf(0), *(mpmath.mpf(2) ** k / max(sigma, 1) for k in range(-1, 14)), mpmath.mpf(16)})
    ends = [z for z in ends if z <= 16]
    both = lambda z: (f(sigma * z) + f(-sigma * z)) * mpmath.npdf(z)  # noqa: E731
    return mpmath.quad(both, ends, method="gauss-legendre")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_point_moments_equal_their_definition(family):
    with mpmath.workdps(50):
        f, slope = mp_activation(family)
        for variance in map(mpmath.mpf, ("1e-6", "0.3", "1e6")):
            more = arguments(family, "mean")
            for quantity, integrand in (
                ("mean", f),
                ("second_moment", lambda x: f(x) ** 2),
                ("derivative_second_moment", lambda x: slope(x) ** 2),
            ):
                exact = one_point(integrand, variance)
                claimed = evaluate(of(family, quantity), variance=variance, **more)
                assert abs(claimed - exact) <= mpmath.mpf("1e-30") * max(abs(exact), mpmath.mpf("1e-9")), (quantity, variance)
                assert abs(claimed * mpmath.mpf("1.0000001") - exact) > mpmath.mpf("1e-30") or exact == 0 or family == "erf"


def evaluate(f, **values):
    """The formula at the working precision, from its SymPy form."""
    names = {name: p.symbol() for name, p in f.parameters.items()}
    compiled = sympy.lambdify(list(names.values()), f.expr, "mpmath")
    return mpmath.re(compiled(*(values.get(name, mpmath.mpf(0)) for name in names)))


SMOOTH_POINTS = [("1e-6", "1e-6", "-0.5"), ("0.5", "2", "0.9"), ("1", "1", "-0.9999"), ("1.5", "0.01", "0.1")]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gelu", "erf"])
@pytest.mark.parametrize("point", SMOOTH_POINTS)
def test_smooth_pairs_equal_their_definition(family, point):
    """The trapezoidal rule on the plane, which converges faster than any power for these entire functions.

    A step h leaves the integrand's transform at 2 pi/h: below exp(-(2 pi/0.3)^2/7) = 1e-27 for GELU, exp(-(2 pi/0.25)^2/10.5) =
    1e-26 for erf(x), which is steeper, at the widest of these points.
    """
    with mpmath.workdps(40):
        a, b, rho = map(mpmath.mpf, point)
        step, reach = (mpmath.mpf("0.3"), 37) if family == "gelu" else (mpmath.mpf("0.25"), 44)
        spread = mpmath.sqrt(1 - rho**2)
        nodes = [k * step for k in range(-reach, reach + 1)]
        weights = [mpmath.npdf(z) * step for z in nodes]
        for f, quantity in zip(mp_activation(family), ("pair_moment", "derivative_pair_moment"), strict=True):
            total = mpmath.mpf(0)
            for x, weight in zip(nodes, weights, strict=True):
                inner = sum(
                    other * f(mpmath.sqrt(b) * (rho * x + spread * w))
                    for w, other in zip(nodes, weights, strict=True)
                    if weight * other > mpmath.mpf("1e-31")
                )
                total += weight * f(mpmath.sqrt(a) * x) * inner
            claimed = evaluate(of(family, quantity), variance=a, other_variance=b, correlation=rho)
            assert abs(claimed - total) < mpmath.mpf("1e-25") * max(abs(total), a), (quantity, claimed, total)
            wrong = evaluate(of(family, quantity), variance=a, other_variance=b, correlation=rho * (1 + mpmath.mpf("1e-9")))
            assert abs(wrong - total) > mpmath.mpf("1e-25") * max(abs(total), a)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["identity", "relu", "leaky_relu", "relu2"])
@pytest.mark.parametrize("rho", CORRELATIONS)
def test_homogeneous_pairs_equal_their_definition(family, rho):
    """In polar coordinates the radius integrates to a factorial, and the angle runs between the kinks."""
    with mpmath.workdps(50):
        a, b, rho = mpmath.mpf("1e-6"), mpmath.mpf(37), mpmath.mpf(rho)
        between = mpmath.acos(rho)
        for order, (f, quantity) in enumerate(
            zip(mp_activation(family)[::-1], ("derivative_pair_moment", "pair_moment"), strict=True),
            start=1 if family == "relu2" else 0,
        ):
            pi = mpmath.pi
            ends = sorted({-pi, -pi / 2, between - pi / 2, pi / 2, min(between + pi / 2, pi), pi})
            angle = mpmath.quad(lambda t, f=f: f(mpmath.cos(t)) * f(mpmath.cos(t - between)), ends, method="gauss-legendre")
            if between + pi / 2 > pi:  # the kink beyond pi reappears below
                ends = sorted({-pi, between - 3 * pi / 2, -pi / 2, between - pi / 2, pi / 2, pi})
                angle = mpmath.quad(lambda t, f=f: f(mpmath.cos(t)) * f(mpmath.cos(t - between)), ends, method="gauss-legendre")
            radius = mpmath.mpf(2) ** order * mpmath.factorial(order)  # the integral of r^(2 order + 1) exp(-r^2/2)
            exact = mpmath.sqrt(a * b) ** order * radius * angle / (2 * pi)
            more = arguments(family, quantity)
            claimed = evaluate(of(family, quantity), variance=a, other_variance=b, correlation=rho, **more)
            assert abs(claimed - exact) < mpmath.mpf("1e-30") * (abs(exact) + mpmath.sqrt(a * b) ** order), quantity


@one_quick_in(3, "family", ["gelu", "erf", "relu2"])
def test_wide_and_narrow_inputs_against_quadrature(family):
    """Double precision by an independent route, for planes too wide for 50 digits."""
    numeric = Activation(family, activation(family).expression)
    rho = np.array([r for r in CORRELATIONS if abs(r) <= 0.99] + [1.0])
    for a, b in ((1e-6, 1e-6), (1e-6, 1.0), (30.0, 0.1), (1e3, 1e3)):
        for quantity, squared in (("pair_moment", "second_moment"), ("derivative_pair_moment", "derivative_second_moment")):
            scale = math.sqrt(of(family, squared)(a) * of(family, squared)(b))
            found = getattr(numeric, quantity)(a, rho[:8], other_variance=b)
            assert np.abs(found - of(family, quantity)(a, b, rho[:8])).max() < 1e-10 * scale


# ---- what must hold whatever the activation ----

VARIANCE = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
CORRELATION = st.floats(-1, 1) | st.sampled_from(CORRELATIONS)


@one_quick_in(3, "family", FAMILIES, first=1)
@given(a=VARIANCE, b=VARIANCE, rho=CORRELATION)
def test_products_obey_cauchy_and_schwarz_and_symmetry(family, a, b, rho):
    for pair, square in (("pair_moment", "second_moment"), ("derivative_pair_moment", "derivative_second_moment")):
        value = of(family, pair)(a, b, rho)
        bound = math.sqrt(of(family, square)(a)) * math.sqrt(of(family, square)(b))
        assert abs(value) <= bound * (1 + 1e-12)
        assert value == pytest.approx(of(family, pair)(b, a, rho), rel=1e-12, abs=1e-15 * bound)
        assert of(family, pair)(a, a, 1.0) == pytest.approx(of(family, square)(a), rel=1e-12)
    product = of(family, "mean")(a) * of(family, "mean")(b)
    assert of(family, "pair_moment")(a, b, 0.0) == pytest.approx(product, rel=1e-12, abs=0)


@one_quick_in(3, "family", FAMILIES, first=1)
@given(a=st.floats(0.05, 20), b=st.floats(0.05, 20), rho=st.floats(-0.9, 0.9))
def test_price_theorem_by_finite_differences(family, a, b, rho):
    """d/dc E f f = E f' f', c = rho sqrt(ab): the two formulas were not made from one another."""
    h = 1e-4
    value = of(family, "pair_moment")
    slope = (8 * (value(a, b, rho + h) - value(a, b, rho - h)) - value(a, b, rho + 2 * h) + value(a, b, rho - 2 * h)) / (12 * h)
    expected = of(family, "derivative_pair_moment")(a, b, rho)
    scale = math.sqrt(of(family, "second_moment")(a) * of(family, "second_moment")(b) / (a * b))
    assert slope / math.sqrt(a * b) == pytest.approx(expected, abs=1e-9 * max(scale, 1))
    if family != "identity":
        assert slope / math.sqrt(a * b) != pytest.approx(expected * 1.001 + 0.001, abs=1e-9 * max(scale, 1))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "order"), [("identity", 1), ("relu", 1), ("leaky_relu", 1), ("relu2", 2)])
@given(a=VARIANCE, rho=CORRELATION, factor=st.floats(0.01, 100))
def test_ramps_are_homogeneous(family, order, a, rho, factor):
    assert of(family, "pair_moment")(a * factor, a * factor, rho) == pytest.approx(
        factor**order * of(family, "pair_moment")(a, a, rho), rel=1e-11, abs=1e-300
    )
    assert of(family, "mean")(a * factor) == pytest.approx(factor ** (order / 2) * of(family, "mean")(a), rel=1e-12)


def test_gelu_is_not_homogeneous():
    assert gaussian.gelu_second_moment(2.0) != pytest.approx(2 * gaussian.gelu_second_moment(1.0), rel=0.05)


def test_wide_gelu_is_a_relu():
    for quantity in ("pair_moment", "derivative_pair_moment"):
        wide = of("gelu", quantity)(1e6, 1e6, 0.3) / of("relu", quantity)(1e6, 1e6, 0.3)
        assert wide == pytest.approx(1, abs=1e-5)


def test_the_relu_kernel_near_full_correlation():
    """k = rho + (2 sqrt(2) / 3 pi)(1 - rho)^(3/2) up to order 5/2."""
    for gap in (1e-2, 1e-3, 1e-4):
        k = 2 * gaussian.relu_pair_moment(1.0, 1.0, 1 - gap)
        assert k - (1 - gap) == pytest.approx(2 * math.sqrt(2) / (3 * math.pi) * gap**1.5, rel=gap)


# ---- simulation ----

DRAWS = 200_000
SIMULATED = {name: activation(name) for name in ACTIVATIONS}


def z_score(sample, expected):
    return (sample.mean() - expected) / (sample.std(ddof=1) / math.sqrt(sample.size))


def inputs(rng, a, b, rho, mu=0.0):
    x, w = rng.standard_normal((2, DRAWS))
    return mu + math.sqrt(a) * x, mu + math.sqrt(b) * (rho * x + math.sqrt(1 - rho**2) * w)


@pytest.mark.parametrize("family", list(ACTIVATIONS))
@pytest.mark.parametrize(("a", "b", "rho"), [(1.0, 1.0, 0.6), (0.2, 3.0, -0.7)])
def test_simulation(family, a, b, rho, rng):
    f = SIMULATED[family]
    x, y = inputs(rng, a, b, rho)
    for sample, expected in (
        (f(x), f.mean(a)),
        (f(x) ** 2, f.second_moment(a)),
        (f(x) * f(y), f.pair_moment(a, rho, other_variance=b)),
        (f.derivative(x) ** 2, f.derivative_second_moment(a)),
        (f.derivative(x) * f.derivative(y), f.derivative_pair_moment(a, rho, other_variance=b)),
    ):
        if sample.std() == 0:
            assert sample[0] == pytest.approx(expected)
            continue
        assert abs(z_score(sample, expected)) < 5
        off_by = 0.03 * math.sqrt((sample**2).mean())
        assert abs(z_score(sample, expected + off_by)) > 5, "the comparison can fail"


@pytest.mark.parametrize("family", ["relu", "relu2", "leaky_relu", "gelu", "erf"])
@pytest.mark.parametrize("mu", [-1.5, 0.7])
def test_simulation_with_a_mean(family, mu, rng):
    f = SIMULATED[family]
    x, y = inputs(rng, 0.8, 0.8, 0.4, mu)
    found = f.moments(0.8, 0.4, mean=mu)
    for sample, expected in (
        (f(x), found.mean),
        (f(x) ** 2, found.second_moment),
        (f(x) * f(y), found.pair_moment),
        (f.derivative(x) ** 2, found.derivative_second_moment),
        (f.derivative(x) * f.derivative(y), found.derivative_pair_moment),
    ):
        assert abs(z_score(sample, expected)) < 5
        assert abs(z_score(sample, expected + 0.05 * math.sqrt((sample**2).mean()))) > 5


@pytest.mark.parametrize(("unit", "gate"), [("reglu", "relu"), ("geglu", "gelu")])
@pytest.mark.parametrize("s", [0.0, -0.6])
def test_simulation_of_gated_units(unit, gate, s, rng):
    a, b, rho = 1.5, 0.7, 0.5
    f = SIMULATED[gate]
    u, other_u = inputs(rng, a, a, rho)
    v0, other_v0 = inputs(rng, b, b, rho)
    along, across = s * math.sqrt(b / a), math.sqrt(1 - s**2)
    v, other_v = along * u + across * v0, along * other_u + across * other_v0
    samples = {
        "mean": f(u) * v,
        "second_moment": (f(u) * v) ** 2,
        "pair_moment": f(u) * v * f(other_u) * other_v,
        "gate_gradient_second_moment": (f.derivative(u) * v) ** 2,
        "gate_gradient_pair_moment": f.derivative(u) * v * f.derivative(other_u) * other_v,
    }
    for quantity, sample in samples.items():
        claim = getattr(gaussian, f"{unit}_{quantity}")
        given_values = {"variance": a, "linear_variance": b, "correlation": rho, "gate_correlation": s}
        if s and "gate_correlation" not in claim.parameters:
            continue
        expected = claim(**{name: given_values[name] for name in claim.parameters})
        assert abs(z_score(sample, expected)) < 5, quantity
        assert abs(z_score(sample, expected + 0.05 * math.sqrt((sample**2).mean()))) > 5, quantity


@functools.cache
def typical(f):
    return {name: p.domain.typical[1] for name, p in f.parameters.items()}


@pytest.mark.parametrize("f", ALL, ids=lambda f: f.__name__)
def test_plain_numbers_give_plain_numbers(f):
    assert type(f(**typical(f))) is float


def test_plain_numbers_need_no_library(in_fresh_python):
    source = """
import sys
from depthwidth.formulas import gaussian
gaussian.gelu_pair_moment(1.0, 2.0, 0.5); gaussian.relu_mean(1.0, -3.0); gaussian.relu2_pair_moment(1.0, 1.0, -0.99)
print([m for m in ("numpy", "scipy", "sympy", "torch", "mpmath") if m in sys.modules])
"""
    assert in_fresh_python(source).strip() == "[]"
