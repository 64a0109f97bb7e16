"""Sliding windows in longer contexts, with pairs by distance: against every position followed, and against full rows."""

import numpy as np
import pytest
from helpers import one_quick_in

from depthwidth import Transformer, propagate
from depthwidth.errors import InputError
from depthwidth.signal.attention import TokenAttention
from depthwidth.signal.positions import Positions
from depthwidth.signal.window_attention import WindowAttention
from depthwidth.signal.window_pairs import WindowPairs

SHAPES = {
    "triangle": lambda later, earlier: np.maximum(0.0, 1 - (later - earlier) / 8),
    "bell": lambda later, earlier: np.exp(-(((later - earlier) / 16) ** 2)),
    "later": lambda later, earlier: 1.0 / later + 0.0 * earlier,
    "slow": lambda later, earlier: 1 / (1 + np.abs(later - earlier) / 8),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_mean_over_pairs_is_that_over_every_position(name):
    shape, later = SHAPES[name], np.arange(1, 301)
    expected = np.tril(shape(later[:, None], later), -1).sum() / (300 * 299 / 2)
    positions = WindowPairs.of(300, (8,))
    got = positions.pair_mean(shape(positions.nodes[positions.late], positions.early))
    assert got == pytest.approx(expected, rel=0.025)
    # Negative control: every stored pair has the same share.
    assert abs(shape(positions.nodes[positions.late], positions.early).mean() / expected - 1) > 0.1


def test_a_function_of_the_distance_is_averaged_around_each_pair():
    positions = WindowPairs.of(300, (64,))
    assert positions.mean_around(lambda distance: 1.0 + 0.0 * distance) == pytest.approx(np.ones(positions.late.size))
    far = positions.distances > 100
    around = positions.mean_around(lambda distance: np.sin(distance))[far]
    assert np.abs(around).mean() < 0.3 < np.abs(np.sin(positions.distances[far])).mean()


@pytest.mark.parametrize(
    ("length", "windows", "message"),
    [(64, (64,), "none is from 1 to 63"), (64, (), "none is"), (64, (0,), "none is"), (1, (1,), "none is from 1 to 0")],
)
def test_windows_that_are_none_are_refused(length, windows, message):
    with pytest.raises(InputError, match=message):
        WindowPairs.of(length, windows)


def layer(kind, positions, window, match=None, gain=1.5, **options):
    """Averages of the output and of both gradients of one layer."""
    attend = kind(positions, causal=True, window=window, head_dim=64, width=256)
    (q, c), (g, pair) = positions.uniform(1.0, 0.3), positions.uniform(1.0, 0.1)
    if match is not None:
        c[0], c[1], pair[1] = 0.2, 0.7, 0.4
    out = attend(q, c, gain, **options)
    moments = [(out.second_moment, out.covariance), *out.pull(g, pair)]
    return np.array([mean for one, two in moments for mean in (positions.mean(one), positions.pair_mean(two))])


@one_quick_in(4, ("window", "options"), [
    (8, {}), (24, {}), (None, {}), (8, {"normed": True}), (8, {"bias": (1.0, 0.5, 48)}), (None, {"bias": (1.0, 0.5, 48)}),
])  # fmt: skip
def test_a_layer_agrees_with_every_position_followed(window, options):
    every = layer(TokenAttention, Positions.every(96), window, **options)
    got = layer(WindowAttention, WindowPairs.of(96, (8, 24)), window, **options)
    assert got == pytest.approx(every, rel=0.015)
    assert got[[0, 1, 2, 4]] == pytest.approx(every[[0, 1, 2, 4]], rel=3e-3)
    # Negative control: a few nodes without distances are further off, unless rows are full.
    smooth = layer(TokenAttention, Positions.smooth(96), window, **options)
    assert window is None or np.abs(smooth / every - 1).max() > 0.05


def test_equal_tokens_apart_agree_with_nodes_without_distances_in_full_rows():
    smooth = layer(TokenAttention, Positions.smooth(128, 0.1), None, match=0.1)
    got = layer(WindowAttention, WindowPairs.of(128, (8,), 0.1), None, match=0.1)
    assert got == pytest.approx(smooth, rel=4e-3)
    # Negative control: a window that is full for most rows.
    assert np.abs(layer(WindowAttention, WindowPairs.of(128, (8,), 0.1), 100, match=0.1) / smooth - 1).max() > 0.01


def test_equal_tokens_like_different_ones_are_no_kind_of_their_own():
    plain = layer(WindowAttention, WindowPairs.of(128, (8,)), 8)
    positions = WindowPairs.of(128, (8,), 1e-6)
    attend = WindowAttention(positions, window=8, head_dim=64, width=256)
    (q, c), g = positions.uniform(1.0, 0.3), positions.uniform(1.0, 0.1)
    out = attend(q, c, 1.5)
    moments = [(out.second_moment, out.covariance), *out.pull(*g)]
    assert plain == pytest.approx([m for a, b in moments for m in (positions.mean(a), positions.pair_mean(b))], rel=1e-4)


def test_several_gradients_come_back_side_by_side():
    for match in (None, 0.1):
        positions = WindowPairs.of(64, (8,), match)
        out = WindowAttention(positions, window=8, head_dim=64, width=256, dropout=0.1)(*positions.uniform(1.0, 0.3))
        gradients = [positions.uniform(1.0, 0.1), positions.uniform(0.5, 0.4)]
        both = out.pull(*(np.stack(part) for part in zip(*gradients, strict=True)))
        for k, gradient in enumerate(gradients):
            for one, several in zip(out.pull(*gradient), both, strict=True):
                assert several[0][k] == pytest.approx(one[0], rel=1e-12)
                assert several[1][k] == pytest.approx(one[1], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"causal": False}, "causal self-attention"),
        ({"dropout": 1.0}, "dropout=1.0 is outside"),
    ],
)
def test_other_attention_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        WindowAttention(WindowPairs.of(64, (8,)), **arguments)


