"""Stretched rotary positions in configurations: read as the transformers library reads them, and written again."""

import json

import numpy as np
import pytest

from depthwidth import Transformer
from depthwidth.architecture.hf import read_config, read_design, write_config
from depthwidth.errors import InputError
from depthwidth.layers import RotaryScaling

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
EACH = {"short_factor": [1 + k / 16 for k in range(16)], "long_factor": [2 + k / 4 for k in range(16)]}
TABLES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": YARN,
    "yarn, by lengths": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 256},
    "yarn, given": {**YARN, "attention_factor": 1.7, "beta_fast": 16, "beta_slow": 2, "truncate": False},
    "yarn, two scales": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.4},
    "longrope": {"rope_type": "longrope", **EACH, "original_max_position_embeddings": 128},
    "longrope, by factor": {"rope_type": "longrope", **EACH, "factor": 8.0, "original_max_position_embeddings": 128},
    "longrope, given": {"rope_type": "longrope", **EACH, "attention_factor": 1.2, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0},
}  # fmt: skip


def config(table, **more):
    rope = {"rope_parameters": {"rope_theta": 5000.0, **table}}
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 1024}
    return {"model_type": "llama", "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 50, **sizes, **rope, **more}


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("length", [100, 3000])
def test_angles_and_amplitudes_are_the_librarys(name, length):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    table = dict(TABLES[name])
    theirs = transformers.LlamaConfig(**{k: v for k, v in config(table).items() if k != "model_type"})
    if name == "default":
        expected, amplitude = 5000.0 ** (-torch.arange(0, 32, 2) / 32), 1.0
    else:
        expected, amplitude = ROPE_INIT_FUNCTIONS[table["rope_type"]](theirs, "cpu", seq_len=length)
    rotary = read_design(config(table)).positions
    assert rotary.frequencies(32, length) == pytest.approx(expected.numpy(), rel=1e-5)
    assert rotary.amplitude == pytest.approx(amplitude, rel=1e-12)


def test_all_of_the_librarys_types_are_followed_or_refused():
    utils = pytest.importorskip("transformers.modeling_rope_utils")
    for kind in utils.ROPE_INIT_FUNCTIONS:
        table = next(table for table in TABLES.values() if table["rope_type"] == kind)
        assert read_design(config(table)).positions.scaling.kind == kind


@pytest.mark.parametrize("name", TABLES)
def test_a_written_table_is_read_as_the_same(name):
    tree = Transformer.from_config(config(TABLES[name]))
    again = json.loads(json.dumps(tree.to_config("llama")))
    assert Transformer.from_config(again) == tree
    if name != "default":
        again["rope_parameters"]["rope_type"] = "default"
        assert Transformer.from_config(again) != tree


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"rope_type": "axial"}, "has positions that no component here has"),
        ({"rope_type": "yarnn", "factor": 2.0}, "rope_type='yarnn' is not one of default, mrope, linear"),
        ({"rope_type": 5}, "rope_type=5 is not a word"),
        ({"rope_type": "linear"}, "factor=None of its rope is not a positive number"),
        ({"rope_type": "linear", "factor": -1}, "factor=-1 of its rope is not a positive number"),
        ({**YARN, "truncate": "no"}, "truncate='no' of its rope is neither true nor false"),
        ({**YARN, "original_max_position_embeddings": 0.5}, "original_max_position_embeddings=0.5 is not a positive whole"),
        ({**YARN, "beta_fast": 0.5}, "fast=0.5 is not at least slow=1.0"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": "x"}, "long_factor='x' of its rope is not a list"),
    ],
)
def test_tables_that_say_nothing_get_one_sentence(table, sentence):
    with pytest.raises(InputError) as error:
        read_config(config(table))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_factors_of_single_pairs_must_be_as_many_as_there_are_pairs():
    rotary = read_design(config({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]})).positions
    with pytest.raises(InputError, match="1 factors short are not one for each of 16 pairs"):
        rotary.frequencies(32, 100)
    with pytest.raises(InputError, match="kind='other' is not one of linear"):
        RotaryScaling("other")


def test_older_names():
    """``type``, Phi-3's ``su`` and its ``yarn`` with factors of single pairs, and a length beside the table."""
    longrope = {**EACH, "original_max_position_embeddings": 128}
    new = read_design(config({"rope_type": "longrope", **longrope})).positions
    for kind in ("su", "yarn", "longrope"):
        table = {"type": kind, **EACH}
        old = config({}, rope_parameters=None, rope_scaling=table, rope_theta=5000.0, original_max_position_embeddings=128)
        assert read_design(old).positions == new
    assert read_design(config({"rope_type": "mrope", "mrope_section": [2, 3, 3]})).positions.scaling is None


