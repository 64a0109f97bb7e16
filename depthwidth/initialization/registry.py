"""The schemes by name, and the recipe of a scheme for a tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, nearest, shown
from ..formula import is_symbolic
from ..plugins import plugins
from .admin import admin
from .deepnorm import deepnorm
from .deepscale import deepscale
from .draft import Scheme, refuse_special
from .ds_init import ds_init
from .fans import kaiming, xavier
from .layernorm_scaling import layernorm_scaling
from .normal import gpt2, normal
from .own_values import with_own_values
from .recipes import Recipe
from .shipped import shipped
from .t_fixup import t_fixup
from .unit_scaling import unit_scaling
from .width_transfer import completep, depth_mup, mup
from .zero_branch import rezero, skipinit

_LIBRARY = (
    (shipped, normal, gpt2, xavier, kaiming),
    (t_fixup, deepnorm, admin, ds_init, rezero, skipinit, layernorm_scaling),
    (mup, depth_mup, completep, unit_scaling, deepscale),
)
_SCHEMES: dict[str, Scheme] = {one.name: one for group in _LIBRARY for one in group}
"""In the order in which ``depthwidth init`` lists them."""


def schemes() -> list[str]:
    """The schemes that :func:`recipe` knows, those of installed plug-ins last.

    >>> "deepscale" in schemes()
    True
    """
    _add_plugins()
    return list(_SCHEMES)


def scheme_lines() -> list[dict[str, str]]:
    """A row for each of :func:`schemes`: its name, its starting values in one line, and its source.

    >>> scheme_lines()[1]["starts"]
    'The same std for every matrix and table'
    """
    return [{"scheme": name, "starts": _SCHEMES[name].summary, "source": _SCHEMES[name].source} for name in schemes()]


def scheme_options(scheme: str) -> dict[str, Any]:
    """The options of a scheme and their defaults.

    >>> scheme_options("gpt2")
    {'std': 0.02}
    """
    return _find_scheme(scheme).options


def register_scheme(scheme: Scheme) -> Scheme:
    """Register a scheme by name; a later registration replaces an earlier one.

    Raises
    ------
    InputError
        if it is not a :class:`Scheme`, which the decorator :func:`~depthwidth.initialization.scheme` returns.
    """
    if not isinstance(scheme, Scheme):
        raise InputError(f"register_scheme: {shown(scheme)} is not a Scheme; decorate its function with @scheme")
    _SCHEMES[scheme.name] = scheme
    return scheme


def _add_plugins() -> None:
    for _, one in plugins("depthwidth.schemes"):
        if one.name not in _SCHEMES:
            register_scheme(one)


def _find_scheme(scheme: str) -> Scheme:
    if isinstance(scheme, str) and scheme not in _SCHEMES:
        _add_plugins()
    if not isinstance(scheme, str) or scheme not in _SCHEMES:
        hint = nearest(scheme, _SCHEMES) if isinstance(scheme, str) else ""
        raise InputError(f"there is no scheme {shown(scheme)}{hint}; known are {', '.join(_SCHEMES)}")
    return _SCHEMES[scheme]


def recipe(
    tree: Transformer,
    scheme: str = "shipped",
    *,
    tensors: Mapping[str, Any] | None = None,
    residuals: Mapping[str, Any] | None = None,
    **options: Any,
) -> Recipe:
    """The recipe of `scheme` for `tree`: the settings of every tensor and residual branch.

    Parameters
    ----------
    tree : the transformer, with numbers for dimensions.
    scheme : one of :func:`schemes`.
    tensors : your own values in place of the scheme's: by role or by a pattern of roles, a standard deviation, or a mapping
        with some of std, mean, multiplier, learning_rate and weight_decay. A value is one number, or one for each block.
    residuals : likewise by the role of a residual branch, a factor on the branch, or a mapping with skip and branch.
    options : options of the scheme, see :func:`scheme_options`: standard deviations, base width and depth, dropout, ...

    Raises
    ------
    InputError
        if there is no such scheme, option, tensor or branch, or a value is out of range.
    NoRecipeError
        if no scheme states the starting values of a tensor.

    Examples
    --------
    >>> bert = Transformer(depth=192, width=1024, kind="encoder", placement="post", segments=2, dropout=0.1)
    >>> made = recipe(bert, "deepscale", embedding_correlation=0.221)
    >>> round(made.tensor("encoder.block.attention.value.weight").std[0], 4)
    0.0456
    >>> own = recipe(bert, "normal", tensors={"*.query.weight": 0.05, "*.norm_stream.weight": {"mean": 0.5}})
    >>> own.tensor("encoder.block.attention.query.weight").std, own.tensor("encoder.block.attention.key.weight").std
    (0.05, 0.02)
    """
    chosen = _find_scheme(scheme)
    defaults = chosen.options
    for name in options:
        if name not in defaults:
            has = f"its options are {', '.join(defaults)}" if defaults else "it has none"
            raise InputError(f"{scheme}: there is no option {shown(name)}{nearest(str(name), defaults)}; {has}")
    if not isinstance(tree, Transformer):
        raise InputError(f"recipe: {shown(tree)} is not a Transformer")
    if is_symbolic(tree.width, tree.depth, tree.vocab):
        raise InputError("recipe: the tree has symbols for dimensions, but standard deviations need numbers")
    if chosen is not shipped:  # which states them for some families
        refuse_special(scheme, tree)
    draft = chosen.make(tree, **options)
    lines, scales = draft.lines(), draft.residuals()
    used = {name: options.get(name, default) for name, default in defaults.items()}
    size = {"depth": tree.depth, "width": tree.width, "parameters": tree.parameters}
    extras: dict[str, Any] = {"options": used, "tree": size, **draft.extras}
    for name, sentences in (("notes", draft.notes), ("remarks", draft.remarks)):
        if sentences:
            extras[name] = tuple(sentences)
    found = Recipe(scheme, chosen.source, chosen.status, lines, scales, extras)
    return with_own_values(found, tree, tensors, residuals) if tensors is not None or residuals is not None else found
