"""Number formats that networks are trained in: what they can hold, from their bits.

>>> number_format("fp16").largest, number_format("e4m3").largest
(65504.0, 448.0)
>>> number_format("bf16").roundoff
0.00390625
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import InputError, nearest, shown


class NumberFormat(NamedTuple):
    """A binary floating-point format with subnormal numbers."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    """Of the fraction; the leading one is not stored."""
    reserved: str
    """What the largest exponent is kept for: ``all`` of it for infinities and NaN (IEEE 754), only the pattern of ``one`` bits
    for NaN, or ``nothing``."""
    source: str

    @property
    def bias(self) -> int:
        """What is subtracted from a stored exponent."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        top = 2**self.exponent_bits - 1 - (self.reserved == "all")
        steps = 2 ** (self.mantissa_bits + 1) - 1 - (self.reserved == "one")
        return float(steps * 2.0 ** (top - self.bias - self.mantissa_bits))

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with all its bits of precision."""
        return float(2.0 ** (1 - self.bias))

    @property
    def smallest(self) -> float:
        """The smallest positive number; half of it and less is rounded to 0."""
        return self.smallest_normal * 2.0**-self.mantissa_bits

    @property
    def roundoff(self) -> float:
        """Largest relative error of rounding a normal number: half of the step behind 1."""
        return float(2.0 ** -(self.mantissa_bits + 1))


_IEEE = "IEEE 754-2019"
_FP8 = "Micikevicius et al. 2022, arXiv 2209.05433, table 1"

NUMBER_FORMATS = {
    made.name: made
    for made in (
        NumberFormat("fp64", 11, 52, "all", _IEEE),
        NumberFormat("fp32", 8, 23, "all", _IEEE),
        NumberFormat("tf32", 8, 10, "all", "NVIDIA A100 white paper (2020)"),
        NumberFormat("fp16", 5, 10, "all", _IEEE),
        NumberFormat("bf16", 8, 7, "all", "Kalamkar et al. 2019, arXiv 1905.12322"),
        NumberFormat("e4m3", 4, 3, "one", _FP8),
        NumberFormat("e5m2", 5, 2, "all", _FP8),
    )
}
"""By name."""


def number_format(name: str) -> NumberFormat:
    """The format called `name`.

    Raises
    ------
    InputError
        if there is none.
    """
    if name not in NUMBER_FORMATS:
        known = ", ".join(NUMBER_FORMATS)
        hint = nearest(str(name), NUMBER_FORMATS)
        raise InputError(f"there is no floating-point format {shown(name)}{hint}; known are {known}")
    return NUMBER_FORMATS[name]
