"""The published ways to choose a shape, each as a curve of (depth, width), and the point at which a curve meets a budget.

A rule does not cover embeddings, vocabularies or feed-forward widths; it states the depths and widths that belong together.
A rule is therefore a curve, and the exact count of the architecture picks its point (:func:`meet`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping

from ..coefficients import coefficient, coefficients_of_file, covariance, reference
from ..errors import InputError, nearest, shown
from ..formula import Formula, Kind
from ..formulas import rules as laws
from ..formulas import shape_penalty
from ..numerics.roots import false_position
from ..plugins import plugins
from ..values import frozen
from .policy import DEFAULT_IMAGE_RULE, DEFAULT_RULE

Curve = Callable[[float], tuple[float, float]]
"""From a positive parameter of the rule's own to (depth, width), both growing with it."""

Quantity = Callable[[float, float], float]
"""From (depth, width) to an amount, growing with both."""

SPAN = (1e-9, 1e18)
"""Of a curve's parameter; no network has a depth or width outside."""
_BESIDE = 0.2
"""Change of ln(parameter) within which a point is expected from that of a similar amount."""


@frozen
class Rule:
    """A published or fitted way to choose a shape."""

    name: str
    source: str
    kind: Kind
    along: Callable[[float], Curve]
    """The curve for blocks of c parameters per squared width; it depends on c only if the rule is stated in parameters."""
    fitted_on: tuple[tuple[str, float, float], ...] = ()
    """Ranges of ``depth``, ``width`` or ``parameters`` of its data; empty if its source does not state them."""
    images: bool = False
    """True if it was fitted on images, False if on text."""
    comparison: bool = False
    """True if it describes models that were built rather than an optimum; it is left out of the range across rules."""
    pooled: bool = False
    """True if it combines the sources of other rules: an optimum, but left out of the range across rules as well."""
    moved: Callable[[float], dict[str, Curve]] = lambda c: {}
    """From c to the same curve with its coefficients moved by their error, by the name of the change."""
    error: str = ""
    """The size of that change in words; empty if the source gives no error."""

    @property
    def independent(self) -> bool:
        """True if it counts in ranges across rules, and judges shapes with the others."""
        return not self.comparison and not self.pooled

    def curve(self, c: float = 12) -> Curve:
        """The curve for blocks of c parameters per squared width: 12 if the feed-forward width is four times the width."""
        return self.along(c)

    def variants(self, c: float = 12) -> dict[str, Curve]:
        """The curve with its coefficients moved by their error, by the name of the change; empty without an error."""
        return self.moved(c)

    def extrapolates(self, depth: float, width: float, parameters: float) -> bool | None:
        """True if a shape lies outside the range of the rule's data; None if its source does not state that range."""
        if not self.fitted_on:
            return None
        values = {"depth": depth, "width": width, "parameters": parameters}
        return any(not low <= values[name] <= high for name, low, high in self.fitted_on)


def meet(curve: Curve, quantity: Quantity, amount: float) -> tuple[float, float] | None:
    """The continuous (depth, width) at which `curve` reaches `amount` of `quantity`; None if it never does.

    A curve that begins above the amount or ends below it never reaches it.
    """
    root = log_parameter(curve, quantity, amount)
    return None if root is None else curve(math.exp(root))


def log_parameter(curve: Curve, quantity: Quantity, amount: float, near: float | None = None) -> float | None:
    """Ln of the curve's parameter at the point of :func:`meet`; `near` is that of a similar amount, if known.

    The logarithm of the quantity against that of the curve's parameter is close to a straight line, so that false position
    converges in a few steps.
    """

    def excess(log_t: float) -> float:
        try:
            reached = quantity(*curve(math.exp(log_t)))
        except OverflowError:  # beyond all numbers, or beyond the curve's end
            return math.inf
        except InputError:  # before the curve begins, as below the width where a depth would be negative
            return -math.inf
        return math.log(reached / amount) if reached > 0 else -math.inf

    if near is not None:
        root = false_position(excess, near - _BESIDE, near + _BESIDE)
        if root is not None:
            return root
    return false_position(excess, *(math.log(t) for t in SPAN))


