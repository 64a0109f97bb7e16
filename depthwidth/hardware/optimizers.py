"""Bytes that an optimiser keeps for each trained tensor, without a copy of the weights in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

BLOCK = 256
"""Values that share one scale in 8-bit states: the block of bitsandbytes; that of the paper is 2048."""
SMALLEST_QUANTISED = 4096
"""Values from which bitsandbytes keeps the states of a tensor in 8 bits; those of smaller ones stay in float32."""


class Optimizer(NamedTuple):
    """An optimiser: the bytes that it keeps, and the source."""

    words: str
    source: str
    state_bytes: Callable[[tuple[int, ...], bool], int]
    """Bytes for a tensor of a shape; the second argument says if it is a matrix inside a block."""


def _values(states: int) -> Callable[[tuple[int, ...], bool], int]:
    return lambda shape, _: 4 * states * math.prod(shape)


def _in_8_bits(shape: tuple[int, ...], _: bool) -> int:
    values = math.prod(shape)
    if values < SMALLEST_QUANTISED:
        return 8 * values
    return 2 * (values + 4 * -(-values // BLOCK))


def _factors(shape: tuple[int, ...], _: bool) -> int:
    if len(shape) < 2:
        return 4 * math.prod(shape)
    return 4 * math.prod(shape[:-2]) * (shape[-2] + shape[-1])


def _muon(shape: tuple[int, ...], hidden: bool) -> int:
    return (4 if hidden else 8) * math.prod(shape)


OPTIMIZERS = {
    "adamw": Optimizer("two averages", "Loshchilov and Hutter 2017, arXiv 1711.05101", _values(2)),
    "adamw-8bit": Optimizer("two averages in 8 bits", "Dettmers et al. 2021, arXiv 2110.02861", _in_8_bits),
    "adafactor": Optimizer("means of rows and columns, no momentum", "Shazeer and Stern 2018, arXiv 1804.04235", _factors),
    "muon": Optimizer("momentum of matrices in blocks, AdamW for all else", "Liu et al. 2025, arXiv 2502.16982", _muon),
    "momentum": Optimizer("one average", "Polyak 1964", _values(1)),
    "sgd": Optimizer("nothing", "Robbins and Monro 1951", _values(0)),
}
"""Every optimiser by name."""
