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

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError, shown

from .checkpoints import Checkpoint, latest, save_checkpoint
from .corpus import Corpus
from .ensemble_members import Members
from .ensemble_passes import FoldedAttention, Passes, Way, explain_missing_rules, write_back
from .optim import Groups, clip, default_groups, factor, make_optimizer
from .settings import Training
from .train import (
    Loss,
    Outcome,
    WithLoss,
    autocast,
    check_tokens,
    default_device,
    explain_token_errors,
    has_diverged,
    language_loss,
    make_folder,
    mean_and_error,
    seed_all,
    validation_loss,
    weights_digest,
)

Mode = Literal["auto", "batched", "loop"]

ALIKE = ("steps", "batch", "context", "micro_batch", "precision", "optimizer", "compile", "evaluate_every", "evaluate_batches")
"""Fields of :class:`Training` that members have in common. All others may differ."""


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
        way = found.state["mode"] if found else run.passes.quickest() if mode == "auto" else mode
        run.settle(way)
        if found:
            run.restore(found)
        with run.passes.side_by_side(way):
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


class _Ensemble:
    """The state of an ensemble that is trained: its members, their optimizers, losses and evaluations."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        corpus: Corpus,
        trainings: Sequence[Training],
        groups: Sequence[Groups] | None,
        loss: Loss,
    ) -> None:
        self.trainings, self.training = list(trainings), trainings[0]
        for model in models:
            model.to(corpus.device).train()
        if groups is None:
            groups = [
                default_groups(model, one.learning_rate, one.weight_decay) for model, one in zip(models, trainings, strict=True)
            ]
        self.members = Members(models, groups, loss, corpus.device)
        self.passes = Passes(self.members, corpus, trainings)
        self.folder: Path | None = None
        self.step, self.before, self.started = 0, 0.0, time.perf_counter()
        self.losses: list[list[float]] = [[] for _ in models]
        self.evaluations: list[list[tuple[int, float, float]]] = [[] for _ in models]
        self.diverged_at: list[int | None] = [None] * len(models)
        self.warnings: list[str] = []
        self.identity = self._identify(groups)

    def _identify(self, groups: Sequence[Groups]) -> str:
        rates = [[[len(group["params"]), group["lr"], group["weight_decay"]] for group in own] for own in groups]
        shapes = [[part.name, list(part.shape)] for part in self.members.parts]
        trainings = [training.to_dict() for training in self.trainings]
        start = weights_digest([self.members.weights])
        what = {
            "trainings": trainings,
            "corpus": self.passes.corpus.identity(),
            "weights": shapes,
            "rates": rates,
            "start": start,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def update(self) -> Tensor:
        """One update of every member; returns the losses before it, on the device."""
        inputs, targets = self.passes.batch(self.step)
        if self.mode == "loop":
            self.members.gradients.zero_()

            def one(member: int) -> Tensor:
                seed_all(self.members.device, self.trainings[member].seed, self.step, 0)
                loss = self.passes.pass_alone(member, inputs[member], targets[member])
                self.move(member)
                return loss

            return torch.stack(list(self.passes.each(one, range(self.members.count))))
        seed_all(self.members.device, *(training.seed for training in self.trainings), self.step)
        found = self.passes.pass_together(inputs, targets)
        self.clip_together()
        for which in range(len(self.optimizers)):
            self.move(which)
        return found

    def settle(self, mode: Way) -> None:
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
        self.longest = None if min(limits) == math.inf else torch.tensor(limits, device=self.members.device)

    def _clips_alone(self, member: int) -> bool:
        return self.mode == "loop" or self.trainings[member].relative_clip is not None

    def _make_optimizer(self, members: Sequence[int]) -> torch.optim.Optimizer:
        """One for all stretches of some members; those that always have the same rate and decay are one group."""
        groups: dict[Hashable, dict[str, Any]] = {}
        for member in members:
            schedule = dataclasses.replace(self.trainings[member], seed=0, data_seed=0)
            for stretch in self.members.stretches[member]:
                key = (schedule, stretch["lr"], stretch["weight_decay"])
                groups.setdefault(key, {**stretch, "params": [], "training": schedule})["params"] += stretch["params"]
        return make_optimizer(self.trainings[members[0]], list(groups.values()), self.members.device)

    def clip_together(self) -> None:
        """Shrink gradients that are too long, each member's by its own length: :func:`verify.training.optim.clip` in one go."""
        if self.longest is not None:
            lengths = torch.linalg.vector_norm(self.members.gradients, dim=1)
            self.members.gradients.mul_((self.longest / (lengths + 1e-6)).clamp(max=1.0).unsqueeze(1))

    def move(self, which: int) -> None:
        """Step the members of one optimizer."""
        (first, *_), optimizer = self.optimizers[which]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor(group["training"], self.step)
        if self._clips_alone(first):
            clip(self.trainings[first], optimizer)
        optimizer.step()

    def go(self, checkpoint_every: int, on_step: Callable[[int, Tensor], None] | None) -> None:
        """Update until the steps are done or every member has diverged."""
        steps, every = self.training.steps, self.training.evaluate_every
        wait_every = 10 if self.members.device.type == "cuda" else 1
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
        if not training.evaluate_batches or len(self.passes.corpus.validation) <= training.context:
            return
        wanted = [
            member
            for member, done in enumerate(self.evaluations)
            if self.diverged_at[member] is None and not (done and done[-1][0] == self.step)
        ]
        together = self._validated_together() if wanted and self.mode == "batched" else None
        found = [together[member] for member in wanted] if together else self.passes.each(self._validated_alone, wanted)
        for member, (loss, error) in zip(wanted, found, strict=True):
            self.evaluations[member].append((self.step, loss, error))

    def _validated_alone(self, member: int) -> tuple[float, float]:
        training = self.training
        return validation_loss(
            WithLoss(self.members.models[member], self.members.loss),
            self.passes.corpus,
            training.evaluate_batches,
            training.batch,
            training.context,
            lambda: autocast(self.members.device, training.precision),
        )

    def _validated_together(self) -> list[tuple[float, float]] | None:
        """What :meth:`_validated_alone` finds of each member, in one pass a batch; nothing where only training takes one."""
        training, buffers, together = self.training, self.members.stacked_buffers, self.passes.for_all(data=None)
        batches = self.passes.corpus.validation_batches(training.evaluate_batches, training.batch, training.context)
        rows, checked = [], explain_token_errors(self.passes.corpus, training.context)
        self.members.code.eval()
        try:
            precision = autocast(self.members.device, training.precision)
            with torch.no_grad(), precision, FoldedAttention(), explain_missing_rules(), checked:
                for inputs, targets in batches:
                    row = torch.zeros(self.members.count, device=self.members.device)
                    for part, share in self.passes.in_parts(len(inputs)):  # no more at once than in training
                        losses, replaced = together(self.members.stacked, buffers, inputs[part], targets[part])
                        write_back(replaced, buffers)
                        row += losses.float() * share
                    rows.append(row)
        except InputError:
            return None
        finally:
            self.members.code.train()
        means, errors = mean_and_error(torch.stack(rows))
        return list(zip(means.tolist(), errors.tolist(), strict=True))

    def save(self) -> None:
        """A checkpoint of all members; a disk that cannot take it is a warning."""
        if self.folder is None:
            return
        tensors = {"weights": self.members.weights}
        for members, optimizer in self.optimizers:
            for member in members:
                for index, stretch in enumerate(self.members.stretches[member]):
                    for key, value in optimizer.state[stretch["params"][0]].items():
                        if isinstance(value, Tensor):
                            tensors[f"optimizer/{member}/{index}/{key}"] = value
        for member, model in enumerate(self.members.models):
            kept = model.state_dict()
            tensors |= {f"held/{member}/{name}": one for name, one in self.members.held(model).items() if name in kept}
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
            self.members.weights.copy_(found.tensors["weights"])
        owner = {member: optimizer for members, optimizer in self.optimizers for member in members}
        for name, tensor in found.tensors.items():
            if name.startswith("optimizer/"):
                _, member, index, key = name.split("/")
                stretch = self.members.stretches[int(member)][int(index)]
                owner[int(member)].state[stretch["params"][0]][key] = tensor.to(self.members.device)
        with torch.no_grad():
            for place, model in enumerate(self.members.models):
                for name, one in self.members.held(model).items():
                    if f"held/{place}/{name}" in found.tensors:
                        one.copy_(found.tensors[f"held/{place}/{name}"])
        self.step = found.step
        self.losses = [found.tensors[f"losses/{member}"].tolist() for member in range(self.members.count)]
        self.evaluations = [[(int(s), float(a), float(b)) for s, a, b in some] for some in found.state["evaluations"]]
        self.diverged_at, self.warnings = list(found.state["diverged_at"]), list(found.state["warnings"])
        self.before = found.state["seconds"]

    @property
    def seconds(self) -> float:
        """Spent so far, by all processes that worked on the ensemble one after another."""
        return self.before + time.perf_counter() - self.started

    def outcomes(self) -> list[Outcome]:
        """As things stand."""
        corpus, seconds = self.passes.corpus.identity(), self.seconds
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
