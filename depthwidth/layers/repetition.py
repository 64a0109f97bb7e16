"""Shortcuts through many copies of one block.

Exchangeable tokens: :func:`block_inputs` computes the stream at the input of every block, from tables if norms permit, and
:func:`apply_all_blocks` then evaluates all blocks together as arrays. Tokens that differ from each other:
:func:`apply_sampled_blocks` evaluates the first blocks one by one and later ones at growing distances, since the increments of
the stream change slowly along the depth; it interpolates between them.

The constants below trade time for accuracy. ``tests/layers/test_repetition.py`` compares time and accuracy with those of an
evaluation of every block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..numerics.interpolation import Table, lagrange_weights, spline_values
from ..numerics.recursion import linear_states, sampled_states
from ..signal import DrawSpread, LogVariance, Pullback, Record, Signal, Site, Spread, TokenSignal, Trace, finite, quotient
from ..signal.residual import advance, covariance_factor
from .block import BlockLike, Residual
from .norms import Norm

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
    if x.offset is not None:
        last = last.offset_as(x.offset.times(float(_offset_shares(block, site, layers)[-1])))

    def pull(g: Signal) -> Signal:
        # The moments of the gradient at a block's input are linear in the moments of that at its output, and in its leaning.
        leans = y.spread is not None
        count = 4 if leans else 2
        with trace.silence():
            unit = _moments_of(pull_blocks(_gradient_of(np.eye(count)[:, :, None])), count)
        maps = [np.broadcast_to(part, (count, len(layers))) for part in unit]
        if len(maps) < count:  # no leaning comes back from a norm after the sum
            maps += [np.zeros((count, len(layers)))] * (count - len(maps))
        each = np.stack(maps, axis=0).transpose(2, 0, 1)[::-1]
        start = np.array([float(part) for part in _moments_of(g, count)] + [0.0] * count)[:count]
        *outputs, end = linear_states(each, start)
        pull_blocks(_gradient_of(np.array(outputs[::-1]).T))
        return _gradient_of(end.tolist())

    return last, pull


def _gradient_of(parts: Any) -> Signal:
    """A gradient of two moments, followed by those of its leaning if there are four."""
    second, covariance, *leaning = parts
    return Signal(second, covariance, None, Signal(*leaning) if leaning else None)


def _moments_of(g: Signal, count: int) -> list[Any]:
    """The inverse of :func:`_gradient_of`, without the leaning if it has none."""
    return [g.second_moment, g.covariance, *(g.leaning[:2] if g.leaning and count == 4 else ())]


def block_inputs(block: BlockLike, x: Signal, site: Site, layers: range) -> Signal:
    """The residual stream at the input of each of these equal blocks, as arrays, given that of the first.

    If every branch reads a normalised stream and all blocks have the same weight variances, the output of a branch depends on
    one number, the correlation of two tokens. A table of it reduces the cost of a block to microseconds. Otherwise each block
    is evaluated.
    """
    trace, first = site.trace, x
    states: list[tuple[float, ...]] = []
    steps = None
    with trace.silence():
        for trace.layer in layers:
            if steps is None and _reads_normalised(block, x, started=trace.layer > layers.start):
                steps = [] if trace.recipe.varies(site.role) else _branch_tables(block, x, site)
            if steps:
                states += _tabulated_states(steps, block.parallel, x, layers.stop - trace.layer)
                break
            states.append(_state(x))
            x, _ = block.moments(x, site)
    import numpy as np

    columns = np.array(states).T
    inputs = Signal(columns[0], columns[1], Spread(*columns[2:]) if first.spread else None)
    finite(inputs, site.role)
    return inputs.offset_as(first.offset and first.offset.times(_offset_shares(block, site, layers)[:-1]))


def _state(x: Signal) -> tuple[float, ...]:
    return (x.second_moment, x.covariance, *(x.spread or ()))


_SMALL_EPS = 2e-5
"""Largest epsilon of a norm, relative to the stream's second moment, at which the size of its output counts as constant."""


def _reads_normalised(block: BlockLike, x: Signal, *, started: bool) -> bool:
    """True if all branches read a normalised stream, which those of the first post-norm block do not."""
    if x.covariance < 0:
        return False
    for _, part in block.branches:
        norm = (block.norm if block.parallel else None) or part.norm_in or part.norm_stream
        if norm is None or norm.eps > _SMALL_EPS * x.second_moment:
            return False
        if not (started or block.norm or part.norm_in):
            return False
    return True


