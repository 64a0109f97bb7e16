"""Positions: rotations, buckets, waves."""

import math

import pytest

from depthwidth import layers

torch = pytest.importorskip("torch")

from verify.models.base import module  # noqa: E402
from verify.models.positions import RelativeBias  # noqa: E402


def test_rotary_scores_depend_on_the_distance_only():
    for position in (layers.Rotary(base=50.0), layers.Rotary(fraction=0.5, interleaved=True), layers.Rotary(fraction=0.25)):
        rotary = module(position)
        generator = torch.Generator().manual_seed(0)
        q, k = torch.randn(2, 8, generator=generator)
        cos, sin = rotary.angles(20, 8, q.device)
        turned = [rotary.rotate(x.expand(20, 8), cos, sin) for x in (q, k)]
        scores = turned[0] @ turned[1].T
        for shift in (1, 5):
            torch.testing.assert_close(scores[shift:, shift:], scores[:-shift, :-shift])
        assert scores.diagonal(1).std() < 1e-5 < (scores[0].std())
        torch.testing.assert_close(turned[0].norm(dim=1), q.norm().expand(20))


def test_buckets_of_t5():
    """Exact below half of the buckets, then logarithmic to the largest distance; each direction has a half."""
    one = RelativeBias(layers.RelativeBias(heads=1, buckets=32, max_distance=128))
    distances = [0, 1, 15, 16, 17, 20, 31, 64, 127, 128, 1000]
    # 16 + floor(16 ln(d / 16) / ln 8), at most 31
    expected = [d if d < 16 else min(31, 16 + int(16 * math.log(d / 16) / math.log(8) + 1e-9)) for d in distances]
    assert one.bucket(-torch.tensor(distances)).tolist() == expected
    assert one.bucket(torch.tensor([1, 100])).tolist() == [0, 0]
    one.causal = False
    both = [d if d < 8 else min(15, 8 + int(8 * math.log(d / 8) / math.log(16) + 1e-9)) for d in distances]
    assert one.bucket(-torch.tensor(distances)).tolist() == both
    assert one.bucket(torch.tensor(distances[1:])).tolist() == [16 + b for b in both[1:]]


def test_sinusoidal_positions():
    table = module(layers.SinusoidalPositions()).at(5, 7, torch.device("cpu"))
    for place in range(5):
        for i in range(7):
            angle = place / 10000 ** (2 * (i // 2) / 8)
            assert abs(table[place, i].item() - (math.cos(angle) if i % 2 else math.sin(angle))) < 1e-6
