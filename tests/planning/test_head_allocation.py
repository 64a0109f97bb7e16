"""Allocation over layers: needs, the exact optimum against exhaustive search, constraints, and the command."""

import itertools
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.formulas import heads as laws
from depthwidth.layers.attention import Attention
from depthwidth.planning.head_allocation import (
    allocate_heads,
    design_needs,
    diffuse_need,
    layer_ranges,
    least_error,
    positional_need,
    present_shape,
    retrieval_need,
    split_groups,
)


def brute(costs, errors, budget):
    found = [
        (sum(e[i] for e, i in zip(errors, pick, strict=True)), sum(c[i] for c, i in zip(costs, pick, strict=True)))
        for pick in itertools.product(*(range(len(c)) for c in costs))
    ]
    return min((error for error, cost in found if cost <= budget), default=None)


ITEMS = st.lists(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), min_size=1, max_size=4), min_size=1, max_size=5)


@given(ITEMS, st.integers(0, 50))
def test_the_optimum_is_that_of_exhaustive_search(items, budget):
    costs, errors = ([[pair[k] for pair in item] for item in items] for k in (0, 1))
    picked, best = least_error(costs, errors, budget), brute(costs, errors, budget)
    if picked is None:
        assert best is None
    else:
        assert sum(c[i] for c, i in zip(costs, picked, strict=True)) <= budget
        assert sum(e[i] for e, i in zip(errors, picked, strict=True)) == best


def test_a_greedy_choice_is_not_the_optimum():
    """The negative control: the option that gains most per cost, taken first, leaves no room for the two that gain more."""
    costs, errors = [[0, 3], [0, 2], [0, 2]], [[4, 0], [2.6, 0.4], [2.6, 0.4]]
    picked = least_error(costs, errors, 4)
    assert picked == [0, 1, 1]
    greedy = errors[0][1] + errors[1][0] + errors[2][0]
    assert sum(e[i] for e, i in zip(errors, picked, strict=True)) < greedy


def test_the_integer_split_of_two_groups():
    pairs, error = split_groups([lambda h, d: h**-2 + 1 / d, lambda h, d: 4 * h**-2 + 1 / d], 24)
    assert pairs == [(3, 3), (5, 3)]
    assert error == pytest.approx(0.937778, abs=1e-6)
    budgets = laws.group_budgets([laws.split_prefactor(a, 2, 1, 1) for a in (1, 4)], 2 / 3, 24)
    continuous = sum(laws.split_error(a, 2, 1, 1, d) for a, d in zip((1, 4), budgets, strict=True))
    assert continuous < error < 1.02 * continuous
    with pytest.raises(InputError, match="whole number from 2 to"):
        split_groups([lambda h, d: 1.0] * 2, 1)


