"""The machinery, and what every registered formula must satisfy whatever it says."""

import importlib
import inspect
import json
import math
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

import mpmath
import numpy as np
import pandas
import pytest
import sympy
from helpers import one_quick_in

from depthwidth.coefficients import laws
from depthwidth.errors import InputError
from depthwidth.formula import (
    KINDS,
    STATUSES,
    Domain,
    Fitted,
    Formula,
    Positive,
    Real,
    find_formula,
    fitted,
    formula,
    formulas,
    is_symbolic,
)

ALL = formulas()
DRAWS = 4


def by_name(f):
    return f.name


def draw(f, rng):
    """Arguments from the typical ranges at which the formula's own regime check, if it has one, is content."""
    for _ in range(200):
        values = {}
        for name, parameter in f.parameters.items():
            low, high = parameter.domain.typical
            # Sizes that span decades are drawn evenly in their logarithm.
            value = (
                math.exp(rng.uniform(math.log(low), math.log(high))) if low > 0 and high > 20 * low else rng.uniform(low, high)
            )
            values[name] = round(value) if parameter.domain.integer else float(value)
        try:
            f(**values)
        except InputError:
            continue
        return values
    raise AssertionError(f"{f.name}: no draw from the typical ranges lies in its regime")


def symbolic(f):
    try:
        return f.expr
    except InputError:
        return pytest.skip(f"{f.name} declares that it has no closed symbolic form")


def close(value, expected):
    return value == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_there_are_formulas_of_rules_separation_and_scaling():
    assert {"rules", "separation", "scaling"} <= {f.topic for f in ALL}
    assert len(ALL) > 50
    assert len({f.name for f in ALL}) == len(ALL)


# Hundreds of formulas, each with many properties that take less time than a test by itself costs: a test checks several.


@one_quick_in(3, "f", ALL, ids=by_name)
def test_what_a_formula_declares(f):
    """A complete card, a place in its topic, typical ranges, letters, and fitted defaults."""
    card_is_complete(f)
    topic = importlib.import_module(f"depthwidth.formulas.{f.topic}")
    assert getattr(topic, f.__name__) is f
    assert find_formula(f.__name__) is find_formula(f.name) is f
    typical_range_lies_in_the_domain(f)
    letters = [parameter.letter for parameter in f.parameters.values()]
    assert len(set(letters)) == len(letters), "two arguments have one letter"
    for parameter in f.parameters.values():
        if isinstance(parameter.default, Fitted):
            assert parameter.default.law in laws()
            assert parameter.domain.contains(parameter.default.value)


def card_is_complete(f):
    assert f.source
    assert f.kind in KINDS
    assert f.status in STATUSES
    assert 10 < len(f.summary) <= 128
    assert f.summary.endswith(".")
    for part in (".. math::", "Parameters\n", "Returns\n", "Examples\n", ">>> "):
        assert part in inspect.getdoc(f), f"{f.name}: its docstring has no {part!r}"
    for parameter in f.parameters.values():
        assert parameter.meaning, f"{f.name}: {parameter.name} is not described"
        assert f"\n{parameter}\n" in inspect.getdoc(f)
    json.dumps(f.card())


def typical_range_lies_in_the_domain(f):
    for parameter in f.parameters.values():
        low, high = parameter.domain.typical
        assert low < high
        for end in (low, high):
            value = round(end) if parameter.domain.integer else end
            assert parameter.domain.contains(value), f"{f.name}: {parameter.name}={value} is typical but outside its domain"


@one_quick_in(8, "f", ALL, first=0, ids=by_name)
def test_numbers_arrays_multiple_precision_and_tensors_agree(f, rng):
    draws = [draw(f, rng) for _ in range(DRAWS)]
    one_by_one = [float(f(**values)) for values in draws]
    columns = {name: np.array([values[name] for values in draws]) for name in f.parameters}
    assert np.broadcast_to(f(**columns), DRAWS) == pytest.approx(one_by_one, rel=1e-9, abs=1e-12)
    precise = f(**{name: mpmath.mpf(value) for name, value in draws[0].items()})
    assert close(float(precise), one_by_one[0])
    torch = pytest.importorskip("torch")
    tensor = f(**{name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()})
    assert torch.as_tensor(tensor).dtype == torch.float64
    assert np.broadcast_to(tensor.numpy(), DRAWS) == pytest.approx(one_by_one, rel=1e-9, abs=1e-12)


