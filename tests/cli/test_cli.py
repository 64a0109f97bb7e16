"""The command line prints what the library returns, and turns every mistake into one sentence and status 2."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE, one_quick_in

from depthwidth.analysis.description import describe
from depthwidth.analysis.propagation import moments_of
from depthwidth.analysis.published_tables import table
from depthwidth.architecture import Transformer
from depthwidth.architecture.number_formats import DTYPES
from depthwidth.cli import main, options
from depthwidth.cli.main import COMMANDS
from depthwidth.formula import formulas
from depthwidth.formulas._composites import COMPOSITES
from depthwidth.hardware.optimizers import OPTIMIZERS
from depthwidth.initialization import recipe, shipped_options
from depthwidth.planning.plan import plan

GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GPT2))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "1T"),
        ("plan", "1.3B", "--preset", "llama3", "--tp", "4", "--rule", "gemstones2025"),
        ("plan", "47B", "--preset", "mixtral"),
        ("plan", "--flops", "1e22", "--tokens", "1T", "--masked"),
        ("plan", "--memory", "80GB", "--recompute", "full", "--batch", "4"),
        ("plan", "--weights", "16GB", "--dtype", "int4", "--untied", "--gated", "--ffn-ratio", "8/3"),
        ("plan", "300M", "--preset", "vit"),
        ("plan", "100M", "--vocab", "256", "--context", "512", "--norm", "rmsnorm", "--positions", "alibi", "--no-bias"),
        ("plan", "1B", "--kind", "encoder-decoder"),
        ("plan", "3B", "--depth", "24", "--rules", "--explain"),
        ("plan", "--depth", "24", "--width", "1024", "--vocab-multiple", "128"),
        ("plan", "7B", "--layers-at-most", "32", "--pipeline", "4", "--heads", "32"),
        ("compare", "24x1024", "12x1408", "--preset", "llama2"),
        ("rules",),
        ("evidence", "--cells"),
        ("table",),
        ("table", "levine2020-projections"),
        ("table", "real_models"),
        ("formulas", "list"),
        ("formulas", "list", "--kind", "fitted", "--topic", "rules"),
        ("formulas", "show", "levine_optimal_depth"),
        ("formulas", "show", "best_retrieval_error"),
        ("formulas", "eval", "levine_width", "depth=6,12,24"),
    ],
    ids=" ".join,
)
@one_quick_in(2, "form", ["", "--json", "--csv", "--markdown"])
def test_every_command_prints_in_every_form(invoke, arguments, form):
    result = invoke(*arguments, *filter(None, [form]))
    assert result.status == 0
    assert result.error == ""
    if form == "--json":
        assert json.loads(result.output)
    elif form == "--csv":
        rows = list(csv.DictReader(io.StringIO(result.output)))
        assert rows
        assert all(None not in row and None not in row.values() for row in rows)
    elif form == "--markdown":
        widths = {line.count("|") - line.count("\\|") for line in result.output.splitlines()}
        assert len(widths) == 1
    else:
        assert "None" not in result.output


def test_plan_prints_what_plan_returns(invoke):
    assert json.loads(invoke("plan", "6.7e9", "--json").output) == json.loads(json.dumps(plan("6.7e9").to_dict()))


@pytest.mark.slow
def test_every_loss_is_printed_with_its_error(invoke, config):
    found = plan("6.7e9")
    printed = invoke("plan", "6.7e9", "--rules", "--explain").output
    rows = found.table()
    assert 5 <= len(rows) <= 7
    for row in rows:
        loss, error = row["loss_at_budget"], row["loss_at_budget_stderr"]
        assert (error > 0) == (row["choice"] != "suggested")
        assert error == 0 or f"{loss:+.2%} +- {error:.2%}" in printed
    for one in found.ranges:
        assert f"less than {one.loss * 100:g}% +- {max(one.stderr):.2%}" in printed
    others = [rule for rule in found.rules.values() if rule.loss_penalty is not None]
    assert len(others) > 3
    assert all(f"{rule.loss_penalty:.2%} +- {rule.loss_penalty_stderr:.2%}" in printed for rule in others)
    assert f"{found.shape.loss_penalty:.3%} +- {found.shape.loss_penalty_stderr:.3%}, if" in printed
    shares = {round(s.loss_penalty_stderr / s.loss_penalty, 2) for s in found.runners_up if s.loss_penalty}
    assert len(shares) > 2  # it depends on the shape
    for row in describe(Transformer.from_config(GPT2)).verdicts:
        assert f"{row.loss_penalty:.2%} +- {row.loss_penalty_stderr:.2%}" in invoke("describe", config).output


@pytest.mark.slow
def test_describe_prints_what_describe_returns(invoke, config):
    printed = json.loads(invoke("describe", config, "--json").output)
    assert printed == json.loads(json.dumps(describe(Transformer.from_config(GPT2), read_from=str(config)).to_dict()))
    assert printed["parameters"] == 124_439_808
    for key in ("parameters", "non_embedding_parameters", "depth", "width", "heads", "head_dim", "ffn", "vocab"):
        assert isinstance(printed[key], int)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps({"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 2, "n_positions": 16}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", "--json", "--csv", "--markdown"])
def test_moments_and_recipes_print_in_every_form(invoke, small, form):
    for arguments in (("moments", small), ("moments", small, "--scheme", "deepscale", "--no-dropout", "--variance", "1"),
                      ("init", small), ("init", small, "--scheme", "shipped"), ("init",), ("derive", "relu_pair_moment"),
                      ("derive",)):  # fmt: skip
        result = invoke(*arguments, *filter(None, [form]))
        assert (result.status, result.error) == (0, "")
        if form == "--json":
            assert json.loads(result.output)


def test_moments_of_a_padded_batch(invoke, small):
    def mixed(*arguments):
        rows = json.loads(invoke("moments", small, *arguments, "--json").output)
        (found,) = [r for r in rows if (r["site"], r["direction"]) == ("decoder.block.0.attention.mix", "forward")]
        return found["second_moment"]

    short, long = mixed("--context", "4"), mixed("--context", "8")
    assert mixed("--lengths", "4,8,4") == pytest.approx((short + long) / 2)
    assert short > 1.01 * long


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("plan", "100M", "--head-dim", "0.128K"), ("plan", "100M", "--head-dim", "128")),
        (("plan", "--memory", "80GB", "--batch", "2**3"), ("plan", "--memory", "80GB", "--batch", "8")),
        (
            ("describe", "CONFIG", "--batch", "0.002K", "--context", "1e1"),
            ("describe", "CONFIG", "--batch", "2", "--context", "10"),
        ),
    ],
)
def test_counts_are_read_alike(invoke, small, one, other):
    first, second = (invoke(*(small if word == "CONFIG" else word for word in words), "--json") for words in (one, other))
    assert (first.status, first.error) == (0, "")
    assert first.output == second.output


def test_the_heading_of_moments_states_units(invoke, small):
    relative, of_loss = (invoke("moments", small, "--gradient", kind).output for kind in ("unit", "loss"))
    assert "variance per feature, without a unit" in relative
    assert "nats^2" not in relative
    assert "nats^2 per feature" in of_loss


@pytest.mark.slow
def test_moments_say_that_scores_are_beyond_the_theory(invoke, small, tmp_path):
    fields = json.loads(small.read_text())
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps(fields | {"initializer_range": 2.0}))
    sentence = "beyond 64 from decoder.block.0.attention.scores on, and are treated as varying by 64"
    assert sentence in invoke("moments", wide).output
    assert sentence not in invoke("moments", small).output
    assert json.loads(invoke("moments", wide, "--json").output)


def test_moments_start_from_the_loss_and_know_the_encoders_length(invoke, small, tmp_path):
    def printed(config, *arguments):
        return json.loads(invoke("moments", config, *arguments, "--json").output)

    tree = Transformer.from_config(json.loads(small.read_text()))
    made = recipe(tree, **shipped_options(json.loads(small.read_text())))
    assert printed(small, "--gradient", "loss") == moments_of(tree, made, gradient="loss")
    assert printed(small, "--gradient", "unit") == printed(small) != printed(small, "--gradient", "loss")
    path = tmp_path / "t5.json"
    path.write_text(json.dumps({"model_type": "t5", "d_model": 64, "num_layers": 2, "num_heads": 2, "d_kv": 32, "d_ff": 128}))
    pairs = Transformer.from_config(path)
    made = recipe(pairs, **shipped_options(path))
    assert printed(path, "--context", "8", "--source", "4") == moments_of(pairs, made, context=8, source=4)
    assert printed(path, "--context", "8", "--source", "4") != printed(path, "--context", "8")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--gradient", "los"), "gradient='los' is not one of unit, loss"),
        (("--gradient", "loss", "--gradient-correlation", "0.5"), "--gradient-correlation has no meaning for --gradient loss"),
        (("--source", "4"), "a source length has no meaning for a model of one stack"),
    ],
)
def test_a_gradient_or_source_that_makes_no_sense_gets_one_sentence(invoke, small, arguments, sentence):
    result = invoke("moments", small, *arguments)
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)
    assert sentence in result.error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--lengths", "4,x"), "lengths 'x' is not a positive size"),
        (("--lengths", "17"), "beyond the 16 tokens of this model's context"),
        (("--lengths", "4", "--context", "4"), "give --lengths or --context, not both"),
        (("--lengths", "4", "--attention"), "give --lengths or --attention, not both"),
        (("--lengths", "4:5"), "this model has one stack"),
    ],
)
def test_lengths_that_make_no_sense_get_one_sentence(invoke, small, arguments, sentence):
    result = invoke("moments", small, *arguments)
    assert (result.status, result.output, result.error.count("\n")) == (2, "", 1)
    assert sentence in result.error


@pytest.mark.slow
def test_the_picture_of_moments(invoke, small, tmp_path):
    pytest.importorskip("matplotlib")
    assert invoke("moments", small, "--plot", tmp_path / "moments.png").status == 0
    assert (tmp_path / "moments.png").stat().st_size > 5000


@pytest.mark.slow
def test_describe_for_people(invoke, config):
    result = invoke("describe", config, "--context", "512", "--batch", "8", "--masked")
    assert result.status == 0
    assert "124,439,808" in result.output
    assert "At 512 tokens, batch 8" in result.output


def test_plan_like_a_config(invoke, config):
    printed = json.loads(invoke("plan", "350M", "--like", config, "--json").output)
    assert printed["vocab"] == 50257
    assert printed["head_dim"] == 64
    assert printed["context"] == 1024


def test_the_projection_table_of_the_paper(invoke):
    """Depths and widths of the paper's table, and how far the closed form at N = 12 L d^2 lies from them."""
    rows = json.loads(invoke("table", "levine2020-projections", "--json").output)
    assert len(rows) == 9
    assert rows == json.loads(json.dumps(table("levine2020_projections")))
    for row in rows:
        off = {"GPT3-Large": 1}.get(row["model"], 0)  # 37.4 at 12 L d^2, 38.2 at the nominal 760M: the paper prints 38
        assert abs(round(row["depth"]) - row["paper_depth"]) == off
        # The printed width has three digits; the paper takes sqrt(N / 12 L) at its rounded depth, for 1T the curve itself.
        at_depth = row["curve_width_at_paper_depth" if row["model"] == "Optimal-1T" else "width_at_paper_depth"]
        assert row["paper_width"] == pytest.approx(at_depth, rel=0.003)


