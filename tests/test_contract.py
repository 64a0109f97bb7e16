"""Nobody asks for the class of a component: what code needs to know is a method or a field of the base classes."""

import ast
import importlib
import re
from pathlib import Path

from depthwidth.layers import Layer

ROOT = Path(__file__).parents[1]
CONTRACTS = {"Layer", "Branch"}
"""The base classes that say what is asked; the file of a base class may check that something is one."""


def component_types():
    """Names of component classes, and of their torch modules, with the files that define them."""
    found = {}
    for path in [*(ROOT / "depthwidth/layers").glob("*.py"), *(ROOT / "verify/models").glob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and is_component(path, node):
                found.setdefault(node.name, set()).add(path)
    return found


def is_component(path, node):
    if path.parent.name == "layers":
        kind = getattr(importlib.import_module(f"depthwidth.layers.{path.stem}"), node.name)
        return isinstance(kind, type) and issubclass(kind, Layer)
    bases = " ".join(ast.unparse(base) for base in node.bases)
    return "Module" in bases or "Branch" in bases or any("builds" in ast.unparse(one) for one in node.decorator_list)


QUESTION = re.compile(r"\b(?:isinstance|issubclass)\(")


def questions(source, types):
    """Line and class of each question for the class of a component."""
    if not QUESTION.search(source) or types.keys().isdisjoint(re.findall(r"\b[A-Z]\w*", source)):
        return  # sources that cannot ask are not parsed
    for node in ast.walk(ast.parse(source)):
        asks = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass")
        if asks and len(node.args) == 2:
            for part in ast.walk(node.args[1]):
                name = getattr(part, "id", getattr(part, "attr", None))
                torch_own = isinstance(part, ast.Attribute) and ast.unparse(part.value) == "nn"
                if name in types and not torch_own:
                    yield node.lineno, name


def test_no_code_asks_for_the_class_of_a_component_outside_its_own_file():
    types = component_types()
    assert {"Attention", "FeedForward", "MixtureOfExperts", "Rotary", "PatchStem", "Block", "Stack"} <= set(types)
    found = []
    for package in ("depthwidth", "verify"):
        for path in (ROOT / package).rglob("*.py"):
            for line, name in questions(path.read_text(encoding="utf-8"), types):
                if path not in types[name] and name not in CONTRACTS:
                    found.append(f"{path.relative_to(ROOT)}:{line} asks whether something is a {name}")
    assert found == []


def test_a_question_is_found():
    source = "if isinstance(x, (layers.Attention, Other)) or isinstance(y, nn.Embedding): pass"
    assert list(questions(source, dict.fromkeys(("Attention", "Embedding")))) == [(1, "Attention")]
