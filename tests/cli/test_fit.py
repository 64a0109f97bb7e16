"""``depthwidth fit``: its page, its forms, its files, and what it refuses."""

import json
import math

import numpy as np
import pytest

from depthwidth.cli.fit import LAWS
from depthwidth.fitting import LAWS as KNOWN
from depthwidth.fitting import fit

LAW = "loss = E + A * d_model**-p"


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "runs.csv"
    lines = [f"{w},{2 + 30 * w**-0.5 * math.exp(rng.normal(0, 1e-3))},{i}" for i, w in enumerate(np.geomspace(64, 4096, 12))]
    path.write_text("\n".join(["d_model,val_loss,run", *lines]))
    return path


QUICK = ("--law", LAW, "--column", "loss=val_loss", "--draws", "4", "--starts", "4")


def test_the_help_names_every_law():
    assert ", ".join(KNOWN) == LAWS


@pytest.mark.slow
def test_a_page_has_coefficients_goodness_and_a_verdict(invoke, table):
    result = invoke("fit", table, *QUICK, "--correlation")
    assert (result.status, result.error) == (0, "")
    assert "12 rows of 12 models" in result.output
    assert "Columns: loss from val_loss, model from run" in result.output
    for words in ("coefficient", "jackknife", "correlation", "each model from the others", "of the variance of the logarithm"):
        assert words in result.output


def test_json_is_what_fit_returns(invoke, table):
    printed = json.loads(invoke("fit", table, *QUICK, "--no-held-out", "--json").output)
    found = fit(table, LAW, columns={"loss": "val_loss"}, draws=4, starts=4, held_out=False, seed=1)
    assert printed == json.loads(json.dumps(found.to_dict()))
    assert abs(found["p"] - 0.5) < 0.05
    assert printed["coefficients"][0]["jackknife"] is None


def test_a_fit_is_saved_as_coefficients(invoke, table, tmp_path, monkeypatch):
    result = invoke("fit", table, *QUICK, "--errors", "curvature", "--save", tmp_path / "coefficients" / "our_law")
    assert result.status == 0
    from depthwidth import coefficients

    monkeypatch.setattr(coefficients, "_data", lambda: str(tmp_path))
    assert coefficients.coefficient("our_law", "p").value == pytest.approx(0.5, abs=0.05)
    assert coefficients.coefficient("our_law", "d_model_max").value == pytest.approx(4096)
    assert coefficients.covariance("our_law")["A", "p"] != 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.csv",), "there is no table 'none.csv'"),
        (("RUNS", "--law", "gemstone"), "did you mean 'gemstones'"),
        (("RUNS", "--law", "loss = E + exec(1)"), "uses 'exec'"),
        (("RUNS", "--law", "chinchilla"), "has no parameters and no tokens"),
        (("RUNS", *QUICK, "--column", "width"), "--column 'width' is not of the form NAME=VALUE"),
        (("RUNS", *QUICK, "--column", "loss=run"), "--column gives loss twice"),
        (("RUNS", *QUICK, "--start", "p=high"), "--start p='high' is not a finite number"),
        (("RUNS", *QUICK, "--start", "q=1"), "does not mention q"),
        (("RUNS", *QUICK, "--rule", "levine2020"), "--rule has no meaning without --law shape-penalty"),
        (("RUNS", *QUICK, "--save", "Our Law"), "lower-case letters, digits and _, not 'Our Law'"),
        (("RUNS", *QUICK, "--draws", "1"), "draws=1 is not a whole number from 2"),
        (("RUNS", *QUICK, "--loss", "huge"), "loss='huge' is not one of huber, squares"),
        (("RUNS", *QUICK, "--delta", "nan"), "is not a finite number"),
        (("RUNS", *QUICK, "--where", "d_model > 2000"), "2 runs cannot determine 3 coefficients"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(invoke, table, words, sentence):
    result = invoke("fit", *(table if word == "RUNS" else word for word in words))
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)
    assert sentence in result.error
