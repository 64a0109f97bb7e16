"""Batches of sequences of unequal length: averages over their real tokens, by hand and at their limits."""

import math

import numpy as np
import pytest
from helpers import one_quick_in

from depthwidth.analysis import padding
from depthwidth.analysis.concentration import attention_profile
from depthwidth.analysis.propagation import moments_of, propagate
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.initialization import recipe

NUMBERS = ["mean", "second_moment", "variance", "covariance", "correlation", "spread", "log_variance"]


def small(**choices):
    return Transformer(**{"depth": 2, "width": 32, "heads": 2, "vocab": 50, "context": 32, "activation": "relu"} | choices)


def rows_of(tree, **given):
    return {(row["site"], row["direction"]): row for row in moments_of(tree, "xavier", **given)}


@one_quick_in(
    3,
    "choices",
    [{"kind": "encoder", "placement": "post"}, {"gradient": "loss"}, {"kind": "encoder-decoder"}],
    ids=str,
)
def test_sequences_of_one_length_are_that_length(choices):
    gradient = choices.pop("gradient", (1.0, 0.2))
    tree = small(**choices)
    batch = propagate(tree, "xavier", lengths=[12, 12, 12], gradient=gradient)
    alone = propagate(tree, "xavier", context=12, gradient=gradient)
    assert batch[["site", "layer", "direction"]].equals(alone[["site", "layer", "direction"]])
    # A mean's square is taken off and put on again: roundings.
    assert np.allclose(batch[NUMBERS], alone[NUMBERS], rtol=1e-12, atol=1e-15, equal_nan=True)
    assert not np.allclose(batch[NUMBERS], propagate(tree, "xavier", context=13, gradient=gradient)[NUMBERS], equal_nan=True)


def test_every_real_token_counts_once():
    """Two sequences of 4 tokens and one of 16: shares of a third and two thirds, for tokens and for who stands beside them."""
    tree = small(depth=1, kind="encoder", placement="post")
    batch = rows_of(tree, lengths={4: 2, 16: 1})
    short, long = (rows_of(tree, context=length) for length in (4, 16))
    assert batch == rows_of(tree, lengths=np.array([16, 4, 4]))
    for key, row in batch.items():
        one, other = short[key], long[key]
        mean, size = (one[name] / 3 + 2 * other[name] / 3 for name in ("mean", "second_moment"))
        pair = (one["covariance"] + one["mean"] ** 2) / 3 + 2 * (other["covariance"] + other["mean"] ** 2) / 3
        assert row["mean"] == pytest.approx(mean)
        assert row["second_moment"] == pytest.approx(size)
        assert row["variance"] == pytest.approx(size - mean**2)
        assert row["covariance"] == pytest.approx(pair - mean**2, abs=1e-12)
        assert row["correlation"] == pytest.approx((pair - mean**2) / (size - mean**2), abs=1e-12)
        if row["log_variance"] is None:
            assert one["log_variance"] is other["log_variance"] is None
        else:
            root = one["second_moment"] * math.sqrt(one["log_variance"]) / 3
            root += 2 * other["second_moment"] * math.sqrt(other["log_variance"]) / 3
            assert row["log_variance"] == pytest.approx((root / size) ** 2)
        if one["spread"] is None:
            assert row["spread"] is None
        else:
            share = (one["second_moment"] * one["spread"] + 2 * other["second_moment"] * other["spread"]) / 3
            assert row["spread"] == pytest.approx(share / size)
    mix = "encoder.block.0.attention.mix", "forward"
    assert short[mix]["second_moment"] > 1.1 * long[mix]["second_moment"]  # so that other weights would be seen


@pytest.mark.slow
def test_tokens_of_a_source_count_by_its_lengths():
    tree = small(depth=1, kind="encoder-decoder")
    batch = rows_of(tree, lengths={(4, 16): 2, (8, 2): 1})
    one, other = rows_of(tree, context=4, source=16), rows_of(tree, context=8, source=2)
    block = "decoder.block.0"
    for site, share in {
        "encoder.block.0": 32 / 34, f"{block}.cross_attention.key": 32 / 34, f"{block}.cross_attention.query": 0.5,
        f"{block}.attention.key": 0.5, f"{block}.cross_attention.mix": 0.5, "stem": 0.5,
    }.items():  # fmt: skip
        for key in [(site, direction) for direction in ("forward", "gradient") if (site, direction) in batch]:
            expected = share * one[key]["second_moment"] + (1 - share) * other[key]["second_moment"]
            assert batch[key]["second_moment"] == pytest.approx(expected), key
    assert batch == rows_of(tree, lengths=[(4, 16), [8, 2], (4, 16)])


@pytest.mark.parametrize(
    ("given", "tokens", "source"),
    [
        ({"lengths": [5, 9, 9]}, [5, 9], [5, 9]),
        ({"lengths": [5, 9, 9], "source": 7}, [5, 9], [7, 7]),
        ({"lengths": {(5, 7): 1, (9, 7): 2}}, [5, 9], [7, 7]),
    ],
    ids=str,
)
def test_a_source_is_as_long_as_its_target_or_as_it_is_said_to_be(given, tokens, source):
    batch = padding.Batch.of(small(kind="encoder-decoder"), **given)
    assert (batch.tokens.tolist(), batch.source.tolist(), batch.counts.tolist()) == (tokens, source, [1.0, 2.0])


