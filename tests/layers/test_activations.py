"""Activations by name and as typed: their expressions, what the parser refuses, and integrals against formulas."""

import math

import numpy as np
import pytest
import sympy
from helpers import one_quick_in
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.errors import InputError
from depthwidth.formulas import gaussian
from depthwidth.layers.activations import ACTIVATIONS, GATED, Activation, activation, gated
from depthwidth.numerics.expressions import FUNCTIONS, MAX_DEPTH, MAX_LENGTH, parse

ROOTS = [-0.999999, -0.99, -0.5, 0.0, 0.3, 0.95, 0.9999, 1.0, -1.0]


# ---- expressions ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", 0.7), ("2*x+1", 2.4), ("-x^2", -0.49), ("x**3/2", 0.1715), ("2^x", 2**0.7), ("e^x", math.exp(0.7)),
        ("x^-2", 0.7**-2), ("2^3^2*x", 512 * 0.7), ("1 - 2 - x", -1.7), ("8/4/x", 2 / 0.7), ("-(-x)", 0.7), ("+x", 0.7),
        ("max(x, 0.1*x, 0.9)", 0.9), ("min(x,0)", 0.0), ("abs(-x)", 0.7), ("ln(x)", math.log(0.7)), ("1e-3*x", 7e-4),
        (".5*x", 0.35), ("2.*x", 1.4), ("pi*x", math.pi * 0.7), ("x*Heaviside(x)", 0.7), ("x*erf(x)/2", 0.35 * math.erf(0.7)),
        (" relu ( x ) ", 0.7), ("x^0", 1.0), ("x^0.5", 0.7**0.5), ("softplus(x)", math.log1p(math.exp(0.7))),
    ],
)  # fmt: skip
def test_expressions_mean_what_they_say(text, expected):
    assert float(parse(text)(0.7)) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    "text",
    [*(one.expression for one in ACTIVATIONS.values()),
     *(f"{name}(x^2/2 + 0.3)" for name in FUNCTIONS), "x^3*tanh(2*x)/(1+x^2)", "2^(-x)", "max(x, x^2, 0.2)",
     "min(tanh(x), 0.5*x)", "(x+2.5)^0.5", "x^-3", "exp(-x^2)*sin(3*x)"],
)  # fmt: skip
def test_value_and_derivative_agree_with_sympy(text):
    f = parse(text)
    x = np.array([-1.71, -0.37, 0.23, 1.13])
    symbol = sympy.Symbol("x", real=True)
    for numeric, symbolic in ((f(x), f.symbolic), (f.derivative(x), f.symbolic.diff(symbol))):
        expected = [float(symbolic.subs(symbol, sympy.Rational(str(value))).evalf(30)) for value in x]
        assert numeric == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert f.derivative(x) != pytest.approx(f(x) + 0.1, rel=1e-3)  # the comparison can fail


@pytest.mark.parametrize(
    ("text", "kinks"),
    [("relu(x)", (0,)), ("abs(x-2)+abs(x+1)", (-1, 2)), ("max(x, x^2)", (0, 1)), ("sign(tanh(x)-0.5)", (math.atanh(0.5),)),
     ("tanh(x)", ()), ("relu(relu(x))", (0,)), ("relu(x-1e5)", (1e5,)), ("relu(x^2+1)", ())],
)  # fmt: skip
def test_kinks_are_found(text, kinks):
    assert parse(text).kinks == pytest.approx(kinks, rel=1e-12)


