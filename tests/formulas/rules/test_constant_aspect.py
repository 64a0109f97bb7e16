"""A constant ratio of width to depth."""

import pytest
from helpers import check

from depthwidth.formulas import rules


@pytest.mark.parametrize(("ratio", "depth", "width"), [(64, "27.3", "1747"), (100, "20.3", "2027")])
def test_constant_ratio(ratio, depth, width):
    check(rules.constant_aspect_depth(1e9, ratio), depth)
    check(rules.constant_aspect_width(1e9, ratio), width)