class _BranchTable(NamedTuple):
    """A branch as a table: its output's moments as functions of the angle whose cosine is the correlation of its input."""

    table: Table
    skip: float | None
    """Factor on the stream; None for 1."""
    reads_norm: float | None
    """Width over features of the norm that it reads; None without one."""
    normalised: float | None
    """Second moment at the output of a post-norm; None without one."""
    norm_share: float
    """Width over features of the post-norm."""
    draw: DrawSpread
    width: int


def _norm_share(norm: Norm) -> float:
    return norm.width / max(norm.width - norm.centred, 2)


def _branch_tables(block: BlockLike, x: Signal, site: Site) -> list[_BranchTable]:
    """A table for each branch, at the stream's current size."""
    import numpy as np

    size = x.second_moment

    def outputs(part: Residual, at: Site, draws: list[Any], angles: Any) -> Any:
        y = Signal(np.full(angles.shape, size), size * np.cos(angles))
        if block.parallel and block.norm is not None:
            y, _ = block.norm.moments(y, site.at("norm"))
        f, _, draw = part.branch_moments(y, at)
        scale = at.scales()[1] ** 2
        draws.append(draw.scaled(scale))
        columns = f.second_moment * scale, f.covariance * scale, draw.pair_omega
        return np.stack([np.broadcast_to(column, angles.shape) for column in columns], axis=-1)

    steps: list[_BranchTable] = []
    for name, part in block.branches:
        at, draws = site.at(name), list[Any]()
        table = Table(functools.partial(outputs, part, at, draws), 0.0, math.pi / 2)
        normalised, share = None, 1.0
        if part.norm_stream is not None:
            share = _norm_share(part.norm_stream)
            y, _ = part.norm_stream.moments(Signal(size, size), at.at("norm_stream"))
            normalised = y.second_moment
        read = (block.norm if block.parallel else None) or part.norm_in
        # The stream is scaled once by branches in parallel.
        skip = None if at.scales()[0] == 1 or (block.parallel and steps) else at.scales()[0]
        draw = DrawSpread(*(None if part is None else float(np.max(part)) for part in draws[0]))
        reads = None if read is None else _norm_share(read)
        steps.append(_BranchTable(table, skip, reads, normalised, share, draw, part.width))
    return steps


def _tabulated_states(steps: list[_BranchTable], parallel: bool, x: Signal, times: int) -> list[tuple[float, ...]]:
    """The stream at the input of each of `times` blocks, from the tables of the branches.

    If branches are added to an unscaled stream, their increments change slowly with the depth, and only some blocks are
    evaluated.
    """
    advance_block, state = _tabulated_block(steps, parallel), _state(x)
    if times > MANY_BLOCKS and all(step.skip is None and step.normalised is None for step in steps):
        sampled = sampled_states(advance_block, state, times)
        if sampled is not None:
            return [tuple(row) for row in sampled.tolist()]
    states = [state]
    for _ in range(times - 1):
        states.append(advance_block(states[-1]))
    return states


def _tabulated_block(steps: list[_BranchTable], parallel: bool) -> Callable[[tuple[float, ...]], tuple[float, ...]]:
    """The map of the stream's moments and spread from one block's input to the next one's, in plain floats."""
    branches = [(k == 0 or not parallel, step.table.pieces, *step[1:], step.draw.omega) for k, step in enumerate(steps)]
    acos = math.acos

    def advance_block(state: tuple[float, ...]) -> tuple[float, ...]:
        q, c, *parts = state
        spread = tuple(parts) if parts else None
        for new_input, (pieces, low, size, end), skip, reads_norm, normalised, post_share, draw, width, omega in branches:
            if new_input:
                cosine = c / q
                if reads_norm is not None and spread is not None:
                    cosine *= 1 + reads_norm * (covariance_factor(q, c, spread) - 1)
                offset = acos(1.0 if cosine > 1.0 else 0.0 if cosine < 0.0 else cosine) - low
            i = int(offset / size)
            if i > end:
                i = end
            t = offset - i * size
            (a3, a2, a1, a0), (b3, b2, b1, b0), (e3, e2, e1, e0) = pieces[i]
            a, pair = ((a3 * t + a2) * t + a1) * t + a0, ((b3 * t + b2) * t + b1) * t + b0
            pair_omega = ((e3 * t + e2) * t + e1) * t + e0
            q, c, spread = advance(q, c, spread, a, pair, omega, width, skip, draw, pair_omega)
            if normalised is not None:
                correlation = c / q
                before = Signal(q, c)
                if spread is not None:
                    correlation *= 1 + post_share * (covariance_factor(q, c, spread) - 1)
                    spread = tuple(Spread(*spread).after_norm(before, Signal(normalised, normalised * correlation)))
                q, c = normalised, normalised * correlation
        return (q, c) if spread is None else (q, c, *spread)

    return advance_block


