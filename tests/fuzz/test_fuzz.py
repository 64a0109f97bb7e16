"""No input ends in a traceback, hangs or takes memory without bound: 2,000 seeded cases here, 22,000 with ``pytest -m fuzz``.

A case is known by its driver and number: ``drivers.case("options", 954, folder)`` runs it alone. ``DEPTHWIDTH_FUZZ_SEED=WORD``
in the environment chooses other cases.
"""

import json

import pytest

pytest.importorskip("torch")

import data_drivers
import drivers
import page_drivers

assert len(drivers.DRIVERS) == 12, (data_drivers, page_drivers)

FEW = {
    "configurations": 300,
    "options": 300,
    "archives": 200,
    "files_under_out": 200,
    "expressions": 300,
    "stored_files": 150,
    "texts": 120,
    "tables": 120,
    "checkpoints": 100,
    "pages": 80,
    "pictures": 50,
    "verifier": 80,
}
MANY = {
    "configurations": 5000,
    "options": 5000,
    "archives": 2000,
    "files_under_out": 2000,
    "expressions": 2500,
    "stored_files": 1500,
    "texts": 900,
    "tables": 1000,
    "checkpoints": 600,
    "pages": 500,
    "pictures": 400,
    "verifier": 600,
}
NEEDS = {"checkpoints": "safetensors", "pages": "jinja2"}


def failures(driver, numbers, folder):
    """The cases that fail, each with its error."""
    if driver in NEEDS:
        pytest.importorskip(NEEDS[driver])
    found = {}
    for number in numbers:
        try:
            drivers.case(driver, number, folder)
        except (Exception, drivers.TooLong) as error:  # noqa: BLE001, RUF100
            found[number] = f"{type(error).__name__}: {error}"[:500]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("driver", drivers.DRIVERS)
def test_no_case_fails(driver, tmp_path):
    assert failures(driver, range(FEW[driver]), tmp_path) == {}


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("driver", drivers.DRIVERS)
def test_no_case_of_many_fails(driver, part, tmp_path):
    size = MANY[driver] // 10
    first = FEW[driver] + part * size
    assert failures(driver, range(first, first + size), tmp_path) == {}


def test_the_numbers_of_cases():
    assert sum(FEW.values()) == 2000
    assert sum(MANY.values()) == 22_000
    assert set(FEW) == set(MANY) == set(drivers.DRIVERS)


def test_a_case_is_the_same_each_time(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(drivers, "run", lambda *words: seen.append(words))
    for _ in range(2):
        for number in range(5):
            drivers.case("options", number, tmp_path)
            drivers.case("expressions", number, tmp_path)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]


