"""A transformer as one flat list of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from ..checks import check_choice, check_whole
from ..errors import InputError, nearest, shown
from ..formula import is_symbolic
from ..layers import (
    PLACEMENTS,
    Position,
    RouterRule,
)
from ..layers.position_entries import check_positions
from ..layers.streams import MOST_STREAMS
from ..numerics.altup import SELECTIONS
from ..values import frozen

if TYPE_CHECKING:
    from ..layers import AltUpRouting, Disentangled, Latent, LayerInputs, Mixer, Proportional, Tree

Kind = Literal["decoder", "encoder", "encoder-decoder"]
KINDS = ("decoder", "encoder", "encoder-decoder")
NORMS = ("layernorm", "rmsnorm")
HEADS = ("lm", "masked-lm", "pretraining", "classifier", "projection", "attention-pooling", "patch-logits", "none")
MIXERS = ("attention", "none")
ATTENTION_CHOICES = (
    "kv_heads", "head_dim", "value_dim", "positions", "logit_scale", "attention_norm", "qk_norm", "chunk", "tree",
    "borrowed_keys", "attention_weights",
)  # fmt: skip
FEED_FORWARD_CHOICES = (
    "activation", "gated", "experts", "top_k", "shared_ffn", "shared_gate", "renormalized", "choice_bias",
    "sparsity",
)  # fmt: skip
BLOCK_CHOICES = ("ffn", "mixer", "memory_block", *ATTENTION_CHOICES, *FEED_FORWARD_CHOICES)
"""The choices that may differ between blocks, besides `heads` and `window`, which are sequences then."""
PROJECTIONS = ("first", "last", "always", "plain")
ENCODER_CHOICES = (
    "heads", *BLOCK_CHOICES, "width", "window", "window_positions", "blocks", "vocab", "context", "position_offset",
    "embedding_scale", "embedding_width", "mel_bins", "sequence_stride",
)  # fmt: skip
"""The choices in which an encoder may differ from its decoder, besides its depth."""
ALTUP_FORMS = ("full", "recycled")
SOURCES = ("shared", "positions", "own")
QK_NORMS = ("none", "head", "heads", "full", "unit")
ATTENTION_WEIGHTS = ("softmax", "relu")
_WORDS = {
    "kind": KINDS,
    "norm": NORMS,
    "placement": tuple(PLACEMENTS),
    "head": HEADS,
    "qk_norm": QK_NORMS,
    "attention_weights": ATTENTION_WEIGHTS,
    "embedding_projection": PROJECTIONS,
    "pooler_reads": ("first", "patches"),
    "source": SOURCES,
}
"""The choices that are one of several words."""
SCALE_INVARIANT: Mapping[str, Any] = {
    "kind": "encoder",
    "attention_weights": "relu",
    "activation": "relu",
    "norm": "layernorm",
    "norm_affine": False,
    "norm_eps": 0.0,
    "placement": "pre",
    "bias": False,
    "embedding_projection": "plain",
    "tied": False,
}
"""The choices of a scale-invariant encoder (SIBERT: Li et al. 2022, arXiv 2202.00980): ``Transformer(12, 768, **choices)``.

