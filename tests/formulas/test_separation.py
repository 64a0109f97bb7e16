"""The bounds on the separation rank: worked values, their order, and exact ranks of small networks over a finite field."""

import math

import numpy as np
import pytest
import sympy
from helpers import agrees, check

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas import separation
from depthwidth.formulas.separation import (
    depth_efficiency_threshold,
    log3_rank_lower_efficient,
    log3_rank_lower_inefficient,
    log3_rank_multiset,
    log3_rank_upper_efficient,
    log3_rank_upper_inefficient,
    log3_shallow_size_needed,
    log_rank_bottleneck,
    position_sums,
    shallow_width_needed,
)

EFFICIENT = [
    ((3, 128, 2), "4.41651", "8.31373", "57.5981", "9.72558"),
    ((4, 768, 12), "6.04744", "30.6196", "242.462", "37.0529"),
    ((6, 768, 12), "6.04744", "113.576", "2206.40", "191.769"),
    ((6, 1024, 16), "6.30930", "134.787", "2301.72", "211.241"),
    ((8, 12288, 96), "8.57116", "1409.22", "28136.6", "2107.08"),
]
INEFFICIENT = [
    ((8, 768, 12), "6.04744", "173.565", "5165.91"),
    ((12, 768, 12), "6.04744", "1681.57", "11313.9"),
    ((24, 1024, 16), "6.30930", "8148.02", "39131.2"),
    ((48, 1600, 25), "6.71553", "31295.8", "136650"),
    ((96, 12288, 96), "8.57116", "524091", "2.18320e6"),
    ((12, 128, 2), "4.41651", "374.640", "2316.58"),
]


@pytest.mark.parametrize(("network", "threshold", "lower", "upper", "multiset"), EFFICIENT)
def test_efficient_regime(network, threshold, lower, upper, multiset):
    depth, width, heads = network
    check(depth_efficiency_threshold(width), threshold)
    check(log3_rank_lower_efficient(*network), lower)
    check(log3_rank_upper_efficient(*network), upper)
    check(log3_rank_multiset(*network), multiset)
    # One head more or less, or base 2 for base 3, would show.
    assert not agrees(log3_rank_lower_efficient(depth, width, heads + 1), lower)
    assert not agrees(log3_rank_upper_efficient(depth, width, heads + 1), upper)
    assert not agrees(log3_rank_multiset(depth, width, heads + 1), multiset)


@pytest.mark.parametrize(("network", "threshold", "lower", "upper"), INEFFICIENT)
def test_inefficient_regime(network, threshold, lower, upper):
    depth, width, heads = network
    check(depth_efficiency_threshold(width), threshold)
    check(log3_rank_lower_inefficient(*network), lower)
    check(log3_rank_upper_inefficient(*network), upper)
    assert not agrees(log3_rank_lower_inefficient(depth, width, heads + 1), lower)
    assert not agrees(log3_rank_upper_inefficient(depth, width + 1, heads), upper)


CORES = [
    ((6, 1024, 16), 3, "10.3682", "88489.4"),
    ((6, 1024, 16), 4, "3.36967", "40.5266"),
    ((8, 12288, 96), 4, "35.2305", "6.44518e16"),
]


@pytest.mark.parametrize(("deep", "shallow_depth", "right_side", "implied"), CORES)
def test_shallow_networks_need_enormous_width_in_the_efficient_regime(deep, shallow_depth, right_side, implied):
    needed = log3_shallow_size_needed(*deep, shallow_depth)
    check(needed, right_side)
    check(3**needed, implied)
    # Exactly where the shallow upper bound meets the deep lower bound.
    assert needed * position_sums(shallow_depth) == pytest.approx(log3_rank_lower_efficient(*deep), rel=1e-14)


def test_widening_in_proportion_is_enough_in_the_inefficient_regime():
    assert shallow_width_needed(48, 1600, 12) == 1600
    assert shallow_width_needed(96, 12288, 48) == 6144


def test_position_sums_count_the_tree():
    """Each layer's three factors bring their own sums, and it adds one: C(L) = 3 C(L - 1) + 1."""
    assert position_sums(1) == 1
    for depth in range(2, 30):
        assert position_sums(depth) == 3 * position_sums(depth - 1) + 1


