"""One training loop: seeded, logged, evaluated, stopped when it diverges, resumed exactly after a kill.

    outcome = train(model, corpus, Training(steps=1000, batch=32, context=128), folder="runs/first")

Run it again after a ``kill -9`` and it goes on from the last whole checkpoint; on a CPU the final loss is the same bit for bit.
Under ``torchrun`` it is data parallel. What a step reads and which random numbers it draws depend on (seed, step) alone.
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

from ..files import write_whole
from ..models.initialize import parameter_groups
from .checkpoints import latest, save_checkpoint
from .corpus import Corpus, mixed
from .optim import Groups, clip, default_groups, factor, make_optimizer
from .settings import Training


@dataclass(frozen=True)
class Outcome:
    """What came of a run. A run that diverged has one too."""

    status: Literal["finished", "diverged", "stopped"]
    """``stopped`` at the time limit, to be resumed."""
    steps: int
    """Updates done."""
    losses: tuple[float, ...]
    """Training loss in nats per token of each update, before it."""
    evaluations: tuple[tuple[int, float, float], ...]
    """Updates done, validation loss, its standard error over batches of windows."""
    tokens: int
    seconds: float
    """Spent in the loop, over all processes that worked on the run one after another; evaluation and checkpoints included."""
    diverged_at: int | None = None
    """The first update whose loss was too high or not a number."""
    corpus: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def final_loss(self) -> float:
        """Training loss of the last update."""
        return self.losses[-1]

    @property
    def validation_loss(self) -> float | None:
        """Of the last evaluation."""
        return self.evaluations[-1][1] if self.evaluations else None

    @property
    def tokens_per_second(self) -> float:
        """Over the whole run."""
        return self.tokens / self.seconds if self.seconds else math.nan

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds; a loss that is not finite is a word, as JSON has no number for it."""

        def plain(x: float) -> float | str:
            return x if math.isfinite(x) else str(x)

        data = dataclasses.asdict(self)
        data["losses"] = [plain(x) for x in self.losses]
        data["evaluations"] = [[step, plain(loss), plain(error)] for step, loss, error in self.evaluations]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """The way back from :meth:`to_dict`."""
        evaluations = tuple((int(step), float(loss), float(error)) for step, loss, error in data["evaluations"])
        losses = tuple(float(x) for x in data["losses"])
        return cls(**{**data, "losses": losses, "evaluations": evaluations, "warnings": tuple(data["warnings"])})


# The pieces that a caller may replace or add.

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Mean nats per token of a model on inputs and targets, each of shape (batch, context)."""


def language_loss(model: nn.Module) -> Loss:
    """Mean cross-entropy of the targets, for a model that returns logits, ``(logits, loss)`` or an object that has either.

    A model whose ``forward`` takes ``targets`` is given them, and its own loss is taken if it returns one. Targets are the
    inputs moved by one; they are never given as ``labels``, which the transformers library moves once more.
    """
    return _with_targets if "targets" in inspect.signature(model.forward).parameters else _from_logits


def _with_targets(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return _read_loss(model(inputs, targets=targets), targets)


def _from_logits(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return _read_loss(model(inputs), targets)


def _read_loss(found: Any, targets: Tensor) -> Tensor:
    logits = loss = None
    if isinstance(found, Tensor):
        logits, loss = (None, found) if found.dim() == 0 else (found, None)
    elif isinstance(found, tuple):
        logits, loss = found[0], next((one for one in found[1:] if isinstance(one, Tensor) and one.dim() == 0), None)
    else:
        logits, loss = getattr(found, "logits", None), getattr(found, "loss", None)
    if loss is not None:
        return loss.float()
    if logits is None:
        raise InputError(f"the model returns a {type(found).__name__}, neither logits nor a loss: give loss=")
    return functional.cross_entropy(logits.flatten(0, -2).float(), targets.reshape(-1))


class Logger(Protocol):
    """Takes named numbers as training goes; made by :func:`tensorboard` or :func:`wandb`, or anything of this form."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def close(self) -> None:
        """Called at the end, whatever it was."""


