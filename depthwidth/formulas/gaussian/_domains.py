"""The arguments that several files of this package share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain
from ...mathematics import Constant

INPUT = "squared units of the input"
Variance = Annotated[Any, Domain(0, symbol="a", unit=INPUT, typical=(0.1, 5.0)), "variance of x"]
OtherVariance = Annotated[Any, Domain(0, symbol="b", unit=INPUT, typical=(0.1, 5.0)), "variance of y"]
Mean = Annotated[Any, Domain(symbol="mu", unit="units of the input", typical=(-2.0, 2.0)), "mean of x"]
KEDIA = "Kedia et al. 2024, arXiv 2403.09635"
QUARTER = Constant.of(1) / 4
