"""Many settings of one stack in one call: depths, residual scales, inputs and output gradients as arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..architecture import Transformer
from ..errors import InputError, shown
from ..formulas.moments import norm_moment
from ..initialization import Recipe, recipe
from ..layers import BlockLike, Residual, Stack
from ..layers.output_norm import OutputNorm
from ..numerics.interpolation import Table
from ..numerics.recursion import sampled_ends
from ..signal import DrawSpread, Pullback, Signal, Site, Spread, Trace
from ..signal.residual import (
    add_branch,
    leaning_excess,
    norm_factors,
    post_norm_drift,
    pull_past_norms,
    pull_post_norm,
)

if TYPE_CHECKING:
    import pandas

Array = Any


def sweep(
    tree: Transformer,
    init: str | Recipe = "shipped",
    *,
    depth: Any = None,
    skip: Any = None,
    branch: Any = None,
    variance: Any = 1.0,
    correlation: Any = 0.0,
    gradient: tuple[Any, Any] | None = None,
    context: int | None = None,
    dropout: bool = True,
    finite_width: bool = True,
) -> pandas.DataFrame:
    """Moments at both ends of a stack for many settings, equal to those of :func:`~depthwidth.analysis.propagation.propagate`.

    Parameters
    ----------
    tree : the transformer; its stack is one block repeated, of exchangeable tokens: an encoder.
    init : a scheme by name, or a recipe, whose weights are the same in every block.
    depth : blocks; the tree's by default.
    skip, branch : factors on the skip path and on every branch; the recipe's by default.
    variance, correlation : of the input to the first block, the correlation in [0, 1].
    gradient : second moment and correlation of the gradient at the last block's output, 1 and 0 by default. There is no loss:
        the stack ends before the head.
    context, dropout, finite_width : as in :func:`~depthwidth.analysis.propagation.propagate`.

    Returns
    -------
    A data frame with a row for each setting, the arrays broadcast against each other: `depth`, `skip`, `branch`,
    `variance`, `correlation` and `gradient_correlation` as given, then `top_variance` and `top_correlation` at the last
    block's output, `gradient` and `front_gradient_correlation`, the gradient's second moment and correlation at the first
    block's input.

    Raises
    ------
    InputError
        if a number is out of range, the blocks differ, a branch reads a stream that no norm has seen, or tokens are not
        exchangeable.

    Notes
    -----
    Ten thousand settings of depth up to 1000 take about a second (``tests/benchmarks/propagation.py``). The input's gradient
    is a product of one small matrix for each branch, accumulated in the forward pass.

    Examples
    --------
    >>> tree = Transformer(12, 256, 4, kind="encoder", vocab=1000, context=64)
    >>> frame = sweep(tree, "xavier", depth=[12, 96], correlation=0.2)
    >>> frame.top_variance.round(1).tolist()
    [11.6, 111.0]
    """
    import numpy as np
    import pandas

    size, kappa = _output_gradient(gradient)
    given = {
        "depth": tree.stack.depth if depth is None else depth, "skip": np.nan if skip is None else skip,
        "branch": np.nan if branch is None else branch, "variance": variance, "correlation": correlation,
        "gradient_correlation": kappa, "gradient": size,
    }  # fmt: skip
    columns = _check_values(given)
    size = columns.pop("gradient")
    block = _only_block(tree.stack)
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    run = tree.run(context)
    trace = Trace(made, run.tokens, run.tokens, dropout, finite_width, layer=0)
    site = Site(trace, "encoder.block")
    if made.varies(site.role):
        raise InputError(f"sweep: {made.scheme} has other numbers in each block; propagate one depth at a time")
    steps = []
    with trace.silence():
        for name, part in block.branches:
            own_skip, own_branch = site.at(name).scales()
            for key, own in (("skip", own_skip), ("branch", own_branch)):
                columns[key] = np.where(np.isnan(columns[key]), own, columns[key])
            steps.append(_Step.of(part, site.at(name)))
    last_gain = steps[-1].stream_gain
    if last_gain is not None and not np.allclose(columns["variance"], last_gain, rtol=1e-4):
        raise InputError(f"sweep: the input of a post-norm stack is itself normalised: its variance must be {last_gain:.4g}")
    ends = _ends(columns, steps, finite_width)
    ends["gradient"] *= size
    return pandas.DataFrame(columns | ends)


def _output_gradient(gradient: Any) -> tuple[Any, Any]:
    """Second moment and correlation of the gradient at the output of the stack."""
    if gradient is None:
        return 1.0, 0.0
    if not isinstance(gradient, (tuple, list)) or len(gradient) != 2:
        raise InputError(f"sweep: gradient={shown(gradient)} is not a second moment and a correlation")
    return gradient[0], gradient[1]


def _check_values(given: dict[str, Any]) -> dict[str, Array]:
    import numpy as np

    try:
        arrays = [np.asarray(value, dtype=float) for value in given.values()]
        columns = dict(zip(given, (np.ravel(a) for a in np.broadcast_arrays(*arrays)), strict=True))
    except (TypeError, ValueError) as error:
        raise InputError(f"sweep: the arguments are not arrays of numbers that broadcast ({error})") from None
    bounds = {
        "depth": (1, 1e6), "variance": (1e-300, 1e300), "correlation": (0, 1), "gradient_correlation": (-1, 1),
        "gradient": (1e-300, 1e300),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        if not ((columns[name] >= low) & (columns[name] <= high)).all():
            raise InputError(f"sweep: {name} is outside [{low:g}, {high:g}]")
    if (columns["depth"] % 1 != 0).any():
        raise InputError("sweep: depth is not a whole number")
    if np.isinf(columns["skip"]).any() or np.isinf(columns["branch"]).any():
        raise InputError("sweep: skip or branch is infinite")
    return columns | {"depth": columns["depth"].astype(int)}


def _only_block(stack: Stack) -> BlockLike:
    if len(stack.repeats) > 1:
        raise InputError("sweep: the stack has more than one kind of block; propagate it instead")
    block = stack.repeats[0].block
    if stack.causal:
        raise InputError("sweep: under a causal mask tokens differ from each other; propagate each setting instead")
    if block.parallel or any(part.norm_in is None and part.norm_stream is None for _, part in block.branches):
        raise InputError("sweep: a branch reads a stream that no norm has seen, or shares it with others; propagate it instead")
    return block


class _Step(NamedTuple):
    """A branch: a table over the angle whose cosine is its input's correlation, at second moment 1, and the norms around it."""

    table: Table
    """The two output moments; the four entries of the gradient's matrix from the output to the norm's input; the parts of
    `draw` that follow the correlation; with a norm of the output, the result of :meth:`.OutputNorm.moments`"""
    eps_in: float | None
    """Epsilon of the norm that the branch reads, if it has one of its own"""
    stream_gain: float | None
    """Mean square of a post-norm's gain"""
    stream_eps: float
    centred_in: bool
    stream_centred: bool
    draw: DrawSpread
    """At residual scale 1"""
    varied: tuple[str, ...]
    """Names of the parts of `draw` in the table"""
    normed: bool
    width: int
    output_norm: OutputNorm | None = None
    """The norm of the branch's output, if it has one and width is finite"""

    @classmethod
    def of(cls, part: Residual, site: Site) -> _Step:
        import numpy as np

        shapes: list[DrawSpread] = []
        varied = ("pair_omega",) if part.norm_stream is None or part.norm_in is None else ("pair_omega", "along", "radial")
        output_norm = OutputNorm.of(part, Signal(1.0, 0.5), site)

        def columns(angles: Array) -> Array:
            x = Signal(np.ones_like(angles), np.cos(angles))
            f, pull, shape = part.branch_moments(x, site)
            shapes.append(shape)
            found = [*f[:2], *_Matrix.of_map(pull), *(getattr(shape, name) for name in varied)]
            if output_norm is not None:
                bare, pair_omega = output_norm.moments(x, site)
                found += [*bare[:2], pair_omega]
            return np.stack([np.broadcast_to(v, angles.shape) for v in found], axis=1)

        table = Table(columns, 0.0, math.pi / 2)
        gain, eps = None, 0.0
        if part.norm_stream is not None:
            eps = part.norm_stream.eps
            left = part.norm_stream.moments(Signal(1.0, 1.0), site.at("norm_stream"))[0].second_moment
            gain = float(left) * (1 + eps)
        eps_in = None if part.norm_in is None else part.norm_in.eps
        centred = [norm is not None and norm.centred for norm in (part.norm_in, part.norm_stream)]
        draw = shapes[0].constant()
        return cls(table, eps_in, gain, eps, centred[0], centred[1], draw, varied, part.normed, part.width, output_norm)

    def pass_through(self, x: Signal, way: _Way, skip: Array, branch: Array, last: Array) -> tuple[Signal, _Way]:
        """The stream after this branch, and the way of a gradient back from there; `last` is 1 where nothing follows."""
        import numpy as np

        skip2, branch2 = skip * skip, branch * branch
        correlation, gain, pair_gain = x.correlation, branch2, branch2
        if self.eps_in is not None:  # the tables were made at a stream of second moment 1
            known = norm_factors(x, self.width, self.centred_in)
            gain = norm_moment.body(branch2, x.second_moment + self.eps_in, 1 + self.eps_in)
            correlation, gain, pair_gain = (
                correlation * known.covariance, gain * known.gradient, gain * known.gradient_covariance
            )  # fmt: skip
        a, a_pair, one, other, pair_one, pair_other, *more = self.table.of_array(np.arccos(correlation.clip(0.0, 1.0)))
        path = _Matrix(gain * one, gain * other, pair_gain * pair_one, pair_gain * pair_other)
        with_stream: Array = 0.0
        if self.output_norm is not None:
            size, covariance, pair_omega = more[len(self.varied) :]
            known, with_stream = self.output_norm.factors(x, correlation, Signal(size, covariance), pair_omega)
            a_pair = a_pair * known.covariance
            path = path.before(known.gradient, known.gradient_covariance)
        added = Signal(a * branch2, a_pair * branch2)
        draw = self.draw.scaled(branch2)._replace(pairs=more[0], **dict(zip(self.varied[1:], more[1:], strict=False)))
        y = add_branch(x, added, draw.omega, self.width, skip, draw)
        if self.stream_gain is None:
            if self.output_norm is not None:
                path = _Matrix.of_map(pull_past_norms(path.of, y, added, self.width))
            leans = x.spread is not None and self.normed
            return y, way.through(path, skip2, x if leans else None, draw.whole is not None, with_stream)
        known, scale = norm_factors(y, self.width, self.stream_centred), norm_moment.body
        size = y.second_moment + self.stream_eps
        gain, pair_gain = (scale(1.0, size, self.stream_gain, k) for k in (known.gradient, known.gradient_covariance))
        if x.spread is not None:
            drift = post_norm_drift(x.times(skip2), added, draw, self.width)
            back = drift.at_norm(pull_post_norm(Signal(gain, pair_gain), y, self.width, self.stream_centred, last))
            gain, pair_gain = back.second_moment, back.covariance
            path = _Matrix.of_map(functools.partial(drift.path, pull=path.of))
        way = way.through(path, skip2)
        # The gradient passes the norm first, so the norm's factors are at the right of the residual's matrix.
        way = _Way(way.bare.before(gain, pair_gain), None)
        normed = Signal(
            scale(y.second_moment, size, self.stream_gain), scale(y.covariance, size, self.stream_gain, known.covariance)
        )
        return normed.spread_as(y.spread and y.spread.after_norm(y, normed)), way


