"""Capacity: worked values, the lemmas against random networks, and the natures that the formulas state."""

import itertools
import math
import re

import numpy as np
import pytest
from helpers import agrees, check, golden, table

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formula import find_formula, formulas
from depthwidth.formulas import capacity
from depthwidth.numerics.network_norms import margin_loss, margins, network_norms, path_sum

# depth | width | B | margin | m | delta | prod s^2 | sum F^2/s^2 | without constants | divergence | gap
SPECTRAL = table("""
2|64|1|1|10000|0.05|1|128|3.98753|1.33222e9|1460.06
3|256|1|1|50000|0.01|1|768|15.3336|9.26022e10|5443.65
3|256|8|10|50000|0.01|64|768|98.1352|3.79299e12|34839.3
2|1|1|1|1000000|0.05|1|2|0.004801|108416|1.3172
""")
TINY = [[[1, -2], [3, 0.5]], [[1, -1], [2, 1]]]


@pytest.mark.parametrize("row", SPECTRAL, ids=lambda row: "-".join(row[:6]))
def test_the_spectral_margin_bound(row):
    depth, width, norm, margin, m, delta, spectra, ranks = map(float, row[:8])
    shape = {"depth": depth, "width": width, "norm": norm, "squared_spectra": spectra, "stable_ranks": ranks, "margin": margin}
    check(capacity.spectral_margin_order(**shape, samples=m, failure=delta), row[8])
    check(capacity.margin_divergence(**shape), row[9])
    check(capacity.spectral_margin_gap(**shape, samples=m, failure=delta), row[10])
    assert not agrees(capacity.spectral_margin_gap(**shape | {"margin": 1.01 * margin}, samples=m, failure=delta), row[10])


@pytest.mark.parametrize("row", golden("capacity_pacbayes_digits"), ids=lambda row: f"{row['labels']}-{row['gamma']}")
def test_trained_networks_on_digits_have_vacuous_bounds(row):
    """Inputs of the table are rounded to four digits, of which the margin and the inputs' norm count twice."""
    names = {"norm": "B", "squared_spectra": "prod_spec_squared", "stable_ranks": "sum_fro2_over_spec2", "margin": "gamma"}
    given = {"depth": 3, "width": 64, **{name: float(row[column]) for name, column in names.items()}}
    gap = capacity.spectral_margin_gap(**given, samples=1000, failure=0.05)
    assert capacity.margin_divergence(**given) == pytest.approx(float(row["KL_explicit"]), rel=2e-3)
    assert gap == pytest.approx(float(row["gap_bound_explicit_constants"]), rel=1e-3)
    order = capacity.spectral_margin_order(**given, samples=1000, failure=0.05)
    assert order == pytest.approx(float(row["O_term_no_constants"]), rel=1e-3)
    assert gap > 1


def test_the_proof_s_constant():
    """Noise of the proof's size moves a logit by a quarter of the margin at most: 4 sqrt(2) e^2 <= 42, and not 41."""
    depth, width, norm, margin, beta = 3, 64, 2.0, 1.5, 1.3
    for constant, holds in ((42, True), (41, False)):
        grid = beta * math.exp(-1 / (depth - 1))  # the least grid value that the proof admits
        noise = margin / (constant * depth * norm * grid ** (depth - 1) * math.sqrt(width * math.log(4 * width * depth)))
        # The least grid value makes the noise e times as large as the scale itself would.
        relative = depth * capacity.noise_norm(depth, width, noise) / beta
        assert (capacity.perturbation_bound(norm, beta**depth, relative) <= margin / 4) is holds


def test_the_logarithm_is_not_divided_by_the_margin():
    """At a margin to which the norms are nothing the gap no longer depends on it; the recalled print does."""
    shape = (2, 64, 1, 1e-9, 2)
    assert capacity.spectral_margin_gap(*shape, 10, 1000, 0.05) == pytest.approx(
        capacity.spectral_margin_gap(*shape, 20, 1000, 0.05), rel=1e-5
    )
    assert capacity.spectral_margin_order(*shape, 10, 1000, 0.05) == pytest.approx(
        2 * capacity.spectral_margin_order(*shape, 20, 1000, 0.05), rel=1e-5
    )


