"""Every closed form is derived again from its definition; a formula that is a little wrong is not."""

import json

import pytest
import sympy
from helpers import one_quick_in

from depthwidth.errors import InputError
from depthwidth.formula import formulas
from depthwidth.formulas import gaussian
from depthwidth.formulas._derivation import derivable, derive, equal


def test_every_gaussian_formula_has_a_derivation():
    assert set(derivable()) == {f.__name__ for f in formulas(topic="gaussian")}


@pytest.mark.slow
@pytest.mark.parametrize("name", derivable())
def test_the_derivation_gives_the_formula(name):
    found = derive(name)
    assert found.verified, str(found)
    assert found.steps
    assert len(found.checks) == 1 + ("pair" in name) + name.endswith("_pair_moment") * (
        "derivative" not in name and "gradient" not in name
    )
    json.dumps(found.to_dict())
    assert name in str(found)


@one_quick_in(5, "name", derivable())
def test_a_formula_that_is_a_little_wrong_is_told_apart(name):
    expression = getattr(gaussian, name).expr
    a, rho = sympy.Symbol("a", positive=True), sympy.Symbol("rho", real=True)
    assert equal(expression, expression)
    wrong = [expression * sympy.Rational(1001, 1000), expression + rho / 1000]
    wrong += [expression.subs(v, v * sympy.Rational(101, 100)) for v in expression.free_symbols & {a, rho}]
    for other in wrong:
        assert not equal(expression, other)


@pytest.mark.slow
def test_the_known_form_of_the_gelu_derivative_kernel():
    """As the derivative of the value kernel is usually written, before its terms are gathered."""
    a, b = sympy.symbols("a b", positive=True)
    rho = sympy.Symbol("rho", real=True)
    c = rho * sympy.sqrt(a) * sympy.sqrt(b)
    D, k = (1 + a) * (1 + b) - c**2, 1 / (1 + a) + 1 / (1 + b) - 1
    angle = sympy.asin(c / sympy.sqrt((1 + a) * (1 + b)))
    pi = sympy.pi
    known = sympy.Rational(1, 4) + angle / (2 * pi) + c / (2 * pi * sympy.sqrt(D)) + 2 * k * c / (2 * pi * sympy.sqrt(D))
    known += c * (a * b + k * c**2) / (2 * pi * D ** sympy.Rational(3, 2))
    assert equal(gaussian.gelu_derivative_pair_moment.expr, known)


def test_an_unknown_name():
    with pytest.raises(InputError, match="did you mean 'gelu_mean'"):
        derive("gelu_maen")
    with pytest.raises(InputError, match="no derivation"):
        derive(7)
    assert derive("gaussian.relu_mean").name == "gaussian.relu_mean"
