"""Head size and the conditional law of width and feed-forward share, against the figures of their sources."""

import pytest
from helpers import check

from depthwidth.coefficients import coefficient
from depthwidth.formulas.conditional import conditional_best_ratio, conditional_best_width, conditional_loss
from depthwidth.formulas.head_size import head_size_penalty

BILLION = {name: coefficient("bian2025", name, "1B").value for name in ("a0", "a1", "a2", "b0", "b1", "b2")}


def test_heads_of_64_and_32_cost_what_was_measured():
    check(100 * head_size_penalty(64), "0.37")
    check(100 * head_size_penalty(32), "1.6")
    assert head_size_penalty(119) == 0
    assert head_size_penalty(119 * 2) == pytest.approx(head_size_penalty(119 / 2))


def test_optima_of_the_conditional_law():
    check(conditional_best_width(), "0.0801")
    check(conditional_best_ratio(), "1.032")
    check(conditional_best_width(BILLION["a1"], BILLION["a2"]), "0.0739")
    check(conditional_best_ratio(BILLION["b1"], BILLION["b2"]), "1.216")


def test_predictions_for_llama():
    """1.28 % and 1.43 % above the optimum by the first fit, and 1.0 % by the second for the larger model."""
    least = conditional_loss(conditional_best_width(), conditional_best_ratio())
    check(least, "1.0028")
    assert 100 * (conditional_loss(0.066, 4.8) / least - 1) == pytest.approx(1.28, abs=0.06)
    assert 100 * (conditional_loss(0.058, 4.8) / least - 1) == pytest.approx(1.43, abs=0.06)
    best = conditional_loss(BILLION["a2"] / BILLION["a1"], BILLION["b2"] / BILLION["b1"], **BILLION)
    assert 100 * (conditional_loss(0.058, 4.8, **BILLION) / best - 1) == pytest.approx(1.0, abs=0.3)
    for x, r in ((0.05, 1.0), (0.0801, 4.0), (0.12, 0.6)):  # the negative control: every other shape is worse
        assert conditional_loss(x, r) > least
