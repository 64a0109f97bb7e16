"""Speed of softmax saturation, compared in one run with the alternatives to it.

    python tests/benchmarks/heads.py                 # --json for machines
    python tests/benchmarks/heads.py --peer theory_update_general.py

- Two-point Gaussian expectations E f(x) f(y) of tanh, which the rank-collapse recursion of Giorlandino and Goldt needs: a
  thousand in one call, against adaptive double quadrature (``scipy.integrate.dblquad`` over +-10 standard deviations, as in
  their code) or, with ``--peer``, against their own module, which is not included here.
- The entropy and the effective tokens at one logit scale and length, against a Monte Carlo estimate from 1,000 rows; and a
  200 x 200 diagram of both, against one call per point.

This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EXPECTATIONS = 1000
COMPARED = ((1.0, 0.5), (1.0, 0.95), (2.0, -0.6))


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of several runs, after one run that is not timed."""
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def adaptive(variance: float, correlation: float) -> float:
    """E tanh(x) tanh(y) by adaptive double quadrature."""
    from scipy.integrate import dblquad
    from scipy.stats import norm

    spread, a = math.sqrt(1 - correlation**2), math.sqrt(variance)

    def integrand(z: float, w: float) -> float:
        return float(np.tanh(a * w) * np.tanh(a * (correlation * w + spread * z)) * norm.pdf(z) * norm.pdf(w))

    return float(dblquad(integrand, -10, 10, -10, 10)[0])


def peers(path: Path) -> Callable[[float, float], float]:
    """The authors' function, loaded from their file."""
    spec = importlib.util.spec_from_file_location("peer", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python file")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda variance, correlation: float(module.compute_p(variance, correlation * variance, 0.0, 1.0))


def two_points(slow: Callable[[float, float], float], name: str) -> dict[str, object]:
    """Times of a thousand expectations in one call and of three by quadrature."""
    from depthwidth import activation

    f = activation("tanh")
    generator = np.random.default_rng(1)
    variance, correlation = generator.uniform(0.1, 3, EXPECTATIONS), generator.uniform(-0.95, 0.95, EXPECTATIONS)
    ours, theirs, gap = [], [], 0.0
    for pair in COMPARED:
        ours.append(seconds(lambda: f.pair_moment(variance, correlation), 3) / EXPECTATIONS)
        start = time.perf_counter()
        value = slow(*pair)
        theirs.append(time.perf_counter() - start)
        gap = max(gap, abs(value - float(f.pair_moment(*pair))))
    one = seconds(lambda: f.pair_moment(*COMPARED[0]), 20)
    return {
        "what": f"E tanh(x) tanh(y), {EXPECTATIONS} in one call",
        "seconds_each": min(ours),
        "beside": name,
        "beside_seconds_each": min(theirs),
        "ratio": min(theirs) / min(ours),
        "ratio_of_a_single_call": min(theirs) / one,
        "largest_difference": gap,
    }


def entropies() -> list[dict[str, object]]:
    """Times of one entropy and of a diagram."""
    from depthwidth.analysis.concentration import phase_diagram
    from depthwidth.formulas import saturation

    def drawn() -> float:
        logits = 2.0 * np.random.default_rng(0).standard_normal((1000, 1024))
        p = np.exp(logits)
        p /= p.sum(1, keepdims=True)
        return float(-(p * np.log(p)).sum(1).mean())

    one = seconds(lambda: saturation.entropy(4.0, 1024), 50)
    lengths = np.unique(np.round(np.geomspace(2, 131072, 260)))[:200]
    scales = np.linspace(0.02, 10, 200)
    whole = seconds(lambda: phase_diagram(scales, lengths), 3)
    return [
        {
            "what": "entropy at sigma = 2, n = 1024", "seconds_each": one,
            "beside": "1,000 drawn rows, to 0.3 %", "beside_seconds_each": (slow := seconds(drawn, 3)), "ratio": slow / one,
            "largest_difference": abs(drawn() - saturation.entropy(4.0, 1024)),
        },
        {
            "what": "effective tokens at sigma = 3, n = 131072",
            "seconds_each": seconds(lambda: saturation.effective_tokens(9.0, 131072), 50),
        },
        {
            "what": "diagram of 200 scales x 200 lengths, entropy and effective tokens", "seconds_each": whole,
            "beside": "40,000 single entropies", "beside_seconds_each": 40_000 * one, "ratio": 40_000 * one / whole,
        },
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", type=Path, help="the authors' theory_update_general.py")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    slow, name = (
        (adaptive, "adaptive double quadrature") if options.peer is None else (peers(options.peer), "the authors' code")
    )
    rows = [two_points(slow, name), *entropies()]
    if options.json:
        json.dump(rows, sys.stdout, indent=2)
        return
    for row in rows:
        line = f"{row['what']}: {row['seconds_each']:.3g} s each"
        if "beside" in row:
            line += f"; {row['beside']}: {row['beside_seconds_each']:.3g} s, {row['ratio']:,.0f} times"
        if "largest_difference" in row:
            line += f"; largest difference {row['largest_difference']:.1e}"
        if "ratio_of_a_single_call" in row:
            line += f"; one call for one expectation {row['ratio_of_a_single_call']:,.0f} times"
        print(line)  # noqa: T201


if __name__ == "__main__":
    main()
