"""T5, mT5 and umT5, encoder-decoders."""

from __future__ import annotations

from typing import Any

from ....layers import BlockRelativeBias, RelativeBias
from ....layers.positions import positions_as
from ...design import Design
from ..family import END, END_WEIGHTS, TOKEN, Choices, Family, Part
from ..fields import Fields
from ..parts import t5_feed_forward
from ..weights import WeightNames, in_blocks


def score_biased_stacks(kind: type[RelativeBias] = RelativeBias) -> Part:
    """The depths of two stacks, or of the encoder alone; and the tables of score biases, whose sizes are fields."""

    def read(fields: Fields) -> Choices:
        encoder, decoder = fields.depth("num_layers"), fields.depth_or_none("num_decoder_layers")
        buckets = fields.whole("relative_attention_num_buckets")
        distance = fields.whole("relative_attention_max_distance")
        alone = str(fields.model()).endswith(ENCODERS) or decoder in (None, encoder)
        return {
            "depth": encoder if alone else decoder,
            "encoder_depth": None if alone else encoder,
            "positions": kind(fields.whole("num_heads"), buckets, distance),
        }

    def write(design: Design) -> dict[str, Any]:
        encoder = design.encoder_depth or design.depth
        config: dict[str, Any] = {"num_layers": encoder, "num_decoder_layers": design.depth}
        table = positions_as(RelativeBias, design.positions)
        if table is not None:
            config["relative_attention_num_buckets"] = table.buckets
            config["relative_attention_max_distance"] = table.max_distance
        return config

    return Part(read, write)


ENCODERS = ("EncoderModel", "TokenClassification")
"""The ends of the names of classes that have no decoder."""


DENSE: WeightNames = {
    "DenseReluDense.wi": "feed_forward.up",
    "DenseReluDense.wi_0": "feed_forward.gate",
    "DenseReluDense.wi_1": "feed_forward.up",
    "DenseReluDense.wo": "feed_forward.down",
}


def stack_weights(stack: str, last: int, parts: WeightNames | None = None) -> WeightNames:
    """The names of one stack, whose blocks have the feed-forward part, of these `parts`, as their layer number `last`."""
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    cross: WeightNames = {
        "1.layer_norm": "cross_attention.norm_in",
        **{f"1.EncDecAttention.{name}": f"cross_attention.{role}" for name, role in names.items()},
    }
    block: WeightNames = {
        "0.layer_norm": "attention.norm_in",
        **{f"0.SelfAttention.{name}": f"attention.{role}" for name, role in names.items()},
        **(cross if stack == "decoder" else {}),
        f"{last}.layer_norm": "feed_forward.norm_in",
        **{f"{last}.{name}": role for name, role in (DENSE if parts is None else parts).items()},
    }
    return {
        f"{stack}.final_layer_norm": f"{stack}.norm",
        f"{stack}.block.#.layer.0.SelfAttention.relative_attention_bias": f"{stack}.position|{stack}.block.attention.position",
        **in_blocks(f"{stack}.block.#.layer", stack, block),
    }


def _head() -> Part:
    """A tied head, whose input is divided by the square root of the width (1.0), or one of its own (1.1).

    Transformers 5 writes ``tie_word_embeddings`` as true for both; ``scale_decoder_outputs``, if it is there, tells them apart.
    """

    def read(fields: Fields) -> Choices:
        tied = fields.flag("scale_decoder_outputs" if fields.has("scale_decoder_outputs") else "tie_word_embeddings")
        return {"tied": tied, "head_scale": float(fields.whole("d_model") ** -0.5) if tied else 1.0}

    def write(design: Design) -> dict[str, Any]:
        return {"tie_word_embeddings": design.tied}

    return Part(read, write)


def plain_head(*, scaled: bool) -> Part:
    """A tied head, whose input is divided by the square root of the width if `scaled`, or one of its own.

    The files of the published models say ``tie_word_embeddings: false``, and transformers 5 writes true into all others.
    """

    def read(fields: Fields) -> Choices:
        tied = fields.flag("tie_word_embeddings")
        return {"tied": tied, "head_scale": float(fields.whole("d_model") ** -0.5) if tied and scaled else 1.0}

    return Part(read, lambda design: {"tie_word_embeddings": design.tied})


def models(prefix: str, *, tasks: bool = True) -> dict[str, Choices]:
    """The models of both stacks, with a language head and without one, the encoder alone, and with `tasks` three for others."""
    found: dict[str, Choices] = {
        f"{prefix}ForConditionalGeneration": {"head": "lm", "kind": "encoder-decoder", "pooler": False},
        f"{prefix}Model": {"head": "none", "kind": "encoder-decoder", "pooler": False},
        f"{prefix}EncoderModel": {"head": "none", "kind": "encoder", "pooler": False},
    }
    if tasks:
        found[f"{prefix}ForSequenceClassification"] = END
        found[f"{prefix}ForTokenClassification"] = {**TOKEN, "kind": "encoder"}
        found[f"{prefix}ForQuestionAnswering"] = {**TOKEN, "kind": "encoder-decoder"}  # as many logits as there are labels
    return found


NAMES = {
    "vocab": "vocab_size",
    "context": "n_positions",
    "width": "d_model",
    "heads": "num_heads",
    "head_dim": "d_kv",
    "ffn": "d_ff",
    "dropout": "dropout_rate",
    "attention_dropout": "dropout_rate",
    "ffn_dropout": "dropout_rate",
    "norm_eps": "layer_norm_epsilon",
}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "n_positions": 512,  # the length it was trained on; nothing in the model depends on it
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": None,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}
ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
NO_DECODER: dict[str, tuple[Any, ...]] = {"is_decoder": (False,)}
"""A field that gives the class of the encoder alone a causal mask and cross-attention."""
# Scores are not scaled; the initialisation makes up for it.
FIXED = {"norm": "rmsnorm", "bias": False, "logit_scale": 1.0}
WEIGHTS: WeightNames = {
    "shared": "stem.tokens",
    "lm_head": "head.unembedding",
    "qa_outputs": "head.linear",
    "classifier": "head.linear",
    **END_WEIGHTS,
    **stack_weights("encoder", 1),
    **stack_weights("decoder", 2),
}

T5 = Family(
    "t5",
    defaults=DEFAULTS,
    names=NAMES,
    aliases=ALIASES,
    fixed=FIXED,
    models=models("T5"),
    only=NO_DECODER,
    parts=(score_biased_stacks(), t5_feed_forward(), _head()),
    weights=WEIGHTS,
    initial_rule="t5",
    initial_std=1.0,
    initial_field="initializer_factor",
)

_MULTILINGUAL = {
    **DEFAULTS,
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}

MT5 = Family(
    "mt5",
    defaults=_MULTILINGUAL,
    names=NAMES,
    aliases=ALIASES,
    fixed=FIXED,
    models=models("MT5"),
    only=NO_DECODER,
    parts=(score_biased_stacks(), t5_feed_forward(), plain_head(scaled=False)),
    weights=WEIGHTS,
    initial_rule="t5",
    initial_std=1.0,
    initial_field="initializer_factor",
)

UMT5 = Family(
    "umt5",
    defaults=_MULTILINGUAL,
    names=NAMES,
    aliases=ALIASES,
    fixed=FIXED,
    models=models("UMT5"),
    only=NO_DECODER,
    parts=(score_biased_stacks(BlockRelativeBias), t5_feed_forward(), plain_head(scaled=True)),
    weights=WEIGHTS,
    initial_rule="t5",
    initial_std=1.0,
    initial_field="initializer_factor",
)
