"""Configurations are read as what they are: data that nobody vouches for."""

import functools
import json
import math
import os
from importlib import import_module
from pathlib import Path

import pytest
from helpers import one_quick_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import PUBLISHED, configs, designs

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES, families, notes_on, read_config, read_design, write_config
from depthwidth.architecture.hf.family import Family
from depthwidth.architecture.hf.files import LARGEST_FILE
from depthwidth.architecture.hf.weights import Fused
from depthwidth.errors import InputError
from depthwidth.initialization import weights
from depthwidth.layers import ALiBi, LayerNorm, MixtureOfExperts, RMSNorm, Rotary, RotaryScaling

QUICK = settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def sentence(call, *arguments):
    """The one sentence that a call is refused with."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    assert ". " not in text.replace("... ", ""), "two sentences"
    assert len(text) < 700
    return text


def outcome(call, *arguments):
    """A call's value, or the error of its refusal; any other error is a failure."""
    try:
        return call(*arguments)
    except InputError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 1000
    return InputError(text)


@one_quick_in(4, "name", PUBLISHED)
def test_published_models_have_their_published_number_of_weights(name):
    config, weights = PUBLISHED[name]
    assert read_config(config).parameters == weights


@one_quick_in(4, "name", PUBLISHED, first=1)
def test_published_models_are_written_and_read_back(name):
    config, _ = PUBLISHED[name]
    tree = read_config(config)
    written = write_config(tree, config["model_type"])
    assert read_config(json.loads(json.dumps(written))) == tree
    assert tree.to_config(config["model_type"]) == written


def test_active_weights_of_mixtures():
    """Mixtral 8x7B uses 12.9B weights for a token (arXiv 2401.04088: 13B), Qwen3-30B-A3B about 3.3B (arXiv 2505.09388)."""
    mixtral = read_config(PUBLISHED["Mixtral-8x7B-v0.1"][0])
    assert mixtral.active_parameters == mixtral.parameters - 32 * 6 * 3 * 4096 * 14336 == 12879925248
    qwen = read_config(PUBLISHED["Qwen3-30B-A3B"][0])
    assert qwen.active_parameters == qwen.parameters - 48 * 120 * 3 * 2048 * 768 == 3353032704
    deepseek = read_config(PUBLISHED["DeepSeek-V3"][0])  # 37B (arXiv 2412.19437), in 58 blocks above 3 dense ones
    assert deepseek.active_parameters == deepseek.parameters - 58 * 248 * 3 * 7168 * 2048 == 37552282624


def test_latent_attention_of_deepseek_v3():
    """576 values a token and block in the cache, scores multiplied by (1 + 0.1 ln 40)^2 / sqrt(192), and three dense blocks."""
    tree = read_config(PUBLISHED["DeepSeek-V3"][0])
    assert tree.kv_cache_bytes(1000, dtype="bf16") == 2 * 61 * 1000 * (512 + 64)
    assert tree.attention.scale == pytest.approx((1 + 0.1 * math.log(40)) ** 2 / 192**0.5)
    assert [block.as_mixture is None for block in tree.stack.blocks()][:5] == [True, True, True, False, False]
    plain = {**PUBLISHED["DeepSeek-V3"][0], "rope_scaling": None}
    assert read_config(plain).attention.scale is None


def test_a_model_under_the_name_of_its_own_code():
    """Kimi K2's file has code of its own, for what is a DeepSeek-V3; what it predicts further is said not to be counted."""
    config = {**PUBLISHED["Kimi-K2"][0], "num_nextn_predict_layers": 1}
    assert read_config({**config, "model_type": "kimi_k2"}) == read_config(config)
    (note,) = notes_on({**config, "model_type": "kimi_k2"})
    assert note == "num_nextn_predict_layers=1: the blocks that predict further tokens are not counted"
    assert not notes_on({**config, "num_nextn_predict_layers": 0})


def test_families_are_listed_in_order():
    assert families() == sorted(FAMILIES)
    wanted = {
        "gpt2",
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "phi",
        "phi3",
        "opt",
        "gpt_neox",
        "gptj",
    }
    wanted |= {"bloom", "falcon", "olmo2", "bert", "roberta", "t5", "vit"}
    assert wanted <= set(families())


FAMILY_FILES = import_module("depthwidth.architecture.hf.families")


def test_the_index_of_families_is_what_the_files_have():
    files = {path.stem for path in Path(FAMILY_FILES.__file__).parent.glob("*.py")} - {"__init__"}
    assert {file: tuple(FAMILY_FILES.families_in(file)) for file in files} == FAMILY_FILES.FILES
    assert all(FAMILIES[name] is family for file in files for name, family in FAMILY_FILES.families_in(file).items())