def tensorboard(folder: str | os.PathLike[str]) -> Logger:
    """Write to TensorBoard by its library (``pip install tensorboard``)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("logging to TensorBoard needs its library: pip install tensorboard") from None

    class TensorBoard:
        writer = SummaryWriter(str(folder))

        def log(self, step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

        def close(self) -> None:
            self.writer.close()

    return TensorBoard()


def wandb(**options: Any) -> Logger:
    """Write to Weights and Biases by its library (``pip install wandb``); `options` are those of ``wandb.init``."""
    try:
        import wandb as library
    except ImportError:
        raise InputError("logging to Weights and Biases needs its library: pip install wandb") from None

    class WandB:
        run = library.init(**options)

        def log(self, step: int, values: Mapping[str, float]) -> None:
            self.run.log(dict(values), step=step)

        def close(self) -> None:
            self.run.finish()

    return WandB()


class Probe(Protocol):
    """Looks at a step from inside: see :func:`train`."""

    def __call__(self, model: nn.Module, step: int, optimizer: torch.optim.Optimizer) -> AbstractContextManager[Any] | None:
        """A context to run update number `step` in, or None where there is nothing to look at."""


def measuring(steps: Callable[[int], bool] | Container[int], take: Callable[[list[Any]], None], **options: Any) -> Probe:
    """Measure updates from inside with :func:`verify.probe`.

    Parameters
    ----------
    steps : at which updates, counted from 0.
    take : is given the rows of each.
    options : of :func:`verify.probe`: quantities, sites and so on.
    """
    from ..measure.probes import probe

    @contextlib.contextmanager
    def measured(model: nn.Module, step: int, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        with probe(model, optimizer=optimizer, start=step, **options) as rows:
            yield
        take(list(rows))

    def asked(model: nn.Module, step: int, optimizer: torch.optim.Optimizer) -> AbstractContextManager[Any] | None:
        wanted = steps(step) if callable(steps) else step in steps
        return measured(model, step, optimizer) if wanted else None

    return asked


class WithLoss(nn.Module):  # type: ignore[misc]
    """A model and its loss as one module, so that both are compiled and made parallel together."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token."""
        return self.loss(self.model, inputs, targets)


# Many processes.