class _Matrix(NamedTuple):
    """A map between the two moments of gradients, row by row: one number for each setting."""

    one: Array
    other: Array
    pair_one: Array
    pair_other: Array

    @classmethod
    def of_map(cls, pull: Pullback) -> _Matrix:
        """The matrix of a linear map of gradients."""
        import numpy as np

        units = pull(Signal(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])))
        return cls(*units.second_moment, *units.covariance)

    def of(self, g: Signal) -> Signal:
        """A gradient that has passed."""
        return Signal(
            self.one * g.second_moment + self.other * g.covariance,
            self.pair_one * g.second_moment + self.pair_other * g.covariance,
        )

    def after(self, first: _Matrix) -> _Matrix:
        """The product: `first`, then this map."""
        a, b, c, d = self
        e, f, g, h = first
        return _Matrix(a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)

    def before(self, own: Array, pair: Array) -> _Matrix:
        """The map of a gradient whose two moments are first multiplied by these factors."""
        a, b, c, d = self
        return _Matrix(own * a, pair * b, own * c, pair * d)

    def times(self, factor: Array) -> _Matrix:
        return _Matrix(*(factor * part for part in self))

    def plus(self, other: _Matrix, factor: Array = 1.0) -> _Matrix:
        return _Matrix(*(one + factor * more for one, more in zip(self, other, strict=True)))


