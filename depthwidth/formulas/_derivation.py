r"""The closed forms of :mod:`depthwidth.formulas.gaussian`, derived again from their definitions by computer algebra.

Three identities carry everything; x and y are jointly Gaussian with variances a, b and covariance c.

* Gaussian integral: a Gaussian times exp(-quadratic) is a Gaussian again, up to a determinant.
* Price's theorem: d/dc E f(x) g(y) = E f'(x) g'(y); a kernel follows from that of its derivatives by integrating from a
  correlation at which it is known.
* Stein's lemma: E (x - mu) f(x) = a E f'(x), and for two variables a sum over covariances.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest, shown
from ..formula import Formula
from . import gaussian

if TYPE_CHECKING:
    import sympy as sp


@dataclass(frozen=True)
class Step:
    """One step of a derivation: the operation and the resulting expression."""

    text: str
    expression: Any


@dataclass(frozen=True)
class Check:
    """A statement about the result that was decided by algebra."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Derivation:
    """A formula derived from its definition. Made by :func:`derive`."""

    formula: Formula
    definition: str
    """The expectation that the formula claims to equal, in LaTeX."""
    how: str
    """The method, in a sentence."""
    steps: tuple[Step, ...]
    result: Any
    """The derived SymPy expression, in the formula's own symbols."""
    checks: tuple[Check, ...]

    @property
    def name(self) -> str:
        """The formula's full name."""
        return self.formula.name

    @property
    def verified(self) -> bool:
        """True if every check holds; the first is that the result equals the formula as it is written."""
        return all(check.holds for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: expressions as LaTeX."""
        import sympy

        return {
            "name": self.name,
            "definition": self.definition,
            "how": self.how,
            "steps": [{"text": step.text, "latex": sympy.latex(step.expression)} for step in self.steps],
            "result": sympy.latex(self.result),
            "formula": self.formula.latex(),
            "checks": [{"text": check.text, "holds": check.holds} for check in self.checks],
            "verified": self.verified,
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.definition}", f"{self.how}", ""]
        lines += [f"{number}. {step.text}\n     {step.expression}" for number, step in enumerate(self.steps, 1)]
        lines += ["", *(f"[{'ok' if check.holds else 'FAILS'}] {check.text}" for check in self.checks)]
        return "\n".join(lines)


class _Symbols:
    """The formulas' own symbols."""

    def __init__(self) -> None:
        import sympy

        self.a, self.b = sympy.symbols("a b", positive=True)
        self.rho, self.mu, self.s, self.x, self.t = sympy.symbols("rho mu s x t", real=True)
        self.c = sympy.Symbol("c", real=True)
        self.covariance = self.rho * sympy.sqrt(self.a) * sympy.sqrt(self.b)


@functools.cache
def _symbols() -> _Symbols:
    return _Symbols()


# ---- the identities ----


def gaussian_mean(integrand: sp.Expr, low: sp.Expr, mean: sp.Expr | int = 0) -> sp.Expr:
    """E of a polynomial in x on x > `low`, zero elsewhere, for x of variance a: the integral against the density."""
    import sympy

    v = _symbols()
    z = sympy.Symbol("z", real=True)
    scaled = sympy.expand(integrand.subs(v.x, mean + sympy.sqrt(v.a) * z))
    start = (low - mean) / sympy.sqrt(v.a)
    total: sp.Expr = sympy.Integer(0)
    for power, coefficient in enumerate(reversed(sympy.Poly(scaled, z).all_coeffs())):
        total += coefficient * _tail_moment(power, start)
    return sympy.expand(total)


def _tail_moment(n: int, start: sp.Expr) -> sp.Expr:
    """E z^n on z > start for a standard normal z, by parts: z^(n-1) times the density falls out at the lower end."""
    import sympy

    if n == 0:
        return (1 - sympy.erf(start / sympy.sqrt(2))) / 2
    density = sympy.exp(-(start**2) / 2) / sympy.sqrt(2 * sympy.pi)
    if n == 1:
        return density
    return start ** (n - 1) * density + (n - 1) * _tail_moment(n - 2, start)


def exponential_mean(p: sp.Expr | int, q: sp.Expr | int) -> sp.Expr:
    """E exp(-p x^2 - q y^2) = det(1 + 2 S diag(p, q))^(-1/2) for covariance matrix S."""
    import sympy

    v = _symbols()
    matrix = sympy.eye(2) + 2 * sympy.Matrix([[v.a, v.c], [v.c, v.b]]) * sympy.diag(p, q)
    return 1 / sympy.sqrt(sympy.expand(matrix.det()))


def _density(z: sp.Expr) -> sp.Expr:
    import sympy

    return sympy.exp(-(z**2) / 2) / sympy.sqrt(2 * sympy.pi)


def _phi_phi() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """E Phi Phi, E phi phi and E phi'(x) Phi(y), the parts of the GELU's moments."""
    import sympy

    v = _symbols()
    half = sympy.Rational(1, 2)
    both = exponential_mean(half, half) / (2 * sympy.pi)
    # Price: d/dc E Phi Phi = E phi phi; E Phi Phi = 1/4 at c = 0. The antiderivative of 1/sqrt(K - c^2) is an arctangent.
    determinant = sympy.expand(1 / (2 * sympy.pi * both) ** 2)
    antiderivative = sympy.atan(v.c / sympy.sqrt(determinant)) / (2 * sympy.pi)
    assert sympy.simplify(sympy.diff(antiderivative, v.c) - both) == 0  # noqa: S101
    distribution = sympy.Rational(1, 4) + antiderivative
    # phi(x) times the density of (x, y) is a Gaussian with covariance S' = S - S e e^T S / (1 + a). There
    # E' [-x Phi(y)] = -c' E' phi(y), by Stein.
    c_tilted, b_tilted = v.c / (1 + v.a), v.b - v.c**2 / (1 + v.a)
    mixed = -c_tilted / sympy.sqrt(2 * sympy.pi * (1 + b_tilted)) / sympy.sqrt(2 * sympy.pi * (1 + v.a))
    return distribution, both, mixed


# ---- the derivations, one for each family ----

_Route = tuple[str, list[Step], "sp.Expr"]


def _one_sided(value: str, text: str, start_power: int, factor: int = 1) -> Callable[[], _Route]:
    def route() -> _Route:
        v = _symbols()
        integrand = factor * v.x**start_power
        result = gaussian_mean(integrand, 0, v.mu)
        step = Step(f"{text}: integrate x^{start_power} against the density over x > 0, by parts", result)
        return "Gaussian integral over the half line where the unit is on.", [step], result

    return route


def _arc(order: int, factor: int = 1) -> Callable[[], _Route]:
    """E of two ramps of this order, from two independent steps up by Price's theorem, in the correlation."""

    def route() -> _Route:
        import sympy

        v = _symbols()
        r = v.rho
        # E delta(x) delta(y) for unit variances, and its integrals from rho = -1, where x = -y and products vanish.
        kernel = 1 / (2 * sympy.pi * sympy.sqrt(1 - r**2))
        steps = [Step("delta functions: the joint density at the origin, for unit variances", kernel)]
        for n in range(order + 1):
            integral = sympy.integrate(sympy.expand(kernel), r)
            kernel = sympy.expand(integral - sympy.limit(integral, r, -1, "+")) * (n if n > 1 else 1) ** 2
            what = ("steps", "ramps", "squared ramps")[n]
            steps.append(Step(f"{what}: integrate by Price's theorem from rho = -1, where the product vanishes", kernel))
        result = factor * (sympy.sqrt(v.a) * sympy.sqrt(v.b)) ** order * kernel
        steps.append(Step("restore the variances: each unit is homogeneous", result))
        return "Price's theorem from the joint density at the origin, integrated up from rho = -1.", steps, result

    return route


def _leaky(quantity: str) -> Callable[[], _Route]:
    def route() -> _Route:
        v = _symbols()
        ramp = getattr(gaussian, f"relu_{quantity}").expr
        s = v.s
        parts = {
            "mean": s * v.mu + (1 - s) * ramp,
            "second_moment": s**2 * (v.a + v.mu**2) + 2 * s * (1 - s) * ramp + (1 - s) ** 2 * ramp,
            "pair_moment": s**2 * v.covariance + 2 * s * (1 - s) * v.covariance / 2 + (1 - s) ** 2 * ramp,
            "derivative_second_moment": s**2 + 2 * s * (1 - s) * ramp + (1 - s) ** 2 * ramp,
            "derivative_pair_moment": s**2 + 2 * s * (1 - s) / 2 + (1 - s) ** 2 * ramp,
        }
        text = "f = s x + (1 - s) relu(x); x relu(x) = relu(x)^2 at one point, E x relu(y) = c/2 at two (Stein)"
        return "Linear combination of the identity and the ReLU.", [Step(text, parts[quantity])], parts[quantity]

    return route


def _identity(quantity: str) -> Callable[[], _Route]:
    def route() -> _Route:
        import sympy

        v = _symbols()
        one = sympy.Integer(1)
        result = {"mean": v.mu, "second_moment": v.a + v.mu**2, "pair_moment": v.covariance}.get(quantity, one)
        return "The definition of the moments of x and y.", [Step("read off", result)], result

    return route


def _erf(quantity: str) -> Callable[[], _Route]:
    def route() -> _Route:
        import sympy

        v = _symbols()
        a, b, c, mu = v.a, v.b, v.c, v.mu
        slope = 2 / sympy.sqrt(sympy.pi)
        if quantity == "mean":
            # E exp(-x^2) for mean mu, completing the square; then integrate over mu from 0, where the mean vanishes.
            height = slope * sympy.exp(-(mu**2) / (1 + 2 * a)) / sympy.sqrt(1 + 2 * a)
            result = sympy.integrate(height.subs(mu, v.t), (v.t, 0, mu))
            steps = [Step("E f': complete the square", height), Step("integrate over mu from 0, by symmetry", result)]
            return "d/dmu E f = E f', a Gaussian integral, integrated from mu = 0.", steps, result
        if quantity == "derivative_second_moment":
            result = slope**2 * sympy.exp(-2 * mu**2 / (1 + 4 * a)) / sympy.sqrt(1 + 4 * a)
            check = sympy.simplify(sympy.diff(result, a) - sympy.diff(result, mu, 2) / 2)  # the heat equation in (a, mu)
            steps = [
                Step("E (4/pi) exp(-2 x^2): complete the square", result),
                Step("heat equation d/da - (1/2) d2/dmu2", check),
            ]
            return "Gaussian integral.", steps, result
        pair = slope**2 * exponential_mean(1, 1)
        steps = [Step("E f' f' = (4/pi) E exp(-x^2 - y^2): a determinant", pair)]
        result = pair
        if quantity != "derivative_pair_moment":
            determinant = sympy.expand((slope**2 / pair) ** 2)
            result = 2 / sympy.pi * sympy.atan(2 * c / sympy.sqrt(determinant))
            steps.append(Step("integrate over c from 0, where the product vanishes (Price)", result))
            steps.append(Step("its derivative less the line before", sympy.simplify(sympy.diff(result, c) - pair)))
        if quantity == "second_moment":
            result = result.subs({b: a, c: a})
            steps.append(Step("the same input twice: b = c = a", result))
        else:
            result = result.subs(c, v.covariance)
        return "Price's theorem over a Gaussian determinant.", steps, result

    return route


def _gelu_kernel() -> tuple[list[Step], sp.Expr]:
    v = _symbols()
    a, b, c = v.a, v.b, v.c
    distribution, both, mixed = _phi_phi()
    swapped = mixed.subs({a: b, b: a}, simultaneous=True)
    value = c * distribution + a * c * mixed + (a * b + c**2) * both + b * c * swapped
    return [
        Step("E Phi Phi, by Price from E phi phi", distribution),
        Step("E phi phi: a determinant", both),
        Step("E phi'(x) Phi(y): tilt by phi(x), then Stein", mixed),
        Step("E x y F = c E F + a c E F_xx + (ab + c^2) E F_xy + b c E F_yy (Stein twice), F = Phi(x) Phi(y)", value),
    ], value


def _gelu(quantity: str) -> Callable[[], _Route]:
    def route() -> _Route:
        import sympy

        v = _symbols()
        a, b, c, mu = v.a, v.b, v.c, v.mu
        if quantity == "mean":
            beta = mu / sympy.sqrt(1 + a)
            on, height = (1 + sympy.erf(beta / sympy.sqrt(2))) / 2, _density(beta) / sympy.sqrt(1 + a)
            steps = [Step("E Phi(x): P(z < x) for independent z", on), Step("E phi(x) = d/dmu E Phi(x)", sympy.diff(on, mu))]
            result = mu * on + a * height
            steps.append(Step("E x Phi = mu E Phi + a E phi (Stein)", result))
            return "Stein's lemma.", steps, result
        steps, result = _gelu_kernel()
        if quantity.startswith("derivative"):
            result = sympy.diff(result, c)
            steps.append(Step("differentiate by c (Price)", result))
        if quantity.endswith("second_moment"):
            result = result.subs({b: a, c: a})
            steps.append(Step("the same input twice: b = c = a", result))
        else:
            result = result.subs(c, v.covariance)
        return (
            "Stein's lemma, twice, on x Phi(x) y Phi(y)"
            + (", and Price's theorem." if quantity.startswith("derivative") else "."),
            steps,
            result,
        )

    return route


def _gated(gate: str, quantity: str) -> Callable[[], _Route]:
    """E of f(u)^2 v^2 or f f' v v', with v = s sqrt(b/a) u + sqrt(1 - s^2) v0."""

    def route() -> _Route:
        import sympy

        v = _symbols()
        a, b, s, rho = v.a, v.b, v.s, v.rho

        def of(kind: str, name: str = gate) -> Any:
            return getattr(gaussian, f"{name}_{kind}").expr.subs({v.mu: 0})

        if quantity == "mean":
            # E f' = dE f/dmu at mu = 0
            slope = sympy.diff(getattr(gaussian, f"{gate}_mean").expr, v.mu).subs(v.mu, 0)
            result = s * sympy.sqrt(a) * sympy.sqrt(b) * slope
            steps = [Step("E f'(u) = d/dmu E f(u)", slope), Step("E f(u) v = Cov(u, v) E f'(u)", result)]
            return "Stein's lemma.", steps, result
        kind = quantity.replace("gate_gradient", "derivative")
        if quantity.endswith("second_moment"):
            inner = of(kind)
            along = a * inner + 2 * a**2 * sympy.diff(inner, a)
            steps = [Step("E u^2 h(u) = a E h + 2 a^2 d/da E h", along)]
            result = b * (s**2 * along / a + (1 - s**2) * inner)
            steps.append(Step("v = s sqrt(b/a) u + sqrt(1 - s^2) v0", result))
            return "Stein's lemma on the part of v along u.", steps, result
        inner = of(kind).subs(b, a)
        result = b * rho * inner
        steps = [Step("gate and linear part independent: the product of two products", result)]
        if gate == "relu":
            along = of("pair_moment", "relu2" if quantity == "pair_moment" else "relu").subs(b, a)
            result = b * (s**2 * along / a + (1 - s**2) * rho * inner)
            steps = [Step("u f(u) is the ramp of one order more; v = s sqrt(b/a) u + sqrt(1 - s^2) v0", result)]
        return "Gaussian conditioning.", steps, result

    return route


_QUANTITIES = ("mean", "second_moment", "pair_moment", "derivative_second_moment", "derivative_pair_moment")
_GATED = ("mean", "second_moment", "pair_moment", "gate_gradient_second_moment", "gate_gradient_pair_moment")
_ROUTES: dict[str, Callable[[], _Route]] = {
    **{f"identity_{q}": _identity(q) for q in _QUANTITIES},
    "relu_mean": _one_sided("relu", "E max(x, 0)", 1),
    "relu_second_moment": _one_sided("relu", "E max(x, 0)^2", 2),
    "relu_pair_moment": _arc(1),
    "relu_derivative_second_moment": _one_sided("relu", "E of the step", 0),
    "relu_derivative_pair_moment": _arc(0),
    **{f"leaky_relu_{q}": _leaky(q) for q in _QUANTITIES},
    "relu2_mean": _one_sided("relu2", "E max(x, 0)^2", 2),
    "relu2_second_moment": _one_sided("relu2", "E max(x, 0)^4", 4),
    "relu2_pair_moment": _arc(2),
    "relu2_derivative_second_moment": _one_sided("relu2", "E (2 max(x, 0))^2", 2, 4),
    "relu2_derivative_pair_moment": _arc(1, 4),
    **{f"gelu_{q}": _gelu(q) for q in _QUANTITIES},
    **{f"erf_{q}": _erf(q) for q in _QUANTITIES},
    **{f"reglu_{q}": _gated("relu", q) for q in _GATED},
    **{f"geglu_{q}": _gated("gelu", q) for q in _GATED},
}

_DEFINITIONS = {
    "identity": "x",
    "relu": r"\max(x, 0)",
    "leaky_relu": r"\max(x, 0) + s\min(x, 0)",
    "relu2": r"\max(x, 0)^2",
    "gelu": r"x\,\Phi(x)",
    "erf": r"\mathrm{erf}(x)",
    "reglu": r"\max(u, 0)\, v",
    "geglu": r"u\,\Phi(u)\, v",
}
_EXPECTATIONS = {
    "mean": "E[f]",
    "second_moment": "E[f^2]",
    "pair_moment": "E[f f]",
    "derivative_second_moment": "E[f'^2]",
    "derivative_pair_moment": "E[f' f']",
    "gate_gradient_second_moment": r"E[(\partial_u f)^2]",
    "gate_gradient_pair_moment": r"E[\partial_u f\, \partial_u f]",
}


def derivable() -> tuple[str, ...]:
    """The names of the formulas that :func:`derive` derives."""
    return tuple(_ROUTES)


def derive(name: str) -> Derivation:
    """The formula called `name`, derived from its definition and compared with the formula as it is written.

    Parameters
    ----------
    name : of a formula of :mod:`depthwidth.formulas.gaussian`, with or without ``gaussian.``.

    Raises
    ------
    InputError
        if no derivation of that name is known.

    Examples
    --------
    >>> found = derive("relu_derivative_pair_moment")
    >>> found.verified, found.result
    (True, asin(rho)/(2*pi) + 1/4)
    """
    short = name.removeprefix("gaussian.") if isinstance(name, str) else name
    if short not in _ROUTES:
        raise InputError(f"there is no derivation of {shown(name)}{nearest(str(short), _ROUTES)}")
    formula: Formula = getattr(gaussian, short)
    how, steps, result = _ROUTES[short]()
    family = max((f for f in _DEFINITIONS if short.startswith(f"{f}_")), key=len)
    quantity = short.removeprefix(f"{family}_")
    checks = [Check("the result equals the formula as written", equal(result, formula.expr)), *_limits(family, quantity)]
    definition = f"{_EXPECTATIONS[quantity]}, f = {_DEFINITIONS[family]}"
    return Derivation(formula, definition, how, tuple(steps), result, tuple(checks))


def _limits(family: str, quantity: str) -> list[Check]:
    """Conditions on a product: the square at correlation 1, the square of the mean at correlation 0."""
    if "pair" not in quantity:
        return []
    v = _symbols()
    one = getattr(gaussian, f"{family}_{quantity.replace('pair', 'second')}").expr.subs(v.mu, 0)
    pair = getattr(gaussian, f"{family}_{quantity}").expr
    gate = family in ("reglu", "geglu")
    if gate and v.s not in pair.free_symbols:
        one = one.subs(v.s, 0)
    together = pair.subs({v.rho: 1} if gate else {v.rho: 1, v.b: v.a})
    checks = [Check("at correlation 1 and equal variance it is the second moment", equal(together, one))]
    if quantity == "pair_moment":
        mean = getattr(gaussian, f"{family}_mean").expr.subs(v.mu, 0)
        if gate and v.s not in pair.free_symbols:
            mean = mean.subs(v.s, 0)
        product = mean**2 if gate else mean * mean.subs(v.a, v.b)
        checks.append(Check("at correlation 0 it is the product of the means", equal(pair.subs(v.rho, 0), product)))
    return checks


def equal(left: Any, right: Any) -> bool:
    """True if two expressions in the formulas' symbols are the same function, decided by algebra.

    Inverse functions of the correlation are first written by one angle, and arcsines by arctangents.
    """
    import sympy

    v = _symbols()

    def plain(expression: Any) -> Any:
        expression = sympy.sympify(expression)
        expression = expression.replace(sympy.acos, lambda z: sympy.pi / 2 - sympy.asin(z))
        return expression.replace(
            sympy.asin, lambda z: sympy.asin(z) if z == v.rho else sympy.atan(z / sympy.sqrt(sympy.factor(1 - z**2)))
        )

    difference = sympy.expand(plain(left) - plain(right))
    if difference == 0:
        return True
    # Arguments of the arctangents (and of the error function) in one form each, so that equal ones cancel.
    for kind in (sympy.atan, sympy.erf, sympy.exp):
        difference = difference.replace(kind, lambda z, kind=kind: kind(_root_form(z)))
    difference = sympy.expand(difference)
    for atom in sorted(difference.atoms(sympy.atan, sympy.erf, sympy.asin), key=str):
        if not _is_zero(difference.coeff(atom)):
            return False
        difference = sympy.expand(difference - atom * difference.coeff(atom))
    return _is_zero(difference)


def _root_form(z: Any) -> Any:
    """A numerator over one square root, its argument in lowest terms."""
    import sympy

    numerator, denominator = sympy.fraction(sympy.together(z))
    square = sympy.cancel(sympy.expand(sympy.together(denominator**2)))
    return numerator / sympy.sqrt(square)


def _is_zero(expression: Any) -> bool:
    """True if an algebraic expression in the symbols vanishes: over one denominator, by roots of irreducible polynomials."""
    import sympy

    v = _symbols()
    p, q = sympy.symbols("p q", positive=True)

    def split(base: Any, exponent: Any) -> Any:
        if exponent.is_integer:
            return base**exponent
        content, factors = sympy.factor_list(sympy.numer(base := sympy.together(base)))
        below, divisors = sympy.factor_list(sympy.denom(base))
        if content * below < 0:  # a root of a product is the product of roots for positive factors only
            return base**exponent
        powers = [(f, n) for f, n in factors] + [(f, -n) for f, n in divisors]
        return (content / below) ** exponent * sympy.Mul(*(f ** (n * exponent) for f, n in powers))

    expression = expression.subs({v.a: p**2, v.b: q**2})  # the symbols under roots become polynomials
    expression = expression.replace(sympy.Pow, split)
    if sympy.expand(sympy.numer(sympy.together(expression))) == 0:
        return True
    return bool(sympy.simplify(expression) == 0)
