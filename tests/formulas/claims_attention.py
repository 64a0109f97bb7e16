"""Exact values of attention's moments: simulated rows of tokens, and whole layers with their backward pass.

Two softmaxes of the same tokens are drawn, given the tokens, with Gaussian scores: what a random query-key form of large heads
gives. Formulas are held at the correlation that the drawn tokens have, which takes most of the noise off.
"""

import functools
import math

import numpy as np
from helpers import exact_norm_correlation

from depthwidth.formulas import attention
from depthwidth.numerics.softmax import overlap, pair_overlap

from .claims import Case, Drawn, between
from .test_attention import predicted, simulate

ROWS = 24
"""Pairs of softmaxes for each set of tokens."""
GROUPS = 8


def token_sets(rng, length, width, correlation, count):
    """Tokens of three kinds that share their draws, one after the other: see `KINDS`."""
    for _ in range(count):
        common = rng.standard_normal(width)
        common /= math.sqrt((common**2).mean())
        own = rng.standard_normal((length, width))
        parts = own / np.sqrt((own**2).mean(1, keepdims=True))
        together = [math.sqrt(correlation) * common + math.sqrt(1 - correlation) * part for part in (parts, own)]
        normed = together[0] / np.sqrt((together[0] ** 2).mean(1, keepdims=True))
        yield *together, normed


KINDS = ("parts", "gaussian", "normed")
"""Common and own part of one norm each; an own part of Gaussian features; every token of one norm."""


@functools.cache
def drawn_rows(seed, length, width, correlation, variance, count):
    """For each set of tokens and kind: second moment and covariance, the tokens' own, and the product of the two queries."""
    rng = np.random.default_rng(seed)
    rows = []
    for kinds in token_sets(rng, length, width, correlation, count):
        queries = rng.standard_normal((2, width, ROWS))
        row = []
        for x in kinds:
            own, total = (x**2).sum(), x.sum(0)
            ask = x[:2] / np.sqrt((x[:2] ** 2).mean(1, keepdims=True))  # the tokens that attend are of one norm
            product = ask[0] @ ask[1] / width
            outputs = []
            for form in (queries[0], product * queries[0] + math.sqrt(1 - product**2) * queries[1]):
                weights = np.exp(math.sqrt(variance / width) * (x @ form))
                outputs.append(x.T @ (weights / weights.sum(0)))
            second = (outputs[0] ** 2 + outputs[1] ** 2).mean() / 2
            pair = (total @ total - own) / (length * (length - 1) * width)
            row.append((second, (outputs[0] * outputs[1]).mean(), own / (length * width), pair, product))
        rows.append(row)
    return np.array(rows)


class Laws:
    """The formulas for drawn tokens of one kind, at their correlation."""

    def __init__(self, rows, kind, length, width, variance):
        one = rows[:, KINDS.index(kind)]
        self.second, self.covariance, size, pair, product = one.mean(0)
        self.r = float(pair / (size if kind == "gaussian" else 1.0))
        self.s, self.width = variance, width
        self.row = overlap((1 - self.r) * variance, length)
        mean, spread = float(product.mean()), float(one[:, 4].std())
        sides = (pair_overlap((1 - self.r) * variance, min(mean + step, 1.0), length).P2 for step in (spread, -spread))
        self.P2 = sum(sides) / 2

    def arguments(self, *names):
        known = {
            "value_moment": 1.0, "correlation": self.r, "row_correlation": self.r, "raw_score_variance": self.s,
            "width": self.width, "P2": self.P2, **self.row._asdict(),
        }  # fmt: skip
        return {name: float(known[name]) for name in names}

    def of(self, f):
        return f(**self.arguments(*(name for name in f.parameters if name != "dropout")))


def _second(laws):
    return laws["normed"].second, attention.output_second_moment, laws["normed"]


def _covariance(laws):
    return laws["normed"].covariance, attention.output_covariance, laws["normed"]


def _above(kind, what, formula):
    """The part of the moments that one kind of tokens contributes, from the formula at that kind's correlation."""

    def value(laws):
        plain = {"second": attention.output_second_moment, "covariance": attention.output_covariance}[what]
        excess = {name: getattr(laws[name], what) - laws[name].of(plain) for name in (kind, "parts")}
        return excess[kind] - excess["parts"], formula, laws[kind]

    return value


