"""The parts of a job, finding jobs, and the identity of runs."""

import dataclasses
import math
import sys
from pathlib import Path

import pytest
from helpers import one_quick_in

from depthwidth import InputError
from verify import jobs as framework
from verify.jobs import (
    OUTCOMES,
    SIZES,
    Context,
    Job,
    Measurement,
    Prediction,
    Run,
    Verdict,
    find_job,
    jobs,
    run_name,
    version_of,
    versions,
)
from verify.rows import Row
from verify.runs.driver import build_rows
from verify.runs.plans import make_plan, same_plan

OWN = Path(__file__).parents[1] / "own_jobs"


@pytest.mark.parametrize("name", jobs())
def test_a_job_says_what_it_is(name):
    job = jobs()[name]
    assert job.question.endswith("?")
    assert all(words.endswith(".") for words in (job.claim, job.measured, job.criterion))
    home = Path(framework.__file__).parent / f"{name.replace('-', '_')}.py"
    assert home.exists(), "one claim a file, called as the job"


@pytest.mark.slow
@pytest.mark.parametrize("name", jobs())
def test_the_large_sizes_have_runs(name, monkeypatch):
    """The first of them, without reading gigabytes of text; predicting all would take longer than this test may."""
    home = sys.modules[jobs()[name].runs.__module__]
    if hasattr(home, "data_spec"):
        monkeypatch.setattr(home, "data_spec", lambda limit, vocab=256: {"limit": limit, "vocab": vocab, "sha256": ""})
    if name == "deep-stability":
        monkeypatch.setattr(home, "_predictions", lambda key: ())
    for size in ("gpu", "full"):
        first = next(iter(jobs()[name].runs(size)))
        assert run_name(name, "code", first)


@pytest.mark.slow
@pytest.mark.parametrize("name", jobs())
def test_a_size_can_be_planned(name):
    """Predictions are finite and name their formula and its version; a run that is planned twice is the same run."""
    plan = make_plan(jobs()[name], "tiny")
    predictions = [*plan["predictions"], *(p for run in plan["runs"] for p in run["predictions"])]
    assert predictions
    for prediction in predictions:
        assert math.isfinite(prediction["value"])
        assert prediction["formula"]
        assert "+" in prediction["version"]
    assert all(run["cost"] > 0 for run in plan["runs"])
    assert same_plan(plan, make_plan(jobs()[name], "tiny"))


@pytest.mark.slow
@pytest.mark.parametrize("name", jobs())
def test_without_rows_nothing_is_claimed(name):
    job = jobs()[name]
    assert job.judge([], list(job.predict("tiny"))).outcome == "undecided"


def run(**changes):
    return dataclasses.replace(Run({"tree": {"depth": 2}, "steps": 10}, seed=1), **changes)


def test_a_run_is_what_decides_what_it_finds():
    name = run_name("walk", "code", run())
    assert name == run_name("walk", "code", run(spec={"steps": 10, "tree": {"depth": 2}}))
    assert name == run_name("walk", "code", run(labels={"a": 1}, cost=5.0, cpus=2.0))
    for other in (
        run_name("other", "code", run()),
        run_name("walk", "edoc", run()),
        run_name("walk", "code", run(seed=2)),
        run_name("walk", "code", run(spec={"tree": {"depth": 2}, "steps": 11})),
        run_name("walk", "code", run(spec={"tree": {"depth": 2}, "steps": "10"})),
    ):
        assert other != name


def test_a_description_must_be_plain():
    for wrong in (math.nan, {1, 2}, Path("x")):
        with pytest.raises(InputError, match="plain JSON"):
            run_name("walk", "code", run(spec={"x": wrong}))


def test_the_version_of_code_is_that_of_what_it_does(tmp_path):
    def code(text):
        path = tmp_path / "own.py"
        path.write_text(text)
        module = type(framework)("own")
        module.__file__ = str(path)
        return versions.code_of(module)

    source = 'def f(x):\n    """Double it."""\n    return 2 * x\n'
    one = code(source)
    assert code('def f(x):\n    "Twice."\n    # really\n    return (2\n        * x)\n') == one
    assert code(source.replace("2 * x", "3 * x")) != one