A positive factor on all weights of the stem and the encoder leaves the encoder's output as it is. Embedding and projection
together give the stream the degree 2 of the branches, which have no biases and a normalised input; the last norm takes it to 0.
Norms have neither weights nor an epsilon. A head is not scale invariant: its output matrix is not the token table, and its norm
has an epsilon, as ReLU may leave nothing of a token.
"""


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
    latent : sizes of multi-head latent attention; None for plain attention.
    disentangled : the parts of scores that depend on relative positions, whose vectors are `score_bias`
        (:class:`~depthwidth.layers.DisentangledAttention`); None for plain attention.
    ffn : hidden features of the feed-forward part; 4 * width by default, 0 for blocks without one.
    mixer : the branch between tokens: ``attention``, ``none``, or a component in its place, such as
        :class:`~depthwidth.layers.Mamba`, whose width is that of the design.
    attention_weights : ``softmax``, or ``relu``: positive scores over their sum, for an encoder
        (:class:`~depthwidth.layers.ReluAttention`); with the rest of :data:`SCALE_INVARIANT` the encoder is scale invariant.
    attention_gate : the output of attention is gated (:class:`~depthwidth.layers.GatedAttention`).
    channel_mixer : a component in place of the feed-forward part.
    vocab, context : number of tokens in the vocabulary, and of positions; without effect for images.
    spare_tokens : rows of the token table beyond `vocab`, whose tokens the head does not score.
    kind : ``decoder`` (causal), ``encoder`` (bidirectional) or ``encoder-decoder``.
    encoder_depth : blocks of the encoder of an encoder-decoder model; `depth` by default.
    encoder : choices of the encoder of an encoder-decoder model, over those of the decoder: names of :data:`ENCODER_CHOICES`.
    source : the stem of that encoder: ``shared`` (one stem for both stacks), ``positions`` (one table of tokens, but other
        positions and another norm), ``own``.
    positions : ``none``, a name of :data:`~depthwidth.layers.POSITION_ENTRIES` (``learned``, ``sinusoidal``, ``rotary``,
        ``alibi``, ``relative``, ``diet-rel``, ``diet-abs``, ``shaw``, ``tupe``), or a component with its options.
    position_offset : rows of a learned table in addition to `context`.
    score_bias : a :class:`~depthwidth.layers.RelativeBias` in addition to `positions` (MPNet).
    contacts : a map from the attention weights of all heads to a logit for each pair of tokens (ESM).
    norm : ``layernorm`` or ``rmsnorm``; `norm_bias`, `norm_affine`, `norm_eps` and `norm_unit_offset` are its options.
    placement : the place of norms: ``pre``, ``post``, ``sandwich`` (before and after the branch), ``output`` (after the branch,
        before the sum), ``none``.
    final_norm : a norm follows the last block; by default unless the placement is ``post`` or ``none``.
    parallel : attention and feed-forward read the same input and are added together; `shared_norm` gives them one norm.
    activation, gated : of the feed-forward part; `experts`, `top_k` and `shared_ffn` make it a mixture of experts, with
        `shared_gate` a gate that scales the shared part. With `renormalized` the router's weights of the chosen experts are
        rescaled to a sum of 1; `choice_bias`, `router_bias` and `router`, its rule, as in
        :class:`~depthwidth.layers.MixtureOfExperts`, and `up_activation` as in :class:`~depthwidth.layers.FeedForward`.
        `mixer_jitter` makes it a :class:`~depthwidth.layers.SparseMixer`.
    bias : linear maps have biases; `attention_bias` (query, key, value), `attention_out_bias` and `ffn_bias` override it.
        Without `key_bias` the key map has none in any case.
    qk_norm : ``none``, ``head`` (a norm over each head's query and key), ``heads`` (with weights for each head), ``unit``
        (without weights) or ``full`` (over all heads together).
    chunk : tokens of a chunk, within which attention stays (:class:`~depthwidth.layers.ChunkedAttention`); None for all.
    tree : the trees of tree attention (:class:`~depthwidth.layers.TreeAttention`) of an encoder; None for full attention.
    sinks : as in :class:`~depthwidth.layers.Attention`; `inner_norm` is a norm before the last matrix of every branch.
    window : number of latest positions that a query may see, None for all; a sequence gives one value per block. Without a
        causal mask it is the number on each side, the query's own included.
        `window_positions`, if given, replaces `positions` in blocks with a window (Gemma 3's two rotary bases).
    attention_norm : False if attention reads the stream itself, without the norms of the placement (ModernBERT's first block).
    value_norm : values have a norm without weights over each head (:class:`~depthwidth.layers.ValueNormAttention`).
    borrowed_keys : attention has the keys and values of an earlier block (:class:`~depthwidth.layers.BorrowedAttention`).
    sparsity : share of the hidden features that are cut to zero (:class:`~depthwidth.layers.SparseFeedForward`); 0 for none.
    laurel : rank of the learned augmented residual next to attention (:class:`~depthwidth.layers.LaurelBlock`); None for none.
    routed_altup : sizes of AltUp with coefficients from a router (:class:`~depthwidth.layers.RoutedAltUp`); None for none.
    layer_inputs : sizes of per-layer embeddings (:class:`~depthwidth.layers.LayeredStem`); None for none.
    memory_block : a block of gated cross-attention to features of images (:class:`~depthwidth.layers.MemoryBlock`).
    lone_decoder : a decoder with cross-attention, but no encoder for it (:class:`~depthwidth.layers.LoneDecoderBlock`).
    blocks : choices of single blocks, one mapping for each, over those of the whole design: names of :data:`BLOCK_CHOICES`
        (dense blocks among mixtures, blocks without positions).
    shared_groups, group_blocks : blocks that share weights (ALBERT): as many groups of blocks, each of `group_blocks`, share
        theirs in consecutive rounds through the group; None for weights of its own in every block.
    logit_scale, score_softcap, logit_softcap : see :class:`~depthwidth.layers.Attention` and the head.
    residual_scale, head_scale : factors on the output of every branch and on the input of the language head's matrix.
    layer_scale : the start of trained factors on every branch's output, one for each feature; None for none.
    altup : streams of `width` features that blocks update in turn (:class:`~depthwidth.layers.AltUp`); None for one stream. The
        embedding and the output matrix have `altup` times the width in the `altup_form` ``full``, and the width in
        ``recycled``. `altup_select` is ``alternating`` or ``same``.
    sequence_stride : blocks of an encoder between its first and its last work on every so many tokens
        (:class:`~depthwidth.layers.SequenceAltUp`); None for all.
    tied : the output matrix is the token embedding; `head_bias` gives it a bias, `spare_bias` another without effect.
    head : ``lm``, ``masked-lm`` (after BERT's transform), ``pretraining`` (that and a classifier beside it,
        :class:`~depthwidth.layers.PretrainingHead`), ``classifier`` (with `classes` outputs; `classifier_bias` and
        `classifier_reads` as in :class:`~depthwidth.layers.ClassifierHead`), ``projection`` (one token's features;
        `projection_width`, `projection_bias` and `projection_reads` as in :class:`~depthwidth.layers.Projection`),
        ``attention-pooling``, ``patch-logits`` (`classes` for each patch), ``none``. The transform has `head_activation`, by
        default the feed-forward part's, and a bias unless `transform_bias` is False.
    pooler : a pooler (with `pooler_width` features, by default the model's) reads the first token, or every token if the
        classifier does; `pooler_activation`, `pooler_norm` and `pooler_bias` as in :class:`~depthwidth.layers.Pooler`. If
        `pooler_reads` is ``patches``, it is a norm of the mean of an image's patches.
    segments, embedding_norm, embedding_width, embedding_scale : of the stem. An `embedding_width` below `width` implies a
        projection up and, for a language head, one down.
    embedding_projection : the place of that projection: ``first``, before positions and segments are added, without a bias;
        ``last``, after them and their norm, with a bias; ``always``, likewise if the embedding is not narrower, too (ALBERT);
        ``plain``, like ``always`` without a bias.
    patch, image, channels : for images: patch side, image side or (height, width), colour channels. `class_token`,
        `distillation_token`, `mask_token`, `patch_bias`, `patch_positions` and `kept_patches` as in
        :class:`~depthwidth.layers.PatchStem`.
    mel_bins : for sound: numbers of a spectrogram at each step; a stack then reads `context` positions of two steps each.
    dropout, embedding_dropout, attention_dropout, ffn_dropout : rates on branch outputs, embeddings (`dropout` by default),
        attention weights, hidden features.
    """

    depth: int
    width: int
    heads: int | Sequence[int] | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    latent: Latent | None = None
    disentangled: Disentangled | None = None
    ffn: int | None = None
    attention_weights: str = "softmax"
    attention_gate: bool = False
    mixer: str | Mixer = "attention"
    channel_mixer: Proportional | None = None
    vocab: int = 50257
    spare_tokens: int = 0
    context: int = 2048
    kind: Kind = "decoder"
    encoder_depth: int | None = None
    encoder: Mapping[str, Any] | None = None
    source: str = "shared"
    positions: str | Position = "learned"
    position_offset: int = 0
    score_bias: Position | None = None
    contacts: bool = False
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
    choice_bias: bool = False
    router_bias: bool = False
    mixer_jitter: float | None = None
    up_activation: str = "identity"
    inner_norm: bool = False
    sinks: bool = False
    chunk: int | None = None
    tree: Tree | None = None
    router: RouterRule = RouterRule()
    bias: bool = True
    attention_bias: bool | None = None
    attention_out_bias: bool | None = None
    key_bias: bool = True
    ffn_bias: bool | None = None
    qk_norm: str = "none"
    window: int | Sequence[int | None] | None = None
    window_positions: str | Position | None = None
    attention_norm: bool = True
    value_norm: bool = False
    borrowed_keys: bool = False
    sparsity: float = 0.0
    laurel: int | None = None
    routed_altup: AltUpRouting | None = None
    layer_inputs: LayerInputs | None = None
    memory_block: bool = False
    lone_decoder: bool = False
    blocks: Sequence[Mapping[str, Any]] | None = None
    shared_groups: int | None = None
    group_blocks: int = 1
    logit_scale: float | None = None
    score_softcap: float | None = None
    logit_softcap: float | None = None
    residual_scale: float = 1.0
    layer_scale: float | None = None
    altup: int | None = None
    altup_form: str = "full"
    altup_select: str = "alternating"
    sequence_stride: int | None = None
    head_scale: float = 1.0
    tied: bool = True
    head_bias: bool = False
    spare_bias: bool = False
    head: str = "lm"
    head_activation: str | None = None
    transform_bias: bool = True
    classes: int = 1000
    classifier_bias: bool = True
    classifier_reads: str = "first"
    pooler: bool = False
    pooler_width: int | None = None
    pooler_activation: str = "tanh"
    pooler_norm: bool = False
    pooler_bias: bool = True
    pooler_reads: str = "first"
    projection_width: int | None = None
    projection_bias: bool = False
    projection_reads: str = "first"
    segments: int = 0
    embedding_norm: bool = False
    embedding_width: int | None = None
    embedding_projection: str = "first"
    embedding_scale: float = 1.0
    patch: int | None = None
    image: int | tuple[int, int] = 224
    channels: int = 3
    class_token: bool = True
    distillation_token: bool = False
    mask_token: bool = False
    patch_bias: bool = True
    patch_positions: str = "learned"
    kept_patches: int | None = None
    mel_bins: int | None = None
    dropout: float = 0.0
    embedding_dropout: float | None = None
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_whole("Transformer", depth=self.depth, width=self.width, context=self.context)
        for name, known in _WORDS.items():
            check_choice("Transformer", known, **{name: getattr(self, name)})
        if isinstance(self.mixer, str):
            check_choice("Transformer", MIXERS, mixer=self.mixer)
        _check_updates(self)
        if isinstance(self.positions, str):
            check_positions("Transformer", self.positions)
        if self.encoder_depth is not None:
            check_whole("Transformer", encoder_depth=self.encoder_depth)
        _check_differences(self)
        _check_shared_norm(self)

    @property
    def attends(self) -> bool:
        """True if the mixer of a block is softmax attention."""
        return any(own.get("mixer", self.mixer) == "attention" for own in self.blocks or ({},))

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


