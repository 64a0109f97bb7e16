"""Training memory of each device under data, tensor, sequence, pipeline and expert parallelism, ZeRO and adapters.

Counts are those of the tree that a device holds: :meth:`~depthwidth.layers.Layer.sharded` divides features as Megatron-LM does,
stages of a pipeline hold runs of blocks, ZeRO divides the copies that data-parallel devices share. Every number is a whole
number of bytes, that of the fullest device.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from ..architecture import RECOMPUTE, Transformer
from ..architecture.number_formats import bits_of
from ..checks import check_choice, check_whole
from ..errors import InputError, nearest, shown
from ..layers import Embedding, Layer, Run, Stack
from ..layers.tensor import KINDS, Kind, Tensor
from ..values import frozen
from .optimizers import OPTIMIZERS

ADAPTED = {"all": (), "attention": ("query", "key", "value", "out"), "query-value": ("query", "value")}
"""The maps of blocks that get adapters of low rank, by name, as kinds of their matrices; ``all`` but the routers."""

MOST_STAGES = 10_000
"""Largest number of stages of a pipeline: time and result grow with each."""


@frozen
class Parallelism:
    """The division of one training among devices.

    Parameters
    ----------
    data : replicas, each of which reads its own sequences.
    tensor : devices that divide heads, hidden features and the vocabulary (Shoeybi et al. 2019, arXiv 1909.08053).
    sequence : whether those also divide the tokens of what has the features of the residual stream (Korthikanti et al. 2022).
    pipeline : stages, each a run of blocks, with the 1F1B schedule (Narayanan et al. 2021, arXiv 2104.04473).
    microbatches : micro-batches of a step, of which a stage holds as many as there are stages from it to the last; by default
        at least so many.
    expert : data-parallel devices that divide the experts of mixtures; loads are taken as equal.
    zero : stage of ZeRO: 0, or 1 to divide optimiser states among replicas, 2 gradients too, 3 weights too (as FSDP).
    context : devices that divide the tokens of each sequence and pass keys and values round a ring (Liu, Zaharia, Abbeel 2023,
        arXiv 2310.01889). They hold the same weights, so that ZeRO divides its states among them as well.

    Raises
    ------
    InputError
        if a number is not a positive whole number, or they do not fit together.
    """

    data: int = 1
    tensor: int = 1
    sequence: bool = False
    pipeline: int = 1
    microbatches: int | None = None
    expert: int = 1
    zero: int = 0
    context: int = 1

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("data", "tensor", "expert", "context")}
        check_whole("parallelism", largest=2**20, **counts)
        check_whole("parallelism", largest=MOST_STAGES, pipeline=self.pipeline)
        if self.microbatches is not None:
            check_whole("parallelism", microbatches=self.microbatches)
        if self.zero not in (0, 1, 2, 3) or isinstance(self.zero, bool):
            raise InputError(f"parallelism: zero={shown(self.zero)} is not a stage of ZeRO, 0 to 3")
        if self.data % self.expert:
            raise InputError(
                f"parallelism: expert={self.expert} does not divide data={self.data}; experts are divided among replicas"
            )
        if self.sequence and self.tensor == 1:
            raise InputError("parallelism: sequence parallelism divides tokens among tensor-parallel devices; give tensor > 1")

    @property
    def devices(self) -> int:
        """All devices."""
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def replicas(self) -> int:
        """Devices that hold the same weights: replicas of the data, and those that divide a sequence."""
        return self.data * self.context

    def in_flight(self, stage: int) -> int:
        """Micro-batches whose activations a stage holds at once; stages count from 0."""
        most = self.pipeline - stage
        return most if self.microbatches is None else min(most, self.microbatches)

    def __str__(self) -> str:
        parts = [f"{getattr(self, name)} {name}-parallel" for name in ("data", "tensor", "pipeline", "expert", "context")
                 if getattr(self, name) > 1]  # fmt: skip
        parts += ["sequence-parallel"] * self.sequence + [f"ZeRO stage {self.zero}"] * (self.zero > 0)
        return ", ".join(parts) or "one device"


ONE_DEVICE = Parallelism()


@frozen
class TrainingSetup:
    """The trained and kept tensors: optimiser, number formats, recomputation, frozen weights.

    Parameters
    ----------
    optimizer : one of :data:`~depthwidth.hardware.optimizers.OPTIMIZERS`.
    dtype : number format of weights and activations.
    gradients : number format of gradients; by default that of the weights. Megatron-LM accumulates them in ``fp32``.
    master : whether the optimiser keeps a float32 copy of weights in fewer bits.
    recompute : ``none``, ``selective`` (scores of attention) or ``full`` (blocks, of which only inputs are kept).
    fused : whether the attention kernel keeps no scores.
    lora : rank of adapters on frozen weights (Hu et al. 2021, arXiv 2106.09685); None to train the weights themselves.
    lora_on : the maps of blocks that get adapters, one of :data:`ADAPTED`.
    frozen : sites of components that are not trained, as ``describe`` lists them.
    frozen_dtype : number format of weights that are not trained (QLoRA: ``int4``); by default `dtype`.

    Raises
    ------
    InputError
        if a name is unknown or the rank is not a positive whole number.
    """

    optimizer: str = "adamw"
    dtype: str = "bf16"
    gradients: str | None = None
    master: bool = True
    recompute: str = "none"
    fused: bool = True
    lora: int | None = None
    lora_on: str = "all"
    frozen: tuple[str, ...] = ()
    frozen_dtype: str | None = None

    def __post_init__(self) -> None:
        check_choice("training", tuple(OPTIMIZERS), optimizer=self.optimizer)
        check_choice("training", RECOMPUTE, recompute=self.recompute)
        check_choice("training", tuple(ADAPTED), lora_on=self.lora_on)
        for dtype in (self.dtype, self.gradients, self.frozen_dtype):
            if dtype is not None:
                bits_of(dtype)
        if self.lora is not None:
            check_whole("training", lora=self.lora)
        if self.frozen_dtype is not None and self.lora is None and not self.frozen:
            raise InputError("training: frozen_dtype has no meaning if all weights are trained; give lora or frozen")


class DeviceMemory(NamedTuple):
    """Bytes of one device in training, by content; temporary buffers and fragmentation are left out."""

    weights: int
    gradients: int
    master: int
    """The optimiser's float32 copy of the weights."""
    optimizer: int
    """The optimiser's own states."""
    activations: int
    gathered: int = 0
    """Under stage 3 of ZeRO: the whole weights of two blocks, one in use and one on its way, and the gradients of one."""
    stage: int = 0
    """The stage of the pipeline, from 0."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by content."""
        names = ("weights", "gradients", "master", "optimizer", "activations", "gathered")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, int]:
        """The parts, their sum, and the stage."""
        return {**self.parts(), "total": self.total, "stage": self.stage}


