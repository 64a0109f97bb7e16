"""The arguments that several files of this package share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain
from ...numerics.bounds import LONGEST

WHOLE: dict[str, Any] = {"closed_low": True, "integer": True}
HeadDim = Annotated[
    Any, Domain(1, 1e6, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(32, 256)), "head dimension"
]
ShortLength = Annotated[
    Any, Domain(2, LONGEST, True, True, integer=True, symbol="n", unit="tokens", typical=(16, 1024)), "tokens"
]
Width = Annotated[Any, Domain(1, symbol="d", unit="dimensions", typical=(256, 8192), **WHOLE), "width"]
Heads = Annotated[Any, Domain(1, symbol="H", typical=(1, 64), **WHOLE), "heads per layer"]
OURS = "derived for this package"
RECONSTRUCTION = f"{OURS}: our reconstruction, not a theorem of Yu et al. 2025, arXiv 2510.03784"
SPLIT = f"{RECONSTRUCTION}; the budget D = sum of H d is that paper's"
