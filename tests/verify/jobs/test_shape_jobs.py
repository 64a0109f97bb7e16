"""The judges of the jobs that train, on rows whose truth is known."""

import math
from dataclasses import replace

import pytest

from depthwidth.formulas.depth_pairs import depth_pair_advantage, depth_pair_crossing
from depthwidth.formulas.rules import levine_optimal_width
from depthwidth.formulas.shape_penalty import shape_penalty
from verify.jobs import find_job
from verify.jobs.depth_crossing import crossing_of
from verify.jobs.optimal_width_transfer import vertex_of
from verify.rows import Row


def loss_row(labels, value, seed=0):
    return Row(quantity="loss", labels=labels, value=value, seed=seed)


def crossing_rows(rng, at, noise=0.002, seeds=3, span=4.0, pair=(3, 6)):
    """Two depths whose losses are equal at `at`: the theory's own advantage, shifted there."""
    true = depth_pair_crossing(*pair)
    rows = []
    for depth in pair:
        for factor in (1 / span, 1 / 2, 1 / 1.3, 1.3, 2, span):
            size = at * factor
            width = math.sqrt(size / 12 / depth)
            loss = 3.0 * (size / 1e6) ** -0.06
            if depth == pair[1]:
                loss *= 1 - float(depth_pair_advantage(true * factor, *pair))
            rows += [
                loss_row(
                    {"pair": "3-6", "depth": depth, "width": round(width), "size": size}, loss + rng.normal(0, noise), seed
                )
                for seed in range(seeds)
            ]
    return rows


def judged(name, rows, predictions):
    return find_job(name).judge(rows, predictions)


def pair_prediction():
    return [p for p in find_job("depth-crossing").predict("gpu") if p.site == "3-6"]


def test_a_crossing_is_found_where_it_is(rng):
    true = float(depth_pair_crossing(3, 6))
    best, low, high, why = crossing_of(crossing_rows(rng, true), 3, 6)
    assert why == ""
    assert low < best < high
    assert low < true < high
    assert high / low < 2


@pytest.mark.slow
def test_a_right_crossing_holds_and_a_wrong_one_fails(rng):
    true = float(depth_pair_crossing(3, 6))
    assert judged("depth-crossing", crossing_rows(rng, true), pair_prediction()).outcome == "holds"
    assert judged("depth-crossing", crossing_rows(rng, 3 * true), pair_prediction()).outcome == "fails"


@pytest.mark.slow
def test_intervals_of_crossings_cover_the_truth(rng):
    """95 % intervals over 10 sets: 9.5 expected, standard deviation 0.7; seeds' noise itself is known to 15 % only."""
    true = float(depth_pair_crossing(3, 6))
    hits = 0
    for _ in range(10):
        _, low, high, _ = crossing_of(crossing_rows(rng, true), 3, 6)
        hits += low < true < high
    assert hits >= 7


def test_no_crossing_in_a_range_that_holds_the_prediction_is_a_failure(rng):
    true = float(depth_pair_crossing(3, 6))
    rows = crossing_rows(rng, true)
    better = [replace(r, value=r.value * (0.95 if r.labels["depth"] == 3 else 1)) for r in rows]
    verdict = judged("depth-crossing", better, pair_prediction())
    assert verdict.outcome == "fails"
    assert "do not cross" in verdict.comparisons[0].note


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: [r for r in rows if r.seed == 0], "one seed shows no noise"),
        (lambda rows: [*rows[:-1], replace(rows[-1], value=math.inf)], "a run diverged"),
        (lambda rows: [r for r in rows if r.labels["depth"] == 3], "fewer than three sizes"),
        (lambda rows: [], "fewer than three sizes"),
    ],
)
def test_what_cannot_be_told_is_undecided(rng, change, why):
    rows = change(crossing_rows(rng, float(depth_pair_crossing(3, 6))))
    verdict = judged("depth-crossing", rows, pair_prediction())
    assert verdict.outcome == "undecided"
    assert why in verdict.comparisons[0].note


SIZE = 1e6


def width_rows(rng, best, k=0.05, noise=0.002, seeds=3):
    rows = []
    for factor in (0.4, 0.55, 0.75, 1.0, 1.35, 1.8, 2.5):
        width = float(levine_optimal_width(SIZE)) * factor
        loss = 3.0 * (1 + float(shape_penalty(width, best, k)))
        rows += [loss_row({"budget": SIZE, "width": width, "size": SIZE}, loss + rng.normal(0, noise), s) for s in range(seeds)]
    return rows


def width_prediction():
    return [p for p in find_job("optimal-width-transfer").predict("gpu") if p.site in ("1e+06", "")]


