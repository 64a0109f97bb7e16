"""Rules from fits in files: the curve is that of the formulas with the file's numbers, and a bad file gets one sentence."""

import json
import math
from pathlib import Path

import pytest

from depthwidth import InputError, find_rule, plan
from depthwidth.coefficients import coefficient, covariance
from depthwidth.formulas import rules as laws
from depthwidth.planning.rules import curves_of_law, meet, rule_of_file

HEADER = "edition,name,value,stderr,unit,status,source,note\n"


def written(folder, law, values, pairs=(), name="ours"):
    path = folder / f"{name}.csv"
    path.write_text(HEADER + "".join(f"{law},{key},{value!r},,1,measured,ours,\n" for key, value in values.items()))
    if pairs:
        lines = "".join(f"{law},{a},{b},{value!r},measured\n" for (a, b), value in dict(pairs).items())
        path.with_suffix(".covariance.csv").write_text("edition,row,column,value,status\n" + lines)
    return str(path)


def known(law, *names):
    return {name: coefficient(law, name).value for name in names}


RANGES = {"depth_min": 3.0, "depth_max": 80.0, "width_min": 256.0, "width_max": 3072.0}


def test_the_published_numbers_in_a_file_are_the_published_rule(tmp_path):
    names = ("A", "alpha", "B", "beta")
    pairs = {pair: value for pair, value in covariance("gemstones2025").items() if set(pair) <= set(names)}
    path = written(tmp_path, "gemstones", known("gemstones2025", *names) | RANGES, pairs)
    own, published = rule_of_file(path), find_rule("gemstones2025")
    assert (own.name, own.kind, own.fitted_on) == ("ours", "fitted", published.fitted_on)
    width = own.curve()(40.0)[1]
    assert published.curve()(width) == pytest.approx((40.0, width))
    for side, curve in own.variants().items():
        assert curve(40.0)[1] == pytest.approx(published.variants()[side](40.0)[1], rel=1e-4)
    one, other = plan("1B", rule=path), plan("1B", rule="gemstones2025")
    assert (one.shape.depth, one.shape.width) == (other.shape.depth, other.shape.width)
    assert one.coefficient_band.width == pytest.approx(other.coefficient_band.width, rel=1e-3)
    assert "ours" in one.rules
    assert "ours" not in other.rules


def test_rules_of_the_other_laws(tmp_path):
    liu = rule_of_file(written(tmp_path, "inverse-depth", known("liu2026", "c_m", "alpha_m", "c_l", "alpha_l"), name="liu"))
    assert liu.curve()(30.0)[1] == pytest.approx(laws.liu_width(30.0))
    line = rule_of_file(
        written(
            tmp_path,
            "crossings",
            known("levine2020", "a", "b"),
            {("a", "a"): 9e-4, ("b", "b"): 1e-6, ("a", "b"): -2e-5},
            "line",
        )
    )
    assert line.curve()(24.0)[1] == pytest.approx(laws.levine_width(24.0))
    up = line.variants()["plus one standard error"](24.0)[1]
    assert math.log(up / laws.levine_width(24.0)) == pytest.approx(math.sqrt(9e-4 + 24**2 * 1e-6 - 2 * 24 * 2e-5))
    sizes = {"non_embedding_min": 2.3e7, "non_embedding_max": 1.8e9}
    measured = rule_of_file(
        written(tmp_path, "shape-penalty", known("shape_penalty", "x0", "s", "N_0") | sizes, name="measured")
    )
    assert measured.curve()(2e8) == pytest.approx(find_rule("measured2025").curve()(2e8))
    assert measured.fitted_on == (("parameters", 2.3e7, 1.8e9),)
    changed = rule_of_file(
        written(tmp_path, "shape-penalty", known("shape_penalty", "s", "N_0") | sizes | {"x0": 0.5}, name="moved")
    )
    assert changed.curve()(2e8)[1] == pytest.approx(math.exp(0.4) * measured.curve()(2e8)[1])


