"""Elementary functions on every kind of value: the Lambert W function to the last place, constants that stay exact."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import example, given
from hypothesis import strategies as st

from depthwidth import mathematics as m

EPS = np.finfo(float).eps


@given(st.floats(-300, 300), st.floats(1, 10, exclude_max=True))
@example(-300, 1.0)
@example(299, 9.999)
@example(0, math.e)
def test_lambertw_to_the_last_places(exponent, mantissa):
    z = mantissa * 10.0 ** math.floor(exponent)
    with mpmath.workdps(50):
        exact = mpmath.lambertw(mpmath.mpf(z)).real
        error = abs(mpmath.mpf(m.lambertw(z)) / exact - 1)
    assert error < 3 * EPS


def test_constants_have_the_digits_that_mpmath_works_with():
    with mpmath.workdps(50):
        two = mpmath.mpf(2)
        pairs = {
            2 * m.pi * two: 4 * mpmath.pi,
            two / m.pi: two / mpmath.pi,
            m.pi - two: mpmath.pi - 2,
            m.pi**two: mpmath.pi**2,
            two**m.e: mpmath.power(2, mpmath.e),
            -m.euler_gamma * two: -2 * mpmath.euler,
            two * m.sqrt(2 * m.pi): 2 * mpmath.sqrt(2 * mpmath.pi),
            m.Constant.of(Fraction(16, 5)) * two: mpmath.mpf(32) / 5,
        }
        for found, exact in pairs.items():
            assert abs(found - exact) < mpmath.mpf(10) ** -47
        assert abs(two * math.pi - 2 * mpmath.pi) > 1e-17  # the control: a plain float has 17 digits


def test_lambertw_solves_its_equation_everywhere():
    z = 10.0 ** np.arange(-300, 301, 0.25)[:-1]
    w = m.lambertw(z)
    for one, root in zip(z.tolist(), w.tolist(), strict=True):
        assert m.lambertw(one) == pytest.approx(root, rel=2 * EPS)
    assert np.all(np.diff(w) > 0)
    # ln w + w = ln z, without overflow; the sum's rounding is that of its larger term.
    assert np.all(np.abs(np.log(w) + w - np.log(z)) <= 8 * EPS * np.maximum(np.abs(np.log(z)), w))


@pytest.mark.parametrize(("z", "w"), [(0, 0), (0.0, 0.0), (math.e, 1), (5e-324, 5e-324)])
def test_lambertw_known_values(z, w):
    assert m.lambertw(z) == pytest.approx(w, rel=EPS, abs=0)


def test_lambertw_catches_a_wrong_branch_or_a_lost_step():
    z = 7.0
    assert m.lambertw(z) != pytest.approx(float(mpmath.lambertw(z, -1).real), rel=1e-3)
    first = math.log1p(z) * (1 - math.log1p(math.log1p(z)) / (2 + math.log1p(z)))
    assert first != pytest.approx(m.lambertw(z), rel=1e-6)


def test_lambertw_of_other_values():
    assert m.lambertw(sympy.Symbol("z")) == sympy.LambertW(sympy.Symbol("z"))
    assert m.lambertw(sympy.E) == 1
    with mpmath.workdps(50):
        assert m.lambertw(mpmath.mpf(7)) == mpmath.lambertw(7).real
    torch = pytest.importorskip("torch")
    z = torch.tensor([1e-10, 1.0, 1e10], dtype=torch.float64, requires_grad=True)
    w = m.lambertw(z)
    assert w.tolist() == pytest.approx([m.lambertw(v) for v in z.tolist()], rel=1e-14)
    w.sum().backward()
    expected = (w / (z * (1 + w))).detach()
    assert z.grad.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


FUNCTIONS = ["sqrt", "exp", "asin", "acos", "atan", "erf", "tanh", "lgamma", "log", "digamma", "trigamma"]
OF_MPMATH = {"lgamma": mpmath.loggamma, "trigamma": lambda x: mpmath.polygamma(1, x)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_library_computes_the_same(name, rng):
    function = getattr(m, name)
    values = rng.uniform(0.05, 0.95, 8)
    with mpmath.workdps(30):
        exact = [float(OF_MPMATH.get(name, getattr(mpmath, name, None))(mpmath.mpf(v))) for v in values]
        assert [float(function(mpmath.mpf(v))) for v in values] == pytest.approx(exact, rel=1e-15)
    assert [function(float(v)) for v in values] == pytest.approx(exact, rel=1e-13)
    assert function(values) == pytest.approx(exact, rel=1e-13)
    assert [float(function(sympy.Float(v, 20))) for v in values] == pytest.approx(exact, rel=1e-13)
    torch = pytest.importorskip("torch")
    assert function(torch.from_numpy(values)).tolist() == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 1000, 10**15, 10**40])
def test_harmonic_numbers(n):
    with mpmath.workdps(50):
        exact = float(mpmath.harmonic(n)), float(mpmath.zeta(2) - mpmath.zeta(2, n + 1))
    for value in (n, float(n)):
        assert (m.harmonic(value), m.harmonic_of_squares(value)) == pytest.approx(exact, rel=4 * EPS)
    if n < 100:
        terms = 1 / np.arange(1, n + 1)
        assert (m.harmonic(n), m.harmonic_of_squares(n)) == pytest.approx((terms.sum(), (terms**2).sum()), rel=1e-14)
        assert m.harmonic(n) != pytest.approx(math.log(n) + 0.5772, rel=1e-3)  # the control


def test_library_of():
    torch = pytest.importorskip("torch")
    x, array, tensor = sympy.Symbol("x"), np.ones(2), torch.ones(2)
    assert m.library_of(1, 2.0) == "math"
    assert m.library_of(1, array) == "numpy"
    assert m.library_of(array, tensor) == "torch"
    assert m.library_of(array, x, tensor) == "sympy"
    assert m.library_of(mpmath.mpf(1), 2) == "mpmath"


def test_log_to_a_base():
    assert m.log(8, 2) == pytest.approx(3, rel=1e-15)
    x = sympy.Symbol("x")
    assert m.log(x, 3) == sympy.log(x) / sympy.log(3)
    assert m.log(np.array([9.0]), 3) == pytest.approx(2, rel=1e-15)


def test_minimum_and_maximum():
    x = sympy.Symbol("x")
    assert (m.minimum(2, 3), m.maximum(2, 3)) == (2, 3)
    assert m.minimum(np.array([1, 5]), 3).tolist() == [1, 3]
    assert m.maximum(x, 2) == sympy.Max(x, 2)
    assert m.minimum(mpmath.mpf(2), 3) == 2


def test_extremes_of_tensors_keep_double_precision():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert m.maximum(tensor, 0.1).tolist() == [0.1, 1.0]
    assert m.minimum(0.1, tensor).tolist() == [0.0, 0.1]
    assert m.maximum(torch.tensor([1, 3]), 2.5).tolist() == [2.5, 3.0]


# ---- constants ----

q = sympy.Symbol("q", positive=True)


@pytest.mark.parametrize(
    ("expression", "exact", "number"),
    [
        (lambda x: x / (2 * m.pi), q / (2 * sympy.pi), 1 / (2 * math.pi)),
        (lambda x: 2 * m.pi * x, 2 * sympy.pi * q, 2 * math.pi),
        (lambda x: m.pi + x, sympy.pi + q, math.pi + 1),
        (lambda x: x - m.pi, q - sympy.pi, 1 - math.pi),
        (lambda x: m.pi - x, sympy.pi - q, math.pi - 1),
        (lambda x: m.e**x, sympy.E**q, math.e),
        (lambda x: x**m.pi, q**sympy.pi, 1.0),
        (lambda x: m.sqrt(2 / m.pi) * x, sympy.sqrt(2 / sympy.pi) * q, math.sqrt(2 / math.pi)),
        (lambda x: m.log(m.Constant.of(3)) * x, sympy.log(3) * q, math.log(3)),
        (lambda x: x * m.Constant.of(Fraction(1, 3)), q / 3, 1 / 3),
        (lambda x: 1 / m.pi + x, 1 / sympy.pi + q, 1 / math.pi + 1),
        (lambda x: (m.pi**2 - 1) * x, (sympy.pi**2 - 1) * q, math.pi**2 - 1),
    ],
)
def test_constants_stay_exact_among_symbols(expression, exact, number):
    assert sympy.simplify(expression(q) - exact) == 0
    assert not expression(q).atoms(sympy.Float)
    assert expression(1.0) == pytest.approx(number, rel=1e-15)
    assert expression(np.array([1.0, 1.0])) == pytest.approx([number] * 2, rel=1e-15)
    torch = pytest.importorskip("torch")
    result = expression(torch.ones(2, dtype=torch.float64))
    assert result.tolist() == pytest.approx([number] * 2, rel=1e-15)


def test_a_constant_is_a_float():
    assert m.pi == math.pi
    assert isinstance(2 * m.pi, float)
    assert type(m.pi * 2.5) is float  # a rounded factor leaves nothing exact to remember
    assert (2 * m.pi).symbolic() == 2 * sympy.pi
    assert m.Constant.of("text") == "text"
    assert m.Constant.of(True) is True
    assert math.sin(m.pi) == math.sin(math.pi)


def test_eulers_constant_is_one_to_every_place():
    """As the limit it is defined by, as SymPy's own number, and exact beside a symbol."""
    terms = 10**6
    # H_n - ln n = gamma + 1/(2n) - 1/(12 n^2) + O(n^-4); each 1/k is rounded, their sum is not.
    limit = math.fsum(1 / k for k in range(1, terms + 1)) - math.log(terms) - 1 / (2 * terms) + 1 / (12 * terms**2)
    assert m.euler_gamma == pytest.approx(limit, abs=1e-14)
    assert m.euler_gamma == float(sympy.EulerGamma)
    assert m.euler_gamma + sympy.Symbol("q") == sympy.EulerGamma + sympy.Symbol("q")
