"""Configurations of models with copies of the stream, or blocks that read images, for the shared tests of families."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from mixer_strategies import joined

_KINDS = st.sampled_from(["full_attention", "sliding_attention"])
_SHARES = st.sampled_from([0.0, 0.0, 0.5, 0.95])

SMALL_STREAMS: dict[str, dict[str, Any]] = {
    "gemma3n_text": {
        "intermediate_size": 32, "num_kv_shared_layers": 1, "vocab_size_per_layer_input": 33, "hidden_size_per_layer_input": 6,
        "laurel_rank": 3, "altup_num_inputs": 3,
    },
    "mllama_text_model": {"cross_attention_layers": [1]},
}  # fmt: skip
"""By family the fields of a small model of two blocks or more."""


def gemma3n(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Blocks of both kinds; the last ones share keys, if a block of each kind has its own."""
    depth = config["num_hidden_layers"]

    def sharing(kinds: list[str] | None, shared: int) -> dict[str, Any]:
        each = kinds or ["full_attention" if (block + 1) % 5 == 0 else "sliding_attention" for block in range(depth)]
        valid = set(each[: max(depth - shared, 0)]) == set(each)
        return {"layer_types": kinds, "num_kv_shared_layers": shared if valid else 0}

    def copies(streams: int, active: int) -> dict[str, Any]:
        return {"altup_num_inputs": streams, "altup_active_idx": active % streams}

    few, sizes = st.integers(1, 9), st.integers(1, 40)
    fields = {
        "intermediate_size": sizes | st.lists(sizes, min_size=depth, max_size=depth),
        "activation_sparsity_pattern": st.none() | st.lists(_SHARES, min_size=depth, max_size=depth),
        "sliding_window": st.integers(1, 20),
        "vocab_size_per_layer_input": sizes,
        "hidden_size_per_layer_input": few,
        "laurel_rank": few,
        "final_logit_softcapping": st.sampled_from([30.0, 5.0]),  # a null fails in the library's class
    }
    types = st.none() | st.lists(_KINDS, min_size=depth, max_size=depth)
    parts = st.builds(sharing, types, st.integers(0, 3)), st.builds(copies, st.integers(2, 4), st.integers(0, 3))
    return st.tuples(st.fixed_dictionaries(fields), *parts).map(joined)


def mllama(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Blocks that read images, some of them beyond the last one; the first reads the text."""
    reading = st.sets(st.integers(1, 5)).map(sorted)
    bases = st.sampled_from([{}, {"rope_theta": 10000.0}])
    return st.tuples(st.fixed_dictionaries({"cross_attention_layers": reading}), bases).map(joined)