def forward(weights, x):
    for w in weights[:-1]:
        x = np.maximum(w @ x, 0)
    return weights[-1] @ x


def test_no_random_network_moves_further_than_the_perturbation_lemma_allows(rng):
    worst = 0.0
    for depth, width, kind in itertools.product((2, 4), (8, 32), ("random", "aligned", "proportional")):
        sizes = [width] * depth + [3]
        weights = [rng.standard_normal((after, before)) for before, after in itertools.pairwise(sizes)]
        changes = []
        for w in weights:
            u, s, v = np.linalg.svd(w, full_matrices=False)
            direction = {"random": rng.standard_normal(w.shape), "aligned": np.outer(u[:, 0], v[0]), "proportional": w}[kind]
            changes.append(direction / np.linalg.norm(direction, 2) * s[0] / depth)
        x = rng.standard_normal((width, 50))
        x /= np.linalg.norm(x, axis=0)
        spectra = math.prod(np.linalg.norm(w, 2) for w in weights)
        moved = forward([w + u for w, u in zip(weights, changes, strict=True)], x) - forward(weights, x)
        worst = max(worst, np.linalg.norm(moved, axis=0).max() / capacity.perturbation_bound(1.0, float(spectra), 1.0))
    assert worst < 1


def test_a_chain_of_scalars_comes_within_0_63_of_the_lemma():
    """The control: with 0.6 e for e it would not hold."""
    ratios = [((1 + 1 / d) ** d - 1) / capacity.perturbation_bound(1, 1, 1) for d in (1, 2, 5, 20, 100)]
    for ratio, printed in zip(ratios, ("0.368", "0.460", "0.548", "0.608", "0.627"), strict=True):
        check(ratio, printed)
    assert ratios[-1] > 0.6


def test_gaussian_noise_stays_below_its_bound_if_the_width_counts_inputs(rng):
    depth, shapes = 2, [(8, 64), (4, 8)]
    norms = np.array([[np.linalg.norm(rng.standard_normal(shape), 2) for shape in shapes] for _ in range(40)]).max(axis=1)
    assert np.mean(norms <= capacity.noise_norm(depth, 64, 1.0)) >= 0.5
    assert np.mean(norms <= capacity.noise_norm(depth, 4, 1.0)) < 0.5  # the control: the largest output alone does not do


def test_the_measures_of_a_network_of_two_matrices():
    norms, margin = network_norms(TINY), 0.5
    check(norms.frobenius_product**2, "99.75")
    check(norms.spectral_product**2, "53.25659")
    check(norms.largest_row_product, "10.5")
    check(norms.stable_ranks, "2.73894")
    assert capacity.l2_capacity(norms.frobenius_product**2, 2, margin) == pytest.approx(6384)
    assert capacity.l1_path_capacity(norms.l1_paths, 2, margin) == 16384
    assert capacity.l2_path_capacity(norms.l2_paths, 2, norms.width_product, margin) == 11136
    check(capacity.spectral_capacity(norms.spectral_product**2, norms.width_product, margin), "852.106")
    for groups, printed in ((norms.row_group_sum, "33.5430"), (norms.column_group_sum, "33.3696")):
        check(capacity.spectral_complexity(norms.spectral_product, groups), printed)
        assert not agrees(1.001 * capacity.spectral_complexity(norms.spectral_product, groups), printed)
    weights = np.abs(np.concatenate([np.ravel(w) for w in TINY]))
    noise = capacity.magnitude_noise(weights, 0.01)
    check(sum(capacity.gaussian_divergence(weights**2, noise)), "337.541")
    identities = network_norms([np.eye(64), np.eye(64)])
    check(capacity.spectral_complexity(identities.spectral_product, identities.row_group_sum), "181.02")


