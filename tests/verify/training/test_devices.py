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


WAYS, TREES = ("ensemble", "probes"), ("learned", "rotary", "alibi", "relative")


@pytest.fixture(scope="module")
def done():
    """Each way of training, and a model with a fault, one after the other: a process takes longer to start than to train."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, str(SCRIPT), ",".join((*WAYS, "stray")), *TREES]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment)  # noqa: S603


def test_a_training_stays_on_its_device(done):
    """With probes it is `train` that runs, and all it does without them."""
    wanted = [f"{what} {tree}" for what in WAYS for tree in TREES]
    assert done.stdout.splitlines()[: len(wanted)] == wanted, done.stderr


def test_a_tensor_of_the_host_is_caught(done):
    """The last training ends the process."""
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == len(WAYS) * len(TREES)
    assert "two devices, claimed:0 and cpu" in done.stderr
