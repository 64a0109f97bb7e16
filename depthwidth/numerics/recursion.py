"""Recursions s_(l+1) = s_l + d(s_l, l) whose increments change slowly: a thousand states from the increments at a few."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from .interpolation import lagrange_weights

Array = Any
State = tuple[float, ...]

_KNOWN = 7
"""Increments through which a polynomial in ln(l + 1/2) is laid. With more, errors grow from prediction to prediction."""
_REACH = 0.06
"""Largest step relative to l. Increments that are powers of l are then right to 1e-9."""
_TOLERANCE = 1e-6
"""Largest relative change of a state between its prediction and its correction, unless a caller states others. Less than a
tenth of it is left after that."""
_SMALL = 1e-6
"""Size of a number of the state, relative to the first, below which its error is relative to that."""


class _Gap(NamedTuple):
    """The steps from one evaluated state to the next one."""

    low: int
    high: int
    ahead: Array
    """Weight of each of the last known increments in the sum over the steps; None for a single step"""
    between: Array
    """The same with the increment at the end of the gap among them, in the sums up to each step; shape (steps, known)"""


@functools.lru_cache(maxsize=8)
def _gaps(times: int, reach: float = _REACH) -> list[_Gap]:
    import numpy as np

    logs = np.log(np.arange(times) + 0.5)
    evaluated, gaps = [0], list[_Gap]()
    while evaluated[-1] < times - 1:
        low = evaluated[-1]
        high = min(times - 1, low + max(1, int(reach * low)))
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


class _Stretch(NamedTuple):
    """The states of a recursion from one evaluated state to the next one."""

    low: int
    high: int
    lower: Array
    upper: Array
    good: Any
    """True, for each setting, if prediction and correction of the upper state agree"""
    between: Array
    window: Array

    def inside(self) -> Array:
        """The states after each step, the last of them `upper`; shape (steps, m)."""
        return self.upper[None] if self.between is None else self.lower + self.between @ self.window

    def at(self, steps: Array, settings: Array) -> Array:
        """The states of some settings, each after 1 or more steps of the stretch; shape (m, settings)."""
        if self.between is None:
            return self.upper[:, settings]
        import numpy as np

        known = self.window[:, :, settings]
        return self.lower[:, settings] + np.einsum("sk,kms->ms", self.between[steps - 1], known)


def _stretches(
    advance: Callable[[Array, int], Array], start: Array, times: int, reach: float = _REACH, tolerances: Any = _TOLERANCE
) -> Iterator[_Stretch]:
    """Predict each evaluated state from the known increments, evaluate it, and correct it by the increment there."""
    import numpy as np

    gaps = _gaps(times, reach)
    known = np.empty((len(gaps) + 1, *start.shape))
    lower, after = start, advance(start, 0)
    known[0] = after - start
    for k, (low, high, ahead, between) in enumerate(gaps, start=1):
        if between is None:
            upper, after = after, advance(after, high)
            known[k] = after - upper
            yield _Stretch(low, high, lower, upper, True, None, known)
        else:
            window = known[max(0, k - _KNOWN) : k]
            predicted = lower + _sum(ahead, window)
            known[k] = advance(predicted, high) - predicted
            window = known[max(0, k + 1 - _KNOWN) : k + 1]
            upper = lower + _sum(between[-1], window)
            yield _Stretch(low, high, lower, upper, _agree(upper, predicted, tolerances), between, window)
            after = upper + known[k]
        lower = upper


def _sum(weights: Array, window: Array) -> Array:
    """The sum of known increments, each with a weight."""
    if window.ndim == 2:
        return weights.dot(window)
    return (weights @ window.reshape(len(window), -1)).reshape(window.shape[1:])


def _agree(upper: Array, predicted: Array, tolerances: Any) -> Any:
    """True, for each setting, if prediction and correction of a state differ by little; for one setting in plain floats."""
    if upper.ndim == 1:
        values = upper.tolist()
        least = _SMALL * abs(values[0])
        each = zip(values, predicted.tolist(), tolerances, strict=True)
        return all(abs(value - other) <= tolerance * max(abs(value), least) for value, other, tolerance in each)
    import numpy as np

    size = np.abs(upper)
    return (np.abs(upper - predicted) <= tolerances * np.maximum(size, _SMALL * size[0])).all(axis=0)


def sampled_states(
    advance: Callable[[State, int], State], start: State, times: int, reach: float = _REACH, tolerances: Sequence[float] = ()
) -> Array | None:
    """The states s_0 = `start` to s_(times - 1) of the recursion s_(l+1) = `advance`(s_l, l).

    About 33 + 19 ln(times / 33) of them are evaluated, or 12 + 7 ln(times / 12) with three times the reach.

    Parameters
    ----------
    advance : one step, given the state and the number of steps before it. Its increments are smooth in ln l.
    start : m numbers: a size, then others that are zero or compare with it.
    times : number of states.
    reach : largest step relative to the number of steps before it.
    tolerances : largest relative change of each number between its prediction and its correction, by default 1e-6.

    Returns
    -------
    Shape (times, m), or None if the increments change too fast: evaluate every step then.

    Notes
    -----
    The next evaluated state is predicted from the known increments, and corrected by the increment there. The relative error is
    about 1e-9, and 3e-8 with three times the reach.

    Examples
    --------
    The sums of 1 / l:

    >>> states = sampled_states(lambda s, _: (s[0] + 1, s[1] + 1 / s[0]), (1.0, 1.0), 1000)
    >>> round(float(states[-1, 1]), 9)
    8.484470861
    """
    import numpy as np

    states = np.empty((times, len(start)))
    states[0] = start
    each = tolerances or [_TOLERANCE] * len(start)
    for stretch in _stretches(
        lambda state, step: np.array(advance(tuple(state.tolist()), step)), states[0], times, reach, each
    ):
        if not stretch.good:
            return None
        states[stretch.low + 1 : stretch.high + 1] = stretch.inside()
    return states


def sampled_ends(advance: Callable[[Array, int], Array], start: Array, times: Array) -> tuple[Array, Array]:
    """As :func:`sampled_states` for many settings side by side: the state of each after its own number of steps.

    Parameters
    ----------
    advance : one step of all settings, given their states and the number of steps before it.
    start : shape (m, settings), the first number a size.
    times : steps of each setting, at least 1, ascending.

    Returns
    -------
    The states, shape (m, settings), and an array that is True if the increments of a setting change slowly enough.
    """
    import numpy as np

    ends, good = start.copy(), np.ones(len(times), dtype=bool)
    for stretch in _stretches(advance, start, int(times[-1]) + 1):
        first, last = np.searchsorted(times, (stretch.low, stretch.high), side="right")
        good[first:] &= stretch.good[first:] if stretch.between is not None else True
        if last > first:
            ending = slice(int(first), int(last))
            ends[:, ending] = stretch.at(times[ending] - stretch.low, ending)
    return ends, good


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
    Neighbouring maps are multiplied, then neighbouring products, until about sqrt(n) are left. These take the first state to
    some of the others, one after the other; each further state follows from one before it by one map or product. Longer
    products could leave the range of numbers where no state does.

    Examples
    --------
    >>> import numpy as np
    >>> linear_states(np.array([[[2.0]], [[3.0]], [[5.0]]]), np.array([1.0])).ravel().tolist()
    [1.0, 2.0, 6.0, 30.0]
    """
    import numpy as np

    products = [maps]
    while len(products[-1]) ** 2 > 2 * len(maps):
        each = products[-1]
        products.append(each[1::2] @ each[: len(each) // 2 * 2 : 2])
    few = [start]
    for product in products.pop():
        few.append(product @ few[-1])
    states = np.array(few)
    for each in reversed(products):
        finer = np.empty((len(each) + 1, len(start)))
        finer[::2] = states
        finer[1::2] = (each[::2] @ states[: (len(each) + 1) // 2, :, None])[:, :, 0]
        states = finer
    return states
