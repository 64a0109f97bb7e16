"""Attention of finite width and head size, position by position, against drawn layers that were kept."""

import math

import numpy as np
import pytest
from attention_draws import QUANTITIES, SETTINGS, visible
from helpers import golden

from depthwidth.formulas.attention import attention_moments
from depthwidth.layers.rotary import Rotary
from depthwidth.signal import attention as module
from depthwidth.signal.alibi_attention import BiasedAttention
from depthwidth.signal.alike_attention import Setting, alike_attention
from depthwidth.signal.attention import TokenAttention
from depthwidth.signal.positions import Positions
from depthwidth.signal.rotation import Turned

LABELS = [name for name in SETTINGS[0] if name != "correlation"]


def kept():
    """Of each setting, its labels, the mean correlation of the tokens, and the quantities with their standard errors."""
    found = {}
    for row in golden("attention_positions"):
        key = tuple(row[name] for name in (*LABELS, "correlation"))
        found.setdefault(key, []).append((row["quantity"], float(row["value"]), float(row["stderr"])))
    for key, lines in found.items():
        assert [name for name, *_ in lines] == list(QUANTITIES)
        yield dict(zip((*LABELS, "correlation"), key, strict=True)), np.array([line[1:] for line in lines]).T


def predicted(setting, make=Positions.every, **changes):
    """All quantities of a setting."""
    length, dims, mask = int(setting["length"]), int(setting["head_dim"]), setting["mask"]
    positions = make(length)
    if mask.startswith("slope"):
        own = {"head_dim": dims, "width": float(setting["width"]), "equal_norms": setting["equal_norms"] == "1"} | changes
        return quantities_of(BiasedAttention(positions, (float(mask.split()[1]),), **own), setting)
    options = {
        "causal": mask != "full", "window": int(mask.split()[1]) if mask.startswith("window") else None, "head_dim": dims,
        "width": float(setting["width"]), "equal_norms": setting["equal_norms"] == "1",
        "rotation": Rotary().rotation(dims, length) if setting["rotary"] == "1" else None,
    } | changes  # fmt: skip
    return quantities_of(TokenAttention(positions, **options), setting)


def quantities_of(attention, setting):
    """All quantities of a setting by this attention."""
    positions = getattr(attention, "positions", None) or attention.queries
    out = attention(*positions.uniform(1.0, float(setting["correlation"])), float(setting["score_variance"]))
    own, shared = (out.pull(*positions.uniform(*g)) for g in ((1.0, 0.0), (0.0, 1.0)))
    mean, pairs = positions.mean, positions.pair_mean
    return np.array([
        mean(out.second_moment), pairs(out.covariance), mean(own[0][0]), pairs(shared[0][1]),
        mean(own[1][0]), mean(shared[1][0]), pairs(own[1][1]), pairs(shared[1][1]),
    ])  # fmt: skip


def in_closed_form(setting, equal_norms=True):
    """The same of attention without a mask in closed form, the gradients through queries and source together."""
    r, dims = float(setting["correlation"]), np.array([int(setting["head_dim"])])
    shared = Setting(int(setting["length"]), 0.0, float(setting["width"]))
    moments, gain = np.array([[r], [r], [1.0]]), np.array([float(setting["score_variance"])])
    with np.errstate(invalid="ignore"):  # of equal tokens, which there are none of
        layer = alike_attention(moments, gain, dims, shared, equal_norms=equal_norms)
        own, both = (layer.pull(np.array(g)[:, None])[:, 0] for g in ((0.0, 0.0, 1.0), (1.0, 1.0, 0.0)))
    return np.array([layer.covariance[2, 0], layer.covariance[0, 0], own[2], both[2], own[0], both[0]])


def whole_gradients(quantities):
    """Of all quantities those of :func:`in_closed_form`."""
    output, covariance, query, query_pair, source, by_pair, pair, pair_by_pair = quantities
    return np.array([output, covariance, query + source, by_pair, pair, query_pair + pair_by_pair])


def worst(setting, values, errors, prediction):
    """The largest difference, relative and less three standard errors, of each quantity."""
    return np.maximum(np.abs(prediction - values) - 3 * errors, 0) / np.abs(values)


# Per quantity, of what is left.
WITHIN = np.array([0.001, 0.004, 0.006, 0.015, 0.003, 0.012, 0.006, 0.003])
ROTARY = np.array([0.001, 0.004, 0.006, 0.015, 0.006, 0.012, 0.006, 0.006])
SLOPED = np.array([0.003, 0.006, 0.01, 0.03, 0.002, 0.025, 0.003, 0.004])
"""Of rows with penalties the overlap of two Jacobians is within 4.5 % whatever the width (docs/derivations/alibi.md)."""
FEW_DIMENSIONS = np.array([1, 1, 5, 3, 1, 2, 1, 1])
"""Further factor of heads of 4 dimensions: the square of 1/4, which the first order leaves out, is 6 %."""