def at_depth(depth: float) -> Curve:
    """The curve of all widths at one depth."""
    return lambda width: (depth, width)


def rules(images: bool = False) -> dict[str, Rule]:
    """The rules for text, or for images, by name."""
    return {rule.name: rule for rule in _rules_by_name().values() if rule.images == images}


def rule_names() -> list[str]:
    """The names of all rules, those of installed plug-ins included."""
    add_plugins()
    return list(_rules_by_name())


def default_rule(images: bool = False) -> Rule:
    """The rule of a plan that names none, for text or for images."""
    return find_rule(DEFAULT_IMAGE_RULE if images else DEFAULT_RULE)


def find_rule(name: str) -> Rule:
    """The rule called `name`, or that of a fit in the file `name`, which ends in ``.csv``.

    Raises
    ------
    InputError
        if there is none.
    """
    if name in _READ:
        return _READ[name]
    if str(name).endswith(".csv"):
        return rule_of_file(name)
    if name not in _rules_by_name():
        add_plugins()
    known = _rules_by_name()
    if name not in known:
        raise InputError(f"there is no rule {shown(name)}{nearest(str(name), known)}; known are {', '.join(known)}")
    return known[name]


def register_rule(rule: Rule) -> Rule:
    """Make a rule known by name; a later registration replaces an earlier one. Every plan then compares it with the others.

    Raises
    ------
    InputError
        if it is no :class:`Rule`.
    """
    if not isinstance(rule, Rule):
        raise InputError(f"register_rule: {shown(rule)} is not a Rule")
    _ADDED[rule.name] = rule
    return rule


def add_plugins() -> None:
    """Register the rules of installed plug-ins."""
    for _, rule in plugins("depthwidth.rules"):
        register_rule(rule)


def _rules_by_name() -> dict[str, Rule]:
    return {rule.name: rule for rule in _RULES} | _ADDED


_ADDED: dict[str, Rule] = {}
"""Rules that were registered."""
_READ: dict[str, Rule] = {}
"""Rules that were read from files, by name."""


def rule_of_file(path: str) -> Rule:
    """The rule that follows from a fit that ``depthwidth fit --save`` wrote: its name is that of the file.

    Raises
    ------
    InputError
        if the file cannot be read, or its law does not determine shapes.
    """
    rows, covariances = coefficients_of_file(path)
    law, name = rows[0].edition, rows[0].law
    make = _own_law_rule(rows[0].note) if law == OWN_LAW else _OF_LAW.get(law)
    if make is None:
        raise InputError(
            f"{shown(path)}: the law {shown(law)} has no shape of least loss; rules follow from {', '.join(_OF_LAW)}, "
            "and from a law of your own of the loss"
        )
    values = {row.name: row.value for row in rows}
    try:
        along, moved = make(values, covariances)
    except KeyError as missing:
        raise InputError(f"{shown(path)} lacks the coefficient {missing.args[0]} of the law {law}") from None
    columns = {"parameters": "non_embedding"} if law == "shape-penalty" else {"depth": "depth", "width": "width"}
    ranges = tuple(
        (what, values[f"{column}_min"], values[f"{column}_max"])
        for what, column in columns.items()
        if f"{column}_min" in values and f"{column}_max" in values
    )
    name = name if name not in _rules_by_name() else f"{name}.csv"
    rule = Rule(name, rows[0].source, "fitted", along, ranges, moved=moved, error="one standard error of the fit")
    _READ[name] = rule
    return rule


def curves_of_law(law: str, values: Mapping[str, float]) -> Callable[[float], Curve]:
    """From c to the curve of least loss of a law of :mod:`depthwidth.fitting` with the coefficients `values`.

    Raises
    ------
    InputError
        if the law does not determine shapes.
    """
    if law not in _OF_LAW:
        raise InputError(f"the law {shown(law)} has no shape of least loss; rules follow from {', '.join(_OF_LAW)}")
    return _OF_LAW[law](values, {})[0]


