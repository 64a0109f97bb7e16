"""Fits of runs drawn from known laws: coefficients come back within their errors, and a law of the wrong form is told."""

import importlib
import itertools
import math

import numpy as np
import pytest

from depthwidth import InputError
from depthwidth.fitting import find_law, fit, own_law, read_runs
from depthwidth.fitting.held_out import surface_errors
from depthwidth.fitting.problem import Objective, Problem
from depthwidth.fitting.slopes import linear_coefficients, value_and_slopes
from depthwidth.numerics.expressions import read

GEMSTONES = {
    "alpha": 0.25,
    "beta": 0.5,
    "gamma": 0.35,
    "zeta": 0.5,
    "A": 3.0,
    "B": 0.8,
    "C": 400.0,
    "D": 40000.0,
    "epsilon": 1.5,
}
SHAPES = [(w, d) for w, d in itertools.product((128, 256, 512, 1024, 2048), (4, 8, 16, 32, 64)) if 2 < w / d < 300]


def runs(loss_of, rng, noise=0.002, tokens=(1e10, 1e11), shapes=SHAPES):
    """Rows of runs with a loss that each model misses by a luck of its own, and each point by a little more."""
    rows = []
    for w, d in shapes:
        luck = rng.normal(0, noise)
        for t in tokens:
            loss = loss_of(w, d, 12 * d * w**2 + 5e4 * w, t) * math.exp(luck + rng.normal(0, noise / 4))
            rows.append(
                {"model": f"{w}x{d}", "d_model": w, "n_layers": d, "params": 12 * d * w**2 + 5e4 * w, "tokens": t, "loss": loss}
            )
    return rows


def gemstones(w, d, p, t):
    c = GEMSTONES
    return (
        c["A"] * w ** -c["alpha"]
        + c["B"] * d ** -c["beta"]
        + c["C"] * p ** -c["gamma"]
        + c["D"] * t ** -c["zeta"]
        + c["epsilon"]
    )


def chinchilla(w, d, p, t):
    return 1.7 + 400 * p**-0.34 + 410 * t**-0.28


def inverse_depth(w, d, p, t):
    return 1.75 + 330 * w**-0.98 + 5 * d**-1.2 + 530 * t**-0.3


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["huber", "squares"])
def test_coefficients_come_back_within_their_errors(rng, loss):
    rows = runs(chinchilla, rng, noise=0.001, tokens=(1e9, 1e10, 1e11))
    found = fit(rows, "chinchilla", loss=loss, draws=40)
    truth = np.array([0.34, 0.28, 400, 410, 1.7])
    assert found.names == ("alpha", "beta", "A", "B", "E")
    # Five coefficients at once, of which 40 draws know the error to 11 %.
    assert (np.abs(np.log(found.values / truth)) < 4 * found.stderr / truth + 1e-4).all(), found.rows()
    assert found.groups == len(SHAPES)
    assert found.explained > 0.99
    assert found.jackknife == pytest.approx(found.stderr, rel=0.8)
    assert not any("contradict" in sentence for sentence in found.sentences)
    assert found.held_out.one_model < 0.004


@pytest.mark.slow
def test_a_law_of_the_wrong_form_is_told(rng):
    """Losses in which width and depth do not add: the best width falls short of the depth, and both single laws miss."""

    def interacting(w, d, p, t):
        return (1.8 + 200 * p**-0.3) * (1 + 0.08 * math.log(w / (60 * d**1.2)) ** 2) + 500 * t**-0.3

    rows = runs(interacting, rng, noise=0.001)
    options = {"law": "inverse-depth", "loss": "squares", "errors": "none", "starts": 3}
    additive = fit(rows, **options)
    assert any("contradict" in sentence for sentence in additive.sentences), additive.held_out
    right = fit(runs(inverse_depth, rng, noise=0.001), **options)
    assert not any("contradict" in sentence for sentence in right.sentences)


