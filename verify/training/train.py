"""The training loop: it seeds, logs and evaluates, stops if the loss diverges, and resumes exactly after a kill.

    outcome = train(model, corpus, Training(steps=1000, batch=32, context=128), folder="runs/first")

If the process is killed, the same call resumes from the last intact checkpoint; on a CPU the final loss is bitwise the same.
Under ``torchrun`` training is data parallel. The batch and the random numbers of a step depend on (seed, step) only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import inspect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError, shown
from depthwidth.initialization import Recipe
from depthwidth.progress import during

from ..files import write_whole
from ..models.initialize import parameter_groups
from .checkpoints import latest_checkpoint, save_checkpoint
from .corpus import Corpus, mix_seeds
from .loggers import Logger as Logger
from .loggers import tensorboard as tensorboard
from .loggers import wandb as wandb
from .optim import Groups, clip, default_groups, make_optimizer, schedule_factor
from .settings import Training


@dataclass(frozen=True)
class Outcome:
    """The result of a run, whether it finished, diverged or was stopped."""

    status: Literal["finished", "diverged", "stopped"]
    """``stopped`` if the time limit was reached; the run can be resumed."""
    steps: int
    """Number of updates."""
    losses: tuple[float, ...]
    """Training loss of each update, computed before the update, in nats per token."""
    evaluations: tuple[tuple[int, float, float], ...]
    """For each evaluation: number of updates before it, validation loss, and its standard error over batches of windows."""
    tokens: int
    """Number of tokens trained on."""
    seconds: float
    """Time spent in the loop, including evaluation and checkpoints, summed over all processes that resumed the run."""
    diverged_at: int | None = None
    """Index of the first update whose loss was above the threshold, infinite or NaN."""
    corpus: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def final_loss(self) -> float:
        """Training loss of the last update."""
        return self.losses[-1]

    @property
    def validation_loss(self) -> float | None:
        """Validation loss of the last evaluation, None if there was none."""
        return self.evaluations[-1][1] if self.evaluations else None

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain JSON values. A loss that is not finite is a string, because JSON has no number for it."""

        def plain(x: float) -> float | str:
            return x if math.isfinite(x) else str(x)

        data = dataclasses.asdict(self)
        data["losses"] = [plain(x) for x in self.losses]
        data["evaluations"] = [[step, plain(loss), plain(error)] for step, loss, error in self.evaluations]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome from the result of :meth:`to_dict`."""
        evaluations = tuple((int(step), float(loss), float(error)) for step, loss, error in data["evaluations"])
        losses = tuple(float(x) for x in data["losses"])
        return cls(**{**data, "losses": losses, "evaluations": evaluations, "warnings": tuple(data["warnings"])})


# Parts that a caller may replace or add.

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Mean loss in nats per token of a model, from inputs and targets of shape (batch, context)."""


def language_loss(model: nn.Module) -> Loss:
    """Mean cross-entropy, for a model that returns logits, ``(logits, loss)`` or an object with ``logits`` or ``loss``.

    If the model's ``forward`` has a parameter ``targets``, the targets are passed to it; if the model returns a loss, that loss
    is used. Targets are the inputs shifted by one token. They are never passed as ``labels``, which the transformers library
    would shift again.
    """
    return _loss_given_targets if "targets" in inspect.signature(model.forward).parameters else _loss_of_output