# ---- tokens that differ ----

_REACH = 0.2
"""Largest step, relative to the distance to the nearer end of the stack: the first and last 10 blocks are all evaluated. The
stream changes most in the first blocks, the gradient in the last."""
_TOLERANCE = 1e-5
"""Largest error of a step, relative to the stream's second moment; a step with a larger error is halved."""
_NEGLIGIBLE = 3e-5
"""Size of a term, relative to the gradient's second moment, below which the series over the blocks of a gap ends."""
_KNOWN = 4
"""Number of evaluated blocks through which a polynomial, of one degree less, interpolates the increments of the stream."""


class _Sample(NamedTuple):
    """An evaluated block: its number, its pullback and its records."""

    layer: int
    size: float
    """Second moment of the stream at its input."""
    pull: Pullback
    records: list[Record]
    log_variances: list[LogVariance]


class _Increments:
    """The increments of the last few evaluated blocks, as a polynomial in ln(layers below / layers above)."""

    def __init__(self, depth: int) -> None:
        self._logs = _depth_variable(depth)
        self._known: list[tuple[int, Array]] = []

    def append(self, layer: int, added: Array) -> None:
        """Add the increment of one more block, and remove the oldest."""
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


def _depth_variable(depth: int) -> Array:
    """ln(l / (N - l)) at the middle of each of N blocks: a variable in which the stream is smooth near both ends."""
    import numpy as np

    middles = np.arange(depth) + 0.5
    return np.log(middles / (depth - middles))


def apply_sampled_blocks(block: BlockLike, x: TokenSignal, site: Site, layers: range) -> tuple[TokenSignal, Pullback]:
    """The output of all blocks and its pullback, from the evaluation of some; the step is halved until its error is below 1e-5.

    The error is relative to the stream's size. The gradient passes through every block; the blocks of a gap act as mixtures of
    the two evaluated blocks at its ends. Increments of the gradient cannot be extrapolated, since some patterns over the
    positions die out within a few blocks. Error of the gradient: 1e-3.

    A skip path with a factor of its own multiplies the stream from block to block. States are divided by the product of these
    factors before they are interpolated, and gradients pass the product apart from the rest.
    """
    import numpy as np

    trace, times = site.trace, len(layers)
    increments, samples, grown = _Increments(times), list[_Sample](), _skip_growth(block, site, layers)
    shares = None if x.offset is None else _offset_shares(block, site, layers)
    count = len(x.second_moment)
    powers = np.ones(len(_flatten(x)))
    powers[count + x.covariance.size :] = 2.0  # variances of moments

    def scaled(vector: Array, layer: int, to: int) -> Array:
        """A state at the input of block `layer`, as the skip paths alone would carry it to the input of block `to`."""
        return vector * np.exp(powers * (grown[to] - grown[layer]))

    def at(vector: Array, layer: int) -> TokenSignal:
        y = _unflatten(x, vector)
        return y if x.offset is None or shares is None else y.offset_as(x.offset.times(shares[layer]))

    before = layer = 0
    step, state, left = 1, _flatten(x), _flatten(x)
    while True:
        trace.layer = layers.start + layer
        with trace.divert() as (records, log_variances):
            y, pull_block = block.moments(finite(at(state, layer), site.role), site)
        after = _flatten(y)
        increments.append(layer, scaled(after, layer + 1, 0) - scaled(state, layer, 0))
        if layer - before > 1:
            corrected = scaled(left + increments.between(before, layer), 0, layer)
            error = np.abs(corrected - state)[: count + x.covariance.size].max() / y.averages[0]
            if error > _TOLERANCE:
                increments.pop()
                step = (layer - before) // 2
                layer = before + step
                state = scaled(left + increments.between(before, layer), 0, layer)
                continue
            after += scaled(corrected - state, layer, layer + 1)
            state = corrected
            step += step // 2 + 1 if error < _TOLERANCE / 10 else 0
        else:
            step += 1
        samples.append(_Sample(layer, x.positions.mean(state[:count]), pull_block, records, log_variances))
        if layer == times - 1:
            break
        before, left = layer, scaled(after, layer + 1, 0)
        step = max(1, min(step, int(_REACH * layer), int(_REACH * (times - 1 - layer))))
        layer += step
        state = scaled(left + increments.between(before, layer), 0, layer)
    _record_all(trace, samples, layers)

    sizes = _stream_sizes(samples, times)

    def pull(g: TokenSignal) -> TokenSignal:
        pulled = list[_Sample]()
        for k in range(len(samples) - 1, -1, -1):
            sample = samples[k]
            with trace.divert() as (records, _):
                g = sample.pull(g)
            pulled.append(sample._replace(records=records, log_variances=[]))
            if k and sample.layer - samples[k - 1].layer > 1:
                with trace.silence():
                    g = _cross_gap(g, sample, samples[k - 1], sizes, grown)
        _record_all(trace, pulled, layers)
        return g

    return at(after, times), pull