@one_quick_in(8, "f", ALL, first=2, ids=by_name)
def test_numbers_and_the_symbolic_form_agree(f, rng):
    """Evaluated at 30 digits, so that the float path's own rounding shows; the form is exact, and is typeset."""
    form = symbolic(f)
    for number in form.atoms(sympy.Float):  # a decimal that is no sum of powers of two is another number to every precision
        assert sympy.Rational(number).q <= 1024, f"{f.name}: {number} is a rounded number"
    latex_renders(f)
    compiled = sympy.lambdify([p.symbol() for p in f.parameters.values()], form, "mpmath")
    for _ in range(DRAWS):
        values = draw(f, rng)
        with mpmath.workdps(30):
            exact = mpmath.re(compiled(*(mpmath.mpf(values[name]) for name in f.parameters)))
        assert close(float(f(**values)), float(exact)), f"{f.name} at {values}"
    with mpmath.workdps(50):
        found = f(**{name: mpmath.mpf(value) for name, value in values.items()})
    with mpmath.workdps(70):
        exact = mpmath.re(compiled(*(mpmath.mpf(values[name]) for name in f.parameters)))
        assert abs(found - exact) <= mpmath.mpf(10) ** -40 * max(1, abs(exact)), f"{f.name}: 50 digits were asked for"


def latex_renders(f):
    latex = f.latex()
    assert " = " in latex
    assert latex.count("{") == latex.count("}")
    assert "Dummy" not in latex
    assert not BARE_GREEK.search(latex), latex


BARE_GREEK = re.compile(r"(?<![\\\\A-Za-z])(alpha|beta|gamma|delta|kappa|lambda|mu|omega|rho|sigma|tau|chi|theta)(?![A-Za-z])")


def test_a_letter_without_its_backslash_is_seen():
    assert BARE_GREEK.search("gamma' = d")
    assert BARE_GREEK.search("G gamma = G m")
    assert not BARE_GREEK.search(r"\gamma' = d_{out} \gamma")


@one_quick_in(8, "f", ALL, first=1, ids=by_name)
def test_integers_do_not_overflow(f, rng):
    values = draw(f, rng)
    for name, value in values.items():
        whole = max(round(value), 1)
        values[name] = whole if value > 0.5 and f.parameters[name].domain.contains(whole) else value
    try:
        expected = float(f(**{name: float(v) for name, v in values.items()}))
    except InputError:
        return  # the rounded values lie outside the formula's regime
    for kind in (np.int32, np.uint8):
        small = {name for name, v in values.items() if isinstance(v, int) and v <= np.iinfo(kind).max}
        given = {name: np.array([v], dtype=kind if name in small else float) for name, v in values.items()}
        assert np.asarray(f(**given), dtype=float) == pytest.approx(expected, rel=1e-9, abs=1e-12), kind
    torch = pytest.importorskip("torch")
    tensors = {
        name: torch.tensor([v], dtype=torch.int32 if isinstance(v, int) and v < 2**31 else torch.float64)
        for name, v in values.items()
    }
    assert np.asarray(f(**tensors), dtype=float) == pytest.approx(expected, rel=1e-9, abs=1e-12)


HALF = {"float16": lambda x: np.array([x], np.float16), "bfloat16": lambda x: _tensor(x, "bfloat16")}
OTHER = {"Fraction": Fraction, "Decimal": Decimal, "longdouble": lambda x: np.array([x], np.longdouble),
         "nested list": lambda x: [[x], [x]], "column": lambda x: pandas.Series([x, x]),
         "mpmath": mpmath.mpf}  # fmt: skip


def _tensor(value, dtype):
    import torch

    return torch.tensor([value], dtype=getattr(torch, dtype))


def as_doubles(values):
    return np.asarray(values.double() if hasattr(values, "double") else values, dtype=float)


@one_quick_in(8, "f", ALL, first=4, ids=by_name)
def test_numbers_of_other_kinds(f, rng):
    """Fractions, decimals, lists and columns of tables are their values; half precision rounds arguments, and nothing else."""
    values = draw(f, rng)
    expected = float(f(**values))
    for kind, convert in OTHER.items():
        found = as_doubles(f(**{name: convert(v) for name, v in values.items()}))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), kind
    pytest.importorskip("torch")
    for kind, convert in HALF.items():
        given = {
            name: convert(v) if abs(v) < 6e4 and not f.parameters[name].domain.integer else v for name, v in values.items()
        }
        rounded = {name: float(v[0]) if hasattr(v, "dtype") else v for name, v in given.items()}
        try:
            expected = float(f(**rounded))
        except InputError:
            continue  # the rounded values lie outside the formula's regime
        assert as_doubles(f(**given)) == pytest.approx(expected, rel=1e-9, abs=1e-12), kind


