"""Measurements of attention heads and layers, which serve to classify, allocate and truncate heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from depthwidth.formulas import heads as laws


@dataclass(frozen=True)
class HeadMeasure:
    """Measurements of one head on the calibration text. Averages are over rows with at least half of the context."""

    layer: int
    head: int
    kv_head: int
    kind: str
    """``retrieval``, ``positional`` or ``diffuse``."""
    logit_std: float
    """Square root of the mean variance of a row's logits, without the first token, in nats."""
    entropy: float
    """Mean entropy in nats."""
    effective_tokens: float
    """Median of 1 / sum p^2."""
    mean_effective_tokens: float
    """Mean of 1 / sum p^2."""
    squared_sum: float
    """Mean of sum p^2. The theory's effective number of tokens is the inverse of this mean."""
    largest_weight: float
    """Mean of the largest weight."""
    positional_share: float
    """Fraction of the weights' squared deviation from uniform that the distance explains."""
    spectrum: tuple[float, ...]
    """Squared singular values s_m^2 of the whitened query-key form in nats^2, largest first."""
    gains: tuple[float, ...]
    """Fraction of the values' variance that each whitened key direction predicts, in the order of `spectrum`."""
    weight_rank: int | None = None
    """Numerical rank of the product of the head's query and key maps, with their biases; None if the maps are unknown."""
    weight_effective_rank: float | None = None
    """Effective rank of that product."""
    value_rank: int | None = None
    """Numerical rank of the product of its value and output maps, with the value map's bias."""
    value_effective_rank: float | None = None

    @property
    def rank_99(self) -> int:
        """Number of directions that hold 99 % of the logits' variance."""
        return laws.saturation_dim(laws.readout_errors(self.spectrum), 0.01 * sum(self.spectrum))

    def to_dict(self) -> dict[str, Any]:
        """The measurements as plain values."""
        return {**vars(self), "spectrum": list(self.spectrum), "gains": list(self.gains), "rank_99": self.rank_99}


@dataclass(frozen=True)
class LayerForms:
    """Second moments of the queries and covariances of the keys of one layer, from which they are truncated."""

    queries: Tensor
    """Second moments of the queries of each query head, (heads, d_h, d_h)."""
    keys: Tensor
    """Covariances of the keys of each key head, (kv_heads, d_h, d_h)."""
    scale: float
    """Factor that multiplies the product of query and key."""


@dataclass(frozen=True)
class ValueForms:
    """Covariances between the outputs of a layer's heads, and Gram matrices of the output map, for the truncation of values."""

    mixed: Tensor
    """Covariances between the outputs of the heads about `means`, (heads, heads, d_v, d_v)."""
    means: Tensor
    """Mean outputs of the heads, (heads, d_v), which the bias of the output map can absorb. If there is no bias they are zeros,
    and `mixed` holds second moments."""
    gram: Tensor
    """W_g' W_h for the part W_h of the output map that reads head h, (heads, heads, d_v, d_v)."""
