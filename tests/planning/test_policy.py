"""Steps of widths and head dimensions that a plan offers, just below and just above each width at which they change."""

import math

import pytest

from depthwidth.architecture.hf import read_design
from depthwidth.errors import InputError
from depthwidth.planning.policy import ffn_step, missing_factors, width_step
from depthwidth.planning.template import Template


@pytest.mark.parametrize(("edge", "below", "above"), [(128, 8, 32), (256, 32, 64), (1024, 64, 128)])
def test_widths_come_in_the_steps_that_hardware_likes(edge, below, above):
    """Key heads of 8 dimensions leave the step to the hardware; the two widths beside a target are one step apart."""
    assert (width_step(edge - 0.5), width_step(edge)) == (below, above)
    template = Template.of("gpt3", head_dim=8)
    low, high = template.nearest_widths(edge - below - 0.5)
    assert high - low == below
    low, high = template.nearest_widths(edge + 0.5)
    assert (low, high - low) == (edge, above)


@pytest.mark.parametrize(("edge", "below", "above"), [(256, 8, 64), (1024, 64, 128)])
def test_hidden_features_are_rounded_to_the_steps_that_hardware_likes(edge, below, above):
    """At 8/3 of the width: the nearest multiple, checked against the exact ratio."""
    assert (ffn_step(edge - 0.5), ffn_step(edge)) == (below, above)
    template = Template.of("llama2", head_dim=8)

    def steps(widths):
        """The largest step of which all hidden widths are multiples, and how far they are from 8/3."""
        found = [template.at(1, width).ffn for width in widths]
        assert all(abs(ffn - width * 8 / 3) <= above / 2 for ffn, width in zip(found, widths, strict=True))
        return math.gcd(*found)

    assert steps(range(edge - 64, edge, 8)) == below
    assert steps(range(edge, edge + 256, 8)) == above


@pytest.mark.parametrize(("width", "head_dim"), [(1535, 64), (1536, 128), (129, 64), (128, 64), (127, 32), (64, 32), (63, 16)])
def test_heads_are_of_64_dimensions_below_a_width_of_1536_and_of_128_from_there(width, head_dim):
    """Narrow models have at least two heads."""
    assert Template.of("gpt3").head_dim_at(width) == head_dim


def test_key_value_heads_depart_from_the_usual_number_by_a_factor_of_two():
    template = Template.of("llama3")
    assert [template.kv_heads_at(heads) for heads in (32, 28, 20, 26, 11)] == [8, 4, 4, None, None]
    kept = Template.like(read_design({"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8}))
    # A quarter of the heads; not the 11 of 44 heads, which divide among no devices.
    assert [kept.kv_heads_at(heads) for heads in (32, 44, 40, 64, 88)] == [8, None, 8, 16, None]
    small = {"model_type": "llama", "hidden_size": 960, "num_attention_heads": 15, "num_key_value_heads": 5}
    five = Template.like(read_design(small))
    assert five.kv_heads_at(15) == 5
    assert Template.of("llama3", kv_heads=5).kv_heads_at(32) is None  # a number that was given is exact
    assert Template.of("llama3", tensor_parallel=3).kv_heads_at(24) == 6


@pytest.mark.parametrize(
    ("options", "like"),
    [({"tensor_parallel": 17}, None), ({"multiple": 97 * 128}, {"model_type": "llama", "num_key_value_heads": 8})],
)
def test_heads_that_never_divide_get_one_sentence(options, like):
    template = Template.of("llama3", **options) if like is None else Template.like(read_design(like), **options)
    with pytest.raises(InputError, match=r"holds heads that divide among about 8 key-value heads.*give kv_heads"):
        template.nearest_widths(4096)
    for devices in (1, 2, 3, 5, 6, 7, 8, 12, 16, 24, 32, 64):
        width = Template.of("llama3", tensor_parallel=devices).nearest_widths(4096)[-1]
        tree = Template.of("llama3", tensor_parallel=devices).at(2, width)
        assert tree.heads % devices == tree.heads % tree.kv_heads == 0
        assert tree.kv_heads % devices == 0 or devices % tree.kv_heads == 0


def test_llama_has_widths_of_512_to_choose_from():
    """With eight key-value heads of 128 at every width there were steps of 1024."""
    template = Template.of("llama3", head_dim=128)
    assert template.nearest_widths(3600) == [3584, 4096]
    assert Template.of("llama3", head_dim=128, kv_heads=8).nearest_widths(3600) == [3072, 4096]


def test_factors_of_two_that_heads_lack():
    assert [missing_factors(heads) for heads in (8, 64, 12, 6, 7)] == [0, 0, 1, 2, 3]
