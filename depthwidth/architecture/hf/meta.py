"""Meta's ``params.json``, the file published with the weights of Llama, as a configuration of the family ``llama``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .fields import Fields

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000, "multiple_of": 256, "n_kv_heads": None, "ffn_dim_multiplier": 1.0, "norm_eps": 1e-5,
    "rope_theta": 10000.0,
}  # fmt: skip


def is_params(config: Mapping[str, Any]) -> bool:
    """True if a file without a model type has the fields of Meta's."""
    return "model_type" not in config and all(name in config for name in ("dim", "n_layers", "n_heads"))


def llama_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the library for Meta's fields. The file has no context; it is that of the library's default.

    The hidden features are 8/3 of the width, times a factor if the file has one, rounded up to a multiple.

    Raises
    ------
    InputError
        if a field is invalid.

    >>> llama_of({"dim": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": -1, "multiple_of": 256})["intermediate_size"]
    11008
    """
    fields = Fields("params.json", config, _DEFAULTS, {})
    # The first two generations leave the vocabulary to the tokenizer.
    vocab = _DEFAULTS["vocab_size"] if fields.raw("vocab_size") == -1 else fields.whole("vocab_size")
    width, multiple = fields.whole("dim"), fields.whole("multiple_of")
    exact = (
        int(fields.positive("ffn_dim_multiplier") * (8 * width // 3)) if fields.has("ffn_dim_multiplier") else 8 * width // 3
    )
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": fields.depth("n_layers"),
        "num_attention_heads": fields.whole("n_heads"),
        "num_key_value_heads": fields.whole_or_none("n_kv_heads"),
        "intermediate_size": multiple * max(1, -(-exact // multiple)),
        "vocab_size": vocab,
        "rms_norm_eps": fields.positive("norm_eps"),
        "rope_theta": fields.positive("rope_theta"),
    }