@one_quick_in(
    3,
    ("job", "module", "counts"),
    [
        ("depth-crossing", "verify.jobs._training", True),
        ("depth-crossing", "verify.training.optim", True),  # imported by what the job's module imports
        ("depth-crossing", "verify.models.initialize", True),
        ("depth-crossing", "verify.jobs.depth_crossing", False),  # a shared function measures; the spec says the rest
        ("depth-crossing", "verify.measure.heads", False),
        ("head-allocation", "verify.measure.heads", True),
        ("head-allocation", "depthwidth.planning.head_allocation", True),  # named in `uses`
        ("attention-entropy", "verify.jobs.attention_entropy", True),
        ("attention-entropy", "verify.runs.report", False),
        ("attention-entropy", "verify.rows", False),
        ("walk", "verify.files", False),
    ],
    first=1,
)
def test_the_code_of_a_job_is_all_that_its_measurement_imports(monkeypatch, job, module, counts):
    """Nobody lists it, so that nobody can forget a module."""
    monkeypatch.setenv("DEPTHWIDTH_JOBS", str(OWN))
    found, real = find_job(job), versions._source

    def changed(name):
        named = name if isinstance(name, str) else name.__name__
        return real(name) + ("\nchanged = 1\n" if named == module else "")

    before = dataclasses.replace(found).code
    monkeypatch.setattr(versions, "_source", changed)
    assert (dataclasses.replace(found).code != before) == counts


def test_a_public_name_of_the_verifier_counts_as_the_module_that_defines_it(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def measure(spec, context):\n    from verify import build, probe\n")
    module = type(framework)("own")
    module.__file__ = str(path)
    assert set(versions._imports_of(module, "verify")) == {"verify.models.model", "verify.measure.probes"}


@pytest.mark.slow
def test_the_version_of_a_formula_is_that_of_all_it_is_made_of(monkeypatch):
    """A change in what a formula imports is seen, in its coefficients too; one in what it does not import is not."""
    version, real = version_of("depthwidth.analysis.propagation"), versions._source

    def with_a_change_in(changed):
        monkeypatch.setattr(versions, "_source", lambda name: real(name) + ("\nchanged = 1\n" if name == changed else ""))
        versions._version_of.cache_clear()
        try:
            return version_of("depthwidth.analysis.propagation"), version_of("depthwidth.formulas.rules.levine")
        finally:
            monkeypatch.setattr(versions, "_source", real)
            versions._version_of.cache_clear()

    law = version_of("depthwidth.formulas.rules.levine")
    assert with_a_change_in("depthwidth.layers.attention") != (version, law)
    assert with_a_change_in("depthwidth.layers.attention")[1] == law
    assert with_a_change_in("depthwidth.formulas.rules.levine")[1] != law
    assert with_a_change_in("depthwidth.cli.plots") == (version, law)


def test_the_version_of_a_law_is_also_that_of_its_coefficients(monkeypatch, tmp_path):
    law, none = version_of("depthwidth.formulas.rules.levine"), version_of("depthwidth.formulas.gaussian")
    (tmp_path / "coefficients").mkdir()
    (tmp_path / "coefficients" / "levine2020.csv").write_text("name,value\na,1\n")
    monkeypatch.setattr(versions, "data_directory", lambda: tmp_path)
    versions._version_of.cache_clear()
    assert version_of("depthwidth.formulas.rules.levine") != law
    assert version_of("depthwidth.formulas.gaussian") == none
    versions._version_of.cache_clear()


def test_a_recipe_that_decides_otherwise_makes_another_run(monkeypatch):
    """Though the scheme is called the same; a reason that is worded otherwise does not."""
    from depthwidth import initialization

    def names():
        job = find_job("depth-crossing")
        return [run_name(job.name, job.code, one) for one in job.runs("tiny")]

    before, real = names(), initialization.Recipe.rows
    monkeypatch.setattr(initialization.Recipe, "rows", lambda self, tree: [r | {"reason": "so"} for r in real(self, tree)])
    assert names() == before
    monkeypatch.setattr(
        initialization.Recipe, "rows", lambda self, tree: [r | {"std": 1.001 * r["std"]} for r in real(self, tree)]
    )
    assert not set(names()) & set(before)


def test_a_run_planned_with_another_recipe_is_not_measured(monkeypatch, tmp_path):
    from verify.jobs import _training

    spec = next(iter(find_job("depth-crossing").runs("tiny"))).spec
    context = Context("cpu", tmp_path, 0)
    assert _training.model_of(spec, context).training
    with pytest.raises(InputError, match="is different in this code from the one that was planned"):
        _training.model_of({**spec, "options": {**spec["options"], "base_width": 128}}, context)


def test_what_measures_and_what_judges_are_told_apart():
    job = find_job("depth-crossing")
    assert job.judging != find_job("optimal-width-transfer").judging
    assert dataclasses.replace(job, judge=find_job("moments").judge).code == job.code


def test_a_new_file_is_a_new_job(monkeypatch, tmp_path):
    monkeypatch.setenv("DEPTHWIDTH_JOBS", str(OWN))
    assert set(jobs()) >= {"walk", "moments"}
    assert find_job("walk").measure.__module__ == "verify_own_jobs_walk"
    monkeypatch.setenv("DEPTHWIDTH_JOBS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="is not a folder"):
        jobs()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("x = 1", "defines no JOB"),
        ("JOB = 3", "defines no JOB"),
        ("import nothing_of_that_name", "cannot be loaded: ModuleNotFoundError"),
        ("def (", "cannot be loaded: SyntaxError"),
        ((OWN / "walk.py").read_text().replace('"walk"', '"moments"'), "two jobs called moments"),
        ((OWN / "walk.py").read_text().replace('"walk"', '"../walk"'), "a job's name"),
    ],
    ids=str,
)
def test_a_file_that_is_no_job_is_one_sentence(monkeypatch, tmp_path, source, sentence):
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.setenv("DEPTHWIDTH_JOBS", str(tmp_path))
    with pytest.raises(InputError, match=sentence):
        jobs()


