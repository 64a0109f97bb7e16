"""Speed of scoring shapes as arrays, against counting trees one by one.

    python tests/benchmarks/candidates.py            # prints seconds and the ratio

Both sides score the same shapes of Llama 3's architecture: loss, time of a step of generation, memory in generation and in
training. The trees are a sample of 40, scaled up. This script measures; nothing passes or fails.
"""

from __future__ import annotations

import time

import numpy as np

from depthwidth.hardware.accelerators import accelerator
from depthwidth.hardware.latency import decode_time, decode_work
from depthwidth.hardware.parallelism import cache_bytes, training_memory
from depthwidth.planning.candidates import Scorer, unbeaten
from depthwidth.planning.template import Template

SHAPES, SAMPLE = 10_000, 40


def arrays() -> float:
    """Seconds of processor time for all shapes, the polynomials and the front included."""
    start = time.process_time()
    scorer = Scorer(Template.of("llama3"), accelerator("H100"), 1e12)
    depth, width = np.meshgrid(np.arange(1, 101), 1024 * np.arange(1, 101))
    scores = scorer.score(depth.ravel(), width.ravel())
    unbeaten(scores.loss, scores.decode_seconds, scores.serving_memory)
    return time.process_time() - start


def trees() -> float:
    """Seconds of processor time for as many trees, from a sample."""
    template, device = Template.of("llama3", head_dim=128), accelerator("H100")
    start = time.process_time()
    for number in range(SAMPLE):
        tree = template.at(1 + number, 1024 * (1 + number % 20))
        decode_time(decode_work(tree), device)
        cache_bytes(tree)
        training_memory(tree)
    return (time.process_time() - start) * SHAPES / SAMPLE


if __name__ == "__main__":
    arrays(), trees()
    ours, theirs = min(arrays() for _ in range(5)), min(trees() for _ in range(3))
    print(f"{SHAPES:,} shapes as arrays: {ours:.3f} s of processor time")  # noqa: T201
    print(f"{SHAPES:,} trees, from {SAMPLE}: {theirs:.1f} s; ratio {theirs / ours:.0f}")  # noqa: T201
