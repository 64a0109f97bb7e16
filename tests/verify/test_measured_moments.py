"""The measured moments: the rows that are kept, and the job that makes them, at a size that runs in seconds."""

import csv
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from verify.moments import measure  # noqa: E402

ROWS = Path(__file__).parents[2] / "data" / "measured" / "moments_stacks.csv"


def kept():
    with ROWS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", kept(), ids=lambda row: f"{row['stack']} {row['quantity']}")
def test_the_kept_rows_are_what_is_predicted_today(row):
    """A formula that changes must bring new rows with it."""
    from verify.moments import QUANTITIES, predict, stacks

    shape = {name: int(row[name]) for name in ("depth", "width", "length")}
    found = PREDICTIONS.setdefault(row["stack"], None)
    if found is None:
        tree, made = next((tree, made) for name, tree, made in stacks(**shape) if name == row["stack"])
        found = PREDICTIONS[row["stack"]] = predict(tree, made)
    assert found[QUANTITIES.index(row["quantity"])] == pytest.approx(float(row["predicted"]), rel=1e-4)


PREDICTIONS: dict = {}


def test_full_attention_is_predicted_within_its_noise():
    """Vanilla post-norm gradients are log-normal over draws, and a mean of them says little; all others agree."""
    rows = [r for r in kept() if " full " in r["stack"] and not r["stack"].startswith("post xavier")]
    assert len(rows) == 27
    for row in rows:
        # Rows of one stack share their draws; beyond the noise, corrections of order 1/width^2 are left out.
        assert abs(float(row["z"])) < 4 or abs(float(row["relative_error"])) < 0.05, row


def test_causal_gradients_are_known_to_be_low():
    """What is not right yet stays visible here until it is."""
    rows = [r for r in kept() if " causal " in r["stack"] and r["quantity"] == "gradient_variance"]
    assert all(float(row["relative_error"]) < 0 for row in rows)


def test_the_job_at_a_small_size():
    rows = list(measure(draws=12, seed=3, depth=2, width=64, length=16))
    assert len(rows) == 24 * 3
    full = [row for row in rows if " full " in row["stack"]]
    assert all(abs(row["z"]) < 6 for row in full)
    wrong = [row | {"z": (1.5 * row["predicted"] - row["measured"]) / row["stderr"]} for row in full if row["z"]]
    assert max(abs(row["z"]) for row in wrong) > 6