def _skip_growth(block: BlockLike, site: Site, layers: range) -> Array:
    """Logarithm of the factor by which skip paths have multiplied the stream's second moment, at the input of each block.

    Shape (blocks + 1,). It is 0 everywhere if no skip path has a factor, or if a norm after the sum takes it out again.
    """
    import numpy as np

    if any(part.norm_stream is not None for _, part in block.branches):
        return np.zeros(len(layers) + 1)
    found = _skip_logarithms(block, site, layers)
    return found if np.isfinite(found).all() else np.zeros(len(layers) + 1)  # without a stream that is left to follow


def _skip_logarithms(block: BlockLike, site: Site, layers: range) -> Array:
    """As :func:`_skip_growth`, whatever norms there are; minus infinity after a skip path of factor 0."""
    import numpy as np

    found = np.zeros(len(layers) + 1)
    for name, _ in block.branches[:1] if block.parallel else block.branches:
        skip = site.trace.recipe.residual(site.at(name).role).skip
        each = np.square(skip[layers.start : layers.stop] if isinstance(skip, tuple) else np.full(len(layers), skip))
        with np.errstate(divide="ignore"):
            found[1:] += np.cumsum(np.log(each))
    return found


def _offset_shares(block: BlockLike, site: Site, layers: range) -> Array:
    """Share of the mean over the features that is left at the input of each block, and after the last: (blocks + 1,)."""
    import numpy as np

    if any(part.norm_stream is not None for _, part in block.branches):
        return np.concatenate([[1.0], np.zeros(len(layers))])
    return np.exp(_skip_logarithms(block, site, layers))


def _cross_gap(g: TokenSignal, above: _Sample, below: _Sample, sizes: list[float], grown: Array) -> TokenSignal:
    """The gradient at the lower end of a gap between two evaluated blocks, given that at the upper end.

    Each block of the gap adds a mixture of the increments of these two, inversely proportional to the size of its input and
    linear in ln(l + 1/2): block l maps g to s_l (1 + a_l B) g, with s_l from its skip paths. The product of these maps is a
    polynomial in B, whose coefficients are the elementary symmetric polynomials of the a_l.
    """
    between = range(above.layer - 1, below.layer, -1)
    reach = math.log((above.layer + 0.5) / (below.layer + 0.5))
    shares = [math.log((layer + 0.5) / (below.layer + 0.5)) / reach for layer in between]
    upper = [share * above.size / sizes[layer] for share, layer in zip(shares, between, strict=True)]
    lower = [(1 - share) * below.size / sizes[layer] for share, layer in zip(shares, between, strict=True)]
    each = [one + other for one, other in zip(upper, lower, strict=True)]
    parts = [
        (sample, math.exp(grown[sample.layer] - grown[sample.layer + 1]), sum(shares) / sum(each))
        for sample, shares in ((above, upper), (below, lower))
    ]
    total, power = g, g
    for coefficient in _symmetric_polynomials(each):
        added = [sample.pull(power).times(back).plus(power.times(-1.0)).times(weight) for sample, back, weight in parts]
        power = added[0].plus(added[1])
        term = power.times(coefficient)
        total = total.plus(term)
        if abs(term.averages[0]) <= _NEGLIGIBLE * total.averages[0]:
            break
    return total.times(math.exp(grown[above.layer] - grown[below.layer + 1]))


