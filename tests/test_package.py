"""The house stands as drawn: what imports what, what is public, how quickly it starts."""

import ast
import functools
import graphlib
import importlib
import importlib.util
import pkgutil
import tomllib
from pathlib import Path

import pytest

import depthwidth

ROOT = Path(__file__).parents[1]


def test_importing_the_calculator_imports_neither_torch_nor_verify(in_fresh_python):
    source = """
import sys, depthwidth, depthwidth.cli, depthwidth.architecture.hf
import depthwidth.planning.plan, depthwidth.analysis.published_tables
depthwidth.plan("1T")
print([m for m in ("torch", "verify", "sympy", "pandas", "scipy", "matplotlib", "numpy", "transformers") if m in sys.modules])
"""
    assert in_fresh_python(source).strip() == "[]"


def test_a_plan_loads_nothing_of_moments(in_fresh_python):
    """The number of files is a large part of the time of `depthwidth plan`."""
    source = """
import sys, depthwidth
depthwidth.plan("1T")
unused = "depthwidth.signal.", "depthwidth.formulas.depth", "depthwidth.formulas.finite_width"
print([m for m in sys.modules if m.startswith(unused)])
from depthwidth.signal import Signal
print("depthwidth.signal.signal" in sys.modules)
"""
    assert in_fresh_python(source).split("\n")[:2] == ["[]", "True"]


def test_every_public_name_is_there_and_documented():
    for name in depthwidth.__all__:
        assert getattr(depthwidth, name).__doc__


def test_type_checkers_see_the_public_names():
    """The imports for type checkers and the table of homes say the same."""
    source = (ROOT / "depthwidth" / "__init__.py").read_text()
    block = source.partition("if TYPE_CHECKING:")[2].partition("\n\n")[0]
    for name in depthwidth.__all__:
        assert name in block


def test_no_public_name_is_hidden_by_a_module_of_the_same_name():
    modules = {info.name for info in pkgutil.iter_modules(depthwidth.__path__)}
    assert modules & set(depthwidth._HOME) == set()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="optimal_wdith"):
        depthwidth.optimal_wdith  # noqa: B018


FLOORS = (
    ("depthwidth.errors", "depthwidth.lazy", "depthwidth.mathematics", "depthwidth.progress", "depthwidth.values"),
    ("depthwidth.files", "depthwidth.hub"),
    ("depthwidth.quantities", "depthwidth.coefficients", "depthwidth.display"),
    (
        "depthwidth.formula",
        "depthwidth.evidence",
        "depthwidth.gguf_header",
        "depthwidth.stored_counts",
        "depthwidth.stored_tensors",
    ),
    ("depthwidth.checks",),
    ("depthwidth.plugins",),
    ("depthwidth.numerics",),
    ("depthwidth.formulas",),
    ("depthwidth.signal",),
    ("depthwidth.layers",),
    ("depthwidth.architecture",),
    ("depthwidth.initialization",),
    ("depthwidth.hardware",),
    ("depthwidth.planning",),
    ("depthwidth.fitting",),
    ("depthwidth.analysis",),
    ("depthwidth.explore", "depthwidth.plots"),
    ("depthwidth.cli",),
    ("depthwidth.__main__",),
    ("verify.files", "verify.records"),
    ("verify.rows",),
    ("verify.models",),
    ("verify.measure",),
    ("verify.training",),
    ("verify.jobs",),
    ("verify.runs",),
    ("verify.cli",),
)
"""The rooms of the house from the ground up. A room imports from floors below its own only, anywhere in its source."""

UPWARD = {
    ("depthwidth.cli", "verify.measure"): "`depthwidth heads --measure` measures a live model, where the verifier is installed",
}
"""Imports inside functions of what may not be installed."""

WITHIN = {
    (
        "depthwidth.architecture.transformer",
        "depthwidth.architecture.hf",
    ): "Transformer.from_config and to_config, for convenience",
}
"""Imports inside functions that would close a circle between files."""


def imports_of(name, path):
    """The names that a module imports anywhere in its source, for types too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@functools.cache
def arrows():
    """From each module of both packages to those that it imports."""
    paths = {
        ".".join((path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(ROOT).parts): path
        for package in ("depthwidth", "verify")
        for path in (ROOT / package).rglob("*.py")
    }
    found = {name: {one for one in imports_of(name, path) if one in paths} - {name} for name, path in paths.items()}
    for name in ("depthwidth", "verify"):  # their lists of public names
        del found[name]
    # A package's own file re-exports what is in it; `from .package import name` names both, and the module is what counts.
    return {name: {one for one in others if one in found and not name.startswith(f"{one}.")} for name, others in found.items()}


def room_of(name):
    return ".".join(name.split(".")[:2])


def upward(drawn):
    """Arrows between rooms that do not run downward."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {(room_of(name), room_of(other)) for name, others in drawn.items() for other in others}
    return {(one, other) for one, other in rooms if one != other and floor[one] <= floor[other]} - UPWARD.keys()


def test_every_room_has_a_floor():
    assert {room_of(name) for name in arrows()} == {room for rooms in FLOORS for room in rooms}


def test_arrows_between_rooms_run_downward():
    drawn = arrows()
    assert upward(drawn) == set()
    assert upward(drawn | {"depthwidth.layers.linear": {"depthwidth.planning.plan"}})
    assert upward(drawn | {"verify.models.model": {"verify.training.train"}})
    for one, other in UPWARD:  # none is listed in vain
        assert any(other == room_of(target) for name, others in drawn.items() if room_of(name) == one for target in others)


def test_no_circle_between_files():
    drawn = arrows()
    straight = {name: others - {other for one, other in WITHIN if one == name} for name, others in drawn.items()}
    graphlib.TopologicalSorter(straight).prepare()  # a CycleError names the modules
    for one, other in WITHIN:
        with pytest.raises(graphlib.CycleError):
            graphlib.TopologicalSorter(straight | {one: straight[one] | {other}}).prepare()


LONGEST_FILE, LONGEST_CLASS = 800, 250
"""Lines."""


def oversized(source, name):
    """The sizes of a file and of its classes that exceed the limits, in lines."""
    sizes = {name: (source.count("\n"), LONGEST_FILE)}
    for node in ast.walk(ast.parse(source)) if source.count("\n") > LONGEST_CLASS else ():
        if isinstance(node, ast.ClassDef):
            sizes[f"{name}: {node.name}"] = (node.end_lineno - node.lineno + 1, LONGEST_CLASS)
    return {what: lines for what, (lines, limit) in sizes.items() if lines > limit}


def test_no_file_and_no_class_is_too_long():
    paths = [path for folder in ("depthwidth", "verify", "tests") for path in (ROOT / folder).rglob("*.py")]
    for path in paths:
        assert oversized(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) == {}
    assert len(paths) > 300
    long = "class Long:\n" + "    x = 1\n" * 250
    assert oversized(long, "one.py") == {"one.py: Long": 251}
    assert oversized(long.replace("x = 1\n", "x = 1\n\n\n\n", 200), "one.py") == {"one.py": 851, "one.py: Long": 851}


def test_the_version_is_the_distributions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert depthwidth.__version__ == project["version"]


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(depthwidth.__path__, "depthwidth."):
        if info.name != "depthwidth.__main__":
            assert importlib.import_module(info.name).__doc__, info.name


def test_the_readme_marks_the_commands_that_are_run_from_it():
    readme = (ROOT / "README.md").read_text()
    for name in ("plan", "test"):
        assert f"<!-- command:{name} -->\n```" in readme
