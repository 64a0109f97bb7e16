"""Heads against head dimension at a budget."""

import pytest
from helpers import check
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.formulas import heads as h


def test_splits():
    one = (1, 2, 1, 1, 64)
    check(h.split_heads(*one), "5.0397")
    check(64 / h.split_heads(*one), "12.6992")
    check(h.split_error(*one), "0.118118")
    check(h.split_prefactor(*one[:4]), "1.88988")
    budgets = h.group_budgets([h.split_prefactor(a, 2, 1, 1) for a in (1, 4)], 2 / 3, 24)
    heads = [h.split_heads(a, 2, 1, 1, d) for a, d in zip((1, 4), budgets, strict=True)]
    for value, text in zip(
        (*budgets, *heads, *(d / n for d, n in zip(budgets, heads, strict=True))),
        ("10.347", "13.653", "2.745", "4.780", "3.769", "2.856"),
        strict=True,
    ):
        check(value, text)
    total = sum(h.split_error(a, 2, 1, 1, d) for a, d in zip((1, 4), budgets, strict=True))
    check(total, ".92318")


@given(st.floats(0.2, 5), st.floats(0.3, 3), st.floats(0.2, 5), st.floats(0.3, 3), st.floats(4, 1000))
def test_the_split_is_a_minimum(a, p, b, q, budget):
    heads = h.split_heads(a, p, b, q, budget)

    def error(n):
        return a * n**-p + b * (budget / n) ** -q

    assert error(heads) == pytest.approx(h.split_error(a, p, b, q, budget), rel=1e-9)
    assert min(error(1.1 * heads), error(heads / 1.1)) > error(heads)