class _Way(NamedTuple):
    """The way of a gradient back to the stack's input."""

    bare: _Matrix
    """From the gradient's moments"""
    leaning: _Matrix | None = None
    """From those of its leaning (:func:`~depthwidth.signal.residual.residual_pullback`), if gradients lean"""

    def through(
        self, path: _Matrix, skip2: Array, x: Signal | None = None, mixes: bool = False, with_stream: Array = 0.0
    ) -> _Way:
        """The way from the output of one more residual, whose branch maps gradients by `path`.

        x : the residual's input, if the gradient at its branch's output leans.
        mixes, with_stream : as in :func:`~depthwidth.signal.residual.residual_pullback`.
        """
        if x is None or self.leaning is None:
            own = None if self.leaning is None else self.leaning.times(skip2 * skip2)
            return _Way(self.bare.after(path).plus(self.bare, skip2), own)
        a, b, c, d = self.bare
        size, pair = leaning_excess(x, mixes, with_stream)
        slid = self.leaning.plus(_Matrix(a * size, b * pair, c * size, d * pair)).after(path).plus(self.leaning, skip2)
        bare = self.bare.plus(self.leaning, 1 / x.second_moment).after(path).plus(self.bare, skip2)
        return _Way(bare, slid.times(skip2))


_TOGETHER = 2000
"""Settings that are followed side by side: their numbers stay in a processor's cache."""


