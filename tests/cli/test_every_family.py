"""Every family, initialised by every scheme, through every command: an answer, or one sentence."""

import functools
import inspect
import json
import re

import pytest
from helpers import one_quick_in
from mixer_strategies import has_recipe, mixer_fields
from strategies import PUBLISHED
from stream_strategies import SMALL_STREAMS
from two_stacks import TWO_STACKS, gemma_stacks

from depthwidth.analysis import propagation
from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES
from depthwidth.errors import InputError
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
         **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "esm", "mpnet"), SHORT)}  # fmt: skip
FEWER["whisper"]["max_source_positions"] = 16
LATENT = {"num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4,
          "v_head_dim": 8}  # fmt: skip
MIXED = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 2, "intermediate_size": 32}
FEWER |= {"deepseek_v2": LATENT | MIXED, "deepseek_v3": LATENT | MIXED, "minicpm3": LATENT, "glm4_moe": MIXED}
DEPTH = 18
"""Two blocks more than are walked one by one if positions differ."""
SHALLOW = 3
"""Enough for blocks that are all alike, of a family whose stack need not be sampled."""
STEP = 11
"""A scheme is run with every so many-th family."""
OVERFLOW = ("deepnorm", "admin", "unit-scaling", "t-fixup")
"""Schemes made for one place of the norms; elsewhere the stream may grow beyond floating point."""