def test_an_unknown_job_or_size(monkeypatch):
    with pytest.raises(InputError, match="did you mean 'moments'"):
        find_job("momentum")
    with pytest.raises(InputError, match="there is no size 'huge'"):
        make_plan(find_job("moments"), "huge")


def job(runs, measure=lambda spec, context: ()):
    def judge(rows, predictions):
        return Verdict("undecided", "")

    return Job("made", "?", ".", ".", ".", lambda size: runs, measure, judge)


@pytest.mark.slow
def test_plans_that_make_no_sense():
    with pytest.raises(InputError, match="has no runs of size tiny"):
        make_plan(job([]), "tiny")
    with pytest.raises(InputError, match="two runs of size tiny alike"):
        make_plan(job([run(), run(labels={"a": 1})]), "tiny")
    twice = (Prediction("loss", 1.0, "f", "1"), Prediction("loss", 2.0, "f", "1"))
    with pytest.raises(InputError, match="predicts the same quantity of a run twice"):
        make_plan(job([run(predictions=twice)]), "tiny")


def outcome_of(plan, measurements):
    from verify.runs.executors import Task, TaskResult

    found = plan["runs"][0]
    return TaskResult(Task("made", found["run"], plan["code"], found["spec"], found["seed"], "", "cpu"), tuple(measurements))


def test_rows_stand_beside_their_predictions():
    plan = make_plan(job([run(predictions=(Prediction("loss", 1.5, "shape.f", "0.1.0+a", step=10),))]), "tiny")
    rows = build_rows(
        plan, plan["runs"][0], outcome_of(plan, [Measurement("loss", 1.25, step=10), Measurement("loss", 2, step=0)])
    )
    assert [(r.step, r.predicted, r.value, r.formula) for r in rows] == [
        (10, 1.5, 1.25, "shape.f 0.1.0+a"),
        (0, None, 2.0, ""),
    ]
    with pytest.raises(InputError, match="predicted but not measured"):
        build_rows(plan, plan["runs"][0], outcome_of(plan, [Measurement("loss", 2, step=0)]))
    with pytest.raises(InputError, match="measured twice"):
        build_rows(plan, plan["runs"][0], outcome_of(plan, [Measurement("loss", 2, step=10)] * 2))