REFUSED = [
    ("", "is empty"), ("   ", "is empty"), ("2+3", "not a function of x"), ("pi", "not a function of x"),
    ("y+x", "uses 'y'"), ("tnah(x)", "did you mean 'tanh'"), ("__import__('os')", "holds"), ("x.real", "holds 'x.real'"),
    ("lambda x: x", "holds ':'"), ("x[0]", "holds '['"), ("eval(x)", "uses 'eval'"), ("x;x", "holds ';'"), ("x=1", "holds '='"),
    ("x^65", "exponent beyond 64"), ("x^-99", "exponent beyond 64"), ("((x^8)^8)^8", "powers of powers"),
    ("((x*x*x)^32)", "powers of powers"), ("9^9^9*x", "exponent beyond 64"), ("((9^60)^60)*x", "not a real number between"),
    ("x^x", "depends on x"), ("(-2)^x", "depends on x"), ("log(0)*x", "not a real number"), ("sqrt(-1)*x", "not a real number"),
    ("x/0 + 1/0", "not a real number"), ("exp(1000)*x", "not a real number"), ("1e400*x", "not a real number"),
    ("x+", "cannot be read"), ("(x", "was never closed"), ("x)", "unmatched ')'"),
    ("x x", "cannot be read"), ("lambda", "cannot be read"),
    ("not x", "holds 'not x'"), ("x//2", "holds"), ("0x10*x", "0x10"), ("1j*x", "1j"), ("1_0*x", "1_0"), ("x or x", "holds"),
    ("x if x else x", "holds"), ("True*x", "True"), ("tanh(*x)", "holds '*x'"), ("tanh(x)(x)", "holds"),
    ("2x", "cannot be read"), ("*x", "cannot be read"), ("tanh x", "cannot be read"),
    ("tanh", "without an argument"), ("tanh(x,x)", "takes one"),
    ("max(x)", "takes two or more"),
    ("tanh()", "takes one"), ("1" * 50 + "*x", "more than 40 characters"), ("x" + "+x" * 300, "chains more than"),
    ("(" * 200 + "x" + ")" * 200, "nested deeper"), ("-" * 200 + "x", "nested deeper"),
    ("tanh(" * 60 + "x" + ")" * 60, "nested deeper"),
    ("x" * 2000, "2,000 characters"), ("x*\u0660", "holds"), ("х", "holds"), ("x\x00", "holds"), ("x\n+\n", "cannot be read"),
    (None, "an expression is text"), (7, "an expression is text"), (b"x", "an expression is text"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "part"), REFUSED, ids=range(len(REFUSED)))
def test_anything_else_is_refused_in_one_sentence(text, part):
    with pytest.raises(InputError) as caught:
        parse(text)
    sentence = str(caught.value)
    assert part in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500


def test_an_enormous_text_is_refused_at_once():
    with pytest.raises(InputError, match="characters"):
        parse("x+" * 10_000_000)


WORDS = [*FUNCTIONS, "max", "min", "x", "x", "x", "pi", "e", "(", ")", "(", ")", "+", "-", "*", "/", "^", "**", ",", "2", "0.5",
         "9", "1e99", "64", "__import__", "lambda", ".", "[", "'", " "]  # fmt: skip


def accepted(function, *arguments):
    """The function's value, or None if it refuses in one sentence. Any other error is a failure."""
    try:
        return function(*arguments)
    except InputError as refusal:
        sentence = str(refusal)
    assert "\n" not in sentence
    return None


@pytest.mark.slow
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    f = accepted(parse, text)
    if f is None:
        return
    assert f(np.linspace(-3, 3, 7)).shape in ((7,), ())
    assert f.derivative(np.linspace(-3, 3, 7)).shape == (7,)


@given(st.lists(st.sampled_from(WORDS[:-10]), min_size=3, max_size=14).map("".join))
def test_whatever_parses_has_moments_or_says_why_not(text):
    value = accepted(lambda: activation(text).second_moment(1.0))
    assert value is None or 0 <= value < math.inf


def test_the_limits_are_reachable():
    """The largest expressions that are read can also be evaluated and written."""
    deep = "tanh(" * (MAX_DEPTH - 1) + "x" + ")" * (MAX_DEPTH - 1)
    long = "x" + "+x" * 118
    for text in (deep, long):
        assert len(text) <= MAX_LENGTH
        f = parse(text)
        assert np.isfinite(f.derivative(0.5))
        assert f.symbolic.free_symbols


# ---- activations ----


def test_every_named_activation_is_its_formula():
    x = np.linspace(-6, 6, 121)
    torch = pytest.importorskip("torch")
    t = torch.tensor(x, requires_grad=True)
    nn = torch.nn.functional
    for name, reference in {
        "relu": nn.relu, "leaky_relu": nn.leaky_relu, "gelu": nn.gelu, "gelu_tanh": lambda v: nn.gelu(v, approximate="tanh"),
        "silu": nn.silu, "tanh": torch.tanh, "erf": torch.erf, "sigmoid": torch.sigmoid, "relu2": lambda v: nn.relu(v) ** 2,
        "quick_gelu": lambda v: v * torch.sigmoid(1.702 * v), "identity": lambda v: v + 0,
    }.items():  # fmt: skip
        value = reference(t)
        (slope,) = torch.autograd.grad(value.sum(), t)
        f = activation(name)
        assert f(x) == pytest.approx(value.detach().numpy(), abs=1e-13), name
        smooth = x != 0
        assert f.derivative(x)[smooth] == pytest.approx(slope.numpy()[smooth], abs=1e-13), name
    assert set(ACTIVATIONS) >= {"relu", "gelu", "silu"}


