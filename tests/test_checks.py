"""Arguments that pass, and the sentence that those get which do not."""

import re
from pathlib import Path

import numpy as np
import pytest
import sympy

import depthwidth
from depthwidth.checks import LARGEST, check_choice, check_fraction, check_whole, whole
from depthwidth.errors import InputError


def refused(call):
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("value", [0, 8, True, 3.0, "3", None, float("nan"), np.float64(3.0), np.bool_(True)])
def test_what_is_no_whole_number_in_the_range_is_refused(value):
    for check in (lambda: whole("plan", "depth", value, 1, 7), lambda: check_whole("plan", 1, 7, depth=value)):
        assert refused(check) == f"plan: depth={value!r} is not a whole number from 1 to 7"


def test_whole_numbers_pass_up_to_both_ends():
    check_whole("plan", 1, 7, depth=1, width=7)
    assert (whole("plan", "depth", 1, 1, 7), whole("plan", "depth", 7, 1, 7)) == (1, 7)
    check_whole("plan", depth=LARGEST)
    assert refused(lambda: check_whole("plan", depth=LARGEST + 1)).endswith("from 1 to 1,000,000,000,000")


def test_numpys_whole_numbers_become_pythons_or_are_refused():
    """As a dimension one would wrap around in a count; as a length it is taken for what it is."""
    found = whole("overlap", "length", np.int64(2**40), 2, 2**40)
    assert type(found) is int
    assert found * found == 2**80
    assert "is not a whole number" in refused(lambda: check_whole("plan", width=np.int64(5)))


def test_symbols_are_dimensions_but_no_lengths():
    check_whole("plan", width=sympy.Symbol("d"))
    assert "length=d is not" in refused(lambda: whole("overlap", "length", sympy.Symbol("d")))


def test_choices_and_fractions():
    check_choice("norm", ("pre", "post"), placement="pre")
    assert refused(lambda: check_choice("norm", ("pre", "post"), placement="per")) == (
        "norm: placement='per' is not one of pre, post"
    )
    check_fraction("block", dropout=0)
    for value in (1, -0.1, True, "0.1"):
        assert (
            refused(lambda value=value: check_fraction("block", dropout=value)) == f"block: dropout={value!r} is not in [0, 1)"
        )


def test_the_sentence_is_written_once():
    """No other module raises it by hand; a sweep's array and a size in words are not such arguments."""
    written = re.compile(r"""raise .*is not a whole number""")
    folder = Path(depthwidth.__file__).parent
    found = [str(path.relative_to(folder)) for path in folder.rglob("*.py") if written.search(path.read_text(encoding="utf-8"))]
    assert sorted(found) == ["analysis/sweeps.py", "quantities.py"]
