"""Evidence: the numbers shown are those of the file, and of no other."""

import json
import statistics

import pytest
from click.testing import CliRunner

from depthwidth import evidence as module
from depthwidth.cli import cli
from depthwidth.errors import InputError
from depthwidth.evidence import all_evidence, evidence
from depthwidth.formula import find_formula
from depthwidth.formulas._composites import find_composite

HEADER = "job,run,site,quantity,predicted,value,stderr,seed,labels,device,date\n"


def line(quantity, site, value, stderr, error, day, device="cpu", cells=1):
    labels = json.dumps({"cells": cells, "relative_error": error}).replace('"', '""')
    return f'made,,{site},{quantity},,{value},{stderr},1,"{labels}",{device},2026-01-0{day}\n'


@pytest.fixture
def small(tmp_path):
    """Two measurements of one formula, three rows each."""
    data = tmp_path / "data"
    (data / "measured").mkdir(parents=True)
    (data / "evidence.csv").write_text(
        "formula,file,where\nmoments.norm_gradient,rows.csv,quantity=gradient\nmoments.norm_gradient,rows.csv,\n"
    )
    (data / "measured" / "rows.csv").write_text(
        HEADER
        + line("gradient", "a", 2.0, 0.02, 0.01, 2, cells=3)
        + line("gradient", "b", 4.0, 0.4, -0.3, 3)
        + line("gradient", "c", 1.0, 0.01, 0.02, 1)
        + line("other", "d", 1.0, 0.5, 0.9, 1, "cuda")
    )
    return data


def test_the_numbers_are_those_of_the_rows(small):
    one, every = evidence("moments.norm_gradient", small)
    assert (one.settings, one.median_error, one.worst_error, one.worst_at) == (5, 0.02, -0.3, "b")
    assert (one.median_stderr, one.worst_stderr) == (pytest.approx(0.01), pytest.approx(0.1))
    assert (one.date, one.device, one.what) == ("2026-01-03", "cpu", "gradient")
    assert (every.settings, every.worst_error, every.device) == (6, 0.9, "cpu, cuda")
    assert evidence("moments.norm_correlation", small) == ()


def test_without_a_recorded_error_it_is_that_of_the_rows_numbers(small):
    path = small / "measured" / "rows.csv"
    path.write_text(HEADER + 'made,r,,gradient,1.9,2.0,0.02,,"{""length"": 16}",cpu,2026-01-02\n')
    (found,) = evidence("moments.norm_gradient", small)[:1]
    assert (found.worst_error, found.worst_at) == (pytest.approx(-0.05), "length 16")
    path.write_text(path.read_text().replace('""length"": 16', '""scale"": 10.0'))
    (found,) = evidence("moments.norm_gradient", small)[:1]
    assert (found.worst_error, found.worst_stderr, found.worst_at) == (pytest.approx(-0.01), pytest.approx(0.002), "r")
    path.write_text(path.read_text().replace("predicted", "guessed"))
    with pytest.raises(InputError, match="no column 'predicted'"):
        evidence("moments.norm_gradient", small)


def test_rows_are_chosen_by_columns_and_by_labels(small):
    index = small / "evidence.csv"
    index.write_text(index.read_text().replace("quantity=gradient", "cells=1;quantity=gradient"))
    one = evidence("moments.norm_gradient", small)[0]
    assert (one.settings, one.what) == (2, "1 gradient")


def test_a_doctored_file_shows(small):
    before = evidence("moments.norm_gradient", small)[0]
    path = small / "measured" / "rows.csv"
    path.write_text(path.read_text().replace("-0.3", "-0.5"))
    after = evidence("moments.norm_gradient", small)[0]
    assert (before.worst_error, after.worst_error) == (-0.3, -0.5)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("evidence.csv", "rows.csv", "absent.csv", "absent.csv cannot be read"),
        ("evidence.csv", "quantity=gradient", "quantity=spin", "no row where quantity=spin"),
        ("rows.csv", "stderr", "error", "no column 'stderr'"),
        ("rows.csv", "4.0,0.4", "4.0,much", "not a number"),
        ("rows.csv", '"{""cells"": 3', '"[""cells"", 3', "must be a JSON object"),
        ("rows.csv", "gradient,,4.0", "gradient,4.0", "cannot be read as a table"),
    ],
)
def test_broken_files_are_told_in_a_sentence(small, file, old, new, message):
    path = next(small.rglob(file))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        evidence("moments.norm_gradient", small)


@pytest.mark.slow
def test_every_line_of_the_kept_evidence_names_a_formula_and_rows():
    found = all_evidence()
    for name, items in found.items():
        assert (find_composite(name) or find_formula(name)).name == name
        assert all(item.settings > 0 and item.worst_at and item.date for item in items)


def test_the_command_prints_what_the_file_holds(small, monkeypatch):
    monkeypatch.setattr(module, "data_directory", lambda: small)
    shown = json.loads(CliRunner().invoke(cli, ["formulas", "show", "norm_gradient", "--json"]).output)
    rows = [row for row in module.measured_rows(small / "measured" / "rows.csv") if row["quantity"] == "gradient"]
    errors = [module.labels_of(row)["relative_error"] for row in rows]
    assert shown["evidence"][0]["worst_error"] == max(errors, key=abs)
    assert shown["evidence"][0]["median_error"] == statistics.median(map(abs, errors))
    text = CliRunner().invoke(cli, ["formulas", "show", "norm_gradient"]).output
    assert "-30 % (noise 10)" in text
    assert "data/measured/rows.csv" in text


def test_a_measurement_that_did_not_decide_is_evidence_too(small, monkeypatch):
    path = small / "measured" / "rows.csv"
    path.write_text(path.read_text().replace("a,gradient,,2.0,0.02", "a,gradient,,nan,"))
    some = evidence("moments.norm_gradient", small)[0]
    assert (some.settings, some.undecided, some.worst_error) == (5, 3, -0.3)
    path.write_text(HEADER + "made,,a,gradient,2.0,nan,,,{},cpu,2026-01-02\n")
    (small / "evidence.csv").write_text("formula,file,where\nmoments.norm_gradient,rows.csv,\n")
    (none,) = evidence("moments.norm_gradient", small)
    assert (none.settings, none.undecided, none.median_error, none.worst_error, none.worst_at) == (1, 1, None, None, "a")
    monkeypatch.setattr(module, "data_directory", lambda: small)
    result = CliRunner().invoke(cli, ["formulas", "show", "norm_gradient"])
    assert (result.exit_code, result.output.count("undecided")) == (0, 2)


def test_a_formula_without_evidence_says_so():
    text = CliRunner().invoke(cli, ["formulas", "show", "levine_width"]).output
    assert "Evidence: none" in text
    assert json.loads(CliRunner().invoke(cli, ["formulas", "show", "levine_width", "--json"]).output)["evidence"] == []
