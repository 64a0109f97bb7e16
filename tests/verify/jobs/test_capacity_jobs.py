"""The jobs on capacity at their smallest size, and their verdicts on made rows."""

import itertools
import math
import re

import pytest

pytest.importorskip("torch")

from depthwidth import InputError
from depthwidth.analysis.measure_ranking import rank_measures
from verify.jobs import Context, find_job
from verify.jobs import capacity as job_of_capacity
from verify.jobs import measure_ranking as job_of_ranking
from verify.jobs._digits import digits, quantity_of
from verify.rows import Row, rows_from_csv
from verify.runs.plans import make_plan


@pytest.mark.slow
def test_networks_are_trained_to_the_loss_and_measured_at_the_smallest_size(tmp_path):
    pytest.importorskip("sklearn")
    job = find_job("capacity")
    runs = make_plan(job, "tiny")["runs"]
    assert [run["labels"]["part"] for run in runs].count("width") == 2
    for number, about in enumerate(runs[:-1]):  # the second width trains as the first does
        found = {one.quantity: one.value for one in job.measure(about["spec"], Context("cpu", tmp_path / str(number), 0))}
        assert found["converged"] == 1, about["labels"]
        assert found["bounds_below_one"] == 0
        norms = job_of_capacity.TOGETHER if about["labels"]["part"] == "language" else job_of_capacity.NORMS
        assert all(math.isfinite(found[quantity_of(name)]) for name in norms)
        if about["labels"]["labels"] == "true" and about["labels"]["part"] != "language":
            assert found["test_error"] < 0.7  # chance is 0.9


@pytest.mark.slow
def test_a_run_twice_is_the_same_run(tmp_path):
    pytest.importorskip("sklearn")
    job = find_job("measure-ranking")
    about = make_plan(job, "tiny")["runs"][0]
    one, two = (list(job.measure(about["spec"], Context("cpu", tmp_path / name, 0))) for name in ("a", "b"))
    assert one == two
    assert {"pacbayes_mag_flatness", "path_norm_over_margin", "params"} <= {found.quantity for found in one}


@pytest.mark.slow
def test_random_labels_are_those_of_the_training_points_alone():
    pytest.importorskip("sklearn")
    (x, y), (test_x, test_y) = digits(300, "true", 1)
    (same, drawn), (other_x, other_y) = digits(300, "random", 1)
    assert (x == same).all()
    assert (test_x == other_x).all()
    assert (test_y == other_y).all()
    assert 0.02 < float((y == drawn).double().mean()) < 0.2
    assert len(test_x) == 1797 - 300
    assert 0 <= float(x.min()) <= float(x.max()) == 1


# ---- verdicts ----


def network(part, labels, samples, width, values, seeds=3):
    at = {"part": part, "labels": labels, "samples": samples, "width": width, "layers": 3}
    every = {"converged": 1.0, "bounds_below_one": 0.0} | values
    return [
        Row(quantity=quantity_of(name), value=value if name in ("converged", "bounds_below_one") else value * (1 + 0.01 * seed),
            seed=seed, labels=at)
        for name, value in every.items()
        for seed in range(seeds)
    ]  # fmt: skip


def rows(random=10.0, growth=2.0, plain=-1.0, factored=3.0, bounds=0.0, seeds=3):
    """Random labels need `random` times as much at the fewest points, `growth` times that at the most."""
    found = []
    for m, factor in ((200, random), (400, random * growth)):
        for labels, value in (("true", 1.0), ("random", factor)):
            found += network("labels", labels, m, 128, dict.fromkeys(job_of_capacity.NORMS, value), seeds)
    for labels, value in (("true", 1.0), ("random", random)):
        found += network("language", labels, 1024, 64, dict.fromkeys(job_of_capacity.TOGETHER, value), seeds)
    for h, norm, capacity in ((8, 1.0, 5.0), (32, 0.5, 1.0), (512, math.exp(plain), factored)):
        own = {"path-norm-over-margin": norm, "log-prod-of-spec-over-margin": math.log(norm), "l2-path": capacity}
        found += network("width", "true", 1000, h, own | {"spectral": capacity, "bounds_below_one": bounds}, seeds)
    return found


def test_the_verdict_on_labels_and_widths():
    judge = find_job("capacity").judge
    assert judge(rows(), ()).outcome == "holds"
    assert judge(rows(random=0.1, growth=0.5, plain=1.0, factored=0.1, bounds=1.0), ()).outcome == "fails"
    for wrong, named in (
        ({"growth": 0.5}, "its growth from 200 to 400 targets"),
        ({"plain": 1.0}, "its fall from width 8 to 512"),
        ({"factored": 0.1}, "its rise from width 32 to 512"),
        ({"bounds": 1.0}, "bounds on an error that are below 1"),
    ):
        verdict = judge(rows(**wrong), ())
        assert verdict.outcome == "holds on a range"
        assert named in verdict.summary
    assert judge(rows(random=1.001, growth=1.0), ()).outcome == "holds on a range"
    assert judge(rows(seeds=1), ()).outcome == "undecided"
    late = [*rows(), *network("labels", "true", 800, 128, {"converged": 0.0})]
    assert "1 settings have a network that did not reach the loss" in judge(late, ()).summary


