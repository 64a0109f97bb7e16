"""The library's rules for decays, steps and other tensors of state-space mixers, gated delta nets and RWKV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, shown
from .draft import Choice, TensorRule, finite_number
from .starting_laws import StartingLaw
from .tensor_rules import stated_choice
from .tensors import Weight, depths_of

MIXER_FIELDS: dict[str, Any] = {
    "time_step_min": 0.001,
    "time_step_max": 0.1,
    "time_step_floor": 1e-4,
    "time_step_scale": 1.0,
    "time_step_init_scheme": "random",
    "rescale_prenorm_residual": False,
}
"""The fields of a configuration that these rules read, with the defaults of most families."""


def _fields(family: str, given: Mapping[str, Any] | None, **usual: Any) -> dict[str, Any]:
    """The fields, checked."""
    found = {**MIXER_FIELDS, **usual, **(given or {})}
    for name in ("time_step_min", "time_step_max", "time_step_floor", "time_step_scale"):
        found[name] = finite_number(family, name, found[name])
    if found["time_step_init_scheme"] not in ("random", "constant"):
        raise InputError(
            f"{family}: time_step_init_scheme={shown(found['time_step_init_scheme'])} is neither random nor constant"
        )
    if not isinstance(found["rescale_prenorm_residual"], bool):
        raise InputError(f"{family}: rescale_prenorm_residual is neither true nor false")
    return found


def by_law(weight: Weight, law: StartingLaw, depth: int, family: str) -> Choice:
    """The choice of a tensor whose values follow a law, without decay: its mean and standard deviation are the law's."""
    size, reason = weight.shape[-1], f"{family}: {law.words}"
    if not law.by_block:
        mean, std = law.mean_and_std(size, 0, depth)
        return Choice(std, reason, weight_decay=0.0, mean=mean, law=law)
    return Choice(
        lambda block: law.mean_and_std(size, block, depth)[1],
        reason,
        weight_decay=0.0,
        mean=lambda block: law.mean_and_std(size, block, depth)[0],
        law=law,
    )


_LOG_INTEGERS = StartingLaw("log-integers")


def mixer_rule(tree: Transformer, rule: str, plain: TensorRule, family: str, given: Mapping[str, Any] | None) -> TensorRule:
    """The rule of a family with mixers: `plain` but for the mixers' own tensors.

    Parameters
    ----------
    rule : ``mamba``, ``mamba2``, ``jamba``, ``nemotron_h``, ``state-space``, ``gated-delta``, names of initial rules.
    given : fields of the configuration among :data:`MIXER_FIELDS`.
    """
    fields = _fields(family, given, **({"rescale_prenorm_residual": True} if rule == "nemotron_h" else {}))
    steps = StartingLaw("steps", tuple(fields[f"time_step_{name}"] for name in ("min", "max", "floor")))
    depths = depths_of(tree)

    def step_bias(weight: Weight) -> Choice:
        if rule in ("mamba", "mamba2", "nemotron_h"):
            return by_law(weight, steps, depths[weight.stack], family)
        start = 0.0 if rule == "jamba" else 1.0
        return Choice(0.0, f"{family}: starts at {start:g}", weight_decay=0.0, mean=start)

    def low_rank_step(weight: Weight) -> Choice:
        size = fields["time_step_scale"] / math.sqrt(weight.fan_in)
        if fields["time_step_init_scheme"] == "constant":
            return Choice(0.0, f"{family}: {fields['time_step_scale']:g}/sqrt(rank), in every entry", mean=size)
        return Choice(size / math.sqrt(3), f"{family}: uniform up to {fields['time_step_scale']:g}/sqrt(rank)")

    def written(weight: Weight) -> Choice:
        depth = depths[weight.stack] if fields["rescale_prenorm_residual"] else 1
        smaller = f" over the square root of the depth, {depth}" if fields["rescale_prenorm_residual"] else ""
        return Choice(1 / math.sqrt(3 * weight.fan_in * depth), f"{family}: uniform up to 1/sqrt(fan-in){smaller}")

    def of_mixer(weight: Weight) -> Choice | None:
        """The choice of a tensor that starts otherwise than by the plain rule."""
        name = weight.role.rpartition("mixer.")[2]
        if name == "log_decay":
            law = StartingLaw("log-uniform", (0.01, 16.0)) if rule == "gated-delta" else _LOG_INTEGERS
            return by_law(weight, law, depths[weight.stack], family)
        if name == "step_bias":
            return step_bias(weight)
        if name == "step.weight" and rule == "mamba":
            return low_rank_step(weight)
        if name == "convolution.weight" and rule in ("mamba", "mamba2"):
            return Choice(1 / math.sqrt(3 * weight.fan_in), f"{family}: uniform up to 1/sqrt(taps)")
        if name == "write.weight" and (
            rule in ("mamba", "mamba2") or (rule == "nemotron_h" and fields["rescale_prenorm_residual"])
        ):
            return written(weight)
        return None

    return lambda weight: of_mixer(weight) or plain(weight)


def rwkv_rule(tree: Transformer, family: str = "rwkv") -> TensorRule:
    """RWKV's rule: orthogonal matrices, and powers of places; the standard deviations of the former are exact."""
    depths = depths_of(tree)
    shares = {"key_share": (1.0, 0.0), "value_share": (1.0, 0.3), "receptance_share": (0.5, 0.0), "up_share": (1.0, 0.0)}

    def rule(weight: Weight) -> Choice:
        name = weight.role.rpartition(".")[2]
        if name == "decay":
            return by_law(weight, StartingLaw("decays"), depths[weight.stack], family)
        if name in shares:
            numbers = (1.0, 0.0) if ".feed_forward." in weight.role else shares[name]
            return by_law(weight, StartingLaw("shares", numbers), depths[weight.stack], family)
        plain = stated_choice(weight)
        if plain is not None:
            return plain
        rows, columns = weight.shape
        gain = 1e-4 * math.sqrt(max(rows, columns)) if weight.kind == "tokens" else math.sqrt(max(rows / columns, 1.0))
        if (rows, columns) == (tree.vocab, tree.width) and weight.kind != "tokens":
            gain *= 0.5
        return Choice(
            gain / math.sqrt(max(rows, columns)), f"{family}: orthogonal with gain {gain:.4g}; drawn with its deviation"
        )

    return rule