def test_a_family_file_without_an_index_entry_is_found(monkeypatch):
    monkeypatch.delitem(FAMILY_FILES.FILES, "vit")
    assert FAMILY_FILES._Families()["vit"] is FAMILIES["vit"]


def test_a_family_is_imported_when_it_is_asked_for(in_fresh_python):
    source = """
import sys
from depthwidth.architecture.hf import families, read_config
home = "depthwidth.architecture.hf.families."
print(len(families()), [name for name in sys.modules if name.startswith(home)])
read_config({"model_type": "opt"})
print([name for name in sys.modules if name.startswith(home)])
"""
    listed, read = in_fresh_python(source).splitlines()
    assert listed == f"{len(FAMILIES)} []"
    assert read == "['depthwidth.architecture.hf.families.opt']"


def test_families_can_be_added_and_removed():
    known = FAMILY_FILES._Families()
    del known["gpt2"]
    assert "gpt2" not in known
    assert known["gptj"].model_type == "gptj"  # of the same file
    assert "gpt2" not in known
    assert len(known) == len(list(known)) == len(FAMILIES) - 1
    known["mine"] = FAMILIES["gpt2"]
    assert list(known)[-1] == "mine"
    for missing in ("gpt2", "gpt3"):
        with pytest.raises(KeyError):
            known[missing]
        with pytest.raises(KeyError):
            del known[missing]


@one_quick_in(4, "family", FAMILIES, first=1)
def test_a_file_that_leaves_everything_out_has_the_family_s_defaults(family):
    tree = read_config({"model_type": family})
    assert tree == read_config({"model_type": family, **FAMILIES[family].defaults})
    assert read_config(write_config(tree, family)) == tree


# What the fields say.


