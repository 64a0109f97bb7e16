"""A recipe: how every tensor of a tree starts and trains, how branches are added, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..architecture import Transformer
from ..errors import InputError, nearest, shown
from .tensors import parameters, stacks

PerBlock = float | tuple[float, ...]
"""One number for every block alike, or one for each block of the stack."""


Mean = float | Literal["identity"]
"""The value that entries are drawn around: a number, or ``identity`` for ones on the diagonal and zeros beside it."""


class TensorInit(NamedTuple):
    """How one role starts and trains."""

    role: str
    std: PerBlock
    """Standard deviation of the stored weights; 0 sets them to the mean."""
    mean: Mean
    """Mean of the stored weights: 1 for the gain of a norm (0 if it is stored as its difference from one), ``identity`` for a
    matrix that starts as one, 0 for the rest."""
    multiplier: PerBlock
    """What the tensor's output is multiplied by in the forward pass."""
    learning_rate: PerBlock
    """Factor on the base learning rate, for Adam and its kin."""
    weight_decay: PerBlock
    """Factor on the base weight decay, for an optimizer that multiplies it by the learning rate (as torch's AdamW)."""
    reason: str


class ResidualScale(NamedTuple):
    """How a residual branch is added: ``skip * x + branch * f(x)``, before a post-norm.

    Branches in parallel share one sum and one skip, which each of them states.
    """

    role: str
    skip: PerBlock
    branch: PerBlock
    reason: str


@dataclass(frozen=True)
class Recipe:
    """Everything a scheme says about one tree."""

    scheme: str
    source: str
    status: str
    """How the rules reached us, in the words of data/README.md."""
    tensors: tuple[TensorInit, ...]
    residuals: tuple[ResidualScale, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    """By name: ``options`` as used, size of the ``tree``, ``notes`` on what weights cannot say, ``remarks``, by-products."""

    def tensor(self, role: str) -> TensorInit:
        """The line of one role.

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
        """The scales of one residual branch; 1 and 1 where the scheme says nothing of it."""
        for line in self.residuals:
            if line.role == role:
                return line
        return ResidualScale(role, 1.0, 1.0, "the plain sum")

    def varies(self, role: str) -> bool:
        """Whether any number under this role, or that of a residual there, differs from block to block."""
        lines = [line for line in self.tensors if line.role.startswith(role)]
        numbers = [number for line in lines for number in (line.std, line.multiplier)]
        numbers += [scale for line in self.residuals if line.role.startswith(role) for scale in (line.skip, line.branch)]
        return any(isinstance(number, tuple) and min(number) != max(number) for number in numbers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What weights alone cannot say, one sentence each."""
        return tuple(self.extras.get("notes", ()))

    def rows(self, tree: Transformer) -> list[dict[str, Any]]:
        """One row for each tensor of `tree`, in the order a signal meets them; equal experts share one, stacked."""
        rows = []
        for parameter, role, block, shape in parameters(tree):
            line = self.tensor(role)
            rows.append(
                {
                    "parameter": parameter,
                    "shape": list(shape),
                    "std": at_block(line.std, block),
                    "mean": line.mean,
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
            for stack, depth, branches in stacks(tree)
            for block in range(depth)
            for branch in branches
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


def at_block(value: PerBlock, block: int | None) -> float:
    """The value of one block."""
    return value[block or 0] if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
