"""Degrees of trees in their weights: the scale-invariant encoder, what breaks it, and components that state none."""

import json

import pytest

from depthwidth import SCALE_INVARIANT, InputError, Transformer, layers
from depthwidth.analysis.invariance import scale_invariance, scale_invariant_twin
from depthwidth.layers.activations import homogeneous_degree
from depthwidth.numerics.homogeneity import Place, Walk, difference, product, raise_powers

SIZES = {"vocab": 50, "context": 16}
LLAMA = {"norm": "rmsnorm", "gated": True, "bias": False, "positions": "rotary", "activation": "silu", "tied": False}


def encoder(**changes):
    return Transformer(3, 32, 2, **{**SCALE_INVARIANT, **SIZES, "head": "masked-lm", **changes})


def body(tree):
    return scale_invariance(tree).groups[1]


def alone(tree):
    return {one.name: one for one in scale_invariance(tree).each}


def test_the_scale_invariant_encoder():
    found = scale_invariance(encoder())
    whole, inside = found.groups
    assert (inside.name, inside.degree, inside.exact, inside.breaks) == ("stem and encoder", 0, True, ())
    assert whole.degree == 1  # of the output matrix
    assert set(found.invariant) == {one.name for one in found.each if not one.name.startswith("head.")}
    assert sum(one.parameters for one in found.each) == whole.parameters == encoder().parameters
    assert {one.name for one in found.each if one.invariant} == {
        "encoder.block.attention.query.weight",
        "encoder.block.attention.key.weight",
    }


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"attention_weights": "softmax"}, "encoder.block.attention", "softmax of scores"),
        ({"activation": "gelu"}, "encoder.block.feed_forward", "gelu is not homogeneous"),
        ({"norm_affine": True, "norm_bias": False}, "encoder.block.attention", "a branch is added"),
        ({"embedding_projection": "first"}, "encoder.block.attention", "a branch is added"),
        ({"positions": "sinusoidal"}, "stem.positions", "fixed sines"),
        ({"embedding_projection": "always"}, "stem.projection", "a bias is added"),
        ({"ffn_bias": True}, "encoder.block.feed_forward.down", "a bias is added"),
        ({"placement": "none"}, "encoder.block.attention", "a branch is added"),
    ],
)
def test_each_choice_is_needed(change, place, reason):
    found = body(encoder(**change))
    assert found.degree is None
    assert any(one == place and why.startswith(reason) for one, why in found.breaks), found.breaks


def test_an_epsilon_alone_is_told_apart():
    found = body(encoder(norm_eps=1e-5))
    assert (found.degree, found.exact) == (0, False)
    assert {reason for _, reason in found.breaks} == {"epsilon 1e-05 is added to the variance"}
    mixed = body(encoder(norm_eps=1e-5, activation="gelu"))
    assert mixed.degree is None
    assert "gelu" in mixed.breaks[0][1]  # epsilons are last


def test_forms_that_stay_invariant():
    """Rotary positions, a narrow embedding, segments, and a bias where the degree is 1, as in the paper."""
    for changes in ({"positions": "rotary"}, {"embedding_width": 16}, {"segments": 2}, {"qk_norm": "unit"}, {"window": 4}):
        assert body(encoder(**changes)).degree == 0, changes
    first = layers.FeedForward(32, 64, "relu")
    assert Place("x", Walk()).through(first.up, {}) == {"x.weight": 1}


def test_norms_after_branches_make_their_last_maps_invariant():
    tree = Transformer(2, 32, 2, placement="sandwich", norm_affine=False, norm_eps=0.0, bias=False, tied=False, **SIZES)
    found = alone(tree)
    invariant = {name.partition("block.")[2] for name, one in found.items() if one.invariant}
    assert invariant == {"attention.value.weight", "attention.out.weight", "feed_forward.down.weight"}
    assert found["head.unembedding.weight"].degree == 1


