"""Models that no tree describes are counted by the transformers library itself, without weights and within bounds."""

import functools
import json
import warnings

import pytest
from click.testing import CliRunner

from depthwidth.architecture.hf import NoTreeError, find_family, read_config
from depthwidth.cli import cli
from depthwidth.errors import InputError

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

from verify.measure import library  # noqa: E402
from verify.measure.library_process import remove_foreign, reports  # noqa: E402

pytestmark = pytest.mark.hf

TINY = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "pad_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
          "patch_size": 8}  # fmt: skip
MODELS = {
    "deepseek_v3": {**TINY, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
                    "qk_nope_head_dim": 4, "v_head_dim": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2,
                    "topk_group": 1, "moe_intermediate_size": 8, "first_k_dense_replace": 1},
    "gpt_oss": {**TINY, "head_dim": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "qwen3_next": {**TINY, "head_dim": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
                   "shared_expert_intermediate_size": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                   "linear_key_head_dim": 4, "linear_value_head_dim": 4},
    "lfm2": TINY,
    "rwkv": {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16},
    "modernbert": TINY,
    "electra": {**TINY, "embedding_size": 8},
    "albert": {**TINY, "embedding_size": 8},
    "deberta-v2": TINY,
    "esm": {**TINY, "max_position_embeddings": 20, "mask_token_id": 3},
    "bart": BART,
    "mbart": BART,
    "whisper": {**BART, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 12,
                "pad_token_id": 0},
    "mt5": {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4},
    "siglip": {"text_config": {**TINY, "max_position_embeddings": 64}, "vision_config": VISION},
    "clip": {"text_config": {**TINY, "eos_token_id": 2}, "vision_config": VISION},
    "dinov2": VISION,
    "beit": VISION,
    "llava": {"text_config": {**TINY, "model_type": "llama"}, "vision_config": {**VISION, "model_type": "clip_vision_model"}},
}  # fmt: skip
WITHOUT_OPERATIONS = {"qwen3_next", "lfm2", "whisper", "llava"}


def answers(config, **asked):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(reports({"config": config, **asked}))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODELS)
def test_counts_are_those_of_the_model_that_transformers_builds(model_type):
    """Built again with memory: as many weights, tied ones once, and as many operations where they are counted."""
    from torch.utils.flop_counter import FlopCounterMode

    config = {"model_type": model_type, **MODELS[model_type]}
    sizes, passed = answers(config, tokens=8)
    kind = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
    kind._attn_implementation = "eager"
    kind._experts_implementation = "batched_mm"
    torch.manual_seed(0)
    model = getattr(transformers, sizes["model_class"])(kind).eval()
    assert sizes["parameters"] == sum(p.numel() for p in model.parameters())
    assert sizes["parameters"] == sum(row["parameters"] for row in sizes["rows"])
    assert 0 <= sizes["embedding_parameters"] < sizes["parameters"]
    if model_type in WITHOUT_OPERATIONS:
        return
    tokens = torch.full((1, 8), 3)
    inputs = {"input_ids": tokens}
    if sizes["source"] is not None:
        inputs["decoder_input_ids"] = tokens
    if model_type in ("dinov2", "beit", "siglip", "clip"):
        inputs = {"pixel_values": torch.zeros(1, 3, 16, 16)} | (inputs if model_type in ("siglip", "clip") else {})
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(**inputs)
    assert passed["flops"] == counter.get_total_flops() > 0


@pytest.mark.slow
def test_a_model_without_a_family_in_one_process():
    """The parameters of a tiny Mamba, worked out by hand; a layer more is seen."""
    inner, state, rank = 32, 4, 1
    mixer = 16 * 2 * inner + inner * 4 + inner + inner * (rank + 2 * state) + rank * inner + inner + inner * state + inner
    mixer += inner * 16
    sizes, passed = answers({"model_type": "mamba", **MODELS["mamba"], "tie_word_embeddings": True}, tokens=3)
    assert sizes["parameters"] == 40 * 16 + 2 * (mixer + 16) + 16
    assert sizes["embedding_parameters"] == 40 * 16
    assert passed["flops"] > 0
    more, _ = answers({"model_type": "mamba", **MODELS["mamba"], "num_hidden_layers": 3}, tokens=3)
    assert more["parameters"] == sizes["parameters"] + mixer + 16


