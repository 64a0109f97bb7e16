"""Matches of tokens counted by hand, by brute force and by simulation; and files that are not what they should be."""

import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import depthwidth.analysis.text
from depthwidth.analysis.propagation import moments_of, propagate
from depthwidth.analysis.text import Text, read_text, zipf_matches
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.initialization import embedding_correlation, recipe


def pairs(ids):
    """Share of ordered pairs of different positions with equal tokens, counted one by one."""
    n = len(ids)
    return sum(ids[i] == ids[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))


@pytest.mark.slow
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40))
def test_the_match_probability_counts_pairs(ids):
    text = Text(np.array(ids), "ids", "example")
    assert text.match_probability() == pytest.approx(pairs(ids), abs=1e-12)
    assert len(text) == len(ids)
    assert text.distinct == len(set(ids))


@pytest.mark.slow
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(2, 12))
def test_matches_within_windows_count_pairs_of_each(ids, length):
    text = Text(np.array(ids), "ids", "example")
    size = min(length, len(ids))
    each = [pairs(ids[i : i + size]) for i in range(0, len(ids) - size + 1, size)]
    found = text.within(length)
    assert found.windows == len(each)
    assert found.value == pytest.approx(np.mean(each), abs=1e-12)
    if len(each) > 1:
        assert found.stderr == pytest.approx(np.std(each, ddof=1) / math.sqrt(len(each)), abs=1e-12)


def test_the_estimate_is_unbiased(rng):
    """Short samples of a known distribution; squared frequencies would be higher by (1 - m)/n."""
    share = np.array([0.5, 0.3, 0.2])
    truth, length = float(share @ share), 8
    draws = rng.choice(3, size=(20_000, length), p=share)
    found = Text(draws.reshape(-1), "ids", "draws").within(length)
    assert abs(found.value - truth) < 5 * found.stderr
    squared = np.mean([((np.bincount(row) / length) ** 2).sum() for row in draws[:2000]])
    assert abs(squared - truth) > 0.5 * (1 - truth) / length


def test_matches_within_a_passage_are_more_frequent_than_across(rng):
    """Passages with a word of their own: the windows see it, the whole text does not."""
    topics = np.repeat(np.arange(200), 50) + 1000
    ids = np.where(rng.random(10_000) < 0.2, topics, rng.integers(1000, size=10_000))
    text = Text(ids, "ids", "example")
    assert text.within(50).value > 5 * text.match_probability()
    near, far = text.match_by_distance(400)[[1, 399]]
    assert near > 5 * far


def test_the_matrix_of_one_window_and_of_many():
    ids = np.array([7, 8, 7, 9, 9, 7, 8])
    text = Text(ids, "ids", "example")
    assert np.array_equal(text.match_matrix(5), ids[:5, None] == ids[None, :5])
    mean = text.match_matrix(3, windows=5)
    by_hand = np.mean([ids[i : i + 3, None] == ids[None, i : i + 3] for i in range(5)], axis=0)
    assert np.allclose(mean, by_hand, atol=1e-12)
    assert np.all(mean.diagonal() == 1)
    # Off the diagonal the mean over pairs is the match probability of the window.
    one = text.match_matrix(7)
    assert (one.sum() - 7) / 42 == pytest.approx(text.match_probability())


def test_matches_by_distance():
    text = Text(np.array([1, 2, 1, 2, 1, 3]), "ids", "example")
    assert text.match_by_distance(2).tolist() == [0.0, 0.75]


def test_words_bytes_and_numbers(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the cat\nand the café", encoding="utf-8")
    words = read_text(file)
    assert (words.kind, len(words), words.distinct) == ("words", 5, 4)
    assert words.match_probability() == pytest.approx(2 / 20)
    as_bytes = read_text(file, vocab=256)
    assert (as_bytes.kind, len(as_bytes)) == ("bytes", len(file.read_bytes()))
    assert read_text(file, vocab=50257).kind == "words"
    numbers = tmp_path / "ids.txt"
    numbers.write_text("5 50256 5\n7")
    assert read_text(numbers, "ids").match_probability() == pytest.approx(2 / 12)
    array = tmp_path / "ids.npy"
    np.save(array, np.array([5, 50256, 5, 7], dtype=np.uint16))
    assert read_text(array, "ids").match_probability() == pytest.approx(2 / 12)


def test_a_tokenizer_file(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))  # noqa: S106
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    file = tmp_path / "text.txt"
    file.write_text("a b\n" * 40_000 + "c d")  # longer than one piece
    text = read_text(file, str(tmp_path / "tokenizer.json"))
    assert text.kind == "tokenizer tokenizer.json"
    assert len(text) == 80_002
    assert sorted(text.counts().tolist()) == [2, 40_000, 40_000]
    file.write_text("{}")
    with pytest.raises(InputError, match="not a file of the tokenizers library"):
        read_text(file, str(file))


