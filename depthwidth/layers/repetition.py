"""Shortcuts through many copies of one block.

Exchangeable tokens: :func:`block_inputs` finds the stream at the input of every block, from tables if norms permit, and
:func:`apply_all_blocks` then evaluates all blocks together as arrays. Tokens that differ from each other:
:func:`apply_sampled_blocks` evaluates the first blocks one by one and later ones at growing distances, because the
increments of the stream change slowly along the depth; it interpolates between them.

The policy numbers below trade time for accuracy. ``tests/layers/test_repetition.py`` holds both against evaluating every block.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from ..numerics.interpolation import Table, lagrange_weights, spline_values
from ..signal import LogVariance, Pullback, Record, Signal, Site, Spread, TokenSignal, Trace, finite
from ..signal.residual import advance, covariance_factor
from .block import BlockLike, Residual

Array = Any

FEW_BLOCKS = 2
"""Up to this many blocks of exchangeable tokens are evaluated one by one: arrays cost more than two evaluations."""
MANY_BLOCKS = 16
"""Up to this many blocks of tokens that differ are evaluated one by one: sampling evaluates nearly all of them anyway."""


# ---- exchangeable tokens ----


def apply_all_blocks(block: BlockLike, x: Signal, site: Site, layers: range) -> tuple[Signal, Pullback]:
    """All blocks together, as arrays, given the stream at the input of each from :func:`block_inputs`."""
    import numpy as np

    trace = site.trace
    inputs = block_inputs(block, x, site, layers)
    trace.layer = layers
    y, pull_blocks = block.moments(inputs, site)
    spread = y.spread and Spread(*(float(v[-1]) for v in y.spread))
    last = Signal(float(y.second_moment[-1]), float(y.covariance[-1]), spread)

    def pull(g: Signal) -> Signal:
        # The gradient at a block's input is linear in the two moments of that at its output.
        with trace.silence():
            unit = pull_blocks(Signal(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])))
        shape = (2, len(layers))
        (a, b), (c, d) = (np.broadcast_to(v, shape)[:, ::-1].tolist() for v in unit[:2])
        gamma, kappa = float(g.second_moment), float(g.covariance)
        outputs = []
        for one, other, pair_one, pair_other in zip(a, b, c, d, strict=True):
            outputs.append((gamma, kappa))
            gamma, kappa = gamma * one + kappa * other, gamma * pair_one + kappa * pair_other
        pull_blocks(Signal(*np.array(outputs[::-1]).T))
        return Signal(gamma, kappa)

    return last, pull


def block_inputs(block: BlockLike, x: Signal, site: Site, layers: range) -> Signal:
    """The residual stream at the input of each of these equal blocks, as arrays, given that at the first.

    If every branch reads a normalised stream and no weight variance differs between the blocks, a branch's output depends on
    one number, the correlation of two tokens. It is tabulated, and a block then costs microseconds. Otherwise each block is
    evaluated.
    """
    trace = site.trace
    states: list[tuple[float, ...]] = []
    steps = None
    with trace.silence():
        for trace.layer in layers:
            if steps is None and _normal(block, x, started=trace.layer > layers.start):
                steps = [] if trace.recipe.varies(site.role) else _steps(block, x, site)
            if steps:
                states += _fast_states(steps, block.parallel, x, layers.stop - trace.layer)
                break
            states.append(_state(x))
            x, _ = block.moments(x, site)
    import numpy as np

    columns = np.array(states).T
    inputs = Signal(columns[0], columns[1], Spread(*columns[2:]) if x.spread else None)
    finite(inputs, site.role)
    return inputs


def _state(x: Signal) -> tuple[float, ...]:
    return (x.second_moment, x.covariance, *(x.spread or ()))


_SMALL_EPS = 2e-5
"""Largest epsilon of a norm, relative to the stream's second moment, at which its output counts as of one size."""


def _normal(block: BlockLike, x: Signal, *, started: bool) -> bool:
    """True if all branches read a normalised stream. The first block of a post-norm stack does not."""
    if x.covariance < 0:
        return False
    for _, part in block.branches:
        norm = (block.norm if block.parallel else None) or part.norm_in or part.norm_stream
        if norm is None or norm.eps > _SMALL_EPS * x.second_moment:
            return False
        if not (started or block.norm or part.norm_in):
            return False
    return True


