"""Copies of the stream, and vectors that blocks read from the stem beside it."""

import pytest

from depthwidth import Transformer
from depthwidth.errors import InputError
from depthwidth.layers import Block, BlockLike, Child, Run, Stack, Streams, TokenStem, component

SMALL = {"depth": 2, "width": 24, "heads": 4, "vocab": 31, "context": 12}
PLAIN = Transformer(**SMALL)


@component
class Copied(BlockLike):
    """A block that would keep several copies of the stream."""

    inner: Block
    streams: int = 3
    inputs_width: int | None = None

    @property
    def width(self):
        return self.inner.width

    def children(self):
        return (Child("inner", self.inner),)


@component
class Gifts(TokenStem):
    """A stem that would make vectors for blocks."""

    given: tuple[int, int] | None = None

    @property
    def block_inputs(self):
        return self.given


def stack(copies=None, **more):
    return Stack.of([Copied(block, **more) for block in PLAIN.decoder.blocks()], PLAIN.decoder.norm, copies=copies)


def test_a_stack_makes_as_many_copies_as_its_blocks_keep():
    assert stack(Streams(3)).streams == 3
    assert stack(Streams(3)).parameters == stack().parameters
    with pytest.raises(InputError, match="its blocks keep 3 streams, and it makes 2 copies"):
        stack(Streams(2))
    with pytest.raises(InputError, match=r"Streams: count=1 is not a whole number from 2"):
        Streams(1)


def test_the_inputs_of_all_copies_are_kept_if_blocks_are_recomputed():
    run = Run(5, batch=2)
    inputs = 2 * 5 * 2 * 24 * 2
    assert stack().recomputed_bytes(run) - PLAIN.decoder.recomputed_bytes(run) == 2 * inputs


@pytest.mark.parametrize(("given", "made"), [(None, "none"), ((3, 5), "5 for 3 blocks"), ((2, 4), "4 for 2 blocks")])
def test_vectors_that_the_stem_does_not_make_are_refused(given, made):
    stem = Gifts(PLAIN.stem.tokens, PLAIN.stem.positions, given=given)
    with pytest.raises(InputError, match=f"decoder read 5 features a token from the stem, which makes {made}"):
        Transformer.of_parts(stem, None, stack(inputs_width=5), PLAIN.head, 12)


def test_vectors_that_the_stem_makes_are_read():
    stem = Gifts(PLAIN.stem.tokens, PLAIN.stem.positions, given=(2, 5))
    assert Transformer.of_parts(stem, None, stack(inputs_width=5), PLAIN.head, 12).decoder.streams == 3
