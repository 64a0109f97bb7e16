"""All tensors of a training run are on its device. The check needs no GPU: it uses a simulated device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE
from torch.utils import backend_registration

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch takes no backend in Python",
    ),
]
SCRIPT = Path(__file__).parent / "claimed_device.py"


def trained(*words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(  # noqa: S603
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment
    )


def test_a_training_stays_on_its_device():
    """In each way of training, one after the other: a process takes longer to start than to train."""
    ways, trees = ("train", "ensemble", "probes"), ("learned", "rotary", "alibi", "relative")
    done = trained(",".join(ways), *trees)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{what} {tree}" for what in ways for tree in trees]


def test_a_tensor_of_the_host_is_caught():
    done = trained("stray", "rotary")
    assert (done.returncode, done.stdout) == (1, "")
    assert "two devices, claimed:0 and cpu" in done.stderr
