r"""Alternating updates as matrices over streams: one step, its linear form, and the growth of the mixing along depth.

With ``Lay(z) = s z + f(z)`` a step is ``x' = R x + g f(x_j)`` and ``R = P + g (s e_j - P[j])``: a static hyper-connection that
reads stream j, writes with g, and mixes with R. Derivation: docs/derivations/altup.md, (U1) and (U2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..checks import check_choice, check_whole

SELECTIONS = ("alternating", "same")
"""The ways to choose the stream that a block reads: in turn, or always the first."""
Matrix = Sequence[Sequence[float]]


def active_stream(block: int, streams: int, select: str = "alternating") -> int:
    """The stream that block number `block` reads: block mod K, or always the first.

    Raises
    ------
    InputError
        if there is no such selection.

    >>> [active_stream(block, 3) for block in range(4)], active_stream(2, 3, "same")
    ([0, 1, 2, 0], 0)
    """
    check_whole("AltUp", streams=streams)
    check_choice("AltUp", SELECTIONS, select=select)
    return block % streams if select == "alternating" else 0


def predict_streams(matrix: Matrix, x: Sequence[Any]) -> list[Any]:
    """``P x``: every stream's prediction.

    >>> predict_streams([[0.9, 0.1], [0.2, 0.8]], [2.0, 5.0])
    [2.3, 4.4]
    """
    return [sum(p * one for p, one in zip(row, x, strict=True)) for row in matrix]


def altup_step(
    x: Sequence[Any], layer: Callable[[Any], Any], matrix: Matrix, correction: Sequence[float], active: int
) -> list[Any]:
    """The streams after one block: predict, compute on the active stream as it was, correct all.

    >>> altup_step([2.0, 5.0], lambda z: 3 * z + 1, [[0.9, 0.1], [0.2, 0.8]], [1.0, 0.5], 0)
    [7.0, 6.75]
    """
    guess = predict_streams(matrix, x)
    innovation = layer(x[active]) - guess[active]
    return [one + g * innovation for one, g in zip(guess, correction, strict=True)]


def sequence_step(
    x: Sequence[Any], layer: Callable[[list[Any]], Sequence[Any]], stride: int, own: float, base: float, correction: float
) -> list[Any]:
    """The tokens after a block on each `stride`-th of them: predict all, compute on these, correct all.

    >>> sequence_step([1, 2, 3, 4, 5, 6], lambda some: [2 * z + 1 for z in some], 4, 0.5, 0.5, 1.0)
    [3.0, 3.5, 4.0, 4.5, 11.0, 11.5]
    """
    check_whole("SequenceAltUp", stride=stride)
    computed = layer(list(x[::stride]))
    guess = [own * one + base * x[stride * (i // stride)] for i, one in enumerate(x)]
    return [one + correction * (computed[i // stride] - guess[stride * (i // stride)]) for i, one in enumerate(guess)]


def mixing(matrix: Matrix, correction: Sequence[float], active: int, skip: float = 1.0) -> list[list[float]]:
    """``R = P + g (s e_j - P[j])``, the part of a step that is linear in the streams; `skip` is the layer's own skip path.

    >>> mixing([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], 0)
    [[1.0, 0.0], [0.0, 1.0]]
    """
    change = [skip * (column == active) - p for column, p in enumerate(matrix[active])]
    return [[p + g * c for p, c in zip(row, change, strict=True)] for row, g in zip(matrix, correction, strict=True)]


def spectral_radius(mixings: Iterable[Matrix]) -> float:
    """Largest absolute eigenvalue of the product of all R, the first block's rightmost: the growth that no branch causes.

    >>> spectral_radius([[[1.0, 0.0], [0.0, 1.0]]] * 3)
    1.0
    """
    import numpy as np

    product = None
    for one in mixings:
        product = np.asarray(one, float) if product is None else np.asarray(one, float) @ product
    return 1.0 if product is None else float(abs(np.linalg.eigvals(product)).max())
