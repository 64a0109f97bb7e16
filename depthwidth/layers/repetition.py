"""Shortcuts through many copies of one block.

Exchangeable tokens: :func:`block_inputs` computes the stream at the input of every block, from tables if norms permit, or from
a few blocks if the recipe changes slowly along the depth. :func:`apply_all_blocks` then evaluates all blocks together as
arrays. Tokens that differ from each other: :func:`apply_sampled_blocks` evaluates the first blocks one by one and later ones
at growing distances, since the increments of the stream change slowly along the depth; it interpolates between them. In the
backward pass the evaluated blocks stand for those between them.

The constants below trade time for accuracy. ``tests/layers/test_repetition.py`` compares time and accuracy with those of an
evaluation of every block.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..numerics.interpolation import PlaneTable, Table, spline_values
from ..numerics.recursion import linear_states, sampled_states
from ..signal import (
    AnySignal,
    DrawSpread,
    GradientStep,
    Pullback,
    Record,
    Signal,
    Site,
    Spread,
    StepRecord,
    TokenSignal,
    Trace,
    finite,
    quotient,
)
from ..signal.matches import Others
from ..signal.residual import advance, covariance_factor
from ..values import once
from .block import BlockLike, Residual
from .depth_steps import Increments, Steps, depth_variable
from .gaps import Sample, pass_skips, pull_near, share_gap
from .norms import Norm
from .output_norm import OutputNorm
from .varying_numbers import VaryingNumbers, follow_from_few

Array = Any
_State = tuple[float, ...]

FEW_BLOCKS = 2
"""Up to this many blocks of exchangeable tokens are evaluated one by one: arrays cost more than two evaluations."""
FEW_OF_KINDS = 6
"""The same of tokens whose pairs are of two kinds, which need larger tables."""
MANY_BLOCKS = 16
"""Up to this many blocks of tokens that differ are evaluated one by one: sampling evaluates nearly all of them anyway."""


# ---- exchangeable tokens ----


def apply_all_blocks(block: BlockLike, x: AnySignal, site: Site, layers: range) -> tuple[AnySignal, Pullback] | None:
    """All blocks together, as arrays, given the stream at the input of each from :func:`block_inputs`.

    None if there are few of them, tokens differ, or no tables are possible for tokens whose pairs are of two kinds.
    """
    if not isinstance(x, Signal) and not x.positions.of_kinds:
        return None
    if len(layers) <= (FEW_BLOCKS if isinstance(x, Signal) else FEW_OF_KINDS):
        return None
    inputs = block_inputs(block, x, site, layers)
    if inputs is None:
        return None
    import numpy as np

    trace = site.trace
    trace.layer = layers
    y, pull_blocks = block.moments(inputs, site)
    last = _signal_of(x, [part[-1] for part in _columns_of(y)])
    if x.offset is not None:
        last = last.offset_as(x.offset.times(float(_offset_shares(block, site, layers)[-1])))

    def pull(g: AnySignal) -> AnySignal:
        # The moments of the gradient at a block's input are linear in the moments of that at its output, and in its leaning.
        half = 1 + _kinds_of(x)
        count = half if y.spread is None else 2 * half
        with trace.silence():
            unit = _moments_of(pull_blocks(_gradient_of(x, np.eye(count)[:, :, None])), count)
        each = np.zeros((len(layers), count, count))  # no leaning comes back from a norm after the sum
        for k, part in enumerate(unit):
            each[::-1, k] = part.T
        start = np.array([float(np.ravel(part)[0]) for part in _moments_of(g, count)] + [0.0] * count)[:count]
        states = linear_states(each, start)
        pull_blocks(_gradient_of(x, np.ascontiguousarray(states[-2::-1].T)))
        end = states[-1]
        return _gradient_of(x, end.tolist() if isinstance(x, Signal) else end[:, None])

    return last, pull


def _kinds_of(x: AnySignal) -> int:
    """The number of covariances of a signal of exchangeable tokens: of one kind of pairs, or of two."""
    return 1 if isinstance(x, Signal) else 2


def _gradient_of(like: AnySignal, parts: Any) -> Any:
    """A gradient of second moment and covariances, followed by those of its leaning if there are twice as many."""
    half = 1 + _kinds_of(like)
    pairs = [parts[k + 1] if half == 2 else parts[k + 1 : k + 3].swapaxes(0, -2) for k in range(0, len(parts), half)]
    g, *leaning = (like.of(one, pair) for one, pair in zip(parts[::half], pairs, strict=True))
    return g.leaning_as(leaning[0] if leaning else None)


def _moments_of(g: AnySignal, count: int) -> list[Any]:
    """The inverse of :func:`_gradient_of`, without the leaning if it has none."""
    half = 1 + _kinds_of(g)
    parts = [g] if g.leaning is None or count == half else [g, g.leaning]
    return [moment for part in parts for moment in _flat(part.second_moment, part.covariance, half > 2)]


def _flat(one: Any, pair: Any, kinds: bool) -> tuple[Any, ...]:
    return (one, *pair.swapaxes(0, -2)) if kinds else (one, pair)


def _columns_of(x: AnySignal) -> list[Any]:
    """The moments of a signal, and its spread if it has one: an array over blocks for each token and each kind of pairs."""
    kinds, spread = not isinstance(x, Signal), x.spread
    columns = [*_flat(x.second_moment, x.covariance, kinds)]
    if spread is None:
        return columns
    v, *others = spread
    return [*columns, v, *(part for other in others for part in (other if kinds else [other]))]


def _signal_of(like: AnySignal, columns: Any) -> Any:
    """The inverse of :func:`_columns_of`, of arrays over blocks or of numbers."""
    if isinstance(like, Signal):
        q, c, *parts = columns if getattr(columns, "ndim", 0) else map(float, columns)
        return Signal(q, c, Spread(*parts) if parts else None)
    import numpy as np

    columns = np.array(columns)
    columns = columns[:, None] if columns.ndim == 1 else columns
    q, c, parts = columns[0], columns[1:3], columns[3:]
    spread = Spread(parts[0], *(parts[k : k + 2] for k in range(1, 9, 2))) if len(parts) else None
    return like.of(q, c, spread)


def block_inputs(block: BlockLike, x: AnySignal, site: Site, layers: range) -> Any:
    """The residual stream at the input of each of these equal blocks, as arrays, given that of the first.

    If every branch reads a normalised stream and all blocks have the same weight variances, the output of a branch depends on
    one number, the correlation of two tokens. With equal tokens apart it depends on two. A table of it reduces the cost of a
    block to microseconds. Otherwise a few blocks are evaluated, if the stream and the variances change slowly along the depth.
    If they do not, each block is, or, if there are two kinds of pairs, None is returned: :func:`apply_sampled_blocks` adapts
    its steps.
    """
    trace, first = site.trace, x
    states: list[_State] = []
    following: Any = []
    steps = None
    varying = bool(trace.recipe.along_blocks(site.role, layers))
    with trace.silence():
        for trace.layer in layers:
            of_texts = (
                not isinstance(x, Signal) and x.spread is not None and trace.layer == 0
            )  # the slopes (W15) are those of block 0 alone
            if steps is None and not (varying or of_texts) and _reads_normalised(block, x, started=trace.layer > layers.start):
                steps = _branch_tables(block, x, site)
            if steps:
                following = _tabulated_states(steps, block.parallel, x, layers.stop - trace.layer)
                break
            if len(states) == _SINGLE:
                sampled = _evaluated_states(block, x, site, range(trace.layer, layers.stop))
                if sampled is not None:
                    following = sampled
                    break
                if not isinstance(first, Signal):
                    return None
                trace.layer = layers.start + _SINGLE
            states.append(_state(x))
            x, _ = block.moments(x, site)
    import numpy as np

    rows = [np.array(part) for part in (states, following) if len(part)]
    inputs = _signal_of(first, np.ascontiguousarray(np.concatenate(rows).T))
    finite(inputs, site.role)
    return inputs.offset_as(first.offset and first.offset.times(_offset_shares(block, site, layers)[:-1]))


def _evaluated_states(block: BlockLike, x: AnySignal, site: Site, layers: range) -> Array | None:
    """The stream at the input of each block, a row for each, from the evaluation of a few of them.

    None if there are too few blocks to save any, or if the stream or a number of the recipe changes too fast. The last block
    may have numbers of its own.
    """
    import numpy as np

    trace, times = site.trace, len(layers) - 1
    along = [np.square(values[:-1]) for values in trace.recipe.along_blocks(site.role, layers)]
    if times <= MANY_BLOCKS or not follow_from_few(along, times, _EVALUATED_STEP):
        return None

    start = _state(x)
    powers = np.array([1.0] * (1 + _kinds_of(x)) + [2.0] * (len(start) - 1 - _kinds_of(x)))  # 2: variances of moments
    normed, size = any(part.norm_stream is not None for _, part in block.branches), start[0]
    shares = _offset_shares(block, site, layers)

    def advance_block(state: _State, number: int) -> _State:
        nonlocal size
        given = np.array((1.0, *state[1:])) * size**powers if normed else np.array(state)
        if not _possible(x, given):  # a prediction that no correction will agree with
            return (math.nan,) * len(state)
        trace.layer = layers.start + number
        before = _signal_of(x, given)
        y, _ = block.moments(before.offset_as(x.offset and x.offset.times(float(shares[number]))), site)
        after = _state(y)
        if not normed:
            return after
        size = after[0]
        return (state[0] + size, *(np.array(after) / size**powers)[1:].tolist())

    # A norm after the sum fixes the size of the stream at once, so that its increments say nothing. The sizes themselves are
    # then the increments of the first number, and the others are relative to them.
    first = (0.0, *(np.array(start) / size**powers)[1:].tolist()) if normed else start
    # Less than a tenth of a prediction's error is left after its correction.
    tolerances = (10 * np.where(powers > 1, _SPREAD_TOLERANCE, _TOLERANCE)).tolist()
    states = sampled_states(advance_block, first, times, _EVALUATED_STEP, tolerances)
    if states is None:
        return None
    states = np.concatenate([states, [advance_block(tuple(states[-1].tolist()), times - 1)]])
    if normed:
        sizes = np.concatenate([start[:1], np.diff(states[:, 0])])
        states[:, 0] = 1.0
        states *= sizes[:, None] ** powers
    return states


_EVALUATED_STEP = 0.07
"""Largest distance between blocks that are evaluated themselves, relative to the depth there."""


def _possible(x: AnySignal, state: Array) -> bool:
    """True if second moment and covariances are those of a stream."""
    q, *pairs = state[: 1 + _kinds_of(x)]
    return q > 0 and all(abs(pair) <= (1 + _EXCESS) * q for pair in pairs)


def _state(x: AnySignal) -> tuple[float, ...]:
    """The columns of a single block's input, as numbers."""
    if isinstance(x, Signal):
        return (x.second_moment, x.covariance, *(x.spread or ()))
    return tuple(float(part[0]) for part in _columns_of(x))


