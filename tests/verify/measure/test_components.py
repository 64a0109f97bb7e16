"""Simulated components: the exact averages behind them, the rows that are kept, and runs that are interrupted."""

import math
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from depthwidth.analysis.component_grid import GRIDS, count  # noqa: E402
from depthwidth.coefficients import data_directory  # noqa: E402
from depthwidth.errors import InputError  # noqa: E402
from verify.measure.components import (  # noqa: E402
    Draws,
    _gradients,
    attention_sums,
    predictions,
    problems,
    refreshed,
    run,
    sampled,
    settings_of,
    summary,
)  # fmt: skip
from verify.rows import rows_from_csv  # noqa: E402

pytestmark = pytest.mark.slow


def table(name):
    return rows_from_csv((data_directory() / "measured" / name).read_bytes(), name)


def cells():
    """The kept rows as `verify.measure.components` has them."""
    rows = []
    for row in table("components_cells.csv"):
        labels = {k: str(v) for k, v in {"published": "", "scale": "", **row.labels}.items()}
        numbers = {"predicted": str(row.predicted), "measured": str(row.value), "stderr": str(row.stderr)}
        about = {"cell": row.site, "quantity": row.quantity, "seed": str(row.seed), "version": row.depthwidth}
        rows.append({**labels, **numbers, **about, "torch": row.torch, "device": row.device, "date": row.date})
    return rows


def lines():
    """The kept percentiles, a line for each component, grid and quantity."""
    found = {}
    for row in table("components_summary.csv"):
        key = row.labels["component"], row.labels["grid"], row.labels["of"]
        line = found.setdefault(key, {"component": key[0], "grid": key[1], "quantity": key[2]})
        line |= {"settings": row.labels["settings"], row.quantity: row.value}
    return list(found.values())


ROWS = cells()
SUMMARY = lines()


@pytest.mark.parametrize(
    ("causal", "cross", "slope"), [(False, False, 0.0), (True, False, 0.0), (False, True, 0.0), (True, False, 0.6)]
)
def test_the_exact_averages_are_what_autograd_gives_on_average(causal, cross, slope):
    """Over value weights, output gradient and dropout mask, with tokens, queries and keys held."""
    torch.manual_seed(3)
    length, queries, width, head, p, r_g, draws = 5, 4 if cross else 5, 7, 4, 0.3, 0.4, 2500
    double = {"dtype": torch.float64}
    x = torch.randn(length, width, **double) + 0.5 * torch.randn(1, width, **double)
    asking = torch.randn(queries, width, **double) if cross else x
    wq, wk = (torch.randn(width, head, **double) / width**0.5 * 1.4 for _ in range(2))
    sums = attention_sums(x[None], wq[None], wk[None], asking[None] if cross else None, causal, slope)
    sums = {name: float(value) for name, value in sums.items()}
    ep = p / (1 - p)
    expected = [(sums["own"] + ep * sums["own_ep"]) / queries, (sums["all"] - sums["own"]) / (queries * (queries - 1))]
    expected += _gradients(sums, r_g, ep, length, queries, width, head, cross).values()
    found = []
    for _ in range(draws):
        inputs = [x.clone().requires_grad_()]
        if cross:
            inputs.append(asking.clone().requires_grad_())
        value = inputs[0] @ (torch.randn(width, head, **double) / width**0.5)
        scores = (inputs[-1] @ wq) @ (inputs[0] @ wk).T / head**0.5
        place = torch.arange(length)
        if not cross:
            scores = scores - slope * (place[:, None] - place).abs()
        if causal:
            scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
        kept = (torch.rand(queries, length, **double) >= p) / (1 - p)
        y = (scores.softmax(-1) * kept) @ value
        g = math.sqrt(r_g) * torch.randn(1, head, **double) + math.sqrt(1 - r_g) * torch.randn(queries, head, **double)
        values = []
        for t in (y.detach(), *torch.autograd.grad(y, inputs, g)):
            own = t.square().sum()
            values += [own / t.numel(), (t.sum(0).square().sum() - own) / (t.numel() * (t.shape[0] - 1))]
        found.append(torch.stack(values))
    found = torch.stack(found).numpy()
    z = (found.mean(0) - np.array(expected)) / (found.std(0) / math.sqrt(draws))
    assert np.abs(z).max() < 4.5
    # A key path left out, or the mask left out, would be seen.
    without = _gradients(
        {n: 0.0 if n.startswith("key") else v for n, v in sums.items()}, r_g, ep, length, queries, width, head, cross
    )
    assert abs(found.mean(0)[2] - without["gradient_variance"]) > 6 * found.std(0)[2] / math.sqrt(draws)


def test_the_kept_rows_are_what_is_predicted_today():
    """A formula that changes must bring new rows with it: ``python -m verify.measure.components --refresh``."""
    quick = [row for row in ROWS if row["grid"] not in ("causal", "alibi")]
    quick += [row for row in ROWS if row["grid"] == "alibi" and "length=64 heads=4" in row["cell"]]
    for row in random.Random(4).sample(quick, 120):  # noqa: S311
        now = refreshed(row)
        assert float(now["predicted"]) == pytest.approx(float(row["predicted"]), rel=1e-4, abs=1e-9), row["cell"]


