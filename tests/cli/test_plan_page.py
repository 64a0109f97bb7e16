"""The page of a plan: the range first, then the suggestion, its reason and the assumptions, and one table."""

import json

import pytest

from depthwidth.architecture import Transformer
from depthwidth.planning.plan import plan


def test_the_page_begins_with_the_range_the_suggestion_the_reason_and_the_assumptions(invoke):
    lines = invoke("plan", "7B", "--preset", "llama3", "--tp", "8").output.splitlines()
    found = plan("7B", preset="llama3", tensor_parallel=8)
    low, high = found.ranges[0].depth
    assert lines[0].startswith(f"{-int(-low // 1)} to {int(high)} layers lose less than 0.4% +- ")
    assert lines[1].startswith(
        f"Suggested: {found.shape.depth} layers x {found.shape.width:,} wide, {found.shape.heads} heads of "
    )
    assert lines[2].startswith("Picked ")
    assumed = next(line for line in lines if line.startswith("Assumed: "))
    for word in ("llama3", "context 8,192", "vocabulary 128,256", "training tokens", "bf16", "8 devices"):
        assert word in assumed
    table = lines[lines.index(assumed) + 2 :]
    assert "training memory per device" in table[0]
    assert 5 <= table.index("") - 2 <= 7
    assert not any("gemstones2025" in line for line in lines)


def test_the_rules_and_the_sources_are_asked_for(invoke):
    plain, rules, explained = (invoke("plan", "1B", *more).output for more in ((), ("--rules",), ("--explain",)))
    assert "McLeish et al. 2025" in rules
    assert "Optimum of each rule" in rules
    assert "Origin of the numbers" in explained
    assert "total parameters  " in explained
    for word in ("McLeish", "Optimum of each rule", "Origin of the numbers"):
        assert word not in plain


def test_limits_say_what_they_cost(invoke):
    printed = invoke("plan", "350M", "--depth", "12").output
    free = plan("350M", depth=12).without_limits
    assert f"without them {free.depth} x {free.width:,} loses {-free.loss_at_budget:.2%}" in printed
    assert "without limits" in printed
    assert "Limits" not in invoke("plan", "350M").output


def test_a_rule_without_a_shape_says_so(invoke):
    result = invoke("plan", "1T", "--rule", "measured2025")
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert "measured2025 has no shape at 1T total parameters" in result.error


def test_the_page_says_how_sure_it_is(invoke):
    printed = invoke("plan", "7B").output
    assert printed.index("How sure: ") < printed.index("Assumed: ")
    assert "(50%)" in printed
    bands = json.loads(invoke("plan", "7B", "--json").output)["best_depth_bands"]
    assert [set(one) for one in bands] == [{"level", "depth", "width", "loss", "extrapolated"}] * 2


def test_saving_writes_both_files(invoke, tmp_path):
    path = tmp_path / "config.json"
    result = invoke("plan", "90M", "--vocab", "1000", "--save", path, "--scheme", "xavier", "--json")
    assert (result.status, result.error) == (0, "")
    assert Transformer.from_config(path).parameters == json.loads(result.output)["parameters"]
    assert json.loads((tmp_path / "config.recipe.json").read_text())["scheme"] == "xavier"


@pytest.mark.parametrize("preset", ["gpt3", "llama3", "vit"])
def test_csv_has_a_row_for_every_shape_with_its_costs(invoke, preset):
    rows = plan("1B", preset=preset).rows()
    assert sum(row["choice"] == "recommended" for row in rows) == 1
    header = invoke("plan", "1B", "--preset", preset, "--csv").output.splitlines()[0].split(",")
    costs = ["training_flops_per_token", "training_memory_per_device", "kv_cache_bytes_per_token", "decode_seconds"]
    assert header[-4:] == costs


def test_rules_are_cited(invoke):
    rows = json.loads(invoke("rules", "--json").output)
    assert {row["rule"] for row in rows if row["default"]} == {"levine2020", "sovit2023"}
    assert all(row["source"] for row in rows)
    assert [row["rule"] for row in rows if not row["optimum"]] == ["gpt3"]
