"""Entropy and squared sum of attention weights, from known rows."""

import math

import pytest

torch = pytest.importorskip("torch")

from verify.measure.attention import concentration, squared_sum  # noqa: E402


def test_known_rows():
    """Equal weights on n of 4 tokens, n = 1, 2, 4; a weight of 0 adds nothing."""
    weights = torch.tensor([[[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4]], dtype=torch.float64)
    entropy, squares = concentration(weights)
    assert entropy.shape == squares.shape == (1, 3)
    assert entropy[0].tolist() == pytest.approx([0.0, math.log(2), math.log(4)])
    assert squares[0].tolist() == [1.0, 0.5, 0.25]
    assert squared_sum(weights).tolist() == squares.tolist()


def test_a_diverged_row_is_not_a_number_and_leaves_the_others_alone():
    entropy, squares = concentration(torch.tensor([[math.nan, 0.5], [0.5, 0.5]]))
    assert entropy.isnan().tolist() == squares.isnan().tolist() == [True, False]


def test_nobody_else_computes_them():
    """Probes, heads and simulated components call the one function."""
    from pathlib import Path

    import verify.measure

    for path in Path(verify.measure.__file__).parent.glob("*.py"):
        if path.name != "attention.py":
            source = path.read_text(encoding="utf-8")
            assert "weights.square()" not in source
            assert "torch.log(p" not in source
            assert "entr(weights" not in source
