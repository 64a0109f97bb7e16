"""Formulas that the calculator reaches, traced through its source."""

import json

import pytest
from click.testing import CliRunner

from depthwidth.cli import cli
from depthwidth.formula import formulas
from depthwidth.formulas._composites import COMPOSITES
from depthwidth.formulas._usage import used_formulas

pytestmark = pytest.mark.slow  # the first of them reads the source of the whole package


def test_what_the_planner_names_is_used():
    assert used_formulas()["rules.levine_width"] == ("depthwidth.analysis.published_tables", "depthwidth.planning.rules")
    assert "depthwidth.planning.judging" in used_formulas()["shape_penalty.loss_exponent"]


def test_a_use_inside_a_used_formula_counts():
    """``attention_moments``, which a layer calls, calls an approximation that calls the variance of shares."""
    assert "depthwidth.layers.attention_moments" in used_formulas()["attention.common_share_variance"]


def test_a_module_that_is_handed_on_reaches_all_it_holds():
    """Activations look their closed forms up by name."""
    used = used_formulas()
    assert all("depthwidth.layers.activations" in used[f.name] for f in formulas(topic="gaussian"))


@pytest.mark.parametrize("name", ["heads.hardmax_rank", "separation.log3_rank_multiset", "attention.key_row_correlation"])
def test_what_nothing_names_is_not_used(name):
    """The last is also the name of an argument of a formula that is used."""
    assert name not in used_formulas()


def test_only_formulas_are_listed():
    assert used_formulas().keys() <= {f.name for f in formulas()}


def test_the_command_line_lists_one_side_or_the_other():
    used, unused, both = (
        {card["name"] for card in json.loads(CliRunner().invoke(cli, ["formulas", "list", *options, "--json"]).output)}
        for options in (["--used"], ["--unused"], [])
    )
    assert used == set(used_formulas()) | {one.name for one in COMPOSITES}
    assert not used & unused
    assert used | unused == both