class _Step(NamedTuple):
    """A branch as a table: its output moments over the angle whose cosine is the correlation of its input."""

    table: Table
    skip: float | None
    """Factor on the stream; None for 1"""
    reads_norm: bool
    norm_behind: float | None
    """Second moment at the output of a post-norm"""
    omega: float
    width: int


def _steps(block: BlockLike, x: Signal, site: Site) -> list[_Step]:
    """A table for each branch, at the stream's current size."""
    import numpy as np

    size = x.second_moment

    def outputs(part: Residual, at: Site, omegas: list[Any], angles: Any) -> Any:
        y = Signal(np.full(angles.shape, size), size * np.cos(angles))
        if block.parallel and block.norm is not None:
            y, _ = block.norm.moments(y, site.at("norm"))
        f, _, shape = part.branch_moments(y, at)
        omegas.append(shape.omega)
        scale = at.scales()[1] ** 2
        return np.stack([np.broadcast_to(v * scale, angles.shape) for v in f[:2]], axis=-1)

    steps = []
    for name, part in block.branches:
        at, omegas = site.at(name), list[Any]()
        table = Table(functools.partial(outputs, part, at, omegas), 0.0, math.pi / 2)
        behind = None
        if part.norm_stream is not None:
            y, _ = part.norm_stream.moments(Signal(size, size), at.at("norm_stream"))
            behind = y.second_moment
        reads = part.norm_in is not None or block.norm is not None
        skip = None if block.parallel or at.scales()[0] == 1 else at.scales()[0]
        steps.append(_Step(table, skip, reads, behind, float(np.max(omegas[0])), part.width))
    return steps


def _fast_states(steps: list[_Step], parallel: bool, x: Signal, times: int) -> list[tuple[float, ...]]:
    """The stream at the input of each of `times` blocks, from the branches' tables: :func:`advance` with plain floats."""
    q, c = x.second_moment, x.covariance
    v: Any
    w: Any
    u: Any
    v, w, u = x.spread or (None, None, None)
    states: list[tuple[float, ...]] = []
    acos, each = math.acos, [(k == 0 or not parallel, step.table.pieces, *step[1:]) for k, step in enumerate(steps)]
    for _ in range(times):
        states.append((q, c) if v is None else (q, c, v, w, u))
        for looks, (pieces, low, size, end), skip, reads_norm, behind, omega, width in each:
            if looks:
                cosine = c / q
                if reads_norm and v is not None:
                    cosine *= covariance_factor(q, c, v, w, u)
                at = acos(1.0 if cosine > 1.0 else 0.0 if cosine < 0.0 else cosine) - low
            i = int(at / size)
            if i > end:
                i = end
            t = at - i * size
            (a3, a2, a1, a0), (b3, b2, b1, b0) = pieces[i]
            a, pair = ((a3 * t + a2) * t + a1) * t + a0, ((b3 * t + b2) * t + b1) * t + b0
            q, c, v, w, u = advance(q, c, v, w, u, a, pair, omega, width, skip)
            if behind is not None:
                correlation = c / q
                if v is not None:
                    correlation *= covariance_factor(q, c, v, w, u)
                    v = w = u = 0.0
                q, c = behind, behind * correlation
    return states


# ---- tokens that differ ----

_REACH = 0.15
"""Largest step, as a share of the distance to the nearer end of the stack: the first and last 13 blocks are all evaluated. The
stream changes most in the first blocks, the gradient in the last."""
_TOLERANCE = 1e-5
"""Largest error of a step, relative to the stream's second moment; beyond it the step is halved."""
_NEGLIGIBLE = 1e-5
"""Size of a term, relative to the gradient's second moment, at which the series over the blocks of a gap ends."""
_KNOWN = 3
"""Evaluated blocks through which the increments of the stream are interpolated, by a polynomial of one degree less."""


