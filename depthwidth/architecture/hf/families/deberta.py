"""DeBERTa and DeBERTa v2; v3 is a set of weights of v2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....checks import LARGEST
from ....layers import Disentangled, LayerNorm, RelativeVectors
from ....layers.disentangled_attention import score_factor
from ....layers.positions import positions_as
from ...design import Design
from ..family import Choices, Family, Part, without
from ..fields import Fields
from ..parts import usual_head_dim
from ..weights import QKV, Fused, WeightNames, in_blocks
from . import bert

_KINDS = {"c2p": "to_position", "p2c": "to_content"}
"""The words of ``pos_att_type``."""


def _words(fields: Fields) -> list[str]:
    """``pos_att_type``: a list of words, or one text in which they are separated by bars."""
    value = fields.raw("pos_att_type")
    words = value.lower().split("|") if isinstance(value, str) else value
    words = [] if words is None else words
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise fields.wrong("pos_att_type", "is not a list of words")
    words = [word.strip() for word in words]
    if len(set(words)) < len(words) or not set(words) <= set(_KINDS):
        raise fields.beyond("pos_att_type", "is not supported, only 'c2p' and 'p2c', each at most once")
    return words


def _positions(read_relative: Any, write_relative: Any) -> Part:
    """Learned positions if ``position_biased_input``, and vectors of relative positions if ``relative_attention``."""

    def read(fields: Fields) -> Choices:
        words = _words(fields)
        found: Choices = {"positions": "learned" if fields.flag("position_biased_input") else "none"}
        head_dim = fields.whole("hidden_size") // fields.whole("num_attention_heads")
        if not fields.flag("relative_attention"):
            if words:  # the library divides by the number of all words
                raise fields.beyond("relative_attention", "is not supported with a pos_att_type, only true")
            return found
        if not words:
            raise fields.beyond("pos_att_type", "leaves the vectors of relative positions without use")
        longest = fields.whole("max_relative_positions", -LARGEST)
        longest = fields.whole("max_position_embeddings") if longest < 1 else longest
        relative, norm = read_relative(fields, longest, {_KINDS[word]: True for word in words})
        vectors = RelativeVectors(relative.span, fields.whole("hidden_size"), norm)
        return {
            **found,
            "disentangled": relative,
            "score_bias": vectors,
            "logit_scale": score_factor(max(1, head_dim), relative),
        }

    def write(design: Design) -> dict[str, Any]:
        relative, learned = design.disentangled, design.positions == "learned"
        config: dict[str, Any] = {"position_biased_input": learned, "relative_attention": relative is not None}
        if relative is None:
            return config
        words = [word for word, name in _KINDS.items() if getattr(relative, name)]
        return {**config, "pos_att_type": words, **write_relative(design, relative)}

    return Part(read, write)


def _first_kind(fields: Fields, longest: int, kinds: dict[str, bool]) -> tuple[Disentangled, None]:
    kinds = dict.fromkeys(_KINDS.values(), False) | kinds
    return Disentangled(longest, **kinds, key_bias=False, sliced=True), None


def _second_kind(fields: Fields, longest: int, kinds: dict[str, bool]) -> tuple[Disentangled, LayerNorm | None]:
    buckets = fields.whole("position_buckets", -LARGEST)
    if buckets == 1 or (buckets > 0 and longest <= buckets // 2 + 1):
        raise fields.beyond("position_buckets", f"is not from 2 to below twice the {longest} relative positions")
    kinds = dict.fromkeys(_KINDS.values(), False) | kinds
    relative = Disentangled(
        buckets if buckets > 0 else longest,
        longest if buckets > 0 else None,
        **kinds,
        shared=fields.flag("share_att_key"),
    )
    words = [word.strip() for word in str(fields.raw("norm_rel_ebd")).lower().split("|")]
    normed = LayerNorm(fields.whole("hidden_size"), eps=fields.positive("layer_norm_eps")) if "layer_norm" in words else None
    return relative, normed


def _second_fields(design: Design, relative: Disentangled) -> dict[str, Any]:
    table = positions_as(RelativeVectors, design.score_bias)
    return {
        "max_relative_positions": relative.span if relative.longest is None else relative.longest,
        "position_buckets": -1 if relative.longest is None else relative.span,
        "share_att_key": relative.shared,
        "norm_rel_ebd": "none" if table is None or table.norm is None else "layer_norm",
    }


def _same_width(name: str, model: str = "") -> Part:
    """A field that is refused unless it is the width, in all classes or in those whose name has `model`."""

    def read(fields: Fields) -> Choices:
        if fields.values.get(name) not in (None, fields.raw("hidden_size")) and model in str(fields.model()):
            raise fields.beyond(name, "is not hidden_size, which no tree describes")
        return {}

    return Part(read, lambda design: {})


def _tied_head() -> Part:
    """The head's matrix is the table of tokens, by ``tie_word_embeddings`` or, if the head is not a ``legacy`` one, always."""

    def read(fields: Fields) -> Choices:
        tied = fields.flag("tie_word_embeddings") or not fields.flag("legacy")
        return {"tied": tied, "spare_bias": not tied}

    return Part(read, lambda design: {"tie_word_embeddings": design.tied})


