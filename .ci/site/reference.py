"""The reference: a page for each package with public names, from their docstrings. A role that leads nowhere is an error."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

PACKAGES = {
    "depthwidth": "The public names of the calculator.",
    "depthwidth.layers": "Components, for trees of your own.",
    "depthwidth.initialization": "Schemes, recipes, and what a scheme of your own needs.",
    "depthwidth.architecture.hf": "Configurations of Hugging Face models.",
    "depthwidth.planning.rules": "Rules for shapes, and how to register one.",
    "depthwidth.fitting": "Fits of laws to training runs.",
    "verify": "Torch modules, initialisation and measurements of real transformers (extra `verify`).",
    "verify.jobs": "Jobs, each the test of one claim.",
    "verify.models.base": "Torch modules for components of your own.",
}
"""The packages with a page, and its first sentence."""
_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc|obj):`(?P<short>~?)(?P<target>[\w.]+)`")
_SECTION = re.compile(r"^(?P<title>\w[\w ]*)\n-{3,}$", re.MULTILINE)


class DeadLinkError(Exception):
    """A role in a docstring that names nothing."""


class Place(NamedTuple):
    """The place of a documented object: its page and the anchor on it."""

    page: str
    anchor: str


def pages() -> dict[str, str]:
    """Markdown by file name: the index, and one page a package.

    Raises
    ------
    DeadLinkError
        with all roles whose targets do not exist.
    """
    named = {package: public_names(import_module(package)) for package in PACKAGES}
    places: dict[int, Place] = {}
    for package, names in named.items():
        for name, thing in names.items():
            places.setdefault(id(thing), Place(f"{package}.md", name))
            for method, inner in _methods(thing):
                places.setdefault(id(inner), Place(f"{package}.md", f"{name}.{method}"))
    dead: list[str] = []
    found = {"reference/index.md": _index(named)}
    for package, names in named.items():
        lines = [f"# `{package}`", "", PACKAGES[package], ""]
        for name, thing in names.items():
            lines += _entry(name, thing, f"{package}.md", places, dead)
        found[f"reference/{package}.md"] = "\n".join(lines)
    if dead:
        raise DeadLinkError("; ".join(dict.fromkeys(dead)))
    return found


def public_names(module: ModuleType) -> dict[str, Any]:
    """The functions and classes that a package makes public and documents, in the order of their names."""
    listed = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {}
    for name in sorted(listed, key=str.lower):
        thing = getattr(module, name)
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and inspect.getdoc(thing):
            here = getattr(thing, "__module__", "") or ""
            if here.partition(".")[0] in ("depthwidth", "verify"):
                found[name] = thing
    return found


def _index(named: dict[str, dict[str, Any]]) -> str:
    lines = ["# Reference", "", "Public names, from their docstrings. Formulas have [an atlas](../atlas/index.md).", ""]
    lines += ["| package | names |", "|---|---|"]
    for package, names in named.items():
        links = ", ".join(f"[`{name}`]({package}.md#{name})" for name in names)
        lines.append(f"| [`{package}`]({package}.md) | {links} |")
    return "\n".join(lines)


def _methods(thing: Any) -> Iterator[tuple[str, Any]]:
    """The documented public methods and properties that a class defines itself."""
    if not inspect.isclass(thing):
        return
    for name, one in list(vars(thing).items()):
        inner = getattr(one, "__func__", one)
        inner = one.fget if isinstance(one, property) else getattr(one, "func", inner)
        if not name.startswith("_") and inspect.isroutine(inner) and getattr(inner, "__doc__", None):
            yield name, inner


def _entry(name: str, thing: Any, page: str, places: dict[int, Place], dead: list[str]) -> Iterator[str]:
    yield f"## {name} {{ #{name} }}"
    yield ""
    yield from _signature(name, thing)
    yield markdown(thing, page, places, dead)
    yield ""
    for method, inner in _methods(thing):
        yield f"### {name}.{method} {{ #{name}.{method} }}"
        yield ""
        if not isinstance(vars(thing)[method], (property, functools.cached_property)):
            yield from _signature(method, inner)
        yield markdown(inner, page, places, dead)
        yield ""


def _signature(name: str, thing: Any) -> Iterator[str]:
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):
        return
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # the addresses of default values differ from build to build
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text).replace("(self, ", "(").replace("(self)", "()").replace("(cls, ", "(")
    yield f"```python\n{name}{text}\n```"
    yield ""


def markdown(thing: Any, page: str, places: dict[int, Place], dead: list[str]) -> str:
    """The docstring of `thing` as Markdown; roles without a target are added to `dead`."""
    text = inspect.getdoc(thing) or ""
    parts = _SECTION.split(text)
    lines = _plain(parts[0], thing, page, places, dead)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        lines += ["", f"**{title}**", ""]
        whole = title.strip() in ("Examples", "Returns", "Notes")
        write = _plain if whole else _items
        lines += write(body, thing, page, places, dead)
    return "\n".join(lines)


def _plain(text: str, thing: Any, page: str, places: dict[int, Place], dead: list[str]) -> list[str]:
    """Paragraphs, with examples and formulas as blocks of code."""
    lines: list[str] = []
    fence = ""
    for line in text.strip("\n").split("\n"):
        starts = "python" if line.startswith(">>> ") else "text" if line.startswith(".. math::") else ""
        if fence and (not line.strip() and fence == "python"):
            lines.append("```")
            fence = ""
        if starts and not fence:
            fence = starts
            lines += ["", f"```{'python' if starts == 'python' else 'latex'}"]
        if fence:
            lines.append(line.removeprefix(".. math::").strip() if fence == "text" else line)
            if fence == "text" and not line.strip():
                lines.append("```")
                fence = ""
        else:
            lines.append(_linked(line, thing, page, places, dead))
    return [*lines, "```"] if fence else lines


def _items(text: str, thing: Any, page: str, places: dict[int, Place], dead: list[str]) -> list[str]:
    """Entries of a section, each a name with its description, which may be indented below it."""
    lines: list[str] = []
    for line in text.strip("\n").split("\n"):
        words = _linked(line.strip(), thing, page, places, dead)
        if line[:1].strip():
            name, colon, rest = words.partition(" : ")
            lines.append(f"- `{name}`: {rest}" if colon else f"- {words}")
        else:
            lines.append(f"  {words}".rstrip())
    return lines


def _linked(line: str, thing: Any, page: str, places: dict[int, Place], dead: list[str]) -> str:
    """One line with roles as links, literals as code, and no HTML."""

    def pointed(match: re.Match[str]) -> str:
        target = match["target"]
        shown = target.rpartition(".")[2] if match["short"] else target
        found = resolve(target, thing)
        if found is _NOTHING:
            dead.append(f"{target} in {getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}")
            return f"`{shown}`"
        inner = getattr(found, "__func__", found.fget if isinstance(found, property) else getattr(found, "func", found))
        place = places.get(id(inner))
        if place is None:
            return f"`{shown}`"
        return f"[`{shown}`]({'' if place.page == page else place.page}#{place.anchor})"

    pieces = re.split(r"(:\w+:`[^`]*`|``[^`]*``|`[^`]*`)", line)
    for i, piece in enumerate(pieces):
        if piece.startswith(":"):
            pieces[i] = _ROLE.sub(pointed, piece)
        elif piece.startswith("`"):
            pieces[i] = f"`{piece.strip('`')}`"
        else:
            pieces[i] = piece.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("[", "\\[")
    return "".join(pieces)


_NOTHING = object()


def resolve(target: str, thing: Any) -> Any:
    """The object that a role names, as seen from `thing`: in its class or module, beside its module, or by its whole name.

    A name that begins with a dot may be any module's.
    """
    module = inspect.getmodule(thing)
    owner = thing if inspect.isclass(thing) else getattr(module, thing.__qualname__.partition(".")[0], None)
    bare = target.lstrip(".")
    for start in (owner, module):
        found = _down(start, bare.split("."))
        if found is not _NOTHING:
            return found
    package = "" if module is None else module.__name__.rpartition(".")[0]
    for name in (f"{package}.{bare}", bare):
        found = _imported(name)
        if found is not _NOTHING:
            return found
    others = (one for name, one in list(sys.modules.items()) if name.partition(".")[0] in ("depthwidth", "verify"))
    searched = (_down(one, bare.split(".")) for one in others) if target.startswith(".") else ()
    return next((found for found in searched if found is not _NOTHING), _NOTHING)


def _imported(name: str) -> Any:
    """A module, or what is inside one, by its whole name."""
    words = name.split(".")
    for i in range(len(words), 0, -1):
        try:
            found = import_module(".".join(words[:i]))
        except ImportError:
            continue
        return _down(found, words[i:])
    return _NOTHING


def _down(start: Any, words: list[str]) -> Any:
    for word in words:
        try:
            start = inspect.getattr_static(start, word)
        except AttributeError:
            fields = {name for one in getattr(start, "__mro__", ()) for name in getattr(one, "__annotations__", {})}
            if word in fields:
                return word  # a field without a value of its own
            start = getattr(start, word, _NOTHING)  # a name that its package loads when it is asked for
        if start is _NOTHING:
            return _NOTHING
    return start


def links(text: str) -> Iterator[tuple[str, str]]:
    """The page and the anchor of each link in Markdown, outside of code."""
    for piece in re.split(r"```.*?```", text, flags=re.DOTALL):
        yield from re.findall(r"\]\(([^()#\s]*)(?:#([^()\s]+))?\)", piece)
