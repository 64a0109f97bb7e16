"""Public objects at a prompt and in a notebook."""

import math
import re
from html.parser import HTMLParser

import pytest
import sympy

import depthwidth
from depthwidth.analysis.diagnosis import Finding
from depthwidth.analysis.diagnosis.base import Thresholds
from depthwidth.display import SHOWN_ROWS, Overview, align_table, with_overview
from depthwidth.planning.compare import compare


class Page(HTMLParser):
    """The texts of a page's cells; tags that stay open, or close what is not open, raise."""

    def __init__(self, page):
        super().__init__()
        self.open, self.rows, self.attributes = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


TREE = depthwidth.Transformer(depth=200, width=256, heads=4, vocab=1000, context=128)
SMALL = depthwidth.Transformer(depth=2, width=64, heads=2, vocab=100, context=16)

OBJECTS = {
    "Transformer": lambda: TREE,
    "Description": lambda: depthwidth.describe(TREE),
    "Plan": lambda: depthwidth.plan("350M", depth=12),
    "Comparison": lambda: compare(["24x1024", "12x1408", "6x1984"]),
    "Recipe": lambda: depthwidth.recipe(SMALL, "deepscale"),
    "Finding": lambda: Finding(
        "gradient_ratio", "decoder.block.0", 30.0, Thresholds(10, 400, "ours"), "gradients grow", "scheme gpt2", 3.0
    ),
    "Formula": lambda: depthwidth.find_formula("levine_width"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_show_themselves_in_a_few_lines_and_as_a_table(name):
    one = OBJECTS[name]()
    assert type(one).__name__ == name
    lines = repr(one).splitlines()
    assert 2 <= len(lines) <= 14 + SHOWN_ROWS
    assert " object at 0x" not in repr(one)
    overview = one.overview()
    page = Page(one._repr_html_())
    assert set(page.attributes) <= {"style", "colspan"}  # no scripts, no addresses
    assert [[*fact] for fact in overview.facts.items()] == page.rows[: len(overview.facts)]
    for name, value in overview.facts.items():
        assert re.search(rf"{re.escape(name)} +{re.escape(value)}", repr(one))


def test_numbers_of_a_transformer_are_its_counts():
    facts = TREE.overview().facts
    assert facts["parameters"] == f"{TREE.parameters:,}"
    assert (facts["depth"], facts["width"]) == ("200", "256")
    assert "experts" not in facts


def test_a_transformer_of_symbols_shows_its_polynomial():
    width = sympy.Symbol("d", positive=True, integer=True)
    tree = depthwidth.Transformer(depth=2, width=width, heads=1, head_dim=width, vocab=10, context=8)
    assert tree.overview().facts["parameters"] == str(tree.parameters)


def test_a_component_is_spelled_in_full():
    """Recorded runs know a tree by this text, so that two trees never share it."""
    other = depthwidth.Transformer(depth=200, width=256, heads=4, vocab=1000, context=129)
    assert TREE.in_full().startswith("Transformer(kind='decoder', stem=")
    assert TREE.in_full() != other.in_full()


def test_formulas_show_their_closed_form():
    levine = depthwidth.find_formula("levine_width")
    assert levine._repr_latex_() == f"$\\displaystyle {levine.latex()}$"
    without = depthwidth.find_formula("saturation.entropy")
    assert without._repr_latex_() is None


def test_long_tables_say_how_many_rows_they_leave_out():
    overview = Overview("Numbers", {}, ("n", "root"), [(str(n), f"{math.sqrt(n):.3f}") for n in range(100)], whole=".frame()")
    text = overview.text()
    assert f"... {100 - SHOWN_ROWS} rows more; .frame() has all" in text
    assert len(text.splitlines()) == 1 + 2 + SHOWN_ROWS + 1
    rows = Page(overview.html()).rows
    assert (rows[1], rows[-1]) == (["0", "0.000"], ["99", "9.950"])
    short = overview._replace(rows=overview.rows[:SHOWN_ROWS]).text()
    assert "more" not in short


def test_hostile_texts_stay_texts():
    @with_overview
    class Hostile:
        def overview(self):
            text = "<script>alert(1)</script>\x1b[31m\nsecond"
            return Overview(text, {text: text}, (text,), [(text,)])

    page = Hostile()._repr_html_()
    assert "<script>" not in page
    assert "\x1b" not in page + repr(Hostile())
    assert "\nsecond" not in repr(Hostile())


def test_columns_are_aligned():
    assert align_table(("a", "number", "word"), [("x", "1", "y"), ("long", "1000000", "z")], ("word",)) == [
        "a      number  word",
        "----  -------  ----",
        "x           1  y",
        "long  1000000  z",
    ]
