"""T5, an encoder-decoder."""

from __future__ import annotations

from typing import Any

from ....layers import RelativeBias
from ....layers.positions import positions_as
from ...design import Design
from ..family import Choices, Family, Part
from ..fields import Fields
from ..parts import t5_feed_forward
from ..weights import WeightNames, in_blocks


def _t5_stacks() -> Part:
    """The depths of two stacks, or of the encoder alone; and the table of score biases, whose sizes are fields."""

    def read(fields: Fields) -> Choices:
        encoder, decoder = fields.depth("num_layers"), fields.depth_or_none("num_decoder_layers")
        buckets = fields.whole("relative_attention_num_buckets")
        distance = fields.whole("relative_attention_max_distance")
        alone = fields.model() == "T5EncoderModel" or decoder in (None, encoder)
        return {
            "depth": encoder if alone else decoder,
            "encoder_depth": None if alone else encoder,
            "positions": RelativeBias(fields.whole("num_heads"), buckets, distance),
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


def _stack_weights(stack: str, last: int) -> WeightNames:
    """The names of one stack, whose blocks have the feed-forward part as their layer number `last`."""
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
        f"{last}.DenseReluDense.wi": "feed_forward.up",
        f"{last}.DenseReluDense.wi_0": "feed_forward.gate",
        f"{last}.DenseReluDense.wi_1": "feed_forward.up",
        f"{last}.DenseReluDense.wo": "feed_forward.down",
    }
    return {
        f"{stack}.final_layer_norm": f"{stack}.norm",
        f"{stack}.block.#.layer.0.SelfAttention.relative_attention_bias": f"{stack}.position",
        **in_blocks(f"{stack}.block.#.layer", stack, block),
    }


def _t5_head() -> Part:
    """A tied head, whose input is divided by the square root of the width (1.0), or one of its own (1.1).

    Transformers 5 writes ``tie_word_embeddings`` as true for both; ``scale_decoder_outputs``, if it is there, tells them apart.
    """

    def read(fields: Fields) -> Choices:
        tied = fields.flag("scale_decoder_outputs" if fields.has("scale_decoder_outputs") else "tie_word_embeddings")
        return {"tied": tied, "head_scale": float(fields.whole("d_model") ** -0.5) if tied else 1.0}

    def write(design: Design) -> dict[str, Any]:
        return {"tie_word_embeddings": design.tied}

    return Part(read, write)


T5 = Family(
    "t5",
    defaults={
        "vocab_size": 32128,
        "n_positions": 512,  # what it was trained on; nothing in the model depends on it
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
    },
    names={
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
    },
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    # Scores are not scaled; the initialisation makes up for it.
    fixed={"norm": "rmsnorm", "bias": False, "logit_scale": 1.0},
    models={
        "T5ForConditionalGeneration": {"head": "lm", "kind": "encoder-decoder", "pooler": False},
        "T5Model": {"head": "none", "kind": "encoder-decoder", "pooler": False},
        "T5EncoderModel": {"head": "none", "kind": "encoder", "pooler": False},
    },
    parts=(_t5_stacks(), t5_feed_forward(), _t5_head()),
    weights={
        "shared": "stem.tokens",
        "lm_head": "head.unembedding",
        **_stack_weights("encoder", 1),
        **_stack_weights("decoder", 2),
    },
    initial_rule="t5",
    initial_std=1.0,
)
