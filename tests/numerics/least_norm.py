"""References for problems with nuclear norms, by other ways than the package's."""

import numpy as np


def least_nuclear_norm(measurements, values, sweeps=4000, weight=20.0):
    """The positive semidefinite X of least trace with <A_i, X> = y_i, by alternating projections with multipliers (ADMM)."""
    n = measurements.shape[1]
    a = measurements.reshape(len(values), -1)
    back = np.linalg.pinv(a)
    x, dual = np.zeros((n, n)), np.zeros((n, n))
    for _ in range(sweeps):
        near = (x - dual - np.eye(n) / weight).ravel()
        fit = (near - back @ (a @ near - values)).reshape(n, n)
        sizes, basis = np.linalg.eigh(fit + dual)
        x = (basis * np.maximum(sizes, 0)) @ basis.T
        dual += fit - x
    assert np.abs(fit - x).max() < 1e-5
    return x


def least_penalised(loss_and_slope, shape, decay, step, sweeps=3000):
    """The minimiser of a convex loss plus decay times the nuclear norm, by accelerated proximal steps on the product."""
    w = ahead = np.zeros(shape)
    momentum = 1.0
    for _ in range(sweeps):
        left, sizes, right = np.linalg.svd(ahead - step * loss_and_slope(ahead)[1], full_matrices=False)
        later = (left * np.maximum(sizes - step * decay, 0)) @ right
        further = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        if ((ahead - later) * (later - w)).sum() > 0:  # restart where the momentum points uphill
            further, momentum = 1.0, 1.0
        ahead = later + (momentum - 1) / further * (later - w)
        w, momentum = later, further
    return w
