"""Norms against their definitions."""

import pytest

from depthwidth import layers

torch = pytest.importorskip("torch")

from verify.models.base import module  # noqa: E402


def test_norms():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) + 1
    layer = module(layers.LayerNorm(8, affine=False, eps=1e-3))
    centred = x - x.mean(1, keepdim=True)
    torch.testing.assert_close(layer(x), centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt())
    rms = module(layers.RMSNorm(8, eps=1e-3, unit_offset=True))
    torch.nn.init.constant_(rms.weight, 0.5)
    torch.testing.assert_close(rms(x), 1.5 * x / (x.square().mean(1, keepdim=True) + 1e-3).sqrt())
