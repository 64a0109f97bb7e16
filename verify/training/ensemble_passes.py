"""Forward and backward passes of an ensemble: members one by one, concurrently in threads, or batched in one pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from depthwidth.errors import InputError

from .corpus import Corpus
from .ensemble_members import Members
from .settings import Training
from .train import WithLoss, autocast, explain_token_errors

PassMode = Literal["batched", "loop"]

# Attention under vmap. On a CPU torch has no batching rule for its fused attention kernel: it would loop over the members, with
# a warning. Instead the sequences of all members are passed to the kernel as one batch.


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """Attention whose vmap rule merges the axis of members into the batch. Autograd differentiates the call in that rule."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *options: Any) -> Tensor:
        raise RuntimeError("this function may be called inside vmap only")

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
        output = functional.scaled_dot_product_attention(query, key, value, mask, rate, causal, scale=scale, enable_gqa=grouped)
        return output.unflatten(0, (members, batch)), 0


class FoldedAttention(TorchFunctionMode):  # type: ignore[misc]
    """Replaces attention over (batch, heads, length, dim) by :class:`_Attention`."""

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


def _call_with(
    code: WithLoss, weights: dict[str, Tensor], buffers: dict[str, Tensor], *data: Tensor
) -> tuple[Any, dict[str, Tensor]]:
    """The loss with given weights and buffers, and the buffers that the pass replaced by new tensors.

    Buffers that the pass changes in place are not returned.
    """
    named = {**weights, **buffers}
    loss = functional_call(code, named, data)
    return loss, {name: named[name] for name in buffers if named[name] is not buffers[name]}


