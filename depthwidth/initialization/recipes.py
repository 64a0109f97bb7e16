"""A recipe: the start and learning rate of every tensor of a tree, the scales of its branches, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal, NamedTuple

from ..architecture import Transformer
from ..display import Overview, with_overview
from ..errors import InputError, nearest, shown
from ..values import frozen
from .starting_laws import StartingLaw
from .tensors import parameters

PerBlock = float | tuple[float, ...]
"""One number for every block alike, or one for each block of the stack."""


Mean = PerBlock | Literal["identity", "fixed"]
"""The mean of the drawn entries: a number, or one for each block; ``identity`` for ones on the diagonal and zeros elsewhere, or
``fixed`` for values that the component computes."""


class TensorInit(NamedTuple):
    """The start and learning-rate factors of the tensors with one role."""

    role: str
    std: PerBlock
    """Standard deviation of the stored weights; 0 sets every weight to the mean."""
    mean: Mean
    """Mean of the stored weights: 1 for the gain of a norm (0 if it is stored as its difference from one), ``identity`` for a
    matrix that starts as one, ``fixed`` for stored sines and cosines, 0 for the rest."""
    multiplier: PerBlock
    """Factor on the tensor's output in the forward pass."""
    learning_rate: PerBlock
    """Factor on the base learning rate, for Adam and similar optimizers."""
    weight_decay: PerBlock
    """Factor on the base weight decay, for an optimizer that multiplies it by the learning rate, such as torch's AdamW."""
    reason: str
    law: StartingLaw | None = None
    """The law of starting values that are not normal, which have this mean and standard deviation."""


class ResidualScale(NamedTuple):
    """The scales of a residual branch: ``skip * x + branch * f(x)``, before a post-norm.

    Parallel branches share one sum and one skip, which is stated for each.
    """

    role: str
    skip: PerBlock
    branch: PerBlock
    reason: str
    trained: bool = False
    """True if the branch scale is the initial value of a trainable scalar, one parameter more than the tree has."""


@with_overview
@frozen
class Recipe:
    """The settings that a scheme gives one tree."""

    scheme: str
    source: str
    status: str
    """The status of the scheme's source, in the words of data/README.md."""
    tensors: tuple[TensorInit, ...]
    residuals: tuple[ResidualScale, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    """By name: ``options`` as used, size of the ``tree``, ``notes``, ``remarks``, by-products."""

    def tensor(self, role: str) -> TensorInit:
        """The settings of one role.

        Raises
        ------
        InputError
            if the tree has no such tensor.
        """
        index: dict[str, TensorInit] | None = self.__dict__.get("_index")
        if index is None:
            index = {line.role: line for line in self.tensors}
            object.__setattr__(self, "_index", index)
        if role not in index:
            raise InputError(f"recipe: there is no tensor {shown(role)}{nearest(str(role), index)}")
        return index[role]

    def residual(self, role: str) -> ResidualScale:
        """The scales of one residual branch; both are 1 if the scheme sets none."""
        for line in self.residuals:
            if line.role == role:
                return line
        return ResidualScale(role, 1.0, 1.0, "the plain sum")

    def varies(self, role: str) -> bool:
        """True if a number of this role, of a role inside it or of a residual branch there differs between blocks."""
        return bool(self.along_blocks(role))

    def along_blocks(self, role: str, layers: range | None = None) -> tuple[tuple[float, ...], ...]:
        """The standard deviations, multipliers and residual scales under this role that differ between blocks.

        Each is a number for each of these `layers`, by default for each block; equal ones count once.
        """
        lines = [line for line in self.tensors if line.role.startswith(role)]
        numbers = [number for line in lines for number in (line.std, line.multiplier)]
        numbers += [scale for line in self.residuals if line.role.startswith(role) for scale in (line.skip, line.branch)]
        some = slice(None) if layers is None else slice(layers.start, layers.stop)
        each = dict.fromkeys(number[some] for number in numbers if isinstance(number, tuple))
        return tuple(values for values in each if min(values) != max(values))

    @property
    def notes(self) -> tuple[str, ...]:
        """Instructions that the settings of the tensors cannot express, one sentence each."""
        return tuple(self.extras.get("notes", ()))

    def overview(self) -> Overview:
        """The source of the scheme and the settings of each role, for a prompt or a notebook."""
        columns = ("tensor", "std", "mean", "multiplier", "learning rate", "weight decay")
        rows = [
            (line.role, *map(_range, (line.std, line.mean, line.multiplier, line.learning_rate, line.weight_decay)))
            for line in self.tensors
        ]
        facts = {"source": self.source, "status": self.status, "tensors": str(len(self.tensors))}
        return Overview(f"Recipe {self.scheme}", facts, columns, rows, whole=".rows(tree)")

    def rows(self, tree: Transformer) -> list[dict[str, Any]]:
        """One row for each tensor of `tree`, in the order of the forward pass; equal experts share one, stacked."""
        rows = []
        for parameter, role, block, shape in parameters(tree):
            line = self.tensor(role)
            rows.append(
                {
                    "parameter": parameter,
                    "shape": list(shape),
                    "std": at_block(line.std, block),
                    "mean": line.mean if isinstance(line.mean, str) else at_block(line.mean, block),
                    "multiplier": at_block(line.multiplier, block),
                    "learning_rate": at_block(line.learning_rate, block),
                    "weight_decay": at_block(line.weight_decay, block),
                    "reason": line.reason,
                }
            )
        return rows

    def residual_rows(self, tree: Transformer) -> list[dict[str, Any]]:
        """One row for each residual branch of `tree`: its place, the two scales, the reason."""
        return [
            {
                "branch": f"{stack}.block.{block}.{branch}",
                "skip_scale": at_block(line.skip, block),
                "branch_scale": at_block(line.branch, block),
                "reason": line.reason,
            }
            for stack, layers in tree.stacks.items()
            for block, layer in enumerate(layers.blocks())
            for branch, _ in layer.branches
            for line in [self.residual(f"{stack}.block.{branch}")]
        ]

    def to_dict(self, tree: Transformer | None = None) -> dict[str, Any]:
        """Plain numbers, lists and strings; with a tree also its rows."""
        data: dict[str, Any] = {
            "scheme": self.scheme,
            "source": self.source,
            "status": self.status,
            "tensors": [_plain(line._asdict()) for line in self.tensors],
            "residuals": [_plain(line._asdict()) for line in self.residuals],
            "extras": _plain(dict(self.extras)),
        }
        if tree is not None:
            data |= {"parameters": self.rows(tree), "branches": self.residual_rows(tree)}
        return data


def _range(value: PerBlock | Mean) -> str:
    """A number, the word of a mean, or the least and the largest number of the blocks."""
    if isinstance(value, str):
        return value
    low, high = (min(value), max(value)) if isinstance(value, tuple) else (value, value)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def at_block(value: PerBlock, block: int | None) -> float:
    """The value of one block."""
    return value[block or 0] if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, StartingLaw):
        return {"kind": value.kind, "numbers": list(value.numbers)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
