"""The share of the keys beside a sink, against draws."""

import numpy as np
import pytest

from depthwidth.numerics.sink import key_share


@pytest.mark.parametrize("keys", [1, 3, 64])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("variance", [0.3, 2.0, 8.0])
def test_beside_draws(rng, variance, correlation, keys):
    """Within five standard errors; twice the keys are seen."""
    count = 20_000
    common, own = rng.standard_normal((count, 1)), rng.standard_normal((count, keys))
    total = np.exp(np.sqrt(variance) * (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own)).sum(1)
    share = total / (total + 1)
    samples = np.stack([share, share**2, (share * (1 - share)) ** 2])
    error = samples.std(1) / count**0.5
    right, wrong = (np.array(key_share(variance, correlation, n)) for n in (keys, 2 * keys))
    assert (np.abs(right - samples.mean(1)) < 5 * error).all()
    assert (np.abs(wrong - samples.mean(1)) > 5 * error).any()


def test_limits():
    share = key_share(0.0, 0.0, np.array([1, 3, 1000]))
    assert share.mean == pytest.approx([0.5, 0.75, 1000 / 1001])
    assert share.second == pytest.approx(share.mean**2)
    assert share.slope == pytest.approx((share.mean * (1 - share.mean)) ** 2, abs=1e-9)
    assert share.deviation == pytest.approx([0, 0, 0], abs=1e-4)
    with_noise = key_share(0.0, 0.0, 3, 1.0)  # a sink's own logit moves the share
    assert with_noise.deviation > 0.1
