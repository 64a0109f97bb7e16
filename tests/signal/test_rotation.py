"""Rotary positions between two rows: mean cosines by their definition, and attention against drawn scores."""

import math

import numpy as np
import pytest

from depthwidth import Transformer, propagate
from depthwidth.layers.rotary import Rotary
from depthwidth.signal import rotation as module
from depthwidth.signal.attention import TokenAttention
from depthwidth.signal.positions import Positions
from depthwidth.signal.rotation import around, between_rows


@pytest.mark.parametrize(
    ("row", "later", "keys", "of_later"),
    [(5, 9, 6, 10), (5, 5, 6, 6), (12, 17, 8, 8), (3, 14, 4, 8), (3, 8, 4, 8), (10, 25, 4, 4), (0, 4, 1, 5)],
)
def test_mean_cosines_are_those_of_the_centring_over_both_windows(rng, row, later, keys, of_later):
    cosines = np.append(1.0, rng.random(60))
    one, other = np.arange(row - keys + 1, row + 1), np.arange(later - of_later + 1, later + 1)
    apart = np.subtract.outer(one, other)
    equal = (apart == 0).astype(float)
    centred = equal - equal.mean(0) - equal.mean(1)[:, None] + equal.mean()
    weight = (centred * equal).sum()

    def mean(shift):
        fall = (centred * cosines[np.abs(apart - shift)]).sum() / weight if weight > 1e-9 else 0.0
        return cosines[abs(shift)] - fall

    found = between_rows(cosines, *(np.array([n]) for n in (keys, of_later, later - row)))
    assert np.concatenate(found) == pytest.approx([cosines[later - row], mean(row - later), mean(0)], abs=1e-12)


def test_cosines_around_nodes_are_means_over_their_cells(rng):
    cosines, nodes = np.append(1.0, rng.random(30)), np.array([1, 2, 4, 9, 16])
    cells = [[1], [2], [3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [13, 14, 15, 16]]
    for (a, one), (b, other) in ((first, second) for first in enumerate(cells) for second in enumerate(cells)):
        every = [cosines[abs(s - t)] for s in one for t in other if s != t] or [cosines[1]]
        assert around(cosines, nodes, 16)[a, b] == pytest.approx(np.mean(every), abs=1e-12), (a, b)


def drawn_queries(rng, length, dims, r, ss, draws):
    """The gradient through the queries of a causal layer of infinite width and heads: second moment, and covariance.

    The output's gradient has second moment 1 for the former, and covariance 1 for the latter.
    """
    tokens = (1 - r) * np.eye(length) + r
    root = np.linalg.cholesky(tokens)
    angles = 10_000.0 ** (-np.arange(0, dims, 2) / dims)
    apart = np.subtract.outer(np.arange(length), np.arange(length))
    cosines = np.cos(np.arange(2 * length)[:, None] * angles).mean(1)
    turned = np.array([[tokens * cosines[np.abs(apart - (i - j))] for j in range(length)] for i in range(length)])
    scores = np.zeros((draws, length, length))
    for angle in angles:  # a rotation by the distance of row and key
        even, odd = root @ rng.standard_normal((2, draws, length, length)) @ root.T
        scores += np.cos(angle * apart) * even + np.sin(angle * apart) * odd
    scores = np.where(apart >= 0, scores * math.sqrt(ss / angles.size), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    jacobian = -p[..., :, None] * p[..., None, :]
    every = np.arange(length)
    jacobian[..., every, every] += p
    through = jacobian @ tokens
    both = np.stack([
        np.einsum("iam,jcm,ijac->ij", one, other, turned, optimize=True)
        for one, other in zip(through, jacobian, strict=True)
    ])  # fmt: skip
    own = ss * np.trace(both, axis1=1, axis2=2)
    return np.stack([own / length, ss * both.sum((1, 2)) - own]) / [[1.0], [length * (length - 1)]]


@pytest.mark.slow
def test_the_path_through_queries_against_drawn_scores(rng, monkeypatch):
    length, dims, r, ss, draws = 16, 16, 0.6, 2.0, 1500
    found = np.concatenate([drawn_queries(rng, length, dims, r, ss, 100) for _ in range(draws // 100)], axis=1)
    measured, errors = found.mean(1), found.std(1) / math.sqrt(draws)
    positions = Positions.every(length)

    def predicted():
        attend = TokenAttention(positions, causal=True, rotation=Rotary().rotation(dims, length))
        out = attend(*positions.uniform(1.0, r), ss)
        own, shared = (out.pull(*positions.uniform(*g))[0] for g in ((1.0, 0.0), (0.0, 1.0)))
        return np.array([positions.mean(own[0]), positions.pair_mean(shared[1])])

    assert (abs(predicted() / measured - 1) < 3 * errors / measured + 0.005).all()

    def over_all_keys(cosines, earlier, later, distance, same=None):
        """As if two rows met on every pair of their keys, and not on the keys that both see."""
        same = cosines[distance]
        short, long, common = np.minimum(earlier, later), np.maximum(earlier, later), np.minimum(earlier, later - distance)
        rest = np.maximum(short * long - common, 1)
        different = (module.over_windows(cosines, short, long) - common * same) / rest
        return same, different, different

    with monkeypatch.context() as patch:
        patch.setattr(module, "between_rows", over_all_keys)
        assert predicted()[1] < measured[1] - 6 * errors[1]


@pytest.mark.slow
def test_exchangeable_tokens_without_a_mask_are_rotated_as_position_by_position():
    tree, r = Transformer(1, 64, 4, vocab=100, context=16, kind="encoder", positions="rotary"), 0.6
    gram = (1 - r) * np.eye(16) + r
    sites = [("encoder.input", "gradient"), ("encoder.block.0", "forward")]

    def of(tree, **given):
        frame = propagate(tree, "xavier", **given).set_index(["site", "direction"]).loc[sites]
        return frame[["second_moment", "covariance"]].to_numpy(dtype=float)

    every = of(tree, gram=gram)
    assert of(tree, variance=1.0, correlation=r) == pytest.approx(every, rel=0.002)
    still = of(Transformer(1, 64, 4, vocab=100, context=16, kind="encoder", positions="none"), variance=1.0, correlation=r)
    assert still[0, 0] < 0.99 * every[0, 0]