def _loss_given_targets(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return _read_loss(model(inputs, targets=targets), targets)


def _loss_of_output(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return _read_loss(model(inputs), targets)


def _read_loss(output: Any, targets: Tensor) -> Tensor:
    logits = loss = None
    if isinstance(output, Tensor):
        logits, loss = (None, output) if output.dim() == 0 else (output, None)
    elif isinstance(output, tuple):
        logits, loss = output[0], next((one for one in output[1:] if isinstance(one, Tensor) and one.dim() == 0), None)
    else:
        logits, loss = getattr(output, "logits", None), getattr(output, "loss", None)
    if loss is not None:
        return loss.float()
    if logits is None:
        raise InputError(f"the model returns a {type(output).__name__} with neither logits nor a loss; pass loss=")
    return functional.cross_entropy(logits.flatten(0, -2).float(), targets.reshape(-1))


class Probe(Protocol):
    """Supplies a context for each update, in which measurements can be taken: see :func:`train`."""

    def __call__(self, model: nn.Module, step: int, optimizer: torch.optim.Optimizer) -> AbstractContextManager[Any] | None:
        """A context in which to run update number `step`, or None if nothing is to be measured."""


class Stages(Protocol):
    """Changes a model between updates: :class:`verify.training.bootstrap.Bootstrap`."""

    def apply(self, model: nn.Module, step: int) -> None:
        """Bring the model into the form in which update number `step` trains it; of the number of all steps, the last form."""

    def to_dict(self) -> dict[str, Any]:
        """The stages as plain JSON, which identifies a run."""


def measuring(steps: Callable[[int], bool] | Container[int], handle_rows: Callable[[list[Any]], None], **options: Any) -> Probe:
    """A probe that measures chosen updates with :func:`verify.probe`.

    Parameters
    ----------
    steps : updates to measure, counted from 0; a container of numbers or a function of the number.
    handle_rows : called with the rows of each measured update.
    options : options of :func:`verify.probe`: quantities, sites and so on.
    """
    from ..measure.probes import probe

    @contextlib.contextmanager
    def measurement(model: nn.Module, step: int, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        with probe(model, optimizer=optimizer, start=step, **options) as rows:
            yield
        handle_rows(list(rows))

    def context(model: nn.Module, step: int, optimizer: torch.optim.Optimizer) -> AbstractContextManager[Any] | None:
        selected = steps(step) if callable(steps) else step in steps
        return measurement(model, step, optimizer) if selected else None

    return context


class WithLoss(nn.Module):  # type: ignore[misc]
    """A model and its loss as one module, so that both are compiled and parallelised together."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats per token."""
        return self.loss(self.model, inputs, targets)


# Data-parallel processes.


@dataclass(frozen=True)
class _World:
    """The processes that train the same model: their number, and the rank of this one."""

    rank: int = 0
    size: int = 1

    def share(self, batch: int) -> slice:
        """The rows of a batch that this process handles."""
        if batch % self.size:
            raise InputError(f"a batch of {batch} sequences cannot be divided evenly among {self.size} processes")
        rows = batch // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value = value / self.size
        return value

    def any(self, flag: bool) -> bool:
        """True if `flag` is true in at least one process."""
        return flag if self.size == 1 else bool(self.mean(torch.tensor(float(flag))) > 0)

    def check_equal(self, number: int, what: str) -> None:
        """Raise an InputError unless `number` is equal in all processes."""
        if self.size > 1:
            bounds = torch.tensor([number, -number])
            dist.all_reduce(bounds, dist.ReduceOp.MAX)
            if int(bounds[0]) != -int(bounds[1]):
                raise InputError(f"the processes found different values for {what}; give them one folder that all can read")


@contextlib.contextmanager
def _process_group(device: torch.device) -> Iterator[_World]:
    """Join the process group, if ``torchrun`` started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield _World()
        return
    ours = not dist.is_initialized()
    if ours:
        # Modules that torch imports after the group exists store the group in default arguments, which keeps its threads alive
        # until the interpreter exits; a thread that outlives the interpreter aborts the process. So import this one first.
        importlib.import_module("torch._dynamo")

        # Some numbers are reduced on the host, so the host's backend is always needed.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield _World(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # no process leaves while another is still sending
    finally:
        if ours:
            gc.collect()  # DistributedDataParallel refers to the group and is part of a reference cycle
            dist.destroy_process_group()


# The loop.


def train(
    model: nn.Module,
    corpus: Corpus,
    training: Training,
    *,
    folder: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 0,
    recipe: Recipe | None = None,
    tree: Transformer | None = None,
    groups: Groups | None = None,
    loss: Loss | None = None,
    stages: Stages | None = None,
    device: torch.device | str | None = None,
    probes: Sequence[Probe] = (),
    loggers: Sequence[Logger] = (),
    log_every: int = 10,
    progress: bool | None = None,
    time_limit: float | None = None,
) -> Outcome:
    """Train `model` in place.

    Parameters
    ----------
    model : any module; training starts from its current weights.
    corpus : tokens for training and validation.
    training : settings. Together with the corpus and the initial weights they identify the run.
    folder : folder for checkpoints and the outcome. If it contains a checkpoint of the same run, the run resumes from it; if
        that run has ended, its outcome is returned and the model receives its last weights.
    checkpoint_every : number of updates between checkpoints; by default a tenth of the steps. If the disk is full, training
        continues without the checkpoint and the outcome has a warning.
    recipe, tree : set the learning rate and weight decay of each tensor (:func:`verify.models.initialize.parameter_groups`).
    groups : parameter groups with their own ``lr`` and ``weight_decay``, instead of `recipe`.
    loss : function to minimise; by default :func:`language_loss`.
    stages : changes the model between updates, and is part of the run: growing trees (:mod:`verify.training.bootstrap`).
    device : by default a GPU if there is one. On a CPU, results are bitwise repeatable for a fixed number of threads.
    probes : each is called before every update and may return a context for it; :func:`measuring` makes such a probe. It
        receives the uncompiled model. Gradients are kept until the contexts have exited, so a context can compare the weights
        before and after the update.
    loggers : see :class:`Logger`.
    log_every : number of updates between log entries. On a GPU, losses are also copied to the host, and checked for divergence,
        this often.
    progress : show a progress bar; by default if the error stream is a terminal.
    time_limit : seconds after which a checkpoint is written and the run is ``stopped``.

    Returns
    -------
    :class:`Outcome`.

    Raises
    ------
    InputError
        if the folder contains another run or is not a writable folder, the corpus is too short or contains tokens outside the
        model's vocabulary, or the model has no trainable parameters.
    """
    place = default_device(device)
    with ExitStack() as stack:
        world = stack.enter_context(_process_group(place))
        for logger in loggers:
            stack.callback(logger.close)
        if loss is None:  # a custom loss may map the tokens to others
            check_tokens(model, corpus)
        model.to(place)
        if recipe is not None:
            groups = parameter_groups(model, recipe, training.learning_rate, training.weight_decay, tree=tree)
        elif groups is None:
            groups = default_groups(model, training.learning_rate, training.weight_decay)
        run = _Run(model, corpus.to(place), training, groups, loss or language_loss(model), world, stages)
        stack.callback(run.release_group)
        run.folder = None if folder is None else Path(folder)
        done = run.restore()
        run.enter_stage()
        if done is not None:
            return done
        if run.folder is not None:
            make_folder(run.folder)
        # The caller's random state is restored at the end.
        stack.enter_context(torch.random.fork_rng([place] if place.type == "cuda" else []))
        report = stack.enter_context(_Report(run, () if world.rank else loggers, log_every, progress))
        stack.enter_context(during(done=lambda: run.step / training.steps, facts=report.facts))
        _loop(run, checkpoint_every or max(training.steps // 10, 1), probes, report, time_limit)
        return run.finish()


def default_device(device: torch.device | str | None) -> torch.device:
    """`device` if it is given; else this process's GPU if there is one, else the CPU."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def table_rows(model: nn.Module) -> int | None:
    """Vocabulary size of a model, or None if it cannot be determined.

    It is read from the model's ``tree``, from ``get_input_embeddings`` of the transformers library, or from the only
    ``nn.Embedding`` if a linear layer has the same number of outputs; without such a layer it could be a position table.
    """
    if isinstance(tree := getattr(model, "tree", None), Transformer):
        return tree.vocab or None  # 0 for images
    with contextlib.suppress(AttributeError, NotImplementedError, TypeError):
        rows = model.get_input_embeddings().num_embeddings
        return rows if isinstance(rows, int) else None
    tables = [part.num_embeddings for part in model.modules() if isinstance(part, nn.Embedding)]
    outputs = {part.out_features for part in model.modules() if isinstance(part, nn.Linear)}
    return tables[0] if len(tables) == 1 and tables[0] in outputs else None


def check_tokens(model: nn.Module, corpus: Corpus) -> None:
    """Refuse a corpus with tokens outside the model's vocabulary."""
    rows, largest = table_rows(model), corpus.largest_token()
    if rows is not None and largest >= rows:
        raise InputError(f"train: the corpus contains token {largest}, but the model's vocabulary is 0 to {rows - 1}")


# Torch's messages for an index outside an embedding table and for a target outside the logits; under vmap they differ.
_TABLE_TOO_SMALL: dict[type, tuple[str, ...]] = {
    IndexError: ("index out of range in self", "Target "),
    RuntimeError: ("is out of bounds for dimension",),
}


@contextlib.contextmanager
def explain_token_errors(corpus: Corpus, context: int) -> Iterator[None]:
    """Replace torch's error about a token outside an embedding table by an InputError of one sentence.

    For models whose vocabulary size :func:`check_tokens` cannot determine.
    """
    try:
        yield
    except (IndexError, RuntimeError) as error:
        if not any(words in str(error) for words in _TABLE_TOO_SMALL.get(type(error), ())):
            raise
        what = f"for tokens 0 to {corpus.largest_token()} in windows of {context}"
        raise InputError(f"train: an embedding table of the model has too few rows {what} ({error})") from error


def make_folder(place: Path) -> None:
    """Create a folder for checkpoints, if it does not exist.

    Raises
    ------
    InputError
        if it is a file, cannot be created, or is not writable.
    """
    if place.exists() and not place.is_dir():
        raise InputError(f"{shown(str(place))} is a file, not a folder for checkpoints")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {shown(str(place))} cannot be created: {error.strerror or error}") from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"the folder {shown(str(place))} cannot be written to")


class _Run:
    """The state of a run: everything in a checkpoint, and objects derived from it."""

    def __init__(
        self, model: nn.Module, corpus: Corpus, training: Training, groups: Groups, loss: Loss, world: _World,
        stages: Stages | None = None,
    ) -> None:  # fmt: skip
        self.model, self.corpus, self.training, self.world, self.stages = model, corpus, training, world, stages
        self.folder: Path | None = None
        self.device = corpus.device
        self.share = world.share(training.batch)
        self.optimizer = make_optimizer(training, groups, self.device)
        self.module = WithLoss(model, loss)
        parallel = self.module
        if world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            parallel = nn.parallel.DistributedDataParallel(self.module, device_ids=ids)
        self.parallel = parallel
        self.compiled = torch.compile(parallel) if training.compile else parallel
        self.step = 0
        self.status: Literal["finished", "diverged", "stopped"] = "stopped"
        self.losses: list[float] = []
        self.evaluations: list[tuple[int, float, float]] = []
        self.diverged_at: int | None = None
        self.earlier_seconds = 0.0  # time spent by earlier processes
        self.started = time.perf_counter()
        self.warnings: list[str] = []
        self.identity = self._identify(groups)

    def _identify(self, groups: Groups) -> str:
        """A hash of everything that the losses depend on, including the initial weights."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        weights = [
            [sorted([names[id(p)], list(p.shape)] for p in group["params"]), group["base"], group["weight_decay"]]
            + ([True] if group.get("scale_invariant") else [])
            for group in groups
        ]
        start = weights_digest(self.model.parameters())
        what = {"training": self.training.to_dict(), "corpus": self.corpus.identity(), "weights": weights, "start": start}
        what |= {} if self.stages is None else {"stages": self.stages.to_dict()}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def enter_stage(self) -> None:
        """Bring the model into the form of the next update."""
        if self.stages is not None:
            self.stages.apply(self.model, self.step)

    def release_group(self) -> None:
        """Drop all references to the process group."""
        self.parallel = self.compiled = self.module

    # Checkpoints.

    def _tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and optimizer state by name; tied weights appear once."""
        found, seen = {}, set()
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"model/{name}"] = tensor
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter, memory in self.optimizer.state.items():
            for key, value in memory.items():
                if isinstance(value, Tensor):
                    found[f"optimizer/{key}/{names[id(parameter)]}"] = value
        return found

    def _restore_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        own = self.model.state_dict(keep_vars=True)
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        with torch.no_grad():
            for name, tensor in tensors.items():
                kind, _, rest = name.partition("/")
                if kind == "model":
                    own[rest].copy_(tensor)
                elif kind == "optimizer":
                    key, _, rest = rest.partition("/")
                    parameter = parameters[rest]
                    on_device = key != "step" or bool(self.optimizer.defaults["fused"])
                    self.optimizer.state[parameter][key] = tensor.to(parameter.device) if on_device else tensor

    def save(self) -> None:
        """Write a checkpoint; if that fails, add a warning."""
        if self.folder is None or self.world.rank:
            return
        state = {
            "identity": self.identity,
            "status": self.status,
            "evaluations": [[step, str(loss), str(error)] for step, loss, error in self.evaluations],  # str: they may be nan
            "diverged_at": self.diverged_at,
            "seconds": self.seconds,
            "warnings": self.warnings,
        }
        losses = torch.tensor(self.losses, dtype=torch.float64)
        try:
            save_checkpoint(self.folder, self.step, {**self._tensors(), "losses": losses}, state)
        except OSError as error:
            self.warnings.append(f"no checkpoint after {self.step} updates: {error.strerror or error}")

    def restore(self) -> Outcome | None:
        """Load the last checkpoint of this run from the folder, if there is one. Returns the outcome if the run has ended."""
        if self.folder is None:
            return None
        found = latest_checkpoint(self.folder)
        self.world.check_equal(-1 if found is None else found.step, "the last checkpoint")
        if found is None:
            return None
        if found.state["identity"] != self.identity:
            raise InputError(f"{self.folder} contains another run; choose another folder")
        self._restore_tensors(found.tensors)
        self.step, self.losses = found.step, found.tensors["losses"].tolist()
        self.evaluations = [(int(step), float(loss), float(error)) for step, loss, error in found.state["evaluations"]]
        self.earlier_seconds, self.diverged_at = found.state["seconds"], found.state["diverged_at"]
        self.warnings, self.status = list(found.state["warnings"]), found.state["status"]
        if self.status == "stopped":
            return None
        outcome = self.outcome()
        self._write(outcome)
        return outcome

    @property
    def seconds(self) -> float:
        """Time spent so far."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def outcome(self) -> Outcome:
        """The outcome of the updates made so far."""
        tokens = len(self.losses) * self.training.batch * self.training.context
        return Outcome(
            self.status,
            self.step,
            tuple(self.losses),
            tuple(self.evaluations),
            tokens,
            self.seconds,
            self.diverged_at,
            self.corpus.identity(),
            self.training.to_dict(),
            tuple(self.warnings),
        )

    def finish(self) -> Outcome:
        """Write the last checkpoint and ``outcome.json``, and return the outcome."""
        self.save()
        outcome = self.outcome()
        self._write(outcome)
        return outcome

    def _write(self, outcome: Outcome) -> None:
        """Write ``outcome.json`` for readers; to resume a run, the checkpoint is enough."""
        if self.folder is None or self.world.rank:
            return
        with contextlib.suppress(OSError):
            write_whole(self.folder / "outcome.json", json.dumps(outcome.to_dict(), indent=1).encode())

    # Computation.

    def gradients(self, module: nn.Module) -> Tensor:
        """Forward and backward passes over this process's share of the batch; returns the mean loss.

        Gradients are accumulated in the parameters.
        """
        rows = self.share.stop - self.share.start
        size = min(self.training.micro_batch or rows, rows)
        inputs, targets = self.corpus.batch(
            self.training.data_seed, self.step, self.training.batch, self.training.context, self.share
        )
        total = torch.zeros((), device=self.device)
        for start in range(0, rows, size):
            part = slice(start, min(start + size, rows))
            last = part.stop == rows
            # Gradients are averaged over processes once, after the last micro-batch.
            synchronisation = contextlib.nullcontext() if last or self.world.size == 1 else self.parallel.no_sync()
            with synchronisation:
                with autocast(self.device, self.training.precision), explain_token_errors(self.corpus, self.training.context):
                    loss = module(inputs[part], targets[part])
                weighted = loss if size == rows else loss * ((part.stop - part.start) / rows)
                weighted.backward()
            total += weighted.detach()
        return total

    def evaluate(self) -> None:
        """Evaluate the validation loss, unless this step has been evaluated. The windows are the same in every call."""
        if any(step == self.step for step, _, _ in self.evaluations):
            return
        if not self.training.evaluate_batches or len(self.corpus.validation) <= self.training.context:
            return
        training = self.training
        found = validation_loss(
            self.module,
            self.corpus,
            training.evaluate_batches,
            training.batch,
            training.context,
            lambda: autocast(self.device, training.precision),
        )
        self.evaluations.append((self.step, *found))


def weights_digest(weights: Iterable[Tensor]) -> str:
    """SHA-256 of the concatenated bytes of tensors."""
    sha = hashlib.sha256()
    for weight in weights:
        sha.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Autocast to bfloat16 if `precision` is bfloat16; else a context without effect."""
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    return context


def validation_loss(
    module: nn.Module,
    corpus: Corpus,
    batches: int,
    batch: int,
    context: int,
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[float, float]:
    """Mean of ``module(inputs, targets)`` over evenly spaced windows of the validation block, and its standard error.

    The standard error is taken over batches; it is infinite for a single batch. The module is in evaluation mode.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), autocast(), explain_token_errors(corpus, context):
            losses = torch.stack([module(*one).float() for one in corpus.validation_batches(batches, batch, context)])
    finally:
        module.train(was_training)
    mean, error = mean_and_error(losses)
    return float(mean), float(error)


def mean_and_error(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first axis of losses (batches, ...) and its standard error, infinite for one batch; each of shape (...)."""
    losses = losses.double()
    mean, count = losses.mean(0), len(losses)
    return mean, losses.std(0) / math.sqrt(count) if count > 1 else torch.full_like(mean, math.inf)


class _Report:
    """Progress reports: a progress bar on a terminal with loss, tokens per second and time left, and numbers for loggers."""

    def __init__(self, run: _Run, loggers: Sequence[Logger], log_every: int, progress: bool | None) -> None:
        self.run, self.loggers, self.every = run, loggers, log_every
        self.bar: Any = None
        if (sys.stderr.isatty() if progress is None else progress) and not run.world.rank:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text = TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} tokens/s")
            columns = ("training", BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task("", total=run.training.steps, completed=run.step, loss=math.nan, rate=0.0)
        self.last_report = self.began = (time.perf_counter(), run.step)

    def facts(self) -> dict[str, float]:
        """Step, loss and tokens per second since the start, for the display of progress."""
        run, (then, step) = self.run, self.began
        rate = (run.step - step) * run.training.batch * run.training.context / max(time.perf_counter() - then, 1e-9)
        losses = run.losses[-1:]  # read while the training goes on
        return {"step": run.step, "steps": run.training.steps, "rate": rate, **({"loss": losses[0]} if losses else {})}

    def __enter__(self) -> _Report:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def report_losses(self) -> None:
        """Report the last loss and the speed, if `log_every` updates have passed since the last report."""
        run, (then, step) = self.run, self.last_report
        if run.step - step < self.every and run.step < run.training.steps:
            return
        now = time.perf_counter()
        rate = (run.step - step) * run.training.batch * run.training.context / (now - then)
        self.last_report = (now, run.step)
        if self.bar is not None:
            self.bar.update(self.task, completed=run.step, loss=run.losses[-1], rate=rate)
        self._log({"loss": run.losses[-1], "learning_rate": run.optimizer.param_groups[0]["lr"], "tok_per_sec": rate}, "train")

    def report_evaluation(self) -> None:
        """Report the validation loss of this step, if there is one."""
        if self.run.evaluations and self.run.evaluations[-1][0] == self.run.step:
            self._log({"loss": self.run.evaluations[-1][1]}, "val")

    def _log(self, values: Mapping[str, float], prefix: str) -> None:
        for logger in self.loggers:
            logger.log(self.run.step, {f"{prefix}/{name}": value for name, value in values.items()})


def _loop(run: _Run, checkpoint_every: int, probes: Sequence[Probe], report: _Report, time_limit: float | None) -> None:
    """Update until all steps are done, the loss diverges, or the time limit is reached."""
    training = run.training
    wait_every = report.every if run.device.type == "cuda" else 1
    pending: list[Tensor] = []  # losses still on the device
    run.model.train()
    while run.step < training.steps:
        run.enter_stage()
        if training.evaluate_every and run.step % training.evaluate_every == 0:
            run.evaluate()
            report.report_evaluation()
        pending.append(_update(run, probes))
        run.step += 1
        at_checkpoint = run.step % checkpoint_every == 0
        if len(pending) < wait_every and not at_checkpoint and run.step < training.steps:
            continue
        known = len(run.losses)
        run.losses += torch.stack(pending).tolist()
        pending.clear()
        run.diverged_at = has_diverged(run.losses, known, training)
        if run.diverged_at is not None:  # drop the updates after the divergence
            del run.losses[run.diverged_at + 1 :]
            run.step, run.status = len(run.losses), "diverged"
            return
        report.report_losses()
        if at_checkpoint and run.step < training.steps:
            run.save()
        if time_limit is not None and run.world.any(time.perf_counter() - run.started > time_limit):
            break
    if run.step == training.steps:
        run.enter_stage()
        run.evaluate()
        report.report_evaluation()
        run.status = "finished"


def seed_all(device: torch.device, *numbers: int) -> None:
    """Seed the random numbers of the host and of `device` by a hash of `numbers`."""
    seed = mix_seeds(*numbers)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed is slower: each call looks for devices of every kind
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _update(run: _Run, probes: Sequence[Probe]) -> Tensor:
    """One update of the weights; returns the loss before it, still on the device."""
    scale = schedule_factor(run.training, run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = group["base"] * scale
    seed_all(run.device, run.training.seed, run.step, run.world.rank)
    with ExitStack() as stack:
        contexts = [context for probe in probes if (context := probe(run.model, run.step, run.optimizer)) is not None]
        for context in contexts:
            stack.enter_context(context)
        loss = run.gradients(run.parallel if contexts else run.compiled)
        clip(run.training, run.optimizer)
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return run.world.mean(loss)


def has_diverged(losses: Sequence[float], since: int, training: Training) -> int | None:
    """Index of the first update from `since` on whose loss has diverged, or None."""
    limit = training.diverged_above if training.diverged_above is not None else 2 * losses[0]
    for step, loss in enumerate(losses[since:], since):
        if not loss <= limit or math.isinf(loss):  # NaN is not below anything
            return step
    return None
