"""Workers that die, stumble or are too many, on this machine and on a Ray cluster: no run is lost, none is doubled."""

import glob
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import PATIENCE

from depthwidth import InputError

pytest.importorskip("torch")

from verify.runs.claims import running
from verify.runs.driver import carry_out
from verify.runs.executors import LocalExecutor, Task, executor, processors
from verify.runs.plans import prepare
from verify.runs.store import Store

pytestmark = pytest.mark.slow

OWN = Path(__file__).parents[1] / "own_jobs"


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPTHWIDTH_JOBS", str(OWN))
    monkeypatch.setenv("WALK_MARK", str(tmp_path))
    monkeypatch.setenv("WALK_LOG", str(tmp_path / "log"))
    return Store(tmp_path / "runs").open()


def carried_out(store):
    """The seeds of runs that came to their end, as each of them noted."""
    return sorted((store.root.parent / "log").read_text().split())


def values(store):
    return sorted((rows[0].seed, [row.value for row in rows]) for rows in store.rows().values())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Rows of an undisturbed sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTHWIDTH_JOBS", str(OWN))
        store = Store(tmp_path_factory.mktemp("undisturbed")).open()
        carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(1))
    return values(store)


def test_two_workers_find_what_one_finds(store, expected):
    summary = carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(2))
    assert (summary.done, summary.status) == (3, 0)
    assert values(store) == expected
    assert carried_out(store) == ["0", "1", "2"]


def test_a_worker_that_is_killed_is_replaced_and_its_run_goes_on(store, expected, monkeypatch):
    monkeypatch.setenv("WALK_TROUBLE", "die 1")
    summary = carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(2))
    assert (store.root.parent / "died-1").exists()
    assert (summary.done, summary.failed) == (3, {})
    assert values(store) == expected
    assert carried_out(store) == ["0", "1", "2"]


def test_a_run_that_kills_every_worker_is_given_up_and_the_others_are_not(store, monkeypatch):
    monkeypatch.setenv("WALK_TROUBLE", "die always 1")
    summary = carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(1))
    assert (summary.done, summary.status) == (2, 3)
    (error,) = summary.failed.values()
    assert "ended with code -9, 3 times" in error
    assert carried_out(store) == ["0", "2"]
    (about,) = store.failures().values()
    assert about["deaths"] == 3


def test_a_run_that_stumbles_is_a_failure_and_is_not_tried_again_at_once(store, expected, monkeypatch):
    monkeypatch.setenv("WALK_TROUBLE", "raise 2")
    plans = prepare(store, ["walk"], "tiny")
    summary = carry_out(store, plans, LocalExecutor(1))
    (error,) = summary.failed.values()
    assert error.startswith("RuntimeError: the walker stumbled")
    assert "walk.py" in error
    assert (summary.done, summary.status) == (2, 3)
    monkeypatch.setenv("WALK_TROUBLE", "")
    summary = carry_out(store, plans, LocalExecutor(1))
    assert (summary.done, summary.before, summary.status) == (1, 2, 0)
    assert store.failures() == {}
    assert values(store) == expected


def test_a_disk_that_is_full_when_the_rows_come(store, expected, monkeypatch):
    from verify.runs import store as tables

    plans = prepare(store, ["walk"], "tiny")
    real, calls = tables.write_whole, []

    def full_once(path, data):
        if path.parent.name == "rows" and not calls:
            calls.append(path)
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(tables, "write_whole", full_once)
    summary = carry_out(store, plans, LocalExecutor(1))
    assert (summary.done, summary.status) == (2, 3)
    assert "No space left on device" in next(iter(summary.failed.values()))
    assert carry_out(store, plans, LocalExecutor(1)).done == 1
    assert values(store) == expected
    # The checkpoint was kept: the run that was done again only had to tell its end.
    assert len(carried_out(store)) == 4