@one_quick_in(6, "name", ["identity", "relu", "leaky_relu", "relu2", "gelu", "erf"], first=3)
@pytest.mark.parametrize("variance", [1e-6, 0.04, 1.0, 30.0, 1e6])
def test_integrals_equal_the_closed_forms(name, variance):
    """The same activation without its formulas: to 1e-10 of the scale, at every correlation."""
    closed = activation(name)
    numeric = Activation(name, closed.expression)
    assert numeric.closed_forms == ()
    rho = np.array([r for r in ROOTS if variance < 1e5 or abs(r) in (0.0, 0.3, 0.5, 1.0)])
    one, two = closed.moments(variance, rho), numeric.moments(variance, rho)
    assert one.closed_form
    assert not two.closed_form
    assert two.mean == pytest.approx(one.mean, rel=1e-11, abs=1e-14 * math.sqrt(variance))
    assert two.second_moment == pytest.approx(one.second_moment, rel=1e-11)
    assert two.derivative_second_moment == pytest.approx(one.derivative_second_moment, rel=1e-11)
    assert np.abs(two.pair_moment - one.pair_moment).max() < 1e-10 * one.second_moment
    assert np.abs(two.derivative_pair_moment - one.derivative_pair_moment).max() < 1e-10 * one.derivative_second_moment
    assert np.abs(two.pair_moment - 1.001 * one.pair_moment).max() > 1e-10 * one.second_moment


@pytest.mark.parametrize("name", ["relu", "relu2", "leaky_relu", "gelu", "erf"])
@pytest.mark.parametrize(("variance", "mean"), [(0.5, 1.0), (4.0, -3.0), (1e-4, 0.02), (100.0, 5.0)])
def test_integrals_with_a_mean_equal_the_closed_forms(name, variance, mean):
    closed = activation(name)
    numeric = Activation(name, closed.expression)
    scale = math.sqrt(numeric.second_moment(variance, mean))
    assert numeric.mean(variance, mean) == pytest.approx(closed.mean(variance, mean), abs=1e-11 * scale)
    assert closed.second_moment(variance, mean) == pytest.approx(numeric.second_moment(variance, mean), rel=1e-10)
    assert numeric.pair_moment(variance, 1.0, mean) == pytest.approx(scale**2, rel=1e-10)
    assert numeric.pair_moment(variance, 0.0, mean) == pytest.approx(closed.mean(variance, mean) ** 2, abs=1e-10 * scale**2)


def test_kinks_away_from_zero():
    """A ReLU shifted by its threshold is a ReLU of shifted input."""
    shifted, plain = activation("relu(x-2)"), activation("relu")
    for a in (0.01, 1.0, 400.0):
        assert shifted.mean(a) == pytest.approx(plain.mean(a, -2.0), rel=1e-10, abs=1e-30)
        assert shifted.second_moment(a) == pytest.approx(plain.second_moment(a, -2.0), rel=1e-10, abs=1e-30)
    for rho in (0.5, 0.99):
        assert shifted.pair_moment(1.0, rho) == pytest.approx(plain.pair_moment(1.0, rho, mean=-2.0), rel=1e-9)


@one_quick_in(7,
    ("text", "second", "pair"),
    [
        ("x^3", lambda a, c: 15 * a**3, lambda a, c: 9 * a**2 * c + 6 * c**3),
        ("sin(x)", lambda a, c: (1 - math.exp(-2 * a)) / 2, lambda a, c: math.exp(-a) * math.sinh(c)),
        ("cos(x)", lambda a, c: (1 + math.exp(-2 * a)) / 2, lambda a, c: math.exp(-a) * math.cosh(c)),
        ("exp(x/2)", lambda a, c: math.exp(a / 2), lambda a, c: math.exp((a + c) / 4)),
        ("sign(x)", lambda a, c: 1.0, lambda a, c: 2 / math.pi * math.asin(c / a)),
        ("exp(-x^2)", lambda a, c: 1 / math.sqrt(1 + 4 * a), lambda a, c: 1 / math.sqrt((1 + 2 * a) ** 2 - 4 * c * c)),
        ("abs(x)", lambda a, c: a, lambda a, c: 2 * a / math.pi * (math.sqrt(1 - (c / a) ** 2) + c / a * math.asin(c / a))),
    ],
)  # fmt: skip
def test_functions_with_known_moments(text, second, pair):
    f = activation(text)
    for a in (0.1, 1.0, 2.5):
        assert f.second_moment(a) == pytest.approx(second(a, a), rel=1e-11)
        for rho in ROOTS:
            assert f.pair_moment(a, rho) == pytest.approx(pair(a, rho * a), abs=1e-10 * second(a, a))


