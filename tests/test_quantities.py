"""Sizes as people write them, in and out."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.errors import InputError
from depthwidth.quantities import format_bytes, format_count, parse_bytes, parse_count, parse_flops, unit_of


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1T", 10**12), ("1.3B", 1_300_000_000), ("350M", 350_000_000), ("7k", 7000), ("6.7e9", 6_700_000_000),
        ("2**20", 2**20), ("2 ^ 20", 2**20), ("1_000_000", 10**6), ("1,000", 1000), (" 12 ", 12), ("1.5e3K", 1_500_000),
        (".5M", 500_000), ("5.", 5), (7, 7), (2.5, Fraction(5, 2)), (Fraction(1, 3), Fraction(1, 3)), ("1E+3", 1000),
        ("0.1B", 10**8), ("1.3 B", 1_300_000_000), ("1e30", 10**30),
    ],
)  # fmt: skip
def test_counts_are_exact(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GB", 80 * 10**9),
        ("24GiB", 24 * 2**30),
        ("24 gib", 24 * 2**30),
        ("6.7e9", 6_700_000_000),
        ("1B", 1),
        ("80G", 80 * 10**9),
        ("16g", 16 * 10**9),
        ("2TB", 2 * 10**12),
    ],
)
def test_bytes_are_exact(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(("text", "unit"), [
    ("80G", "bytes"), ("80gb", "bytes"), ("24 GiB", "bytes"), ("1e22FLOPs", "flops"), ("1e22 flop", "flops"),
    ("7B", ""), ("1T", ""), ("350M", ""), ("6.7e9", ""), ("2**20", ""), (7e9, ""), (None, ""), ("x" * 1000, ""),
])  # fmt: skip
def test_units_that_only_bytes_or_operations_have(text, unit):
    assert unit_of(text) == unit


def test_operations_are_exact():
    assert parse_flops("1e22FLOPs") == parse_flops("1e22") == 10**22


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "B", "-1", "-1B", "0", "1.3X", "1..3B", "1,00", "1_0", "1e", "e9", "nan", "inf", "1e31", "10**40", "1 2",
        "1.3BB", "0x10", "1e999", "1" * 70, "٣", "½", "1\n2", None, True, [], {}, float("nan"), float("inf"), -3, 0, 1j, b"1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("parse", [parse_count, parse_bytes, parse_flops])
def test_anything_else_gets_one_sentence(parse, text):
    with pytest.raises(InputError) as caught:
        parse(text, "the budget")
    assert str(caught.value).startswith("the budget ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_unknown_suffix_is_named():
    with pytest.raises(InputError, match=r"unknown suffix 'Q'; known are K, M, B, T"):
        parse_count("1.3Q")


@given(st.integers(1, 10**30))
def test_integers_come_back(value):
    assert parse_count(str(value)) == value
    assert parse_count(f"{value:,}") == value
    assert parse_count(f"{value:_}") == value
    assert parse_bytes(value) == value


@given(st.text(max_size=80))
def test_any_text_is_a_size_or_a_sentence(text):
    try:
        count = parse_count(text)
    except InputError as error:
        sentence, count = str(error), 1
    else:
        sentence = ""
    assert count > 0
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (124_439_808, "124M"), (29657, "29.7K"), (1e12, "1T"), (999_999, "1M"), (999_499, "999K"), (1.3e9, "1.3B"), (7, "7"),
        (999, "999"), (999.9, "1K"), (1e15, "1000T"), (1.23456e16, "12346T"), (0, "0"), (0.5, "0.5"), (-1300, "-1.3K"),
    ],
)  # fmt: skip
def test_counts_as_text(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2.49e8, "249 MB"), (80e9, "80 GB"), (512, "512 B"), (1e3, "1 KB"), (3.2e12, "3.2 TB")]
)
def test_bytes_as_text(value, text):
    assert format_bytes(value) == text


def test_more_digits():
    assert format_count(124_439_808, digits=6) == "124.44M"


@given(st.floats(1, 9.9e14))
def test_formatted_counts_read_back_within_their_digits(value):
    assert float(parse_count(format_count(value))) == pytest.approx(value, rel=0.00501)