@pytest.mark.slow
def test_what_the_rows_cannot_pin_down_is_told(rng):
    """On one curve of shapes, width, depth and parameters say the same: their terms cannot be told apart."""
    curve = [(64 * d, d) for d in range(4, 60, 3)]
    rows = runs(gemstones, rng, shapes=curve, tokens=(1e10, 3e10, 1e11, 3e11), noise=0.001)
    found = fit(rows, "gemstones", loss="squares", draws=20, held_out=False, starts=6)
    assert {"A", "C"} & {name for name, verdict in found.verdicts.items() if verdict.startswith("not pinned down")}
    assert any("do not pin down" in sentence for sentence in found.sentences)
    # The negative control: the token term is determined by its own column.
    assert "zeta" not in found.verdicts


@pytest.mark.slow
def test_an_own_law_needs_no_start(rng):
    rows = [{"model": i, "x": x, "y": 2 + 3 * x**-0.7 + rng.normal(0, 0.001)} for i, x in enumerate(np.geomspace(1, 1e4, 30))]
    found = fit(rows, "y = a + b * x**-q", logarithm=False, draws=20, starts=12)
    assert found.names == ("a", "b", "q")
    assert found.values == pytest.approx([2, 3, 0.7], abs=0.02)
    assert (np.abs(found.values - [2, 3, 0.7]) < 5 * found.stderr).all()
    assert found.predict({"x": 100.0}) == pytest.approx(2 + 3 * 100**-0.7, abs=0.01)
    assert found["q"] == found.values[2]
    with pytest.raises(InputError, match="needs x"):
        found.predict({"z": 1.0})


@pytest.mark.slow
def test_a_coefficient_that_runs_away_is_named(rng):
    """Losses without any trend have no exponent; `verify fit` gave such a factor an error of 2.7e18 without a word."""
    rows = [{"run": i, "size": s, "loss": 3 + rng.normal(0, 0.03)} for i, s in enumerate(np.geomspace(1e4, 1e7, 12))]
    found = fit(
        rows, "loss = E + A * size**-p", start={"E": 1, "A": 20, "p": 0.2}, loss="squares", draws=40, held_out=False, starts=6
    )
    assert {"A", "p"} & found.verdicts.keys()
    assert np.isfinite(found.stderr).all()
    assert any("do not pin down" in sentence for sentence in found.sentences)


def test_a_factor_that_ran_away_to_zero_has_a_finite_error(rng):
    """Among bootstrap fits, one whose factor has a logarithm of -1e90: a variance of 1e181 times its square overflowed."""
    module = importlib.import_module("depthwidth.fitting.fit")
    law = find_law("gemstones")
    read = read_runs(runs(gemstones, rng), law.needs)
    problem, centres = module.problem_of(read, law, Objective(1e-3, True))
    reporter = module.Reporter(problem, law, centres)
    thetas = np.repeat(np.ones((1, len(law.coefficients))), 3, axis=0)
    thetas[:, problem.names.index("D")] = [150, -1e90, 150]
    error = np.sqrt(np.diag(reporter.covariance(thetas, thetas[0])))
    assert np.isfinite(error).all()
    assert error[problem.names.index("D")] > 1e65


def test_slopes_are_those_of_differences(rng):
    text = "E + A * x**-p / (1 + exp(b - c * x)) - max(x, q) * log(x + 2) + sqrt(x) * min(q, 0.3)"
    node, names = read(text), ("E", "A", "p", "b", "c", "q")
    at = {name: float(value) for name, value in zip(names, rng.uniform(0.5, 1.5, 6), strict=True)} | {"x": rng.uniform(1, 3, 7)}
    value, slopes = value_and_slopes(node, at, set(names))
    assert value == pytest.approx(node(at))
    for name in names:
        off = 1e-6
        expected = (node({**at, name: at[name] + off}) - node({**at, name: at[name] - off})) / (2 * off)
        assert np.broadcast_to(slopes[name], 7) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_linear_coefficients_are_those_that_appear_in_no_product_of_two():
    names = ("E", "A", "p", "B", "k")
    assert linear_coefficients(read("E + A * x**-p + B / x"), names[:4]) == {"E", "A", "B"}
    assert linear_coefficients(read("(E + A * x**-p) * (1 + k * x)"), ("E", "A", "p", "k")) == {"E", "A"}
    assert linear_coefficients(read("A * x / B"), ("A", "B")) == {"A"}
    assert linear_coefficients(read("exp(A * x) + B"), ("A", "B")) == {"B"}


