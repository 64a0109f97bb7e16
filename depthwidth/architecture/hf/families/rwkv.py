"""RWKV 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....layers import ChannelMix, TimeMix
from ....layers.mixer import mixer_as
from ...design import Design
from ..family import Choices, Family, Part, first_mixer
from ..fields import Fields
from ..weights import in_blocks


def _mixers() -> Part:
    def read(fields: Fields) -> Choices:
        width = fields.whole("hidden_size")
        inner = fields.whole_or_none("attention_hidden_size") or width
        hidden = fields.whole_or_none("intermediate_size") or 4 * width
        return {"mixer": TimeMix(width, inner), "channel_mixer": ChannelMix(width, hidden), "ffn": hidden}

    def write(design: Design) -> dict[str, Any]:
        mixer, channels = first_mixer(TimeMix, design), mixer_as(ChannelMix, design.channel_mixer)
        sizes = {} if mixer is None else {"attention_hidden_size": mixer.inner}
        return sizes | ({} if channels is None else {"intermediate_size": channels.hidden})

    return Part(read, write)


def _last_norm(config: Mapping[str, Any]) -> str:
    """The library leaves its default in the last norm, whatever the file says."""
    usual = RWKV.defaults["layer_norm_epsilon"]
    return "" if config.get("layer_norm_epsilon", usual) == usual else f"the last norm has an epsilon of {usual:g}"


RWKV = Family(
    "rwkv",
    defaults={
        "vocab_size": 50277,
        "context_length": 1024,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "attention_hidden_size": None,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    names={
        "vocab": "vocab_size",
        "context": "context_length",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    aliases={"max_position_embeddings": "context_length"},
    fixed={"norm": "layernorm", "embedding_norm": True, "positions": "none", "activation": "relu2", "bias": False},
    models={"RwkvForCausalLM": {"head": "lm", "pooler": False}, "RwkvModel": {"head": "none", "pooler": False}},
    parts=(_mixers(),),
    unlike=_last_norm,
    weights={
        "embeddings": "stem.tokens",
        "blocks.#.pre_ln": "stem.norm",
        "ln_out": "decoder.norm",
        "head": "head.unembedding",
        **in_blocks(
            "blocks.#",
            "decoder",
            {
                "ln1": "mixer.norm_in",
                "ln2": "feed_forward.norm_in",
                "attention.time_decay": "mixer.decay",
                "attention.time_first": "mixer.bonus",
                "attention.time_mix_key": "mixer.key_share",
                "attention.time_mix_value": "mixer.value_share",
                "attention.time_mix_receptance": "mixer.receptance_share",
                "attention.key": "mixer.key",
                "attention.value": "mixer.value",
                "attention.receptance": "mixer.receptance",
                "attention.output": "mixer.out",
                "feed_forward.time_mix_key": "feed_forward.up_share",
                "feed_forward.time_mix_receptance": "feed_forward.receptance_share",
                "feed_forward.key": "feed_forward.up",
                "feed_forward.receptance": "feed_forward.receptance",
                "feed_forward.value": "feed_forward.down",
            },
        ),
    },
    initial_rule="rwkv",
    initial_field="",
)
