"""``Transformer``: the root of the tree, with its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..display import Overview, with_overview
from ..errors import InputError
from ..layers import (
    Attention,
    BlockLike,
    Child,
    FeedForward,
    Head,
    LanguageHead,
    Run,
    Stack,
    Stem,
)
from ..values import cached_property
from .building import Builder
from .design import Design, Kind
from .dimensions import overview_of
from .length_counts import LengthCounts

if TYPE_CHECKING:
    from pathlib import Path

    from ..layers import MixtureOfExperts


@with_overview
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Transformer(LengthCounts):
    """A transformer: a stem, an encoder or a decoder or both, and a head.

    ``Transformer(depth, width, heads, **choices)`` builds the tree; :class:`~depthwidth.architecture.design.Design` lists
    every choice.
    ``Transformer.from_config`` reads a Hugging Face ``config.json``; ``Transformer.of_parts`` takes finished components.

    Raises
    ------
    InputError
        if a dimension is not a positive whole number, or dimensions do not fit together.

    Examples
    --------
    >>> gpt2 = Transformer(depth=12, width=768, heads=12, vocab=50257, context=1024)
    >>> gpt2.parameters, gpt2.non_embedding_parameters
    (124439808, 85056000)
    """

    kind: Kind
    stem: Stem
    encoder: Stack | None
    decoder: Stack | None
    head: Head | None
    context: int
    """Number of positions; the default length of every count that depends on one."""
    source: Stem | None
    """The encoder's own stem, in a model of two stacks; None if :attr:`stem` serves both."""

    def __init__(self, depth: int, width: int, heads: int | Sequence[int] | None = None, **choices: Any) -> None:
        self._set_design(Design.of(depth=depth, width=width, heads=heads, **choices))

    @classmethod
    def of_design(cls, design: Design) -> Transformer:
        """The tree of a design."""
        self = cls.__new__(cls)
        self._set_design(design)
        return self

    def _set_design(self, design: Design) -> None:
        stem = Builder(design).stem()
        if stem.fixed_context is not None:
            design = replace(design, context=stem.fixed_context)  # tables of score biases have a place for each of its tokens
        made = Builder(design)
        self._set(design.kind, stem, made.encoder(), made.decoder(), made.reader(), design.context, made.source())

    def _set(self, *values: Any) -> None:
        for name, value in zip(("kind", "stem", "encoder", "decoder", "head", "context", "source"), values, strict=True):
            object.__setattr__(self, name, value)  # frozen for all but its constructors
        for name, stack in self.stacks.items():
            _check_block_inputs(self.reader if name == "encoder" else self.stem, stack, name)

    @classmethod
    def of_parts(
        cls,
        stem: Stem,
        encoder: Stack | None,
        decoder: Stack | None,
        head: Head | None,
        context: int,
        source: Stem | None = None,
    ) -> Transformer:
        """A transformer from given components.

        Raises
        ------
        InputError
            if there is neither an encoder nor a decoder, or a `source` stem in a model of one stack.
        """
        if encoder is None and decoder is None:
            raise InputError("Transformer: it has neither an encoder nor a decoder")
        kind = "decoder" if encoder is None else "encoder" if decoder is None else "encoder-decoder"
        if source is not None and kind != "encoder-decoder":
            raise InputError("Transformer: a source stem is that of the encoder, in a model of two stacks")
        self = cls.__new__(cls)
        self._set(kind, stem, encoder, decoder, head, context, source)
        return self

    def overview(self) -> Overview:
        """Dimensions and numbers of parameters, for a prompt or a notebook."""
        return overview_of(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Path | Any) -> Transformer:
        """The transformer that a Hugging Face configuration describes.

        It is given as a mapping, as a ``config.json`` file, as the folder that holds it, or as the name of a repository of the
        Hugging Face hub. Of a configuration object of the transformers library ``to_dict()`` is read.

        Raises
        ------
        InputError
            if the model type is unknown, a field is missing or invalid, or the file cannot be read.
        """
        from .hf import read_config

        return read_config(config)

    def to_config(self, family: str) -> dict[str, Any]:
        """A Hugging Face configuration of `family` that describes this tree.

        Raises
        ------
        InputError
            if that family cannot express the tree.
        """
        from .hf import write_config

        return write_config(self, family)

    def replace(self, **changes: Any) -> Transformer:
        """The same transformer with some components changed: stem, encoder, decoder, head, context or source."""
        parts = {name: getattr(self, name) for name in ("stem", "encoder", "decoder", "head", "context", "source")}
        return self.of_parts(**(parts | changes))

    def without_norms(self) -> Transformer:
        """The same transformer without the norms of residual branches and the last one, as ``placement="none"`` builds it.

        Norms of the embedding, of a head, and inside branches, such as those of queries and keys, stay.

        Examples
        --------
        >>> Transformer(depth=2, width=64).without_norms() == Transformer(depth=2, width=64, placement="none")
        True
        """
        stacks = {name: None if stack is None else stack.without_norms() for name, stack in self._both}
        return self.replace(**stacks)

    @property
    def _both(self) -> tuple[tuple[str, Stack | None], ...]:
        return ("encoder", self.encoder), ("decoder", self.decoder)

    def children(self) -> tuple[Child, ...]:
        """The stem, the encoder's own one, the stacks, the head."""
        names = ("stem", "source", "encoder", "decoder", "head")
        parts = ((name, getattr(self, name)) for name in names)
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def choices(self) -> dict[str, Any]:
        """The fields of a design that belong to no component."""
        encoder_depth = self.encoder.depth if self.encoder is not None and self.decoder is not None else None
        sizes = {"kind": self.kind, "depth": self.depth, "width": self.width, "encoder_depth": encoder_depth}
        scored = self.vocab
        spare = {"vocab": scored, "spare_tokens": self.stem.vocab - scored} if scored < self.stem.vocab else {}
        return sizes | spare | {"context": self.context} | ({"head": "none"} if self.head is None else {})

    def run_of(self, child: str, run: Run) -> Run:
        """The sizes of a part's pass: an encoder reads the source, a decoder the target."""
        if self.kind != "encoder-decoder":
            return run
        if child in ("encoder", "source"):
            return replace(run, tokens=run.memory)
        # A stem that serves both stacks is passed by every token of either sequence.
        both = child == "stem" and self.source is None
        return replace(run, tokens=run.tokens + run.memory) if both else run

    def own_saved(self, run: Run) -> int:
        """Bytes of the encoder's output, which every cross-attention reads."""
        if self.encoder is None or self.decoder is None:
            return 0
        return run.memory * run.batch * self.encoder.outer_width * run.value_bytes

    @property
    def reader(self) -> Stem:
        """The stem of the encoder's input, or of the only stack's."""
        return self.stem if self.source is None else self.source

    # The shape, under its usual names; if blocks differ, that of the first block.

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """The existing stacks by name, ``encoder`` before ``decoder``."""
        both = (("encoder", self.encoder), ("decoder", self.decoder))
        return {name: stack for name, stack in both if stack is not None}

    @property
    def language_head(self) -> LanguageHead | None:
        """The language-model head; None if there is none."""
        return None if self.head is None else self.head.as_language_head

    @property
    def first_block(self) -> BlockLike:
        """The first block of :attr:`stack`."""
        return self.stack.repeats[0].block

    @property
    def attention(self) -> Attention:
        """Self-attention of the first block that has one."""
        return cast("Attention", self._of_first_block("as_attention", "softmax attention"))

    @property
    def feed_forward(self) -> FeedForward:
        """The feed-forward part of the first block that has one; of a mixture, one expert."""
        return cast("FeedForward", self._of_first_block("as_feed_forward", "feed-forward part"))

    @property
    def experts(self) -> MixtureOfExperts | None:
        """The mixture of experts of the first block that has one; None if none has."""
        return cast("MixtureOfExperts | None", self.stack.first("as_mixture"))

    def _of_first_block(self, name: str, words: str) -> Any:
        part = self.stack.first(name)
        if part is None:
            block = self.first_block
            inside = ", ".join(type(residual.branch).__name__ for _, residual in block.branches) or "no residual branches"
            raise InputError(f"no block has {words}; the first {type(block).__name__} holds {inside}")
        return part

    @property
    def heads(self) -> int:
        """Query heads of :attr:`attention`."""
        return self.attention.heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads of :attr:`attention`."""
        return self.attention.kv_heads

    @property
    def head_dim(self) -> int:
        """Dimensions of a query or key."""
        return self.attention.head_dim

    @property
    def ffn(self) -> int:
        """Hidden features of the feed-forward part; of a mixture, of one expert."""
        return self.feed_forward.hidden

    @property
    def vocab(self) -> int:
        """Number of tokens, without those that the head does not score; 0 for images."""
        head = self.language_head
        return self.stem.vocab if head is None else min(self.stem.vocab, head.unembedding.vocab)


def _check_block_inputs(stem: Stem, stack: Stack, name: str) -> None:
    """Refuse blocks that read a vector for each token which the stem of their stack does not make."""
    for repeat in stack.repeats:
        wanted = repeat.block.inputs_width
        if wanted is not None and stem.block_inputs != (stack.depth, wanted):
            made = "none" if stem.block_inputs is None else f"{stem.block_inputs[1]} for {stem.block_inputs[0]} blocks"
            raise InputError(
                f"Transformer: the {stack.depth} blocks of the {name} read {wanted} features a token from the stem, "
                f"which makes {made}"
            )
