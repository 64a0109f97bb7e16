"""The matrix of least nuclear norm that fits linear measurements: a solver of our own with a bound, and a maintained one.

The problem is convex: its minimum is the reference for gradient flows on factors (:mod:`depthwidth.formulas.implicit_rank`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import InputError

Array = Any
SOLVERS = {
    "splitting": "alternating projections with multipliers, written here; it gives a lower bound too",
    "convex": "cvxpy with Clarabel or SCS; needs pip install 'depthwidth[convex]'",
}
MOST_SWEEPS = 20_000
"""Sweeps of the splitting; problems of 20 by 20 take a few thousand."""
_CHECK_EVERY = 20


class LeastNuclearNorm(NamedTuple):
    """The minimiser found, and how far from the minimum it can be."""

    matrix: Array
    value: float
    """Its nuclear norm."""
    bound: float
    """A lower bound of the minimum, from a feasible dual point; the value itself if the solver states none."""
    misfit: float
    """Norm of the error of the measurements, over that of the values."""


def least_nuclear_norm(
    measurements: Array, values: Array, *, semidefinite: bool = False, solver: str = "splitting", tolerance: float = 1e-6
) -> LeastNuclearNorm:
    """The matrix X of least nuclear norm with <A_i, X> = y_i.

    Parameters
    ----------
    measurements : (measurements, rows, columns).
    values : y, (measurements,).
    semidefinite : true to ask for a symmetric X without negative eigenvalues, of least trace.
    solver : a name of :data:`SOLVERS`.
    tolerance : relative, of the distance between the value and the bound, and of the misfit.

    Raises
    ------
    InputError
        if shapes do not fit, a number is not finite, no matrix fits, the solver is unknown or not installed, or it does not
        reach the tolerance.

    Examples
    --------
    >>> found = least_nuclear_norm([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]], [3.0, 4.0])
    >>> round(found.value, 4), found.matrix.round(4).tolist()
    (5.0, [[3.0, 4.0], [0.0, 0.0]])
    """
    import numpy as np

    if solver not in SOLVERS:
        raise InputError(f"least_nuclear_norm: there is no solver {solver!r}; there are {', '.join(SOLVERS)}")
    a, y = np.asarray(measurements, float), np.asarray(values, float)
    if a.ndim != 3 or not a.size or y.shape != (len(a),) or (semidefinite and a.shape[1] != a.shape[2]):
        raise InputError(f"least_nuclear_norm: measurements {a.shape} and values {y.shape} do not fit")
    if not (np.isfinite(a).all() and np.isfinite(y).all()):
        raise InputError("least_nuclear_norm: measurements and values are finite numbers")
    if semidefinite:
        a = (a + a.transpose(0, 2, 1)) / 2
    flat, shape = a.reshape(len(y), -1), a.shape[1:]
    nearest = np.linalg.lstsq(flat, y, rcond=None)[0]
    size = float(np.linalg.norm(y))
    if np.linalg.norm(flat @ nearest - y) > 1e-9 * size:
        raise InputError("least_nuclear_norm: no matrix has these values")
    if not size:
        return LeastNuclearNorm(np.zeros(shape), 0.0, 0.0, 0.0)
    if solver == "convex":
        return _solve_with_cvxpy(flat, y, shape, semidefinite)
    return _solve_by_splitting(flat, y, shape, semidefinite, tolerance)


def _solve_by_splitting(
    flat: Array, y: Array, shape: tuple[int, int], semidefinite: bool, tolerance: float
) -> LeastNuclearNorm:
    """ADMM on the nuclear norm of Z plus the constraint on X, with X = Z and the step adapted to both residuals."""
    import numpy as np

    back = np.linalg.pinv(flat)
    scale = float(np.linalg.norm(back @ y)) or 1.0
    target = y / scale
    z = dual = np.zeros(shape)
    step = 1.0
    best = LeastNuclearNorm(z, np.inf, -np.inf, np.inf)
    for sweep in range(1, MOST_SWEEPS + 1):
        near = (z - dual).ravel()
        x = (near - back @ (flat @ near - target)).reshape(shape)
        before, z = z, _shrunk(x + dual, step, semidefinite)
        dual = dual + x - z
        if sweep % _CHECK_EVERY:
            continue
        best = _bound_value(flat, target, back, z, dual / step, semidefinite)
        if best.value - best.bound <= tolerance * best.value and best.misfit <= tolerance:
            return LeastNuclearNorm(scale * best.matrix, scale * best.value, scale * best.bound, best.misfit)
        apart, moved = float(np.linalg.norm(x - z)), float(np.linalg.norm(z - before))
        factor = 0.5 if apart > 10 * moved else 2.0 if moved > 10 * apart else 1.0
        if sweep < MOST_SWEEPS // 2:
            step, dual = step * factor, dual * factor
    raise InputError(
        f"least_nuclear_norm: after {MOST_SWEEPS:,} sweeps the value is within {best.value - best.bound:.2g} of its bound, "
        "beyond the tolerance"
    )


def _shrunk(x: Array, by: float, semidefinite: bool) -> Array:
    """The matrix with its singular values, or eigenvalues, made smaller, those below removed."""
    import numpy as np

    if semidefinite:
        sizes, basis = np.linalg.eigh((x + x.T) / 2)
        return (basis * np.maximum(sizes - by, 0)) @ basis.T
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    return (left * np.maximum(sizes - by, 0)) @ right


def _bound_value(flat: Array, y: Array, back: Array, z: Array, slope: Array, semidefinite: bool) -> LeastNuclearNorm:
    """The value at `z`, and the bound by the multipliers nearest to `slope`: y v over the largest value of A'(v)."""
    import numpy as np

    multipliers = back.T @ slope.ravel()
    image = (flat.T @ multipliers).reshape(z.shape)
    # Divided by the largest value of its image, a dual point is feasible.
    top = float(np.linalg.eigvalsh(image)[-1] if semidefinite else np.linalg.norm(image, 2))
    bound = float(y @ multipliers) / top if top > 0 else 0.0
    value = float(np.trace(z)) if semidefinite else float(np.linalg.norm(z, "nuc"))
    return LeastNuclearNorm(z, value, bound, float(np.linalg.norm(flat @ z.ravel() - y) / np.linalg.norm(y)))


def _solve_with_cvxpy(flat: Array, y: Array, shape: tuple[int, int], semidefinite: bool) -> LeastNuclearNorm:
    import warnings

    import numpy as np

    try:
        import cvxpy
    except ImportError:
        raise InputError("least_nuclear_norm: the solver needs cvxpy; pip install 'depthwidth[convex]'") from None
    x = cvxpy.Variable(shape, PSD=True) if semidefinite else cvxpy.Variable(shape)
    size = cvxpy.trace(x) if semidefinite else cvxpy.normNuc(x)
    problem = cvxpy.Problem(cvxpy.Minimize(size), [flat @ cvxpy.vec(x, order="C") == y])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an accuracy below its own; the misfit is in the result
        try:
            problem.solve(solver=cvxpy.CLARABEL)
        except cvxpy.SolverError:
            problem.solve(solver=cvxpy.SCS)
    if x.value is None:
        raise InputError(f"least_nuclear_norm: cvxpy ends with status {problem.status}")
    found = np.asarray(x.value)
    value = float(np.linalg.norm(found, "nuc"))
    return LeastNuclearNorm(found, value, value, float(np.linalg.norm(flat @ found.ravel() - y) / np.linalg.norm(y)))
