"""The tables: complete, consistent with each other, described in their README; and the sentences for wrong names."""

import csv
import math

import numpy as np
import pytest

from depthwidth.coefficients import (
    coefficient,
    coefficients,
    covariance,
    data_directory,
    editions,
    laws,
    reference,
    reference_tables,
)
from depthwidth.errors import InputError
from depthwidth.formula import STATUSES

LAWS = [
    "combined2026", "completep2025", "depth_delusion2026", "gemstones2025", "heuristics", "kaplan2020", "levine2020", "liu2026",
    "shape_penalty", "sovit2023",
]  # fmt: skip
TABLES = [
    "combined_calibration", "completep_optimal_aspect", "gadre_shapes_loss",
    "gemstones_flop_optimal_shapes", "gemstones_left_out", "gemstones_models_loss", "gpt3_family",
    "jiang2020_measures",
    "levine2020_experiments", "levine2020_projections", "mobilellm_depth_width", "real_models", "rule_tournament",
    "scale_invariance_digits_robustness",
    "scale_invariance_equilibrium_checks", "scale_invariance_worked_values", "separation_rank_exact_checks",
    "sibert2022_downstream", "sibert2022_homogeneity", "sibert2022_hyperparameters",
    "t5_depth_sweep_narang2021", "treeformer2023_headline",
]  # fmt: skip
README = (data_directory() / "README.md").read_text(encoding="utf-8")


def columns_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file))


def test_the_laws_and_tables_are_there():
    assert set(LAWS) <= set(laws())
    assert set(TABLES) <= set(reference_tables())
    assert "levine2020.covariance" not in laws()


@pytest.mark.parametrize("law", LAWS)
def test_every_coefficient_is_complete(law):
    seen = set()
    for row in coefficients(law):
        assert (row.edition, row.name) not in seen
        seen.add((row.edition, row.name))
        assert math.isfinite(row.value)
        assert row.stderr is None or row.stderr > 0
        assert row.status in STATUSES
        assert row.edition
        assert row.unit
        assert row.source
        assert row.law == law


def test_unconfirmed_numbers_say_so():
    for name in ("var_a", "var_b", "cov_ab", "reduced_chi2", "r2"):
        assert coefficient("levine2020", name).status == "recalled"
    for name in "ab":
        row = coefficient("levine2020", name)
        assert row.status == "secondary"
        assert "standard error is recalled" in row.note


@pytest.mark.parametrize("law", [law for law in LAWS if covariance(law)])
def test_covariances_are_covariances(law):
    moments = covariance(law)
    names = sorted({name for pair in moments for name in pair})
    known = {row.name for row in coefficients(law) if row.edition == editions(law)[0]}
    assert set(names) <= known
    matrix = np.array([[moments[p, q] for q in names] for p in names])
    assert np.array_equal(matrix, matrix.T)
    scale = np.sqrt(np.diag(matrix))
    assert np.linalg.eigvalsh(matrix / np.outer(scale, scale)).min() > -1e-5
    for name in names:
        # The errors are printed to two digits in one source and to six in the other.
        assert coefficient(law, name).stderr == pytest.approx(math.sqrt(moments[name, name]), rel=0.03)


def test_levine_covariance_is_the_one_its_formulas_use():
    moments = covariance("levine2020")
    for name, pair in (("var_a", ("a", "a")), ("var_b", ("b", "b")), ("cov_ab", ("b", "a"))):
        assert coefficient("levine2020", name).value == moments[pair]
    correlation = moments["a", "b"] / math.sqrt(moments["a", "a"] * moments["b", "b"])
    assert f"{correlation:.3f}" == "-0.936"


def test_logarithms_and_values_agree():
    for edition in editions("gemstones2025"):
        for name in ("A", "B", "C", "D", "epsilon"):
            logarithm = coefficient("gemstones2025", f"ln_{name}", edition).value
            assert coefficient("gemstones2025", name, edition).value == pytest.approx(math.exp(logarithm), rel=1e-15)
    assert len(editions("gemstones2025")) == 8
    assert editions("gemstones2025")[0] == "hot_100b+/1e-4"


