"""Functions that evaluate several formulas together, from the command line."""

import inspect
import json

import pytest

from depthwidth.formula import find_formula
from depthwidth.formulas._composites import COMPOSITES, find_composite
from depthwidth.formulas.attention import attention_moments

LAYER = ("signal=1", "correlation=0.2", "length=64", "width=256", "head_dim=64", "gradient_correlation=0.5")


@pytest.mark.parametrize("whole", COMPOSITES, ids=lambda whole: whole.name)
def test_each_says_what_it_takes_and_which_formulas_it_evaluates(whole):
    card = whole.card()
    assert card["summary"].endswith(".")
    assert all(one["meaning"] for one in card["arguments"])
    named = {one["name"] for one in card["arguments"]} | set(whole.left_out)
    assert named == set(inspect.signature(whole.function).parameters)
    source = inspect.getsource(whole.function)
    for name in whole.combines:
        assert find_formula(name).name == name
        assert f"{name.partition('.')[2]}(" in source
    assert find_composite(whole.name) is find_composite(whole.name.partition(".")[2]) is whole


@pytest.mark.slow
def test_a_layer_s_moments_are_listed_shown_and_evaluated(invoke):
    assert "attention.attention_moments" in invoke("formulas", "list", "--topic", "attention").output
    assert "attention.attention_moments" not in invoke("formulas", "list", "--kind", "exact").output
    assert "attention_moments" in json.dumps(json.loads(invoke("formulas", "list", "--json").output))
    page = invoke("formulas", "show", "attention_moments").output
    assert "correlation" in page
    assert "attention.output_covariance" in page
    found = json.loads(invoke("formulas", "eval", "attention_moments", *LAYER, "--json").output)["value"]
    layer = attention_moments(1.0, 0.2, length=64, width=256, head_dim=64, gradient_correlation=0.5)
    assert found["second_moment"] == pytest.approx(float(layer.second_moment), rel=1e-12)
    assert found["gradient"] == pytest.approx(float(layer.gradient), rel=1e-12)
    assert found["overlap.P"] == pytest.approx(float(layer.overlap.P), rel=1e-12)
    causal = json.loads(invoke("formulas", "eval", "attention_moments", *LAYER, "causal=true", "--json").output)["value"]
    assert causal["second_moment"] > 1.2 * found["second_moment"]
    across = json.loads(invoke("formulas", "eval", "attention_moments", *LAYER[:4], "queries=8", "--json").output)["value"]
    assert "gradient" not in across


@pytest.mark.slow
def test_each_number_has_the_accuracy_of_its_worst_formula_and_the_layer_its_measured_errors(invoke):
    def claimed(name):
        return find_formula(f"attention.{name}").accuracy

    card = json.loads(invoke("formulas", "show", "attention_moments", "--json").output)
    stated = {one["number"]: one["accuracy"] for one in card["accuracies"]}
    assert stated["second_moment"] == claimed("output_second_moment") > 0
    assert stated["gradient"] == max(claimed(f"{path}_gradient_second_moment") for path in ("query", "key"))
    assert stated["value_gradient"] == "exact"
    page, value = (invoke("formulas", *command).output for command in (
        ("show", "attention_moments"), ("eval", "attention_moments", *LAYER)))  # fmt: skip
    for text in (page, value):
        assert f"{100 * stated['covariance']:.3g} %" in text
        assert find_formula("attention.output_covariance").claim in text
    official = next(one for one in card["evidence"] if one["what"] == "attention official gradient_variance")
    assert official["settings"] > 20_000
    assert 0 < official["median_error"] < 0.001  # that of the published formulas is 2 %
    assert "Evidence" in page


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("signal=1",), "needs correlation"),
        ((*LAYER, "widht=3"), "there is no argument 'widht' (did you mean 'width'?)"),
        ((*LAYER[1:], "signal=q"), "signal='q' is not a number"),
        ((*LAYER, "overlap=1"), "there is no argument 'overlap'"),
        ((*LAYER[2:], "signal=1", "correlation=-0.5"), "correlation=-0.5 is below"),
        ((*LAYER[:2], "width=256", "length=64.5"), "length is outside the whole numbers"),
        ((*LAYER, "causal=2"), "causal=2.0 is neither true nor false"),
        ((*LAYER[1:], "signal=true"), "signal='true' is not a number"),
        ((*LAYER[:3], "width=0"), "width"),
        ((*LAYER[1:], "signal=1,2"), "is not a number"),
    ],
)
def test_what_cannot_be_evaluated_gets_one_sentence(arguments, problem, invoke):
    result = invoke("formulas", "eval", "attention_moments", *arguments)
    assert result.status
    assert problem in result.error
    assert result.error.count("\n") == 1
