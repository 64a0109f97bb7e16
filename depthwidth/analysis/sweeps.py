"""Many settings of one stack in one call: depths, residual scales, inputs and output gradients as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..architecture import Transformer
from ..errors import InputError, shown
from ..formulas.moments import norm_moment
from ..initialization import Recipe, recipe
from ..layers import BlockLike, Residual, Stack
from ..signal import DrawSpread, Signal, Site, Spread, Trace
from ..signal.residual import add_branch, norm_factors, post_norm_drift, pull_post_norm

if TYPE_CHECKING:
    import pandas

Array = Any

_NODES = 4096
"""Intervals of the tables over the correlation; linear interpolation is right to 1e-7."""


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
    columns = _checked(given)
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


def _checked(given: dict[str, Any]) -> dict[str, Array]:
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
    """A branch: tables over the root of 1 - r of its input, at a stream of second moment 1, and the norms around it."""

    values: Array
    """Rows of the two output moments, the four entries of the gradient's matrix from the output to the norm's input, and omega
    for pairs"""
    differences: Array
    eps_in: float | None
    """Epsilon of the norm that the branch reads, if it has one of its own"""
    stream_gain: float | None
    """Mean square of a post-norm's gain"""
    stream_eps: float
    centred_in: bool
    stream_centred: bool
    draw: DrawSpread
    """At residual scale 1"""
    normed: bool
    width: int

    @classmethod
    def of(cls, part: Residual, site: Site) -> _Step:
        import numpy as np

        root = np.linspace(0, 1, _NODES + 1)
        one = np.ones_like(root)
        f, pull, shape = part.branch_moments(Signal(one, 1 - root**2), site)
        unit = pull(Signal(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])))
        table = np.stack(
            [np.broadcast_to(v, one.shape) for v in (*f[:2], *unit.second_moment, *unit.covariance, shape.pair_omega)], axis=1
        )
        gain, eps = None, 0.0
        if part.norm_stream is not None:
            eps = part.norm_stream.eps
            left = part.norm_stream.moments(Signal(1.0, 1.0), site.at("norm_stream"))[0].second_moment
            gain = float(left) * (1 + eps)
        draw = DrawSpread(*(v if v is None else float(np.max(v)) for v in shape))
        values, differences = np.ascontiguousarray(table[:-1]), np.diff(table, axis=0)
        eps_in = None if part.norm_in is None else part.norm_in.eps
        centred = [norm is not None and norm.centred for norm in (part.norm_in, part.norm_stream)]
        return cls(values, differences, eps_in, gain, eps, centred[0], centred[1], draw, part.normed, part.width)

    def pass_through(self, x: Signal, skip: Array, branch: Array) -> tuple[Signal, Array]:
        """The stream after this branch, and the matrix that takes a gradient back through it, shape (4, 4, settings).

        It acts on the gradient's two moments and on the two of its leaning, as
        :func:`~depthwidth.signal.residual.pull_through`.
        """
        import numpy as np

        skip2, branch2 = skip * skip, branch * branch
        correlation, gain, pair_gain = x.correlation, branch2, branch2
        if self.eps_in is not None:  # the tables were made at a stream of second moment 1
            known = norm_factors(x, self.width, self.centred_in)
            gain = norm_moment.body(branch2, x.second_moment + self.eps_in, 1 + self.eps_in)
            correlation, gain, pair_gain = (
                correlation * known.covariance, gain * known.gradient, gain * known.gradient_covariance
            )  # fmt: skip
        a, a_pair, one, other, pair_one, pair_other, pair_omega = self.read(correlation)
        added = Signal(a * branch2, a_pair * branch2)
        path = np.array([[gain * one, gain * other], [pair_gain * pair_one, pair_gain * pair_other]])
        matrix = np.zeros((4, 4, len(skip2)))
        diagonal = np.arange(2)
        matrix[:2, :2] = path
        matrix[diagonal, diagonal] += skip2
        draw = self.draw.scaled(branch2)._replace(pairs=pair_omega)
        y = add_branch(x, added, draw.omega, self.width, skip, draw)
        if self.stream_gain is None:
            if x.spread is not None and self.normed:
                _lean(matrix, path, x, skip2, mixes=draw.whole is not None)
            return y, matrix
        known, scale = norm_factors(y, self.width, self.stream_centred), norm_moment.body
        size = y.second_moment + self.stream_eps
        gain, pair_gain = (scale(1.0, size, self.stream_gain, k) for k in (known.gradient, known.gradient_covariance))
        if x.spread is not None:
            drift, _ = post_norm_drift(x.times(skip2), added, draw, self.width)
            back = pull_post_norm(Signal(gain, pair_gain), y, self.width, self.stream_centred, drift)
            gain, pair_gain = back.second_moment, back.covariance
        # The gradient passes the norm first, so the norm's factors are at the right of the residual's matrix.
        matrix[:, :2] *= np.stack([gain, pair_gain])
        normed = Signal(
            scale(y.second_moment, size, self.stream_gain), scale(y.covariance, size, self.stream_gain, known.covariance)
        )
        return normed.spread_as(y.spread and y.spread.after_norm(y, normed)), matrix

    def read(self, correlation: Array) -> Array:
        """The seven numbers at these correlations, each along the first axis."""
        import numpy as np

        at = np.sqrt(np.maximum(1 - correlation, 0.0)) * _NODES
        i = np.minimum(at.astype(np.intp), _NODES - 1)
        found = self.differences[i]
        found *= (at - i)[:, None]
        found += self.values[i]
        return np.ascontiguousarray(found.T)