def grid(agree, noise=0.0, seeds=3, converged=1.0):
    """A grid whose gap grows with width, depth and rate; `agree` says the sign with which each measure follows it."""
    found = []
    for w, d, b, r in itertools.product((8, 16), (2, 3), (10, 20), (0.1, 0.2)):
        gap = w / 160 + d / 20 + b / 1000 + r / 10
        at = {"width": w, "layers": d, "batch": b, "learning_rate": r, "samples": 300}
        for seed in range(seeds):
            own = {name: sign * gap + noise * ((7 * w + 3 * d + b + 10 * r) * (seed + 1) % 3) for name, sign in agree.items()}
            own |= {"converged": converged, "training_error": 0.0, "test_error": gap}
            found += [Row(quantity=name, value=value, seed=seed, labels=at) for name, value in own.items()]
    return found


SIGNS = {"pacbayes_mag_flatness": 1, "path_norm_over_margin": 1, "pacbayes_flatness": -1, "params": -1}


def test_the_verdict_on_a_ranking():
    judge = find_job("measure-ranking").judge
    verdict = judge(grid(SIGNS), ())
    assert verdict.outcome == "holds"
    assert "4 of 4" in verdict.summary
    psi = {line.what: line.measured for line in verdict.comparisons}
    assert psi["Psi of params"] == -1
    assert psi["Psi of path_norm_over_margin"] == 1
    assert judge(grid({name: -sign for name, sign in SIGNS.items()}), ()).outcome == "fails"
    assert judge(grid(SIGNS | {"params": 1}), ()).outcome == "holds on a range"
    assert judge(grid(SIGNS, seeds=1), ()).outcome == "undecided"
    assert judge(grid(SIGNS, converged=0.0), ()).outcome == "undecided"


def test_a_network_that_did_not_reach_the_loss_is_left_out():
    cells = job_of_ranking.cells_of([*grid(SIGNS), *grid(SIGNS, converged=0.0)])
    assert cells == {}
    some = grid(SIGNS)
    late = [row if row.quantity != "converged" or row.labels["width"] == 8 else Row(
        quantity="converged", value=0.0, seed=row.seed, labels=row.labels) for row in some]  # fmt: skip
    assert len(job_of_ranking.cells_of(late)) == 8


def test_certainty_of_pairs_and_missing_measures():
    """Pairs within the noise of few test points are no environment of the robust protocol."""
    gaps, settings = [0.10, 0.11, 0.30, 0.31], {"width": [8, 16, 8, 16], "depth": [2, 2, 3, 3]}
    measure = {"mu": [1.0, 0.9, 3.0, 2.9]}  # wrong within a depth, right between them
    by_all, by_certain = (rank_measures(measure, gaps, settings, n)[0] for n in (None, 1000))
    assert (by_all.worst_error, by_all.worst_environment) == (1.0, "width 8 to 16")
    assert (by_certain.worst_error, by_certain.worst_environment) == (0.0, "depth 2 to 3")
    assert by_all.mean == by_certain.mean == 0
    assert rank_measures(measure, gaps, settings, 10)[0].worst_error is None
    part = rank_measures({"mu": [1.0, None, 3.0, None]}, gaps, settings)[0]
    assert (part.networks, part.by_hyperparameter) == (2, {"depth": 1.0})
    with pytest.raises(InputError, match="has 3 values, expected one for each of 4"):
        rank_measures({"mu": [1, 2, 3]}, gaps, settings)


@pytest.mark.slow
def test_the_page_has_the_psi_of_the_committed_rows():
    from pathlib import Path

    root = Path(__file__).parents[3]
    rows = rows_from_csv((root / "data" / "measured" / "measure_ranking.csv").read_bytes())
    verdict = find_job("measure-ranking").judge(rows, ())
    assert verdict.outcome == "holds on a range"
    psi = {line.what.removeprefix("Psi of "): line.measured for line in verdict.comparisons}
    page = (root / "docs" / "capacity.md").read_text()
    printed = re.findall(r"^\| `([a-z0-9-]+)`[^|]*\| ([+-][\d.]+) ±", page, re.MULTILINE)
    assert len(printed) > 10
    for name, value in printed:
        assert psi[quantity_of(name)] == pytest.approx(float(value), abs=0.0051), name