def heads_of(width):
    return sorted({h for h in (1, 2, 8, width // 64) if 0 < h < width})


WIDTHS = [64, 100, 128, 256, 500, 768, 1024, 1600, 2048, 4096, 5140, 8192, 12288, 20000, 30000]


@pytest.mark.slow
def test_bounds_are_in_order_and_vacuous_only_near_the_threshold():
    vacuous = []
    for width in WIDTHS:
        for heads in heads_of(width):
            for depth in range(2, 129):
                threshold = math.log(width, 3)
                if depth < threshold:
                    lower = log3_rank_lower_efficient(depth, width, heads)
                    multiset = log3_rank_multiset(depth, width, heads)  # equal to the lower bound at two layers
                    assert lower * (1 - 1e-11) <= multiset <= log3_rank_upper_efficient(depth, width, heads)
                else:
                    lower = log3_rank_lower_inefficient(depth, width, heads)
                    assert lower <= log3_rank_upper_inefficient(depth, width, heads)
                    if lower <= 0:
                        vacuous.append(depth - threshold)
    assert max(vacuous) < 3


@pytest.mark.parametrize(("width", "first_useful"), [(768, 8), (1024, 8), (4096, 10), (12288, 11)])
def test_first_useful_depth_of_the_lower_bound(width, first_useful):
    threshold = math.floor(math.log(width, 3)) + 1
    useful = [depth for depth in range(threshold, 40) if log3_rank_lower_inefficient(depth, width, width // 64) > 0]
    assert useful[0] == first_useful


def test_multiset_is_the_exact_integer():
    """The gamma form against big integers: log_3 of binomial(n + k - 1, k)."""
    for depth, width, heads in ((3, 128, 2), (6, 768, 12), (8, 12288, 96)):
        n, k = (width - heads) // 2, 3 ** (depth - 2)
        exact = math.log(math.comb(n + k - 1, k)) / math.log(3)
        assert log3_rank_multiset(depth, width, heads) == pytest.approx(exact, rel=1e-12)


def test_the_bound_s_constant_comes_from_n_over_k_to_the_k():
    """(n/k)^k with n = (d - H)/2, k = 3^(L-2) expands to the printed constant a = -L + 2 - log_3 2."""
    depth, width, heads = (p.symbol() for p in log3_rank_lower_efficient.parameters.values())
    k = 3 ** (depth - 2)
    direct = k * sympy.log((width - heads) / 2 / k) / sympy.log(3)
    gap = direct - log3_rank_lower_efficient.expr
    assert abs(float(gap.subs({depth: 5, width: 4096, heads: 32}).evalf(30))) < 1e-20


@pytest.mark.parametrize(
    "bound", [log3_rank_lower_efficient, log3_rank_multiset, lambda d, w, h: log3_shallow_size_needed(d, w, h, 2)]
)
def test_the_efficient_bounds_refuse_the_other_regime(bound):
    with pytest.raises(InputError, match="not below it"):
        bound(7, 768, 12)
    with pytest.raises(InputError, match="fewer heads"):
        bound(3, 64, 64)


@pytest.mark.parametrize("bound", [log3_rank_lower_inefficient, log3_rank_upper_inefficient])
def test_the_inefficient_bounds_refuse_the_other_regime(bound):
    with pytest.raises(InputError, match="not above it"):
        bound(6, 768, 12)
    with pytest.raises(InputError, match="not above it"):
        bound(np.array([8, 6]), 768, 12)
    with pytest.raises(InputError, match="fewer heads"):
        bound(30, 64, 64)


def test_on_the_boundary_neither_regime_applies():
    assert depth_efficiency_threshold(3**5) == pytest.approx(5, rel=1e-15)
    for bound in (log3_rank_lower_efficient, log3_rank_lower_inefficient):
        for number in (int, sympy.Integer):
            with pytest.raises(InputError):
                bound(number(5), number(3**5), number(2))


def test_depths_are_whole_numbers():
    with pytest.raises(InputError, match="whole numbers"):
        log3_rank_upper_efficient(2.5, 768, 12)
    with pytest.raises(InputError, match="whole numbers"):
        log3_rank_lower_efficient(1, 768, 12)


def test_largest_depth_stays_finite():
    assert math.isfinite(log3_rank_upper_efficient(600, 12288, 96))
    with pytest.raises(InputError):
        log3_rank_upper_efficient(601, 12288, 96)


# ---- exact ranks over a prime field ----

P = 2**31 - 1


def product(*factors):
    result = factors[0] % P
    for factor in factors[1:]:
        result = result * factor % P
    return result


def matmul(a, b):
    """a @ b over the field; products stay below 2^62 and are reduced before they are summed."""
    return sum(product(a[..., :, k, None], b[..., None, k, :]) for k in range(a.shape[-1])) % P


def rank(matrix):
    matrix = matrix.copy()
    found = 0
    for column in range(matrix.shape[1]):
        pivots = np.nonzero(matrix[found:, column])[0]
        if len(pivots) == 0:
            continue
        pivot = found + pivots[0]
        matrix[[found, pivot]] = matrix[[pivot, found]]
        matrix[found] = product(matrix[found], np.int64(pow(int(matrix[found, column]), -1, P)))
        below = matrix[found + 1 :]
        below -= product(below[:, column, None], matrix[found])
        below %= P
        found += 1
        if found == len(matrix):
            break
    return found


def network(inputs, depth, heads, rng):
    """y_1 at position 1 of the simplified network; `inputs` is (..., positions, width) with values in the field."""
    width = inputs.shape[-1]
    y = inputs
    for _ in range(depth):
        out = 0
        for _ in range(heads):
            query, key, value = (rng.integers(0, P, (width // heads, width)).swapaxes(0, 1) for _ in range(3))
            output = rng.integers(0, P, (width // heads, width))
            # sum_j <q_i, k_j> v_j is q_i times the sum over positions of k_j v_j^T.
            keys, values = matmul(y, key), matmul(y, value)
            memory = sum(product(keys[..., j, :, None], values[..., j, None, :]) for j in range(y.shape[-2])) % P
            out = (out + matmul(matmul(matmul(y, query), memory), output)) % P
        y = out
    return y[..., 0, 0]


def separation_rank(depth, width, heads, positions, embedding_rank, rng, samples):
    embedding = rng.integers(0, P, (embedding_rank, width))
    halves = [matmul(rng.integers(0, P, (samples, positions // 2, embedding_rank)), embedding) for _ in range(2)]
    shape = (samples, samples, positions // 2, width)
    pairs = np.concatenate([np.broadcast_to(halves[0][:, None], shape), np.broadcast_to(halves[1][None, :], shape)], axis=-2)
    return rank(network(pairs, depth, heads, rng))


CHECKS = reference("separation_rank_exact_checks")


def ids(row):
    return "-".join(row[name] for name in ("depth", "width", "heads", "positions", "embedding_rank"))


@pytest.mark.parametrize("row", CHECKS, ids=ids)
def test_exact_separation_rank(row, rng):
    depth, width, heads, positions, embedding = (
        int(row[name]) for name in ("depth", "width", "heads", "positions", "embedding_rank")
    )
    expected = int(row["exact_separation_rank"])
    found = separation_rank(depth, width, heads, positions, embedding, rng, samples=expected + 5)
    assert found == expected
    assert found <= (width + heads) ** int(position_sums(depth))
    if depth == 1:
        assert expected == min(embedding, width) + 1


def test_one_layer_of_every_width_up_to_nine(rng):
    for width in range(2, 10):
        assert separation_rank(1, width, 1, 4, width, rng, samples=width + 4) == width + 1


def test_the_rank_sees_the_split_and_the_heads(rng):
    """Two halves that are drawn together are not free: the computed rank of a product is 1, and one head is not two."""
    row = rng.integers(1, P, 12)
    assert rank(product(row[:, None], row[None, :])) == 1
    assert rank(rng.integers(0, P, (20, 20))) == 20
    assert separation_rank(2, 2, 1, 8, 2, rng, samples=25) != separation_rank(2, 2, 2, 8, 2, rng, samples=25)


def test_only_the_embedding_rank_counts(rng):
    """Replacing the width by min(width, rank) leaves the rank as it is, as the bottleneck theorem has it."""
    ranks = {int(row["exact_separation_rank"]) for row in CHECKS if (row["depth"], row["embedding_rank"]) == ("2", "2")}
    assert {18, 17, 15} >= ranks
    assert log_rank_bottleneck(24, 1024, 256) == log_rank_bottleneck(24, 256, 256)
    assert log_rank_bottleneck(24, 128, 256) == 24 * 128


def test_upper_bounds_of_the_published_ranks():
    for row, bound in zip(CHECKS, [3, 5, 6, 9, 10, 81, 81, 81, 256, 256, 1296, 625], strict=False):
        log3 = log3_rank_upper_efficient(int(row["depth"]), int(row["width"]), int(row["heads"]))
        assert 3**log3 == pytest.approx(bound, rel=1e-12)


def test_the_module_exports_no_optimal_depth():
    assert not [name for name in vars(separation) if "optimal" in name]