_STEP = 0.18
"""Largest distance between blocks that are evaluated by tables, relative to the depth there."""
_SINGLE = 3
"""Blocks that are evaluated one by one before others stand for all, or before tables if pairs are of two kinds: the first adds
to a small embedding."""
_SMALL_EPS = 2e-5
"""Largest epsilon of a norm, relative to the stream's second moment, at which the size of its output counts as constant."""


def _reads_normalised(block: BlockLike, x: AnySignal, *, started: bool) -> bool:
    """True if all branches read a normalised stream, which those of the first post-norm block do not."""
    if min(_state(x)[1 : 1 + _kinds_of(x)]) < 0:
        return False
    for _, part in block.branches:
        norm = (block.norm if block.parallel else None) or part.norm_in or part.norm_stream
        if norm is None or norm.eps > _SMALL_EPS * x.second_moment:
            return False
        if not (started or block.norm or part.norm_in):
            return False
    return True


class _BranchTable(NamedTuple):
    """A branch as a table: its output's moments as functions of the correlations of its input."""

    table: Any
    """A :class:`Table` over the angle whose cosine is the correlation; :class:`_KindsTable` for two kinds of pairs"""
    skip: float | None
    """Factor on the stream; None for 1."""
    reads_norm: float | None
    """Width over features of the norm that it reads; None without one."""
    normalised: float | None
    """Second moment at the output of a post-norm; None without one."""
    norm_share: float
    """Width over features of the post-norm."""
    draw: Callable[[], DrawSpread]
    """Known as soon as the table has been read"""
    width: int
    output_norm: OutputNorm | None
    """The norm of the branch's output, if its factors follow the spread of the stream; the table then has its `moments` too"""


