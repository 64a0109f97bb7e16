"""The arguments that several files of this package share: letters, units and domains."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import Domain
from ...numerics.bounds import LARGEST_VARIANCE, LONGEST

NATS, NATS2 = "nats", "nats^2"
Length = Annotated[
    Any, Domain(2, LONGEST, True, True, integer=True, symbol="n", unit="tokens", typical=(1024, 65536)), "entries of the row"
]
Variance = Annotated[
    Any, Domain(0, LARGEST_VARIANCE, True, True, symbol="sigma^2", unit=NATS2, typical=(0.1, 1.0)), "variance of a logit"
]
RowVariance = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="sigma^2", unit=NATS2, typical=(0.1, 1.0)),
    "variance of a logit after the part common to its row is removed",
]
RowLength = Annotated[
    Any, Domain(1, closed_low=True, integer=True, symbol="L", unit="tokens", typical=(64, 2048)), "entries of the row"
]
HeadDim = Annotated[
    Any,
    Domain(1, math.inf, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(16, 256)),
    "dimensions of a query and a key, both Gaussian, whose products the logits then are; infinite for Gaussian logits",
]
SumP2 = Annotated[Any, Domain(0, 1, True, True, symbol="P", typical=(0.01, 0.3)), "E sum p^2 of a row of probabilities"]
EXACT = "derived for this package: Laplace transform of Z, random-energy model at finite n"