def test_norms_of_queries_and_keys_make_their_maps_invariant():
    tree = Transformer(2, 32, 2, **LLAMA, qk_norm="head", **SIZES)
    found = scale_invariance(tree, ("*.query.weight, *.key.weight", "*.value.*"))
    assert found.invariant == ("decoder.block.attention.query.weight", "decoder.block.attention.key.weight")
    assert [(one.name, one.degree) for one in found.groups[2:]] == [("*.query.weight, *.key.weight", 0), ("*.value.*", None)]
    assert not any(one.invariant for one in scale_invariance(Transformer(2, 32, 2, **LLAMA, **SIZES)).each)
    assert alone(Transformer(2, 32, 2, **LLAMA, **SIZES))["decoder.norm.weight"].degree == 1


def test_a_bias_of_keys_is_left_out_by_the_softmax():
    key_bias = "encoder.block.attention.key.bias"
    plain = {"kind": "encoder", "placement": "post", **SIZES}
    assert alone(Transformer(2, 32, 2, **plain))[key_bias].degree == 0
    for changes in ({"positions": "rotary"}, {"qk_norm": "head"}, {"score_softcap": 5.0}):
        assert alone(Transformer(2, 32, 2, **plain, **changes))[key_bias].degree is None


def test_every_kind_of_model_is_told():
    """A component without degrees breaks what is in it and before it, with its reason, and nothing else."""

    class Doubled(layers.ShortConvolution):
        def moments(self, x, site):
            return super().moments(x, site)

    found = alone(Transformer(2, 32, mixer=Doubled(32), tied=False, **SIZES))
    assert ("decoder.block.mixer", "the degrees of Doubled are not derived") in found["decoder.block.mixer.read.weight"].breaks
    assert found["decoder.norm.weight"].degree is None  # it has a bias beside it
    assert found["head.unembedding.weight"].degree == 1
    two = scale_invariance(Transformer(2, 32, 2, kind="encoder-decoder", positions="relative", **SIZES))
    assert two.groups[0].name == "all weights"
    images = Transformer(2, 32, 2, kind="encoder", patch=4, image=8, head="classifier", classes=3)
    assert scale_invariance(images).groups[1].degree is None


def test_alternating_updates_need_predictions_of_one_degree():
    """P and g turn predictions and corrections into sums of different degrees; what a norm ends inside the block stays."""
    free = {"norm_affine": False, "norm_eps": 0.0, "bias": False, "placement": "sandwich", "tied": False, "kind": "encoder"}
    for more in ({"altup": 2}, {"altup": 3, "altup_form": "recycled"}, {"depth": 3, "sequence_stride": 4}):
        found = alone(Transformer(**{"depth": 2, "width": 32, "heads": 2, **free, **SIZES, **more}))
        assert found["encoder.block.layer.attention.out.weight"].degree == 0
        assert found["encoder.block.correct"].degree is None
        assert {"a correction has another degree than its prediction"} <= {
            why for _, why in found["encoder.block.correct"].breaks
        }


GEMMA3N = {
    "model_type": "gemma3n_text", "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 6, "intermediate_size": 32, "vocab_size": 40, "vocab_size_per_layer_input": 33,
    "hidden_size_per_layer_input": 6,
    "laurel_rank": 3, "altup_num_inputs": 3, "num_kv_shared_layers": 1, "layer_types": ["full_attention"] * 5,
}  # fmt: skip


def test_gemma_3n_is_invariant_before_each_norm():
    """Routed copies, borrowed keys, LAuReL and per-layer embeddings; each break names its own part."""
    found = alone(Transformer.from_config(GEMMA3N))
    block = "decoder.block."
    maps = {"inner.attention.query", "inner.attention.key", "inner.attention.value", "inner.attention.out", "inner.laurel.left",
            "inner.laurel.right", "inner.feed_forward.up", "inner.feed_forward.down", "gate.write"}  # fmt: skip
    copies = {f"decoder.copies.{name}_{copy}" for name in ("make", "join") for copy in (0, 1)}
    invariant = {f"{one}.weight" for one in {block + one for one in maps} | copies | {"stem.layer_projection"}}
    assert {name for name, one in found.items() if one.invariant} == invariant
    reasons = {
        f"{block}router.weight": "tanh of a router",
        f"{block}predict.weight": "a map of the copies is added to them",
        f"{block}correct.weight": "one is added to the factors of the correction",
        f"{block}gate.norm.weight": "a gated vector is added to a stream of another degree",
        f"{block}gate.scale": "gelu_tanh is not homogeneous",
        f"{block}inner.laurel.norm.weight": "a map is added to a stream of another degree",
        "stem.layer_tokens.weight": "rows of a table are added to a norm's output of another degree",
        "decoder.copies.make_0.weight": "the mean square has a floor of 1e-05",
    }
    assert {name: found[name].breaks[0][1] for name in reasons} == reasons


