"""Inputs shared by test files: published configurations, random configurations, random designs."""

from __future__ import annotations

from typing import Any

from encoder_strategies import DEBERTA_V3, RELATIVE, SMALL_RELATIVE
from hypothesis import strategies as st
from image_strategies import BEIT, BIASED, MASKED, hidden, images, square_images
from mixer_strategies import (
    ACTIVATION_NAMES,
    FLAG,
    MIXED,
    convolutions,
    delta_nets,
    falcon_h1,
    granite_hybrid,
    jamba,
    joined,
    mixer_fields,
    nemotron_h,
    rwkv,
    state_space,
    state_space_heads,
)
from stream_strategies import SMALL_STREAMS, gemma3n, mllama
from two_stacks import FURTHER_TWO_STACKS, PUBLISHED_TWO_STACKS, SMALL_TWO_STACKS

# Published configurations, without fields that no count depends on, and the number of weights stated by the authors or on the
# model page. Fields that are absent have the default of the transformers library, on purpose.


def gpt2(depth: int, width: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": depth, "n_embd": width, "n_head": heads,
            "n_ctx": 1024, "n_positions": 1024, "vocab_size": 50257}  # fmt: skip


def llama(
    kind: str, model: str, depth: int, width: int, heads: int, kv: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [model], "num_hidden_layers": depth, "hidden_size": width,
            "num_attention_heads": heads, "num_key_value_heads": kv, "intermediate_size": ffn, "vocab_size": vocab,
            **more}  # fmt: skip


def bert(kind: str, model: str, depth: int, width: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [model], "num_hidden_layers": depth, "hidden_size": width,
            "num_attention_heads": heads, "intermediate_size": 4 * width, **more}  # fmt: skip


def t5(depth: int, width: int, d_kv: int, ffn: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "num_layers": depth, "d_model": width,
            "d_kv": d_kv, "d_ff": ffn, "num_heads": heads, "vocab_size": 32128, "n_positions": 512, **more}  # fmt: skip


T5_1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
LLAMA3_ROPE = {"rope_theta": 500000.0, "rope_scaling": None, "torch_dtype": "bfloat16"}
GEMMA3 = {"rope_local_base_freq": 10000.0, "rope_theta": 1000000.0, "sliding_window": 512, "sliding_window_pattern": 6}
GPT_OSS = "gpt_oss", "GptOssForCausalLM"
LLAMA4 = "llama4_text", "Llama4ForCausalLM", 48, 5120, 40, 8, 8192, 202048
GPT_NEO_TYPES = {"intermediate_size": None, "window_size": 256}