def test_gemma_3_stretches_full_attention_only():
    old = {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 1e6}
    design = read_design(old)
    assert design.positions.scaling == RotaryScaling("linear", 8.0)
    assert design.window_positions.scaling is None
    again = read_design(Transformer.from_config(old).to_config("gemma3_text"))
    assert (again.positions, again.window_positions) == (design.positions, design.window_positions)


@pytest.mark.parametrize(
    ("name", "amplitude"), [("yarn", 0.1 * np.log(4) + 1), ("longrope", (1 + np.log(8) / np.log(128)) ** 0.5)]
)
def test_scores_grow_with_the_fourth_power_of_the_amplitude(name, amplitude):
    from depthwidth import propagate

    def scores(table):
        frame = propagate(Transformer.from_config(config(table)), "xavier", context=16)
        return frame[frame.site == "decoder.block.0.attention.scores"].iloc[0]

    grown, plain = scores(TABLES[name]), scores(TABLES["default"])
    assert grown.second_moment / plain.second_moment == pytest.approx(amplitude**4, rel=1e-9)
    assert grown.second_moment / plain.second_moment != pytest.approx(amplitude**2, rel=1e-2)


@pytest.mark.parametrize("name", ["default", "yarn", "longrope"])
def test_deepscale_makes_scores_of_unit_variance_whatever_the_amplitude(name):
    from depthwidth import propagate

    frame = propagate(Transformer.from_config(config(TABLES[name])), "deepscale", context=16, variance=1.0)
    scores = frame[frame.site == "decoder.block.0.attention.scores"].iloc[0]
    assert scores.second_moment == pytest.approx(1.0, rel=1e-3)


@pytest.mark.hf
@pytest.mark.slow
def test_llama_4s_ramp_of_no_width_is_a_step():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    table = {"rope_type": "llama3", "factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0,
             "original_max_position_embeddings": 8192}  # fmt: skip
    config = {"model_type": "llama4_text", "rope_parameters": {**table, "rope_theta": 500000.0}}
    rotary = read_design(config).positions
    theirs = transformers.AutoConfig.for_model(**{**config, "rope_parameters": dict(config["rope_parameters"])})
    expected = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))[0]
    assert rotary.frequencies(128, 16) == pytest.approx(expected.numpy(), rel=1e-6)
    plain = rotary.replace(scaling=None).frequencies(128, 16)
    assert set(np.round(plain / rotary.frequencies(128, 16), 9)) == {1.0, 16.0}


STRETCHED = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 8}


@pytest.mark.parametrize("family", ["hunyuan_v1_dense", "hunyuan_v1_moe", "nanochat", "llama4_text", "qwen3", "llama"])
def test_a_norm_after_the_rotation_takes_its_factor_away(family):
    """No score has the factor then; in Qwen3 the norms are before the rotation."""
    config = {"model_type": family, "rope_parameters": {**STRETCHED, "attention_factor": 1.5}}
    tree = read_config(config)
    assert tree.stack.first("as_attention").position.amplitude == (1.5 if family in ("qwen3", "llama") else 1.0)
    assert read_config(write_config(tree, family)) == tree


def test_llama_4_without_norms_keeps_the_factor():
    config = {"model_type": "llama4_text", "use_qk_norm": False, "rope_parameters": {**STRETCHED, "attention_factor": 1.5}}
    assert read_config(config).stack.first("as_attention").position.amplitude == 1.5


def test_fields_next_to_an_older_table():
    """Ministral 3 reads a base of its own there; the tokens of Phi-3's training have a default, which goes before the table."""
    older = {"model_type": "ministral3", "rope_theta": 77.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert read_config(older).stack.first("as_attention").position.base == 77
    assert read_config({"model_type": "ministral3", "rope_theta": 77.0}).stack.first("as_attention").position.base == 1e6
    table = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "factor": 2.0}
    phi = {"model_type": "phi3", "rope_scaling": {**table, "original_max_position_embeddings": 8}}
    assert read_config(phi).stack.first("as_attention").position.scaling.original == 4096
    assert (
        read_config({**phi, "original_max_position_embeddings": 16}).stack.first("as_attention").position.scaling.original == 16
    )
