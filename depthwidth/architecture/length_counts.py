"""Counts of a transformer that depend on a length: FLOPs, caches, activations, training memory."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from ..checks import check_choice, check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..layers import Layer, Run, Stack, Stem
from ..values import frozen
from .number_formats import bits_of

OPTIMIZERS = {"adam": 2, "momentum": 1, "sgd": 0}
"""Number of values that each optimizer stores per weight."""

RECOMPUTE = ("none", "selective", "full")
"""Work that the backward pass repeats: none; that of attention on queries and keys; that of whole blocks."""


@frozen
class TrainingMemory:
    """Bytes of memory to train one replica, by content, without temporary buffers and fragmentation."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of the four."""
        return self.weights + self.gradients + self.optimizer + self.activations


class LengthCounts(Layer):
    """The counts of a :class:`~depthwidth.architecture.transformer.Transformer` on sequences of a given length."""

    kind: str
    stem: Stem
    context: int
    source: Stem | None

    @property
    def stacks(self) -> dict[str, Stack]:
        """The stacks by name, ``encoder`` before ``decoder``."""
        raise NotImplementedError

    @property
    def stack(self) -> Stack:
        """The stack that the head reads: the decoder, or the encoder of an encoder-only model."""
        return list(self.stacks.values())[-1]

    @property
    def stack_name(self) -> str:
        """Name of :attr:`stack`, the first part of its sites and roles: ``decoder``, or ``encoder`` without a decoder."""
        return list(self.stacks)[-1]

    @property
    def depth(self) -> int:
        """Number of blocks of the stack that the head reads."""
        return self.stack.depth

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.stack.width

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        raise NotImplementedError

    def run(self, context: int | None = None, source: int | None = None, **conventions: Any) -> Run:
        """One pass over sequences of `context` tokens (and `source` tokens for the encoder of an encoder-decoder model).

        `conventions` are the other fields of :class:`~depthwidth.layers.Run`: batch, masked, value_bytes, fused.

        Raises
        ------
        InputError
            if a length is not a positive whole number, exceeds the learned positions, or does not fit this kind of model.
        """
        fixed = self.stem.fixed_context
        if fixed is not None and context not in (None, fixed):
            raise InputError(f"an image of this model has {fixed} tokens, not {context}")
        if source is not None and self.kind != "encoder-decoder":
            raise InputError("a source length has no meaning for a model of one stack")
        tokens = self.context if context is None else context
        _check_length(self.stem, "context", tokens)
        check_whole("count", context=tokens, batch=conventions.get("batch", 1))
        memory = 0
        if self.kind == "encoder-decoder":
            memory = self._source_length(tokens, source)
            check_whole("count", source=memory)
        for name, stack in self.stacks.items():
            reads = "source" if name == "encoder" and memory else "context"
            _check_biases(stack, reads, memory if reads == "source" else tokens)
        return Run(tokens=tokens, memory=memory, **conventions)

    def _source_length(self, tokens: int, source: int | None) -> int:
        """Tokens of the encoder's sequence: by default as many as its own stem reads, or as the decoder has."""
        fixed = None if self.source is None else self.source.fixed_context
        if fixed is not None and source not in (None, fixed):
            raise InputError(f"the encoder of this model reads {fixed} positions, not {source}")
        length = source if source is not None else tokens if fixed is None else fixed
        if self.source is not None:
            _check_length(self.source, "source", length)
        return length

    def forward_flops(
        self, context: int | None = None, *, source: int | None = None, batch: int = 1, masked: bool = False
    ) -> int:
        """Floating-point operations of one forward pass over `batch` sequences of `context` tokens.

        Two per multiply-add of every matrix product, attention scores and the output matrix included; softmax, norms,
        activations, sums and table look-ups excluded. The half of the scores that a causal mask hides is counted (as in
        6N + 12LdT) unless `masked`. For image models, `batch` is the number of images.
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
        """Operations of a forward and a backward pass: those of three forward passes, or of four for recomputed parts.

        The backward pass of a matrix product has two products of the same size. Selective recomputation repeats the scores of
        attention and the weighted sums of values.
        """
        check_choice("training_flops", RECOMPUTE, recompute=recompute)
        run = self.run(context, source, batch=batch, masked=masked)
        recomputed = 0
        if recompute == "full":
            recomputed = sum(stack.flops(self.run_of(name, run)) for name, stack in self.stacks.items())
        if recompute == "selective":
            recomputed = self.score_flops(run)
        return 3 * self.flops(run) + recomputed

    def flops_per_token(
        self,
        context: int | None = None,
        *,
        source: int | None = None,
        masked: bool = False,
        training: bool = False,
    ) -> int | Fraction:
        """Operations per token of a sequence, exact: an integer or a fraction.

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
        """Bytes of the cached keys and values, and of the states of mixers, after `context` tokens of `batch` sequences."""
        return -(-self.cache_values(self.run(context, source, batch=batch)) * bits_of(dtype) // 8)

    def score_bias_bytes(
        self, context: int | None = None, *, source: int | None = None, batch: int = 1, dtype: str = "bf16"
    ) -> int:
        """Bytes of the score biases that trained tables give, for a kernel that reads them; at inference they are kept.

        Counted for the positions of :mod:`depthwidth.layers.score_positions`: a number for each query, key and table, for any
        batch, unless segments have biases too.
        """
        return -(-self.bias_values(self.run(context, source, batch=batch)) * bits_of(dtype) // 8)

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
        """Bytes that a forward pass keeps for the backward pass.

        They are the tensors that autograd needs: inputs of linear maps and norms, inputs and outputs of activations, queries,
        keys, values, outputs of the chosen experts, dropout masks (one byte), float32 logits. Kernels are taken as fused: norms
        keep only their input, attention keeps no scores, keys and values are not repeated for grouped queries; a few
        statistics a token are left out. Without `fused` the scores of every head are kept too, which gives the counts of
        Korthikanti et al. 2022 (arXiv 2205.05198, section 4). With ``recompute="selective"`` neither scores nor their
        statistics are kept. With ``recompute="full"`` each block keeps only its input, and the activations of one block exist
        at a time.
        """
        check_choice("activation_bytes", RECOMPUTE, recompute=recompute)
        run = self.run(context, source, batch=batch, value_bytes=max(1, bits_of(dtype) // 8), fused=fused)
        if recompute != "full":
            return self.saved_bytes(replace(run, rescored=recompute == "selective"))
        outside = [child for child in self.children() if child.name not in self.stacks]
        around = self.own_saved(run) + sum(c.layer.saved_bytes(self.run_of(c.name, run)) for c in outside)
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
        """Bytes of memory to train one replica without sharding.

        Weights and gradients are in `dtype`; the optimizer stores its states in float32 and, below 32 bits, a float32 copy of
        the weights: 16 bytes per weight for mixed-precision Adam (Rajbhandari et al. 2019, arXiv 1910.02054, section 3.1).
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
        """One row per component with weights or operations, with its part of each count; the rows sum to the total."""
        rows: list[dict[str, Any]] = []
        self._break_down(self, "", (1, 1, 1), self.run(context, source, masked=masked), rows)
        return rows

    def _break_down(self, layer: Layer, site: str, numbers: tuple[int, int, int], run: Run, rows: list[dict[str, Any]]) -> None:
        """Add the rows of a component, given the numbers of its copies, of those of one token, and of that token's passes."""
        copies, trained, active = numbers
        own = {
            "parameters": copies * layer.own_parameters,
            "active_parameters": trained * layer.own_parameters,
            "forward_flops": active * layer.own_flops(run),
        }
        if any(own.values()):
            rows.append({"site": site, "component": type(layer).__name__, "copies": copies, **own})
        for child in layer.children():
            path = ".".join(filter(None, (site, child.name)))
            inner = layer.run_of(child.name, run)
            parts = copies * child.copies, trained * min(child.active, child.copies), active * child.active
            self._break_down(child.layer, path, parts, inner, rows)


def _check_biases(stack: Stack, name: str, tokens: int) -> None:
    longest = stack.longest
    if longest is not None and not is_symbolic(tokens, longest) and tokens > longest:
        raise InputError(f"this model has score biases for {longest} positions; {name}={tokens} is beyond them")


def _check_length(stem: Stem, name: str, tokens: int) -> None:
    longest = stem.longest
    if longest is not None and not is_symbolic(tokens, longest) and tokens > longest:
        kind = "learned" if stem.learned_positions else "stored"
        raise InputError(f"this model has {longest} {kind} positions; {name}={tokens} is beyond them")