class _KindsTable:
    """A branch's output for two kinds of pairs, over the correlations of different and of equal tokens.

    Equal tokens correlate more than different ones, by at most 1, but for the rounding of corrections to first order. Each of
    three regions has a table, made when first needed. The variables are the larger of the two angles whose cosines the
    correlations are, and the ratio of the chords of both, in which moments are smooth even where a correlation is near 1; above
    1 the excess takes the place of the ratio. Most streams start at small angles, which become smaller: the first table of a
    region then ends before the right angle.
    """

    def __init__(self, outputs: Callable[[Any], Any], size: float) -> None:
        """`outputs` maps the covariances (2, n) of tokens of second moment `size` to an array (n, m)."""
        self._outputs, self._size = outputs, size
        self._tables: dict[str, tuple[float, PlaneTable]] = {}

    def _table(self, region: str, angle: float) -> PlaneTable:
        """The table of a region that reaches this angle."""
        import numpy as np

        end, table = self._tables.get(region, (-1.0, None))
        if table is not None and angle <= end:
            return table

        def values(angles: Any, ratios: Any) -> Any:
            wide = np.cos(angles)
            narrow = 1 - (1 - wide) * ratios**2 if region != "above" else 1 + _EXCESS * ratios
            return self._outputs(self._size * np.stack([narrow, wide] if region == "lower" else [wide, narrow]))

        intervals = _INTERVALS if table is not None or angle > _SMALL_ANGLE * math.pi / 2 else round(_SMALL_ANGLE * _INTERVALS)
        end = intervals / _INTERVALS * math.pi / 2
        table = PlaneTable(values, 0.0, end, intervals + 1, orders=9 if region != "above" else 3)
        self._tables[region] = end, table
        return table

    def __call__(self, cosine: float, equal: float) -> list[float]:
        """The values at the correlation of two different tokens and of two equal ones."""
        if equal > 1:
            region, angle, other = "above", math.acos(cosine), min(1.0, (equal - 1) / _EXCESS)
        elif equal < cosine:
            region, angle, other = "lower", math.acos(equal), math.sqrt((1 - cosine) / (1 - equal))
        else:
            region, angle = "between", math.acos(cosine)
            other = math.sqrt((1 - equal) / (1 - cosine)) if cosine < 1 else 0.0
        return self._table(region, angle)(angle, other)


