"""Published and random configurations of encoder-decoders, for :mod:`strategies`."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

FLAG = st.booleans()
SMALL_SOUND = {"num_mel_bins": 5, "max_source_positions": 7}
TWO_STACKS = ("bart", "mbart", "blenderbot", "marian", "pegasus", "m2m_100")
"""The families that state depth, heads and feed-forward width of each stack."""


def two_stacks_of(kind: str, model: str, depth: int, width: int, heads: int, ffn: int, **more: Any) -> dict[str, Any]:
    """A model of BART's kind, whose stacks are alike unless `more` says otherwise."""
    each = {"layers": depth, "attention_heads": heads, "ffn_dim": ffn}
    sizes = {f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in each.items()}
    return {"model_type": kind, "architectures": [model], "d_model": width, **sizes, **more}


def mt5(kind: str, model: str, depth: int, width: int, ffn: int, heads: int) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [model], "num_layers": depth, "d_model": width, "d_kv": 64, "d_ff": ffn,
            "num_heads": heads, "vocab_size": 250112, "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False}  # fmt: skip


PUBLISHED_TWO_STACKS: dict[str, tuple[dict[str, Any], int]] = {
    "mt5-small": (mt5("mt5", "MT5ForConditionalGeneration", 8, 512, 1024, 6), 300176768),
    "mt5-base": (mt5("mt5", "MT5ForConditionalGeneration", 12, 768, 2048, 12), 582401280),
    "mt5-xl": (mt5("mt5", "MT5ForConditionalGeneration", 24, 2048, 5120, 32), 3742619648),
    "bart-base": (two_stacks_of("bart", "BartForConditionalGeneration", 6, 768, 12, 3072), 139420416),
    "bart-large": (two_stacks_of("bart", "BartForConditionalGeneration", 12, 1024, 16, 4096), 406291456),
    "mbart-large-50": (
        two_stacks_of("mbart", "MBartForConditionalGeneration", 12, 1024, 16, 4096, vocab_size=250054, scale_embedding=True),
        610879488,
    ),
    "blenderbot-400M-distill": (
        two_stacks_of("blenderbot", "BlenderbotForConditionalGeneration", 12, 1280, 32, 5120, encoder_layers=2), 364802560
    ),
    "m2m100_418M": (two_stacks_of("m2m_100", "M2M100ForConditionalGeneration", 12, 1024, 16, 4096), 483905536),
    "nllb-200-distilled-600M": (
        two_stacks_of("m2m_100", "M2M100ForConditionalGeneration", 12, 1024, 16, 4096, vocab_size=256206), 615073792
    ),
    "opus-mt-en-de": (
        two_stacks_of("marian", "MarianMTModel", 6, 512, 8, 2048, vocab_size=58101, max_position_embeddings=512), 74410496
    ),
    "pegasus-large": (
        two_stacks_of("pegasus", "PegasusForConditionalGeneration", 16, 1024, 16, 4096, vocab_size=96103), 570797056
    ),
    "whisper-tiny": (two_stacks_of("whisper", "WhisperForConditionalGeneration", 4, 384, 6, 1536), 37760640),
    "whisper-small": (two_stacks_of("whisper", "WhisperForConditionalGeneration", 12, 768, 12, 3072), 241734912),
    "whisper-large-v3": (
        two_stacks_of(
            "whisper", "WhisperForConditionalGeneration", 32, 1280, 20, 5120, vocab_size=51866, num_mel_bins=128
        ), 1543490560
    ),
    "switch-base-8": (
        {"model_type": "switch_transformers", "architectures": ["SwitchTransformersForConditionalGeneration"], "d_model": 768,
         "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "num_experts": 8, "vocab_size": 32128,
         "num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6}, 619339008
    ),
    "xglm-564M": ({"model_type": "xglm", "architectures": ["XGLMForCausalLM"]}, 564463616),
    "biogpt": ({"model_type": "biogpt", "architectures": ["BioGptForCausalLM"]}, 346763264),
}  # fmt: skip


def gemma_stacks(depth: int = 2, window: int = 100) -> dict[str, Any]:
    """Small stacks of different sizes for T5Gemma."""
    both = {"vocab_size": 37, "max_position_embeddings": 16, "sliding_window": window}
    encoder = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4, "intermediate_size": 10}
    decoder = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 12}
    return {
        "encoder": {**both, **encoder, "num_hidden_layers": depth + 1, "query_pre_attn_scalar": 9},
        "decoder": {**both, **decoder, "num_hidden_layers": depth},
    }


