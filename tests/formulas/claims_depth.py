"""Exact values of the laws of depth: recursions, differential equations, and simulated blocks."""

import functools
import math

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from depthwidth.formulas import depth, gaussian

from .claims import Case, Drawn, Exact, between
from .test_orders import attended, deepscale_step, matrix_moment, matrix_spread

SETTLED = 60
"""Time after which nothing moves any more: the rate falls as e^(-1.1 tau) or faster."""


def kernel(correlation):
    return 2 * gaussian.relu_pair_moment(1.0, 1.0, min(correlation, 1.0))


def pre_norm_gap(gap, second_moment, attention, feed_forward, layers):
    """1 - r after the recursion, layer by layer: attention adds a_A r, the feed-forward part a_F times the ReLU's kernel."""
    return 1 - _pre_norm(second_moment, 1 - gap, attention, feed_forward, layers)[1]


def _pre_norm(q, r, attention, feed_forward, layers):
    for _ in range(round(layers)):
        c = q * r + attention * r
        q += attention * r
        c += feed_forward * kernel(c / q)
        q += feed_forward
        r = c / q
    return q, r


def pre_norm_growth(second_moment, block_moment, blocks, correlation, attention):
    """Of a block's second moment attention adds a share, in proportion to the correlation."""
    parts = block_moment * attention, block_moment * (1 - attention)
    return _pre_norm(second_moment, correlation, *parts, blocks)[0]


def weaker_feed_forward(values, rng):
    values["feed_forward"] = values["attention"] * rng.choice([between(rng, 0.01, 1.0), 1.0])


def small_input(values, rng):
    values["second_moment"] = values["block_moment"] * between(rng, 0.01, 1.0)
    values["blocks"] = min(values["blocks"], 1000)


def post_norm_gap(gap, attention, layers, feed_forward=0.5):
    """1 - r after the recursion; the formula does not depend on the feed-forward part, here the largest it is stated for."""
    r = 1 - gap
    for _ in range(round(layers)):
        r = (r + attention * r) / (1 + attention * r)
        r = (r + feed_forward * kernel(r)) / (1 + feed_forward)
    return 1 - r


def deepscale_walk(start, time, dropout):
    def slope(_, r):
        return [float(depth.deepscale_correlation_rate(min(max(r[0], -1.0), 1.0), dropout))]

    return solve_ivp(slope, (0, min(time, SETTLED)), [start], rtol=1e-7, atol=1e-9).y[0, -1]


def deepscale_limit(dropout):
    return brentq(lambda r: float(depth.deepscale_correlation_rate(r, dropout)), 0, 1)


def pre_norm_limit(attention, feed_forward, dropout):
    def gap(r):
        return r * (attention * r + feed_forward) - (1 - dropout) * (attention * r + feed_forward * kernel(r))

    return brentq(gap, 1e-12, 1) if dropout else 1.0


def attention_block(value_gain, out_gain, correlation, dropout, length, score_variance):
    return attended(value_gain, correlation, length, score_variance) * out_gain / (1 - dropout)


# ---- one block of a collapsed post-norm stack ----

BLOCK_DRAWS = 100_000


def block_logs(rng, strength, width, hidden, relu):
    """ln of a block's factor on the gradient, by draws; and variables of mean 0 that explain most of its spread.

    All tokens are one, x. Matrices and the gradient g, which is orthogonal to the block's output, have no preferred direction,
    so that lengths and angles are all that counts: chi-squared variables and normals in place of matrices.
    """
    d, n, size = width, hidden, BLOCK_DRAWS
    normal = functools.partial(rng.standard_normal, size)
    kept = np.maximum(rng.binomial(n, 0.5, size), 2) if relu else np.full(size, n)
    f2 = rng.chisquare(kept)  # |f(h)|^2 of hidden features of unit variance; f is 0 for those not kept
    scale = math.sqrt(strength * (2 if relu else 1) / n)
    along, across2 = normal(), rng.chisquare(d - 1, size)
    out = math.sqrt(d) + scale * np.sqrt(f2) * along, scale * np.sqrt(f2 * across2)  # x + b in the plane of x and b
    out2 = out[0] ** 2 + out[1] ** 2
    in_plane, beyond2 = normal(), rng.chisquare(d - 2, size)
    gx = -out[1] / np.sqrt(out2) * in_plane / np.sqrt(in_plane**2 + beyond2)  # of the unit vector g along x
    bg = -math.sqrt(d) * gx  # as g is orthogonal to x + b
    masked2 = bg**2 / f2 + scale**2 * rng.chisquare(kept - 1)  # of the second matrix's transpose times g, where f passes it
    side, rest2 = normal(), rng.chisquare(d - 2, size)
    step = np.sqrt(masked2 / d)
    pulled2 = (np.sqrt(1 - gx**2) + step * side) ** 2 + step**2 * rest2  # the next norm takes off what lies along x
    centred = along, across2 - (d - 1), side, rest2 - (d - 2), kept - kept.mean(), f2 - kept, masked2 - masked2.mean(), in_plane
    return np.log(pulled2 / out2 * d), np.stack(centred)