_Made = tuple[Callable[[float], Curve], Callable[[float], dict[str, Curve]]]


def _power_terms_rule(width: Formula, error: Formula, names: tuple[str, str, str, str]) -> Callable[..., _Made]:
    """The rule of a law with a power of the width and one of the depth; `names` are its factors and exponents."""

    def make(values: Mapping[str, float], covariances: Mapping[tuple[str, str], float]) -> _Made:
        own = dict(zip(("A", "alpha", "B", "beta"), (values[name] for name in names), strict=True))
        # Of a factor the law's own error formula takes the logarithm, whose error is the relative one.
        scale = {"ln_A": 1 / own["A"], "alpha": 1.0, "ln_B": 1 / own["B"], "beta": 1.0}
        terms = {}
        for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(scale), 2):
            entry = covariances.get((names[i], names[j]), 0.0) * scale[a] * scale[b]
            terms[f"var_{a}" if a == b else f"cov_{a}_{b}"] = entry
        curve = _curve_over_depth(width, **own)
        width_at = width.with_fixed(**own)
        if not covariances:
            return _independent_of_c(curve), lambda c: {}
        return _independent_of_c(curve), lambda c: _shift_curve(width_at, error.with_fixed(**terms, **own))

    return make


def _line_rule(values: Mapping[str, float], covariances: Mapping[tuple[str, str], float]) -> _Made:
    own = {"a": values["a"], "b": values["b"]}
    width_at = laws.levine_width.with_fixed(**own)
    terms = {"var_a": covariances.get(("a", "a"), 0.0), "var_b": covariances.get(("b", "b"), 0.0)}
    terms["cov_ab"] = covariances.get(("a", "b"), 0.0)
    curve = _curve_over_depth(laws.levine_width, **own)
    error_at = laws.levine_relative_width_error.with_fixed(**terms)
    return _independent_of_c(curve), lambda c: _shift_curve(width_at, error_at) if covariances else {}


def _penalty_rule(values: Mapping[str, float], covariances: Mapping[tuple[str, str], float]) -> _Made:
    own = {name: values[name] for name in ("x0", "s", "N_0")}
    sizes = values["non_embedding_min"], values["non_embedding_max"]

    def moved(c: float) -> dict[str, Curve]:
        return {
            f"{name} {sign:+d} standard error": _measured_curve(c, sizes, **{**own, name: own[name] + sign * error})
            for name in ("x0", "s")
            for error in (math.sqrt(covariances.get((name, name), 0.0)),)
            for sign in (-1, 1)
            if error
        }

    return lambda c: _measured_curve(c, sizes, **own), moved


OWN_LAW = "own"
"""The name under which a fit of a law in one's own words is saved; the law stands in the notes of its coefficients."""


def _own_law_rule(note: str) -> Callable[..., _Made]:
    """The rule of a law in one's own words, whose shapes of least loss are found on a grid."""

    def make(values: Mapping[str, float], covariances: Mapping[tuple[str, str], float]) -> _Made:
        from .own_laws import OwnLaw, curve_of

        law = OwnLaw(note.partition(";")[0], values)
        least = functools.cache(law.least)
        least(12.0)  # a law without an optimum is refused before it is requested

        def moved(c: float) -> dict[str, Curve]:
            error = law.error(c, covariances)
            named = {"minus one standard error": -error, "plus one standard error": error}
            return {name: curve_of(least(c), c, shift) for name, shift in named.items()}

        return lambda c: curve_of(least(c), c), lambda c: moved(c) if covariances else {}

    return make


def _curve_over_depth(width: Formula, **coefficients: float) -> Curve:
    width_at = _load_lazily(width, coefficients)
    return lambda depth: (depth, width_at()(depth))


def _curve_over_width(depth: Formula, **coefficients: float) -> Curve:
    depth_at = _load_lazily(depth, coefficients)
    return lambda width: (depth_at()(width), width)


def _load_lazily(formula: Formula, coefficients: dict[str, float]) -> Callable[[], Callable[..., float]]:
    """The formula with its coefficients filled in, which are read from their file when a curve is first followed."""
    return functools.cache(lambda: formula.with_fixed(**coefficients))


