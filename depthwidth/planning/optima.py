"""The optimal shape of a law without a closed form for it, by bisection in plain Python."""

from __future__ import annotations

import math

from ..coefficients import coefficient
from ..errors import InputError
from ..formulas.scaling import gemstones_flops_per_token, gemstones_loss, gemstones_parameters
from ..numerics.roots import bisect
from ..values import frozen


@frozen
class FlopOptimum:
    """The shape and the token count with the lowest predicted loss for a training budget."""

    width: float
    depth: float
    parameters: float
    """All parameters, embeddings included."""
    tokens: float
    loss: float
    """Nats per token."""


def gemstones_flop_optimum(flops: float, context: int = 2048, vocab: int = 50304, edition: str = "") -> FlopOptimum:
    """The shape and number of tokens that minimise the Gemstones loss at a fixed number of training FLOPs.

    Parameters
    ----------
    flops : training FLOPs, as :func:`~depthwidth.formulas.scaling.gemstones_flops_per_token` counts them.
    context : tokens of a training sequence.
    vocab : rows of each of the two embedding matrices.
    edition : the fit of the authors to use; the main one by default.

    Notes
    -----
    The tokens follow from the budget; width and depth are free. Tokens per parameter fall from 53 at 1e18 FLOPs to 0.9 at 1e23,
    far from common practice: the optimum is unreliable outside 1e19 to 1e21 FLOPs.

    Examples
    --------
    >>> best = gemstones_flop_optimum(1e20)
    >>> round(best.width, 2), round(best.depth, 4)
    (1410.86, 28.4068)

    Raises
    ------
    InputError
        if the budget is not a positive number, or the law has no optimum among widths from 1 to 1e8.
    """
    if not 0 < flops < math.inf:
        raise InputError(f"gemstones_flop_optimum: flops={flops} is outside (0, inf)")
    law = {name: coefficient("gemstones2025", name, edition).value for name in _LAW}

    def best_log_depth(log_width: float) -> float:
        return bisect(lambda log_depth: _slopes(log_width, log_depth, flops, context, vocab, law)[1], *_DEPTHS)

    log_width = bisect(lambda lw: _slopes(lw, best_log_depth(lw), flops, context, vocab, law)[0], *_WIDTHS)
    log_depth = best_log_depth(log_width)
    if log_width in _WIDTHS or log_depth in _DEPTHS:
        raise InputError(f"gemstones_flop_optimum: the law has no optimum for flops={flops:g} among widths from 1 to 1e8")
    width, depth = math.exp(log_width), math.exp(log_depth)
    parameters = gemstones_parameters(width, depth, vocab)
    tokens = flops / gemstones_flops_per_token(width, depth, context, vocab)
    return FlopOptimum(width, depth, parameters, tokens, gemstones_loss(width, depth, parameters, tokens, **law))


_LAW = ("A", "alpha", "B", "beta", "C", "gamma", "D", "zeta", "epsilon")
_WIDTHS = (math.log(1), math.log(1e8))
_DEPTHS = (math.log(1e-3), math.log(1e6))


def _slopes(
    log_width: float, log_depth: float, flops: float, context: int, vocab: int, law: dict[str, float]
) -> tuple[float, float]:
    """Derivatives of the loss by ln(width) and by ln(depth) when the tokens follow from the budget."""
    w, d = math.exp(log_width), math.exp(log_depth)
    p, f = gemstones_parameters.body(w, d, vocab), gemstones_flops_per_token.body(w, d, context, vocab)
    # The parts of parameters and FLOPs that grow with depth, and with the square of the width.
    p_depth, p_square = d * (15 * w**2 + 2 * w), 15 * d * w**2
    f_depth, f_square = f - w * (6 * vocab + 21), 90 * d * w**2
    width_term = law["alpha"] * law["A"] * w ** -law["alpha"]
    depth_term = law["beta"] * law["B"] * d ** -law["beta"]
    size_term = law["gamma"] * law["C"] * p ** -law["gamma"]
    token_term = law["zeta"] * law["D"] * (flops / f) ** -law["zeta"]
    # Both counts are w times something plus a square, so d ln(p)/d ln(w) is 1 + the square's share.
    by_width = -width_term - size_term * (1 + p_square / p) + token_term * (1 + f_square / f)
    by_depth = -depth_term - size_term * p_depth / p + token_term * f_depth / f
    return by_width, by_depth