@pytest.mark.slow
def test_every_kept_layer_is_predicted():
    """Heads of 4 to 64 dimensions, one to eight of them; causal, windowed and full masks, rotary positions, Gaussian tokens."""
    settings = list(kept())
    assert len(settings) == len(SETTINGS)
    for setting, (values, errors) in settings:
        if setting["mask"].startswith("slope"):
            continue
        off = worst(setting, values, errors, predicted(setting))
        allowed = ROTARY if setting["rotary"] == "1" else WITHIN
        assert (off < allowed).all(), (setting, dict(zip(QUANTITIES, off.round(4), strict=True)))


def test_penalties_of_distance(monkeypatch):
    """Rows with a penalty have the terms of rows of fewer keys; without the terms, the path through queries is off."""
    sloped = [one for one in kept() if one[0]["mask"].startswith("slope")]
    assert len(sloped) == sum(setting["mask"].startswith("slope") for setting in SETTINGS)
    without = []
    for setting, (values, errors) in sloped:
        allowed = SLOPED * (FEW_DIMENSIONS if setting["head_dim"] == "4" else 1)
        off = worst(setting, values, errors, predicted(setting))
        assert (off < allowed).all(), (setting, dict(zip(QUANTITIES, off.round(4), strict=True)))
        without.append(worst(setting, values, errors, predicted(setting, equal_norms=None)))
    assert sum((off > allowed).any() for off in without) >= len(sloped) - 1  # in heads of 64 dimensions the terms are small
    # The terms of rows of as many keys as they see take too much off.
    setting, (values, errors) = next(one for one in sloped if one[0]["mask"] == "slope 0.25")
    right = BiasedAttention.tokens
    monkeypatch.setattr(BiasedAttention, "tokens", lambda self, variance, keys: right(self, variance, self.lengths))
    assert (worst(setting, values, errors, predicted(setting)) > SLOPED).any()


def test_attention_without_a_mask_in_closed_form():
    """The terms are those of all positions; without them, second moments and covariances are off."""
    full = [one for one in kept() if one[0]["mask"] == "full"]
    assert len(full) == sum(setting["mask"] == "full" for setting in SETTINGS)
    allowed, missed = WITHIN[[0, 1, 4, 5, 6, 7]], 0
    for setting, (values, errors) in full:
        values, errors = whole_gradients(values), whole_gradients(errors)  # errors added up: at least that of the sum
        assert (worst(setting, values, errors, in_closed_form(setting)) < allowed).all(), setting
        assert in_closed_form(setting) == pytest.approx(whole_gradients(predicted(setting)), rel=2e-5)  # a cut power series
        missed += (worst(setting, values, errors, in_closed_form(setting, None)) > allowed).any()
    assert missed >= len(full) - 1  # at a score variance of 1 the terms are smaller than what is allowed


def by_averages_over_rows(setting, equal_norms):
    """All quantities of a causal setting by the averages of the softmax over the lengths of the rows."""
    options = {
        "length": int(setting["length"]), "width": float(setting["width"]), "head_dim": int(setting["head_dim"]),
        "score_gain": float(setting["score_variance"]), "causal": True, "equal_norms": equal_norms,
    }  # fmt: skip
    own, both = (attention_moments(1.0, float(setting["correlation"]), gradient_correlation=r, **options) for r in (0.0, 1.0))

    def source(layer, moment):
        return getattr(layer, f"value_gradient{moment}") + getattr(layer, f"key_gradient{moment}")

    return np.array([
        own.second_moment, own.covariance, own.query_gradient, both.query_gradient_covariance - own.query_gradient_covariance,
        source(own, ""), source(both, "") - source(own, ""),
        source(own, "_covariance"), source(both, "_covariance") - source(own, "_covariance"),
    ])  # fmt: skip


@pytest.mark.slow
def test_averages_over_causal_rows_have_the_terms_of_all_positions():
    """Changes of two rows are averaged over all pairs of rows, which is less accurate in heads of 4 dimensions."""
    allowed, without = np.maximum(WITHIN, [0.002, 0.009, 0, 0.05, 0, 0, 0.007, 0.004]), []
    causal = [one for one in kept() if one[0]["mask"] == "causal" and one[0]["rotary"] == "0"]
    for setting, (values, errors) in causal:
        equal = setting["equal_norms"] == "1"
        off = worst(setting, values, errors, by_averages_over_rows(setting, equal))
        assert (off < allowed).all(), (setting, dict(zip(QUANTITIES, off.round(4), strict=True)))
        without.append(worst(setting, values, errors, by_averages_over_rows(setting, None))[2])
    assert min(without) > 2 * allowed[2]


