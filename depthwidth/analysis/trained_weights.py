"""Trained weights of a tree, read from a checkpoint one tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..architecture import Transformer
from ..architecture.hf import find_family, notes_on, read_source, text_part
from ..architecture.hf.weights import WeightNames
from ..errors import InputError, shown
from ..hub import local_checkpoint
from ..initialization.named_tensors import Key, NamedTensors, Slice, base_prefixes, named_tensors, places_of, stored_by_inputs
from ..initialization.tensors import Weight, site_of
from ..stored_tensors import StoredTensors, open_tensors
from ..values import frozen

Array = Any
_OWN_PREFIX = "model/"
"""Of the weights in the checkpoints of :mod:`verify.training`."""
_STORED_AS = {"embed_out.weight": "lm_head.weight"}
"""Names in files, if the library renames them when it reads a file (GPT-NeoX)."""


@frozen
class TrainedWeights:
    """The weights of a tree in a checkpoint. Each reading opens the file again, so that memory is bounded by one tensor."""

    tree: Transformer
    stored: StoredTensors
    slices: Mapping[Key, tuple[tuple[str, Slice], ...]]
    """The names of the stored tensors that hold a tensor of the tree, with the part that is it; several for stacked copies."""
    by_inputs: bool
    """True if matrices of blocks are stored as (inputs, outputs)."""
    places: Mapping[Key, Weight]
    notes: tuple[str, ...]
    """Notes on the configuration, and :attr:`disagreements`."""
    disagreements: tuple[str, ...] = ()
    """Tensors of the checkpoint beyond the tree, and missing ones, one sentence each."""

    def homes(self) -> dict[str, list[Key]]:
        """The tensors of the tree that each stored tensor holds."""
        found: dict[str, list[Key]] = {}
        for key, parts in self.slices.items():
            for name, _ in parts:
                found.setdefault(name, []).append(key)
        return found

    def read(self, role: str, block: int | None = None) -> Array | None:
        """A tensor of the tree in its own shape, matrices as (outputs, inputs); None if the checkpoint does not hold it.

        Raises
        ------
        InputError
            if it is no matrix of the tree's shape, or holds numbers that are not finite.
        """
        import numpy as np

        key = (role, block)
        if key not in self.slices or key not in self.places:
            return None
        shape, parts = self.places[key].shape, self.slices[key]
        found = [self._part(name, one, shape if one.copy is None else shape[1:]) for name, one in parts]
        return found[0] if parts[0][1].copy is None else np.stack(found)

    def _part(self, name: str, one: Slice, shape: tuple[int, ...]) -> Array:
        whole = self.stored.read(name)
        found = one.view(whole)
        if self.by_inputs and whole.ndim == 2 and one.block is not None:
            found = found.T
        if found.ndim == len(shape) == 2 and found.shape != shape:
            raise InputError(
                f"tensor {shown(name)} of shape {list(whole.shape)} does not fit {site_of(*one.key)}, {list(shape)}, of the "
                "configuration"
            )
        return found.reshape(shape)


def open_trained(checkpoint: str | os.PathLike[str], config: Any = None) -> TrainedWeights:
    """The weights in a checkpoint, by the tree of its configuration.

    Parameters
    ----------
    checkpoint : a safetensors file, its index, a folder with one of them, or the name of a repository in the hub's cache.
    config : a configuration, as a mapping or the path of a file or folder; by default the ``config.json`` in the same folder.

    Raises
    ------
    InputError
        if one of them cannot be read, a tensor does not fit the tree, or none is the tree's.
    """
    place = local_checkpoint(checkpoint)
    stored = open_tensors(place)
    folder = place if place.is_dir() else place.parent
    fields = config if isinstance(config, Mapping) else read_source(folder if config is None else config)
    return weights_of(stored, Transformer.from_config(fields), fields)


def weights_of(stored: StoredTensors, tree: Transformer, fields: Mapping[str, Any] | None = None) -> TrainedWeights:
    """The weights of a tree among stored tensors.

    Parameters
    ----------
    fields : the configuration, whose family names the tensors; without it they have the tree's own names.

    Raises
    ------
    InputError
        if a tensor does not fit the tree, or none is the tree's.
    """
    import numpy as np

    family = None if fields is None else find_family(str(text_part(fields).get("model_type")))
    names = {} if family is None else family.weights
    # Arrays of one number each that stand for the tensors: they have the shapes, and take no memory.
    arrays = {name: np.broadcast_to(np.zeros((), np.int8), one.shape) for name, one in stored.entries.items()}
    own = {name.removeprefix(_OWN_PREFIX): name for name in arrays if name.startswith(_OWN_PREFIX)}
    full = own or {_STORED_AS.get(name, name): name for name in arrays}
    named = _roles_of_arrays({bare: arrays[name] for bare, name in full.items()}, tree, names)
    slices: dict[Key, tuple[tuple[str, Slice], ...]] = {}
    for bare, found in named.found.items():
        for one in found:
            slices[one.key] = (*slices.get(one.key, ()), (full[bare], one))
    slices = {key: tuple(sorted(parts, key=lambda part: part[1].copy or 0)) for key, parts in slices.items()}
    if not slices:
        raise InputError(f"{stored.label} has no tensor of the configuration: it is another model's")
    missing = [site_of(*key) for key in named.missing]
    notes = [] if fields is None else list(notes_on(fields))
    disagreements: list[str] = []
    for what, some in (("tensors that the tree does not have are left out", named.strangers), ("tensors are missing", missing)):
        if some:
            more = f" and {len(some) - 3:,} more" if len(some) > 3 else ""
            disagreements.append(f"{what}: {', '.join(map(shown, some[:3]))}{more}")
    held = {key: parts for key, parts in slices.items() if key not in named.missing}
    return TrainedWeights(
        tree, stored, held, stored_by_inputs(names), places_of(tree), (*notes, *disagreements), tuple(disagreements)
    )


def _roles_of_arrays(arrays: Mapping[str, Array], tree: Transformer, names: WeightNames) -> NamedTensors:
    """The roles of arrays, under the commonest prefix with which they fit the tree: other parts of a model are other trees.

    Raises
    ------
    InputError
        that of the commonest prefix, if they fit with none.
    """
    refused: InputError | None = None
    for prefix in base_prefixes(arrays, names):
        try:
            return named_tensors(arrays, tree, names, prefix, "the configuration")
        except InputError as error:
            refused = refused or error
    raise refused or InputError("there are no tensors")
