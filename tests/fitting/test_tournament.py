"""The tournament of rules: on runs with a known penalty the true rule wins, and wrong ones lose by the amount that is known."""

import csv
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from depthwidth import InputError
from depthwidth.coefficients import data_directory
from depthwidth.fitting.table import read_runs
from depthwidth.fitting.tournament import (
    HEAD_DIMENSIONS,
    Score,
    Surface,
    _refit,
    head_sizes,
    published_scores,
    tournament,
)
from depthwidth.planning.rules import find_rule, rules

K = 0.05
SIZES = np.geomspace(2e7, 2e9, 6)
TRUE_SHARE = 0.4


def power_rule(name, factor):
    """The rule width = factor * 0.4 * N^0.4."""

    def along(c):
        def curve(size):
            width = factor * TRUE_SHARE * size**TRUE_SHARE
            return size / (c * width**2), width

        return curve

    return replace(find_rule("nanochat"), name=name, along=along, fitted_on=())


RULES = (power_rule("half", 0.5), power_rule("true", 1.0), power_rule("double", 2.0), power_rule("near", 1.25))


def shaped_runs(tokens=(3e10, 1e11, 3e11), noise=0.0, rng=None, k=K):
    """Runs at six sizes and five widths about the true best one, whose losses have the penalty k."""
    rows = []
    for size in SIZES:
        for factor in (0.4, 0.7, 1.0, 1.5, 2.4):
            width = factor * TRUE_SHARE * size**TRUE_SHARE
            luck = rng.normal(0, noise) if rng is not None else 0.0
            for count in tokens:
                loss = 20 * size**-0.06 * count**-0.03 * math.exp(k * math.log(factor) ** 2 + luck)
                shape = {"width": width, "depth": size / (12 * width**2), "non_embedding": size}
                rows.append({"model": f"{size:g}/{factor}", **shape, "tokens": count, "loss": loss})
    return rows


def means(found):
    return {score.rule: score for score in found.scores if score.parameters is None}


def test_the_true_rule_wins_and_wrong_ones_lose_what_is_known():
    found = tournament(shaped_runs(), candidates=RULES, draws=10)
    costs = means(found)
    assert list(costs) == ["true", "near", "half", "double"] or list(costs) == ["true", "near", "double", "half"]
    for name, factor in (("true", 1.0), ("near", 1.25), ("half", 0.5), ("double", 2.0)):
        known = math.expm1(K * math.log(factor) ** 2)
        assert costs[name].cost == pytest.approx(known, abs=1e-9)
        assert costs[name].stderr < 1e-9
    assert found.curvature == pytest.approx(K)
    cells = [score for score in found.scores if score.rule == "true" and score.parameters is not None]
    assert len(cells) == 12
    for cell in cells:
        assert cell.width == pytest.approx(cell.best_width)
        assert 12 * cell.depth * cell.width**2 == pytest.approx(cell.parameters)
        assert cell.inside == 1


def test_errors_are_those_of_the_luck_of_models(rng):
    """The mean cost of a rule off by 1.25 scatters over sets as its stated error says."""
    costs, errors = [], []
    for _ in range(12):
        found = means(tournament(shaped_runs((1e11,), 0.002, rng), candidates=RULES[3:], draws=60))["near"]
        costs.append(found.cost)
        errors.append(found.stderr)
    assert 0.4 < np.std(costs, ddof=1) / np.mean(errors) < 1.8
    assert abs(np.mean(costs) - math.expm1(K * math.log(1.25) ** 2)) < 4 * np.mean(errors) / math.sqrt(12) + 1e-4


def test_tokens_that_differ_by_the_width_are_taken_out():
    """At 20 tokens a parameter, embeddings included, wide shapes see more tokens: uncorrected, the best width is too large."""
    law = {"E": 1.8172, "A": 477.8, "alpha": 0.3473, "B": 2143.0, "beta": 0.3672}
    rows = []
    for row in shaped_runs((1.0,)):
        size, total = row["non_embedding"], row["non_embedding"] + 1e5 * row["width"]
        base = law["E"] + law["A"] * total ** -law["alpha"] + law["B"] * (20 * total) ** -law["beta"]
        best = TRUE_SHARE * size**TRUE_SHARE
        loss = base * math.exp(K * math.log(row["width"] / best) ** 2)
        rows.append({**row, "parameters": total, "tokens": 20 * total, "loss": loss})
    corrected = tournament(rows, candidates=RULES, draws=10)
    assert any("Hoffmann" in note for note in corrected.notes)
    without = tournament([{k: v for k, v in row.items() if k != "tokens"} for row in rows], candidates=RULES, draws=10)
    widths = [[score.best_width for score in found.scores if score.rule == "true"][1] for found in (corrected, without)]
    assert widths[0] < 0.9 * widths[1]


