"""The formulas that the calculator itself computes with: followed through the source, from every module outside this package.

A module reaches a formula if it names it, or names something in :mod:`depthwidth.formulas` whose body leads to it. A module
that is handed on as a whole, as in ``getattr(gaussian, name)``, reaches all that it holds.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..formula import Formula, formulas

Name = tuple[str, str]
"""A module and a name in it; an empty name stands for the whole module."""

_ROOT = __name__.partition(".")[0]
_FORMULAS = __name__.rpartition(".")[0]


@dataclass
class _Module:
    """The names that a module defines, with what each of them refers to, and those that it imports."""

    imported: dict[str, Name] = field(default_factory=dict)
    defined: dict[str, ast.AST] = field(default_factory=dict)
    tree: ast.Module = field(default_factory=lambda: ast.Module([], []))


def used_formulas() -> dict[str, tuple[str, ...]]:
    """The modules outside :mod:`depthwidth.formulas` that reach each formula; a formula that none reaches is left out.

    Examples
    --------
    >>> used = used_formulas()
    >>> used["rules.liu_depth"]
    ('depthwidth.planning.rules',)
    >>> "heads.hardmax_rank" in used
    False
    """
    modules = {name: _read(name, path) for name, path in _sources()}
    known = {(f.__module__, f.__name__): f for f in formulas()}
    users: dict[str, set[str]] = {}
    for name, module in modules.items():
        if not name.startswith(_FORMULAS):
            for found in _reached(modules, name, module, known):
                users.setdefault(found.name, set()).add(name)
    return {f.name: tuple(sorted(users[f.name])) for f in known.values() if f.name in users}


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        parts = (path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(root).parts
        yield ".".join((_ROOT, *parts)), path


def _read(name: str, path: Path) -> _Module:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    module = _Module(tree=ast.parse(path.read_text(encoding="utf-8")))
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(source, package) if node.level else source
            module.imported |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            module.imported |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    for node in module.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            module.defined[node.name] = node
        elif isinstance(node, ast.Assign):
            module.defined |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return module


def _reached(modules: dict[str, _Module], name: str, module: _Module, known: dict[Name, Formula]) -> Iterator[Formula]:
    waiting, seen = list(_references(modules, name, module.tree)), set[Name]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        source, what = one
        if one in known:
            yield known[one]
        if not source.startswith(f"{_FORMULAS}."):
            continue
        if what:
            waiting += _references(modules, source, modules[source].defined[what])
        else:
            of = modules[source]
            waiting += (found for each in (*of.defined, *of.imported) for found in _resolved(modules, source, each))


def _references(modules: dict[str, _Module], name: str, node: ast.AST) -> Iterator[Name]:
    """The definitions that the code below `node` names, of its own module or imported; or a whole module."""
    attributes = {id(one.value): one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    for one in _names(node):
        for source, what in _resolved(modules, name, one.id):
            if what or id(one) not in attributes:
                yield source, what
            else:
                yield from _resolved(modules, source, attributes[id(one)])


def _names(node: ast.AST, hidden: frozenset[str] = frozenset()) -> Iterator[ast.Name]:
    """The names below `node` but for arguments of the functions that they are in, which may be called as a formula is."""
    if isinstance(node, (ast.FunctionDef, ast.Lambda)):
        hidden |= {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    if isinstance(node, ast.Name) and node.id not in hidden:
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _names(child, hidden)


def _resolved(modules: dict[str, _Module], source: str, what: str) -> Iterator[Name]:
    """The definition of the name `what` of a module, followed through re-exports."""
    if f"{source}.{what}" in modules:
        yield f"{source}.{what}", ""
    elif source in modules and what in modules[source].defined:
        yield source, what
    elif source in modules and what in modules[source].imported:
        origin, inner = modules[source].imported[what]
        if inner:
            yield from _resolved(modules, origin, inner)
        elif origin in modules:
            yield origin, ""