def test_of_a_long_file_a_prefix_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(depthwidth.analysis.text, "LARGEST_PREFIX", 10)
    file = tmp_path / "text.txt"
    file.write_text("one two three four")
    text = read_text(file)
    assert text.truncated
    assert len(text) == 2  # "one two th": the word that was cut is left out
    file.write_text("éé éééé", encoding="utf-8")  # the tenth byte is the first half of a letter
    with pytest.raises(InputError, match="holds 1 tokens"):
        read_text(file)
    assert not read_text_of(tmp_path, b"one two").truncated


def read_text_of(folder, data, **given):
    file = folder / "file"
    file.write_bytes(data)
    return read_text(file, **given)


@pytest.mark.parametrize(
    ("data", "given", "sentence"),
    [
        (b"", {}, "is empty"),
        (b" \n ", {}, "is empty"),
        (b"word", {}, "holds 1 tokens .words.; a match needs two"),
        (b"x", {"tokenizer": "bytes"}, "holds 1 tokens"),
        (b"\x00\x01 \x02", {}, "null bytes"),
        (b"\xff\xfe\xfd word", {}, "not UTF-8"),
        (b"1 2 x", {"tokenizer": "ids"}, "holds 'x', which is not a token number"),
        (b"1 -2", {"tokenizer": "ids"}, "holds '-2'"),
        (b"a b", {"tokenizer": "letters"}, "'letters' is none of bytes, words, ids"),
    ],
)
def test_what_is_not_a_text_gets_one_sentence(tmp_path, data, given, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read_text_of(tmp_path, data, **given)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_gets_one_sentence(tmp_path):
    with pytest.raises(InputError, match="there is no text"):
        read_text(tmp_path / "missing")
    with pytest.raises(InputError, match="not a regular file"):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_text(tmp_path / "pipe")
    with pytest.raises(InputError, match="not the path of a file"):
        read_text(5)
    pickled = tmp_path / "ids.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not an array"):
        read_text(pickled, "ids")
    np.save(pickled, np.array([0.5, 1.5]))
    with pytest.raises(InputError, match="not token numbers"):
        read_text(pickled, "ids")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda text: text.within(1), "length=1"),
        (lambda text: text.match_matrix(9), "fewer than the window of 9"),
        (lambda text: text.match_matrix(2, windows=0), "windows=0"),
        (lambda text: text.match_by_distance(5), "too far"),
        (lambda text: Text(np.array([0.5, 1.0]), "ids", "x"), "whole numbers"),
    ],
)
def test_a_bad_request_gets_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(Text(np.array([0, 1, 0, 2]), "ids", "example"))


def test_the_match_probability_is_the_embeddings_correlation():
    """Of one table it is the match itself; of k equal tables a k-th of it, and what segments share."""
    one = Transformer(1, 64, 1, positions="none", vocab=100, context=16)
    assert embedding_correlation(one, 0.05) == pytest.approx(0.05)
    three = Transformer(1, 64, 1, kind="encoder", segments=2, vocab=100, context=16)
    assert embedding_correlation(three, 0.05) == pytest.approx((0.05 + 2 / 3) / 3)
    start = moments_of(three, "deepscale", token_match=0.05, finite_width=False)[0]["correlation"]
    assert start == pytest.approx(embedding_correlation(three, 0.05), rel=1e-5)  # a norm's epsilon
    with pytest.raises(InputError, match=r"token_match=1\.5"):
        embedding_correlation(one, 1.5)


# The commands.


@pytest.fixture
def files(tmp_path):
    config, text = tmp_path / "config.json", tmp_path / "text.txt"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 2, "n_positions": 16}))
    text.write_text("to be or not to be that is the question whether tis nobler in the mind to suffer " * 4)
    return config, text


@pytest.mark.slow
def test_moments_take_the_texts_matches(invoke, files):
    config, text = files
    rows = json.loads(invoke("moments", config, "--text", text, "--no-dropout", "--json").output)
    stem = next(row for row in rows if row["site"] == "stem")
    assert stem["correlation"] == pytest.approx(read_text(text).within(16).value / 2, rel=1e-9)  # tokens and positions alike
    zipf = next(row for row in json.loads(invoke("moments", config, "--json").output) if row["site"] == "stem")
    assert stem["correlation"] > 2 * zipf["correlation"]
    shown = invoke("moments", config, "--text", text).output
    assert "words" in shown
    assert "within windows of 16" in shown
    as_bytes = json.loads(invoke("moments", config, "--text", text, "--tokenizer", "bytes", "--no-dropout", "--json").output)
    assert as_bytes[0]["correlation"] > stem["correlation"]