def test_factors_of_two_and_of_widths_stand_with_each_weight():
    """The capacities are path sums and norms of scaled weights."""
    doubled = [2 * np.array(w) for w in TINY]
    assert capacity.l1_path_capacity(path_sum(TINY), 2, 1) == pytest.approx(path_sum(doubled) ** 2)
    scaled = [math.sqrt(len(w)) * w for w in doubled]
    assert capacity.l2_path_capacity(path_sum(TINY, 2), 2, 4, 1) == pytest.approx(path_sum(scaled, 2))


def test_magnitude_aware_flatness_is_zero_for_weights_alike_and_small_noise():
    """All weights the root mean square: each term is ln(1 + msq/(eps^2 + sigma^2 msq))/4, and larger for a smaller weight."""
    term = capacity.magnitude_flatness_term(100.0, 400, 0.5, 2.0)
    assert term == pytest.approx(math.log(1 + 0.25 / (1e-6 + 1.0)) / 4)
    assert capacity.magnitude_flatness_term(100.0, 400, 0.4, 2.0) > term


def test_certainty_of_a_pair_of_networks():
    check(capacity.pair_certainty(0.02, 10000), "0.5319")
    check(capacity.pair_certainty(0.05, 10000), "0.999985")
    assert capacity.pair_certainty(0.001, 100) == 0  # its square alone would be near 1


def test_no_head_moves_further_than_its_bound(rng):
    """Over random heads of rows of norm 1, at any length; with half the bound for scores some would."""
    worst = {1.0: 0.0, 0.5: 0.0}
    for _ in range(300):
        tokens = int(rng.integers(2, 9))
        x = rng.standard_normal((tokens, 2))
        x /= np.linalg.norm(x, axis=1)[:, None]
        value, change = rng.standard_normal((2, 2)), 1e-3 * rng.standard_normal((2, 2))
        scores, moves = rng.standard_normal(tokens), 0.5 * rng.choice([-1, 1], tokens)
        before, after = (np.exp(s) / np.exp(s).sum() for s in (scores, scores + moves))
        moved = np.linalg.norm((value + change) @ x.T @ after - value @ x.T @ before)
        for share in worst:
            bound = capacity.head_perturbation(
                1.0, float(np.linalg.norm(value, 2)), float(np.linalg.norm(change, 2)), share * 0.5
            )
            worst[share] = max(worst[share], moved / bound)
    assert worst[1.0] < 1 < worst[0.5]


def test_covering_of_linear_maps(rng):
    check(capacity.sparse_covering(1, 10, 0.5, 64, 64), "3604.41")
    check(capacity.sparse_covering(1, 100, 1, 768, 64), "114958.3")
    assert capacity.sparse_covering(1, 1, 0.99, 4, 4) == pytest.approx(2 * math.log(33))  # whole maps are drawn
    w = rng.standard_normal((6, 5))
    total = np.abs(w).sum()
    draws = 20  # the mean of entries drawn by their size, by Maurey's lemma
    picked = rng.choice(w.size, size=(2000, draws), p=np.abs(w).ravel() / total)
    counts = np.zeros((2000, w.size))
    np.add.at(counts, (np.arange(2000)[:, None], picked), 1)
    errors = ((total * np.sign(w).ravel() * counts / draws - w.ravel()) ** 2).sum(1)
    assert errors.mean() < total**2 / draws
    assert errors.mean() > 0.8 * total**2 / draws


@pytest.mark.parametrize(("scale", "m", "printed"), [(1, 1000, "1.27323"), (10, 10**6, "0.540787"), (0.1, 10**4, "0.0817097")])
def test_the_entropy_integral_at_its_least(scale, m, printed):
    check(capacity.covered_rademacher(scale, m), printed)
    cut = np.exp(np.linspace(-12, 0, 200001))
    integral = 4 * cut + 12 * scale / math.sqrt(m) * np.log(1 / cut)
    check(integral.min(), printed)
    with pytest.raises(InputError, match="exceeds the largest loss"):
        capacity.covered_rademacher(scale, m, 1, scale / math.sqrt(m))


