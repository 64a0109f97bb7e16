"""Range and precision of each number format, against NumPy, torch and its own arithmetic."""

import numpy as np
import pytest

from depthwidth.architecture.number_formats import (
    DTYPES,
    NUMBER_FORMATS,
    NumberFormat,
    bits_of,
    formats_of,
    judged_dtype,
    number_format,
)
from depthwidth.errors import InputError


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
    for name in NUMBER_FORMATS:
        its = number_format(name)
        # TF32 is what a unit keeps of a number that lies in memory as FP32.
        assert 1 + its.exponent_bits + its.mantissa_bits == (19 if name == "tf32" else bits_of(name))
    for name, dtype in DTYPES.items():
        if dtype.formats is not None and name != "tf32":
            assert {1 + its.exponent_bits + its.mantissa_bits for its in formats_of(name)} == {dtype.bits}


def test_every_floating_point_format_is_a_dtype_and_weights_alone_are_in_the_rest():
    assert set(NUMBER_FORMATS) == {name for name, dtype in DTYPES.items() if dtype.formats == (name, name)}
    assert {name: judged_dtype(name) for name in DTYPES if judged_dtype(name) != name} == dict.fromkeys(
        ("int8", "fp4", "int4"), "bf16"
    )
    assert [bits_of(name) for name in ("int8", "fp4", "int4")] == [8, 4, 4]
    with pytest.raises(InputError, match="int8 is a format for weights only; formats of activations and gradients are fp64"):
        formats_of("int8")
    with pytest.raises(InputError, match="did you mean 'bf16'"):
        bits_of("bf61")


def test_an_unknown_format_gets_one_sentence():
    with pytest.raises(InputError, match=r"there is no floating-point format 'fp61'.*known are fp64, fp32"):
        number_format("fp61")
