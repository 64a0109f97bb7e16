"""Measured degrees against those told from trees, and of models of the transformers library."""

import pytest
from helpers import one_quick_in

from depthwidth import SCALE_INVARIANT, InputError, Transformer, layers
from depthwidth.analysis.invariance import scale_invariance
from depthwidth.numerics.homogeneity import Place, Walk

torch = pytest.importorskip("torch")

from verify.measure.invariance import measure_invariance, measure_tree  # noqa: E402
from verify.models.base import Pass, module  # noqa: E402

SIZES = {"vocab": 50, "context": 16}
PLAIN = {"norm_affine": False, "norm_eps": 0.0, "bias": False}
FREE = {**PLAIN, "placement": "sandwich", "tied": False}
"""Norms after the branches, so that degrees within a branch show."""
ENCODER = {**FREE, "kind": "encoder"}
LLAMA = {"norm": "rmsnorm", "gated": True, "bias": False, "positions": "rotary", "activation": "silu", "tied": False}
TREES = {
    "scale invariant": {**SCALE_INVARIANT, "head": "masked-lm"},
    "scale invariant, rotary, narrow": {**SCALE_INVARIANT, "positions": "rotary", "embedding_width": 8, "head": "masked-lm"},
    "bert": {"kind": "encoder", "placement": "post", "head": "masked-lm", "segments": 2, "embedding_norm": True},
    "llama": LLAMA,
    "qwen3": {**LLAMA, "qk_norm": "head"},
    "t5": {"kind": "encoder-decoder", "positions": "relative", "norm": "rmsnorm"},
    "experts": {"experts": 3, "shared_ffn": 8, "activation": "relu", **PLAIN},
    "sandwich": {**PLAIN, "placement": "sandwich", "embedding_norm": True, "tied": False},
    "parallel": {**PLAIN, "activation": "relu2", "qk_norm": "unit", "positions": "alibi", "parallel": True},
    "gemma": {"norm": "rmsnorm", "norm_unit_offset": True, "bias": False, "score_softcap": 5.0, "logit_softcap": 30.0},
    "layer scales": {**PLAIN, "layer_scale": 0.1, "placement": "output"},
    "mamba": {**FREE, "mixer": layers.Mamba(32, inner=8, state=4, rank=3), "heads": None},
    "rwkv": {**FREE, "mixer": layers.TimeMix(32, inner=16), "heads": None},
    "short convolutions": {**FREE, "mixer": layers.ShortConvolution(32), "heads": None},
    "gated": {**FREE, "attention_gate": True},
    "latent": {**FREE, "latent": layers.Latent(rank=8, rotary=4, query_rank=8), "positions": "rotary"},
    "disentangled": {**ENCODER, "disentangled": layers.Disentangled(8), "positions": layers.RelativeVectors(8, 32)},
    "disentangled, one map": {
        **ENCODER, "disentangled": layers.Disentangled(8, to_content=False, shared=True), "bias": True,
        "positions": layers.RelativeVectors(8, 32, layers.RMSNorm(32, affine=False, eps=0.0)),
    },
    "trees, leaves": {**ENCODER, "tree": layers.Tree(2)},
    "trees, biased": {**ENCODER, "tree": layers.Tree(2), "positions": "diet-rel"},
    "trees, paths": {**ENCODER, "tree": layers.Tree(2, "path")},
    "alternating updates": {**FREE, "altup": 2, "activation": "relu"},
    "diet-rel": {**FREE, "positions": "diet-rel", "qk_norm": "unit"},
    "diet-abs": {**FREE, "positions": layers.DietAbs(2, context=16, rank=3)},
    "tupe": {**FREE, "positions": "tupe"},
    "shaw": {**FREE, "positions": "shaw"},
    "sparse": {**FREE, "sparsity": 0.5, "activation": "relu"},
    "norms of values": {**FREE, "value_norm": True},
    "copies, routed": {**FREE, "routed_altup": layers.AltUpRouting(3, active=1), "activation": "relu", "embedding_scale": 30.0},
    "gemma 3n": {
        **FREE, "norm": "rmsnorm", "gated": True, "qk_norm": "head", "value_norm": True, "positions": "rotary", "laurel": 3,
        "routed_altup": layers.AltUpRouting(3), "layer_inputs": layers.LayerInputs(33, 6),
        "blocks": ({"sparsity": 0.5}, {}, {"borrowed_keys": True}, {"borrowed_keys": True}),
    },
}  # fmt: skip


@one_quick_in(12, "name", TREES, first=0)
def test_measured_degrees_are_those_that_are_told(name):
    """Both ways: no weight has a degree that the rules do not show, in these models."""
    tree = Transformer(4, 32, **{"heads": 2, **TREES[name]}, **SIZES)
    found = scale_invariance(tree)
    measured = {row.name: row for row in measure_tree(tree, found)}
    for one in (*found.groups, *found.each):
        row = measured[one.name]
        untouched = row.error == 0 and all("floor" in reason for _, reason in one.breaks)  # of a mean square
        assert (row.degree, row.exact) == (one.degree, one.exact or untouched), (one, row)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50, "intermediate_size": 32}
