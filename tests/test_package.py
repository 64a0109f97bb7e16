"""The house stands as drawn: what imports what, what is public, how quickly it starts."""

import ast
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


BACKWARD = {
    ("depthwidth.architecture", "depthwidth.architecture.hf"): "Transformer.from_config and to_config, for convenience",
    ("depthwidth.layers.block", "depthwidth.layers.repetition"): "a stack walks its blocks at once, where it can",
    ("depthwidth.formulas.saturation", "depthwidth.numerics.softmax"): "numbers of formulas that are integrals",
}
"""Imports inside functions that point against the others."""


def imported_by(name, path):
    """What a module may import anywhere in its source, for types too, and names of no modules among it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def test_imports_go_one_way():
    """Nothing imports what imports it, the verifier counting as one; but for the arrows written down above."""
    arrows = {}
    for path in (path for package in ("depthwidth", "verify") for path in (ROOT / package).rglob("*.py")):
        name = ".".join((path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(ROOT).parts)
        owner = "verify" if name.startswith("verify") else name
        arrows.setdefault(owner, set()).update(
            "verify" if one.startswith("verify.") else one for one in imported_by(name, path)
        )
    del arrows["depthwidth"]  # its list of public names
    arrows = {one: (others & arrows.keys()) - {one} - {b for a, b in BACKWARD if a == one} for one, others in arrows.items()}
    assert "depthwidth.cli.options" in arrows["verify"]
    assert "verify" in arrows["depthwidth.cli"]
    graphlib.TopologicalSorter(arrows).prepare()  # a CycleError names the modules
    for one, other in (*BACKWARD, ("verify", "depthwidth.cli")):
        with pytest.raises(graphlib.CycleError):
            graphlib.TopologicalSorter(arrows | {one: arrows[one] | {other}}).prepare()


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
