"""Decoder families: language models that read from left to right."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from ...layers import ALiBi, Rotary
from ..design import Design
from .family import Choices, Family, Part, causal, per_block
from .fields import Fields, brief
from .parts import query_scale, rope, rope_table, rotary_dim, scaled_embedding, windows

# What the families that follow GPT-2 call things, and those that follow Llama.

_GPT_NAMES = {
    "vocab": "vocab_size",
    "context": "n_positions",
    "width": "n_embd",
    "depth": "n_layer",
    "heads": "n_head",
    "ffn": "n_inner",
    "activation": "activation_function",
    "dropout": "resid_pdrop",
    "embedding_dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "norm_eps": "layer_norm_epsilon",
    "tied": "tie_word_embeddings",
}
_GPT_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_GPT_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
_GPTJ_DEFAULTS = {
    **_GPT_DEFAULTS,
    "vocab_size": 50400,
    "n_positions": 2048,
    "n_embd": 4096,
    "n_layer": 28,
    "n_head": 16,
    "rotary_dim": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "tie_word_embeddings": False,
}
_GPTJ_CHOICES = {
    "parallel": True,
    "shared_norm": True,
    "bias": True,
    "attention_bias": False,
    "attention_out_bias": False,
    "head_bias": True,
}

_LLAMA_NAMES = {
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "activation": "hidden_act",
    "attention_dropout": "attention_dropout",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
_LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "intermediate_size": 11008,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_LLAMA_CHOICES = {"norm": "rmsnorm", "gated": True, "bias": False}
_ATTENTION_BIAS = {"attention_bias": "attention_bias", "attention_out_bias": "attention_bias"}
_WINDOW = {"window": "sliding_window"}


def _without(names: dict[str, str], *choices: str) -> dict[str, str]:
    return {choice: name for choice, name in names.items() if choice not in choices}


GPT2 = Family(
    "gpt2",
    defaults=_GPT_DEFAULTS,
    names=_GPT_NAMES,
    aliases=_GPT_ALIASES,
    fixed={"positions": "learned"},
    models=causal("GPT2", "LMHeadModel"),
    only={
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
)


def _is_neo_run(item: Any) -> bool:
    if not (isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], (list, tuple))):
        return False
    kinds, times = item
    whole = isinstance(times, int) and not isinstance(times, bool) and times >= 0
    return whole and bool(kinds) and all(kind in ("global", "local") for kind in kinds)


def _neo_attention() -> Part:
    """``attention_types``: a list of [kinds of block, how often they repeat], kinds being global and local."""

    def read(fields: Fields) -> Choices:
        types, depth = fields.raw("attention_types"), fields.depth("num_layers")
        window = fields.whole("window_size")
        runs: list[Any] = list(types) if isinstance(types, (list, tuple)) else [None]
        if not all(map(_is_neo_run, runs)):
            raise fields.wrong("attention_types", "is not a list like [[['global', 'local'], 12]]")
        # Counted before the list is made: a slip in a number must not cost memory.
        named = sum(len(kinds) * times for kinds, times in runs)
        if named != depth:
            raise fields.wrong("attention_types", f"names {brief(named)} blocks of {fields.said('num_layers')}")
        marks = [kind == "local" for kinds, times in runs for kind in kinds * times]
        each = tuple(window if local else None for local in marks)
        return {"window": each[0] if len(set(each)) == 1 else each}

    def write(design: Design) -> dict[str, Any]:
        each = per_block(design.window, design.depth)
        runs = [[["global" if window is None else "local"], len(list(run))] for window, run in groupby(each)]
        sizes = [window for window in each if window is not None]
        return {"attention_types": runs, "window_size": sizes[0] if sizes else 256}

    return Part(read, write)


GPT_NEO = Family(
    "gpt_neo",
    defaults={
        "vocab_size": 50257,
        "max_position_embeddings": 2048,
        "hidden_size": 2048,
        "num_layers": 24,
        "attention_types": [[["global", "local"], 12]],
        "num_heads": 16,
        "intermediate_size": None,
        "window_size": 256,
        "activation_function": "gelu_new",
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "attention_dropout": 0.0,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_layers",
        "heads": "num_heads",
        "ffn": "intermediate_size",
        "activation": "activation_function",
        "dropout": "resid_dropout",
        "embedding_dropout": "embed_dropout",
        "attention_dropout": "attention_dropout",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    # The paper's scaling of scores by 1/sqrt(head_dim) is left out in this family.
    fixed={"positions": "learned", "attention_bias": False, "logit_scale": 1.0},
    models=causal("GPTNeo"),
    parts=(_neo_attention(),),
)

GPTJ = Family(
    "gptj",
    defaults=_GPTJ_DEFAULTS,
    names=_GPT_NAMES,
    aliases=_GPT_ALIASES,
    fixed=_GPTJ_CHOICES,
    models=causal("GPTJ"),
    parts=(rotary_dim(),),
)

CODEGEN = Family(
    "codegen",
    defaults=_GPTJ_DEFAULTS,
    names=_GPT_NAMES,
    aliases=_GPT_ALIASES,
    fixed=_GPTJ_CHOICES,
    models=causal("CodeGen"),
    parts=(rotary_dim(),),
)

GPT_NEOX = Family(
    "gpt_neox",
    defaults={
        "vocab_size": 50432,
        "max_position_embeddings": 2048,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "attention_bias": True,
    },
    names={
        **_without(_LLAMA_NAMES, "kv_heads", "head_dim"),
        **_ATTENTION_BIAS,
        "dropout": "hidden_dropout",
        "norm_eps": "layer_norm_eps",
        "parallel": "use_parallel_residual",
    },
    fixed={},
    models=causal("GPTNeoX"),
    parts=(rope(fraction=0.25, theta_name="rotary_emb_base", fraction_name="rotary_pct"),),
)


def _opt_norms() -> Part:
    """Norms before or after the branches; early files of fine-tuned models leave the final norm out."""

    def read(fields: Fields) -> Choices:
        before, removed = fields.flag("do_layer_norm_before"), fields.flag("_remove_final_layer_norm")
        return {"placement": "pre" if before else "post", "final_norm": before and not removed}

    def write(design: Design) -> dict[str, Any]:
        before = design.placement == "pre"
        return {"do_layer_norm_before": before, "_remove_final_layer_norm": before and design.final_norm is False}

    return Part(read, write)


def _opt_projection() -> Part:
    """A narrower embedding. The model without a head projects down all the same, which no tree without a head says."""

    def read(fields: Fields) -> Choices:
        narrow = fields.whole_or_none("word_embed_proj_dim")
        if narrow not in (None, fields.whole("hidden_size")) and fields.model() == "OPTModel":
            raise fields.wrong(
                "word_embed_proj_dim", f"differs from {fields.said('hidden_size')}; give it OPTForCausalLM's head"
            )
        return {"embedding_width": narrow}

    return Part(read, lambda design: {"word_embed_proj_dim": design.embedding_width or design.width})


OPT = Family(
    "opt",
    defaults={
        "vocab_size": 50272,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "ffn_dim": 3072,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": None,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "num_attention_heads": 12,
        "activation_function": "relu",
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "ffn_dim",
        "activation": "activation_function",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "bias": "enable_bias",
        "norm_affine": "layer_norm_elementwise_affine",
        "tied": "tie_word_embeddings",
    },
    # Its position table has two rows more than there are positions, a leftover of padding.
    fixed={"positions": "learned", "position_offset": 2, "embedding_dropout": 0.0, "norm_eps": 1e-5},
    models=causal("OPT"),
    parts=(_opt_norms(), _opt_projection()),
)

BLOOM = Family(
    "bloom",
    defaults={
        "vocab_size": 250880,
        "seq_length": 2048,  # what it was trained on; nothing in the model depends on it
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 8,
        "layer_norm_epsilon": 1e-5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "seq_length",
        "width": "hidden_size",
        "depth": "n_layer",
        "heads": "n_head",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    aliases={"n_embed": "hidden_size", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    fixed={"positions": "alibi", "embedding_norm": True, "embedding_dropout": 0.0, "activation": "gelu_tanh"},
    models=causal("Bloom"),
    only={"apply_residual_connection_post_layernorm": (False,)},
)


def _falcon_shape() -> Part:
    """Three generations in one family: Falcon-RW (in sequence, ALiBi), 7B (parallel, one key head), 40B and later (grouped)."""

    def read(fields: Fields) -> Choices:
        grouped, parallel = fields.flag("new_decoder_architecture"), fields.flag("parallel_attn")
        heads, given = fields.whole("num_attention_heads"), fields.whole_or_none("num_kv_heads")
        if grouped and not parallel:
            raise fields.wrong("parallel_attn", f"does not go with {fields.said('new_decoder_architecture')}")
        kv_heads = (given or heads) if grouped or not fields.flag("multi_query") else 1
        if not grouped and kv_heads not in (1, heads):
            raise fields.wrong("num_kv_heads", f"needs new_decoder_architecture=True, or to be {heads}")
        norms = fields.raw("num_ln_in_parallel_attn")
        if norms is None:
            norms = 2 if grouped else 1
        if isinstance(norms, bool) or norms not in (1, 2):
            raise fields.wrong("num_ln_in_parallel_attn", "is neither 1 nor 2")
        places = {"parallel": parallel, "shared_norm": parallel and norms == 1}
        positions: Any = ALiBi(scaled=True) if fields.flag("alibi") else rope().read(fields)["positions"]
        return {**places, "kv_heads": kv_heads, "positions": positions}

    def write(design: Design) -> dict[str, Any]:
        one, all_of_them = design.kv_heads == 1, design.kv_heads == design.heads
        grouped = design.parallel and not (one or all_of_them)
        return {
            "new_decoder_architecture": grouped,
            "num_kv_heads": design.kv_heads if grouped else None,
            "multi_query": one,
            "parallel_attn": design.parallel,
            "num_ln_in_parallel_attn": 1 if design.shared_norm or not design.parallel else 2,
            "alibi": design.positions == "alibi" or isinstance(design.positions, ALiBi),
            **rope().write(design),
        }

    return Part(read, write)


FALCON = Family(
    "falcon",
    defaults={
        "vocab_size": 65024,
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "num_ln_in_parallel_attn": None,
        "layer_norm_epsilon": 1e-5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "num_kv_heads": None,
        "alibi": False,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "max_position_embeddings": 2048,
        "ffn_hidden_size": None,
        "activation": "gelu",
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "ffn_hidden_size",
        "activation": "activation",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "norm_eps": "layer_norm_epsilon",
        "bias": "bias",
        "tied": "tie_word_embeddings",
    },
    aliases={"n_embed": "hidden_size"},
    fixed={"embedding_dropout": 0.0},
    models=causal("Falcon"),
    parts=(_falcon_shape(),),
)

PHI = Family(
    "phi",
    defaults={
        **{name: value for name, value in _LLAMA_DEFAULTS.items() if name != "rms_norm_eps"},
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "qk_layernorm": False,
    },
    names={**_LLAMA_NAMES, "norm_eps": "layer_norm_eps", "dropout": "resid_pdrop", "embedding_dropout": "embd_pdrop"},
    fixed={"parallel": True, "shared_norm": True, "head_bias": True},
    models=causal("Phi"),
    parts=(
        rope(fraction=0.5),
        Part(
            lambda fields: {"qk_norm": "head" if fields.flag("qk_layernorm") else "none"},
            lambda design: {"qk_layernorm": design.qk_norm == "head"},
        ),
    ),
)

LLAMA = Family(
    "llama",
    defaults={**_LLAMA_DEFAULTS, "attention_bias": False, "mlp_bias": False},
    names={**_LLAMA_NAMES, **_ATTENTION_BIAS, "ffn_bias": "mlp_bias"},
    fixed=_LLAMA_CHOICES,
    models=causal("Llama"),
    parts=(rope(),),
)

MISTRAL = Family(
    "mistral",
    defaults={
        **_LLAMA_DEFAULTS,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    names={**_LLAMA_NAMES, **_WINDOW},
    fixed=_LLAMA_CHOICES,
    models=causal("Mistral"),
    parts=(rope(),),
)

MIXTRAL = Family(
    "mixtral",
    defaults={
        **MISTRAL.defaults,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
    },
    names={**MISTRAL.names, "experts": "num_local_experts", "top_k": "num_experts_per_tok"},
    aliases={"num_experts": "num_local_experts"},
    fixed=_LLAMA_CHOICES,
    models=causal("Mixtral"),
    parts=(rope(1000000.0),),
)

PHI3 = Family(
    "phi3",
    defaults={
        **_LLAMA_DEFAULTS,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "resid_pdrop": 0.0,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    names={**_LLAMA_NAMES, **_WINDOW, "dropout": "resid_pdrop"},
    fixed={**_LLAMA_CHOICES, "embedding_dropout": 0.0},
    models=causal("Phi3"),
    parts=(rope(fraction=1.0),),
)

_QWEN_DEFAULTS = {
    **_LLAMA_DEFAULTS,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_QWEN_MOE_ONLY: dict[str, tuple[Any, ...]] = {"decoder_sparse_step": (1,), "mlp_only_layers": (None, [])}


def _late(fields: Fields, block: int) -> bool:
    return block >= fields.count("max_window_layers")


QWEN2 = Family(
    "qwen2",
    defaults=_QWEN_DEFAULTS,
    names=_LLAMA_NAMES,
    fixed={**_LLAMA_CHOICES, "attention_bias": True},
    models=causal("Qwen2"),
    parts=(rope(), windows(_late, "use_sliding_window")),
)

QWEN3 = Family(
    "qwen3",
    defaults={**_QWEN_DEFAULTS, "head_dim": 128, "attention_bias": False},
    names={**_LLAMA_NAMES, **_ATTENTION_BIAS},
    fixed={**_LLAMA_CHOICES, "qk_norm": "head"},
    models=causal("Qwen3"),
    parts=(rope(), windows(_late, "use_sliding_window")),
)

_QWEN_MOE_NAMES = {
    **_LLAMA_NAMES,
    "ffn": "moe_intermediate_size",
    "experts": "num_experts",
    "top_k": "num_experts_per_tok",
    "renormalized": "norm_topk_prob",
}

QWEN2_MOE = Family(
    "qwen2_moe",
    defaults={
        **{name: value for name, value in _QWEN_DEFAULTS.items() if name != "intermediate_size"},
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "norm_topk_prob": False,
        "qkv_bias": True,
    },
    names={**_QWEN_MOE_NAMES, "shared_ffn": "shared_expert_intermediate_size", "attention_bias": "qkv_bias"},
    fixed={**_LLAMA_CHOICES, "shared_gate": True},
    models=causal("Qwen2Moe"),
    only=_QWEN_MOE_ONLY,
    parts=(
        rope(),
        windows(lambda fields, block: block % 2 == 0 and not _late(fields, block), "use_sliding_window"),
    ),
)


def _one_window() -> Part:
    """``sliding_window`` in every block, where ``use_sliding_window`` says so."""

    def read(fields: Fields) -> Choices:
        return {"window": fields.whole_or_none("sliding_window") if fields.flag("use_sliding_window") else None}

    def write(design: Design) -> dict[str, Any]:
        return {"sliding_window": design.window, "use_sliding_window": design.window is not None}

    return Part(read, write)


QWEN3_MOE = Family(
    "qwen3_moe",
    defaults={
        **{n: v for n, v in _QWEN_DEFAULTS.items() if n not in ("intermediate_size", "layer_types", "max_window_layers")},
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "attention_bias": False,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
    },
    names={**_QWEN_MOE_NAMES, **_ATTENTION_BIAS},
    aliases={"num_local_experts": "num_experts"},
    fixed={**_LLAMA_CHOICES, "qk_norm": "head"},
    models=causal("Qwen3Moe"),
    only=_QWEN_MOE_ONLY,
    parts=(rope(), _one_window()),
)

_GEMMA_DEFAULTS = {
    **_LLAMA_DEFAULTS,
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_GEMMA_CHOICES = {**_LLAMA_CHOICES, "norm_unit_offset": True}


def _gemma_activation() -> Part:
    """The released files say gelu and mean its tanh form, and a later field that overrides it says so."""

    def read(fields: Fields) -> Choices:
        name = fields.activation("hidden_activation" if fields.has("hidden_activation") else "hidden_act")
        return {"activation": "gelu_tanh" if name == "gelu" else name}

    return Part(read, lambda design: {})


GEMMA = Family(
    "gemma",
    defaults=_GEMMA_DEFAULTS,
    names={**_LLAMA_NAMES, **_ATTENTION_BIAS},
    fixed=_GEMMA_CHOICES,
    models=causal("Gemma"),
    only={"use_bidirectional_attention": (None, False)},
    parts=(rope(), scaled_embedding(), _gemma_activation()),
)

_GEMMA2_DEFAULTS = {
    **{name: value for name, value in _GEMMA_DEFAULTS.items() if name != "hidden_act"},
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
_GEMMA2_NAMES = {
    **GEMMA.names,
    "activation": "hidden_activation",
    "score_softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
}
_GEMMA2_CHOICES = {**_GEMMA_CHOICES, "placement": "sandwich"}

GEMMA2 = Family(
    "gemma2",
    defaults=_GEMMA2_DEFAULTS,
    names=_GEMMA2_NAMES,
    fixed=_GEMMA2_CHOICES,
    models=causal("Gemma2"),
    only={"use_bidirectional_attention": (None, False)},
    parts=(rope(), scaled_embedding(), query_scale(), windows(lambda fields, block: block % 2 == 0)),
)


def _two_ropes() -> Part:
    """Rotary positions whose base differs between blocks with and without a window."""

    def read(fields: Fields) -> Choices:
        everywhere = rope(1000000.0).read(fields)
        near = Fields(fields.model_type, {"rope_parameters": rope_table(fields, "sliding_attention")}, {}, {})
        if not fields.has("rope_parameters"):
            near.values["rope_local_base_freq"] = fields.values.get("rope_local_base_freq")
        local = rope(theta_name="rope_local_base_freq").read(near)["positions"]
        return {**everywhere, "window_positions": local}

    def write(design: Design) -> dict[str, Any]:
        if not isinstance(design.positions, Rotary):
            return {}
        local = design.window_positions if isinstance(design.window_positions, Rotary) else Rotary()
        bases = {"full_attention": design.positions.base, "sliding_attention": local.base}
        return {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()}}

    return Part(read, write)


def _every(fields: Fields, block: int) -> bool:
    return (block + 1) % fields.whole("sliding_window_pattern") != 0


GEMMA3 = Family(
    "gemma3_text",
    defaults={
        **_GEMMA2_DEFAULTS,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "sliding_window_pattern": 6,
    },
    names=_GEMMA2_NAMES,
    fixed={**_GEMMA2_CHOICES, "qk_norm": "head"},
    models={"Gemma3ForCausalLM": {"head": "lm", "pooler": False}, "Gemma3TextModel": {"head": "none", "pooler": False}},
    only={"use_bidirectional_attention": (False, None)},
    parts=(_two_ropes(), scaled_embedding(), query_scale(), windows(_every)),
)

OLMO = Family(
    "olmo",
    defaults={
        **{name: value for name, value in _LLAMA_DEFAULTS.items() if name != "rms_norm_eps"},
        "vocab_size": 50304,
        "attention_bias": False,
    },
    names={**_without(_LLAMA_NAMES, "norm_eps"), **_ATTENTION_BIAS},
    # Its norms have no weights.
    fixed={"gated": True, "bias": False, "norm_affine": False},
    models=causal("Olmo"),
    parts=(rope(),),
)

OLMO2 = Family(
    "olmo2",
    defaults={**_LLAMA_DEFAULTS, "vocab_size": 50304, "rms_norm_eps": 1e-5, "attention_bias": False},
    names={**_LLAMA_NAMES, **_ATTENTION_BIAS},
    fixed={**_LLAMA_CHOICES, "placement": "output", "qk_norm": "full"},
    models=causal("Olmo2"),
    parts=(rope(),),
)


def _stablelm_norms() -> Part:
    """Branches in parallel share one norm."""
    return Part(
        lambda fields: {"shared_norm": fields.flag("use_parallel_residual")},
        lambda design: {"use_parallel_residual": design.parallel},
    )


STABLELM = Family(
    "stablelm",
    defaults={
        **{name: value for name, value in _LLAMA_DEFAULTS.items() if name not in ("rms_norm_eps", "head_dim")},
        "vocab_size": 50304,
        "intermediate_size": 6912,
        "hidden_size": 2560,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "use_qkv_bias": False,
        "use_parallel_residual": False,
        "hidden_dropout": 0.0,
    },
    names={
        **_without(_LLAMA_NAMES, "head_dim"),
        "norm_eps": "layer_norm_eps",
        "attention_bias": "use_qkv_bias",
        "parallel": "use_parallel_residual",
        "dropout": "hidden_dropout",
    },
    fixed={"gated": True, "bias": False, "embedding_dropout": 0.0},
    models=causal("StableLm"),
    only={"qk_layernorm": (False,)},  # a norm with weights of its own for each head
    parts=(rope(fraction=0.25), _stablelm_norms()),
)

STARCODER2 = Family(
    "starcoder2",
    defaults={
        **{name: value for name, value in _LLAMA_DEFAULTS.items() if name != "rms_norm_eps"},
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "sliding_window": None,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    names={
        **_LLAMA_NAMES,
        **_WINDOW,
        "norm_eps": "norm_epsilon",
        "dropout": "residual_dropout",
        "embedding_dropout": "embedding_dropout",
        "bias": "use_bias",
    },
    fixed={},
    models=causal("Starcoder2"),
    parts=(rope(),),
)

DECODERS = (
    GPT2, GPT_NEO, GPTJ, CODEGEN, GPT_NEOX, OPT, BLOOM, FALCON, PHI, LLAMA, MISTRAL, MIXTRAL, PHI3, QWEN2, QWEN3, QWEN2_MOE,
    QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, OLMO, OLMO2, STABLELM, STARCODER2,
)  # fmt: skip
