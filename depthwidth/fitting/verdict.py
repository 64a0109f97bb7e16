"""Words on a fit: which coefficients the rows do not pin down, which go together, and signs that the law is the wrong one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .laws import Law
from .result import HeldOut, central

Array = NDArray[np.float64]

LOOSE, UNKNOWN = 3.0, 10.0
"""Upper over lower end of the 95 % interval of a positive coefficient above which it is loosely known, and not pinned down.
Of one that may have either sign the half of the interval counts: 0.6 and 5 times its size."""
TOGETHER = 0.95
"""Correlation above which two coefficients are known only together."""
CONTRADICTED = (2.0, 1.25)
"""A law is contradicted if a smooth surface predicts unseen models better by this many standard errors, and by this factor."""


def judge_coefficients(law: Law, names: Sequence[str], values: Array, intervals_95: Array) -> dict[str, str]:
    """The fault of each coefficient that the rows do not pin down, by name."""
    found = {}
    for name, value, (low, high) in zip(names, values, intervals_95, strict=True):
        ends = f"95 % from {_size(low)} to {_size(high)}"
        if name in law.positive:
            span = high / max(low, 1e-300)
            loose, unknown = span > LOOSE, span > UNKNOWN
        else:
            half = (high - low) / 2
            loose, unknown = half > 0.6 * abs(value), half > 5 * abs(value) and half > 0
        if not np.isfinite([low, high]).all() or unknown:
            found[name] = f"not pinned down: {ends}"
        elif low < 0 < high:
            found[name] = f"sign not determined: {ends}"
        elif loose:
            found[name] = f"loosely known: {ends}"
    return found


def _size(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e15 else "no upper end" if value > 0 else "no lower end"


def sentences(
    law: Law,
    names: Sequence[str],
    verdicts: Mapping[str, str],
    correlation: Array,
    term_sizes: Sequence[TermSize],
    held_out: HeldOut | None,
    in_sample: float,
    influence: tuple[str, str, float, float] | None,
    starts: int,
    reached: int,
) -> tuple[str, ...]:
    """Caveats on the fit as a whole, most important first."""
    found = []
    if held_out is not None:
        found += _on_the_law(held_out, in_sample)
    unknown = [name for name in names if verdicts.get(name, "").startswith("not")]
    if unknown:
        one = len(unknown) == 1
        found.append(f"The rows do not pin down {_and(unknown)}: do not use {'its value' if one else 'their values'} alone")
    together = [
        f"{names[i]} and {names[j]} ({correlation[i, j]:+.2f})"
        for i in range(len(names))
        for j in range(i)
        if abs(correlation[i, j]) > TOGETHER
    ]
    if together:
        more = f" and {len(together) - 4} other pairs" if len(together) > 4 else ""
        found.append(f"Known only together, with their correlation: {', '.join(together[:4])}{more}")
    for term in term_sizes:
        state = "is known" if term.high < 1.5 * term.low else "is uncertain too"
        found.append(
            f"The {term.column} term {state}: {term.value:.3g} ({term.low:.3g} to {term.high:.3g}, 68.3 %) "
            f"at {term.column} {term.centre:.3g}"
        )
    if influence is not None:
        model, name, value, other = influence
        found.append(f"One model matters most: without {model}, {name} is {other:.3g} and not {value:.3g}")
    if starts > 1 and reached < 2:
        found.append(f"Only {reached} of {starts} searches reached this minimum; more --starts may find a lower one")
    return tuple(found)


def _on_the_law(held_out: HeldOut, in_sample: float) -> list[str]:
    found = []
    if held_out.surface is not None and held_out.surface_gap is not None:
        gap, error = held_out.surface_gap
        sure, factor = CONTRADICTED
        if gap > sure * error and held_out.one_model > factor * held_out.surface:
            found.append(
                f"The rows contradict the form of the law: it predicts unseen models to {held_out.one_model:.2%}, "
                f"a quadratic surface in the same logarithms to {held_out.surface:.2%}"
            )
    if held_out.one_model > 3 * max(in_sample, 1e-9) and held_out.one_model > 1e-4:
        found.append(
            f"Unseen models are predicted {held_out.one_model / max(in_sample, 1e-9):.1f} times worse than fitted ones: "
            "the law is not settled by these rows"
        )
    return found


@dataclass(frozen=True)
class TermSize:
    """The size of one term of a law at the centre of its column."""

    column: str
    centre: float
    value: float
    low: float
    high: float


def term_sizes(law: Law, names: Sequence[str], values: Array, draws: Array, centres: Mapping[str, float]) -> list[TermSize]:
    """The size of each term at the geometric mean of its column, with its 68.3 % interval over bootstrap fits."""
    found = []
    for factor, exponent, column in law.terms if len(draws) else ():
        i, j = names.index(factor), names.index(exponent)

        def size(at: Array, i: int = i, j: int = j, centre: float = centres[column]) -> Array:
            with np.errstate(over="ignore", under="ignore"):
                return np.asarray(np.exp(np.log(np.maximum(at[..., i], 1e-300)) - at[..., j] * np.log(centre)))

        low, high = central(size(draws)[:, None])[0]
        found.append(TermSize(column, centres[column], float(size(values)), float(low), float(high)))
    return found


def most_influential(
    names: Sequence[str], values: Array, stderr: Array, left_out: Array, models: Sequence[str]
) -> tuple[str, str, float, float] | None:
    """The model without which a coefficient moves most, the coefficient, its value, and that without the model.

    None if no model moves one by more than its standard error.
    """
    moved = np.abs(left_out - values) / np.where(stderr > 0, stderr, np.inf)
    model, name = divmod(int(np.argmax(moved)), moved.shape[1])
    if len(left_out) != len(models) or not moved[model, name] > 1:
        return None
    return models[model], names[name], float(values[name]), float(left_out[model, name])


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
