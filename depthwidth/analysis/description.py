"""The description of one transformer: its counts, its shape compared with the optimum of each rule, and the diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..architecture import Transformer
from ..architecture.dimensions import dimensions
from ..architecture.number_formats import judged_dtype
from ..display import Overview, with_overview
from ..errors import InputError, shown
from ..formulas import shape_penalty
from ..hardware.parallelism import ONE_DEVICE, Parallelism, ParallelMemory, TrainingSetup, cache_bytes, training_memory
from ..layers import Run
from ..planning.budget import TOKENS_PER_PARAMETER
from ..planning.caveats import EXPERTS_CAVEAT, penalty_caveats, penalty_error, shape_caveats, with_error
from ..planning.mixtures import MEMORY_NOTE, MixtureVerdict, mixture_verdicts
from ..planning.rules import meet, rules
from ..quantities import format_bytes, numbered, plain_number

if TYPE_CHECKING:
    import pandas

    from ..initialization import Recipe
    from .diagnosis import Finding

LARGEST_DIAGNOSED = 512
"""Blocks up to which :func:`describe` runs the diagnosis by default: every published model, in well under a second."""
LONGEST_DIAGNOSED = 4096
"""Longest context of the diagnosis, in tokens: longer ones are diagnosed at it, as time and memory grow with its square."""


@dataclass(frozen=True)
class Verdict:
    """A shape compared with the optimum of one rule at equal non-embedding (active) parameters."""

    rule: str
    kind: str
    best_depth: float
    best_width: float
    width_ratio: float
    """The shape's width over the rule's optimal width."""
    loss_penalty: float
    """Predicted relative loss from the difference in shape, if the rule is right."""
    extrapolated: bool | None
    """True if the optimum lies outside the range of the rule's data; None if its source does not state that range."""
    loss_penalty_stderr: float
    """Standard error of the loss penalty, from its curvature and from the measured place of the optimum."""


