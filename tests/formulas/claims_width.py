"""Exact values of the corrections for finite width, and of norms: integrals, and draws of two tokens by their products."""

import functools
import math

import numpy as np
from helpers import exact_norm_correlation
from scipy.special import gammaln, hyp2f1, roots_genlaguerre

from depthwidth.formulas import finite_width
from depthwidth.layers.activations import activation

from .claims import Case, Drawn, Exact, between
from .test_orders import normed_gradient


def normed_correlation(correlation, width):
    """The expected sample correlation of so many independent pairs."""
    r, d = correlation, width
    return r * math.exp(2 * gammaln(d / 2) - gammaln((d - 1) / 2) - gammaln((d + 1) / 2)) * hyp2f1(0.5, 0.5, (d + 1) / 2, r * r)


def correlation_deviation(correlation, width):
    """Of the sample correlation of d pairs of known mean 0, by its first two moments, with 50 digits as they nearly cancel."""
    import mpmath

    with mpmath.workdps(50):
        r, d = mpmath.mpf(correlation), mpmath.mpf(width)
        first = r * 2 / d * (mpmath.gamma((d + 1) / 2) / mpmath.gamma(d / 2)) ** 2 * mpmath.hyp2f1(0.5, 0.5, d / 2 + 1, r**2)
        second = 1 - (1 - r**2) * (d - 1) / d * mpmath.hyp2f1(1, 1, d / 2 + 1, r**2)
        return float(mpmath.sqrt(max(second - first**2, 0)))


def not_equal_tokens(values, rng):
    values["correlation"] = float(np.clip(values["correlation"], -0.999, 0.999))
    values["width"] = min(values["width"], 4096.0)


def aligned_shares(rng):
    """Of two Gaussian matrices at the least width of the claim, which draws differ from the mean of by a tenth."""
    cases, width, draws = [], 64, 300
    for ratio, relu in ((0.5, False), (0.5, True), (2.0, True), (8.0, False), (8.0, True)):
        hidden, found = round(ratio * width), []
        for _ in range(draws):
            x, first = rng.standard_normal(width), rng.standard_normal((hidden, width))
            u, last = first @ x, rng.standard_normal((width, hidden))
            jacobian = last @ (first * (u > 0)[:, None] if relu else first)
            f = jacobian @ x
            found.append((np.sum((jacobian.T @ f) ** 2) / (f @ f), np.sum(jacobian**2) / width))
        along, mean = np.array(found).T
        arguments = {"ratio": ratio, "radial": 1, "common_kurtosis": 2 if relu else 1}
        cases.append(Case(arguments, along.mean() / mean.mean(), along.std() / mean.mean() / math.sqrt(draws)))
    return cases


# ---- two tokens of a stream, by their three products ----

STREAMS = 80_000


def _factor(products):
    a, b, c = products
    low = np.sqrt(a)
    return low, b / low, np.sqrt(np.maximum(c - (b / low) ** 2, 0))


def _added(rng, stream, hidden, strength, width):
    """Products of x + f, f = sqrt(a) W h with W Gaussian: f has two coordinates in the plane of the tokens, the rest beyond."""
    x, h = _factor(stream), _factor(hidden)
    size, s = len(x[0]), math.sqrt(strength)
    u, v, p, q = rng.standard_normal((4, size))
    beyond = np.sqrt(rng.chisquare(width - 2, size)), rng.standard_normal(size), np.sqrt(rng.chisquare(width - 3, size))
    first = (math.sqrt(width) * x[0] + s * h[0] * u, s * h[0] * v, s * h[0] * beyond[0], 0.0)
    second = (
        math.sqrt(width) * x[1] + s * (h[1] * u + h[2] * p),
        math.sqrt(width) * x[2] + s * (h[1] * v + h[2] * q),
        s * (h[1] * beyond[0] + h[2] * beyond[1]),
        s * h[2] * beyond[2],
    )
    dot = lambda a, b: sum(i * j for i, j in zip(a, b, strict=True)) / width  # noqa: E731
    return dot(first, first), dot(first, second), dot(second, second)