_INTERVALS = 64
"""Of a table, up to the right angle."""
_SMALL_ANGLE = 0.6
"""The end of a table that starts at smaller angles, as a share of the right angle."""
_EXCESS = 0.1
"""Largest excess of a correlation over 1 that is told from larger ones."""


def _angle_table(outputs: Callable[[Any], Any], size: float) -> Table:
    """The same for one kind of pairs, over the angle."""
    import numpy as np

    return Table(lambda angles: outputs(size * np.cos(angles)), 0.0, math.pi / 2)


def _norm_share(norm: Norm) -> float:
    return norm.width / max(norm.width - norm.centred, 2)


def _branch_tables(block: BlockLike, x: AnySignal, site: Site) -> list[_BranchTable]:
    """A table for each branch, at the stream's current size."""
    import numpy as np

    size = _state(x)[0]

    def outputs(part: Residual, at: Site, output_norm: OutputNorm | None, draws: list[Any], covariance: Any) -> Any:
        y: AnySignal = x.of(np.full(covariance.shape[-1], size), covariance)
        if block.parallel and block.norm is not None:
            y, _ = block.norm.moments(y, site.at("norm"))
        f, _, draw = part.branch_moments(y, at)
        scale = at.scales()[1] ** 2
        draws.append(draw.scaled(scale))
        columns = [*_columns_of(f.times(scale)), draw.pair_omega]
        if output_norm is not None:
            bare, pair_omega = output_norm.moments(y, at)
            columns += [*_columns_of(bare), pair_omega]
        return np.stack([np.broadcast_to(column, covariance.shape[-1:]) for column in columns], axis=-1)

    steps: list[_BranchTable] = []
    for name, part in block.branches:
        at, draws = site.at(name), list[Any]()
        output_norm = OutputNorm.of(part, x, at)
        # A norm that branches share leaves them no spread.
        if x.spread is None or block.norm is not None or (output_norm is not None and not output_norm.follows_spread):
            output_norm = None
        of_part = functools.partial(outputs, part, at, output_norm, draws)
        table: Any = _KindsTable(of_part, size) if isinstance(x, TokenSignal) else _angle_table(of_part, size)
        normalised, share = None, 1.0
        if part.norm_stream is not None:
            share = _norm_share(part.norm_stream)
            y, _ = part.norm_stream.moments(Signal(size, size), at.at("norm_stream"))
            normalised = y.second_moment
        read = (block.norm if block.parallel else None) or part.norm_in
        # The stream is scaled once by branches in parallel.
        skip = None if at.scales()[0] == 1 or (block.parallel and steps) else at.scales()[0]
        reads = None if read is None else _norm_share(read)
        steps.append(
            _BranchTable(table, skip, reads, normalised, share, once(functools.partial(_draw, draws)), part.width, output_norm)
        )
    return steps