def write_back(replaced: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
    """Copy buffers that a pass has replaced into the members' buffers."""
    with torch.no_grad():
        for name, value in replaced.items():
            if value.shape != buffers[name].shape:
                raise InputError(f"train_ensemble: the shape of the buffer {name.removeprefix('model.')} changes in a pass")
            buffers[name].copy_(value)


_NO_RULE = ("vmap", "batching rule", "batched tensor")
"""Phrases, in lower case, that occur in torch's messages if vmap cannot batch an operation."""


@contextlib.contextmanager
def explain_missing_rules() -> Iterator[None]:
    """Replace torch's error about an operation that vmap cannot batch by an InputError of one sentence."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not any(words in str(error).lower() for words in _NO_RULE):
            raise
        reason = " ".join(str(error).split()).removeprefix("vmap: ").split(". ")[0].rstrip(".")
        raise InputError(f"train_ensemble: these models cannot be batched into one pass; use mode='loop' ({reason})") from error


class Passes:
    """Forward and backward passes of an ensemble's members on one corpus."""

    def __init__(self, members: Members, corpus: Corpus, trainings: Sequence[Training]) -> None:
        self.members, self.corpus, self.training = members, corpus, trainings[0]
        self.seeds = torch.tensor([one.data_seed for one in trainings], device=members.device)
        self.each: Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]] = map
        self._alone: Callable[[int, Tensor, Tensor], Tensor] | None = None
        self._batched: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor] | None = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of all members, each of shape (members, batch, context)."""
        return self.corpus.batch(self.seeds, step, self.training.batch, self.training.context)

    def micro_batches(self, rows: int) -> Iterator[tuple[slice, float]]:
        """Split `rows` into micro-batches; yields the rows of each and its fraction of all rows."""
        size = min(self.training.micro_batch or rows, rows)
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            yield slice(start, stop), (stop - start) / rows

    def pass_alone(self, member: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward and backward passes of one member; returns its mean loss, shape ()."""
        if self._alone is None:
            self._alone = self._make_alone(self.training.compile)
        total = torch.zeros((), device=self.members.device)
        for part, share in self.micro_batches(self.training.batch):
            with (
                autocast(self.members.device, self.training.precision),
                explain_token_errors(self.corpus, self.training.context),
            ):
                loss = self._alone(member, inputs[part], targets[part])
            weighted = loss if share == 1 else loss * share
            weighted.backward()
            total += weighted.detach()
        return total

    def pass_together(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward and backward passes of all members at once; returns their mean losses, shape (members,).

        The backward pass starts from the sum of the losses, so each member receives the gradient of its own loss.
        """
        if self._batched is None:
            self._batched = self._make_batched(self.training.compile)
        total = torch.zeros(self.members.count, device=self.members.device)
        for part, share in self.micro_batches(self.training.batch):
            checked = explain_token_errors(self.corpus, self.training.context)
            with autocast(self.members.device, self.training.precision), explain_missing_rules(), checked:
                losses = self._batched(self.members.stacked, inputs[:, part], targets[:, part])
            weighted = losses if share == 1 else losses * share
            # Not backward(): autograd warns if the memory layout of .grad differs from its own, as it does for these views.
            gradients = torch.autograd.grad(weighted.sum(), list(self.members.stacked.values()), materialize_grads=True)
            (torch._foreach_add_ if part.start else torch._foreach_copy_)(self.members.stacked_gradients, gradients)
            total += weighted.detach()
        return total

    def _make_alone(self, compile: bool) -> Callable[[int, Tensor, Tensor], Tensor]:  # noqa: A002, torch's name
        if not compile:
            return lambda member, inputs, targets: self.members.loss(self.members.models[member], inputs, targets)
        code = self.members.code
        weights, buffers = (
            [{f"model.{name}": one for name, one in getattr(model, kind)()} for model in self.members.models]
            for kind in ("named_parameters", "named_buffers")
        )

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
            return _call_with(code, weights, buffers, inputs, targets)

        # Because the weights are arguments, one compiled graph serves all members. The C++ wrapper holds Python's global lock
        # only at the start and the end of a call, so members in several threads do not wait for each other.
        graph = torch.compile(one, options={"cpp_wrapper": True} if self.members.device.type == "cpu" else None)

        def alone(member: int, inputs: Tensor, targets: Tensor) -> Any:
            loss, replaced = graph(weights[member], buffers[member], inputs, targets)
            write_back(replaced, buffers[member])
            return loss

        return alone

    def vmap_pass(self, data: int | None) -> Callable[..., Any]:
        """The forward pass of all members at once.

        `data` is the members' axis of inputs and targets; None if all members share them.
        """
        code = self.members.code

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
            return _call_with(code, {f"model.{name}": weight for name, weight in weights.items()}, buffers, inputs, targets)

        return vmap(one, in_dims=(0, 0, data, data), randomness="different")  # type: ignore[no-any-return]

    def _make_batched(
        self,
        compile: bool,  # noqa: A002, torch's name
    ) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
        buffers, together = self.members.stacked_buffers, self.vmap_pass(data=0)

        def eager(weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
            with FoldedAttention():
                losses, replaced = together(weights, buffers, inputs, targets)
            write_back(replaced, buffers)
            return losses

        if not compile:
            return eager
        graphs: dict[torch.Size, Callable[..., Tensor]] = {}

        def compiled(weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            if inputs.shape not in graphs:
                from torch.fx.experimental.proxy_tensor import make_fx  # slow to import and needed here only

                # Trace vmap away first: the compiler supports attention, but not the vmap rule above. Tracing runs a pass.
                with self.trial():
                    graph = make_fx(eager)(weights, inputs, targets)
                # On a GPU this also records CUDA graphs, whose outputs are overwritten by the next call: hence the clone below.
                graphs[inputs.shape] = torch.compile(
                    graph, mode="reduce-overhead" if self.members.device.type == "cuda" else None
                )
            return graphs[inputs.shape](weights, inputs, targets).clone()

        return compiled

    @contextlib.contextmanager
    def member_threads(self, mode: PassMode) -> Iterator[None]:
        """Context in which ``each`` runs members concurrently; torch's threads are divided evenly among them.

        It does so in ``loop`` mode on a CPU, unless a pass draws random numbers. If there are at least as many members as
        threads, each member has one thread, and losses are bitwise independent of the number of threads.
        """
        threads = torch.get_num_threads()
        workers = min(threads, self.members.count)
        if mode == "batched" or workers == 1 or self.members.device.type != "cpu" or self._draws_random_numbers:
            yield
            return
        torch.set_num_threads(threads // workers)  # some of torch's thread settings are per process, so set it here as well
        try:
            if self.training.compile and self._alone is None:
                with self.trial():
                    self.pass_alone(0, *(part[0] for part in self.batch(0)))  # compile once, before the threads start
            with ThreadPoolExecutor(workers, "member", torch.set_num_threads, (threads // workers,)) as pool:
                self.each = pool.map
                yield
        finally:
            self.each = map
            torch.set_num_threads(threads)

    @cached_property
    def _draws_random_numbers(self) -> bool:
        """True if a forward pass changes the state of torch's random generator."""
        before = torch.default_generator.get_state()
        with self.trial(), torch.no_grad():
            self.members.loss(self.members.models[0], *(part[0] for part in self.batch(0)))
        return not torch.equal(before, torch.default_generator.get_state())

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        """Context for passes that are not part of training: buffers are restored at the end."""
        buffers = [
            (part._buffers, name, buffer, buffer.clone())
            for model in self.members.models
            for part in model.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        try:
            yield
        finally:
            for place, name, buffer, before in buffers:
                place[name] = buffer.copy_(before)  # a pass may have replaced the buffer by another tensor

    def fastest_mode(self) -> PassMode:
        """The mode whose forward and backward passes take less time, uncompiled: the best of three alternating trials of each.

        On a GPU it is ``batched`` without timing. It is ``loop`` if the models cannot be batched.
        """
        on_cpu = self.members.device.type == "cpu"
        if self.members.count == 1 and on_cpu:
            return "loop"
        inputs, targets = self.batch(0)
        seconds: dict[PassMode, list[float]] = {"batched": [], "loop": []}
        # With one thread, processor time equals wall-clock time on an idle machine, and other processes do not distort it.
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

        def one(member: int) -> Tensor:
            return self.pass_alone(member, inputs[member], targets[member])

        try:
            self._alone, self._batched = self._make_alone(False), self._make_batched(False)
            for _ in range(3 if on_cpu else 1):
                for mode, times in seconds.items():
                    with self.trial(), self.member_threads(mode):
                        start = clock()
                        if mode == "batched":
                            self.pass_together(inputs, targets)
                            if not on_cpu:
                                return "batched"
                        else:
                            list(self.each(one, range(self.members.count)))
                        times.append(clock() - start)
        except InputError:
            return "loop"
        finally:
            self._alone = self._batched = None
        return min(seconds, key=lambda mode: min(seconds[mode]))
