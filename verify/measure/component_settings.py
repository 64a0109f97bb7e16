"""The settings for the simulation of single components: the grids of Kedia et al. 2024, and attention beyond them.

A :class:`Problem` is a setting to simulate. The settings of a grid that differ from it by an exact factor (the scale of a
weight, an input or a gradient) share its draws; a :class:`Cell` is a group of such settings.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from depthwidth.analysis.component_grid import GRIDS


@dataclass(frozen=True)
class Problem:
    """A setting to simulate; `settings` are the values that are not exact factors of the result."""

    component: str
    grid: str
    settings: tuple[tuple[str, float], ...]

    @property
    def key(self) -> str:
        """The settings as text, the first part of the site of each row of this problem."""
        return " ".join(f"{name}={_short(value)}" for name, value in self.settings)

    def __getitem__(self, name: str) -> Any:
        return dict(self.settings)[name]


def _short(value: float) -> str:
    return f"{value:.4g}"


@dataclass(frozen=True)
class Cell:
    """Settings of a problem with the same relative error."""

    free: dict[str, float]
    """Settings that are not fixed by the problem and change the relative error."""
    quantities: tuple[str, ...]
    stands_for: int
    """Number of settings of the grid in this group."""


def problems() -> list[Problem]:
    """All problems: the grids of Kedia et al., and attention outside them."""
    official = [Problem(component, "official", settings) for component, settings in _official()]
    return official + list(_beyond_grids())


_DRAWN = {
    "linear": ("inputs", "outputs", "length"),
    "relu": ("std", "correlation", "length"),
    "gelu": ("std", "correlation", "length"),
    "layernorm": ("correlation", "width", "length"),
    "dropout": ("dropout", "width", "length"),
    "softmax": ("std", "correlation", "length"),
    "attention": ("correlation", "score_std", "width", "head_dim", "length"),
}
"""The axes of each grid that need simulation; all others are exact factors, or sums of exact factors."""


def _official() -> Iterator[tuple[str, tuple[tuple[str, float], ...]]]:
    for component, names in _DRAWN.items():
        for values in itertools.product(*(GRIDS[component][name] for name in names)):
            yield component, tuple(zip(names, values, strict=True))


def _beyond_grids() -> Iterator[Problem]:
    """Short sequences, large score variances, masks, cross-attention and ALiBi, on tokens of equal norm."""
    for width, head_dim in ((128, 64), (512, 64)):
        for r, s in itertools.product((0.0, 0.3, 0.8), (1.0, 4.0)):
            for length in (2, 4, 8, 16, 32, 64):
                yield _attention("short", r, s, width, head_dim, length)
    for r, s, length in itertools.product((0.0, 0.3, 0.8), (4.0, 9.0), (128, 256)):
        yield _attention("large variance", r, s, 256, 64, length)
    for width, r, s, length in itertools.product((128, 512), (0.0, 0.3, 0.8), (0.25, 1.0, 4.0), (8, 64, 256)):
        yield _attention("causal", r, s, width, 64, length)
    for r, rho, s, (queries, keys) in itertools.product(
        (0.0, 0.5), (0.0, 0.3, 0.8), (0.25, 1.0, 4.0), ((16, 64), (64, 16), (128, 128))
    ):
        yield _attention("cross", r, s, 256, 64, keys, row_correlation=rho, queries=queries)
    for r, s, length, heads in itertools.product((0.0, 0.3), (0.01, 0.25, 1.0, 4.0), (16, 64, 256), (1, 4, 16)):
        yield _attention("alibi", r, s, 256, 64, length, heads=heads)


def _attention(grid: str, correlation: float, s: float, width: int, head_dim: int, length: int, **others: float) -> Problem:
    settings = {"correlation": correlation, "score_variance": s, "width": width, "head_dim": head_dim, "length": length}
    return Problem("attention", grid, tuple((settings | others).items()))


def sample(wanted: int | None, seed: int) -> list[Problem]:
    """All problems, or a seeded sample of `wanted` problems per component and grid."""
    every = problems()
    if wanted is None:
        return every
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in every:
        groups.setdefault((problem.component, problem.grid), []).append(problem)
    chosen = random.Random(seed)  # noqa: S311  (which settings are drawn, not a secret)
    return [p for group in groups.values() for p in sorted(chosen.sample(group, min(wanted, len(group))), key=every.index)]


# ---- settings that a problem does not fix ----

_FORWARD = ("variance", "covariance")
_BACKWARD = ("gradient_variance", "gradient_covariance")
BEYOND_MIXES = ((0.0, 0.0), (0.0, 0.3), (0.1, 0.3))
"""Dropout rate and correlation of the gradient, for attention beyond the grids."""


def cells(problem: Problem) -> Iterator[Cell]:
    """The groups of settings, with their quantities, that the simulation of a problem covers."""
    component = problem.component
    if component in ("linear", "dropout"):
        grid, each = GRIDS[component], {"linear": (27, 243), "dropout": (9, 81)}[component]
        for mean, std, r in itertools.product(grid["mean"], grid["std"], grid["correlation"]):
            # The relative error of the mean of a dropout's output is defined only if the mean is not 0.
            moments = ("mean", *_FORWARD) if component == "dropout" and mean else _FORWARD
            yield Cell({"mean": mean, "std": std, "correlation": r}, moments, each[0])
        for r in grid["gradient_correlation"]:
            yield Cell({"gradient_correlation": r}, _BACKWARD, each[1])
    elif component == "attention":
        yield from _attention_cells(problem)
    else:
        quantities, stands_for = {
            "relu": (("mean", *_FORWARD, *_BACKWARD), 15),
            "gelu": (("mean", *_FORWARD, *_BACKWARD), 15),
            "layernorm": ((*_FORWARD, *_BACKWARD), 135),
            "softmax": (("variance", "gradient_variance"), 5),
        }[component]
        yield Cell({}, quantities, stands_for)


def mixes(problem: Problem) -> tuple[tuple[float, float], ...]:
    """Dropout rates and gradient correlations of an attention problem."""
    grid = GRIDS["attention"]
    official = tuple(itertools.product(grid["dropout"], grid["gradient_correlation"]))
    return official if problem.grid == "official" else BEYOND_MIXES


def _attention_cells(problem: Problem) -> Iterator[Cell]:
    official = problem.grid == "official"
    backward = (*_BACKWARD, *(f"query_{name}" for name in _BACKWARD if problem.grid == "cross"))
    yield Cell({}, ("covariance",), 81 if official else 1)
    for p in dict.fromkeys(p for p, _ in mixes(problem)):
        yield Cell({"dropout": p}, ("variance",), 27 if official else 1)
    for p, r in mixes(problem):
        yield Cell({"dropout": p, "gradient_correlation": r}, backward, 9 if official else 1)


def site(problem: Problem, free: dict[str, float]) -> str:
    """A setting as text: the site of its rows."""
    return " ".join((problem.key, *(f"{name}={_short(value)}" for name, value in free.items())))


def settings_of(component: str, grid: str, text: str) -> tuple[tuple[str, float], ...]:
    """The settings in the site of a row, with all digits of the grid: the inverse of :func:`site`."""
    axes = GRIDS[component] if grid == "official" else {"gradient_correlation": (0.0, 0.3), "dropout": (0.0, 0.1)}
    settings = []
    for part in text.split():
        name, _, value = part.partition("=")
        settings.append((name, next((known for known in axes.get(name, ()) if _short(known) == value), float(value))))
    return tuple(settings)
