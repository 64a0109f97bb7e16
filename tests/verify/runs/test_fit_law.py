"""Laws fitted to rows: certified answers, known coefficients, errors that cover, and what is refused."""

import csv

import numpy as np
import pytest
from helpers import one_quick_in

from depthwidth import InputError
from verify.runs.fit import fit_law, save_fit

# Statistical Reference Datasets for nonlinear regression, National Institute of Standards and Technology (public domain):
# law, data as (y, x), start, certified values, certified standard deviations, certified residual sum of squares.
NIST = {
    "Misra1a": (
        "y = b1 * (1 - exp(-b2 * x))",
        [(10.07, 77.6), (14.73, 114.9), (17.94, 141.1), (23.93, 190.8), (29.61, 239.9), (35.18, 289.0), (40.02, 332.8),
         (44.82, 378.4), (50.76, 434.8), (55.05, 477.3), (61.01, 536.8), (66.40, 593.1), (75.47, 689.1), (81.78, 760.0)],
        {"b1": 500.0, "b2": 1e-4}, (2.3894212918e2, 5.5015643181e-4), (2.7070075241, 7.2668688436e-6), 1.2455138894e-1,
    ),
    "Rat42": (
        "y = b1 / (1 + exp(b2 - b3 * x))",
        [(8.93, 9), (10.8, 14), (18.59, 21), (22.33, 28), (39.35, 42), (56.11, 57), (61.73, 63), (64.62, 70), (67.08, 79)],
        {"b1": 100.0, "b2": 1.0, "b3": 0.1}, (7.2462237576e1, 2.6180768402, 6.7359200066e-2),
        (1.7340283401, 8.8295217536e-2, 3.4465663377e-3), 8.0565229338,
    ),
    "MGH09": (
        "y = b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4)",
        [(0.1957, 4), (0.1947, 2), (0.1735, 1), (0.16, 0.5), (0.0844, 0.25), (0.0627, 0.167), (0.0456, 0.125), (0.0342, 0.1),
         (0.0323, 0.0833), (0.0235, 0.0714), (0.0246, 0.0625)],
        {"b1": 0.25, "b2": 0.39, "b3": 0.415, "b4": 0.39},
        (1.9280693458e-1, 1.9128232873e-1, 1.2305650693e-1, 1.3606233068e-1),
        (1.1435312227e-2, 1.9633220911e-1, 8.0842031232e-2, 9.0025542308e-2), 3.0750560385e-4,
    ),
}  # fmt: skip


@one_quick_in(3, "name", NIST, first=1)
def test_certified_answers(name):
    law, data, start, values, deviations, squares = NIST[name]
    found = fit_law(law, [{"y": y, "x": x} for y, x in data], start, method="curvature")
    # Certified to 11 digits; the sum of squares is flat at its minimum, so that a float finds about half of its own 16.
    assert found.values == pytest.approx(values, rel=1e-6)
    assert found.stderr == pytest.approx(deviations, rel=1e-5)
    assert found.residual_rms**2 * (len(data) - len(start)) == pytest.approx(squares, rel=1e-9)


def test_a_wrong_datum_is_seen_in_the_certified_answer():
    law, data, start, values, _, _ = NIST["Misra1a"]
    wrong = [(10.17, 77.6), *data[1:]]
    found = fit_law(law, [{"y": y, "x": x} for y, x in wrong], start, method="curvature")
    assert found.values != pytest.approx(values, rel=1e-6)


def power_law(rng, runs=24, points=1, run_noise=0.01, noise=0.002):
    rows = []
    for run in range(runs):
        width, luck = 64.0 * 2 ** (run % 6), rng.normal(0, run_noise)
        for point in range(points):
            tokens = 1e6 * 2**point
            loss = 1.7 + 12.0 * width**-0.6 + 40.0 * tokens**-0.3 + luck + rng.normal(0, noise)
            rows.append({"run": f"{run}", "width": width, "tokens": tokens, "loss": loss})
    return rows


POWER = "loss = E + A * width**-alpha"
START = {"E": 2.0, "A": 5.0, "alpha": 0.4}
LAWS = "loss = E + A * width**-alpha + B * tokens**-beta"
STARTS = {**START, "B": 20.0, "beta": 0.2}


@pytest.mark.slow
def test_known_coefficients_lie_within_their_errors(rng):
    """Over many synthetic sets the 68.3 % intervals cover the truth about so often."""
    hits, sets = np.zeros((2, 3)), 40
    for _ in range(sets):
        rows = power_law(rng)
        for which, method in enumerate(("curvature", "profile")):
            found = fit_law(POWER, rows, START, method=method)
            truth = np.array([1.7 + 40.0 * 1e6**-0.3, 12.0, 0.6])
            hits[which] += (found.intervals[:, 0] < truth) & (truth < found.intervals[:, 1])
    # Binomial: 27.3 expected of 40, standard deviation 2.9; four of them either way.
    assert (np.abs(hits - 0.683 * sets) < 4 * np.sqrt(0.683 * 0.317 * sets)).all(), hits