FAMILIES = {
    "gemma2": {"head_dim": 8, "num_key_value_heads": 1},
    "exaone4": {"num_key_value_heads": 1},
    "falcon_mamba": {"state_size": 4, "time_step_rank": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_measured_degrees_of_narrow_families_are_those_that_are_told(family):
    """Weights are drawn so large that variances are far above the epsilons of norms, also where blocks are narrow."""
    tree = Transformer.from_config({"model_type": family, **SMALL, **FAMILIES[family]})
    found = scale_invariance(tree)
    told = {one.name: one.degree for one in (*found.groups, *found.each)}
    assert {row.name: row.degree for row in measure_tree(tree, found)} == told
    assert any(one.invariant and not one.exact for one in found.each)


def test_measuring_is_for_models_of_tokens():
    for config in ({"model_type": "vit"}, {"model_type": "whisper"}):
        tree = Transformer.from_config(config)
        with pytest.raises(InputError, match="for models of tokens"):
            measure_tree(tree, scale_invariance(tree))


MIXERS = {
    "mamba": layers.Mamba(16, inner=8, state=4, rank=3),
    "mamba with norms": layers.Mamba(
        16, inner=8, state=4, rank=3, activation="relu", kernel_bias=False, norm=layers.RMSNorm(4, affine=False, eps=0.0)
    ),
    "mamba 2": layers.Mamba2(16, heads=4, head_dim=4, state=4, eps=0.0),
    "mamba 2 without a norm": layers.Mamba2(
        16, heads=4, head_dim=4, state=4, activation="relu", kernel_bias=False, normed=False
    ),
    "delta net": layers.GatedDeltaNet(16, key_heads=2, value_heads=4, key_dim=4, value_dim=4),
    "rwkv": layers.TimeMix(16, inner=16),
    "rwkv, features": layers.ChannelMix(16, 32),
    "parallel": layers.ParallelMixer(layers.Mamba(16, inner=8, state=4, rank=3), layers.Attention(16, 2, 2, 8, 8)),
}


@pytest.mark.parametrize("name", MIXERS)
def test_measured_degrees_of_mixers_are_those_that_are_told(name):
    """Single ones, with drawn weights; each has a weight of degree 1, and others of none."""
    layer = MIXERS[name]
    made, walk = module(layer), Walk()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    x = torch.randn(2, 6, 16, generator=generator, dtype=torch.float64)
    told, found = layer.degree({}, Place("m", walk)), {}
    for row in measure_invariance(made, run=lambda one: one.branch(x, Pass()))[1:]:
        site = f"m.{row.name}"
        exact = not any(one.broken_by({site}) for one in walk.conditions)
        found[row.name] = told.get(site, 0) if exact else None
        assert (row.degree, row.exact) == (found[row.name], exact), row
    assert None in found.values()
    if name != "parallel":  # of which each part is half of a sum
        assert set(found.values()) & {1, 2}


PARTS = {
    "pooling": (
        layers.AttentionPooling(
            layers.Attention(16, 2, 2, 8, 8, causal=False, memory_width=16, bias=False, out_bias=False),
            layers.RMSNorm(16, affine=False, eps=0.0), layers.FeedForward(16, 32, "relu", bias=False),
        ),
        lambda one, x: one(x),
    ),
    "sound": (layers.AudioStem(mel_bins=16, context=3, width=16), lambda one, x: one(x.transpose(1, 2))),
    "memory": (
        list(Transformer(2, 16, 2, blocks=({}, {"memory_block": True}), vocab=9, context=8, **PLAIN).decoder.blocks())[1],
        lambda one, x: one(x, Pass(memory=x)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_measured_degrees_of_parts_are_those_that_are_told(name):
    """Of what reads images, sounds or the features of another model, each by itself; those told are measured."""
    layer, call = PARTS[name]
    made, walk = module(layer), Walk()
    walk.memory = {}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    x = torch.randn(2, 6, 16, generator=generator, dtype=torch.float64)
    told = layer.degree({}, Place("m", walk))
    for row in measure_invariance(made, run=lambda one: call(one, x))[1:]:
        site = f"m.{row.name}"
        exact = not any(one.broken_by({site}) for one in walk.conditions)
        assert (row.degree, row.exact) == (told.get(site, 0) if exact else None, exact), row


def library_model(kind, **options):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16, **options)
        return transformers.GPT2LMHeadModel(config)
    if kind == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **options))
    config, model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3n": (transformers.Gemma3nTextConfig, transformers.Gemma3nForCausalLM),
    }[kind]
    return model(config(**{**sizes, "num_key_value_heads": 1, **options}))


TOKENS = torch.arange(24).reshape(2, 12)
GEMMA3N = {
    "head_dim": 8, "num_kv_shared_layers": 1, "layer_types": ["full_attention"] * 2, "laurel_rank": 3, "pad_token_id": 30,
    "rms_norm_eps": 1e-12, "vocab_size_per_layer_input": 33, "hidden_size_per_layer_input": 6, "altup_num_inputs": 3,
    "activation_sparsity_pattern": [0.5, 0.0], "initializer_range": 0.2,
}  # fmt: skip
GEMMA3N_INVARIANT = (
    "q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "up_proj.weight", "down_proj.weight", "_left.weight",
    "_right.weight", "per_layer_projection.weight", "per_layer_model_projection.weight", "altup_projections.0.weight",
    "altup_projections.1.weight", "altup_unembed_projections.0.weight", "altup_unembed_projections.1.weight",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "invariant", "linear"),
    [
        ("bert", {}, ("key.bias",), ()),
        ("gpt2", {}, (), ()),
        ("llama", {}, (), ("norm.weight", "lm_head.weight")),
        ("qwen3", {"head_dim": 16}, ("q_proj.weight", "k_proj.weight"), ("norm.weight", "lm_head.weight")),
        ("gemma3n", GEMMA3N, GEMMA3N_INVARIANT, ()),
    ],
)
def test_models_of_the_transformers_library(kind, options, invariant, linear):
    rows = {row.name: row for row in measure_invariance(library_model(kind, **options), TOKENS)}
    assert rows.pop("all weights").degree is None
    found = {name for name, row in rows.items() if row.degree == 0}
    assert found == {name for name in rows if name.endswith(invariant)}
    ends = {name for name, row in rows.items() if row.degree == 1}
    assert {name.removeprefix("model.") for name in ends} == set(linear)
    assert all(row.used for name, row in rows.items() if not name.endswith("key.bias"))
    if kind == "qwen3":
        assert not rows["model.layers.0.self_attn.q_proj.weight"].exact  # the epsilon of its norm


