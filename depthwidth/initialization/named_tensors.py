"""The tensors of a tree that named arrays hold: parameters of a live model, or tensors of a checkpoint.

Names are the tree's own or those of a Hugging Face family (:mod:`depthwidth.architecture.hf.weights`). An array is anything
with a shape, slices, ``reshape`` and ``swapaxes``: numpy's and torch's are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..architecture.hf.weights import LAYOUTS, Fused, WeightNames
from ..errors import InputError, nearest, shown
from .tensors import Weight, parameters, site_of, weights

Array = Any
View = Callable[[Array], Array]
Key = tuple[str, int | None]
"""The role of a tensor and the number of its block; None outside of blocks."""


class Slice(NamedTuple):
    """A part of a named array that is one tensor of the tree, or all of it."""

    role: str
    block: int | None
    view: View
    copy: int | None = None
    """The number of the copy that it is, if the tensor stacks those of equal parts (experts); None for all of it."""

    @property
    def key(self) -> Key:
        """Role and block."""
        return self.role, self.block


class NamedTensors(NamedTuple):
    """The roles of named arrays."""

    found: dict[str, list[Slice]]
    """The tensors of the tree that each array holds."""
    strangers: list[str]
    """Names without a role."""
    missing: list[Key]
    """Tensors of the tree that no array holds, or not all copies of."""


def named_tensors(
    arrays: Mapping[str, Array], tree: Transformer, names: WeightNames, prefix: str = "", owner: str = "the tree"
) -> NamedTensors:
    """The tensors of `tree` that each of `arrays` holds.

    Parameters
    ----------
    arrays : by name: the tree's, or those of `names`, with or without `prefix`.
    names : weight names of a family.
    prefix : of the base model, with its dot.
    owner : the arrays' model, for the sentence of an error.

    Raises
    ------
    InputError
        if two arrays hold one tensor, or the sizes of an array and its tensor differ.
    """
    own = {site: (role, block) for site, role, block, _ in parameters(tree)}
    places, grouped = places_of(tree), _grouped_blocks(arrays, prefix, names, tree)
    found: dict[str, list[Slice]] = {}
    strangers: list[str] = []
    seen: dict[Key, dict[int | None, str]] = {}
    for name, array in arrays.items():
        slices = [Slice(*own[name], _whole_view)] if name in own else _find(name, prefix, names, places, grouped)
        if not slices and 0 in array.shape:  # parts without features, which a tree does not have
            found[name] = []
            continue
        if not slices:
            strangers.append(name)
            continue
        for one in slices:
            here = seen.setdefault(one.key, {})
            if one.copy in here:
                raise InputError(f"{here[one.copy]} and {name} are both {site_of(*one.key)}")
            here[one.copy] = name
            shape = places[one.key].shape if one.key in places else ()
            if not shape or _size(one.view, array) != math.prod(shape if one.copy is None else shape[1:]):
                raise InputError(f"{name} of shape {list(array.shape)} does not fit {site_of(*one.key)} of {owner}")
        found[name] = slices
    missing = [key for key, one in places.items() if not _complete(seen.get(key, {}), one)]
    return NamedTensors(found, strangers, missing)


def _size(view: View, array: Array) -> int:
    """The number of entries of a view; -1 if the array is too small to be cut so."""
    try:
        return math.prod(view(array).shape)
    except (IndexError, RuntimeError, ValueError):
        return -1


def stored_by_inputs(names: WeightNames) -> bool:
    """True if a family stores the matrices of its blocks as (inputs, outputs): the library's ``Conv1D``."""
    return any(isinstance(role, Fused) and role.layout == "columns" for role in names.values())


def base_prefixes(names: Iterable[str], table: WeightNames) -> list[str]:
    """Prefixes of names, with their dot, without which many of them are in a family's table: of a model, or of one inside.

    Returns
    -------
    The commonest first. A model of several parts may have one for each; rare ones are left out.

    >>> base_prefixes(["model.norm.weight", "lm_head.weight"], {"norm": "decoder.norm", "lm_head": "head.unembedding"})
    ['model.', '']
    >>> base_prefixes(["model.layers.0.norm.weight", "lm_head.weight"], {"layers.#.norm": "decoder.norm"})
    ['model.']
    """
    counts: dict[str, int] = {}
    numbers = max((one.count("#") for one in table), default=1)
    for name in names:
        parts = _template(name, numbers).split(".")[:-1]
        for first in range(min(len(parts), _DEEPEST_PREFIX + 1)):
            if ".".join(parts[first:]) in table:
                prefix = "".join(f"{part}." for part in parts[:first])
                counts[prefix] = counts.get(prefix, 0) + 1
    most = max(counts.values(), default=0)
    found = sorted((prefix for prefix in counts if counts[prefix] >= _RARE * most), key=lambda one: -counts[one])
    return found or [""]


