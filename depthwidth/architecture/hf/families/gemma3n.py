"""The text stack of Gemma 3n."""

from __future__ import annotations

from typing import Any

from ....layers import AltUpRouting, LayerInputs
from ....layers.streams import MOST_STREAMS
from ...design import Design
from ..family import Choices, Family, Part, every_block, per_block, without
from ..fields import Fields, as_number
from ..parts import scaled_embedding, two_ropes, windows
from ..rope import FULL, SLIDING
from ..weights import WeightNames
from .gemma import GEMMA2_BLOCK, GEMMA2_DEFAULTS, GEMMA2_NAMES
from .llama import LLAMA_CHOICES, QK_NORM_WEIGHTS, llama_weights

_SPARSE, _SPARSITY = 10, 0.95
"""By default so many first blocks of a deeper model cut so large a share of their hidden features."""


def _has_window(fields: Fields, block: int) -> bool:
    """True for a block with a window: four of five have one."""
    return (block + 1) % 5 != 0


def _widths(fields: Fields, depth: int) -> list[int]:
    """Hidden features of each block: one number for all, or a list."""
    listed = fields.raw("intermediate_size")
    if not isinstance(listed, (list, tuple)):
        return [fields.whole("intermediate_size")] * depth
    if len(listed) != depth:
        raise fields.wrong("intermediate_size", f"is not a list of {depth} numbers, one for each block")
    each = [Fields(fields.model_type, {"intermediate_size": one}, fields.defaults, {}) for one in listed]
    return [one.whole("intermediate_size") for one in each]


def _sparsities(fields: Fields, depth: int) -> list[float]:
    """Share of the hidden features that each block cuts to zero."""
    listed = fields.raw("activation_sparsity_pattern")
    if listed is None:
        first = _SPARSE if depth > _SPARSE else 0
        return [_SPARSITY] * first + [0.0] * (depth - first)
    numbers = [as_number(one) for one in listed] if isinstance(listed, (list, tuple)) else []
    if len(numbers) != depth or not all(0 <= one < 1 for one in numbers):
        raise fields.wrong("activation_sparsity_pattern", f"is not a list of {depth} numbers in [0, 1), one for each block")
    return numbers


def _borrows(fields: Fields, depth: int) -> list[bool]:
    """True for each block with the keys and values of an earlier one: the last ``num_kv_shared_layers``."""
    shared = fields.count("num_kv_shared_layers")
    words = fields.words("layer_types", (FULL, SLIDING), depth)
    kinds = words or [SLIDING if _has_window(fields, block) else FULL for block in range(depth)]
    if shared and set(kinds[: max(depth - shared, 0)]) != set(kinds):
        raise fields.wrong("num_kv_shared_layers", "leaves no block of the same kind whose keys and values the last ones share")
    return [block >= depth - shared for block in range(depth)]


def _blocks() -> Part:
    """Blocks that differ in their hidden features, in the share of them that they cut, and in the block that gives keys."""

    def read(fields: Fields) -> Choices:
        depth = fields.depth("num_hidden_layers")
        widths, sparsities, borrows = _widths(fields, depth), _sparsities(fields, depth), _borrows(fields, depth)
        own = tuple(
            {
                **({} if width == widths[0] else {"ffn": width}),
                **({"sparsity": sparsity} if sparsity else {}),
                **({"borrowed_keys": True} if borrowed else {}),
            }
            for width, sparsity, borrowed in zip(widths, sparsities, borrows, strict=True)
        )
        return {"ffn": widths[0], "blocks": own if any(own) else None}

    def write(design: Design) -> dict[str, Any]:
        each = every_block(design)
        return {
            "intermediate_size": [one.ffn for one in each],
            "activation_sparsity_pattern": [one.sparsity for one in each],
            "num_kv_shared_layers": sum(one.borrowed_keys for one in each),
        }

    return Part(read, write)


def _streams() -> Part:
    """AltUp, Laurel and per-layer embeddings."""

    def read(fields: Fields) -> Choices:
        streams = fields.whole("altup_num_inputs", 2, MOST_STREAMS)
        active, clip = fields.whole("altup_active_idx", 0, streams - 1), fields.positive_or_none("altup_coef_clip")
        return {
            "routed_altup": AltUpRouting(streams, active, clip),
            "laurel": fields.whole("laurel_rank"),
            "layer_inputs": LayerInputs(
                fields.whole("vocab_size_per_layer_input"), fields.whole("hidden_size_per_layer_input")
            ),
        }

    def write(design: Design) -> dict[str, Any]:
        routing, inputs = design.routed_altup, design.layer_inputs
        if routing is None or inputs is None:
            return {}
        # The library's class takes no null, which a design without a head or without windows has.
        unused = {"final_logit_softcapping": 30.0} if design.head == "none" else {}
        unused |= {} if any(per_block(design.window, design.depth)) else {"sliding_window": 512}
        return unused | {
            "altup_num_inputs": routing.streams,
            "altup_active_idx": routing.active,
            "altup_coef_clip": routing.clip,
            "laurel_rank": design.laurel,
            "vocab_size_per_layer_input": inputs.vocab,
            "hidden_size_per_layer_input": inputs.width,
        }

    return Part(read, write)


_INNER: WeightNames = {
    name: "|".join(f"inner.{one}" for one in str(role).split("|")) for name, role in {**GEMMA2_BLOCK, **QK_NORM_WEIGHTS}.items()
}
_WEIGHTS = {
    **llama_weights(
        {
            **_INNER,
            "laurel.linear_left": "inner.laurel.left",
            "laurel.linear_right": "inner.laurel.right",
            "laurel.post_laurel_norm": "inner.laurel.norm",
            "altup.router_norm": "router_norm",
            "altup.modality_router": "router",
            "altup.prediction_coefs": "predict",
            "altup.correction_coefs": "correct",
            "altup.correct_output_scale": "gate.scale",
            "per_layer_input_gate": "gate.gate",
            "per_layer_projection": "gate.write",
            "post_per_layer_input_norm": "gate.norm",
        }
    ),
    "embed_tokens_per_layer": "stem.layer_tokens",
    "per_layer_model_projection": "stem.layer_projection",
    "per_layer_projection_norm": "stem.layer_norm",
    "altup_projections.#": "decoder.copies.make_#",
    "altup_unembed_projections.#": "decoder.copies.join_#",
}

GEMMA3N = Family(
    "gemma3n_text",
    defaults={
        **without(GEMMA2_DEFAULTS, "query_pre_attn_scalar", "attn_logit_softcapping"),
        "vocab_size": 262400,
        "vocab_size_per_layer_input": 262144,
        "hidden_size": 2048,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": 16384,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "altup_num_inputs": 4,
        "altup_active_idx": 0,
        "altup_coef_clip": 120.0,
        "num_kv_shared_layers": 15,
        "laurel_rank": 64,
        "activation_sparsity_pattern": None,
    },
    names=without(GEMMA2_NAMES, "ffn", "score_softcap"),
    fixed={**LLAMA_CHOICES, "placement": "sandwich", "qk_norm": "head", "value_norm": True, "logit_scale": 1.0},
    models={
        "Gemma3nForCausalLM": {"head": "lm", "pooler": False},
        "Gemma3nTextModel": {"head": "none", "pooler": False},
    },
    only={"altup_correct_scale": (True,)},
    parts=(
        two_ropes(1000000.0, 10000.0, "rope_local_base_freq"),
        scaled_embedding(),
        windows(_has_window),
        _blocks(),
        _streams(),
    ),
    weights=_WEIGHTS,
)
