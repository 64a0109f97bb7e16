"""The arguments that several files of this package share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain

PER_FEATURE = "per feature, squared units of the activation"
GRADIENT = "per feature, squared units of the gradient"
NATS2 = "nats^2"
UNIT = {"low": 0, "high": 1, "closed_low": True, "closed_high": True}
Value = Annotated[Any, Domain(0, symbol="V", unit=PER_FEATURE, typical=(0.5, 2.0)), "second moment of a value"]
ValueGain = Annotated[
    Any,
    Domain(0, symbol="g_V", typical=(0.5, 2.0)),
    "gain through the value weights, V/q: width times the variance of a value weight",
]
Correlation = Annotated[
    Any,
    Domain(-1, 1, closed_low=True, closed_high=True, symbol="r", typical=(0.02, 0.9)),
    "correlation of the tokens attended to",
]
RowCorrelation = Annotated[
    Any,
    Domain(-1, 1, closed_low=True, closed_high=True, symbol="rho", typical=(0.02, 0.9)),
    "correlation of the tokens that attend; r in self-attention",
]
Raw = Annotated[
    Any, Domain(0, closed_low=True, symbol="s", unit=NATS2, typical=(0.2, 4.0)), "variance of a score q.k / sqrt(d_h)"
]
Width = Annotated[Any, Domain(0, closed_high=True, symbol="d", unit="dimensions", typical=(64, 4096)), "width of the tokens"]
Dropout = Annotated[Any, Domain(0, 1, closed_low=True, symbol="p", typical=(0.01, 0.3)), "dropout rate of the probabilities"]
Gamma = Annotated[
    Any, Domain(0, closed_low=True, symbol="gamma", unit=GRADIENT, typical=(0.5, 2.0)), "second moment of the output's gradient"
]
SumP3 = Annotated[Any, Domain(**UNIT, symbol="M_3", typical=(0.001, 0.05)), "E sum p^3 of a row of probabilities"]
SumP4 = Annotated[Any, Domain(**UNIT, symbol="M_4", typical=(0.0001, 0.01)), "E sum p^4 of a row of probabilities"]
CrossP2 = Annotated[
    Any, Domain(**UNIT, symbol="A_22", typical=(0.0001, 0.05)), "E sum over i != j of p_i^2 p_j^2 of a row of probabilities"
]
PairP2 = Annotated[Any, Domain(**UNIT, symbol="P_2", typical=(0.005, 0.2)), "E sum p_j p'_j over two rows of probabilities"]
KEDIA = "Kedia et al. 2024, authors' code"
OURS = "derived for this package: Gaussian scores given the tokens, averages over the softmax"
TESTED = "tokens exchangeable, weights iid"
