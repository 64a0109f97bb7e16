"""The schemes by name, and the recipe that one of them makes of a tree."""

from __future__ import annotations

from typing import Any

from ..architecture import Transformer
from ..errors import InputError, nearest, shown
from ..formula import is_symbolic
from ..plugins import plugins
from .admin import admin
from .deepnorm import deepnorm
from .deepscale import deepscale
from .draft import Scheme
from .ds_init import ds_init
from .fans import kaiming, xavier
from .layernorm_scaling import layernorm_scaling
from .normal import gpt2, normal
from .recipes import Recipe
from .shipped import shipped
from .t_fixup import t_fixup
from .unit_scaling import unit_scaling
from .width_transfer import completep, depth_mup, mup
from .zero_branch import rezero, skipinit

_SCHEMES: dict[str, Scheme] = {
    one.name: one
    for one in (
        shipped, normal, gpt2, xavier, kaiming, t_fixup, deepnorm, admin, ds_init, rezero, skipinit, layernorm_scaling, mup,
        depth_mup, completep, unit_scaling, deepscale,
    )
}  # fmt: skip
"""In the order in which ``depthwidth init`` lists them."""


def schemes() -> list[str]:
    """The schemes that :func:`recipe` knows, those of installed plug-ins last.

    >>> "deepscale" in schemes()
    True
    """
    _add_plugins()
    return list(_SCHEMES)


def scheme_options(scheme: str) -> dict[str, Any]:
    """The options of a scheme and their defaults.

    >>> scheme_options("gpt2")
    {'std': 0.02}
    """
    return _known(scheme).options


def register_scheme(scheme: Scheme) -> Scheme:
    """Make a scheme known by name; a later registration replaces an earlier one.

    Raises
    ------
    InputError
        if it is no :class:`Scheme`, as the decorator :func:`~depthwidth.initialization.scheme` makes them.
    """
    if not isinstance(scheme, Scheme):
        raise InputError(f"register_scheme: {shown(scheme)} is not a Scheme; decorate its function with @scheme")
    _SCHEMES[scheme.name] = scheme
    return scheme


def _add_plugins() -> None:
    for _, one in plugins("depthwidth.schemes"):
        if one.name not in _SCHEMES:
            register_scheme(one)


def _known(scheme: str) -> Scheme:
    if isinstance(scheme, str) and scheme not in _SCHEMES:
        _add_plugins()
    if not isinstance(scheme, str) or scheme not in _SCHEMES:
        hint = nearest(scheme, _SCHEMES) if isinstance(scheme, str) else ""
        raise InputError(f"there is no scheme {shown(scheme)}{hint}; known are {', '.join(_SCHEMES)}")
    return _SCHEMES[scheme]


def recipe(tree: Transformer, scheme: str = "shipped", **options: Any) -> Recipe:
    """What `scheme` says of every tensor of `tree`.

    Parameters
    ----------
    tree : the transformer, with numbers for dimensions.
    scheme : one of :func:`schemes`.
    options : of the scheme, see :func:`scheme_options`: standard deviations, base width and depth, dropout, ...

    Raises
    ------
    InputError
        if there is no such scheme or option, or a value is out of range.

    Examples
    --------
    >>> bert = Transformer(depth=192, width=1024, kind="encoder", placement="post", segments=2, dropout=0.1)
    >>> found = recipe(bert, "deepscale", embedding_correlation=0.221)
    >>> round(found.tensor("encoder.block.attention.value.weight").std[0], 4)
    0.0456
    """
    known = _known(scheme)
    takes = known.options
    for name in options:
        if name not in takes:
            has = f"its options are {', '.join(takes)}" if takes else "it has none"
            raise InputError(f"{scheme}: there is no option {shown(name)}{nearest(str(name), takes)}; {has}")
    if not isinstance(tree, Transformer):
        raise InputError(f"recipe: {shown(tree)} is not a Transformer")
    if is_symbolic(tree.width, tree.depth, tree.vocab):
        raise InputError("recipe: the tree has symbols for dimensions, and standard deviations need numbers")
    draft = known.make(tree, **options)
    lines, residuals = draft.lines(), draft.residuals()
    used = {name: options.get(name, default) for name, default in takes.items()}
    size = {"depth": tree.depth, "width": tree.width, "parameters": tree.parameters}
    extras: dict[str, Any] = {"options": used, "tree": size, **draft.extras}
    for name, sentences in (("notes", draft.notes), ("remarks", draft.remarks)):
        if sentences:
            extras[name] = tuple(sentences)
    return Recipe(scheme, known.source, known.status, lines, residuals, extras)