def test_proxies_of_transformers():
    check(capacity.head_covering_order(1, 1, 8, 8, 10000, 128), "7199.93")
    check(capacity.head_covering_order(1, 1, 8, 8, 10000, 1024), "8264.61")
    check(capacity.vc_order(12, 85_000_000, 1024), "2.5693e10")
    assert capacity.vc_lower_order(12, 85_000_000, 1024) < capacity.vc_order(12, 85_000_000, 1024)
    assert capacity.vc_order(12, 1000, 1024, 1024) == capacity.vc_order(12, 1000, 2048)


def test_norms_of_the_query_key_product_at_initialisation(rng):
    width, head_dim, draws = 64, 8, 300
    q, k = rng.standard_normal((2, draws, width, head_dim)) / math.sqrt(width)
    product = q @ k.transpose(0, 2, 1)
    for found, predicted, limit in (
        (np.linalg.norm(product, axis=1).sum(1), capacity.initial_score_group_norm, math.sqrt(width * head_dim)),
        (np.abs(product).sum((1, 2)), capacity.initial_score_entry_norm, width * math.sqrt(2 * head_dim / math.pi)),
    ):
        error = found.std() / math.sqrt(draws)
        assert abs(found.mean() - predicted(width, head_dim)) < 4 * error
        assert limit - found.mean() > 5 * error  # the control: the limit of large dimensions is told apart


def test_margins_of_the_small_network():
    points = np.array([[1, 0], [0.5, 0.2]])
    logits = forward([np.array(w) for w in TINY], points.T).T
    assert logits == pytest.approx(np.array([[-2, 5], [-1.5, 1.8]]))
    assert margin_loss(margins(logits, [1, 0]), 0.0) == 0.5


def test_every_result_says_bound_measure_or_proxy():
    natures = {f.__name__: re.split("[,']", f.validity.rpartition(": ")[2])[0] for f in formulas(topic="capacity")}
    assert set(natures.values()) == {"a bound", "a measure", "a proxy"}
    assert len(natures) > 30
    for f in formulas(topic="capacity"):
        assert (f.kind == "heuristic") == (natures[f.__name__] == "a proxy"), f.name
        # The text of the 2018 paper was not read.
        assert "1707.09564" not in f.source or f.status in ("rederived", "derived"), f.name
    assert find_formula("capacity.head_covering_order").status == "recalled"


def test_the_published_list_of_measures():
    rows = {row["measure"]: row for row in reference("jiang2020_measures")}
    assert len(rows) == len(reference("jiang2020_measures")) == 29
    assert rows["path-norm"]["equation"] == "44"
    assert {row["measure"] for row in rows.values() if row["status"] == "recalled"} == {
        "sharpness-init / -orig / -flatness",
        next(name for name in rows if name.startswith("optimisation")),
    }


def test_the_best_division_of_a_resolution_over_parts():
    """sum C_i^2/eps_i^2 under sum eps_i = eps is least at (sum C_i^(2/3))^3/eps^2; an even division costs more."""
    parts, eps = np.array([1.0, 8.0, 0.3]), 0.7
    best = capacity.joint_covering_scale(float((parts ** (2 / 3)).sum())) ** 2 / eps**2
    shares = eps * parts ** (2 / 3) / (parts ** (2 / 3)).sum()
    assert (parts**2 / shares**2).sum() == pytest.approx(best, rel=1e-12)
    assert (parts**2 / (eps / 3) ** 2).sum() > 1.2 * best


def test_the_covering_scale_of_a_map_bounds_its_covering_at_every_resolution():
    """Rounding up at most doubles a number of 1 and more; where it is below 1 the zero map is the whole cover."""
    norm, weight_norm = 2.0, 3.0
    scale = capacity.map_covering_scale(norm, weight_norm, 5, 4)
    for eps in np.linspace(0.01, norm * weight_norm * 0.999, 60):
        assert capacity.sparse_covering(norm, weight_norm, float(eps), 5, 4) <= scale**2 / eps**2
    assert capacity.sparse_covering(norm, weight_norm, 5.9, 5, 4) > 0.5 * scale**2 / 5.9**2  # without the factor 2 it fails
