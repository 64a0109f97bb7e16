"""Models of two towers: a tree for each, and the sum of their weights."""

import json

import pytest

from depthwidth.architecture.hf import NoTreeError, notes_on, read_config, read_towers
from depthwidth.errors import InputError

TEXT = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 10, "num_hidden_layers": 2, "vocab_size": 30}
VISION = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 12, "num_hidden_layers": 3, "image_size": 12}
SMALL = {"text_config": TEXT, "vision_config": {**VISION, "patch_size": 5}}
PUBLISHED = {
    "clip-vit-base-patch32": ({"model_type": "clip"}, 151277313),
    "siglip-base-patch16-224": ({"model_type": "siglip"}, 203155970),
    "small clip": ({"model_type": "clip", "projection_dim": 7, **SMALL}, 14969),
    "small siglip": ({"model_type": "siglip", **SMALL, "text_config": {**TEXT, "projection_size": 16}}, None),
    "old clip": (
        {"model_type": "clip", "text_config_dict": TEXT, "vision_config_dict": SMALL["vision_config"], "text_config": None},
        None,
    ),
}


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sum_is_that_of_transformers(name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config, stated = PUBLISHED[name]
    towers = read_towers(config)
    with torch.device("meta"):
        parsed = transformers.AutoConfig.for_model(**json.loads(json.dumps(config)))
        model = transformers.AutoModel.from_config(parsed)
    assert towers.parameters == sum(p.numel() for p in model.parameters())
    assert stated in (None, towers.parameters)
    # One of the towers alone, with its part of the head.
    trees, joint = towers.trees, dict(model.named_parameters(recurse=False))
    assert towers.joint == sum(p.numel() for p in joint.values())
    own = sum(p.numel() for name, p in model.named_parameters() if name.startswith(("text_model", "text_projection")))
    assert trees["text"].parameters == own != trees["vision"].parameters


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize("name", ["small clip", "small siglip"])
def test_the_whole_model_says_the_same(name):
    """Similarities of images and texts, with the weights of both towers and those that belong to neither."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from verify import from_hf

    torch.manual_seed(4)
    config = json.loads(json.dumps(PUBLISHED[name][0]))
    config["text_config"]["eos_token_id"] = 29
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = from_hf(theirs)
    assert not ours.training
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    images, tokens = torch.randn(3, 3, 12, 12), torch.randint(2, 29, (2, 9))
    tokens[:, -1] = 29
    with torch.no_grad():
        expected = theirs(input_ids=tokens, pixel_values=images).logits_per_image
        assert expected.shape == (3, 2)
        assert expected.std() > 0.01
        assert (ours(images, tokens) - expected).abs().max() < 1e-4
        ours.vision.head.get_parameter("linear.weight" if "clip" in name else "feed_forward.up.weight").add_(0.5)
        assert (ours(images, tokens) - expected).abs().max() > 1e-3


@pytest.mark.hf
@pytest.mark.slow
def test_the_tower_of_a_model_of_images_and_texts():
    """The number in the note on a Llava file is that of the tower that transformers builds."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = {"model_type": "llava", "text_config": {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64,
              "num_attention_heads": 4, "intermediate_size": 8, "vocab_size": 50},
              "vision_config": {"model_type": "siglip_vision_model", **VISION, "patch_size": 4}}  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**json.loads(json.dumps(config))))
    count = sum(p.numel() for p in model.vision_tower.parameters())
    assert f"its tower for images, a siglip_vision_model, has {count:,} parameters" in notes_on(config)[0]


def test_other_commands_read_the_tower_for_texts():
    config = {"model_type": "clip", "projection_dim": 7, **SMALL}
    assert read_config(config) == read_towers(config).trees["text"]
    assert read_config(config).head.outputs == 7
    (note,) = notes_on(config)
    assert note.startswith("this is the tower for texts of a clip model")


def test_models_without_two_towers_and_broken_files():
    assert read_towers({"model_type": "gpt2"}) is None
    assert read_towers({"model_type": ["clip"]}) is None
    with pytest.raises(InputError, match="text_config=5 is not an object"):
        read_towers({"model_type": "clip", "text_config": 5})
    with pytest.raises(InputError, match="projection_dim='7' is not a whole number"):
        _ = read_towers({"model_type": "clip", "projection_dim": "7"}).trees
    with pytest.raises(NoTreeError, match="is not supported, only CLIPModel"):
        read_config({"model_type": "clip", "architectures": ["CLIPForImageClassification"]})


@pytest.mark.slow
def test_describe_prints_both_towers(invoke, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "clip", "projection_dim": 7, **SMALL}))
    page = invoke("describe", path)
    assert page.status == 0, page.error
    assert "The tower for texts:" in page.output
    assert "The tower for images:" in page.output
    found = json.loads(invoke("describe", path, "--json").output)
    parts = [found["towers"][name]["parameters"] for name in ("text", "vision")]
    assert found["parameters"] == sum(parts) + found["other_parameters"] == 14969
    assert invoke("describe", path, "--csv").output.startswith("tower,site,")
