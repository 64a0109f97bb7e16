"""Every family, initialised by every scheme, through every command: an answer, or one sentence."""

import json
import re

import pytest
from helpers import one_quick_in
from mixer_strategies import has_recipe, mixer_fields
from strategies import PUBLISHED
from two_stacks import TWO_STACKS, gemma_stacks

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES
from depthwidth.initialization import schemes

SCHEMES = schemes()
SMALL = {"width": 16, "heads": 2, "kv_heads": 2, "head_dim": 8, "vocab": 50, "context": 16, "ffn": 32, "shared_ffn": 16,
         "experts": 4, "top_k": 2}  # fmt: skip
SHORT = {"max_position_embeddings": 18}
IMAGES = ("vit", "vit_mae", "beit", "deit", "dinov2", "clip_vision_model", "siglip_vision_model")
FEWER = {"gpt_neo": {"attention_types": [[["global", "local"], 9]], "window_size": 8}, "gptj": {"rotary_dim": 2},
         "codegen": {"rotary_dim": 2}, "opt": {"word_embed_proj_dim": 16}, "t5": {"num_layers": 18, "d_kv": 8},
         **{key: {"num_layers": 3, "num_decoder_layers": 2, "d_kv": 8} for key in ("mt5", "umt5", "switch_transformers")},
         "t5gemma": gemma_stacks(),
         **{key: {"encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 24}
            for key in (*TWO_STACKS, "whisper")},
         "helium": {"head_dim": 8}, **{key: {"image_size": 16, "patch_size": 4} for key in IMAGES},
         "roberta": SHORT, "xlm-roberta": SHORT, "camembert": SHORT}  # fmt: skip
LATENT = {"num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4,
          "v_head_dim": 8}  # fmt: skip
MIXED = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 2, "intermediate_size": 32}
FEWER |= {"deepseek_v2": LATENT | MIXED, "deepseek_v3": LATENT | MIXED, "minicpm3": LATENT, "glm4_moe": MIXED}
DEPTH = 18
"""Two blocks more than are walked one by one if positions differ."""
OVERFLOW = ("deepnorm", "admin", "unit-scaling", "t-fixup")
"""Schemes made for one place of the norms; elsewhere the stream may grow beyond floating point."""

FEWER |= {key: {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
          for key in ("deberta", "deberta-v2")}  # fmt: skip
FEWER |= {"llama4_text": {"intermediate_size": 32, "intermediate_size_mlp": 32, "num_experts_per_tok": 1}}
REFUSED = {
    "albert": "encoder: the moments of blocks that share their weights are not known\n",
    **dict.fromkeys(
        ("deberta", "deberta-v2"), "encoder.block.attention: the moments of disentangled attention are not known\n"
    ),
    "llama4_text": "the moments of (experts whose inputs the router scales are not|attention in chunks are) known",
    "modernbert": "encoder.block.attention: the moments of a window without a causal mask are not known\n",
    "t5gemma": "encoder.block.attention: the moments of a window without a causal mask are not known\n",
    "vit_mae": "stem: the moments of fixed positions on a grid are not known\n",
}
"""The sentence that refuses the moments of a family."""


def small(family):
    """A configuration of `family` with 18 narrow blocks."""
    names = FAMILIES[family].names
    fields = {names[choice]: value for choice, value in ({"depth": DEPTH} | SMALL).items() if choice in names}
    architecture = next(iter(FAMILIES[family].models))
    fields |= mixer_fields(family, SMALL["width"]) | FEWER.get(family, {})
    return {"model_type": family, "architectures": [architecture]} | fields


def published(family):
    """A published configuration of `family` of the most layers."""
    found = [config for config, _ in PUBLISHED.values() if config["model_type"] == family]
    return max(found, key=lambda config: Transformer.from_config(config).depth, default={"model_type": family})


def refuse(name):
    """JSON has no NaN and no infinity."""
    raise AssertionError(name)


def answers(invoke, tmp_path, config, scheme, commands=None):
    """Run all commands of one cell, and check that each answers; return what `moments --json` printed."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    found = None
    if not has_recipe(config):
        for name in ("moments", "init"):
            refused = invoke(name, path, "--scheme", scheme)
            assert refused.status
            assert refused.error.count("\n") == 1
            assert "no scheme states the initialisation of" in refused.error
        commands = (("describe", path, "--scheme", scheme), ("describe", path, "--scheme", scheme, "--json"))
    mixed = any("mixer" in stack.branches for stack in Transformer.from_config(config).stacks.values())
    for arguments in commands or (
        ("describe", path, "--scheme", scheme),
        ("describe", path, "--scheme", scheme, "--json"),
        ("moments", path, "--scheme", scheme),
        ("moments", path, "--scheme", scheme, "--json"),
        ("moments", path, "--scheme", scheme, "--attention"),
        ("moments", path, "--scheme", scheme, "--attention", "--json"),
        ("init", path, "--scheme", scheme),
        ("init", path, "--scheme", scheme, "--json"),
    ):
        result = invoke(*arguments)
        if re.search(REFUSED.get(config["model_type"], "no refusal"), result.error):
            assert arguments[0] == "moments"
            assert result.status == 2
            continue
        if result.status and mixed:
            assert result.error.count("\n") == 1
            assert re.search("moments of .* are not derived|follows attention and feed-forward parts", result.error)
            continue
        if result.status:
            assert scheme in OVERFLOW, (arguments, result.error)
            assert result.error.count("\n") == 1
            assert "overflow" in result.error
            continue
        assert result.output.strip()
        if arguments[-1] == "--json":
            parsed = json.loads(result.output, parse_constant=refuse)
            found = parsed if arguments[0] == "moments" and "--attention" not in arguments else found
    return found


def cells(step):
    """Each scheme with every `step`-th family, so that both occur."""
    families = list(FAMILIES)
    return [(families[k], scheme) for i, scheme in enumerate(SCHEMES) for k in range(i % step, len(families), step)]


@one_quick_in(3, ("family", "scheme"), [("llama", "rezero"), ("gptj", "skipinit"), ("olmo2", "rezero")])
def test_branches_of_size_zero_in_a_sampled_stack(family, scheme, invoke, tmp_path):
    """The stream then is the embedding throughout, and no gradient enters a branch."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small(family)))
    rows = json.loads(invoke("moments", path, "--scheme", scheme, "--json").output)
    stream = [row["second_moment"] for row in rows if row["site"].startswith("decoder.block.") and row["site"].count(".") == 2]
    assert len(stream) == 2 * DEPTH
    assert max(stream[:DEPTH]) == pytest.approx(min(stream[:DEPTH]), rel=1e-12)
    assert min(stream[:DEPTH]) > 0
    inside = [
        row["second_moment"] for row in rows if row["direction"] == "gradient" and row["site"].endswith("feed_forward.down")
    ]
    assert inside
    assert set(inside) == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_third_scheme_of_a_small_model(family, invoke, tmp_path):
    """All commands, of every family with a third of the schemes, so that neighbours in the list have the others."""
    first = list(FAMILIES).index(family) % 3
    for scheme in {*SCHEMES[first::3], "rezero"}:
        answers(invoke, tmp_path, small(family), scheme)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "scheme"), cells(24))
