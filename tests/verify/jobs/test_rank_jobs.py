"""The jobs on ranks at their smallest size, and their verdicts on made rows."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from verify.jobs import Context, find_job  # noqa: E402
from verify.jobs.head_rank import NEAR, WITHIN  # noqa: E402
from verify.jobs.implicit_rank import DIAGONAL, ENOUGH, FEW, descent, sensing  # noqa: E402
from verify.rows import Row  # noqa: E402
from verify.runs.plans import make_plan  # noqa: E402


@pytest.mark.parametrize("kind", ["gaussian", "completion", "diagonal"])
def test_measurements_are_symmetric_and_of_a_matrix_of_low_rank(kind):
    measurements, values = sensing(kind, 8, 2, 12, seed=3)
    assert measurements.shape == (12, 8, 8)
    assert (measurements == measurements.transpose(0, 2, 1)).all()
    if kind == "completion":
        assert ((measurements != 0).sum((1, 2)) <= 2).all()
        assert len({one.tobytes() for one in measurements}) == 12
    if kind == "diagonal":
        assert (measurements @ measurements[::-1] == (measurements[::-1] @ measurements)).all()
    again = sensing(kind, 8, 2, 12, seed=3)
    assert (again[0] == measurements).all()
    assert (again[1] == values).all()


def test_descent_fits_and_a_large_start_stays_large():
    measurements, values = sensing("gaussian", 6, 1, 6, seed=0)
    small, large = (descent(measurements, values, scale, 5000) for scale in (0.1, 1.0))
    for found in (small, large):
        assert np.linalg.norm(measurements.reshape(6, -1) @ found.ravel() - values) < 1e-2 * np.linalg.norm(values)
        assert np.linalg.eigvalsh(found)[0] > -1e-12
    assert np.trace(large) > 2 * np.trace(small)


def sensing_rows(gap, few_gap, few_rank, trace):
    rows = []
    for seed in range(2):
        for problem in (*ENOUGH, *FEW):
            few = problem in FEW
            for scale in (1e-2, 1e-3, 1e-4):
                value = (few_gap if scale < 1e-3 else 0.02 + 0.001 * seed) if few else gap
                rows.append((problem, f"start {scale:g}", "gap", value + 1e-6 * seed, seed))
            rows += [
                (problem, "start 0.0001", "effective_rank", few_rank, seed),
                (problem, "least", "effective_rank", 3.0, seed),
            ]
        rows.append((DIAGONAL, "start 0.01", "nuclear_norm", trace, seed))
    return [
        Row(site=site, quantity=quantity, value=value, seed=seed, labels={"problem": problem.name},
            predicted=1.0 if problem is DIAGONAL else None)
        for problem, site, quantity, value, seed in rows
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "outcome", "failed"),
    [
        ((1e-4, 0.05, 2.0, 1.001), "holds", 0),
        ((1e-2, 0.05, 2.0, 1.001), "holds on a range", 4),  # two scales of two problems
        ((1e-4, 0.01, 2.0, 1.001), "holds on a range", 2),
        ((1e-4, 0.05, 4.0, 1.001), "holds on a range", 2),
        ((1e-4, 0.05, 2.0, 1.1), "holds on a range", 1),
        ((1e-2, 0.01, 4.0, 1.1), "fails", 9),
    ],
)
def test_sensing_is_judged_by_its_criterion(given, outcome, failed):
    verdict = find_job("implicit-rank").judge(sensing_rows(*given), ())
    assert (verdict.outcome, sum(line.passes is False for line in verdict.comparisons)) == (outcome, failed)


def rank_rows(optimizer, measured, certified, misalignment):
    labels = {"optimizer": optimizer, "head_dim": 16, "decay": 0.01, "steps": 100}
    values = {"numerical_rank": measured, "certified_rank": certified, "misalignment": misalignment, "effective_rank": 3.0}
    return [
        Row(site=f"query-key {head}", quantity=name, value=value, seed=0, labels=labels)
        for head in range(2)
        for name, value in values.items()
    ]


@pytest.mark.parametrize(
    ("given", "outcome", "passes"),
    [
        (("adam", 5, 5 + WITHIN, NEAR), "holds", True),
        (("sgd", 5, 5 + WITHIN + 1, NEAR), "fails", False),
        (("sgd", 5, 5, 2 * NEAR), "undecided", None),
        (("adamw", 12, 0, 0.01), "undecided", None),
    ],
)
def test_ranks_are_judged_near_a_minimum_of_coupled_decay(given, outcome, passes):
    verdict = find_job("head-rank").judge(rank_rows(*given), ())
    assert (verdict.outcome, [line.passes for line in verdict.comparisons]) == (outcome, [passes])


@pytest.mark.slow
def test_the_jobs_measure_what_they_say(tmp_path):
    found = {}
    for name in ("implicit-rank", "head-rank"):
        job, plan = find_job(name), make_plan(find_job(name), "tiny")
        for number, run in enumerate(plan["runs"]):
            rows = list(job.measure(run["spec"], Context("cpu", tmp_path / f"{name}{number}", run["seed"])))
            assert all(np.isfinite(row.value) for row in rows)
            for row in rows:
                found.setdefault((name, row.quantity), []).append(row.value)
    assert min(found["implicit-rank", "gap"]) > -0.05  # a start of 0.001 has not always fitted yet
    assert max(found["implicit-rank", "effective_rank"]) <= 12
    assert set(found["head-rank", "numerical_rank"]) <= {0, 1, 2, 3, 4}
    assert len(found["head-rank", "misalignment"]) == 5 * 4
