"""Recursions whose increments change slowly: s_(l+1) = s_l + d(s_l) for a thousand l, from the increments at a few of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from .interpolation import lagrange_weights

Array = Any
State = tuple[float, ...]

_KNOWN = 8
"""Number of increments through which a polynomial in ln(l + 1/2) is laid."""
_REACH = 0.1
"""Largest step relative to l. Increments that are powers of l are then right to 1e-9."""
_TOLERANCE = 1e-7
"""Largest relative change of a state between its prediction and its correction. What is left after it is a tenth of it or less."""


class _Gap(NamedTuple):
    """The steps from one evaluated state to the next one."""

    low: int
    high: int
    ahead: Array
    """Weight of each of the last known increments in the sum over the steps; None for a single step"""
    between: Array
    """The same with the increment at the end of the gap among them, in the sums up to each step; shape (steps, known)"""


@functools.lru_cache(maxsize=4)
def _gaps(times: int) -> list[_Gap]:
    import numpy as np

    logs = np.log(np.arange(times) + 0.5)
    evaluated, gaps = [0], list[_Gap]()
    while evaluated[-1] < times - 1:
        low = evaluated[-1]
        high = min(times - 1, low + max(1, int(_REACH * low)))
        ahead = between = None
        if high - low > 1:
            at = logs[low:high]

            def weights(nodes: list[int], at: Array = at) -> Array:
                return np.stack(np.broadcast_arrays(*lagrange_weights(logs[nodes].tolist(), at)), axis=-1)

            ahead = weights(evaluated[-_KNOWN:]).sum(axis=0)
            between = weights([*evaluated[1 - _KNOWN :], high]).cumsum(axis=0)
        gaps.append(_Gap(low, high, ahead, between))
        evaluated.append(high)
    return gaps


def sampled_states(advance: Callable[[State], State], start: State, times: int) -> Array | None:
    """The states s_0 = `start` to s_(times - 1) of the recursion s_(l+1) = `advance`(s_l), from about 20 + 10 ln(times / 20) of them.

    Parameters
    ----------
    advance : one step. Its increments are smooth in ln l.
    start : m numbers: a size, then others that are zero or compare with it.
    times : number of states.

    Returns
    -------
    Shape (times, m), or None if the increments change too fast: evaluate every step then.

    Notes
    -----
    The next evaluated state is predicted from the known increments, and corrected by the increment there. The relative error is
    about 1e-9.

    Examples
    --------
    The sums of 1 / l:

    >>> states = sampled_states(lambda s: (s[0] + 1, s[1] + 1 / s[0]), (1.0, 1.0), 1000)
    >>> round(float(states[-1, 1]), 9)
    8.484470861
    """
    import numpy as np

    gaps = _gaps(times)
    states, known = np.empty((times, len(start))), np.empty((len(gaps) + 1, len(start)))
    state, after = start, advance(start)
    states[0], known[0] = start, np.subtract(after, start)
    for k, (low, high, ahead, between) in enumerate(gaps, start=1):
        if between is None:
            state, after = after, advance(after)
            states[high], known[k] = state, np.subtract(after, state)
            continue
        predicted = states[low] + ahead @ known[max(0, k - _KNOWN) : k]
        known[k] = np.subtract(advance(tuple(predicted.tolist())), predicted)
        states[low + 1 : high + 1] = states[low] + between @ known[max(0, k + 1 - _KNOWN) : k + 1]
        corrected = states[high]
        if not (np.abs(corrected - predicted) <= _TOLERANCE * np.abs(corrected).clip(_SMALL * abs(corrected[0]))).all():
            return None
        after = tuple((corrected + known[k]).tolist())
    return states


_SMALL = 1e-6
"""Size of a number of the state, relative to the first, below which its error is relative to that."""


def linear_states(maps: Array, start: Array) -> Array:
    """The states of s_(l+1) = M_l s_l, from s_0 = `start` to the last.

    Parameters
    ----------
    maps : the matrices M_l; shape (n, m, m).
    start : shape (m,).

    Returns
    -------
    Shape (n + 1, m).

    Notes
    -----
    Runs of about sqrt(n) steps are multiplied side by side.

    Examples
    --------
    >>> import numpy as np
    >>> linear_states(np.array([[[2.0]], [[3.0]], [[5.0]]]), np.array([1.0])).ravel().tolist()
    [1.0, 2.0, 6.0, 30.0]
    """
    import numpy as np

    n, m, _ = maps.shape
    length = max(1, math.isqrt(n))
    runs = -(-n // length)
    padded = np.concatenate([maps, np.broadcast_to(np.eye(m), (runs * length - n, m, m))]).reshape(runs, length, m, m)
    products = padded.copy()
    for k in range(1, length):
        np.matmul(padded[:, k], products[:, k - 1], out=products[:, k])
    starts = np.empty((runs, m, 1))
    state = start[:, None]
    for k in range(runs):
        starts[k] = state
        state = products[k, -1] @ state
    states = (products @ starts[:, None]).reshape(-1, m)[:n]
    return np.concatenate([start[None], states])
