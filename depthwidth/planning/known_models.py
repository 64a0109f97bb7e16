"""Known models as trees, for comparison with a plan: published shapes from ``data/reference/known_models.csv``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..coefficients import reference

_STYLES: dict[str, dict[str, Any]] = {
    "plain": {
        "positions": "learned", "norm": "layernorm", "bias": True, "activation": "gelu", "gated": False, "context": 1024,
    },
    "attention_bias": {"attention_bias": True},
    "qk_norm": {"qk_norm": "head"},
    "qk_norm_full": {"qk_norm": "full"},
    "sandwich": {"placement": "sandwich"},
    "no_affine": {"norm": "layernorm", "norm_affine": False},
    "olmo2": {"placement": "output", "qk_norm": "full"},
}  # fmt: skip
"""The choices in which a family departs from Llama's, by the word of the table."""

_LLAMA: dict[str, Any] = {
    "positions": "rotary", "norm": "rmsnorm", "bias": False, "activation": "silu", "gated": True, "context": 8192,
}  # fmt: skip


_NUMBERS = ("heads", "kv_heads", "head_dim", "ffn", "experts", "top_k", "vocab")


class KnownModel(NamedTuple):
    """A published model: its shape and its source."""

    name: str
    family: str
    parameters: int
    """All of them, as published."""
    depth: int
    width: int
    experts: int | None
    choices: dict[str, Any]
    """The other choices of its design."""
    source: str

    def tree(self, context: int | None = None) -> Transformer:
        """The whole model, at a context if its positions allow for any."""
        learned = self.choices["positions"] == "learned"
        choices = self.choices if context is None or learned else {**self.choices, "context": context}
        return _built(self.depth, self.width, tuple(sorted(choices.items())))


@lru_cache(maxsize=64)
def _built(depth: int, width: int, choices: tuple[tuple[str, Any], ...]) -> Transformer:
    """The tree; it is kept with its counts, as plans of many budgets show the same models."""
    return Transformer(depth, width, **dict(choices))


@cache
def known_models() -> tuple[KnownModel, ...]:
    """All of them, in the order of the table."""
    return tuple(map(_read, reference("known_models")))


def _read(row: dict[str, str]) -> KnownModel:
    counted = {
        name: int(row[name]) for name in ("heads", "kv_heads", "head_dim", "ffn", "experts", "top_k", "vocab") if row[name]
    }
    choices = {**_LLAMA, **counted, "tied": row["tied"] == "yes"}
    for word in row["choices"].split():
        name, _, value = word.partition("=")
        choices |= {name: int(value)} if value else _STYLES[name]
    depth, width = int(row["depth"]), int(row["width"])
    return KnownModel(
        row["model"], row["family"], int(row["parameters"]), depth, width, counted.get("experts"), choices, row["source"]
    )


def family_of(architecture: str) -> str:
    """The family of known models whose practice an architecture follows, by the name of a preset or model type; or nothing.

    >>> family_of("llama3"), family_of("qwen2_moe"), family_of("mixtral"), family_of("t5")
    ('Llama', 'Qwen', 'Mistral', '')
    """
    name = "mistral" if architecture == "mixtral" else architecture
    return next((one.family for one in known_models() if name.startswith(one.family.lower())), "")


def comparable_models(parameters: int, *, experts: bool, family: str = "", within: float = 1.5) -> Iterator[KnownModel]:
    """Known models of about this many parameters, those of a family first, then the nearest in size.

    Parameters
    ----------
    parameters : all parameters.
    experts : mixtures of experts, rather than dense models.
    family : the family that comes first.
    within : the largest factor between the sizes.
    """
    near = [one for one in known_models() if (one.experts is not None) == experts]
    distance = {one.name: abs(math.log(one.parameters / parameters)) for one in near}
    chosen = (one for one in near if distance[one.name] <= math.log(within))
    yield from sorted(chosen, key=lambda one: (one.family != family, distance[one.name]))
