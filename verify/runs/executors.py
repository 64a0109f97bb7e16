"""Executors carry out runs: processes on this machine, or a Ray cluster. One interface, two implementations.

An executor takes tasks as it has room for them and yields a result for each, in the order they finish. It never writes rows:
the process that holds the leases does. A worker that dies (killed, out of memory, its machine gone) is replaced and its task
given to another, which continues from the run's last checkpoint; an error that the run itself raises is a result like any
other, and is not tried again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from depthwidth.checks import ceiling, check_whole
from depthwidth.errors import InputError, shown
from depthwidth.progress import current_progress

from ..jobs import JOBS_VARIABLE, Context, Job, Measurement, find_job

RETRIES = 2
"""Number of times that a task is given to another worker after one died with it."""


@dataclass(frozen=True)
class Task:
    """A run as a worker receives it."""

    job: str
    run: str
    code: str
    """Digest of the code that the plan was made with; a worker with other code refuses the task."""
    spec: Mapping[str, Any]
    seed: int
    folder: str
    device: str
    cpus: float = 1.0
    gpus: float = 0.0
    deaths: int = 0
    """Number of workers that have died with it."""
    beside: tuple[Task, ...] = ()
    """Other runs of the job, carried out in one program with this one."""
    together: str = ""
    """The folder of that program's checkpoints."""

    @property
    def runs(self) -> tuple[Task, ...]:
        """The task's runs, each as a separate task."""
        return (replace(self, beside=(), together=""), *self.beside)


@dataclass(frozen=True)
class TaskResult:
    """The result of a task: measurements, or an error."""

    task: Task
    measurements: tuple[Measurement, ...] = ()
    error: str = ""
    wall_s: float = 0.0
    torch: str = ""
    device: str = ""
    host: str = ""
    beside: tuple[TaskResult, ...] = ()
    """The results of the runs beside it."""
    note: str = ""
    """The reason why runs planned for one program were carried out one by one."""

    @property
    def runs(self) -> tuple[TaskResult, ...]:
        """A result for each run of the task."""
        if not self.beside:  # one run, or an error of all
            return tuple(replace(self, task=replace(one, deaths=self.task.deaths)) for one in self.task.runs)
        return (replace(self, task=self.task.runs[0], beside=()), *self.beside)


class _Queue:
    """Waiting tasks: first those that were put back, then those not taken yet."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._back: list[Task] = []

    def take(self) -> Task | None:
        """The next task, None if there are no more."""
        return self._back.pop(0) if self._back else next(self._tasks, None)

    def put_back(self, task: Task) -> None:
        """Return a task to the head of the queue."""
        self._back.append(task)


class Executor(Protocol):
    """Carries out tasks."""

    @property
    def workers(self) -> int | None:
        """Number of tasks at once, None if it is not known beforehand."""
        ...

    def run(self, tasks: Iterator[Task]) -> Iterator[TaskResult]:
        """A result for each task. A task is taken from `tasks` only when there is room for it."""
        ...


def execute(task: Task) -> TaskResult:
    """Carry out one task in this process."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(task.cpus)))  # for a torch that is not imported yet
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(max(1, int(task.cpus)))
    return _execute_together(task) if task.beside else _execute_alone(task)


def _execute_alone(task: Task) -> TaskResult:
    began = time.perf_counter()
    found: tuple[Measurement, ...] = ()
    error = ""
    try:
        job = _same_job(task)
        with _context_of(task) as context, _progress_written([context]):
            found = _checked(job.measure(task.spec, context))
    except Exception as problem:
        error = _error_record(problem)
    return _result(task, () if error else found, error, time.perf_counter() - began)


