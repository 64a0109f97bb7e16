"""The least nuclear norm: against a maintained solver, another method, worked problems, and its own bound."""

import numpy as np
import pytest
from numerics.least_norm import least_nuclear_norm as by_projections

from depthwidth import InputError
from depthwidth.formulas.implicit_rank import counterexample_least_norm
from depthwidth.numerics.nuclear_norm import least_nuclear_norm


def sensing(rows, columns, rank, count, seed=0):
    """Gaussian measurements of a matrix of low rank."""
    draw = np.random.default_rng(seed).standard_normal
    truth = draw((rows, rank)) @ draw((rank, columns))
    measurements = draw((count, rows, columns))
    return measurements, np.einsum("mij,ij->m", measurements, truth), truth


def counterexample(entry):
    places = {(0, 2): 1.0, (0, 3): entry, (1, 2): entry}
    measurements = np.zeros((3, 4, 4))
    for number, (i, j) in enumerate(places):
        measurements[number, i, j] = measurements[number, j, i] = 0.5
    return measurements, np.array(list(places.values()))


@pytest.mark.parametrize("entry", [1.5, 2.0, 4.0])
def test_the_completion_of_the_counterexample(entry):
    found = least_nuclear_norm(*counterexample(entry), semidefinite=True)
    assert found.value == pytest.approx(counterexample_least_norm(entry), rel=2e-6)
    assert found.bound == pytest.approx(found.value, rel=2e-6)
    assert np.linalg.eigvalsh(found.matrix)[0] > -1e-9


def test_enough_measurements_recover_the_truth_and_few_do_not():
    measurements, values, truth = sensing(8, 6, 1, 40)
    assert np.abs(least_nuclear_norm(measurements, values).matrix - truth).max() < 1e-4
    few = least_nuclear_norm(measurements[:10], values[:10])
    assert np.abs(few.matrix - truth).max() > 0.1
    assert few.value < np.linalg.norm(truth, "nuc")  # the negative control: it fits, with less
    assert few.misfit < 1e-6


def test_the_bound_is_below_every_matrix_that_fits(rng):
    measurements, values, truth = sensing(5, 7, 2, 12)
    found = least_nuclear_norm(measurements, values)
    flat = measurements.reshape(12, -1)
    null = np.linalg.svd(flat)[2][12:]
    for size in (0.0, 0.01, 1.0):
        other = truth.ravel() + size * rng.standard_normal(len(null)) @ null
        assert np.linalg.norm(other.reshape(5, 7), "nuc") >= found.bound
    assert found.bound <= found.value * (1 + 2e-6)


@pytest.mark.slow
def test_alternating_projections_agree():
    measurements, values, _ = sensing(6, 6, 1, 12, seed=3)
    measurements = measurements + measurements.transpose(0, 2, 1)
    truth = np.ones((6, 6))
    values = np.einsum("mij,ij->m", measurements, truth)
    found = least_nuclear_norm(measurements, values, semidefinite=True)
    assert found.value == pytest.approx(np.trace(by_projections(measurements, values)), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("semidefinite", [True, False])
@pytest.mark.parametrize("count", [12, 30])
def test_a_maintained_solver_agrees(semidefinite, count):
    pytest.importorskip("cvxpy")
    draw = np.random.default_rng(count).standard_normal
    factor = draw((8, 2))
    measurements = draw((count, 8, 8))
    values = np.einsum("mij,ij->m", (measurements + measurements.transpose(0, 2, 1)) / 2, factor @ factor.T)
    ours, theirs = (
        least_nuclear_norm(measurements, values, semidefinite=semidefinite, solver=solver) for solver in ("splitting", "convex")
    )
    assert ours.value == pytest.approx(theirs.value, rel=5e-6)
    assert ours.bound <= theirs.value * (1 + 5e-6)
    assert np.abs(ours.matrix - theirs.matrix).max() < 1e-2 * np.abs(ours.matrix).max()


def test_without_the_maintained_solver_its_name_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cvxpy", None)
    with pytest.raises(InputError, match=r"pip install 'depthwidth\[convex\]'"):
        least_nuclear_norm([[[1.0]]], [1.0], solver="convex")


REFUSED = {
    "there is no solver 'simplex'": (([[[1.0]]], [1.0]), {"solver": "simplex"}),
    "do not fit": (([[[1.0]]], [1.0, 2.0]), {}),
    "do not fit ": (([[[1.0, 2.0]]], [1.0]), {"semidefinite": True}),
    "do not fit  ": ((np.zeros((0, 2, 2)), []), {}),
    "finite numbers": (([[[np.nan]]], [1.0]), {}),
    "no matrix has these values": (([[[1.0]], [[2.0]]], [1.0, 1.0]), {}),
    "beyond the tolerance": (([[[1.0]]], [-1.0]), {"semidefinite": True}),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_no_problem_gets_one_sentence(sentence, monkeypatch):
    monkeypatch.setattr("depthwidth.numerics.nuclear_norm.MOST_SWEEPS", 200)
    given, options = REFUSED[sentence]
    with pytest.raises(InputError, match=sentence.strip()):
        least_nuclear_norm(*given, **options)


def test_zeros_have_the_norm_of_zero():
    assert least_nuclear_norm([[[1.0, 2.0]]], [0.0]).value == 0
