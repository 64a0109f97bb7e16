"""Exact values of the laws of heads and of the softmax: integrals, roots of them, and drawn keys."""

import functools
import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from depthwidth.formulas import heads, saturation
from depthwidth.layers.activations import activation
from depthwidth.numerics.retrieval import best_retrieval, planted
from depthwidth.numerics.softmax import overlap

from .claims import Case, Drawn, Exact, between
from .test_orders import truncation


def of_softmax(field):
    return lambda variance, length: float(getattr(overlap(variance, length), field))


def element_variance(variance, length):
    return float(overlap(variance, length).element_variance(length))


def score_gradient(variance, length, gamma):
    """The gradient of the probabilities times the Jacobian's mean square, T/n."""
    return gamma * float(overlap(variance, length).T) / length


def band(low, high, unit=saturation.condensation_point):
    """A variance in the band of a closed form, which moves with the length: at either end of it, or between."""

    def tie(values, rng):
        scale = rng.choice([low * (1 + 1e-9), rng.uniform(low, high), high * (1 - 1e-9)])
        values["variance"] = min(float((scale * unit(max(values["length"], 3))) ** 2), 9000.0)

    return tie


def near_the_switch(values, rng):
    values["length"] = max(64, round(values["length"] ** rng.choice([0.3, 1.0])))  # the shortest admitted, every other time
    band(0.0, 0.6)(values, rng)
    values["gap"] = math.log(values["length"]) + values["variance"] / 2 + rng.uniform(-6, 6)


def large_heads(values, rng):
    band(0.0, 0.3)(values, rng)
    values["head_dim"] = max(1, math.ceil(values["variance"] * rng.choice([8, rng.uniform(8, 40)])))


def near_the_boundary(values, rng):
    values["correlation"] = min(values["correlation"], 0.99)
    values["beta"] = rng.choice([1.0, between(rng, 0.3, 5.0)]) * math.sqrt(2 / (1 - values["correlation"]))


# ---- the condensation point, at finite length ----


def largest_normal(length):
    """The size that one of n normals exceeds on average."""
    return float(norm.isf(1 / length))


def condensed_length(variance):
    return 1 / float(norm.sf(math.sqrt(variance)))


def scaled_condensed_length(variance, length):
    """The largest length at which sigma ln n' / ln n is the largest normal; 0 if it exceeds that at every length."""

    def above(log_length):
        return math.sqrt(variance) * log_length / math.log(length) - norm.isf(np.exp(-log_length))

    # From where it is sqrt(2 ln n'), which the largest normal stays below.
    grid = np.linspace(2 * math.log(length) ** 2 / variance, 0.7, 400)
    below = np.flatnonzero(above(grid) < 0)
    return math.exp(brentq(above, grid[below[0]], grid[0])) if below.size else 0.0


def within_floats(values, rng):
    values["variance"] = max(values["variance"], 2 * math.log(values["length"]) ** 2 / 30)


