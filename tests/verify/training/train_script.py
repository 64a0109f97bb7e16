"""Train in a separate process: python train_script.py FOLDER [kill-at STEP | kill-in-write N | shared]."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from small_gpt import SmallGPT

from verify.training.corpus import zipf_markov
from verify.training.train import Training, train

TRAINING = Training(
    steps=40, batch=8, context=16, micro_batch=4, warmup=5, learning_rate=3e-3, evaluate_every=10, evaluate_batches=2, seed=1
)


def model(dropout=0.1):
    return SmallGPT(dropout=dropout)


def corpus():
    return zipf_markov(5000, vocab=32)


def run(folder, probes=(), dropout=0.1, **changes):
    training = replace(TRAINING, **changes)
    return train(
        model(dropout), corpus(), training, folder=folder, checkpoint_every=7, probes=probes, device="cpu", progress=False
    )


def killer(at):
    def probe(_, step, optimizer):
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return probe


def kill_in_write(number):
    """Kill the process while it writes checkpoint `number`: the temporary file is written but not yet renamed."""

    calls, flush = 0, os.fsync

    def fsync(handle):
        nonlocal calls
        calls += 1
        if calls > 2 * (number - 1):  # each checkpoint flushes its file and its folder
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    os.fsync = fsync


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, probes, dropout = sys.argv[1], (), 0.1
    match sys.argv[2:]:
        case ["kill-at", step]:
            probes = (killer(int(step)),)
        case ["kill-in-write", number]:
            kill_in_write(int(number))
        case ["shared"]:  # several processes under torchrun; each would draw other dropout masks
            dropout = 0.0
    outcome = run(folder, probes, dropout)
    if os.environ.get("RANK", "0") == "0":
        threads = [Path(f"/proc/self/task/{one}/comm").read_text().strip() for one in os.listdir("/proc/self/task")]
        losses = [loss.hex() for loss in outcome.losses]
        print(json.dumps({"losses": losses, "evaluations": outcome.evaluations, "threads": threads}))  # noqa: T201
