"""Mamba, Falcon Mamba and Mamba 2."""

from __future__ import annotations

import math
from typing import Any

from ....layers import Mamba, Mamba2, RMSNorm
from ....layers.activation_entries import spelling_of
from ...design import Design
from ..family import Choices, Family, Part, causal, first_mixer, without
from ..fields import Fields
from ..weights import Fused, WeightNames, in_blocks

_NAMES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "norm_eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
}
_DEFAULTS = {
    "vocab_size": 50280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}
_CHOICES = {"norm": "rmsnorm", "positions": "none", "ffn": 0, "bias": False}


def step_rank(fields: Fields, name: str) -> int:
    """The rank of the map from features to steps: a whole number, or ``auto`` for a sixteenth of the width."""
    return math.ceil(fields.whole("hidden_size") / 16) if fields.raw(name) == "auto" else fields.whole(name)


def _inner(fields: Fields) -> int:
    """Features of a mixer: ``expand`` times the width, or those of an ``intermediate_size`` in the file."""
    if fields.has("intermediate_size"):
        return fields.whole("intermediate_size")
    return fields.whole("expand") * fields.whole("hidden_size")


def _mamba(*, normed: bool = False) -> Part:
    def read(fields: Fields) -> Choices:
        return {
            "mixer": Mamba(
                fields.whole("hidden_size"),
                _inner(fields),
                fields.whole("state_size"),
                step_rank(fields, "time_step_rank"),
                fields.whole("conv_kernel"),
                fields.activation("hidden_act"),
                fields.flag("use_bias"),
                fields.flag("use_conv_bias"),
                RMSNorm(1, affine=False, eps=fields.positive("mixer_rms_eps")) if normed else None,
            )
        }

    def write(design: Design) -> dict[str, Any]:
        mixer = first_mixer(Mamba, design)
        if mixer is None:
            return {}
        whole = mixer.inner % design.width == 0
        sizes = {"expand": mixer.inner // design.width} if whole else {"intermediate_size": mixer.inner}
        return sizes | {
            "state_size": mixer.state,
            "time_step_rank": mixer.rank,
            "conv_kernel": mixer.kernel,
            "hidden_act": spelling_of(mixer.activation),
            "use_bias": mixer.bias,
            "use_conv_bias": mixer.kernel_bias,
            **({"mixer_rms_eps": mixer.norm.eps} if normed and mixer.norm is not None else {}),
        }

    return Part(read, write)


MAMBA_WEIGHTS: WeightNames = {
    "in_proj": Fused("halves", ("mixer.read", "mixer.gate")),
    "conv1d": "mixer.convolution",
    "x_proj": "mixer.select",
    "dt_proj": "mixer.step",
    "dt_proj.bias": "mixer.step_bias",
    "A_log": "mixer.log_decay",
    "D": "mixer.direct",
    "out_proj": "mixer.write",
}
MAMBA2_WEIGHTS: WeightNames = {
    "in_proj": Fused("parts", ("mixer.gate", "mixer.read", "mixer.key", "mixer.query", "mixer.step")),
    "conv1d": "mixer.convolution",
    "dt_bias": "mixer.step_bias",
    "A_log": "mixer.log_decay",
    "D": "mixer.direct",
    "norm": "mixer.norm",
    "out_proj": "mixer.write",
}


def of_mixer(prefix: str, table: WeightNames, home: str = "mixer") -> WeightNames:
    """The weight names of a mixer that the library names `prefix`; `home` is its role in a block."""
    found: dict[str, str | Fused] = {}
    for name, role in table.items():
        own = role.roles if isinstance(role, Fused) else (role,)
        roles = tuple(f"{home}.{one.removeprefix('mixer.')}" for one in own)
        found[f"{prefix}.{name}"] = Fused(role.layout, roles) if isinstance(role, Fused) else roles[0]
    return found


def _weights(table: WeightNames) -> WeightNames:
    around = {"embeddings": "stem.tokens", "norm_f": "decoder.norm", "lm_head": "head.unembedding"}
    return {**around, **in_blocks("layers.#", "decoder", {"norm": "mixer.norm_in", **of_mixer("mixer", table)})}


MAMBA = Family(
    "mamba",
    defaults=_DEFAULTS,
    names=_NAMES,
    fixed=_CHOICES,
    models=causal("Mamba"),
    parts=(_mamba(),),
    weights=_weights(MAMBA_WEIGHTS),
    initial_rule="mamba",
    initial_std=0.1,
)

FALCON_MAMBA = Family(
    "falcon_mamba",
    defaults={**_DEFAULTS, "mixer_rms_eps": 1e-6},
    names=_NAMES,
    fixed=_CHOICES,
    models=causal("FalconMamba"),
    parts=(_mamba(normed=True),),
    weights=_weights(MAMBA_WEIGHTS),
    initial_rule="mamba",
    initial_std=0.1,
)


def _mamba2() -> Part:
    def read(fields: Fields) -> Choices:
        heads, head_dim = fields.whole("num_heads"), fields.whole("head_dim")
        width, groups = fields.whole("hidden_size"), fields.whole("n_groups")
        if heads * head_dim != fields.whole("expand") * width:
            raise fields.wrong("num_heads", f"times {fields.spell('head_dim')} is not {fields.spell('expand')} times the width")
        if heads % groups:
            raise fields.wrong("num_heads", f"is not a multiple of {fields.spell('n_groups')}")
        return {
            "mixer": Mamba2(
                width,
                heads,
                head_dim,
                fields.whole("state_size"),
                groups,
                fields.whole("conv_kernel"),
                fields.activation("hidden_act"),
                fields.flag("use_bias"),
                fields.flag("use_bias"),
                fields.flag("use_conv_bias"),
                eps=fields.positive("layer_norm_epsilon"),
            )
        }

    def write(design: Design) -> dict[str, Any]:
        mixer = first_mixer(Mamba2, design)
        if mixer is None:
            return {}
        return {
            "num_heads": mixer.heads,
            "head_dim": mixer.head_dim,
            "state_size": mixer.state,
            "n_groups": mixer.groups,
            "expand": max(1, mixer.inner // design.width),
            "conv_kernel": mixer.kernel,
            "hidden_act": spelling_of(mixer.activation),
            "use_bias": mixer.bias,
            "use_conv_bias": mixer.kernel_bias,
        }

    return Part(read, write)


def step_limits(config: Any) -> tuple[float, float]:
    """The least and the largest step of a configuration."""
    low, high = config.get("time_step_limit") or (0.0, math.inf)
    return float(low), float(high)


STEP_LIMITS = {
    "least_step": lambda config: step_limits(config)[0],
    "most_step": lambda config: step_limits(config)[1],
}

MAMBA2 = Family(
    "mamba2",
    defaults={
        **without(_DEFAULTS, "time_step_rank"),
        "vocab_size": 32768,
        "hidden_size": 4096,
        "state_size": 128,
        "num_hidden_layers": 64,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "tie_word_embeddings": False,
    },
    names=_NAMES,
    fixed=_CHOICES,
    models=causal("Mamba2"),
    parts=(_mamba2(),),
    weights=_weights(MAMBA2_WEIGHTS),
    settings=STEP_LIMITS,
    initial_rule="mamba2",
    initial_std=0.1,
)
