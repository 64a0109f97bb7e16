"""The critical depth of Fahim and Karim: printed values, and published runs that contradict it."""

import pytest
from helpers import agrees, check, table

from depthwidth.coefficients import reference
from depthwidth.formulas import rules

D1 = table("512 | 15.1591\n1024 | 16.8435\n2048 | 18.5278\n4096 | 20.2122")


@pytest.mark.parametrize(("width", "depth"), D1)
def test_depth_delusion(width, depth):
    check(rules.depth_delusion_critical_depth(float(width)), depth)
    assert not agrees(rules.depth_delusion_critical_depth(float(width), 2.4301), depth)


def test_the_two_forms_of_depth_delusion_differ_twofold():
    check(rules.depth_delusion_critical_depth_power(512), "16")
    check(rules.depth_delusion_critical_depth_power(4096), "40")
    check(rules.depth_delusion_critical_depth_power(4096) / rules.depth_delusion_critical_depth(4096), "2")
    check(rules.depth_delusion_critical_depth(256), "13.5")
    check(0.34 / 0.12, "2.8")


def test_published_runs_contradict_depth_delusion_at_width_256():
    losses = [row["loss_nats_100B_tokens"] for row in reference("gemstones_models_loss") if row["width"] == "256"]
    assert [f"{float(loss):.4f}" for loss in losses] == ["3.4115", "3.3771", "3.1887", "3.1757"]