def test_moments_follow_the_positions_of_a_window(invoke, files):
    config, text = files
    rows = json.loads(invoke("moments", config, "--text", text, "--windows", "2", "--no-dropout", "--json").output)
    stem = next(row for row in rows if row["site"] == "stem")
    match = read_text(text).match_matrix(16, 2)
    assert stem["correlation"] == pytest.approx((match.sum() - 16) / 240 / 2, rel=1e-9)


def test_several_windows_are_averaged_over_their_moments(invoke, files):
    """Not over their matches, which two positions of no text have by halves."""
    config, text = files
    rows = json.loads(invoke("moments", config, "--text", text, "--windows", "2", "--no-dropout", "--json").output)
    tree, each = Transformer.from_config(json.loads(config.read_text())), read_text(text).match_matrices(16, 2)
    assert np.array_equal(each.mean(0), read_text(text).match_matrix(16, 2))
    tables = [propagate(tree, token_match=one.astype(float), dropout=False) for one in each]
    for name in ("mean", "second_moment", "variance"):
        means = np.mean([table[name] for table in tables], axis=0)
        assert [row[name] for row in rows] == pytest.approx(means, rel=1e-12)
    halves = propagate(tree, token_match=each.mean(0), dropout=False)
    assert max(abs(halves.second_moment - np.mean([table.second_moment for table in tables], axis=0))) > 0


def test_texts_of_zipfs_law_match_as_often_as_its_frequencies_say():
    matches = zipf_matches(100, 200, texts=40, seed=3)
    assert matches.shape == (40, 200, 200)
    pairs = (matches.sum((1, 2)) - 200) / (200 * 199)
    frequencies = 1 / np.arange(1, 101)
    expected = (frequencies**2).sum() / frequencies.sum() ** 2
    assert abs(pairs.mean() - expected) < 4 * pairs.std(ddof=1) / 40**0.5
    assert np.array_equal(matches[0] @ matches[0] > 0, matches[0] > 0)  # who equals the same equals each other


def test_sampled_texts_at_the_command_line(invoke, files):
    config, text = files
    rows = json.loads(invoke("moments", config, "--sampled", "--no-dropout", "--json").output)
    plain = json.loads(invoke("moments", config, "--no-dropout", "--json").output)
    assert [row["site"] for row in rows] == [row["site"] for row in plain]
    assert rows != plain
    refused = invoke("moments", config, "--sampled", "--text", text)
    assert refused.status == 2
    assert "--sampled or --text" in refused.error


def test_deepscale_takes_the_texts_matches(invoke, files):
    config, text = files
    printed = {row["parameter"]: row["std"] for row in json.loads(invoke("init", config, "--text", text, "--json").output)}
    tree = Transformer.from_config(json.loads(config.read_text()))
    start = embedding_correlation(tree, read_text(text).within(16).value)
    made = {row["parameter"]: row["std"] for row in recipe(tree, "deepscale", embedding_correlation=start).rows(tree)}
    zipf = {row["parameter"]: row["std"] for row in recipe(tree, "deepscale").rows(tree)}
    value = "decoder.block.0.attention.value.weight"
    assert printed == made
    assert printed[value] < 0.9 * zipf[value]  # more of the values is shared, so that averaging takes less away
    refused = invoke("init", config, "--scheme", "xavier", "--text", text)
    assert refused.status == 2
    assert "--text has no meaning for xavier" in refused.error


def test_a_text_and_its_numbers(invoke, files):
    _, text = files
    found = json.loads(invoke("text", text, "--context", "16", "--json").output)
    assert found == read_text(text).summary(16)
    assert "words" in invoke("text", text).output


def test_images_have_no_text(invoke, files, tmp_path):
    config = tmp_path / "vit.json"
    config.write_text(json.dumps({"model_type": "vit"}))
    result = invoke("moments", config, "--text", files[1])
    assert (result.status, result.output) == (2, "")
    assert "no meaning for a model of images" in result.error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--text", "/nowhere.txt"), "there is no text"),
        (("--tokenizer", "bytes"), "--tokenizer has no meaning without --text"),
        (("--text", "TEXT", "--tokenizer", "nothing"), "none of bytes, words, ids"),
        (("--text", "TEXT", "--correlation", "0.1"), "give --text or --correlation"),
    ],
)
def test_wrong_options_get_one_sentence(invoke, files, arguments, sentence):
    config, text = files
    result = invoke("moments", config, *(str(text) if one == "TEXT" else one for one in arguments))
    assert result.status == 2
    assert sentence in result.error


@pytest.mark.parametrize(
    "header", [b"{'descr': '<i8', 'fortran_order': False, 'shape': (", b"{" * 50, b"\xff" * 60, b"[]", b"1" * 5000]
)
def test_an_array_with_a_broken_header_is_no_array(tmp_path, header):
    path = tmp_path / "ids.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(80))
    with pytest.raises(InputError, match="is not an array of NumPy's format"):
        read_text(path, "ids")