def _draw(draws: list[Any]) -> DrawSpread:
    """The variation between draws in plain floats, from those of the branch's evaluations, which share it."""
    found: DrawSpread = draws[0].constant()
    return found


def _tabulated_states(steps: list[_BranchTable], parallel: bool, x: AnySignal, times: int) -> Any:
    """The stream at the input of each of `times` blocks, from the tables of the branches; a row for each.

    If branches are added to an unscaled stream, their increments change slowly with the depth, and only some blocks are
    evaluated.
    """
    of_one = isinstance(x, Signal)
    advance_block = _tabulated_block(steps, parallel) if of_one else _tabulated_kinds(steps, parallel, x, x.positions.match)
    state = _state(x)
    if times > MANY_BLOCKS and all(step.skip is None and step.normalised is None for step in steps):
        sampled = sampled_states(lambda state, _: advance_block(state), state, times, _STEP)
        if sampled is not None:
            return sampled
    states, seen = [state], {state: 0}
    while len(states) < times:
        state = advance_block(state)
        if state in seen:  # tokens of a post-norm stack collapse: what follows are the same few roundings again and again
            cycle = states[seen[state] :]
            return [*states, *itertools.islice(itertools.cycle(cycle), times - len(states))]
        seen[state] = len(states)
        states.append(state)
    return states


def _tabulated_block(steps: list[_BranchTable], parallel: bool) -> Callable[[tuple[float, ...]], tuple[float, ...]]:
    """The map of the stream's moments and spread from one block's input to the next one's, in plain floats."""
    branches = [
        (k == 0 or not parallel, step.table.pieces, *step[1:5], step.draw(), step.width, step.draw().omega, step.output_norm)
        for k, step in enumerate(steps)
    ]
    acos = math.acos

    def advance_block(state: tuple[float, ...]) -> tuple[float, ...]:
        q, c, *parts = state
        spread = tuple(parts) if parts else None
        for (
            new_input, (pieces, low, size, end), skip, reads_norm, normalised, post_share, draw, width, omega, output_norm
        ) in branches:  # fmt: skip
            if new_input:
                read = q, c, spread
                cosine = c / q
                if reads_norm is not None and spread is not None:
                    cosine *= 1 + reads_norm * (covariance_factor(q, c, spread) - 1)
                offset = acos(1.0 if cosine > 1.0 else 0.0 if cosine < 0.0 else cosine) - low
            i = int(offset / size)
            if i > end:
                i = end
            t = offset - i * size
            (a3, a2, a1, a0), (b3, b2, b1, b0), (e3, e2, e1, e0), *more = pieces[i]
            a, pair = ((a3 * t + a2) * t + a1) * t + a0, ((b3 * t + b2) * t + b1) * t + b0
            pair_omega = ((e3 * t + e2) * t + e1) * t + e0
            if output_norm is not None and read[2] is not None:
                own, own_pair, of_pairs = (((f3 * t + f2) * t + f1) * t + f0 for f3, f2, f1, f0 in more)
                stream = Signal(*read[:2], Spread(*read[2]))
                pair *= output_norm.factors(stream, cosine, Signal(own, own_pair), of_pairs)[0].covariance
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