def test_formulas_list_is_the_registry(invoke):
    cards = json.loads(invoke("formulas", "list", "--json").output)
    assert [card["name"] for card in cards] == [f.name for f in formulas()] + [one.name for one in COMPOSITES]
    assert len({frozenset(set(card) - {"combines", "accuracies"}) for card in cards}) == 1  # all say the same things
    assert all(card["kind"] and card["source"] for card in cards)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (("levine_width", "depth=24"), 584.6421788464676),
        (("rules.levine_width", "depth=24", "b=0.06"), 651.3193012017389),
        (("levine_optimal_depth", "parameters=1T"), 94.74689539),
        (("levine_optimal_depth", "parameters=1e12"), 94.74689539),
    ],
)
def test_formulas_eval(invoke, arguments, value):
    assert json.loads(invoke("formulas", "eval", *arguments, "--json").output)["value"] == pytest.approx(value, rel=1e-9)


def test_formulas_eval_says_the_range_claimed_for(invoke):
    assert invoke("formulas", "eval", "levine_width", "depth=200").output.splitlines() == [
        "10211243.754411168",
        "claimed for: depths 6 to 48; other depths extrapolate the fit",
        "outside that range: depth",
    ]
    assert "outside" not in invoke("formulas", "eval", "levine_width", "depth=24").output
    near = invoke("formulas", "eval", "norm_correlation", "correlation=0.3", "width=4").output
    assert "accuracy: within 0.5 % for width from 8" in near
    assert "outside that range: width" in near
    assert json.loads(invoke("formulas", "eval", "levine_width", "depth=6,200", "--json").output)["outside"] == ["depth"]