_RARE = 0.2
"""The share of the commonest prefix's names below which one is rare."""
_DEEPEST_PREFIX = 3
"""Parts of a prefix: ``model.language_model.model.`` has as many."""


def _complete(copies: Mapping[int | None, str], weight: Weight) -> bool:
    """True if a tensor is there as a whole, or all of its copies are."""
    return bool(copies) and (None in copies or len(copies) == weight.shape[0])


def places_of(tree: Transformer) -> dict[Key, Weight]:
    """Every tensor of a tree by role and block."""
    return {(one.role, block): one for one in weights(tree) for block in (one.blocks if one.stack else (None,))}


def _find(
    name: str, prefix: str, names: WeightNames, places: Mapping[Key, Weight], grouped: Mapping[tuple[int, ...], int]
) -> list[Slice]:
    """The slices of a parameter by the table of names, which may have it with the base model's prefix."""
    whole, bare = name, name.removeprefix(prefix)
    return list(_find_slices(whole, names, places, grouped)) or list(_find_slices(bare, names, places, grouped))


def _find_slices(
    name: str, names: WeightNames, places: Mapping[Key, Weight], grouped: Mapping[tuple[int, ...], int]
) -> Iterator[Slice]:
    """The slices of a parameter by the table of names; `grouped` is the block of each block in a group."""
    block = next(iter(_numbers(name)), None)
    template = _template(name, 1)
    module, _, leaf = template.rpartition(".")
    if _template(name, 2).rpartition(".")[0] in names and _numbers(name) in grouped:
        module, block = _template(name, 2).rpartition(".")[0], grouped[_numbers(name)]
    module, copy = _without_copy(module, names)
    if template in names:  # a separate parameter, not a module's weight or bias
        role, leaf = names[template], "bias" if template.endswith("_bias") else "weight"
    elif module in names:
        role = names[module]
    else:
        return
    if isinstance(role, Fused):
        # A separate parameter may hold biases; its roles then name the tensor in full.
        keys = [(_present(one, leaf, block, places), block) for one in role.roles]
        for key in keys:
            if key not in places:
                raise InputError(f"{name} holds {site_of(*key)}, but the tree has no such tensor")
        rows = [places[key].shape[0] for key in keys]
        for part, key in enumerate(keys):
            owner = places[key].owner
            if role.layout in _BY_ROWS:
                groups = owner.row_groups if role.layout == "groups" else 1  # type: ignore[attr-defined]
                yield Slice(*key, _group_rows(groups, rows, part))
            else:
                yield Slice(*key, _part(role.layout, owner, part))
        return
    for one in role.replace("#", str(block)).split("|"):
        for full in (f"{one}.{leaf}", one):
            key = (full, block if ".block." in full else None)
            if key in places:
                yield Slice(*key, _whole_view, copy)
                return


def _template(name: str, count: int) -> str:
    """The name with its first `count` numbers replaced."""
    return re.sub(r"(^|\.)\d+\.", r"\1#.", name, count=count)


def _numbers(name: str) -> tuple[int, ...]:
    """The first two numbers in a name."""
    return tuple(int(number) for number in re.findall(r"(?<=\.)\d+(?=\.)", f".{name}")[:2])


def _grouped_blocks(arrays: Iterable[str], prefix: str, names: WeightNames, tree: Transformer) -> dict[tuple[int, ...], int]:
    """If the library numbers groups and the blocks in each (ALBERT): the first block of the tree with the weights of each."""
    if not any(name.count("#") > 1 for name in names):
        return {}
    bare = [name.removeprefix(prefix) for name in arrays]
    pairs = sorted({_numbers(name) for name in bare if _template(name, 2).count("#") > 1})
    return dict(zip(pairs, tree.stack.weight_sets, strict=False))


def _present(role: str, leaf: str, block: int | None, places: Mapping[Key, Weight]) -> str:
    """The first of the alternatives of a role that the tree has, as a tensor or with the name of one; else the last."""
    full = [name for one in role.split("|") for name in (one, f"{one}.{leaf}")]
    return next((name for name in full if (name, block) in places), full[-1])


