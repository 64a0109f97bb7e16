"""Shapes of least loss at a fixed number of parameters, for loss laws with a power of the width and one of the depth."""

from __future__ import annotations

from typing import Any


# Loss laws that add a power of the width to a power of the depth, A w^-alpha + B d^-beta. At fixed N = c d w^2 the loss is
# stationary where alpha A w^-alpha = 2 beta B d^-beta: a power law between width and depth that contains neither N nor c.
def balanced_depth(w: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (2 * beta * B / (alpha * A) * w**alpha) ** (1 / beta)


def balanced_width(d: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (alpha * A / (2 * beta * B) * d**beta) ** (1 / alpha)


def optimal_width(n: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (alpha * A / (2 * beta * B) * n**beta) ** (1 / (alpha + 2 * beta))


def optimal_depth(n: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (2 * beta * B / (alpha * A) * n ** (alpha / 2)) ** (2 / (alpha + 2 * beta))
