"""Heads that read earlier positions: linear biases, and several lags through maps of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from ...checks import whole
from ...errors import InputError
from ...formula import Domain, formula
from ...mathematics import Constant, maximum, sqrt
from .._quadrature import in_doubles
from .._regime import require
from ._domains import OURS, SPLIT, WHOLE, Heads

Lag = Annotated[Any, Domain(0, 4096, True, True, integer=True, symbol="T", unit="tokens", typical=(1, 32)), "lag, in tokens"]


@formula(kind="exact", source=f"{OURS}: least squares over one geometric kernel", status="derived", symbol="epsilon^2")
def one_head_lag_error(
    decay: Annotated[
        Any,
        Domain(0, 1, True, False, symbol="z", typical=(0.1, 0.95)),
        "decay of the weights (1 - z) z^s over lags s; any real output gain",
    ],
    lag: Lag,
) -> Any:
    r"""Squared error of one linear-bias head that is to pick the token at a given lag.

    .. math:: \epsilon^2 = 1 - z^{2T}(1 - z^2)

    Derivation: docs/derivations/heads.md, (H20).

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> one_head_lag_error(0.5, 3)
    0.98828125
    """
    return 1 - decay ** (2 * lag) * (1 - decay**2)


@formula(kind="exact", source=f"{OURS}: minimum of the error over the decay", status="derived", symbol="z")
def best_lag_decay(lag: Lag) -> Any:
    r"""Best decay of one linear-bias head for a given lag.

    .. math:: z^2 = \frac{T}{T + 1}

    Derivation: docs/derivations/heads.md, (H21).

    Returns
    -------
    z, 0 to 1.

    Examples
    --------
    >>> round(best_lag_decay(4), 4)
    0.8944
    """
    return sqrt(lag / (lag + Constant.of(1)))


def lag_error(decays: Sequence[float], lag: int) -> float:
    """Squared error of linear-bias heads with these decays, and free real gains, that should pick the token at `lag`.

    The sum of the squares of the first lag + 1 Taylor coefficients of the Blaschke product over (w - z)/(1 - z w): exact, and
    0 from lag + 1 heads on, whose gains then diverge as decays approach one another.
    Derivation: docs/derivations/heads.md, (H19).

    >>> round(lag_error([0.3, 0.6, 0.8], 4), 10)
    0.830982391
    """
    if not decays or not all(0 <= z < 1 for z in decays):
        raise InputError("decays are numbers from 0 to below 1, at least one")
    lag = whole("lag_error", "lag", lag, 0, 4096)
    b = [1.0] + [0.0] * lag
    for z in decays:
        # Multiply by (w - z), then divide by (1 - z w).
        b = [(b[i - 1] if i else 0.0) - z * b[i] for i in range(lag + 1)]
        for i in range(1, lag + 1):
            b[i] += z * b[i - 1]
    return math.fsum(v * v for v in b)


def best_lag_error(heads: int, lag: int) -> float:
    """The least :func:`lag_error` of so many heads, at equal decays: no others were found to beat them, up to 6 heads.

    >>> round(best_lag_error(3, 8), 4)
    0.8645
    """
    heads = whole("best_lag_error", "heads", heads)
    if heads > lag:
        return 0.0
    from scipy.optimize import minimize_scalar

    # There are several minima, and the best decay may be as near to 1 as 1/lag: the search is over -ln(1 - decay).
    places = [k * math.log(40 * (lag + 1)) / 60 for k in range(61)]

    def error(place: float) -> float:
        return lag_error([-math.expm1(-place)] * heads, lag)

    errors = [error(place) for place in places]
    found = [errors[0], errors[-1]]
    for k in range(1, 60):
        if errors[k] <= min(errors[k - 1], errors[k + 1]):
            ends = (places[k - 1], places[k + 1])
            found.append(float(minimize_scalar(error, bounds=ends, method="bounded", options={"xatol": 1e-9}).fun))
    return max(0.0, min(found))


@formula(kind="heuristic", source=f"{OURS}: canonical tensor decomposition, count of freedoms", status="derived", symbol="H")
def shared_lag_heads(
    lags: Annotated[
        Any, Domain(1, symbol="M", typical=(1, 16), **WHOLE), "positions to be read, each through its own d_x x d_x map"
    ],
    value_dim: Annotated[Any, Domain(1, symbol="d_x", typical=(4, 64), **WHOLE), "dimensions of a value"],
) -> Any:
    r"""Rank-one heads that serve M lags jointly, by counting degrees of freedom: dedicating heads to lags is not optimal.

    .. math:: H \approx \frac{M d_x^2}{M + 2 d_x - 2}

    Returns
    -------
    Heads of one dimension each.

    Examples
    --------
    >>> round(shared_lag_heads(4, 16), 1)
    30.1
    """
    return lags * value_dim**2 / (lags + 2 * value_dim - Constant.of(2))


Lags = Annotated[Any, Domain(1, symbol="M", typical=(2, 16), **WHOLE), "positions to be read, each through its own map"]
MapSize = Annotated[
    Any,
    Domain(1, 4096, True, True, integer=True, symbol="d_x", unit="dimensions", typical=(8, 64)),
    "size of the square map through which the lag is read",
]


@formula(
    kind="exact",
    source=f"{OURS}: rank of the maps over lags; least if the maps are uncorrelated and of one size",
    status="derived",
    symbol="loss/loss_0",
    domain="linear sequence model on white noise",
)
def fewer_heads_than_lags_loss(
    heads: Heads, lags: Annotated[Lags, "positions to be read, each through its own map A_m"]
) -> Any:
    r"""Least relative loss of H heads of any dimension that deliver M lags through uncorrelated maps of one size.

    .. math:: \frac{\mathrm{loss}}{\mathrm{loss}_0} \ge \max\!\left(0,\, 1 - \frac{H}{M}\right)

    H attention patterns span at most H directions over the lags, whatever their values do.

    Derivation: docs/derivations/heads.md, (H22).

    Returns
    -------
    0 to 1, reached by free patterns and full value rank. Maps that are correlated by chance leave less: :func:`lag_floor`.

    Examples
    --------
    >>> fewer_heads_than_lags_loss(1, 4)
    0.75
    """
    return maximum(0, 1 - heads / (lags * Constant.of(1)))


def lag_floor(gram: Sequence[Sequence[float]], heads: int) -> float:
    """Least relative loss of so many heads of any dimension, for lags whose maps have these inner products tr(A_m' A_n).

    The sum of the smallest M - H eigenvalues over the trace: the best that H patterns of any sign can do. For uncorrelated maps
    of one size it is :func:`fewer_heads_than_lags_loss`.

    Raises
    ------
    InputError
        if `gram` is not square, symmetric and positive, or `heads` is not a whole number from 1.

    >>> lag_floor([[1.0, 0.5], [0.5, 1.0]], 1)
    0.25
    """
    import numpy as np

    matrix = np.asarray(gram, dtype=float)
    heads = whole("lag_floor", "heads", heads)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T) or not np.trace(matrix) > 0:
        raise InputError("gram is a square, symmetric matrix of inner products with a positive trace")
    values = np.linalg.eigvalsh(matrix)
    return max(0.0, float(values[: max(0, len(values) - heads)].sum() / values.sum()))


@formula(
    kind="exact",
    source=f"{SPLIT}; an upper bound, which heads that serve several lags beat",
    status="derived",
    symbol="loss/loss_0",
    domain="linear sequence model on white noise, singular values k^-a",
)
def dedicated_lag_loss(
    value_rank: Annotated[
        Any,
        Domain(1, 4096, True, True, integer=True, symbol="d_m", unit="dimensions", typical=(1, 8)),
        "dimensions of the values of a lag's group, at most d_x; over all its heads if their patterns are one",
    ],
    size: MapSize,
    exponent: Annotated[
        Any, Domain(0, 20, True, True, symbol="a", typical=(0.5, 2.0)), "the map's singular values fall as k^-a"
    ],
    kernel_error: Annotated[
        Any,
        Domain(0, 1, True, True, symbol="epsilon^2", typical=(0.0, 0.5)),
        "squared error of the group's pattern: 0 for a free position bias, :func:`best_lag_error` for linear biases",
    ] = 0,
) -> Any:
    r"""Relative loss of heads dedicated to lags, from their value rank and from the error of their patterns.

    .. math:: \frac{\mathrm{loss}}{\mathrm{loss}_0} = t + (1 - t)\,\epsilon^2, \qquad
        t = \frac{\sum_{k > d_m} k^{-2a}}{\sum_{k \le d_x} k^{-2a}}

    Derivation: docs/derivations/heads.md, (H23).

    Returns
    -------
    0 to 1. A dedication bounds the best loss from above: four lags in 16 dimensions at 4 heads of 8 lose 0.036 so, and 0.029
    if heads may serve several (``head_split.csv``).

    Examples
    --------
    >>> round(dedicated_lag_loss(8, 16, 1), 4)
    0.0359
    """
    require(value_rank <= size, "heads.dedicated_lag_loss: the rank is at most the map's size")

    def tail(rank: float, whole: float, power: float) -> float:
        parts = [k ** (-2 * power) for k in range(1, int(whole) + 1)]
        return math.fsum(parts[int(rank) :]) / math.fsum(parts)

    lost = in_doubles("dedicated_lag_loss", tail, value_rank, size, exponent, one_by_one=True)
    return lost + (1 - lost) * kernel_error
