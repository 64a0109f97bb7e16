"""Recipes: worked values of the sources, the shape of every recipe, exponents by slope, and bad input."""

import importlib
import json
import math
import pkgutil
import re
import sys
from importlib import metadata

import numpy as np
import pytest
from helpers import check, one_quick_in
from mixer_strategies import has_recipe
from strategies import PUBLISHED

from depthwidth import initialization
from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES, read_config
from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.initialization import (
    TABLES,
    Recipe,
    activation_second_moment,
    deepscale_scales,
    embedding_correlation,
    parameters,
    recipe,
    scheme_options,
    schemes,
    shipped_options,
    weights,
)
from depthwidth.initialization.shipped import installed_version
from depthwidth.layers.tensor import Constant

BERT = {"kind": "encoder", "placement": "post", "segments": 2, "vocab": 30522, "context": 512, "head": "masked-lm",
        "head_bias": True, "activation": "relu"}  # fmt: skip


def std(found, role, block=0):
    value = found.tensor(role).std
    return value[block] if isinstance(value, tuple) else value


def test_every_scheme_of_a_file_is_in_the_registry():
    """A new file without its line there would be a scheme that no command knows."""
    written = {
        found.name
        for info in pkgutil.iter_modules(initialization.__path__)
        for found in vars(importlib.import_module(f"depthwidth.initialization.{info.name}")).values()
        if isinstance(found, initialization.Scheme)
    }
    assert written == set(schemes())


# DeepScaleLM.

RELEASED = {row["quantity"]: row for row in reference("kedia2024_deepscale")}


@pytest.mark.parametrize("quantity", RELEASED)
def test_released_deepscale_values(quantity):
    row = RELEASED[quantity]
    tree = Transformer(depth=192, width=1024, heads=16, dropout=0.1, **BERT)
    k = 2 * 192 * 0.005 if quantity in ("skip", "branch") else 2.0
    found = recipe(tree, row["scheme"], **({"embedding_correlation": 0.221, "k": k} if row["scheme"] == "deepscale" else {}))
    if row["scheme"] == "xavier":
        found = recipe(tree, "xavier", per_head=row["note"] == "per head")
    if quantity in ("skip", "branch"):
        line = found.residual(row["role"])
        value = getattr(line, quantity) ** 2
    elif quantity == "output scale":
        value = found.tensor(row["role"]).multiplier
    elif quantity == "input correlation":
        value = found.extras["correlation"]["encoder"][0]
    else:
        value = std(found, row["role"])
    check(value, row["value"])


def test_deepscale_scales_are_the_released_ones():
    """1/N with N layers: beta^2 = 2/(2N); the released 0.005 for 192 layers is that to 4 %."""
    skip, scale = deepscale_scales(2 * 192)
    assert skip**2 + scale**2 == pytest.approx(1)
    assert scale**2 == pytest.approx(1 / 192)
    assert scale**2 == pytest.approx(0.005, rel=0.045)


@pytest.mark.parametrize(("start", "dropout", "end"), [(0.1, 0.0, 0.7339), (0.2, 0.0, 0.7605), (0.3, 0.0, 0.7876)])
def test_correlation_at_the_top_does_not_depend_on_depth(start, dropout, end):
    """The limit of the recursion, dr/dt = (1 - p)(1 + k(r)) - 2 r up to t = 1."""
    tops = []
    for depth in (50, 200, 1000):
        tree = Transformer(depth=depth, width=64, heads=1, dropout=dropout, **BERT)
        found = recipe(tree, "deepscale", embedding_correlation=start)
        tops.append(found.extras["correlation"]["encoder"][-1])
    assert tops[-1] == pytest.approx(end, abs=5e-4)
    assert abs(tops[0] - end) < 0.02


def test_deepscale_branches_have_unit_variance():
    """d s_1^2 = 1 and hidden s_2^2 E f^2 = 1 - p, for the tree's own activation; value times output undo r."""
    for more in ({"activation": "relu"}, {"activation": "gelu"}, {"activation": "silu", "gated": True}, {"activation": "tanh"}):
        tree = Transformer(depth=6, width=64, heads=4, kv_heads=2, ffn=200, dropout=0.1, **more)
        found = recipe(tree, "deepscale", embedding_correlation=0.2)
        up, down = (std(found, f"decoder.block.feed_forward.{name}.weight") for name in ("up", "down"))
        second = activation_second_moment(more["activation"])
        if more["activation"] == "relu":
            second *= 64 * up**2
        assert 200 * down**2 * second / 0.9 == pytest.approx(1)
        for block, r in enumerate(found.extras["correlation"]["decoder"][:-1]):
            value, out = (std(found, f"decoder.block.attention.{name}.weight", block) for name in ("value", "out"))
            assert 64 * 64 * value**2 * out**2 * r / 0.9 == pytest.approx(1)


