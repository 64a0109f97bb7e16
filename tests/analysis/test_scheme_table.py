"""The table of schemes says what propagate says, the page says what the table says, and both own up where prediction fails."""

import functools
import json
import math
import re
from pathlib import Path

import pytest

from depthwidth.analysis.diagnosis import diagnose, gradient_log_normal
from depthwidth.analysis.propagation import moments_of
from depthwidth.analysis.published_tables import table_names
from depthwidth.analysis.scheme_table import DEPTHS, MADE_FOR, input_correlation, reference_tree, scheme_document, scheme_rows
from depthwidth.errors import InputError
from depthwidth.formulas import depth as laws
from depthwidth.initialization import recipe, schemes

PAGE = (Path(__file__).parents[2] / "docs" / "schemes.md").read_text(encoding="utf-8")


def cells_of(scheme, title, page=PAGE):
    """The cells of one line after the scheme's name."""
    part = page.partition(f"## {title}")[2].partition("\n## ")[0]
    return re.search(rf"^\| {re.escape(scheme)} \|(.*)\|$", part, re.MULTILINE)[1].split(" | ")


def on_the_page(scheme, title):
    """The cells of one line: growth, correlation and gradient by depth."""
    cells = [cell.split("(")[0].split("/") for cell in cells_of(scheme, title)[:3]]
    return {layers: tuple(float(x) for x in cell) for layers, cell in zip(DEPTHS, cells, strict=True)}


@functools.cache
def rows_of(scheme):
    return scheme_rows(names=[scheme])


TITLES = {"pre": "Norms before the branches", "post": "Norms after the sum", "none": "Without norms"}


@pytest.mark.slow
@pytest.mark.parametrize("norms", ["pre", "post"])
@pytest.mark.parametrize("scheme", ["xavier", "deepscale"])
def test_the_page_holds_the_table(scheme, norms):
    """Three digits are printed, two of the gradient; finer corrections of the walk may move the last."""
    rows = [row for row in rows_of(scheme) if row["norms"] == norms]
    page = on_the_page(scheme, TITLES[norms])
    assert {row["depth"] for row in rows} == set(DEPTHS)
    today = scheme_document(rows)
    assert cells_of(scheme, TITLES[norms])[3] == cells_of(scheme, TITLES[norms], today)[3]  # the findings
    for row in rows:
        printed = page[row["depth"]]
        assert (row["growth"], row["correlation"], row["gradient"]) == pytest.approx(printed, rel=0.06)
        # Negative control: another depth's cell is told apart, by one of the three.
        other = page[12 if row["depth"] != 12 else 1000]
        if scheme == "xavier":
            assert (row["growth"], row["correlation"], row["gradient"]) != pytest.approx(other, rel=0.06)


def test_the_page_begins_as_it_is_written():
    assert PAGE.startswith(scheme_document([]).rstrip("\n"))


def test_the_page_has_every_scheme_at_every_depth():
    for scheme in schemes():
        for norms in MADE_FOR.get(scheme, ("pre", "post")):
            assert set(on_the_page(scheme, TITLES[norms])) == set(DEPTHS)
    for placements in MADE_FOR.values():
        assert set(placements) < set(TITLES)
    assert set(MADE_FOR) < set(schemes())


def test_rows_are_those_of_propagate():
    (row,) = [r for r in scheme_rows((6,), ["xavier"], width=128, context=32) if r["norms"] == "pre"]
    tree = reference_tree(6, "pre", 128, 32)
    given = {"finite_width": False, "correlation": input_correlation(tree, recipe(tree, "xavier"))}
    walk = {(r["site"], r["direction"]): r for r in moments_of(tree, "xavier", **given)}
    first, last = "encoder.block.0", "encoder.block.5"
    assert row["growth"] == walk[last, "forward"]["second_moment"] / walk[first, "forward"]["second_moment"]
    assert row["gradient"] == walk[first, "gradient"]["second_moment"] / walk[last, "gradient"]["second_moment"]
    assert row["correlation"] == pytest.approx(walk[last, "forward"]["correlation"], rel=1e-12)


