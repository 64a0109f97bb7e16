"""Speed of predictions for single components, after a warm-up call, compared in one run with the alternatives.

    python tests/benchmarks/components.py            # prints; --json for machines

- all 49,315 settings of the official component grids, with one vectorised call per component, against one simulation of the
  largest attention setting (tokens, scores, softmax, output; forward pass only); the grid has 26,244 attention settings;
- 1,000 two-point Gaussian expectations of activations without a closed form, all with different variances and correlations,
  against ``scipy.integrate.dblquad`` at 1e-7 (one is timed);
- the first such expectation in a new process, after its imports.

This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

FIRST = """
import time, numpy as np
from depthwidth import activation
start = time.perf_counter()
activation({name!r}).pair_moment(1.0, np.linspace(-1, 1, 100))
print(time.perf_counter() - start)
"""


def warm(call: Callable[[], object], repeats: int = 7) -> list[float]:
    """Seconds of each of several calls, after one call that is not timed."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def grids() -> dict[str, object]:
    """Times of all official grids and of one simulation of one setting."""
    from depthwidth.analysis.component_grid import GRIDS, count, predict_grid

    rng = np.random.default_rng(0)

    def one_draw() -> object:
        x = rng.standard_normal((1000, 1000)).astype(np.float32)
        q, k, v = (x @ rng.standard_normal((1000, 256)).astype(np.float32) / 31.6 for _ in range(3))
        scores = np.exp(q @ k.T / 16)
        return (scores / scores.sum(1, keepdims=True)) @ v

    ours = warm(lambda: [predict_grid(component) for component in GRIDS])
    return {
        "what": f"all {sum(map(count, GRIDS)):,} settings of the official grids",
        "milliseconds": milliseconds(ours),
        "beside": "one forward draw of the largest attention setting",
        "its milliseconds": milliseconds(warm(one_draw)),
    }


def expectations(name: str, quantity: str, pairs: int = 1000) -> dict[str, object]:
    """Many two-point expectations against adaptive quadrature, both variances and the correlation all different."""
    from scipy.integrate import dblquad

    from depthwidth import activation

    rng = np.random.default_rng(1)
    a, b = 10 ** rng.uniform(-2, 2, (2, pairs))
    rho = rng.uniform(-1, 1, pairs)
    f = activation(name)
    value = f if quantity == "pair_moment" else f.derivative

    def adaptive(i: int) -> float:
        own = math.sqrt(1 - rho[i] ** 2)

        def integrand(v: float, z: float) -> float:
            x, y = math.sqrt(a[i]) * z, math.sqrt(b[i]) * (rho[i] * z + own * v)
            return float(value(x) * value(y)) * math.exp(-(z * z + v * v) / 2) / (2 * math.pi)

        return dblquad(integrand, -8, 8, -8, 8, epsabs=1e-7, epsrel=1e-7)[0]

    start = time.perf_counter()
    theirs = [adaptive(0)]
    each = time.perf_counter() - start
    ours = warm(lambda: getattr(f, quantity)(a, rho, other_variance=b))
    found = getattr(f, quantity)(a, rho, other_variance=b)[:1]
    return {
        "what": f"{pairs} {quantity} of {name}, all variances and correlations different",
        "milliseconds": milliseconds(ours),
        "beside": "scipy.integrate.dblquad, as many",
        "its milliseconds": f"{1000 * each * pairs:.3g}",
        "largest difference": f"{max(abs(x - y) for x, y in zip(theirs, found.tolist(), strict=True)):.1g}",
    }


def first_use(name: str) -> dict[str, object]:
    """Time of the first expectation in a process, for 100 correlations at one variance."""
    command = [sys.executable, "-c", FIRST.format(name=name)]
    times = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(5)]  # noqa: S603
    return {"what": f"first use of {name} in a process, 100 correlations", "milliseconds": milliseconds(times)}


def milliseconds(times: list[float]) -> str:
    """Median and range."""
    low, middle, high = (1000 * t for t in (min(times), statistics.median(times), max(times)))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    rows = [grids()]
    rows += [expectations(name, q) for name in ("gelu_tanh", "silu", "tanh") for q in ("pair_moment", "derivative_pair_moment")]
    rows += [first_use(name) for name in ("gelu_tanh", "silu")]
    if parser.parse_args().json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    for row in rows:
        print("\n".join(f"{key}: {value}" for key, value in row.items()), end="\n\n")  # noqa: T201


if __name__ == "__main__":
    main()
