"""Exact values of counts, of costs of shapes and of separation ranks."""

import math

import numpy as np
from scipy.optimize import brentq

from depthwidth.coefficients import coefficient
from depthwidth.formulas import rules, separation, shape_penalty, treeformer

from .claims import Case, Drawn, Exact, between


def nonembedding_parameters(depth, width, c):
    """With biases and two LayerNorms a block, as GPT-2's, or 15 w^2 with two norms without biases, as Gemstones'."""
    block = 12 * width**2 + 13 * width if c == 12 else 15 * width**2 + 2 * width
    return depth * block + (2 if c == 12 else 1) * width


def one_of_two_blocks(values, rng):
    values["c"] = rng.choice([12, 15])
    values["depth"], values["width"] = max(1, round(values["depth"])), round(values["width"])


def shallow_width(deep_depth, deep_width, shallow_depth):
    """The width at which the shallow network's upper bound reaches the deep one's lower bound."""
    low = separation.log3_rank_lower_inefficient(deep_depth, deep_width, max(1, deep_width // 64))

    def short(width):  # the upper bound as a function of a width that need not be whole
        c2 = -2 * width * math.log(width / (2 * math.sqrt(2 * math.e)), 3) + math.log(width, 3)
        return 2 * width * shallow_depth + shallow_depth + c2 - low

    return brentq(short, 1, 8 * deep_width * deep_depth / shallow_depth)


def whole_networks(values, rng):
    for name in values:
        values[name] = round(values[name])


def wasted_parameters(penalty, size):
    """With the exponent followed along the sizes between, instead of taken as that of the larger one."""
    below = np.linspace(0, 4, 4001)  # ln of the larger size over the smaller one
    slopes = -shape_penalty.loss_exponent(size * np.exp(-below))
    risen = np.concatenate([[0.0], np.cumsum((slopes[1:] + slopes[:-1]) / 2 * below[1])])
    return -math.expm1(-np.interp(math.log1p(penalty), risen, below))


def penalties(rng):
    cases = []
    for _ in range(20):
        size, penalty = between(rng, 1e8, 1e10), rng.choice([between(rng, 1e-4, 0.05), 0.05])
        arguments = {"penalty": penalty, "exponent": float(shape_penalty.loss_exponent(size))}
        cases.append(Case(arguments, wasted_parameters(penalty, size)))
    return cases


def gemstones_width_errors(rng):
    """Standard deviation of ln w over drawn coefficients; what is linear in them is known, and only the rest is drawn."""
    names = ("ln_A", "alpha", "ln_B", "beta")
    centre = np.array([coefficient("gemstones2025", name.removeprefix("ln_")).value for name in names])
    centre[[0, 2]] = np.log(centre[[0, 2]])
    cases = []
    for _ in range(8):
        depth, f = between(rng, 3, 100), rules.gemstones_relative_width_error
        largest = np.sqrt([0.1, f.within["var_alpha"][1], 0.1, f.within["var_beta"][1]])
        shares = np.array([rng.choice([1.0, between(rng, 0.1, 1.0)]) for _ in names])
        factor = rng.standard_normal((4, 4))
        factor *= (largest * shares / np.sqrt((factor**2).sum(1)))[:, None]
        covariance = factor @ factor.T * (1 - 1e-9)  # so that its diagonal stays inside the range
        draws = factor @ rng.standard_normal((4, 60_000))
        ln_A, alpha, ln_B, beta = centre[:, None] + np.concatenate([draws, -draws], 1)
        drawn = (np.log(alpha / (2 * beta)) + ln_A - ln_B + beta * math.log(depth)) / alpha
        terms = {
            f"cov_{a}_{b}" if a != b else f"var_{a}": covariance[i, j]
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if j >= i
        }
        noise = drawn.std() / math.sqrt(drawn.size)
        cases.append(Case({"depth": depth} | terms, float(drawn.std()), float(noise)))
    return cases


EXACT = {
    "rules.gemstones_relative_width_error": Drawn(gemstones_width_errors),
    "scaling.kaplan_nonembedding_parameters": Exact(nonembedding_parameters, tie=one_of_two_blocks),
    "separation.shallow_width_needed": Exact(shallow_width, tie=whole_networks),
    "shape_penalty.parameter_equivalent": Drawn(penalties),
    "treeformer.poisson_empty_leaf_probability": Exact(treeformer.empty_leaf_probability),
}
