"""``Transformer``: the root of the tree, and the counts people ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ..checks import check_choice, check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..layers import (
    Attention,
    BlockLike,
    Child,
    FeedForward,
    Head,
    LanguageHead,
    Layer,
    MixtureOfExperts,
    Run,
    Stack,
    Stem,
)
from .design import Design, Kind
from .number_formats import bits_of

OPTIMIZERS = {"adam": 2, "momentum": 1, "sgd": 0}
"""Values that each optimizer keeps for a weight."""

RECOMPUTE = ("none", "full")


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training one replica takes, by what they hold. Temporary buffers and fragmentation come on top."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Transformer(Layer):
    """A transformer: a stem, an encoder or a decoder or both, and a head.

    ``Transformer(depth, width, heads, **choices)`` builds the tree; :class:`~depthwidth.architecture.design.Design` lists
    every choice.
    ``Transformer.from_config`` reads a Hugging Face ``config.json``; ``Transformer.of_parts`` takes components as they are.

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
    """Positions it is made for; the default of every count that depends on a length."""

    def __init__(self, depth: int, width: int, heads: int | Sequence[int] | None = None, **choices: Any) -> None:
        self._set_design(Design.of(depth=depth, width=width, heads=heads, **choices))

    @classmethod
    def of_design(cls, design: Design) -> Transformer:
        """The tree of a design."""
        self = cls.__new__(cls)
        self._set_design(design)
        return self

    def _set_design(self, design: Design) -> None:
        stem = design.stem()
        context = design.context if stem.fixed_context is None else stem.fixed_context
        self._set(design.kind, stem, design.encoder(), design.decoder(), design.reader(), context)

    def _set(self, *values: Any) -> None:
        for name, value in zip(("kind", "stem", "encoder", "decoder", "head", "context"), values, strict=True):
            object.__setattr__(self, name, value)  # frozen for everyone but its own constructors

    @classmethod
    def of_parts(
        cls,
        stem: Stem,
        encoder: Stack | None,
        decoder: Stack | None,
        head: Head | None,
        context: int,
    ) -> Transformer:
        """A transformer of given components."""
        if encoder is None and decoder is None:
            raise InputError("Transformer: it has neither an encoder nor a decoder")
        kind = "decoder" if encoder is None else "encoder" if decoder is None else "encoder-decoder"
        self = cls.__new__(cls)
        self._set(kind, stem, encoder, decoder, head, context)
        return self

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | Path) -> Transformer:
        """The transformer that a Hugging Face configuration describes, given as a mapping or as a ``config.json`` file.

        Raises
        ------
        InputError
            if the model type is unknown, a field is missing or makes no sense, or the file cannot be read.
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
        """The same transformer with some components changed: stem, encoder, decoder, head or context."""
        parts = {name: getattr(self, name) for name in ("stem", "encoder", "decoder", "head", "context")}
        return self.of_parts(**(parts | changes))

    def children(self) -> tuple[Child, ...]:
        """The stem, the stacks, the head."""
        parts = (("stem", self.stem), ("encoder", self.encoder), ("decoder", self.decoder), ("head", self.head))
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def choices(self) -> dict[str, Any]:
        """The choices of a design that are no component's."""
        encoder_depth = self.encoder.depth if self.encoder is not None and self.decoder is not None else None
        sizes = {"kind": self.kind, "depth": self.depth, "width": self.width, "encoder_depth": encoder_depth}
        return sizes | {"context": self.context} | ({"head": "none"} if self.head is None else {})

    def run_of(self, child: str, run: Run) -> Run:
        """The pass that each part sees: an encoder reads the source, a decoder the target."""
        if self.kind != "encoder-decoder":
            return run
        if child == "encoder":
            return replace(run, tokens=run.memory)
        # One stem serves both stacks, and every token of either sequence passes through it.
        return replace(run, tokens=run.tokens + run.memory) if child == "stem" else run

    # The shape, in the words people use. Where blocks differ these are the first block's.

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """The encoder and the decoder by name, as far as they exist."""
        both = (("encoder", self.encoder), ("decoder", self.decoder))
        return {name: stack for name, stack in both if stack is not None}

    @property
    def language_head(self) -> LanguageHead | None:
        """The head, if it is one for language models."""
        return None if self.head is None else self.head.as_language_head

    @property
    def stack(self) -> Stack:
        """The stack that the head reads: the decoder, or the encoder of an encoder-only model."""
        return self.decoder or self.encoder  # type: ignore[return-value]

    @property
    def stack_name(self) -> str:
        """What the path of :attr:`stack` starts with, in sites and roles: ``decoder``, or ``encoder`` where there is none."""
        return "encoder" if self.decoder is None else "decoder"

    @property
    def depth(self) -> int:
        """Number of blocks of the stack that the head reads."""
        return self.stack.depth

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.stack.width

    @property
    def first_block(self) -> BlockLike:
        """The first block of :attr:`stack`."""
        return self.stack.repeats[0].block

    @property
    def attention(self) -> Attention:
        """Self-attention of the first block."""
        return cast("Attention", self._of_first_block("as_attention", "softmax attention"))

    @property
    def feed_forward(self) -> FeedForward:
        """The feed-forward part of the first block; of a mixture, one expert."""
        return cast("FeedForward", self._of_first_block("as_feed_forward", "feed-forward part"))

    @property
    def experts(self) -> MixtureOfExperts | None:
        """The mixture of experts of the first block, if it has one."""
        return cast("MixtureOfExperts | None", self.first_block.as_mixture)

    def _of_first_block(self, name: str, words: str) -> Any:
        block = self.first_block
        found = getattr(block, name)
        if found is None:
            inside = ", ".join(type(residual.branch).__name__ for _, residual in block.branches) or "no residual branches"
            raise InputError(f"the first block has no {words}; its {type(block).__name__} holds {inside}")
        return found

    @property
    def heads(self) -> int:
        """Query heads of the first block."""
        return self.attention.heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads of the first block."""
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
        """Number of tokens; 0 for images."""
        return self.stem.vocab

    # Counts that depend on a length.

    def run(self, context: int | None = None, source: int | None = None, **conventions: Any) -> Run:
        """One pass over sequences of `context` tokens (and `source` tokens for the encoder of an encoder-decoder model).

        `conventions` are the other fields of :class:`~depthwidth.layers.Run`: batch, masked, value_bytes, fused.
        """
        fixed = self.stem.fixed_context
        if fixed is not None and context not in (None, fixed):
            raise InputError(f"an image of this model has {fixed} tokens, not {context}")
        if source is not None and self.kind != "encoder-decoder":
            raise InputError("a source length has no meaning for a model of one stack")
        tokens = self.context if context is None else context
        longest = self.stem.longest
        if longest is not None and not is_symbolic(tokens, longest) and tokens > longest:
            raise InputError(f"this model has {longest} learned positions; context={tokens} is beyond them")
        check_whole("count", context=tokens, batch=conventions.get("batch", 1))
        memory = 0
        if self.kind == "encoder-decoder":
            memory = tokens if source is None else source
            check_whole("count", source=memory)
        return Run(tokens=tokens, memory=memory, **conventions)

    def forward_flops(
        self, context: int | None = None, *, source: int | None = None, batch: int = 1, masked: bool = False
    ) -> int:
        """Floating-point operations of one forward pass over `batch` sequences of `context` tokens.

        Two per multiply-add of every matrix product, attention scores and the output matrix included; softmax, norms,
        activations, sums and table look-ups excluded. A causal mask's hidden half of the scores is counted (as in
        6N + 12LdT) unless `masked`. Images take `batch` images.
        """
        return self.flops(self.run(context, source, batch=batch, masked=masked))

    def training_flops(
        self,
        context: int | None = None,
        *,
        source: int | None = None,
        batch: int = 1,
        masked: bool = False,
        recompute: str = "none",
    ) -> int:
        """Operations of a forward and a backward pass: three forward passes, four for blocks that are recomputed.

        The backward pass of a matrix product takes two products of the same size.
        """
        check_choice("training_flops", RECOMPUTE, recompute=recompute)
        run = self.run(context, source, batch=batch, masked=masked)
        again = 0
        if recompute == "full":
            again = sum(stack.flops(self.run_of(name, run)) for name, stack in self.stacks.items())
        return 3 * self.flops(run) + again

    def flops_per_token(
        self,
        context: int | None = None,
        *,
        source: int | None = None,
        masked: bool = False,
        training: bool = False,
    ) -> int | Fraction:
        """Operations per token of a sequence, exact: an integer where it divides, otherwise a fraction.

        In an encoder-decoder model the tokens of both sequences count as tokens.
        """
        count = self.training_flops if training else self.forward_flops
        run = self.run(context, source)
        per_token = Fraction(count(context, source=source, masked=masked), run.tokens + run.memory)
        return per_token.numerator if per_token.denominator == 1 else per_token

    def weight_bytes(self, dtype: str = "bf16") -> int:
        """Bytes of all weights in a number format."""
        return -(-self.parameters * bits_of(dtype) // 8)

    def kv_cache_bytes(
        self, context: int | None = None, *, source: int | None = None, batch: int = 1, dtype: str = "bf16"
    ) -> int:
        """Bytes of the keys and values kept after generating `context` tokens for each of `batch` sequences."""
        return -(-self.cache_values(self.run(context, source, batch=batch)) * bits_of(dtype) // 8)

    def activation_bytes(
        self,
        context: int | None = None,
        *,
        source: int | None = None,
        batch: int = 1,
        dtype: str = "bf16",
        fused: bool = True,
        recompute: str = "none",
    ) -> int:
        """Bytes that a forward pass keeps for the backward one.

        Every tensor that autograd needs is counted where it is made: inputs of linear maps and norms, both sides of
        activations, queries, keys, values, dropout masks (one byte), float32 logits. Without `fused` the scores of every
        head are kept too, which gives the counts of Korthikanti et al. 2022 (arXiv 2205.05198, section 4).
        With ``recompute="full"`` each block keeps only its input, and one block's activations exist at a time.
        """
        check_choice("activation_bytes", RECOMPUTE, recompute=recompute)
        run = self.run(context, source, batch=batch, value_bytes=max(1, bits_of(dtype) // 8), fused=fused)
        if recompute == "none":
            return self.saved_bytes(run)
        around = sum(c.layer.saved_bytes(self.run_of(c.name, run)) for c in self.children() if c.name not in self.stacks)
        return around + sum(stack.recomputed_bytes(self.run_of(name, run)) for name, stack in self.stacks.items())

    def training_memory(
        self,
        context: int | None = None,
        *,
        source: int | None = None,
        batch: int = 1,
        dtype: str = "bf16",
        optimizer: str = "adam",
        fused: bool = True,
        recompute: str = "none",
    ) -> TrainingMemory:
        """Bytes that training takes on one replica that holds everything.

        Weights and gradients in `dtype`; the optimizer keeps its states in float32 and, below 32 bits, a float32 copy of
        the weights: 16 bytes a weight for mixed-precision Adam (Rajbhandari et al. 2019, arXiv 1910.02054, section 3.1).
        """
        check_choice("training_memory", tuple(OPTIMIZERS), optimizer=optimizer)
        copies = OPTIMIZERS[optimizer] + (1 if bits_of(dtype) < 32 else 0)
        return TrainingMemory(
            weights=self.weight_bytes(dtype),
            gradients=self.weight_bytes(dtype),
            optimizer=4 * copies * self.parameters,
            activations=self.activation_bytes(
                context, source=source, batch=batch, dtype=dtype, fused=fused, recompute=recompute
            ),
        )

    def breakdown(self, context: int | None = None, *, source: int | None = None, masked: bool = False) -> list[dict[str, Any]]:
        """One row per component that holds weights or does work, with its share of every count; the rows add up."""
        rows: list[dict[str, Any]] = []
        self._break_down(self, "", 1, 1, self.run(context, source, masked=masked), rows)
        return rows

    def _break_down(self, layer: Layer, site: str, copies: int, active: int, run: Run, rows: list[dict[str, Any]]) -> None:
        own = {
            "parameters": copies * layer.own_parameters,
            "active_parameters": active * layer.own_parameters,
            "forward_flops": active * layer.own_flops(run),
        }
        if any(own.values()):
            rows.append({"site": site, "component": type(layer).__name__, "copies": copies, **own})
        for child in layer.children():
            place = ".".join(filter(None, (site, child.name)))
            inner = layer.run_of(child.name, run)
            self._break_down(child.layer, place, copies * child.copies, active * child.active, inner, rows)
