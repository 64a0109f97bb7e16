"""The components of a transformer that follow from its design."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

from .. import layers
from ..checks import DEEPEST, check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..layers import (
    PLACEMENTS,
    Attention,
    Block,
    BlockLike,
    Branch,
    FeedForward,
    Head,
    LanguageHead,
    LayerNorm,
    Linear,
    Norm,
    Position,
    Repeat,
    Residual,
    RMSNorm,
    Stack,
    Stem,
    Unembedding,
    shared_pattern,
)
from ..values import cached_property
from .design import Design
from .stems import position_of, stem_of


def _attention_kind(design: Design, cross: bool) -> Callable[..., Attention]:
    """The kind of attention, as a function of the choices that all kinds share."""
    if not cross and design.attention_weights == "relu":
        _check_relu(design)
        return layers.ReluAttention
    if not cross and design.latent is not None:
        return partial(layers.LatentAttention, latent=design.latent)
    if not cross and design.disentangled is not None:
        return partial(layers.DisentangledAttention, relative=design.disentangled)
    if not cross and design.attention_gate:
        return layers.GatedAttention
    if not cross and design.tree is not None:
        design.tree.check_tokens(design.context)
        if not design.tree.softmax and _bias_table(design, 1) is not None:
            raise InputError(
                "Transformer: score biases of a stack have no meaning with tree=Tree(.., 'path'), which has no scores"
            )
        return partial(layers.TreeAttention, tree=design.tree)
    if not cross and design.borrowed_keys:
        return layers.BorrowedAttention
    return Attention if cross or design.chunk is None else partial(layers.ChunkedAttention, chunk=design.chunk)


def _check_relu(design: Design) -> None:
    """Refuse ReLU scores with another kind of attention, or with a table of score biases outside of it."""
    kinds = ("latent", "disentangled", "attention_gate", "tree", "borrowed_keys", "chunk", "value_norm")
    if others := [name for name in kinds if getattr(design, name)]:
        raise InputError(f"Transformer: attention_weights='relu' is a kind of attention, and so is {others[0]}; give one")
    if _bias_table(design, 1) is not None:
        raise InputError("Transformer: score biases of a stack have no meaning with attention_weights='relu'")


class Builder:
    """Makes the components of a design, from the smallest to the largest.

    Parts that are equal may be one object, so that each is counted once.
    """

    def __init__(self, design: Design) -> None:
        self.design = design

    @cached_property
    def outer(self) -> Builder:
        """The builder of the parts at the ends of a stack, which are wider if streams are parts of its input."""
        design = self.design
        if design.altup is None or design.altup_form != "full":
            return self
        return Builder(replace(design, width=design.altup * design.width, altup=None))

    @cached_property
    def stream_norm(self) -> Norm:
        """The norm over the residual stream."""
        return self.norm_over(self.design.width)

    def norm_over(self, features: int, groups: int = 1, *, separate: bool = False) -> Norm:
        """A norm over `features` of the kind that the design has."""
        design = self.design
        if design.norm == "layernorm":
            bias = design.norm_bias and not separate  # those of single heads have none in any family
            options = (design.norm_affine, design.norm_eps, bias, design.norm_unit_offset, separate)
            return LayerNorm(features, groups, *options)
        return RMSNorm(features, groups, design.norm_affine, design.norm_eps, design.norm_unit_offset, separate)

    def attention(self, heads: int, window: int | None = None, *, causal: bool, cross: bool = False) -> Attention:
        """Self-attention of a block, or the cross-attention of a decoder's."""
        design = self.design
        head_dim = self._head_dim(heads) if design.head_dim is None else design.head_dim
        kv_heads = heads if design.kv_heads is None else design.kv_heads
        positions = design.positions if window is None or design.window_positions is None else design.window_positions
        value_dim = head_dim if design.value_dim is None else design.value_dim
        scale = design.logit_scale
        if scale is None and not cross:
            scale = _content_scale(positions, design, heads, head_dim)
        query_norm = key_norm = None
        if design.qk_norm in ("head", "heads"):
            own = design.qk_norm == "heads"
            query_norm, key_norm = (self.norm_over(head_dim, groups, separate=own) for groups in (heads, kv_heads))
        elif design.qk_norm == "full":
            query_norm, key_norm = self.norm_over(head_dim * heads), self.norm_over(head_dim * kv_heads)
        elif design.qk_norm == "unit":
            query_norm, key_norm = (self.norm_over(head_dim, groups).replace(affine=False) for groups in (heads, kv_heads))
        kind = _attention_kind(design, cross)
        if design.value_norm and not (cross or design.borrowed_keys):
            kind = partial(layers.ValueNormAttention, value_norm=self.norm_over(value_dim, kv_heads).replace(affine=False))
        return kind(
            width=design.width,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            causal=causal,
            window=window,
            position=None if cross else position_of(positions, "attention", design, heads),
            bias=design.bias if design.attention_bias is None else design.attention_bias,
            out_bias=design.bias if design.attention_out_bias is None else design.attention_out_bias,
            query_norm=query_norm,
            key_norm=key_norm,
            scale=scale,
            softcap=design.score_softcap,
            memory_width=Builder(self.encoder_design).outer.design.width if cross else None,
            dropout=design.attention_dropout,
            key_bias=design.key_bias,
            sinks=design.sinks and not cross,
            inner_norm=self.norm_over(heads * value_dim) if design.inner_norm else None,
        )

    def feed_forward(self) -> Branch | None:
        """The feed-forward part of a block; None if it has none."""
        design = self.design
        if design.channel_mixer is not None:
            return design.channel_mixer
        if design.ffn == 0:
            return None

        expert = self.dense_feed_forward()
        if design.experts is None:
            return expert
        shared = None if design.shared_ffn is None else self.dense_feed_forward(design.shared_ffn)
        options = (design.shared_gate, design.renormalized, design.choice_bias, design.router_bias, design.router)
        kind = (
            layers.MixtureOfExperts if design.mixer_jitter is None else partial(layers.SparseMixer, jitter=design.mixer_jitter)
        )
        return kind(expert, design.experts, design.top_k, shared, *options)

    def dense_feed_forward(self, hidden: int | None = None) -> FeedForward:
        """A feed-forward part of one expert, with the design's hidden features by default."""
        design = self.design
        bias = design.bias if design.ffn_bias is None else design.ffn_bias
        if hidden is None:
            hidden = 4 * design.width if design.ffn is None else design.ffn
        norm = self.norm_over(hidden) if design.inner_norm else None
        options = (design.gated, bias, design.ffn_dropout, design.up_activation, norm)
        kind = partial(layers.SparseFeedForward, sparsity=design.sparsity) if design.sparsity else FeedForward
        return kind(design.width, hidden, design.activation, *options)

    def residual(self, branch: Branch, *, bare: bool = False) -> Residual:
        """A branch with the norms of this design's placement, or `bare`."""
        design = self.design
        places = () if design.shared_norm or bare else PLACEMENTS[design.placement]
        norms = dict.fromkeys(places, self.stream_norm)
        return Residual(
            branch,
            norm_in=norms.get("norm_in"),
            norm_out=norms.get("norm_out"),
            norm_stream=norms.get("norm_stream"),
            dropout=design.dropout,
            scale=design.residual_scale,
            layer_scale=design.layer_scale,
        )

    def block(self, heads: int, window: int | None = None, *, causal: bool, cross: bool = False) -> BlockLike:
        """One block."""
        if self.design.memory_block:
            return _memory_block(self, heads)
        block = _with_laurel(self._plain_block(heads, window, causal=causal, cross=cross), self.design, self.stream_norm)
        return _in_streams(block, self.design, self.stream_norm)

    def _plain_block(self, heads: int, window: int | None, *, causal: bool, cross: bool) -> Block:
        """One block on one stream."""
        design = self.design
        if not isinstance(design.mixer, str) and design.mixer.width != design.width:
            name = type(design.mixer).__name__
            raise InputError(f"Transformer: the {name} has width={design.mixer.width}, and the model width={design.width}")
        feed_forward, bare = self.feed_forward(), not design.attention_norm
        attends = design.mixer == "attention"
        return (layers.LoneDecoderBlock if design.lone_decoder else Block)(
            mixer=None if isinstance(design.mixer, str) else self.residual(design.mixer),
            attention=self.residual(self.attention(heads, window, causal=causal), bare=bare) if attends else None,
            feed_forward=None if feed_forward is None else self.residual(feed_forward),
            cross_attention=self.residual(self.attention(heads, causal=False, cross=True)) if cross else None,
            parallel=design.parallel,
            norm=self.stream_norm if design.shared_norm else None,
        )

    def stack(self, depth: int, *, causal: bool, cross: bool = False) -> Stack:
        """The blocks of an encoder (not causal) or a decoder (causal, with cross-attention if it is made for an encoder)."""
        design = self.design
        heads = design.heads if design.heads is not None else self._default_heads() if design.attends else 1
        final = design.placement not in ("post", "none") if design.final_norm is None else design.final_norm
        norm = self.outer.stream_norm if final else None
        bias = _bias_table(design, heads[0] if isinstance(heads, Sequence) else heads)
        if not isinstance(heads, Sequence) and not isinstance(design.window, Sequence) and design.blocks is None:
            alike = Repeat(self.block(heads, design.window, causal=causal, cross=cross), depth)
            return Stack((alike,), norm, bias, _first_with_weights(design, depth), _contacts(design, depth, heads))
        if depth > DEEPEST:
            raise InputError(f"Transformer: depth={depth} is too deep for per-block choices, at most {DEEPEST:,}")
        # Equal blocks must be one object, so that each is counted once.
        distinct: dict[tuple[Any, ...], BlockLike] = {}
        blocks = []
        each = _per_block("heads", heads, depth), _per_block("window", design.window, depth), self._own_choices(depth)
        for head, window, own in zip(*each, strict=False):
            key = head, window, *sorted(own.items())
            if key not in distinct:
                builder = Builder(replace(design, blocks=None, **own)) if own else self
                distinct[key] = builder.block(head, window, causal=causal, cross=cross)
            blocks.append(distinct[key])
        every = sum(heads) if isinstance(heads, Sequence) else depth * heads
        return Stack.of(blocks, norm, bias, _first_with_weights(design, depth), _contacts(design, 1, every))

    def _own_choices(self, depth: int) -> Iterable[Mapping[str, Any]]:
        """The choices of each block alone."""
        return repeat({}, depth) if self.design.blocks is None else _per_block("blocks", self.design.blocks, depth)

    def encoder(self) -> Stack | None:
        """The bidirectional stack; None if there is none."""
        design = self.design
        if design.kind == "decoder":
            return None
        stack = Builder(self.encoder_design).stack(design.encoder_depth or design.depth, causal=False)
        stride = self.encoder_design.sequence_stride
        return stack if stride is None else _with_stride(stack, stride)

    @cached_property
    def encoder_design(self) -> Design:
        """The choices of the encoder: this design's, except those that the encoder has of its own."""
        design = self.design
        return design if not design.encoder else replace(design, **{**design.encoder, "encoder": None})

    def source(self) -> Stem | None:
        """The encoder's own stem in a model of two stacks; None if one stem serves both."""
        if self.design.kind != "encoder-decoder" or self.design.source == "shared":
            return None
        made = Builder(self.encoder_design).stem()
        return made if self.design.source == "own" else made.with_shared_tokens()

    def decoder(self) -> Stack | None:
        """The causal stack; None if there is none."""
        own = self.design
        cross = own.kind == "encoder-decoder" or own.lone_decoder
        return None if own.kind == "encoder" else self.stack(own.depth, causal=True, cross=cross)

    def stem(self) -> Stem:
        """The stem, which turns the input into the residual stream."""
        return stem_of(self.outer.design, self.outer.norm_over)

    def reader(self) -> Head | None:
        """The head; None if there is none."""
        if self.outer is not self:
            return self.outer.reader()
        design = self.design
        if design.head == "projection":
            return layers.Projection(design.width, design.projection_width, design.projection_bias, design.projection_reads)
        if design.head == "patch-logits":
            return layers.PatchLogits(design.width, design.classes, self.stream_norm)
        if design.head == "attention-pooling":
            return _attention_pooling(self)
        classifies = design.head in ("classifier", "pretraining")
        pooler = _pooler(self, every=classifies and layers.ClassifierHead.reads_all(design.classifier_reads))
        if design.head == "none":
            return pooler
        classifier = None
        if classifies:
            features = pooler.outputs if pooler else design.width
            options = (design.classifier_bias, design.classifier_reads)
            classifier = layers.ClassifierHead(features, design.classes, pooler, *options)
        if design.head == "classifier":
            return classifier
        features = design.embedding_width or design.width
        unembedding = Unembedding(features, design.vocab, design.tied, design.head_bias, design.spare_bias)
        if design.head in ("masked-lm", "pretraining"):
            transform, norm = Linear(design.width, features, design.transform_bias), _in_head(self.norm_over(features))
            activation = design.head_activation or design.activation
            parts = (unembedding, transform, norm, design.logit_softcap, activation, design.head_scale)
            return LanguageHead(*parts) if classifier is None else layers.PretrainingHead(*parts, classifier)
        projection = Linear(design.width, features, bias=False) if features != design.width else None
        return LanguageHead(unembedding, projection, None, design.logit_softcap, scale=design.head_scale)

    def _head_dim(self, heads: int) -> int:
        width = self.design.width
        if not is_symbolic(width, heads):
            check_whole("Transformer", heads=heads)
            if width % heads:
                raise InputError(f"Transformer: heads={heads} does not divide width={width}; give head_dim or other heads")
        return width // heads

    def _default_heads(self) -> int:
        design = self.design
        head_dim = 64 if design.head_dim is None else design.head_dim
        check_whole("Transformer", head_dim=head_dim)
        if not is_symbolic(design.width, head_dim) and design.width % head_dim:
            raise InputError(f"Transformer: width={design.width} is not a multiple of head_dim={head_dim}; give heads")
        return design.width // head_dim