def _short(laws):
    return (
        laws["parts"].covariance - laws["parts"].of(attention.output_covariance),
        attention.short_row_covariance_shift,
        laws["parts"],
    )


SETTINGS = ((8, 64, 0.5), (64, 64, 0.3), (64, 64, 0.02), (256, 64, 0.1))
"""Tokens, width and correlation; all but the first with the largest score variance of the claim."""


def rows_of(value, least_width, largest, count=240):
    def draw(rng):
        cases = []
        for i, (length, width, correlation) in enumerate(SETTINGS):
            variance = largest if i else between(rng, 0.3, largest)
            setting = length, max(width, least_width), variance
            seed = int(rng.integers(2**31))
            rows = drawn_rows(seed, *setting[:2], correlation, variance, count if length < 100 else count // 2)
            found = [{kind: Laws(part, kind, *setting) for kind in KINDS} for part in (rows, *np.array_split(rows, GROUPS))]
            apart = [exact - laws.of(f) for exact, f, laws in map(value, found[1:])]
            exact, f, laws = value(found[0])
            names = [name for name in f.parameters if name != "dropout"]
            cases.append(Case(laws.arguments(*names), float(exact), float(np.std(apart)) / math.sqrt(GROUPS)))
        return cases

    return draw


# ---- the published forms, of long rows ----


def published(value, f):
    def draw(rng):
        cases = []
        for length, width, correlation in ((300, 64, 0.022), (300, 64, 0.1), (400, 128, rng.uniform(0.025, 0.9))):
            variance = rng.choice([0.25, between(rng, 0.05, 0.25)])
            rows = drawn_rows(int(rng.integers(2**31)), length, width, float(correlation), float(variance), 120)
            found = [Laws(part, "normed", length, width, variance) for part in (rows, *np.array_split(rows, GROUPS))]
            given = [
                {"value_moment": 1.0, "correlation": one.r, "raw_score_variance": variance, "width": width, "length": length}
                for one in found
            ]
            apart = [getattr(one, value) - f(**at) for one, at in zip(found[1:], given[1:], strict=True)]
            cases.append(Case(given[0], float(getattr(found[0], value)), float(np.std(apart)) / math.sqrt(GROUPS)))
        return cases

    return draw


# ---- the backward pass ----

LAYERS = (
    {"length": 16, "width": 128, "heads": 8, "r": 0.3, "r_g": 0.3, "gain": 2.0},
    {"length": 64, "width": 128, "heads": 4, "r": 0.1, "r_g": 0.3, "gain": 2.0},
    {"length": 16, "width": 128, "heads": 2, "r": 0.02, "r_g": 0.5, "gain": 1.5},
    {"length": 32, "width": 128, "heads": 4, "r": 0.7, "r_g": 0.5, "gain": 1.2, "p": 0.2},
)


@functools.cache
def drawn_layers(seed):
    rng = np.random.default_rng(seed)
    found = []
    for case in LAYERS:
        mean, noise, _ = simulate(rng, 500 if case["length"] < 30 else 200, **case)
        r, s = exact_norm_correlation(case["r"], case["width"]), case["gain"] ** 2
        got = attention.attention_moments(
            1.0, r, length=case["length"], width=case["width"], head_dim=case["width"] // case["heads"], score_gain=s,
            dropout=case.get("p", 0.0), gradient_correlation=case["r_g"],
        )  # fmt: skip
        assert predicted(got).shape == (8,)
        found.append((case, r, s, got.overlap, mean, noise))
    return found


def gradients(name, column):
    def draw(rng):
        cases = []
        for case, r, s, o, mean, noise in drawn_layers(int(rng.integers(2**31))):
            known = {
                "value_gain": 1.0, "gamma": 1.0, "kappa": case["r_g"], "correlation": r, "T": o.T, "T2": o.T2,
                "raw_score_variance": s, "width": case["width"], "dropout": case.get("p", 0.0), "queries": case["length"],
                "keys": case["length"], "key_row_correlation": o.R2 / o.T2, "noise": (1 - o.P) ** 2 - o.T2,
            }  # fmt: skip
            if name == "query_gradient_second_moment":
                known["noise"] = attention.query_noise(o.P, o.M3, o.A22)
            if name == "key_gradient_second_moment":
                known["T"] = o.R  # weighed by the norm of the query
            f = getattr(attention, name)
            cases.append(Case({key: float(known[key]) for key in f.parameters}, float(mean[column]), float(noise[column])))
        return cases

    return draw


def effective_row_correlations(rng):
    """Of two drawn queries: E of their product times the overlap of the Jacobians of their rows, over E of that overlap."""
    cases, draws = [], 20_000
    for head_dim, length, r, rho, s in (
        (64, 16, 0.0, 0.9, 2.0),
        (64, 64, 0.3, 0.3, 2.0),
        (200, 32, 0.0, 0.0, between(rng, 0.3, 2)),
    ):
        first, other = rng.standard_normal((2, draws, head_dim))
        other = rho * first + math.sqrt(1 - rho * rho) * other
        own, product = (first**2).mean(1), (first * other).mean(1)
        beyond = np.sqrt(np.maximum((other**2).mean(1) - product**2 / own, 0))
        u, v = rng.standard_normal((2, draws, length)) * math.sqrt((1 - r) * s)
        p = np.exp(np.sqrt(own)[:, None] * u)
        q = np.exp((product / np.sqrt(own))[:, None] * u + beyond[:, None] * v)
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        both = (p * q).sum(1)
        overlaps = both - (p * p * q).sum(1) - (p * q * q).sum(1) + both**2
        exact = float((product * overlaps).mean() / overlaps.mean())
        noise = float(((product - exact) * overlaps).std() / overlaps.mean()) / math.sqrt(draws)
        arguments = {"row_correlation": rho, "correlation": r, "raw_score_variance": s, "head_dim": head_dim}
        cases.append(Case(arguments, exact, noise))
    return cases


def shares_of_the_common_part(rng):
    """Their variance over tokens by Gauss's rules: the own part along the common one, and its length across."""
    cases = []
    g, wg = np.polynomial.hermite_e.hermegauss(40)
    for width, r in ((64, 0.1), (64, 0.95), (64, rng.uniform(0.1, 0.95)), (rng.integers(65, 1000), rng.uniform(0.1, 0.95))):
        x, wx = np.polynomial.hermite_e.hermegauss(40)
        across = np.maximum(width - 1 + math.sqrt(2 * (width - 1)) * x, 0)  # chi-squared, near enough Gaussian
        weight = wg[:, None] * wx / (wg.sum() * wx.sum())
        along = (math.sqrt(r * width) + math.sqrt(1 - r) * g[:, None]) ** 2
        share = along / (along + (1 - r) * across)
        mean = (weight * share).sum()
        cases.append(Case({"correlation": float(r), "width": int(width)}, float((weight * (share - mean) ** 2).sum())))
    return cases


EXACT = {
    "attention.common_share_variance": Drawn(shares_of_the_common_part),
    "attention.equal_norm_covariance_shift": Drawn(
        rows_of(_above("normed", "covariance", attention.equal_norm_covariance_shift), 64, 4.0)
    ),
    "attention.equal_norm_shift": Drawn(rows_of(_above("normed", "second", attention.equal_norm_shift), 64, 4.0)),
    "attention.key_gradient_second_moment": Drawn(gradients("key_gradient_second_moment", 4)),
    "attention.key_row_correlation": Drawn(effective_row_correlations),
    "attention.norm_fluctuation": Drawn(rows_of(_above("gaussian", "second", attention.norm_fluctuation), 64, 2.0)),
    "attention.output_covariance": Drawn(rows_of(_covariance, 128, 4.0)),
    "attention.output_covariance_published": Drawn(published("covariance", attention.output_covariance_published)),
    "attention.output_second_moment": Drawn(rows_of(_second, 128, 4.0)),
    "attention.output_second_moment_published": Drawn(published("second", attention.output_second_moment_published)),
    "attention.query_gradient_covariance": Drawn(gradients("query_gradient_covariance", 6)),
    "attention.query_gradient_second_moment": Drawn(gradients("query_gradient_second_moment", 3)),
    "attention.short_row_covariance_shift": Drawn(rows_of(_short, 64, 4.0, 600)),
}