@pytest.mark.slow
def test_the_bootstrap_counts_runs_and_not_points(rng):
    """Ten points of a run share its luck: taken as independent, they promise errors that are much too small."""
    rows = power_law(rng, points=10)
    honest = fit_law(LAWS, rows, STARTS, group="run", draws=60)
    naive = fit_law(LAWS, rows, STARTS, draws=60)
    assert (honest.groups, naive.groups) == (24, 240)
    assert honest.stderr[2] > 2 * naive.stderr[2]
    again = fit_law(LAWS, rows, STARTS, group="run", draws=60)
    assert (again.covariance == honest.covariance).all()


def test_points_written_twice_are_no_new_runs(rng):
    """Each point of 8 runs 2 or 25 times over: the same errors, where runs are named; they shrink where they are not."""
    once = power_law(rng, runs=8)
    two, many = (
        fit_law(POWER, once * times, START, group="run", method="curvature") for times in (2, 25)
    )  # fmt: skip
    assert (two.groups, many.groups, many.points) == (8, 8, 200)
    assert many.values == pytest.approx(two.values, rel=1e-6)
    assert many.covariance == pytest.approx(two.covariance, rel=1e-5)
    assert many.intervals == pytest.approx(two.intervals, rel=1e-5)
    # The negative control: points taken as runs. Errors go as one over the root of points less coefficients, exactly.
    naive = [fit_law(POWER, once * times, START, method="curvature").stderr for times in (1, 25)]
    assert naive[0] / naive[1] == pytest.approx(np.sqrt((200 - 3) / (8 - 3)), rel=1e-5)


@pytest.mark.slow
def test_errors_over_runs_with_several_points_cover(rng):
    """With a random offset per run, errors by curvature equal the scatter of repeated fits; points as runs are far off."""
    sets, truth = 40, np.array([1.7, 12.0, 0.6, 40.0, 0.3])
    hits, naive = np.zeros(5), np.zeros(5)
    for _ in range(sets):
        rows = power_law(rng, runs=18, points=8)
        found = fit_law(LAWS, rows, STARTS, group="run", method="curvature")
        hits += (found.intervals[:, 0] < truth) & (truth < found.intervals[:, 1])
        taken = fit_law(LAWS, rows, STARTS, method="curvature")
        naive += (taken.intervals[:, 0] < truth) & (truth < taken.intervals[:, 1])
    # Binomial, four standard deviations either way, as above.
    room = 4 * np.sqrt(0.683 * 0.317 * sets)
    assert (np.abs(hits - 0.683 * sets) < room).all(), hits
    # What is the run's luck in truth is given too small an error, what varies within a run too large a one.
    assert naive[2] < 0.683 * sets - room, naive
    assert naive[4] > 0.683 * sets + room, naive


def test_a_profile_of_runs_with_several_points_is_refused(rng):
    rows = power_law(rng, points=4)
    with pytest.raises(InputError, match="needs independent points, but there are 96 points from 24 runs"):
        fit_law(LAWS, rows, STARTS, group="run", method="profile")
    one_each = [row for row in rows if row["tokens"] == 1e6]
    assert fit_law(POWER, one_each, START, group="run", method="profile").groups == 24


def test_a_coefficient_of_a_single_run_has_no_error(rng):
    rows = [{**row, "odd": float(row["run"] == "5")} for row in power_law(rng, points=2)]
    law = "loss = E + A * width**-alpha + B * odd"
    with pytest.raises(InputError, match="run 5 alone determines B"):
        fit_law(law, rows, {**START, "B": 0.1}, group="run", method="curvature")


@pytest.mark.slow
def test_the_bootstrap_agrees_with_the_curvature_where_both_hold(rng):
    rows = power_law(rng, runs=96)
    one, other = (fit_law(POWER, rows, START, method=method, draws=200) for method in ("curvature", "bootstrap"))
    # 200 draws know a standard deviation to 5 %; that of 96 residuals' own scatter is 7 %.
    assert other.stderr == pytest.approx(one.stderr, rel=0.35)
    assert np.corrcoef(one.covariance.ravel(), other.covariance.ravel())[0, 1] > 0.99


def test_a_logarithm_is_a_relative_error(rng):
    rows = [{"x": x, "y": 3 * x**-0.5 * np.exp(rng.normal(0, 0.01))} for x in np.geomspace(1, 1e6, 30)]
    found = fit_law("y = a * x**-p", rows, {"a": 1.0, "p": 1.0}, logarithm=True, method="curvature")
    assert abs(found["p"] - 0.5) < 4 * found.stderr[1]
    assert found.residual_rms == pytest.approx(0.01, rel=0.5)