def test_a_product_of_sizes_does_not_overflow_in_half_precision():
    """Width 2,400 times a feed-forward width of 2,300 is beyond float16, whose largest number is 65,504."""
    flops = find_formula("wider_memory_flops")
    assert flops(np.array([2400], np.float16), 2300, 2).item() == flops(2400, 2300, 2)
    with np.errstate(over="ignore"):  # the control: the body alone overflows
        assert np.isinf(flops.body(np.array([2400], np.float16), 2300, 2)).all()


def test_fractions_beside_symbols_stay_exact():
    x = sympy.Symbol("x", positive=True)
    assert scaled(x, Fraction(1, 3)) == x / 3


def test_constants_beside_mpmath_numbers_need_no_import_of_sympy(in_fresh_python):
    code = (
        "import sys, mpmath\n"
        "from depthwidth.formulas import gaussian\n"
        "assert 'sympy' not in sys.modules\n"
        "mpmath.mp.dps = 30\n"
        "print(gaussian.relu_pair_moment(mpmath.mpf(1), mpmath.mpf(1), mpmath.mpf(0)))"
    )
    assert in_fresh_python(code).strip() == mpmath_text(30)


def mpmath_text(digits):
    """1/(2 pi), the moment of two independent inputs."""
    with mpmath.workdps(digits):
        return str(1 / (2 * mpmath.pi))


def test_wide_models_of_integer_arrays_are_counted():
    """GPT-3: 12 times 96 layers times 12288^2 passes 2^31 81 times over."""
    count = find_formula("kaplan_nonembedding_parameters")
    for kind in (np.int32, np.int16):
        assert count(np.array([96], dtype=kind), np.array([12288], dtype=kind)).tolist() == [173946175488.0]
    with np.errstate(over="ignore"):  # the control: the body alone, which promotes nothing, overflows
        assert count.body(np.array([96], dtype=np.int32), np.array([12288], dtype=np.int32), 12).tolist() != [173946175488]


@one_quick_in(8, "f", ALL, first=3, ids=by_name)
def test_gradients_at_the_ends_of_a_domain_are_numbers(f, rng):
    """Infinite if the derivative is; never NaN."""
    torch = pytest.importorskip("torch")
    if not f.closed:
        pytest.skip(f"{f.name} is computed in doubles, without gradients")
    values = draw(f, rng)
    for name, parameter in f.parameters.items():
        domain = parameter.domain
        ends = [end for end, closed in ((domain.low, domain.closed_low), (domain.high, domain.closed_high)) if closed]
        for end in ends if not domain.integer else ():
            if math.isinf(end):
                continue
            given = {key: torch.tensor(float(v), dtype=torch.float64) for key, v in (values | {name: end}).items()}
            given[name].requires_grad_()
            try:
                result = f(**given)
            except InputError:
                continue
            if result.requires_grad:
                result.backward()
                assert not given[name].grad.isnan(), f"{f.name}: {name}={end}"


