"""Attention of finite width and head size: averages of a row and its logits, and what follows, against simulations."""

import math
from pathlib import Path

import numpy as np
import pytest

from depthwidth.formulas.attention import attention_moments, layer
from depthwidth.formulas.attention.token_directions import no_terms
from depthwidth.formulas.moments import norm_correlation
from depthwidth.numerics.softmax import overlap
from depthwidth.numerics.softmax_tokens import token_averages
from verify.rows import rows_from_csv

CELLS = Path(__file__).parents[2] / "data" / "measured" / "components_cells.csv"


def test_averages_of_a_row_and_its_logits():
    """Drawn rows of 16 entries; the fourth Hermite polynomial of a row is the noisiest."""
    z = np.random.default_rng(3).standard_normal((30_000, 16))
    p = np.exp(2 * z)
    p /= p.sum(1, keepdims=True)
    P = (p * p).sum(1)
    jacobian = (p * p * (1 - 2 * p + P[:, None])).sum(1)
    aligned = ((p * (z - (p * z).sum(1, keepdims=True))) ** 2).sum(1)
    weighted = (z * z * p * p * (1 - 2 * p + P[:, None])).sum(1) - jacobian
    tails = (z**4 - 6 * z * z + 3).sum(1)
    found = token_averages(4.0, 16)
    wanted = (
        (aligned, jacobian, found.aligned, 0.01), (weighted, jacobian, found.weighted, 0.02),
        (P * tails, P, found.P_tails, 0.5), (jacobian * tails, jacobian, found.T_tails, 0.5),
    )  # fmt: skip
    for part, whole, average, error in wanted:
        assert abs(part.mean() / whole.mean() - average) < error
    assert found.aligned < 0.5 < 1 < found.weighted  # far from the limits of small variances, 1 and 0


def test_the_growth_of_sums_of_squares():
    below, middle, above = overlap(4.0 * np.array([0.99, 1.0, 1.01]), 64).P
    found = token_averages(4.0, 64)
    assert found.P_growth == pytest.approx((above - below) / 0.02 / middle, rel=0.01)
    assert found.P_spread == pytest.approx((above + below - 2 * middle) / 1e-4 / middle, abs=0.01)


def test_small_variances_have_neither():
    found = token_averages(np.array([0.0, 1e-4]), 64)
    for part, limit in zip(found, (1, 0, 0, 0, 0, 0, 0), strict=True):
        assert abs(part - limit).max() < 0.01


@pytest.mark.parametrize("r", [0.0, np.linspace(0, 0.9, 4)])
def test_moments_stay_positive_where_the_first_order_is_not_enough(r):
    found = attention_moments(
        1.0, r, length=2048, width=8, head_dim=8, score_gain=16.0, gradient_correlation=0.0, equal_norms=True
    )
    for part in (found.second_moment, found.query_gradient, found.key_gradient, found.value_gradient):
        assert np.all(part > 0)


MEASURED = {
    "variance": lambda m: m.second_moment,
    "gradient_variance": lambda m: m.gradient,
    "query_gradient_variance": lambda m: m.query_gradient,
}


def deviations():
    """In standard errors, of attention between uncorrelated tokens of one norm at score variance 4, by what is measured."""
    found = {}
    for row in rows_from_csv(CELLS.read_bytes(), CELLS.name):
        grid = row.labels.get("grid")
        of = {name: float(value) for name, value in (part.split("=") for part in row.site.split())}
        if grid not in ("short", "large variance", "cross") or row.quantity not in MEASURED:
            continue
        if (
            of["correlation"]
            or of["score_variance"] != 4
            or of["dropout"]
            or (grid == "cross") != row.quantity.startswith("query")
        ):
            continue
        width = of["width"]
        asking = {}
        if grid == "cross":
            asking = {"queries": of["queries"], "row_correlation": float(norm_correlation(of["row_correlation"], width + 1))}
        moments = attention_moments(
            1.0, 0.0, length=of["length"], width=width, head_dim=int(of["head_dim"]), score_gain=4.0,
            gradient_correlation=of.get("gradient_correlation", 0.0), equal_norms=True, **asking,
        )  # fmt: skip
        off = (MEASURED[row.quantity](moments) - row.value) / math.hypot(row.stderr, 0.003 * row.value)
        found.setdefault(row.quantity, []).append(off)
    return {name: math.sqrt(np.mean(np.square(values))) for name, values in found.items()}


@pytest.mark.slow
def test_the_simulations_that_were_kept(monkeypatch):
    """Drawn before this was derived; without what a key's logit tells of its token, off by three times as much."""
    now = deviations()
    assert set(now) == set(MEASURED)
    assert max(now.values()) < 2
    monkeypatch.setattr(layer, "token_terms", lambda *given: no_terms)
    assert all(before > 3 * now[name] for name, before in deviations().items())
