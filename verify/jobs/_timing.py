"""Times of passes, shared by jobs on speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from statistics import mean, stdev
from typing import Any

from depthwidth.progress import announced

PASSES = ("forward", "training")
"""A forward pass without a gradient; forward and backward."""


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Processor time on a CPU, elapsed time on a GPU."""
    import torch

    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def times_in_turn(works: Mapping[str, Callable[[], Any]], repetitions: int, device: str) -> dict[str, list[float]]:
    """The times of several works, one after another in each repetition, so that a slow machine slows all of them.

    The first repetition, which allocates memory and compiles kernels, is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for repetition in announced("repetition", range(repetitions + 1)):
        for name, work in works.items():
            seconds = seconds_of(work, device)
            if repetition:
                times[name].append(seconds)
    return times


def ratio_of(times: Mapping[str, list[float]], one: str, other: str) -> tuple[float, float]:
    """The mean ratio of two works over repetitions, and its standard error."""
    ratios = [first / second for first, second in zip(times[one], times[other], strict=True)]
    return mean(ratios), stdev(ratios) / math.sqrt(len(ratios))