def test_no_percentile_is_worse_than_the_authors():
    """Theirs are printed to 0.1 %, so that 0.05 % is rounding."""
    compared = [line for line in SUMMARY if "authors_p50" in line]
    assert len(compared) == 29
    for line in compared:
        for p in (50, 90, 99):
            assert float(line[f"error_p{p}"]) <= float(line[f"authors_p{p}"]) + 0.05, line


def test_attention_gradients_are_within_what_was_asked():
    line = next(
        r for r in SUMMARY if (r["component"], r["grid"], r["quantity"]) == ("attention", "official", "gradient_variance")
    )
    assert float(line["error_p50"]) < 1.5
    assert float(line["error_p90"]) < 5
    assert float(line["error_p99"]) < 7
    assert float(line["published_p99"]) > 20  # the same simulation sees what the published form leaves out


def test_attention_with_penalties_on_distance_is_within_what_is_claimed():
    """Every setting within 3 %, of output and gradient; a prediction that leaves the penalties out is not."""
    rows = [row for row in ROWS if row["grid"] == "alibi"]
    assert len(rows) == 648
    assert max(abs(float(row["relative_error"])) for row in rows) < 0.03
    for quantity in ("variance", "covariance", "gradient_variance", "gradient_covariance"):
        row = next(r for r in rows if r["quantity"] == quantity and "correlation=0 score_variance=1 " in r["cell"]
                   and "length=64 heads=4" in r["cell"] and "gradient_correlation=0.3" not in r["cell"])  # fmt: skip
        settings = dict(settings_of(row)) | {"heads": 4}
        plain, _ = predictions("attention", "causal", tuple(settings.items()))
        assert abs(plain[quantity] / float(row["measured"]) - 1) > 0.05, (quantity, plain[quantity], row["measured"])


def test_every_setting_of_the_official_grids_is_there():
    for line in SUMMARY:
        if line["grid"] == "official":
            zero_means = line["component"] == "dropout" and line["quantity"] == "mean"  # a relative error has no meaning there
            assert int(line["settings"]) == count(line["component"]) * (2 / 3 if zero_means else 1)


@pytest.mark.parametrize(
    ("component", "quantity", "factor"),
    [
        ("layernorm", "gradient_variance", lambda s: (s["width"] - 3) / (s["width"] - 2)),  # the published form
        ("softmax", "variance", lambda s: 1.02),
        ("attention", "gradient_covariance", lambda s: 1.01),
        ("gelu", "gradient_covariance", lambda s: 1.01),
    ],
)
def test_a_slightly_wrong_formula_is_rejected(component, quantity, factor):
    rows = [r for r in ROWS if (r["component"], r["grid"], r["quantity"]) == (component, "official", quantity)]
    right, wrong = [], []
    for row in rows:
        measured, stderr = float(row["measured"]), float(row["stderr"])
        if stderr > 1e-6 * abs(measured):
            right.append(abs(float(row["predicted"]) - measured) / stderr)
            wrong.append(abs(float(row["predicted"]) * factor(dict(settings_of(row))) - measured) / stderr)
    assert np.median(right) < 2
    assert np.median(wrong) > 2 * np.median(right)
    assert max(wrong) > 8


def test_a_small_run_continues_where_it_was_cut_off(tmp_path):
    draws = Draws(effort=0.05)
    only = ("layernorm", "softmax")
    rows = run(tmp_path / "a", draws, 1, only)
    assert {row["component"] for row in rows} == set(only)
    assert all(abs(float(row["z"])) < 8 for row in rows)  # a few draws: Student's tails
    path = tmp_path / "b" / "components.csv"
    path.parent.mkdir()
    text = (tmp_path / "a" / "components.csv").read_bytes()
    path.write_bytes(text[:-60])  # in the midst of the last row
    assert run(tmp_path / "b", draws, 1, only) == rows
    assert path.read_bytes() == text
    with pytest.raises(InputError, match="another run"):
        run(tmp_path / "b", Draws(seed=2, effort=0.05), 1, only)
    with pytest.raises(InputError, match="no component or grid 'lynear'"):
        run(tmp_path / "c", draws, 1, ("lynear",))


def test_samples_are_seeded_and_of_every_kind():
    assert sampled(2, 5) == sampled(2, 5) != sampled(2, 6)
    assert {p.component for p in sampled(1, 1)} == set(GRIDS)
    assert len(sampled(None, 1)) == len(problems()) == 839


def test_percentiles_weigh_rows_by_the_settings_they_stand_for():
    row = next(r for r in ROWS if r["component"] == "linear" and not r["scale"])
    rows = [row | {"relative_error": "0.5", "cells": "1"}, row | {"relative_error": "0.01", "cells": "99"}]
    line = summary(rows)[0]
    assert (line["settings"], line["error_p50"], line["error_p90"], line["worst"]) == (100, 1.0, 1.0, 50.0)


def test_published_forms_stand_beside_ours():
    settings = {"correlation": 0.0, "score_std": 0.6, "width": 100, "head_dim": 64, "length": 300, "dropout": 0.0,
                "gradient_correlation": 0.0}  # fmt: skip
    ours, published = predictions("attention", "official", tuple(settings.items()))
    assert published["gradient_variance"] < 0.85 * ours["gradient_variance"]
