"""Exact counts of a checkpoint by its header alone, for a model whose configuration is not known. No weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .values import frozen


@frozen
class StoredCounts:
    """Parameters of stored tensors by module. There is no tree, and therefore no rules, moments or initialisation."""

    read_from: str
    """The file, or the repository."""
    parameters: int
    bytes: int | None
    """None if a number format is not known."""
    tensors: int
    components: tuple[Mapping[str, Any], ...]
    """A row for each module with tensors, those of all blocks and experts together."""
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row per module, with ``site``, ``dtype``, ``copies`` and ``parameters``."""
        return [dict(row) for row in self.components]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``depthwidth describe --json`` prints it."""
        return {
            "parameters": self.parameters,
            "weight_bytes": self.bytes,
            "tensors": self.tensors,
            "components": self.rows(),
            "notes": list(self.notes),
            "theory": False,
            "read_from": self.read_from,
        }


def stored_counts(tensors: Mapping[str, tuple[tuple[int, ...], str, int | None]], read_from: str, reason: str) -> StoredCounts:
    """The counts of tensors, each given by its shape, its number format and its bytes.

    Parameters
    ----------
    reason : why there is no tree, one sentence.

    >>> found = stored_counts({f"h.{i}.up.weight": ((4, 2), "F16", 16) for i in range(3)}, "a file", "no configuration")
    >>> found.parameters, found.rows()
    (24, [{'site': 'h.*.up', 'dtype': 'F16', 'copies': 3, 'parameters': 24}])
    """
    modules: dict[tuple[str, str], tuple[set[str], int]] = {}
    for name, (shape, dtype, _) in tensors.items():
        module = name.rpartition(".")[0] or name
        site = ".".join("*" if part.isdigit() else part for part in module.split("."))
        copies, size = modules.get((site, dtype), (set(), 0))
        copies.add(module)
        modules[site, dtype] = (copies, size + math.prod(shape))
    rows = tuple(
        {"site": site, "dtype": dtype, "copies": len(copies), "parameters": size}
        for (site, dtype), (copies, size) in modules.items()
    )
    sizes = [size for _, _, size in tensors.values()]
    return StoredCounts(
        read_from,
        sum(row["parameters"] for row in rows),  # type: ignore[misc]  # a row's values are of several types
        None if None in sizes else sum(size for size in sizes if size is not None),
        len(tensors),
        rows,
        (
            reason,
            "the theory does not cover this model: it has counts of stored tensors, but no rules, moments or initialisation",
            "a tied weight counts as often as it is stored",
        ),
    )
