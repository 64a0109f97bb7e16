"""Laws of mixtures against the figures that their papers give, and against each other."""

import pytest
from helpers import agrees, check

from depthwidth.coefficients import coefficient
from depthwidth.formulas.compute_optimal import hoffmann_loss
from depthwidth.formulas.mixtures import (
    abnar_loss,
    clark_dense_equivalent,
    clark_loss,
    krajewski_dense_loss,
    krajewski_loss,
    ling_efficiency_leverage,
)


def test_the_figures_of_tian_et_al_fix_the_bases_of_their_logarithms():
    """Over 7 times at 3.1 % and 1e22 FLOPs, best granularity about 12; with natural logarithms neither holds."""
    check(ling_efficiency_leverage(0.031, 12, 1e22), "7.24")
    best = max(range(10, 400), key=lambda tenths: ling_efficiency_leverage(0.031, tenths / 10, 1e22))
    assert best == 113
    natural = {"d": coefficient("ling2025", "d").value * 2.302585, "beta": -0.117, "gamma": 0.0167}
    assert not 6 < ling_efficiency_leverage(0.031, 12, 1e22, **natural) < 9
    assert ling_efficiency_leverage(1.0, 12, 1e22) < 1.01  # a dense model is worth itself


def test_leverage_grows_with_sparsity_and_with_compute():
    shares = [ling_efficiency_leverage(share, 8, 1e21) for share in (0.5, 0.1, 0.02)]
    assert shares == sorted(shares)
    sizes = [ling_efficiency_leverage(0.05, 8, flops) for flops in (1e18, 1e20, 1e22)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("experts", [1, 8, 64, 512])
def test_the_dense_equivalent_has_the_loss(experts):
    for size in (2e7, 1e9):
        same = clark_dense_equivalent(size, experts)
        assert clark_loss(same, 1) == pytest.approx(clark_loss(size, experts), rel=1e-12)
        assert same == pytest.approx(size) if experts == 1 else same > size


def test_losses_of_clark_et_al():
    """The released losses of two models, 2.463 (370M, dense) and 2.641 (25M, 64 experts), to the law's 0.9 %."""
    assert abs(clark_loss(368123904, 1) / 2.463254 - 1) < 0.02
    assert abs(clark_loss(27279360, 64) / 2.641051 - 1) < 0.02
    assert abs(clark_loss(27279360, 1) / 2.641051 - 1) > 0.05


def test_finer_experts_are_better_and_sparser_models_too():
    losses = [krajewski_loss(1e9, 6e10, granularity) for granularity in (1, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < krajewski_dense_loss(1e9 / 64, 6e10)
    assert abnar_loss(8e9, 0.875, 1e11) < abnar_loss(1e9, 0.0, 1e11)
    assert abnar_loss(1e9, 0.9, 1e11) > abnar_loss(1e9, 0.0, 1e11)  # of equal total size the dense one is better


def test_the_refit_of_hoffmann_et_al():
    """Besiroglu et al. give E + A / N^0.3478 + B / D^0.3658; the optimum at 1e22 FLOPs has about 20 tokens a parameter."""
    check(hoffmann_loss(7e10, 1.4e12), "1.9739")
    assert not agrees(hoffmann_loss(7e10, 1.4e12, beta=0.36), "1.9739")
    sizes = [10 ** (9 + i / 100) for i in range(200)]
    best = min(sizes, key=lambda size: hoffmann_loss(size, 1e22 / 6 / size))
    assert 15 < 1e22 / 6 / best**2 < 30
