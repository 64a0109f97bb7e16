"""Accelerators: memory, bandwidth, peaks and links, from ``data/reference/accelerators.csv`` or of one's own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..architecture.number_formats import bits_of
from ..coefficients import reference
from ..errors import InputError, nearest, shown
from ..values import frozen


@frozen
class Accelerator:
    """One device that computes, with the numbers of its data sheet; those of dense matrices.

    Raises
    ------
    InputError
        if a number is not positive, or below 1.
    """

    name: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes per second from its memory."""
    bf16: float
    """Operations per second in 16 bits."""
    fp8: float | None
    """Operations per second in 8 bits; None if it has no such units."""
    tf32: float
    """Operations per second on float32 numbers, rounded to TF32."""
    link: float
    """Bytes per second out of the device, to others of its group."""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("memory", "bandwidth", "bf16", "fp8", "tf32", "link"):
            value = getattr(self, name)
            if value is None:
                continue
            if not (isinstance(value, (int, float)) and 0 < value < math.inf):
                raise InputError(f"accelerator: {name}={shown(value)} is not a positive number")
            if value < 1:
                raise InputError(f"accelerator: {name}={shown(value)} is below 1, the least that leads to finite times")

    def peak(self, dtype: str) -> float:
        """Operations per second for weights in a number format; formats for weights only are computed in 16 bits."""
        if bits_of(dtype) >= 32:
            return self.tf32
        return self.bf16 if self.fp8 is None or dtype not in ("fp8", "e4m3", "e5m2") else self.fp8


def accelerators() -> dict[str, Accelerator]:
    """The known accelerators by name."""
    return {
        row["name"]: Accelerator(
            name=row["name"],
            memory=float(row["memory_gb"]) * 1e9,
            bandwidth=float(row["bandwidth_tb_s"]) * 1e12,
            bf16=float(row["bf16_tflops"]) * 1e12,
            fp8=float(row["fp8_tflops"]) * 1e12 if row["fp8_tflops"] else None,
            tf32=float(row["tf32_tflops"]) * 1e12,
            link=float(row["link_gb_s"]) * 1e9 / 2,  # data sheets print the sum of both directions
            source=row["source"],
        )
        for row in reference("accelerators")
    }


def accelerator(name: str, **changes: Any) -> Accelerator:
    """The accelerator with this name, with some of its numbers changed.

    Raises
    ------
    InputError
        if there is none, or a number is not positive.

    Examples
    --------
    >>> accelerator("h100").bandwidth, accelerator("H100", bandwidth=2e12).bandwidth
    (3350000000000.0, 2000000000000.0)
    """
    known = {found.lower(): one for found, one in accelerators().items()}
    if str(name).lower() not in known:
        names = ", ".join(one.name for one in known.values())
        raise InputError(f"there is no accelerator {shown(name)}{nearest(str(name).lower(), known)}; known are {names}")
    return replace(known[str(name).lower()], **changes)
