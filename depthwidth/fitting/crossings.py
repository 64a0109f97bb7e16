"""Sizes at which a deeper network overtakes a shallower one, from losses of runs at several widths of each depth."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .table import Runs

Array = NDArray[np.float64]

_SIZES = 4
"""Sizes that a depth must have: a parabola has three coefficients."""


def crossings(runs: Runs) -> Runs:
    """The shapes at which neighbouring depths have equal loss, as runs with `depth` and `width`.

    Parameters
    ----------
    runs : with `width`, `depth`, `non_embedding` and `loss`, and `tokens` if these vary: only equal numbers are compared.

    Returns
    -------
    One row a crossing. For each depth ln(loss) is a parabola in ln(size); where those of two depths cross, the deeper one
    falling below, the depth is the geometric mean of the two, and the width that of 12 depth width^2 parameters. Each pair of
    depths is one model.

    Raises
    ------
    InputError
        if fewer than three pairs of depths cross.
    """
    tokens = runs.columns.get("tokens", np.ones(runs.rows))
    found: list[tuple[float, float, str]] = []
    skipped = 0
    for amount in np.unique(tokens):
        here = tokens == amount
        curves = {}
        for depth in np.unique(runs["depth"][here]):
            its = here & (runs["depth"] == depth)
            size = np.log(runs["non_embedding"][its])
            if len(np.unique(size)) >= _SIZES:
                curves[float(depth)] = (np.polyfit(size, np.log(runs["loss"][its]), 2), size.min(), size.max())
            else:
                skipped += 1
        for shallow, deep in pairwise(sorted(curves)):
            size_of = _crossing(curves[shallow], curves[deep])
            if size_of is not None:
                depth = float(np.sqrt(shallow * deep))
                found.append((depth, float(np.sqrt(np.exp(size_of) / (12 * depth))), f"{shallow:g} and {deep:g}"))
    if len({pair for _, _, pair in found}) < 3:
        raise InputError(
            f"fit: {len(found)} pairs of neighbouring depths cross, and a line with errors needs three; each depth needs "
            f"{_SIZES} sizes at equal tokens"
        )
    models, model = np.unique([pair for _, _, pair in found], return_inverse=True)
    notes = [*runs.notes, f"{len(found)} crossings of neighbouring depths, from parabolas of ln(loss) in ln(size)"]
    if skipped:
        notes.append(f"{skipped} depths have fewer than {_SIZES} sizes at equal tokens and are left out")
    columns = {"depth": np.array([row[0] for row in found]), "width": np.array([row[1] for row in found])}
    return Runs(columns, model, tuple(map(str, models)), runs.guesses, tuple(notes))


def _crossing(one: tuple[Array, float, float], other: tuple[Array, float, float]) -> float | None:
    """The one ln(size) in the common range at which the deeper curve, `other`, falls below the shallower; None without one."""
    difference = np.asarray(other[0] - one[0])
    low, high = max(one[1], other[1]), min(one[2], other[2])
    roots = [float(root.real) for root in np.roots(difference) if abs(root.imag) < 1e-9]
    slope = np.polyder(difference)
    falling = [root for root in roots if low <= root <= high and np.polyval(slope, root) < 0]
    return falling[0] if len(falling) == 1 else None