def test_many_expectations_at_once_equal_one_by_one(rng):
    f = activation("silu")
    a, b, rho = rng.uniform(0.1, 4, 12), rng.uniform(0.1, 4, 12), rng.uniform(-1, 1, 12)
    together = f.pair_moment(a.reshape(3, 4), rho.reshape(3, 4), other_variance=b.reshape(3, 4))
    assert together.shape == (3, 4)
    one_by_one = [f.pair_moment(x, r, other_variance=y) for x, y, r in zip(a, b, rho, strict=True)]
    assert together.ravel() == pytest.approx(one_by_one, rel=1e-10)
    assert f.pair_moment(a, 0.5)[3] == pytest.approx(f.pair_moment(a[3], 0.5))
    assert isinstance(f.mean(1), float)
    assert f.moments(a, 0.5).to_dict()["closed_form"] is False
    assert len(f.moments(a, 0.5).to_dict()["pair_moment"]) == 12
    assert f.pair_moment(np.array([]), 0.5).shape == (0,)


def test_moments_derived_from_the_five():
    found = activation("relu").moments(1.0, 0.5)
    assert found.variance == pytest.approx((math.pi - 1) / (2 * math.pi))
    assert found.correlation == pytest.approx(0.42642, abs=5e-6)
    assert found.covariance == found.pair_moment - found.mean**2


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: activation("geluu"), "did you mean 'gelu'"),
        (lambda: activation("swiglu"), "gated('swiglu')"),
        (lambda: activation("gelu", slope=0.1), "only leaky_relu takes a slope"),
        (lambda: activation("leaky_relu", slope="a"), "is not a number"),
        (lambda: activation("leaky_relu", slope=math.nan), "is not a number"),
        (lambda: activation(3), "an expression is text"),
        (lambda: activation("gelu").mean(-1.0), "variance=-1.0 is outside (0, inf)"),
        (lambda: activation("gelu").mean(math.nan), "variance=nan is outside"),
        (lambda: activation("silu").mean(math.inf), "variance=inf is outside"),
        (lambda: activation("silu").pair_moment(1.0, 1.5), "correlation=1.5 is outside [-1, 1]"),
        (lambda: activation("silu").pair_moment("a", 0.5), "variance='a' is not a number"),
        (lambda: activation("silu").pair_moment(True, 0.5), "is not a number"),
        (lambda: activation("silu").pair_moment([1.0, 2.0], [0.1, 0.2, 0.3]), "do not fit together"),
        (lambda: activation("exp(x^2)").second_moment(1.0), "no finite value|grows too fast"),
        (lambda: activation("exp(x^2/8)").second_moment(2.5), "grows too fast"),
        (lambda: activation("1/x").second_moment(1.0), "too rough"),
        (lambda: activation("log(x)").mean(1.0), "no finite value at x = -"),
        (lambda: activation("sqrt(x)").mean(1.0), "no finite value"),
        (lambda: activation("sign(sin(100*x))"), "more than 200 kinks"),
        (lambda: activation("sqrt(abs(x))").derivative_second_moment(1.0), "too rough"),
        (lambda: gated("swigul"), "there is no activation 'swigul'"),
    ],
)  # fmt: skip
def test_a_wrong_call_gets_one_sentence(call, part):
    with pytest.raises(InputError, match="(?s)" + (part if "|" in part else "")) as caught:
        call()
    assert "|" in part or part in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- gated units ----


@pytest.mark.parametrize("s", [0.0, 0.7])
def test_gated_units_equal_the_closed_forms(s):
    for rho in (-0.5, 0.3, 1.0):
        for name in ("reglu", "geglu"):
            found = gated(name).moments(1.3, 0.8, rho, s)
            for quantity, value in found.to_dict().items():
                claim = getattr(gaussian, f"{name}_{quantity}", None)
                if claim is None or (s and "gate_correlation" not in claim.parameters):
                    continue
                values = {"variance": 1.3, "linear_variance": 0.8, "correlation": rho, "gate_correlation": s}
                expected = claim(**{key: values[key] for key in claim.parameters})
                assert value == pytest.approx(expected, rel=1e-9, abs=1e-12), (name, quantity)