def test_fields_that_name_code_or_files_are_left_out():
    assert remove_foreign({"auto_map": {}, "a": [{"_attn_implementation": "x", "b": 1}], "quantization_config": {}}) == {
        "a": [{"b": 1}]
    }


def test_what_the_library_refuses_is_one_line():
    (only,) = answers({"model_type": "mamba", "hidden_size": "a\nb"})
    assert "hidden_size" in only["refused"]
    assert "\n" not in only["refused"]
    assert answers({"model_type": "no_such_model"})[0]["unknown"]


def test_a_class_that_is_none_of_the_library_s_is_not_looked_for_elsewhere():
    for name in ("EvilModel", "os.system", "GPT2LMHeadModel", "logging"):
        sizes, _ = answers({"model_type": "mamba", **MODELS["mamba"], "architectures": [name]}, tokens=2)
        assert (sizes["model_class"], sizes["as_named"]) == ("MambaForCausalLM", False)


# The command, in a process as it runs.


def described(tmp_path, config, *options):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return CliRunner().invoke(cli, ["describe", str(path), *options])


@pytest.mark.slow
def test_describe_counts_what_theory_does_not_reach(tmp_path, monkeypatch):
    config = {"model_type": "megatron-bert", **TINY}
    monkeypatch.setattr(library, "_answers", functools.cache(library._answers))  # the second asks for the same
    found = json.loads(described(tmp_path, config, "--json", "--context", "5").output)
    sizes, passed = answers(config, tokens=5)
    assert (found["parameters"], found["forward_flops"]) == (sizes["parameters"], passed["flops"])
    assert found["theory"] is False
    assert found["notes"][0] == "config: model_type='megatron-bert' is not a supported family"
    page = described(tmp_path, config, "--context", "5")
    assert page.exit_code == 0
    assert "the theory does not cover this model" in page.output
    assert f"{sizes['parameters']:,}" in page.output


@pytest.mark.slow
def test_describe_counts_a_head_that_no_tree_describes(tmp_path, monkeypatch):
    """The answers are those of this process: one of its own, as the test above has it, takes seconds to start."""
    monkeypatch.setattr(library, "_answers", lambda asked: tuple(answers(**json.loads(asked) | {"memory": None})))
    config = {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
    config["architectures"] = ["GPT2DoubleHeadsModel"]
    with pytest.raises(NoTreeError):
        read_config(config)
    found = json.loads(described(tmp_path, config, "--json").output)
    assert found["model_class"] == "GPT2DoubleHeadsModel"


def test_without_the_library_there_is_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    error = described(tmp_path, {"model_type": "bamba"}).exception
    assert isinstance(error, InputError)
    assert str(error) == (
        "config: model_type='bamba' is not a supported family; pip install 'depthwidth[hf]' for the exact counts of any "
        "model that transformers can build"
    )


def test_time_and_memory_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "LONGEST", 0.05)
    error = described(tmp_path, {"model_type": "bamba", "num_hidden_layers": 10**9}).exception
    assert "transformers could not build it within" in str(error)


def test_a_field_of_the_wrong_kind_is_no_matter_for_the_library(tmp_path):
    error = described(tmp_path, {"model_type": "gpt2", "n_layer": "12"}).exception
    assert str(error).startswith("gpt2 config: n_layer='12' is not a whole number")


# Text stacks inside other models.


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gemma3", "mistral3"])
def test_the_text_stack_of_a_model_of_images_is_read(model_type):
    text = {**TINY, "head_dim": 4, "num_hidden_layers": 3}
    config = {"model_type": model_type, "text_config": text, "vision_config": {**VISION, "image_size": 16}}
    if model_type == "mistral3":
        config["tie_word_embeddings"] = False  # as the weights of its published models say, whatever the class's default is
    if model_type == "gemma3":
        config["mm_tokens_per_image"] = 1
    whole, _ = answers(config)
    rest = sum(row["parameters"] for row in whole["rows"] if "vision" in row["site"] or "multi_modal" in row["site"])
    assert 0 < rest < whole["parameters"]
    assert read_config(config).parameters == whole["parameters"] - rest


def test_the_note_says_that_the_text_stack_is_described(tmp_path):
    config = {"model_type": "gemma3", "text_config": {**TINY, "head_dim": 4}}
    page = described(tmp_path, config, "--no-diagnosis").output
    assert "Note: this is the text stack of a gemma3 model, its text_config" in page
    assert find_family("gemma3") is None
