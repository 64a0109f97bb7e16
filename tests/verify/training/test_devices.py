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


@pytest.mark.parametrize("what", ["train", "ensemble", "probes"])
def test_a_training_stays_on_its_device(what):
    trees = ("learned", "rotary", "alibi", "relative")
    done = trained(what, *trees)
    assert (done.returncode, tuple(done.stdout.split())) == (0, trees), done.stderr


def test_a_tensor_of_the_host_is_caught():
    done = trained("stray", "rotary")
    assert (done.returncode, done.stdout) == (1, "")
    assert "two devices, claimed:0 and cpu" in done.stderr
