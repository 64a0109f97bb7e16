"""The arguments that several files of this package share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain

Attention = Annotated[Any, Domain(0, symbol="a_A", unit="per feature", typical=(0.3, 2))]
FeedForward = Annotated[Any, Domain(0, symbol="a_F", unit="per feature", typical=(0.1, 1))]
Strength = Annotated[Any, Domain(0, symbol="a", unit="per feature", typical=(0.1, 2))]
Gain = Annotated[Any, Domain(0, closed_low=True, symbol="J", typical=(0.05, 1.5))]
Layers = Annotated[Any, Domain(0, closed_low=True, symbol="N", unit="layers", typical=(1, 200))]
Branches = Annotated[Any, Domain(1, closed_low=True, symbol="N_b", unit="blocks", typical=(2, 400))]
Gap = Annotated[Any, Domain(0, 1, closed_high=True, symbol="g_0", typical=(0.001, 0.1))]
HiddenRatio = Annotated[Any, Domain(0, symbol="m", typical=(1, 8))]
