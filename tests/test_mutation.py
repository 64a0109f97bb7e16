"""The table of mutations fits the source as it stands, and the script that tries them tells killed from survived."""

import ast
import functools

import mutation
import pytest
from helpers import one_quick_in
from mutation import ROOT, Mutation, mutations, try_one

TABLE = mutations()


def test_the_table_is_long_enough_and_covers_what_it_should():
    assert len(TABLE) >= 40
    assert len({(one.place, one.old, one.new) for one in TABLE}) == len(TABLE)
    for place in (
        "depthwidth/layers",
        "depthwidth/signal",
        "depthwidth/formulas",
        "depthwidth/planning",
        "depthwidth/analysis",
    ):
        assert any(one.place.startswith(place) for one in TABLE), place


@functools.cache
def structure(text):
    """Source without comments and layout; many mutations are of one file."""
    return ast.dump(ast.parse(text))


@one_quick_in(4, "one", TABLE, ids=str)
def test_every_mutation_still_applies(one):
    """Whoever changes one of these lines changes the table with it."""
    text = one.target(ROOT).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(one.applied(text))) != structure(text), "the change is none"
    assert one.why
    for word in one.tests.split():
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), word


@pytest.mark.slow
def test_killed_survived_and_gone_are_told_apart(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "numbers.py").write_text("A = 1\nB = 2\n")
    (tmp_path / "test_a.py").write_text("from package.numbers import A\n\n\ndef test_a():\n    assert A == 1\n")

    def outcome(place, old, new, tests="test_a.py"):
        return try_one(Mutation(place, old, new, tests, "a number"), tmp_path)[0]

    assert outcome("package", "A = 1", "A = 3") == "killed"
    assert outcome("package/numbers.py", "B = 2", "B = 3") == "SURVIVED"
    assert outcome("package", "C = 3", "C = 4") == "NOT FOUND"
    assert outcome("package", " = ", " == ") == "NOT FOUND"  # it occurs twice
    assert outcome("package", "A = 1", "A = 3", "test_b.py") == "ERROR"
    assert (tmp_path / "package" / "numbers.py").read_text() == "A = 1\nB = 2\n"
    assert mutation.LONGEST >= 60
