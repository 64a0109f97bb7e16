"""The moments of single components over whole grids of settings, each grid in one vectorised call.

The grids are those of the official simulations of Kedia et al. 2024 (arXiv 2403.09635): 49,315 settings of seven components.
Their axes are facts read in the authors' code; the predictions are this package's own formulas. The job
``components`` of ``depthwidth verify`` simulates the same settings.

>>> cells("softmax")["length"].size
625
>>> sum(count(component) for component in GRIDS)
49315
>>> found = predict("linear", {"mean": 0.5, "std": 1.0, "correlation": 0.3, "weight_std": 0.1, "gradient_std": 1.0,
...                            "gradient_correlation": 0.0, "inputs": 100, "outputs": 100, "length": 100})
>>> print(f"{found['variance']:.2f} {found['covariance']:.2f}")
1.25 0.55
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest, shown
from ..formulas import attention, moments

if TYPE_CHECKING:
    from ..numerics.softmax import AttentionOverlap

Array = Any
ComponentMoments = dict[str, Array]

QUANTITIES = ("mean", "variance", "covariance", "gradient_variance", "gradient_covariance")
"""The predicted quantities: centred moments per feature of the output, the covariance between two tokens, and the second moment
and covariance between tokens of the gradient at the input."""

_THIRDS = (0.0, 1 / 3, 2 / 3)
_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8)
_DECADE = (10**-0.5, 1.0, 10**0.5)
_TENS = (0.1, 1.0, 10.0)
_WIDTHS = (100, 316, 1000)
_LENGTHS = (100, 1000)

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "linear": {
        "mean": _TENS, "std": _DECADE, "correlation": _THIRDS, "weight_std": _TENS, "gradient_std": _DECADE,
        "gradient_correlation": _THIRDS, "inputs": _WIDTHS, "outputs": _WIDTHS, "length": _LENGTHS,
    },
    "relu": {
        "std": _DECADE, "correlation": _FIFTHS, "gradient_std": _DECADE, "gradient_correlation": _FIFTHS, "length": _LENGTHS,
    },
    "gelu": {
        "std": _DECADE, "correlation": _FIFTHS, "gradient_std": _DECADE, "gradient_correlation": _FIFTHS, "length": _LENGTHS,
    },
    "layernorm": {
        "mean": (-10.0, -10.0 / 3, 10.0 / 3), "std": _DECADE, "correlation": _FIFTHS, "gradient_std": _DECADE,
        "gradient_correlation": _FIFTHS, "width": _WIDTHS, "length": _LENGTHS,
    },
    "dropout": {
        "mean": (-10.0, 0.0, 10.0), "std": _DECADE, "correlation": _THIRDS, "dropout": _THIRDS, "gradient_std": _DECADE,
        "gradient_correlation": _THIRDS, "width": _WIDTHS, "length": _LENGTHS,
    },
    "softmax": {
        "std": (0.01, 10**-1.5, 0.1, 10**-0.5, 1.0), "correlation": _FIFTHS,
        "gradient_std": (10**-0.5, 10**-0.25, 1.0, 10**0.25, 10**0.5), "length": (300, 721, 1732, 4162, 10000),
    },
    "attention": {
        "correlation": _THIRDS, "value_std": _DECADE, "score_std": (0.1, 0.06**0.5, 0.6), "dropout": _THIRDS,
        "gradient_std": _DECADE, "gradient_correlation": _THIRDS, "width": _WIDTHS, "head_dim": (32, 64, 128, 256),
        "length": (300, 547, 1000),
    },
}  # fmt: skip
"""Each component's axes. Standard deviations are those of the input, of a weight and of the output's gradient; correlations are
between tokens, of the input and of the gradient. One weight of values has the deviation `value_std`/sqrt(width), one of queries
and of keys `score_std`/sqrt(width). Without such an axis the input has zero mean, and for attention unit deviation."""


def count(component: str) -> int:
    """Number of settings in the grid of a component."""
    return math.prod(map(len, axes(component).values()))


def axes(component: str) -> dict[str, tuple[float, ...]]:
    """The axes of a component's grid.

    Raises
    ------
    InputError
        if there is no such component.
    """
    if component not in GRIDS:
        raise InputError(f"there is no grid of {shown(component)}{nearest(component, GRIDS)}; there are {', '.join(GRIDS)}")
    return GRIDS[component]


def mesh(component: str) -> dict[str, Array]:
    """The axes as arrays that broadcast against each other to the whole grid."""
    import numpy as np

    given = axes(component)
    return dict(zip(given, np.meshgrid(*given.values(), indexing="ij", sparse=True), strict=True))


def cells(component: str) -> dict[str, Array]:
    """Every setting of the grid, one array for each axis, in the order of :func:`predict_grid`."""
    import numpy as np

    given = axes(component)
    return {name: grid.ravel() for name, grid in zip(given, np.meshgrid(*given.values(), indexing="ij"), strict=True)}


def predict(component: str, settings: Mapping[str, Any]) -> ComponentMoments:
    """Moments of a component's output and of the gradient at its input.

    Parameters
    ----------
    component : a name of :data:`GRIDS`.
    settings : a number or an array for each axis of the grid; arrays broadcast against each other, and need not lie on it.

    Returns
    -------
    An array for each of :data:`QUANTITIES` (softmax has no covariances), of a shape that broadcasts to that of the settings.

    Raises
    ------
    InputError
        if there is no such component, a setting is missing or unknown, or one is out of its formula's domain.
    """
    known = axes(component)
    wrong = [*(name for name in known if name not in settings), *(name for name in settings if name not in known)]
    if wrong:
        raise InputError(f"{component}: {wrong[0]!r} is missing or unknown; its settings are {', '.join(known)}")
    return _PREDICTIONS[component](**settings)


def predict_grid(component: str) -> ComponentMoments:
    """:func:`predict` at every setting of the grid: flat arrays in the order of :func:`cells`."""
    import numpy as np

    shape = tuple(map(len, axes(component).values()))
    return {name: np.broadcast_to(values, shape).ravel() for name, values in predict(component, mesh(component)).items()}


# ---- the components ----


def _linear(
    *, mean: Array, std: Array, correlation: Array, weight_std: Array, gradient_std: Array, gradient_correlation: Array,
    inputs: Array, outputs: Array, length: Array,
) -> ComponentMoments:  # fmt: skip
    w, gamma = weight_std**2, gradient_std**2
    back = moments.linear_gradient(gamma, outputs, w)
    return {
        "mean": 0.0 * weight_std,
        "variance": moments.linear_second_moment(std**2 + mean**2, inputs, w),
        "covariance": moments.linear_second_moment(1.0, inputs, w) * (correlation * std**2 + mean**2),
        "gradient_variance": back,
        "gradient_covariance": gradient_correlation * back,
    }


def _activation(name: str) -> Callable[..., ComponentMoments]:
    def predict_moments(
        *, std: Array, correlation: Array, gradient_std: Array, gradient_correlation: Array, length: Array
    ) -> ComponentMoments:
        from ..layers.activations import activation

        found = activation(name).moments(std**2, correlation)
        gamma = gradient_std**2
        return {
            "mean": found.mean,
            "variance": found.variance,
            "covariance": found.covariance,
            "gradient_variance": gamma * found.derivative_second_moment,
            "gradient_covariance": gamma * gradient_correlation * found.derivative_pair_moment,
        }

    return predict_moments


def _layernorm(
    *, mean: Array, std: Array, correlation: Array, gradient_std: Array, gradient_correlation: Array, width: Array,
    length: Array,
) -> ComponentMoments:  # fmt: skip
    gamma, q = gradient_std**2, std**2
    return {
        "mean": 0.0 * mean,
        "variance": 1.0 + 0.0 * std,
        "covariance": moments.norm_correlation(correlation, width),
        "gradient_variance": moments.norm_gradient(gamma, q, width),
        "gradient_covariance": moments.norm_gradient_covariance(gamma * gradient_correlation, q, correlation, width),
    }


def _dropout(
    *, mean: Array, std: Array, correlation: Array, dropout: Array, gradient_std: Array, gradient_correlation: Array,
    width: Array, length: Array,
) -> ComponentMoments:  # fmt: skip
    gamma = gradient_std**2
    return {
        "mean": mean,
        "variance": moments.dropout_second_moment(std**2 + mean**2, dropout) - mean**2,
        "covariance": correlation * std**2,
        "gradient_variance": moments.dropout_second_moment(gamma, dropout),
        "gradient_covariance": gamma * gradient_correlation,
    }


def _softmax(*, std: Array, correlation: Array, gradient_std: Array, length: Array) -> ComponentMoments:
    from ..numerics.softmax import overlap

    row = overlap(attention.score_variance(std**2, correlation), length)
    return {
        "mean": 1 / length,
        "variance": row.element_variance(length),
        "gradient_variance": gradient_std**2 * row.T / length,
    }


def _attention(
    *, correlation: Array, value_std: Array, score_std: Array, dropout: Array, gradient_std: Array, gradient_correlation: Array,
    width: Array, head_dim: Array, length: Array,
) -> ComponentMoments:  # fmt: skip
    import numpy as np

    s = attention.raw_score_variance(score_std**2, score_std**2, 1.0)
    overlap = _attention_overlap(s, correlation, length, head_dim)
    found = attention.attention_moments(
        1.0, correlation, length=length, width=width, value_gain=value_std**2, score_gain=s, dropout=dropout,
        gradient=gradient_std**2, gradient_correlation=gradient_correlation, overlap=overlap, equal_norms=False,
    )  # fmt: skip
    share = head_dim / width  # one head of this size; the layer's moments are those of all heads together
    return {
        "mean": np.zeros(()),
        "variance": found.second_moment,
        "covariance": found.covariance,
        "gradient_variance": share * found.gradient,
        "gradient_covariance": share * found.gradient_covariance,
    }


def _attention_overlap(s: Array, correlation: Array, length: Array, head_dim: Array) -> AttentionOverlap:
    """:func:`depthwidth.numerics.softmax.attention_overlap` for arrays of head sizes too."""
    import numpy as np

    from ..numerics.softmax import AttentionOverlap, attention_overlap

    every = np.broadcast_arrays(s, correlation, length, head_dim)
    raw, r, n, heads = (values.ravel() for values in every)
    values = np.empty((len(AttentionOverlap._fields), heads.size))
    for size in np.unique(heads):
        here = np.flatnonzero(heads == size)
        values[:, here] = attention_overlap(attention.score_variance(raw[here], r[here]), r[here], n[here], head_dim=int(size))
    return AttentionOverlap(*values.reshape(-1, *every[0].shape))


_PREDICTIONS: dict[str, Callable[..., ComponentMoments]] = {
    "linear": _linear,
    "relu": _activation("relu"),
    "gelu": _activation("gelu"),
    "layernorm": _layernorm,
    "dropout": _dropout,
    "softmax": _softmax,
    "attention": _attention,
}
