"""GPT-2 and the families that follow its names: GPT-Neo, GPT-J, CodeGen."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from ...design import Design
from ..family import ALL_TASKS, TASK_WEIGHTS, Choices, Family, Part, causal, every_block, per_block
from ..fields import Fields, brief
from ..parts import rotary_dim, unread_attention, unscaled_scores
from ..weights import QKV, Fused, in_blocks

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


_TOP_WEIGHTS = {
    "wte": "stem.tokens",
    "wpe": "stem.positions",
    "ln_f": "decoder.norm",
    "lm_head": "head.unembedding",
    **TASK_WEIGHTS,
}


def _shrinking_scores() -> Part:
    """``scale_attn_by_inverse_layer_idx``: scores divided by the number of the block, from 1."""

    def read(fields: Fields) -> Choices:
        if not fields.flag("scale_attn_by_inverse_layer_idx"):
            return {}
        head_dim = fields.whole("n_embd") // fields.whole("n_head")
        first = max(head_dim, 1) ** -0.5 if fields.flag("scale_attn_weights") else 1.0
        later = ({"logit_scale": first / (1 + block)} for block in range(1, fields.depth("n_layer")))
        return {"blocks": ({}, *later)}

    def write(design: Design) -> dict[str, Any]:
        if design.blocks is None:
            return {"scale_attn_by_inverse_layer_idx": False}
        return {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": every_block(design)[0].logit_scale != 1}

    return Part(read, write)


GPT2 = Family(
    "gpt2",
    defaults={
        **_GPT_DEFAULTS,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    names=_GPT_NAMES,
    aliases=_GPT_ALIASES,
    fixed={"positions": "learned"},
    models=causal("GPT2", "LMHeadModel", tasks=ALL_TASKS),
    parts=(unscaled_scores(), _shrinking_scores(), unread_attention()),
    weights={
        **_TOP_WEIGHTS,
        **in_blocks(
            "h.#",
            "decoder",
            {
                "ln_1": "attention.norm_in",
                "attn.c_attn": Fused("columns", QKV),
                "attn.c_proj": "attention.out",
                "ln_cross_attn": "cross_attention.norm_in",
                "crossattention.q_attn": "cross_attention.query",
                "crossattention.c_attn": Fused("columns", ("cross_attention.key", "cross_attention.value")),
                "crossattention.c_proj": "cross_attention.out",
                "ln_2": "feed_forward.norm_in",
                "mlp.c_fc": "feed_forward.up",
                "mlp.c_proj": "feed_forward.down",
            },
        ),
    },
    initial_rule="normal-by-depth",
    other_rules=(("5.0", "5.15", "normal"),),  # which look for the name of a weight that has another one there
)


def _is_neo_run(item: Any) -> bool:
    if not (isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], (list, tuple))):
        return False
    kinds, times = item
    whole = isinstance(times, int) and not isinstance(times, bool) and times >= 0
    return whole and bool(kinds) and all(kind in ("global", "local") for kind in kinds)


def _neo_attention() -> Part:
    """``attention_types``: a list of pairs, the kinds of a run of blocks (global or local) and its number of repeats."""

    def read(fields: Fields) -> Choices:
        types, depth = fields.raw("attention_types"), fields.depth("num_layers")
        window = fields.whole("window_size")
        runs: list[Any] = list(types) if isinstance(types, (list, tuple)) else [None]
        if not all(map(_is_neo_run, runs)):
            raise fields.wrong("attention_types", "is not a list like [[['global', 'local'], 12]]")
        # Counted before the list is made: a typing error must not cost memory.
        named = sum(len(kinds) * times for kinds, times in runs)
        if named != depth:
            raise fields.wrong("attention_types", f"names {brief(named)} blocks of {fields.spell('num_layers')}")
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
    models=causal("GPTNeo", tasks=ALL_TASKS),
    parts=(_neo_attention(),),
    weights={
        **_TOP_WEIGHTS,
        **in_blocks(
            "h.#",
            "decoder",
            {
                "ln_1": "attention.norm_in",
                "attn.attention.q_proj": "attention.query",
                "attn.attention.k_proj": "attention.key",
                "attn.attention.v_proj": "attention.value",
                "attn.attention.out_proj": "attention.out",
                "ln_2": "feed_forward.norm_in",
                "mlp.c_fc": "feed_forward.up",
                "mlp.c_proj": "feed_forward.down",
            },
        ),
    },
)


_PARALLEL_WEIGHTS = {
    "ln_1": "norm",
    "attn.out_proj": "attention.out",
    "mlp.fc_in": "feed_forward.up",
    "mlp.fc_out": "feed_forward.down",
}

GPTJ = Family(
    "gptj",
    defaults=_GPTJ_DEFAULTS,
    names=_GPT_NAMES,
    aliases=_GPT_ALIASES,
    fixed=_GPTJ_CHOICES,
    models=causal("GPTJ", tasks=("SequenceClassification", "QuestionAnswering")),
    parts=(rotary_dim(),),
    weights={
        **_TOP_WEIGHTS,
        **in_blocks(
            "h.#",
            "decoder",
            {
                **_PARALLEL_WEIGHTS,
                "attn.q_proj": "attention.query",
                "attn.k_proj": "attention.key",
                "attn.v_proj": "attention.value",
            },
        ),
    },
)

CODEGEN = Family(
    "codegen",
    defaults=_GPTJ_DEFAULTS,
    names=_GPT_NAMES,
    aliases=_GPT_ALIASES,
    fixed=_GPTJ_CHOICES,
    models=causal("CodeGen"),
    parts=(rotary_dim(),),
    weights={
        **_TOP_WEIGHTS,
        **in_blocks("h.#", "decoder", {**_PARALLEL_WEIGHTS, "attn.qkv_proj": Fused("shards", QKV)}),
    },
)
