"""SoViT's scaling of vision transformers: printed shapes and exponents."""

import pytest
from helpers import agrees, check, table

from depthwidth.coefficients import coefficient
from depthwidth.formulas import rules

S1 = table("10 | 719.842 | 14.1254 | 1470.78\n100 | 852.256 | 19.9526 | 2331.03\n1000 | 1009.03 | 28.1838 | 3694.43")


@pytest.mark.parametrize(("factor", "width", "depth", "mlp"), S1)
def test_sovit_scaling(factor, width, depth, mlp):
    sizes = {name: coefficient("sovit2023", name).value for name in ("width", "depth", "mlp", "s_width", "s_depth", "s_mlp")}
    for name, printed in (("width", width), ("depth", depth), ("mlp", mlp)):
        check(rules.sovit_scaled(sizes[name], sizes[f"s_{name}"], float(factor)), printed)
        assert not agrees(rules.sovit_scaled(sizes[name], sizes[f"s_{name}"] + 0.001, float(factor)), printed)
    scaled_width = rules.sovit_scaled(sizes["width"], sizes["s_width"], float(factor))
    scaled_depth = rules.sovit_scaled(sizes["depth"], sizes["s_depth"], float(factor))
    assert rules.sovit_width(scaled_depth) == pytest.approx(scaled_width, rel=1e-13)
    assert rules.sovit_depth(scaled_width) == pytest.approx(scaled_depth, rel=1e-13)


def test_sovit_parameters_grow_two_and_a_half_fold_per_decade():
    width, depth, mlp = (rules.sovit_scaled(1, s, 10) for s in (0.22, 0.45, 0.60))
    low, high = sorted((depth * width**2, depth * width * mlp))
    assert low < 2.65
    assert high > 2.0


def test_sovit_exponent():
    assert rules.sovit_shape_exponent(0.65, 0.5, 0.8) == pytest.approx(0.5, rel=1e-15)