@pytest.mark.parametrize("name", list(GATED))
@pytest.mark.parametrize("s", [0.0, -0.5])
def test_simulation_of_gated_units(name, s, rng):
    a, b, rho, draws = 1.2, 0.6, 0.4, 200_000
    unit = gated(name)
    f = unit.gate

    def tokens(variance):
        x, w = rng.standard_normal((2, draws))
        return math.sqrt(variance) * x, math.sqrt(variance) * (rho * x + math.sqrt(1 - rho**2) * w)

    (u, u2), (v0, v2) = tokens(a), tokens(b)
    v, w = (s * math.sqrt(b / a) * g + math.sqrt(1 - s * s) * h for g, h in ((u, v0), (u2, v2)))
    found = unit.moments(a, b, rho, s)
    for quantity, sample in {
        "mean": f(u) * v, "second_moment": (f(u) * v) ** 2, "pair_moment": f(u) * v * f(u2) * w,
        "gate_gradient_second_moment": (f.derivative(u) * v) ** 2,
        "gate_gradient_pair_moment": f.derivative(u) * v * f.derivative(u2) * w,
        "linear_gradient_second_moment": f(u) ** 2, "linear_gradient_pair_moment": f(u) * f(u2),
    }.items():  # fmt: skip
        error = sample.std() / math.sqrt(draws)
        value = getattr(found, quantity)
        assert abs(sample.mean() - value) < 5 * error, quantity
        assert abs(sample.mean() - value - 0.05 * math.sqrt((sample**2).mean())) > 5 * error, quantity


def test_importing_activations_is_light(in_fresh_python):
    source = """
import sys, depthwidth.layers.activations, depthwidth.numerics.expressions
print([m for m in ("numpy", "scipy", "sympy") if m in sys.modules])
"""
    assert in_fresh_python(source).strip() == "[]"


# Computed once with mpmath at 25 digits: trapezoid sums over both variables at a twelfth of the wider deviation.
HARD_PAIRS = [
    # Remainders that rounding hides: the bound of the series must not take them for nothing.
    ("sigmoid", "pair_moment", 1.19**2, 8.43**2, 1 - 9.2e-11, 0.34716468424428737),
    ("tanh", "derivative_pair_moment", 0.476**2, 7.58**2, 1 - 7.1e-4, 0.10415816625118243),
]


@pytest.mark.parametrize(("name", "quantity", "a", "b", "rho", "exact"), HARD_PAIRS)
def test_slow_series_next_to_quick_ones(name, quantity, a, b, rho, exact):
    found = getattr(activation(name), quantity)(a, rho, other_variance=b)
    assert found == pytest.approx(exact, abs=1e-12)
    assert found != pytest.approx(exact * (1 + 1e-10), abs=1e-12)


@one_quick_in(3, "name", ["gelu_tanh", "tanh", "silu"], first=1)
def test_many_variances_at_once_equal_one_at_a_time(name):
    """Interpolated coefficients, lattices and series: a thousand pairs against a sample of them alone, in a new function."""
    rng = np.random.default_rng(7)
    a, b = 10 ** rng.uniform(-2, 2, (2, 1000))
    rho = rng.choice([-1.0, 1.0], 1000) * (1 - 10 ** rng.uniform(-12, 0, 1000))
    for quantity, size in (("pair_moment", "second_moment"), ("derivative_pair_moment", "derivative_second_moment")):
        f = activation(name)
        together = getattr(f, quantity)(a, rho, other_variance=b)
        for i in range(0, 1000, 40):
            alone = getattr(activation(name), quantity)(a[i], rho[i], other_variance=b[i])
            scale = math.sqrt(getattr(f, size)(a[i]) * getattr(f, size)(b[i]))
            assert abs(together[i] - alone) < 5e-11 * scale


def test_moments_do_not_depend_on_what_was_asked_before():
    asked = [("mean", (1.0,)), ("pair_moment", (1.0, 0.3)), ("mean", (2.0,)), ("second_moment", (2.0,)), ("mean", (1.0,))]
    used = activation("tanh(x) + x^2")
    found = [getattr(used, quantity)(*arguments) for quantity, arguments in asked]
    assert found == [getattr(activation("tanh(x) + x^2"), quantity)(*arguments) for quantity, arguments in asked]
    assert found[0] == found[4] != found[2]