def test_two_sweeps_at_once_share_the_runs(store, monkeypatch):
    monkeypatch.setenv("WALK_PAUSE", "0.01")
    options = ["--size", "small", "--workers", "1", "--device", "cpu"]  # named, so that no process loads torch to find out
    words = [sys.executable, "-m", "depthwidth", "verify", "run", "walk", *options]
    both = [subprocess.Popen([*words, "--out", str(store.root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
            for _ in range(2)]  # fmt: skip
    output, errors = zip(*(process.communicate() for process in both), strict=True)
    assert [process.returncode for process in both] == [0, 0], errors
    measured = [int(text.partition(" runs measured")[0]) for text in output]
    assert sum(measured) == 6
    assert carried_out(store) == list("012345")
    assert running(store) == {}


def test_a_worker_with_other_code_refuses(store):
    from verify.runs.executors import execute

    plan = prepare(store, ["walk"], "tiny")[0]
    run = plan["runs"][0]
    found = execute(Task("walk", run["run"], "0" * 16, run["spec"], run["seed"], str(store.work_folder(run["run"])), "cpu"))
    assert "another version of walk" in found.error


class Places(LocalExecutor):
    """Remembers how much was at work at once, without any process."""

    def most(self, sizes):
        from verify.runs.executors import _Queue

        crew, line, seen = [None] * self.workers, _Queue(iter([task(cpus) for cpus in sizes])), []
        while True:
            self._assign(crew, line)
            busy = [w.task.cpus for w in crew if w is not None and w.task is not None]
            if not busy:
                return seen
            seen.append(busy)
            next(w for w in crew if w is not None and w.task is not None).task = None

    def _start_worker(self, place):
        from types import SimpleNamespace

        from verify.runs.executors import _Worker

        return _Worker(SimpleNamespace(is_alive=lambda: True), SimpleNamespace(send=lambda _: None))


def task(cpus):
    return Task("walk", "0" * 16, "", {}, 0, "", "cpu", cpus)


def test_runs_that_need_several_processors_get_them():
    for sizes in ([1, 1, 1, 1], [2, 1, 2, 1], [4, 1, 1], [9, 1], [3, 3, 3], [0.5] * 6):
        seen = Places(4).most(sizes)
        assert all(sum(max(1, c) for c in busy) <= 4 or len(busy) == 1 for busy in seen), seen
        assert max(len(busy) for busy in seen) == min(4, len(sizes)) or max(sizes) > 1


def test_what_makes_no_executor():
    with pytest.raises(InputError, match="workers=0"):
        LocalExecutor(0)
    with pytest.raises(InputError, match="there is no executor 'slurm'"):
        executor("slurm")
    with pytest.raises(InputError, match="the local executor takes no address"):
        executor("local", address="auto")
    assert LocalExecutor().workers == processors()


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="no CUDA device"):
        LocalExecutor(device="cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    two = LocalExecutor(device="cuda")
    assert (two.workers, two.gpus) == (2, ["3", "5"])


# Runs that go together.


def together(store):
    """The seeds of runs that went together, as each such program noted."""
    noted = store.root.parent / "together"
    return noted.read_text().split() if noted.exists() else []


def test_runs_of_one_shape_go_together_and_find_what_each_finds_alone(store, expected):
    summary = carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(1), ensemble=2)
    assert (summary.done, summary.failed) == (3, {})
    assert together(store) == ["01"]  # the third is alone
    assert values(store) == expected
    assert os.listdir(store.root / "work") == []


def test_no_worker_is_left_without_a_run_for_the_sake_of_an_ensemble(store, expected):
    carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(3), ensemble=16)
    assert together(store) == []
    assert values(store) == expected


def test_a_worker_that_is_killed_with_several_runs_is_replaced_and_they_go_on(store, expected, monkeypatch):
    monkeypatch.setenv("WALK_TROUBLE", "die 1")
    summary = carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(1), ensemble=16)
    assert (store.root.parent / "died-1").exists()
    assert (summary.done, summary.failed) == (3, {})
    assert together(store) == ["012", "012"]
    assert values(store) == expected


def test_one_that_kills_every_worker_takes_those_beside_it_along(store, monkeypatch):
    monkeypatch.setenv("WALK_TROUBLE", "die always 1")
    summary = carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(1), ensemble=2)
    assert (summary.done, len(summary.failed)) == (1, 2)
    assert {about["deaths"] for about in store.failures().values()} == {3}
    monkeypatch.setenv("WALK_TROUBLE", "")
    assert carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(1)).done == 2


@pytest.mark.parametrize(("trouble", "failed"), [("raise together", 0), ("raise 1", 1)])
def test_what_fails_together_is_tried_one_by_one(store, expected, monkeypatch, trouble, failed):
    monkeypatch.setenv("WALK_TROUBLE", trouble)
    told = []
    summary = carry_out(store, prepare(store, ["walk"], "tiny"), LocalExecutor(1), tell=told.append, ensemble=16)
    assert (summary.done, len(summary.failed)) == (3 - failed, failed)
    assert values(store) == [value for value in expected if not failed or value[0] != 1]
    why = "MemoryError: too many walkers" if not failed else "RuntimeError: the walker stumbled"
    assert f"3 runs were measured one by one, because together they failed: {why}" in told


