"""Recipes on live models: transformers' own initialisation measured, ours applied, functions and optimizers compared."""

import copy
import math
import warnings
from dataclasses import replace

import numpy
import pytest
from helpers import one_quick_in, quiet_transformers
from mixer_strategies import mixer_fields
from stream_strategies import SMALL_STREAMS
from two_stacks import SMALL_SOUND, TWO_STACKS, gemma_stacks

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES, read_config
from depthwidth.errors import InputError
from depthwidth.initialization import Recipe, at_block, parameters, recipe, schemes, shipped_options

torch = pytest.importorskip("torch")
transformers = quiet_transformers()

from verify.models.base import module  # noqa: E402
from verify.models.initialize import apply_init, parameter_groups  # noqa: E402
from verify.models.locate import locate, tree_of  # noqa: E402
from verify.models.model import build  # noqa: E402

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore:.*the last norm reads a stream")]

SMALL = {"vocab": 97, "context": 24, "width": 48, "depth": 3, "heads": 6, "kv_heads": 3, "head_dim": 8, "ffn": 40,
         "experts": 3, "top_k": 2, "shared_ffn": 28}  # fmt: skip
LATENT = {"num_key_value_heads": 6, "kv_lora_rank": 20, "q_lora_rank": 28, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
          "v_head_dim": 8}  # fmt: skip
GROUPS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
          "intermediate_size": 36}  # fmt: skip
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
MORE = {
    "deepseek_v2": {**LATENT, **GROUPS},
    "deepseek_v3": {**LATENT, **GROUPS},
    "minicpm3": LATENT,
    "glm4_moe": GROUPS,
    "deberta": RELATIVE,
    "deberta-v2": {**RELATIVE, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4, "n_head": 4},
    "opt": {"word_embed_proj_dim": 32, "init_std": 0.006},
    "gpt_neo": {"attention_types": [[["global"], 3]]},
    "falcon": {"multi_query": False},
    "gpt2": {"initializer_range": 0.03},
    # Rows of positions up to the padding token's number (0, in MPNet always 1) are not used: a context of 24 remains.
    **{key: {"max_position_embeddings": 25} for key in ("roberta", "xlm-roberta", "camembert", "esm")},
    "mpnet": {"max_position_embeddings": 26},
    **{key: {"image_size": [12, 16], "patch_size": 4} for key in ("vit", "deit", "dinov2")},
    **{key: {"image_size": 16, "patch_size": 4} for key in ("vit_mae", "beit", "clip_vision_model", "siglip_vision_model")},
    **{key: {"num_layers": 3, "num_decoder_layers": 2, "d_kv": 6, "initializer_factor": 0.7} for key in ("t5", "mt5", "umt5")},
    **{key: {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 36, "init_std": 0.03} for key in TWO_STACKS},
    "switch_transformers": {
        "num_layers": 3,
        "num_decoder_layers": 2,
        "d_kv": 6,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "initializer_factor": 0.7,
    },
    "t5gemma": gemma_stacks(),
    "whisper": {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 36, **SMALL_SOUND},
    "gemma2": {"initializer_range": 0.05},
    **SMALL_STREAMS,
    "helium": {"head_dim": 8},
    "llama4_text": {"intermediate_size": 40, "intermediate_size_mlp": 30, "moe_layers": [1]},
    "gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "granite": {"residual_multiplier": 0.3},
}


def config_of(family, model=None, **more):
    sizes = {name: SMALL[choice] for choice, name in FAMILIES[family].names.items() if choice in SMALL}
    model = model or next(iter(FAMILIES[family].models))
    return {
        "model_type": family,
        "pad_token_id": 0,
        **sizes,
        **mixer_fields(family, SMALL["width"]),
        **MORE.get(family, {}),
        "architectures": [model],
        **more,
    }