class _Stop(NamedTuple):
    """An evaluated block: its number, its pullback and its records."""

    layer: int
    size: float
    """Second moment of the stream at its input"""
    pull: Pullback
    records: list[Record]
    log_variances: list[LogVariance]


class _Course:
    """The increments of the last few evaluated blocks, as a polynomial in ln(layer / layers above)."""

    def __init__(self, depth: int) -> None:
        self._logs = _logs(depth)
        self._known: list[tuple[int, Array]] = []

    def append(self, layer: int, added: Array) -> None:
        """Add the increment of one more block, and drop the oldest."""
        self._known = [*self._known[1 - _KNOWN :], (layer, added)]

    def pop(self) -> None:
        """Remove the last increment."""
        self._known.pop()

    def between(self, low: int, high: int) -> Array:
        """Sum of the increments of the blocks after `low` and before `high`."""
        import numpy as np

        at, known = self._logs[low + 1 : high], [self._logs[layer] for layer, _ in self._known]
        weights = (np.broadcast_to(weight, at.shape).sum() for weight in lagrange_weights(known, at))
        return sum(weight * added for weight, (_, added) in zip(weights, self._known, strict=True))


def _logs(depth: int) -> Array:
    """ln(l / (N - l)) at the middle of each of N blocks: a variable in which the stream is smooth near either end."""
    import numpy as np

    middles = np.arange(depth) + 0.5
    return np.log(middles / (depth - middles))


def apply_sampled_blocks(block: BlockLike, x: TokenSignal, site: Site, layers: range) -> tuple[TokenSignal, Pullback]:
    """All blocks, of which some are evaluated; a step is halved until its error is below 1e-5 of the stream's size.

    The gradient passes every block; those of a gap act as mixtures of the two evaluated blocks beside it. Its increments cannot
    be extrapolated, since some patterns over the positions die out within a few blocks. Error of the gradient: 1e-3.
    """
    import numpy as np

    trace, times = site.trace, len(layers)
    course, stops = _Course(times), list[_Stop]()
    count = len(x.second_moment)
    before = layer = 0
    step, state, left = 1, _flat(x), _flat(x)
    while True:
        trace.layer = layers.start + layer
        with trace.divert() as (records, log_variances):
            y, pull_block = block.moments(_signal(x, state), site)
        added = _flat(y) - state
        course.append(layer, added)
        if layer - before > 1:
            corrected = left + course.between(before, layer)
            error = np.abs(corrected - state)[: count + x.covariance.size].max() / y.averages[0]
            if error > _TOLERANCE:
                course.pop()
                step = (layer - before) // 2
                layer = before + step
                state = left + course.between(before, layer)
                continue
            state = corrected
            step += step // 2 + 1 if error < _TOLERANCE / 10 else 0
        else:
            step += 1
        stops.append(_Stop(layer, x.positions.mean(state[:count]), pull_block, records, log_variances))
        if layer == times - 1:
            break
        before, left = layer, state + added
        step = max(1, min(step, int(_REACH * layer), int(_REACH * (times - 1 - layer))))
        layer += step
        state = left + course.between(before, layer)
    _record_all(trace, stops, layers)

    sizes = _sizes(stops, times)

    def pull(g: TokenSignal) -> TokenSignal:
        passed = list[_Stop]()
        for k in range(len(stops) - 1, -1, -1):
            stop = stops[k]
            with trace.divert() as (records, _):
                g = stop.pull(g)
            passed.append(stop._replace(records=records, log_variances=[]))
            if k and stop.layer - stops[k - 1].layer > 1:
                with trace.silence():
                    g = _between(g, stop, stops[k - 1], sizes)
        _record_all(trace, passed, layers)
        return g

    return _signal(x, state + added), pull


