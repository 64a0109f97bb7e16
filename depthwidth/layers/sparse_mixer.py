"""A mixture of experts with the router of Phi-3.5-MoE, the sparse mixer."""

from __future__ import annotations

import functools
import math
from typing import Any

from ..checks import check_fraction
from ..errors import InputError
from ..numerics.interpolation import Table, TableFamily
from ..signal import Trace
from .base import component
from .mixture import MixtureOfExperts


@component
class SparseMixer(MixtureOfExperts):
    """Two experts, one after the other: the best, and the best of the others (Liu et al. 2024, arXiv 2409.12136).

    The weight of each is its share in a softmax over those of the candidates whose score is within 2 `jitter` of the best,
    relative to the larger of the two: nearly always one. This is the model as it is evaluated; in training the library draws
    the two at random.
    """

    jitter: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("SparseMixer", jitter=self.jitter)
        if self.top_k != 2:
            raise InputError(f"SparseMixer: top_k={self.top_k} is not 2")

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"mixer_jitter": self.jitter}

    def routing_tables(self, trace: Trace) -> TableFamily:
        make = functools.partial(_mixer_table, self.experts, self.jitter)
        return trace.family(("sparse mixer", self.experts, self.jitter), make, 0.5, same=0.02)


@functools.lru_cache(maxsize=64)
def _mixer_table(experts: int, jitter: float, variance: float) -> Table:
    """The four averages over the angle between two tokens."""
    from ..numerics.routing import sparse_mixer_routing

    def columns(angles: Any) -> Any:
        import numpy as np

        return np.array([sparse_mixer_routing(variance, float(np.cos(angle)), experts, jitter) for angle in angles])

    return Table(columns, 0.0, math.pi, nodes=_NODES)


_NODES = 13