def _in_head(norm: Norm) -> Norm:
    """A norm in a head: with an epsilon in any case, as the output of an activation can be zero for a whole token."""
    return norm if norm.eps else norm.replace(eps=type(norm).eps)


def _pooler(made: Builder, *, every: bool) -> layers.Pooler | layers.PatchMean | None:
    design = made.design
    if not design.pooler:
        return None
    if design.pooler_reads == "patches":
        return layers.PatchMean(design.width, made.stream_norm)
    outputs = design.pooler_width or design.width
    norm = _in_head(made.norm_over(outputs)) if design.pooler_norm else None
    return layers.Pooler(design.width, outputs, design.pooler_activation, norm, design.pooler_bias, every)


def _attention_pooling(made: Builder) -> layers.AttentionPooling:
    """A probe with the heads and the hidden features of the blocks."""
    design = made.design
    one = Builder(replace(design, experts=None, gated=False, qk_norm="none", logit_scale=None, score_softcap=None))
    heads = design.heads if design.heads is not None else made._default_heads()
    heads = heads if isinstance(heads, int) else heads[0]
    return layers.AttentionPooling(one.attention(heads, causal=False, cross=True), made.stream_norm, one.dense_feed_forward())


def _with_stride(stack: Stack, stride: int) -> Stack:
    """A stack whose blocks between the first and the last work on every `stride`-th token."""
    last = stack.depth - 1
    blocks = (
        block if index in (0, last) else layers.SequenceAltUp(block, stride) for index, block in enumerate(stack.blocks())
    )
    return Stack.of(blocks, stack.norm, stack.position, stack.sharing, stack.contacts)