def test_copies_of_others_are_unknown():
    """Equal copies and their mean keep degrees; a subclass with parts of its own has to state them."""

    class Mapped(layers.Streams):
        def children(self):
            return (layers.Child("map", layers.Linear(4, 4, False)),)

    for copies, degrees in ((layers.Streams(2), {"a": 1}), (Mapped(2), {})):
        walk = Walk()
        assert (
            copies.open_degree({"a": 1}, Place("copies", walk))
            == copies.close_degree({"a": 1}, Place("copies", walk))
            == degrees
        )
        assert {one.reason for one in walk.conditions} == (set() if degrees else {"the degrees of Mapped are not derived"})


def test_a_component_that_states_moments_and_no_degrees_is_unknown():
    class Halved(layers.RMSNorm):
        def moments(self, x, site):
            return super().moments(x, site)

    walk = Walk()
    assert Place("norm", walk).through(layers.RMSNorm(4, eps=0.0), {"a": 1}) == {"norm.weight": 1}
    assert walk.conditions == []
    assert Place("norm", walk).through(Halved(4, eps=0.0), {"a": 1}) == {}
    assert walk.conditions[0].reason == "the degrees of Halved are not derived"
    assert walk.conditions[0].broken_by({"norm.weight"})
    assert not walk.conditions[0].broken_by({"other"})


def test_shared_blocks_and_mixtures():
    shared = Transformer(4, 32, 2, shared_groups=1, **{**SCALE_INVARIANT, **SIZES}, head="masked-lm")
    assert body(shared).degree == 0
    mixture = scale_invariance(Transformer(2, 32, 2, experts=3, top_k=1, **SCALE_INVARIANT, **SIZES)).groups[0]
    assert "softmax of the router's scores" in {reason for _, reason in mixture.breaks}


def test_powers():
    assert product({"a": 1, "b": -1}, {"b": 1}) == {"a": 1}
    assert raise_powers({"a": 2}, 0.5) == {"a": 1.0}
    assert difference({"a": 1}, {"a": 1}) == {}


@pytest.mark.parametrize(
    ("name", "degree"),
    [("relu", 1), ("relu2", 2), ("identity", 1), ("leaky_relu", 1), ("gelu", None), ("silu", None), ("tanh", None),
     ("sigmoid", None), ("x*abs(x)", 2), ("max(x, 0.2*x)", 1), ("relu(x) + 0.1", None), ("relu(x) + relu(-x)^2", None)],
)  # fmt: skip
def test_degrees_of_activations(name, degree):
    assert homogeneous_degree(name) == degree


def test_the_twin_of_a_model():
    tree = Transformer(3, 32, 2, **LLAMA, ffn=48, **SIZES)
    twin = scale_invariant_twin(tree)
    assert (twin.depth, twin.width, twin.heads, twin.ffn, twin.vocab) == (3, 32, 2, 48, tree.vocab)
    assert body(twin).degree == 0
    with pytest.raises(InputError, match="reads tokens"):
        scale_invariant_twin(Transformer(2, 32, 2, kind="encoder", patch=4, image=8, head="classifier", classes=3))
    with pytest.raises(InputError, match="no weight matches"):
        scale_invariance(tree, ("nothing",))


def test_everything_is_plain_json():
    found = scale_invariance(encoder()).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"invariant", "groups", "weights"}
