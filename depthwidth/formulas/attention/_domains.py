"""The arguments that several files of this package share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain

PER_FEATURE = "per feature, squared units of the activation"
GRADIENT = "per feature, squared units of the gradient"
NATS2 = "nats^2"
UNIT = {"low": 0, "high": 1, "closed_low": True, "closed_high": True}
Value = Annotated[Any, Domain(0, symbol="V", unit=PER_FEATURE, typical=(0.5, 2.0))]
ValueGain = Annotated[Any, Domain(0, symbol="g_V", typical=(0.5, 2.0))]
Correlation = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r", typical=(0.02, 0.9))]
RowCorrelation = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="rho", typical=(0.02, 0.9))]
Raw = Annotated[Any, Domain(0, closed_low=True, symbol="s", unit=NATS2, typical=(0.2, 4.0))]
Width = Annotated[Any, Domain(0, closed_high=True, symbol="d", unit="dimensions", typical=(64, 4096))]
Dropout = Annotated[Any, Domain(0, 1, closed_low=True, symbol="p", typical=(0.01, 0.3))]
Gamma = Annotated[Any, Domain(0, closed_low=True, symbol="gamma", unit=GRADIENT, typical=(0.5, 2.0))]
SumP3 = Annotated[Any, Domain(**UNIT, symbol="M_3", typical=(0.001, 0.05))]
SumP4 = Annotated[Any, Domain(**UNIT, symbol="M_4", typical=(0.0001, 0.01))]
CrossP2 = Annotated[Any, Domain(**UNIT, symbol="A_22", typical=(0.0001, 0.05))]
PairP2 = Annotated[Any, Domain(**UNIT, symbol="P_2", typical=(0.005, 0.2))]
KEDIA = "Kedia et al. 2024, authors' code"
OURS = "derived for this package: Gaussian scores given the tokens, averages over the softmax"
TESTED = "tokens exchangeable, weights iid; within 1 to 4 % of simulation for 16 to 128 tokens, widths 128 to 512"