@pytest.mark.slow
@given(st.floats(0.3, 3), st.floats(0.3, 3), st.integers(1, 60))
def test_one_group_is_the_best_pair(p, q, budget):
    ((heads, dims),), error = split_groups([lambda h, d: h**-p + d**-q], budget)
    assert heads * dims <= budget
    assert error == pytest.approx(
        min(h**-p + d**-q for h in range(1, budget + 1) for d in range(1, budget // h + 1)), abs=1e-11
    )


# ---- needs ----


def test_retrieval_needs():
    for n, dims in ((1024, 32), (4096, 40), (32768, 48)):
        made = allocate_heads(4096, n, [retrieval_need(n)])
        assert made.layers[0].head_dim == dims
        assert made.layers[0].error == pytest.approx(laws.best_retrieval_error(n, dims))
        assert made.layers[0].criterion == "retrieval: 4 ln n"
    assert retrieval_need(1024).floor == 14
    assert retrieval_need(1024, 2.2).rank == 31


def test_diffuse_needs_take_the_harder_of_both_laws():
    for exponent, total, rank in ((1.0, 1.0, 27), (2.0, 0.5, 9), (0.0, 1.0, 31)):
        need = diffuse_need(laws.power_spectrum(32, exponent, total))
        assert need.rank == rank
        assert need.error(need.rank) <= 0.05 * (1 + 1e-9) < need.error(need.rank - 1)
    # Values that keys in the first direction alone predict: then the fluctuation decides.
    need = diffuse_need(laws.power_spectrum(32, 2.0, 0.5), gains=[1.0] + [0.0] * 31)
    assert (need.rank, need.criterion) == (5, "diffuse: fluctuation within 5 %")
    # A direction too strong for the diffuse law leaves the read-out alone.
    assert diffuse_need([2.0, 0.05]).criterion == "diffuse: read-out within 5 %"


def test_positional_needs():
    need = positional_need(3)
    assert (need.rank, need.error(6), need.error(3)) == (6, 0, 0.5)


# ---- allocation ----


def test_savings_are_those_of_the_trees():
    """Parameters and FLOPs saved, counted again as the difference of two whole transformers."""
    made = allocate_heads(512, 1024, design_needs(3, 1024), heads=8, kv_heads=4)
    shape = {"depth": 3, "width": 512, "heads": 8, "kv_heads": 4, "vocab": 100, "context": 1024, "bias": False}
    before = Transformer(**shape, head_dim=64)
    after = Transformer(**shape, head_dim=made.layers[0].head_dim, value_dim=64)
    assert made.parameters_saved == before.parameters - after.parameters > 0
    assert made.flops_saved * 1024 == before.forward_flops(1024) - after.forward_flops(1024) > 0
    assert made.key_dim == 3 * 8 * made.layers[0].head_dim


def test_a_budget_is_kept_and_its_optimum_exact():
    """Three different layers, all choices tried."""
    needs = [retrieval_need(256), diffuse_need(laws.power_spectrum(32, 1.0, 1.0)), positional_need(6)]
    free = allocate_heads(256, 256, needs, heads=8)
    for share in (0.97, 0.9, 0.8):
        budget = int(share * free.parameters)
        made = allocate_heads(256, 256, needs, heads=8, budget=budget)
        assert made.parameters <= budget
        sizes = [8, 16, 24, 32]
        best = min(
            sum(need.error(d) for need, d in zip(needs, dims, strict=True))
            for dims in itertools.product(sizes, repeat=3)
            if sum(2 * 256 * 8 * d + 2 * 256 * 256 for d in dims) <= budget
        )
        assert sum(layer.error for layer in made.layers) == pytest.approx(best, abs=1e-12)
    assert any(layer.criterion.startswith("budget") for layer in made.layers)


def test_values_share_the_budget():
    """Queries, keys and values of two layers under one budget, all choices tried; without a budget each by its criterion."""
    needs = [
        replace(
            diffuse_need(laws.power_spectrum(32, exponent, 1.0)),
            value_rank=rank, value_criterion="layer output within 5 %", value_error=lambda d, base=base: base ** min(d, 32),
        )
        for exponent, rank, base in ((1.0, 20, 0.85), (2.0, 9, 0.7))
    ]  # fmt: skip
    free = allocate_heads(256, 256, needs, heads=8, kv_heads=2)
    assert [(layer.head_dim, layer.value_dim) for layer in free.layers] == [(32, 24), (16, 16)]
    assert {layer.value_criterion for layer in free.layers} == {"layer output within 5 %"}
    for layer, need in zip(free.layers, needs, strict=True):
        assert layer.value_error == need.value_error(layer.value_dim)
        assert 1 - layer.error == pytest.approx((1 - layer.value_error) * (1 - need.error(layer.head_dim)))
    whole = Attention(256, 8, 2, 32, 32, bias=False, out_bias=False)
    sizes = [(d, v) for d in (8, 16, 24, 32) for v in (8, 16, 24, 32)]
    cost = {pair: whole.replace(head_dim=pair[0], value_dim=pair[1]).parameters for pair in sizes}
    for share in (0.9, 0.7, 0.5):
        budget = int(share * free.parameters)
        made = allocate_heads(256, 256, needs, heads=8, kv_heads=2, budget=budget)
        best = min(
            needs[0].error_of(*one) + needs[1].error_of(*other)
            for one in sizes for other in sizes if cost[one] + cost[other] <= budget
        )  # fmt: skip
        assert made.parameters <= budget
        assert sum(layer.error for layer in made.layers) == pytest.approx(best, abs=1e-12)
        assert made.parameters_saved == 2 * whole.parameters - made.parameters
    assert any(layer.value_criterion == "budget; without it 24 by layer output within 5 %" for layer in made.layers)
    # A value never grows, whatever the multiple; and one that no need speaks of stays.
    (grown,) = allocate_heads(256, 256, needs[:1], heads=8, multiple=24).layers
    assert (grown.head_dim, grown.value_dim) == (48, 24)
    (kept,) = allocate_heads(256, 256, [positional_need(3)], heads=8, budget=200_000).layers
    assert (kept.value_dim, kept.value_criterion, kept.value_error) == (32, "unchanged", 0.0)


def test_a_starved_look_up_layer_is_named():
    made = allocate_heads(256, 4096, design_needs(2, 4096), heads=8, budget=2 * (2 * 256 * 8 * 8 + 2 * 256 * 256))
    assert {layer.head_dim for layer in made.layers} == {8}
    assert all("below the floor of 17" in layer.criterion for layer in made.layers)


@pytest.mark.slow
def test_features_ask_for_heads():
    made = allocate_heads(512, 512, design_needs(1, 512), heads=8, kv_heads=4, tensor_parallel=2, features=13)
    assert made.layers[0].heads == 16
    assert made.layers[0].criterion.startswith("head count: 13 features")
    budget = allocate_heads(512, 512, design_needs(1, 512), heads=8, kv_heads=4, features=13, budget=700_000)
    (layer,) = budget.layers
    assert layer.heads % 4 == 0
    assert layer.heads < 16
    assert layer.error >= 1 - layer.heads / 13
    assert layer.parameters <= 700_000


@pytest.mark.slow
@given(st.integers(1, 8), st.sampled_from([1, 2, 4]), st.sampled_from([1, 8, 16]), st.sampled_from([64, 1024]))
def test_constraints_hold(groups, kv_heads, multiple, context):
    made = allocate_heads(
        64 * groups * kv_heads, context, design_needs(2, context, kinds={1: "diffuse"}),
        heads=groups * kv_heads, kv_heads=kv_heads, multiple=multiple,
    )  # fmt: skip
    for layer in made.layers:
        assert layer.heads % layer.kv_heads == 0
        assert layer.head_dim % multiple == 0
        assert layer.head_dim >= 2 * math.log(context) or layer.kind == "diffuse"
        assert layer.value_dim == 64


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: allocate_heads(100, 1024, design_needs(1, 1024), heads=3), "heads=3 does not divide width=100"),
        (lambda: allocate_heads(100, 1024, design_needs(1, 1024)), "width=100 is not a multiple of 64"),
        (lambda: allocate_heads(512, 1, design_needs(1, 64)), "context=1 is not a whole number from 2"),
        (lambda: design_needs(1, 1), "context=1 is not a whole number from 2"),
        (lambda: design_needs(0, 64), "layers=0"),
        (lambda: allocate_heads(512, 64, design_needs(1, 64), head_dim=0), "head_dim=0 is not a whole number from 1"),
        (lambda: allocate_heads(512, 64, design_needs(1, 64), heads=8, kv_heads=3), "kv_heads=3 does not divide heads=8"),
        (lambda: allocate_heads(512, 64, design_needs(1, 64), heads=8, tensor_parallel=3), "do not divide among 3 devices"),
        (lambda: allocate_heads(512, 64, design_needs(1, 64), budget=1000), "is below the least possible"),
        (lambda: allocate_heads(512, 64, []), "there are no layers"),
        (lambda: design_needs(4, 64, kinds={4: "diffuse"}), "there is no layer 4"),
        (lambda: design_needs(4, 64, kinds={0: "sharp"}), "'sharp' is not one of retrieval, diffuse, positional"),
        (lambda: design_needs(4, 64, logit_variance=-1.0), "logit_variance=-1.0 is negative"),
        (lambda: design_needs(4, 64, share=0.5), "share=0.5 is below 1"),
        (lambda: design_needs(4, 64, kinds={0: "diffuse"}, tolerance=0), "tolerance=0 is not between"),
        (lambda: layer_ranges("3-1", 4), "there are no layers 3-1"),
        (lambda: layer_ranges("1;2", 4), "is not a layer like 3"),
        (lambda: layer_ranges("-1", 4), "is not a layer like 3"),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the command ----


def test_the_command_of_the_contract(invoke):
    done = invoke("heads", "--width", "4096", "--context", "8192", "--layers", "32", "--json")
    assert done.status == 0
    found = json.loads(done.output)
    assert [layer["layer"] for layer in found["layers"]] == list(range(32))
    assert {(layer["heads"], layer["head_dim"], layer["criterion"]) for layer in found["layers"]} == {
        (32, 40, "retrieval: 4 ln n")
    }
    assert found["parameters_saved"] == 32 * 2 * 4096 * 32 * 88
    assert "our reconstruction" in " ".join(found["notes"])


def test_the_command_prints_a_table(invoke):
    done = invoke("heads", "--width", "2**10", "--context", "1024", "--layers", "4", "--diffuse", "2-3", "--positional", "0")
    assert done.status == 0
    assert "2 to 3" in done.output
    assert "positional: 2 per frequency" in done.output
    assert invoke("heads", "--width", "1024", "--context", "1024", "--layers", "4", "--csv").output.count("\n") == 5


def test_the_command_reads_a_configuration(invoke, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "gpt2"}')
    found = json.loads(invoke("heads", config, "--json").output)
    assert (found["width"], found["context"], len(found["layers"])) == (768, 1024, 12)
    assert present_shape(str(config))["head_dim"] == 64
    assert found["layers"][0]["head_dim"] == 32
    # Biases of queries and keys are counted, those of 12 heads of 32 dimensions fewer.
    assert found["layers"][0]["parameters_saved"] == 2 * 12 * 32 * (768 + 1)
    assert "--width is" in invoke("heads", config, "--width", "64").error


@pytest.mark.slow
def test_the_command_draws(invoke, tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "collapse.png"
    done = invoke("heads", "--width", "128", "--context", "64", "--layers", "2", "--plot", target)
    assert done.status == 0
    assert target.stat().st_size > 10_000
    assert "does not end in" in invoke("heads", "--width", "128", "--context", "64", "--layers", "2", "--plot", "x.doc").error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "heads needs --width, --layers, --context, or a model's folder"),
        (("--width", "4096", "--context", "1", "--layers", "2"), "context=1 is not a whole number from 2"),
        (("--width", "4096", "--context", "64", "--layers", "2", "--head-dim", "0"), "head_dim '0' is not a positive size"),
        (("--width", "4096", "--context", "64", "--layers", "2", "--heads", "33"), "heads=33 does not divide width=4096"),
        (("--width", "4096", "--context", "64", "--layers", "2", "--text", "x"), "--text applies with --measure only"),
        (
            ("--width", "4096", "--context", "64", "--layers", "2", "--keep-values"),
            "--keep-values applies with --measure",
        ),
        (("--measure",), "--measure needs a model's folder or config.json"),
        (("--width", "64", "--context", "-5", "--layers", "2"), "context '-5' is not a positive size"),
        (("nowhere/config.json",), "nowhere"),
    ],
)
def test_a_wrong_command_gets_one_sentence(invoke, arguments, sentence):
    done = invoke("heads", *arguments)
    assert done.status == 2
    assert sentence in done.error
    assert len(done.error.strip().splitlines()) == 1