@pytest.mark.parametrize(("activation", "printed"), [("relu", "0.5"), ("gelu", "0.42522"), ("silu", "0.35578")])
def test_activation_constants(activation, printed):
    check(activation_second_moment(activation), printed)
    # An independent sum over a normal grid.
    x = np.linspace(-12, 12, 200001)
    f = {"relu": np.maximum(x, 0), "silu": x / (1 + np.exp(-x))}.get(activation)
    if f is not None:
        density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        assert np.trapezoid(f * f * density, x) == pytest.approx(activation_second_moment(activation), rel=1e-8)


def test_exact_deepscale_sees_the_length():
    """Uncorrelated tokens: the released rule has no answer, the exact one undoes P."""
    tree = Transformer(depth=4, width=64, heads=1, **BERT).replace(context=16)
    found = recipe(tree, "deepscale", exact=True, embedding_correlation=0.0)
    value = std(found, "encoder.block.attention.value.weight")
    check(math.sqrt(1 / (64**2 * value**4)) ** 2, "0.13245", digits=4)  # D = P(16, 1) at r = 0
    with pytest.raises(InputError, match="embedding_correlation=0"):
        recipe(tree, "deepscale", embedding_correlation=0.0)


def test_encoder_decoder_counts_three_branches():
    tree = Transformer(depth=6, encoder_depth=4, width=64, kind="encoder-decoder", activation="relu")
    found = recipe(tree, "deepscale", embedding_correlation=0.2)
    assert found.residual("encoder.block.attention").branch ** 2 == pytest.approx(2 / 8)
    assert found.residual("decoder.block.cross_attention").branch ** 2 == pytest.approx(2 / 18)
    top = found.extras["correlation"]["encoder"][-1]
    value, out = (std(found, f"decoder.block.cross_attention.{name}.weight", 5) for name in ("value", "out"))
    assert 64**2 * value**2 * out**2 * top == pytest.approx(1)


@pytest.mark.parametrize(("vocab", "printed"), [(1000, "0.2320"), (32000, "0.2268"), (50257, "0.2264")])
def test_embedding_correlation_of_bert(vocab, printed):
    tree = Transformer(depth=1, width=64, kind="encoder", segments=2, vocab=vocab)
    check(embedding_correlation(tree), printed)


def test_embedding_correlation_follows_the_architecture():
    """Two tables give 0.007, one 0.013: a decoder has no segments."""
    assert 0.006 < embedding_correlation(Transformer(depth=1, width=64, vocab=50257)) < 0.0075
    rotary = Transformer(depth=1, width=64, vocab=32000, positions="rotary")
    check(embedding_correlation(rotary), "0.013717", slack=2)


def test_tied_logits_have_unit_variance():
    tree = Transformer(depth=2, width=256, vocab=500)
    found = recipe(tree, "deepscale")
    table = found.tensor("stem.tokens.weight").std
    assert 256 * (table * found.tensor("decoder.norm.weight").multiplier) ** 2 == pytest.approx(1)
    untied = recipe(Transformer(depth=2, width=256, vocab=500, tied=False), "deepscale")
    line = untied.tensor("head.unembedding.weight")
    assert 256 * (line.std * line.multiplier) ** 2 == pytest.approx(1)


# Other schemes, from their papers' formulas.


def test_deepnorm_table():
    decoder = recipe(Transformer(depth=100, width=64, placement="post"), "deepnorm")
    assert decoder.residual("decoder.block.attention").skip == pytest.approx(200**0.25)
    beta = std(decoder, "decoder.block.attention.value.weight") / math.sqrt(1 / 64)
    assert beta == pytest.approx(800**-0.25)
    assert std(decoder, "decoder.block.attention.query.weight") == pytest.approx(math.sqrt(1 / 64))
    both = recipe(Transformer(depth=12, encoder_depth=18, width=64, kind="encoder-decoder", placement="post"), "deepnorm")
    assert both.residual("encoder.block.feed_forward").skip == pytest.approx(0.81 * (18**4 * 12) ** (1 / 16))
    assert both.extras["beta"]["encoder"] == pytest.approx(0.87 * (18**4 * 12) ** (-1 / 16))
    assert both.residual("decoder.block.cross_attention").skip == pytest.approx(36**0.25)
    assert both.extras["beta"]["decoder"] == pytest.approx(144**-0.25)
    assert any("norms after the sum" in note for note in recipe(Transformer(depth=2, width=64), "deepnorm").extras["remarks"])