def with_choices(design: Design, **changes: Any) -> Design:
    """The same design with some choices changed, by less work than ``dataclasses.replace`` does for so many fields."""
    return Design(**(vars(design) | changes))


def _check_differences(design: Design) -> None:
    """Refuse names of choices in which blocks, or an encoder and its decoder, cannot differ."""
    for name in {name for block in design.blocks or () for name in block}:
        if name not in BLOCK_CHOICES:
            raise InputError(f"Transformer: blocks cannot differ in {shown(name)}{nearest(str(name), BLOCK_CHOICES)}")
    _check_memory(design)
    for name in design.encoder or ():
        if name not in ENCODER_CHOICES:
            known = nearest(str(name), ENCODER_CHOICES)
            raise InputError(f"Transformer: an encoder cannot differ from its decoder in {shown(name)}{known}")


def _check_memory(design: Design) -> None:
    """Refuse spare rows of a table that is the output matrix too, and blocks that read images in a model of two stacks."""
    check_whole("Transformer", smallest=0, spare_tokens=design.spare_tokens)
    if design.spare_tokens and design.tied and design.head in ("lm", "masked-lm"):
        raise InputError("Transformer: spare_tokens are rows without an output, which tied=True gives them")
    reads = design.memory_block or any(own.get("memory_block") for own in design.blocks or ())
    if reads and design.kind != "decoder":
        raise InputError("Transformer: memory_block needs a decoder alone; two stacks have cross-attention anyway")
    if design.lone_decoder and (design.kind != "decoder" or design.parallel):
        raise InputError("Transformer: lone_decoder=True needs kind='decoder' and branches in sequence")
    others = [name for name in ("altup", "laurel", "routed_altup") if getattr(design, name)]
    if design.lone_decoder and others:
        raise InputError(f"Transformer: lone_decoder and {others[0]} are not combined; give one of them")


