"""Corpora: batches are reproducible, entropies are exact, and statistics are unbiased."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from depthwidth.errors import InputError
from verify.training.corpus import (
    Corpus,
    ZipfMarkov,
    dataset,
    load,
    match_probability,
    mix_seeds,
    python_sources,
    text,
    window_starts,
    zipf_markov,
)


@pytest.fixture(scope="module")
def chain():
    source = ZipfMarkov(vocab=64, exponent=1.1, strength=1.5, seed=3)
    return source, source.sample(200_000, seed=5)


def nats(source, tokens):
    """Mean loss of the true model over the transitions of a sample, and its standard error from the means of blocks.

    Blocks of 1,000 tokens are practically independent: correlations between transitions vanish within tens of tokens.
    """
    losses = -np.log(source.transition()[tokens[:-1], tokens[1:]])
    blocks = losses[: len(losses) // 1000 * 1000].reshape(-1, 1000).mean(1)
    return losses.mean(), blocks.std(ddof=1) / math.sqrt(len(blocks))


def test_loss_of_the_true_model_is_the_entropy(chain):
    source, tokens = chain
    mean, error = nats(source, tokens)
    assert error < 0.01
    assert abs(mean - source.entropy()) < 4 * error


def test_a_wrong_entropy_is_caught(chain):
    source, tokens = chain
    mean, error = nats(source, tokens)
    uniform_rows = -np.log(source.transition()).mean()  # all transitions weighted equally
    mean_row_entropy = (
        -(source.transition() * np.log(source.transition())).sum(1).mean()
    )  # rows not weighted by their probability
    for wrong in (source.unigram_entropy(), uniform_rows, mean_row_entropy, source.entropy() * 1.02):
        assert abs(mean - wrong) > 4 * error


def test_single_tokens_follow_zipf_exactly(chain):
    source, tokens = chain
    p = source.stationary()
    assert p @ source.transition() == pytest.approx(p, abs=1e-14)
    assert p[0] / p[9] == pytest.approx(10**1.1)
    assert source.transition().sum(1) == pytest.approx(1.0, abs=1e-14)
    blocks = (tokens.reshape(-1, 1000)[:, :, None] == np.arange(8)).mean(1)
    z = (blocks.mean(0) - p[:8]) / (blocks.std(0, ddof=1) / math.sqrt(len(blocks)))
    assert np.abs(z).max() < 4


def test_without_strength_tokens_are_independent():
    source = ZipfMarkov(vocab=16, strength=0.0)
    assert source.transition() == pytest.approx(np.tile(source.stationary(), (16, 1)))
    assert source.entropy() == pytest.approx(source.unigram_entropy())
    assert ZipfMarkov(vocab=16, exponent=0.0, strength=0.0).entropy() == pytest.approx(math.log(16))


def test_uncertain_first_token_and_short_samples():
    assert [len(ZipfMarkov(vocab=4).sample(n)) for n in (0, 1, 2, 7)] == [0, 1, 2, 7]
    firsts = [int(ZipfMarkov(vocab=4).sample(1, seed=seed)[0]) for seed in range(200)]
    assert set(firsts) == {0, 1, 2, 3}


def test_match_probability_has_no_bias(rng):
    p = ZipfMarkov(vocab=50).stationary()
    found = np.array([match_probability(np.bincount(rng.choice(50, 40, p=p), minlength=50)) for _ in range(4000)])
    error = found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean() - (p**2).sum()) < 4 * error
    plug_in = (p**2).sum() + (1 - (p**2).sum()) / 40  # mean of the plain sum of squared frequencies
    assert abs(found.mean() - plug_in) > 4 * error


def test_match_probability_of_a_text_by_hand():
    text = "abracadabra"
    pairs = [a == b for i, a in enumerate(text) for b in text[i + 1 :]]
    assert match_probability(np.bincount([ord(c) for c in text])) == pytest.approx(sum(pairs) / len(pairs))
    for wrong in ([1], [-1, 3], []):
        with pytest.raises(InputError, match="at least two tokens"):
            match_probability(wrong)


def test_batches_depend_on_seed_and_step_alone():
    corpus = zipf_markov(3000, vocab=16)
    inputs, targets = corpus.batch(3, 1000, 6, 10)
    again, _ = corpus.batch(3, 1000, 6, 10)
    assert torch.equal(inputs, again)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    shared = [corpus.batch(3, 1000, 6, 10, rows)[0] for rows in (slice(0, 4), slice(4, 6))]
    assert torch.equal(torch.cat(shared), inputs)
    both, _ = corpus.batch(torch.tensor([7, 3]), 1000, 6, 10)
    assert torch.equal(both[1], inputs)
    assert not torch.equal(both[0], inputs)
    assert not torch.equal(corpus.batch(3, 1001, 6, 10)[0], inputs)


def test_windows_start_everywhere_with_equal_chances():
    starts = torch.cat([window_starts(seed, step, 50, 10) for seed in range(10) for step in range(40)])
    counts = torch.bincount(starts, minlength=10).double()
    assert len(counts) == 10
    # Chi-squared with nine degrees of freedom exceeds 27.9 once in a thousand draws.
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 27.9
    # Neighbouring steps and seeds are unrelated: the correlation of starts is within four standard errors of zero.
    for one, other in ((window_starts(0, 5, 4000, 1 << 40), window_starts(0, 6, 4000, 1 << 40)),
                       (window_starts(0, 5, 4000, 1 << 40), window_starts(1, 5, 4000, 1 << 40))):  # fmt: skip
        assert abs(float(torch.corrcoef(torch.stack([one, other]).double())[0, 1])) < 4 / math.sqrt(4000)


def test_seeds_out_of_seeds_differ_with_order():
    assert len({mix_seeds(a, b, c) for a in range(5) for b in range(5) for c in range(5)}) == 125
    assert all(0 <= mix_seeds(a, 1 << 70) < 1 << 63 for a in range(50))


def test_blocks_do_not_overlap_and_validation_is_the_same_at_every_call():
    corpus = Corpus(torch.arange(0, 90), torch.arange(90, 100), 100)
    assert int(corpus.batch(0, 0, 500, 20)[1].max()) == 89
    first, second = (list(corpus.validation_batches(2, 2, 3)) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    starts = torch.cat([inputs[:, 0] for inputs, _ in first]).tolist()
    assert starts == [90, 92, 94, 96]  # 0 to 6, evenly


def test_a_file_is_read_as_bytes_and_tells_itself_apart(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"naive caf\xc3\xa9 " * 20)
    corpus = text(tmp_path / "a.txt", validation=0.1)
    assert bytes(corpus.train.tolist()).startswith(b"naive caf\xc3\xa9")
    assert (len(corpus.train), len(corpus.validation), corpus.vocab) == (216, 24, 256)
    same = corpus.identity()["sha256"]
    (tmp_path / "a.txt").write_bytes(b"naive caf\xc3\xa9 " * 19 + b"naive cafe\x00 ")
    assert text(tmp_path / "a.txt", validation=0.1).identity()["sha256"] != same


def test_a_folder_is_read_in_an_order_of_its_own(tmp_path):
    for name in "badc":
        (tmp_path / f"{name}.py").write_text(name)
    (tmp_path / "e.txt").write_text("e")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f.py").write_text("f")
    corpus = python_sources(root=tmp_path, validation=0)
    assert sorted(bytes(corpus.train.tolist()).split()) == [b"a", b"b", b"c", b"d", b"f"]
    assert corpus.identity() == python_sources(root=tmp_path, validation=0).identity()
    assert len(python_sources(3, root=tmp_path, validation=0).train) == 3


@pytest.mark.slow
def test_the_default_corpus_is_there_without_a_download():
    corpus = python_sources(1 << 16)
    assert len(corpus.train) + len(corpus.validation) == 1 << 16
    assert corpus.identity() == python_sources(1 << 16).identity()
    assert b"def " in bytes(corpus.train.tolist())


def test_saved_tokens_are_mapped_and_checked(tmp_path):
    corpus = zipf_markov(1000, vocab=300)
    found = load(corpus.save(tmp_path / "c"))
    assert torch.equal(found.train, corpus.train)
    assert found.identity() == corpus.identity()
    assert found.entropy == corpus.entropy
    data = bytearray((tmp_path / "c" / "train.bin").read_bytes())
    data[10] ^= 1
    (tmp_path / "c" / "train.bin").write_bytes(data)
    with pytest.raises(InputError, match="have changed since they were written"):
        load(tmp_path / "c")
    (tmp_path / "c" / "train.bin").write_bytes(data[:-2])
    with pytest.raises(InputError, match="bytes, not"):
        load(tmp_path / "c")
    (tmp_path / "c" / "corpus.json").write_text("{}")
    with pytest.raises(InputError, match="is not a corpus"):
        load(tmp_path / "c")


def test_a_tokenizer_of_the_library(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    made.decoder = tokenizers.decoders.ByteLevel()
    words = "the cat sat on the mat " * 30
    made.train_from_iterator([words], tokenizers.trainers.BpeTrainer(vocab_size=40, show_progress=False))
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(words)
    corpus = text(tmp_path / "text.txt", tokenizer=str(tmp_path / "tokenizer.json"), validation=0)
    assert corpus.vocab == made.get_vocab_size()
    assert made.decode(corpus.train.tolist()).strip() == words.strip()
    with pytest.raises(InputError, match=r"the tokenizer .* cannot be loaded"):
        text(tmp_path / "text.txt", tokenizer=str(tmp_path / "text.txt"))


def test_pairs_of_bytes_learnt_from_the_training_part(tmp_path, monkeypatch):
    """A job trains byte-pair encoding: pairs are used, there are fewer tokens, and the second call reads the cache."""
    pytest.importorskip("tokenizers")
    from verify.jobs import _training

    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "text" / name).write_text(f"the {name} sat on the mat, and the mat lay on the floor. " * 60)
    monkeypatch.setenv(_training.CORPUS_VARIABLE, str(tmp_path / "text"))
    monkeypatch.setenv(_training.CACHE_VARIABLE, str(tmp_path / "cache"))
    _training._corpus.cache_clear()
    bytes_, pairs = (_training.corpus_of(1 << 16, vocab) for vocab in (256, 300))
    assert bytes_.vocab == 256
    assert pairs.vocab == 300
    assert 256 <= int(pairs.train.max()) < 300  # pairs are used
    assert len(pairs.train) < 0.5 * len(bytes_.train)
    assert pairs.identity()["sha256"] != bytes_.identity()["sha256"]
    _training._corpus.cache_clear()
    assert _training.corpus_of(1 << 16, 300).identity() == pairs.identity()
    _training._corpus.cache_clear()


def test_without_a_home_folder_a_cache_is_asked_for(monkeypatch):
    from verify.jobs import _training

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(_training.CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(_training.Path, "home", home)
    _training._corpus.cache_clear()
    with pytest.raises(InputError, match="there is no home folder to keep tokens in; set DEPTHWIDTH_CACHE"):
        _training.corpus_of(1 << 10, 256)


def test_a_dataset_is_asked_for_without_its_code(monkeypatch):
    asked = {}

    def load_dataset(name, config, split, **options):
        asked.update(name=name, config=config, split=split, **options)
        return [{"text": "one"}, {"text": "two"}, {"text": "three"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    corpus = dataset("some/text", split_name="train", limit=2, validation=0)
    assert bytes(corpus.train.tolist()) == b"one\ntwo"
    assert asked == {"name": "some/text", "config": None, "split": "train"}
    with pytest.raises(InputError, match="never run"):
        dataset("some/text", trust_remote_code=True)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        dataset("some/text")


def empty_file(folder):
    (folder / "empty.txt").touch()
    return folder / "empty.txt"


def test_the_largest_token_of_either_part():
    assert Corpus(torch.tensor([1, 5, 2]), torch.tensor([3]), 9).largest_token() == 5
    assert Corpus(torch.tensor([1]), torch.tensor([7]), 9).largest_token() == 7
    assert Corpus(torch.tensor([1]), torch.tensor([], dtype=torch.long), 9).largest_token() == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda p: text(p / "absent"), "no file or folder"),
        (lambda p: text(p), "contains no text"),
        (lambda p: text(empty_file(p)), "contains no text"),
        (lambda p: text(empty_file(p), tokenizer="tokenizer.json"), "contains no text"),
        (lambda p: text(empty_file(p).parent), r"contains no text in files that match '\*'"),
        (lambda p: Corpus(torch.zeros(3), torch.zeros(0, dtype=torch.uint8), 4), "not a one-dimensional tensor of whole"),
        (lambda p: Corpus(torch.tensor([5]), torch.tensor([0]), 4), "outside 0 to 3"),
        (lambda p: zipf_markov(20, vocab=4, validation=1.0), "not a fraction"),
        (lambda p: zipf_markov(20, vocab=1), "vocab=1 is not"),
        (lambda p: zipf_markov(20, vocab=4, strength=math.nan), "strength=nan is not"),
        (lambda p: zipf_markov(-5), "tokens=-5 is not a whole number from 0"),
        (lambda p: zipf_markov(20.5), r"tokens=20\.5 is not a whole number"),
        (lambda p: zipf_markov(20, vocab=4, seed=-1), "seed=-1 is not a whole number"),
        (lambda p: ZipfMarkov(seed=-1), "seed=-1 is not a whole number"),
        (lambda p: zipf_markov(20, vocab=4).batch(0, 0, 2, 30), "a context of 30 needs at least 31"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        wrong(tmp_path)