def test_gpt2_and_t5():
    found = recipe(Transformer(depth=12, width=768), "gpt2")
    assert std(found, "decoder.block.feed_forward.down.weight") == pytest.approx(0.02 / math.sqrt(24))
    assert std(found, "decoder.block.feed_forward.up.weight") == 0.02
    t5 = recipe(read_config(PUBLISHED["t5-small"][0]), "shipped", **shipped_options(PUBLISHED["t5-small"][0]))
    assert std(t5, "decoder.block.cross_attention.query.weight") == pytest.approx((512 * 64) ** -0.5)
    assert std(t5, "stem.tokens.weight") == 1.0


def test_t_fixup():
    tree = Transformer(depth=8, encoder_depth=6, width=64, kind="encoder-decoder")
    found = recipe(tree, "t-fixup")
    xavier = math.sqrt(1 / 64)
    assert std(found, "encoder.block.attention.value.weight") == pytest.approx(0.67 * 6**-0.25 * xavier)
    assert std(found, "decoder.block.attention.out.weight") == pytest.approx(72**-0.25 * xavier)
    assert std(found, "decoder.block.attention.key.weight") == pytest.approx(xavier)
    assert std(found, "stem.tokens.weight") == pytest.approx(54**-0.25 / 8)
    assert found.extras["norms"] == "removed"


def test_admin_carries_the_variances_before():
    found = recipe(Transformer(depth=3, width=64, placement="post"), "admin")
    assert found.residual("decoder.block.attention").skip == pytest.approx([1, math.sqrt(3), math.sqrt(5)])
    assert found.residual("decoder.block.feed_forward").skip == pytest.approx([math.sqrt(2), 2, math.sqrt(6)])
    given = recipe(Transformer(depth=2, width=64, placement="post"), "admin", branch_variance=[0.5, 0.25, 0.125, 9])
    assert given.residual("decoder.block.feed_forward").skip == pytest.approx([math.sqrt(1.5), math.sqrt(1.875)])


def test_zero_branches():
    for scheme in ("rezero", "skipinit"):
        line = recipe(Transformer(depth=3, width=64), scheme).residual("decoder.block.feed_forward")
        assert (line.skip, line.branch) == (1, 0)


def test_unit_scaling_sums_to_the_embedding_twice():
    """Attention, feed-forward and embedding each hold a third of the variance at the end."""
    depth = 7
    found = recipe(Transformer(depth=depth, width=64, heads=4, activation="relu"), "unit-scaling")
    lines = [found.residual(f"decoder.block.{name}") for name in ("attention", "feed_forward")]
    share = {"embedding": 1.0, 0: 0.0, 1: 0.0}
    for block in range(depth):
        for index, line in enumerate(lines):
            skip2, branch2 = line.skip[block] ** 2, line.branch[block] ** 2
            assert skip2 + branch2 == pytest.approx(1)
            share = {name: value * skip2 for name, value in share.items()}
            share[index] += branch2
    assert list(share.values()) == pytest.approx([1 / 3] * 3)
    up, down = (found.tensor(f"decoder.block.feed_forward.{name}.weight") for name in ("up", "down"))
    assert up.multiplier == pytest.approx(1 / 8)
    assert down.multiplier == pytest.approx(1 / math.sqrt(256 * 0.5))
    assert up.learning_rate == pytest.approx(1 / 8 / math.sqrt(depth))
    assert found.tensor("decoder.block.attention.query.weight").multiplier == pytest.approx(1 / 8 / math.sqrt(16))


# Exponents, by slope.


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


WIDTHS = [64, 128, 256, 512]
HIDDEN = "decoder.block.feed_forward.up.weight"