def test_gemstones_covariance_of_values_follows_from_that_of_logarithms():
    moments = covariance("gemstones2025")
    for name in "AB":
        factor = coefficient("gemstones2025", name).value
        for other in ("alpha", "beta", "ln_A", "ln_B"):
            assert moments[name, other] == pytest.approx(factor * moments[f"ln_{name}", other], rel=1e-5)
        assert moments[name, name] == pytest.approx(factor**2 * moments[f"ln_{name}", f"ln_{name}"], rel=1e-5)


def test_liu_depth_term_in_layers_follows_from_the_fitted_one():
    law = {row.name: row.value for row in coefficients("liu2026")}
    assert law["c_l"] == pytest.approx(law["c_l_hundredths"] / 100 ** law["alpha_l"], rel=1e-15)


def test_completep_coefficients_are_the_table_s():
    for row, size in zip(reference("completep_optimal_aspect"), ("50M", "300M", "1500M"), strict=True):
        assert int(row["nonembedding_params"]) == int(size[:-1]) * 10**6
        assert coefficient("completep2025", f"ratio_{size}").value == float(row["completep_best_ratio"])
        lowest = float(row["completep_lowest_ratio_within_1pct"])
        assert coefficient("completep2025", f"lowest_ratio_{size}").value == lowest
    assert coefficient("completep2025", "lowest_ratio_1500M", "mup").value == 38.7


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_rectangular_with_known_statuses(table):
    rows = reference(table)
    columns = columns_of(data_directory() / "reference" / f"{table}.csv")
    assert rows
    for row in rows:
        assert list(row) == columns
        assert None not in row.values()
        assert row.get("status", "measured") in STATUSES


def test_the_readme_describes_every_file_and_column():
    for law in laws():
        assert f"`{law}`" in README
    for table in reference_tables():
        assert f"`{table}.csv`" in README
        for column in columns_of(data_directory() / "reference" / f"{table}.csv"):
            assert f"`{column}`" in README, f"{table}: column {column}"
    for path in (data_directory() / "coefficients").glob("*.csv"):
        for column in columns_of(path):
            assert f"`{column}`" in README
    for status in STATUSES:
        assert f"`{status}`" in README


def test_tables_are_consistent():
    for row in reference("real_models"):
        assert int(row["params_12Ld2"]) == 12 * int(row["depth"]) * int(row["width"]) ** 2
    for published, family in zip(reference("levine2020_projections"), reference("gpt3_family"), strict=False):
        for mine, theirs in (("nominal_params",) * 2, ("trained_depth", "depth"), ("trained_width", "width")):
            assert published[mine] == family[theirs]
    assert len(reference("gemstones_models_loss")) == 22
    assert len(reference("gpt3_family")) == 8
    losses = {row["depth"]: float(row["final_loss"]) for row in reference("t5_depth_sweep_narang2021")}
    assert losses == {"6": 1.857, "8": 1.847, "12": 1.838, "18": 1.831, "24": 1.843}
    assert min(losses, key=lambda depth: losses[depth]) == "18"


def test_gpt3_heads_times_head_dim_is_the_width_but_for_two_as_printed():
    odd = {r["model"] for r in reference("gpt3_family") if int(r["heads"]) * int(r["head_dim"]) != int(r["width"])}
    assert odd == {"GPT-3 XL", "GPT-3 13B"}
    assert all(row["note"] for row in reference("gpt3_family") if row["model"] in odd)


def test_a_named_edition():
    assert coefficient("sovit2023", "s_width").value == 0.22
    assert coefficient("sovit2023", "s_width", "multitask_decoder").value == 0.25
    assert covariance("levine2020", "no such edition") == {}
    assert covariance("liu2026") == {}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: coefficients("levin2020"), "did you mean 'levine2020'"),
        (lambda: coefficients("../reference/gpt3_family"), "there are no coefficients for"),
        (lambda: coefficient("levine2020", "c0"), "levine2020 has no coefficient 'c0'"),
        (lambda: coefficient("levine2020", "a", "v9"), "levine2020 has no edition 'v9'; it has fit"),
        (lambda: reference("gpt3"), "there is no table 'gpt3'"),
        (lambda: reference("../README"), "there is no table"),
    ],
)
def test_a_wrong_name_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