META = {
    "Llama-2-7b": {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1},
    "Llama-2-70b": {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8,
                    "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1},
    "Meta-Llama-3-8B": {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
                        "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0},
}  # fmt: skip


@pytest.mark.parametrize("name", META)
def test_metas_own_files_are_the_published_models(name, tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(META[name]))
    tree = read_config(path)
    assert tree.parameters == PUBLISHED[name][1]
    assert tree.decoder == read_config(PUBLISHED[name][0] | {"rms_norm_eps": 1e-5}).decoder
    assert "does not state the context" in notes_on(META[name])[0]
    assert read_config(META[name] | {"multiple_of": 8192}).parameters != tree.parameters


@pytest.mark.parametrize("field", ["dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "ffn_dim_multiplier", "norm_eps"])
def test_a_wrong_field_of_metas_files_is_named(field):
    assert f"params.json config: {field}='7' is not" in sentence(read_config, META["Meta-Llama-3-8B"] | {field: "7"})


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "electra", "albert"])
def test_relative_positions_of_old_files_are_refused(family):
    for kind in ("relative_key", "relative_key_query"):
        found = sentence(read_config, {"model_type": family, "position_embedding_type": kind})
        assert f"position_embedding_type='{kind}' is not supported, only 'absolute'" in found
    plain = read_config({"model_type": family, "position_embedding_type": "absolute"})
    assert plain == read_config({"model_type": family})


def test_both_spellings_of_a_field_are_read():
    assert read_design({"model_type": "gpt2", "hidden_size": 96}).width == 96
    assert read_design({"model_type": "gpt2", "n_embd": 96}).width == 96
    assert read_design({"model_type": "gpt2", "n_embd": 96, "hidden_size": 96}).width == 96
    text = sentence(read_design, {"model_type": "gpt2", "n_embd": 96, "hidden_size": 48})
    assert text == "gpt2 config: n_embd=96 and hidden_size=48 are one field and differ"
    # A mistake is named as the file spells it.
    assert "hidden_size='768' is not" in sentence(read_design, {"model_type": "gpt2", "hidden_size": "768"})


@pytest.mark.parametrize("fields", [
    {"rope_theta": 5e5}, {"rope_theta": 500000, "rope_scaling": {"type": "dynamic", "factor": 2}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1.0},
    {"rope_parameters": None, "rope_scaling": None, "rope_theta": 5e5},
])  # fmt: skip
def test_rotary_positions_of_old_and_new_files(fields):
    scaling = RotaryScaling("dynamic", 2.0, 2048) if fields.get("rope_scaling") else None
    assert read_design({"model_type": "llama", **fields}).positions == Rotary(base=5e5, scaling=scaling)


def test_positions_of_each_kind():
    assert read_design({"model_type": "phi", "partial_rotary_factor": 0.4}).positions == Rotary(fraction=0.4)
    assert read_design({"model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 7}).positions == Rotary(7.0, 0.5)
    assert read_design({"model_type": "gptj"}).positions == Rotary(fraction=0.25, interleaved=True)
    assert read_config({"model_type": "bloom"}).attention.position == ALiBi()
    assert read_config({"model_type": "roberta", "max_position_embeddings": 514}).context == 512
    gemma = read_config({"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4})
    assert [block.attention.branch.position.base for block in gemma.stack.blocks()][4:7] == [1e4, 1e6, 1e4]


def test_windows_of_each_kind():
    assert read_config({"model_type": "mistral"}).attention.window == 4096
    assert read_config({"model_type": "mistral", "sliding_window": None}).attention.window is None
    assert read_design({"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 5}).window is None
    fields = {"num_hidden_layers": 3, "sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}
    assert read_design({"model_type": "qwen2", **fields}).window == (None, None, 5)
    assert read_design({"model_type": "gemma2", "num_hidden_layers": 3}).window == (4096, None, 4096)
    named = {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}
    assert read_design({"model_type": "gemma2", **named}).window == (None, 4096)
    assert read_design({"model_type": "gpt_neo", "num_layers": 2, "attention_types": [[["global", "local"], 1]]}).window == (
        None,
        256,
    )


def test_heads_of_each_kind():
    bert = {"model_type": "bert", "num_hidden_layers": 1}
    weights = {model: read_config({**bert, "architectures": [model]}).parameters for model in FAMILIES["bert"].models}
    assert weights["BertModel"] - weights["BertForMaskedLM"] == -2 * 768 - 30522
    assert weights["BertForSequenceClassification"] - weights["BertModel"] == 2 * 769
    three = {**bert, "architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}
    assert read_config(three).parameters - weights["BertModel"] == 3 * 769
    assert read_config({"model_type": "llama", "architectures": ["LlamaModel"]}).head is None
    assert read_config({"model_type": "vit"}).head.classes == 2


def test_a_field_that_no_count_depends_on_is_noted():
    """EmbeddingGemma attends both ways: the same weights, and a sentence."""
    plain = {"model_type": "gemma3_text", "num_hidden_layers": 2}
    both = {**plain, "use_bidirectional_attention": True}
    assert read_config(both) == read_config(plain)
    assert notes_on(plain) == notes_on({**plain, "use_bidirectional_attention": False}) == []
    (note,) = notes_on(both)
    assert note.startswith("use_bidirectional_attention=True: every token sees all others")


def test_t5_1_1_saved_by_transformers_5_has_a_head_of_its_own():
    """It writes a tied head for every T5; another field says that there is none."""
    published = PUBLISHED["flan-t5-xl"][0]
    again = {**published, "tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert read_config(again) == read_config(published)
    assert read_config(again).parameters == 2849757184
    small = PUBLISHED["t5-small"][0]
    assert read_config({**small, "scale_decoder_outputs": True}) == read_config(small)
    assert (read_config(small).head.scale, read_config(again).head.scale) == (512**-0.5, 1.0)


def test_norms_and_activations():
    gemma = read_config({"model_type": "gemma", "hidden_act": "gelu"})
    assert gemma.feed_forward.activation == "gelu_tanh"
    assert gemma.stem.scale == math.sqrt(3072)
    assert gemma.stack.norm == RMSNorm(3072, eps=1e-6, unit_offset=True)
    assert read_config({"model_type": "olmo"}).stack.norm == LayerNorm(4096, affine=False)
    assert read_design({"model_type": "t5", "feed_forward_proj": "gated-gelu"}).activation == "gelu_tanh"
    assert read_design({"model_type": "t5", "feed_forward_proj": "gelu"}).activation == "gelu"


def test_the_transform_of_a_masked_head_has_the_activation_that_the_family_gives_it():
    relu = {"hidden_act": "relu", "architectures": ["BertForMaskedLM"]}
    assert read_config({"model_type": "bert", **relu}).head.activation == "relu"
    roberta = read_config({"model_type": "roberta", **relu, "architectures": ["RobertaForMaskedLM"]})
    assert (roberta.feed_forward.activation, roberta.head.activation) == ("relu", "gelu")
    assert read_config(write_config(roberta, "roberta")) == roberta
    tanh = roberta.replace(head=roberta.head.replace(activation="tanh"))
    assert sentence(write_config, tanh, "roberta").startswith("roberta cannot express head.activation=tanh")


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe"])
def test_a_router_s_weights_are_normed_where_the_file_says_so(family):
    """transformers leaves them as they are by default; Mixtral knows no other way than to divide them by their sum."""

    def normed(**field):
        return read_config({"model_type": family, **field}).experts.renormalized

    assert (normed(), normed(norm_topk_prob=False), normed(norm_topk_prob=True)) == (False, False, True)
    assert read_config({"model_type": "mixtral"}).experts.renormalized
    tree = read_config({"model_type": "mixtral"})
    branch = tree.experts.replace(renormalized=False)
    block = tree.stack.repeats[0].block
    block = block.replace(feed_forward=block.feed_forward.replace(branch=branch))
    plain = tree.replace(decoder=tree.decoder.of([block] * tree.depth, tree.decoder.norm))
    problem = sentence(write_config, plain, "mixtral")
    assert problem.startswith("mixtral cannot express decoder.block.feed_forward.renormalized=False")
    assert "norm_topk_prob='yes'" in sentence(read_config, {"model_type": family, "norm_topk_prob": "yes"})


def test_a_design_can_be_changed_before_the_tree_is_made():
    from dataclasses import replace

    design = read_design({"model_type": "llama"})
    assert Transformer.of_design(replace(design, depth=2)).depth == 2
    assert (
        Transformer.of_design(design)
        == read_config({"model_type": "llama"})
        == Transformer.from_config({"model_type": "llama"})
    )


def test_code_and_quantization_in_a_file_are_ignored():
    extra = {"auto_map": {"AutoConfig": "evil.py--Evil"}, "trust_remote_code": True, "quantization_config": {"bits": 4},
             "custom_pipelines": {"x": {"impl": "evil.Run"}}, "dtype": "bfloat16", "torch_dtype": "float16"}  # fmt: skip
    assert read_config({"model_type": "gpt2", **extra}) == read_config({"model_type": "gpt2"})


def test_the_text_part_of_a_model_of_images_is_read():
    """Tied if either place says so; the rest of the file has no word in it."""
    text = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 10}
    llava = {"model_type": "llava", "hidden_size": 1, "architectures": ["LlavaForConditionalGeneration"], "text_config": text}
    assert read_config(llava) == read_config({"model_type": "llama", **text})
    tied = read_config({"model_type": "llama", **text, "tie_word_embeddings": True})
    assert tied == read_config({**llava, "tie_word_embeddings": True})
    assert tied == read_config({**llava, "tie_word_embeddings": False, "text_config": {**text, "tie_word_embeddings": True}})
    assert "text_config" in notes_on(llava)[0]
    assert not notes_on({"model_type": "llama", "text_config": text})


# What is refused: each with one sentence that names the field as the file spells it.

REFUSED = {
    "model_type is missing": {},
    "model_type=7 is not a supported family": {"model_type": 7},
    "model_type='lama' is not a supported family (did you mean 'llama'?)": {"model_type": "lama"},
    "model_type='llava'": {"model_type": "llava", "text_config": {"model_type": "xlnet"}},
    "model_type='gemma3' is not a supported family (did you mean 'gemma3_text'?)": {"model_type": "gemma3"},
    "n_layer='12' is not a whole number": {"model_type": "gpt2", "n_layer": "12"},
    "n_layer=True is not": {"model_type": "gpt2", "n_layer": True},
    "n_layer=0 is not": {"model_type": "gpt2", "n_layer": 0},
    "n_layer=-3 is not": {"model_type": "gpt2", "n_layer": -3},
    "n_layer=None is not": {"model_type": "gpt2", "n_layer": None},
    "n_layer=100001 is not a whole number from 1 to 100,000": {"model_type": "gpt2", "n_layer": 100001},
    "n_embd=768.0 is not": {"model_type": "gpt2", "n_embd": 768.0},
    "n_embd=nan is not": {"model_type": "gpt2", "n_embd": math.nan},
    "n_embd=a number of 33,220 bits is not": {"model_type": "gpt2", "n_embd": 10**10000},
    "vocab_size=[5] is not": {"model_type": "gpt2", "vocab_size": [5]},
    "n_embd=768 is not a multiple of n_head=11": {"model_type": "gpt2", "n_head": 11},
    "num_attention_heads=32 is not a multiple of num_key_value_heads=7": {"model_type": "llama", "num_key_value_heads": 7},
    "num_experts_per_tok=9 is more than num_local_experts=8": {"model_type": "mixtral", "num_experts_per_tok": 9},
    "resid_pdrop=1.0 is not a rate": {"model_type": "gpt2", "resid_pdrop": 1.0},
    "resid_pdrop=nan is not a rate": {"model_type": "gpt2", "resid_pdrop": math.nan},
    "resid_pdrop='0' is not a rate": {"model_type": "gpt2", "resid_pdrop": "0"},
    "rms_norm_eps=0 is not a positive number": {"model_type": "llama", "rms_norm_eps": 0},
    "rms_norm_eps=inf is not a positive number": {"model_type": "llama", "rms_norm_eps": math.inf},
    "attention_bias='yes' is neither true nor false": {"model_type": "llama", "attention_bias": "yes"},
    "tie_word_embeddings=0 is neither": {"model_type": "llama", "tie_word_embeddings": 0},
    "hidden_act='silo' is not a known activation (did you mean 'silu'?)": {"model_type": "llama", "hidden_act": "silo"},
    "hidden_act=None is not a known activation": {"model_type": "llama", "hidden_act": None},
    "rope_theta='big' is not a positive number": {"model_type": "llama", "rope_theta": "big"},
    "rope_parameters=5 is not an object": {"model_type": "llama", "rope_parameters": 5},
    "full_attention=5 in rope_parameters": {"model_type": "llama", "rope_parameters": {"full_attention": 5}},
    "rotary_pct=1.5 is not a number in (0, 1]": {"model_type": "gpt_neox", "rotary_pct": 1.5},
    "rotary_dim=999 is more than the 256": {"model_type": "gptj", "rotary_dim": 999},
    "architectures=[7] is not a list": {"model_type": "llama", "architectures": [7]},
    "architectures='LlamaModel' is not a list": {"model_type": "llama", "architectures": "LlamaModel"},
    "architectures names 'LlamaForMultipleChoice', and only": {
        "model_type": "llama", "architectures": ["LlamaForMultipleChoice"]
    },
    "architectures names 'GPT2LMHeadModel'": {"model_type": "llama", "architectures": ["GPT2LMHeadModel"]},
    "layer_types=['full_attention'] is not a list of 26": {"model_type": "gemma2", "layer_types": ["full_attention"]},
    "layer_types holds 'odd'": {"model_type": "gemma2", "num_hidden_layers": 1, "layer_types": ["odd"]},
    "attention_types=[[['global', 'local'], 12]] names 24 blocks of num_layers=3": {"model_type": "gpt_neo", "num_layers": 3},
    "attention_types=7 is not a list": {"model_type": "gpt_neo", "attention_types": 7},
    "add_cross_attention=True is not supported, only False": {"model_type": "esm", "add_cross_attention": True},
    "add_cross_attention=True needs multi_query=False": {"model_type": "gpt_bigcode", "add_cross_attention": True},
    "head_dim=7 is not supported, only hidden_size over": {"model_type": "gpt_neox", "head_dim": 7},
    "attention_head_size=7 is not supported": {"model_type": "deberta-v2", "attention_head_size": 7},
    "moe_norm_min=0.5 is not supported above moe_k": {"model_type": "ernie4_5_moe", "moe_norm_min": 0.5},
    "num_experts_per_tok=3 is more than n_routed_experts=2": {
        "model_type": "deepseek_v2", "n_routed_experts": 2, "num_experts_per_tok": 3
    },
    "is_decoder=True is not supported": {"model_type": "esm", "is_decoder": True},
    "add_cross_attention=True needs is_decoder=True": {"model_type": "bert", "add_cross_attention": True},
    "num_key_value_heads=8 differs from num_attention_heads=128": {"model_type": "deepseek_v3", "num_key_value_heads": 8},
    "topk_group=9 is not a whole number from 1 to 8": {"model_type": "deepseek_v3", "topk_group": 9},
    "n_group=7 does not go with topk_group=4, n_routed_experts=256, num_experts_per_tok=8: groups=7 do not divide": {
        "model_type": "deepseek_v3", "n_group": 7
    },
    "topk_group=1 does not go with n_group=8, n_routed_experts=256, num_experts_per_tok=99: top_k=99": {
        "model_type": "deepseek_v3", "topk_group": 1, "num_experts_per_tok": 99
    },
    "topk_method='noaux_tc' is neither": {"model_type": "deepseek_v2", "topk_method": "noaux_tc"},
    "mscale_all_dim=-1 of its rope is not a positive number": {
        "model_type": "deepseek_v3", "rope_scaling": {"type": "yarn", "factor": 4, "mscale_all_dim": -1}
    },
    "v_head_dim='1' is not": {"model_type": "minicpm3", "v_head_dim": "1"},
    "decoder_sparse_step=-2 is not": {"model_type": "qwen2_moe", "decoder_sparse_step": -2},
    "mlp_only_layers=[-1] is not a list": {"model_type": "qwen3_moe", "mlp_only_layers": [-1]},
    "no_rope_layers=[1] is not a list": {"model_type": "smollm3", "no_rope_layers": [1]},
    "num_kv_heads=4 needs new_decoder_architecture=True": {
        "model_type": "falcon", "num_attention_heads": 8, "hidden_size": 64, "num_kv_heads": 4, "multi_query": False
    },
    "parallel_attn=False does not go with": {"model_type": "falcon", "new_decoder_architecture": True, "parallel_attn": False},
    "num_ln_in_parallel_attn=3 is neither 1 nor 2": {"model_type": "falcon", "num_ln_in_parallel_attn": 3},
    "word_embed_proj_dim=5 differs from hidden_size=768": {
        "model_type": "opt", "architectures": ["OPTModel", "OPTForCausalLM"], "word_embed_proj_dim": 5
    },
    "max_position_embeddings=2 leaves no positions": {"model_type": "roberta", "max_position_embeddings": 2},
    "patch_size=300 is larger than image_size=224": {"model_type": "vit", "patch_size": 300},
    "patch_size=[4, 8] is not supported": {"model_type": "vit", "patch_size": [4, 8]},
    "image_size=[1, 2, 3] is not one number": {"model_type": "vit", "image_size": [1, 2, 3]},
    "num_labels=0 is not": {"model_type": "vit", "num_labels": 0},
    "id2label=['a'] is not an object": {"model_type": "vit", "id2label": ["a"]},
    "feed_forward_proj='gated-gated-gelu' is not": {"model_type": "t5", "feed_forward_proj": "gated-gated-gelu"},
}  # fmt: skip


@pytest.mark.parametrize("start", REFUSED)
def test_a_field_that_makes_no_sense_gets_one_sentence(start):
    assert start in sentence(read_config, REFUSED[start])


@pytest.mark.parametrize("value", [None, 5, 5.0, b"config.json", ["config.json"], object(), True])
def test_neither_mapping_nor_path(value):
    assert "is neither a mapping nor the path of a file" in sentence(read_config, value)


# Files.


def test_a_file_and_its_folder_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "other.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"model_type": "gpt2"}).encode())
    assert read_config(tmp_path).parameters == 124439808
    assert read_config(str(tmp_path)) == read_config(tmp_path / "config.json") == read_config(str(tmp_path / "other.json"))
    (tmp_path / "link.json").symlink_to(tmp_path / "config.json")
    assert read_config(tmp_path / "link.json") == read_config(tmp_path)


BAD_FILES = {
    "is empty": b"",
    "is empty ": b" \n\t ",
    "is not JSON: Expecting value at line 1, column 1": b"hello",
    "is not JSON: ": b'{"model_type": "gpt2",}',
    "is not UTF-8 text": b"\xff\xfe\x00\x01\x80",
    "is not UTF-8 text ": '{"model_type": "gpt2"}'.encode("utf-16"),
    "is not JSON": b"\x00\x01\x02\x03",
    "holds a JSON list, not an object": b'[{"model_type": "gpt2"}]',
    "holds a JSON str, not an object": b'"gpt2"',
    "holds a JSON NoneType, not an object": b"null",
    "is nested too deeply": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "is nested too deeply ": b"[" * 1_000_000,
    "has the key 'n_layer' twice": b'{"model_type": "gpt2", "n_layer": 1, "n_layer": 2}',
    "holds a number with too many digits": b'{"model_type": "gpt2", "n_layer": ' + b"9" * 5000 + b"}",
    "n_layer=inf is not a whole number": b'{"model_type": "gpt2", "n_layer": Infinity}',
    "resid_pdrop=nan is not a rate": b'{"model_type": "gpt2", "resid_pdrop": NaN}',
    "rms_norm_eps=inf is not a positive": b'{"model_type": "llama", "rms_norm_eps": 1e999}',
    "n_layer=a number of": b'{"model_type": "gpt2", "n_layer": ' + b"9" * 4000 + b"}",
    "'\\ud800' is not a supported family": b'{"model_type": "\\ud800"}',
}


@pytest.mark.parametrize("problem", BAD_FILES)
def test_a_bad_file_gets_one_sentence(problem, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(BAD_FILES[problem])
    assert problem.strip() in sentence(read_config, path)


def test_paths_that_are_no_files(tmp_path):
    assert "there is no config file" in sentence(read_config, tmp_path / "nowhere.json")
    assert "has no config.json" in sentence(read_config, tmp_path)
    assert "cannot be read: it is not a path" in sentence(read_config, "a\0b")
    assert "cannot be read" in sentence(read_config, "x" * 5000)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "config file" in sentence(read_config, tmp_path / "loop")
    (tmp_path / "plain").write_text("{}")
    assert "config file" in sentence(read_config, tmp_path / "plain" / "config.json")
    assert "is not a regular file" in sentence(read_config, "/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in sentence(read_config, tmp_path / "pipe")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").mkdir()
    assert "is not a regular file" in sentence(read_config, tmp_path / "sub")


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(200 * 10**6)  # takes no space on most file systems
    assert "has 200,000,000 bytes; at most 5,000,000 are read" in sentence(read_config, path)
    text = json.dumps({"model_type": "gpt2"})
    path.write_text(text + " " * (LARGEST_FILE - len(text)))
    assert read_config(path).depth == 12


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    path.chmod(0)
    assert "permission denied" in sentence(read_config, path)


def test_permission_denied_is_one_sentence(tmp_path, monkeypatch):
    """The same for those who run the tests as root."""
    path = tmp_path / "config.json"
    path.write_text("{}")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "may not be read: permission denied" in sentence(read_config, path)


# Writing.


@one_quick_in(4, "family", FAMILIES)
@settings(QUICK, max_examples=6)
@given(data=st.data())
def test_what_is_written_is_read_back(family, data):
    """Without the transformers library; with it, a dozen more of each family are compared."""
    tree = read_config(data.draw(configs(FAMILIES[family])))
    assert read_config(json.loads(json.dumps(write_config(tree, family)))) == tree


@pytest.mark.slow
@settings(QUICK, max_examples=150)
@given(choices=designs(deepest=6), family=st.sampled_from(families()))
def test_a_tree_is_written_exactly_or_refused(choices, family):
    tree = Transformer(**choices)
    config = outcome(write_config, tree, family)
    if isinstance(config, InputError):
        assert family in str(config)
    else:
        assert read_config(config) == tree


CANNOT = {
    "gpt2": ({"positions": "rotary"}, "gpt2 cannot express"),
    "llama": ({}, "llama cannot express"),
    "bert": ({}, "bert cannot express a model with this kind and head"),
    "mixtral": ({"norm": "rmsnorm", "gated": True, "bias": False, "positions": "rotary"}, "mixtral cannot express"),
    "opt": ({"heads": [1, 2, 4]}, "opt cannot express this tree"),
    "bloom": ({"positions": "alibi", "embedding_norm": True, "ffn": 7}, "bloom cannot express"),
}


@pytest.mark.parametrize("family", CANNOT)
def test_what_a_family_cannot_express_is_named(family):
    choices, start = CANNOT[family]
    tree = Transformer(**{"depth": 3, "width": 24, "heads": 3, **choices})
    assert sentence(write_config, tree, family).startswith(start)


def test_the_first_thing_a_family_cannot_express_is_named():
    tree = Transformer(depth=2, width=24, heads=3)
    changed = tree.replace(stem=tree.stem.replace(scale=2.0))
    assert sentence(write_config, changed, "gpt2") == "gpt2 cannot express stem.scale=2.0, which it would read back as 1.0"
    assert "there is no family 'gtp2' (did you mean 'gpt2'?)" in sentence(write_config, tree, "gtp2")
    assert "is not a Transformer" in sentence(write_config, {"model_type": "gpt2"}, "gpt2")
    mixed = Transformer(depth=2, width=24, heads=3, experts=2, ffn=5)
    blocks = list(mixed.stack.blocks())[:1] + list(tree.stack.blocks())[:1]
    assert isinstance(mixed.stack.repeats[0].block.feed_forward.branch, MixtureOfExperts)
    mixed = mixed.replace(decoder=mixed.decoder.of(blocks, mixed.decoder.norm))
    assert "qwen2_moe cannot express" in sentence(write_config, mixed, "qwen2_moe")


def test_symbols_cannot_be_written():
    import sympy

    depth, width = sympy.symbols("L d", positive=True, integer=True)
    tree = Transformer(depth=depth, width=width, heads=1)
    assert "cannot express symbols" in sentence(write_config, tree, "gpt2")


# Noise.

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, -1, 10**30, 1e308, 2**63])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)
ROPE = st.dictionaries(st.sampled_from(["full_attention", "sliding_attention", "rope_theta", "partial_rotary_factor"]), JSON)
VALUES = JSON | ROPE


# Fields that are read beside those with a default.
BESIDE = (
    "rope_theta", "rope_parameters", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rope_local_base_freq",
    "hidden_activation", "architectures", "num_labels", "id2label",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(QUICK, max_examples=8)
@given(data=st.data())
def test_changed_configurations_are_read_or_refused(family, data):
    """Nothing but one sentence, whatever the fields hold: each change alone, and all at once."""
    kind = FAMILIES[family]
    config = data.draw(configs(kind))
    known = [*kind.defaults, *kind.aliases, *kind.only, *BESIDE]
    changes = data.draw(st.dictionaries(st.sampled_from(known), VALUES, min_size=3, max_size=4))
    for change in (changes, *({name: value} for name, value in changes.items())):
        tree = outcome(read_config, config | change)
        assert isinstance(tree, InputError) or tree.parameters > 0


@pytest.mark.slow
@settings(QUICK, max_examples=200)
@given(config=st.dictionaries(st.text(max_size=10) | st.just("model_type"), JSON))
def test_any_object_is_read_or_refused(config):
    outcome(read_config, config)


@pytest.mark.slow
@settings(QUICK, max_examples=200)
@given(data=st.binary(max_size=200))
def test_any_file_is_read_or_refused(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "config.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_nothing_heavy_is_imported(in_fresh_python):
    output = in_fresh_python(
        "import sys; from depthwidth.architecture.hf import read_config, write_config;"
        "tree = read_config({'model_type': 'llama'}); write_config(tree, 'llama'); print(tree.parameters);"
        "print(sorted({'torch', 'transformers', 'sympy', 'numpy', 'scipy', 'pandas', 'verify'} & set(sys.modules)))"
    )
    assert output.split() == ["6738415616", "[]"]


def test_a_window_that_is_switched_off_may_be_zero():
    """As transformers writes it for models whose windows are off."""
    off = {"model_type": "qwen2_moe", "sliding_window": 0, "use_sliding_window": False}
    assert read_config(off) == read_config({"model_type": "qwen2_moe"})
    with pytest.raises(InputError, match="sliding_window=0"):
        read_config(off | {"use_sliding_window": True})
    with pytest.raises(InputError, match="sliding_window=0"):
        read_config({"model_type": "mistral", "sliding_window": 0})


def test_a_family_with_an_unknown_setting_or_rule_is_refused():
    plain = {"defaults": {}, "names": {}, "fixed": {}, "models": {}}
    with pytest.raises(InputError, match="mine: there is no setting 'warmth'; known are coarse_penalty"):
        Family("mine", **plain, settings={"warmth": 1})
    with pytest.raises(InputError, match="mine: there is no initial rule 'cold'; known are normal"):
        Family("mine", **plain, initial_rule="cold")


@functools.cache
def every_role():
    """The tensors of all families' trees, with and without the last part of their names."""
    variants = [
        {"model_type": "opt", "word_embed_proj_dim": 512},
        {"model_type": "opt", "do_layer_norm_before": False},
        {"model_type": "t5", "feed_forward_proj": "gated-gelu"},
        {"model_type": "marian", "share_encoder_decoder_embeddings": False},
        {"model_type": "phi", "qk_layernorm": True},
        {"model_type": "deberta", "relative_attention": True, "pos_att_type": "c2p|p2c"},
        {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": "c2p|p2c", "norm_rel_ebd": "layer_norm"},
        {"model_type": "beit", "use_relative_position_bias": True, "use_mask_token": True},
        {"model_type": "beit", "use_shared_relative_position_bias": True, "use_absolute_position_embeddings": True},
        {"model_type": "beit", "use_mean_pooling": False},
        {"model_type": "stablelm", "use_parallel_residual": True},
        {"model_type": "lfm2", "full_attn_idxs": [1]},
        {"model_type": "bert", "tie_word_embeddings": False},
        {"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
        {"model_type": "xglm", "add_cross_attention": True},
        {"model_type": "gpt2", "add_cross_attention": True, "scale_attn_by_inverse_layer_idx": True},
        {"model_type": "gpt_bigcode", "add_cross_attention": True, "multi_query": False},
        {"model_type": "switch_transformers", "encoder_sparse_step": 3, "decoder_sparse_step": 0},
        {"model_type": "t5", "dense_act_fn": "silu", "is_gated_act": True},
        {"model_type": "granite", "head_dim": 40},
        {"model_type": "dinov2", "head_dim": 40},
        {"model_type": "granitemoehybrid", "layer_types": ["full_attention"] * 32, "num_local_experts": 0},
        {"model_type": "qwen3_next", "mlp_only_layers": [1]},
        {"model_type": "falcon_h1", "mamba_rms_norm": True},
    ]
    classes = [{"model_type": name, "architectures": [one]} for name, family in FAMILIES.items() for one in family.models]
    roles = {weight.role for config in (*variants, *classes) for weight in weights(read_config(config))}
    return roles | {role.rpartition(".")[0] for role in roles}


@one_quick_in(4, "family", FAMILIES)
def test_weight_names_are_of_tensors_that_trees_have(family):
    for name, role in FAMILIES[family].weights.items():
        parts = role.roles if isinstance(role, Fused) else (role.replace("#", "0"),)
        roles = [one for part in parts for one in part.split("|")]
        known = [one for one in roles if one in every_role()]
        assert known == roles, name