@functools.cache
def block(seed, strength, width, ratio, relu):
    """Mean and variance of the logarithm, each with its standard error."""
    logs, controls = block_logs(np.random.default_rng(seed), strength, width, round(ratio * width), relu)
    controls = controls - controls.mean(1, keepdims=True) * np.array([0, 0, 0, 0, 1, 0, 1, 0])[:, None]
    design = np.concatenate([np.ones((1, logs.size)), controls])
    found, *_ = np.linalg.lstsq(design.T, logs, rcond=None)
    left = logs - found @ design
    return (found[0], left.std() / math.sqrt(logs.size)), (logs.var(), math.sqrt(2 / logs.size) * logs.var())


def _blocks(rng):
    for i in range(8):
        relu = bool(i % 2)
        ratio = between(rng, 1.0, 8.0) if relu else rng.choice([1.0, between(rng, 0.5, 8.0)])
        yield int(rng.integers(2**31)), between(rng, 0.1, 2.0), (64, 64, 96, 192)[i // 2], float(ratio), relu


def log_drifts(rng):
    cases = []
    for seed, strength, width, ratio, relu in _blocks(rng):
        mean, noise = block(seed, strength, width, ratio, relu)[0]
        moment = depth.feed_forward_matrix_moment(ratio, 2 if relu else 1)
        cases.append(Case({"strength": strength, "width": width, "matrix_moment": moment}, mean, noise))
    return cases


def log_variances(rng):
    cases = []
    for seed, strength, width, ratio, relu in _blocks(rng):
        variance, noise = block(seed, strength, width, ratio, relu)[1]
        spread, shared = depth.feed_forward_matrix_spread(ratio, 6 if relu else 3), 1 / ratio if relu else 0.0
        arguments = {"strength": strength, "width": width, "matrix_spread": spread, "shared": shared}
        cases.append(Case(arguments, variance, noise))
    return cases


def layers(which):
    """Of a layer: attention's two square matrices, and a ReLU part."""

    def draw(rng):
        cases = []
        for _ in range(4):
            width, ratio, a, f = 64, between(rng, 1.0, 8.0), between(rng, 0.1, 2.0), between(rng, 0.1, 2.0)
            parts = (block(int(rng.integers(2**31)), *one)[which] for one in ((a, width, 1.0, False), (f, width, ratio, True)))
            (one, noise), (two, other) = parts
            arguments = {"attention": a, "feed_forward": f, "width": width, "ratio": ratio}
            cases.append(Case(arguments, one + two, math.hypot(noise, other)))
        return cases

    return draw


LONG_ROWS = {"length": (1024, 10**6), "score_variance": (0.01, 1.0)}

EXACT = {
    "attention.long_output_second_moment": Exact(attended, LONG_ROWS),
    "depth.attention_block_second_moment": Exact(attention_block, LONG_ROWS),
    "depth.deepscale_correlation": Exact(deepscale_walk, draws=16),
    "depth.deepscale_correlation_limit": Exact(deepscale_limit),
    "depth.deepscale_correlation_rate": Exact(deepscale_step, {"layers": (48, 10**5)}),
    "depth.feed_forward_matrix_moment": Exact(lambda ratio, slope_kurtosis, even, width: matrix_moment(
        ratio, slope_kurtosis, width), {"width": (64, 4096)}),
    "depth.feed_forward_matrix_spread": Exact(matrix_spread, {"width": (64, 4096)}),
    "depth.post_norm_collapse": Exact(post_norm_gap),
    "depth.post_norm_layer_log_drift": Drawn(layers(0)),
    "depth.post_norm_layer_log_variance": Drawn(layers(1)),
    "depth.post_norm_log_drift": Drawn(log_drifts),
    "depth.post_norm_log_variance": Drawn(log_variances),
    "depth.pre_norm_collapse": Exact(pre_norm_gap),
    "depth.pre_norm_correlation_limit": Exact(pre_norm_limit, tie=weaker_feed_forward),
    "depth.pre_norm_gradient_power_law": Exact(depth.pre_norm_gradient_growth),
    "depth.pre_norm_growth": Exact(pre_norm_growth, {"correlation": (0.2, 1.0), "attention": (0.5, 1.0)}, small_input, 16),
}  # fmt: skip