def _models(prefix: str, *, choice: bool = False) -> dict[str, Choices]:
    found = without(bert.bert_models(prefix, pooled=False), f"{prefix}ForMultipleChoice")
    return {**found, f"{prefix}ForMultipleChoice": {"head": "classifier", "pooler": True, "classes": 1}} if choice else found


def _weights(maps: WeightNames) -> WeightNames:
    plain = {name: role for name, role in bert.BERT.weights.items() if ".attention.self." not in name}
    return {
        **plain,
        "lm_predictions.lm_head": "head.unembedding",
        "lm_predictions.lm_head.dense": "head.transform",
        "lm_predictions.lm_head.LayerNorm": "head.norm",
        "encoder.rel_embeddings": "encoder.position",
        "encoder.LayerNorm": "encoder.position.norm",
        **in_blocks("encoder.layer.#.attention.self", "encoder", maps),
    }


_CHOICES = {**without(bert.BERT.fixed, "positions")}

DEBERTA_V2 = Family(
    "deberta-v2",
    defaults={
        **bert.DEFAULTS,
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": False,
        "max_relative_positions": -1,
        "position_biased_input": True,
        "pos_att_type": None,
        "pooler_hidden_act": "gelu",
        "legacy": True,
        "position_buckets": -1,
        "share_att_key": False,
        "norm_rel_ebd": "none",
    },
    names={**without(bert.BERT.names, "tied"), "pooler_activation": "pooler_hidden_act"},
    fixed=_CHOICES,
    models=_models("DebertaV2", choice=True),
    only={"conv_kernel_size": (0,)},  # a convolution parallel to the first block
    parts=(
        _positions(_second_kind, _second_fields),
        usual_head_dim("attention_head_size"),
        _same_width("embedding_size"),
        _same_width("pooler_hidden_size", "ForSequence"),
        _same_width("pooler_hidden_size", "ForMultiple"),
        _tied_head(),
    ),
    weights=_weights(
        {
            "query_proj": "attention.query",
            "key_proj": "attention.key",
            "value_proj": "attention.value",
            "pos_key_proj": "attention.position_key",
            "pos_query_proj": "attention.position_query",
        }
    ),
)

DEBERTA = replace(
    DEBERTA_V2,
    model_type="deberta",
    defaults={
        **without(DEBERTA_V2.defaults, "position_buckets", "share_att_key", "norm_rel_ebd"),
        "vocab_size": 50265,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    fixed={**_CHOICES, "key_bias": False},
    models=_models("Deberta"),
    only={"talking_head": (False,)},
    parts=(
        _positions(_first_kind, lambda design, relative: {"max_relative_positions": relative.span}),
        _same_width("embedding_size"),
        _same_width("pooler_hidden_size", "ForSequence"),
        _tied_head(),
    ),
    weights=_weights(
        {
            "in_proj": Fused("key_groups", QKV),
            "q_bias": "attention.query",
            "v_bias": "attention.value",
            "pos_proj": "attention.position_key",
            "pos_q_proj": "attention.position_query",
        }
    ),
)