def test_gradients_of_kernels_at_full_correlation():
    torch = pytest.importorskip("torch")
    kernels = {"relu_pair_moment": (0, 0.5), "relu2_pair_moment": (0, 2), "relu_derivative_pair_moment": (math.inf, math.inf)}
    for name, slopes in kernels.items():
        correlation = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
        find_formula(name)(1.0, 1.0, correlation).sum().backward()
        assert correlation.grad.tolist() == pytest.approx(slopes)
    correlation = torch.tensor([-0.99, -0.3, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    for name in kernels:
        of = find_formula(name)
        assert torch.autograd.gradcheck(lambda r, of=of: of(1.0, 1.0, r), correlation)
        assert torch.autograd.gradgradcheck(lambda r, of=of: of(1.0, 1.0, r), correlation)


def extreme(domain, rng):
    values = [domain.low, domain.high, 0.0, 1.0, 1e-308, 1e-155, 1e-30, 1e30, 1e155, 1.7e308, -1.0, -1e155]
    inside = [v for v in values if math.isfinite(v) and domain.contains(v) and not (domain.integer and v > 1e6)]
    return inside[rng.integers(len(inside))] if inside else domain.typical[0]


def outside(domain):
    """Values just outside an interval; a whole-number domain also refuses a half."""
    values = [math.nan]
    if domain.low > -math.inf:
        values += [domain.low - 1, -math.inf] + ([] if domain.closed_low else [domain.low])
    if domain.high < math.inf:
        values += [domain.high + 1, math.inf] + ([] if domain.closed_high else [domain.high])
    if domain.integer:
        values.append(max(domain.low, 0) + 1.5)
    return values


@one_quick_in(8, "f", ALL, first=2, ids=by_name)
def test_numbers_at_and_beyond_the_ends_of_a_domain(f, rng):
    """Extreme numbers give a number or a sentence; a value outside, and shapes that do not broadcast, are named."""
    right = draw(f, rng)
    extreme_numbers_give_a_number_or_a_sentence(f, right, rng)
    for name, parameter in f.parameters.items():
        for wrong in outside(parameter.domain):
            with pytest.raises(InputError) as caught:
                f(**(right | {name: wrong}))
            assert f"{f.name}: {name}={wrong} is outside {parameter.domain}" == str(caught.value)
            with np.errstate(invalid="ignore"), pytest.raises(InputError, match=f"{name}="):
                f(**(right | {name: np.array([right[name], wrong])}))
    if len(f.parameters) > 1:
        first, second = list(f.parameters)[:2]
        given = right | {first: np.array([right[first]] * 2), second: np.array([right[second]] * 3)}
        with pytest.raises(InputError) as caught:
            f(**given)
        assert str(caught.value) == f"{f.name}: these shapes do not broadcast: {first} (2,), {second} (3,)"


def extreme_numbers_give_a_number_or_a_sentence(f, right, rng):
    for _ in range(6):
        values = {name: extreme(p.domain, rng) if rng.random() < 0.5 else right[name] for name, p in f.parameters.items()}
        values = {name: round(v) if f.parameters[name].domain.integer else v for name, v in values.items()}
        with np.errstate(all="ignore"):
            try:
                result = f(**values)
            except InputError:
                continue
        assert result == result, f"{f.name} at {values}"


# ---- the decorator itself, on a formula of its own ----


@formula(kind="exact", source="arithmetic", status="derived", symbol="y")
def scaled(x: Positive, slope: Annotated[Any, Domain(-1, 1, True, False, symbol="m")] = 0.5, shift: Real = 0) -> Any:
    r"""Straight line.

    .. math:: y = m x + b
    """
    return slope * x + shift


def test_arguments_by_position_and_name():
    assert scaled(2.0) == 1
    assert scaled(2.0, 0.25, shift=1) == 1.5
    assert scaled(x=np.array([1.0, 2.0]), slope=-1).tolist() == [-1, -2]
    assert scaled([1.0, 2.0]).tolist() == [0.5, 1]


def test_exact_fractions_and_decimals():
    assert scaled(Fraction(1, 2)) == scaled(Decimal("0.5")) == 0.25


def test_symbols_go_through():
    x = sympy.Symbol("x", positive=True)
    assert scaled(x, sympy.Rational(1, 3)) == x / 3
    assert scaled.latex() == "y = m x + shift"
    assert scaled.expr.diff(scaled.parameters["x"].symbol()) == scaled.parameters["slope"].symbol()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: scaled(), "needs x, in (0, inf)"),
        (lambda: scaled(1, 0, 0, 0), "takes 3 arguments (x, slope, shift), but 4 were given"),
        (lambda: scaled(1, slop=0), "has no argument 'slop' (did you mean 'slope'?)"),
        (lambda: scaled(1, x=2), "was given 'x' twice"),
        (lambda: scaled("1"), "x='1' is not a number"),
        (lambda: scaled(True), "x=True is not a number"),
        (lambda: scaled(1j), "is not a number"),
        (lambda: scaled(None), "x=None is not a number"),
        (lambda: scaled(Decimal("NaN")), "x=nan is outside (0, inf)"),
        (lambda: scaled(Decimal("sNaN")), "x=nan is outside (0, inf)"),
        (lambda: scaled(Decimal("1e400")), "x=inf is outside (0, inf)"),
        (lambda: scaled(Fraction(10**400)), "leaves the range of floating-point numbers"),
        (lambda: scaled([[1.0], [1.0, 2.0]]), "x holds rows of different lengths"),
        (lambda: scaled(np.array(["a"])), "holds <U1 values, not real numbers"),
        (lambda: scaled(np.array([1 + 1j])), "not real numbers"),
        (lambda: scaled(np.array([True])), "not real numbers"),
        (lambda: scaled(1, 1), "slope=1 is outside [-1, 1)"),
        (lambda: scaled(sympy.Integer(-1)), "x=-1 is outside (0, inf)"),
        (lambda: scaled(sympy.I), "x=I is outside"),
        (lambda: scaled(np.array([[1.0, 2.0], [3.0, -4.0]])), "x=-4.0 is outside"),
    ],
)
def test_a_wrong_call_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_declaration_must_be_complete():
    with pytest.raises(TypeError, match="kind is one of"):
        formula(kind="guess", source="nobody")
    with pytest.raises(TypeError, match="status"):
        formula(kind="exact", source="nobody", status="heard")

    @formula(kind="exact", source="nobody")
    def bare(x: float) -> float:
        return x

    with pytest.raises(TypeError, match="'x' declares no Domain"):
        bare(1)


