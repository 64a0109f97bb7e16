"""Published and random configurations of DeBERTa, for :mod:`strategies`."""

from __future__ import annotations

from hypothesis import strategies as st

DEBERTA_V3 = {"relative_attention": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "position_buckets": 256,
              "norm_rel_ebd": "layer_norm", "share_att_key": True, "max_relative_positions": -1}  # fmt: skip
SMALL_RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}

RELATIVE = st.just({"type_vocab_size": 0}) | st.fixed_dictionaries(
    {
        "relative_attention": st.just(True),
        "position_biased_input": st.booleans(),
        "pos_att_type": st.sampled_from(["c2p|p2c", ["p2c", "c2p"], ["c2p"], "p2c"]),
        "max_relative_positions": st.sampled_from([-1, 4, 30]),
        "max_position_embeddings": st.integers(6, 30),
        "position_buckets": st.sampled_from([-1, 2, 4]),
        "share_att_key": st.booleans(),
        "norm_rel_ebd": st.sampled_from(["none", "layer_norm"]),
        "legacy": st.booleans(),
    }
)
