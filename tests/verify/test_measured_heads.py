"""The measured rows on heads still say of today's formulas what the documents claim."""

import csv
import math
import statistics
from pathlib import Path

import pytest

from depthwidth.coefficients import data_directory
from depthwidth.formulas import heads as laws
from depthwidth.layers.positions import Rotary, rotation_overlap


def rows(name):
    with (data_directory() / "measured" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_trained_look_up_heads_are_within_three_thousandths():
    found = rows("head_saturation")
    assert {(int(r["length"])) for r in found} == {16, 64, 256, 1024}
    for r in found:
        predicted = laws.best_retrieval_error(int(r["length"]), int(r["head_dim"]))
        assert float(r["predicted"]) == pytest.approx(predicted, rel=1e-4)
        assert abs(float(r["measured"]) - predicted) < 0.003
        # The negative control: one dimension fewer would be told apart.
        fewer = laws.best_retrieval_error(int(r["length"]), int(r["head_dim"]) - 1)
        if predicted > 0.01:  # below that one dimension changes less than training misses
            assert abs(float(r["measured"]) - fewer) > 0.003


def allocation_gaps(kind, which="allocated"):
    """Allocated loss less uniform, seed by seed, for each share of the dimensions."""
    losses = {(r["setting"].partition(",")[0], r["setting"].partition(", ")[2], r["seed"]): float(r["measured"])
              for r in rows("head_allocation") if r["quantity"] == "loss"}  # fmt: skip
    gaps = {}
    for (name, share, seed), loss in losses.items():
        if name == f"{which}{kind}":
            gaps.setdefault(share.partition(" ")[0], []).append(loss - losses[f"uniform{kind}", share, seed])
    return gaps


def test_an_allocated_cut_is_no_worse_than_a_uniform_one():
    gaps = allocation_gaps("")
    assert len(gaps) == 3
    assert all(max(values) < 3e-4 for values in gaps.values())
    assert max(gaps["0.2"]) < -0.003


def test_with_values_an_allocated_cut_gains_more():
    """At every share and seed, and at a fifth of all dimensions more than without values."""
    gaps, without = allocation_gaps(" with values"), allocation_gaps("")
    assert len(gaps) == 3
    assert all(max(values) < 0 for values in gaps.values())
    assert max(gaps["0.2"]) < min(without["0.2"])


def test_allocated_models_from_scratch_are_better_at_equal_parameters():
    """Three seeds at two shares: the mean is below 0 by more than two standard errors, every pair is, parameters agree."""
    gaps = allocation_gaps(" from scratch")
    assert {share: len(values) for share, values in gaps.items()} == {"0.33": 3, "0.2": 3}
    for values in gaps.values():
        assert max(values) < 0
        assert statistics.mean(values) < -2 * statistics.stdev(values) / len(values) ** 0.5
    # The control: the same dimensions in the other layers are worse than uniform ones.
    turned = allocation_gaps(" from scratch", "reversed")
    assert sorted(map(len, turned.values())) == [3, 3]
    assert all(min(values) > 0 for values in turned.values())
    counts = [r for r in rows("head_allocation") if r["quantity"] == "parameters"]
    assert len(counts) == 18
    assert all(0.99 < float(r["measured"]) / float(r["predicted"]) <= 1 for r in counts)


def test_entropy_at_initialisation():
    """Logit variance as shipped: GPT-2's within 7 % in every layer, Llama's within 13 %, which without rotations it is not."""
    found = [r for r in rows("attention_entropy") if r["quantity"] == "logit_variance"]
    ratio = {(r["setting"], int(r["layer"])): float(r["predicted"]) / float(r["measured"]) for r in found}
    assert all(abs(ratio["gpt2", layer] - 1) < 0.07 for layer in range(4))
    assert all(abs(ratio["llama", layer] - 1) < 0.13 for layer in range(4))
    # Aligned tokens that no rotation turns apart would leave a quarter of it by the fourth layer.
    left = rotation_overlap(Rotary(), 64, int(found[0]["length"]), causal=True)
    assert ratio["llama", 3] * (1 - 0.9) / (1 - 0.9 * left) < 0.3


def test_the_page_says_of_logit_variance_what_the_rows_say():
    """docs/heads.md, "Where it ends": each ratio to two decimals, and the largest standard error of each model."""
    page = " ".join((Path(__file__).resolve().parents[2] / "docs" / "heads.md").read_text(encoding="utf-8").split())
    said = {}
    for setting in ("gpt2", "llama"):
        its = [r for r in rows("attention_entropy") if (r["setting"], r["quantity"]) == (setting, "logit_variance")]
        assert [r["layer"] for r in its] == ["0", "1", "2", "3"]
        ratios = [float(r["predicted"]) / float(r["measured"]) for r in its]
        *first, last = (f"{ratio:.2f}" for ratio in ratios)
        # To first order the ratio's relative error is that of the measurement, its denominator.
        error = max(ratio * float(r["stderr"]) / float(r["measured"]) for ratio, r in zip(ratios, its, strict=True))
        said[setting] = f"{', '.join(first)} and {last} times", f"up to {error:.2f})"
    assert f"is, layer by layer, {said['llama'][0]} the measured one in a Llama (one standard error {said['llama'][1]}" in page
    assert f"and {said['gpt2'][0]} in GPT-2 ({said['gpt2'][1]}" in page
    # A ratio that the rows do not give is not there: the sentence is looked for as a whole.
    assert said["llama"][0].replace("0.88", "0.30") not in page


def test_training_makes_logits_less_gaussian():
    """How far attention is from uniform, measured over predicted: right early, too small later."""
    ratios = {}
    uniform = sum(math.log(n) for n in range(33, 65)) / 32
    for r in rows("attention_training"):
        measured, predicted = (uniform - float(r[name]) for name in ("measured", "predicted"))
        ratios.setdefault(int(r["steps"]), []).append(measured / predicted)
    assert all(0.9 < ratio < 1.1 for ratio in ratios[50])
    assert all(0.6 < ratio < 0.9 for ratio in ratios[600])


def test_heads_that_share_a_width_meet_a_bottleneck():
    losses = {}
    for r in rows("low_rank_bottleneck"):
        losses.setdefault((r["setting"], int(r["heads"])), []).append(float(r["measured"]))
    assert min(losses["width / heads", 16]) - max(losses["fixed size", 16]) > 0.1
    assert sum(losses["width / heads", 16]) > sum(losses["width / heads", 1]) > sum(losses["width / heads", 4])


def test_diffuse_students_lie_below_the_law_of_long_rows():
    spectrum = laws.power_spectrum(16, 1.0, 1.0)
    for r in rows("diffuse_saturation"):
        n = int(r["length"])
        law = laws.diffuse_errors(spectrum, n)[int(r["head_dim"])]
        assert float(r["predicted"]) == pytest.approx(law, rel=1e-4)
        low, high = {64: (0.64, 0.69), 256: (0.77, 0.82)}[n]
        assert low < float(r["measured"]) / law < high


def test_sharing_heads_beats_dedicating_them():
    """Below as many heads as lags the floor holds, two heads reach it; from there every draw is below the dedicated bound."""
    losses = {}
    for r in rows("head_split"):
        losses.setdefault(int(r["heads"]), []).append((float(r["measured"]), float(r["predicted"])))
    assert sorted(losses) == [1, 2, 4, 8, 16, 32]
    assert all(loss > floor - 1e-4 for heads in (1, 2) for loss, floor in losses[heads])
    assert all(loss < floor + 0.01 for loss, floor in losses[2])
    bound = laws.dedicated_lag_loss(8, 16, 1)
    for heads in (4, 8, 16, 32):
        assert all(predicted == pytest.approx(bound, rel=1e-5) and loss < 0.9 * bound for loss, predicted in losses[heads])
    means = [sum(loss for loss, _ in losses[heads]) for heads in sorted(losses)]
    assert means == sorted(means, reverse=True)
    # The negative control: four heads do not get below the bound of two dimensions more for each lag.
    assert all(loss > laws.dedicated_lag_loss(10, 16, 1) for loss, _ in losses[4])