FEWER |= {key: {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
          for key in ("deberta", "deberta-v2")}  # fmt: skip
FEWER |= SMALL_STREAMS
FEWER |= {"llama4_text": {"intermediate_size": 32, "intermediate_size_mlp": 32, "num_experts_per_tok": 1}}
REFUSED = {
    "albert": "encoder: the moments of blocks that share their weights are not known\n",
    # Scores of GPT-Neo are not divided by the root of the head size, and Qwen3's normed ones meet equal tokens among 32,768: at
    # their published sizes some schemes make them as large as that.
    **dict.fromkeys(("gpt_neo", "qwen3"), "attention scores vary too much for this recursion: .* nats about their mean\n"),
    **dict.fromkeys(
        ("deberta", "deberta-v2"), "encoder.block.attention: the moments of disentangled attention are not known\n"
    ),
    "gemma3n_text": "decoder.copies: the moments of several copies of the stream that differ are not derived\n",
    "llama4_text": "the moments of (experts whose inputs the router scales are not|attention in chunks are) known",
    "modernbert": "encoder.block.attention: the moments of a window without a causal mask are not known\n",
    "t5gemma": "encoder.block.attention: the moments of a window without a causal mask are not known\n",
    "vit_mae": "stem: the moments of fixed positions on a grid are not known\n",
}
"""The sentence that refuses the moments of a family."""


def small(family, depth=DEPTH):
    """A configuration of `family` with narrow blocks, 18 unless `depth` says otherwise."""
    names = FAMILIES[family].names
    fields = {names[choice]: value for choice, value in ({"depth": depth} | SMALL).items() if choice in names}
    architecture = next(iter(FAMILIES[family].models))
    fields |= mixer_fields(family, SMALL["width"]) | FEWER.get(family, {})
    return {"model_type": family, "architectures": [architecture]} | fields


def published(family):
    """A published configuration of `family` of the most layers."""
    found = [config for config, _ in PUBLISHED.values() if config["model_type"] == family]
    return max(found, key=lambda config: Transformer.from_config(config).depth, default={"model_type": family})


@pytest.fixture(autouse=True)
def walked_once(monkeypatch):
    """Commands that ask for the same pass get the same trace: most of their time is that of the pass.

    A command that asked for another tree, recipe or option would get another trace, or the refusal of that pass.
    """
    walk = propagation._trace_tree
    known = []

    def walked(arguments, options):
        try:
            return walk(*arguments, **options), None
        except (ArithmeticError, ValueError) as error:
            return None, error

    def remembered(*arguments, **options):
        call = inspect.signature(walk).bind(*arguments, **options)
        call.apply_defaults()
        found = next((result for asked, result in known if asked == call.arguments), None)
        if found is None:
            found = walked(arguments, options)
            known.append((call.arguments, found))
        trace, refusal = found
        if refusal is not None:
            raise refusal
        return trace

    monkeypatch.setattr(propagation, "_trace_tree", remembered)


@pytest.mark.slow
def test_another_pass_is_walked_anew():
    """The control of the fixture: equal questions have one trace, others have their own, and a refusal stays one."""
    tree = Transformer(depth=1, width=16, heads=2, vocab=50, context=8)
    trace = propagation.trace_tree(tree, "normal")
    assert propagation.trace_tree(tree.replace(), "normal", gradient=(1.0, 0.0)) is trace
    others = [propagation.trace_tree(tree, "xavier"), propagation.trace_tree(tree.replace(context=6), "normal")]
    others += [
        propagation.trace_tree(tree, "normal", **more) for more in ({"gradient": "loss"}, {"context": 7}, {"variance": 2.0})
    ]
    assert len({id(one) for one in (trace, *others)}) == 6
    for _ in range(2):
        with pytest.raises(InputError, match="segment_match=2 is not"):
            propagation.trace_tree(tree, "normal", segment_match=2)


def refuse(name):
    """JSON has no NaN and no infinity."""
    raise AssertionError(name)


def answers(invoke, tmp_path, config, scheme, commands=None, *, pages=True):
    """Run all commands of one cell, as `pages` too, and check that each answers; return what `moments --json` printed."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    found = None
    if not has_recipe(config) and scheme != "shipped":
        for name in ("moments", "init"):
            refused = invoke(name, path, "--scheme", scheme)
            assert refused.status
            assert refused.error.count("\n") == 1
            assert "no rule of this scheme states the initialisation of" in refused.error
        commands = (("describe", path, "--scheme", scheme), ("describe", path, "--scheme", scheme, "--json"))
    mixed = any("mixer" in stack.branches for stack in Transformer.from_config(config).stacks.values())
    every = commands or (
        ("describe", path, "--scheme", scheme),
        ("describe", path, "--scheme", scheme, "--json"),
        ("moments", path, "--scheme", scheme),
        ("moments", path, "--scheme", scheme, "--json"),
        ("moments", path, "--scheme", scheme, "--attention"),
        ("moments", path, "--scheme", scheme, "--attention", "--json"),
        ("init", path, "--scheme", scheme),
        ("init", path, "--scheme", scheme, "--json"),
    )
    for arguments in every if pages else [one for one in every if one[-1] == "--json"]:
        result = invoke(*arguments)
        if re.search(REFUSED.get(config["model_type"], "no refusal"), result.error):
            assert arguments[0] == "moments"
            assert result.status == 2
            continue
        if result.status and mixed:
            assert result.error.count("\n") == 1
            assert re.search("moments of .* are not derived|is for attention and feed-forward parts", result.error)
            continue
        if result.status:
            assert scheme in OVERFLOW, (arguments, result.error)
            assert result.error.count("\n") == 1
            assert "leave the range of floating-point numbers" in result.error
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


@functools.cache
def has_unlike_blocks(family):
    return any(len(stack.repeats) > 1 for stack in Transformer.from_config(small(family)).stacks.values())


def depth_of_cells(family, scheme):
    """18 blocks if they differ, and in every third family of equal ones, among which sampling knows no difference; else 3.

    Those of Apertus and gpt-oss take seconds each, by functions of two tokens that are integrated, and by sinks beside experts.
    Branches of size zero in a sampled stack have a test above.
    """
    deep = has_unlike_blocks(family) or (list(FAMILIES).index(family) % 3 == 0 and scheme != "rezero")
    return DEPTH if deep and family not in ("apertus", "gpt_oss") else SHALLOW


def schemes_of_cells(family):
    """One or two schemes, others than those of the next families in the list, and for some one whose branches are zero.

    A command meets a scheme as the numbers of its recipe, and tests of initialisation check every recipe of every family. So a
    scheme is run with an eleventh of the families, and every family with some scheme. Branches of zero are met by all families
    whose blocks differ, among which they must be found, and by a quarter of the others.
    """
    place = list(FAMILIES).index(family)
    zero = ["rezero"] if has_unlike_blocks(family) or place % 4 == 2 else []
    return sorted({*SCHEMES[place % STEP :: STEP], *zero})


def scheme_of_pages(family):
    """One of the schemes of a family, another for the next family with the same ones: each is printed for several families."""
    choices = schemes_of_cells(family)
    return choices[list(FAMILIES).index(family) // STEP % len(choices)]


def test_every_scheme_meets_many_families_and_depths():
    met = [(scheme, depth_of_cells(family, scheme)) for family in FAMILIES for scheme in schemes_of_cells(family)]
    assert all(met.count((scheme, depth)) >= 3 for scheme in SCHEMES for depth in (SHALLOW, DEPTH))
    assert {depth_of_cells(family, "rezero") for family in ("gemma2", "deepseek_v3", "jamba", "t5gemma")} == {DEPTH}
    assert all("rezero" in schemes_of_cells(family) for family in ("gemma2", "deepseek_v3", "jamba", "t5gemma"))
    assert schemes_of_cells("llama") != schemes_of_cells("m2m_100")
    assert all(sum(scheme_of_pages(family) == scheme for family in FAMILIES) >= 3 for scheme in SCHEMES)


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_small_model_of_every_family(family, invoke, tmp_path):
    """All commands, under some schemes; under one of them as pages too."""
    for scheme in schemes_of_cells(family):
        config = small(family, depth_of_cells(family, scheme))
        answers(invoke, tmp_path, config, scheme, pages=scheme == scheme_of_pages(family))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "scheme"), cells(72))
def test_published_depths(family, scheme, invoke, tmp_path):
    """Each scheme at the deepest published sizes of two families: each costs a second or two."""
    path = tmp_path / "config.json"
    config = published(family)
    path.write_text(json.dumps(config))
    commands = [("moments", path, "--scheme", scheme, "--json"), ("moments", path, "--scheme", scheme, "--attention")]
    answers(invoke, tmp_path, config, scheme, commands)


@one_quick_in(10, "family", list(FAMILIES))
def test_plans_like_every_family(family, invoke, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small(family)))
    result = invoke("plan", "1e6", "--like", path, "--json")
    if family == "albert":
        assert result.error == "Error: plan: blocks of this model share weights, so its budget does not determine its depth\n"
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
