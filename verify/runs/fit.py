"""Laws fitted to the rows of a store, by the engine of :mod:`depthwidth.fitting`.

Errors treat runs, not points, as independent, because the points of one training run share its random numbers.

It is not the lmfit library, for three reasons. lmfit's standard errors assume independent points: it has neither a
cluster-robust covariance nor a bootstrap over runs. Its ``ExpressionModel`` evaluates expressions with asteval, an interpreter,
whereas laws are read here by a parser with a whitelist, which cannot execute code. Its profile confidence intervals are
available here as ``method="profile"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthwidth.cli.output import as_csv
from depthwidth.errors import InputError, nearest, shown
from depthwidth.fitting import Fit, Runs, fit_runs, own_law
from depthwidth.fitting.fit import start_ranges
from depthwidth.fitting.problem import Objective
from depthwidth.fitting.saving import save

from ..files import write_whole
from ..rows import Row

Array = NDArray[np.float64]
Point = Mapping[str, Any]

STARTS = 8
"""Number of random starting points within a factor of three of the given one; the best of all fits is used."""


def fit_law(
    law: str,
    rows: Sequence[Point],
    start: Mapping[str, float],
    *,
    logarithm: bool = False,
    group: str = "",
    method: str = "bootstrap",
    draws: int = 300,
    seed: int = 0,
    held_out: bool = False,
) -> Fit:
    """Fit the coefficients of a law by least squares, with errors and covariance.

    Parameters
    ----------
    law : for example ``"loss = E + A * width**-alpha"``: a column on the left, and on the right numbers, columns, coefficients,
        ``+ - * / **``, brackets, ``exp``, ``log`` and ``sqrt``. The parser accepts nothing else and executes no code.
    rows : one row per point.
    start : names of the coefficients, each with an approximate value at which the search starts.
    logarithm : fit the logarithm of both sides, so that errors are relative.
    group : column with the name of each point's run; by default every point is a run of its own. Points of one run share its
        random numbers, so the bootstrap draws runs and not points.
    method : ``bootstrap`` (fits to runs drawn with replacement), ``curvature`` (of the sum of squares at its minimum),
        ``profile`` (the covariance of ``curvature``; an interval ends at the value of a coefficient at which the sum of
        squares, minimised over the other coefficients, exceeds its minimum by the amount of one standard error) or ``none``.
    draws, seed : number of bootstrap fits, and seed of the random numbers.
    held_out : also predict each run from the others.

    Returns
    -------
    :class:`depthwidth.fitting.Fit`.

    Notes
    -----
    If each run has one point, ``curvature`` assumes equal and independent errors: the covariance is s^2 (J'J)^-1. If a run has
    several points, it is the cluster-robust (sandwich) covariance over runs, which makes no assumption about correlation within
    a run (Liang and Zeger 1986, Biometrika 73, 13). Residuals are then corrected for leverage (Bell and McCaffrey 2002);
    Cameron and Miller 2015, J. Human Resources 50, 317, review both. Intervals use Student's distribution with as many degrees
    of freedom as there are runs more than coefficients. ``profile`` needs independent points.

    Raises
    ------
    InputError
        if the law cannot be read, a column is missing, there are too few runs, the rows do not determine a coefficient, or the
        method is ``profile`` and a run has several points.
    """
    own = own_law(law, tuple(start), start_ranges(start))
    data = {column: _column(rows, column) for column in own.columns}
    models, model = np.unique([str(row[group]) for row in rows] if group else np.arange(len(rows)), return_inverse=True)
    runs = Runs(data, model, tuple(map(str, models)), {column: column for column in data})
    return fit_runs(
        runs, own, objective=Objective(None, logarithm), errors=method, draws=draws, held_out=held_out, starts=STARTS,
        seed=seed, guesses=[start],
    )  # fmt: skip


def _column(rows: Sequence[Point], name: str) -> Array:
    try:
        found = np.array([float(row[name]) for row in rows])
    except KeyError:
        known = sorted({key for row in rows for key in row})
        raise InputError(f"fit: the rows have no column {shown(name)}{nearest(name, known)}") from None
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"fit: not every row has a number in column {shown(name)}") from None
    if not np.isfinite(found).all():
        raise InputError(f"fit: column {shown(name)} contains {found[~np.isfinite(found)][0]}; remove such rows")
    return found


def points(rows: Sequence[Row], site: str = "", steps: str = "last") -> list[dict[str, Any]]:
    """Convert rows of a store to points for a fit: one per run and step, with labels and quantities as columns.

    Parameters
    ----------
    rows : rows of a store.
    site : site whose quantities are used; by default the quantities without a site.
    steps : ``last`` for the last step of each run, ``all`` for every step. Quantities without a step are in every point.

    Returns
    -------
    Points with `run`, `seed`, `step`, the labels and the quantities. Values that are not finite, such as the loss of a diverged
    run, are omitted.

    Raises
    ------
    InputError
        if `steps` is neither ``last`` nor ``all``.
    """
    if steps not in ("last", "all"):
        raise InputError(f"fit: steps={shown(steps)} is not one of last, all")
    runs: dict[str, list[Row]] = {}
    for row in rows:
        if row.site == site and np.isfinite(row.value):
            runs.setdefault(row.run, []).append(row)
    found = []
    for run, its in runs.items():
        always = {row.quantity: row.value for row in its if row.step is None}
        known: list[int | None] = [*sorted({row.step for row in its if row.step is not None})] or [None]
        for step in known if steps == "all" else known[-1:]:
            here = {row.quantity: row.value for row in its if row.step == step}
            found.append({"run": run, "seed": its[0].seed, "step": step, **its[0].labels, **always, **here})
    return found


def save_fit(
    found: Fit, folder: str | Path, name: str, rows: Sequence[Point], *, unit: Mapping[str, str] | None = None
) -> Path:
    """Write a fit in the format of ``data/coefficients``: its coefficients, its covariance, and the fitted rows.

    Parameters
    ----------
    found : the fit.
    folder : folder for ``NAME.csv``, ``NAME.covariance.csv`` and ``NAME.rows.csv``.
    name : name of the law: lower-case letters, digits and underscores.
    rows : the rows that were fitted.
    unit : unit of each coefficient that is not dimensionless.

    Returns
    -------
    The path of ``NAME.csv``.

    Raises
    ------
    InputError
        if the name is invalid or the folder cannot be written to.
    """
    if "/" in name or "." in name:
        raise InputError(f"fit: the name of a law consists of lower-case letters, digits and _, not {shown(name)}")
    path = save(found, Path(folder) / name, edition=found.method, unit=unit)
    try:
        write_whole(path.with_name(f"{name}.rows.csv"), as_csv(rows).encode())
    except OSError as error:
        raise InputError(f"fit: {shown(str(folder))} cannot be written to ({error.strerror})") from None
    return path