def test_an_ensemble_that_was_begun_is_finished_as_it_was_begun(store, expected, monkeypatch):
    """The rows of one of its members could not be written: its checkpoint is still that of all."""
    from verify.runs import store as tables

    real, calls = tables.write_whole, []

    def full_at_the_second(path, data):
        if path.parent.name == "rows":
            calls.append(path)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(tables, "write_whole", full_at_the_second)
    plans = prepare(store, ["walk"], "tiny")
    summary = carry_out(store, plans, LocalExecutor(1), ensemble=16)
    assert (summary.done, summary.status) == (2, 3)
    store.tidy()
    assert store.ensembles() == [[run["run"] for run in plans[0]["runs"]]]
    summary = carry_out(store, plans, LocalExecutor(1))
    assert (summary.done, summary.before, summary.status) == (1, 2, 0)
    assert together(store) == ["012", "012"]
    assert values(store) == expected
    assert (os.listdir(store.root / "work"), os.listdir(store.root / "leases")) == ([], [])


# Ray.


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes on this machine: a head that computes nothing, and two that do."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'depthwidth[ray]'")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    monkeypatch.setenv("WALK_PAUSE", "0.15")  # workers inherit it from the nodes
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.nodes = [made.add_node(num_cpus=1, object_store_memory=small["object_store_memory"]) for _ in range(2)]
    yield made
    made.shutdown()


def test_a_node_of_a_ray_cluster_dies_in_the_middle_of_a_sweep(store, expected, cluster):
    words = [sys.executable, "-m", "depthwidth", "verify", "run", "walk", "--out", str(store.root)]
    process = subprocess.Popen(  # noqa: S603
        [*words, "--executor", "ray", "--address", cluster.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + PATIENCE
    # Both nodes are at work, each a part of the way, when one of them dies.
    while len(glob.glob(str(store.root / "work" / "*" / "progress"))) < 2 and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    cluster.remove_node(cluster.nodes[1], allow_graceful=False)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "3 runs measured" in output
    assert values(store) == expected
    assert carried_out(store) == ["0", "1", "2"]
    assert os.listdir(store.root / "leases") == []


def test_no_cluster_at_an_address_is_one_sentence(invoke, store):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'depthwidth[ray]'")
    words = [sys.executable, "-m", "depthwidth", "verify", "run", "walk", "--out", str(store.root)]
    done = subprocess.run(  # noqa: S603
        [*words, "--executor", "ray", "--address", "auto"], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: there is no Ray cluster at 'auto'")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999999", "[::1]:9"])
def test_an_address_without_a_server_is_refused_at_once(address):
    """Ray itself tries for a quarter of an hour."""
    from verify.runs.executors import _check_listening

    with pytest.raises(InputError, match="there is no Ray cluster at"):
        _check_listening(address)


@pytest.mark.parametrize("address", [None, "auto", "local", "ray://", "host"])
def test_other_addresses_are_rays_to_judge(address, monkeypatch):
    from verify.runs.executors import _check_listening

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    _check_listening(address)


class FakeRay:
    """A cluster whose tasks end in the given errors, one after the other, and then succeed."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

        class NodeDiedError(RayError):
            pass

        class WorkerCrashedError(RayError):
            pass

    def __init__(self, errors):
        self.errors = list(errors)

    def init(self, **_):
        pass

    def remote(self, **_):
        return lambda function: self

    def options(self, **_):
        from types import SimpleNamespace

        self.given = getattr(self, "given", [])
        return SimpleNamespace(remote=lambda task: self.given.append(task) or len(self.given) - 1)

    def wait(self, flying, **_):
        return flying[:1], flying[1:]

    def get(self, reference):
        from verify.runs.executors import TaskResult

        if self.errors:
            raise self.errors.pop(0)("raylet died")
        return TaskResult(self.given[reference])

    def cancel(self, *_, **__):
        pass

    def shutdown(self):
        pass


DEATHS = [
    ("N" * 10, ""),
    ("N" * 12 + "WW", ""),
    ("N" * 15, "3 times"),
    ("WW", ""),
    ("WWW", "CrashedError: raylet died, 3 times"),
]


@pytest.mark.parametrize(("errors", "outcome"), DEATHS)
def test_a_task_of_a_lost_node_goes_elsewhere(errors, outcome):
    from verify.runs.executors import RayExecutor, Task

    kinds = {"N": FakeRay.exceptions.NodeDiedError, "W": FakeRay.exceptions.WorkerCrashedError}
    chosen = RayExecutor.__new__(RayExecutor)
    chosen.ray, chosen.address, chosen.workers, chosen.device = FakeRay(kinds[one] for one in errors), None, 1, "cpu"
    chosen.retries, chosen.pause, chosen._moves = 2, 0.0, {}
    (found,) = chosen.run(iter([Task("walk", "r", "c", {}, 0, "f", "cpu")]))
    assert outcome in found.error
    assert bool(outcome) == bool(found.error)