def test_formulas_eval_with_a_letter_is_symbolic(invoke):
    assert invoke("formulas", "eval", "levine_transition_parameters", "depth=L", "a=a", "b=b").output == (
        "12*L*exp(2*L*b + 2*a)\n"
    )


BAD = [
    (("plan",), "plan takes one budget"),
    (("plan", "1T", "--flops", "1e20"), "plan takes one budget"),
    (("plan", "1B", "--depth", "24", "--width", "1024"), "leave nothing to choose"),
    (("plan", "--depth", "24"), "plan takes one budget"),
    (("plan", "1B", "--depth", "0"), "depth '0' is not a positive size"),
    (("plan", "1B", "--depth", "25", "--pipeline", "4"), "cannot be divided evenly among pipeline=4"),
    (("plan", "1B", "--save", "config.txt"), "does not end in .json"),
    (("plan", "1B", "--scheme", "xavier"), "--scheme has no meaning without --save"),
    (("compare", "a.json", "b.json", "--preset", "llama3"), "--preset has no meaning without a shape, such as 32x4096"),
    (("moments", "a.json", "--attention", "--gradient", "loss"), "give --attention or --gradient, not both"),
    (("heads", "a.json", "--tolerance", "0.1"), "--tolerance applies with --diffuse or --measure only"),
    (("plan", "--depth", "24", "--width", "1024", "--active"), "--active has no meaning without BUDGET"),
    (("plan", "--flops", "1e20", "--non-embedding"), "--non-embedding has no meaning without BUDGET"),
    (("compare", "24x1024"), "two models or more"),
    (("compare", "24x1024", "nowhere.json"), "nowhere.json"),
    (("compare", "24x1024", "12x1408", "--rule", "levine"), "did you mean 'levine2020'"),
    (("plan", "1.3Q"), "unknown suffix 'Q'"),
    (("plan", "-1"), "budget '-1' is not a positive size"),
    (("plan", "0"), "budget '0' is not"),
    (("plan", "nan"), "budget 'nan' is not"),
    (("plan", "-inf"), "budget '-inf' is not"),
    (("plan", ""), "budget '' is not"),
    (("plan", "1e999"), "budget '1e999' is not"),
    (("plan", "9" * 5000), "is not a positive size"),
    (("plan", "1T", "--rule", "levine"), "did you mean 'levine2020'"),
    (("plan", "1T", "--preset", "gpt4"), "did you mean 'gpt3'"),
    (("plan", "1T", "--vocab", "0"), "vocab '0' is not a positive size"),
    (("plan", "1T", "--vocab", "1.5"), "vocab '1.5' is not a whole number"),
    (("plan", "1T", "--context", "many"), "context 'many' is not"),
    (("plan", "1T", "--head-dim", "0"), "head_dim '0' is not a positive size"),
    (("plan", "1T", "--kv-heads", "-2"), "kv_heads '-2' is not a positive size"),
    (("plan", "1T", "--ffn-ratio", "1/0"), "ffn_ratio '1/0' is not a ratio"),
    (("plan", "1T", "--experts", "4", "--top-k", "5"), "top_k=5 is more than experts=4"),
    (("plan", "1T", "--norm", "batch"), "norm='batch' is not one of"),
    (("plan", "1T", "--plot", "picture.bmp"), "does not end in"),
    (("plan", "1T", "--plot", "/nowhere/at/all.png"), "cannot be written"),
    (("plan", "1T", "--tokens", "1B"), "--tokens has no meaning"),
    (("plan", "1T", "--dtype", "int4"), "--dtype has no meaning"),
    (("plan", "1T", "--top-k", "3"), "top_k has no meaning"),
    (("plan", "300M", "--preset", "vit", "--vocab", "10"), "vocab has no meaning for images"),
    (("plan", "1T", "--preset", "gpt3", "--like", "c.json"), "not both"),
    (("plan", "100K", "--non-embedding", "--head-dim", "128"), "too small"),
    (("plan", "7B", "--tp", "3", "--kv-heads", "8"), "divided evenly"),
    (("plan", "1e30", "--non-embedding"), "is not a positive exact number"),
    (("formulas", "eval", "levine_width", "depth=1e6"), "leaves the range of floating-point numbers"),
    (("formulas", "eval", "levine_width", "depth=20000,10"), "leaves the range of floating-point numbers"),
    (("plan", "1T", "--like", "nowhere.json"), "nowhere.json"),
    (("plan", "1T", "--nonsense"), "No such option"),
    (("plan", "--memory", "12"), "too small"),
    (("plan", "--weights", "1GB", "--dtype", "fp3"), "there is no number format 'fp3'"),
    (("nonsense",), "No such command"),
    (("derive", "nonsense"), "nonsense"),
    (("moments", "/nowhere.json"), "nowhere.json"),
    (("plan", "1T", "--batch", "half"), "batch 'half' is not a positive size"),
    (("describe", "/nowhere.json", "--batch", "2.5"), "batch '2.5' is not a whole number"),
    (("init", "/nowhere.json"), "nowhere.json"),
    (("init", "/nowhere.json", "--scheme", "xavier", "--text", "words.txt"), "--text has no meaning for xavier"),
    (("init", "--scheme", "xavir", "--text", "words.txt"), "did you mean 'xavier'"),
    (("init", "--text", "words.txt"), "have no meaning without CONFIG"),
    (("describe", "/nowhere/config.json"), "config.json"),
    (("table", "nonsense"), "there is no table 'nonsense'"),
    (("formulas", "show", "levine_widht"), "did you mean"),
    (("formulas", "list", "--kind", "true"), "kind='true' is not one of"),
    (("formulas", "list", "--topic", "nonsense"), "topic='nonsense' is not one of"),
    (("formulas", "eval", "levine_width"), "needs depth"),
    (("formulas", "eval", "levine_width", "24"), "is not of the form ARGUMENT=VALUE"),
    (("formulas", "eval", "levine_width", "depth=-3"), "depth=-3.0 is outside"),
    (("formulas", "eval", "levine_width", "depth=24", "depth=25"), "given twice"),
    (("formulas", "eval", "levine_width", "depth=__import__('os')"), "is not a positive size"),
    (("formulas", "eval", "levine_width", "deep=3"), "has no argument 'deep'"),
    (("formulas", "eval", "levine_width", "depth=1e4000"), "depth=inf is outside"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[" ".join(a)[:60] for a, _ in BAD])
def test_every_mistake_is_one_sentence_and_status_2(invoke, arguments, sentence):
    result = invoke(*arguments)
    assert result.status == 2
    assert result.output == ""
    assert result.error.startswith("Error: ")
    assert result.error.count("\n") == 1
    assert sentence in result.error
    assert "Traceback" not in result.error


def test_a_reader_that_stops_early_sees_no_traceback():
    """As ``depthwidth formulas list --json | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "depthwidth", "formulas", "list", "--json"],
        stdout=writer, stderr=subprocess.PIPE, check=False, timeout=PATIENCE,
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


def test_version_and_help(invoke):
    from depthwidth import __version__

    assert __version__ in invoke("--version").output
    assert "plan" in invoke("--help").output
    assert "--tensor-parallel" in invoke("plan", "-h").output


def test_a_command_loads_no_other(in_fresh_python):
    """Nor does the help page of all commands load any."""
    source = """
import sys
from depthwidth.cli.main import COMMANDS, cli
cli(["--help"], standalone_mode=False)
files = {entry.module for entry in COMMANDS.values()}
assert not files & set(sys.modules)
cli(["plan", "--help"], standalone_mode=False)
print([name for name in files & set(sys.modules)], "depthwidth.architecture" in sys.modules)
"""
    assert in_fresh_python(source).splitlines()[-1] == "['depthwidth.cli.plan'] False"


def test_every_file_of_a_command_is_listed_and_fits_the_help_page(invoke):
    folder = Path(main.__file__).parent
    listed = {entry.module.rpartition(".")[2] for entry in COMMANDS.values()}
    shared = {"__init__", "main", "options", "output", "inputs", "plots", "plan_page", "mixture_page", "live"}
    assert {path.stem for path in folder.glob("*.py")} == listed - {"cli"} | shared
    printed, width = invoke("--help").output, max(map(len, COMMANDS))
    for name, entry in COMMANDS.items():
        assert f"  {name:<{width}}  {entry.summary}\n" in printed


def test_the_help_names_every_number_format():
    assert ", ".join(DTYPES) == options.DTYPES


def test_the_help_names_every_optimizer():
    assert ", ".join(OPTIMIZERS) == options.OPTIMIZERS


@pytest.mark.slow
def test_the_picture_of_a_plan(invoke, tmp_path):
    pytest.importorskip("matplotlib")
    for ending in ("png", "svg", "pdf"):
        path = tmp_path / f"plan.{ending}"
        assert invoke("plan", "350M", "--plot", path).status == 0
        assert path.stat().st_size > 5000
    drawn = (tmp_path / "plan.svg").read_text()
    assert drawn.count("<g id=") > 100


def test_the_order_of_a_remainder_is_shown_where_one_is_stated(invoke):
    shown = invoke("formulas", "show", "norm_correlation").output
    assert "of order size^-2" in shown
    assert json.loads(invoke("formulas", "show", "norm_correlation", "--json").output)["order"] == 2
    assert "remainder" not in invoke("formulas", "show", "condensation_point").output
    assert json.loads(invoke("formulas", "show", "condensation_point", "--json").output)["order"] is None


@pytest.mark.parametrize(
    "arguments", [("--json", "--csv"), ("--csv", "--markdown"), ("--json", "--csv", "--markdown")], ids=" ".join
)
@pytest.mark.parametrize("command", [("plan", "1B"), ("verify", "list"), ("formulas", "list")], ids=" ".join)
def test_two_formats_are_refused(invoke, command, arguments):
    result = invoke(*command, *arguments)
    assert result.status == 2
    assert result.error == f"Error: {' and '.join(arguments)} exclude each other; give one\n"


@pytest.mark.parametrize("group", [(), ("verify",), ("formulas",)], ids=" ".join)
def test_a_group_without_a_command_prints_its_help(invoke, group):
    result = invoke(*group)
    assert result.status == 0
    assert result.output.startswith(f"Usage: {' '.join(('depthwidth', *group))} [OPTIONS] COMMAND")
    assert "Commands:" in result.output
    assert not result.error


@pytest.mark.slow
def test_a_shell_completes_commands_and_options():
    def completions(words):
        given = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_DEPTHWIDTH_COMPLETE": "bash_complete"}
        source = [sys.executable, "-m", "depthwidth"]
        done = subprocess.run(source, capture_output=True, text=True, check=True, env=os.environ | given)  # noqa: S603
        return done.stdout.split()

    assert completions("depthwidth pl") == ["plain,plan"]
    assert "plain,--markdown" in completions("depthwidth plan --m")


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "option"), [("80G", ("--memory", "80GB")), ("1e22FLOPs", ("--flops", "1e22"))])
def test_a_unit_says_the_kind_of_budget(invoke, unit, option):
    assert invoke("plan", unit, "--json").output == invoke("plan", *option, "--json").output


def test_a_budget_and_its_option_are_refused_together(invoke):
    result = invoke("plan", "80GB", "--memory", "80GB")
    assert (result.status, result.error) == (2, "Error: '80GB' and --memory are the same budget; give one\n")