@pytest.mark.slow
def test_a_library_model_is_left_as_it_is():
    model = library_model("bert")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    measure_invariance(model, TOKENS, each=False, patterns=("*query*, *key*",))
    assert model.training
    for name, weight in model.state_dict().items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name])


def mlp(**options):
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, 8, bias=False), torch.nn.LayerNorm(8, **options), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers)


def test_groups_patterns_and_unused_weights():
    model = mlp(eps=0.0)
    model.extra = torch.nn.Parameter(torch.ones(2))
    x = torch.linspace(0, 1, 8, dtype=torch.float64)
    options = {"patterns": ("2.*",), "groups": {"ends": ["0.weight"]}, "run": lambda one: one[2](one[1](one[0](x)))}
    rows = {row.name: row for row in measure_invariance(model, **options)}
    assert rows["2.*"].degree == 1
    assert rows["ends"].degree == rows["0.weight"].degree == 0
    assert rows["extra"].degree == 0
    assert not rows["extra"].used
    assert rows["0.weight"].used
    assert rows["1.weight"].degree is None
    assert rows["2.bias"].degree is None


def test_an_epsilon_is_told_apart():
    x = torch.randn(4, 8)
    small, none = (measure_invariance(mlp(eps=eps), x)[1] for eps in (1e-6, 0.0))
    assert (small.degree, small.exact) == (0, False)
    assert (none.degree, none.exact) == (0, True)
    assert none.error < 1e-12 < small.error


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda model: model[0].weight.data.fill_(float("nan")), "the weight 0.weight has values that are not finite"),
        (lambda model: setattr(model[1], "forward", lambda x: x / 0), "the output of the model is not finite"),
        (lambda model: setattr(model, "forward", lambda x: "words"), "a str without a tensor"),
    ],
)
def test_models_that_cannot_be_measured_are_refused(break_it, sentence):
    model = mlp()
    break_it(model)
    with pytest.raises(InputError, match=sentence):
        measure_invariance(model, torch.ones(2, 8))


def test_other_refusals():
    x = torch.ones(2, 8)
    with pytest.raises(InputError, match="no weights that could be scaled"):
        measure_invariance(torch.nn.ReLU(), x)
    with pytest.raises(InputError, match="no weight matches 'nothing'"):
        measure_invariance(mlp(), x, patterns=("nothing",))
    with pytest.raises(InputError, match="'other', which is no weight"):
        measure_invariance(mlp(), x, groups={"one": ["other"]})
    large = Transformer(12, 12288, 96, **SIZES)
    with pytest.raises(InputError, match="give a smaller configuration"):
        measure_tree(large, scale_invariance(large))
    images = Transformer(2, 32, 2, kind="encoder", patch=4, image=8, head="classifier", classes=3)
    with pytest.raises(InputError, match="models of tokens"):
        measure_tree(images, scale_invariance(images))