def _symmetric_polynomials(values: list[float]) -> Iterator[float]:
    """Elementary symmetric polynomials of these numbers from degree 1: the coefficients of the product of all 1 + a x."""
    import numpy as np

    factors, before = np.array(values), np.ones(len(values))  # of one degree less, of all values before each
    for _ in values:
        upto = np.cumsum(factors * before)
        yield float(upto[-1])
        before[1:], before[0] = upto[:-1], 0.0


def _flatten(x: TokenSignal) -> Array:
    """One vector of the moments, and of the spread if there is one."""
    import numpy as np

    return np.concatenate([part.ravel() for part in (x.second_moment, x.covariance, *(x.spread or ()))])


def _unflatten(like: TokenSignal, vector: Array) -> TokenSignal:
    """The signal of a vector from :func:`_flatten`."""
    import numpy as np

    n, square = len(like.second_moment), like.covariance.shape
    pairs = like.covariance.size
    sizes = np.cumsum([n, pairs, n, pairs, pairs, pairs])
    q, c, *spread = np.split(vector, sizes[: 6 if like.spread else 1])
    if not like.spread:
        return like.of(q, c.reshape(square))
    v, *shared = spread
    return like.of(q, c.reshape(square), Spread(v, *(part.reshape(square) for part in shared)))


def _stream_sizes(samples: list[_Sample], times: int) -> list[float]:
    """Second moment of the stream at the input of each of `times` blocks; a logarithm is smooth under any skip path."""
    import numpy as np

    evaluated = np.array([float(sample.layer) for sample in samples])
    logs = np.log([[sample.size] for sample in samples])
    sizes: list[float] = np.exp(spline_values(evaluated, logs, np.arange(times))[:, 0]).tolist()
    return sizes


def _positive(group: Iterable[Record]) -> bool:
    """True if all second moments have a logarithm. A branch of factor 0 passes no gradient."""
    return all(record.second_moment > 0 for record in group)


def _record_all(trace: Trace, samples: list[_Sample], layers: range) -> None:
    """Record every block, by interpolation between the records of the evaluated ones."""
    import numpy as np

    evaluated = np.array([sample.layer for sample in samples])
    ascending = slice(None, None, 1 if len(evaluated) < 2 or evaluated[1] > evaluated[0] else -1)
    every = _depth_variable(len(layers))
    logs = every[evaluated[ascending]]

    columns: list[list[float]] = []
    groups = list(zip(*(sample.records for sample in samples), strict=True))
    for group in groups:
        second = [record.second_moment for record in group]
        columns += [
            [math.log(value) for value in second] if _positive(group) else second,
            [quotient(record.covariance, value) for record, value in zip(group, second, strict=True)],
            [quotient(record.mean, math.sqrt(value)) for record, value in zip(group, second, strict=True)],
            [record.spread for record in group],
        ]
    log_variances = list(zip(*(sample.log_variances for sample in samples), strict=True))
    columns += [[float(value) for _, _, value in parts] for parts in log_variances]
    if not columns:  # a user's block may record nothing
        return
    known = np.array(columns).T[ascending]
    along = (known if len(known) == len(layers) else spline_values(logs, known, every)).T
    for number, group in enumerate(groups):
        first = group[0]
        size, shares, means, spread = along[4 * number : 4 * number + 4]
        exact = np.exp(size) if _positive(group) else size.clip(0.0)
        deviation = spread if math.isfinite(first.spread) else math.nan
        record = Record(first.role, layers, first.direction, means * np.sqrt(exact), exact, shares * exact, deviation)
        trace.records.append(record)
    for parts, values in zip(log_variances, along[4 * len(groups) :], strict=True):
        trace.log_variances.append(LogVariance(parts[0].role, layers, values))