def _tabulated_kinds(steps: list[_BranchTable], parallel: bool, like: AnySignal, match: float) -> Callable[[_State], _State]:
    """:func:`_tabulated_block` for two kinds of pairs, of different and of equal tokens; `match` is the share of the latter.

    A pair of each kind advances as any pair does; only the variance of a token's second moment depends on both kinds.
    """
    import numpy as np

    def advance_block(state: _State) -> _State:
        q, c, equal, *parts = state
        spread = spread_equal = None
        if parts:
            v, w, w_equal, u, u_equal, x, x_equal, z, z_equal = parts
            spread, spread_equal = (v, w, u, x, z), (v, w_equal, u_equal, x_equal, z_equal)
        cosines = 1.0, 1.0
        for k, step in enumerate(steps):
            if k == 0 or not parallel:
                read = step.reads_norm
                cosines = min(1.0, _normed_cosine(q, c, spread, read)), _normed_cosine(q, equal, spread_equal, read)
                read_state = _kinds_state(q, c, equal, spread, spread_equal)
            a, a_pair, a_equal, pair_omega, *norm_input = step.table(*cosines)
            if step.output_norm is not None:
                stream, output = (_signal_of(like, part) for part in (read_state, norm_input[:3]))
                known, _ = step.output_norm.factors(stream, np.array(cosines)[:, None], output, norm_input[3])
                by_kind = known.covariance[:, 0].tolist()
                a_pair, a_equal = a_pair * by_kind[0], a_equal * by_kind[1]
            draw = step.draw()
            others = None
            if spread is not None and spread_equal is not None:
                different, alike = (c, a_pair, spread[1], *spread[3:]), (equal, a_equal, spread_equal[1], *spread_equal[3:])
                others = Others(*((1 - match) * one + match * other for one, other in zip(different, alike, strict=True)))
            more = draw.omega, step.width, step.skip, draw, pair_omega, None, others
            _, c, spread = advance(q, c, spread, a, a_pair, *more)
            q, equal, spread_equal = advance(q, equal, spread_equal, a, a_equal, *more)
            if step.normalised is not None:
                any_pair = None
                if spread is not None and spread_equal is not None:
                    any_pair = (1 - match) * spread[1] + match * spread_equal[1]
                c, spread = _normalised(q, c, spread, step.normalised, step.norm_share, any_pair)
                equal, spread_equal = _normalised(q, equal, spread_equal, step.normalised, step.norm_share, any_pair)
                q = step.normalised
        return _kinds_state(q, c, equal, spread, spread_equal)

    return advance_block


def _kinds_state(
    q: float, c: float, equal: float, spread: tuple[float, ...] | None, spread_equal: tuple[float, ...] | None
) -> _State:
    """The state of a stream from its moments, and from the spread of either kind of pairs."""
    if spread is None or spread_equal is None:
        return q, c, equal
    pairs = (part for both in zip(spread[1:], spread_equal[1:], strict=True) for part in both)
    return q, c, equal, spread[0], *pairs


def _normed_cosine(q: float, c: float, spread: tuple[float, ...] | None, share: float | None) -> float:
    """The correlation of a pair after a norm of `share` width over features, or without one; at least 0."""
    cosine = c / q
    if share is not None and spread is not None:
        cosine *= 1 + share * (covariance_factor(q, c, spread) - 1)
    return max(0.0, cosine)


def _normalised(
    q: float, c: float, spread: tuple[float, ...] | None, size: float, share: float, others: float | None
) -> tuple[float, Any]:
    """The covariance and the spread of a pair after a norm to the second moment `size`, of `share` width over features.

    `others` is Cov(q_t, q_s) of any two tokens.
    """
    after = size * (c / q)
    if spread is None:
        return after, None
    after *= 1 + share * (covariance_factor(q, c, spread) - 1)
    return after, tuple(Spread(*spread).normed(Signal(q, c), Signal(size, after), others))


# ---- tokens that differ ----

_REACH = 0.3
"""Largest step, relative to the number of blocks below less :data:`_ALONE`, and to the number of blocks whose branches add as
much as the stream holds. In a post-norm stack the gradient may change within a few of the last blocks: half of it, relative to
the number of blocks above."""
_ALONE = 2
"""Blocks that are left out of the number below, so that the first 10 blocks are all evaluated."""
_TOLERANCE = 1e-5
"""Largest error of a step, relative to the stream's second moment; a step with a larger error is halved."""
_NORMED = 3.0
"""Factor on the error of a step in a post-norm stack, whose gradients need shorter steps than the stream does."""
_SPREAD_TOLERANCE = 1e-3
"""The same of the spread that all tokens share, relative to itself."""