def test_moments_of_other_positions_are_refused():
    positions = WindowPairs.of(64, (8,))
    attend, (q, c) = WindowAttention(positions, window=8), positions.uniform(1.0, 0.3)
    for moments, message in [
        ((q[1:], c), "not those of"),
        ((q, c[1:]), "not those of"),
        ((-q, c), "negative or not a number"),
        ((q, c * np.nan), "negative or not a number"),
    ]:
        with pytest.raises(InputError, match=message):
            attend(*moments)
    with pytest.raises(InputError, match="score_gain"):
        attend(q, c, -1.0)
    with pytest.raises(InputError, match="a memory has no windows"):
        attend(q, c, memory=(q, c))


# ---- whole stacks ----


def averages(found):
    """Moments of the stream and of its gradient at the block outputs and the input, without covariances that are 0."""
    sites = found.site.str.fullmatch(r"decoder\.(input|block\.\d+)")
    rows = found[sites].sort_values(["direction", "site"], kind="stable")
    return rows.second_moment.to_numpy(), rows.covariance.to_numpy()


def largest(got, expected):
    """Largest relative deviation of second moments and of covariances."""
    return [float(np.abs(one[other != 0] / other[other != 0] - 1).max()) for one, other in zip(got, expected, strict=True)]


def stacks(window, monkeypatch, correlation=0.2, length=96, **choices):
    """Deviations of a stack from every position followed: with pairs by distance, and without."""
    tree = Transformer(4, 128, 2, vocab=97, context=length, window=window, activation="relu", **choices)
    gram = np.full((length, length), correlation) + (1 - correlation) * np.eye(length)
    every = averages(propagate(tree, "xavier", gram=gram))
    got = averages(propagate(tree, "xavier", variance=1.0, correlation=correlation))
    monkeypatch.setattr("depthwidth.analysis.propagation._SHORT", 10**9)
    smooth = averages(propagate(tree, "xavier", variance=1.0, correlation=correlation))
    return largest(got, every), largest(smooth, every)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "choices"),
    [
        (2, {}),
        (8, {}),
        (16, {}),
        ((4, None) * 2, {"length": 48}),
        ((12, 12, 12, None), {}),
        ((8, 30) * 2, {}),
        (8, {"placement": "post"}),
        (8, {"correlation": 0.01}),
    ],
)
def test_a_stack_agrees_with_every_position_followed(window, choices, monkeypatch):
    (second, covariance), (_, smooth) = stacks(window, monkeypatch, **choices)
    assert second < 3e-3
    assert covariance < 0.03 < 0.1 < smooth  # negative control: nodes without distances


@pytest.mark.slow
def test_the_context_matters_little_for_short_windows():
    """Interpolation over many thousand positions is stable."""
    found = []
    for length in (1024, 65536):
        tree = Transformer(2, 128, 2, vocab=32000, context=length, window=16, activation="relu")
        found.append(averages(propagate(tree, "xavier", variance=1.0, correlation=0.2)))
    (short, short_pairs), (long, long_pairs) = found
    assert long == pytest.approx(short, rel=0.02)
    # Covariances of gradients are those of pairs within a few windows, whose share falls with the length.
    known, gradients = short_pairs != 0, (short_pairs < 0.01)[short_pairs != 0]
    ratio = long_pairs[known] / short_pairs[known] * np.where(gradients, 64, 1)
    assert ratio == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices", [{}, {"experts": 4, "top_k": 2}, {"positions": "rotary", "gated": True, "activation": "silu"}]
)
def test_equal_tokens_apart_agree_with_nodes_without_distances_in_long_windows(choices, monkeypatch):
    """In windows of most of the context neighbouring tokens see nearly the same."""
    tree = Transformer(2, 64, 2, vocab=97, context=96, **{"window": 72, "activation": "relu"} | choices)
    monkeypatch.setattr("depthwidth.analysis.propagation._SHORT", 1)
    got = averages(propagate(tree, "xavier"))
    monkeypatch.setattr("depthwidth.analysis.propagation._SHORT", 10**9)
    smooth = averages(propagate(tree, "xavier"))
    second, covariance = largest(got, smooth)
    assert second < 0.03  # few nodes sample rotations coarsely
    assert covariance < 0.03
