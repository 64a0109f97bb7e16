"""Known models: their counts are the published ones, and a plan lists the nearest."""

import pytest

from depthwidth.architecture import Transformer
from depthwidth.coefficients import reference
from depthwidth.planning.known_models import comparable_models, known_models
from depthwidth.planning.plan import plan


def test_the_counts_are_those_published():
    """Digit by digit; a row with another width of its feed-forward part would not be."""
    for one in known_models():
        assert one.tree().parameters == one.parameters, one.name
    llama = next(one for one in known_models() if one.name == "Llama 3 8B")
    assert Transformer(llama.depth, llama.width, **llama.choices | {"ffn": 11008}).parameters != llama.parameters
    assert {one.family for one in known_models()} >= {"Llama", "Qwen", "Mistral", "Gemma", "OLMo", "DeepSeek"}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "llama"}, "Llama 2 7B"),
        ({"model_type": "mistral"}, "Mistral 7B"),
        ({"model_type": "mixtral"}, "Mixtral 8x7B"),
        ({"model_type": "olmo"}, "OLMo 7B"),
        ({"model_type": "gpt2"}, "GPT-2"),
    ],
)
def test_a_familys_default_configuration_is_the_known_model(config, name):
    """By another route: the defaults of the library's classes are these models."""
    one = next(one for one in known_models() if one.name == name)
    tree = Transformer.from_config({**config, "vocab_size": one.choices["vocab"]})
    assert (tree.depth, tree.width, tree.parameters) == (one.depth, one.width, one.parameters)


def test_the_family_comes_first_and_then_the_nearest_in_size():
    names = [one.name for one in comparable_models(8 * 10**9, experts=False, family="Qwen")]
    assert names[:2] == ["Qwen3 8B", "Qwen2.5 7B"]
    assert next(comparable_models(8 * 10**9, experts=False)).name == "Llama 3 8B"
    assert not any(one.experts for one in comparable_models(47 * 10**9, experts=False))
    assert all(one.experts for one in comparable_models(47 * 10**9, experts=True))
    assert list(comparable_models(10**13, experts=False)) == []


def test_known_models_are_counted_at_the_plans_context_and_those_of_its_family_come_first():
    for context in (2048, 16384):
        found = plan("7B", preset="llama3", context=context)
        assert {one.tree.context for one in found.known} == {context}
    like = plan("8B", like={"model_type": "qwen2", "num_key_value_heads": 4})
    assert [one.name for one in like.known] == ["Qwen3 8B", "Qwen2.5 7B"]
    assert plan("47B", preset="mixtral").known[0].name == "Mixtral 8x7B"
    assert plan("350M").known[0].tree.context == 1024  # GPT-2's table of positions has no more rows


def test_known_models_beside_a_plan_are_compared_by_their_ratio():
    found = plan("7B", preset="llama3")
    assert len({one.shape.depth for one in found.known}) == len(found.known) == 2
    for one in found.known:
        assert one.shape.parameters == one.tree.parameters
        assert one.shape.loss_at_budget > -1e-4
        assert one.shape.loss_at_budget_stderr > 0
        assert one.source == next(row["source"] for row in reference("known_models") if row["model"] == one.name)
    wider = min(found.known, key=lambda one: one.shape.depth / one.shape.width)
    assert wider.shape.loss_at_budget == max(one.shape.loss_at_budget for one in found.known)
