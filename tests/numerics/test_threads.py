"""The limit on threads of linear algebra: set by the library's passes, restored, and not against the environment."""

import os
import subprocess
import sys

import pytest
from helpers import PATIENCE

from depthwidth.numerics.threads import _VARIABLES

SOURCE = """
import numpy
from threadpoolctl import threadpool_info
from depthwidth import Transformer, propagate
from depthwidth.layers import Attention

def threads():
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

seen, moments = [threads()], Attention.moments
def watched(self, x, site):
    seen.append(threads())
    return moments(self, x, site)
Attention.moments = watched
propagate(Transformer(depth=1, width=16, heads=2, vocab=9, context=4))
seen.append(threads())
print(*seen)
"""


def seen(**variables):
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES} | variables
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", SOURCE], capture_output=True, text=True, check=True, timeout=PATIENCE, env=environment
    )
    return list(map(int, done.stdout.split()))


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_a_pass_of_moments_runs_on_one_thread():
    many = seen()
    assert many[0] > 1
    assert many == [many[0], 1, many[0]]
    assert seen(OPENBLAS_NUM_THREADS="2") == [2] * 3