@dataclass(frozen=True)
class _World:
    """Who else works on the same run."""

    rank: int = 0
    size: int = 1

    def share(self, batch: int) -> slice:
        """Rows of a batch that are this process's."""
        if batch % self.size:
            raise InputError(f"a batch of {batch} cannot be shared by {self.size} processes evenly")
        rows = batch // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def mean(self, value: Tensor) -> Tensor:
        """Over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
            value = value / self.size
        return value

    def any(self, yes: bool) -> bool:
        """Whether it is so in any process."""
        return yes if self.size == 1 else bool(self.mean(torch.tensor(float(yes))) > 0)

    def agree(self, number: int, what: str) -> None:
        """Stop unless all processes have the same number."""
        if self.size > 1:
            mine = torch.tensor([number, -number])
            dist.all_reduce(mine, dist.ReduceOp.MAX)
            if int(mine[0]) != -int(mine[1]):
                raise InputError(f"processes disagree on {what}: they need one folder that all of them see")


@contextlib.contextmanager
def _together(device: torch.device) -> Iterator[_World]:
    """Join the processes that ``torchrun`` started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield _World()
        return
    ours = not dist.is_initialized()
    if ours:
        # What torch imports while there is a group takes it for a default argument and keeps it, and its threads, to the end.
        # Such a thread that then asks for an interpreter that is gone aborts the process. So this goes first.
        importlib.import_module("torch._dynamo")

        # Numbers that processes agree on lie on the host, so the host's backend is always there.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield _World(dist.get_rank(), dist.get_world_size())
        dist.barrier()  # nobody leaves while another still sends
    finally:
        if ours:
            gc.collect()  # DistributedDataParallel holds the group, and is part of a circle
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
    device: torch.device | str | None = None,
    probes: Sequence[Probe] = (),
    loggers: Sequence[Logger] = (),
    log_every: int = 10,
    progress: bool | None = None,
    time_limit: float | None = None,
) -> Outcome:
    """Train `model` in place and say what came of it.

    Parameters
    ----------
    model : any module; its weights as they are the start.
    corpus : to train on and to validate with.
    training : how. With the corpus and the weights at the start it identifies the run.
    folder : for checkpoints and the outcome. If there is a checkpoint of the same run, the run goes on from it; if there is an
        outcome, it is returned and the model gets the last weights.
    checkpoint_every : updates between two checkpoints; by default a tenth of the steps. None is lost to a full disk but the one
        that did not fit: training goes on and the outcome says so.
    recipe, tree : to set learning rate and decay of each tensor by (:func:`verify.models.initialize.parameter_groups`).
    groups : parameters with their own ``lr`` and ``weight_decay`` instead.
    loss : what is made small; by default :func:`language_loss`.
    device : where; by default a GPU if there is one. On a CPU all is repeatable bit for bit with an equal number of threads.
    probes : each is asked for a context before every update, :func:`measuring` makes one. It sees the model, not its compiled
        form; inside, gradients remain after the update, so that a context can compare weights before and after.
    loggers : see :class:`Logger`.
    log_every : updates between two lines for loggers; also how often a GPU is waited for to see whether the run has diverged.
    progress : whether a bar is shown; by default if the error stream is a terminal.
    time_limit : seconds after which a checkpoint is written and the outcome is ``stopped``.

    Raises
    ------
    InputError
        if the folder holds another run or cannot be one, the corpus is too short or holds tokens that the model does not know,
        or the model has no parameter to train.
    """
    place = default_device(device)
    with ExitStack() as stack:
        world = stack.enter_context(_together(place))
        for logger in loggers:
            stack.callback(logger.close)
        if loss is None:  # a loss of the caller's may make other tokens of these
            check_tokens(model, corpus)
        model.to(place)
        if recipe is not None:
            groups = parameter_groups(model, recipe, training.learning_rate, training.weight_decay, tree=tree)
        elif groups is None:
            groups = default_groups(model, training.learning_rate, training.weight_decay)
        run = _Run(model, corpus.to(place), training, groups, loss or language_loss(model), world)
        stack.callback(run.leave)
        run.folder = None if folder is None else Path(folder)
        done = run.restore()
        if done is not None:
            return done
        if run.folder is not None:
            make_folder(run.folder)
        # Whoever called keeps their random numbers.
        stack.enter_context(torch.random.fork_rng([place] if place.type == "cuda" else []))
        report = stack.enter_context(_Report(run, () if world.rank else loggers, log_every, progress))
        _loop(run, checkpoint_every or max(training.steps // 10, 1), probes, report, time_limit)
        return run.finish()


def default_device(device: torch.device | str | None) -> torch.device:
    """The one asked for; otherwise this process's GPU, if there is one."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def table_rows(model: nn.Module) -> int | None:
    """How many tokens a model knows, where it shows that.

    By our tree, by transformers' ``get_input_embeddings``, or by its only ``nn.Embedding``, if as many outputs come out of one
    of its linear maps: else it might be a table of positions.
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
    """Refuse a corpus with tokens that the model does not know."""
    rows, largest = table_rows(model), corpus.largest()
    if rows is not None and largest >= rows:
        raise InputError(f"train: the corpus holds token {largest}, and the model knows 0 to {rows - 1}")


# Torch's words for an index beyond a table and for a target beyond the logits; others under vmap.
_TABLE_TOO_SMALL: dict[type, tuple[str, ...]] = {
    IndexError: ("index out of range in self", "Target "),
    RuntimeError: ("is out of bounds for dimension",),
}


@contextlib.contextmanager
def explain_token_errors(corpus: Corpus, context: int) -> Iterator[None]:
    """Turn torch's error about a table with too few rows into one sentence, for models that do not show their size."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        if not any(words in str(error) for words in _TABLE_TOO_SMALL.get(type(error), ())):
            raise
        what = f"the corpus holds tokens 0 to {corpus.largest()}, in windows of {context}"
        raise InputError(f"train: {what}, for which a table of the model has too few rows ({error})") from error


def make_folder(place: Path) -> None:
    """Make a folder for checkpoints, if it is not there.

    Raises
    ------
    InputError
        if it is a file, or cannot be made or written to.
    """
    if place.exists() and not place.is_dir():
        raise InputError(f"{shown(str(place))} is a file, not a folder for checkpoints")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {shown(str(place))} cannot be made: {error.strerror or error}") from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"the folder {shown(str(place))} cannot be written to")


class _Run:
    """The state of a run: what a checkpoint holds, and what is made from it."""

    def __init__(self, model: nn.Module, corpus: Corpus, training: Training, groups: Groups, loss: Loss, world: _World) -> None:
        self.model, self.corpus, self.training, self.world = model, corpus, training, world
        self.folder: Path | None = None
        self.device = corpus.device
        self.share = world.share(training.batch)
        self.optimizer = make_optimizer(training, groups, self.device)
        self.plain = WithLoss(model, loss)
        parallel = self.plain
        if world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            parallel = nn.parallel.DistributedDataParallel(self.plain, device_ids=ids)
        self.parallel = parallel
        self.fast = torch.compile(parallel) if training.compile else parallel
        self.step = 0
        self.status: Literal["finished", "diverged", "stopped"] = "stopped"
        self.losses: list[float] = []
        self.evaluations: list[tuple[int, float, float]] = []
        self.diverged_at: int | None = None
        self.before = 0.0  # seconds of earlier processes
        self.started = time.perf_counter()
        self.warnings: list[str] = []
        self.identity = self._identify(groups)

    def _identify(self, groups: Groups) -> str:
        """A hash of all that the losses depend on, the weights at the start among it."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        weights = [
            [sorted([names[id(p)], list(p.shape)] for p in group["params"]), group["base"], group["weight_decay"]]
            for group in groups
        ]
        start = weights_digest(self.model.parameters())
        what = {"training": self.training.to_dict(), "corpus": self.corpus.identity(), "weights": weights, "start": start}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def leave(self) -> None:
        """Let go of what holds the group of processes."""
        self.parallel = self.fast = self.plain

    # What is saved.

    def _tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and the optimizer's memory by name; tensors that are one (tied weights) once."""
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
        """A checkpoint; a disk that cannot take it is a warning."""
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
        """Go to the last checkpoint of this run in the folder, if there is one; return its outcome if it is at its end."""
        if self.folder is None:
            return None
        found = latest(self.folder)
        self.world.agree(-1 if found is None else found.step, "the last checkpoint")
        if found is None:
            return None
        if found.state["identity"] != self.identity:
            raise InputError(f"{self.folder} holds another run: give this one a folder of its own")
        self._restore_tensors(found.tensors)
        self.step, self.losses = found.step, found.tensors["losses"].tolist()
        self.evaluations = [(int(step), float(loss), float(error)) for step, loss, error in found.state["evaluations"]]
        self.before, self.diverged_at = found.state["seconds"], found.state["diverged_at"]
        self.warnings, self.status = list(found.state["warnings"]), found.state["status"]
        if self.status == "stopped":
            return None
        done = self.outcome()
        self._write(done)
        return done

    @property
    def seconds(self) -> float:
        """Spent so far."""
        return self.before + time.perf_counter() - self.started

    def outcome(self) -> Outcome:
        """As things stand."""
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
        """Write down the end."""
        self.save()
        done = self.outcome()
        self._write(done)
        return done

    def _write(self, done: Outcome) -> None:
        """``outcome.json``, for people and tables; the checkpoint has all that a resumed run needs."""
        if self.folder is None or self.world.rank:
            return
        with contextlib.suppress(OSError):
            write_whole(self.folder / "outcome.json", json.dumps(done.to_dict(), indent=1).encode())

    # What is computed.

    def gradients(self, module: nn.Module) -> Tensor:
        """Mean loss over this process's share of a batch, its gradients left on the parameters."""
        rows = self.share.stop - self.share.start
        size = min(self.training.micro_batch or rows, rows)
        inputs, targets = self.corpus.batch(
            self.training.data_seed, self.step, self.training.batch, self.training.context, self.share
        )
        total = torch.zeros((), device=self.device)
        for start in range(0, rows, size):
            part = slice(start, min(start + size, rows))
            last = part.stop == rows
            # Gradients of processes are averaged once, behind the last micro-batch.
            waits = contextlib.nullcontext() if last or self.world.size == 1 else self.parallel.no_sync()
            with waits:
                with autocast(self.device, self.training.precision), explain_token_errors(self.corpus, self.training.context):
                    loss = module(inputs[part], targets[part])
                weighted = loss if size == rows else loss * ((part.stop - part.start) / rows)
                weighted.backward()
            total += weighted.detach()
        return total

    def evaluate(self) -> None:
        """Validation loss now, once, by the same windows at every call and in every process."""
        if any(step == self.step for step, _, _ in self.evaluations):
            return
        if not self.training.evaluate_batches or len(self.corpus.validation) <= self.training.context:
            return
        training = self.training
        found = validation_loss(
            self.plain,
            self.corpus,
            training.evaluate_batches,
            training.batch,
            training.context,
            lambda: autocast(self.device, training.precision),
        )
        self.evaluations.append((self.step, *found))


def weights_digest(weights: Iterable[Tensor]) -> str:
    """SHA-256 of the bytes of some tensors, one after another."""
    sha = hashlib.sha256()
    for weight in weights:
        sha.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Products in bfloat16 if asked."""
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

    The error is that over batches, infinite for a single one. Dropout is off meanwhile.
    """
    was = module.training
    module.eval()
    try:
        with torch.no_grad(), autocast(), explain_token_errors(corpus, context):
            losses = torch.stack([module(*one).float() for one in corpus.validation_batches(batches, batch, context)])
    finally:
        module.train(was)
    mean, error = mean_and_error(losses)
    return float(mean), float(error)


def mean_and_error(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over batches (batches, ...), and its standard error, infinite for a single one; of shape (...)."""
    losses = losses.double()
    mean, count = losses.mean(0), len(losses)
    return mean, losses.std(0) / math.sqrt(count) if count > 1 else torch.full_like(mean, math.inf)


class _Report:
    """What people see meanwhile: a line on a terminal with loss, tokens per second and time left; and numbers for loggers."""

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
        self.mark = (time.perf_counter(), run.step)

    def __enter__(self) -> _Report:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self) -> None:
        """After losses have become known."""
        run, (then, step) = self.run, self.mark
        if run.step - step < self.every and run.step < run.training.steps:
            return
        now = time.perf_counter()
        rate = (run.step - step) * run.training.batch * run.training.context / (now - then)
        self.mark = (now, run.step)
        if self.bar is not None:
            self.bar.update(self.task, completed=run.step, loss=run.losses[-1], rate=rate)
        self._log({"loss": run.losses[-1], "learning_rate": run.optimizer.param_groups[0]["lr"], "tok_per_sec": rate}, "train")

    def evaluated(self) -> None:
        """After an evaluation."""
        if self.run.evaluations and self.run.evaluations[-1][0] == self.run.step:
            self._log({"loss": self.run.evaluations[-1][1]}, "val")

    def _log(self, values: Mapping[str, float], prefix: str) -> None:
        for logger in self.loggers:
            logger.log(self.run.step, {f"{prefix}/{name}": value for name, value in values.items()})


def _loop(run: _Run, checkpoint_every: int, probes: Sequence[Probe], report: _Report, time_limit: float | None) -> None:
    """Update until the steps are done, the loss is lost, or the time is up."""
    training = run.training
    wait_every = report.every if run.device.type == "cuda" else 1
    pending: list[Tensor] = []  # losses still on the device
    run.model.train()
    while run.step < training.steps:
        if training.evaluate_every and run.step % training.evaluate_every == 0:
            run.evaluate()
            report.evaluated()
        pending.append(_update(run, probes))
        run.step += 1
        at_checkpoint = run.step % checkpoint_every == 0
        if len(pending) < wait_every and not at_checkpoint and run.step < training.steps:
            continue
        known = len(run.losses)
        run.losses += torch.stack(pending).tolist()
        pending.clear()
        run.diverged_at = has_diverged(run.losses, known, training)
        if run.diverged_at is not None:  # what was done after it is forgotten
            del run.losses[run.diverged_at + 1 :]
            run.step, run.status = len(run.losses), "diverged"
            return
        report.step()
        if at_checkpoint and run.step < training.steps:
            run.save()
        if time_limit is not None and run.world.any(time.perf_counter() - run.started > time_limit):
            break
    if run.step == training.steps:
        run.evaluate()
        report.evaluated()
        run.status = "finished"


def seed_all(device: torch.device, *numbers: int) -> None:
    """Let random numbers on the host and on `device` follow from `numbers` alone."""
    seed = mixed(*numbers)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also looks for devices of every kind, each time
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _update(run: _Run, probes: Sequence[Probe]) -> Tensor:
    """One update of the weights; returns the loss before it, still on the device."""
    scale = factor(run.training, run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = group["base"] * scale
    seed_all(run.device, run.training.seed, run.step, run.world.rank)
    with ExitStack() as watched:
        contexts = [context for probe in probes if (context := probe(run.model, run.step, run.optimizer)) is not None]
        for context in contexts:
            watched.enter_context(context)
        loss = run.gradients(run.parallel if contexts else run.fast)
        clip(run.training, run.optimizer)
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return run.world.mean(loss)


def has_diverged(losses: Sequence[float], since: int, training: Training) -> int | None:
    """The first update from number `since` on whose loss is lost, or none."""
    limit = training.diverged_above if training.diverged_above is not None else 2 * losses[0]
    for step, loss in enumerate(losses[since:], since):
        if not loss <= limit or math.isinf(loss):  # NaN is not below anything
            return step
    return None
