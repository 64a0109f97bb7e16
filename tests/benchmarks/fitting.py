"""Speed of a fit of the Gemstones law, compared in one run with searches by L-BFGS from a grid of starts.

    python tests/benchmarks/fitting.py RUNS.jsonl              # a table; --json for machines
    python tests/benchmarks/fitting.py RUNS.jsonl --starts 8   # more of the grid

RUNS are the published training runs of McLeish et al. 2025 (arXiv 2502.06857); the 770 rows with `step % 2385 == 0` are
those of the authors' fit. Their way is L-BFGS on the Huber loss (threshold 1e-4) of log-sum-exp terms, from 4.05 million
starts of a grid. A few of such starts are timed here, drawn from a box that holds such grids, with gradients by differences
as SciPy takes them without a derivative, and the objective in units of its threshold, so that L-BFGS does not stop at once. The
time of all is their mean times 4.05 million: an extrapolation. Both sides alternate in one process, and times are processor
times. This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from scipy.optimize import minimize

from depthwidth.fitting import find_law, fit, read_runs
from depthwidth.fitting.fit import minimum, objective_of, problem_of

GRID = 4_050_000
DELTA = 1e-4
PUBLISHED = 2.949708e-4
SUBSET = "step % 2385 == 0"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", help="the published training runs")
    parser.add_argument("--starts", type=int, default=4, help="starts of the grid that are timed")
    parser.add_argument("--draws", type=int, default=100, help="bootstrap fits of the whole verdict")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    law = find_law("gemstones")
    runs = read_runs(given.runs, law.needs, where=[SUBSET])
    logs = np.log(np.stack([runs[name] for name in ("width", "depth", "parameters", "tokens")]))
    target = np.log(runs["loss"])

    def objective(theta: np.ndarray) -> float:
        """The authors' objective of exponents, logarithms of factors, and that of the constant."""
        terms = np.vstack([theta[4:8, None] - theta[:4, None] * logs, np.full((1, logs.shape[1]), theta[8])])
        highest = terms.max(axis=0)
        size = np.abs(highest + np.log(np.exp(terms - highest).sum(axis=0)) - target)
        return float(np.where(size <= DELTA, size**2 / 2 / DELTA, size - DELTA / 2).sum())

    rng = np.random.default_rng(0)
    theirs, ends, ours, found = [], [], [], []
    for number in range(given.starts):
        start = np.concatenate([rng.uniform(0, 2, 4), rng.uniform(0, 25, 4), rng.uniform(-1, 1, 1)])
        begin = time.process_time()
        end = minimize(objective, start, method="L-BFGS-B", options={"maxiter": 15_000, "maxfun": 10**6})
        theirs.append(time.process_time() - begin)
        ends.append(float(end.fun) * DELTA)
        if number < 3:
            begin = time.process_time()
            problem, _ = problem_of(runs, law, objective_of(law, None, DELTA, True))
            theta, _, _ = minimum(problem, law, 24, np.random.default_rng(number), ())
            ours.append(time.process_time() - begin)
            found.append(problem.value(theta))
    begin = time.process_time()
    whole = fit(given.runs, "gemstones", where=SUBSET, draws=given.draws)
    verdict = time.process_time() - begin
    result = {
        "ours_seconds": float(np.median(ours)), "ours_objective": max(found), "verdict_seconds": verdict,
        "verdict_objective": whole.objective, "start_seconds": float(np.mean(theirs)), "start_objectives": ends,
        "published_objective": PUBLISHED, "grid_seconds": float(np.mean(theirs)) * GRID,
        "ratio": float(np.mean(theirs)) * GRID / float(np.median(ours)),
        "ratio_with_verdict": float(np.mean(theirs)) * GRID / verdict,
    }  # fmt: skip
    if given.json:
        print(json.dumps(result, indent=2))  # noqa: T201
        return
    for name, value in result.items():
        shown = ", ".join(f"{one:.6g}" for one in value) if isinstance(value, list) else f"{value:.6g}"
        print(f"{name:<22}{shown}")  # noqa: T201


if __name__ == "__main__":
    main()