@pytest.mark.parametrize("scheme", ["mup", "depth-mup", "completep"])
def test_width_exponents(scheme):
    found = [recipe(Transformer(depth=4, width=width, heads=4, head_dim=16, tied=False, bias=True), scheme) for width in WIDTHS]
    lines = [one.tensor(HIDDEN) for one in found]
    assert slope(WIDTHS, [line.std for line in lines]) == pytest.approx(-0.5)
    assert slope(WIDTHS, [line.learning_rate for line in lines]) == pytest.approx(-1)
    assert slope(WIDTHS, [line.weight_decay for line in lines]) == pytest.approx(1)
    out = [one.tensor("head.unembedding.weight") for one in found]
    assert slope(WIDTHS, [line.multiplier for line in out]) == pytest.approx(-1)
    for role in ("stem.tokens.weight", "head.unembedding.weight", "decoder.norm.weight"):
        assert len({(one.tensor(role).std, one.tensor(role).learning_rate) for one in found}) == 1


@pytest.mark.parametrize(("scheme", "alpha"), [("depth-mup", 0.5), ("completep", 1.0)])
def test_depth_exponents(scheme, alpha):
    depths = [2, 8, 32, 128]
    found = [recipe(Transformer(depth=depth, width=64), scheme) for depth in depths]
    assert slope(depths, [one.residual("decoder.block.attention").branch for one in found]) == pytest.approx(-alpha)
    for role in (HIDDEN, "decoder.block.feed_forward.up.bias", "decoder.block.attention.norm_in.weight"):
        rates = [one.tensor(role).learning_rate for one in found]
        assert slope(depths, rates) == pytest.approx(alpha - 1, abs=1e-12)
    assert slope(depths, [one.extras["adam_epsilon"] for one in found]) == pytest.approx(-alpha)
    assert {one.tensor("decoder.norm.weight").learning_rate for one in found} == {1.0}
    assert slope(depths, [one.tensor(HIDDEN).std for one in found]) == pytest.approx(0, abs=1e-12)


def test_head_dim_exponent_of_mup():
    found = [recipe(Transformer(depth=1, width=512, head_dim=dim), "mup", base_head_dim=16) for dim in (16, 32, 64, 128)]
    factors = [one.tensor("decoder.block.attention.query.weight").multiplier for one in found]
    # On top of the model's own 1/sqrt(head_dim): 1/head_dim in all.
    assert slope([16, 32, 64, 128], factors) == pytest.approx(-0.5)
    normed = recipe(Transformer(depth=1, width=512, head_dim=64, qk_norm="head"), "mup", base_head_dim=16)
    assert normed.tensor("decoder.block.attention.query.weight").multiplier == 1
    assert normed.tensor("decoder.block.attention.query_norm.weight").multiplier == pytest.approx(0.5)


@pytest.mark.parametrize(("scheme", "role", "quantity"), [
    ("ds-init", HIDDEN, "std"),
    ("layernorm-scaling", "decoder.block.attention.norm_in.weight", "multiplier"),
])  # fmt: skip
def test_layer_exponents(scheme, role, quantity):
    line = recipe(Transformer(depth=64, width=64), scheme).tensor(role)
    assert slope(np.arange(1, 65), getattr(line, quantity)) == pytest.approx(-0.5)


def test_base_models_keep_their_own():
    """At the base width and depth, muP and CompleteP are the model itself."""
    tree = Transformer(depth=2, width=256, head_dim=64)
    plain = recipe(tree, "normal").rows(tree)
    for scheme in ("mup", "completep", "depth-mup"):
        rows = recipe(tree, scheme).rows(tree)
        for one, other in zip(rows, plain, strict=True):
            assert {**one, "reason": ""} == {**other, "reason": ""}


# Every scheme on every family.

SMALL = {"depth": 3, "width": 48, "heads": 6}


ONE_OF_EACH = {config["model_type"]: config for config, _ in reversed(PUBLISHED.values()) if has_recipe(config)}


@one_quick_in(12, "family", ONE_OF_EACH)
def test_every_tensor_has_one_row(family):
    """Under every scheme."""
    tree = read_config(ONE_OF_EACH[family])
    every = {weight.role: weight for weight in weights(tree)}
    count = len(list(parameters(tree)))
    for scheme in schemes():
        if scheme == "deepscale" and "mixer" in tree.stack.branches:
            with pytest.raises(InputError, match="the scheme is for attention and feed-forward parts, but mixer is a"):
                recipe(tree, scheme)
            continue
        every_tensor_has_one_row(tree, recipe(tree, scheme), every, count)


