"""The formulas that the calculator itself computes with: followed through the source, from every module outside this package.

A module reaches a formula if it names it, or names something in :mod:`depthwidth.formulas` whose body leads to it. A module
that is handed on as a whole, as in ``getattr(gaussian, name)``, reaches all that it holds.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..formula import formulas

Name = tuple[str, str]
"""A module and a name in it; an empty name stands for the whole module."""

_ROOT = __name__.partition(".")[0]
_FORMULAS = __name__.rpartition(".")[0]


@dataclass
class _Module:
    """The names that a module defines, with the references of each, and those that it imports."""

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
    users = _users()
    return {f.name: users[key] for f in formulas() if (key := (f.__module__, f.__name__)) in users}


@functools.cache
def _users() -> dict[Name, tuple[str, ...]]:
    """The modules outside :mod:`depthwidth.formulas` that reach each definition. The source is read once."""
    modules = {name: _read(name, path) for name, path in _sources()}
    users: dict[Name, list[str]] = {}
    leads = functools.cache(lambda one: tuple(_leads(modules, one)))  # many modules reach the same definitions
    for name, module in modules.items():
        if not name.startswith(_FORMULAS):
            for one in _reached(_references(modules, name, module.tree), leads):
                users.setdefault(one, []).append(name)
    return {one: tuple(sorted(names)) for one, names in users.items()}


def _sources() -> Iterator[tuple[str, Path]]:
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        parts = (path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(root).parts
        yield ".".join((_ROOT, *parts)), path


def _read(name: str, path: Path) -> _Module:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    module = _Module(tree=ast.parse(path.read_text(encoding="utf-8")))
    for node in _statements(module.tree):
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


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement, the outer ones first; expressions, which are ten times as many, contain none."""
    waiting = deque[ast.AST]([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            waiting.extend(getattr(node, part, ()))


def _reached(first: Iterable[Name], leads: Callable[[Name], tuple[Name, ...]]) -> set[Name]:
    """The definitions that `first` lead to, themselves included."""
    waiting, seen = list(first), set[Name]()
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += leads(one)
    return seen


def _leads(modules: dict[str, _Module], one: Name) -> Iterator[Name]:
    """The definitions to which one in :mod:`depthwidth.formulas` leads; a whole module leads to all that it holds."""
    source, what = one
    if not source.startswith(f"{_FORMULAS}."):
        return
    if what:
        yield from _references(modules, source, modules[source].defined[what])
    else:
        for each in (*modules[source].defined, *modules[source].imported):
            yield from _resolved(modules, source, each)


def _references(modules: dict[str, _Module], name: str, node: ast.AST) -> Iterator[Name]:
    """The definitions that the code below `node` names, of its own module or imported; or a whole module."""
    for one, attribute in _names(node):
        for source, what in _resolved(modules, name, one):
            if what or not attribute:
                yield source, what
            else:
                yield from _resolved(modules, source, attribute)


def _names(node: ast.AST) -> list[tuple[str, str]]:
    """The names below `node`, each with the attribute that is taken of it, if any.

    Arguments of the functions that a name is in are left out, since they may be called as a formula is.
    """
    found = list[tuple[str, str]]()

    def visit(node: ast.AST, hidden: frozenset[str], attribute: str) -> None:
        if isinstance(node, ast.Name):
            if node.id not in hidden:
                found.append((node.id, attribute))
            return
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            hidden |= {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        taken = node.attr if isinstance(node, ast.Attribute) else ""
        for name in node._fields:
            part = getattr(node, name, None)
            for child in part if type(part) is list else (part,):
                if isinstance(child, ast.AST):
                    visit(child, hidden, taken)

    visit(node, frozenset(), "")
    return found


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
