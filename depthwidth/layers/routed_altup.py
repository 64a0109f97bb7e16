"""AltUp whose coefficients depend on the token: Gemma 3n's form."""

from __future__ import annotations

from typing import Any

from ..checks import check_whole
from ..errors import InputError, shown
from ..formulas.altup import predict_flops
from ..numerics.homogeneity import Place, Powers
from ..values import cached_property, frozen
from .base import Child, Run, component
from .block import BlockLike, check_block
from .layer_gate import LayerGate
from .linear import Linear
from .norms import Norm
from .projected_streams import ProjectedStreams
from .streams import MOST_STREAMS


@frozen
class AltUpRouting:
    """The sizes of AltUp with coefficients from a router.

    Parameters
    ----------
    streams : copies of the residual stream.
    active : the copy that every block computes on.
    clip : largest absolute value of a coefficient's weight in training; None for no limit.
    """

    streams: int = 4
    active: int = 0
    clip: float | None = 120.0

    def __post_init__(self) -> None:
        check_whole("AltUpRouting", smallest=2, largest=MOST_STREAMS, streams=self.streams)
        check_whole("AltUpRouting", smallest=0, largest=self.streams - 1, active=self.active)
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise InputError(f"AltUpRouting: clip={shown(self.clip)} is not a positive number")


@component
class RoutedAltUp(BlockLike):
    """Several copies x_i of the stream; the block inside, B, computes on the active one, a (Gemma 3n).

    ``modes(z) = tanh(router(router_norm(z) / width))`` weights K modes. The copies are predicted,
    ``p_i = x_i + sum_j C_ij x_j`` with ``C = predict(modes(x_a))``; B reads ``p_a``; all are corrected by what it adds,
    ``y_i = p_i + (1 + correct(modes(B(p_a)))_i) (B(p_a) - p_a)``. The output of the `gate`, which reads ``y_a``, is added to
    all copies but the first. With weights of zero in `predict` and `correct` every copy receives what B adds. Its moments are
    not derived.

    Source: the code of Gemma 3n, after Baykal et al. 2023, arXiv 2301.13310, whose coefficients are constants.
    """

    block: BlockLike
    router_norm: Norm
    routing: AltUpRouting = AltUpRouting()
    gate: LayerGate | None = None

    def __post_init__(self) -> None:
        check_block("RoutedAltUp", self.block)
        if self.block.streams > 1:
            raise InputError(f"RoutedAltUp: the block inside keeps {self.block.streams} copies of the stream, not one")
        if any(part is not None and part.width != self.block.width for part in (self.router_norm, self.gate)):
            raise InputError(f"RoutedAltUp: its parts differ in width from its block, width={self.block.width}")

    @property
    def streams(self) -> int:  # type: ignore[override]
        """Copies of the residual stream."""
        return self.routing.streams

    @property
    def width(self) -> int:
        """Features of one copy of the residual stream."""
        return self.block.width

    @property
    def own_streams(self) -> ProjectedStreams:
        return ProjectedStreams(self.streams, self.width)

    @property
    def inputs_width(self) -> int | None:
        return None if self.gate is None else self.gate.features

    @cached_property
    def router(self) -> Linear:
        """The map from a copy of the stream to the modes."""
        return Linear(self.width, self.streams, False)

    @cached_property
    def predict(self) -> Linear:
        """The map from the modes to the coefficients of the prediction, a K x K matrix row by row."""
        return Linear(self.streams, self.streams**2, False)

    @cached_property
    def correct(self) -> Linear:
        """The map from the modes to the coefficients of the correction, less one."""
        return Linear(self.streams, self.streams, False)

    def children(self) -> tuple[Child, ...]:
        gate = () if self.gate is None else (Child("gate", self.gate),)
        return (
            Child("router_norm", self.router_norm, active=2),
            Child("router", self.router, active=2, kind="router"),
            Child("predict", self.predict, kind="mixing"),
            Child("inner", self.block),
            Child("correct", self.correct, kind="mixing"),
            *gate,
        )

    def choices(self) -> dict[str, Any]:
        return {"routed_altup": self.routing}

    def degree(self, x: Powers, at: Place) -> Powers:
        mixing = at.at("predict").through(self.predict, self._modes_degree(x, at))
        predicted = at.apply("sum", x, at.apply("product", mixing, x), reason="a map of the copies is added to them")
        y = at.at("inner").through(self.block, predicted)
        factors = at.at("correct").through(self.correct, self._modes_degree(y, at))
        factors = at.apply("sum", {}, factors, reason="one is added to the factors of the correction")
        added = at.apply("sum", predicted, y, reason="a prediction has another degree than what the block computes")
        y = at.apply("sum", predicted, at.apply("product", factors, added))
        if self.gate is None:
            return y
        given = at.at("gate").through(self.gate, y)
        return at.apply("sum", y, given, reason="a gated vector is added to a stream of another degree")

    def _modes_degree(self, x: Powers, at: Place) -> Powers:
        """The powers of the weights of the modes, given those of a copy of the stream."""
        routed = at.at("router").through(self.router, at.at("router_norm").through(self.router_norm, x))
        return at.at("router").apply("gelu", routed, reason="tanh of a router")

    def own_flops(self, run: Run) -> int:
        return int(run.positions * predict_flops.body(self.width, self.streams))

    def own_saved(self, run: Run) -> int:
        # The copies; the router's two inputs; the innovation; modes, twice, and coefficients.
        values = self.width * (self.streams + 3) + 2 * self.streams + self.streams**2 + self.streams
        return run.positions * values * run.value_bytes
