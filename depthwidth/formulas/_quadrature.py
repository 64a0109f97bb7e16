"""Bodies of formulas that are integrals: the same function for numbers, arrays, tensors and multiple precision, in doubles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from ..mathematics import library_of


def in_doubles(name: str, function: Callable[..., Any], *values: Any, one_by_one: bool = False) -> Any:
    """`function` of the values as doubles, returned in the library they came from; one by one if it takes only numbers.

    Raises
    ------
    InputError
        for symbols: `name` has no closed form.
    """
    library = library_of(*values)
    if library == "sympy":
        raise InputError(f"{name} is an integral or a root without a closed form: give it numbers")
    if library == "math":
        return function(*values)
    import numpy as np

    plain = [np.asarray(v.detach().cpu() if hasattr(v, "detach") else v, dtype=float) for v in values]
    called = np.vectorize(function, otypes=[float]) if one_by_one else function
    result = called(*(v if v.ndim else float(v) for v in plain))
    if library == "torch":
        return sys.modules["torch"].as_tensor(np.asarray(result, dtype=float))
    if library == "mpmath":
        return sys.modules["mpmath"].mpf(float(result))
    return result
