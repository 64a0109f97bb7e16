"""Measures of the size and rank of a matrix by its singular values."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..values import frozen

Array = Any
SHARE = 1e-3
"""The share of the largest singular value up to which one does not count for :func:`numerical_rank`."""


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

    shares = _check_sizes("effective rank", sizes)
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
    shares = _check_sizes("stable rank", sizes)
    shares = shares / shares.max()
    return float((shares**2).sum())


def numerical_rank(sizes: Array, share: float = SHARE) -> int:
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


@frozen
class Ranks:
    """The ranks of a matrix, from the smoothest to the sharpest, and its norms. All are 0 of a matrix of zeros."""

    effective: float
    """Exponential of the entropy of the singular values' shares."""
    stable: float
    """Squared Frobenius norm over squared spectral norm."""
    nuclear: float
    """Nuclear norm over spectral norm."""
    numerical: int
    """Singular values above a share of the largest."""
    spectral_norm: float
    nuclear_norm: float


def ranks(sizes: Array, share: float = SHARE) -> Ranks:
    """All ranks of a matrix by its singular values.

    Parameters
    ----------
    sizes : (r,) singular values, at least 0.
    share : of the largest singular value, in [0, 1): a smaller one does not count for the numerical rank.

    Raises
    ------
    InputError
        if a value is negative or not finite, or the share is outside [0, 1).

    >>> found = ranks([3.0, 1.0])
    >>> found.stable.__round__(3), found.nuclear.__round__(3), found.numerical, found.nuclear_norm
    (1.111, 1.333, 2, 4.0)
    """
    import numpy as np

    if not 0 <= share < 1:
        raise InputError(f"ranks: the share {share} is not in [0, 1)")
    found = np.asarray(sizes, float)
    count = numerical_rank(found, share)
    if not count:
        return Ranks(0.0, 0.0, 0.0, 0, 0.0, 0.0)
    top, total = float(found.max()), float(found.sum())
    return Ranks(effective_rank(found), stable_rank(found), total / top, count, top, total)


def product_sizes(left: Array, right: Array) -> Array:
    """Singular values of ``left @ right``, largest first, without the product: QR of both, and the small matrix between.

    Parameters
    ----------
    left : (outputs, r).
    right : (r, inputs).

    Returns
    -------
    min(r, outputs, inputs) singular values; those beyond are 0.

    >>> product_sizes([[3.0], [4.0]], [[0.0, 2.0]]).tolist()
    [10.0]
    """
    import numpy as np

    return np.linalg.svd(triangle(left) @ triangle(np.asarray(right).T).T, compute_uv=False)


def triangle(value: Array) -> Array:
    """The triangular factor of a matrix (m, r), of min(m, r) rows: products with it have the same singular values.

    >>> abs(triangle([[3.0], [4.0]])).round(6).tolist()
    [[5.0]]
    """
    import numpy as np

    return np.linalg.qr(np.asarray(value, float), mode="r")


def _check_sizes(what: str, sizes: Array) -> Array:
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
