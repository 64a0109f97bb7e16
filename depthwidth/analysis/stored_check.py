"""Differences between the tensors of a checkpoint and the tree of its configuration. Only headers are read, no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, shown
from ..files import parse_json, read_regular
from ..stored_tensors import INDEX, LONGEST_INDEX, open_tensors
from .trained_weights import weights_of


def disagreements(path: Path, tree: Transformer, fields: Mapping[str, Any]) -> list[str]:
    """One sentence for each way in which a safetensors file, or those that an index names, disagree with a tree.

    If none of the files of an index is there, the sums that the index states are compared.

    Raises
    ------
    InputError
        if a file cannot be read, is damaged, or some of the files of an index are missing.
    """
    if path.name.endswith(INDEX):
        stated = _index_alone(path)
        if stated is not None:
            return _compare_sums(stated, tree)
    stored = open_tensors(path)
    try:
        return list(weights_of(stored, tree, fields).disagreements)
    except InputError as error:
        return [f"the tensors disagree with the configuration: {error}"]


def _index_alone(path: Path) -> Mapping[str, Any] | None:
    """The sums that an index states, if none of its files is there."""
    data = parse_json(read_regular(path, "checkpoint", LONGEST_INDEX), f"checkpoint {shown(str(path), limit=300)}")
    places = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(places, dict) or not all(
        isinstance(one, str) and os.path.basename(one) == one for one in places.values()
    ):
        return None  # its fault is told when it is opened
    if not places or any(os.path.lexists(path.parent / one) for one in set(places.values())):
        return None
    sums = data.get("metadata")
    return sums if isinstance(sums, dict) else {}


def _compare_sums(stated: Mapping[str, Any], tree: Transformer) -> list[str]:
    count, size = stated.get("total_parameters"), stated.get("total_size")
    found = ["none of the files that the index names is here, so that tensors are not compared one by one"]
    if type(count) is int and count != tree.parameters:
        found.append(f"the index states {count:,} parameters, and the model of the configuration has {tree.parameters:,}")
    elif type(size) is int and size not in (2 * tree.parameters, 4 * tree.parameters):
        found.append(
            f"the index states {size:,} bytes, which are neither 2 nor 4 for each of the {tree.parameters:,} parameters of the "
            "model of the configuration"
        )
    return found