@with_overview
@dataclass(frozen=True)
class Description:
    """A transformer's counts under stated conventions, with everything that ``depthwidth describe`` prints."""

    tree: Transformer
    context: int | None = None
    source: int | None = None
    batch: int = 1
    masked: bool = False
    dtype: str = "bf16"
    init: str | Recipe = "shipped"
    diagnosed: bool | None = None
    """True to run the diagnosis, False to skip it; None to run it only if it is fast."""
    cache_dtype: str | None = None
    """Number format of keys and values; None for `dtype`, or bf16 if that is a format for weights only."""
    parallelism: Parallelism = ONE_DEVICE
    """The devices of a training."""
    setup: TrainingSetup | None = None
    """The tensors that a training keeps; None for AdamW in `dtype`."""
    notes: tuple[str, ...] = ()
    """Notes on the configuration that the tree was read from (:func:`~depthwidth.architecture.hf.notes_on`)."""
    read_from: str | None = None
    """The file or repository of that configuration; None for a tree that was not read."""

    @cached_property
    def run(self) -> Run:
        """The pass that is counted."""
        return self.tree.run(self.context, self.source, batch=self.batch, masked=self.masked)

    def shape(self) -> dict[str, Any]:
        """The dimensions; if blocks differ, those of the first block that has the part."""
        return dimensions(self.tree)

    def parameters(self) -> dict[str, int]:
        """Parameter counts, exact."""
        tree = self.tree
        return {
            "parameters": tree.parameters,
            "non_embedding_parameters": tree.non_embedding_parameters,
            "embedding_parameters": tree.embedding_parameters,
            "active_parameters": tree.active_parameters,
        }

    @cached_property
    def costs(self) -> dict[str, Any]:
        """Operations and bytes at the described context and batch."""
        tree = self.tree
        lengths: dict[str, Any] = {"context": self.run.tokens, "source": self.run.memory or None}
        flops = {"masked": self.masked, **lengths}
        memory = {"batch": self.batch, "dtype": self.dtype, **lengths}
        cache = memory | {"dtype": self.cache_dtype or judged_dtype(self.dtype)}
        return {
            "counted_context": self.run.tokens,
            "counted_source": self.run.memory or None,
            "counted_batch": self.batch,
            "masked": self.masked,
            "dtype": self.dtype,
            "forward_flops_per_token": plain_number(tree.flops_per_token(**flops)),
            "training_flops_per_token": plain_number(tree.flops_per_token(training=True, **flops)),
            "weight_bytes": tree.weight_bytes(self.dtype),
            # A format of weights alone is not one of keys and values.
            "cache_dtype": cache["dtype"],
            "kv_cache_bytes": tree.kv_cache_bytes(**cache),
            "device_kv_cache_bytes": cache_bytes(tree, self.parallelism, **cache),
            "training_memory": _with_total(tree.training_memory(**memory)),
            "training_memory_recomputed": _with_total(tree.training_memory(recompute="full", **memory)),
            "device_memory": self.device_memory.to_dict(),
        }

    @cached_property
    def device_memory(self) -> ParallelMemory:
        """Memory of each device in the training that is described."""
        setup = TrainingSetup(dtype=self.dtype) if self.setup is None else self.setup
        lengths = {"context": self.run.tokens, "source": self.run.memory or None}
        return training_memory(self.tree, self.parallelism, setup, batch=self.batch, **lengths)

    def cost_facts(self) -> dict[str, str]:
        """:attr:`costs`, formatted for people."""
        costs = self.costs
        memory, recomputed = (
            {name: format_bytes(amount) for name, amount in costs[kind].items()}
            for kind in ("training_memory", "training_memory_recomputed")
        )
        parts = ", ".join(f"{name} {memory[name]}" for name in ("weights", "gradients", "optimizer", "activations"))
        facts = {
            "forward FLOPs per token": f"{costs['forward_flops_per_token']:.4g}",
            "training FLOPs per token": f"{costs['training_flops_per_token']:.4g}",
            "weights": format_bytes(costs["weight_bytes"]),
            "key-value cache": format_bytes(costs["kv_cache_bytes"]),
            "training memory (Adam)": f"{memory['total']}: {parts}",
            "  with recomputation": f"{recomputed['total']}: activations {recomputed['activations']}",
        }
        return facts | self._device_facts()

    def _device_facts(self) -> dict[str, str]:
        """Memory of the fullest device, if options on devices or on what is kept were given."""
        found, plain = self.device_memory, TrainingSetup(dtype=self.dtype)
        if found.parallelism == ONE_DEVICE and found.setup == plain:
            return {}
        parts = ", ".join(f"{name} {format_bytes(amount)}" for name, amount in found.fullest.parts().items() if amount)
        stage = f", in stage {found.fullest.stage + 1} of {len(found.stages)}" if len(found.stages) > 1 else ""
        facts = {
            "devices": f"{found.parallelism.devices:,} ({found.parallelism})",
            "training memory per device": f"{format_bytes(found.total)}{stage}: {parts}",
        }
        if found.setup.lora is not None or found.setup.frozen:
            facts["trained parameters"] = f"{found.trained:,}"
        if found.parallelism.tensor > 1 or found.parallelism.pipeline > 1:
            facts["key-value cache per device"] = format_bytes(self.costs["device_kv_cache_bytes"])
        return facts

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The shape compared with the optimum of each rule."""
        tree = self.tree
        size = tree.trained_size
        # The tree's own parameters per layer and squared width stand in for the 12 of a plain block.
        density = size / (tree.depth * tree.width**2)
        found = []
        for rule in rules(images=tree.stem.images).values():
            best = meet(rule.curve(density), lambda depth, width: density * depth * width**2, size)
            if best is not None and rule.independent:
                penalty = float(shape_penalty.shape_penalty(tree.width, best[1]))
                error = penalty_error(tree.width, best[1], size)
                extrapolated = rule.extrapolates(*best, size)
                found.append(Verdict(rule.name, rule.kind, *best, tree.width / best[1], penalty, extrapolated, error))
        return tuple(found)

    @cached_property
    def _diagnosis(self) -> tuple[tuple[Finding, ...], str]:
        """The findings of :func:`~depthwidth.analysis.diagnosis.diagnose`, or the reason why there are none."""
        tree = self.tree
        blocks = sum(stack.depth for stack in (tree.encoder, tree.decoder) if stack is not None)
        if self.diagnosed is False:
            return (), ""
        if self.diagnosed is None and blocks > LARGEST_DIAGNOSED:
            return (), "the diagnosis was skipped, as it takes a while for this many blocks; ask for it"
        from .diagnosis import diagnose

        lengths: dict[str, Any] = {"context": self.diagnosed_context}
        if self.source is not None:
            lengths["source"] = min(self.source, LONGEST_DIAGNOSED)
        try:
            return tuple(diagnose(tree, self.init, self.diagnosed_dtype, batch=self.batch, **lengths)), ""
        except InputError as error:
            if self.diagnosed:
                raise
            return (), f"there is no diagnosis: {error}"

    @property
    def diagnosed_context(self) -> int:
        """Context of the diagnosis, in tokens."""
        return min(self.run.tokens, LONGEST_DIAGNOSED)

    @property
    def diagnosed_dtype(self) -> str:
        """Number format of activations and gradients in the diagnosis; bf16 if `dtype` is a format for weights only."""
        return judged_dtype(self.dtype)

    @property
    def diagnosis(self) -> tuple[Finding, ...]:
        """The findings of the diagnosis, each at the worst site; empty without a diagnosis."""
        return self._diagnosis[0]

    @property
    def undiagnosed(self) -> str:
        """The reason why there is no diagnosis, one sentence; empty if there is one or none was requested."""
        return self._diagnosis[1]

    @cached_property
    def mixture(self) -> tuple[MixtureVerdict, ...]:
        """The dense model that a mixture is worth, by each law, at 20 tokens an active parameter; empty for a dense model."""
        if self.tree.experts is None:
            return ()
        return mixture_verdicts(self.tree, TOKENS_PER_PARAMETER * self.tree.active_parameters)

    def findings(self) -> list[str]:
        """Notes on the shape and caveats on the verdicts, one sentence each."""
        tree = self.tree
        size = tree.trained_size
        found = [*self.notes, *shape_caveats(tree), *penalty_caveats(tree, size, (v.width_ratio for v in self.verdicts))]
        if tree.experts is not None:
            found += [EXPERTS_CAVEAT, MEMORY_NOTE]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``depthwidth describe --json`` prints it."""
        return {
            **self.parameters(),
            **self.shape(),
            "read_from": self.read_from,
            **self.costs,
            "verdicts": {verdict.rule: asdict(verdict) for verdict in self.verdicts},
            "mixture": [verdict.to_dict() for verdict in self.mixture],
            "findings": self.findings(),
            "diagnosis": [finding.to_dict() for finding in self.diagnosis],
            "diagnosed_context": self.diagnosed_context,
            "diagnosed_dtype": self.diagnosed_dtype,
            "undiagnosed": self.undiagnosed,
            "components": self.rows(),
        }

    def overview(self) -> Overview:
        """Counts, costs and the shape against the optimum of each rule, for a prompt or a notebook. Nothing is diagnosed."""
        counts = {name.replace("_", " "): f"{value:,}" for name, value in self.parameters().items()}
        return Overview(
            f"Description of a transformer, {self.tree.kind}, {numbered(self.tree.depth, 'layer')} x {self.tree.width:,} wide",
            counts | self.cost_facts(),
            ("rule", "best depth", "best width", "loss penalty"),
            [
                (v.rule, f"{v.best_depth:.1f}", f"{v.best_width:,.0f}", with_error(v.loss_penalty, v.loss_penalty_stderr))
                for v in self.verdicts
            ],
            whole=".to_dict()",
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per component; parameters, active parameters and operations add up to the totals."""
        return self.tree.breakdown(self.run.tokens, source=self.run.memory or None, masked=self.masked)

    def frame(self) -> pandas.DataFrame:
        """:meth:`rows` as a data frame."""
        import pandas

        return pandas.DataFrame(self.rows())


def describe(
    tree: Transformer,
    context: int | None = None,
    *,
    source: int | None = None,
    batch: int = 1,
    masked: bool = False,
    dtype: str = "bf16",
    init: str | Recipe = "shipped",
    diagnosed: bool | None = None,
    cache_dtype: str | None = None,
    parallelism: Parallelism | None = None,
    setup: TrainingSetup | None = None,
    notes: Sequence[str] = (),
    read_from: str | None = None,
) -> Description:
    """Count a transformer, compare its shape with the optimum of each rule, and diagnose its initialisation.

    Parameters
    ----------
    tree : the transformer.
    context, source, batch : lengths and number of sequences; the tree's own context and 1 by default.
    masked : whether attention scores hidden by a causal mask are excluded from FLOPs.
    dtype : number format of weights and activations; int8, int4 and fp4 are for weights only, and the diagnosis then uses bf16.
    init : the initialisation to diagnose, a scheme or a recipe.
    diagnosed : whether to run the diagnosis; by default for up to 512 blocks.
    cache_dtype : number format of keys and values; by default `dtype`, or bf16 if that is a format for weights only.
    parallelism : the devices of a training; one by default.
    setup : training states and saved tensors; AdamW in `dtype` by default.
    notes : sentences on the configuration that the tree was read from, which the description repeats.
    read_from : the file or repository of that configuration, repeated too.

    Raises
    ------
    InputError
        if a length is not a positive whole number or the number format is unknown.
    """
    if not isinstance(tree, Transformer):
        raise InputError(f"describe: {shown(tree)} is not a Transformer")
    description = Description(
        tree, context, source, batch, masked, dtype, init, diagnosed, cache_dtype, parallelism or ONE_DEVICE, setup,
        tuple(notes), read_from,
    )  # fmt: skip
    description.costs  # noqa: B018  (refuses bad lengths and formats here, not when it is printed)
    return description


def _with_total(memory: Any) -> dict[str, int]:
    return {**asdict(memory), "total": memory.total}