def _drawn(rng, correlation, width):
    """Products of two Gaussian tokens of this many features."""
    nothing = np.full(STREAMS, 1e-300), np.zeros(STREAMS), np.full(STREAMS, 1e-300)
    one = np.ones(STREAMS)
    return _added(rng, nothing, (one, correlation * one, one), 1.0, width)


@functools.cache
def streams(seed):
    """Gaussian tokens, and what branches of two square matrices, which read them through a norm, add to them."""
    rng, kept = np.random.default_rng(seed), []
    drawn = [
        (width, branches, between(rng, 0.1, 0.95), between(rng, 0.3, 4.0)) for width, branches in ((64, 0), (64, 8), (200, 5))
    ]
    for width, branches, correlation, strength in [(56, 3, 0.1, 4.0), (56, 3, 0.9, 4.0), *drawn]:
        found = _drawn(rng, correlation, width)
        for _ in range(branches):
            seen = found[1] / np.sqrt(found[0] * found[2])
            hidden = _drawn(rng, seen, width)
            found = _added(rng, found, hidden, strength, width)
        kept.append((width, found))
    return kept


def _spread(products):
    q, c, p = products
    size, pair = (q.mean() + p.mean()) / 2, c.mean()
    v, w = (q.var() + p.var()) / 2 / size**2, np.cov(q, p)[0, 1] / size**2
    u = (np.cov(c, q)[0, 1] + np.cov(c, p)[0, 1]) / 2 / (size * pair)
    return float(v), float(w), float(u), float(size), float(pair)


def norm_factors(backward):
    """The noise is that of the distance: the spread and the exact factor are measured on the same draws, in ten groups."""

    def one(width, products):
        q, c, p = products
        v, w, u, size, pair = _spread(products)
        cosine = c / np.sqrt(q * p)
        if not backward:
            arguments = {"variance": v, "shared_variance": w, "covariance": u}
            return arguments, float(cosine.mean() / (pair / size)), finite_width.norm_covariance_factor
        arguments = {"variance": v, "shared_variance": w, "correlation": pair / size, "features": width}
        left = size * ((width - 2 + cosine**2) / width / np.sqrt(q * p)).mean()
        return arguments, float(left), finite_width.norm_gradient_covariance_factor

    def draw(rng):
        cases = []
        for width, products in streams(int(rng.integers(2**31))):
            arguments, exact, law = one(width, products)
            groups = [one(width, group) for group in zip(*(np.array_split(v, 10) for v in products), strict=True)]
            apart = [value - law.body(**given) for given, value, _ in groups]
            cases.append(Case(arguments, exact, float(np.std(apart)) / math.sqrt(10)))
        return cases

    return draw


# ---- activations of two tokens ----

HALF, LEGENDRE = np.polynomial.legendre.leggauss(160)
NODES, WEIGHTS = 7 * HALF, 7 * LEGENDRE * np.exp(-((7 * HALF) ** 2) / 2) / math.sqrt(2 * math.pi)
CURVED = ("relu", "gelu", "silu", "relu2")


def kurtoses(rng):
    cases = []
    for name in CURVED:
        for _ in range(3):
            variance = 1.0 if name in ("relu", "relu2") else rng.choice([1.0, between(rng, 1.0, 10.0)])
            r, f = rng.uniform(0.02, 0.98), activation(name)
            h = np.asarray(f(math.sqrt(variance) * NODES))
            other = np.asarray(f(math.sqrt(variance) * (r * NODES[:, None] + math.sqrt(1 - r * r) * NODES))) @ WEIGHTS
            m1, m2, m3, m4 = (float(h**k @ WEIGHTS) for k in (1, 2, 3, 4))
            arguments = {"third": m3 / (m2 * m1), "kurtosis": m4 / m2**2, "correlation": r}
            cases.append(Case(arguments, float((h**3 * other) @ WEIGHTS / (m2 * (h * other) @ WEIGHTS))))
    return cases


