"""A command of the calculator runs on one thread: threads of the linear algebra library would mostly wait for each other."""

import os
import subprocess
import sys

import pytest
from helpers import PATIENCE

SOURCE = """
import os, sys
from depthwidth.__main__ import main
try:
    main()
except SystemExit:
    pass
import numpy
numpy.ones((512, 512)) @ numpy.ones((512, 512))
print("threads", len(os.listdir("/proc/self/task")))
"""


def threads(*arguments, **variables):
    """Threads of a process that ran a command and then multiplied two matrices with NumPy."""
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in limits} | variables
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", SOURCE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
        env=environment,
    )
    return int(done.stdout.rpartition("threads ")[2])


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task") or (os.cpu_count() or 1) < 2, reason="needs Linux and two cores")
def test_numpy_has_one_thread_unless_the_environment_says_otherwise():
    assert threads("formulas", "--help") == 1
    assert threads("formulas", "--help", OPENBLAS_NUM_THREADS="2") == 2
    assert threads("verify", "capacity", "--help") > 1
    assert threads("verify", "fit", "--help") == 1