@pytest.mark.slow
def test_bands_are_those_of_the_propagated_network():
    """One propagation gives the findings and the band, that of infinite width: the law is of first order in 1/width."""
    (row,) = [r for r in scheme_rows((3,), ["xavier"], width=64, context=16) if r["norms"] == "post"]
    tree = reference_tree(3, "post", 64, 16)
    r = input_correlation(tree, recipe(tree, "xavier"))
    drift, variance = gradient_log_normal(tree, "xavier", finite_width=False, correlation=r)
    assert row["gradient_high"] == pytest.approx(row["gradient"] * math.exp(drift + math.sqrt(variance)), rel=1e-12)
    other = gradient_log_normal(tree, "xavier", correlation=r)
    assert other[1] != variance  # the corrections are seen by the two numbers
    assert other == pytest.approx((drift, variance), rel=0.2)


@pytest.mark.slow
def test_deep_vanilla_post_norm_is_owned_up_to():
    """In a band as wide as the law says, and said to be log-normal; with residual scaling it is narrow and nothing is said."""
    rows = {(r["scheme"], r["depth"]): r for name in ("xavier", "deepscale") for r in rows_of(name) if r["norms"] == "post"}
    deep, scaled = rows["xavier", 192], rows["deepscale", 192]
    assert "gradient is log-normal" in deep["because"]
    assert deep["verdict"] == "problem"
    assert "log-normal" not in scaled["because"]
    assert scaled["verdict"] == "fine"
    tree = reference_tree(192, "post")
    drift, variance = gradient_log_normal(tree, "xavier")
    # GELU at four times the width: a_F = 0.2329, J_F is about as large; the law is ReLU's, and the collapse takes a few
    # layers.
    assert variance == pytest.approx(192 * laws.post_norm_layer_log_variance(1.0, 0.2329, 1024), rel=0.03)
    assert drift == pytest.approx(192 * laws.post_norm_layer_log_drift(1.0, 0.2329, 1024), rel=0.03)
    assert deep["gradient_high"] / deep["gradient_low"] > 4 * scaled["gradient_high"] / scaled["gradient_low"]
    assert gradient_log_normal(reference_tree(12, "pre"), "xavier") == (0.0, 0.0)


@pytest.mark.slow
def test_scores_without_norms_are_as_small_as_is_assumed():
    """T-Fixup with the scores that its weights give, against the table, where they are taken as 0."""
    assumed = reference_tree(4, "none", 256, 32)
    real = assumed.of_parts(
        assumed.stem,
        _with_scores(assumed.encoder),
        None,
        assumed.head,
        assumed.context,
    )
    made = recipe(assumed, "t-fixup")
    with_zero, with_own = ({f.name: f for f in diagnose(tree, made, remedies=())} for tree in (assumed, real))
    assert 0 < with_own["score_variance"].value < 1e-4
    for name in ("gradient_ratio", "forward_growth", "correlation_at_top"):
        assert with_zero[name].value == pytest.approx(with_own[name].value, rel=1e-3)


def _with_scores(stack):
    from dataclasses import replace

    def scored(part):
        return replace(part, branch=replace(part.branch, scale=None))

    blocks = [replace(r, block=replace(r.block, attention=scored(r.block.attention))) for r in stack.repeats]
    return replace(stack, repeats=tuple(blocks))


@pytest.mark.slow
def test_the_document_of_some_rows():
    rows = scheme_rows((2,), ["rezero", "normal"], width=128, context=16)
    assert [(r["scheme"], r["norms"]) for r in rows] == [("rezero", "none"), ("normal", "pre"), ("normal", "post")]
    page = scheme_document(rows)
    assert "| rezero | 1 / " in page
    assert page.count("| normal |") == 2
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    broken = [{**rows[0], "growth": None, "because": "not predicted: too large"}]
    assert "| not predicted | 2: not predicted: too large |" in scheme_document(broken)


def test_the_command_knows_the_table(invoke, monkeypatch):
    assert "schemes" in table_names()
    monkeypatch.setattr("depthwidth.analysis.scheme_table.DEPTHS", (2,))
    monkeypatch.setattr(
        "depthwidth.analysis.scheme_table.scheme_rows", lambda: scheme_rows((2,), ["rezero"], width=128, context=16)
    )
    assert json.loads(invoke("table", "schemes", "--json").output) == scheme_rows((2,), ["rezero"], width=128, context=16)


def test_a_wrong_scheme_gets_one_sentence():
    with pytest.raises(InputError, match="no scheme 'xavjer'"):
        scheme_rows((2,), ["xavjer"])