def test_another_seed_has_other_cases(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(drivers, "run", lambda *words: seen.append(words))
    for seed in ("", "1", "2"):
        monkeypatch.setattr(drivers, "SEED", seed)
        drivers.case("options", 0, tmp_path)
    assert len(set(seen)) == 3


NOT_CLEAN = [
    (1, "", "Traceback (most recent call last)"),
    (0, "\x1b[31m", ""),
    (2, "", "no sentence"),
    (2, "", "Error: a\nError: b\n"),
    (9, "", ""),
    (3, "", "Error: this takes more memory than there is"),
]


@pytest.mark.parametrize(("status", "out", "err"), NOT_CLEAN)
def test_what_a_driver_does_not_let_pass(status, out, err):
    """The negative control."""
    with pytest.raises(AssertionError):
        drivers.check(status, out, err)


@pytest.mark.parametrize("trouble", [ZeroDivisionError, RecursionError, KeyError])
def test_a_traceback_is_a_failure(tmp_path, monkeypatch, trouble):
    def fail(*_, **__):
        raise trouble

    monkeypatch.setattr("depthwidth.planning.plan.plan", fail)
    monkeypatch.setitem(drivers.DRIVERS, "plan", lambda rng, folder: drivers.run("plan", "1B"))
    assert trouble.__name__ in failures("plan", [0], tmp_path)[0]


def test_a_hang_is_a_failure(tmp_path, monkeypatch):
    def hang(*_, **__):
        while True:
            pass

    monkeypatch.setattr(drivers, "LIMIT_S", 0.05)
    monkeypatch.setattr("depthwidth.planning.plan.plan", hang)
    monkeypatch.setitem(drivers.DRIVERS, "plan", lambda rng, folder: drivers.run("plan", "1B"))
    assert "TooLong" in failures("plan", [0], tmp_path)[0]


# Small inputs that ended in a traceback, a hang or a shortage of memory before.

FORMULAS = {
    ("gaussian.relu_second_moment", "variance=n", "mean=1e30,1"): "symbols and lists cannot be mixed",
    ("rules.sovit_depth", "width=x", "width0=1e30,2"): "symbols and lists cannot be mixed",
    ("saturation.typical_squared_sum", "variance=1,2", "length=n"): "symbols and lists cannot be mixed",
}


@pytest.mark.parametrize("words", FORMULAS, ids=lambda words: words[0])
def test_formulas_at_arguments_that_do_not_go_together(invoke, words):
    result = invoke("formulas", "eval", *words)
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert FORMULAS[words] in result.error


OPTIONS = {
    ("moments", "llama.json", "--context", "1e12"): "context=1000000000000 is not a whole number from 2 to 16,777,216",
    ("moments", "llama.json", "--text", "text.txt", "--windows", "1e12"): "windows='1e12' is above 10,000",
    ("moments", "llama.json", "--variance", "5e-324"): "variance=5e-324 is not a positive number from 1e-60 to 1e+60",
    ("moments", "llama.json", "--variance", "inf"): "variance='inf' is not a finite number",
    ("heads", "--width", "1024", "--context", "64", "--layers", "1e12"): "layers='1e12' is above 100,000",
    ("plan", "1B", "--ffn-ratio", "1e99999999"): "is not a ratio like 4, 2.6875 or 8/3",
    ("plan", "1B", "--ffn-ratio", "1/0"): "is not a ratio like 4, 2.6875 or 8/3",
    ("plan", "--flops", "1e22", "--tokens-per-parameter", "nan"): "tokens_per_parameter='nan' is not a finite number",
    ("plan", "--flops", "1e20", "--tokens-per-parameter", "1e-300"): "is not a number from 1e-06 to 1e+06",
    ("plan", "--flops", "1e20", "--tokens-per-parameter", "1e300"): "is not a number from 1e-06 to 1e+06",
    ("pareto", "1e30", "--smallest", "0.1"): "1e+30 parameters are above 1e+18, the most that are accepted",
    ("plan", "--memory", "80GB", "--pipeline", "1e6"): "pipeline=1000000 is not a whole number from 1 to 10,000",
    ("fit", "runs.csv", "--delta", "1e300"): "delta=1e+300 is not a number from 1e-09 to 1e+09",
    ("verify", "fit", "walk", "y = a", "--start", "a=1", "--draws", "1e12"): "draws='1e12' is above 100,000",
    ("verify", "run", "moments", "--workers", "1000000000"): "workers=1000000000 is not a whole number from 1 to 10,000",
    ("verify", "run", "moments", "--ensemble", "1e9"): "ensemble='1e9' is above 10,000",
}  # fmt: skip


@pytest.mark.parametrize("column", range(4))
def test_a_table_of_runs_may_lack_a_cell(invoke, tmp_path, column):
    """pandas keeps what is missing as a number, in a column that is told as text too."""
    rows = [
        [width, depth, 3 + (width / depth / 30 - 1) ** 2 / 50, 12 * depth * width**2]
        for width in (64, 96, 128, 192) for depth in (2, 4, 8)
    ]  # fmt: skip
    rows[2][column] = ""
    lines = [",".join(map(str, row)) for row in rows]
    (tmp_path / "runs.csv").write_text("width,depth,loss,non_embedding\n" + "\n".join(lines))
    result = invoke("evidence", tmp_path / "runs.csv", "--draws", "4")
    assert (result.status, "have no finite number" in result.output + result.error) == (0, True), result.error


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_an_option_has_a_ceiling(invoke, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama.json").write_text(json.dumps(drivers.LLAMA))
    (tmp_path / "text.txt").write_text("a b a c " * 50)
    (tmp_path / "runs.csv").write_text("width,depth,parameters,tokens,loss\n64,2,1e5,2e6,4.3\n")
    result = invoke(*words)
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert OPTIONS[words] in result.error


def test_moments_out_of_range_are_one_sentence(monkeypatch):
    """A division by zero, wherever a component makes it, and a number that is none."""
    from depthwidth.analysis import propagation
    from depthwidth.architecture import Transformer
    from depthwidth.errors import InputError

    tree = Transformer(depth=2, width=32, heads=4, vocab=97, context=24)
    with pytest.raises(InputError, match="is not a positive number from 1e-60"):
        propagation.propagate(tree, "gpt2", variance=1e-300)

    def divide(*_, **__):
        return 1 / 0

    monkeypatch.setattr(propagation, "_trace_tree", divide)
    with pytest.raises(InputError, match="leave the range of floating-point numbers"):
        propagation.propagate(tree, "gpt2")


def test_moments_are_followed_through_a_number_of_blocks():
    from depthwidth.analysis.propagation import propagate
    from depthwidth.architecture import Transformer
    from depthwidth.errors import InputError

    with pytest.raises(InputError, match="the decoder has 10,001 blocks; moments are followed through 10,000"):
        propagate(Transformer(depth=10_001, width=32, heads=4, vocab=97, context=24), "gpt2")
