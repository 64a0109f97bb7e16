"""BERT, RoBERTa with its descendants XLM-RoBERTa and CamemBERT, and DistilBERT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...design import Design
from ..family import TASK_WEIGHTS, TOKEN, Choices, Family, Part, without
from ..fields import Fields
from ..weights import in_blocks

_BERT_CHOICES = {"kind": "encoder", "positions": "learned", "placement": "post", "embedding_norm": True}
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
DEFAULTS = {
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


def absolute_positions() -> Part:
    """A sentence for old files whose positions are relative, which transformers 5 no longer builds."""

    def read(fields: Fields) -> Choices:
        if fields.values.get("position_embedding_type") not in ("absolute", None):
            raise fields.wrong("position_embedding_type", "is not supported, only 'absolute'")
        return {}

    return Part(read, lambda design: {})


def second_bias() -> Part:
    """The masked language head's two biases, which are one if it is tied; otherwise the first is not used."""
    return Part(lambda fields: {"spare_bias": not fields.flag("tie_word_embeddings")}, lambda design: {})


FIRST_BIAS = "head.unembedding.spare_bias|head.unembedding.bias"
"""The role of the first of two biases."""

DECODES = {"is_decoder": False, "add_cross_attention": False}
"""The fields that make a decoder of the encoder, with their defaults."""


def causal_mask() -> Part:
    """A causal mask by ``is_decoder``, and with ``add_cross_attention`` attention to an encoder that is not there."""

    def read(fields: Fields) -> Choices:
        decodes, crosses = fields.flag("is_decoder"), fields.flag("add_cross_attention")
        if crosses and not decodes:
            raise fields.wrong("add_cross_attention", "needs is_decoder=True")
        return {"kind": "decoder" if decodes else "encoder", "lone_decoder": crosses}

    def write(design: Design) -> dict[str, Any]:
        return {"is_decoder": design.kind == "decoder", "add_cross_attention": design.lone_decoder}

    return Part(read, write)


MASKED: Choices = {"head": "masked-lm", "head_bias": True, "pooler": False}
"""The masked language head; the class for causal ones has the same, and its mask by ``is_decoder``."""


def bert_models(prefix: str, *, pooled: bool = True, causal: str = "") -> dict[str, Choices]:
    """The models that most encoders have, and the one for causal language, whose name ends on `causal`.

    The one without a head has a pooler if `pooled`.
    """
    return {
        f"{prefix}ForMaskedLM": MASKED,
        **({f"{prefix}{causal}": MASKED} if causal else {}),
        f"{prefix}Model": {"head": "none", "pooler": pooled},
        # RoBERTa and DistilBERT keep the same linear map outside the encoder.
        f"{prefix}ForSequenceClassification": {"head": "classifier", "pooler": True},
        f"{prefix}ForTokenClassification": TOKEN,
        f"{prefix}ForQuestionAnswering": TOKEN,
        f"{prefix}ForMultipleChoice": {"head": "classifier", "pooler": True, "classes": 1},
    }


_EMBEDDING_WEIGHTS = {
    "embeddings.word_embeddings": "stem.tokens",
    "embeddings.position_embeddings": "stem.positions",
    "embeddings.token_type_embeddings": "stem.segments",
    "embeddings.LayerNorm": "stem.norm",
}
_ATTENTION = {
    "self.query": "query",
    "self.key": "key",
    "self.value": "value",
    "output.dense": "out",
    "output.LayerNorm": "norm_stream",
}


def _in_either(table: dict[str, str]) -> dict[str, str]:
    """The names in all blocks of an encoder or a decoder; the former has no cross-attention."""
    stacks = {role: ("encoder", "decoder")[role.startswith("cross") :] for role in table.values()}
    return {
        f"encoder.layer.#.{name}": "|".join(f"{stack}.block.{role}" for stack in stacks[role]) for name, role in table.items()
    }


_BERT_WEIGHTS = {
    **_EMBEDDING_WEIGHTS,
    **TASK_WEIGHTS,
    "pooler.dense": "head.pooler.linear|head.classifier.pooler.linear|head.linear",
    **_in_either(
        {
            **{f"attention.{name}": f"attention.{role}" for name, role in _ATTENTION.items()},
            **{f"crossattention.{name}": f"cross_attention.{role}" for name, role in _ATTENTION.items()},
            "intermediate.dense": "feed_forward.up",
            "output.dense": "feed_forward.down",
            "output.LayerNorm": "feed_forward.norm_stream",
        }
    ),
}