def test_a_rule_is_found_again_by_its_name_and_hides_no_other(tmp_path):
    path = written(tmp_path, "crossings", {"a": 5.0, "b": 0.06}, name="levine2020")
    assert find_rule(path).name == "levine2020.csv"
    assert find_rule("levine2020").curve()(24.0)[1] == pytest.approx(laws.levine_width(24.0))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no coefficients"),
        (b"", "has no rows"),
        (HEADER.encode(), "has no rows"),
        (b"a,b\n1,2\n", "lacks the column edition, name"),
        (b"\xff\xfe", "has no rows|UTF-8"),
        (HEADER.encode() + b"chinchilla,E,1.7,,nats,measured,ours,\n", "the law 'chinchilla' has no shape of least loss"),
        (HEADER.encode() + b"crossings,a,5,,1,measured,ours,\n", "lacks the coefficient b of the law crossings"),
        (HEADER.encode() + b"crossings,a,high,,1,measured,ours,\n", "a value that is not a finite number"),
        (HEADER.encode() + b"crossings,a,nan,,1,measured,ours,\n", "a value that is not a finite number"),
        (HEADER.encode() + b"crossings,a,5\n", "a row of another length"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as error:
        plan("1B", rule=str(path))
    assert "\n" not in str(error.value)


def test_a_plan_by_a_file_from_the_command_line(invoke, tmp_path):
    path = written(tmp_path, "crossings", {"a": 5.0, "b": 0.06})
    result = invoke("plan", "1B", "--rule", path)
    assert result.status == 0
    assert json.loads(invoke("plan", "1B", "--rule", path, "--json").output)["rule"] == "ours"


def test_the_curve_of_a_law_s_coefficients_is_that_of_the_formula():
    curve = curves_of_law("crossings", known("levine2020", "a", "b"))(12)
    assert curve(24.0)[1] == pytest.approx(laws.levine_width(24.0))
    with pytest.raises(InputError, match="'chinchilla' has no shape of least loss"):
        curves_of_law("chinchilla", {})


TEXT = "loss = A * width**-alpha + B * depth**-beta + C * parameters**-gamma + D * tokens**-zeta + epsilon"


def own(folder, text, values, pairs=(), name="mine"):
    path = Path(written(folder, "own", values, pairs, name))
    path.write_text(path.read_text().replace(",ours,", f",ours,{text}; 68.3 % interval 1 to 2"))
    return str(path)


def width_at(curve, size):
    return meet(curve, lambda depth, width: 12 * depth * width**2, size)[1]


def test_a_law_in_ones_own_words_has_the_shapes_of_the_same_law_by_name(tmp_path):
    names = ("A", "alpha", "B", "beta")
    pairs = {pair: value for pair, value in covariance("gemstones2025").items() if set(pair) <= set(names)}
    values = known("gemstones2025", *names, "C", "gamma", "D", "zeta", "epsilon") | RANGES
    by_name = rule_of_file(written(tmp_path, "gemstones", values, pairs))
    found = rule_of_file(own(tmp_path, TEXT, values, pairs))
    assert (found.name, found.fitted_on) == ("mine", by_name.fitted_on)
    for size in (3e6, 1e9, 1e12):
        assert width_at(found.curve(), size) == pytest.approx(width_at(by_name.curve(), size), rel=1e-3)
        low, high = (width_at(one, size) for one in found.variants().values())
        assert low < width_at(found.curve(), size) < high
        other = [width_at(one, size) for one in by_name.variants().values()]
        assert math.log(high / low) == pytest.approx(math.log(max(other) / min(other)), rel=0.1)
    one, other = plan("7B", rule=str(tmp_path / "mine.csv")), plan("7B", rule="gemstones2025")
    assert (one.shape.depth, one.shape.width) == (other.shape.depth, other.shape.width)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("loss = epsilon + A * width**-alpha", "has no shape of least loss"),
        ("loss = epsilon + A * parameters**-alpha", "mentions neither width nor depth"),
        ("loss = epsilon + A * width**-alpha + B * head_dim**-beta", "needs head_dim, neither a coefficient nor a shape"),
        ("width = A * depth**alpha", "from a law of the loss"),
        ("loss = __import__(width)", "uses '__import__'"),
        ("", "from a law of the loss"),
    ],
)
def test_a_law_without_an_optimum_or_of_other_columns_is_refused(text, sentence, tmp_path):
    values = known("gemstones2025", "A", "alpha", "B", "beta", "epsilon")
    with pytest.raises(InputError, match=sentence) as refused:
        plan("1B", rule=own(tmp_path, text, values, name="bad"))
    assert "\n" not in str(refused.value)


def test_an_own_law_ends_where_its_optimum_does(tmp_path):
    """The best width of this law is 512 at any size: below the size of one layer of it, and beyond 100,000, there is none."""
    text = "loss = 2 + k * log(width / w)**2"
    found = rule_of_file(own(tmp_path, text, {"k": 0.1, "w": 512.0}))
    assert found.curve()(1e9)[1] == pytest.approx(512, rel=1e-3)
    with pytest.raises(InputError):
        found.curve()(1e5)
    with pytest.raises(OverflowError):
        found.curve()(1e13)
    with pytest.raises(InputError, match="mine has no shape at 10T"):
        plan("10T", rule=str(tmp_path / "mine.csv"))
    assert plan("1B", rule=str(tmp_path / "mine.csv")).rules["mine"].width == pytest.approx(512, rel=1e-3)


@pytest.mark.slow
def test_from_a_table_to_a_plan_by_an_own_law(tmp_path, invoke, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        f"{width},{depth},{1.5 + 8 * width**-0.5 + 0.9 * depth**-0.9 + 1e-4 * ((width + depth) % 7)}\n"
        for width in (128, 256, 512, 1024) for depth in (2, 4, 8, 16, 32)
    ]  # fmt: skip
    (tmp_path / "runs.csv").write_text("width,depth,loss\n" + "".join(lines))
    law = "loss = E + A * width**-alpha + B * depth**-beta"
    result = invoke("fit", "runs.csv", "--law", law, "--no-held-out", "--save", "mine", "--draws", "10", "--starts", "4")
    assert result.status == 0, result.error
    assert "plan 1B --rule mine.csv" in result.output
    assert json.loads(invoke("plan", "1B", "--rule", "mine.csv", "--json").output)["rule"] == "mine"
