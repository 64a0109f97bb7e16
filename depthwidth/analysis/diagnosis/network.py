"""A network with one recipe, propagated: the numbers that checks read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from ...architecture import Transformer
from ...architecture.number_formats import NumberFormat
from ...errors import InputError
from ...formulas.saturation import LARGEST_VARIANCE
from ...initialization import Recipe, at_block, stacks
from ...layers import Residual
from ..propagation import PropagationOptions, moments_of

T = TypeVar("T")


class Size(NamedTuple):
    """The size of the values at one site."""

    site: str
    deviation: float
    """Root of the second moment."""
    peak: float
    """The largest value expected in one pass."""


class BranchStrength(NamedTuple):
    """One residual branch of one block: the second moments of the stream kept and of the output added."""

    stack: str
    layer: int
    name: str
    residual: Residual
    kept: float
    added: float


@dataclass(frozen=True)
class Setting:
    """A transformer and the pass in which it is judged."""

    tree: Transformer
    formats: tuple[NumberFormat, ...]
    """Of activations and of gradients."""
    matrices_only: bool
    """True if only the operands of matrix products are held in the format, as with 8 bits."""
    batch: int
    loss_scale: float
    given: PropagationOptions

    @cached_property
    def run(self) -> Any:
        """The pass that is counted."""
        return self.tree.run(self.given.get("context"), self.given.get("source"), batch=self.batch)

    @property
    def dropout(self) -> bool:
        """True if dropout is active."""
        return bool(self.given.get("dropout", True))

    def format_of(self, kind: str) -> NumberFormat:
        """The number format of ``gradients``, or of any kind of forward tensor."""
        return self.formats[kind == "gradients"]


@dataclass
class Network:
    """One transformer with one recipe, propagated when a check first asks."""

    setting: Setting
    made: Recipe

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``propagate``.

        Raises
        ------
        InputError
            if the moments leave the range of floating-point numbers.
        """
        try:
            rows = moments_of(self.setting.tree, self.made, **self.setting.given)
        except InputError:
            raise
        except (ArithmeticError, ValueError):
            rows = []
        if not rows or not all(math.isfinite(row["second_moment"]) for row in rows):
            raise InputError("diagnose: the moments overflow with this initialisation")
        return rows

    @cached_property
    def _index(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["site"], row["direction"]): row for row in self.rows}

    def at(self, site: str, direction: str = "forward") -> dict[str, Any] | None:
        """The row of a site, forward or gradient; None if there is none."""
        return self._index.get((site, direction))

    def q(self, site: str, direction: str = "forward") -> float:
        """The second moment at a site; 0 if it has no row."""
        row = self.at(site, direction)
        return 0.0 if row is None else float(row["second_moment"])

    @property
    def stacks(self) -> list[tuple[str, int]]:
        """Name and depth of each stack."""
        return [(name, depth) for name, depth, _ in stacks(self.setting.tree)]

    def last_gain(self, stack: str, depth: int) -> float:
        """Squared factor of the norm after the last block relative to that after the first; it belongs to the head.

        If the output matrix is tied and nothing else precedes it, a scheme puts its factor on logits into that norm.
        """
        role = f"{stack}.block.{self.setting.tree.stacks[stack].branches[-1]}.norm_stream.weight"
        multiplier = next((line.multiplier for line in self.made.tensors if line.role == role), 1.0)
        return (at_block(multiplier, depth - 1) / at_block(multiplier, 0)) ** 2

    @cached_property
    def branches(self) -> list[BranchStrength]:
        """Every residual branch of every block, in the order of the forward pass."""
        found = []
        tree, last = self.setting.tree, _LastOutputs()
        for name, stack in (("encoder", tree.encoder), ("decoder", tree.decoder)):
            if stack is None:
                continue
            before = self.q(f"{name}.input")
            for layer, block in enumerate(stack.blocks()):
                place = f"{name}.block.{layer}"
                start = before
                for branch, residual in block.branches:
                    site, scales = f"{place}.{branch}", self.made.residual(f"{name}.block.{branch}")
                    rate = residual.dropout if self.setting.dropout else 0.0
                    added = at_block(scales.branch, layer) ** 2 * self.q(f"{site}.{last.of(residual)}") / (1 - rate)
                    kept = at_block(scales.skip, layer) ** 2 * before
                    found.append(BranchStrength(name, layer, branch, residual, kept, added))
                    before = start if block.parallel else self.q(site)
                before = self.q(place)
        return found

    @cached_property
    def loss_gradient(self) -> float:
        """Root mean square of the gradient at the output of the last norm, per feature."""
        setting = self.setting
        mean = float(setting.loss_scale / (setting.batch * setting.run.tokens))
        head, vocab = setting.tree.language_head, setting.tree.vocab
        logits, top = self.q("head.unembedding"), self.q(setting.tree.stack_name)
        plain = head is not None and head.transform is None and head.norm is None
        if head is None or not plain or not logits or not top or vocab <= 1:
            return mean
        from ...formulas.moments import loss_gradient_second_moment
        from ...numerics.softmax import overlap

        weight = logits / (head.unembedding.width * top)
        variance = min(logits, LARGEST_VARIANCE)
        row = overlap(variance, vocab)
        squared = loss_gradient_second_moment.body(
            weight, row.P, row.M3, row.M4 + row.A22, vocab, variance, head.unembedding.width
        )
        return float(mean * math.sqrt(squared))

    @cached_property
    def sizes(self) -> dict[str, list[Size]]:
        """Standard deviation and expected peak at every site, by kind of tensor."""
        found: dict[str, list[Size]] = {"activations": [], "scores": [], "logits": [], "gradients": []}
        run, tree = self.setting.run, self.setting.tree
        unit = self.loss_gradient / math.sqrt(float(self.setting.given.get("gradient", (1.0, 0.0))[0]))
        attention, feed_forward = map(tree.stack.first, ("as_attention", "as_feed_forward"))
        heads = max(1, attention.heads) if attention is not None and isinstance(attention.heads, int) else 1
        hidden = tree.width if feed_forward is None else feed_forward.hidden
        longest = max(run.tokens, run.memory or 0)
        features = {
            "activations": hidden,
            "gradients": hidden,
            "scores": heads * longest,
            "logits": max(2, tree.vocab),
        }
        peaks = {kind: math.sqrt(2 * math.log(2 * self.setting.batch * longest * count)) for kind, count in features.items()}
        for row in self.rows:
            forward, site = row["direction"] == "forward", row["site"]
            kind = "gradients" if not forward else "scores" if site.endswith("scores") else "activations"
            kind = "logits" if site == "head.unembedding" and forward else kind
            deviation = math.sqrt(row["second_moment"]) * (1.0 if forward else unit)
            if deviation > 0:
                found[kind].append(Size(site, deviation, deviation * peaks[kind]))
        return found

    def once(self, measure: Callable[[Network], T]) -> T:
        """A number that several checks share, computed when the first asks."""
        if measure not in self._measured:
            self._measured[measure] = measure(self)
        found: T = self._measured[measure]
        return found

    @cached_property
    def _measured(self) -> dict[Callable[[Network], Any], Any]:
        return {}


class _LastOutputs:
    """The last output of each residual, found once for all blocks that share it."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Residual, str]] = {}

    def of(self, residual: Residual) -> str:
        if id(residual) not in self.known:
            self.known[id(residual)] = residual, residual.last  # the residual is kept, so that no other gets its id
        return self.known[id(residual)][1]
