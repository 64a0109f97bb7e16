"""The arguments that the rules share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain

Depth = Annotated[Any, Domain(0, symbol="L", unit="layers", typical=(6, 48))]
Width = Annotated[Any, Domain(0, symbol="d_x", unit="dimensions", typical=(512, 8192))]
Parameters = Annotated[Any, Domain(0, symbol="N", unit="parameters without embeddings", typical=(1e7, 1e12))]
BlockCoefficient = Annotated[Any, Domain(0, symbol="c", unit="parameters per layer and squared width", typical=(8, 16))]
Ratio = Annotated[Any, Domain(0, symbol="rho", unit="width per layer", typical=(20, 200))]
