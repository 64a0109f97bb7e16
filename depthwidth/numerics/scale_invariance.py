r"""The clipped mean of squared gradient norms, which sets the norm of scale-invariant weights under relative clipping.

Clipping at ``sqrt(2 C lambda/eta) |x|`` cuts the squared gradient t, at weights of norm 1, to ``C mu`` if mu is
``(2 lambda/eta) |x|^4``. The norm is stationary, at weak decay, if the mean of the cut squares is mu: Li et al. 2022,
arXiv 2202.00980, Definition 4.6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ..errors import InputError


def clipped_mean(squares: Sequence[float], ratio: float) -> float:
    """The largest mu with E min(t, C mu) = mu, t drawn evenly from `squares`, in one pass over the sorted values.

    Given k values above C mu, the equation is linear: mu = (sum of the others)/(n - k C). It is solved with more and more
    values above until no other is. If at most a share 1/C of the squares is above 0, the only root is 0.

    Parameters
    ----------
    squares : squared gradient norms of samples at weights of norm 1, in any unit; not negative.
    ratio : C, above 1.

    Raises
    ------
    InputError
        if there are no squares, one is negative or not finite, or `ratio` is not above 1.

    >>> clipped_mean([1.0, 1.0, 1.0, 97.0], 2)
    1.5
    >>> clipped_mean([1.0, 2.0, 3.0], 2)
    2.0
    """
    if not len(squares):
        raise InputError("a clipped mean needs at least one squared gradient")
    if not ratio > 1 or math.isinf(ratio):
        raise InputError(f"the clipping constant {ratio} is not a number above 1")
    values = sorted(float(square) for square in squares)
    if not all(0 <= value < math.inf for value in values):
        raise InputError("squared gradients are finite numbers, not negative")
    sums, count = list(itertools.accumulate(values)), len(values)
    for cut in range(count):
        if cut * ratio >= count:
            break
        mean = sums[count - 1 - cut] / (count - cut * ratio)
        if ratio * mean >= values[count - 1 - cut]:
            return mean
    return 0.0


def clipped_share(squares: Sequence[float], ratio: float) -> float:
    """Share of the samples that are clipped at equilibrium: P(t > C mu).

    Parameters and errors are those of :func:`clipped_mean`.

    >>> clipped_share([1.0, 1.0, 1.0, 97.0], 2)
    0.25
    """
    bound = ratio * clipped_mean(squares, ratio)
    return sum(float(square) > bound for square in squares) / len(squares)