def built(config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = transformers.AutoConfig.for_model(**copy.deepcopy(config))
        parsed._attn_implementation = "eager"
        return getattr(transformers, config["architectures"][0])(parsed).eval()


def without_padding(model, name, part):
    """A table's rows but that of the padding token, which transformers sets to zero."""
    module = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
    padding = getattr(module, "padding_idx", None)
    if padding is None or part.dim() != 2:
        return part
    return part[[row for row in range(len(part)) if row != padding]]


def law_deviation(part, law, block, depth):
    """Standard errors of the mean from that of a law; for stated values their largest error, in units of a float's rounding."""
    shape = tuple(part.shape)
    low, high = (law.values(numpy.full(shape, one), block, depth) for one in (0.25, 0.75))
    if (low == high).all():
        return numpy.abs(part.numpy() - low).max() / (1e-7 * max(1.0, numpy.abs(low).max()))
    mean, std = law.mean_and_std(shape[-1], block, depth)
    sizes = (abs(part.mean().item() - mean) / std, abs(part.std(unbiased=False).item() / std - 1))
    return max(sizes) * math.sqrt(part.numel())


def deviations(model, tree, found):
    """(tensor, measured std, expected, z) for every tensor; z counts standard errors."""
    named = dict(model.named_parameters())
    for name, slices in locate(model, tree).items():
        for one in slices:
            line = found.tensor(one.role)
            if line.mean == "fixed":
                continue  # no draw: test_stored_sines_and_cosines compares the numbers
            part = without_padding(model, name, one.view(named[name].detach())).double()
            std, mean = at_block(line.std, one.block), at_block(line.mean, one.block)
            expected = std * (line.multiplier if isinstance(line.multiplier, float) else line.multiplier[one.block])
            if line.law is not None:
                depth = tree.stacks[one.role.partition(".")[0]].depth
                yield one.role, part.mean().item(), mean, law_deviation(part, line.law, one.block, depth)
                continue
            measured = (part - mean).pow(2).mean().sqrt().item()
            z = measured * 1e7 if expected == 0 else (measured / expected - 1) * math.sqrt(2 * part.numel())
            yield one.role, measured, expected, z


@one_quick_in(6, "family", FAMILIES)
def test_shipped_is_what_transformers_does(family):
    torch.manual_seed(11)
    config = config_of(family)
    model, tree = built(config), read_config(config)
    found = recipe(tree, "shipped", **shipped_options(config))
    worst = max(deviations(model, tree, found), key=lambda row: abs(row[3]))
    assert abs(worst[3]) < 5, worst


CHANGED = [
    ("mamba", {"time_step_init_scheme": "constant", "rescale_prenorm_residual": True, "initializer_range": 0.05}),
    ("mamba", {"time_step_min": 0.01, "time_step_max": 0.5, "time_step_floor": 0.02, "time_step_scale": 2.0}),
    ("mamba2", {"rescale_prenorm_residual": True, "time_step_floor": 0.01}),
    ("nemotron_h", {"rescale_prenorm_residual": False}),
    ("rwkv", {"attention_hidden_size": 32, "intermediate_size": 20}),
    ("clip_vision_model", {"initializer_factor": 0.5}),
    ("clip_text_model", {"initializer_factor": 0.5, "initializer_range": 0.07}),
    ("t5", {"initializer_range": 0.07}),
    ("t5gemma", {"initializer_range": 0.07}),
    ("llama", {"initializer_factor": 0.5, "init_std": 0.5}),
    ("bart", {"initializer_range": 0.07}),
    ("gpt2", {"add_cross_attention": True}),
    ("gpt_bigcode", {"add_cross_attention": True, "multi_query": False}),
]


@pytest.mark.parametrize(("family", "more"), CHANGED)
def test_shipped_follows_the_fields(family, more):
    torch.manual_seed(13)
    config = config_of(family, **more)
    model, tree = built(config), read_config(config)

    def worst(options):
        return max(deviations(model, tree, recipe(tree, "shipped", **options)), key=lambda row: abs(row[3]))

    assert abs(worst(shipped_options(config))[3]) < 5
    if family in ("mamba", "mamba2", "nemotron_h", "clip_vision_model"):  # the others have another tree, or no other rule
        assert abs(worst(shipped_options(config_of(family)))[3]) > 10


@pytest.mark.parametrize("family", ["mamba", "mamba2", "qwen3_next", "rwkv"])
def test_values_by_a_law_are_set(family):
    """On the library's model and on ours; other seeds give other draws."""
    config = config_of(family)
    tree = read_config(config)
    found = recipe(tree, "shipped", **shipped_options(config))
    one, other = built(config), built(config)
    apply_init(one, found, seed=1)
    apply_init(other, found, seed=2)
    for model in (one, build(tree, found, seed=3)):
        rows = [row for row in deviations(model, tree, found) if found.tensor(row[0]).law is not None]
        assert len(rows) > 1
        assert max(abs(row[3]) for row in rows) < 5, rows
    drawn = [name for name, value in one.named_parameters() if not torch.equal(value, other.get_parameter(name))]
    assert any(name.endswith(("dt_bias", "dt_proj.bias", "A_log")) for name in drawn) == (family != "rwkv")


@pytest.mark.parametrize(
    ("family", "model"),
    [
        ("bert", "BertForPreTraining"),
        ("bart", "BartForSequenceClassification"),
        ("t5", "T5ForSequenceClassification"),
        ("t5gemma", "T5GemmaForSequenceClassification"),
    ],
)
def test_shipped_of_other_heads(family, model):
    torch.manual_seed(12)
    config = config_of(family, model, num_labels=37)
    tree = read_config(config)
    found = recipe(tree, "shipped", **shipped_options(config))
    rows = [row for row in deviations(built(config), tree, found) if row[0].startswith("head.")]
    assert len(rows) > 1
    assert max(abs(row[3]) for row in rows) < 5, rows


@pytest.mark.parametrize("family", ["marian", "pegasus"])
def test_stored_sines_and_cosines(family):
    """Those of the library's new model and of ours; a scheme leaves them alone and gives them no step."""
    config = config_of(family)
    model, tree = built(config), read_config(config)
    ours = build(tree, seed=0)
    theirs = dict(model.named_parameters())["model.decoder.embed_positions.weight"]
    torch.testing.assert_close(ours.stem.positions.weight, theirs, rtol=0, atol=1e-6)
    assert not ours.stem.positions.weight.requires_grad
    before = theirs.detach().clone()
    found = recipe(tree, "xavier")
    apply_init(model, found)
    assert torch.equal(theirs, before)
    assert found.tensor("stem.positions.weight").learning_rate == 0
    swapped = replace(tree.stem.positions, halves=False)
    assert (ours.stem.positions.weight - module(swapped).vectors(torch.arange(24), 48)).abs().max() > 0.5


@pytest.mark.parametrize(("family", "wrong"), [("gpt2", "gpt_neo"), ("llama", "gpt2"), ("t5", "bert")])
def test_another_familys_rule_is_caught(family, wrong):
    torch.manual_seed(11)
    config = config_of(family)
    model, tree = built(config), read_config(config)
    options = {**shipped_options(config), "family": wrong}
    worst = max(abs(row[3]) for row in deviations(model, tree, recipe(tree, "shipped", **options)))
    assert worst > 20


@one_quick_in(6, "family", FAMILIES)
def test_every_parameter_of_every_model_class_has_a_role(family):
    for name in FAMILIES[family].models:
        if family == "opt" and name != "OPTForCausalLM":
            continue
        config = config_of(family, name)
        with torch.device("meta"):
            model = built(config)
        tree = read_config(config)
        assert tree_of(model) == tree
        found = {one.key for slices in locate(model, tree).values() for one in slices}
        assert len(found) == len(list(parameters(tree)))


def test_falcons_three_ways_to_fuse_query_key_and_value():
    for more in ({"multi_query": True}, {"new_decoder_architecture": True, "num_kv_heads": 2}):
        config = config_of("falcon", **more)
        model, tree = built(config), read_config(config)
        found = recipe(tree, "deepscale", embedding_correlation=0.2, exact=True)
        apply_init(model, found, fold=False)
        for role, measured, _, _ in deviations(model, tree, found):
            if role.endswith("query.weight"):
                assert measured == pytest.approx(1 / math.sqrt(48), rel=0.05)


SLICED = ["gpt2", "gpt_neox", "bloom", "codegen", "phi3", "mixtral", "gemma2", "olmo2", "opt", "bert", "vit", "t5", "llama"]


@one_quick_in(4, "family", SLICED)
def test_applied_weights_have_the_recipes_moments(family):
    config = config_of(family)
    model, tree = built(config), read_config(config)
    found = recipe(tree, "deepscale", exact=True, dropout=0.1)
    report = apply_init(model, found, fold=False, seed=3)
    assert len(report.initialised) == len(list(parameters(tree)))
    plain = [row._replace(multiplier=1.0) for row in found.tensors]
    found = Recipe(found.scheme, "", "", tuple(plain))
    worst = max(deviations(model, tree, found), key=lambda row: abs(row[3]))
    assert abs(worst[3]) < 5.5, worst


def test_equal_seeds_give_equal_weights_and_others_do_not():
    config = config_of("gpt2")
    tree = read_config(config)
    one, two, three = (built(config) for _ in range(3))
    for model, seed in ((one, 1), (two, 1), (three, 2)):
        apply_init(model, recipe(tree, "xavier"), seed=seed)
    assert torch.equal(one.transformer.wte.weight, two.transformer.wte.weight)
    assert not torch.equal(one.transformer.wte.weight, three.transformer.wte.weight)


# Folding: the model with folded weights computes what a model with scales of its own would.


def scaled_forward(model, tree, found, tokens):
    """GPT-2 with multipliers and residual scales in code."""
    body = model.transformer
    x = body.wte(tokens) + body.wpe(torch.arange(tokens.shape[1]))
    for block, layer in enumerate(body.h):
        for branch, norm, part in (("attention", layer.ln_1, layer.attn), ("feed_forward", layer.ln_2, layer.mlp)):
            line = found.residual(f"decoder.block.{branch}")
            gain = found.tensor(f"decoder.block.{branch}.norm_in.weight").multiplier
            skip, scale, gain = (v if isinstance(v, float) else v[block] for v in (line.skip, line.branch, gain))
            y = part(norm(x) * gain)
            x = skip * x + scale * (y[0] if isinstance(y, tuple) else y)
    return model.lm_head(body.ln_f(x) * found.tensor("decoder.norm.weight").multiplier)


@pytest.mark.parametrize("scheme", ["deepscale", "layernorm-scaling", "completep", "gpt2"])
def test_folding_keeps_the_function(scheme):
    config = config_of("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-12)
    tree = read_config(config)
    found = recipe(tree, scheme)
    plain, folded = built(config).double(), built(config).double()
    tokens = torch.arange(20).view(2, 10)
    apply_init(plain, found, fold=False, seed=5)
    report = apply_init(folded, found, seed=5)
    assert bool(report.folded) == (scheme != "gpt2")
    with torch.no_grad():
        hidden = scaled_forward(folded, tree, recipe(tree, "gpt2"), tokens)
        expected = scaled_forward(plain, tree, found, tokens)
    torch.testing.assert_close(hidden, expected, rtol=1e-6, atol=1e-8)
    if scheme != "gpt2":
        with torch.no_grad():
            other = scaled_forward(plain, tree, recipe(tree, "gpt2"), tokens)
        assert (other - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("family", ["gptj", "llama", "gemma2"])
def test_folding_keeps_the_function_of_other_blocks(family):
    """Branches in parallel with one norm; grouped heads and a gate; norms on both sides of a branch."""
    config = config_of(family, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-12, rms_norm_eps=1e-12)
    tree = read_config(config)
    found = recipe(tree, "deepscale")
    plain, folded, unscaled = (built(config).double() for _ in range(3))
    apply_init(plain, found, fold=False, seed=1)
    apply_init(unscaled, found, fold=False, seed=1)
    report = apply_init(folded, found, seed=1)
    assert not report.needs_code
    line = found.residual("decoder.block.attention")

    def gated_block(layer):
        def forward(hidden_states, **more):
            sandwich = family == "gemma2"
            after = layer.post_attention_layernorm if sandwich else torch.nn.Identity()
            before = layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm
            last = layer.post_feedforward_layernorm if sandwich else torch.nn.Identity()
            x = hidden_states
            attended = layer.self_attn(hidden_states=layer.input_layernorm(x), **more)[0]
            x = line.skip * x + line.branch * after(attended)
            return line.skip * x + line.branch * last(layer.mlp(before(x)))

        return forward

    for layer in plain.transformer.h if family == "gptj" else plain.model.layers:
        if family == "gptj":
            layer.register_forward_hook(
                lambda module, inputs, out: (
                    (line.skip * inputs[0] + line.branch * (out[0] - inputs[0]), *out[1:])
                    if isinstance(out, tuple)
                    else line.skip * inputs[0] + line.branch * (out - inputs[0])
                )
            )
        else:
            layer.forward = gated_block(layer)
    tokens = torch.arange(1, 25).view(2, 12)
    with torch.no_grad():
        expected, got, other = (model(input_ids=tokens).logits for model in (plain, folded, unscaled))
    size = expected.abs().max()  # these classes take their norms in float32
    assert (got - expected).abs().max() < 1e-5 * size
    assert (other - expected).abs().max() > 1e-3 * size


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_deepscale_branches_have_unit_variance_on_a_live_model(family):
    """GELU and SwiGLU, grouped heads, a causal mask: what the branches of the first block put out, mean over 24 draws."""
    config = config_of(family, vocab_size=4096, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config |= {name: 128 for name in ("n_embd", "hidden_size") if name in config}
    config |= {name: 64 for name in ("n_positions", "max_position_embeddings") if name in config}
    config |= {name: 8 for name in ("n_head", "num_attention_heads") if name in config}
    config |= {name: value for name, value in (("head_dim", 16), ("num_key_value_heads", 4)) if name in config}
    tree, model = read_config(config), built(config)
    found = recipe(tree, "deepscale", exact=True, embedding_correlation=1e-9)
    block = (model.transformer.h if family == "gpt2" else model.model.layers)[0]
    outputs = {}
    for name in ("attn", "mlp") if family == "gpt2" else ("self_attn", "mlp"):
        block.get_submodule(name).register_forward_hook(
            lambda module, inputs, out, name=name: outputs.setdefault(name, []).append(
                (out[0] if isinstance(out, tuple) else out).pow(2).mean().item()
            )
        )
    for seed in range(24):
        apply_init(model, found, fold=False, seed=seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            (model.transformer if family == "gpt2" else model.model)(input_ids=torch.randperm(4095)[None, :64] + 1)
    for name, values in outputs.items():
        values = torch.tensor(values)
        error = values.std().item() / math.sqrt(len(values))
        # Finite width and heads of 16 dimensions give some per cent; a constant of another activation would give 19 % or more.
        assert abs(values.mean().item() - 1) < 0.06 + 3 * error, (name, values.mean(), error)


def test_folding_into_post_norm_blocks():
    """LN(alpha x + f) is LN(x + f / alpha)."""
    config = config_of("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tree = read_config(config)
    model = built(config)
    report = apply_init(model, recipe(tree, "deepnorm"))
    alpha = (2 * 3) ** 0.25
    outs = [row for row in report.folded if row["tensor"].endswith("attention.out.weight")]
    assert [row["factor"] for row in outs] == pytest.approx([1 / alpha] * 3)
    assert not report.needs_code
    folded = next(row for row in report.initialised if row["tensor"] == "encoder.block.0.attention.out.weight")
    assert folded["std"] == pytest.approx((8 * 3) ** -0.25 / math.sqrt(48) / alpha)


def test_what_weights_cannot_say_is_reported():
    config = config_of("gpt2")
    tree, model = read_config(config), built(config)
    needs = apply_init(model, recipe(tree, "rezero")).needs_code
    assert any("norms" in one for one in needs)
    assert any("scalar" in one for one in needs)
    # OLMo's norms have no gains; OLMo 2 reads the stream without a norm.
    config = config_of("olmo2")
    assert any("skip" in one for one in apply_init(built(config), recipe(read_config(config), "deepscale")).needs_code)
    config = config_of("llama")
    assert not apply_init(built(config), recipe(read_config(config), "deepscale")).needs_code


def test_unit_offset_gains_carry_factors():
    config = config_of("gemma2")
    tree, model = read_config(config), built(config)
    found = recipe(tree, "layernorm-scaling")
    apply_init(model, found)
    gains = [1 + layer.input_layernorm.weight.detach().mean().item() for layer in model.model.layers]
    assert gains == pytest.approx([1, 1 / math.sqrt(2), 1 / math.sqrt(3)], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_under_compile(family):
    config = config_of(family)
    tree, model = read_config(config), built(config)
    compiled = torch.compile(model, backend="eager")
    apply_init(compiled, recipe(tree, "deepscale"), seed=9)
    same = built(config)
    apply_init(same, recipe(tree, "deepscale"), seed=9)
    for (name, one), (_, two) in zip(model.named_parameters(), same.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    if family != "gpt2":
        return  # tracing takes seconds, and one family is enough
    tokens = torch.arange(10).view(1, 10)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(compiled(input_ids=tokens).logits, same(input_ids=tokens).logits)
    except (RuntimeError, ImportError) as error:  # no compiler on this machine
        pytest.skip(str(error)[:80])


# Parameter groups.


@pytest.mark.slow
def test_groups_hold_every_parameter_once():
    for scheme in schemes():
        config = config_of("gpt2")
        tree, model = read_config(config), built(config)
        groups = parameter_groups(model, recipe(tree, scheme), lr=1e-3, weight_decay=0.1)
        names = [name for group in groups for name in group["names"]]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
        torch.optim.AdamW(groups)


def test_groups_of_mup():
    config = config_of("llama", tie_word_embeddings=False)
    tree, model = read_config(config), built(config)
    groups = parameter_groups(model, recipe(tree, "mup", base_width=12), lr=1e-2, weight_decay=0.1, fold=False)
    where = {name: group for group in groups for name in group["names"]}
    hidden = where["model.layers.1.self_attn.q_proj.weight"]
    assert (hidden["lr"], hidden["weight_decay"]) == pytest.approx((1e-2 / 4, 0.4))
    assert where["model.embed_tokens.weight"]["lr"] == pytest.approx(1e-2)
    assert where["lm_head.weight"]["lr"] == pytest.approx(1e-2)
    assert where["model.norm.weight"]["weight_decay"] == 0
    # Folded, the output matrix carries 1/4: a quarter of the step, and as much decay of the function.
    groups = parameter_groups(model, recipe(tree, "mup", base_width=12), lr=1e-2, weight_decay=0.1)
    head = next(group for group in groups if "lm_head.weight" in group["names"])
    assert (head["lr"], head["weight_decay"]) == pytest.approx((2.5e-3, 0.4))


def test_a_step_of_adam_moves_the_folded_function_as_the_scaled_one():
    """One weight with a factor: y = c w x against y = w' x."""
    c, lr, decay = 0.125, 1e-2, 0.3
    scaled, folded = (torch.nn.Parameter(torch.full((3,), value)) for value in (2.0, 2.0 * c))
    x = torch.tensor([1.0, -2.0, 0.5])
    one = torch.optim.AdamW([{"params": [scaled], "lr": lr, "weight_decay": decay}], eps=0.0)
    two = torch.optim.AdamW([{"params": [folded], "lr": lr * c, "weight_decay": decay / c}], eps=0.0)
    for _ in range(5):
        for parameter, factor, optimizer in ((scaled, c, one), (folded, 1.0, two)):
            optimizer.zero_grad()
            ((factor * parameter * x).sum() - 1).pow(2).backward()
            optimizer.step()
    torch.testing.assert_close(folded, c * scaled)


# A model of one's own, and bad input.


class Own(torch.nn.Module):
    """Parameters called as a tree's."""

    def __init__(self, tree, drop=()):
        super().__init__()
        for name, _, _, shape in parameters(tree):
            if name in drop:
                continue
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, torch.nn.Parameter(torch.empty(shape)))


TREE = Transformer(depth=2, width=32, heads=2, vocab=50, context=8)


def test_a_model_whose_parameters_are_called_as_the_trees():
    model = Own(TREE)
    report = apply_init(model, recipe(TREE, "gpt2"), tree=TREE)
    assert len(report.initialised) == len(list(model.parameters()))
    weight = model.decoder.block.get_submodule("0").attention.out.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_wrong_models_get_one_sentence():
    with pytest.raises(InputError, match="pass tree="):
        apply_init(Own(TREE), recipe(TREE, "gpt2"))
    with pytest.raises(InputError, match=r"no parameter for decoder\.norm\.weight"):
        apply_init(Own(TREE, drop=("decoder.norm.weight",)), recipe(TREE, "gpt2"), tree=TREE)
    with pytest.raises(InputError, match="of depth 3"):
        apply_init(Own(TREE), recipe(Transformer(depth=3, width=32, heads=2, vocab=50, context=8), "gpt2"), tree=TREE)
    with pytest.raises(InputError, match="has no memory yet"):
        apply_init(Own(TREE).to("meta"), recipe(TREE, "gpt2"), tree=TREE)
    other = Own(TREE)
    other.extra = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"there is no weight name for extra\.weight"):
        apply_init(other, recipe(TREE, "gpt2"), tree=TREE)
    with pytest.raises(InputError, match="lr=-1"):
        parameter_groups(Own(TREE), recipe(TREE, "gpt2"), lr=-1, tree=TREE)


def test_a_wrong_rule_is_caught():
    config = config_of("llama")
    model, tree = built(config), read_config(config)
    swapped = {**FAMILIES["llama"].weights, "layers.#.mlp.down_proj": "decoder.block.feed_forward.up"}
    with pytest.raises(InputError):
        locate(model, tree, swapped)
    swapped = {**FAMILIES["llama"].weights, "layers.#.self_attn.q_proj": "decoder.block.attention.key"}
    with pytest.raises(InputError, match="shape"):
        locate(model, tree, swapped)


def test_a_folded_skip_scale_changes_the_stream_with_a_warning():
    """DeepScaleLM's stream of unit variance is not the model's if weights carry its skip scales."""
    config = config_of("llama")
    tree, model = read_config(config), built(config)
    found = recipe(tree, "deepscale")
    skip = found.residual("decoder.block.attention").skip
    with pytest.warns(UserWarning, match="the last norm reads a stream of .* times the recipe's second moment"):
        report = apply_init(model, found)
    (sentence,) = report.streams
    assert f"{skip ** (-4 * tree.depth):.3g} times" in sentence
    assert not apply_init(model, found, fold=False).streams
    assert not apply_init(model, recipe(tree, "xavier")).streams