def apply_sampled_blocks(block: BlockLike, x: TokenSignal, site: Site, layers: range) -> tuple[TokenSignal, Pullback]:
    """The output of all blocks and its pullback, from the evaluation of some; the step is halved until its error is below 1e-5.

    The error is relative to the stream's size. Once the stream has stopped changing, as that of a post-norm stack whose tokens
    have collapsed does, it is held. Error of the gradient: 1e-3, see :mod:`.gaps`.

    A skip path with a factor of its own multiplies the stream from block to block. States are divided by the product of these
    factors before they are interpolated, and gradients pass the product apart from the rest.
    """
    import numpy as np

    trace, times = site.trace, len(layers)
    increments, samples, grown = Increments(times), list[Sample](), _skip_growth(block, site, layers)
    shares = None if x.offset is None else _offset_shares(block, site, layers)
    # A norm after the sum may end the stack, and then acts on other gradients than that of any other block.
    last = times - 2 if any(part.norm_stream is not None for _, part in block.branches) else times - 1
    count = len(x.second_moment)
    # Such a norm fixes the second moments at once: their increments would be the errors of the states before them.
    fixed = count if last < times - 1 else 0
    powers = np.ones(len(_flatten(x)))
    powers[count + x.covariance.size :] = 2.0  # variances of moments

    def scaled(vector: Array, layer: int, to: int) -> Array:
        """A state at the input of block `layer`, as the skip paths alone would carry it to the input of block `to`."""
        growth = grown[to] - grown[layer]
        return vector * np.exp(powers * growth) if growth else vector

    def at(vector: Array, layer: int) -> TokenSignal:
        y = _unflatten(x, vector)
        return y if x.offset is None or shares is None else y.offset_as(x.offset.times(shares[layer]))

    varying = VaryingNumbers(trace.recipe.along_blocks(site.role, layers), last, depth_variable(times))
    before = layer = 0
    steps, state, left, held = Steps(), _flatten(x), _flatten(x), False
    while True:
        trace.layer = layers.start + layer
        with trace.divert() as records:
            y, pull_block = block.moments(finite(at(state, layer), site.role), site)
        after = _flatten(y)
        added = scaled(after, layer + 1, 0) - scaled(state, layer, 0)
        added[:fixed] = 0.0
        increments.append(layer, added)
        if layer - before > 1 and not held:
            corrected = scaled(left + increments.between(before, layer), 0, layer)
            corrected[:fixed] = after[:fixed]
            error = (_NORMED if fixed else 1.0) * _distance(y, corrected - state)
            if error > 1:
                increments.pop()
                layer = varying.shorten(increments.blocks, before + steps.halve(layer - before))
                state = scaled(left + increments.between(before, layer), 0, layer)
                continue
            after[fixed:] += scaled(corrected - state, layer, layer + 1)[fixed:]
            state = corrected
            steps.grow(layer - before, error)
        else:
            steps.grow(0 if held else 1, None)
        samples.append(Sample(layer, x.positions.mean(state[:count]), pull_block, records))
        if layer == times - 1:
            break
        alone = scaled(state, layer, layer + 1)
        held = _distance(y, after - alone) * (times - layer) <= 1
        if last < times - 1:
            limit = 0.5 * (last - layer)
        else:
            limit = quotient(1.0, abs(y.averages[0] / x.positions.mean(alone[:count]) - 1)) or times
        before, left = layer, scaled(after, layer + 1, 0)
        layer += max(1, min(times if held else steps.length, int(_REACH * min(layer - _ALONE, limit)), last - layer))
        layer = varying.shorten(increments.blocks, layer)
        state = scaled(left if held else left + increments.between(before, layer), 0, layer)
    _record_all(trace, samples, layers, last)

    sizes = _stream_sizes(samples, times)

    def pull(g: TokenSignal) -> TokenSignal:
        pulled, above = list[Sample](), None
        for k in range(len(samples) - 1, -1, -1):
            sample, below, rest = samples[k], None, None
            if k and sample.layer - samples[k - 1].layer > 1:
                below, rest = share_gap(sample, samples[k - 1], sizes)
            if above is not None:
                g = pass_skips(g, math.exp(grown[samples[k + 1].layer] - grown[sample.layer + 1]))
            g, records = pull_near(g, sample, above, below, math.exp(grown[sample.layer + 1] - grown[sample.layer]), trace)
            pulled.append(sample._replace(records=records))
            above = rest
        _record_all(trace, pulled, layers, last)
        return g

    return at(after, times), pull