def _independent_of_c(curve: Curve) -> Callable[[float], Curve]:
    """A curve that does not depend on c, the parameters of a block."""
    return lambda c: curve


def _shift_curve(width_at: Callable[[float], float], error_at: Callable[[float], float]) -> dict[str, Curve]:
    """The curve with ln(width) at every depth moved by its standard error, down and up."""

    def moved(sign: int) -> Curve:
        return lambda depth: (depth, width_at(depth) * math.exp(sign * error_at(depth)))

    return {"minus one standard error": moved(-1), "plus one standard error": moved(+1)}


def _levine_variants(c: float) -> dict[str, Curve]:
    known = covariance("levine2020")
    terms = {"var_a": known["a", "a"], "var_b": known["b", "b"], "cov_ab": known["a", "b"]}
    return _shift_curve(laws.levine_width.with_fixed(), laws.levine_relative_width_error.with_fixed(**terms))


def _gemstones_variants(c: float) -> dict[str, Curve]:
    known = covariance("gemstones2025")
    names = ("ln_A", "alpha", "ln_B", "beta")
    terms = {f"cov_{a}_{b}" if a != b else f"var_{a}": known[a, b] for i, a in enumerate(names) for b in names[i:]}
    return _shift_curve(laws.gemstones_width.with_fixed(), laws.gemstones_relative_width_error.with_fixed(**terms))


def _shift_by_stderr(law: str, names: tuple[str, ...], curve: Callable[..., Curve]) -> dict[str, Curve]:
    """A curve with one coefficient at a time moved by its standard error, either way."""
    found = {}
    for row in (coefficient(law, name) for name in names):
        for sign in (-1, 1):
            found[f"{row.name} {sign:+d} standard error"] = curve(**{row.name: row.value + sign * (row.stderr or 0.0)})
    return found


def _completep(c: float) -> Curve:
    aspect_at = _load_lazily(laws.completep_aspect, {})
    depth_at = _load_lazily(laws.constant_aspect_depth, {"c": c})

    def curve(parameters: float) -> tuple[float, float]:
        aspect = aspect_at()(parameters)
        depth = depth_at()(parameters, aspect)
        return depth, aspect * depth

    return curve


@functools.cache
def _gpt3_points() -> tuple[tuple[float, float], ...]:
    return tuple((float(row["width"]), float(row["depth"])) for row in reference("gpt3_family"))


def _gpt3_depth(width: float) -> float:
    """Depth of a GPT-3-like model of this width: the depths of the family, interpolated on a log-log scale.

    Beyond the widest and the narrowest model, the ratio of that model is kept.
    """
    points = _gpt3_points()
    first, last = points[0], points[-1]
    if width <= first[0] or width >= last[0]:
        end = first if width <= first[0] else last
        return width * end[1] / end[0]
    for (w0, d0), (w1, d1) in itertools.pairwise(points):
        if width <= w1:
            share = math.log(width / w0) / math.log(w1 / w0)
            return float(d0 * (d1 / d0) ** share)
    raise AssertionError("the widths of the family are in order")


MEASURED_SIZES = (2.3e7, 1.8e9)
"""Sizes of the models on which the loss penalty and the best width were measured, in parameters without the embedding."""


def _measured_curve(c: float, sizes: tuple[float, float] = MEASURED_SIZES, **coefficients: float) -> Curve:
    width_at = _load_lazily(shape_penalty.penalised_best_width, coefficients)
    low, high = sizes

    def curve(parameters: float) -> tuple[float, float]:
        # The drift was measured over two decades and is extrapolated by one more; further out it would reverse.
        if parameters < low / 10:
            raise InputError("the measured curve begins at a tenth of its smallest model")
        if parameters > high * 10:
            raise OverflowError("the measured curve ends at ten times its largest model")
        width = width_at()(parameters)
        # The law gives the optimal width for a number of parameters; the depth follows from the parameters of a block.
        return parameters / (c * width**2), width

    return curve


