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
from helpers import statements

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


@functools.cache
def imports_and_classes(path):
    """The imports anywhere in a file, for types too, and the lines of its classes; a file is parsed once for both."""
    nodes = [*statements(ast.parse(path.read_text(encoding="utf-8")))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom | ast.Import)]
    return imports, lines_of_classes(nodes)


def imports_of(name, path):
    """The names that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in imports_and_classes(path)[0]:
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
        else:
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


def lines_of_classes(nodes):
    return [(node.name, node.end_lineno - node.lineno + 1) for node in nodes if isinstance(node, ast.ClassDef)]


def oversized(source, name, classes):
    """The sizes of a file and of its classes that exceed the limits, in lines."""
    sizes = {name: (source.count("\n"), LONGEST_FILE)}
    sizes |= {f"{name}: {one}": (lines, LONGEST_CLASS) for one, lines in classes}
    return {what: lines for what, (lines, limit) in sizes.items() if lines > limit}


def test_no_file_and_no_class_is_too_long():
    paths = [path for folder in ("depthwidth", "verify", "tests") for path in (ROOT / folder).rglob("*.py")]
    for path in paths:
        source = path.read_text(encoding="utf-8")
        classes = (
            imports_and_classes(path)[1] if source.count("\n") > LONGEST_CLASS else []
        )  # a shorter file has no longer class
        assert oversized(source, str(path.relative_to(ROOT)), classes) == {}
    assert len(paths) > 300
    long = "class Long:\n" + "    x = 1\n" * 250
    longer = long.replace("x = 1\n", "x = 1\n\n\n\n", 200)

    def of_source(source):
        return oversized(source, "one.py", lines_of_classes(statements(ast.parse(source))))

    assert of_source(long) == {"one.py: Long": 251}
    assert of_source(longer) == {"one.py": 851, "one.py: Long": 851}


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