def _check_shared_norm(design: Design) -> None:
    """Refuse a norm shared by branches if there is no norm to share."""
    if design.shared_norm and design.placement == "none":
        raise InputError("Transformer: shared_norm=True is a norm, which placement='none' leaves out")
    if design.shared_norm and not design.parallel:
        raise InputError("Transformer: shared_norm needs parallel=True; branches in sequence have separate norms")


def _check_routed_updates(design: Design) -> None:
    """Refuse parts of Gemma 3n's blocks without the others that they need."""
    if design.routed_altup is not None and design.altup is not None:
        raise InputError("Transformer: altup and routed_altup are two forms of one method; give one of them")
    if design.layer_inputs is not None and design.routed_altup is None:
        raise InputError(
            "Transformer: layer_inputs needs routed_altup, which makes the copies of the stream that they are added to"
        )
    if design.laurel is not None and (design.parallel or design.kind == "encoder-decoder"):
        raise InputError("Transformer: laurel needs attention and a feed-forward part in sequence, in a model of one stack")


def _check_updates(design: Design) -> None:
    """Refuse alternating updates that do not fit the model."""
    check_choice("Transformer", ALTUP_FORMS, altup_form=design.altup_form)
    check_choice("Transformer", SELECTIONS, altup_select=design.altup_select)
    _check_routed_updates(design)
    if design.altup is not None:
        check_whole("Transformer", smallest=2, largest=MOST_STREAMS, altup=design.altup)
    stride = design.sequence_stride
    if stride is None:
        return
    check_whole("Transformer", smallest=2, sequence_stride=stride)
    if design.kind == "decoder":
        raise InputError("Transformer: sequence_stride applies to the blocks of an encoder, not of a decoder")
    if design.altup is not None:
        raise InputError("Transformer: altup and sequence_stride are not combined; give one of them")
    if not is_symbolic(design.context, stride) and stride > design.context:
        raise InputError(f"Transformer: sequence_stride={stride} is larger than the context of {design.context} tokens")
