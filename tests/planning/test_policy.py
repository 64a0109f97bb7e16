"""Steps of widths and head dimensions that a plan offers, just below and just above each width at which they change."""

import math

import pytest

from depthwidth.planning.policy import ffn_step, width_step
from depthwidth.planning.template import Template


@pytest.mark.parametrize(("edge", "below", "above"), [(128, 8, 32), (256, 32, 64), (1024, 64, 128)])
def test_widths_come_in_the_steps_that_hardware_likes(edge, below, above):
    """Key heads of 8 dimensions leave the step to the hardware; the two widths beside a target are one step apart."""
    assert (width_step(edge - 0.5), width_step(edge)) == (below, above)
    template = Template.of("gpt3", head_dim=8)
    low, high = template.widths_beside(edge - below - 0.5)
    assert high - low == below
    low, high = template.widths_beside(edge + 0.5)
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
