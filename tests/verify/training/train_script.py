"""Train in separate processes: ``python train_script.py FOLDER``, or ``torchrun train_script.py FOLDER shared``.

Each line of the input, ``kill-at=STEP``, ``kill-in-write=N`` or ``whole``, is a training in a process of its own. It is forked
before anything was trained, so that torch is imported once. A line of output has its exit status, and what it found.
"""

import json
import os
import signal
import sys
import traceback
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


def trained(folder, how, probes=(), dropout=0.1):
    """Train, and return what the tests compare, as JSON."""
    match how.split("="):
        case ["kill-at", step]:
            probes = (killer(int(step)),)
        case ["kill-in-write", number]:
            kill_in_write(int(number))
        case ["shared"]:  # each process would draw other dropout masks
            dropout = 0.0
    outcome = run(folder, probes, dropout)
    threads = [Path(f"/proc/self/task/{one}/comm").read_text().strip() for one in os.listdir("/proc/self/task")]
    losses = [loss.hex() for loss in outcome.losses]
    return json.dumps({"losses": losses, "evaluations": outcome.evaluations, "threads": threads})


def in_a_process(folder, how):
    """Wait for a forked training; its exit status as `subprocess` has it, and its output."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, trained(folder, how).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as found:
        output = found.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *ways = sys.argv[1:]
    if ways == ["shared"]:
        found = trained(folder, "shared")
        if os.environ["RANK"] == "0":
            print(found)  # noqa: T201
    else:
        import torch._dynamo  # the first optimizer would import it, in each process

        for how in sys.stdin:
            print(json.dumps(in_a_process(folder, how.strip())), flush=True)  # noqa: T201
