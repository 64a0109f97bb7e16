"""Speed of the calculator, compared in one run with the alternatives to it.

    python tests/benchmarks/calculator.py            # prints a table of ratios; --json for machines

There are three comparisons; both sides alternate (A B A B ..), so that changes in the speed of the machine affect both:

- ``depthwidth plan 1T`` as a whole process against ``python -c "import numpy, click"``;
- one million budgets through the closed-form inverse in one call against ``scipy.optimize.brentq`` for each budget, and against
  SciPy's own Lambert W in one call;
- the parameter count of a tree against building the same model on torch's meta device and summing (needs the ``hf`` extra).

This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

REPEATS = 9


def interleaved(a: Callable[[], object], b: Callable[[], object], repeats: int = REPEATS) -> tuple[list[float], list[float]]:
    """Seconds of `a` and of `b`, run in turn after one uncounted run of each."""
    a(), b()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, kept in ((a, times[0]), (b, times[1])):
            start = time.perf_counter()
            run()
            kept.append(time.perf_counter() - start)
    return times


def process(*command: str, environment: dict[str, str] | None = None) -> Callable[[], object]:
    """A function that runs a command to its end and discards its output.

    Compiled modules are kept, as those of an installed package are, whatever PYTHONDONTWRITEBYTECODE says.
    """
    given = os.environ if environment is None else environment
    kept = {name: value for name, value in given.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=kept)  # noqa: S603


def start_up() -> dict[str, object]:
    """The main job as a whole process."""
    ours = process(sys.executable, "-m", "depthwidth", "plan", "1T")
    bare = process(sys.executable, "-c", "import numpy, click")
    a, b = interleaved(ours, bare, repeats=15)
    return row("depthwidth plan 1T, whole process", a, "import numpy, click", b, faster=False)


def closed_form() -> list[dict[str, object]]:
    """A million budgets at once."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import lambertw

    from depthwidth.coefficients import coefficient
    from depthwidth.formulas.rules import levine_optimal_depth

    a, b = (coefficient("levine2020", name).value for name in "ab")
    budgets = np.geomspace(1e6, 1e15, 1_000_000)
    sample = budgets[::500]

    def root_finds() -> list[float]:
        # The equation in logarithms and plain floats, which is the fastest form for SciPy.
        log, found = math.log, []
        for n in sample.tolist():
            target = log(n / 12) - 2 * a
            found.append(brentq(lambda depth, t=target: log(depth) + 2 * b * depth - t, 1e-6, 1e3))
        return found

    ours, theirs = interleaved(lambda: levine_optimal_depth(budgets), root_finds)
    theirs = [seconds * len(budgets) / len(sample) for seconds in theirs]
    worst = float(np.max(np.abs(levine_optimal_depth(sample) / np.array(root_finds()) - 1)))
    one = row("closed form, 1e6 budgets", ours, "scipy.optimize.brentq for each (2,000 timed)", theirs)
    one["worst relative difference"] = worst

    def scipys() -> object:
        return lambertw(2 * b * budgets / (12 * math.exp(2 * a))).real / (2 * b)

    ours, theirs = interleaved(lambda: levine_optimal_depth(budgets), scipys)
    return [one, row("closed form, 1e6 budgets", ours, "scipy.special.lambertw in one call", theirs)]


def counting() -> list[dict[str, object]]:
    """Counting without building."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        return []
    from depthwidth import Design, Transformer
    from depthwidth.architecture.hf import read_design

    found = []
    for name, config in {
        "gpt2": {"model_type": "gpt2"},
        "llama 7B": {"model_type": "llama"},
        "mixtral 8x7B": {"model_type": "mixtral"},
    }.items():
        built = AutoConfig.for_model(**config)
        described = built.to_dict()

        def build(built: object = built) -> int:
            with torch.device("meta"):
                return sum(p.numel() for p in AutoModelForCausalLM.from_config(built).parameters())

        def read(described: dict[str, object] = described) -> int:
            return Transformer.from_config(described).parameters

        def count(design: Design = read_design(described)) -> int:  # noqa: B008
            return Transformer.of_design(design).parameters

        assert read() == count() == build()
        for what, ours_is in ((f"make the tree of {name} and count it", count), (f"the same from {name}'s config", read)):
            ours, theirs = interleaved(ours_is, build)
            found.append(row(what, ours, "build on torch's meta device and sum", theirs))
    return found


def row(ours: str, a: list[float], other: str, b: list[float], *, faster: bool = True) -> dict[str, object]:
    """Medians of the times, and the median of the ratios of pairs."""
    ratios = [y / x if faster else x / y for x, y in zip(a, b, strict=True)]
    return {
        "ours": ours,
        "seconds": statistics.median(a),
        "against": other,
        "its seconds": statistics.median(b),
        "ratio": f"{statistics.median(ratios):.3g}x {'faster' if faster else 'as long'}",
        "range": f"{min(ratios):.3g} to {max(ratios):.3g}",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    rows = [start_up(), *closed_form(), *counting()]
    if parser.parse_args().json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    for found in rows:
        lines = (f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}" for key, value in found.items())
        print("\n".join(lines), end="\n\n")  # noqa: T201


if __name__ == "__main__":
    main()