BERT = Family(
    "bert",
    defaults={**DEFAULTS, **DECODES},
    names=_BERT_NAMES,
    fixed=_BERT_CHOICES,
    models={
        **bert_models("Bert", causal="LMHeadModel"),
        "BertForPreTraining": {"head": "pretraining", "head_bias": True, "pooler": True, "classes": 2},
        "BertForNextSentencePrediction": {"head": "classifier", "pooler": True, "classes": 2},
    },
    parts=(causal_mask(), absolute_positions(), second_bias()),
    weights={
        **_BERT_WEIGHTS,
        "cls.predictions.bias": FIRST_BIAS,
        "cls.predictions.decoder": "head.unembedding",
        "cls.predictions.transform.dense": "head.transform",
        "cls.predictions.transform.LayerNorm": "head.norm",
        "cls.seq_relationship": "head.linear|head.classifier.linear",
    },
)


def _roberta_positions() -> Part:
    """Positions start after the padding token's number; the field counts the unused rows before them, too."""

    def read(fields: Fields) -> Choices:
        offset = fields.count("pad_token_id") + 1
        rows = fields.whole("max_position_embeddings")
        if rows <= offset:
            raise fields.wrong("max_position_embeddings", f"leaves no positions after {fields.spell('pad_token_id')}")
        return {"context": rows - offset, "position_offset": offset}

    def write(design: Design) -> dict[str, Any]:
        offset = design.position_offset
        return {"max_position_embeddings": design.context + offset, "pad_token_id": max(offset - 1, 0)}

    return Part(read, write)


ROBERTA = Family(
    "roberta",
    defaults={**DEFAULTS, **DECODES, "vocab_size": 50265, "pad_token_id": 1},
    names=without(_BERT_NAMES, "context"),
    fixed={**_BERT_CHOICES, "head_activation": "gelu"},  # also if the blocks have another one
    models=bert_models("Roberta", causal="ForCausalLM"),
    parts=(causal_mask(), _roberta_positions(), absolute_positions(), second_bias()),
    weights={
        **_BERT_WEIGHTS,
        "lm_head.bias": FIRST_BIAS,
        "lm_head.decoder": "head.unembedding",
        "lm_head.dense": "head.transform",
        "lm_head.layer_norm": "head.norm",
        "classifier.dense": "head.pooler.linear",
        "classifier.out_proj": "head.linear",
    },
)

XLM_ROBERTA = replace(
    ROBERTA,
    model_type="xlm-roberta",
    defaults={**ROBERTA.defaults, "vocab_size": 30522},
    models=bert_models("XLMRoberta", causal="ForCausalLM"),
    # The head precedes the table in these classes, so the shared matrix has the head's name.
    weights={**ROBERTA.weights, "lm_head.decoder": "head.unembedding|stem.tokens"},
)
CAMEMBERT = replace(XLM_ROBERTA, model_type="camembert", models=bert_models("Camembert", causal="ForCausalLM"))

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
    fixed={**_BERT_CHOICES, "norm_eps": 1e-12, "pooler_activation": "relu"},
    models=bert_models("DistilBert", pooled=False),
    weights={
        **_EMBEDDING_WEIGHTS,
        **in_blocks(
            "transformer.layer.#",
            "encoder",
            {
                "attention.q_lin": "attention.query",
                "attention.k_lin": "attention.key",
                "attention.v_lin": "attention.value",
                "attention.out_lin": "attention.out",
                "sa_layer_norm": "attention.norm_stream",
                "ffn.lin1": "feed_forward.up",
                "ffn.lin2": "feed_forward.down",
                "output_layer_norm": "feed_forward.norm_stream",
            },
        ),
        **TASK_WEIGHTS,
        "vocab_projector": "head.unembedding",
        "vocab_transform": "head.transform",
        "vocab_layer_norm": "head.norm",
        "pre_classifier": "head.pooler.linear",
    },
)