def test_a_formula_keeps_its_function():
    assert isinstance(scaled, Formula)
    assert scaled.body(2, 3, 4) == 10  # unchecked
    assert scaled.__name__ == "scaled"
    assert scaled.summary == "Straight line."
    assert "scaled(x, slope, shift)" in repr(scaled)
    assert scaled.card()["arguments"][1] == {
        "name": "slope",
        "symbol": "m",
        "domain": "[-1, 1)",
        "unit": "",
        "default": 0.5,
        "meaning": "",
    }


def test_the_documentation_describes_each_argument():
    """From its domain, and from the words beside the domain: the last of them, as an alias has words of its own."""
    Length = Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="n", unit="tokens"), "entries of the row"]

    def body(x: Annotated[Positive, "quantity"], length: Annotated[Length, "f of it"] = 2) -> Any:
        """Product.

        Returns
        -------
        A number.
        """
        return x * length

    body.__annotations__ = {"x": Annotated[Positive, "quantity"], "length": Annotated[Length, "f of it"], "return": Any}
    product = formula(kind="exact", source="arithmetic")(body)
    assert inspect.getdoc(product).splitlines()[:9] == [
        "Product.",
        "",
        "Parameters",
        "----------",
        "x : in (0, inf)",
        "    Quantity.",
        "length : n in the whole numbers of [1, inf), tokens, default 2",
        "    f of it.",
        "",
    ]
    assert "Returns\n-------\nA number." in product.__doc__
    assert "takes a few microseconds" in Formula.__doc__


def test_a_documented_parameters_section_is_kept():
    @formula(kind="exact", source="arithmetic")
    def own(x: Positive) -> Any:
        """Itself.

        Parameters
        ----------
        x : as it is.
        """
        return x

    assert own.__doc__.count("Parameters") == 1
    assert own.__doc__.endswith("x : as it is.")


def test_fitted_defaults_are_read_when_they_are_needed():
    lazy = fitted("no_such_law", "x")
    with pytest.raises(InputError, match="no_such_law"):
        _ = lazy.value
    assert fitted("levine2020", "b").value == 0.0555


def test_find_formula():
    assert find_formula("rules.levine_width").__name__ == "levine_width"
    assert find_formula("levine_width").name == "rules.levine_width"
    with pytest.raises(InputError, match="did you mean 'levine_width'"):
        find_formula("levine_widht")


def test_formulas_by_kind_and_topic():
    assert {f.kind for f in formulas(kind="heuristic")} == {"heuristic"}
    assert {f.topic for f in formulas(topic="separation")} == {"separation"}
    assert formulas(topic="nothing") == []


def test_is_symbolic():
    assert is_symbolic(1, sympy.Symbol("x"))
    assert not is_symbolic(1, 2.0, np.array([1.0]))


def test_domain_prints_as_an_interval():
    assert str(Domain(0, 1, True, False)) == "[0, 1)"
    assert str(Domain()) == "(-inf, inf)"
    assert str(Domain(1, closed_low=True, integer=True)) == "the whole numbers of [1, inf)"
    assert Domain(1, closed_low=True, integer=True).assumptions() == {"real": True, "positive": True, "integer": True}
    assert Domain(0, closed_low=True).assumptions() == {"real": True, "nonnegative": True}


def test_plain_numbers_need_no_library():
    """Importing the depth-width formulas, and calling one with a float, loads nothing heavy."""
    code = (
        "import sys\n"
        "from depthwidth.formulas import rules, scaling, separation\n"
        "from depthwidth.planning import optima\n"
        "rules.levine_optimal_width_error(1e9); separation.log3_rank_multiset(4, 768, 12)\n"
        "optima.gemstones_flop_optimum(1e20)\n"
        "print([m for m in ('numpy', 'scipy', 'sympy', 'pandas', 'torch', 'mpmath') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


def test_defaults_are_those_of_the_declared_parameters():
    """Plans read them without the annotations."""
    for f in ALL:
        declared = {
            name: parameter.default
            for name, parameter in f.parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        assert list(f._defaults) == list(declared), f.name
        assert all(f._defaults[name] is default for name, default in declared.items()), f.name