SMALL_TWO_STACKS = {
    **{key: {"encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 9} for key in TWO_STACKS},
    "switch_transformers": {
        "num_layers": 4,
        "num_decoder_layers": 2,
        "d_kv": 5,
        "num_sparse_encoder_layers": 2,
        "num_sparse_decoder_layers": 1,
    },
    "t5gemma": gemma_stacks(window=4),
    "whisper": {"encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 9, **SMALL_SOUND},
}


def joined(tables: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {name: value for table in tables for name, value in table.items()}


def two_stacks(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Depth, heads and feed-forward width of the encoder."""
    heads = [n for n in range(1, config["d_model"] + 1) if config["d_model"] % n == 0]
    return st.fixed_dictionaries(
        {
            "encoder_layers": st.integers(1, 4),
            "encoder_attention_heads": st.sampled_from(heads),
            "encoder_ffn_dim": st.integers(1, 40),
            "scale_embedding": FLAG,
        }
    )


def scaled(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"scale_embedding": FLAG})


def twice_as_wide(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The library's code for sines and cosines divides by zero at a width of 2."""
    return st.just({"d_model": 2 * config["d_model"]})


def paddings(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"pad_token_id": st.integers(0, 1)})


def tables(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One table of tokens for both stacks, or one for each."""
    one = st.just({"share_encoder_decoder_embeddings": True})
    each = {"share_encoder_decoder_embeddings": st.just(False), "decoder_vocab_size": st.none() | st.integers(8, 40)}
    return one | st.fixed_dictionaries(each)


def t5_fields(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    sizes = {
        "num_layers": st.integers(1, 4),
        "num_decoder_layers": st.none() | st.integers(1, 4),
        "relative_attention_num_buckets": st.integers(4, 40),
        "feed_forward_proj": st.sampled_from(["relu", "gelu", "gated-gelu", "gated-silu", "gated-gelu_new", "gated-relu"]),
    }
    # What the library writes next to the word, and reads before it.
    own = {"dense_act_fn": st.sampled_from(["relu", "gelu_new", "silu"]), "is_gated_act": FLAG}
    return st.fixed_dictionaries(sizes, optional=own)


def mixtures(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "num_layers": st.integers(1, 5),
            "num_decoder_layers": st.none() | st.integers(1, 5),
            "num_sparse_encoder_layers": st.integers(0, 4),
            "num_sparse_decoder_layers": st.integers(0, 4),
            "relative_attention_num_buckets": st.integers(4, 40),
        },
        # Fields that the library computes from the numbers, writes next to them, or reads before them.
        optional={"encoder_sparse_step": st.integers(0, 5), "decoder_sparse_step": st.integers(0, 5)},
    )


def sounds(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"num_mel_bins": st.integers(1, 20), "max_source_positions": st.integers(2, 20)})


def gemmas(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    def stack(heads: int) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries(
            {
                "vocab_size": st.integers(8, 40),
                "max_position_embeddings": st.just(30),
                "hidden_size": st.integers(1, 3).map(lambda n: 4 * heads * n),
                "num_hidden_layers": st.integers(1, 3),
                "num_attention_heads": st.just(heads),
                "num_key_value_heads": st.sampled_from([1, heads]),
                "head_dim": st.sampled_from([4, 6]),
                "intermediate_size": st.integers(1, 20),
                "sliding_window": st.integers(1, 20),
                "query_pre_attn_scalar": st.integers(1, 30),
            }
        )

    return st.integers(1, 3).flatmap(lambda n: st.fixed_dictionaries({"encoder": stack(n), "decoder": stack(4 - n)}))


FURTHER_TWO_STACKS = {
    **dict.fromkeys(("t5", "mt5", "umt5"), t5_fields),
    "t5gemma": gemmas,
    "switch_transformers": mixtures,
    "whisper": lambda config: st.tuples(two_stacks(config), twice_as_wide(config), sounds(config)).map(joined),
    **dict.fromkeys(("bart", "mbart", "blenderbot", "pegasus"), two_stacks),
    "m2m_100": lambda config: st.tuples(two_stacks(config), twice_as_wide(config), paddings(config)).map(joined),
    "marian": lambda config: st.tuples(two_stacks(config), tables(config)).map(joined),
    "xglm": lambda config: st.tuples(
        twice_as_wide(config), scaled(config), st.fixed_dictionaries({"add_cross_attention": FLAG})
    ).map(joined),
    "biogpt": scaled,
}
