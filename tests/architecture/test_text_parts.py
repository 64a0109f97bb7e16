"""The text stacks inside models of several kinds of input, against transformers' own text models."""

import copy
import dataclasses
import warnings

import pytest
from helpers import one_quick_in, quiet_transformers

from depthwidth.architecture.hf import FAMILIES, find_family, notes_on, read_config
from depthwidth.architecture.hf.text_parts import FLAT, TEXT_PARTS, TEXT_STACKS, by_family
from depthwidth.errors import InputError

transformers = quiet_transformers()
torch = pytest.importorskip("torch")

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8,
         "intermediate_size": 10, "vocab_size": 37, "max_position_embeddings": 16, "pad_token_id": 0}  # fmt: skip
MORE = {
    "qwen3_moe": {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 5},
    "glm4_moe": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 5, "first_k_dense_replace": 1,
                 "n_group": 1, "topk_group": 1},
}  # fmt: skip


ROPE = {"rope_type": "default", "rope_theta": 1e4}
ROPES = {
    **{key: {**ROPE, "mrope_section": [2, 1, 1]} for key in ("qwen2", "qwen3", "qwen3_moe")},
    **{key: {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]} for key in ("glm4", "glm4_moe")},
}


def small(text_type, **more):
    family = TEXT_STACKS[text_type].family
    return {"model_type": text_type, **SMALL, **MORE.get(family, {}), "rope_parameters": ROPES.get(family, ROPE), **more}


def built(config, device="cpu"):
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        parsed = transformers.AutoConfig.for_model(**copy.deepcopy(config))
        parsed._experts_implementation = "eager"  # the grouped kernel needs widths that are multiples of four
        return transformers.AutoModel.from_config(parsed).eval()


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.hf
@pytest.mark.parametrize("text_type", TEXT_STACKS)
def test_a_stack_of_another_name_is_that_of_its_family(text_type):
    """Weights and hidden states; and beside a vision tower, with a language head."""
    from verify import from_hf

    theirs = built(small(text_type))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    ours, tokens = from_hf(theirs), torch.randint(2, 37, (2, 11), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert (ours(tokens) - theirs(input_ids=tokens, use_cache=False).last_hidden_state).abs().max() < 1e-4
    assert ours.tree.parameters == count(theirs)
    whole = next(name for name, part in TEXT_PARTS.items() if part == text_type)
    inside = {"model_type": whole, "text_config": small(text_type), "tie_word_embeddings": False}
    assert read_config(inside).parameters == count(theirs) + 37 * 48
    assert notes_on(inside)[0].startswith(f"this is the text stack of a {whole} model, its text_config,")
    wrong = {**inside, "text_config": small(text_type, num_key_value_heads=2)}
    assert read_config(wrong).parameters != count(theirs) + 37 * 48


@pytest.mark.hf
@pytest.mark.parametrize("text_type", TEXT_STACKS)
def test_defaults_of_a_stack_are_those_of_transformers(text_type):
    kind = type(transformers.AutoConfig.for_model(text_type))
    theirs = {field.name: field.default for field in dataclasses.fields(kind)}
    ours = by_family(text_type, {})
    for name in FAMILIES[TEXT_STACKS[text_type].family].defaults:
        if name in theirs:
            assert ours.get(name, find_family(ours["model_type"]).defaults[name]) == theirs[name], name
    rope = kind().rope_parameters
    assert rope["rope_theta"] == ours.get("rope_theta", 10000.0)


@pytest.mark.hf
@one_quick_in(5, "whole", TEXT_PARTS)
def test_the_usual_text_stack_of_each_model_is_that_of_transformers(whole):
    try:
        theirs = transformers.AutoConfig.for_model(whole).text_config.model_type
    except AttributeError:  # a model of an earlier release, whose file has it at the top level
        theirs = TEXT_PARTS[whole]
    assert theirs == TEXT_PARTS[whole]


# The text_config of published models, and the parameters of the text model that transformers builds from it.
INSIDE = {
    "llava": {"text_config": {"model_type": "llama", "vocab_size": 32064}},
    "llava_next": {"text_config": {"model_type": "mistral", "num_key_value_heads": 8, "intermediate_size": 14336}},
    "mistral3": {"text_config": {"model_type": "mistral", "hidden_size": 5120, "head_dim": 128, "num_hidden_layers": 40,
                                 "intermediate_size": 32768, "vocab_size": 131072}},
    "qwen2_5_vl": {"text_config": {"model_type": "qwen2_5_vl_text", "hidden_size": 2048, "num_hidden_layers": 36,
                                   "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008}},
    "qwen3_vl": {"text_config": {"model_type": "qwen3_vl_text", "hidden_size": 2560, "num_hidden_layers": 36,
                                 "intermediate_size": 9728, "num_key_value_heads": 8}},
    "qwen3_vl_moe": {"text_config": {"model_type": "qwen3_vl_moe_text", "hidden_size": 2048, "num_hidden_layers": 48,
                                     "num_attention_heads": 32, "num_key_value_heads": 4, "moe_intermediate_size": 768,
                                     "num_experts": 128, "num_experts_per_tok": 8}},
    "gemma3": {"text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240}},
    "paligemma": {"text_config": {"model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18,
                                  "num_attention_heads": 8, "num_key_value_heads": 1, "intermediate_size": 16384,
                                  "vocab_size": 257216}},
    "idefics3": {"text_config": {"model_type": "llama", "hidden_size": 576, "num_attention_heads": 9}},
    "internvl": {"text_config": {"model_type": "qwen2", "hidden_size": 896, "num_attention_heads": 14,
                                 "num_key_value_heads": 2, "intermediate_size": 4864}},
    "aya_vision": {"text_config": {"model_type": "cohere2", "hidden_size": 4096, "num_attention_heads": 32}},
    "smolvlm": {"text_config": {"model_type": "llama", "hidden_size": 960, "num_attention_heads": 15,
                                "num_key_value_heads": 5}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.hf
@pytest.mark.parametrize("whole", INSIDE)
def test_a_text_stack_has_the_weights_that_transformers_gives_it(whole):
    config = {"model_type": whole, **INSIDE[whole]}
    inner = {"model_type": TEXT_PARTS[whole], **config["text_config"]}
    tree = read_config(config)
    head = 0 if tree.head.unembedding.tied else tree.vocab * tree.width
    assert tree.parameters == count(built(inner, "meta")) + head


@pytest.mark.parametrize("whole", FLAT)
def test_older_files_have_the_text_stack_at_their_top_level(whole):
    """Qwen2-VL-7B and its like."""
    text = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "intermediate_size": 18944, "vocab_size": 152064, "rope_theta": 1000000.0, "tie_word_embeddings": False,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}  # fmt: skip
    flat = {"model_type": whole, "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {"depth": 32}, **text}
    nested = {"model_type": whole, "text_config": text}
    assert read_config(flat) == read_config(nested) == read_config({"model_type": "qwen2", **text})
    assert read_config(flat).parameters == 7615616512
    assert notes_on(flat) == [
        f"this is the text stack of a {whole} model with a language head; the rest of the model is not counted"
    ]
    with pytest.raises(InputError, match="num_attention_heads=5"):
        read_config({**flat, "num_attention_heads": 5})


def test_a_stack_saved_on_its_own_has_no_head():
    one = {"model_type": "qwen3_vl_text", "architectures": ["Qwen3VLTextModel"], "num_hidden_layers": 2}
    assert read_config(one).head is None
    assert notes_on(one) == []