def _lean(matrix: Array, path: Array, x: Signal, skip2: Array, *, mixes: bool) -> None:
    """Add to a residual's matrix the leaning of gradients that pass the norms of its branch by `path`."""
    import numpy as np

    v, w = (part / x.second_moment for part in (x.spread or ())[:2])
    matrix[:2, 2:] = path * skip2 * np.stack([w, w] if mixes else [v, (v + w) / 2])[:, None]
    matrix[2:, :2] = path / x.second_moment
    matrix[2:, 2:] = path * skip2
    diagonal = np.arange(2, 4)
    matrix[diagonal, diagonal] += skip2 * skip2


def _ends(columns: dict[str, Array], steps: list[_Step], finite_width: bool) -> dict[str, Array]:
    """Both ends of every setting, sorted by depth, so that finished settings drop off the end of the arrays."""
    import numpy as np

    order = np.argsort(-columns["depth"], kind="stable")
    depth = columns["depth"][order]
    left = np.searchsorted(-depth, -np.arange(1, depth[0] + 1), side="right")  # settings that have a block of this number
    q, r, skip, branch = (columns[k][order] for k in ("variance", "correlation", "skip", "branch"))
    x = Signal(q, q * r)
    if finite_width:
        x = x.spread_as(Spread.of_gaussian(x, steps[0].width))
    through = np.zeros((2, 4, len(q)))  # from the gradient at the stack's output and its leaning, 0 there, to that at its input
    through[0, 0] = through[1, 1] = 1
    done = np.empty((6, len(q)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for block in range(int(depth[0])):
            n = int(left[block])
            if n < x.second_moment.size:
                done[:, n : x.second_moment.size] = [v[n:] for v in (*x[:2], *through[:, :2].reshape(4, -1))]
                x = Signal(x.second_moment[:n], x.covariance[:n], x.spread and Spread(*(v[:n] for v in x.spread)))
                skip, branch, through = skip[:n], branch[:n], through[..., :n]
            for step in steps:
                x, matrix = step.pass_through(x, skip, branch)
                through = np.einsum("ijn,jkn->ikn", through, matrix)
    done[:, : x.second_moment.size] = [*x[:2], *through[:, :2].reshape(4, -1)]
    found = np.empty_like(done)
    found[:, order] = done
    q, c, one, other, pair_one, pair_other = found
    kappa = columns["gradient_correlation"]
    gamma = one + other * kappa
    return {
        "top_variance": q, "top_correlation": c / q, "gradient": gamma,
        "front_gradient_correlation": (pair_one + pair_other * kappa) / gamma,
    }  # fmt: skip
