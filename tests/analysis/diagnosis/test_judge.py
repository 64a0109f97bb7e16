"""Findings hold the numbers of propagate, remedies are propagated anew, thresholds mean what they say."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import one_quick_in

from depthwidth.analysis.description import describe
from depthwidth.analysis.diagnosis import SEVERITIES, Thresholds, diagnose, headroom, share_lost
from depthwidth.analysis.propagation import moments_of
from depthwidth.architecture import Transformer
from depthwidth.architecture.number_formats import number_format
from depthwidth.errors import InputError
from depthwidth.initialization import recipe


def encoder(depth, placement="pre", width=128, **choices):
    return Transformer(
        **{
            "depth": depth, "width": width, "heads": 2, "kind": "encoder", "activation": "relu", "vocab": 100, "context": 64,
            "placement": placement, "positions": "none",
        }
        | choices
    )  # fmt: skip


def found(tree, init, *arguments, **given):
    return {finding.name: finding for finding in diagnose(tree, init, *arguments, **given)}


INPUT = {"variance": 1.0, "correlation": 0.2}
HEALTHY = ("gradient_ratio", "forward_growth", "correlation_at_top")


@one_quick_in(2, "placement", ["pre", "post"])
@one_quick_in(2, "depth", [12, 192])
def test_deepscale_is_found_healthy_at_every_depth(placement, depth):
    tree = encoder(depth, placement)
    findings = found(tree, recipe(tree, "deepscale", embedding_correlation=0.2), **INPUT)
    assert {name: findings[name].severity for name in HEALTHY} == dict.fromkeys(HEALTHY, "fine")


@pytest.mark.slow
def test_what_deep_vanilla_stacks_suffer_from():
    """Measured stacks: linear growth and gradients that grow to the input in pre-norm, collapse in post-norm."""
    pre, post = found(encoder(192), "xavier", **INPUT), found(encoder(192, "post"), "xavier", **INPUT)
    assert pre["forward_growth"].severity == "watch"
    assert pre["forward_growth"].value == pytest.approx(245 / 1.55, rel=0.02)  # measured
    assert pre["correlation_at_top"].severity == "watch"
    assert post["correlation_at_top"].severity == "problem"
    assert post["forward_growth"].severity == "fine"
    # Per layer the variance of ln gamma is 5.86/d (docs/derivations/post-norm.md); collapse takes a few layers, which costs
    # a few per cent.
    assert post["gradient_spread"].value == pytest.approx(math.sqrt(5.86 * 192 / 128), rel=0.05)
    assert post["gradient_spread"].severity == "problem"
    assert "gradient_spread" not in pre


def test_a_shallow_stack_has_nothing_to_mend():
    assert {f.severity for f in diagnose(encoder(2), "xavier", **INPUT)} == {"fine"}


@pytest.mark.slow
def test_the_numbers_are_those_of_propagate():
    tree = encoder(6)
    rows = {(row["site"], row["direction"]): row for row in moments_of(tree, "xavier", **INPUT)}
    findings = found(tree, "xavier", **INPUT)
    first, last = ("encoder.block.0", "encoder.block.5")
    ratio = rows[first, "gradient"]["second_moment"] / rows[last, "gradient"]["second_moment"]
    assert findings["gradient_ratio"].value == ratio
    assert findings["forward_growth"].value == rows[last, "forward"]["second_moment"] / rows[first, "forward"]["second_moment"]
    assert findings["correlation_at_top"].value == pytest.approx(rows[last, "forward"]["correlation"], rel=1e-12)
    scores = [row for (site, _), row in rows.items() if site.endswith("scores")]
    assert findings["score_variance"].value == max(row["second_moment"] - row["covariance"] for row in scores)


@pytest.mark.slow
def test_a_scheme_as_remedy_has_the_number_of_that_scheme():
    tree = encoder(96, "post")
    sick, mended = found(tree, "xavier"), found(tree, "deepscale")
    assert sick["correlation_at_top"].remedy == "scheme deepscale"
    for name, finding in sick.items():
        if finding.remedy == "scheme deepscale":
            assert finding.after == mended[name].value
            assert SEVERITIES.index(finding.severity_after) < SEVERITIES.index(finding.severity)


def with_std(made, ending, factor):
    lines = tuple(t._replace(std=t.std * factor) if t.role.endswith(ending) else t for t in made.tensors)
    return replace(made, tensors=lines)


@pytest.mark.slow
def test_condensed_scores_are_mended_by_a_number():
    tree = encoder(4)
    hot = with_std(recipe(tree, "xavier"), ".query.weight", 6.0)
    findings = found(tree, hot, **INPUT)
    scores = findings["score_variance"]
    assert scores.severity == "problem"
    assert "condensed" in scores.sentence
    assert findings["effective_tokens"].severity != "fine"
    words, number = scores.remedy.rsplit(" ", 1)
    assert words == "multiply query weights by"
    # By the stored weights rather than by the multiplier that the remedy sets: the same scores, by another route.
    cooled = found(tree, with_std(hot, ".query.weight", float(number)), **INPUT)
    assert cooled["score_variance"].value == pytest.approx(scores.after, rel=1e-3)  # the factor is printed to four digits
    assert cooled["score_variance"].severity == "fine"


@pytest.mark.slow
def test_a_norm_on_the_query_takes_the_factor_where_weights_could_not():
    tree = encoder(2, qk_norm="head")
    made = recipe(tree, "xavier")
    lines = tuple(t._replace(mean=4.0) if "_norm.weight" in t.role and "query" in t.role else t for t in made.tensors)
    scores = found(tree, replace(made, tensors=lines), **INPUT)["score_variance"]
    assert scores.remedy.startswith("multiply the gain of the query norm by")
    assert scores.severity_after == "fine"


@pytest.mark.slow
def test_the_scores_threshold_follows_the_length():
    short = found(encoder(2), "xavier", context=16)["score_variance"]
    long = found(encoder(2, context=4096), "xavier")["score_variance"]
    assert short.threshold == math.log(16) / 2
    assert long.threshold == math.log(4096) / 2


@pytest.mark.slow
def test_gradients_too_small_for_half_precision_are_scaled():
    tree = Transformer(depth=12, width=768, heads=12, vocab=50257, context=1024)
    small = found(tree, "gpt2", "fp16", batch=512)["underflow_gradients"]
    assert small.severity == "problem"
    scale = float(small.remedy.removeprefix("loss scale "))
    assert math.log2(scale) == round(math.log2(scale), 5)
    scaled = found(tree, "gpt2", "fp16", batch=512, loss_scale=scale)
    assert scaled["underflow_gradients"].value == pytest.approx(small.after, abs=1e-4)
    assert scaled["underflow_gradients"].severity == scaled["overflow_gradients"].severity == "fine"
    assert found(tree, "gpt2", "bf16", batch=512)["underflow_gradients"].severity == "fine"


def test_headroom_moves_with_the_format():
    tree = encoder(2)
    rows = {(row["format"], row["kind"]): row for row in headroom(tree, "xavier", ("fp16", "bf16", "e4m3", "e5m2"))}
    assert {kind for _, kind in rows} == {"activations", "scores", "logits", "gradients"}
    for kind in ("activations", "gradients"):
        over = {name: rows[name, kind]["overflow_bits"] for name in ("fp16", "bf16", "e4m3", "e5m2")}
        assert over["fp16"] - over["e4m3"] == pytest.approx(math.log2(65504 / 448))
        assert over["bf16"] > 100 + over["e5m2"]
    direct = found(tree, "xavier", "fp16")["overflow_activations"].value
    assert rows["fp16", "activations"]["overflow_bits"] == direct


@pytest.mark.parametrize("deviation", [2e-8, 1e-7, 1e-6])
def test_the_share_lost_is_what_a_cast_loses(rng, deviation):
    draws = 200_000
    zeros = np.count_nonzero((deviation * rng.standard_normal(draws)).astype(np.float16) == 0) / draws
    expected = share_lost(deviation, number_format("fp16"))
    error = math.sqrt(expected * (1 - expected) / draws)
    assert abs(zeros - expected) < 5 * error
    assert abs(zeros - share_lost(1.1 * deviation, number_format("fp16"))) > 5 * error  # ten per cent off is told apart


def test_the_first_threshold_of_underflow_is_where_one_per_cent_is_lost():
    finding = found(encoder(1), "xavier", "fp16")["underflow_activations"]
    at = number_format("fp16").smallest * 2**finding.rule.threshold
    assert share_lost(at, number_format("fp16")) == pytest.approx(0.01, rel=1e-9)
    at = number_format("fp16").smallest * 2**finding.rule.limit
    assert share_lost(at, number_format("fp16")) == pytest.approx(0.5, rel=1e-9)


def test_the_expected_peak_bounds_that_of_gaussian_values(rng):
    """sqrt(2 ln 2n) is above the mean of the largest of n, and not by more than a tenth at these sizes."""
    count = 100_000
    largest = np.abs(rng.standard_normal((40, count))).max(axis=1)
    bound = math.sqrt(2 * math.log(2 * count))
    assert bound > largest.mean()
    assert bound < 1.1 * largest.mean() + 5 * largest.std() / math.sqrt(len(largest))


def test_a_branch_at_the_threshold_survives_rounding_and_one_at_the_limit_does_not(rng):
    rule = found(encoder(1), "xavier", "fp16")["branch_share"].rule
    x, f = rng.standard_normal((2, 100_000))
    x = x.astype(np.float16).astype(float)

    def error(share):
        """Of what the sum of 16-bit numbers adds, relative to what was to be added."""
        added = (x + share * f).astype(np.float16).astype(float) - x
        return math.sqrt(((added - share * f) ** 2).mean()) / share

    assert error(rule.threshold) < 1 / 4
    assert error(rule.limit) > 1 / 4


@pytest.mark.parametrize("spread", [0.3, 1.5])
def test_the_loss_gradient_against_simulation(rng, spread):
    """Mean cross-entropy over tokens, labels that know nothing of the logits, an output matrix of its own."""
    width, vocab, tokens, batch = 64, 200, 16, 2
    tree = Transformer(depth=1, width=width, heads=2, vocab=vocab, context=tokens, tied=False)
    made = recipe(tree, "xavier")
    made = with_std(made, "head.unembedding.weight", spread)
    over = found(tree, made, "fp16", batch=batch)["overflow_gradients"]
    from depthwidth.analysis.diagnosis import Network, Setting

    state = Network(Setting(tree, (number_format("fp16"),) * 2, False, batch, 1.0, {}), made)
    squares = []
    for _ in range(300):
        x = rng.standard_normal((8, width))
        x /= np.sqrt((x**2).mean(axis=1, keepdims=True))
        w = rng.standard_normal((vocab, width)) * spread / math.sqrt(width)
        logits = x @ w.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(8), rng.integers(vocab, size=8)] -= 1
        squares.append(((p @ w / (batch * tokens)) ** 2).mean())
    squares = np.array(squares)
    error = squares.std(ddof=1) / math.sqrt(len(squares))
    expected = state.loss_gradient**2
    assert abs(squares.mean() - expected) < 5 * error
    assert abs(squares.mean() - 1.25 * expected) > 5 * error
    assert over.value == pytest.approx(math.log2(65504 / max(s.peak for s in state.sizes["gradients"])))


def test_thresholds_judge_on_their_side():
    low, high = Thresholds(2.0, 1.0, "", at_most=False), Thresholds(1.0, 2.0, "")
    assert [low.severity(v) for v in (3.0, 1.5, 0.5)] == list(SEVERITIES)
    assert [high.severity(v) for v in (0.5, 1.5, 3.0)] == list(SEVERITIES)


@one_quick_in(
    3,
    "choices",
    [
        {"kind": "encoder-decoder", "positions": "relative", "norm": "rmsnorm", "depth": 1},
        {"parallel": True, "shared_norm": True, "positions": "rotary"},
        {"placement": "sandwich", "gated": True, "activation": "silu", "qk_norm": "head"},
        {"placement": "post", "gated": True, "activation": "silu", "dropout": 0.1},
        {"kv_heads": 1, "window": 8, "score_softcap": 20.0, "norm_unit_offset": True, "norm": "rmsnorm"},
        {"kind": "encoder", "patch": 8, "image": 32, "head": "classifier"},
    ],
    ids=str,
    first=1,
)
@pytest.mark.parametrize("dtype", ["fp16", "fp8"])
def test_every_kind_of_tree_is_judged(choices, dtype):
    tree = Transformer(**{"depth": 2, "width": 64, "heads": 4, "vocab": 500, "context": 16} | choices)
    rows = [finding.to_dict() for finding in diagnose(tree, "kaiming", dtype)]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert {"gradient_ratio", "correlation_at_top", "score_variance", "overflow_activations"} <= {row["name"] for row in rows}
    for row in rows:
        assert {"name", "value", "threshold", "source", "remedy", "after"} <= set(row)
        assert row["sentence"]
        assert row["source"]


def test_a_silent_branch_is_not_lost_to_rounding():
    """ReZero starts its branches at zero on purpose."""
    assert "branch_share" not in found(encoder(4), "rezero")


@pytest.mark.slow
def test_what_a_mixture_adds_is_what_its_experts_add_together():
    tree = Transformer(1, 64, 1, experts=4, context=16, vocab=100, final_norm=False)
    rows = {(r["site"], r["direction"]): r["second_moment"] for r in moments_of(tree, "xavier")}
    place = "decoder.block.0"
    streams = {"attention": rows["decoder.input", "forward"], "feed_forward": rows[f"{place}.attention", "forward"]}
    outputs = {"attention": rows[f"{place}.attention", "forward"], "feed_forward": rows[f"{place}.feed_forward", "forward"]}
    shares = [math.sqrt(outputs[name] / streams[name] - 1) for name in streams]
    assert found(tree, "xavier")["branch_share"].value == pytest.approx(min(shares), rel=1e-6)


@pytest.mark.slow
def test_a_remedy_that_does_not_fit_is_left_out():
    tree = encoder(1)
    hot = with_std(recipe(tree, "xavier"), ".value.weight", 1e4)
    findings = found(tree, hot, remedies=["xavier"], **INPUT)
    assert findings["gradient_ratio"].severity == "fine"
    sick = found(encoder(96, "post"), "xavier", remedies=["kaiming"])["correlation_at_top"]
    assert sick.severity == "problem"
    assert sick.remedy is None
    assert sick.after is None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"dtype": "int8"}, "int8 is a format for weights only"),
        ({"batch": 0}, "batch=0 is not a whole number"),
        ({"loss_scale": -1.0}, "loss_scale=-1.0 is not a positive number"),
        ({"init": "xavjer"}, "no scheme 'xavjer'"),
        ({"correlation": 2.0}, "correlation=2.0 is outside"),
    ],
)
def test_a_bad_request_gets_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        diagnose(encoder(1), **given)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, on the way to the sentence
def test_moments_beyond_all_numbers_get_one_sentence():
    with np.errstate(all="ignore"), pytest.raises(InputError):  # the walk's own sentence, or that of diagnose
        diagnose(encoder(4), recipe(encoder(4), "normal", std=1e100))


# In the description.


@pytest.mark.slow
def test_a_description_holds_the_diagnosis():
    tree = encoder(24, "post")
    described = describe(tree, init="xavier", dtype="fp16")
    expected = diagnose(tree, "xavier", "fp16", context=tree.context)
    assert [f.to_dict() for f in described.diagnosis] == [f.to_dict() for f in expected]
    assert described.to_dict()["diagnosis"][0]["name"] == "gradient_ratio"
    assert described.undiagnosed == ""
    assert describe(tree, diagnosed=False).to_dict()["diagnosis"] == []


def test_what_takes_long_is_not_diagnosed_unasked():
    deep = Transformer(100_000, 64, 1, context=16)
    assert describe(deep).diagnosis == ()
    assert "takes a while" in describe(deep).undiagnosed


def test_a_long_context_is_judged_at_a_shorter_one():
    long = Transformer(2, 64, 1, vocab=100, context=2**17)
    described = describe(long)
    assert described.diagnosed_context == 4096
    assert any("of 4096 tokens" in finding.sentence for finding in described.diagnosis)
    assert described.costs["counted_context"] == 2**17


def test_a_tree_whose_moments_are_not_known_says_so(monkeypatch):
    def refuse(*arguments, **given):
        raise InputError("attention: the moments of this are not known")

    monkeypatch.setattr("depthwidth.analysis.diagnosis.network.moments_of", refuse)
    described = describe(encoder(1))
    assert described.diagnosis == ()
    assert described.undiagnosed.endswith("there is no diagnosis: attention: the moments of this are not known")
    with pytest.raises(InputError):
        describe(encoder(1), diagnosed=True).diagnosis  # noqa: B018


def test_the_command_shows_findings_and_remedies(invoke, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 16}))
    printed = invoke("describe", config, "--scheme", "gpt2", "--dtype", "fp16", "--batch", "4096").output
    assert "Diagnosis at initialisation" in printed
    assert "underflow gradients" in printed
    assert "loss scale" in printed
    rows = json.loads(invoke("describe", config, "--json").output)["diagnosis"]
    assert {"name", "value", "threshold", "source", "remedy", "after"} <= set(rows[0])
    quiet = json.loads(invoke("describe", config, "--json", "--no-diagnosis").output)
    assert quiet["diagnosis"] == []
    wrong = invoke("describe", config, "--scheme", "nothing")
    assert wrong.status == 2
    assert "there is no scheme 'nothing'" in wrong.error
