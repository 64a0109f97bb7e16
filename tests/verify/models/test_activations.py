"""Activations as torch functions."""

import pytest

from depthwidth import activation, layers
from depthwidth.errors import InputError
from depthwidth.layers.activation_entries import trained_numbers

torch = pytest.importorskip("torch")

from verify.models.activations import torch_function  # noqa: E402

X = torch.linspace(-4, 4, 81, dtype=torch.float64)


@pytest.mark.parametrize("name", list(layers.ACTIVATIONS))
def test_the_torch_function_of_an_entry_is_its_expression(name):
    expected = torch.as_tensor(activation(name)(X.numpy()))
    numbers = [torch.tensor(value, dtype=torch.float64) for _, value in trained_numbers(name)]
    near = 1e-6 if name == "xielu" else 1e-7  # the library keeps the negative branch of xIELU below -1e-6
    torch.testing.assert_close(torch_function(name)(X, *numbers), expected, rtol=1e-7, atol=near)
    torch.testing.assert_close(torch_function(layers.ACTIVATIONS[name].expression)(X), expected)


TYPED = ["max(x, 0.1*x)", "min(x, 1) + abs(x)", "2^(-x)", "x*Phi(x) - sign(x)", "softplus(x)", "heaviside(x)"]


@pytest.mark.parametrize("text", TYPED)
def test_an_expression_becomes_a_torch_function(text):
    torch.testing.assert_close(torch_function(text)(X), torch.as_tensor(activation(text)(X.numpy())))


def test_a_function_that_torch_does_not_have_is_named():
    layers.register_activation(layers.ActivationEntry("lost", "x", torch="torch.nn.functional.lost"))
    try:
        with pytest.raises(InputError, match=r"lost names the torch function 'torch.nn.functional.lost', which does not exist"):
            torch_function("lost")
    finally:
        del layers.ACTIVATIONS["lost"]
