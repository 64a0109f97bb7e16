"""Arguments and sources of the formulas of capacity, and the natures that their validity ends with."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain
from ...mathematics import Constant

NEYSHABUR = "Neyshabur, Bhojanapalli, Srebro 2018, arXiv 1707.09564"
EXPLORING = "Neyshabur et al. 2017, arXiv 1706.08947"
JIANG = "Jiang et al. 2020, arXiv 1912.02178"
DZIUGAITE = "Dziugaite et al. 2020, arXiv 2010.11924"
EDELMAN = "Edelman et al. 2022, arXiv 2110.10090"
MAUREY = "Maurey's lemma, for the maps of Trauger, Tewari 2024, arXiv 2310.13088"
VC = "Yang, Srebro, Li 2026, constants hidden"
WHOLE: dict[str, Any] = {"closed_low": True, "integer": True}
DRAWN = "all samples but a share delta: a bound"
MEASURE = "comparisons of networks: a measure"
PROXY = "orders of magnitude: a proxy, as the constant of the bound is unknown"
HALF, QUARTER, THIRD = (1 / Constant.of(n) for n in (2, 4, 3))

Depth = Annotated[Any, Domain(1, symbol="d", unit="layers", typical=(2, 8), **WHOLE), "number of weight matrices"]
Width = Annotated[
    Any, Domain(1, symbol="h", unit="units", typical=(8, 1024), **WHOLE), "units of the widest layer, inputs included"
]
InputNorm = Annotated[Any, Domain(0, symbol="B", typical=(0.5, 10.0)), "largest norm of an input"]
Margin = Annotated[
    Any,
    Domain(0, symbol="gamma", unit="logits", typical=(0.1, 10.0)),
    "margin: logit of the label minus the largest other, of all but a small share of the training points",
]
Samples = Annotated[Any, Domain(2, symbol="m", typical=(100, 100000), **WHOLE), "training points"]
Failure = Annotated[Any, Domain(0, 1, symbol="delta", typical=(0.01, 0.2)), "probability with which the bound may fail"]
Divergence = Annotated[
    Any, Domain(0, closed_low=True, symbol="K", unit="nats", typical=(1.0, 1e4)), "divergence of the posterior from the prior"
]
SquaredSpectra = Annotated[Any, Domain(0, symbol="Pi_s", typical=(0.5, 1000.0)), "product of the squared spectral norms"]
StableRanks = Annotated[
    Any, Domain(1, closed_low=True, symbol="R_s", typical=(2.0, 500.0)), "sum of the layers' stable ranks F_i^2/s_i^2"
]
Spectra = Annotated[Any, Domain(0, symbol="pi_s", typical=(0.5, 30.0)), "product of the spectral norms"]
SquaredNorm = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="w2", typical=(1.0, 1000.0)),
    "squared norm of the weights, or of their way from the start",
]
Noise = Annotated[Any, Domain(0, symbol="sigma", typical=(0.01, 1.0)), "standard deviation of the noise on each weight"]
Weights = Annotated[Any, Domain(1, symbol="omega", typical=(1000, 100000), **WHOLE), "number of weights"]
Widths = Annotated[
    Any, Domain(1, closed_low=True, symbol="Pi_h", typical=(4.0, 1e5)), "product of the widths h_1 ... h_d, outputs included"
]
