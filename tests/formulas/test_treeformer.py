"""Treeformer's costs against a table counted elsewhere, and the probabilities of random trees against simulations."""

import math

import numpy as np
import pytest
from helpers import agrees, check, golden

from depthwidth.errors import InputError
from depthwidth.formulas import treeformer


@pytest.mark.parametrize("row", golden("treeformer_cost_model"), ids=lambda row: f"{row['n']}-{row['height']}")
def test_the_cost_model(row):
    n, d, h = (int(row[name]) for name in ("n", "d", "height"))
    assert treeformer.full_attention_flops(n, d) == int(row["full_scores_and_mix_flops"])
    assert treeformer.leaf_attention_flops(n, h, d) == int(row["tf_balanced_flops"])
    assert treeformer.path_attention_flops(n, h, d) == int(row["tc_flops"])
    for name, reduction in (("tf", treeformer.leaf_attention_reduction), ("tc", treeformer.path_attention_reduction)):
        found = reduction(n, h)
        check(found, f"{float(row[f'{name}_reduction']):.1f}")
        check(treeformer.projected_reduction(n, d, found), f"{float(row[f'{name}_reduction_incl_qkvo']):.2f}")
        assert not agrees(1.1 * found, f"{float(row[f'{name}_reduction']):.1f}")


def test_an_unbalanced_tree_saves_less():
    """All in one leaf: the scores of full attention, and the routing besides."""
    n, h, d = 512, 4, 64
    worst = treeformer.leaf_attention_flops(n, h, d, 2**h)
    assert worst == treeformer.full_attention_flops(n, d) + treeformer.routing_flops(n, h, d)
    assert treeformer.leaf_attention_flops(n, 0, d) == treeformer.full_attention_flops(n, d)
    assert treeformer.leaf_scores(n, h, 2**h) == n**2
    assert treeformer.leaf_attention_reduction(n, h, 3.0) == pytest.approx(
        treeformer.full_attention_flops(n, d) / treeformer.leaf_attention_flops(n, h, d, 3.0)
    )


def test_thirty_times_fewer_operations():
    """Each of these settings has the factor of the paper's headline; with the four projections none can, at these lengths."""
    for found in (
        treeformer.leaf_attention_reduction(4096, 5), treeformer.leaf_attention_reduction(2048, 5),
        treeformer.leaf_attention_reduction(4096, 6, 2.0), treeformer.path_attention_reduction(232, 4),
        treeformer.path_attention_reduction(548, 10),
    ):  # fmt: skip
        assert 29 < found < 31
    assert treeformer.projected_reduction(4096, 768, math.inf) == 1 + 4096 / (2 * 768)
    assert treeformer.projected_reduction(4096, 768, 1e15) < 3.67


@pytest.mark.parametrize("imbalance", [1.0, 2.5])
@pytest.mark.parametrize("n", [512, 8192])
def test_the_best_height_has_the_fewest_operations(n, imbalance):
    best = round(treeformer.best_height(n, imbalance))
    costs = {h: treeformer.leaf_attention_flops(n, h, 64, imbalance) for h in range(1, 20)}
    assert abs(min(costs, key=costs.get) - best) <= 1
    assert costs[best] <= 1.01 * min(costs.values())
    assert costs[best - 3] > 1.1 * min(costs.values())


def test_the_length_of_break_even_is_where_the_times_meet():
    full, leaves, token, start = 3e-9, 4e-10, 2e-6, 3e-3
    n = treeformer.break_even_length(full - leaves, token, start)
    assert full * n**2 == pytest.approx(leaves * n**2 + token * n + start)
    with pytest.raises(InputError, match="quadratic"):
        treeformer.break_even_length(leaves - full, token, start)


def test_parameters_and_ranks():
    check(treeformer.tree_parameters(4, 32), "495")
    assert treeformer.tree_parameters(0, 32) == 0
    assert treeformer.rank_ceiling(10, 4) == 10
    assert treeformer.wide_routing_flops(64, 3, 8, 2) == 2 * treeformer.routing_flops(64, 3, 8)
    with pytest.raises(InputError, match="height"):
        treeformer.rank_ceiling(10, -1)


def test_empty_leaves_by_simulation(rng):
    n, h, draws = 40, 4, 4000
    leaves = rng.integers(0, 2**h, (draws, n))
    empty = 1 - np.array([np.unique(row).size for row in leaves]) / 2**h
    error = empty.std() / math.sqrt(draws)
    assert abs(empty.mean() - treeformer.empty_leaf_probability(n, h)) < 5 * error
    assert abs(empty.mean() - treeformer.empty_leaf_probability(n, h + 1)) > 5 * error


def routed(x, planes):
    leaf = np.zeros(len(x), dtype=int)
    for level in range(int(math.log2(len(planes) + 1))):
        leaf = 2 * leaf + ((planes[2**level - 1 + leaf] * x).sum(1) > 0)
    return leaf


def imbalances(rng, n, d, h, mean, draws):
    """Of Gaussian queries and keys with a common mean of this squared length over d, in random trees."""
    found = []
    for _ in range(draws):
        shift = math.sqrt(mean) * rng.standard_normal(d)
        q, k = (rng.standard_normal((n, d)) + shift for _ in range(2))
        planes = rng.standard_normal((2**h - 1, d))
        counts = (np.bincount(routed(x, planes), minlength=2**h) for x in (q, k))
        found.append(2**h / n**2 * np.prod(list(counts), axis=0).sum())
    return np.array(found)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_the_imbalance_of_random_trees_by_simulation(rng, mean):
    """The cosine of a query and a key is mean/(1 + mean) on average; its variance of 1/d adds a little."""
    d, h = 256, 3
    found = imbalances(rng, 48, d, h, mean, 150)
    predicted = treeformer.random_imbalance(h, mean / (1 + mean)) + h * (h - 1) * 2 / math.pi**2 / d
    assert abs(found.mean() - predicted) < 5 * found.std() / math.sqrt(150)
    assert abs(found.mean() - treeformer.random_imbalance(h, 0.25)) > 5 * found.std() / math.sqrt(150)


@pytest.mark.parametrize("row", golden("treeformer_imbalance"), ids=lambda row: f"{row['n']}-{row['height']}")
def test_the_table_of_imbalances(row):
    """Means of 20 draws: the spread of random trees with a mean is large beyond six levels."""
    d, h = int(row["d"]), int(row["height"])
    centred = treeformer.random_imbalance(h, 0.0) + h * (h - 1) * 2 / math.pi**2 / d
    assert float(row["imbalance_centred_gaussian"]) == pytest.approx(centred, rel=0.02)
    shifted = float(treeformer.random_imbalance(h, 0.5))
    assert float(row["imbalance_mean_shifted"]) == pytest.approx(shifted, rel=0.5 if h > 6 else 0.35)
    assert int(row["max_possible"]) == 2**h
    if h > 2:
        assert float(row["imbalance_mean_shifted"]) != pytest.approx(centred, rel=1)
