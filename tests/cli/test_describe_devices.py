"""``describe`` with devices: what is printed is what the library counts, and every option has an effect or is refused."""

import json

import pytest

from depthwidth import Parallelism, TrainingSetup, Transformer, training_memory

CONFIG = {
    "model_type": "mixtral", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 64, "num_local_experts": 4,
}  # fmt: skip
OPTIONS = [
    ("--data-parallel 4 --zero 3", {"data": 4, "zero": 3}, {}),
    ("--tp 2 --sequence-parallel", {"tensor": 2, "sequence": True}, {}),
    ("--pp 2 --microbatches 1", {"pipeline": 2, "microbatches": 1}, {}),
    ("--dp 4 --ep 2", {"data": 4, "expert": 2}, {}),
    ("--optimizer muon --gradients fp32", {}, {"optimizer": "muon", "gradients": "fp32"}),
    ("--no-master", {}, {"master": False}),
    ("--recompute selective", {}, {"recompute": "selective"}),
    ("--scores-kept", {}, {"fused": False}),
    ("--lora 8 --lora-on attention --frozen-dtype int4", {}, {"lora": 8, "lora_on": "attention", "frozen_dtype": "int4"}),
    ("--frozen stem --frozen head", {}, {"frozen": ("stem", "head")}),
]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


@pytest.mark.parametrize(("options", "devices", "setup"), OPTIONS, ids=[options for options, *_ in OPTIONS])
def test_an_option_counts_as_the_library_does(invoke, config, options, devices, setup):
    tree = Transformer.from_config(CONFIG)
    found = json.loads(invoke("describe", config, "--no-diagnosis", "--json", *options.split()).output)["device_memory"]
    assert found == json.loads(json.dumps(training_memory(tree, Parallelism(**devices), TrainingSetup(**setup)).to_dict()))
    assert found != training_memory(tree).to_dict()


def test_the_page_says_who_holds_what(invoke, config):
    plain = invoke("describe", config, "--no-diagnosis").output
    assert "per device" not in plain
    page = invoke("describe", config, "--no-diagnosis", "--tp", "2", "--pp", "2", "--lora", "4").output
    for words in ("4 (2 tensor-parallel, 2 pipeline-parallel)", "in stage 1 of 2", "trained parameters", "cache per device"):
        assert words in page


def test_the_cache_has_a_format_of_its_own(invoke, config):
    plain, small = (
        json.loads(invoke("describe", config, "--no-diagnosis", "--json", *more).output)
        for more in ((), ("--cache-dtype", "fp8"))
    )
    assert plain["kv_cache_bytes"] == 2 * small["kv_cache_bytes"]
    assert plain["weight_bytes"] == small["weight_bytes"]


@pytest.mark.parametrize(("options", "words"), [
    ("--tp 3", "heads=8 cannot be divided evenly among 3 devices"),
    ("--zero 4", "zero"),
    ("--optimizer lion", "optimizer='lion'"),
    ("--frozen nothing", "there are no weights at 'nothing'"),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence(invoke, config, options, words):
    result = invoke("describe", config, "--no-diagnosis", *options.split())
    assert result.status == 2
    assert words in result.error
    assert "Traceback" not in result.error


def test_a_model_without_a_tree_has_no_devices(invoke, tmp_path):
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "vits"}))
    result = invoke("describe", path, "--tp", "2")
    assert result.status == 2
    assert "is counted from a tree, and this model has none" in result.error
