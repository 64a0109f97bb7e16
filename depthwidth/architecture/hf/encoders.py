"""Encoder families, for text and for images, and the encoder-decoder family T5."""

from __future__ import annotations

from typing import Any

from ...layers import RelativeBias
from ..design import Design
from .family import Choices, Family, Part
from .fields import Fields
from .parts import t5_feed_forward

_ENCODER = {"kind": "encoder"}
_BERT_CHOICES = {**_ENCODER, "positions": "learned", "placement": "post", "embedding_norm": True}
_BERT_NAMES = {
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "segments": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
    "tied": "tie_word_embeddings",
}
_BERT_DEFAULTS = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
}
_BERT_ONLY = {"is_decoder": (False,), "add_cross_attention": (False,)}


def _bert_models(prefix: str, *, pooled: bool = True) -> dict[str, Choices]:
    return {
        f"{prefix}ForMaskedLM": {"head": "masked-lm", "head_bias": True, "pooler": False},
        f"{prefix}Model": {"head": "none", "pooler": pooled},
        # RoBERTa and DistilBERT keep the classifier's extra linear map outside the encoder; it is the same one.
        f"{prefix}ForSequenceClassification": {"head": "classifier", "pooler": True},
    }


BERT = Family(
    "bert",
    defaults=_BERT_DEFAULTS,
    names=_BERT_NAMES,
    fixed=_BERT_CHOICES,
    models=_bert_models("Bert"),
    only=_BERT_ONLY,
)


def _roberta_positions() -> Part:
    """Positions start after the padding token's number, and its table counts the rows before them."""

    def read(fields: Fields) -> Choices:
        offset = fields.count("pad_token_id") + 1
        rows = fields.whole("max_position_embeddings")
        if rows <= offset:
            raise fields.wrong("max_position_embeddings", f"leaves no positions after {fields.said('pad_token_id')}")
        return {"context": rows - offset, "position_offset": offset}

    def write(design: Design) -> dict[str, Any]:
        offset = design.position_offset
        return {"max_position_embeddings": design.context + offset, "pad_token_id": max(offset - 1, 0)}

    return Part(read, write)


ROBERTA = Family(
    "roberta",
    defaults={**_BERT_DEFAULTS, "vocab_size": 50265, "pad_token_id": 1},
    names={choice: name for choice, name in _BERT_NAMES.items() if choice != "context"},
    fixed={**_BERT_CHOICES, "head_activation": "gelu"},  # whatever the blocks have
    models=_bert_models("Roberta"),
    only=_BERT_ONLY,
    parts=(_roberta_positions(),),
)

DISTILBERT = Family(
    "distilbert",
    defaults={
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "n_layers": 6,
        "n_heads": 12,
        "dim": 768,
        "hidden_dim": 3072,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation": "gelu",
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "dim",
        "depth": "n_layers",
        "heads": "n_heads",
        "ffn": "hidden_dim",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "tied": "tie_word_embeddings",
    },
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    fixed={**_BERT_CHOICES, "norm_eps": 1e-12},
    models=_bert_models("DistilBert", pooled=False),
)


def _image() -> Part:
    """``image_size`` and ``patch_size``: one number, or height and width; patches are square."""

    def sides(fields: Fields, name: str) -> tuple[int, int]:
        value = fields.raw(name)
        pair = value if isinstance(value, (list, tuple)) else [value, value]
        one = Fields(fields.model_type, {name: pair[0] if pair else None}, {}, {})
        two = Fields(fields.model_type, {name: pair[-1] if pair else None}, {}, {})
        if len(pair) != 2:
            raise fields.wrong(name, "is not one number or a height and a width")
        return one.whole(name), two.whole(name)

    def read(fields: Fields) -> Choices:
        image, (patch, other) = sides(fields, "image_size"), sides(fields, "patch_size")
        if patch != other:
            raise fields.wrong("patch_size", "is not supported, only square patches")
        if patch > min(image):
            raise fields.wrong("patch_size", f"is larger than {fields.said('image_size')}")
        return {"image": image, "patch": patch}

    def write(design: Design) -> dict[str, Any]:
        image = design.image if isinstance(design.image, tuple) else (design.image, design.image)
        return {"image_size": image[0] if image[0] == image[1] else list(image), "patch_size": design.patch}

    return Part(read, write)


VIT = Family(
    "vit",
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
        "pooler_output_size": None,
    },
    names={
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "norm_eps": "layer_norm_eps",
        "channels": "num_channels",
        "attention_bias": "qkv_bias",
        "pooler_width": "pooler_output_size",
    },
    fixed={**_ENCODER, "positions": "none"},  # the patches' own table of positions is part of the stem
    models={
        "ViTForImageClassification": {"head": "classifier", "pooler": False},
        "ViTModel": {"head": "none", "pooler": True},
    },
    parts=(_image(),),
)


def _t5_stacks() -> Part:
    """Two depths for two stacks, one for the encoder alone; and the table of score biases, whose sizes are fields."""

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
        if isinstance(design.positions, RelativeBias):
            config["relative_attention_num_buckets"] = design.positions.buckets
            config["relative_attention_max_distance"] = design.positions.max_distance
        return config

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
        "tied": "tie_word_embeddings",
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
    parts=(_t5_stacks(), t5_feed_forward()),
)

ENCODERS = (BERT, ROBERTA, DISTILBERT, VIT, T5)
