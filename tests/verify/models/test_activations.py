"""Activations as torch functions."""

import pytest

from depthwidth import layers

torch = pytest.importorskip("torch")

from verify.models.activations import ACTIVATIONS  # noqa: E402


def test_activations_are_those_of_the_calculator():
    from depthwidth import activation

    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    assert tuple(ACTIVATIONS) == layers.ACTIVATIONS
    for name, f in ACTIVATIONS.items():
        torch.testing.assert_close(f(x), torch.as_tensor(activation(name)(x.numpy())))
