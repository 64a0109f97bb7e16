"""The arguments that several files of this package share: letters, units and domains."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain

Attention = Annotated[
    Any, Domain(0, symbol="a_A", unit="per feature", typical=(0.3, 2)), "second moment that the attention block of a layer adds"
]
FeedForward = Annotated[
    Any,
    Domain(0, symbol="a_F", unit="per feature", typical=(0.1, 1)),
    "second moment that the feed-forward block of a layer adds",
]
Strength = Annotated[Any, Domain(0, symbol="a", unit="per feature", typical=(0.1, 2)), "second moment that the branch adds"]
Gain = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="J", typical=(0.05, 1.5)),
    "gain of the gradient through a block at a norm's unit input",
]
Layers = Annotated[Any, Domain(0, closed_low=True, symbol="N", unit="layers", typical=(1, 200)), "layers"]
Branches = Annotated[
    Any, Domain(1, closed_low=True, symbol="N_b", unit="blocks", typical=(2, 400)), "residual blocks, two per layer"
]
Gap = Annotated[Any, Domain(0, 1, closed_high=True, symbol="g_0", typical=(0.001, 0.1)), "1 - r_0 of the input"]
HiddenRatio = Annotated[Any, Domain(0, symbol="m", typical=(1, 8)), "hidden features divided by width"]
