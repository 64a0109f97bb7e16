"""What each number format can hold, against NumPy, torch and its own arithmetic."""

import numpy as np
import pytest

from depthwidth.errors import InputError
from depthwidth.number_formats import NUMBER_FORMATS, NumberFormat, number_format
from depthwidth.quantities import DTYPE_BITS


@pytest.mark.parametrize(("name", "dtype"), [("fp64", np.float64), ("fp32", np.float32), ("fp16", np.float16)])
def test_the_formats_of_numpy(name, dtype):
    ours, theirs = number_format(name), np.finfo(dtype)
    assert ours.largest == float(theirs.max)
    assert ours.smallest_normal == float(theirs.smallest_normal)
    assert ours.smallest == float(theirs.smallest_subnormal)
    assert 2 * ours.roundoff == float(theirs.eps)


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16"), ("e4m3", "float8_e4m3fn"), ("e5m2", "float8_e5m2")]
)
def test_the_formats_of_torch(name, dtype):
    torch = pytest.importorskip("torch")
    ours, kind = number_format(name), getattr(torch, dtype)
    theirs = torch.finfo(kind)
    assert (ours.largest, ours.smallest_normal, 2 * ours.roundoff) == (theirs.max, theirs.smallest_normal, theirs.eps)

    def kept(value):
        return float(torch.tensor(value, dtype=torch.float64).to(kind))

    assert kept(ours.smallest) == ours.smallest
    assert kept(0.49 * ours.smallest) == 0
    assert kept(1 + 0.99 * ours.roundoff) == 1
    assert kept(1 + 1.01 * ours.roundoff) == 1 + 2 * ours.roundoff


def test_the_rule_of_the_reserved_exponent_matters():
    """E4M3 by the rules of IEEE 754 would end at 240: a slip in the rule is seen."""
    assert NumberFormat("wrong", 4, 3, "all", "").largest == 240
    assert number_format("e4m3").largest == 448


def test_formats_have_the_bits_that_memory_is_counted_with():
    for name, made in NUMBER_FORMATS.items():
        bits = 1 + made.exponent_bits + made.mantissa_bits
        assert bits == {"e4m3": 8, "e5m2": 8, "tf32": 19}.get(name, DTYPE_BITS.get(name))


def test_an_unknown_format_gets_one_sentence():
    with pytest.raises(InputError, match=r"there is no floating-point format 'fp61'.*known are fp64, fp32"):
        number_format("fp61")
