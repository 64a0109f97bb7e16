"""Many settings of one stack at once: depths, residual scales, inputs and output gradients as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..architecture import Transformer
from ..errors import InputError, shown
from ..initialization import Recipe, recipe
from ..layers import Block, Residual, Stack
from ..signal import Place, Signal, Walk

if TYPE_CHECKING:
    import pandas

Array = Any

_NODES = 4096
"""Of the tables over the correlation, read by straight lines: right to 1e-7."""


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
    """What :func:`~depthwidth.analysis.propagation.propagate` says of the two ends of a stack, for many settings in one call.

    Parameters
    ----------
    tree : the transformer; its stack is one block repeated, of exchangeable tokens: an encoder.
    init : a scheme by name, or a recipe, whose weights are the same in every block.
    depth : blocks; the tree's by default.
    skip, branch : factors on the skip path and on every branch; the recipe's by default.
    variance, correlation : of the input to the first block, the correlation in [0, 1].
    gradient : second moment and correlation of the gradient behind the last block, 1 and 0 by default. A loss has no place
        here: the stack ends before the head.
    context, dropout, finite_width : as in :func:`~depthwidth.analysis.propagation.propagate`.

    Returns
    -------
    A data frame with a row for each setting, the arrays broadcast against each other: `depth`, `skip`, `branch`,
    `variance`, `correlation` and `gradient_correlation` as given, then `top_variance` and `top_correlation` behind the last
    block, `gradient` and `front_gradient_correlation`, the gradient's second moment and correlation in front of the first.

    Raises
    ------
    InputError
        if a number is out of range, the blocks differ, a branch reads a stream that no norm has seen, or tokens are not
        exchangeable.

    Notes
    -----
    Ten thousand settings of depth up to 1000 take less than a second (``tests/benchmarks/propagation.py``). The gradient in
    front is a product of one two-by-two matrix for each branch, which is multiplied up on the way forward.

    Examples
    --------
    >>> tree = Transformer(12, 256, 4, kind="encoder", vocab=1000, context=64)
    >>> frame = sweep(tree, "xavier", depth=[12, 96], correlation=0.2)
    >>> frame.top_variance.round(1).tolist()
    [11.6, 111.1]
    """
    import numpy as np
    import pandas

    size, kappa = _gradient_behind(gradient)
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
    walk = Walk(made, run.tokens, run.tokens, dropout, finite_width, layer=0)
    place = Place(walk, "encoder.block")
    if made.varies(place.role):
        raise InputError(f"sweep: {made.scheme} has other numbers in each block; propagate one depth at a time")
    steps = []
    with walk.silence():
        for name, part in block.branches:
            own_skip, own_branch = place.at(name).scales()
            for key, own in (("skip", own_skip), ("branch", own_branch)):
                columns[key] = np.where(np.isnan(columns[key]), own, columns[key])
            steps.append(_Step.of(part, place.at(name)))
    behind = steps[-1].gain_behind
    if behind is not None and not np.allclose(columns["variance"], behind, rtol=1e-4):
        raise InputError(f"sweep: the input of a post-norm stack is itself normalised: its variance must be {behind:.4g}")
    ends = _swept(columns, steps, finite_width)
    ends["gradient"] *= size
    return pandas.DataFrame(columns | ends)


def _gradient_behind(gradient: Any) -> tuple[Any, Any]:
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


def _only_block(stack: Stack) -> Block:
    if len(stack.repeats) > 1:
        raise InputError("sweep: the stack has more than one kind of block; propagate it instead")
    block = stack.repeats[0].block
    if stack.causal:
        raise InputError("sweep: under a causal mask tokens differ from each other; propagate each setting instead")
    if block.parallel or any(part.norm_in is None and part.norm_stream is None for _, part in block.branches):
        raise InputError("sweep: a branch reads a stream that no norm has seen, or shares it with others; propagate it instead")
    return block


class _Step(NamedTuple):
    """A branch: tables over the root of 1 - r of what it reads, at a stream of second moment 1, and what norms do behind."""

    values: Array
    """Rows of output moments and of the four numbers that take the gradient behind the branch to that in front of its norm."""
    differences: Array
    eps_in: float | None
    """Epsilon of the norm that the branch reads, if it has one of its own"""
    gain_behind: float | None
    """Mean square of a post-norm's gain"""
    eps_behind: float
    omega: float
    backward: float
    width: int

    @classmethod
    def of(cls, part: Residual, place: Place) -> _Step:
        import numpy as np

        root = np.linspace(0, 1, _NODES + 1)
        one = np.ones_like(root)
        f, pull, shape = part.branch_moments(Signal(one, 1 - root**2), place)
        unit = pull(Signal(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])))
        table = np.stack([np.broadcast_to(v, one.shape) for v in (*f[:2], *unit.second_moment, *unit.covariance)], axis=1)
        gain, eps = None, 0.0
        if part.norm_stream is not None:
            eps = part.norm_stream.eps
            left = part.norm_stream.moments(Signal(1.0, 1.0), place.at("norm_stream"))[0].second_moment
            gain = float(left) * (1 + eps)
        omega, backward = (float(np.max(v)) for v in shape)
        values, differences = np.ascontiguousarray(table[:-1]), np.diff(table, axis=0)
        eps_in = None if part.norm_in is None else part.norm_in.eps
        return cls(values, differences, eps_in, gain, eps, omega, backward, part.width)

    def read(self, correlation: Array) -> Array:
        """The six numbers at these correlations, each along the first axis."""
        import numpy as np

        at = np.sqrt(np.maximum(1 - correlation, 0.0)) * _NODES
        i = np.minimum(at.astype(np.intp), _NODES - 1)
        found = self.differences[i]
        found *= (at - i)[:, None]
        found += self.values[i]
        return np.ascontiguousarray(found.T)


