# mypy: disable-error-code="no-any-return"
"""The parameters of a live model, ours or the transformers library's, and the tensors of a tree that they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import find_family
from depthwidth.architecture.hf.family import Family
from depthwidth.architecture.hf.text_parts import by_family
from depthwidth.architecture.hf.weights import LAYOUTS, Fused, WeightNames
from depthwidth.errors import InputError, nearest, shown
from depthwidth.initialization import Weight, parameters, weights
from depthwidth.initialization.tensors import site_of

WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.|^module\.")
"""The prefixes that compilers and data-parallel wrappers add to a parameter's name."""

View = Callable[[Tensor], Tensor]
Key = tuple[str, int | None]
"""The role of a tensor and the number of its block; None outside of blocks."""


class Slice(NamedTuple):
    """A part of a parameter that is one tensor of the tree, or all of it."""

    role: str
    block: int | None
    view: View
    copy: int | None = None
    """The number of the copy that it is, if the tensor stacks those of equal parts (experts); None for all of it."""

    @property
    def key(self) -> Key:
        """Role and block."""
        return self.role, self.block


def unwrap(model: nn.Module) -> nn.Module:
    """The model without the wrappers of ``torch.compile`` and data parallelism."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (getattr(model, "module", None) if not hasattr(model, "config") else None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def family_of(model: nn.Module) -> Family | None:
    """The Hugging Face family of a model, by its ``config.model_type``; None for a model without one."""
    model_type = getattr(getattr(unwrap(model), "config", None), "model_type", None)
    return find_family(by_family(model_type, {})["model_type"]) if isinstance(model_type, str) else None


def tree_of(model: nn.Module) -> Transformer:
    """The tree of a model of :func:`verify.build`, or of the transformers library.

    Raises
    ------
    InputError
        if the model has no configuration, or one that cannot be read.
    """
    inner = unwrap(model)
    tree = getattr(inner, "tree", None)
    if isinstance(tree, Transformer):
        return tree
    config = getattr(inner, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise InputError(f"{type(inner).__name__} has no configuration from which to read its tree: pass tree=")
    fields = {**config.to_dict(), "architectures": [type(inner).__name__]}
    if fields.get("sliding_window") == 0:  # the library's configuration of a model without windows
        fields["sliding_window"] = None
    return Transformer.from_config(fields)


def locate(
    model: nn.Module, tree: Transformer, names: WeightNames | None = None, *, unused: Collection[str] = ()
) -> dict[str, list[Slice]]:
    """The tensors of `tree` that each parameter of `model` holds.

    Parameters
    ----------
    model : any module; its parameters have the tree's names, or those of `names`.
    tree : the model's tree.
    names : weight names as in :mod:`depthwidth.architecture.hf.weights`; by default those of the model's family.
    unused : names of parameters to leave out, which the model holds and does not use.

    Raises
    ------
    InputError
        if a parameter has no role, a tensor of the tree has no parameter, or their sizes differ.
    """
    inner = unwrap(model)
    if names is None:
        family = family_of(inner)
        names = {} if family is None else family.weights
    prefix = f"{getattr(inner, 'base_model_prefix', '')}."
    own = {name: (role, block) for name, role, block, _ in parameters(tree)}
    places, grouped = places_of(tree), _grouped_blocks(model, prefix, names, tree)
    found: dict[str, list[Slice]] = {}
    seen: dict[Key, dict[int | None, str]] = {}
    for name, parameter in model.named_parameters():
        plain = WRAPPERS.sub("", name)
        if plain in unused:
            continue
        if plain.endswith(".alpha") and hasattr(inner, "apply_multipliers"):
            found[name] = []  # a trainable residual scale of ReZero's, which the tree does not have
            continue
        slices = [Slice(*own[plain], _whole)] if plain in own else _find(plain, prefix, names, places, grouped)
        if not slices:
            raise InputError(f"there is no weight name for {name} of {type(inner).__name__}{nearest(plain, own)}")
        for one in slices:
            here = seen.setdefault(one.key, {})
            if one.copy in here:
                raise InputError(f"{here[one.copy]} and {name} are both {site_of(*one.key)}")
            here[one.copy] = name
            shape = places[one.key].shape if one.key in places else ()
            if not shape or one.view(parameter).numel() != torch.Size(shape if one.copy is None else shape[1:]).numel():
                raise InputError(f"{name} of shape {list(parameter.shape)} does not fit {site_of(*one.key)} of the tree")
        found[name] = slices
    missing = [site_of(*key) for key, one in places.items() if not _complete(seen.get(key, {}), one)]
    if missing:
        raise InputError(f"{type(inner).__name__} has no parameter for {missing[0]}")
    return found


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
                yield Slice(*key, _whole, copy)
                return


def _template(name: str, count: int) -> str:
    """The name with its first `count` numbers replaced."""
    return re.sub(r"(^|\.)\d+\.", r"\1#.", name, count=count)


def _numbers(name: str) -> tuple[int, ...]:
    """The first two numbers in a name."""
    return tuple(int(number) for number in re.findall(r"(?<=\.)\d+(?=\.)", f".{name}")[:2])


def _grouped_blocks(model: nn.Module, prefix: str, names: WeightNames, tree: Transformer) -> dict[tuple[int, ...], int]:
    """If the library numbers groups and the blocks in each (ALBERT): the first block of the tree with the weights of each."""
    if not any(name.count("#") > 1 for name in names):
        return {}
    bare = (WRAPPERS.sub("", name).removeprefix(prefix) for name, _ in model.named_parameters())
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


def _whole(tensor: Tensor) -> Tensor:
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
    return lambda tensor: tensor.unflatten(0, (groups, -1))[:, start : start + size].flatten(0, 1)


def _equal(count: int) -> Callable[[Any, int], View]:
    return lambda owner, part: lambda tensor: tensor.chunk(count, dim=-2 if tensor.dim() > 1 else 0)[part]


def _transposed(attention: Any, part: int) -> View:
    return lambda tensor: tensor.transpose(-2, -1)


def _transposed_halves(attention: Any, part: int) -> View:
    return lambda tensor: tensor.chunk(2, dim=-1)[part].transpose(-2, -1)


def _alternating(attention: Any, part: int) -> View:
    return lambda tensor: tensor[..., part::2].transpose(-2, -1) if tensor.dim() > 2 else tensor[..., part::2]


def _key_groups(attention: Any, part: int) -> View:
    heads, kv, dim = attention.heads, attention.kv_heads, attention.head_dim

    def view(tensor: Tensor) -> Tensor:
        split = tensor.view(kv, heads // kv + 2, dim, *tensor.shape[1:])
        return (split[:, :-2], split[:, -2], split[:, -1])[part]

    return view


def _latent(attention: Any, part: int) -> View:
    rank = attention.latent.rank
    return lambda tensor: tensor[rank:] if part else tensor[:rank]


def _latent_heads(attention: Any, part: int) -> View:
    heads, still = attention.heads, attention.still

    def view(tensor: Tensor) -> Tensor:
        split = tensor.view(heads, still + attention.value_dim, *tensor.shape[1:])
        return split[:, still:] if part else split[:, :still]

    return view


def _shards(attention: Any, part: int) -> View:
    if attention.heads % 4:
        raise InputError(f"codegen cuts its query map in four, and heads={attention.heads} is not a multiple of four")
    return lambda tensor: tensor.view(4, 3, -1, *tensor.shape[1:])[:, (0, 2, 1)[part]]


_BY_ROWS = ("parts", "groups")
"""The layouts that follow from the shapes of the tensors alone."""
_CUTS: dict[str, Callable[[Any, int], View]] = {
    "rows": _rows,
    "columns": _columns,
    "halves": _equal(2),
    "thirds": _equal(3),
    "transposed": _transposed,
    "transposed_halves": _transposed_halves,
    "alternating": _alternating,
    "key_groups": _key_groups,
    "latent": _latent,
    "latent_heads": _latent_heads,
    "shards": _shards,
}
