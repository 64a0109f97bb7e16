"""A transformer as one flat list of choices, and the components that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import repeat
from typing import Any, Literal

from ..checks import check_choice, check_whole
from ..errors import InputError, nearest, shown
from ..formula import is_symbolic
from ..layers import (
    PLACEMENTS,
    ALiBi,
    Attention,
    Block,
    Branch,
    ClassifierHead,
    Embedding,
    FeedForward,
    Head,
    LanguageHead,
    LayerNorm,
    LearnedPositions,
    Linear,
    MixtureOfExperts,
    Norm,
    PatchStem,
    Pooler,
    Position,
    RelativeBias,
    Repeat,
    Residual,
    RMSNorm,
    Rotary,
    SinusoidalPositions,
    Stack,
    Stem,
    TokenStem,
    Unembedding,
)
from ..values import frozen

Kind = Literal["decoder", "encoder", "encoder-decoder"]
KINDS = ("decoder", "encoder", "encoder-decoder")
NORMS = ("layernorm", "rmsnorm")
HEADS = ("lm", "masked-lm", "classifier", "none")
QK_NORMS = ("none", "head", "full")

_DEEPEST = 100_000  # a block with other heads or another window than its neighbour is a separate node


@frozen
class Design:
    """All choices of a transformer.

    Parameters
    ----------
    depth : number of blocks (of the decoder, in an encoder-decoder model).
    width : features of the residual stream.
    heads : query heads per block; width / head_dim by default. A sequence gives one value per block.
    kv_heads : key and value heads; as many as `heads` by default, fewer for grouped-query, 1 for multi-query attention.
    head_dim : dimensions of a query or key; width / heads by default, 64 when neither is given.
    value_dim : dimensions of a value; `head_dim` by default.
    ffn : hidden features of the feed-forward part; 4 * width by default.
    vocab, context : number of tokens in the vocabulary, and of positions; without effect for images.
    kind : ``decoder`` (causal), ``encoder`` (bidirectional) or ``encoder-decoder``.
    encoder_depth : blocks of the encoder of an encoder-decoder model; `depth` by default.
    positions : ``learned``, ``sinusoidal``, ``rotary``, ``alibi``, ``relative``, ``none``, or a component with its options.
    position_offset : rows of a learned table in addition to `context`.
    norm : ``layernorm`` or ``rmsnorm``; `norm_bias`, `norm_affine`, `norm_eps` and `norm_unit_offset` are its options.
    placement : the place of norms: ``pre``, ``post``, ``sandwich`` (before and after the branch), ``output`` (after the branch,
        before the sum).
    final_norm : a norm follows the last block; by default unless the placement is ``post``.
    parallel : attention and feed-forward read the same input and are added together; `shared_norm` gives them one norm.
    activation, gated : of the feed-forward part; `experts`, `top_k` and `shared_ffn` make it a mixture of experts, with
        `shared_gate` a gate that scales the shared part. With `renormalized` the router's weights of the chosen experts are
        rescaled to a sum of 1.
    bias : linear maps have biases; `attention_bias` (query, key, value), `attention_out_bias` and `ffn_bias` override it.
    qk_norm : ``none``, ``head`` (a norm over each head's query and key) or ``full`` (over all heads together).
    window : number of latest positions that a query may see, None for all; a sequence gives one value per block.
        `window_positions`, if given, replaces `positions` in blocks with a window (Gemma 3's two rotary bases).
    logit_scale, score_softcap, logit_softcap : see :class:`~depthwidth.layers.Attention` and the head.
    tied : the output matrix is the token embedding; `head_bias` gives it a bias.
    head : ``lm``, ``masked-lm`` (after BERT's transform), ``classifier`` (with `classes` outputs), ``none``. The transform has
        `head_activation`, by default the feed-forward part's.
    pooler : a pooler (with `pooler_width` features, by default the model's) reads the first token.
    segments, embedding_norm, embedding_width, embedding_scale : of the stem. An `embedding_width` below `width` implies a
        projection up and, for a language head, one down.
    patch, image, channels : for images: patch side, image side or (height, width), colour channels.
    dropout, embedding_dropout, attention_dropout, ffn_dropout : rates on branch outputs, embeddings (`dropout` by default),
        attention weights, hidden features.
    """

    depth: int
    width: int
    heads: int | Sequence[int] | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    ffn: int | None = None
    vocab: int = 50257
    context: int = 2048
    kind: Kind = "decoder"
    encoder_depth: int | None = None
    positions: str | Position = "learned"
    position_offset: int = 0
    norm: str = "layernorm"
    norm_bias: bool = True
    norm_affine: bool = True
    norm_eps: float = 1e-5
    norm_unit_offset: bool = False
    placement: str = "pre"
    final_norm: bool | None = None
    parallel: bool = False
    shared_norm: bool = False
    activation: str = "gelu"
    gated: bool = False
    experts: int | None = None
    top_k: int = 2
    shared_ffn: int | None = None
    shared_gate: bool = False
    renormalized: bool = True
    bias: bool = True
    attention_bias: bool | None = None
    attention_out_bias: bool | None = None
    ffn_bias: bool | None = None
    qk_norm: str = "none"
    window: int | Sequence[int | None] | None = None
    window_positions: Position | None = None
    logit_scale: float | None = None
    score_softcap: float | None = None
    logit_softcap: float | None = None
    tied: bool = True
    head_bias: bool = False
    head: str = "lm"
    head_activation: str | None = None
    classes: int = 1000
    pooler: bool = False
    pooler_width: int | None = None
    segments: int = 0
    embedding_norm: bool = False
    embedding_width: int | None = None
    embedding_scale: float = 1.0
    patch: int | None = None
    image: int | tuple[int, int] = 224
    channels: int = 3
    dropout: float = 0.0
    embedding_dropout: float | None = None
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_whole("Transformer", depth=self.depth, width=self.width, context=self.context)
        check_choice("Transformer", KINDS, kind=self.kind)
        check_choice("Transformer", NORMS, norm=self.norm)
        check_choice("Transformer", tuple(PLACEMENTS), placement=self.placement)
        check_choice("Transformer", HEADS, head=self.head)
        check_choice("Transformer", QK_NORMS, qk_norm=self.qk_norm)
        if isinstance(self.positions, str):
            check_choice("Transformer", (*_POSITIONS, "none"), positions=self.positions)
        if self.encoder_depth is not None:
            check_whole("Transformer", encoder_depth=self.encoder_depth)
        if self.shared_norm and not self.parallel:
            raise InputError("Transformer: shared_norm needs parallel=True; branches in sequence have separate norms")

    @classmethod
    def of(cls, **choices: Any) -> Design:
        """A design from named choices.

        Raises
        ------
        InputError
            if a name is unknown, or depth or width is missing.
        """
        names = [field.name for field in fields(cls)]
        for name in choices:
            if name not in names:
                raise InputError(f"Transformer: there is no option {shown(name)}{nearest(name, names)}")
        for name in ("depth", "width"):
            if name not in choices:
                raise InputError(f"Transformer: {name} is missing")
        return cls(**choices)

    # The components, from the smallest to the largest.

    def norm_over(self, features: int, groups: int = 1) -> Norm:
        """A norm of this design's kind over `features`."""
        if self.norm == "layernorm":
            return LayerNorm(features, groups, self.norm_affine, self.norm_eps, bias=self.norm_bias)
        return RMSNorm(features, groups, self.norm_affine, self.norm_eps, self.norm_unit_offset)

    def attention(self, heads: int, window: int | None = None, *, causal: bool, cross: bool = False) -> Attention:
        """Self-attention of a block, or the cross-attention of a decoder's."""
        head_dim = self._head_dim(heads) if self.head_dim is None else self.head_dim
        kv_heads = heads if self.kv_heads is None else self.kv_heads
        positions = self.positions if window is None or self.window_positions is None else self.window_positions
        query_norm = key_norm = None
        if self.qk_norm == "head":
            query_norm, key_norm = self.norm_over(head_dim, heads), self.norm_over(head_dim, kv_heads)
        elif self.qk_norm == "full":
            query_norm, key_norm = self.norm_over(head_dim * heads), self.norm_over(head_dim * kv_heads)
        return Attention(
            width=self.width,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=head_dim if self.value_dim is None else self.value_dim,
            causal=causal,
            window=window,
            position=None if cross else _position(positions, "attention", self),
            bias=self.bias if self.attention_bias is None else self.attention_bias,
            out_bias=self.bias if self.attention_out_bias is None else self.attention_out_bias,
            query_norm=query_norm,
            key_norm=key_norm,
            scale=self.logit_scale,
            softcap=self.score_softcap,
            memory_width=self.width if cross else None,
            dropout=self.attention_dropout,
        )

    def feed_forward(self) -> FeedForward | MixtureOfExperts:
        """The feed-forward part of a block."""

        def dense(hidden: int) -> FeedForward:
            bias = self.bias if self.ffn_bias is None else self.ffn_bias
            return FeedForward(self.width, hidden, self.activation, self.gated, bias, self.ffn_dropout)

        expert = dense(4 * self.width if self.ffn is None else self.ffn)
        if self.experts is None:
            return expert
        shared = None if self.shared_ffn is None else dense(self.shared_ffn)
        return MixtureOfExperts(expert, self.experts, self.top_k, shared, self.shared_gate, self.renormalized)

    def residual(self, branch: Branch) -> Residual:
        """A branch with the norms of this design's placement."""
        places = () if self.shared_norm else PLACEMENTS[self.placement]
        norms = {place: self.norm_over(self.width) for place in places}
        return Residual(
            branch,
            norm_in=norms.get("norm_in"),
            norm_out=norms.get("norm_out"),
            norm_stream=norms.get("norm_stream"),
            dropout=self.dropout,
        )

    def block(self, heads: int, window: int | None = None, *, causal: bool, cross: bool = False) -> Block:
        """One block."""
        return Block(
            attention=self.residual(self.attention(heads, window, causal=causal)),
            feed_forward=self.residual(self.feed_forward()),
            cross_attention=self.residual(self.attention(heads, causal=False, cross=True)) if cross else None,
            parallel=self.parallel,
            norm=self.norm_over(self.width) if self.shared_norm else None,
        )

    def stack(self, depth: int, *, causal: bool, cross: bool = False) -> Stack:
        """The blocks of an encoder (not causal) or a decoder (causal, with cross-attention if there is an encoder)."""
        heads = self.heads if self.heads is not None else self._default_heads()
        final = self.placement != "post" if self.final_norm is None else self.final_norm
        norm = self.norm_over(self.width) if final else None
        bias = _bias_table(self, heads[0] if isinstance(heads, Sequence) else heads)
        if not isinstance(heads, Sequence) and not isinstance(self.window, Sequence):
            return Stack((Repeat(self.block(heads, self.window, causal=causal, cross=cross), depth),), norm, bias)
        if depth > _DEEPEST:
            raise InputError(f"Transformer: depth={depth} is too deep for per-block choices, at most {_DEEPEST:,}")
        # Equal blocks must be one object, so that each is counted once.
        distinct: dict[tuple[int, int | None], Block] = {}
        blocks = []
        for key in zip(_per_block("heads", heads, depth), _per_block("window", self.window, depth), strict=False):
            if key not in distinct:
                distinct[key] = self.block(*key, causal=causal, cross=cross)
            blocks.append(distinct[key])
        return Stack.of(blocks, norm, bias)

    def encoder(self) -> Stack | None:
        """The bidirectional stack; None if there is none."""
        return None if self.kind == "decoder" else self.stack(self.encoder_depth or self.depth, causal=False)

    def decoder(self) -> Stack | None:
        """The causal stack; None if there is none."""
        return None if self.kind == "encoder" else self.stack(self.depth, causal=True, cross=self.kind == "encoder-decoder")

    def stem(self) -> Stem:
        """The stem, which turns the input into the residual stream."""
        dropout = self.dropout if self.embedding_dropout is None else self.embedding_dropout
        if self.patch is not None:
            height, width = self.image if isinstance(self.image, Sequence) else (self.image, self.image)
            return PatchStem(height, width, self.patch, self.channels, self.width, dropout=dropout)
        features = self.embedding_width or self.width
        return TokenStem(
            tokens=Embedding(self.vocab, features),
            positions=_position(self.positions, "stem", self),
            segments=Embedding(self.segments, self.width) if self.segments else None,
            norm=self.norm_over(self.width) if self.embedding_norm else None,
            projection=Linear(features, self.width, bias=False) if features != self.width else None,
            scale=self.embedding_scale,
            dropout=dropout,
        )

    def reader(self) -> Head | None:
        """The head; None if there is none."""
        pooler = Pooler(self.width, self.pooler_width or self.width) if self.pooler else None
        if self.head == "none":
            return pooler
        if self.head == "classifier":
            return ClassifierHead(pooler.outputs if pooler else self.width, self.classes, pooler)
        features = self.embedding_width or self.width
        unembedding = Unembedding(features, self.vocab, self.tied, self.head_bias)
        if self.head == "masked-lm":
            transform, norm = Linear(self.width, features), self.norm_over(features)
            return LanguageHead(unembedding, transform, norm, self.logit_softcap, self.head_activation or self.activation)
        projection = Linear(self.width, features, bias=False) if features != self.width else None
        return LanguageHead(unembedding, projection, None, self.logit_softcap)

    def _head_dim(self, heads: int) -> int:
        if not is_symbolic(self.width, heads):
            check_whole("Transformer", heads=heads)
            if self.width % heads:
                raise InputError(f"Transformer: heads={heads} does not divide width={self.width}; give head_dim or other heads")
        return self.width // heads

    def _default_heads(self) -> int:
        head_dim = 64 if self.head_dim is None else self.head_dim
        check_whole("Transformer", head_dim=head_dim)
        if not is_symbolic(self.width, head_dim) and self.width % head_dim:
            raise InputError(f"Transformer: width={self.width} is not a multiple of head_dim={head_dim}; give heads")
        return self.width // head_dim


_POSITIONS: dict[str, Callable[[Design, int], Position]] = {
    "learned": lambda design, heads: LearnedPositions(design.context, design.width, design.position_offset),
    "sinusoidal": lambda design, heads: SinusoidalPositions(),
    "rotary": lambda design, heads: Rotary(),
    "alibi": lambda design, heads: ALiBi(),
    "relative": lambda design, heads: RelativeBias(heads),
}


def _position(positions: str | Position, home: str, design: Design, heads: int = 1) -> Position | None:
    """The component of a design's positions, if this part of a model is its home."""
    if positions == "none":
        return None
    component = _POSITIONS[positions](design, heads) if isinstance(positions, str) else positions
    return component if component.home == home else None


def _bias_table(design: Design, heads: int) -> RelativeBias | None:
    table = _position(design.positions, "stack", design, heads)
    return None if table is None else table.replace(heads=heads)


def _per_block(name: str, value: Any, depth: int) -> Iterable[Any]:
    if not isinstance(value, Sequence):
        return repeat(value, depth)
    if len(value) != depth:
        raise InputError(f"Transformer: {name} has {len(value)} entries for {depth} blocks")
    return value
