"""Language models of a given depth and width, trained on equal tokens: shared by the jobs that compare shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from depthwidth.formula import find_formula
from depthwidth.formulas.scaling import kaplan_nonembedding_parameters
from depthwidth.plots.measured import draw_means

from ..rows import Row
from . import Prediction, Run, version_of
from ._training import decisions_of, training_flops

LEARNING_RATE = 4e-3
"""Learning rate at CompleteP's base shape, width 256 and depth 2; the recipe transfers it to the other shapes."""


@dataclass(frozen=True)
class Budget:
    """The resources and settings that all compared shapes have in common."""

    steps: int
    batch: int
    context: int
    limit: int
    """Bytes of text."""
    vocab: int
    """Larger than any trained width; otherwise the embedding is a bottleneck (Wies et al. 2021)."""
    precision: str
    seeds: int
    head_dim: int
    """The same for every shape, so that shapes differ in depth and width alone; all widths are multiples of it."""


def shape_run(depth: int, width: int, budget: Budget, data: Mapping[str, Any], seed: int, labels: Mapping[str, Any]) -> Run:
    """One training of one shape; under CompleteP one learning rate suits all shapes."""
    # Rotary positions: with learned ones, short trainings end before a model of few layers attends beyond the last token, and
    # the comparison would be of when that begins.
    tree = {
        "depth": depth, "width": width, "heads": width // budget.head_dim, "vocab": budget.vocab,
        "context": budget.context, "positions": "rotary", "activation": "gelu", "bias": False, "tied": False,
    }  # fmt: skip
    training = {
        "steps": budget.steps, "batch": budget.batch, "context": budget.context, "learning_rate": LEARNING_RATE,
        "warmup": budget.steps // 10, "evaluate_batches": 32, "precision": budget.precision,
    }  # fmt: skip
    spec = {
        "tree": tree, "scheme": "completep", "options": {"base_width": 256, "base_depth": 2}, "data": dict(data),
        "training": training, "dtype": budget.precision,
    }  # fmt: skip
    spec["decided"] = decisions_of(spec)
    # Half a GPU: two models of this size share one without slowing each other by half.
    shape = {"depth": depth, "width": width, "size": kaplan_nonembedding_parameters(depth, width)}
    return Run(spec, seed, {**labels, **shape}, (), training_flops(spec), gpus=0.5)


def from_shape(quantity: str, value: float, formula: str, site: str = "") -> Prediction:
    """A prediction by one of the formulas for shapes."""
    found = find_formula(formula)
    return Prediction(quantity, value, found.name, version_of(found.__module__), site)


def losses(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[float]]:
    """Final losses, one per seed, grouped by the values of some labels."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if row.quantity == "loss":
            found.setdefault(tuple(row.labels[name] for name in names), []).append(row.value)
    return found


def draw_losses(
    axes: Any,
    cells: Mapping[tuple[Any, ...], Sequence[float]],
    label: Callable[..., str],
    across: str,
    marks: Mapping[tuple[Any, ...], float] = {},
) -> None:
    """Mean loss over seeds, with its standard error, against the last label that :func:`losses` grouped by.

    There is one line for each value of the other labels.

    `marks` are places on that axis, as of a predicted best one, by the values of the other labels.
    """
    groups = {label(*group): group for group in sorted({key[:-1] for key in cells})}
    series = {name: {key[-1]: cell for key, cell in cells.items() if key[:-1] == group} for name, group in groups.items()}
    marked = {name: marks[group] for name, group in groups.items() if group in marks}
    draw_means(axes, series, across, "validation loss (nats per token)", marks=marked)


def seed_noise(cells: Sequence[Sequence[float]]) -> float:
    """Standard deviation of a single loss over seeds, pooled over the cells; NaN if every cell has one seed."""
    squares = sum((value - mean(cell)) ** 2 for cell in cells for value in cell)
    freedom = sum(len(cell) - 1 for cell in cells)
    return float((squares / freedom) ** 0.5) if freedom else float("nan")