def _distance(y: TokenSignal, change: Array) -> float:
    """The size of a change of the state of a stream with moments like `y`, in tolerances."""
    import numpy as np

    count, pairs = len(y.second_moment), y.covariance.size
    found = float(np.abs(change[: count + pairs]).max() / (_TOLERANCE * y.averages[0]))
    if y.spread is not None:
        shared = y.positions.pair_mean(y.spread.second_moments)
        moved = y.positions.pair_mean(change[2 * count + pairs : 2 * (count + pairs)].reshape(y.covariance.shape))
        found = max(found, float(quotient(abs(moved), _SPREAD_TOLERANCE * abs(shared))))
    return found


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


def _flatten(x: TokenSignal) -> Array:
    """One vector of the moments, and of the spread if there is one."""
    import numpy as np

    return np.concatenate([part.ravel() for part in (x.second_moment, x.covariance, *(x.spread or ()))])


def _unflatten(like: TokenSignal, vector: Array) -> TokenSignal:
    """The signal of a vector from :func:`_flatten`."""
    n, square, pairs = len(like.second_moment), like.covariance.shape, like.covariance.size
    spread = None
    if like.spread:
        spread = Spread(vector[n + pairs : 2 * n + pairs], *vector[2 * n + pairs :].reshape(-1, *square))
    return like.of(vector[:n], vector[n : n + pairs].reshape(square), spread)


def _stream_sizes(samples: list[Sample], times: int) -> Array:
    """Second moment of the stream at the input of each of `times` blocks; a logarithm is smooth under any skip path."""
    import numpy as np

    evaluated = np.array([float(sample.layer) for sample in samples])
    logs = np.log([[sample.size] for sample in samples])
    return np.exp(spline_values(evaluated, logs, np.arange(times))[:, 0])


def _record_all(trace: Trace, samples: list[Sample], layers: range, last: int) -> None:
    """Record every block: block `last` and those below it by interpolation between the evaluated ones, and all above it."""
    import numpy as np

    evaluated = np.array([sample.layer for sample in samples])
    ascending = slice(None, None, 1 if len(evaluated) < 2 or evaluated[1] > evaluated[0] else -1)
    every = depth_variable(len(layers))
    logs = every[evaluated[ascending]]

    records = samples[0].records
    second, pairs, means, spreads = np.array([sample.records.numbers for sample in samples]).transpose(1, 0, 2)
    positive = (second > 0).all(axis=0)  # a branch of factor 0 passes no gradient, and has no logarithm
    sizes = np.where(positive, np.log(np.where(positive, second, 1.0)), second)
    steps = [[float(number) for part in sample.records.gradient_steps for number in part.step] for sample in samples]
    known = np.hstack([sizes, quotient(pairs, second), quotient(means, np.sqrt(second)), spreads, steps])[ascending]
    if not known.size:  # a user's block may record nothing
        return
    if len(known) < len(layers):
        inner = slice(0, len(known) - (len(layers) - 1 - last))
        known = np.concatenate([spline_values(logs[inner], known[inner], every[: last + 1]), known[inner.stop :]])
    along, count = known.T, len(records.sites)
    for k, (role, direction) in enumerate(records.sites):
        size, share, mean, spread = along[k : 4 * count : count]
        exact = np.exp(size) if positive[k] else size.clip(0.0)
        deviation = spread if math.isfinite(spread[0]) else math.nan
        trace.records.append(Record(role, layers, direction, mean * np.sqrt(exact), exact, share * exact, deviation))
    numbers = along[4 * count :].reshape(-1, len(GradientStep._fields), len(layers))
    for part, step in zip(records.gradient_steps, numbers, strict=True):
        trace.gradient_steps.append(StepRecord(part.role, layers, GradientStep(*step)))