def every_tensor_has_one_row(tree, found, every, count):
    rows = found.rows(tree)
    names = [row["parameter"] for row in rows]
    assert len(names) == len(set(names)) == count
    assert sum(math.prod(row["shape"]) for row in rows) == tree.parameters
    for row in rows:
        weight = every[re.sub(r"\.block\.\d+", ".block", row["parameter"])]
        kind = weight.kind
        if row["mean"] == "fixed":  # stored sines and cosines
            assert (kind, row["std"], row["learning_rate"], row["weight_decay"]) == ("positions", 0, 0, 0)
            continue
        numbers = [row[key] for key in ("std", "mean", "multiplier", "learning_rate", "weight_decay")]
        assert all(math.isfinite(number) for number in numbers)
        constant = kind in ("vector", "class_token") and isinstance(weight.tensor.start, Constant)  # xIELU, hidden patches
        drawn = kind not in ("gain", "bias", "score_bias", "layer_scale") and not constant
        assert (row["std"] > 0) == drawn or (found.scheme, kind) == ("shipped", "score_bias")
        assert row["multiplier"] > 0
        assert row["learning_rate"] > 0
        assert row["reason"]
    for row in found.residual_rows(tree):
        assert math.isfinite(row["skip_scale"])
        assert math.isfinite(row["branch_scale"])
    json.dumps(found.to_dict(tree), allow_nan=False)


def test_families_of_the_published_models_are_all_but_a_few():
    assert len(ONE_OF_EACH) >= 20
    for family in FAMILIES:
        tree = read_config({"model_type": family})
        assert recipe(tree, "shipped", family=family).extras["family"] == family


def test_blocks_that_differ_have_values_of_their_own():
    tree = Transformer(depth=3, width=48, heads=[2, 4, 6], head_dim=8, placement="pre")
    found = recipe(tree, "kaiming")
    assert std(found, "decoder.block.attention.out.weight", 1) == pytest.approx(32**-0.5)
    rows = {row["parameter"]: row for row in found.rows(tree)}
    assert rows["decoder.block.2.attention.query.weight"]["shape"] == [48, 48]
    assert isinstance(found.tensor("decoder.block.attention.query.weight").std, float)


def test_experts_share_a_row():
    tree = Transformer(depth=2, width=32, heads=2, experts=4, top_k=2, gated=True, activation="silu", ffn=24)
    rows = {row["parameter"]: row for row in recipe(tree, "deepscale").rows(tree)}
    down = rows["decoder.block.1.feed_forward.expert.down.weight"]
    assert down["shape"] == [4, 32, 24]
    # Two experts, each weighed one half: variance 1/2 of one expert's, so each starts with twice the variance.
    assert 24 * down["std"] ** 2 * activation_second_moment("silu") == pytest.approx(2)


def test_residual_rows():
    tree = Transformer(depth=2, width=32, heads=2)
    rows = recipe(tree, "deepscale").residual_rows(tree)
    assert [row["branch"] for row in rows[:2]] == ["decoder.block.0.attention", "decoder.block.0.feed_forward"]
    assert rows[3]["skip_scale"] ** 2 + rows[3]["branch_scale"] ** 2 == pytest.approx(1)
    assert recipe(tree, "gpt2").residual("decoder.block.attention")[1:3] == (1.0, 1.0)


def test_tables_are_what_the_stem_sums():
    tree = Transformer(depth=1, width=32, heads=2, vocab=100, segments=2, kind="encoder", embedding_dropout=0.2)
    found = recipe(tree, "deepscale")
    kinds = {weight.role: weight.kind for weight in weights(tree)}
    total = sum(line.std**2 for line in found.tensors if kinds[line.role] in TABLES)
    assert total == pytest.approx(0.8)


# Bad input.