def _swept(columns: dict[str, Array], steps: list[_Step], finite_width: bool) -> dict[str, Array]:
    """Both ends of every setting: the deepest first, so that those that are done fall off the end of the arrays."""
    import numpy as np

    from ..formulas.depth import post_norm_log_drift

    order = np.argsort(-columns["depth"], kind="stable")
    depth = columns["depth"][order]
    left = np.searchsorted(-depth, -np.arange(1, depth[0] + 1), side="right")  # settings that have a block of this number
    q, r0, skip2, branch2 = (columns[k][order] for k in ("variance", "correlation", "skip", "branch"))
    skip2, branch2 = skip2**2, branch2**2
    c = q * r0
    d = steps[0].width
    spread = [2 * q * q / d, 2 * c * c / d, 2 * q * c / d] if finite_width else [0 * q] * 3
    m = [np.ones_like(q), np.zeros_like(q), np.zeros_like(q), np.ones_like(q)]  # rows of the product of matrices
    done = np.empty((8, len(q)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for block in range(int(depth[0])):
            n = int(left[block])
            if n < len(q):
                done[:, n : len(q)] = [v[n:] for v in (q, c, *m, q, q)]
                q, c, skip2, branch2 = q[:n], c[:n], skip2[:n], branch2[:n]
                m, spread = [v[:n] for v in m], [v[:n] for v in spread]
            for step in steps:
                q, c, m, spread = _branch(step, q, c, m, spread, skip2, branch2, finite_width, post_norm_log_drift)
    done[:, : len(q)] = [*(q, c), *m, q, q]
    back = np.empty_like(done)
    back[:, order] = done
    q, c, a, b, e, f = back[:6]
    kappa = columns["gradient_correlation"]
    gamma = a + b * kappa
    return {
        "top_variance": q, "top_correlation": c / q, "gradient": gamma, "front_gradient_correlation": (e + f * kappa) / gamma,
    }  # fmt: skip


def _branch(
    step: _Step, q: Array, c: Array, m: list[Array], spread: list[Array], skip2: Array, branch2: Array, finite_width: bool,
    log_drift: Any,
) -> tuple[Array, Array, list[Array], list[Array]]:  # fmt: skip
    """One residual branch, forward, and its matrix multiplied to the right of those before it."""
    import numpy as np

    r = c / q
    single = pairs = 1.0
    v, w, u = spread
    if step.eps_in is not None:
        if finite_width:
            squares = q * q
            single = 1 + v / squares
            pairs = 1 + (0.75 * v + 0.25 * w) / squares
            r = r * (pairs - np.where(c > 0, u / np.maximum(c * q, 1e-300), 0.0))
        size = branch2 * (1 + step.eps_in) / (q + step.eps_in)  # the tables were made at a stream of second moment 1
        single, pairs = size * single, size * pairs
    else:
        single = pairs = branch2
    a, a_pair, one, other, pair_one, pair_other = step.read(r)
    a, a_pair = a * branch2, a_pair * branch2
    matrix = [skip2 + single * one, single * other, pairs * pair_one, skip2 + pairs * pair_other]
    q, c = skip2 * q, skip2 * c
    if finite_width:
        fourth = skip2 * skip2
        v = fourth * v + a * (4 * q + step.omega * a) / step.width
        w = fourth * w + a_pair * (4 * c + step.omega * a_pair) / step.width
        u = fourth * u + (2 * (q * a_pair + c * a) + step.omega * a * a_pair) / step.width
    kept = q
    q, c = q + a, c + a_pair
    if step.gain_behind is not None:
        size = step.gain_behind / (q + step.eps_behind)
        single, pairs, forward = size, size, 1.0
        if finite_width:
            squares = q * q
            scale = 1 + v / squares, 1 + (0.75 * v + 0.25 * w) / squares
            forward = scale[1] - np.where(c > 0, u / np.maximum(c * q, 1e-300), 0.0)
            strength = np.where(kept > 0, a / np.maximum(kept, 1e-300), 0.0)
            drift = 1 + c / q * log_drift(strength, step.width, step.backward)
            single, pairs = single * scale[0] * drift, pairs * scale[1] * drift
            v = w = u = 0 * q
        # The norm's factors stand behind the residual's matrix.
        matrix = [matrix[0] * single, matrix[1] * pairs, matrix[2] * single, matrix[3] * pairs]
        q, c = size * q, size * forward * c
    product = np.einsum("ijn,jkn->ikn", np.array(m).reshape(2, 2, -1), np.array(matrix).reshape(2, 2, -1))
    return q, c, list(product.reshape(4, -1)), [v, w, u]