DEEPSEEK_ROPE = {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
                 "original_max_position_embeddings": 4096}  # fmt: skip

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2": (gpt2(12, 768, 12), 124439808),
    "gpt2-medium": (gpt2(24, 1024, 16), 354823168),
    "gpt2-large": (gpt2(36, 1280, 20), 774030080),
    "gpt2-xl": (gpt2(48, 1600, 25), 1557611200),
    "Llama-2-7b": (llama("llama", "LlamaForCausalLM", 32, 4096, 32, 32, 11008, 32000), 6738415616),
    "Llama-2-13b": (llama("llama", "LlamaForCausalLM", 40, 5120, 40, 40, 13824, 32000), 13015864320),
    "Llama-2-70b": (llama("llama", "LlamaForCausalLM", 80, 8192, 64, 8, 28672, 32000), 68976648192),
    "Meta-Llama-3-8B": (llama("llama", "LlamaForCausalLM", 32, 4096, 32, 8, 14336, 128256, **LLAMA3_ROPE), 8030261248),
    "Meta-Llama-3-70B": (llama("llama", "LlamaForCausalLM", 80, 8192, 64, 8, 28672, 128256, **LLAMA3_ROPE), 70553706496),
    "Mistral-7B-v0.1": (
        llama("mistral", "MistralForCausalLM", 32, 4096, 32, 8, 14336, 32000, sliding_window=4096), 7241732096
    ),
    "Mixtral-8x7B-v0.1": (
        llama("mixtral", "MixtralForCausalLM", 32, 4096, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2),
        46702792704,
    ),
    "Mixtral-8x22B-v0.1": (
        llama("mixtral", "MixtralForCausalLM", 56, 6144, 48, 8, 16384, 32000, num_local_experts=8, num_experts_per_tok=2),
        140620634112,
    ),
    "Qwen2-0.5B": (
        llama("qwen2", "Qwen2ForCausalLM", 24, 896, 14, 2, 4864, 151936, tie_word_embeddings=True, max_window_layers=24),
        494032768,
    ),
    "Qwen2-7B": (llama("qwen2", "Qwen2ForCausalLM", 28, 3584, 28, 4, 18944, 152064), 7615616512),
    "Qwen3-0.6B": (
        llama("qwen3", "Qwen3ForCausalLM", 28, 1024, 16, 8, 3072, 151936, head_dim=128, tie_word_embeddings=True),
        596049920,
    ),
    "Qwen3-32B": (llama("qwen3", "Qwen3ForCausalLM", 64, 5120, 64, 8, 25600, 151936, head_dim=128), 32762123264),
    "Qwen1.5-MoE-A2.7B": (
        llama("qwen2_moe", "Qwen2MoeForCausalLM", 24, 2048, 16, 16, 5632, 151936, num_experts=60, num_experts_per_tok=4,
              moe_intermediate_size=1408, shared_expert_intermediate_size=5632, decoder_sparse_step=1),
        14315784192,
    ),
    "Qwen3-30B-A3B": (
        llama("qwen3_moe", "Qwen3MoeForCausalLM", 48, 2048, 32, 4, 6144, 151936, head_dim=128, num_experts=128,
              num_experts_per_tok=8, moe_intermediate_size=768, mlp_only_layers=[], decoder_sparse_step=1),
        30532122624,
    ),
    "gemma-2b": (llama("gemma", "GemmaForCausalLM", 18, 2048, 8, 1, 16384, 256000, head_dim=256), 2506172416),
    "gemma-7b": (
        llama("gemma", "GemmaForCausalLM", 28, 3072, 16, 16, 24576, 256000, head_dim=256, hidden_act="gelu"), 8537680896
    ),
    "gemma-2-2b": (llama("gemma2", "Gemma2ForCausalLM", 26, 2304, 8, 4, 9216, 256000, head_dim=256), 2614341888),
    "gemma-2-9b": (llama("gemma2", "Gemma2ForCausalLM", 42, 3584, 16, 8, 14336, 256000, head_dim=256), 9241705984),
    "gemma-2-27b": (
        llama("gemma2", "Gemma2ForCausalLM", 46, 4608, 32, 16, 36864, 256000, head_dim=128, query_pre_attn_scalar=144),
        27227128320,
    ),
    # The defaults of the library's classes; the numbers of weights are what they build.
    "Llama-3.2-11B-Vision, text": ({"model_type": "mllama_text_model", "architectures": ["MllamaForCausalLM"]}, 9775192080),
    "gemma-3n-E4B": ({"model_type": "gemma3n_text", "architectures": ["Gemma3nForCausalLM"]}, 6835235568),
    "gemma-3-1b": (
        llama("gemma3_text", "Gemma3ForCausalLM", 26, 1152, 4, 1, 6912, 262144, head_dim=256, **GEMMA3), 999885952
    ),
    "phi-2": (llama("phi", "PhiForCausalLM", 32, 2560, 32, 32, 10240, 51200, partial_rotary_factor=0.4), 2779683840),
    "Phi-3-mini-4k": (llama("phi3", "Phi3ForCausalLM", 32, 3072, 32, 32, 8192, 32064, sliding_window=2047), 3821079552),
    "opt-125m": (bert("opt", "OPTForCausalLM", 12, 768, 12, ffn_dim=3072, vocab_size=50272), 125239296),
    "opt-350m": (
        bert("opt", "OPTForCausalLM", 24, 1024, 16, ffn_dim=4096, word_embed_proj_dim=512, do_layer_norm_before=False),
        331196416,
    ),
    "opt-6.7b": (bert("opt", "OPTForCausalLM", 32, 4096, 32, ffn_dim=16384), 6658473984),
    "opt-66b": (bert("opt", "OPTForCausalLM", 64, 9216, 72, ffn_dim=36864), 65719701504),
    "pythia-70m": (bert("gpt_neox", "GPTNeoXForCausalLM", 6, 512, 8, vocab_size=50304, rotary_pct=0.25), 70426624),
    "pythia-410m": (bert("gpt_neox", "GPTNeoXForCausalLM", 24, 1024, 16, vocab_size=50304), 405334016),
    "pythia-6.9b": (bert("gpt_neox", "GPTNeoXForCausalLM", 32, 4096, 32, vocab_size=50432), 6857302016),
    "pythia-12b": (bert("gpt_neox", "GPTNeoXForCausalLM", 36, 5120, 40, vocab_size=50688), 11846072320),
    "gpt-neox-20b": (bert("gpt_neox", "GPTNeoXForCausalLM", 44, 6144, 64, vocab_size=50432), 20554567680),
    "gpt-j-6b": (
        {"model_type": "gptj", "architectures": ["GPTJForCausalLM"], "n_layer": 28, "n_embd": 4096, "n_head": 16,
         "rotary_dim": 64, "vocab_size": 50400, "n_positions": 2048}, 6050882784
    ),
    "codegen-350M": (
        {"model_type": "codegen", "architectures": ["CodeGenForCausalLM"], "n_layer": 20, "n_embd": 1024, "n_head": 16,
         "rotary_dim": 32, "vocab_size": 51200}, 356712448
    ),
    "gpt-neo-125m": (
        {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "num_layers": 12, "hidden_size": 768,
         "num_heads": 12, "attention_types": [[["global", "local"], 6]], **GPT_NEO_TYPES}, 125198592
    ),
    "gpt-neo-2.7B": (
        {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "num_layers": 32, "hidden_size": 2560,
         "num_heads": 20, "attention_types": [[["global", "local"], 16]], **GPT_NEO_TYPES}, 2651307520
    ),
    "bloom-560m": (
        {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "n_layer": 24, "n_embed": 1024,
         "num_attention_heads": 16, "vocab_size": 250880, "seq_length": 2048}, 559214592
    ),
    "bloom": (
        {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "n_layer": 70, "hidden_size": 14336, "n_head": 112,
         "vocab_size": 250880}, 176247271424
    ),
    "falcon-7b": (
        {"model_type": "falcon", "architectures": ["FalconForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4544,
         "num_attention_heads": 71, "multi_query": True, "parallel_attn": True, "bias": False, "alibi": False,
         "new_decoder_architecture": False, "vocab_size": 65024}, 6921720704
    ),
    "falcon-40b": (
        {"model_type": "falcon", "architectures": ["FalconForCausalLM"], "num_hidden_layers": 60, "hidden_size": 8192,
         "num_attention_heads": 128, "num_kv_heads": 8, "new_decoder_architecture": True, "parallel_attn": True,
         "bias": False, "vocab_size": 65024}, 41303293952
    ),
    "falcon-rw-1b": (
        {"model_type": "falcon", "architectures": ["FalconForCausalLM"], "num_hidden_layers": 24, "hidden_size": 2048,
         "num_attention_heads": 32, "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True,
         "new_decoder_architecture": False, "vocab_size": 50304}, 1311625216
    ),
    "OLMo-1B": (llama("olmo", "OlmoForCausalLM", 16, 2048, 16, 16, 8192, 50304, tie_word_embeddings=True), 1176764416),
    "OLMo-7B": (llama("olmo", "OlmoForCausalLM", 32, 4096, 32, 32, 11008, 50304), 6888095744),
    "OLMo-2-1124-7B": (llama("olmo2", "Olmo2ForCausalLM", 32, 4096, 32, 32, 11008, 100352), 7298617344),
    "stablelm-3b-4e1t": (llama("stablelm", "StableLmForCausalLM", 32, 2560, 32, 32, 6912, 50304), 2795443200),
    "stablelm-2-1_6b": (
        llama("stablelm", "StableLmForCausalLM", 24, 2048, 32, 32, 5632, 100352, use_qkv_bias=True), 1644515328
    ),
    "starcoder2-3b": (llama("starcoder2", "Starcoder2ForCausalLM", 30, 3072, 24, 2, 12288, 49152), 3030371328),
    "starcoder2-15b": (
        llama("starcoder2", "Starcoder2ForCausalLM", 40, 6144, 48, 4, 24576, 49152, tie_word_embeddings=False), 15957889024
    ),
    "bert-base-uncased": (bert("bert", "BertModel", 12, 768, 12), 109482240),
    "bert-base-uncased, masked": (bert("bert", "BertForMaskedLM", 12, 768, 12), 109514298),
    "bert-large-uncased": (bert("bert", "BertModel", 24, 1024, 16), 335141888),
    "roberta-base": (
        bert("roberta", "RobertaModel", 12, 768, 12, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1),
        124645632,
    ),
    "roberta-base, masked": (
        bert("roberta", "RobertaForMaskedLM", 12, 768, 12, max_position_embeddings=514, type_vocab_size=1), 124697433
    ),
    "xlm-roberta-base, masked": (
        bert("xlm-roberta", "XLMRobertaForMaskedLM", 12, 768, 12, max_position_embeddings=514, type_vocab_size=1,
             vocab_size=250002), 278295186
    ),
    "camembert-base, masked": (
        bert("camembert", "CamembertForMaskedLM", 12, 768, 12, max_position_embeddings=514, type_vocab_size=1,
             vocab_size=32005), 110655493
    ),
    "electra-small-discriminator": ({"model_type": "electra", "architectures": ["ElectraForPreTraining"]}, 13549057),
    "electra-base-discriminator": (bert("electra", "ElectraForPreTraining", 12, 768, 12, embedding_size=768), 109483009),
    "albert-base-v2": (bert("albert", "AlbertModel", 12, 768, 12), 11683584),
    "albert-xxlarge-v2, masked": ({"model_type": "albert", "architectures": ["AlbertForMaskedLM"]}, 206368944),
    "ModernBERT-base, masked": ({"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]}, 149655232),
    "ModernBERT-large, masked": (
        {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "hidden_size": 1024, "num_hidden_layers": 28,
         "num_attention_heads": 16, "intermediate_size": 2624}, 395881664
    ),
    "deberta-base": (
        bert("deberta", "DebertaModel", 12, 768, 12, relative_attention=True, pos_att_type="c2p|p2c",
             position_biased_input=False), 138601728
    ),
    "deberta-v3-base": (
        bert("deberta-v2", "DebertaV2Model", 12, 768, 12, **DEBERTA_V3), 183831552
    ),
    "deberta-v3-large": (
        bert("deberta-v2", "DebertaV2Model", 24, 1024, 16, **DEBERTA_V3), 434012160
    ),
    "mpnet-base": ({"model_type": "mpnet", "architectures": ["MPNetModel"], "max_position_embeddings": 514}, 109486464),
    "esm1b": (
        bert("esm", "EsmForMaskedLM", 33, 1280, 20, vocab_size=33, pad_token_id=1, emb_layer_norm_before=True), 652359094
    ),
    "esm2-650M": (
        bert("esm", "EsmForMaskedLM", 33, 1280, 20, vocab_size=33, pad_token_id=1, position_embedding_type="rotary"), 651043254
    ),
    "EuroBERT-210m": ({"model_type": "eurobert", "architectures": ["EuroBertModel"]}, 211766016),
    "nomic-embed-text-v1.5": ({"model_type": "nomic_bert", "architectures": ["NomicBertModel"]}, 136731648),
    "ERNIE-4.5-0.3B": (llama("ernie4_5", "Ernie4_5ForCausalLM", 18, 1024, 16, 2, 3072, 103424, head_dim=128), 360748032),
    "helium-1-preview-2b": (llama("helium", "HeliumForCausalLM", 24, 2560, 20, 20, 7040, 48000, head_dim=128), 2172643840),
    "Seed-OSS-36B": (llama("seed_oss", "SeedOssForCausalLM", 64, 5120, 80, 8, 27648, 155136, head_dim=128), 36151104512),
    "EXAONE-4.0-32B": (
        llama("exaone4", "Exaone4ForCausalLM", 64, 5120, 40, 8, 27392, 102400, head_dim=128, sliding_window_pattern=4),
        32003216384,
    ),
    "EXAONE-4.0-1.2B": (
        llama("exaone4", "Exaone4ForCausalLM", 30, 2048, 32, 8, 4096, 102400, head_dim=64, sliding_window=None,
              layer_types=["full_attention"] * 30, tie_word_embeddings=True), 1279391488
    ),
    "Olmo-3-1025-7B": (llama("olmo3", "Olmo3ForCausalLM", 32, 4096, 32, 32, 11008, 100278), 7298011136),
    "OLMoE-1B-7B-0924": (
        llama("olmoe", "OlmoeForCausalLM", 16, 2048, 16, 16, 1024, 50304, num_experts=64, num_experts_per_tok=8), 6919161856
    ),
    "starcoder": (
        {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], "n_layer": 40, "n_embd": 6144, "n_head": 48,
         "n_inner": 24576, "n_positions": 8192, "vocab_size": 49152, "multi_query": True}, 15517456384
    ),
    "glm-4-9b-chat-hf": (llama("glm", "GlmForCausalLM", 40, 4096, 32, 2, 13696, 151552, head_dim=128), 9399951360),
    "GLM-4-9B-0414": (llama("glm4", "Glm4ForCausalLM", 40, 4096, 32, 2, 13696, 151552, head_dim=128), 9400279040),
    "nanochat d20": (llama("nanochat", "NanoChatForCausalLM", 20, 1280, 10, 10, 5120, 65536), 560988160),
    "granite-3.1-2b": (
        llama("granite", "GraniteForCausalLM", 40, 2048, 32, 8, 8192, 49155, attention_multiplier=0.015625,
              embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22, tie_word_embeddings=True), 2533531648
    ),
    "c4ai-command-r-v01": (
        llama("cohere", "CohereForCausalLM", 40, 8192, 64, 64, 22528, 256000, logit_scale=0.0625), 34980831232
    ),
    "c4ai-command-r7b-12-2024": (
        llama("cohere2", "Cohere2ForCausalLM", 32, 4096, 32, 8, 14336, 256000, logit_scale=0.25, sliding_window=4096),
        8028033024,
    ),
    "mpt-7b": (
        {"model_type": "mpt", "architectures": ["MptForCausalLM"], "d_model": 4096, "n_heads": 32, "n_layers": 32,
         "max_seq_len": 2048, "vocab_size": 50432}, 6649286656
    ),
    "Minitron-4B-Base": (
        llama("nemotron", "NemotronForCausalLM", 32, 3072, 24, 8, 9216, 256000, head_dim=128), 4190509056
    ),
    "stablelm-2-12b": (
        llama("stablelm", "StableLmForCausalLM", 40, 5120, 32, 8, 13824, 100352, qk_layernorm=True,
              use_parallel_residual=True), 12143185920
    ),
    "SmolLM3-3B": (
        llama("smollm3", "SmolLM3ForCausalLM", 36, 2048, 16, 4, 11008, 128256, tie_word_embeddings=True), 3075098624
    ),
    "ERNIE-4.5-21B-A3B": (
        llama("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", 28, 2560, 20, 4, 12288, 103424, moe_num_experts=64, moe_k=6),
        21825437888,
    ),
    "Hunyuan-A13B": (
        llama("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", 32, 4096, 32, 8, 3072, 128167, head_dim=128, num_experts=64,
              moe_topk=8, tie_word_embeddings=True), 80393183232
    ),
    "LFM2-1.2B": (
        llama("lfm2", "Lfm2ForCausalLM", 16, 2048, 32, 8, 12288, 65536, full_attn_idxs=[2, 5, 8, 10, 12, 14]), 1170340608
    ),
    "LFM2-350M": (
        llama("lfm2", "Lfm2ForCausalLM", 16, 1024, 16, 8, 6656, 65536, full_attn_idxs=[2, 5, 8, 10, 12, 14]), 354483968
    ),
    "gpt-oss-20b": (llama(*GPT_OSS, 24, 2880, 64, 8, 2880, 201088, num_local_experts=32), 20914757184),
    "gpt-oss-120b": (llama(*GPT_OSS, 36, 2880, 64, 8, 2880, 201088, num_local_experts=128), 116829156672),
    "Phi-3.5-MoE": (
        llama("phimoe", "PhimoeForCausalLM", 32, 4096, 32, 8, 6400, 32064, attention_bias=True, lm_head_bias=True), 41873153344
    ),
    "Llama-4-Scout, text": (llama(*LLAMA4, num_local_experts=16), 107769861120),
    "Llama-4-Maverick, text": (
        llama(*LLAMA4, num_local_experts=128, interleave_moe_layer_step=2, use_qk_norm=False), 400711848960
    ),
    "bitnet-b1.58-2B-4T": (
        llama("bitnet", "BitNetForCausalLM", 30, 2560, 20, 5, 6912, 128256, tie_word_embeddings=True), 2412820480
    ),
    "Apertus-8B": (llama("apertus", "ApertusForCausalLM", 32, 4096, 32, 8, 21504, 131072), 8053338176),
    "mamba-130m": ({"model_type": "mamba", "architectures": ["MambaForCausalLM"], "num_hidden_layers": 24}, 129135360),
    "mamba-2.8b": (
        {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "hidden_size": 2560, "num_hidden_layers": 64,
         "intermediate_size": 5120}, 2768345600
    ),
    "falcon-mamba-7b": (
        {"model_type": "falcon_mamba", "architectures": ["FalconMambaForCausalLM"], "hidden_size": 4096, "expand": 16,
         "intermediate_size": 8192, "num_hidden_layers": 64, "vocab_size": 65024, "tie_word_embeddings": False}, 7272665088
    ),
    "Jamba-v0.1": ({"model_type": "jamba", "architectures": ["JambaForCausalLM"]}, 51570323328),
    "Qwen3-Next-80B-A3B": ({"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]}, 79674391296),
    "Qwen3.5-9B": ({"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"]}, 8953803264),
    "Nemotron-H-8B-Base-8K": (
        {"model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"],
         "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"}, 8100852736
    ),
    "rwkv-4-169m-pile": (
        {"model_type": "rwkv", "architectures": ["RwkvForCausalLM"], "hidden_size": 768, "num_hidden_layers": 12}, 169342464
    ),
    "rwkv-4-7b-pile": ({"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}, 7392649216),
    "Mamba-Codestral-7B-v0.1": ({"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"]}, 7285403648),
    "DeepSeek-V2-Lite": (
        llama("deepseek_v2", "DeepseekV2ForCausalLM", 27, 2048, 16, 16, 10944, 102400, q_lora_rank=None, n_routed_experts=64,
              moe_intermediate_size=1408, num_experts_per_tok=6, first_k_dense_replace=1, rope_scaling=DEEPSEEK_ROPE),
        15706484224,
    ),
    "DeepSeek-V2": (
        llama("deepseek_v2", "DeepseekV2ForCausalLM", 60, 5120, 128, 128, 12288, 102400, n_routed_experts=160, n_group=8,
              topk_group=3, topk_method="group_limited_greedy", moe_intermediate_size=1536, num_experts_per_tok=6,
              routed_scaling_factor=16.0, first_k_dense_replace=1, rope_scaling=DEEPSEEK_ROPE),
        235741434880,
    ),
    "DeepSeek-V3": (
        llama("deepseek_v3", "DeepseekV3ForCausalLM", 61, 7168, 128, 128, 18432, 129280, max_position_embeddings=163840,
              num_nextn_predict_layers=1, rope_scaling={**DEEPSEEK_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0}),
        671026404352,
    ),
    "Kimi-K2": (
        llama("deepseek_v3", "DeepseekV3ForCausalLM", 61, 7168, 64, 64, 18432, 163840, n_routed_experts=384, n_group=1,
              topk_group=1, first_k_dense_replace=1, routed_scaling_factor=2.827, rope_theta=50000.0,
              rope_scaling={**DEEPSEEK_ROPE, "factor": 32, "beta_fast": 1, "mscale": 1.0, "mscale_all_dim": 1.0}),
        1026408209408,
    ),
    "GLM-4.5-Air": (
        llama("glm4_moe", "Glm4MoeForCausalLM", 46, 4096, 96, 8, 10944, 151552, head_dim=128, attention_bias=True), 106852245504
    ),
    "distilbert-base-uncased": ({"model_type": "distilbert", "architectures": ["DistilBertModel"]}, 66362880),
    "distilbert-base-uncased, masked": ({"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"]}, 66985530),
    "t5-small": (t5(6, 512, 64, 2048, 8), 60506624),
    "t5-base": (t5(12, 768, 64, 3072, 12), 222903552),
    "t5-large": (t5(24, 1024, 64, 4096, 16), 737668096),
    "t5-3b": (t5(24, 1024, 128, 16384, 32), 2851598336),
    "t5-11b": (t5(24, 1024, 128, 65536, 128), 11307321344),
    "flan-t5-small": (t5(8, 512, 64, 1024, 6, **T5_1_1), 76961152),
    "t5-v1_1-base": (t5(12, 768, 64, 2048, 12, **T5_1_1), 247577856),
    "flan-t5-large": (t5(24, 1024, 64, 2816, 16, **T5_1_1), 783150080),
    "flan-t5-xl": (t5(24, 2048, 64, 5120, 32, **T5_1_1), 2849757184),
    "flan-t5-xxl": (t5(24, 4096, 64, 10240, 64, **T5_1_1), 11135332352),
    **PUBLISHED_TWO_STACKS,
    "vit-base-patch16-224": (bert("vit", "ViTForImageClassification", 12, 768, 12, num_labels=1000), 86567656),
    "vit-large-patch16-224": (bert("vit", "ViTForImageClassification", 24, 1024, 16, num_labels=1000), 304326632),
    "deit-base, one classifier": (bert("deit", "DeiTForImageClassification", 12, 768, 12, num_labels=1000), 86569192),
    "deit-base-distilled-patch16-224": (
        bert("deit", "DeiTForImageClassificationWithTeacher", 12, 768, 12, num_labels=1000), 87338192
    ),
    "dinov2-base": ({"model_type": "dinov2", "architectures": ["Dinov2Model"], "image_size": 518}, 86580480),
    "dinov2-giant": (
        {"model_type": "dinov2", "architectures": ["Dinov2Model"], "image_size": 518, "hidden_size": 1536,
         "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True}, 1136480768
    ),
    "beit-base-patch16-224": (
        bert("beit", "BeitForImageClassification", 12, 768, 12, num_labels=1000, use_relative_position_bias=True), 86530984
    ),
    "beit-base, codes for patches": (
        bert("beit", "BeitForMaskedImageModeling", 12, 768, 12, use_shared_relative_position_bias=True, use_mask_token=True),
        91965776,
    ),
    "vit-mae-base, encoder": ({"model_type": "vit_mae", "architectures": ["ViTMAEModel"]}, 85798656),
    "clip-vit-base-patch32, images": (
        {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"]}, 87849216
    ),
    "clip-vit-base-patch32, texts": (
        {"model_type": "clip_text_model", "architectures": ["CLIPTextModelWithProjection"]}, 63428096
    ),
    "siglip-base-patch16-224, images": (
        {"model_type": "siglip_vision_model", "architectures": ["SiglipVisionModel"]}, 92884224
    ),
    "siglip-base-patch16-224, texts": (
        {"model_type": "siglip_text_model", "architectures": ["SiglipTextModel"]}, 110271744
    ),
    "vit-huge-patch14-224": (
        bert("vit", "ViTForImageClassification", 32, 1280, 16, num_labels=1000, patch_size=14), 632045800
    ),
}  # fmt: skip


# Random configurations, small enough to build.

RATES = st.sampled_from([0.0, 0.1, 0.25])

BY_CHOICE: dict[str, st.SearchStrategy[Any]] = {
    "depth": st.integers(1, 4),
    "vocab": st.integers(8, 40),
    "context": st.integers(4, 40),
    "ffn": st.integers(1, 40),
    "shared_ffn": st.integers(1, 20),
    "experts": st.integers(2, 4),
    "top_k": st.integers(1, 2),
    "segments": st.integers(1, 3),
    "channels": st.integers(1, 4),
    "pooler_width": st.none() | st.integers(1, 20),
    "window": st.none() | st.integers(1, 20),
    **dict.fromkeys(("activation", "pooler_activation"), ACTIVATION_NAMES),
    "embedding_width": st.integers(1, 20),
    "norm_eps": st.sampled_from([1e-5, 1e-6]),
    **dict.fromkeys(("embedding_scale", "residual_scale", "head_scale", "logit_scale"), st.sampled_from([1.0, 0.22, 12.0])),
    "score_softcap": st.none() | st.just(50.0),
    "logit_softcap": st.none() | st.just(30.0),
    **dict.fromkeys(("dropout", "attention_dropout", "ffn_dropout", "embedding_dropout"), RATES),
}
THETAS = st.sampled_from([10000.0, 500000.0])
LAYER_TYPES = st.sampled_from(["full_attention", "sliding_attention"])


@st.composite
def configs(draw: st.DrawFn, family: Any) -> dict[str, Any]:
    """A valid configuration of a family with random values for every field that is read; optional fields may be absent."""
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * groups
    width = heads * 2 * draw(st.integers(1, 4))
    sizes = {"width": width, "heads": heads, "kv_heads": draw(st.sampled_from([1, kv_heads, heads]))}
    model = draw(st.sampled_from(list(family.models)))
    config = {"model_type": family.model_type, "architectures": [model], "pad_token_id": 0}
    for choice, name in family.names.items():
        if choice in sizes:
            config[name] = sizes[choice]
        elif choice == "head_dim":
            # Absent, not null, if the family computes it: some classes of the transformers library fail for null.
            own = st.integers(1, 4).map(lambda n: 2 * n)
            if (value := draw(own if family.defaults[name] else st.none() | own)) is not None:
                config[name] = value
        elif choice in BY_CHOICE:
            config[name] = draw(BY_CHOICE[choice])
        else:
            config[name] = draw(FLAG)
    config |= draw(FURTHER.get(family.model_type, lambda config: st.just({}))(config))
    if family.models[model].get("head") in ("classifier", "pretraining"):
        # DistilBERT's class for questions needs the two ends of an answer.
        config["num_labels"] = 2 if model.endswith("QuestionAnswering") else draw(st.integers(1, 9))
    return config


def with_rope(*more: str) -> Any:
    def fields(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        old = THETAS.map(lambda theta: {"rope_theta": theta})
        new = THETAS.map(lambda theta: {"rope_parameters": {"rope_type": "default", "rope_theta": theta}})
        rest = [FURTHER_PARTS[name](config) for name in more]
        return st.tuples(st.just({}) | old | new, *rest).map(joined)

    return fields


def layered(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    depth = config["num_hidden_layers"]
    types = st.none() | st.lists(LAYER_TYPES, min_size=depth, max_size=depth)
    return st.fixed_dictionaries({"sliding_window": st.integers(1, 20), "layer_types": types})


def switched(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"use_sliding_window": FLAG, "max_window_layers": st.integers(0, 4)})


def neo(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    kinds = st.lists(st.sampled_from(["global", "local"]), min_size=config["num_layers"], max_size=config["num_layers"])
    types = kinds.map(lambda kinds: [[[kind], 1] for kind in kinds])
    return st.fixed_dictionaries({"attention_types": types, "window_size": st.integers(1, 20)})


def opt(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    narrow = st.none() if config["architectures"] != ["OPTForCausalLM"] else st.none() | st.integers(1, 20)
    return st.fixed_dictionaries(
        {"do_layer_norm_before": FLAG, "_remove_final_layer_norm": FLAG, "word_embed_proj_dim": narrow}
    )


def falcon(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    kv_heads = st.sampled_from(
        [n for n in range(1, config["num_attention_heads"] + 1) if config["num_attention_heads"] % n == 0]
    )
    common = {"alibi": FLAG, "rope_theta": THETAS}
    grouped = {
        "new_decoder_architecture": st.just(True),
        "num_kv_heads": kv_heads,
        "num_ln_in_parallel_attn": st.sampled_from([None, 1, 2]),
    }
    early = {"new_decoder_architecture": st.just(False), "multi_query": FLAG, "parallel_attn": FLAG}
    return st.fixed_dictionaries(common | grouped) | st.fixed_dictionaries(common | early)


def marks(config: dict[str, Any]) -> st.SearchStrategy[list[int]]:
    depth = config["num_hidden_layers"]
    return st.lists(st.integers(0, 1), min_size=depth, max_size=depth)


def latent(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Latent attention; every head has a key of its own. The library's code for DeepSeek-V2 fails for odd numbers."""
    few, even = st.integers(1, 4), st.sampled_from([2, 4])
    sizes = {"kv_lora_rank": even, "q_lora_rank": st.none() | few, "qk_nope_head_dim": even, "qk_rope_head_dim": even}
    return st.fixed_dictionaries({"num_key_value_heads": st.just(config["num_attention_heads"]), **sizes, "v_head_dim": few})


def grouped(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Experts in groups, of which some may be chosen, above dense blocks."""
    groups = st.sampled_from([(4, 1, 1), (4, 2, 1), (4, 2, 2), (6, 3, 2), (8, 2, 1)])
    names = ("n_routed_experts", "n_group", "topk_group")
    more = {
        "n_shared_experts": st.integers(1, 2),
        "num_experts_per_tok": st.integers(1, 2),
        "routed_scaling_factor": st.sampled_from([1.0, 2.5]),
        "first_k_dense_replace": st.integers(0, 3),
        "intermediate_size": st.integers(1, 20),
    }
    return st.tuples(groups.map(lambda sizes: dict(zip(names, sizes, strict=True))), st.fixed_dictionaries(more)).map(joined)


LLAMA4_SIZES = ("attention_chunk_size", "intermediate_size", "intermediate_size_mlp", "floor_scale")
FURTHER_PARTS = {
    "latent": latent,
    "grouped": grouped,
    "method": lambda config: st.fixed_dictionaries({"topk_method": st.sampled_from(["greedy", "group_limited_greedy"])}),
    "pairs": lambda config: st.fixed_dictionaries({"rope_interleave": FLAG}),
    "factors": lambda config: st.fixed_dictionaries(
        {"scale_depth": st.none() | st.just(1.4), "dim_model_base": st.none() | st.integers(1, 8)}
    ),
    "layered": layered,
    "switched": switched,
    "query": lambda config: st.fixed_dictionaries({"query_pre_attn_scalar": st.integers(1, 300)}),
    "fraction": lambda config: st.sampled_from([{}, {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 1.0}]),
    # If there is an explicit head dimension, the transformers library gives these norms the wrong width.
    "qk": lambda config: st.fixed_dictionaries({"qk_layernorm": st.just(False) if "head_dim" in config else FLAG}),
    "query_norms": lambda config: st.fixed_dictionaries({"qk_layernorm": FLAG}),
    "head": lambda config: st.just({"head_dim": 4}),  # the library's code fails for a null
    "nope": lambda config: st.fixed_dictionaries({"no_rope_layers": st.none() | marks(config)}),
    "spans": lambda config: st.fixed_dictionaries(
        {
            "moe_num_shared_experts": st.integers(0, 2),
            "moe_layer_start_index": st.integers(0, 2),
            "moe_layer_interval": st.integers(1, 2),
            "intermediate_size": st.integers(1, 20),
        }
    ),
    "sparse": lambda config: st.fixed_dictionaries(
        {
            "mlp_only_layers": st.lists(st.integers(0, 3), max_size=2),
            "decoder_sparse_step": st.integers(1, 2),
            "intermediate_size": st.integers(1, 20),
        }
    ),
    "mixer": lambda config: st.fixed_dictionaries({"router_jitter_noise": st.sampled_from([0.01, 0.2]), "lm_head_bias": FLAG}),
    "llama4": lambda config: st.fixed_dictionaries(
        dict.fromkeys(LLAMA4_SIZES, st.integers(1, 12))
        | {"use_qk_norm": FLAG, "no_rope_layers": st.none() | marks(config), "moe_layers": st.lists(st.integers(0, 3))}
    ),
    "own": lambda config: st.fixed_dictionaries({"use_qk_norm": FLAG}),
    "convolutions": convolutions,
    "deltas": delta_nets,
    "granite_hybrid": granite_hybrid,
    "falcon_h1": falcon_h1,
    "scaling": lambda config: st.fixed_dictionaries({"logits_scaling": st.sampled_from([1.0, 3.0, 8.0])}),
    "whole": lambda config: st.just({"head_dim": config["hidden_size"] // config["num_attention_heads"]}),
    "pooling": lambda config: st.fixed_dictionaries({"classifier_pooling": st.sampled_from(["late", "bos", "mean"])}),
    "one": lambda config: st.fixed_dictionaries({"use_sliding_window": FLAG, "sliding_window": st.integers(1, 20)}),
}
PADDING = st.fixed_dictionaries({"pad_token_id": st.integers(0, 1)})
DECODERS = st.sampled_from([{}, {"is_decoder": True}, {"is_decoder": True, "add_cross_attention": True}])
FURTHER = {
    "gpt_neo": neo,
    "gptj": lambda config: st.fixed_dictionaries({"rotary_dim": st.just(2)}),
    "codegen": lambda config: st.fixed_dictionaries({"rotary_dim": st.just(2)}),
    "gpt_neox": lambda config: st.fixed_dictionaries({"rotary_pct": st.sampled_from([0.25, 0.5, 1.0])}),
    "opt": opt,
    "falcon": falcon,
    "phi": with_rope("qk", "fraction"),
    "llama": with_rope(),
    "mistral": with_rope(),
    "mixtral": with_rope(),
    "phi3": with_rope(),
    "qwen2": with_rope("layered", "switched"),
    "qwen3": with_rope("layered", "switched"),
    "qwen2_moe": with_rope("layered", "switched", "sparse"),
    "qwen3_moe": with_rope("one", "sparse"),
    "gemma": with_rope(),
    "gemma2": with_rope("layered", "query"),
    "gemma3_text": lambda config: st.tuples(layered(config), FURTHER_PARTS["query"](config)).map(joined),
    "gemma3n_text": gemma3n,
    "mllama_text_model": mllama,
    "olmo": with_rope(),
    "olmo2": with_rope(),
    "stablelm": with_rope("fraction", "query_norms"),
    "starcoder2": with_rope(),
    **dict.fromkeys(("arcee", "ernie4_5", "nanochat", "olmoe", "seed_oss"), with_rope()),
    **dict.fromkeys(("glm", "glm4"), with_rope("fraction")),
    **dict.fromkeys(("granite", "granitemoe"), with_rope("scaling")),
    "hunyuan_v1_dense": with_rope("head"),
    "hunyuan_v1_moe": with_rope("head"),
    "ernie4_5_moe": with_rope("spans"),
    "cohere": with_rope("own"),
    "cohere2": lambda config: st.tuples(layered(config), THETAS.map(lambda theta: {"rope_theta": theta})).map(joined),
    "nemotron": with_rope("fraction"),
    "deepseek_v2": with_rope("latent", "grouped", "method"),
    "deepseek_v3": with_rope("latent", "grouped", "pairs"),
    "minicpm3": with_rope("latent", "factors"),
    "glm4_moe": with_rope("fraction", "grouped", "own"),
    "mpt": lambda config: st.fixed_dictionaries(
        {"attn_config": st.fixed_dictionaries({"softmax_scale": st.none() | st.just(0.3)})}
    ),
    "helium": with_rope("whole"),
    "lfm2": with_rope("convolutions"),
    "gpt_oss": lambda config: st.tuples(layered(config), THETAS.map(lambda theta: {"rope_theta": theta})).map(joined),
    "bitnet": with_rope(),
    "llama4_text": with_rope("llama4"),
    "phimoe": with_rope("mixer"),
    "apertus": lambda config: st.fixed_dictionaries({"hidden_act": st.sampled_from(["xielu", "xielu", "silu"])}),
    **dict.fromkeys(("mamba", "falcon_mamba"), state_space),
    "mamba2": state_space_heads,
    "jamba": jamba,
    "qwen3_next": with_rope("deltas", "sparse"),
    "qwen3_5_text": with_rope("deltas"),
    "granitemoehybrid": with_rope("granite_hybrid", "scaling"),
    "falcon_h1": with_rope("falcon_h1"),
    "nemotron_h": nemotron_h,
    "rwkv": rwkv,
    "olmo3": layered,
    "exaone4": lambda config: st.tuples(layered(config), st.sampled_from([{}, {"rope_theta": 500000.0}])).map(joined),
    "gpt_bigcode": lambda config: st.fixed_dictionaries({"scale_attn_weights": FLAG}).flatmap(
        lambda found: st.sampled_from(
            [
                found | {"multi_query": True},
                found | {"multi_query": False},
                found | {"multi_query": False, "add_cross_attention": True},
            ]
        )
    ),
    "gpt2": lambda config: st.fixed_dictionaries(
        dict.fromkeys(("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention"), FLAG)
    ),
    "smollm3": with_rope("nope"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), lambda config: st.tuples(PADDING, DECODERS).map(joined)),
    **dict.fromkeys(("bert", "electra"), lambda config: DECODERS),
    **dict.fromkeys(("deberta", "deberta-v2"), lambda config: RELATIVE),
    "mpnet": lambda config: st.fixed_dictionaries({"max_position_embeddings": st.integers(5, 40)}),
    "esm": lambda config: st.fixed_dictionaries(
        {
            "max_position_embeddings": st.integers(4, 40),
            "position_embedding_type": st.sampled_from(["absolute", "rotary"]),
            "emb_layer_norm_before": FLAG,
            "token_dropout": FLAG,
            "mask_token_id": st.just(1),
        }
    ),
    "eurobert": with_rope("pooling"),
    "nomic_bert": with_rope(),
    "modernbert": lambda config: st.fixed_dictionaries(
        {
            "local_attention": st.integers(1, 12),
            "global_attn_every_n_layers": st.integers(1, 3),
            "norm_bias": FLAG,
            "classifier_bias": FLAG,
            "decoder_bias": FLAG,
            "classifier_pooling": st.sampled_from(["cls", "mean"]),
            "classifier_activation": st.sampled_from(["gelu", "relu"]),
        }
    ),
    "albert": lambda config: st.fixed_dictionaries(
        {"num_hidden_groups": st.integers(1, config["num_hidden_layers"]), "inner_group_num": st.integers(1, 2)}
    ),
    **dict.fromkeys(("vit", "deit"), images),
    "vit_mae": lambda config: st.tuples(square_images(config), hidden(config)).map(joined),
    "beit": lambda config: st.tuples(square_images(config), BEIT, BIASED).map(joined),
    "dinov2": lambda config: st.tuples(square_images(config), MASKED).map(joined),
    **dict.fromkeys(("clip_vision_model", "siglip_vision_model"), square_images),
    "clip_text_model": lambda config: st.fixed_dictionaries({"projection_dim": st.integers(1, 20), "eos_token_id": st.just(1)}),
    "siglip_text_model": lambda config: st.fixed_dictionaries({"projection_size": st.none() | st.integers(1, 20)}),
    **FURTHER_TWO_STACKS,
}


# Random designs, with every option.

POSITIONS = ["learned", "sinusoidal", "rotary", "alibi", "relative", "none", "diet-rel", "diet-abs", "tupe"]


@st.composite
def designs(draw: st.DrawFn, deepest: int = 40, **forced: Any) -> dict[str, Any]:
    """Valid combinations of choices for ``Transformer(**choices)``."""
    kind = draw(st.sampled_from(["decoder", "decoder", "encoder", "encoder-decoder"]))
    depth, kv_heads = draw(st.integers(1, deepest)), draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    parallel = draw(FLAG)
    shared = parallel and draw(FLAG)
    window = st.none() | st.integers(1, 20)
    choices: dict[str, Any] = {
        "depth": depth,
        "width": heads * draw(st.integers(1, 8)),
        "heads": heads,
        "kv_heads": draw(st.sampled_from([None, kv_heads])),
        "kind": kind,
        "vocab": draw(st.integers(1, 50)),
        "context": draw(st.integers(1, 50)),
        "parallel": parallel,
        "shared_norm": shared,
        "positions": draw(
            st.sampled_from(["learned", "sinusoidal", "rotary", "alibi", "relative", "none", "diet-rel", "diet-abs", "tupe"])
        ),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "placement": draw(st.sampled_from(["pre", "post", "sandwich", "output", *([] if shared else ["none"])])),
        "activation": draw(st.sampled_from(["relu", "gelu", "silu", "relu2"])),
        "qk_norm": draw(st.sampled_from(["none", "head", "full"])),
        "head": draw(st.sampled_from(["lm", "masked-lm", "classifier", "none"])),
        "window": draw(window | st.lists(window, min_size=depth, max_size=depth)),
        "head_dim": draw(st.none() | st.integers(1, 8)),
        "value_dim": draw(st.none() | st.integers(1, 8)),
        "ffn": draw(st.none() | st.integers(1, 40)),
        "embedding_width": draw(st.none() | st.integers(1, 20)),
        "pooler_width": draw(st.none() | st.integers(1, 20)),
        "segments": draw(st.integers(0, 3)),
        "position_offset": draw(st.integers(0, 3)),
        "classes": draw(st.integers(1, 10)),
    }
    names = ("gated", "bias", "norm_bias", "norm_affine", "tied", "head_bias", "pooler", "embedding_norm")
    choices |= {name: draw(FLAG) for name in names}
    choices |= {name: draw(RATES) for name in ("dropout", "attention_dropout", "ffn_dropout")}
    if draw(FLAG):
        experts = draw(st.integers(1, 5))
        shared = draw(st.none() | st.integers(1, 20))
        gate = shared is not None and draw(FLAG)
        choices |= {"experts": experts, "top_k": draw(st.integers(1, experts)), "shared_ffn": shared, "shared_gate": gate}
        choices["renormalized"] = draw(FLAG)
    if kind == "encoder-decoder":
        choices["encoder_depth"] = draw(st.none() | st.integers(1, 10))
        # A list of windows has one entry per block, so it does not fit two stacks of different depth.
        choices["window"] = draw(window)
    if kind == "encoder" and draw(FLAG):
        choices |= {"patch": draw(st.integers(1, 8)), "image": draw(st.integers(8, 20)), "head": "classifier"}
    return choices | forced


# The sizes of a small model by choice, and by family the fields that such a model needs besides.

SMALL = {
    "vocab": 37, "context": 16, "width": 24, "depth": 2, "heads": 6, "kv_heads": 3, "head_dim": 4, "ffn": 10, "experts": 3,
    "top_k": 2, "shared_ffn": 7,
}  # fmt: skip
SMALL_LATENT = {"num_key_value_heads": 6, "kv_lora_rank": 6, "q_lora_rank": 7, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2,
                "v_head_dim": 4}  # fmt: skip
SMALL_GROUPS = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 1, "first_k_dense_replace": 1,
                "intermediate_size": 6}  # fmt: skip
SMALL_FIELDS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**SMALL_LATENT, **SMALL_GROUPS, "topk_method": "group_limited_greedy", "routed_scaling_factor": 3.0},
    "deepseek_v3": {**SMALL_LATENT, **SMALL_GROUPS},
    "minicpm3": {**SMALL_LATENT, "dim_model_base": 8},
    "glm4_moe": SMALL_GROUPS,
    "esm": {"mask_token_id": 1, "token_dropout": True, "emb_layer_norm_before": True},
    **dict.fromkeys(("deberta", "deberta-v2"), SMALL_RELATIVE),
    "gptj": {"rotary_dim": 2},
    "codegen": {"rotary_dim": 2, "n_head": 4},  # its query map is cut in four
    "opt": {"word_embed_proj_dim": 5},
    "electra": {"embedding_size": 5},
    "albert": {"embedding_size": 5, "num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2},
    "falcon": {"multi_query": False},
    "stablelm": {"partial_rotary_factor": 0.5},
    **{key: {"num_layers": 3, "num_decoder_layers": 2, "d_kv": 5} for key in ("t5", "mt5", "umt5")},
    **SMALL_TWO_STACKS,
    "helium": {"head_dim": 4},
    "llama4_text": {"no_rope_layers": [1, 0], "moe_layers": [0], "intermediate_size": 7, "intermediate_size_mlp": 6},
    "lfm2": {"full_attn_idxs": [1], "intermediate_size": 12, "block_multiple_of": 2},
    **{family: mixer_fields(family, 24) for family in MIXED},
    **SMALL_STREAMS,
    "granitemoehybrid": {**mixer_fields("granitemoehybrid", 24), "layer_types": ["linear_attention", "full_attention"]},
    "ernie4_5_moe": {"intermediate_size": 6},
    "smollm3": {"no_rope_layers": [1, 0]},
    "qwen3_moe": {"mlp_only_layers": [1], "intermediate_size": 6},
    "granite": {"residual_multiplier": 0.3, "embedding_multiplier": 3.0, "logits_scaling": 4.0, "attention_multiplier": 0.4},
    "granitemoe": {"residual_multiplier": 0.3, "embedding_multiplier": 3.0, "logits_scaling": 4.0, "attention_multiplier": 0.4},
    "gpt_bigcode": {"multi_query": False},
    **{key: {"image_size": [9, 13], "patch_size": 4} for key in ("vit", "deit")},
    **{
        key: {"image_size": 9, "patch_size": 4}
        for key in ("vit_mae", "beit", "dinov2", "clip_vision_model", "siglip_vision_model")
    },
}