def _combined_curve(c: float, moved: int = 0) -> Curve:
    """The combined line, or that line moved by a number of its errors at each size."""
    width_at, error_at = _load_lazily(laws.combined_optimal_width, {}), _load_lazily(laws.combined_relative_width_error, {})

    def curve(parameters: float) -> tuple[float, float]:
        width = width_at()(parameters)
        if moved:
            width *= math.exp(moved * error_at()(parameters))
        return parameters / (c * width**2), width

    return curve


_OF_LAW: dict[str, Callable[..., _Made]] = {
    "gemstones": _power_terms_rule(laws.gemstones_width, laws.gemstones_relative_width_error, ("A", "alpha", "B", "beta")),
    "inverse-depth": _power_terms_rule(
        laws.gemstones_width, laws.gemstones_relative_width_error, ("c_m", "alpha_m", "c_l", "alpha_l")
    ),
    "crossings": _line_rule,
    "shape-penalty": _penalty_rule,
}
"""From the name of a law that was fitted to its rule."""

_RULES = (
    Rule(
        "levine2020",
        laws.levine_width.source,
        laws.levine_width.kind,
        _independent_of_c(_curve_over_depth(laws.levine_width)),
        fitted_on=(("depth", 6, 48),),
        moved=_levine_variants,
        error="one standard error of the fit, whose covariance is recalled, not confirmed",
    ),
    Rule(
        "gemstones2025",
        laws.gemstones_depth.source,
        laws.gemstones_depth.kind,
        _independent_of_c(_curve_over_width(laws.gemstones_depth)),
        fitted_on=(("depth", 3, 80), ("width", 256, 3072)),
        moved=_gemstones_variants,
        error="one standard error from our jackknife over the 22 models",
    ),
    Rule(
        "liu2026",
        laws.liu_depth.source,
        laws.liu_depth.kind,
        _independent_of_c(_curve_over_width(laws.liu_depth)),
        moved=lambda c: _shift_by_stderr(
            "liu2026", ("alpha_m", "alpha_l"), functools.partial(_curve_over_width, laws.liu_depth)
        ),
        error="one standard error of one exponent at a time, as their covariance is not published",
    ),
    Rule(
        "measured2025",
        shape_penalty.penalised_best_width.source,
        shape_penalty.penalised_best_width.kind,
        _measured_curve,
        fitted_on=(("parameters", *MEASURED_SIZES),),
        moved=lambda c: _shift_by_stderr("shape_penalty", ("x0", "s"), functools.partial(_measured_curve, c)),
        error="one standard error of one coefficient at a time",
    ),
    Rule(
        "completep2025",
        laws.completep_aspect.source,
        laws.completep_aspect.kind,
        _completep,
        fitted_on=(("parameters", 5e7, 1.5e9),),
    ),
    Rule(
        "nanochat",
        laws.nanochat_width.source,
        laws.nanochat_width.kind,
        _independent_of_c(_curve_over_depth(laws.nanochat_width)),
    ),
    Rule("marin", laws.marin_depth.source, laws.marin_depth.kind, _independent_of_c(_curve_over_width(laws.marin_depth))),
    Rule(
        "gpt3",
        "Brown et al. 2020, arXiv 2005.14165, Table 2.1, joined on a log-log scale",
        "heuristic",
        _independent_of_c(lambda width: (_gpt3_depth(width), width)),
        fitted_on=(("width", 768, 12288),),
        comparison=True,
    ),
    Rule(
        "sovit2023",
        laws.sovit_width.source,
        laws.sovit_width.kind,
        _independent_of_c(_curve_over_depth(laws.sovit_width)),
        images=True,
    ),
    Rule(
        "combined2026",
        laws.combined_optimal_width.source,
        laws.combined_optimal_width.kind,
        _combined_curve,
        fitted_on=(("parameters", 3.33728e6, 1e10),),
        pooled=True,
        moved=lambda c: {f"{sign:+d} standard error": _combined_curve(c, sign) for sign in (-1, 1)},
        error="one standard error, the spread between sources included",
    ),
)
