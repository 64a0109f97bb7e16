"""The arguments that the rules share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain

Depth = Annotated[Any, Domain(0, symbol="L", unit="layers", typical=(6, 48)), "number of blocks"]
Width = Annotated[Any, Domain(0, symbol="d_x", unit="dimensions", typical=(512, 8192)), "dimension of the residual stream"]
Parameters = Annotated[
    Any, Domain(0, symbol="N", unit="parameters without embeddings", typical=(1e7, 1e12)), "parameters without embeddings"
]
BlockCoefficient = Annotated[
    Any,
    Domain(0, symbol="c", unit="parameters per layer and squared width", typical=(8, 16)),
    "parameters per layer and squared width: 12 for a feed-forward part four times the width",
]
Ratio = Annotated[Any, Domain(0, symbol="rho", unit="width per layer", typical=(20, 200)), "ratio of width to depth"]
