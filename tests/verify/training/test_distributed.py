"""Two processes under torchrun give the same losses as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import PATIENCE
from train_script import run

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def torchrun(folder, processes=2):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parents[2]}{os.pathsep}{HERE}"}
    script = [str(HERE / "train_script.py"), str(folder), "shared"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment)  # noqa: S603
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # A gloo thread that outlives the group aborts the process at exit, but rarely: so check for such threads directly.
    assert not [name for name in found["threads"] if "gloo" in name]
    return [float.fromhex(loss) for loss in found["losses"]], found["evaluations"]


def test_two_processes_have_the_losses_of_one(tmp_path):
    """Each process handles half of the same eight sequences, and gradients are averaged after the last micro-batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = run(tmp_path / "one", dropout=0.0)
        other_data = run(tmp_path / "other", dropout=0.0, data_seed=1)
    finally:
        torch.set_num_threads(threads)
    losses, evaluations = torchrun(tmp_path / "two")
    # Float32 sums differ in order; the difference grows over forty updates.
    assert losses == pytest.approx(one.losses, rel=2e-5)
    assert [loss for _, loss, _ in evaluations] == pytest.approx([loss for _, loss, _ in one.evaluations], rel=2e-5)
    assert losses != pytest.approx(other_data.losses, rel=2e-3)  # negative control: other windows give other losses
    assert len(list((tmp_path / "two").glob("step-*"))) == 2
    assert list(run(tmp_path / "two", dropout=0.0).losses) == losses  # a finished run is not repeated