def slopes(rng):
    """Price's theorem: the slope of E f f' in the covariance of the inputs is that of the derivatives."""
    cases = []
    for name in ("relu", "gelu", "silu", "tanh"):
        for r in (0.3, *rng.uniform(0.3, 0.99, 3)):
            variance, f = between(rng, 0.1, 10.0), activation(name)
            arguments = {"whole": f.second_moment(variance), "moment": f.pair_moment(variance, r), "correlation": r}
            exact = variance * float(f.derivative_pair_moment(variance, r))
            cases.append(Case({key: float(value) for key, value in arguments.items()}, exact))
    return cases


@functools.cache
def _halved(freedom):
    nodes, weights = roots_genlaguerre(12, freedom / 2 - 1)
    return nodes, weights / weights.sum()


def sample_correlations(r, d):
    """Nodes and weights of the sample correlation of d Gaussian pairs: |x|^2, y along x, y across."""
    (own, w1), (across, w2) = _halved(d), _halved(d - 1)
    g, w3 = np.polynomial.hermite_e.hermegauss(24)
    along = r * np.sqrt(2 * own)[:, None, None] + math.sqrt(1 - r * r) * g
    found = along / np.sqrt(along**2 + (1 - r * r) * 2 * across[None, :, None])
    return found.ravel(), np.einsum("i,j,k->ijk", w1, w2, w3 / w3.sum()).ravel()


def two_sides(rng):
    cases = []
    for name in CURVED:
        for width, r in ((32, 0.3), (32, 0.7), (int(between(rng, 32, 200)), rng.uniform(0, 0.95))):
            nodes, weights = sample_correlations(float(r), width)
            mean, step, f = float(weights @ nodes), finite_width.correlation_spread(float(r), width), activation(name)
            above, below = (float(f.pair_moment(1.0, min(mean + sign * step, 1.0))) for sign in (1, -1))
            cases.append(Case({"above": above, "below": below}, float(np.asarray(f.pair_moment(1.0, nodes)) @ weights)))
    return cases


def normed(moment, size, gain, factor, width, correlation, backward):
    """Forward the covariance of two Gaussian tokens, backward the second moment of an independent gradient."""
    exact = (width - 1) / (width - 2) if backward else exact_norm_correlation(correlation, width) / correlation
    return gain * factor * moment / size * exact


EXACT = {
    "finite_width.correlation_spread": Exact(correlation_deviation, tie=not_equal_tokens, draws=24),
    "finite_width.aligned_share": Drawn(aligned_shares),
    "finite_width.correlation_slope": Drawn(slopes),
    "finite_width.norm_covariance_factor": Drawn(norm_factors(backward=False)),
    "finite_width.norm_gradient_covariance_factor": Drawn(norm_factors(backward=True)),
    # Of d Gaussian features, v = 2/d and E 1/q is d/(d - 2).
    "finite_width.norm_gradient_factor": Exact(lambda variance, features: (1 - 1 / features) / (1 - variance)),
    "finite_width.pair_kurtosis": Drawn(kurtoses),
    "finite_width.two_sided_mean": Drawn(two_sides),
    "moments.centred_moment": Exact(lambda moment, mean, other_mean, width: (moment - mean * other_mean) * (1 - 1 / width),
                                    {"width": (64, 4096)}),
    "moments.norm_correlation": Exact(normed_correlation, draws=120),
    "moments.norm_gradient_covariance": Exact(lambda gradient_covariance, second_moment, correlation, width: (
        gradient_covariance / second_moment * normed_gradient(correlation, round(width)))),
    "moments.norm_moment": Exact(normed, {"width": (64, 4096), "correlation": (0.01, 1.0), "backward": (0, 1)}, draws=24),
}  # fmt: skip
