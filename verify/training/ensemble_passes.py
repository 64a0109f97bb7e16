"""Passes through the members of an ensemble: one by one, side by side in threads, or all in one program."""

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

Way = Literal["batched", "loop"]

# Attention under vmap. On a CPU torch has no rule that takes its fused kernel to a batch of batches: it goes through members
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


class FoldedAttention(TorchFunctionMode):  # type: ignore[misc]
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


def _called(
    code: WithLoss, weights: dict[str, Tensor], buffers: dict[str, Tensor], *data: Tensor
) -> tuple[Any, dict[str, Tensor]]:
    """The loss by these weights and buffers, and the buffers that the pass has replaced; others are changed in place."""
    named = {**weights, **buffers}
    loss = functional_call(code, named, data)
    return loss, {name: named[name] for name in buffers if named[name] is not buffers[name]}


def write_back(replaced: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
    """Copy the buffers that a pass has replaced into those that members hold."""
    with torch.no_grad():
        for name, value in replaced.items():
            if value.shape != buffers[name].shape:
                raise InputError(f"train_ensemble: the buffer {name.removeprefix('model.')} changes its shape")
            buffers[name].copy_(value)


_NO_RULE = ("vmap", "batching rule", "batched tensor")
"""In what torch says, in any case, where it cannot take an operation to several members at once."""


@contextlib.contextmanager
def explain_missing_rules() -> Iterator[None]:
    """Turn torch's error about models that cannot go through one pass together into one sentence."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not any(words in str(error).lower() for words in _NO_RULE):
            raise
        reason = " ".join(str(error).split()).removeprefix("vmap: ").split(". ")[0].rstrip(".")
        raise InputError(f"train_ensemble: such models do not go through one pass; take mode='loop' ({reason})") from error


class Passes:
    """Forward and backward passes of an ensemble's members on one corpus."""

    def __init__(self, members: Members, corpus: Corpus, trainings: Sequence[Training]) -> None:
        self.members, self.corpus, self.training = members, corpus, trainings[0]
        self.seeds = torch.tensor([one.data_seed for one in trainings], device=members.device)
        self.each: Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]] = map
        self._alone: Callable[[int, Tensor, Tensor], Tensor] | None = None
        self._batched: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor] | None = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of all members: (members, batch, context) each."""
        return self.corpus.batch(self.seeds, step, self.training.batch, self.training.context)

    def in_parts(self, rows: int) -> Iterator[tuple[slice, float]]:
        """Micro-batches of so many rows, each with its share of them."""
        size = min(self.training.micro_batch or rows, rows)
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            yield slice(start, stop), (stop - start) / rows

    def pass_alone(self, member: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward and back through one member."""
        if self._alone is None:
            self._alone = self._make_alone(self.training.compile)
        total = torch.zeros((), device=self.members.device)
        for part, share in self.in_parts(self.training.batch):
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
        """Forward and back through all members at once: their losses are summed, so that each has its own gradient."""
        if self._batched is None:
            self._batched = self._make_batched(self.training.compile)
        total = torch.zeros(self.members.count, device=self.members.device)
        for part, share in self.in_parts(self.training.batch):
            checked = explain_token_errors(self.corpus, self.training.context)
            with autocast(self.members.device, self.training.precision), explain_missing_rules(), checked:
                losses = self._batched(self.members.stacked, inputs[:, part], targets[:, part])
            weighted = losses if share == 1 else losses * share
            # autograd would warn that these gradients, rows apart, are not laid out as it likes.
            found = torch.autograd.grad(weighted.sum(), list(self.members.stacked.values()), materialize_grads=True)
            (torch._foreach_add_ if part.start else torch._foreach_copy_)(self.members.stacked_gradients, found)
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
            return _called(code, weights, buffers, inputs, targets)

        # Of weights that are arguments there is one graph for all members. In C++ it needs Python, which members that go side
        # by side would queue for, only at its ends.
        graph = torch.compile(one, options={"cpp_wrapper": True} if self.members.device.type == "cpu" else None)

        def alone(member: int, inputs: Tensor, targets: Tensor) -> Any:
            loss, replaced = graph(weights[member], buffers[member], inputs, targets)
            write_back(replaced, buffers[member])
            return loss

        return alone

    def for_all(self, data: int | None) -> Callable[..., Any]:
        """One member's pass, for all at once; `data` is the axis along which they have inputs and targets of their own."""
        code = self.members.code

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Any:
            return _called(code, {f"model.{name}": weight for name, weight in weights.items()}, buffers, inputs, targets)

        return vmap(one, in_dims=(0, 0, data, data), randomness="different")  # type: ignore[no-any-return]

    def _make_batched(
        self,
        compile: bool,  # noqa: A002, torch's name
    ) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
        buffers, together = self.members.stacked_buffers, self.for_all(data=0)

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
                from torch.fx.experimental.proxy_tensor import make_fx  # loads much that is only needed here

                # vmap is traced away first, as the compiler knows attention but not its rule above. Tracing is a pass as well.
                with self.trial():
                    graph = make_fx(eager)(weights, inputs, targets)
                # On a GPU this also records CUDA graphs, which keep their outputs in one place.
                graphs[inputs.shape] = torch.compile(
                    graph, mode="reduce-overhead" if self.members.device.type == "cuda" else None
                )
            return graphs[inputs.shape](weights, inputs, targets).clone()

        return compiled

    @contextlib.contextmanager
    def side_by_side(self, mode: Literal["batched", "loop"]) -> Iterator[None]:
        """Meanwhile ``each`` gives members to threads of their own, with an even share of torch's threads each.

        With one thread a member, which is so from as many members as threads on, losses do not depend on how many threads
        there are, to the last bit.
        """
        threads = torch.get_num_threads()
        crew = min(threads, self.members.count)
        if mode == "batched" or crew == 1 or self.members.device.type != "cpu" or self._draws:
            yield
            return
        torch.set_num_threads(threads // crew)  # in part this counts for all of the process, so here as well
        try:
            if self.training.compile and self._alone is None:
                with self.trial():
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
        with self.trial(), torch.no_grad():
            self.members.loss(self.members.models[0], *(part[0] for part in self.batch(0)))
        return not torch.equal(before, torch.default_generator.get_state())

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        """Passes inside leave buffers as they were; gradients are none of an update's."""
        held = [
            (part._buffers, name, buffer, buffer.clone())
            for model in self.members.models
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
        on_cpu = self.members.device.type == "cpu"
        if self.members.count == 1 and on_cpu:
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
                    with self.trial(), self.side_by_side(mode):
                        start = clock()
                        if mode == "batched":
                            self.pass_together(inputs, targets)
                            if not on_cpu:
                                return "batched"
                        else:
                            list(self.each(one, range(self.members.count)))
                        taken.append(clock() - start)
        except InputError:
            return "loop"
        finally:
            self._alone = self._batched = None
        return min(seconds, key=lambda mode: min(seconds[mode]))
