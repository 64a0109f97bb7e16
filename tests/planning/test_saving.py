"""A saved plan: transformers loads the configuration and counts the same, and the recipe lies beside it."""

import json
import math

import pytest

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.planning.plan import plan


@pytest.mark.parametrize("preset", ["gpt3", "llama2", "llama3", "mixtral", "vit"])
def test_a_saved_plan_reads_back(preset, tmp_path):
    found = plan("90M", preset=preset, **({} if preset == "vit" else {"vocab": 1000}))
    config, recipe = found.save(tmp_path / "config.json")
    assert (config.name, recipe.name) == ("config.json", "config.recipe.json")
    assert Transformer.from_config(tmp_path) == found.tree
    made = json.loads(recipe.read_text())
    assert made["scheme"] == "shipped"
    assert sum(math.prod(row["shape"]) for row in made["parameters"]) == found.tree.parameters


def test_a_plan_like_a_configuration_is_saved_as_one_of_its_family(tmp_path):
    found = plan("90M", like={"model_type": "qwen2", "vocab_size": 1000, "num_key_value_heads": 4})
    found.save(tmp_path / "config.json", "deepscale")
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2"
    assert json.loads((tmp_path / "config.recipe.json").read_text())["scheme"] == "deepscale"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gpt3", "llama3", "mixtral"])
def test_transformers_loads_it_and_counts_the_same(preset, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    found = plan("90M", preset=preset, vocab=1000)
    found.save(tmp_path / "config.json")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == found.tree.parameters
    assert Transformer.from_config(config) == found.tree  # its own object, read by its to_dict()


KEPT = {"initializer_range": 0.007, "bos_token_id": 5, "hidden_dropout_prob": 0.1, "torch_dtype": "bfloat16", "note": "ours"}
LIKE = {
    "llama": {
        "rope_theta": 5e5,
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 4,
        "num_attention_heads": 8,
        "num_hidden_layers": 3,
    },
    "qwen3": {"rope_theta": 1e6, "layer_types": ["full_attention"] * 3, "num_hidden_layers": 3},
    "gpt2": {"n_layer": 3, "n_inner": None, "summary_type": "mean"},
    "mistral": {"sliding_window": 512, "num_hidden_layers": 3, "quantization_config": {"bits": 4}},
}


@pytest.mark.parametrize("family", LIKE)
def test_what_says_nothing_about_the_shape_is_kept(family, tmp_path):
    own = {"model_type": family, "vocab_size": 1000, **LIKE[family], **KEPT}
    found = plan("90M", like=own)
    found.save(tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved.get(name) for name in KEPT} == KEPT
    assert Transformer.from_config(saved) == found.tree
    assert found.shape.depth != 3  # what belongs to the other shape, or to its weights, is not
    assert len(saved.get("layer_types", range(found.shape.depth))) == found.shape.depth
    assert "quantization_config" not in saved
    assert all(saved[name] == own[name] for name in {"rope_theta", "summary_type", "sliding_window"} & set(own))
    shipped = json.loads((tmp_path / "config.recipe.json").read_text())
    assert any(row["std"] == pytest.approx(0.007) for row in shipped["parameters"])


def test_tokens_beyond_the_vocabulary_are_left_out(tmp_path):
    own = {"model_type": "llama", "pad_token_id": 31999, "eos_token_id": [2, 1500], "bos_token_id": 1}
    plan("90M", like=own, vocab=1000).save(tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved.get("pad_token_id"), saved["bos_token_id"]) == (None, 1)
    assert saved.get("eos_token_id") != [2, 1500]
    plan("90M", like=own).save(tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["pad_token_id"], saved["eos_token_id"]) == (31999, [2, 1500])


@pytest.mark.slow
@pytest.mark.parametrize("family", LIKE)
def test_transformers_loads_a_plan_like_a_configuration(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    own = {"vocab_size": 1000, **LIKE[family], **KEPT}
    found = plan("90M", like={"model_type": family, **own})
    found.save(tmp_path / "config.json")
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.initializer_range == 0.007
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == found.tree.parameters


class Object:
    """As configuration objects of transformers: fields by to_dict()."""

    def __init__(self, fields):
        self.fields = fields

    def to_dict(self):
        return self.fields


def test_a_configuration_object_is_read_by_its_fields():
    fields = {"model_type": "gpt2", "n_layer": 3}
    assert Transformer.from_config(Object(fields)) == Transformer.from_config(fields)
    assert plan("100M", like=Object(fields)).template == plan("100M", like=fields).template
    for wrong in (Object([1]), Object, 3):
        with pytest.raises(InputError):
            Transformer.from_config(wrong)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("config.txt", {}, "does not end in .json"),
        ("missing/config.json", {}, "cannot be written"),
        ("config.json", {"positions": "alibi"}, "gpt2 cannot express"),
    ],
)
def test_what_cannot_be_saved_gets_one_sentence_and_leaves_no_file(name, options, sentence, tmp_path):
    found = plan("90M", vocab=1000, **options)
    with pytest.raises(InputError, match=sentence) as error:
        found.save(tmp_path / name)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