TREE = Transformer(depth=2, width=64)
BAD = [
    (lambda: recipe(TREE, "deepscle"), "there is no scheme 'deepscle' (did you mean 'deepscale'?)"),
    (lambda: recipe(TREE, 3), "there is no scheme 3; known are"),
    (lambda: recipe(TREE, "gpt2", sdt=1), "gpt2: there is no option 'sdt' (did you mean 'std'?)"),
    (lambda: recipe(TREE, "normal", std=-0.1), "normal: std=-0.1 is not a number in [0, inf)"),
    (lambda: recipe(TREE, "normal", std="wide"), "normal: std='wide' is not a number"),
    (lambda: recipe(TREE, "mup", base_width=0), "mup: base_width=0 is not a number in (0, inf)"),
    (lambda: recipe(TREE, "deepscale", dropout=1), "deepscale: dropout=1 is not a number"),
    (lambda: recipe(TREE, "deepscale", embedding_correlation=1.5), "embedding_correlation=1.5 is not a number in (0, 1]"),
    (lambda: recipe(TREE, "deepscale", k=5), "k=5 is more than the number of branches"),
    (lambda: recipe(TREE, "completep", alpha=2), "completep: alpha=2 is not a number in [0, 1]"),
    (lambda: recipe(TREE, "shipped", family="lama"), "shipped: there is no family 'lama' (did you mean 'llama'?)"),
    (lambda: recipe(TREE, "admin", branch_variance=[1]), "admin: branch_variance has 1 entries for 4 branches"),
    (lambda: recipe("gpt2", "normal"), "recipe: 'gpt2' is not a Transformer"),
    (lambda: recipe(TREE, "gpt2").tensor("decoder.block.attention.quary.weight"), "did you mean"),
    (lambda: shipped_options({"model_type": "gpt2", "initializer_range": "big"}), "config: initializer_range='big'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), BAD, ids=[sentence[:40] for _, sentence in BAD])
def test_bad_input_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_are_listed():
    assert scheme_options("xavier") == {"embedding_std": None, "per_head": False}
    assert isinstance(recipe(TREE, "normal"), Recipe)


def test_import_is_light(in_fresh_python):
    found = in_fresh_python(
        "import sys, depthwidth.initialization; print([m for m in ('numpy', 'sympy', 'torch') if m in sys.modules])"
    )
    assert found.strip() == "[]"


@pytest.mark.parametrize(
    ("version", "std"),
    [("4.57.1", 0.02 / 24**0.5), ("5.0", 0.02), ("5.14.0", 0.02), ("5.15.0.dev0", 0.02 / 24**0.5), ("5.23", 0.02 / 24**0.5)],
)
def test_gpt2_of_a_version_of_transformers(version, std):
    """From 5.0 to 5.14 the library looked for the ends of branches under another name, and drew them like all others."""
    gpt2 = Transformer.from_config({"model_type": "gpt2"})
    made = recipe(gpt2, "shipped", family="gpt2", version=version)
    for branch in ("attention.out", "feed_forward.down"):
        assert made.tensor(f"decoder.block.{branch}.weight").std == pytest.approx(std, rel=1e-12)
    assert made.tensor("decoder.block.feed_forward.up.weight").std == 0.02
    assert any(f"transformers {version}" in remark for remark in made.extras["remarks"])
    llama = Transformer.from_config({"model_type": "llama"})
    assert not any("transformers" in remark for remark in recipe(llama, "shipped", family="llama").extras["remarks"])


def test_shipped_follows_the_installed_version(monkeypatch):
    gpt2 = Transformer.from_config({"model_type": "gpt2"})
    for found, std in (("5.9.2", 0.02), ("5.16.0", 0.02 / 24**0.5), (None, 0.02 / 24**0.5)):
        monkeypatch.setattr("depthwidth.initialization.shipped.installed_version", lambda name, found=found: found)
        made = recipe(gpt2, "shipped", family="gpt2")
        assert made.tensor("decoder.block.attention.out.weight").std == pytest.approx(std, rel=1e-12)
    with pytest.raises(InputError, match="version='new' is not a version of transformers"):
        recipe(gpt2, "shipped", version="new")


def test_the_installed_version_is_that_of_the_library(monkeypatch, tmp_path):
    for package in ("numpy", "click", "pytest"):
        assert installed_version(package) == metadata.version(package)
    assert installed_version("no_such_package_here") is None
    for name, version in (
        ("one", "1.2"),
        ("two", "3"),
        ("two", "4"),
    ):  # `two` was updated without the removal of the old folder
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    monkeypatch.setattr("sys.path", [str(tmp_path / "nothing"), str(tmp_path), *sys.path])
    assert installed_version("one") == "1.2"
    assert installed_version("two") == metadata.version("two")
    (tmp_path / "bare.py").write_text("")  # a module without a version
    assert installed_version("bare") is None
