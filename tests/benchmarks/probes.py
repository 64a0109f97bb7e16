"""Cost of a probe: the time of a training step with and without it, in one run.

    python tests/benchmarks/probes.py            # prints a table of ratios; --json for machines

Steps with and without the probe alternate (A B A B ..), so that changes in the speed of the machine affect both. In the row
``off`` the probe measures no steps, so no hooks are attached, and the ratio shows the noise. This script measures; nothing
passes or fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch

from depthwidth import Transformer
from verify import build, probe
from verify.measure.probes import ATTENTION, GRADIENTS, MOMENTS, RANKS, UPDATES, WEIGHTS

KINDS = {
    "off": MOMENTS, "moments": MOMENTS, "moments and gradients": MOMENTS + GRADIENTS, "attention": ATTENTION,
    "all of these": MOMENTS + GRADIENTS + ATTENTION, "ranks": RANKS, "weight ranks": WEIGHTS, "updates": UPDATES,
}  # fmt: skip


def once(step: Callable[[], None]) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tree = Transformer(given.depth, given.width, given.width // 64, vocab=1000, context=given.tokens)
    model = build(tree, seed=0, device=given.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(1000, (given.batch, given.tokens), device=given.device)

    def plain() -> None:
        optimizer.zero_grad()
        model(tokens, tokens)[1].backward()
        optimizer.step()

    rows = []
    for kind, quantities in KINDS.items():

        def probed(kind: str = kind, quantities: tuple[str, ...] = quantities) -> None:
            with probe(model, quantities, optimizer=optimizer, steps=() if kind == "off" else (0,)):
                plain()

        once(plain), once(probed)
        times = [(once(plain), once(probed)) for _ in range(given.repeats)]
        ratios = sorted(b / a for a, b in times)
        rows.append({
            "kind": kind, "plain_ms": 1e3 * statistics.median(a for a, _ in times),
            "probed_ms": 1e3 * statistics.median(b for _, b in times), "ratio": statistics.median(ratios),
            "ratio_low": ratios[0], "ratio_high": ratios[-1], "device": given.device,
        })  # fmt: skip
    if given.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for row in rows:
        times = "{kind:24} plain {plain_ms:8.1f} ms   probed {probed_ms:8.1f} ms".format(**row)
        sys.stdout.write(f"{times}   ratio {row['ratio']:5.2f} ({row['ratio_low']:.2f} .. {row['ratio_high']:.2f})\n")


if __name__ == "__main__":
    main()
