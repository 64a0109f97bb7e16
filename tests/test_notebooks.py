"""The notebooks of the documentation: each runs from top to bottom, and holds the outputs of such a run."""

import ast
import contextlib
import io
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


def run(source, names):
    """Run a cell as a notebook does, and return what it prints and the text of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)  # noqa: S102, the project's own notebooks
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    return printed.getvalue() + ("" if value is None else repr(value))


def cells(book):
    return [cell for cell in json.loads(book.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def stored(cell):
    """The text that a cell's stored outputs show."""
    outputs = (output.get("data", {"text/plain": output.get("text", "")})["text/plain"] for output in cell["outputs"])
    return "".join(text if isinstance(text, str) else "".join(text) for text in outputs)


def test_there_is_one_for_each_kind_of_user():
    assert [book.stem for book in BOOKS] == ["designer", "researcher", "verifier"]


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_it_runs_and_shows_what_it_did(book):
    names = {}
    for cell in cells(book):
        shown = run("".join(cell["source"]), names)
        assert bool(shown.strip()) == bool(stored(cell).strip())
        # Numbers measured on another machine differ in their last digits; the words do not.
        words = [word for word in stored(cell).split() if word.isalpha()]
        assert [word for word in shown.split() if word.isalpha()] == words or book.stem == "verifier"
