"""The laws beyond sums of powers, on runs drawn from them, and on runs drawn from others."""

import math

import numpy as np
import pytest

from depthwidth import InputError
from depthwidth.fitting import fit, fit_runs, objective_of, read_runs
from depthwidth.fitting.laws import shape_penalty_law
from depthwidth.formulas import rules as laws

QUICK = {"draws": 10, "starts": 6, "held_out": False}
LEVINE = [(d, round(laws.levine_width(d) * f / 16) * 16) for d in (6, 12, 18, 24, 36) for f in (0.4, 0.55, 0.75, 1, 1.35, 1.8)]


def penalised(rng, k=0.05, noise=0.0003):
    """Losses with a quadratic penalty around the 2020 curve, at equal tokens."""
    rows = []
    for depth, width in LEVINE:
        size = 12 * depth * width**2
        off = math.log(width / laws.levine_optimal_width(size))
        loss = (1.7 + 120 * size**-0.27) * (1 + k * off**2) * math.exp(rng.normal(0, noise))
        rows.append({"width": width, "depth": depth, "nonembedding_params": size, "loss": loss})
    return rows


@pytest.mark.slow
def test_crossings_of_depths_lie_on_the_curve_that_the_losses_have(rng):
    rows = penalised(rng, noise=0.0001)
    found = fit(rows, "crossings", **QUICK)
    assert found.groups >= 3
    for depth in (9.0, 20.0):
        assert found.predict({"depth": depth}) == pytest.approx(laws.levine_width(depth), rel=0.25)
    assert found["b"] == pytest.approx(0.0555, rel=0.3)
    assert any("crossings of neighbouring depths" in note for note in found.notes)
    with pytest.raises(InputError, match="pairs of neighbouring depths cross, and a line with errors needs three"):
        fit([row | {"loss": 2 + 9 * row["nonembedding_params"] ** -0.2 - 0.01 * row["depth"]} for row in rows], "crossings")


def test_tokens_that_follow_the_size_have_no_term_of_their_own(rng):
    plain = penalised(rng)
    options = {"errors": "none", "held_out": False, "starts": 2}
    follow = fit([row | {"tokens": 20.0 * row["nonembedding_params"]} for row in plain], "shape-penalty", **options)
    assert "zeta" not in follow.names
    assert any("tokens follow the size" in note for note in follow.notes)
    vary = [row | {"tokens": t, "loss": row["loss"] + 300 * t**-0.3} for row in plain[::2] for t in (1e9, 1e10, 1e11)]
    assert fit(vary, "shape-penalty", **options)["zeta"] == pytest.approx(0.3, rel=0.1)


def test_a_table_of_crossings_is_a_line(rng):
    rows = [{"depth": d, "width": math.exp(5.039 + 0.0555 * d + rng.normal(0, 0.01))} for d in (6, 9, 12, 18, 24, 30, 36, 48)]
    found = fit(rows, "crossings", errors="curvature", held_out=False)
    assert (np.abs(found.values - [5.039, 0.0555]) < 4 * found.stderr).all()
    assert found.stderr[1] < 1e-3


def heads(rng, q=0.01, best=110.0):
    rows = []
    for cell, (width, depth) in enumerate(((512, 8), (512, 16), (768, 8), (768, 16), (1024, 8), (1024, 24))):
        for count in (4, 8, 12, 16):
            loss = (3 - 0.1 * cell) * (1 + q * math.log(width / count / best) ** 2) * math.exp(rng.normal(0, 2e-4))
            rows += [
                {"width": width, "depth": depth, "heads": count, "warmup": w, "loss": loss * (1 + 1e-4 * w)} for w in (1, 2)
            ]
    return rows


@pytest.mark.slow
def test_head_size_with_a_factor_for_each_shape(rng):
    found = fit(heads(rng), "head-size", least=True, **QUICK)
    assert (found.points, found.groups) == (24, 6)
    assert found["q"] == pytest.approx(0.01, rel=0.15)
    assert found["h"] == pytest.approx(110, rel=0.1)
    assert found.factor == "one factor for each of 6 width x depth"
    assert any("24 of 48 rows are kept" in note for note in found.notes)
    none = fit(heads(rng, q=0.0), "head-size", **QUICK)
    assert abs(none["q"]) < 0.002
    assert none.verdicts
    with pytest.raises(InputError, match="no shape was trained with two head dimensions"):
        fit([row for row in heads(rng) if row["heads"] == 8], "head-size", **QUICK)
    with pytest.raises(InputError, match="fitted by least squares"):
        fit(heads(rng), "head-size", loss="huber", **QUICK)


@pytest.mark.slow
def test_the_conditional_law_finds_the_best_width_and_share(rng):
    rows = []
    for size in np.geomspace(5e7, 2e9, 6):
        for x in (0.04, 0.06, 0.08, 0.11, 0.15):
            for r in (0.5, 1.2, 3.0):
                factor = (1 + 0.1 * (math.log(x / 0.08) + 0.08 / x - 1)) * (1 + 0.02 * (math.log(r / 1.2) + 1.2 / r - 1))
                loss = (1.7 + 60 * size**-0.22) * factor * math.exp(rng.normal(0, 3e-4))
                rows.append({"width": x * size**0.5, "non_embedding": size, "ffn_ratio": r, "loss": loss})
    found = fit(rows, "conditional", **QUICK)
    assert (found["xs"], found["rs"]) == pytest.approx((0.08, 1.2), rel=0.05)
    assert (found["kx"], found["kr"]) == pytest.approx((0.1, 0.02), rel=0.1)
    narrow = fit([row for row in rows if row["ffn_ratio"] == 1.2], "conditional", **QUICK)
    assert "rs" not in narrow.names
    assert narrow["xs"] == pytest.approx(0.08, rel=0.05)


@pytest.mark.slow
def test_a_law_with_one_term_more_fits_no_worse(rng):
    """If the best constant is zero, the search passes through coefficients at zero and must not stay near them."""
    rows = [row | {"tokens": (row["nonembedding_params"] + 1e5 * row["width"]) * 20} for row in penalised(rng, noise=0.002)]
    rows = [row | {"loss": row["loss"] - 1.69} for row in rows]  # the constant is then near zero
    runs = read_runs(rows, shape_penalty_law().needs)
    one, more = (
        fit_runs(runs, law, objective=objective_of(law), errors="none", held_out=False, starts=8).objective
        for law in (shape_penalty_law(tokens=False), shape_penalty_law(tokens=True))
    )
    assert more <= one * (1 + 1e-6)