# The job of moments.


def moment_rows(**changes):
    base = {"site": "decoder.block.0", "labels": {"depth": 2}, "stderr": 0.001}
    values = {"variance": 1.0, "correlation": 0.5, "gradient_variance": 2.0} | changes.pop("values", {})
    return [Row(**{**base, "quantity": q, "predicted": p, "value": values[q], **changes})
            for q, p in (("variance", 1.0), ("correlation", 0.5), ("gradient_variance", 2.0))]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({}, "holds"),
        ({"variance": 1.03}, "holds"),
        ({"variance": 1.05}, "fails"),
        ({"correlation": 0.53}, "fails"),
        ({"gradient_variance": 2.2}, "fails"),
        ({"variance": math.nan}, "fails"),
        ({"gradient_variance": math.inf}, "fails"),
    ],
    ids=str,
)
def test_moments_are_judged_by_the_tolerance(values, outcome):
    judge = find_job("moments").judge
    assert judge(moment_rows(values=values), ()).outcome == outcome
    if outcome == "fails":
        mixed = [*moment_rows(values=values), *moment_rows(labels={"depth": 3})]
        verdict = judge(mixed, ())
        assert verdict.outcome == "holds on a range"
        assert "1 of 2 stacks" in verdict.summary


def test_noise_widens_the_tolerance_and_is_named():
    verdict = find_job("moments").judge(moment_rows(values={"variance": 1.08}, stderr=0.02), ())
    assert verdict.outcome == "holds"
    assert "noise" in verdict.summary
    assert find_job("moments").judge(moment_rows(values={"variance": 1.2}, stderr=0.02), ()).outcome == "fails"


@pytest.mark.slow
def test_moments_at_a_tiny_size_are_as_predicted_and_a_wrong_prediction_is_not(tmp_path):
    pytest.importorskip("torch")
    moments = find_job("moments")
    plan = make_plan(moments, "tiny")
    rows = []
    for number, about in enumerate(plan["runs"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = outcome_of({**plan, "runs": [about]}, moments.measure(about["spec"], Context("cpu", folder, about["seed"])))
        rows += build_rows(plan, about, found)
    assert moments.judge(rows, ()).outcome == "holds"
    wrong = [dataclasses.replace(r, predicted=r.predicted * (1.5 if r.quantity == "gradient_variance" else 1)) for r in rows]
    assert moments.judge(wrong, ()).outcome == "fails"


@pytest.mark.slow
def test_a_simulation_goes_on_from_its_kept_draws_and_distrusts_damaged_ones(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from verify.measure import stacks as simulation

    about = make_plan(find_job("moments"), "tiny")["runs"][0]
    drawn = []
    real = simulation.one_draw
    monkeypatch.setattr(simulation, "one_draw", lambda *a: drawn.append(1) or real(*a))
    monkeypatch.setattr(simulation, "SAVE_S", 0.0)

    def measured(folder):
        folder.mkdir(exist_ok=True)
        drawn.clear()
        return list(find_job("moments").measure(about["spec"], Context("cpu", folder, 1))), len(drawn)

    whole, count = measured(tmp_path / "whole")
    assert count == about["spec"]["draws"]
    kept = (tmp_path / "whole" / "draws.csv").read_text()
    assert measured(tmp_path / "whole") == (whole, 0)
    again = tmp_path / "again"
    again.mkdir()
    for damage in (kept[: len(kept) // 2], kept.replace("0", "1", 1), "", "x\ny\n"):
        (again / "draws.csv").write_text(damage)
        assert measured(again) == (whole, count)


def test_outcomes_and_sizes_are_described():
    assert all(OUTCOMES.values())
    assert set(SIZES) == {"tiny", "small", "gpu", "full"}
