"""What turns an input into the residual stream: token tables with positions, or image patches."""

from __future__ import annotations

from typing import Any

from ..checks import check_fraction, check_whole
from ..errors import InputError, shown
from ..signal import AnySignal, Place, Pullback, Spread, TokenSignal
from .base import Child, Layer, Run, Shape, component
from .linear import Linear
from .norms import Norm
from .positions import LearnedPositions, SinusoidalPositions

SEGMENT_MATCH = 2 / 3
"""Probability that two positions lie in the same of two segments, cut at a place drawn uniformly: E[u^2 + (1-u)^2]."""


@component
class Embedding(Layer):
    """A table with one trainable vector of `width` features for each of `rows` tokens, segments or positions."""

    rows: int
    width: int
    embedding = True

    def __post_init__(self) -> None:
        check_whole("Embedding", rows=self.rows, width=self.width)

    def tensors(self) -> dict[str, Shape]:
        return {"weight": (self.rows, self.width)}


@component
class TokenStem(Layer):
    """Token embedding, added positions and segments, then a norm and a projection to the stream's width where there are.

    The embedding may be narrower than the stream (`projection` widens it), which bounds its rank.
    """

    tokens: Embedding
    positions: LearnedPositions | SinusoidalPositions | None = None
    segments: Embedding | None = None
    norm: Norm | None = None
    projection: Linear | None = None
    scale: float = 1.0
    """What the token embedding is multiplied by (Gemma: the square root of the width)."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fraction("TokenStem", dropout=self.dropout)

    @property
    def width(self) -> int:
        """Features it hands to the first block."""
        return self.projection.outputs if self.projection else self.tokens.width

    @property
    def vocab(self) -> int:
        """Number of tokens it knows."""
        return self.tokens.rows

    def children(self) -> tuple[Child, ...]:
        parts = (
            ("tokens", self.tokens), ("positions", self.positions), ("segments", self.segments),
            ("norm", self.norm), ("projection", self.projection),
        )  # fmt: skip
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def embed(self, place: Place, identity: AnySignal, segment_match: float) -> tuple[Any, Pullback]:
        """The signal that goes into the first block.

        `identity` has second moment 1, and for covariance the probability that two positions hold the same token; two positions
        are of the same segment with the probability `segment_match`.
        """
        x = identity.times(self.scale**2 * place.at("tokens").variance("weight"))
        narrow = self.projection is not None and self.projection.inputs != self.projection.outputs
        if not (narrow and self._added_width == self.width):
            x = self._with_positions(x, identity, segment_match, place)
        if place.walk.finite_width:
            x = x.spread_as(Spread.of_gaussian(x, self.tokens.width))
        pulls: list[Pullback] = []
        if self.norm is not None:
            x, pull_norm = self.norm.moments(x, place.at("norm"))
            pulls.append(pull_norm)
        rate = self.dropout if place.walk.dropout else 0.0
        x = x.after_dropout(rate).spread_as(x.spread)
        if self.projection is not None:
            x, pull_projection = self.projection.moments(x, place.at("projection"))
            pulls.append(pull_projection)
            if narrow and self._added_width == self.width:
                x = self._with_positions(x, identity, segment_match, place)
            if place.walk.finite_width:
                x = x.spread_as(Spread.of_gaussian(x, min(self.projection.inputs, self.projection.outputs)))
        place.forward(x)

        def pull(g: AnySignal) -> AnySignal:
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g.after_dropout(rate)

        return x, place.traced(pull)

    @property
    def _added_width(self) -> int | None:
        """Features of the learned positions or segments; None where there are none."""
        tables = [part for part in (self.positions, self.segments) if isinstance(part, LearnedPositions | Embedding)]
        return tables[0].width if tables else None

    def _with_positions(self, x: AnySignal, identity: AnySignal, segment_match: float, place: Place) -> Any:
        """What positions and segments add; where they are as wide as the stream, behind the projection."""
        if isinstance(self.positions, LearnedPositions):
            x = x.plus(identity.times(place.at("positions").variance("weight"), 0.0))
        elif self.positions is not None:
            waves = _sinusoidal(self.tokens.width, identity, place.walk.length)
            x = x.plus(identity.of(0.5 * identity.second_moment, 0.5 * waves))
        if self.segments is not None:
            q, nothing = place.at("segments").variance("weight"), 0.0 * identity.covariance
            x = x.plus(identity.of(q * identity.second_moment, q * segment_match + nothing))
        return x

    def own_saved(self, run: Run) -> int:
        mask = run.positions * self.tokens.width if self.dropout else 0
        return mask + (run.positions * self.tokens.width * run.value_bytes if self.projection else 0)


def sinusoidal_correlation(width: int, distance: Any) -> Any:
    """Correlation of the sinusoidal vectors of two positions that are so far apart; a number or an array."""
    import numpy as np

    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.cos(np.multiply.outer(distance, frequencies)).mean(axis=-1)


def _sinusoidal(width: int, identity: AnySignal, length: int) -> Any:
    """That correlation for each pair of positions, or on average over all pairs of `length` positions."""
    import numpy as np

    if isinstance(identity, TokenSignal):
        return sinusoidal_correlation(width, np.maximum(1, identity.positions.distances))
    if length < 2:
        return 0.0
    distance = np.arange(1, length)
    pairs = length - distance
    return float(sinusoidal_correlation(width, distance) @ pairs / pairs.sum())


@component
class PatchStem(Layer):
    """An image cut into square patches, each mapped linearly to a token, with a class token and learned positions.

    Dosovitskiy et al. 2020, arXiv 2010.11929.
    """

    height: int
    width_pixels: int
    patch: int
    channels: int
    width: int
    class_token: bool = True
    bias: bool = True
    dropout: float = 0.0
    embedding = True

    def __post_init__(self) -> None:
        check_whole("PatchStem", height=self.height, width_pixels=self.width_pixels, patch=self.patch)
        check_whole("PatchStem", channels=self.channels, width=self.width)
        check_fraction("PatchStem", dropout=self.dropout)
        if self.patch > min(self.height, self.width_pixels):
            raise InputError(f"PatchStem: patch={shown(self.patch)} is larger than the image")

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return (self.height // self.patch) * (self.width_pixels // self.patch)

    @property
    def context(self) -> int:
        """Tokens of one image, the class token included."""
        return self.patches + self.class_token

    @property
    def vocab(self) -> int:
        """No tokens: images only."""
        return 0

    def embed(self, place: Place, identity: AnySignal, segment_match: float) -> tuple[Any, Pullback]:
        """The signal that goes into the first block: patches of unit variance, correlated as `identity` says, positions."""
        pixels = self.channels * self.patch**2
        x = identity.times(pixels * place.variance("patch.weight") + (place.variance("patch.bias") if self.bias else 0.0))
        x = x.plus(identity.times(place.variance("positions"), 0.0))
        spread = Spread.of_gaussian(x, self.width) if place.walk.finite_width else None
        rate = self.dropout if place.walk.dropout else 0.0
        place.forward(x := x.after_dropout(rate).spread_as(spread))
        return x, place.traced(lambda g: g.after_dropout(rate))

    def tensors(self) -> dict[str, Shape]:
        weights: dict[str, Shape] = {"patch.weight": (self.width, self.channels, self.patch, self.patch)}
        if self.bias:
            weights["patch.bias"] = (self.width,)
        if self.class_token:
            weights["class_token"] = (1, 1, self.width)
        return weights | {"positions": (1, self.context, self.width)}

    def own_flops(self, run: Run) -> int:
        return 2 * run.batch * self.patches * self.channels * self.patch**2 * self.width

    def own_saved(self, run: Run) -> int:
        pixels = run.batch * self.channels * self.height * self.width_pixels * run.value_bytes
        return pixels + (run.positions * self.width if self.dropout else 0)
