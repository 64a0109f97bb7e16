"""Settings to results without a browser: the printed commands give the same numbers, and bad input the same sentence."""

import csv
import io
import json
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
from helpers import PATIENCE

from depthwidth.explore.controls import Settings, controls
from depthwidth.explore.state import answer, stability

SMALL = {"budget": "20M", "preset": "gpt3", "vocab": "1000", "context": "128"}
MIXTURE = {"budget": "100M", "preset": "mixtral", "vocab": "1000", "context": "128", "experts": "4", "top_k": "1"}
SETTINGS = (
    SMALL,
    {**SMALL, "rule": "liu2026", "scheme": "xavier"},
    {**SMALL, "kind": "flops", "budget": "1e18"},
    {**SMALL, "kind": "memory", "budget": "2GB", "tensor_parallel": "2", "zero": "3", "data_parallel": "4", "batch": "3"},
    {**SMALL, "kind": "weights", "budget": "50MB", "pipeline": "2", "layers_at_most": "10"},
    {**SMALL, "kind": "non_embedding", "optimizer": "sgd", "recompute": "full"},
    {**MIXTURE, "kind": "active", "budget": "30M", "data_parallel": "4", "expert_parallel": "2"},
    {"budget": "20M", "preset": "vit", "scheme": "normal"},
)


def arguments(command):
    program, *words = shlex.split(command)
    assert program == "depthwidth"
    return words


def test_every_setting_has_one_control():
    assert [control.name for control in controls()] == [field.name for field in fields(Settings)]


@pytest.mark.parametrize("query", SETTINGS, ids=lambda query: "-".join(query.values()))
@pytest.mark.slow
def test_the_commands_print_the_numbers_of_the_page(query, invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.of(query)
    found, steady = answer(settings), stability(settings)
    assert not found.errors
    assert not steady.error
    printed = json.loads(invoke(*arguments(found.command), "--json").output)
    assert printed == json.loads(json.dumps(found.plan.to_dict()))
    assert found.costs.training_memory_per_device == printed["training_memory_per_device"]
    save, moments, describe = steady.commands
    assert invoke(*arguments(save)).status == 0
    rows = json.loads(invoke(*arguments(moments), "--json").output)
    stack = found.plan.tree.stack_name
    for direction, values in (("forward", steady.forward), ("gradient", steady.gradient)):
        own = [
            row["second_moment"] for row in sorted(rows, key=lambda row: row["layer"] or 0)
            if row["direction"] == direction and row["site"] == f"{stack}.block.{row['layer']}"
        ]  # fmt: skip
        assert own == list(values)
    judged = {
        (row["name"], row["site"]): row["value"]
        for row in json.loads(invoke(*arguments(describe), "--json").output)["diagnosis"]
    }
    assert judged == {(one.name, one.site): one.value for one in steady.findings}


@pytest.mark.slow
def test_the_evidence_is_that_of_its_command(invoke):
    found = answer(Settings.of(SMALL))
    rows = list(csv.DictReader(io.StringIO(invoke(*arguments(found.evidence_command), "--csv").output)))
    assert len(found.evidence) == 5
    for one in found.evidence:
        for score in (one.nearest, one.mean):
            size = "" if score.parameters is None else str(score.parameters)
            same = [
                row for row in rows
                if (row["data"], row["rule"], row["refitted"], row["parameters"]) == (one.data, "levine2020", "0", size)
            ]  # fmt: skip
            assert str(score.cost) in [row["cost"] for row in same]
    # The smallest measured size is nearest to a model below it.
    sizes = [float(row["parameters"]) for row in rows if row["data"] == "gadre" and row["parameters"]]
    assert found.evidence[-1].nearest.parameters == min(sizes)


@pytest.mark.slow
def test_a_model_that_no_configuration_holds_has_a_line_of_python():
    settings = Settings.of({**SMALL, "experts": "4", "scheme": "xavier"})
    steady = stability(settings)
    assert "cannot express" in steady.unwritten
    (command,) = steady.commands
    program, *words = shlex.split(command)
    assert program == "python"
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, timeout=PATIENCE)  # noqa: S603
    table, findings = done.stdout.split("\n\n", 1)
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["site"].count(".") == 2 and "block" in row["site"]]
    assert [float(row["second_moment"]) for row in rows if row["direction"] == "forward"] == list(steady.forward)
    for one in steady.findings:
        assert repr(one).splitlines()[1] in findings


REFUSED = {
    "budget": ("7X", "", "-3", "1e-3", "0", "9" * 40),
    "vocab": ("many", "1.5", "1e13"),
    "context": ("0",),
    "experts": ("x",),
    "layers_at_most": ("none",),
    "tensor_parallel": ("two",),
    "batch": ("0.5",),
    "zero": ("4",),
    "preset": ("gpt5",),
    "rule": ("levine",),
    "recompute": ("some",),
    "optimizer": ("lion",),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in REFUSED.items() for text in texts])
def test_a_bad_setting_has_the_sentence_of_the_command_line(name, text, invoke):
    found = answer(Settings.of({**SMALL, name: text}))
    assert found.plan is None
    ((place, sentence),) = found.errors.items()
    assert place == name
    printed = invoke(*arguments(found.command))
    assert printed.status == 2
    assert printed.error == f"Error: {sentence}\n"


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({**MIXTURE, "top_k": "8"}, "top_k"),
        ({**SMALL, "data_parallel": "4", "expert_parallel": "3"}, "expert_parallel"),
        ({**SMALL, "vocab": "10M"}, "budget"),
    ],
)
def test_a_contradiction_is_told_beside_one_of_its_settings(query, place, invoke):
    found = answer(Settings.of(query))
    ((name, sentence),) = found.errors.items()
    assert name == place
    assert invoke(*arguments(found.command)).error == f"Error: {sentence}\n"


def test_every_bad_setting_is_told():
    assert set(answer(Settings.of({**SMALL, "vocab": "x", "batch": "y"})).errors) == {"vocab", "batch"}
    assert set(answer(Settings.of({**SMALL, "vocab": "x", "budget": "y"})).errors) == {"vocab", "budget"}


@pytest.mark.slow
def test_an_initialisation_whose_moments_overflow_is_one_sentence():
    steady = stability(Settings.of({**SMALL, "budget": "1B", "context": "64", "scheme": "deepnorm", "layers_at_most": ""}))
    assert steady.error == "" or "leave the range of floating-point numbers" in steady.error
    assert "no scheme 'best'" in stability(Settings.of({**SMALL, "scheme": "best"})).error


def test_settings_outside_of_the_list_and_long_texts_change_nothing():
    assert Settings.of({"port": "80", "budget": " 7B "}) == Settings.of({"budget": "7B"})
    assert len(Settings.of({"budget": "9" * 10_000}).budget) == 100


def test_all_schemes_share_one_plan():
    plain, other = (answer(Settings.of({**SMALL, "scheme": scheme})) for scheme in ("", "xavier"))
    assert other.plan is plain.plan
    assert other.settings.scheme == "xavier"
    assert other.command == plain.command
    assert answer(Settings.of({**SMALL, "vocab": "2000"})).plan is not plain.plan
