"""Marin's rule: printed values."""

import pytest
from helpers import agrees, check, table

from depthwidth.formulas import rules

MARIN = table("512 | 5.62637 | 6\n768 | 8.22800 | 8\n1024 | 10.7789 | 11\n2048 | 20.6869 | 21\n4096 | 39.7670 | 40")


@pytest.mark.parametrize(("width", "depth", "rounded"), MARIN)
def test_marin(width, depth, rounded):
    check(rules.marin_depth(float(width)), depth)
    assert round(rules.marin_depth(float(width))) == int(rounded)
    assert not agrees(rules.marin_depth(float(width), min_hidden_pow=8.999), depth)
