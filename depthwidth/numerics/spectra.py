"""Measures of the size and rank of a matrix by its singular values."""

from __future__ import annotations

from typing import Any

from ..errors import InputError

Array = Any


def effective_rank(sizes: Array) -> float:
    """Effective rank: the exponential of the entropy of the singular values as shares of their sum (Roy and Vetterli 2007).

    Parameters
    ----------
    sizes : (r,) singular values, at least 0 and not all 0; zeros do not count.

    Raises
    ------
    InputError
        if a value is negative or not finite, or all are 0.

    >>> effective_rank([1, 1, 1, 1]), round(effective_rank([3, 1]), 5)
    (4.0, 1.75477)
    """
    import numpy as np

    shares = _checked("effective rank", sizes)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def stable_rank(sizes: Array) -> float:
    """Stable rank: the squared Frobenius norm over the squared largest singular value.

    Parameters
    ----------
    sizes : (r,) singular values, at least 0 and not all 0.

    Raises
    ------
    InputError
        if a value is negative or not finite, or all are 0.

    >>> stable_rank([1, 1, 1, 1]), stable_rank([4, 2, 1, 0.5])
    (4.0, 1.328125)
    """
    shares = _checked("stable rank", sizes)
    shares = shares / shares.max()
    return float((shares**2).sum())


def numerical_rank(sizes: Array, share: float = 1e-3) -> int:
    """Number of singular values above a share of the largest; 0 of a matrix of zeros.

    Raises
    ------
    InputError
        if a value is negative or not finite.

    >>> numerical_rank([5, 1, 1e-4]), numerical_rank([0, 0])
    (2, 0)
    """
    import numpy as np

    found = np.asarray(sizes, float)
    return int((_nonnegative("numerical rank", found) > share * found.max(initial=0.0)).sum())


def _checked(what: str, sizes: Array) -> Array:
    import numpy as np

    found = _nonnegative(what, np.asarray(sizes, float))
    if not found.size or found.max() == 0:
        raise InputError(f"{what}: a matrix of zeros has none")
    return found / found.max()


def _nonnegative(what: str, sizes: Array) -> Array:
    import numpy as np

    if sizes.ndim != 1 or not np.isfinite(sizes).all() or (sizes < 0).any():
        raise InputError(f"{what}: singular values are a list of finite numbers, none below 0")
    return sizes