def test_a_huber_objective_is_what_it_says():
    objective = Objective(delta=0.1)
    assert objective.of(np.array([0.05, -0.3])) == pytest.approx(0.05**2 / 2 + 0.1 * (0.3 - 0.05))
    assert Objective().of(np.array([0.05, -0.3]), np.array([2.0, 1.0])) == pytest.approx(0.05**2 + 0.3**2 / 2)


def test_the_surface_leaves_a_model_out_as_a_refit_does(rng):
    x, z = rng.uniform(1, 9, 40), rng.uniform(1, 9, 40)
    model = np.repeat(np.arange(20), 2)
    target = np.exp(0.1 * np.log(x) * np.log(z) + rng.normal(0, 0.1, 40))
    problem = Problem(read("A * x * z"), ("A",), {"x": x, "z": z}, target, Objective())
    found = surface_errors(problem, model)
    logs = [np.log(x), np.log(z)]
    design = np.stack([np.ones(40), *logs, logs[0] ** 2, logs[1] ** 2, logs[0] * logs[1]], axis=1)
    out = model == 3
    fitted = design[out] @ np.linalg.lstsq(design[~out], np.log(target)[~out], rcond=None)[0]
    assert found[out] == pytest.approx(fitted - np.log(target)[out], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"law": "gemstone"}, "did you mean 'gemstones'"),
        ({"law": "loss = __import__('os')"}, "holds"),
        ({"law": "loss = E + A * width**-alpha.real"}, "holds"),
        ({"law": "depth"}, "there is no law 'depth'"),
        ({"law": "loss = 3 * width"}, "has no coefficient"),
        ({"law": "chinchilla", "loss": "absolute"}, "not one of huber, squares"),
        ({"law": "chinchilla", "delta": -1.0}, "delta=-1.0 is not a number from 1e-09 to 1e"),
        ({"law": "chinchilla", "loss": "squares", "delta": 1e-3}, "no meaning for least squares"),
        ({"law": "chinchilla", "errors": "mcmc"}, "no method 'mcmc'"),
        ({"law": "chinchilla", "errors": "profile"}, "need least squares"),
        ({"law": "chinchilla", "draws": 1}, "draws=1 is not a whole number from 2"),
        ({"law": "chinchilla", "draws": 10**9}, "draws=1000000000 is not"),
        ({"law": "chinchilla", "starts": 0}, "starts=0 is not"),
        ({"law": "chinchilla", "start": {"A": 1.0}}, "needs no start values"),
        ({"law": "gemstones", "where": "d_model < 200"}, "4 runs cannot determine 9 coefficients"),
        ({"law": "gemstones", "where": "model == 512x8"}, "1 run cannot determine 9 coefficients"),
        ({"law": "chinchilla", "where": "tokens == 1e10"}, "tokens is 1e.10 in every row"),
        ({"law": "shape-penalty", "rule": "levin", "columns": {"non_embedding": "params"}}, "no rule 'levin'"),
        ({"law": "shape-penalty"}, "has no non_embedding"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(rng, options, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        fit(runs(gemstones, rng), **{"draws": 5, **options})
    assert "\n" not in str(error.value)


def test_a_law_says_what_it_needs():
    assert find_law("gemstones").needs == ("depth", "loss", "parameters", "tokens", "width")
    assert find_law("shape-penalty").needs == ("width", "non_embedding", "loss", "tokens")
    with pytest.raises(InputError, match="does not mention C"):
        own_law("loss = E", ("E", "C"), {})