def test_the_best_width_and_the_curvature_are_found(rng):
    true = float(levine_optimal_width(SIZE))
    best, low, high, k, why = vertex_of(width_rows(rng, true), SIZE)
    assert why == ""
    assert low < true < high
    assert best == pytest.approx(true, rel=0.1)
    assert k == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize(
    ("factor", "outcome"), [(1.0, "holds"), (1.2, "holds"), (1.8, "fails"), (0.5, "fails"), (4.0, "fails")]
)
def test_a_width_is_judged_by_its_factor(rng, factor, outcome):
    rows = width_rows(rng, factor * float(levine_optimal_width(SIZE)))
    assert judged("optimal-width-transfer", rows, width_prediction()).outcome == outcome


def test_a_width_in_noise_or_out_of_reach_is_undecided(rng):
    true = float(levine_optimal_width(SIZE))
    noisy = width_rows(rng, true, k=0.001, noise=0.2)
    assert judged("optimal-width-transfer", noisy, width_prediction()).outcome in ("undecided", "holds")
    narrow = [r for r in width_rows(rng, 0.3 * true) if r.labels["width"] < 0.8 * true]
    assert judged("optimal-width-transfer", narrow, width_prediction()).outcome == "undecided"


# The deep model.


def deep_rows(losses, shallow=2.0, floor=3.0, depth=192):
    rows = []
    runs = [("deep", *key, losses[key], 1.0) for key in losses] + [("shallow", "pre", "gpt2", shallow, 1.0)]
    for number, (model, placement, scheme, loss, predicted) in enumerate(runs):
        labels = {"model": model, "placement": placement, "scheme": scheme, "depth": depth, "width": 32, "beside": depth}
        for quantity, value in (("loss", loss), ("unigram_entropy", floor), ("gradient_ratio", 1.0), ("correlation", 0.5),
                                ("beats_unigram", float(loss < floor))):  # fmt: skip
            rows.append(
                Row(run=f"{depth}-{number}", labels=labels, quantity=quantity, value=value, predicted=predicted, seed=0)
            )
    return rows


@pytest.mark.parametrize(
    ("ours", "vanilla", "outcome"),
    [
        ((2.2, 2.2), (2.9, math.inf), "holds"),
        ((2.2, 2.2), (2.2, 2.9), "holds on a range"),
        ((2.2, 2.2), (2.2, 2.1), "fails"),
        ((2.9, 2.9), (2.9, 2.9), "fails"),
    ],
)
def test_deep_models_are_judged_by_placement(ours, vanilla, outcome):
    losses = {
        (p, s): v
        for s, values in (("deepscale", ours), ("xavier", vanilla))
        for p, v in zip(("post", "pre"), values, strict=True)
    }
    assert judged("deep-stability", deep_rows(losses), ()).outcome == outcome


@pytest.mark.parametrize(
    ("ratio", "correlation", "hoped"), [(1.0, 0.5, 1.0), (2e3, 0.5, 0.0), (1e-4, 0.5, 0.0), (1.0, 0.99, 0.0)]
)
def test_whether_a_model_is_predicted_to_train_follows_from_its_start(ratio, correlation, hoped):
    rows = deep_rows({("pre", "deepscale"): 2.2, ("pre", "xavier"): 2.9})
    given = {"gradient_ratio": ratio, "correlation": correlation}
    rows = [replace(row, predicted=given.get(row.quantity)) for row in rows]
    lines = {line.what: line for line in judged("deep-stability", rows, ()).comparisons}
    line = lines["deep pre deepscale 192: trains"]
    assert (line.predicted, line.measured, line.passes) == (hoped, 1.0, hoped == 1.0)


def test_each_depth_is_measured_against_its_own_shallow_model():
    """A loss of 2.6 is more than half of the way to a shallow model's 2.4, and less than half of the way to one's 2.0."""
    losses = {("pre", "deepscale"): 2.6, ("pre", "xavier"): 2.9}
    one, other = deep_rows(losses, shallow=2.4), deep_rows(losses, shallow=2.0, depth=500)
    assert judged("deep-stability", one, ()).outcome == "holds"
    assert judged("deep-stability", one + other, ()).outcome == "holds on a range"
    assert judged("deep-stability", [row for row in one if row.labels["model"] == "deep"] + other, ()).outcome == "undecided"


def test_a_shallow_model_that_learnt_nothing_decides_nothing():
    verdict = judged("deep-stability", deep_rows({("post", "deepscale"): 2.2, ("post", "xavier"): 2.9}, shallow=3.1), ())
    assert verdict.outcome == "undecided"
