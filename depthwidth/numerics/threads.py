"""One thread for NumPy's linear algebra while small matrices are multiplied."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")
_LIBRARIES = ("numpy", "scipy.special", "scipy.linalg", "scipy.optimize", "torch")
"""Modules that bring a library for linear algebra with them."""

_CONTROLLERS: dict[tuple[bool, ...], Any] = {}


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the linear algebra of this process to one thread inside the block, unless the environment sets a number.

    The matrices of a pass of moments have a few hundred rows: on two cores, threads that wait for each other took 4 times the
    processor time of one thread, and 4 times as long. The limit before is restored at the end.
    """
    if any(os.environ.get(name) for name in _VARIABLES):
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


def _controller() -> Any:
    """The handle on the libraries that are loaded. Finding them takes 6 ms, so it is kept until more may be there."""
    from threadpoolctl import ThreadpoolController

    loaded = tuple(name in sys.modules for name in _LIBRARIES)
    if loaded not in _CONTROLLERS:
        _CONTROLLERS[loaded] = ThreadpoolController()
    return _CONTROLLERS[loaded]