def _execute_together(task: Task) -> TaskResult:
    """Several runs in one program; if that fails, for example for lack of memory, one after the other."""
    began = time.perf_counter()
    try:
        ensemble = _same_job(task).ensemble
        if ensemble is None:
            raise InputError(f"{task.job} has no ensemble, so its runs cannot be carried out together")
        with contextlib.ExitStack() as stack:
            contexts = [stack.enter_context(_context_of(one)) for one in task.runs]
            stack.enter_context(_progress_written(contexts))
            specs = [one.spec for one in task.runs]
            found = [_checked(some) for some in ensemble.measure(specs, contexts, Path(task.together))]
        if len(found) != len(specs):
            raise InputError(f"it measured {len(found)} of {len(specs)} runs")
        each = (time.perf_counter() - began) / len(found)
        results = [_result(one, some, "", each) for one, some in zip(task.runs, found, strict=True)]
        note = ""
    except Exception as problem:
        note = _error_record(problem).partition("\n")[0]
        results = []  # the memory of the ensemble is free by now
    if not results:
        results = [_execute_alone(one) for one in task.runs]
    return replace(results[0], task=task, beside=tuple(results[1:]), note=note)


def _checked(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """The measurements of a job, checked: at least one, and numbers."""
    found = tuple(measurements)
    if not found:
        raise InputError("it measured nothing")
    for one in found:
        if not isinstance(one, Measurement):
            raise InputError(f"it yields {shown(one)}, which is not a Measurement")
        for name, value in (("value", one.value), ("stderr", one.stderr)):
            try:
                if isinstance(value, str):
                    raise TypeError
                if value is not None or name == "value":
                    float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise InputError(f"the {name} of {shown(one.quantity)} is {shown(value)}, not a number") from None
    return found


def _same_job(task: Task) -> Job:
    job = find_job(task.job)
    if job.code != task.code:
        raise InputError(f"this machine has another version of {task.job} ({job.code}, not {task.code})")
    return job


@contextlib.contextmanager
def _context_of(task: Task) -> Iterator[Context]:
    folder = Path(task.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        yield Context(task.device, folder, task.seed, max(1, int(task.cpus)))


PROGRESS_S = 2.0
"""Seconds between two reports of a worker on its run."""


@contextlib.contextmanager
def _progress_written(contexts: Sequence[Context]) -> Iterator[None]:
    """Write the progress of the computation every few seconds, for the processes that show it."""
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(PROGRESS_S):
            with contextlib.suppress(Exception):  # read while the computation goes on
                at = current_progress()
                for context in contexts:
                    context.write_progress(at)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _result(task: Task, found: tuple[Measurement, ...], error: str, wall_s: float) -> TaskResult:
    torch = sys.modules.get("torch")
    host = os.uname().nodename if hasattr(os, "uname") else ""
    return TaskResult(
        task, found, error, wall_s, str(getattr(torch, "__version__", "")), _device_name(task.device, torch), host
    )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder: a worker whose driver was killed may need a moment to die."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=60):
            yield
    except Timeout:
        raise InputError("another process is still working on this run") from None


def _device_name(device: str, torch: Any) -> str:
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return device


def describe_error(problem: Exception) -> str:
    """An error in one sentence, with its file and line."""
    last = traceback.extract_tb(problem.__traceback__)[-1:]
    where = "".join(f", at {Path(one.filename).name} line {one.lineno}" for one in last)
    return f"{type(problem).__name__}: {problem}{where}"


def _error_record(problem: Exception) -> str:
    """An error with the end of its traceback, short enough for a record."""
    if isinstance(problem, InputError):
        return str(problem)
    lines = traceback.format_exception(problem)
    return (lines[-1].strip() + "\n" + "".join(lines[-6:-1]))[:4000]


# Processes on this machine.


def _serve(channel: Connection, environment: Mapping[str, str]) -> None:
    """The loop of a worker: it takes tasks until there are no more, or until its driver is gone."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver receives it too, and decides
    _die_with_parent()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            channel.send(execute(channel.recv()))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class _Worker:
    process: Any
    channel: Connection
    task: Task | None = None


class LocalExecutor:
    """Processes on this machine.

    Parameters
    ----------
    workers : number of processes; by default one per GPU, or one per processor that this process may use.
    device : ``cpu`` or ``cuda``. With ``cuda``, worker i sees GPU i modulo their number, so several share one GPU if there are
        more workers than GPUs.
    retries : see :data:`RETRIES`.
    """

    def __init__(self, workers: int | None = None, device: str = "cpu", retries: int = RETRIES) -> None:
        self.gpus = visible_gpus() if device == "cuda" else []
        if device == "cuda" and not self.gpus:
            raise InputError("there is no CUDA device here")
        if workers is not None:
            check_whole("executor", largest=ceiling("workers"), workers=workers)
        self.workers = workers or len(self.gpus) or processors()
        self.device = device
        self.retries = retries

    def run(self, tasks: Iterator[Task]) -> Iterator[TaskResult]:
        """See :class:`Executor`."""
        workers: list[_Worker | None] = [None] * self.workers
        queue = _Queue(tasks)
        try:
            while True:
                self._assign(workers, queue)
                busy = [worker for worker in workers if worker is not None and worker.task is not None]
                if not busy:
                    return
                ready = set(wait([w.channel for w in busy] + [w.process.sentinel for w in busy]))
                for worker in busy:
                    if worker.channel in ready or worker.process.sentinel in ready:
                        result = self._collect(worker, queue)
                        if result is not None:
                            yield result
        finally:
            for hired in filter(None, workers):
                hired.process.kill()
                hired.process.join()
                hired.channel.close()

    def _assign(self, workers: list[_Worker | None], queue: _Queue) -> None:
        """Give tasks to idle workers while there is room; a task for several processors waits until they are free."""
        for place, worker in enumerate(workers):
            if worker is not None and worker.task is not None:
                continue
            taken = sum(self._size(other.task) for other in workers if other is not None and other.task is not None)
            if taken >= self.workers:
                return
            task = queue.take()
            if task is None:
                return
            if taken and taken + self._size(task) > self.workers:
                queue.put_back(task)
                return
            if worker is None or not worker.process.is_alive():
                worker = workers[place] = self._start_worker(place)
            worker.task = task
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # one that died idle: its sentinel tells
                worker.channel.send(task)

    def _size(self, task: Task) -> float:
        """Number of workers' places that a task takes."""
        return max(1.0, task.cpus) if self.device == "cpu" else 1.0

    def _start_worker(self, place: int) -> _Worker:
        spawn = multiprocessing.get_context("spawn")  # a forked child of a process with threads, or with CUDA, may hang
        ours, theirs = spawn.Pipe()
        environment = {"CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)] if self.gpus else ""}
        process = spawn.Process(target=_serve, args=(theirs, environment), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _collect(self, worker: _Worker, queue: _Queue) -> TaskResult | None:
        """The result of a worker's task; None if the worker died and another will take it."""
        task = worker.task
        assert task is not None  # noqa: S101
        worker.task = None
        with contextlib.suppress(EOFError, ConnectionResetError):
            if worker.channel.poll():
                result = worker.channel.recv()
                assert isinstance(result, TaskResult)  # noqa: S101
                return result
        worker.process.kill()  # dead, or not answering
        worker.process.join()
        worker.channel.close()
        return retry_or_fail(task, f"the worker ended with code {worker.process.exitcode}", self.retries, queue)


def retry_or_fail(task: Task, why: str, retries: int, queue: _Queue) -> TaskResult | None:
    """Give the task of a dead worker to another, or fail it after too many deaths."""
    again = replace(task, deaths=task.deaths + 1)
    if again.deaths > retries:
        return TaskResult(again, error=f"{why}, {again.deaths} times")
    queue.put_back(again)
    return None


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


# A Ray cluster.


MOST_MOVES = 12
"""Number of times that a task leaves a lost node: with pauses of 5 s, twice the time in which Ray notices a lost node."""

_NODE_LOST = ("NodeDiedError", "LocalRayletDiedError", "RayletDiedError", "TaskUnschedulableError")

CONNECTION_S = 30.0
"""Seconds in which something must answer at the address of a cluster."""


def _check_listening(address: str | None) -> None:
    """Refuse an address at which nothing answers; Ray itself would try for a quarter of an hour.

    Raises
    ------
    InputError
        if nothing listens there.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or None
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray reports the fault at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTION_S).close()
    except (OSError, OverflowError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"there is no Ray cluster at {shown(address)}: {reason}") from None


class RayExecutor:
    """A Ray cluster: an existing one by its address, or one started here and stopped at the end.

    Parameters
    ----------
    address : as ``ray.init`` takes it (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``); None starts a cluster on this machine.
    workers : largest number of tasks at once; by default as many as the cluster's processors and GPUs allow.
    device : ``cpu`` or ``cuda``; with ``cuda`` each task occupies the GPUs that its run declares, one if it declares none.
    retries : see :data:`RETRIES`.

    Notes
    -----
    The nodes must have this version of depthwidth installed: a worker with other code refuses its task. On another node a run
    continues from its checkpoint if both share the file system of its folder, and else starts again.
    """

    def __init__(
        self, address: str | None = None, workers: int | None = None, device: str = "cpu", retries: int = RETRIES
    ) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("ray is not installed; pip install 'depthwidth[ray]'") from None
        if workers is not None:
            check_whole("executor", largest=ceiling("workers"), workers=workers)
        self.ray = ray
        self.address, self.workers, self.device, self.retries = address, workers, device, retries
        self.pause = 5.0
        """Seconds before a task of a lost node is submitted again."""
        self._moves: dict[str, int] = {}

    def run(self, tasks: Iterator[Task]) -> Iterator[TaskResult]:
        """See :class:`Executor`."""
        ray = self.ray
        self._connect()
        # Deaths are counted here: Ray's own retries would not show in the record.
        remote = ray.remote(max_retries=0)(_execute_far)
        flying: dict[Any, Task] = {}
        queue = _Queue(tasks)
        try:
            while True:
                while len(flying) < self._places(flying.values()) and (task := queue.take()) is not None:
                    flying[remote.options(**self._resources(task)).remote(task)] = task
                if not flying:
                    return
                ready, _ = ray.wait(list(flying), num_returns=1, timeout=5.0)
                for reference in ready:
                    task = flying.pop(reference)
                    try:
                        result: TaskResult | None = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        result = self._after_death(task, error, queue)
                    if result is not None:
                        yield result
        finally:
            for reference in flying:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)
            ray.shutdown()

    def _after_death(self, task: Task, error: Exception, queue: _Queue) -> TaskResult | None:
        """Give the task to another worker, or fail it; execute() turns the run's own errors into results, so something died.

        A node that died is offered tasks until the cluster notices, half a minute later. They fail at once, which says nothing
        of the task: it waits and goes elsewhere, without a death on its record.
        """
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        lost = tuple(getattr(self.ray.exceptions, name) for name in _NODE_LOST if hasattr(self.ray.exceptions, name))
        moves = self._moves.get(task.run, 0)
        if not isinstance(error, lost) or moves == MOST_MOVES:
            return retry_or_fail(task, why, self.retries, queue)
        self._moves[task.run] = moves + 1
        time.sleep(self.pause)
        queue.put_back(task)
        return None

    def _connect(self) -> None:
        _check_listening(self.address)
        environment = {name: os.environ[name] for name in (JOBS_VARIABLE, "PYTHONPATH") if name in os.environ}
        options: dict[str, Any] = {} if self.address else {"num_cpus": processors(), "include_dashboard": False}
        try:
            self.ray.init(
                address=self.address,
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                logging_level="ERROR",
                **options,
            )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"there is no Ray cluster at {shown(self.address)}: {first}") from None

    def _resources(self, task: Task) -> dict[str, float]:
        return {"num_cpus": task.cpus, "num_gpus": (task.gpus or 1.0) if self.device == "cuda" else 0.0}

    def _places(self, flying: Iterable[Task]) -> int:
        """Number of tasks to submit: all that fit, and as many again so that no node waits for the driver."""
        if self.workers is not None:
            return self.workers
        kind = "GPU" if self.device == "cuda" else "CPU"
        needs = [self._resources(task)[f"num_{kind.lower()}s"] for task in flying] or [1.0]
        fit = self.ray.cluster_resources().get(kind, 1.0) / (sum(needs) / len(needs))
        return 2 * max(1, int(fit))


def _execute_far(task: Task) -> TaskResult:
    """:func:`execute`, on a node."""
    return execute(task)


def executor(name: str, *, workers: int | None = None, device: str = "cpu", address: str | None = None) -> Executor:
    """The executor called `name`: ``local`` or ``ray``."""
    if name == "ray":
        return RayExecutor(address, workers, device)
    if name != "local":
        raise InputError(f"there is no executor {shown(name)}; there are local and ray")
    if address is not None:
        raise InputError("the local executor takes no address")
    return LocalExecutor(workers, device)
