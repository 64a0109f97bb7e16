"""Differences between the losses of an ensemble and of the same models trained one by one, compared with chaos in training.

    python tests/benchmarks/agreement.py            # prints a table; --json for machines

For each learning rate it prints the largest difference of a loss, in nats per token, over all members and up to a number of
updates: for ``batched``, for ``loop``, and for single runs in which a random half of the initial weights was multiplied by
1 + 2**-23, one unit in the last place. If the last difference grows, training is chaotic, and losses are equal only if all sums
have the same order.
This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch

from depthwidth import Transformer
from verify import build
from verify.training.corpus import python_sources
from verify.training.ensemble import train_ensemble
from verify.training.train import Outcome, Training, train


def perturb(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Change a random half of a model's weights by one unit in the last place, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 2.0**-23 * torch.randint(2, weight.shape, generator=generator))
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--until", type=int, nargs="+", default=[30, 100], help="updates up to which the largest is printed")
    for name, value in {"members": 4, "depth": 2, "width": 32, "heads": 4, "context": 32, "batch": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tree = Transformer(given.depth, given.width, given.heads, vocab=256, context=given.context)
    corpus = python_sources(1 << 20)
    shape = {"steps": max(given.until), "batch": given.batch, "context": given.context, "evaluate_batches": 0}
    rows = []
    for rate in given.rates:
        trainings = [Training(**shape, learning_rate=rate, data_seed=i) for i in range(given.members)]

        def models() -> list[torch.nn.Module]:
            return [build(tree, seed=i) for i in range(given.members)]

        def alone(some: list[torch.nn.Module], each: list[Training] = trainings) -> list[Outcome]:
            return [train(model, corpus, one, device=given.device) for model, one in zip(some, each, strict=True)]

        expected = torch.tensor([one.losses for one in alone(models())], dtype=torch.float64)
        ways = {
            mode: train_ensemble(models(), corpus, trainings, mode=mode, device=given.device) for mode in ("batched", "loop")
        }
        ways["alone, perturbed"] = alone([perturb(model, i) for i, model in enumerate(models())])
        for way, outcomes in ways.items():
            off = (torch.tensor([one.losses for one in outcomes], dtype=torch.float64) - expected).abs()
            rows.append({"rate": rate, "way": way, **{f"until {n}": float(off[:, :n].max()) for n in given.until}})
    if given.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    for row in rows:
        far = "   ".join(f"until {n}: {row[f'until {n}']:.1e}" for n in given.until)
        sys.stdout.write(f"rate {row['rate']:g}   {row['way']:<18}{far}\n")


if __name__ == "__main__":
    main()