def _between(g: TokenSignal, above: _Stop, below: _Stop, sizes: list[float]) -> TokenSignal:
    """The gradient at the lower end of a gap between two evaluated blocks, given that at the upper end.

    Each block of the gap adds a mixture of the two blocks' increments, in proportion to one over the size of the stream it
    reads: block l takes g to (1 + a_l B) g. The product of these is a polynomial in B, whose coefficients are the symmetric
    polynomials of the a_l.
    """
    between = range(above.layer - 1, below.layer, -1)
    ends = 1 / (above.layer + 1), 1 / (below.layer + 1)
    shares = [(1 / (layer + 1) - ends[1]) / (ends[0] - ends[1]) for layer in between]
    upper = [share * above.size / sizes[layer] for share, layer in zip(shares, between, strict=True)]
    lower = [(1 - share) * below.size / sizes[layer] for share, layer in zip(shares, between, strict=True)]
    each = [one + other for one, other in zip(upper, lower, strict=True)]
    parts = [(above, sum(upper) / sum(each)), (below, sum(lower) / sum(each))]
    coefficients = _symmetric(each)
    total, power = g, g
    for coefficient in coefficients[1:]:
        added = [stop.pull(power).plus(power.times(-1.0)).times(weight) for stop, weight in parts]
        power = added[0].plus(added[1])
        term = power.times(coefficient)
        total = total.plus(term)
        if abs(term.averages[0]) < _NEGLIGIBLE * total.averages[0]:
            break
    return total


def _symmetric(values: list[float]) -> list[float]:
    """Elementary symmetric polynomials of these numbers: the coefficients of the product of 1 + a x."""
    found = [1.0]
    for value in values:
        found = [1.0, *(one + value * before for before, one in zip(found, [*found[1:], 0.0], strict=True))]
    return found


def _flat(x: TokenSignal) -> Array:
    """The moments, and the spread if there is one, as one vector."""
    import numpy as np

    return np.concatenate([part.ravel() for part in (x.second_moment, x.covariance, *(x.spread or ()))])


def _signal(like: TokenSignal, vector: Array) -> TokenSignal:
    """The inverse of :func:`_flat`."""
    import numpy as np

    n, square = len(like.second_moment), like.covariance.shape
    pairs = like.covariance.size
    sizes = np.cumsum([n, pairs, n, pairs])
    q, c, *spread = np.split(vector, sizes[: 4 if like.spread else 1])
    if not like.spread:
        return like.of(q, c.reshape(square))
    v, w, u = spread
    return like.of(q, c.reshape(square), Spread(v, w.reshape(square), u.reshape(square)))


def _sizes(stops: list[_Stop], times: int) -> list[float]:
    """Second moment of the stream at the input of each block."""
    import numpy as np

    sizes: list[float] = np.interp(np.arange(times), [stop.layer for stop in stops], [stop.size for stop in stops]).tolist()
    return sizes


def _record_all(trace: Trace, stops: list[_Stop], layers: range) -> None:
    """Record every block, by interpolation between the records of those that were evaluated."""
    import numpy as np

    at = np.array([stop.layer for stop in stops])
    ascending = slice(None, None, 1 if len(at) < 2 or at[1] > at[0] else -1)
    every = _logs(len(layers))
    logs = every[at[ascending]]

    columns: list[list[float]] = []
    groups = list(zip(*(stop.records for stop in stops), strict=True))
    for group in groups:
        second = [record.second_moment for record in group]
        columns += [
            [math.log(value) for value in second],
            [record.covariance / value for record, value in zip(group, second, strict=True)],
            [record.mean / math.sqrt(value) for record, value in zip(group, second, strict=True)],
            [record.spread for record in group],
        ]
    heats = list(zip(*(stop.log_variances for stop in stops), strict=True))
    columns += [[float(value) for _, _, value in parts] for parts in heats]
    if not columns:  # a block of an outsider may record nothing
        return
    known = np.array(columns).T[ascending]
    along = (known if len(known) == len(layers) else spline_values(logs, known, every)).T
    for number, group in enumerate(groups):
        first = group[0]
        size, shares, means, spread = along[4 * number : 4 * number + 4]
        exact = np.exp(size)
        deviation = spread if math.isfinite(first.spread) else math.nan
        record = Record(first.role, layers, first.direction, means * np.sqrt(exact), exact, shares * exact, deviation)
        trace.records.append(record)
    for parts, values in zip(heats, along[4 * len(groups) :], strict=True):
        trace.log_variances.append(LogVariance(parts[0].stack, layers, values))
