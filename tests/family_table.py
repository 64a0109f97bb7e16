"""The table of families in docs/huggingface.md: ``python tests/family_table.py`` prints it, ``--write`` puts it into the page.

Every column is read from the :class:`~depthwidth.architecture.hf.family.Family` itself, or computed: the moments are those of a
small model of the family under ``shipped``.
"""

import sys
from pathlib import Path

from mixer_strategies import mixer_fields
from stream_strategies import SMALL_STREAMS
from two_stacks import TWO_STACKS, gemma_stacks

from depthwidth import propagate
from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES
from depthwidth.errors import InputError
from depthwidth.initialization import recipe

PAGE = Path(__file__).parents[1] / "docs" / "huggingface.md"
START, END = "<!-- families: python tests/family_table.py --write -->\n", "<!-- end of families -->\n"
HEADINGS = ("`model_type`", "exact: counts and logits of", "derived: moments", "left out of moments", "refused")
SIZES = {"depth": 2, "width": 16, "heads": 2, "kv_heads": 2, "head_dim": 8, "vocab": 50, "context": 16, "ffn": 32,
         "shared_ffn": 16, "experts": 4, "top_k": 2}  # fmt: skip
IMAGES = ("vit", "vit_mae", "beit", "deit", "dinov2", "clip_vision_model", "siglip_vision_model")
SMALL = {
    "modernbert": {"local_attention": 8},
    **{key: {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
       for key in ("deberta", "deberta-v2")},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8}, "gptj": {"rotary_dim": 2},
    "codegen": {"rotary_dim": 2}, "opt": {"word_embed_proj_dim": 16},
    **{key: {"num_layers": 2, "d_kv": 8} for key in ("t5", "mt5", "umt5", "switch_transformers")},
    "t5gemma": gemma_stacks(),
    **{key: {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32} for key in (*TWO_STACKS, "whisper")},
    **{key: {"image_size": 16, "patch_size": 4} for key in IMAGES}, "helium": {"head_dim": 8},
    "llama4_text": {"intermediate_size": 32, "intermediate_size_mlp": 32},
}  # fmt: skip
LATENT = {"num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4,
          "v_head_dim": 8}  # fmt: skip
MIXED = {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "intermediate_size": 32}
SMALL |= SMALL_STREAMS
SMALL |= {"deepseek_v2": LATENT | MIXED, "deepseek_v3": LATENT | MIXED, "minicpm3": LATENT, "glm4_moe": MIXED}
SILENT = (
    "least_step",
    "most_step",
    "norm_before_gate",
    "backward_rotation",
    "late_norms",
    "coarse_penalty",
    "score_softcap",
    "rotary_factor",
)
"""Settings of logits that no moment of a new model depends on, or that a tree of the family has anyway."""
WORDS = {
    "qkv_clip": "clipped queries, keys and values",
    "query_growth": "growth of queries beyond the original length",
    "temperature": "growth of queries without positions beyond `floor_scale` tokens",
}


def head_of(choices, model=""):
    """The head of a model class in one word."""
    if "head" not in choices:
        return "attention pooling"  # or none: a field says
    if model.endswith("QuestionAnswering"):
        return "answer"
    if choices.get("lone_decoder"):
        return "language of the decoder alone"
    if choices["head"] == "lm":
        return "language"
    if choices["head"] == "pretraining":
        return "pre-training"
    if choices["head"] == "masked-lm":
        return "masked language"
    if choices.get("head") == "patch-logits":
        return "patch"
    if choices.get("head") == "projection":
        return "projection" if choices.get("projection_width", 0) is not None else "one token"
    if choices["head"] == "none":
        return "pooler" if choices.get("pooler") else "none"
    if choices.get("classifier_reads") == "every":
        return "answer" if choices.get("classes") == 2 else "token"
    if choices.get("classes") == 1:
        return "choice"
    return "sequence" if "classes" not in choices else "pair"


def moments_of(family):
    """ "yes" if the moments of a small model are known, otherwise the sentence that refuses them."""
    sizes = {name: SIZES[choice] for choice, name in family.names.items() if choice in SIZES}
    sizes |= mixer_fields(family.model_type, SIZES["width"]) | SMALL.get(family.model_type, {})
    tree = Transformer.from_config({"model_type": family.model_type, **sizes})
    try:
        propagate(tree, recipe(tree, "shipped", family=family.model_type))
    except InputError as error:
        return f"refused: {error}"
    return "yes"


def row_of(family):
    """The cells of one family."""
    heads = dict.fromkeys(head_of(choices, model) for model, choices in family.models.items())
    if family.model_type in IMAGES:
        heads = dict.fromkeys(word.replace("sequence", "image") for word in heads)
    left = [WORDS[name] for name in family.settings if name not in SILENT]
    left += [f"`{name}`" for name in family.noted]
    refused = [f"`{name}` other than {' or '.join(f'`{one}`' for one in values)}" for name, values in family.only.items()]
    if any(choices.get("lone_decoder") for choices in family.models.values()):
        refused.append("`tie_word_embeddings` other than `True`, but for the decoder alone")
    return f"`{family.model_type}`", ", ".join(heads), moments_of(family), ", ".join(left), ", ".join(refused)


def table():
    """The whole table as Markdown."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(row_of(FAMILIES[name]) for name in sorted(FAMILIES))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def printed(page):
    """The table that a page has."""
    return page.partition(START)[2].partition(END)[0]


if __name__ == "__main__":
    made = table()
    if "--write" in sys.argv:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(START)
        PAGE.write_text(before + START + made + END + rest.partition(END)[2], encoding="utf-8")
    else:
        sys.stdout.write(made)
