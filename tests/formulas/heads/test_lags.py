"""Heads that read earlier positions: exact errors, floors and published optima."""

import numpy as np
import pytest
from helpers import agrees, check, table

from depthwidth.errors import InputError
from depthwidth.formulas import heads as h

LAGS = table("""
    1  | .7500 0 0 0 0 0 0
    2  | .8519 .6538 0 0 0 0 0
    4  | .9181 .8239 .7237 .5862 0 0 0
    8  | .9567 .9090 .8645 .8206 .7742 .7214 .5458
    16 | .9777 .9534 .9315 .9111 .8916 .8724 .8287
""")


@pytest.mark.parametrize(("lag", "errors"), LAGS)
def test_linear_bias_heads(lag, errors):
    for heads, value in zip((1, 2, 3, 4, 5, 6, 8), errors.split(), strict=True):
        assert h.best_lag_error(heads, int(lag)) == pytest.approx(float(value), abs=6e-5)
    assert h.one_head_lag_error(h.best_lag_decay(int(lag)), int(lag)) == pytest.approx(h.best_lag_error(1, int(lag)), abs=1e-12)


def test_lag_errors_against_least_squares(rng):
    assert h.lag_error([0.3, 0.6, 0.8], 4) == pytest.approx(0.8309823910, abs=1e-10)
    assert h.lag_error([0.5], 3) == 0.98828125 == h.one_head_lag_error(0.5, 3)
    assert h.lag_error([0.5, 0.5], 2) == 0.66015625
    for lag in (1, 3, 6):
        decays = rng.uniform(0.1, 0.9, 4)
        kernels = (1 - decays) * decays ** np.arange(600)[:, None]
        target = np.zeros(600)
        target[lag] = 1
        left = np.linalg.lstsq(kernels, target, rcond=1e-15)[1]
        assert h.lag_error(decays.tolist(), lag) == pytest.approx(float(left[0]) if left.size else 0.0, abs=1e-8)


def test_equal_decays_are_best_among_drawn_ones(rng):
    for heads, lag in ((2, 4), (3, 8)):
        drawn = [h.lag_error(rng.uniform(0, 0.999, heads).tolist(), lag) for _ in range(2000)]
        assert min(drawn) >= h.best_lag_error(heads, lag) - 1e-9


# Numerical optimum of the exact population loss, 16 dimensions, lags 1 to 4, 32 dimensions of values.
SHARED = {1: 0.7087, 2: 0.4504, 4: 0.0285, 8: 0.0057, 16: 0.0020, 32: 0.0009}


def test_dedicated_heads_bound_shared_ones():
    check(h.dedicated_lag_loss(8, 16, 1), ".0359")
    assert not agrees(h.dedicated_lag_loss(8, 16, 1.01), ".0359")
    bound = h.dedicated_lag_loss(8, 16, 1)
    for heads, loss in SHARED.items():
        floor = h.fewer_heads_than_lags_loss(heads, 4)
        # Maps drawn in 16 dimensions are correlated by chance, which leaves up to 0.05 less than uncorrelated ones.
        assert floor - 0.05 < loss
        assert (loss < bound) == (heads >= 4)
    assert h.dedicated_lag_loss(16, 16, 1, 0.25) == 0.25
    assert h.dedicated_lag_loss(8, 16, 1, h.best_lag_error(2, 2)) == pytest.approx(bound + (1 - bound) * h.best_lag_error(2, 2))
    with pytest.raises(InputError, match="the rank is at most the map's size"):
        h.dedicated_lag_loss(17, 16, 1)


def test_the_dedicated_bound_is_the_loss_of_dedicated_heads(rng):
    """Sums of truncated maps after patterns that miss by epsilon^2: uncorrelated maps, each with its own pattern."""
    size, rank, lags = 8, 3, 2
    maps = [
        u * (1 / np.arange(1, size + 1)) @ v
        for u, v in (np.linalg.qr(rng.standard_normal((2, size, size)))[0] for _ in range(lags))
    ]
    losses = []
    for a in maps:
        u, s, v = np.linalg.svd(a)
        cut = u[:, :rank] * s[:rank] @ v[:rank]
        z, lag = 0.6, 2
        kernel = (1 - z) * z ** np.arange(400)
        gain = kernel[lag] / (kernel @ kernel)
        wanted = np.zeros(400)
        wanted[lag] = 1
        error = np.einsum("s,ij->sij", gain * kernel, cut) - np.einsum("s,ij->sij", wanted, a)
        losses.append((error**2).sum() / (a**2).sum())
        assert losses[-1] == pytest.approx(h.dedicated_lag_loss(rank, size, 1, h.one_head_lag_error(z, lag)), rel=1e-9)


def test_no_heads_pass_the_floor(rng):
    """Best patterns of any sign, by a singular value decomposition over lags; equal uncorrelated maps are the formula's."""
    maps = rng.standard_normal((4, 5, 5))
    gram = np.einsum("mij,nij->mn", maps, maps)
    s2 = np.linalg.svd(maps.reshape(4, 25), compute_uv=False) ** 2
    for heads in (1, 2, 3, 4, 9):
        assert h.lag_floor(gram.tolist(), heads) == pytest.approx(s2[heads:].sum() / s2.sum(), abs=1e-12)
        assert h.lag_floor(np.eye(4).tolist(), heads) == pytest.approx(h.fewer_heads_than_lags_loss(heads, 4), abs=1e-12)
        assert h.lag_floor(gram.tolist(), heads) <= h.fewer_heads_than_lags_loss(heads, 4) + 1e-12
    for gram, heads in (([[1.0, 0.5]], 1), ([[1.0, 2.0], [0.0, 1.0]], 1), ([[0.0]], 1), ([[1.0]], 0), ([[1.0]], 1.5)):
        with pytest.raises(InputError):
            h.lag_floor(gram, heads)


def test_freedoms_of_shared_heads():
    assert h.shared_lag_heads(4, 16) == pytest.approx(1024 / 34)
    # At one dimension a head, 32 heads have the freedoms that 4 maps take, and 16 have not.
    assert 16 < h.shared_lag_heads(4, 16) < 32
