"""The standard normal distribution and density as formula bodies write them."""

from __future__ import annotations

from typing import Any

from ...mathematics import Constant, erf, exp, pi, sqrt

TWO = Constant.of(2)


def distribution(z: Any) -> Any:
    return (1 + erf(z / sqrt(TWO))) / 2


def density(z: Any) -> Any:
    return exp(-(z**2) / 2) / sqrt(2 * pi)
