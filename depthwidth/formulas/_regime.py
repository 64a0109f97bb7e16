"""The one check a formula body may make: a check that the arguments together lie in the range of the claim."""

from __future__ import annotations

from typing import Any

from ..errors import InputError


def require(holds: Any, sentence: str) -> None:
    """Refuse with `sentence` if `holds` is false for a number, or for any element of an array or tensor.

    A condition on symbols cannot be decided and passes.
    """
    if type(holds).__module__.partition(".")[0] == "sympy":
        decided_false = holds == False  # noqa: E712  (an undecided relation has no truth value)
    else:
        decided_false = not (holds.all() if hasattr(holds, "all") else holds)
    if decided_false:
        raise InputError(sentence)
