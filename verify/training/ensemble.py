"""Ensembles: several models of one shape trained in one process, with the losses that each would have alone.

    outcomes = train_ensemble([build(tree, seed=s) for s in range(16)], corpus, [Training(learning_rate=r) for r in rates])

Members may differ in seeds, learning rates and initial weights. All weights are in one matrix with a row per member; the
members' parameters are views of it. Two modes give the same losses up to rounding; if training is chaotic, the difference grows
with the number of updates (figures in docs/training.md):

- ``batched``: one forward and one backward pass in which every tensor has an axis for the members (``torch.func.vmap`` over
  ``functional_call``; matrix products become ``bmm``, and attention treats members as additional sequences). It suits hardware
  that one member cannot keep busy: a GPU, or any device with few tokens per step.
- ``loop``: one member after another, with its weights, gradients and optimizer state in cache. It suits a CPU that one member
  keeps busy. If torch has several threads, members run concurrently and share the threads, because the matrix products of small
  models gain less from a second thread than from a second member.

``auto`` times a few passes of both modes and uses the faster one; on a GPU it uses ``batched`` if that can run the models.

In both modes each member has its own buffers (for example the running means of a batch norm). Models that ``torch.func.vmap``
cannot run need ``loop``: for example a mixture of experts, whose tensor sizes depend on its data.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError, shown
from depthwidth.progress import during

from .checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from .corpus import Corpus
from .ensemble_members import Members
from .ensemble_optim import MemberOptimizers
from .ensemble_passes import FoldedAttention, Passes, PassMode, explain_missing_rules, write_back
from .optim import Groups, default_groups
from .settings import Training
from .train import (
    Loss,
    Outcome,
    Stages,
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
"""Fields of :class:`Training` that must be equal for all members. All others may differ."""


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
    stages: Stages | None = None,
    device: torch.device | str | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> list[Outcome]:
    """Train models of one shape together, in place. Up to rounding, each has the outcome of training alone.

    Parameters
    ----------
    models : one per member, with the same code and the same names and shapes of weights. Initial weights may differ.
    corpus : tokens that all members read; each chooses its windows by its own ``data_seed``.
    trainings : one per member, or one for all. Fields in :data:`ALIKE` must be equal; learning rate, weight decay, schedule,
        clipping and seeds may differ.
    mode : ``batched``, ``loop`` or ``auto``; see the module. With dropout, ``batched`` draws other random numbers than a single
        run does. ``auto`` uses ``loop`` for models that ``batched`` cannot run.
    folder, checkpoint_every : as in :func:`verify.training.train.train`. If an ensemble is killed, it resumes from its last
        checkpoint in the same mode; on a CPU the results are bitwise the same.
    groups : for each member, parameter groups with their own ``lr`` and ``weight_decay``
        (:func:`verify.models.initialize.parameter_groups`).
    loss, device : as in :func:`verify.training.train.train`. A custom loss must be thread-safe: if members run concurrently on
        a CPU, several threads call it. If the models draw random numbers (dropout), members run one after another, to keep the
        order of the draws.
    stages : as in :func:`verify.training.train.train`, for all members; not for compiled models.
    on_step : called after each update with the number of updates so far and the losses, shape (members,), on the device.

    Returns
    -------
    One outcome per member. ``seconds`` is the time of the whole ensemble; ``tokens`` counts those of the member.

    Raises
    ------
    InputError
        if the members differ or have no trainable parameters, the corpus contains tokens outside their vocabulary, the
        folder contains another ensemble or is not a writable folder, or mode is ``batched`` and cannot run the models.
    """
    trainings = [trainings] * len(models) if isinstance(trainings, Training) else list(trainings)
    _check_alike(models, trainings)
    for model in models if loss is None else ():
        check_tokens(model, corpus)
    place = default_device(device)
    if mode not in ("auto", "batched", "loop"):
        raise InputError(f"train_ensemble: mode={shown(mode)} is not one of auto, batched, loop")
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        run = _Ensemble(models, corpus.to(place), trainings, groups, loss or language_loss(models[0]), stages)
        run.folder = None if folder is None else Path(folder)
        checkpoint = run.find_checkpoint()
        if run.folder is not None and checkpoint is None:
            make_folder(run.folder)
        run.enter_stage()
        chosen = checkpoint.state["mode"] if checkpoint else run.passes.fastest_mode() if mode == "auto" else mode
        run.set_mode(chosen)
        if checkpoint:
            run.restore(checkpoint)
        with run.passes.member_threads(chosen), during(done=lambda: run.step / run.training.steps, facts=run.facts):
            run.update_all(checkpoint_every or max(run.training.steps // 10, 1), on_step)
    return run.outcomes()


def _check_alike(models: Sequence[nn.Module], trainings: Sequence[Training]) -> None:
    if not models or len(models) != len(trainings):
        given = f"{len(models)} models and {len(trainings)} trainings"
        raise InputError(f"train_ensemble: there are {given}; give at least one model, and one training per model")
    for training in trainings[1:]:
        for name in ALIKE:
            if getattr(training, name) != getattr(trainings[0], name):
                raise InputError(f"train_ensemble: members differ in {name}, which must be equal for all")
    shapes = [[(name, tuple(p.shape)) for name, p in model.named_parameters()] for model in models]
    if any(other != shapes[0] for other in shapes[1:]):
        raise InputError("train_ensemble: members have weights of different names or shapes; train them separately")
    if len({id(parameter) for model in models for parameter in model.parameters()}) != sum(map(len, shapes)):
        raise InputError("train_ensemble: a weight belongs to two members")


class _Ensemble:
    """The state of an ensemble in training: its members, their optimizers, losses and evaluations."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        corpus: Corpus,
        trainings: Sequence[Training],
        groups: Sequence[Groups] | None,
        loss: Loss,
        stages: Stages | None = None,
    ) -> None:
        self.trainings, self.training, self.stages = list(trainings), trainings[0], stages
        if stages is not None and self.training.compile:
            raise InputError("train_ensemble: stages change the models, of which a compiled graph knows nothing; compile=False")
        for model in models:
            model.to(corpus.device).train()
        if groups is None:
            groups = [
                default_groups(model, one.learning_rate, one.weight_decay) for model, one in zip(models, trainings, strict=True)
            ]
        self.members = Members(models, groups, loss, corpus.device)
        self.passes = Passes(self.members, corpus, trainings)
        self.folder: Path | None = None
        self.step, self.earlier_seconds, self.started = 0, 0.0, time.perf_counter()
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
        what |= {} if self.stages is None else {"stages": self.stages.to_dict()}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def enter_stage(self) -> None:
        """Bring all members into the form of the next update."""
        if self.stages is not None:
            for model in (*self.members.models, self.members.code.model):
                self.stages.apply(model, self.step)

    def update(self) -> Tensor:
        """One update of every member; returns the losses computed before it, shape (members,), on the device."""
        inputs, targets = self.passes.batch(self.step)
        if self.mode == "loop":
            self.members.gradients.zero_()

            def one(member: int) -> Tensor:
                seed_all(self.members.device, self.trainings[member].seed, self.step, 0)
                loss = self.passes.pass_alone(member, inputs[member], targets[member])
                self.optimizers.step(member, self.step)
                return loss

            return torch.stack(list(self.passes.each(one, range(self.members.count))))
        seed_all(self.members.device, *(training.seed for training in self.trainings), self.step)
        losses = self.passes.pass_together(inputs, targets)
        self.optimizers.step_together(self.step)
        return losses

    def set_mode(self, mode: PassMode) -> None:
        """Set the mode, ``batched`` or ``loop``, and make its optimizers."""
        self.mode = mode
        self.optimizers = MemberOptimizers(self.members, self.trainings, mode)

    def update_all(self, checkpoint_every: int, on_step: Callable[[int, Tensor], None] | None) -> None:
        """Update until all steps are done or every member has diverged."""
        steps, every = self.training.steps, self.training.evaluate_every
        wait_every = 10 if self.members.device.type == "cuda" else 1
        pending: list[Tensor] = []
        while self.step < steps and not all(at is not None for at in self.diverged_at):
            self.enter_stage()
            if every and self.step % every == 0:
                self.evaluate()
            pending.append(self.update())
            self.step += 1
            if on_step is not None:
                on_step(self.step, pending[-1])
            at_checkpoint = self.step % checkpoint_every == 0
            if len(pending) >= wait_every or at_checkpoint or self.step == steps:
                self.record_losses(torch.stack(pending, dim=1).tolist())
                pending.clear()
                if at_checkpoint and self.step < steps:
                    self.save()
        if self.step == steps:
            self.enter_stage()
            self.evaluate()
        self.save()

    def facts(self) -> dict[str, float]:
        """Step and mean loss of the members, for the display of progress."""
        losses = [its[-1] for its in self.losses if its]
        return {"step": self.step, "steps": self.training.steps, **({"loss": sum(losses) / len(losses)} if losses else {})}

    def record_losses(self, rows: list[list[float]]) -> None:
        """Append new losses, one row per member; losses after a member's divergence are dropped."""
        for member, row in enumerate(rows):
            if self.diverged_at[member] is None:
                known = len(self.losses[member])
                self.losses[member] += row
                at = has_diverged(self.losses[member], known, self.trainings[member])
                if at is not None:
                    self.diverged_at[member] = at
                    del self.losses[member][at + 1 :]

    def evaluate(self) -> None:
        """Evaluate the validation loss of every member that has not diverged and has not been evaluated at this step."""
        training = self.training
        if not training.evaluate_batches or len(self.passes.corpus.validation) <= training.context:
            return
        pending = [
            member
            for member, done in enumerate(self.evaluations)
            if self.diverged_at[member] is None and not (done and done[-1][0] == self.step)
        ]
        together = self._validation_losses() if pending and self.mode == "batched" else None
        found = [together[member] for member in pending] if together else self.passes.each(self._validation_loss, pending)
        for member, (loss, error) in zip(pending, found, strict=True):
            self.evaluations[member].append((self.step, loss, error))

    def _validation_loss(self, member: int) -> tuple[float, float]:
        training = self.training
        return validation_loss(
            WithLoss(self.members.models[member], self.members.loss),
            self.passes.corpus,
            training.evaluate_batches,
            training.batch,
            training.context,
            lambda: autocast(self.members.device, training.precision),
        )

    def _validation_losses(self) -> list[tuple[float, float]] | None:
        """:meth:`_validation_loss` of all members in one pass per batch; None if vmap cannot run the models in this mode."""
        training, buffers, together = self.training, self.members.stacked_buffers, self.passes.vmap_pass(data=None)
        batches = self.passes.corpus.validation_batches(training.evaluate_batches, training.batch, training.context)
        rows, checked = [], explain_token_errors(self.passes.corpus, training.context)
        self.members.code.eval()
        try:
            precision = autocast(self.members.device, training.precision)
            with torch.no_grad(), precision, FoldedAttention(), explain_missing_rules(), checked:
                for inputs, targets in batches:
                    row = torch.zeros(self.members.count, device=self.members.device)
                    for part, share in self.passes.micro_batches(len(inputs)):  # no more rows at once than in training
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
        """Write a checkpoint of all members; if that fails, add a warning."""
        if self.folder is None:
            return
        tensors = {"weights": self.members.weights, **self.optimizers.state()}
        for member, model in enumerate(self.members.models):
            saved = model.state_dict()
            fixed = self.members.fixed_tensors(model)
            tensors |= {f"held/{member}/{name}": tensor for name, tensor in fixed.items() if name in saved}
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

    def find_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint in the folder, or None."""
        found = None if self.folder is None else latest_checkpoint(self.folder)
        if found is not None and found.state["identity"] != self.identity:
            raise InputError(f"{self.folder} contains another ensemble; choose another folder")
        return found

    def restore(self, found: Checkpoint) -> None:
        """Restore the state saved in a checkpoint."""
        with torch.no_grad():
            self.members.weights.copy_(found.tensors["weights"])
        self.optimizers.restore(found.tensors)
        with torch.no_grad():
            for place, model in enumerate(self.members.models):
                for name, tensor in self.members.fixed_tensors(model).items():
                    if f"held/{place}/{name}" in found.tensors:
                        tensor.copy_(found.tensors[f"held/{place}/{name}"])
        self.step = found.step
        self.losses = [found.tensors[f"losses/{member}"].tolist() for member in range(self.members.count)]
        self.evaluations = [[(int(s), float(a), float(b)) for s, a, b in some] for some in found.state["evaluations"]]
        self.diverged_at, self.warnings = list(found.state["diverged_at"]), list(found.state["warnings"])
        self.earlier_seconds = found.state["seconds"]

    @property
    def seconds(self) -> float:
        """Time spent so far, summed over all processes that resumed the ensemble."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def outcomes(self) -> list[Outcome]:
        """The outcomes of the updates made so far, one per member."""
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
