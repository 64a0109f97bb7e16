"""Choices that have the same fields in several families: rotary positions, windows, feed-forward parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ...layers import Rotary
from ...layers.activation_entries import spelling_of, spellings
from ...layers.positions import positions_as
from ..design import Design
from .family import Choices, Part, per_block
from .fields import Fields, as_number, brief
from .rope import FULL, SLIDING, read_scaling, rope_table, written_length, written_scaling


def rope(
    theta: float = 10000.0,
    fraction: float | None = None,
    theta_name: str = "rope_theta",
    fraction_name: str = "",
    *,
    interleaved: bool = False,
) -> Part:
    """Rotary positions of base `theta`.

    A family that can rotate a part of each head has a default `fraction`. Transformers 5 stores both in ``rope_parameters``.
    Earlier versions have separate fields, and ``rope_scaling`` for a stretch of the positions.
    """
    fraction_name = fraction_name or "partial_rotary_factor"

    def read(fields: Fields) -> Choices:
        table = rope_table(fields)
        base = _rope_number(fields, table, "rope_theta", theta_name, theta, math.inf)
        part, scaling = 1.0, read_scaling(fields, table)
        if fraction is not None or (scaling is not None and scaling.partial):
            part = _rope_number(fields, table, "partial_rotary_factor", fraction_name, fraction or 1.0, 1.0)
        return {"positions": Rotary(base=base, fraction=part, interleaved=interleaved, scaling=scaling)}

    def write(design: Design) -> dict[str, Any]:
        rotary = positions_as(Rotary, design.positions)
        if rotary is None:
            return {}
        table = {**written_scaling(rotary.scaling), "rope_theta": rotary.base}
        config: dict[str, Any] = {"rope_parameters": table, **written_length(rotary.scaling)}
        if theta_name:
            config[theta_name] = rotary.base
        if fraction is not None:
            table["partial_rotary_factor"] = config[fraction_name] = rotary.fraction
        elif rotary.scaling is not None and rotary.scaling.partial:
            table["partial_rotary_factor"] = rotary.fraction
        return config

    return Part(read, write)


def normed_later(plain: Part) -> Part:
    """Rotary positions before a norm of queries and keys, which takes away the factor on them of a stretch."""

    def read(fields: Fields) -> Choices:
        rotary: Rotary = plain.read(fields)["positions"]
        return {
            "positions": rotary if rotary.scaling is None else rotary.replace(scaling=replace(rotary.scaling, amplitude=1.0))
        }

    return Part(read, plain.write)


def factor_before_norms(plain: Part, model_type: str) -> Callable[[Mapping[str, Any]], float]:
    """The function from a configuration to the factor that :func:`normed_later` leaves out."""
    return lambda config: float(plain.read(Fields(model_type, config, {}, {}))["positions"].amplitude)


def rope_by_default(theta: float, table: Mapping[str, Any]) -> Part:
    """Rotary positions of base `theta`, with this `table` if the file has none."""
    plain = rope(theta)

    def read(fields: Fields) -> Choices:
        if not fields.has("rope_parameters") and not fields.has("rope_scaling"):
            fields.values["rope_parameters"] = table
        return plain.read(fields)

    return Part(read, plain.write)


def two_ropes(theta: float, local_theta: float, local_name: str = "") -> Part:
    """Rotary positions with one base in blocks with a window and another one in blocks without.

    `local_name` is the field of the first base in files from before transformers 5. A table that is not divided stretches only
    the blocks without a window.
    """

    def read(fields: Fields) -> Choices:
        everywhere = rope(theta).read(fields)
        table = rope_table(fields, SLIDING, scaled=False)
        near = Fields(fields.model_type, {"rope_parameters": table}, fields.defaults, {})
        near.values["max_position_embeddings"] = fields.raw("max_position_embeddings")
        if local_name and not fields.has("rope_parameters"):
            near.values[local_name] = fields.values.get(local_name)
        local = rope(local_theta, theta_name=local_name).read(near)["positions"]
        return {**everywhere, "window_positions": local}

    def write(design: Design) -> dict[str, Any]:
        rotary = positions_as(Rotary, design.positions)
        if rotary is None:
            return {}
        each = {FULL: rotary, SLIDING: positions_as(Rotary, design.window_positions) or Rotary()}
        return {"rope_parameters": {k: {**written_scaling(one.scaling), "rope_theta": one.base} for k, one in each.items()}}

    return Part(read, write)


def _rope_number(fields: Fields, table: Any, inner: str, outer: str, default: float, largest: float) -> float:
    name, value = (inner, table[inner]) if table.get(inner) is not None else (outer, fields.values.get(outer))
    if value is None:
        return default
    number = as_number(value)
    if not 0 < number <= largest or number == math.inf:
        bound = "a positive number" if largest == math.inf else f"a number in (0, {largest:g}]"
        raise InputError(f"{fields.model_type} config: {name}={brief(value)} is not {bound}")
    return number


def rotary_dim(name: str = "rotary_dim") -> Part:
    """Rotation of the first `rotary_dim` dimensions of each head, in pairs of neighbours (GPT-J)."""

    def read(fields: Fields) -> Choices:
        width, heads = fields.whole("n_embd"), fields.whole("n_head")
        head_dim = width // heads
        rotated = fields.whole_or_none(name)
        if rotated is not None and rotated > max(head_dim, 1):
            raise fields.wrong(name, f"is more than the {head_dim} dimensions of a head")
        return {"positions": Rotary(fraction=1.0 if rotated is None else rotated / max(head_dim, 1), interleaved=True)}

    def write(design: Design) -> dict[str, Any]:
        rotary = positions_as(Rotary, design.positions)
        if rotary is None:
            return {}
        return {name: round(rotary.fraction * (design.head_dim or 1))}

    return Part(read, write)


def sliding_pattern(fields: Fields, block: int) -> bool:
    """True for a block with a window: all but every ``sliding_window_pattern``-th have one."""
    return (block + 1) % fields.whole("sliding_window_pattern") != 0


def windows(sliding: Callable[[Fields, int], bool], switch: str = "") -> Part:
    """A window of ``sliding_window`` tokens in the blocks that ``layer_types`` names, by default if `sliding` is true.

    `switch` names a field that turns all windows off if it is false.
    """

    def read(fields: Fields) -> Choices:
        depth = fields.depth("num_hidden_layers")
        kinds = fields.words("layer_types", (FULL, SLIDING), depth)
        # If the switch is off, the size has no effect, and the library writes 0.
        off = bool(switch) and not fields.flag(switch)
        window = None if off and fields.raw("sliding_window") == 0 else fields.whole_or_none("sliding_window")
        if window is None or off:
            return {"window": None}
        marked = [kind == SLIDING for kind in kinds] if kinds else [sliding(fields, block) for block in range(depth)]
        return {
            "window": (window if all(marked) else tuple(window if mark else None for mark in marked)) if any(marked) else None
        }

    def write(design: Design) -> dict[str, Any]:
        each = per_block(design.window, design.depth)
        kinds = [FULL if window is None else SLIDING for window in each]
        config = {"sliding_window": next((w for w in each if w is not None), None), "layer_types": kinds}
        return {**config, switch: SLIDING in kinds} if switch else config

    return Part(read, write)


def scaled_embedding() -> Part:
    """The token embedding multiplied by the square root of the width (Gemma)."""
    return Part(lambda fields: {"embedding_scale": math.sqrt(fields.whole("hidden_size"))}, lambda design: {})


def usual_head_dim(name: str = "head_dim") -> Part:
    """Refuse heads whose size is not the width over their number: the library's code for them is not consistent."""

    def read(fields: Fields) -> Choices:
        if fields.has(name) and fields.values[name] != fields.whole("hidden_size") // fields.whole("num_attention_heads"):
            raise fields.beyond(name, "is not supported, only hidden_size over num_attention_heads")
        return {}

    return Part(read, lambda design: {})