@pytest.mark.slow
def test_what_was_left_out_is_told_apart():
    """Without the terms, or with those of Gaussian tokens in place of tokens of one norm, the gradients are off."""
    plain = [(s, v) for s, v in kept() if s["rotary"] == "0" and s["equal_norms"] == "1" and s["mask"] == "causal"]
    for setting, (values, errors) in plain:
        without = worst(setting, values, errors, predicted(setting, equal_norms=None))
        assert without[2] > 2 * WITHIN[2], setting
        if float(setting["correlation"]) < 0.4:
            gaussian = worst(setting, values, errors, predicted(setting, equal_norms=False))
            assert (gaussian > WITHIN).any(), setting


@pytest.mark.slow
def test_a_term_with_a_wrong_factor_is_told_apart(monkeypatch):
    right = module.width_terms

    def doubled(*given):
        found = right(*given)
        return found._replace(asked=1 + 2 * (found.asked - 1), overlap=2 * found.overlap)

    monkeypatch.setattr(module, "width_terms", doubled)
    failed = [(worst(s, v, e, predicted(s)) > WITHIN).any() for s, (v, e) in kept() if s["rotary"] == "0"]
    assert sum(failed) > 0.8 * len(failed)


@pytest.mark.slow
def test_rotations_between_rows_are_told_apart(monkeypatch):
    """Of two rows' scores the rotation by their own distance takes a part; without it the shared parts are far off."""
    monkeypatch.setattr(module, "rotation_of", lambda *given: _still(*given))
    for setting, (values, errors) in kept():
        if setting["rotary"] == "1" and float(setting["correlation"]) > 0.2:
            off = worst(setting, values, errors, predicted(setting))
            assert off[3] > 0.1
            assert off[5] > 0.04


@pytest.mark.slow
def test_products_of_tokens_are_turned_as_well(monkeypatch):
    """Taken as large as the unshared part of the scores, the noise of products is seen in the path through queries."""
    ((setting, (values, errors)),) = (one for one in kept() if one[0]["rotary"] == "1" and float(one[0]["correlation"]) > 0.5)
    assert worst(setting, values, errors, predicted(setting))[2] < ROTARY[2]
    monkeypatch.setattr(Turned, "products", lambda self, first, second: np.ones(first.size))
    assert worst(setting, values, errors, predicted(setting))[2] > 3 * ROTARY[2]


def _still(*given):
    from depthwidth.signal.rotation import rotation_of

    found = rotation_of(*given)
    return found._replace(same=np.ones_like(found.same), different=np.ones_like(found.different))


@pytest.mark.slow
@pytest.mark.parametrize("rotary", ["0", "1"])
def test_few_positions_stand_for_all_of_them(rotary):
    setting = {
        "length": 64, "width": 64, "head_dim": 16, "mask": "causal", "rotary": rotary, "equal_norms": "1", "correlation": 0.3,
        "score_variance": 2.0,
    }  # fmt: skip
    few, every = (predicted(setting, make) for make in (Positions.smooth, Positions.every))
    # Covariances of rotated tokens depend on their distance, which few positions do not follow.
    allowed = np.array([5e-3, 5e-3, 0.03, 0.03, 0.015, 0.03, 0.02, 0.01]) if rotary == "1" else 3e-3
    assert (np.abs(few / every - 1) < allowed).all(), few / every - 1


def test_no_mask_and_a_sum_over_all_keys():
    """Gradients at values add up to what arrives, with every term: the weights of a row sum to 1."""
    length = 8
    positions = Positions.every(length)
    attention = TokenAttention(positions, causal=False, head_dim=8, width=32, equal_norms=True)
    out = attention(*positions.uniform(1.0, 0.2), 0.0)
    _, (q, c) = out.pull(*positions.uniform(1.0, 0.4))
    total = length * positions.mean(q) + length * (length - 1) * positions.pair_mean(c)
    assert total == pytest.approx(length + length * (length - 1) * 0.4, rel=1e-9)
    assert math.isclose(positions.mean(out.second_moment), 0.2 + 0.8 / length, rel_tol=1e-6)


def test_visible_keys_of_a_window():
    assert visible(4, "window 2").tolist() == [[True, False, False, False], [True, True, False, False],
                                               [False, True, True, False], [False, False, True, True]]  # fmt: skip