@pytest.mark.slow
def test_a_rule_fitted_on_the_runs_is_fitted_again():
    """Fitted to these runs, the measured rule takes up their best widths, which its published numbers miss."""
    found = tournament(shaped_runs((1e11,)), refit=("measured2025",), candidates=[find_rule("measured2025")], draws=5)
    both = {score.refitted: score for score in found.scores if score.parameters is None}
    assert both[1].cost < both[0].cost / 4


@pytest.mark.slow
def test_the_model_that_is_left_out_does_not_move_the_rule():
    """However wrong its loss, where that of another model moves the rule."""
    needs = ("width", "depth", "non_embedding", "loss", "tokens")
    rows = shaped_runs((1e11,))
    runs = read_runs(rows, needs)
    surface, left = Surface.of(runs), 12

    def width_without(spoilt):
        loss = np.where(runs.model == spoilt, 1.1, 1.0) * runs["loss"]
        curve = _refit("measured2025", replace(runs, columns={**runs.columns, "loss": loss}), left, surface)
        return curve(1e8)[1]

    assert width_without(left) == pytest.approx(width_without(-1), rel=1e-6)
    assert abs(width_without(left + 1) / width_without(-1) - 1) > 0.005


def test_head_dimensions_lose_what_is_known():
    rows = [
        {"width": w, "depth": depth, "head_dim": d, "loss": 3 * w**-0.05 * (1 + 0.01 * math.log(d / 110) ** 2)}
        for w in (512, 768, 1024) for depth in (4, 8) for d in (32, 64, 128, 256)
    ]  # fmt: skip
    found = head_sizes(rows, draws=4)
    assert [score.rule for score in found] == [f"head dimension {d}" for d in HEAD_DIMENSIONS]
    for score, d in zip(found, HEAD_DIMENSIONS, strict=True):
        assert score.cost == pytest.approx(0.01 * math.log(d / 110) ** 2, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (shaped_runs((1e11,), k=-0.05), {}, "no least width"),
        (shaped_runs((1e11,))[:7], {}, "7 shapes are too few"),
        (shaped_runs((1e11,)), {"draws": 1}, "draws=1 is not a whole number"),
        (shaped_runs((1e11,)), {"refit": ("levine2020",)}, "cannot be refitted"),
        (shaped_runs((1e11,)), {"refit": ("gemstones2025",)}, "cannot be refitted without parameters"),
        ([row for row in shaped_runs() if row["model"].endswith("/1.0")] * 2, {}, "too few"),
        ([{**row, "width": 100 * row["non_embedding"] ** 0.1} for row in shaped_runs()], {}, "too few"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(rows, options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        tournament(rows, **options)
    assert "\n" not in str(caught.value)


def test_the_committed_table_is_consistent():
    scores = published_scores()
    with (data_directory() / "reference" / "rule_tournament.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == list(asdict(scores[0]))
    assert isinstance(scores[0], Score)
    sets = {score.data for score in scores}
    judgeable = {rule.name for rule in rules().values() if not rule.pooled}
    assert sets == {"gemstones/dolma", "gemstones/dclm", "gemstones/fineweb", "gemstones/fineweb_edu", "gadre"}
    for data in sets:
        for refitted in (0, 1):
            judged = [one for one in scores if one.data == data and one.refitted == refitted and "head" not in one.rule]
            names = {one.rule for one in judged}
            assert names == (judgeable if not refitted else set() if data == "gadre" else {"gemstones2025", "measured2025"})
            for name in names:
                mean, *cells = (one for one in judged if one.rule == name)
                assert mean.parameters is None
                assert mean.cost == pytest.approx(np.mean([one.cost for one in cells]), rel=2e-3, abs=1e-7)
                assert mean.inside == pytest.approx(np.mean([one.inside for one in cells]))
                for one in cells:
                    assert one.low <= one.high
                    assert one.cost >= 0
                    sizes = one.parameters / (one.depth * one.width**2)
                    assert 11.5 < sizes < 15.5  # parameters of a block per squared width


def test_the_page_shows_the_committed_table():
    from rule_tournament import page_table

    assert page_table() in (data_directory().parent / "docs" / "evidence.md").read_text(encoding="utf-8")