def _ends(columns: dict[str, Array], steps: list[_Step], finite_width: bool) -> dict[str, Array]:
    """Both ends of every setting, settings of like depth side by side."""
    import numpy as np

    order = np.argsort(columns["depth"], kind="stable")
    found = np.empty((6, len(order)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for part in np.array_split(order, -(-len(order) // _TOGETHER)):
            found[:, part] = _ends_of_some({name: column[part] for name, column in columns.items()}, steps, finite_width)
    q, c, one, other, pair_one, pair_other = found
    kappa = columns["gradient_correlation"]
    gamma = one + other * kappa
    return {
        "top_variance": q, "top_correlation": c / q, "gradient": gamma,
        "front_gradient_correlation": (pair_one + pair_other * kappa) / gamma,
    }  # fmt: skip


def _ends_of_some(columns: dict[str, Array], steps: list[_Step], finite_width: bool) -> Array:
    """The stream at the output of each of these settings, and the four numbers of a gradient's way; depths ascend."""
    import numpy as np

    depth, q, r, skip, branch = (columns[name] for name in ("depth", "variance", "correlation", "skip", "branch"))
    x = Signal(q, q * r)
    if finite_width:
        x = x.spread_as(Spread.of_gaussian(x, steps[0].width))
    zero, one = np.zeros_like(q), np.ones_like(q)
    leans = finite_width and any(step.stream_gain is None and step.normed for step in steps)
    # From the gradient at the stack's output, and from its leaning there, which is 0.
    start = _flat(x, _Way(_Matrix(one, zero, zero, one), _Matrix(zero, zero, zero, zero) if leans else None))

    def through_block(state: Array, skip: Array, branch: Array, last: Array) -> Array:
        x, way = _unflat(state, finite_width)
        for step in steps:
            x, way = step.pass_through(x, way, skip, branch, last * float(step is steps[-1]))
        return _flat(x, way)

    ends, left = np.empty_like(start), np.ones(len(q), dtype=bool)
    plain = (skip == 1) if all(step.stream_gain is None for step in steps) else ~left
    if plain.any():
        # Branches add to an unscaled stream: their increments change slowly with the depth, and some blocks stand for all.
        scales = skip[plain], branch[plain]
        ends[:, plain], good = sampled_ends(
            lambda state, _: through_block(state, *scales, zero[plain]), start[:, plain], depth[plain]
        )
        left[plain] = ~good
    if left.any():
        ends[:, left] = _block_by_block(through_block, start[:, left], depth[left], skip[left], branch[left])
    moments = 7 if finite_width else 2
    return np.concatenate([ends[:2], ends[moments : moments + 4]])


def _block_by_block(
    through_block: Callable[[Array, Array, Array, Array], Array], state: Array, depth: Array, skip: Array, branch: Array
) -> Array:
    """The states after `depth` blocks, which ascend, so that finished settings drop off the start of the arrays."""
    import numpy as np

    ends, done = np.empty_like(state), 0
    for block in range(int(depth[-1])):
        finished = int(np.searchsorted(depth, block, side="right"))
        if finished > done:
            ends[:, done:finished], state = state[:, : finished - done], state[:, finished - done :]
            done = finished
        state = through_block(state, skip[done:], branch[done:], (depth[done:] == block + 1).astype(float))
    ends[:, done:] = state
    return ends


def _flat(x: Signal, way: _Way) -> Array:
    import numpy as np

    return np.stack([x.second_moment, x.covariance, *(x.spread or ()), *way.bare, *(way.leaning or ())])


def _unflat(state: Array, finite_width: bool) -> tuple[Signal, _Way]:
    """The inverse of :func:`_flat`."""
    moments = 7 if finite_width else 2
    q, c, *spread = state[:moments]
    bare, leaning = state[moments : moments + 4], state[moments + 4 :]
    return Signal(q, c, Spread(*spread) if spread else None), _Way(_Matrix(*bare), _Matrix(*leaning) if len(leaning) else None)