class ParallelMemory(NamedTuple):
    """Bytes of a device of each stage of the pipeline."""

    stages: tuple[DeviceMemory, ...]
    parallelism: Parallelism
    setup: TrainingSetup
    trained: int
    """Weights that are trained, adapters included."""

    @property
    def fullest(self) -> DeviceMemory:
        """The device that holds most."""
        return max(self.stages, key=lambda device: device.total)

    @property
    def total(self) -> int:
        """Bytes of the fullest device."""
        return self.fullest.total

    @property
    def everywhere(self) -> int:
        """Bytes of all devices together, each counted as the fullest of its stage."""
        group = self.parallelism.devices // self.parallelism.pipeline
        return group * sum(device.total for device in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **self.fullest.to_dict(),
            "devices": self.parallelism.devices,
            "trained_parameters": self.trained,
            "stages": [device.to_dict() for device in self.stages],
        }


def training_memory(
    tree: Transformer,
    parallelism: Parallelism | None = None,
    setup: TrainingSetup | None = None,
    *,
    context: int | None = None,
    source: int | None = None,
    batch: int = 1,
) -> ParallelMemory:
    """Bytes of each device in training.

    Parameters
    ----------
    tree : the whole transformer.
    parallelism : the devices; one by default.
    setup : trained weights and kept states; AdamW in bfloat16 with float32 states by default.
    context, source, batch : lengths, and sequences of one micro-batch on each replica.

    Raises
    ------
    InputError
        if heads, hidden features, blocks or experts cannot be divided so, or a frozen site is not in the tree.

    Examples
    --------
    >>> gpt2 = Transformer(depth=12, width=768, heads=12, vocab=50257, context=1024)
    >>> found = training_memory(gpt2, Parallelism(tensor=2, sequence=True))
    >>> found.total == sum(found.fullest.parts().values()), found.total < training_memory(gpt2).total
    (True, True)
    """
    parallelism, setup = parallelism or ONE_DEVICE, setup or TrainingSetup()
    _check_frozen(tree, setup)
    _check_experts(tree, parallelism.expert)
    conventions: dict[str, Any] = {
        "batch": batch, "value_bytes": max(1, bits_of(setup.dtype) // 8), "fused": setup.fused,
        "rescored": setup.recompute == "selective",
    }  # fmt: skip
    if parallelism.context > 1:
        context = _share_of_sequence(tree, parallelism, context, conventions)
    own, run, stages = stages_of(tree, parallelism, context=context, source=source, **conventions)
    shared = own.own_saved(run)  # the output of an encoder, which every cross-attention reads
    known: dict[Any, _Device] = {}
    devices = (
        known.setdefault(tuple((p.site, id(p.layer), p.copies) for p in stage), _Device(stage, parallelism, setup, shared))
        for stage in stages
    )
    memory = tuple(device.memory(number) for number, device in enumerate(devices))
    whole = (held for stage in _stages(tree, run, 1) for held in _held_tensors(stage, setup))
    return ParallelMemory(memory, parallelism, setup, sum(one.values for one in whole if one.trained))


def _share_of_sequence(tree: Transformer, parallelism: Parallelism, context: int | None, conventions: dict[str, Any]) -> int:
    """The tokens of one of the devices that divide a sequence.

    If activations are in proportion to the tokens, a device keeps those of so many; a block of keys and values that passes by
    is a temporary buffer.
    """
    devices = parallelism.context
    if tree.stem.images or len(tree.stacks) > 1:
        raise InputError(f"parallelism: context={devices} divides the sequences of a language model of one stack only")
    tokens = tree.context if context is None else context
    if tokens % devices:
        raise InputError(f"parallelism: {tokens} tokens cannot be divided evenly among context={devices} devices")
    whole, share = (
        sum(part.active * part.layer.saved_bytes(part.run) for stage in found[2] for part in stage)
        for found in (stages_of(tree, parallelism, context=length, **conventions) for length in (tokens, tokens // devices))
    )
    if whole != devices * share:
        raise InputError(
            f"parallelism: context={devices} needs activations in proportion to the tokens; this model keeps others, such "
            "as the scores of unfused attention"
        )
    return tokens // devices


def cache_bytes(
    tree: Transformer,
    parallelism: Parallelism | None = None,
    *,
    context: int | None = None,
    source: int | None = None,
    batch: int = 1,
    dtype: str = "bf16",
) -> int:
    """Bytes of cached keys, values and states on the fullest device: that of the stage with most.

    Heads are divided among tensor-parallel devices, a key-value head that several devices read is on each of them; blocks are
    divided among stages. `batch` counts the sequences of one replica.

    Raises
    ------
    InputError
        if heads, hidden features or blocks cannot be divided so.
    """
    _, _, stages = stages_of(tree, parallelism or ONE_DEVICE, context=context, source=source, batch=batch)
    values = max(sum(part.active * part.layer.cache_values(part.run) for part in stage) for stage in stages)
    return -(-values * bits_of(dtype) // 8)


def stages_of(tree: Transformer, parallelism: Parallelism, **conventions: Any) -> tuple[Transformer, Run, list[list[Part]]]:
    """The tree of one tensor-parallel device, its pass, and the parts of each stage.

    `conventions` are those of :meth:`~depthwidth.architecture.length_counts.LengthCounts.run`, lengths included.
    """
    own = _shard(tree, parallelism)
    run = own.run(conventions.pop("context", None), conventions.pop("source", None), **conventions)
    return own, run, _stages(own, run, parallelism.pipeline)


def _shard(tree: Transformer, parallelism: Parallelism) -> Transformer:
    """The tree of one tensor-parallel device."""
    return tree if parallelism.tensor == 1 else tree.sharded(parallelism.tensor)


# Stages.


class Part(NamedTuple):
    """A part of a stage: copies of a component that each hold weights, and passes of each token through them."""

    site: str
    layer: Layer
    copies: int
    active: int
    run: Run
    features: int = 0
    """Features of a block's input, those of all copies of the stream; 0 if it is no block."""


def _stages(tree: Transformer, run: Run, count: int) -> list[list[Part]]:
    """The parts of each stage.

    Numbers of blocks differ by one at most; the larger stages are the last, which hold fewest micro-batches.
    """
    outside = [Part(name, child, 1, 1, tree.run_of(name, run)) for name, child in _parts_outside_stacks(tree)]
    if count == 1:
        inside = [_stack_parts(name, stack, tree.run_of(name, run)) for name, stack in tree.stacks.items()]
        return [[*outside, *(part for parts in inside for part in parts)]]
    name, stack = _divisible_stack(tree, count)
    inner = tree.run_of(name, run)
    stages = [*_block_parts(name, stack, inner, count)]
    before, after = (
        [Part(f"{name}.{c.name}", c.layer, 1, 1, stack.run_of(c.name, inner)) for c in side] for side in stack.around
    )
    stages[0] = [*(part for part in outside if part.site != "head"), *stages[0]]
    for part in before:  # a table that blocks share is on every stage; copies of the stream are made once
        for stage in stages if part.layer is stack.position else stages[:1]:
            stage.append(part)
    stages[-1] += [*after, *(part for part in outside if part.site == "head")]
    head = tree.language_head
    if head is not None and head.unembedding.tied:  # the last stage has a copy of the embedding
        copy = Embedding(head.unembedding.vocab, head.unembedding.width)
        stages[-1].append(Part("stem.tokens", copy, 1, 1, run))
    return stages


def _divisible_stack(tree: Transformer, count: int) -> tuple[str, Stack]:
    """The only stack of a tree, if its blocks can be on so many stages."""
    if len(tree.stacks) > 1:
        raise InputError("parallelism: the stages of a model of two stacks are not counted; give pipeline=1")
    ((name, stack),) = tree.stacks.items()
    if stack.sharing is not None:
        raise InputError("parallelism: blocks that share their weights cannot be on several stages; give pipeline=1")
    if stack.depth < count:
        raise InputError(f"parallelism: pipeline={count} is more than the {stack.depth} blocks")
    return name, stack


def _block_parts(name: str, stack: Stack, run: Run, count: int) -> list[list[Part]]:
    """The runs of equal blocks of each stage."""
    bounds = [stack.depth * number // count for number in range(count + 1)]
    stages: list[list[Part]] = [[] for _ in range(count)]
    first = 0
    for repeat in stack.repeats:
        last = first + repeat.times
        for stage, start, end in zip(stages, bounds, bounds[1:], strict=False):
            times = min(last, end) - max(first, start)
            if times > 0:
                stage.append(Part(f"{name}.block", repeat.block, times, times, run, stack.streams * stack.width))
        first = last
    return stages


def _parts_outside_stacks(tree: Transformer) -> Iterator[tuple[str, Layer]]:
    for child in tree.children():
        if child.name not in tree.stacks:
            yield child.name, child.layer


def _stack_parts(name: str, stack: Stack, run: Run) -> list[Part]:
    around = {child.name for side in stack.around for child in side}
    features = stack.streams * stack.width
    return [
        Part(f"{name}.{c.name}", c.layer, c.copies, c.active, stack.run_of(c.name, run), 0 if c.name in around else features)
        for c in stack.children()
    ]


# Weights.


class _Held(NamedTuple):
    """A tensor that a stage holds, all copies together."""

    shape: tuple[int, ...]
    copies: int
    routed: bool
    """True if it is that of an expert."""
    hidden: bool
    """True for a matrix inside a block."""
    trained: bool

    @property
    def values(self) -> int:
        found = self.copies
        for size in self.shape:
            found *= size
        return found


def _held_tensors(parts: list[Part], setup: TrainingSetup) -> Iterator[_Held]:
    """Every tensor of a stage, then the adapters."""
    for part in parts:
        yield from _tensors(part.layer, part.site, part.copies, setup, "", block=part.features > 0, routed=False)


def _tensors(
    layer: Layer, site: str, copies: int, setup: TrainingSetup, kind: str, *, block: bool, routed: bool
) -> Iterator[_Held]:
    for name, tensor in layer.tensors().items():
        hidden = block and _job(tensor, kind).group == "hidden" and len(tensor.shape) >= 2
        fixed = setup.lora is not None or _inside(f"{site}.{name}", setup.frozen)
        yield _Held(tensor.shape, copies, routed, hidden, not fixed)
        if setup.lora is not None and hidden and _has_adapter(tensor, kind, setup):
            rows, columns = tensor.shape
            yield _Held((rows, setup.lora), copies, routed, True, True)
            yield _Held((setup.lora, columns), copies, routed, True, True)
    for child in layer.children():
        path = ".".join(filter(None, (site, child.name)))
        inside = routed or child.name in layer.routed_parts
        yield from _tensors(child.layer, path, copies * child.copies, setup, child.kind, block=block, routed=inside)


def _job(tensor: Tensor, kind: str) -> Kind:
    """The job of a tensor, given that of the part that holds it."""
    return KINDS[kind if KINDS[tensor.kind].generic and kind else tensor.kind]


def _has_adapter(tensor: Tensor, kind: str, setup: TrainingSetup) -> bool:
    """True if a tensor of a block is a matrix with an adapter."""
    job = _job(tensor, kind)
    chosen = ADAPTED[setup.lora_on]
    return len(tensor.shape) == 2 and job.group == "hidden" and (job.name in chosen or (not chosen and job.name != "router"))


def _adapters_passed(layer: Layer, setup: TrainingSetup, kind: str = "") -> int:
    """Adapters that a token passes through in a component."""
    own = sum(_has_adapter(tensor, kind, setup) for tensor in layer.tensors().values())
    return own + sum(child.active * _adapters_passed(child.layer, setup, child.kind) for child in layer.children())


def _inside(site: str, frozen: str | tuple[str, ...]) -> bool:
    """True if a site is one of the frozen ones or inside of one; numbers of blocks in it are left out."""
    names = (frozen,) if isinstance(frozen, str) else frozen
    if not names:
        return False
    plain = _plain(site)
    return any(plain == _plain(name) or plain.startswith(f"{_plain(name)}.") for name in names)


def _plain(site: str) -> str:
    return ".".join(part for part in site.split(".") if part and not part[0].isdigit())


def _check_experts(tree: Transformer, devices: int) -> None:
    if devices == 1:
        return
    mixtures = [node.layer.as_mixture for node in tree.walk()]
    counts = {mixture.experts for mixture in mixtures if mixture is not None}
    if not counts:
        raise InputError(f"parallelism: expert={devices} has no meaning for a model without experts")
    for count in counts:
        if count % devices:
            raise InputError(f"parallelism: {count} experts cannot be divided evenly among expert={devices} devices")


def _check_frozen(tree: Transformer, setup: TrainingSetup) -> None:
    if not setup.frozen:
        return
    sites = {_plain(f"{node.site}.{name}") for node in tree.walk() for name in node.layer.tensors()}
    for name in setup.frozen:
        if not any(_inside(site, name) for site in sites):
            known = {".".join(site.split(".")[:length]) for site in sites for length in range(1, site.count(".") + 2)}
            raise InputError(f"training: there are no weights at {shown(name)}{nearest(str(name), sorted(known))}")


# One device.


class _Device:
    """The bytes of one device of a stage; equal stages share it, and differ in the micro-batches that are in flight."""

    def __init__(self, parts: list[Part], parallelism: Parallelism, setup: TrainingSetup, shared: int) -> None:
        self.parts, self.parallelism, self.setup, self.shared = parts, parallelism, setup, shared

    def memory(self, stage: int) -> DeviceMemory:
        """All of it, on a stage by its number."""
        states, gathered, kept, working = self._counts
        flights = self.parallelism.in_flight(stage)
        return DeviceMemory(**states, activations=flights * kept + working, gathered=gathered, stage=stage)

    @cached_property
    def _counts(self) -> tuple[dict[str, int], int, int, int]:
        """Weights and states, what is gathered, and the activations of a micro-batch in flight and at work."""
        setup, zero = self.setup, self.parallelism.zero
        held = list(_held_tensors(self.parts, setup))
        weight = bits_of(setup.dtype)
        gradient = weight if setup.gradients is None else bits_of(setup.gradients)
        copy = 32 if setup.master and weight < 32 else 0
        frozen = weight if setup.frozen_dtype is None else bits_of(setup.frozen_dtype)
        state = OPTIMIZERS[setup.optimizer].state_bytes
        total = dict.fromkeys(("weights", "gradients", "master", "optimizer"), 0)
        for routed in (False, True):
            among = self.parallelism.expert if routed else 1
            replicas = self.parallelism.replicas // among
            own = [one for one in held if one.routed == routed]
            trained = sum(one.values for one in own if one.trained) // among
            fixed = sum(one.values for one in own if not one.trained) // among
            states = sum(one.copies * state(one.shape, one.hidden) for one in own if one.trained) // among
            total["weights"] += _bytes(trained * weight + fixed * frozen, replicas if zero == 3 else 1)
            total["gradients"] += _bytes(trained * gradient, replicas if zero >= 2 else 1)
            total["master"] += _bytes(trained * copy, replicas if zero >= 1 else 1)
            total["optimizer"] += _bytes(8 * states, replicas if zero >= 1 else 1)
        return total, self.gathered(weight, gradient), *self.activations()

    def gathered(self, weight: int, gradient: int) -> int:
        """Bytes of the blocks that are whole for a while under stage 3 of ZeRO."""
        if self.parallelism.zero < 3 or self.parallelism.replicas == 1:
            return 0
        largest = 0
        frozen = weight if self.setup.frozen_dtype is None else bits_of(self.setup.frozen_dtype)
        for part in self.parts:
            if part.features:
                each = list(_held_tensors([part._replace(copies=1)], self.setup))
                among = {True: self.parallelism.expert, False: 1}
                trained = sum(one.values // among[one.routed] for one in each if one.trained)
                fixed = sum(one.values // among[one.routed] for one in each if not one.trained)
                two = min(2, sum(other.copies for other in self.parts if other.features))
                largest = max(largest, two * (trained * weight + fixed * frozen) + trained * gradient)
        return _bytes(largest, 1)

    def activations(self) -> tuple[int, int]:
        """Bytes that the forward pass of a micro-batch keeps for its backward pass, and those of a block that is recomputed."""
        whole = self.setup.recompute == "full"
        kept = self.of_stream(self.shared)
        working: dict[str, int] = {}  # of a block of each stack
        for part in self.parts:
            if part.features and whole:
                kept += part.active * self.of_stream(part.run.positions * part.features * part.run.value_bytes)
                stack = part.site.partition(".")[0]
                working[stack] = max(working.get(stack, 0), self.saved(part))
            else:
                kept += part.active * self.saved(part)
        return kept, sum(working.values())

    def saved(self, part: Part) -> int:
        """Bytes that one pass through one copy keeps, adapters' own features included."""
        saved, stream = part.layer.saved_bytes(part.run), part.layer.stream_bytes(part.run)
        narrow = 0
        if self.setup.lora is not None and part.features:
            narrow = _adapters_passed(part.layer, self.setup) * self.setup.lora * part.run.positions * part.run.value_bytes
        return saved - stream + self.of_stream(stream) + narrow

    def of_stream(self, size: int) -> int:
        """The part of so many bytes with the features of the stream that is on one device."""
        return -(-size // self.parallelism.tensor) if self.parallelism.sequence else size


def _bytes(bits: int, devices: int) -> int:
    return -(-bits // (8 * devices))
