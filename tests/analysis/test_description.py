"""A description adds up, judges by the rules, and says what stands out."""

import json

import pytest

from depthwidth.analysis.description import describe
from depthwidth.architecture import Transformer
from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas import rules as laws
from depthwidth.formulas import shape_penalty


@pytest.fixture
def gpt3():
    return Transformer(depth=96, width=12288, heads=96, vocab=50257, context=2048)


@pytest.mark.slow
def test_rows_add_up_to_the_totals(gpt3):
    found = describe(gpt3, context=777, masked=True)
    rows = found.rows()
    assert sum(row["parameters"] for row in rows) == gpt3.parameters
    assert sum(row["active_parameters"] for row in rows) == gpt3.active_parameters
    assert sum(row["forward_flops"] for row in rows) == gpt3.forward_flops(777, masked=True)
    assert len(found.frame()) == len(rows)


def test_the_verdict_on_known_models_is_that_of_the_formulas():
    """Bare blocks have N = 12 L d^2 exactly, so verdicts and closed forms must agree to rounding."""
    for row in reference("real_models"):
        depth, width = int(row["depth"]), int(row["width"])
        bare = Transformer(depth, width, 1, bias=False, norm_affine=False, positions="none", vocab=100)
        verdict = {v.rule: v for v in describe(bare).verdicts}["levine2020"]
        best = laws.levine_optimal_width(12 * depth * width**2)
        assert verdict.best_width == pytest.approx(best, rel=1e-9)
        assert verdict.loss_penalty == pytest.approx(shape_penalty.shape_penalty(width, best), rel=1e-6, abs=1e-12)


def test_gpt3_is_found_too_deep(gpt3):
    """The paper's projection: 80 layers of 13.4K for the size of GPT-3 175B."""
    verdict = {v.rule: v for v in describe(gpt3).verdicts}["levine2020"]
    assert verdict.best_depth == pytest.approx(80.46, abs=0.05)
    assert verdict.width_ratio == pytest.approx(0.9155, abs=0.001)
    assert verdict.extrapolated


def test_findings():
    factorised = Transformer(12, 768, 12, embedding_width=128, vocab=30000)
    assert any("rank 128" in finding for finding in describe(factorised).findings())
    assert describe(Transformer(12, 768, 12)).findings() == []
    t5 = Transformer(6, 512, 8, kind="encoder-decoder", positions="relative")
    assert any("one stack" in finding for finding in describe(t5).findings())
    assert any("fewer than the width" in f for f in describe(Transformer(12, 768, 6, head_dim=64)).findings())


@pytest.mark.slow
def test_a_hundred_thousand_alternating_blocks_are_counted_at_once():
    """Two kinds of block, whatever the depth: rows and time do not grow with it."""
    deep = Transformer(100_000, 64, 1, window=(128, None) * 50_000, context=4096)
    shallow = Transformer(2, 64, 1, window=(128, None), context=4096)
    assert len(describe(deep).rows()) == len(describe(shallow).rows())
    assert deep.non_embedding_parameters - 128 == 50_000 * (shallow.non_embedding_parameters - 128)


def test_a_context_beyond_the_learned_positions_is_refused(gpt3):
    with pytest.raises(InputError, match="2048 learned positions"):
        describe(gpt3, context=4096)
    with pytest.raises(InputError, match="one stack"):
        describe(gpt3, source=5)
    with pytest.raises(InputError, match="is not a Transformer"):
        describe({"model_type": "gpt2"})


def test_what_penalties_do_not_reach_is_said():
    assert any("23M to 1.8B" in f for f in describe(Transformer(96, 12288, 96)).findings())
    assert any(
        "images" in f for f in describe(Transformer(12, 768, 12, kind="encoder", patch=16, head="classifier")).findings()
    )
    assert any("dense decoders" in f for f in describe(Transformer(12, 768, 12, experts=8)).findings())


@pytest.mark.slow
def test_what_it_is_judged_in_is_said(tmp_path, invoke):
    """A format of weights is judged in bf16, and says so; one of activations in itself, with other headroom."""
    small = Transformer(2, 64, 2, vocab=100, context=16)
    judged = {dtype: describe(small, dtype=dtype) for dtype in ("bf16", "int8", "int4", "fp4", "e4m3", "fp8")}
    assert {dtype: found.to_dict()["diagnosed_dtype"] for dtype, found in judged.items()} == {
        "bf16": "bf16", "int8": "bf16", "int4": "bf16", "fp4": "bf16", "e4m3": "e4m3", "fp8": "fp8",
    }  # fmt: skip
    values = {dtype: [finding.value for finding in found.diagnosis] for dtype, found in judged.items()}
    assert values["int8"] == values["int4"] == values["fp4"] == values["bf16"] != values["e4m3"]
    assert judged["int4"].costs["weight_bytes"] * 4 == judged["bf16"].costs["weight_bytes"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 100}))
    assert "tokens, bf16 (weights in int8) (" in invoke("describe", config, "--dtype", "int8").output
    assert "tokens, e4m3 (" in invoke("describe", config, "--dtype", "e4m3").output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"context": 0}, "context=0 is not a whole number"),
        ({"context": 2.5}, "context=2.5 is not a whole number"),
        ({"batch": -1}, "batch=-1 is not a whole number"),
        ({"dtype": "fp7"}, "there is no number format 'fp7'"),
    ],
)
def test_a_bad_request_gets_one_sentence(gpt3, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        describe(gpt3, **arguments)


@pytest.mark.parametrize(("dtype", "bits"), [("int4", 16), ("int8", 16), ("fp4", 16), ("fp8", 8), ("bf16", 16), ("fp32", 32)])
def test_a_format_of_weights_alone_is_not_that_of_the_cache(dtype, bits):
    tree = Transformer(depth=2, width=64, heads=4, vocab=100, context=32)
    assert describe(tree, dtype=dtype).costs["kv_cache_bytes"] == 2 * 2 * 64 * 32 * bits // 8
