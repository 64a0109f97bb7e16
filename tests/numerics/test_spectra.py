"""Effective and stable ranks, and those that a head's score matrix starts with."""

import numpy as np
import pytest

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.numerics.gaussian_product import density, edges, starting_ranks
from depthwidth.numerics.spectra import effective_rank, numerical_rank, stable_rank


@pytest.mark.parametrize(
    ("sizes", "effective", "stable"),
    [((1, 1, 1, 1), 4, 4), ((3, 1), 1.75477, 1.11111), ((4, 2, 1, 0.5), 3.11714, 1.32813), ((10, 1, 1, 1), 2.21163, 1.03)],
)
def test_worked_ranks(sizes, effective, stable):
    assert effective_rank(sizes) == pytest.approx(effective, abs=6e-6)
    assert stable_rank(sizes) == pytest.approx(stable, abs=6e-6)
    assert effective_rank([*sizes, 0]) == pytest.approx(effective_rank(sizes))
    assert effective_rank(1e-200 * np.array(sizes)) == pytest.approx(effective_rank(sizes))
    assert stable_rank(1e-200 * np.array(sizes)) == pytest.approx(stable_rank(sizes))


@pytest.mark.parametrize("rank", [effective_rank, stable_rank, numerical_rank])
def test_what_is_no_spectrum_gets_one_sentence(rank):
    for sizes in ([1, -1], [float("nan")], [float("inf")], [[1.0]]):
        with pytest.raises(InputError, match="singular values are a list"):
            rank(sizes)
    if rank is not numerical_rank:
        with pytest.raises(InputError, match="a matrix of zeros has none"):
            rank([0, 0])


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 0.9])
def test_the_spectrum_has_the_moments_of_a_free_product(ratio):
    """Mass 1, mean 1, second moment 1 + 2 c: w = x^-1 + (1 + 2 c) x^-2 + ..."""
    low, high = edges(ratio)
    angle = (np.arange(2000) + 0.5) * (np.pi / 4000)
    x = low + (high - low) * np.sin(angle) ** 2
    weight = density(x, ratio) * (high - low) * np.sin(2 * angle) * (np.pi / 4000)
    assert [(weight * x**k).sum() for k in range(3)] == pytest.approx([1, 1, 1 + 2 * ratio], rel=1e-4)
    assert density([0.99 * low, 1.01 * high], ratio).max() == 0


@pytest.mark.parametrize(("width", "head_dim"), [(96, 96), (128, 64), (256, 32)])
def test_starting_ranks_by_simulation(width, head_dim, rng):
    """Effective rank within 1 %, stable rank within what the largest singular value of a finite matrix is short of the edge."""
    a, b = rng.standard_normal((2, width, head_dim))
    sizes = np.linalg.svd(np.linalg.qr(a)[1] @ np.linalg.qr(b)[1].T, compute_uv=False)
    expected = starting_ranks(head_dim / width)
    assert effective_rank(sizes) / head_dim == pytest.approx(expected.effective, rel=0.01)
    assert stable_rank(sizes) / head_dim == pytest.approx(expected.stable, rel=0.15)
    assert abs(effective_rank(sizes) / head_dim / starting_ranks(head_dim / width / 4).effective - 1) > 0.01


def test_starting_ranks_of_the_kept_table():
    for row in reference("implicit_init_effective_rank"):
        head_dim = int(row["d_head"])
        expected = starting_ranks(head_dim / int(row["d_model"]))
        assert float(row["effective_rank_of_WQ_WK_transpose_at_init"]) == pytest.approx(head_dim * expected.effective, rel=0.02)
        assert float(row["stable_rank"]) == pytest.approx(head_dim * expected.stable, rel=0.17)


def test_a_head_wider_than_the_stream_is_refused():
    for ratio in (0, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"a ratio in \(0, 1\]"):
            starting_ranks(ratio)