def _without_copy(module: str, names: WeightNames) -> tuple[str, int | None]:
    """A module's name with ``_*`` for the number of one of several equal parts, and that number; None if it has none."""
    found = re.search(r"_(\d+)\.", module)
    starred = re.sub(r"_\d+\.", "_*.", module)
    return (starred, int(found[1])) if found is not None and starred in names else (module, None)


def _whole_view(tensor: Array) -> Array:
    return tensor


def _part(layout: str, attention: Any, part: int) -> View:
    """The view of the part-th tensor of a fused parameter; `attention` is the component that the tensor belongs to."""
    if layout not in _CUTS:
        raise InputError(f"there is no layout {shown(layout)} of a fused parameter{nearest(layout, LAYOUTS)}")
    return _CUTS[layout](attention, part)


def _section(attention: Any, part: int) -> slice:
    """The range of queries, keys or values in their joined dimension."""
    heads, kv, dim = attention.heads, attention.kv_heads, attention.head_dim
    sizes = (heads * dim, kv * dim, kv * attention.value_dim)
    start = sum(sizes[:part])
    return slice(start, start + sizes[part])


def _rows(attention: Any, part: int) -> View:
    section = _section(attention, part)
    return lambda tensor: tensor[section]


def _columns(attention: Any, part: int) -> View:
    section = _section(attention, part)
    return lambda tensor: tensor[..., section]


def _group_rows(groups: int, rows: list[int], part: int) -> View:
    """The rows of the part-th of several tensors, which alternate in `groups` groups."""
    start, size = sum(rows[:part]) // groups, rows[part] // groups
    return lambda tensor: tensor.reshape(groups, -1, *tensor.shape[1:])[:, start : start + size].reshape(-1, *tensor.shape[1:])


def _equal(count: int) -> Callable[[Any, int], View]:
    return lambda owner, part: lambda tensor: _chunk(tensor, max(len(tensor.shape) - 2, 0), count, part)


def _chunk(tensor: Array, dim: int, count: int, part: int) -> Array:
    """The part-th of `count` equal parts along a dimension."""
    size = -(-tensor.shape[dim] // count)
    return tensor[(slice(None),) * dim + (slice(part * size, (part + 1) * size),)]


def _transposed_view(attention: Any, part: int) -> View:
    return lambda tensor: tensor.swapaxes(-2, -1)


def _transposed_halves(attention: Any, part: int) -> View:
    return lambda tensor: _chunk(tensor, len(tensor.shape) - 1, 2, part).swapaxes(-2, -1)


def _alternating_view(attention: Any, part: int) -> View:
    return lambda tensor: tensor[..., part::2].swapaxes(-2, -1) if len(tensor.shape) > 2 else tensor[..., part::2]


def _key_groups(attention: Any, part: int) -> View:
    heads, kv, dim = attention.heads, attention.kv_heads, attention.head_dim

    def view(tensor: Array) -> Array:
        split = tensor.reshape(kv, heads // kv + 2, dim, *tensor.shape[1:])
        return (split[:, :-2], split[:, -2], split[:, -1])[part]

    return view


def _latent(attention: Any, part: int) -> View:
    rank = attention.latent.rank
    return lambda tensor: tensor[rank:] if part else tensor[:rank]


def _latent_heads(attention: Any, part: int) -> View:
    heads, still = attention.heads, attention.still

    def view(tensor: Array) -> Array:
        split = tensor.reshape(heads, still + attention.value_dim, *tensor.shape[1:])
        return split[:, still:] if part else split[:, :still]

    return view


def _shards(attention: Any, part: int) -> View:
    if attention.heads % 4:
        raise InputError(f"codegen cuts its query map in four, and heads={attention.heads} is not a multiple of four")
    return lambda tensor: tensor.reshape(4, 3, -1, *tensor.shape[1:])[:, (0, 2, 1)[part]]


_BY_ROWS = ("parts", "groups")
"""The layouts that follow from the shapes of the tensors alone."""
_CUTS: dict[str, Callable[[Any, int], View]] = {
    "rows": _rows,
    "columns": _columns,
    "halves": _equal(2),
    "thirds": _equal(3),
    "transposed": _transposed_view,
    "transposed_halves": _transposed_halves,
    "alternating": _alternating_view,
    "key_groups": _key_groups,
    "latent": _latent,
    "latent_heads": _latent_heads,
    "shards": _shards,
}
