"""The description of a trained model by its weights alone: ranks of heads, norms of matrices, and measures of capacity.

Tensors are read one at a time, tables and very large matrices in pieces, so that memory does not grow with the model.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import InputError
from ..initialization.named_tensors import Key
from ..initialization.tensors import site_of
from ..numerics.spectra import SHARE
from ..stored_tensors import FLOATS
from ..values import frozen
from .capacity import TABLE_NAMES, CapacityResult, MatrixNorms, in_pieces, matrix_norms, norm_sums, state_results, stored_norms
from .head_ranks import HeadRanks, attentions, head_ranks
from .trained_weights import TrainedWeights

Array = Any
TOLERANCE = 1e-2
"""Relative, of spectral norms: a singular value lies within it; those of large Gaussian matrices are 0.1 to 0.3 % too small."""


@frozen
class TrainedDescription:
    """A trained model by its weights."""

    ranks: HeadRanks | None
    """Ranks of the heads' products; None of a model without attention to measure."""
    matrices: tuple[MatrixNorms, ...]
    capacity: tuple[CapacityResult, ...]
    """Measures of all matrices together; empty if one is zero."""
    sites: tuple[str, ...]
    """The tensor of the tree that each of `matrices` is, without the number of its block; its stored name if it is none."""
    notes: tuple[str, ...]

    def norms(self) -> list[dict[str, Any]]:
        """One row for each kind of matrix: medians of its norms over blocks."""
        groups: dict[str, list[MatrixNorms]] = {}
        for site, one in zip(self.sites, self.matrices, strict=True):
            groups.setdefault(site, []).append(one)
        return [{"site": site, **_summed_up(some)} for site, some in groups.items()]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "effective_ranks": None if self.ranks is None else self.ranks.to_dict(),
            "norms": self.norms(),
            "matrices": [one.to_dict() for one in self.matrices],
            "spectral_tolerance": TOLERANCE,
            "capacity": [one.to_dict() for one in self.capacity],
            "notes": list(self.notes),
        }


def _summed_up(norms: Sequence[MatrixNorms]) -> dict[str, Any]:
    spectral = [one.spectral for one in norms if one.spectral is not None]
    stable = [one.stable_rank for one in norms if one.stable_rank is not None]
    return {
        "copies": len(norms),
        "outputs": norms[0].outputs,
        "inputs": norms[0].inputs,
        "spectral_norm": statistics.median(spectral) if spectral else None,
        "least_spectral_norm": min(spectral, default=None),
        "largest_spectral_norm": max(spectral, default=None),
        "stable_rank": statistics.median(stable) if stable else None,
        "frobenius_norm": statistics.median(one.frobenius for one in norms),
        "converged": all(one.converged for one in norms),
    }


def describe_trained(weights: TrainedWeights, share: float = SHARE) -> TrainedDescription:
    """The description of trained weights.

    Parameters
    ----------
    weights : of a checkpoint.
    share : of the largest singular value, above which one counts for the numerical rank of a head.

    Raises
    ------
    InputError
        if a tensor does not fit the tree or holds numbers that are not finite, or none is a matrix.
    """
    homes = weights.homes()
    if any(
        (f"{stack}.block.{path}.value.weight", layer) in weights.slices for stack, layer, path, _ in attentions(weights.tree)
    ):
        ranks: HeadRanks | None = head_ranks(weights, share)
        notes = list(ranks.notes) if ranks else []
    else:
        ranks, notes = None, [*weights.notes, "no head was measured, as no attention there has maps of its own"]
    found = [pair for name in weights.stored.entries for pair in _norms_of(weights, name, homes.get(name, []))]
    left = [name for name, entry in weights.stored.entries.items() if entry.dtype not in FLOATS and len(entry.shape) > 1]
    if left:
        notes.append(f"{len(left):,} tensors stored as {weights.stored.entries[left[0]].dtype} are left out")
    matrices = tuple(one for _, one in found)
    capacity: tuple[CapacityResult, ...] = ()
    try:
        capacity = state_results(norm_sums(matrices))
    except InputError as error:
        notes.append(f"there are no measures of capacity: {error}")
    if not all(one.converged for one in matrices):
        notes.append("some spectral norms are only lower bounds, because the power iteration did not converge")
    return TrainedDescription(ranks, matrices, capacity, tuple(site for site, _ in found), tuple(notes))


def _norms_of(weights: TrainedWeights, name: str, homes: Sequence[Key]) -> Iterator[tuple[str, MatrixNorms]]:
    """The norms of the matrices in one stored tensor, each with its site; none of a vector or of other formats."""
    entry = weights.stored.entries[name]
    if len(entry.shape) < 2 or entry.dtype not in FLOATS:
        return
    site = homes[0][0].removesuffix(".weight") if homes else re.sub(r"(^|\.)\d+(?=\.)", r"\1#", name)
    table = weights.places[homes[0]].job.group == "table" if homes else bool(TABLE_NAMES.search(name))
    if homes and len(entry.shape) != 3 and not in_pieces(entry.shape, table=table):
        for role, block in homes:
            value = weights.read(role, block)
            if value is not None and value.ndim > 1:
                part = role.removesuffix(".weight")
                yield part, matrix_norms(site_of(part, block), value.reshape(len(value), -1), tolerance=TOLERANCE)
    else:
        for one in stored_norms(weights.stored, name, table=table, tolerance=TOLERANCE):
            yield site, one
