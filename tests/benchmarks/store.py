"""Time to store a thousand runs: planning, leasing and writing, status, report, export, import.

python tests/benchmarks/store.py
"""

import os
import tempfile
import time
from pathlib import Path

RUNS, ROWS = 1000, 14

JOB = f"""
from verify.jobs import Job, Prediction, Run, Verdict
def runs(size):
    for seed in range({RUNS}):
        yield Run({{"tree": {{"depth": 12, "width": 512, "heads": 8}}, "steps": 1000}}, seed, {{"depth": 12, "width": 512}},
                  (Prediction("loss", 3.0, "made.up", "1"),))
def judge(rows, predictions):
    return Verdict("holds", f"{{sum(row.value for row in rows):.3g}}")
JOB = Job("thousand", "?", ".", ".", ".", runs, lambda spec, context: (), judge)
"""


def main() -> None:
    """Measure and print."""
    from verify.jobs import Measurement
    from verify.runs.claims import Leases
    from verify.runs.driver import build_rows
    from verify.runs.executors import Task, TaskResult
    from verify.runs.plans import prepare
    from verify.runs.report import reports
    from verify.runs.status import status_table
    from verify.runs.store import Store
    from verify.runs.transfer import export_rows, import_rows

    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "jobs"
        own.mkdir()
        (own / "thousand.py").write_text(JOB)
        os.environ["DEPTHWIDTH_JOBS"] = str(own)
        store, other = Store(Path(folder) / "runs").open(), Store(Path(folder) / "other").open()

        def timed(name: str, function, *arguments):
            began, cpu = time.perf_counter(), time.process_time()
            found = function(*arguments)
            print(f"{name}: {time.perf_counter() - began:.2f} s, {time.process_time() - cpu:.2f} s of processor")  # noqa: T201
            return found

        (plan,) = timed("plan", prepare, store, ["thousand"], "tiny")
        losses = [Measurement("loss", 3.0), *(Measurement("validation_loss", 4.0, step=n) for n in range(ROWS - 1))]

        def keep() -> None:
            with Leases(store) as leases:
                for run in plan["runs"]:
                    leases.claim(run["run"])
                    task = Task("thousand", run["run"], plan["code"], run["spec"], run["seed"], "", "cpu")
                    store.publish(run["run"], build_rows(plan, run, TaskResult(task, tuple(losses))), leases[run["run"]])
                    leases.release(run["run"])

        timed(f"lease, write and give back {RUNS} runs", keep)
        timed("status", status_table, Store(store.root))
        timed("report", reports, Store(store.root))
        timed("export", export_rows, Store(store.root), Path(folder) / "rows.zip")
        timed("import", import_rows, other, Path(folder) / "rows.zip")


if __name__ == "__main__":
    main()
