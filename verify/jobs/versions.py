"""Versions of code: digests of modules without comments, docstrings and layout."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import verify
from depthwidth import __version__
from depthwidth.coefficients import data_directory
from depthwidth.errors import InputError

from ..rows import canonical, digest_of

FRAMEWORK = frozenset(
    {"verify.files", "verify.records", "verify.rows", "verify.jobs", "verify.jobs.base", "verify.jobs.versions"}
)
"""Modules that every job imports and that decide no measured number."""


def code_of(*modules: str | ModuleType) -> str:
    """A digest of the code of modules."""
    return digest_of("\n".join(_essence(_source(module)) for module in modules).encode())


def code_behind(module: ModuleType, *others: str) -> str:
    """A digest of a module, of all modules of ``verify`` that it imports, through others too, and of `others`.

    An import counts wherever it stands, inside functions too. The modules of :data:`FRAMEWORK` do not count.
    """
    found = _closure(_imports_of(module, "verify"), _of_verify)
    parts = {name: _essence(_source(name)) for name in {*found, *others} - {module.__name__}}
    return digest_of(canonical([_essence(_source(module)), sorted(parts.items())]).encode())


def _of_verify(name: str) -> Iterator[str]:
    return (other for other in _imported(name) if other not in FRAMEWORK)


def version_of(*modules: str) -> str:
    """The version of a formula that is defined in `modules`: the package's, and a digest of their code and all that it imports.

    Fitted coefficients of laws that the code names count as code.

    Examples
    --------
    >>> version_of("depthwidth.formulas.gaussian").startswith("0.1.0+")
    True
    """
    return f"{__version__}+{_version_of(modules)}"


@functools.cache
def _version_of(modules: tuple[str, ...]) -> str:
    known = {name: _essence(_source(name)) for name in _closure(modules, _imported)}
    for file in sorted((data_directory() / "coefficients").glob("*.csv")):
        law = repr(file.name.partition(".")[0])
        if any(law in code for code in known.values()):
            known[file.name] = file.read_text(encoding="utf-8")
    return digest_of(canonical(sorted(known.items())).encode())[:8]


def _closure(modules: tuple[str, ...], imported: Callable[[str], Iterator[str] | tuple[str, ...]]) -> set[str]:
    """Modules and all that they import."""
    known: set[str] = set()
    waiting = [name for name in modules if name not in FRAMEWORK]
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            waiting += imported(name)
    return known


@functools.cache
def _imported(module: str) -> tuple[str, ...]:
    """The modules of the same package that a module imports, anywhere in its code."""
    return _imports_of(module, module.partition(".")[0])


def _imports_of(module: str | ModuleType, package: str) -> tuple[str, ...]:
    if isinstance(module, str):
        found = _find(module)
        folder = module if found is not None and found.name == "__init__.py" else module.rpartition(".")[0]
    else:
        folder = module.__package__ or ""
    names: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), folder) if node.level else node.module
            names |= {str(base), *(_home(f"{base}.{alias.name}") for alias in node.names)}
    return tuple(sorted(name for name in names if name.startswith(f"{package}.") and _find(name) is not None))


def _home(name: str) -> str:
    """The module that defines a public name of ``verify``, which loads them on demand; any other name as it is."""
    package, _, attribute = name.rpartition(".")
    return f"verify.{verify._HOME[attribute]}" if package == "verify" and attribute in verify._HOME else name


@functools.cache
def _find(module: str) -> Path | None:
    """The file of a module, found without importing its package, which may import torch; None if there is no such module."""
    package, *parts = module.split(".")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    place = Path(found.origin)
    if parts:
        folder = place.parent.joinpath(*parts)
        place = folder / "__init__.py" if folder.is_dir() else folder.with_name(f"{folder.name}.py")
    return place if place.is_file() else None


def _source(module: str | ModuleType) -> str:
    path = _find(module) if isinstance(module, str) else module.__file__
    if path is None:
        raise InputError(f"the source of {module} cannot be found")
    return Path(path).read_text(encoding="utf-8")


@functools.cache
def _essence(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A string that stands alone does nothing.
            node.body = [  # type: ignore[attr-defined]
                line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return ast.unparse(tree)
