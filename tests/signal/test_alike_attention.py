"""Attention without a mask, equal tokens apart, in closed form: against the sums over windows of tokens that differ."""

import numpy as np
import pytest

from depthwidth.numerics.repeated_softmax import Repetition, repetition
from depthwidth.signal import alike_attention as module
from depthwidth.signal import attention as windows
from depthwidth.signal.alike_attention import Setting, alike_attention
from depthwidth.signal.attention import TokenAttention
from depthwidth.signal.positions import Alike, Positions
from depthwidth.signal.rotation import over_pairs

LENGTH, MATCH = 24, 0.1


@pytest.fixture
def exact(monkeypatch):
    """Repetitions without tables, and power series of windows that are not cut off."""

    def without_tables(pair, n, variance, share, head_dim=None):
        each = [repetition(pair, n, v * s, v * (1 - s), head_dim) for v, s in zip(variance, share, strict=True)]
        return Repetition(*np.array(each).T)

    monkeypatch.setattr(module, "repetitions", without_tables)
    monkeypatch.setattr(windows, "_TOLERANCE", 1e-15)
    monkeypatch.setattr(windows, "_NEGLIGIBLE", 0.0)


def of_windows(moments, gain, setting, head_dim, normed, g, rotation=None, equal_norms=None):
    """The output and the gradient at the input, by kind, of the general sums."""
    attention = TokenAttention(
        Positions.one(setting.length, setting.match), causal=False, head_dim=head_dim, width=setting.width,
        dropout=setting.dropout, rotation=rotation, equal_norms=equal_norms,
    )  # fmt: skip
    out = attention(moments[2:], moments[:2, None, None], gain, normed=normed)
    pulled = out.pull(g[2:], g[:2, None, None])
    back = [sum(parts) for parts in zip(*pulled, strict=True)]
    return np.append(out.covariance.ravel(), out.second_moment), np.append(back[1].ravel(), back[0])


@pytest.mark.parametrize("equal_norms", [None, True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("moments", "gain", "head_dim", "width", "dropout", "normed", "factor"),
    [
        ((0.2, 0.7, 1.0), 1.5, None, None, 0.1, False, 1.0),
        pytest.param((0.2, 0.7, 1.0), 1.5, 16, 64, 0.0, False, 1.0, marks=pytest.mark.slow),
        pytest.param((0.1, 1.1, 2.0), 0.5, 16, 64, 0.1, True, 0.6, marks=pytest.mark.slow),
        pytest.param((0.4, 0.3, 1.0), 1.0, 16, 64, 0.0, False, 1.0, marks=pytest.mark.slow),  # no more alike than others
        pytest.param((-0.2, 0.5, 1.0), 1.0, 16, 64, 0.0, False, 1.0, marks=pytest.mark.slow),
    ],
)
def test_three_kinds_of_pairs_give_the_sums_over_windows(
    exact, moments, gain, head_dim, width, dropout, normed, factor, equal_norms
):
    moments, g = np.array(moments), np.array([0.3, 0.5, 1.2])
    rotation = None if factor == 1 else lambda distance: np.where(np.asarray(distance) < 1, 1.0, factor ** (1 + distance / 9))
    setting = Setting(LENGTH, MATCH, width, dropout, (1.0, 1.0) if rotation is None else over_pairs(rotation, LENGTH))
    found = alike_attention(moments[:, None], np.array([gain]), np.array([head_dim or 0]), setting, normed, equal_norms)
    expected, back = of_windows(moments, gain, setting, head_dim, normed, g, rotation, equal_norms)
    assert found.covariance[:, 0] == pytest.approx(expected, rel=1e-9)
    assert found.pull(g[:, None])[:, 0] == pytest.approx(back, rel=1e-9)
    other, _ = of_windows(moments, gain, setting._replace(match=2 * MATCH), head_dim, normed, g, rotation, equal_norms)
    assert found.covariance[:, 0] != pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_blocks_side_by_side_equal_blocks_alone():
    """Blocks of different score variances, heads and signs of the correlation, each with its own tables."""
    moments = np.array([[0.2, 0.2, -0.15, 0.6], [0.7, 0.7, 0.5, 0.6], [1.0, 2.0, 1.0, 1.0]])
    gain, heads = np.array([1.5, 0.2, 0.9, 1.0]), np.array([16, 0, 16, 16])
    setting, equal = Setting(LENGTH, MATCH, 64, 0.1), np.array([True, False, True, True])
    together = alike_attention(moments, gain, heads, setting, equal_norms=equal)
    g = np.array([[0.3], [0.5], [1.2]]) * np.ones(4)
    for k in range(4):
        alone = alike_attention(moments[:, [k]], gain[[k]], heads[[k]], setting, equal_norms=bool(equal[k]))
        assert together.covariance[:, k] == pytest.approx(alone.covariance[:, 0], rel=1e-12)
        assert together.pull(g)[:, k] == pytest.approx(alone.pull(g[:, :1])[:, 0], rel=1e-12)
    assert alike_attention(moments, gain, heads, setting, equal_norms=True).covariance[2, 1] != together.covariance[2, 1]
    several = together.pull(np.stack([g, 2 * g]))  # gradients side by side
    assert several[1] == pytest.approx(2 * together.pull(g))


def test_alike_positions_average_kinds_over_blocks():
    positions = Alike.of(LENGTH, MATCH)
    q, c = positions.uniform(1.0, 0.3)
    assert (q.shape, c.shape) == ((1,), (2, 1))
    assert positions.mean(q) == 1.0
    assert positions.pair_mean(np.array([[0.0], [1.0]])) == MATCH
    assert positions.pair_mean(np.array([[0.0, 1.0], [1.0, 2.0]])).tolist() == [MATCH, 1 + MATCH]
    assert positions.alike
    assert not Positions.smooth(LENGTH, MATCH).of_kinds
