"""Attention within chunks, counted pair by pair."""

import pytest

from depthwidth import Transformer, propagate
from depthwidth.errors import InputError
from depthwidth.layers import ChunkedAttention

CHOICES = {"depth": 2, "width": 16, "heads": 2, "vocab": 20, "positions": "rotary", "norm": "rmsnorm", "bias": False}


def pairs(length, chunk):
    return sum(1 for query in range(length) for key in range(query + 1) if key // chunk == query // chunk)


@pytest.mark.parametrize(("length", "chunk"), [(10, 4), (8, 4), (3, 5), (7, 1)])
def test_pairs_and_cache(length, chunk):
    tree = Transformer(context=length, chunk=chunk, **CHOICES)
    attention = tree.attention
    assert attention.keys_seen(tree.run(length, masked=True)) == pairs(length, chunk)
    assert attention.keys_seen(tree.run(length)) == length * min(length, chunk)
    plain = Transformer(context=length, **CHOICES)
    assert tree.parameters == plain.parameters
    assert tree.kv_cache_bytes(length) == plain.kv_cache_bytes(min(length, chunk))
    if chunk < length:
        assert tree.flops_per_token(length) < plain.flops_per_token(length)


def test_moments_of_one_chunk_are_those_of_causal_attention():
    chunked, plain = (Transformer(context=8, chunk=chunk, **CHOICES) for chunk in (8, None))
    assert propagate(chunked, "xavier").equals(propagate(plain, "xavier"))
    with pytest.raises(InputError, match=r"moments of attention in chunks are known for up to 4 tokens"):
        propagate(Transformer(context=8, chunk=4, **CHOICES), "xavier")


def test_chunks_are_for_causal_attention_without_a_window():
    with pytest.raises(InputError, match="causal self-attention without a window"):
        Transformer(context=8, chunk=4, window=3, **CHOICES)
    with pytest.raises(InputError, match="causal self-attention without a window"):
        Transformer(context=8, chunk=4, kind="encoder", **CHOICES)
    with pytest.raises(InputError, match="chunk=0 is not a whole number"):
        Transformer(context=8, chunk=0, **CHOICES)


def test_equal_blocks_keep_their_kind():
    tree = Transformer(context=8, chunk=4, blocks=[{}, {"chunk": None}], **CHOICES)
    kinds = [type(repeat.block.as_attention) for repeat in tree.decoder.repeats]
    assert kinds[0] is ChunkedAttention
    assert kinds[1] is not ChunkedAttention
