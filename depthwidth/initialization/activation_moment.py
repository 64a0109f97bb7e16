"""The second moment of an activation at unit variance, for which several schemes compensate."""

from __future__ import annotations

from ..formulas.gaussian import relu_second_moment


def activation_second_moment(name: str) -> float:
    """E f(z)^2 for a standard normal z."""
    if name not in _SECOND:
        if name == "relu":
            _SECOND[name] = float(relu_second_moment(1.0))
        else:
            from ..layers.activations import activation

            _SECOND[name] = float(activation(name).second_moment(1.0))
    return _SECOND[name]


_SECOND: dict[str, float] = {}