def median_squared_sums(rng):
    cases = []
    for length, ratios in (
        (64, (0.5, 0.8, 1.0)),
        (4096, (0.5, rng.uniform(0.5, 1.0), 1.0)),
        (131072, (0.8, rng.uniform(0.75, 0.95))),
    ):
        for ratio in ratios:
            variance = 2 * math.log(length) * min(max(ratio, 0.5 + 1e-9), 1 - 1e-9) ** 2
            weights = np.exp(math.sqrt(variance) * rng.standard_normal((max(100, 400_000 // length), length), dtype=np.float32))
            sums = (weights**2).sum(1) / weights.sum(1) ** 2
            noise = 1.25 * float(np.log(sums).std()) / math.sqrt(len(sums)) * float(np.median(sums))
            cases.append(Case({"variance": variance, "length": length}, float(np.median(sums)), noise))
    return cases


# ---- looking up one token ----


def critical_head_dim(length):
    """The dimension, interpolated between whole ones, at which the least retrieval error is one half."""
    error = functools.cache(lambda d: best_retrieval(length, d).error)
    low, high = 1, math.ceil(2 * math.log(length))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if error(middle) > 0.5 else (low, middle)
    return low + (error(low) - 0.5) / (error(low) - error(high))


def half_weight_noise(head_dim, length):
    """The spread of the distractors' logits at which the target has half of the weight on average."""
    law = heads.smallest_noise(head_dim, length)
    return brentq(lambda s: planted(s * math.sqrt(head_dim), s * s, length).probability - 0.5, 0.3 * law, 1.5 * law, xtol=1e-6)


def half_weight_gap(head_dim, length):
    return half_weight_noise(head_dim, length) * math.sqrt(head_dim)


def enough_dimensions(values, rng):
    least = math.ceil(3 * math.log(values["length"]))
    values["head_dim"] = round(rng.choice([least, between(rng, least, 1000)]))


# ---- hard-max attention with Gaussian keys ----


@functools.cache
def distinct_share(length, head_dim, seed, draws):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        queries, keys = rng.standard_normal((2, length, head_dim), dtype=np.float32)
        found.append(len(np.unique((queries @ keys.T).argmax(1))) / length)
    return float(np.mean(found)), float(np.std(found)) / math.sqrt(draws)


def hardmax_shares(rng):
    cases = []
    for length, draws in ((64, 600), (200, 150), (1024, 12)):
        for head_dim in (8, round(between(rng, 8, 128))):
            share, noise = distinct_share(length, head_dim, int(rng.integers(2**31)), draws)
            cases.append(Case({"length": length, "head_dim": head_dim}, share, noise))
    return cases


def hardmax_dims(rng):
    """The gap to the largest rank falls as one over the dimension: the dimension at which the gap is 5 %."""
    cases = []
    for length, draws in ((64, 1500), (256, 200), (1024, 30)):
        dim = round(heads.head_dim_for_hardmax_rank(length))
        share, noise = distinct_share(length, dim, int(rng.integers(2**31)), draws)
        missing = 1 - share / float(heads.hardmax_rank(length) / length)
        cases.append(Case({"length": length}, dim * missing / 0.05, dim * noise / 0.632 / 0.05))
    return cases


# ---- a head that keeps part of the logits' variance ----


def truncation_error(variance, kept_variance, length):
    return truncation(variance, kept_variance, length)


def some_kept(values, rng):
    values["kept_variance"] = values["variance"] * rng.uniform(0.0, 0.95)


def relative_truncation(lost_variance, length, kept):
    """Of logits that keep a share of what the rest of a variance of 1 allows."""
    kept_variance = kept * (1 - lost_variance)
    variance = kept_variance + lost_variance
    return truncation(variance, kept_variance, length) / float(overlap(variance, length).P)


MANY_TOKENS = {"length": (64, 10**6)}
LONG_ROWS = {"length": (1024, 10**6)}

EXACT = {
    "attention.softmax_variance_published": Exact(element_variance),
    "attention.softmax_variance_full_published": Exact(element_variance),
    "attention.softmax_gradient_published": Exact(score_gradient),
    "attention.softmax_gradient_full_published": Exact(score_gradient),
    "experts.sigmoid_gate_second_moment": Exact(lambda score_variance: activation("sigmoid").second_moment(
        max(score_variance, 1e-9))),
    "heads.critical_head_dim": Exact(critical_head_dim, tie=lambda values, rng: values.update(
        length=min(values["length"], 2**17)), draws=8),
    "heads.fixed_query_error": Exact(truncation_error, tie=some_kept, draws=12),
    "heads.gaussian_hardmax_fraction": Drawn(hardmax_shares),
    "heads.head_dim_for_hardmax_rank": Drawn(hardmax_dims),
    "heads.relative_truncation_error": Exact(relative_truncation, {"length": (256, 10**6), "kept": (0.001, 1.0)}, draws=21),
    "heads.smallest_gap": Exact(half_weight_gap, tie=enough_dimensions),
    "heads.smallest_noise": Exact(half_weight_noise, tie=enough_dimensions),
    "saturation.annealed_target_weight": Exact(saturation.target_weight, tie=near_the_switch, draws=90),
    "saturation.collapsed_output_second_moment": Exact(
        saturation.finite_output_second_moment, LONG_ROWS, near_the_boundary),
    "saturation.condensation_point": Exact(largest_normal),
    "saturation.condensed_entropy": Exact(of_softmax("entropy"), tie=band(1.4, 6.0, saturation.largest_normal)),
    "saturation.condensed_length": Exact(condensed_length),
    "saturation.condensed_squared_sum": Exact(of_softmax("P"), tie=band(1.4, 6.0, saturation.largest_normal)),
    "saturation.critical_length_scaling": Exact(lambda cosine, length: math.log(length - 1) / math.log(length) / (1 - cosine),
                                                MANY_TOKENS),
    # Weights are uniform at p = 1, so that attention keeps 1/n of the tokens' differences.
    "saturation.critical_residual_gain": Exact(lambda value_variance, slope, length: math.sqrt(
        value_variance * (1 - slope / length) / (slope - 1)), MANY_TOKENS),
    "saturation.diffuse_entropy": Exact(of_softmax("entropy")),
    "saturation.diffuse_entropy_next": Exact(of_softmax("entropy"), tie=band(0.0, 0.3)),
    "saturation.diffuse_finite_head_squared_sum": Exact(saturation.finite_head_squared_sum, tie=large_heads, draws=60),
    "saturation.diffuse_log_partition": Exact(of_softmax("log_partition"), tie=band(0.0, 0.3)),
    "saturation.diffuse_squared_sum": Exact(of_softmax("P"), tie=band(0.0, 0.3)),
    "saturation.entropy_collapse_gain": Exact(lambda correlation, length: largest_normal(length) / math.sqrt(
        (1 - correlation) * math.log(length)), LONG_ROWS),
    "saturation.largest_normal": Exact(largest_normal),
    "saturation.length_scaled_condensed_length": Exact(scaled_condensed_length, tie=within_floats),
    "saturation.one_body_squared_sum": Exact(of_softmax("P"), tie=band(0.0, 0.6)),
    "saturation.overlap_ratio": Exact(of_softmax("P")),
    "saturation.rare_squared_sum": Exact(of_softmax("P"), tie=band(1 / math.sqrt(3), 1.0)),
    "saturation.softmax_variance_series": Exact(element_variance),
    "saturation.typical_squared_sum": Drawn(median_squared_sums),
}  # fmt: skip
