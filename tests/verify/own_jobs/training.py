"""A job for the tests: real trainings, as short as leaves the time to kill one half-way."""

from dataclasses import replace

from verify.jobs import Job, Run, Verdict
from verify.jobs._shapes import Budget, shape_run
from verify.jobs._training import TOGETHER, data_spec, measure_training

BUDGET = Budget(20, 8, 32, 1 << 17, 256, "float32", 2, 16)
SHAPES = ((1, 48), (2, 32))


def runs(size):
    """Two shapes, two seeds each. Few batches of evaluation: training is what is interrupted."""
    data = data_spec(BUDGET.limit, BUDGET.vocab)
    for depth, width in SHAPES:
        for seed in range(BUDGET.seeds):
            run: Run = shape_run(depth, width, BUDGET, data, seed, {})
            yield replace(run, spec={**run.spec, "training": {**run.spec["training"], "evaluate_batches": 4}})


def judge(rows, predictions):
    return Verdict("undecided", "nothing is claimed")


JOB = Job(
    name="training",
    question="Does a training end?",
    claim="It ends, and is bit for bit the same after a kill.",
    measured="The losses.",
    criterion="Compared in the test itself.",
    runs=runs,
    measure=measure_training,
    judge=judge,
    ensemble=TOGETHER,
)
