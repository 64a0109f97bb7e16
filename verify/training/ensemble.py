"""Several models of one shape trained in one program: seeds, learning rates, initialisations, each as if it ran alone.

    outcomes = train_ensemble([build(tree, seed=s) for s in range(16)], corpus, [Training(learning_rate=r) for r in rates])

All weights lie in one matrix, a row a member; the members' own parameters are views of it. Two ways to go through a step give
the same losses to rounding, which grows with the updates where training is chaotic (docs/training.md has the figures):

- ``batched``: one forward and backward pass with the members as an axis of every tensor (``torch.func.vmap`` over
  ``functional_call``; products become ``bmm``, attention takes members as more sequences). For what is short of work: a GPU, or
  few tokens a step.
- ``loop``: member after member, its weights, gradients and optimizer in cache while it is on. For a CPU whose cores a single
  member already fills: where torch has several threads, members go side by side, each with its share of them, since products of
  small models gain much less from a second thread than from a second member.

``auto`` tries both for a few passes and takes the quicker one; on a GPU it is ``batched`` wherever that can run the models.

Buffers that a pass changes (running means of a batch norm) are each member's own in both. What ``torch.func.vmap`` cannot take,
such as a mixture of experts that decides from its data how large a tensor is, goes through ``loop`` only.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from depthwidth.errors import InputError, shown

from .checkpoints import Checkpoint, latest, save_checkpoint
from .corpus import Corpus
from .optim import Groups, clip, default_groups, factor, make_optimizer
from .train import (
    Loss,
    Outcome,
    Training,
    WithLoss,
    autocast,
    check_tokens,
    default_device,
    has_diverged,
    language_loss,
    make_folder,
    mean_and_error,
    said_of_tokens,
    seed_all,
    validation_loss,
    weights_digest,
)

Mode = Literal["auto", "batched", "loop"]

ALIKE = ("steps", "batch", "context", "micro_batch", "precision", "optimizer", "compile", "evaluate_every", "evaluate_batches")
"""Fields of :class:`Training` that members have in common. All others may differ."""


# Attention under vmap. On a CPU torch has no rule that takes its fused kernel to a batch of batches and goes through members
# one by one, with a warning. Sequences of several members are simply more sequences.


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """Attention whose vmap takes the members' axis as more sequences. Autograd sees what vmap calls, not this."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *options: Any) -> Tensor:
        raise RuntimeError("only meant for inside of vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
        (*inputs, mask), (rate, causal, scale, grouped) = arguments[:4], arguments[4:]
        members, batch = info.batch_size, 0
        for i, dim in enumerate(dims[:3]):
            whole = inputs[i].expand(members, *inputs[i].shape) if dim is None else inputs[i].movedim(dim, 0)
            inputs[i], batch = whole.flatten(0, 1), whole.shape[1]
        if mask is not None and (dims[3] is not None or mask.dim() == 4):
            mask = mask.expand(members, *mask.shape) if dims[3] is None else mask.movedim(dims[3], 0)
            mask = mask[(slice(None), *[None] * (5 - mask.dim()))]
            mask = mask.expand(members, batch, *mask.shape[2:]).flatten(0, 1)
        query, key, value = inputs
        found = functional.scaled_dot_product_attention(query, key, value, mask, rate, causal, scale=scale, enable_gqa=grouped)
        return found.unflatten(0, (members, batch)), 0


class _FoldedAttention(TorchFunctionMode):  # type: ignore[misc]
    """Sends attention over (batch, heads, length, dim) to :class:`_Attention`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention and args[0].dim() == 4:
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    return _Attention.apply(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


# The members, row by row.


def train_ensemble(
    models: Sequence[nn.Module],
    corpus: Corpus,
    trainings: Sequence[Training],
    *,
    mode: Mode = "auto",
    folder: str | Path | None = None,
    checkpoint_every: int = 0,
    groups: Sequence[Groups] | None = None,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> list[Outcome]:
    """Train models of one shape together, in place; the outcomes are those of training each alone, to rounding.

    Parameters
    ----------
    models : one a member; equal names and shapes of weights, and equal code. Weights may start as they like.
    corpus : that all read, each at places by its own ``data_seed``.
    trainings : one a member, or one for all; alike in steps, batch, context, precision, optimizer, compilation and evaluation,
        free in learning rate, decay, schedule, clipping and seeds.
    mode : ``batched``, ``loop`` or ``auto``; see the module. With dropout, ``batched`` draws other numbers than a run alone.
        ``auto`` is ``loop`` for models that ``batched`` cannot run.
    folder, checkpoint_every : as in :func:`verify.training.train.train`: a killed ensemble goes on from its last checkpoint,
    in the same
        mode, and on a CPU ends bit for bit the same.
    groups : for each member its parameters with their own ``lr`` and ``weight_decay``
        (:func:`verify.models.initialize.parameter_groups`).
    loss, device : as in :func:`verify.training.train.train`. On a CPU the loss is called from several threads at once where
    members go
        side by side: unless the models draw random numbers, as dropout does, which must come in one order.
    on_step : called after each update with the number of updates done and the losses, of shape (members,), on the device.

    Returns
    -------
    One outcome a member. ``seconds`` is the ensemble's; ``tokens`` the member's own.

    Raises
    ------
    InputError
        if members are not alike or have nothing to train, the corpus holds tokens that they do not know, the folder holds
        another ensemble or cannot be one, or ``batched`` is asked for and cannot run the models.
    """
    trainings = [trainings] * len(models) if isinstance(trainings, Training) else list(trainings)
    _check_alike(models, trainings)
    for model in models if loss is None else ():
        check_tokens(model, corpus)
    place = default_device(device)
    if mode not in ("auto", "batched", "loop"):
        raise InputError(f"train_ensemble: mode={shown(mode)} is not one of auto, batched, loop")
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        run = _Ensemble(models, corpus.to(place), trainings, groups, loss or language_loss(models[0]))
        run.folder = None if folder is None else Path(folder)
        found = run.saved()
        if run.folder is not None and found is None:
            make_folder(run.folder)
        way = found.state["mode"] if found else run.quickest() if mode == "auto" else mode
        run.settle(way)
        if found:
            run.restore(found)
        with run.side_by_side(way):
            run.go(checkpoint_every or max(run.training.steps // 10, 1), on_step)
    return run.outcomes()


def _check_alike(models: Sequence[nn.Module], trainings: Sequence[Training]) -> None:
    if not models or len(models) != len(trainings):
        raise InputError(f"train_ensemble: {len(models)} models and {len(trainings)} trainings do not pair up")
    for training in trainings[1:]:
        for name in ALIKE:
            if getattr(training, name) != getattr(trainings[0], name):
                raise InputError(f"train_ensemble: members differ in {name}, which they must have in common")
    shapes = [[(name, tuple(p.shape)) for name, p in model.named_parameters()] for model in models]
    if any(some != shapes[0] for some in shapes[1:]):
        raise InputError("train_ensemble: members have weights of different names or shapes; train those by themselves")
    if len({id(parameter) for model in models for parameter in model.parameters()}) != sum(map(len, shapes)):
        raise InputError("train_ensemble: a weight belongs to two members")


@dataclass
class _Part:
    """Where one weight lies in a row."""

    name: str
    shape: torch.Size
    start: int
    stop: int

    def of(self, matrix: Tensor) -> Tensor:
        """The weight in every row: (members, *shape)."""
        return matrix[:, self.start : self.stop].unflatten(1, self.shape) if self.shape else matrix[:, self.start]


def _called(
    code: WithLoss, weights: dict[str, Tensor], buffers: dict[str, Tensor], *data: Tensor
) -> tuple[Any, dict[str, Tensor]]:
    """The loss by these weights and buffers, and the buffers that the pass has replaced; others are changed in place."""
    named = {**weights, **buffers}
    loss = functional_call(code, named, data)
    return loss, {name: named[name] for name in buffers if named[name] is not buffers[name]}


def _write_back(replaced: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in replaced.items():
            if value.shape != buffers[name].shape:
                raise InputError(f"train_ensemble: the buffer {name.removeprefix('model.')} changes its shape")
            buffers[name].copy_(value)


_NO_RULE = ("vmap", "batching rule", "batched tensor")
"""In what torch says, in any case, where it cannot take an operation to several members at once."""


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Says it in a sentence where models cannot go through one pass together."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not any(words in str(error).lower() for words in _NO_RULE):
            raise
        reason = " ".join(str(error).split()).removeprefix("vmap: ").split(". ")[0].rstrip(".")
        raise InputError(f"train_ensemble: such models do not go through one pass; take mode='loop' ({reason})") from error


class _Ensemble:
    """The state of an ensemble."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        corpus: Corpus,
        trainings: Sequence[Training],
        groups: Sequence[Groups] | None,
        loss: Loss,
    ) -> None:
        self.models, self.corpus, self.trainings, self.loss = list(models), corpus, list(trainings), loss
        self.training, self.device, self.members = trainings[0], corpus.device, len(models)
        for model in models:
            model.to(self.device).train()
        if groups is None:
            groups = [
                default_groups(model, one.learning_rate, one.weight_decay) for model, one in zip(models, trainings, strict=True)
            ]
        self._lay_out(groups)
        self.seeds = torch.tensor([one.data_seed for one in trainings], device=self.device)
        self.folder: Path | None = None
        self.step, self.before, self.started = 0, 0.0, time.perf_counter()
        self.losses: list[list[float]] = [[] for _ in models]
        self.evaluations: list[list[tuple[int, float, float]]] = [[] for _ in models]
        self.diverged_at: list[int | None] = [None] * self.members
        self.warnings: list[str] = []
        self.identity = self._identify(groups)
        self.each: Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]] = map
        self._alone: Callable[[int, Tensor, Tensor], Tensor] | None = None
        self._batched: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor] | None = None

    def _lay_out(self, groups: Sequence[Groups]) -> None:
        """One row a member, weights of one group of the first member side by side; optimizers take whole stretches."""
        first = dict(self.models[0].named_parameters())
        names = {id(parameter): name for name, parameter in first.items()}
        order = [names[id(parameter)] for group in groups[0] for parameter in group["params"]]
        if not order:
            raise InputError("train_ensemble: the models have no parameter to train")
        self.parts, start = [], 0
        for name in order:
            size = first[name].numel()
            self.parts.append(_Part(name, first[name].shape, start, start + size))
            start += size
        self.weights = torch.empty(self.members, start, device=self.device, dtype=first[order[0]].dtype)
        self.gradients = torch.zeros_like(self.weights)
        self.stretches: list[Groups] = []
        for member, (model, own) in enumerate(zip(self.models, groups, strict=True)):
            parameters = dict(model.named_parameters())
            rate = {id(p): (group["lr"], group["weight_decay"]) for group in own for p in group["params"]}
            if len(rate) > len(order):
                raise InputError(f"train_ensemble: member {member} trains weights that the first one does not")
            stretches: list[list[Any]] = []
            for part in self.parts:
                parameter = parameters[part.name]
                if id(parameter) not in rate:
                    raise InputError(f"train_ensemble: member {member} does not train {part.name}, and others do")
                with torch.no_grad():
                    row = self.weights[member, part.start : part.stop].view(part.shape)
                    row.copy_(parameter)
                    parameter.data = row
                    parameter.grad = self.gradients[member, part.start : part.stop].view(part.shape)
                if stretches and stretches[-1][2] == rate[id(parameter)]:
                    stretches[-1][1] = part.stop
                else:
                    stretches.append([part.start, part.stop, rate[id(parameter)]])
            taken: Groups = []
            for begin, end, (lr, decay) in stretches:
                stretch = self.weights[member, begin:end].requires_grad_()
                stretch.grad = self.gradients[member, begin:end]
                taken.append({"params": [stretch], "lr": lr, "weight_decay": decay})
            self.stretches.append(taken)
        self.stacked = {part.name: part.of(self.weights).detach().requires_grad_() for part in self.parts}
        self.stacked_gradients = [part.of(self.gradients) for part in self.parts]

    def _identify(self, groups: Sequence[Groups]) -> str:
        rates = [[[len(group["params"]), group["lr"], group["weight_decay"]] for group in own] for own in groups]
        shapes = [[part.name, list(part.shape)] for part in self.parts]
        trainings = [training.to_dict() for training in self.trainings]
        start = weights_digest([self.weights])
        what = {"trainings": trainings, "corpus": self.corpus.identity(), "weights": shapes, "rates": rates, "start": start}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    # One update.

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of all members: (members, batch, context) each."""
        return self.corpus.batch(self.seeds, step, self.training.batch, self.training.context)

    def update(self) -> Tensor:
        """One update of every member; returns the losses before it, on the device."""
        inputs, targets = self.batch(self.step)
        if self.mode == "loop":
            self.gradients.zero_()

            def one(member: int) -> Tensor:
                seed_all(self.device, self.trainings[member].seed, self.step, 0)
                loss = self.pass_alone(member, inputs[member], targets[member])
                self.move(member)
                return loss

            return torch.stack(list(self.each(one, range(self.members))))
        seed_all(self.device, *(training.seed for training in self.trainings), self.step)
        found = self.pass_together(inputs, targets)
        self.clip_together()
        for which in range(len(self.optimizers)):
            self.move(which)
        return found

    def settle(self, mode: Literal["batched", "loop"]) -> None:
        """Fix the way through a step, and make the optimizers for it.

        In ``loop`` each member has its own. In ``batched`` members that differ in nothing but rates, schedules and longest
        gradient share one: on a GPU it counts how many calls an update makes, and with some a member they outlast the pass.
        """
        self.mode = mode
        sharing: dict[Hashable, list[int]] = {}
        for member, training in enumerate(self.trainings):
            alike = (training.beta1, training.beta2, training.epsilon, training.momentum)
            sharing.setdefault(member if self._clips_alone(member) else alike, []).append(member)
        self.optimizers = [(members, self._make_optimizer(members)) for members in sharing.values()]
        limits = [
            math.inf if training.clip is None or self._clips_alone(member) else training.clip
            for member, training in enumerate(self.trainings)
        ]
        self.longest = None if min(limits) == math.inf else torch.tensor(limits, device=self.device)

    def _clips_alone(self, member: int) -> bool:
        return self.mode == "loop" or self.trainings[member].relative_clip is not None

    def _make_optimizer(self, members: Sequence[int]) -> torch.optim.Optimizer:
        """One for all stretches of some members; those that always have the same rate and decay are one group."""
        groups: dict[Hashable, dict[str, Any]] = {}
        for member in members:
            schedule = dataclasses.replace(self.trainings[member], seed=0, data_seed=0)
            for stretch in self.stretches[member]:
                key = (schedule, stretch["lr"], stretch["weight_decay"])
                groups.setdefault(key, {**stretch, "params": [], "training": schedule})["params"] += stretch["params"]
        return make_optimizer(self.trainings[members[0]], list(groups.values()), self.device)

    def clip_together(self) -> None:
        """Shrink gradients that are too long, each member's by its own length: :func:`verify.training.optim.clip` in one go."""
        if self.longest is not None:
            lengths = torch.linalg.vector_norm(self.gradients, dim=1)
            self.gradients.mul_((self.longest / (lengths + 1e-6)).clamp(max=1.0).unsqueeze(1))

    def move(self, which: int) -> None:
        """Step the members of one optimizer."""
        (first, *_), optimizer = self.optimizers[which]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor(group["training"], self.step)
        if self._clips_alone(first):
            clip(self.trainings[first], optimizer)
        optimizer.step()

    def _in_parts(self, rows: int) -> Iterator[tuple[slice, float]]:
        size = min(self.training.micro_batch or rows, rows)
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            yield slice(start, stop), (stop - start) / rows

    def pass_alone(self, member: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward and back through one member."""
        if self._alone is None:
            self._alone = self._make_alone(self.training.compile)
        total = torch.zeros((), device=self.device)
        for part, share in self._in_parts(self.training.batch):
            with autocast(self.device, self.training.precision), said_of_tokens(self.corpus, self.training.context):
                loss = self._alone(member, inputs[part], targets[part])
            weighted = loss if share == 1 else loss * share
            weighted.backward()
            total += weighted.detach()
        return total

    def pass_together(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward and back through all members at once: their losses are summed, so that each has its own gradient."""
        if self._batched is None:
            self._batched = self._make_batched(self.training.compile)
        total = torch.zeros(self.members, device=self.device)
        for part, share in self._in_parts(self.training.batch):
            said = said_of_tokens(self.corpus, self.training.context)
            with autocast(self.device, self.training.precision), _said(), said:
                losses = self._batched(self.stacked, inputs[:, part], targets[:, part])
            weighted = losses if share == 1 else losses * share
            # autograd would warn that these gradients, rows apart, are not laid out as it likes.
            found = torch.autograd.grad(weighted.sum(), list(self.stacked.values()), materialize_grads=True)
            (torch._foreach_add_ if part.start else torch._foreach_copy_)(self.stacked_gradients, found)
            total += weighted.detach()
        return total

    @cached_property
    def _code(self) -> WithLoss:
        """The first member's code and the loss, to be called with anyone's weights; those that are tied stay one."""
        empty: dict[int, Any] = {id(one): nn.Parameter(one.to("meta")) for one in self.models[0].parameters()}
        return WithLoss(copy.deepcopy(self.models[0], empty), self.loss)

    def _held(self, model: nn.Module) -> dict[str, Tensor]:
        """What a model has beside the weights that are trained, by name."""
        trained = {part.name for part in self.parts}
        still = {name: one for name, one in model.named_parameters() if name not in trained}
        return {**still, **dict(model.named_buffers())}

    @cached_property
    def _stacked_buffers(self) -> dict[str, Tensor]:
        """Each buffer, and each weight that is not trained, of all members: (members, *shape).

        The members' own become views of it, so that what a pass writes there (running means) is theirs. One that never changes
        costs nothing.
        """
        named = [self._held(model) for model in self.models]
        shapes = [{name: (buffer.shape, buffer.dtype) for name, buffer in some.items()} for some in named]
        if any(some != shapes[0] for some in shapes[1:]):
            raise InputError("train_ensemble: members have buffers of different names or shapes; take mode='loop'")
        _ = self._code  # copies the first member, while its buffers are its own
        stacked = {}
        for name in named[0]:
            stacked[f"model.{name}"] = torch.stack([some[name].detach() for some in named])
            for some, row in zip(named, stacked[f"model.{name}"], strict=True):
                some[name].data = row
        return stacked

    def _make_alone(self, compile: bool) -> Callable[[int, Tensor, Tensor], Tensor]:  # noqa: A002, torch's name
        if not compile:
            return lambda member, inputs, targets: self.loss(self.models[member], inputs, targets)
        code = self._code
        weights, buffers = (
            [{f"model.{name}": one for name, one in getattr(model, kind)()} for model in self.models]
            for kind in ("named_parameters", "named_buffers")
        )

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
            return _called(code, weights, buffers, inputs, targets)

        # Of weights that are arguments there is one graph for all members. In C++ it needs Python, which members that go side
        # by side would queue for, only at its ends.
        graph = torch.compile(one, options={"cpp_wrapper": True} if self.device.type == "cpu" else None)

        def alone(member: int, inputs: Tensor, targets: Tensor) -> Any:
            loss, replaced = graph(weights[member], buffers[member], inputs, targets)
            _write_back(replaced, buffers[member])
            return loss

        return alone

    def _for_all(self, data: int | None) -> Callable[..., Any]:
        """One member's pass, for all at once; `data` is the axis along which they have inputs and targets of their own."""
        code = self._code

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
            return _called(code, {f"model.{name}": weight for name, weight in weights.items()}, buffers, inputs, targets)

        return vmap(one, in_dims=(0, 0, data, data), randomness="different")  # type: ignore[no-any-return]

    def _make_batched(
        self,
        compile: bool,  # noqa: A002, torch's name
    ) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
        buffers, together = self._stacked_buffers, self._for_all(data=0)

        def eager(weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
            with _FoldedAttention():
                losses, replaced = together(weights, buffers, inputs, targets)
            _write_back(replaced, buffers)
            return losses

        if not compile:
            return eager
        graphs: dict[torch.Size, Callable[..., Tensor]] = {}

        def compiled(weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            if inputs.shape not in graphs:
                from torch.fx.experimental.proxy_tensor import make_fx  # loads much that is only needed here

                # vmap is traced away first, as the compiler knows attention but not its rule above. Tracing is a pass as well.
                with self._trial():
                    graph = make_fx(eager)(weights, inputs, targets)
                # On a GPU this also records CUDA graphs, which keep their outputs in one place.
                graphs[inputs.shape] = torch.compile(graph, mode="reduce-overhead" if self.device.type == "cuda" else None)
            return graphs[inputs.shape](weights, inputs, targets).clone()

        return compiled

    @contextlib.contextmanager
    def side_by_side(self, mode: Literal["batched", "loop"]) -> Iterator[None]:
        """Meanwhile ``each`` gives members to threads of their own, with an even share of torch's threads each.

        With one thread a member, which is so from as many members as threads on, losses do not depend on how many threads
        there are, to the last bit.
        """
        threads = torch.get_num_threads()
        crew = min(threads, self.members)
        if mode == "batched" or crew == 1 or self.device.type != "cpu" or self._draws:
            yield
            return
        torch.set_num_threads(threads // crew)  # in part this counts for all of the process, so here as well
        try:
            if self.training.compile and self._alone is None:
                with self._trial():
                    self.pass_alone(0, *(part[0] for part in self.batch(0)))  # else each would compile
            with ThreadPoolExecutor(crew, "member", torch.set_num_threads, (threads // crew,)) as pool:
                self.each = pool.map
                yield
        finally:
            self.each = map
            torch.set_num_threads(threads)

    @cached_property
    def _draws(self) -> bool:
        """Whether a pass draws random numbers."""
        before = torch.default_generator.get_state()
        with self._trial(), torch.no_grad():
            self.loss(self.models[0], *(part[0] for part in self.batch(0)))
        return not torch.equal(before, torch.default_generator.get_state())

    @contextlib.contextmanager
    def _trial(self) -> Iterator[None]:
        """Passes inside leave buffers as they were; gradients are none of an update's."""
        held = [
            (part._buffers, name, buffer, buffer.clone())
            for model in self.models
            for part in model.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        try:
            yield
        finally:
            for place, name, buffer, before in held:
                place[name] = buffer.copy_(before)  # a pass may have put another tensor in its place

    def quickest(self) -> Literal["batched", "loop"]:
        """Whichever takes less time for forward and back, the better of three tries of each in turn, not compiled.

        On a GPU it is ``batched``, if that goes; ``loop`` where it does not.
        """
        on_cpu = self.device.type == "cpu"
        if self.members == 1 and on_cpu:
            return "loop"
        inputs, targets = self.batch(0)
        seconds: dict[Literal["batched", "loop"], list[float]] = {"batched": [], "loop": []}
        # One thread's processor time is its wall clock on an idle machine, and still right on a busy one.
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

        def one(member: int) -> Tensor:
            return self.pass_alone(member, inputs[member], targets[member])

        try:
            self._alone, self._batched = self._make_alone(False), self._make_batched(False)
            for _ in range(3 if on_cpu else 1):
                for mode, taken in seconds.items():
                    with self._trial(), self.side_by_side(mode):
                        start = clock()
                        if mode == "batched":
                            self.pass_together(inputs, targets)
                            if not on_cpu:
                                return "batched"
                        else:
                            list(self.each(one, range(self.members)))
                        taken.append(clock() - start)
        except InputError:
            return "loop"
        finally:
            self._alone = self._batched = None
        return min(seconds, key=lambda mode: min(seconds[mode]))

    # All updates.

    def go(self, checkpoint_every: int, on_step: Callable[[int, Tensor], None] | None) -> None:
        """Update until the steps are done or every member has diverged."""
        steps, every = self.training.steps, self.training.evaluate_every
        wait_every = 10 if self.device.type == "cuda" else 1
        pending: list[Tensor] = []
        while self.step < steps and not all(at is not None for at in self.diverged_at):
            if every and self.step % every == 0:
                self.evaluate()
            pending.append(self.update())
            self.step += 1
            if on_step is not None:
                on_step(self.step, pending[-1])
            at_checkpoint = self.step % checkpoint_every == 0
            if len(pending) >= wait_every or at_checkpoint or self.step == steps:
                self.take(torch.stack(pending, dim=1).tolist())
                pending.clear()
                if at_checkpoint and self.step < steps:
                    self.save()
        if self.step == steps:
            self.evaluate()
        self.save()

    def take(self, rows: list[list[float]]) -> None:
        """Losses that have become known, a row a member; those behind a member's divergence are forgotten."""
        for member, row in enumerate(rows):
            if self.diverged_at[member] is None:
                known = len(self.losses[member])
                self.losses[member] += row
                at = has_diverged(self.losses[member], known, self.trainings[member])
                if at is not None:
                    self.diverged_at[member] = at
                    del self.losses[member][at + 1 :]

    def evaluate(self) -> None:
        """Validation loss of every member that has not diverged."""
        training = self.training
        if not training.evaluate_batches or len(self.corpus.validation) <= training.context:
            return
        wanted = [
            member
            for member, done in enumerate(self.evaluations)
            if self.diverged_at[member] is None and not (done and done[-1][0] == self.step)
        ]
        together = self._validated_together() if wanted and self.mode == "batched" else None
        found = [together[member] for member in wanted] if together else self.each(self._validated_alone, wanted)
        for member, (loss, error) in zip(wanted, found, strict=True):
            self.evaluations[member].append((self.step, loss, error))

    def _validated_alone(self, member: int) -> tuple[float, float]:
        training = self.training
        return validation_loss(
            WithLoss(self.models[member], self.loss),
            self.corpus,
            training.evaluate_batches,
            training.batch,
            training.context,
            lambda: autocast(self.device, training.precision),
        )

    def _validated_together(self) -> list[tuple[float, float]] | None:
        """What :meth:`_validated_alone` finds of each member, in one pass a batch; nothing where only training takes one."""
        training, buffers, together = self.training, self._stacked_buffers, self._for_all(data=None)
        batches = self.corpus.validation_batches(training.evaluate_batches, training.batch, training.context)
        rows, said = [], said_of_tokens(self.corpus, training.context)
        self._code.eval()
        try:
            with torch.no_grad(), autocast(self.device, training.precision), _FoldedAttention(), _said(), said:
                for inputs, targets in batches:
                    row = torch.zeros(self.members, device=self.device)
                    for part, share in self._in_parts(len(inputs)):  # no more at once than in training
                        losses, replaced = together(self.stacked, buffers, inputs[part], targets[part])
                        _write_back(replaced, buffers)
                        row += losses.float() * share
                    rows.append(row)
        except InputError:
            return None
        finally:
            self._code.train()
        means, errors = mean_and_error(torch.stack(rows))
        return list(zip(means.tolist(), errors.tolist(), strict=True))

    # What is saved.

    def save(self) -> None:
        """A checkpoint of all members; a disk that cannot take it is a warning."""
        if self.folder is None:
            return
        tensors = {"weights": self.weights}
        for members, optimizer in self.optimizers:
            for member in members:
                for index, stretch in enumerate(self.stretches[member]):
                    for key, value in optimizer.state[stretch["params"][0]].items():
                        if isinstance(value, Tensor):
                            tensors[f"optimizer/{member}/{index}/{key}"] = value
        for member, model in enumerate(self.models):
            kept = model.state_dict()
            tensors |= {f"held/{member}/{name}": one for name, one in self._held(model).items() if name in kept}
        for member, losses in enumerate(self.losses):
            tensors[f"losses/{member}"] = torch.tensor(losses, dtype=torch.float64)
        state = {
            "identity": self.identity,
            "mode": self.mode,
            "evaluations": [[[step, str(a), str(b)] for step, a, b in some] for some in self.evaluations],
            "diverged_at": self.diverged_at,
            "seconds": self.seconds,
            "warnings": self.warnings,
        }
        try:
            save_checkpoint(self.folder, self.step, tensors, state)
        except OSError as error:
            self.warnings.append(f"no checkpoint after {self.step} updates: {error.strerror or error}")

    def saved(self) -> Checkpoint | None:
        """The last checkpoint in the folder, if there is one."""
        found = None if self.folder is None else latest(self.folder)
        if found is not None and found.state["identity"] != self.identity:
            raise InputError(f"{self.folder} holds another ensemble: give this one a folder of its own")
        return found

    def restore(self, found: Checkpoint) -> None:
        """Go to a checkpoint."""
        with torch.no_grad():
            self.weights.copy_(found.tensors["weights"])
        owner = {member: optimizer for members, optimizer in self.optimizers for member in members}
        for name, tensor in found.tensors.items():
            if name.startswith("optimizer/"):
                _, member, index, key = name.split("/")
                stretch = self.stretches[int(member)][int(index)]
                owner[int(member)].state[stretch["params"][0]][key] = tensor.to(self.device)
        with torch.no_grad():
            for place, model in enumerate(self.models):
                for name, one in self._held(model).items():
                    if f"held/{place}/{name}" in found.tensors:
                        one.copy_(found.tensors[f"held/{place}/{name}"])
        self.step = found.step
        self.losses = [found.tensors[f"losses/{member}"].tolist() for member in range(self.members)]
        self.evaluations = [[(int(s), float(a), float(b)) for s, a, b in some] for some in found.state["evaluations"]]
        self.diverged_at, self.warnings = list(found.state["diverged_at"]), list(found.state["warnings"])
        self.before = found.state["seconds"]

    @property
    def seconds(self) -> float:
        """Spent so far, by all processes that worked on the ensemble one after another."""
        return self.before + time.perf_counter() - self.started

    def outcomes(self) -> list[Outcome]:
        """As things stand."""
        corpus, seconds = self.corpus.identity(), self.seconds
        return [
            Outcome(
                "finished" if self.diverged_at[member] is None else "diverged",
                len(self.losses[member]),
                tuple(self.losses[member]),
                tuple(self.evaluations[member]),
                len(self.losses[member]) * training.batch * training.context,
                seconds,
                self.diverged_at[member],
                corpus,
                training.to_dict(),
                tuple(self.warnings),
            )
            for member, training in enumerate(self.trainings)
        ]
