"""The job on positions at its smallest size: its arms, tasks, trainings, and its verdict on made and on committed rows."""

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest

torch = pytest.importorskip("torch")

from depthwidth import Transformer  # noqa: E402
from depthwidth.coefficients import data_directory  # noqa: E402
from verify import build  # noqa: E402
from verify.jobs import Context, find_job  # noqa: E402
from verify.jobs._training import tree_of  # noqa: E402
from verify.jobs.diet_positions import PROBED, RATES, SCHEMES, TASKS, arm, recipe_with_rate  # noqa: E402
from verify.jobs.diet_sharing import SHARED  # noqa: E402
from verify.models.model import IGNORED  # noqa: E402
from verify.rows import Row, rows_from_csv  # noqa: E402


def test_arms_have_equal_parameters():
    for task in ("bytes", "count"):
        sizes = [Transformer(**arm(task, name, 32, 4)).parameters for name in SCHEMES]
        assert max(sizes) - min(sizes) < 0.003 * max(sizes)
    plain = arm("bytes", "none", 32, 4)
    assert Transformer(**plain | {"ffn": 128}).parameters < 0.98 * Transformer(**arm("bytes", "input", 32, 4)).parameters


def test_tasks_are_what_they_say():
    tokens = torch.randint(16, (4, 32), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    read, targets = TASKS["bytes"](tokens)
    hidden = read == 256
    assert hidden.sum(1).tolist() in [[a, b, c, d] for a in (5, 6) for b in (5, 6) for c in (5, 6) for d in (5, 6)]
    assert torch.equal(targets[hidden], tokens[hidden])
    assert (targets[~hidden] == IGNORED).all()
    for name, moves in (("count", True), ("shift", False), ("permutation", False)):
        _, targets = TASKS[name](tokens)
        _, after = TASKS[name](tokens[:, order])
        assert torch.equal(targets[:, order], after) == moves, name
    assert torch.equal(TASKS["shift"](tokens)[1][:, 3:], tokens[:, :-3])
    _, turned = TASKS["shift"](tokens.roll(5, 1))
    assert torch.equal(turned, TASKS["shift"](tokens)[1].roll(5, 1))
    assert not torch.equal(TASKS["permutation"](tokens.roll(5, 1))[1], TASKS["permutation"](tokens)[1].roll(5, 1))


@pytest.mark.slow
def test_shared_tables_are_fewer_at_equal_parameters():
    specs = {tuple(run.labels.values()): run.spec for run in find_job("diet-sharing").runs("tiny")}
    trees = {place: tree_of(spec) for place, spec in specs.items()}
    sizes = [tree.parameters for tree in trees.values()]
    assert max(sizes) - min(sizes) < 0.01 * max(sizes)

    def tables(scheme, shared):
        model = build(trees[scheme, shared], "xavier", seed=0)
        return sum(weight.numel() for name, weight in model.named_parameters() if ".position." in name)

    for scheme in ("diet-rel", "diet-abs"):
        assert tables(scheme, "none") == 2 * tables(scheme, "layers") == 2 * tables(scheme, "heads")  # of two layers, two heads


@pytest.mark.slow
def test_the_job_on_sharing_trains_at_the_smallest_size(tmp_path):
    job = find_job("diet-sharing")
    losses = set()
    picked = [run for run in job.runs("tiny") if run.labels["positions"] == "diet-abs" and run.labels["shared"] != "none"]
    for number, run in enumerate(picked):
        found = list(job.measure(run.spec, Context("cpu", tmp_path / str(number), 0)))
        losses.add(next(one.value for one in found if one.quantity == "loss"))
    assert len(losses) == 2


def test_the_verdict_on_sharing():
    judge = find_job("diet-sharing").judge

    def shared(**changed):
        means = {(scheme, name): 2.5 + 0.1 * (name == "heads") for scheme in ("diet-rel", "diet-abs") for name in SHARED}
        means |= {tuple(name.split("/")): value for name, value in changed.items()}
        return [
            Row(quantity="loss", value=value + 0.01 * seed, seed=seed, labels={"positions": scheme, "shared": name})
            for (scheme, name), value in means.items() for seed in range(3)
        ]  # fmt: skip

    assert judge(shared(), ()).outcome == "holds"
    for wrong in ({"diet-rel/heads": 2.5}, {"diet-abs/heads": 2.4}, {"diet-abs/layers": 2.6}, {"diet-rel/layers": 2.4}):
        verdict = judge(shared(**wrong), ())
        assert verdict.outcome == "holds on a range", wrong
        assert verdict.summary.startswith("3 of the paper's 4 rules")
    assert judge(shared(**{"diet-abs/layers": 2.4}), ()).outcome == "holds"
    assert judge(shared()[:-3], ()).summary == "runs are missing"


def runs(**wanted):
    return [one for one in find_job("diet-positions").runs("tiny") if wanted.items() <= one.labels.items()]


def test_tables_learn_faster_and_the_rest_does_not():
    (run,) = runs(task="bytes", positions="diet-abs", rate=15)
    (plain,) = runs(task="bytes", positions="diet-abs", rate=1)
    one, other = recipe_with_rate(run.spec), recipe_with_rate(plain.spec)
    for line, base in zip(one.tensors, other.tensors, strict=True):
        factor = 15 if ".position." in line.role else 1
        assert line.learning_rate == factor * base.learning_rate
        assert line.std == base.std


@pytest.mark.slow
def test_it_trains_resumes_and_trains_together_at_the_smallest_size(tmp_path):
    job = find_job("diet-positions")
    picked = [*runs(task="bytes", positions="diet-rel", rate=15), *runs(task="count", positions="shaw", rate=15)]
    for number, run in enumerate(picked):
        context = Context("cpu", tmp_path / str(number), 0)
        found = list(job.measure(run.spec, context))
        assert [one.quantity for one in found] == ["loss", "diverged"]
        assert list(job.measure(run.spec, context)) == found  # from the folder
        contexts = [Context("cpu", tmp_path / f"{number} {seed}", seed) for seed in range(2)]
        together = list(job.ensemble.measure([run.spec] * 2, contexts, tmp_path / f"together {number}"))
        assert together[0][0].value == pytest.approx(found[0].value, rel=1e-5)
        assert together[1][0].value != together[0][0].value


def rows(**changed):
    """Losses as the paper claims them, with three seeds."""
    means = {("bytes", name): 2.5 for name in SCHEMES} | {("count", name): 1.2 for name in SCHEMES}
    means |= {("bytes", "diet-rel"): 2.1, ("bytes", "diet-abs"): 2.2}
    means |= {(task, name): 2.7 for task in ("shift", "permutation") for name in PROBED}
    means |= {("shift", "diet-rel"): 0.01, ("shift", "diet-abs"): 0.01, ("permutation", "diet-abs"): 0.01}
    means |= {tuple(name.split("/")): value for name, value in changed.items()}
    return [
        Row(quantity="loss", value=value + 0.01 * seed + 0.5 * (rate == 1), seed=seed,
            labels={"task": task, "positions": name, "rate": rate})
        for (task, name), value in means.items() for rate in RATES for seed in range(3)
    ]  # fmt: skip


def test_the_verdict():
    judge = find_job("diet-positions").judge
    good = judge(rows(), ())
    assert good.outcome == "holds"
    assert good.comparisons[0].measured == pytest.approx(-0.4)
    for wrong in ({"bytes/diet-rel": 2.49}, {"count/rotary": 1.0}, {"permutation/diet-rel": 0.5}, {"shift/diet-abs": 0.5}):
        assert judge(rows(**wrong), ()).outcome == "holds on a range", wrong
    assert judge(rows()[:-6], ()).outcome == "undecided"
    assert judge([row for row in rows() if row.seed == 0], ()).outcome == "undecided"
    assert judge(rows(**{"bytes/none": float("inf")}), ()).summary == "a run diverged"


def test_the_page_prints_the_committed_rows_and_their_verdict():
    found = rows_from_csv((data_directory() / "measured" / "diet_positions.csv").read_bytes())
    page = (Path(__file__).parents[3] / "docs" / "positions.md").read_text(encoding="utf-8")
    verdict = find_job("diet-positions").judge(found, ())
    assert f"the verdict is *{verdict.outcome}*" in page
    losses = {}
    for row in found:
        losses.setdefault((row.labels["task"], row.labels["positions"], row.labels["rate"]), []).append(row.value)
    assert all(len(values) == 3 for values in losses.values())
    for (_, positions, _), values in losses.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{positions}` |") and line.count("(0.") > 1]
        assert f"{mean(values):.3f} ({stdev(values):.3f})" in line
    gains = {line.what: line for line in verdict.comparisons}
    for name in ("diet-rel", "diet-abs"):
        assert gains[f"text: loss of {name} less that of input"].passes
    # The control: positions at the input and DIET-REL exchanged.
    other = {"input": "diet-rel", "diet-rel": "input"}
    turned = [
        replace(row, labels={**row.labels, "positions": other.get(row.labels["positions"], row.labels["positions"])})
        for row in found
    ]
    assert not find_job("diet-positions").judge(turned, ()).comparisons[0].passes


def test_the_page_prints_the_committed_rows_of_sharing():
    found = rows_from_csv((data_directory() / "measured" / "diet_sharing.csv").read_bytes())
    page = (Path(__file__).parents[3] / "docs" / "positions.md").read_text(encoding="utf-8")
    verdict = find_job("diet-sharing").judge(found, ())
    assert f"The verdict is *{verdict.outcome}*: the two rules for layers are met" in page
    assert [line.passes for line in verdict.comparisons] == [False, False, True, True]
    for line in verdict.comparisons:
        assert f"{line.measured:+.3f}({1000 * line.stderr:.0f})" in page, line.what
