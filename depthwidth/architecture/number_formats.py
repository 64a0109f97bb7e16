"""Number formats of training: their range and precision, from their bits.

>>> number_format("fp16").largest, number_format("e4m3").largest
(65504.0, 448.0)
>>> number_format("bf16").roundoff
0.00390625
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import InputError, nearest, shown


class NumberFormat(NamedTuple):
    """A binary floating-point format with subnormal numbers."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    """Bits of the fraction; the leading one is not stored."""
    reserved: str
    """The part of the largest exponent that is not for numbers: ``all`` for infinities and NaN (IEEE 754), ``one`` bit pattern
    for NaN, or ``nothing``."""
    source: str

    @property
    def bias(self) -> int:
        """The number subtracted from a stored exponent."""
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
        """The smallest positive number; half of it or less is rounded to 0."""
        return self.smallest_normal * 2.0**-self.mantissa_bits

    @property
    def roundoff(self) -> float:
        """Largest relative error of rounding a normal number: half of the step after 1."""
        return float(2.0 ** -(self.mantissa_bits + 1))


_IEEE = "IEEE 754-2019"
_FP8 = "Micikevicius et al. 2022, arXiv 2209.05433, table 1"

NUMBER_FORMATS = {
    entry.name: entry
    for entry in (
        NumberFormat("fp64", 11, 52, "all", _IEEE),
        NumberFormat("fp32", 8, 23, "all", _IEEE),
        NumberFormat("tf32", 8, 10, "all", "NVIDIA A100 white paper (2020)"),
        NumberFormat("fp16", 5, 10, "all", _IEEE),
        NumberFormat("bf16", 8, 7, "all", "Kalamkar et al. 2019, arXiv 1905.12322"),
        NumberFormat("e4m3", 4, 3, "one", _FP8),
        NumberFormat("e5m2", 5, 2, "all", _FP8),
    )
}
"""Every format by name."""


class Dtype(NamedTuple):
    """A ``dtype``: the memory of one value, and the formats of activations and gradients."""

    bits: int
    """Bits of memory per value; TF32 takes 32, as the FP32 numbers that it rounds."""
    formats: tuple[str, str] | None
    """Names in :data:`NUMBER_FORMATS`, of activations and of gradients; None if only weights are stored in it."""

    @classmethod
    def of(cls, name: str, bits: int) -> Dtype:
        """A dtype with one format for both activations and gradients."""
        return cls(bits, (name, name))


DTYPES = {
    "fp64": Dtype.of("fp64", 64),
    "fp32": Dtype.of("fp32", 32),
    "tf32": Dtype.of("tf32", 32),
    "fp16": Dtype.of("fp16", 16),
    "bf16": Dtype.of("bf16", 16),
    "fp8": Dtype(8, ("e4m3", "e5m2")),  # Micikevicius et al. 2022, section 3
    "e4m3": Dtype.of("e4m3", 8),
    "e5m2": Dtype.of("e5m2", 8),
    "int8": Dtype(8, None),
    "fp4": Dtype(4, None),
    "int4": Dtype(4, None),
}
"""Every name that a ``dtype`` may have."""

BESIDE_QUANTISED_WEIGHTS = "bf16"
"""The dtype of activations and gradients if only weights are stored in fewer bits."""


def number_format(name: str) -> NumberFormat:
    """The format with this name.

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


def bits_of(dtype: str) -> int:
    """Bits of memory per value of `dtype`.

    Raises
    ------
    InputError
        if the format is unknown.
    """
    return _dtype(dtype).bits


def judged_dtype(dtype: str) -> str:
    """The dtype of activations and gradients: `dtype`, or :data:`BESIDE_QUANTISED_WEIGHTS` if it is for weights only.

    >>> judged_dtype("fp8"), judged_dtype("int4")
    ('fp8', 'bf16')
    """
    return dtype if _dtype(dtype).formats is not None else BESIDE_QUANTISED_WEIGHTS


def formats_of(dtype: str) -> tuple[NumberFormat, NumberFormat]:
    """The formats of activations and of gradients.

    Raises
    ------
    InputError
        if the format is unknown, or for weights only.
    """
    formats = _dtype(dtype).formats
    if formats is None:
        able = ", ".join(name for name, known in DTYPES.items() if known.formats)
        raise InputError(f"{dtype} is a format for weights only; formats of activations and gradients are {able}")
    return number_format(formats[0]), number_format(formats[1])


def _dtype(name: str) -> Dtype:
    if name not in DTYPES:
        raise InputError(f"there is no number format {shown(name)}{nearest(str(name), DTYPES)}; known are {', '.join(DTYPES)}")
    return DTYPES[name]
