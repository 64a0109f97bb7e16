"""The measured rows on heads still say of today's formulas what the documents claim."""

import csv

import pytest

from depthwidth.coefficients import data_directory
from depthwidth.formulas import heads as laws


def rows(name):
    with (data_directory() / "measured" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_trained_look_up_heads_are_within_three_thousandths():
    found = rows("head_saturation")
    assert {(int(r["length"])) for r in found} == {16, 64, 256}
    for r in found:
        predicted = laws.best_retrieval_error(int(r["length"]), int(r["head_dim"]))
        assert float(r["predicted"]) == pytest.approx(predicted, rel=1e-4)
        assert abs(float(r["measured"]) - predicted) < 0.003
        # The negative control: one dimension fewer would be told apart.
        fewer = laws.best_retrieval_error(int(r["length"]), int(r["head_dim"]) - 1)
        assert abs(float(r["measured"]) - fewer) > 0.003


def test_an_allocated_cut_is_no_worse_than_a_uniform_one():
    losses = {(r["setting"].partition(",")[0], r["setting"].partition(", ")[2], r["seed"]): float(r["measured"])
              for r in rows("head_allocation")}  # fmt: skip
    gaps = {}
    for (name, share, seed), loss in losses.items():
        if name == "allocated":
            gaps.setdefault(share, []).append(loss - losses["uniform", share, seed])
    assert len(gaps) == 3
    assert all(max(values) < 3e-4 for values in gaps.values())
    assert max(gaps["0.2 of the dimensions"]) < -0.003


def test_entropy_at_initialisation():
    """GPT-2 as shipped: logit variance within 7 % in every layer. Llama as shipped: in the first alone."""
    ratio = {(r["setting"], int(r["layer"])): float(r["predicted"]) / float(r["measured"])
             for r in rows("attention_entropy") if r["quantity"] == "logit_variance"}  # fmt: skip
    assert all(abs(ratio["gpt2", layer] - 1) < 0.07 for layer in range(4))
    assert abs(ratio["llama", 0] - 1) < 0.05
    assert ratio["llama", 1] < 0.75
    assert ratio["llama", 3] < 0.2