@one_quick_in(2, "kind", ["encoder", "decoder"], first=1)
def test_a_token_alone_attends_to_itself(kind):
    tree = small(kind=kind, bias=False)
    alone = rows_of(tree, lengths=[1])
    name = f"{kind}.block.1.attention"
    assert alone[f"{name}.mix", "forward"]["second_moment"] == alone[f"{name}.value", "forward"]["second_moment"]
    assert {row["correlation"] for row in alone.values()} == {0.0}
    # Beside a long sequence it changes what is said of tokens by its share, and nothing of what is said of pairs.
    both, long = rows_of(tree, lengths=[1, 15]), rows_of(tree, context=15)
    for key, row in both.items():
        expected = alone[key]["second_moment"] / 16 + 15 * long[key]["second_moment"] / 16
        assert row["second_moment"] == pytest.approx(expected)
        assert row["correlation"] == pytest.approx(long[key]["correlation"], abs=1e-9)


@pytest.mark.slow
def test_of_many_lengths_some_are_walked(monkeypatch):
    """Interpolated values agree with a length's own numbers to 1e-4."""
    tree = small(depth=1, kind="encoder", context=64)
    lengths = [9, 10, 11, 12, 14, 15, 16, 17, 20, 22, 25, 30, 33, 36]
    walked = []
    walk = padding._Evaluated.of
    monkeypatch.setattr(padding._Evaluated, "of", lambda found: walked.append(len(found)) or walk(found))
    some = propagate(tree, "xavier", lengths=lengths)
    monkeypatch.setattr(padding, "FEW_LENGTHS", len(lengths))
    every = propagate(tree, "xavier", lengths=lengths)
    assert walked == [5, 14]
    assert (some.second_moment / every.second_moment - 1).abs().max() < 1e-4
    assert (some.correlation - every.correlation).abs().max() < 1e-4
    assert (some.spread / every.spread - 1).abs().max() < 1e-4
    ends = propagate(tree, "xavier", lengths=[9, 36])  # which a straight line would go by
    assert (some.second_moment / ends.second_moment - 1).abs().max() > 1e-2


def test_one_token_and_what_a_window_hides_are_walked_for_themselves():
    tree = small(window=12, context=64)
    parts = padding.Batch.of(tree, range(1, 41))._parts(tree)
    assert [(inside[0], inside[-1]) for inside, _ in parts] == [(1, 1), (2, 12), (12, 40)]
    assert [nodes.tolist() for _, nodes in parts] == [[1], [2, 3, 4, 5, 6, 7, 8, 12], [12, 18, 27, 40]]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"lengths": []}, "lengths is empty"),
        ({"lengths": [4, 0]}, "lengths holds 0, not a whole number from 1"),
        ({"lengths": [4.5]}, "lengths holds 4.5, not a whole number"),
        ({"lengths": [True]}, "lengths holds True, not a whole number"),
        ({"lengths": [33]}, "lengths holds 33, beyond the 32 tokens"),
        ({"lengths": "12"}, "lengths='12' is not a list of lengths"),
        ({"lengths": 12}, "lengths=12 is not a list of lengths"),
        ({"lengths": {4: 0}}, "lengths counts 0 sequences of 4, not a positive number"),
        ({"lengths": {4: math.nan}}, "lengths counts nan sequences"),
        ({"lengths": [(4, 5)]}, r"lengths holds the pair \(4, 5\), and this model has one stack"),
        ({"lengths": [4], "context": 4}, "lengths cannot be combined with context=4"),
        ({"lengths": [4], "source": 4}, "a source length has no meaning"),
        ({"lengths": [4], "gram": np.eye(4)}, "lengths cannot be combined with gram"),
        ({"lengths": [4], "token_match": np.eye(4)}, "lengths cannot be combined with token_match as an array"),
    ],
    ids=str,
)
def test_nonsense_gets_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        propagate(small(), **given)
    assert "\n" not in str(error.value)


def test_what_a_batch_is_not_said_of():
    two = small(kind="encoder-decoder")
    pairs = [(target, source) for target in range(1, 10) for source in range(2, 10)]
    for tree, given, sentence in (
        (two, {"lengths": [(4, 5, 6)]}, r"lengths holds \(4, 5, 6\), which is not a length or a pair"),
        (two, {"lengths": [(4, 1)]}, "lengths holds 1, not a whole number from 2"),
        (two, {"lengths": [(4, 5)], "source": 5}, "lengths holds pairs, so source cannot be given as well"),
        (two, {"lengths": pairs}, "lengths has 72 different pairs, more than 64"),
        (small(kind="encoder", patch=8, image=32), {"lengths": [4]}, "lengths have no meaning for images"),
    ):
        with pytest.raises(InputError, match=sentence):
            propagate(tree, recipe(tree, "xavier"), **given)
    with pytest.raises(InputError, match="attention is computed for one length"):
        attention_profile(small(), "xavier", lengths=[4])
