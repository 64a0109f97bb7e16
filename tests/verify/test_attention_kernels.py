"""Stacks by token kernels: the rows that are kept, and the job that makes them, at a size that runs in seconds."""

import csv
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from depthwidth.token_positions import Positions  # noqa: E402
from verify import moments  # noqa: E402
from verify.attention_kernels import measure, predict, text_gram  # noqa: E402

ROWS = Path(__file__).parents[2] / "data" / "measured" / "attention_kernels.csv"


def kept():
    with ROWS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["pre deepscale causal relu", "post deepscale causal relu"])
@pytest.mark.parametrize("tokens", ["exchangeable", "text"])
def test_the_kept_rows_are_what_is_predicted_today(name, tokens):
    rows = [r for r in kept() if (r["stack"], r["tokens"], r["depth"]) == (name, tokens, "12")]
    length = int(rows[0]["length"])
    shape = {what: int(rows[0][what]) for what in ("depth", "width", "length")}
    tree, made = next((tree, made) for found, tree, made in moments.stacks(**shape) if found == name)
    positions = Positions.smooth(length) if tokens == "exchangeable" else Positions.every(length)
    few = positions.alike(1.0, moments.CORRELATION)
    signal = few if tokens == "exchangeable" else (np.ones(length), text_gram(length, int(rows[0]["seed"])))
    assert predict(tree, made, positions, signal) == pytest.approx([float(r["predicted"]) for r in rows], rel=1e-4)


def test_predictions_hold_at_every_kept_row():
    """Vanilla post-norm gradients are log-normal over draws, and a mean of them says little; all others agree."""
    rows = [r for r in kept() if not r["stack"].startswith("post xavier")]
    worst = {"variance": 0.03, "covariance": 0.05, "gradient_variance": 0.05}
    for row in rows:
        # Beyond the noise, corrections of order 1/width^2 are left out; rows of one stack share their draws.
        assert abs(float(row["z"])) < 3.5 or abs(float(row["relative_error"])) < worst[row["quantity"]], row
    means = {
        q: np.mean([abs(float(r["relative_error"])) for r in rows if r["quantity"] == q and r["depth"] == "12"]) for q in worst
    }
    assert means["gradient_variance"] < 0.03


def test_the_job_at_a_small_size():
    rows = list(measure(draws=24, seed=3, depth=2, width=64, length=16))
    assert len(rows) == 8 * 2 * 3
    assert all(abs(row["z"]) < 5 for row in rows)
    # What full attention would give is told apart from what a causal mask gives.
    found = {r["stack"]: r for r in rows if (r["tokens"], r["quantity"]) == ("exchangeable", "gradient_variance")}
    causal, full = found["pre xavier causal relu"], found["pre xavier full relu"]
    assert abs(full["predicted"] - causal["measured"]) > 5 * causal["stderr"]