BAD = [
    ("loss", START, "is not of the form"),
    ("loss = __import__('os').system('true')", START, "holds"),
    ("loss = E + A * open(width)", START, "uses 'open'"),
    ("loss = E + A * (lambda: 1)()", START, "holds ':'"),
    ("loss = E + A * width.real", START, "holds 'width.real'"),
    ("loss = E + A * 'width'", START, "holds"),
    ("loss = E + A * [1][0]", START, r"holds '\['"),
    ("loss = E + A *", START, "cannot be read"),
    ("loss = " + "(" * 300 + "E" + ")" * 100, START, "nested deeper than 40 levels"),
    ("loss = " + "E+" * 300 + "E", START, "chains more than 120 operations"),
    ("loss = E + A * depth**-alpha", START, "have no column 'depth'"),
    ("los = E + A * width**-alpha", START, "did you mean 'loss'"),
    ("loss = E + A * width**-alpha", {**START, "C": 1.0}, "does not mention C"),
    ("loss = E + A * run", {"E": 1.0, "A": 1.0}, "have no column|does not|value"),
    ("loss = E + A * width**-alpha + B", {**START, "B": 1.0}, "do not determine"),
    ("loss = log(0 * E - 1) + A", {"E": 1.0, "A": 1.0}, "no finite value at the start"),
    ("loss = 9**9**9**9 * E", {"E": 1.0}, "exponent beyond 64"),
    ("loss = " + "E+" * 600 + "E", START, "at most 1,000 are read"),
]  # fmt: skip


@pytest.mark.parametrize(("law", "start", "sentence"), BAD, ids=[law[:40] for law, _, _ in BAD])
def test_what_cannot_be_fitted_is_one_sentence(rng, law, start, sentence):
    rows = [{k: v for k, v in row.items() if k != "run"} for row in power_law(rng)]
    with pytest.raises(InputError, match=sentence):
        fit_law(law, rows, start, method="curvature")


def test_more_that_is_refused(rng):
    rows = power_law(rng)
    with pytest.raises(InputError, match="no method 'mcmc'"):
        fit_law(POWER, rows, START, method="mcmc")
    with pytest.raises(InputError, match="3 runs cannot determine 3 coefficients"):
        fit_law(POWER, rows[:3], START)
    with pytest.raises(InputError, match="contains nan"):
        fit_law(POWER, [*rows, {**rows[0], "loss": float("nan")}], START)
    with pytest.raises(InputError, match="not every row has a number"):
        fit_law(POWER, [*rows, {**rows[0], "loss": "low"}], START)
    with pytest.raises(InputError, match="not always positive"):
        fit_law(POWER, [{**row, "loss": -1.0} for row in rows], START, logarithm=True)


@pytest.mark.slow
def test_a_fit_is_written_as_coefficients_are_read(rng, tmp_path, monkeypatch):
    from depthwidth import coefficients

    rows = power_law(rng)
    found = fit_law(POWER, rows, START, draws=50)
    save_fit(found, tmp_path / "coefficients", "law_of_rows", rows, unit={"E": "nats"})
    monkeypatch.setattr(coefficients, "_data", lambda: str(tmp_path))
    for name, value, error in zip(found.names, found.values, found.stderr, strict=True):
        read = coefficients.coefficient("law_of_rows", name)
        assert (read.value, read.stderr, read.status) == (value, error, "measured")
    assert coefficients.coefficient("law_of_rows", "E").unit == "nats"
    assert coefficients.covariance("law_of_rows")["A", "E"] == found.covariance[0, 1]
    with (tmp_path / "coefficients" / "law_of_rows.rows.csv").open(newline="") as file:
        kept = [{k: v if k == "run" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert kept == rows
    again = fit_law(POWER, kept, START, draws=50)
    assert again.rows_sha256 == found.rows_sha256
    assert (again.values == found.values).all()
    with pytest.raises(InputError, match="lower-case letters"):
        save_fit(found, tmp_path, "../law", rows)


def test_a_perfect_fit_has_a_profile_of_points():
    rows = [{"loss": 1.0 + 0.5 * x, "x": x, "run": str(x)} for x in range(1, 8)]
    for row in fit_law("loss = a + b*x", rows, {"a": 1.0, "b": 0.5}, method="profile").rows():
        assert row["low"] == pytest.approx(row["value"], abs=1e-9)
        assert row["high"] == pytest.approx(row["value"], abs=1e-9)


def test_a_whole_number_too_large_for_a_float_is_no_number():
    rows = [{"loss": 1.0, "x": 10**400, "run": str(n)} for n in range(5)]
    with pytest.raises(InputError, match="not every row has a number in column 'x'"):
        fit_law("loss = a*x", rows, {"a": 1.0})
