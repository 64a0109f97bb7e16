"""A proxy of the time to generate one token: bytes read, operations, sequential branches and collective calls.

The work of a step is counted exactly from the tree. Its time is a roofline of that work, plus a fixed time for each residual
branch and each collective call. All of it also runs on arrays of shapes (:mod:`depthwidth.planning.candidates`).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..architecture.number_formats import bits_of, judged_dtype
from ..checks import check_whole
from ..errors import InputError
from ..formulas.serving import allreduce_seconds, roofline_seconds, touched_experts
from ..layers import Layer
from ..values import frozen
from .accelerators import Accelerator
from .parallelism import ONE_DEVICE, Parallelism, TrainingSetup, cache_bytes, stages_of, training_memory

BRANCH_SECONDS = 5e-6
"""Time that each residual branch takes beyond the roofline: a few small kernels one after the other. A guess of ours, not
measured; compare shapes rather than believe it."""
CALL_SECONDS = 1e-5
"""Time of a collective call of few bytes inside a node. A guess of ours."""
GUESSES = {"branch_seconds": BRANCH_SECONDS, "call_seconds": CALL_SECONDS}
"""The parts of an estimated time that are guesses, for readers of the numbers without their page."""


@frozen
class Overheads:
    """Seconds that a residual branch and a collective call take beyond the roofline."""

    branch: float = BRANCH_SECONDS
    call: float = CALL_SECONDS

    def __post_init__(self) -> None:
        for name in ("branch", "call"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"latency: {name}={value} is not a number of seconds in [0, 1)")


class DecodeWork(NamedTuple):
    """The work of one step of generation, along the path of a token: of one tensor-parallel device, all stages together.

    The numbers may be arrays.
    """

    weight_bytes: Any
    cache_bytes: Any
    flops: Any
    branches: Any
    """Residual branches, one after the other; parallel branches count once."""
    calls: Any
    """Collective calls, one after the other."""
    call_bytes: Any
    """Bytes on each device in one of them."""
    devices: int
    """Tensor-parallel devices."""

    @property
    def moved(self) -> Any:
        """Bytes read."""
        return self.weight_bytes + self.cache_bytes


class DecodeTime(NamedTuple):
    """Seconds of one step of generation; they sum to the total."""

    roofline: Any
    branches: Any
    calls: Any

    @property
    def total(self) -> Any:
        """The sum."""
        return self.roofline + self.branches + self.calls


def decode_time(work: DecodeWork, device: Accelerator, dtype: str = "bf16", overheads: Overheads | None = None) -> DecodeTime:
    """The time of a step on an accelerator.

    Parameters
    ----------
    work : the step's work, of numbers or arrays.
    device : the accelerator.
    dtype : number format of the weights, which chooses the peak.
    overheads : times of branches and calls.

    Returns
    -------
    Seconds, a lower bound but for the fixed times, which are guesses.
    """
    overheads = overheads or Overheads()
    roofline = roofline_seconds.body(work.moved, work.flops, device.bandwidth, device.peak(dtype))
    each = allreduce_seconds.body(work.call_bytes, work.devices, device.link, overheads.call)
    return DecodeTime(roofline, overheads.branch * work.branches, work.calls * each)


def decode_work(
    tree: Transformer,
    parallelism: Parallelism | None = None,
    *,
    context: int | None = None,
    batch: int = 1,
    dtype: str = "bf16",
    cache_dtype: str | None = None,
) -> DecodeWork:
    """The work of generating one token for each of `batch` sequences, after `context` tokens of each.

    Parameters
    ----------
    tree : the whole transformer.
    parallelism : tensor, pipeline and expert parallelism; a step passes through all stages one after the other.
    context, batch : tokens that each sequence has, and sequences of one replica.
    dtype : number format of the weights.
    cache_dtype : number format of keys and values; by default `dtype`, or bf16 if that is for weights only.

    Raises
    ------
    InputError
        if the model is an encoder or has two stacks, or cannot be divided so.

    Examples
    --------
    >>> gpt2 = Transformer(depth=12, width=768, heads=12, vocab=50257, context=1024)
    >>> work = decode_work(gpt2)
    >>> work.weight_bytes == 2 * (gpt2.parameters - 1024 * 768), work.cache_bytes == gpt2.kv_cache_bytes(), work.branches
    (True, True, 24)
    """
    if tree.kind != "decoder":
        raise InputError(f"generation by a model with kind {tree.kind!r} is not counted; give a decoder")
    check_whole("latency", batch=batch)
    parallelism = parallelism or ONE_DEVICE
    own, run, stages = stages_of(tree, parallelism, context=context, batch=batch)
    parts = [part for stage in stages for part in stage]
    read = cache = 0.0
    flops, branches, mixtures = Fraction(0), 0, 0
    for part in parts:
        if part.site != "stem" and not (part.site == "stem.tokens" and len(stages) > 1):
            read += part.active * _read_values(part.layer, batch, parallelism.expert)
        elif part.site == "stem":
            read += part.layer.parameters - part.layer.embedding_parameters  # rows of tables are looked up
        cache += part.active * part.layer.cache_values(part.run)
        flops += Fraction(part.active * part.layer.flops(part.run), run.tokens)
        if part.features:
            branches += part.active * (1 if part.layer.parallel else len(part.layer.branches))  # type: ignore[attr-defined]
            mixtures += part.active * (part.layer.as_mixture is not None)
    head = own.language_head
    if head is not None and head.unembedding.tied:
        read += head.unembedding.vocab * head.unembedding.width
    calls = branches + 2 if parallelism.tensor > 1 else 0  # one a branch, the embedding's, the logits'
    calls += 2 * mixtures if parallelism.expert > 1 else 0  # tokens to experts and back
    calls += parallelism.pipeline - 1
    return DecodeWork(
        weight_bytes=read * bits_of(dtype) / 8,
        cache_bytes=cache * bits_of(cache_dtype or judged_dtype(dtype)) / 8,
        flops=float(flops),
        branches=branches,
        calls=calls,
        call_bytes=batch * tree.width * bits_of(judged_dtype(dtype)) / 8,
        devices=parallelism.tensor,
    )


def _read_values(layer: Layer, batch: int, spread: int) -> float:
    """Weights that one pass of a batch reads on a device, of experts those that a token chooses."""
    total = float(layer.own_parameters)
    for child in layer.children():
        copies = float(min(child.copies, child.active))
        if child.name in layer.routed_parts:
            copies = float(touched_experts.body(child.copies, child.active, batch * spread)) / spread
        total += copies * _read_values(child.layer, batch, spread)
    return total


def serving_rows(
    tree: Transformer,
    devices: list[Accelerator],
    parallelism: Parallelism | None = None,
    overheads: Overheads | None = None,
    *,
    context: int | None = None,
    batch: int = 1,
    dtype: str = "bf16",
    cache_dtype: str | None = None,
) -> list[dict[str, Any]]:
    """One row for each accelerator: time of a step and its parts, tokens per second, memory and whether it suffices.

    Arguments are those of :func:`decode_work` and :func:`decode_time`. `memory` is the weights and the cache of the fullest
    device; activations, a few megabytes in generation, are left out.
    """
    parallelism = parallelism or ONE_DEVICE
    lengths: dict[str, Any] = {"context": context, "batch": batch}
    work = decode_work(tree, parallelism, dtype=dtype, cache_dtype=cache_dtype, **lengths)
    held = training_memory(tree, replace(parallelism, zero=0), TrainingSetup(dtype=dtype), context=context, batch=batch)
    weights = max(stage.weights for stage in held.stages)
    cache = cache_bytes(tree, parallelism, dtype=cache_dtype or judged_dtype(dtype), **lengths)
    rows = []
    for device in devices:
        time = decode_time(work, device, dtype, overheads)
        reads = work.moved / device.bandwidth
        rows.append(
            {
                "accelerator": device.name,
                "seconds": time.total,
                **time._asdict(),
                "bound": "memory" if time.roofline == reads else "arithmetic",
                "tokens_per_second": batch / time.total,
                "memory": weights + cache,
                "fits": weights + cache <= device.memory,
            }
        )
    return rows
