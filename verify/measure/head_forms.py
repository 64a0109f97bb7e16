"""The measured numbers of attention heads and layers, from which heads are classified, allocated and cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from depthwidth.formulas import heads as laws


@dataclass(frozen=True)
class HeadMeasure:
    """One head on the calibration text. Averages are over rows with at least half of the context."""

    layer: int
    head: int
    kv_head: int
    kind: str
    """retrieval, positional or diffuse"""
    logit_std: float
    """root of the mean variance of a row's logits, the first token left out, nats"""
    entropy: float
    """nats"""
    effective_tokens: float
    """median of 1 / sum p^2"""
    mean_effective_tokens: float
    squared_sum: float
    """mean of sum p^2, whose inverse is what the theory calls effective tokens"""
    largest_weight: float
    """mean of the largest weight"""
    positional_share: float
    """of the weights' variation about uniform, what the distance alone explains"""
    spectrum: tuple[float, ...]
    """s_m^2 of the whitened query-key form, nats^2, largest first"""
    gains: tuple[float, ...]
    """squared length of the value image of each whitened key direction, over the values' total variance"""

    @property
    def rank_99(self) -> int:
        """Directions that hold 99 % of the logits' variance."""
        return laws.saturation_dim(laws.readout_errors(self.spectrum), 0.01 * sum(self.spectrum))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "spectrum": list(self.spectrum), "gains": list(self.gains), "rank_99": self.rank_99}


@dataclass(frozen=True)
class LayerForms:
    """What shrinking a layer needs: second moments of its queries, for each query head, and covariances of its keys."""

    queries: Tensor
    """(heads, d_h, d_h)"""
    keys: Tensor
    """(kv_heads, d_h, d_h)"""
    scale: float
    """what query times key is multiplied by"""


@dataclass(frozen=True)
class ValueForms:
    """What cutting a layer's values needs: how its heads' outputs vary together, and what the output map makes of them."""

    mixed: Tensor
    """(heads, heads, d_v, d_v): covariances of what the heads put out, about `means`"""
    means: Tensor
    """(heads, d_v): what the output map's bias can carry; zeros where it has none, and `mixed` are second moments then"""
    gram: Tensor
    """(heads, heads, d_v, d_v): W_g' W_h for the parts W_h of the output map"""