def test_published_depths(family, scheme, invoke, tmp_path):
    """A sample of the pairs at the deepest published size of the family: each costs a second or two."""
    path = tmp_path / "config.json"
    config = published(family)
    path.write_text(json.dumps(config))
    commands = [("moments", path, "--scheme", scheme, "--json"), ("moments", path, "--scheme", scheme, "--attention")]
    answers(invoke, tmp_path, config, scheme, commands)


@one_quick_in(4, "family", list(FAMILIES))
def test_plans_like_every_family(family, invoke, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small(family)))
    result = invoke("plan", "1e6", "--like", path, "--json")
    if family == "albert":
        assert result.error == "Error: plan: blocks of this model share weights, so that its budget does not fix its depth\n"
        return
    assert result.status == 0, result.error
    assert json.loads(result.output)


def test_the_scheme_of_another_version_of_the_library(invoke, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small("gpt2")))

    def std(scheme):
        rows = json.loads(invoke("init", path, "--scheme", scheme, "--json").output)
        return next(row["std"] for row in rows if row["parameter"] == "decoder.block.0.attention.out.weight")

    assert std("shipped@5.10") == 0.02
    assert std("shipped@5.15") == pytest.approx(0.02 / 36**0.5)
    assert "version='' is not a version" in invoke("moments", path, "--scheme", "shipped@").error
    assert "no scheme 'normal@5'" in invoke("moments", path, "--scheme", "normal@5").error


@pytest.mark.parametrize("command", [("describe",), ("moments",), ("init", "--scheme", "shipped")])
def test_what_a_tree_leaves_out_is_said_by_every_command(command, invoke, tmp_path):
    """The text stack inside a model of images, and a field that moments do not follow; JSON stays JSON."""
    path = tmp_path / "config.json"
    text = {**small("gemma3_text"), "num_hidden_layers": 2, "use_bidirectional_attention": True}
    path.write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    name, *options = command
    page = invoke(name, path, *options)
    assert page.status == 0, page.error
    assert "Note: this is the text stack of a gemma3 model" in page.output
    assert "Note: use_bidirectional_attention=True: every token sees all others" in page.output
    json.loads(invoke(name, path, *options, "--json").output)
    path.write_text(json.dumps(small("gemma3_text") | {"num_hidden_layers": 2}))
    assert "text stack" not in invoke(name, path, *options).output
