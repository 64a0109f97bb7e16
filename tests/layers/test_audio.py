"""The stem of a model of sound: its moments by simulation, its counts by hand."""

import numpy as np
import pytest
from passes import Given, start

from depthwidth import Transformer
from depthwidth.errors import InputError
from depthwidth.layers import AudioStem, LayerNorm, Run
from depthwidth.signal import Signal

STEM = AudioStem(mel_bins=12, context=6, width=48)


def gelu(x):
    from scipy.special import ndtr

    return x * ndtr(x)


def convolved(x, weight, stride):
    """Steps (inputs, T) to (outputs, T / stride), padded with zeros."""
    padded = np.pad(x, ((0, 0), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)[:, ::stride]
    return np.einsum("oik,itk->ot", weight, windows)


@pytest.mark.slow
def test_the_stream_of_a_sound_by_simulation(rng):
    """Second moment and covariance of the stream, and the covariance after a LayerNorm, which takes off two means.

    Positions whose windows reach beyond the ends are left out.
    """
    mel, length, width, draws = STEM.mel_bins, STEM.context, STEM.width, 1500
    waves = np.arange(length)[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2 - 1))
    waves = np.concatenate([np.sin(waves), np.cos(waves)], axis=1)
    inner, sums = slice(1, length - 1), []
    pairs = ~np.eye(length - 2, dtype=bool)
    for _ in range(draws):
        first = rng.standard_normal((width, mel, 3)) * 1.5 / np.sqrt(3 * mel)
        second = rng.standard_normal((width, width, 3)) * 1.5 / np.sqrt(3 * width)
        x = gelu(convolved(gelu(convolved(rng.standard_normal((mel, 2 * length)), first, 1)), second, 2)).T + waves
        about = x - x.mean(-1, keepdims=True)
        normed = about / np.sqrt((about**2).mean(-1, keepdims=True))
        gram, normed_gram = (one[inner] @ one[inner].T / width for one in (x, normed))
        sums.append((gram.trace() / (length - 2), gram[pairs].mean(), normed_gram[pairs].mean()))
    found, errors = np.mean(sums, 0), np.std(sums, 0) / np.sqrt(draws)
    given = Given(first_weight=2.25 / (3 * mel), second_weight=2.25 / (3 * width))
    site = start(given, length=length, finite_width=False)
    stream, _ = STEM.embed(site, Signal(1.0, 0.0), 0.0)
    whole = stream.whole()
    normed, _ = LayerNorm(width, eps=0.0).moments(stream, site.at("norm"))
    assert whole.second_moment == pytest.approx(found[0], abs=4 * errors[0])

    def left_out(vectors):
        """The change of the mean product of two positions' vectors if the ends are left out."""
        every = (vectors @ vectors.T / width)[~np.eye(length, dtype=bool)].mean()
        return (vectors[inner] @ vectors[inner].T / width)[pairs].mean() - every

    assert whole.covariance + left_out(waves) == pytest.approx(found[1], abs=4 * errors[1])
    about = waves - waves.mean(-1, keepdims=True)
    assert normed.covariance + left_out(about) / stream.second_moment == pytest.approx(found[2], abs=4 * errors[2] + 0.01)
    # Without the means of the activation, it would be far off.
    plain, _ = LayerNorm(width, eps=0.0).moments(whole.offset_as(None), site.at("norm"))
    assert abs(plain.covariance - found[2]) > 0.1


def test_counts_of_a_stem_of_sound():
    assert STEM.parameters == (12 * 48 * 3 + 48) + (48 * 48 * 3 + 48) + 6 * 48
    assert STEM.flops(Run(6, batch=2)) == 2 * 2 * (12 * 3 * 12 * 48 + 6 * 3 * 48 * 48)


def test_an_encoder_of_sound_has_a_length_of_its_own():
    sound = {"mel_bins": 12, "context": 6, "positions": "none"}
    tree = Transformer(2, 48, 4, vocab=50, context=9, kind="encoder-decoder", source="own", encoder=sound)
    assert tree.source == STEM
    assert (tree.run().tokens, tree.run().memory) == (9, 6)
    assert tree.cache_values(tree.run()) == 2 * 2 * 48 * (9 + 6)
    with pytest.raises(InputError, match="the encoder of this model reads 6 positions, not 7"):
        tree.run(source=7)
