"""The registry of modules."""

import pytest

from depthwidth import layers
from depthwidth.errors import InputError
from depthwidth.layers.base import component

torch = pytest.importorskip("torch")

from verify.models.base import builds, module  # noqa: E402


def test_a_new_component_is_one_registration():
    @component
    class Nothing(layers.Layer):
        """Does nothing."""

    with pytest.raises(InputError, match="Nothing has no torch module"):
        module(Nothing())
    builds(Nothing)(lambda layer: torch.nn.Identity())
    assert isinstance(module(Nothing()), torch.nn.Identity)