def _memory_block(builder: Builder, heads: int) -> BlockLike:
    """A block that reads features of images as wide as the stream, with norms of each head's query and key."""
    normed = Builder(replace(builder.design, qk_norm="head"))
    feed_forward = builder.feed_forward()
    if feed_forward is None:
        raise InputError("Transformer: memory_block needs a feed-forward part")
    attention = normed.attention(heads, causal=False, cross=True)
    return layers.MemoryBlock(builder.residual(attention), builder.residual(feed_forward))


def _with_laurel(block: Block, design: Design, norm: Norm) -> BlockLike:
    """The block with a low-rank residual parallel to attention, if the design has one."""
    if design.laurel is None:
        return block
    if block.attention is None or block.feed_forward is None or block.mixer is not None:
        raise InputError("Transformer: laurel needs attention and a feed-forward part in every block")
    return layers.LaurelBlock(block.attention, layers.Laurel(design.width, design.laurel, norm), block.feed_forward)


def _in_streams(block: BlockLike, design: Design, norm: Norm) -> BlockLike:
    """The block on several copies of the stream, if the design has some."""
    if design.routed_altup is not None:
        return _with_copies(block, design, norm)
    if design.altup is None:
        return block
    kind = layers.AltUp if design.altup_form == "full" else layers.RecycledAltUp
    return kind(block, design.altup, design.altup_select)