def query_scale() -> Part:
    """Scores multiplied by one over the square root of ``query_pre_attn_scalar`` (Gemma 2), by default the head dimension."""

    def read(fields: Fields) -> Choices:
        scalar = fields.whole("query_pre_attn_scalar")
        return {"logit_scale": None if scalar == fields.whole("head_dim") else scalar**-0.5}

    def write(design: Design) -> dict[str, Any]:
        scale = design.logit_scale
        if scale is None:
            return {"query_pre_attn_scalar": design.head_dim}
        # The field is a whole number: the one with the nearest scale.
        return {"query_pre_attn_scalar": max(1, round(1 / (scale * scale)))} if scale > 1e-9 else {}

    return Part(read, write)


def qk_norm(name: str, kind: str) -> Part:
    """A field that gives queries and keys norms of a kind."""
    return Part(
        lambda fields: {"qk_norm": kind if fields.flag(name) else "none"},
        lambda design: {name: design.qk_norm == kind},
    )


def unread_attention() -> Part:
    """``add_cross_attention``: attention to an encoder that is not there."""
    return Part(
        lambda fields: {"lone_decoder": fields.flag("add_cross_attention")},
        lambda design: {"add_cross_attention": design.lone_decoder},
    )


def reciprocal(name: str, choice: str) -> Part:
    """A divisor field, for a choice that is a factor."""

    def write(design: Design) -> dict[str, Any]:
        value = getattr(design, choice)
        inverse = 1 / value
        # The number whose reciprocal is the factor again, if one of the three nearest is.
        near = (inverse, math.nextafter(inverse, 0), math.nextafter(inverse, math.inf))
        return {name: next((one for one in near if 1 / one == value), inverse)}

    return Part(lambda fields: {choice: 1 / fields.positive(name)}, write)


def unscaled_scores(name: str = "scale_attn_weights") -> Part:
    """A field that, if it is false, leaves out the factor of one over the square root of the head dimension on scores."""
    return Part(
        lambda fields: {"logit_scale": None if fields.flag(name) else 1.0},
        lambda design: {name: design.logit_scale is None},
    )


def t5_feed_forward() -> Part:
    """``feed_forward_proj``: the activation, with the prefix ``gated-`` if it is gated; ``gated-gelu`` is the tanh form.

    The library writes both parts of it as ``dense_act_fn`` and ``is_gated_act``, and reads those rather than the word.
    """

    def read(fields: Fields) -> Choices:
        value = fields.raw("feed_forward_proj")
        word = value if isinstance(value, str) else ""
        gated, name = word.startswith("gated-"), word.removeprefix("gated-")
        spelled = {"gelu_tanh": "gelu"} if gated else {}
        names = spellings()
        names |= {other: act for act, other in spelled.items()}
        if name not in names:
            raise fields.wrong("feed_forward_proj", "is not an activation such as 'relu' or 'gated-gelu'")
        own = fields.activation("dense_act_fn") if fields.has("dense_act_fn") else names[name]
        return {"gated": fields.flag("is_gated_act") if fields.has("is_gated_act") else gated, "activation": own}

    def write(design: Design) -> dict[str, Any]:
        name = spelling_of(design.activation)
        if design.gated:
            # 'gated-gelu' is the tanh form, so gelu has its other spelling.
            name = {"gelu_tanh": "gated-gelu", "gelu": "gated-gelu_python"}.get(design.activation, f"gated-{name}")
        return {"feed_forward_proj": name}

    return Part(read, write)