def _with_copies(block: BlockLike, design: Design, norm: Norm) -> BlockLike:
    """The block on one of several copies of the stream, with its part of the per-layer embeddings."""
    inputs, routing = design.layer_inputs, design.routed_altup or layers.AltUpRouting()
    gate = None if inputs is None else layers.LayerGate(design.width, inputs.width, design.activation, norm)
    return layers.RoutedAltUp(block, norm, routing, gate)


def _contacts(design: Design, depth: int, heads: int) -> Linear | None:
    """The map of all attention weights, which outputs one logit for each pair of tokens."""
    return Linear(depth * heads, 1) if design.contacts else None


def _first_with_weights(design: Design, depth: int) -> tuple[int, ...] | None:
    """For each block the first one with its weights; None if every block has its own."""
    groups = design.shared_groups
    return None if groups is None else shared_pattern(depth, groups, design.group_blocks)


def _content_scale(positions: str | Position, design: Design, heads: int, head_dim: int) -> float | None:
    """The factor on scores that goes with these positions; None for the usual one."""
    found = (position_of(positions, home, design, heads) for home in ("attention", "stack"))
    return next((one.content_scale(head_dim) for one in found if one is not None), None)


def _bias_table(design: Design, heads: int) -> Position | None:
    return position_of(design.score_bias or design.positions, "stack", design, heads)


def _per_block(name: str, value: Any, depth: int) -> Iterable[Any]:
    if not isinstance(value, Sequence):
        return repeat(value, depth)
    if len(value) != depth:
        raise InputError(f"Transformer: {name} has {len(value)} entries for {depth} blocks")
    return value
