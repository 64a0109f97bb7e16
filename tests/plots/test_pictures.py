"""Every picture, on light and dark pages: nothing collides or is cut, no axes are empty, and it shows the numbers it should."""

import itertools
import json
import math
import re

import pytest
from picture_checks import SOUND, faults

pytest.importorskip("matplotlib")

import matplotlib
import numpy as np

from depthwidth import InputError, Transformer, fit, plan
from depthwidth.analysis.concentration import query_key_gains, trainability
from depthwidth.analysis.propagation import moments_of
from depthwidth.fitting.tournament import head_sizes, published_scores
from depthwidth.hardware.accelerators import accelerator
from depthwidth.planning.candidates import Scorer, thin_evenly, unbeaten
from depthwidth.planning.combined import best_width_band
from depthwidth.planning.compute import LAWS, compute_optimum
from depthwidth.planning.head_allocation import allocate_heads, design_needs
from depthwidth.planning.loss_curve import loss_curve
from depthwidth.planning.template import Template
from depthwidth.plots import (
    collapse_figure,
    compute_figure,
    evidence_figure,
    fit_figure,
    heads_figure,
    moments_figure,
    pareto_figure,
    plan_figure,
    rules_figure,
    save,
)
from depthwidth.plots.plan import POINTS
from depthwidth.plots.saving import for_both_pages, svg_of
from depthwidth.plots.theme import DARK, LIGHT

SMALL = Transformer(12, 256, 4, vocab=1000, context=128)


def of_two_stacks():
    tree = Transformer(16, 256, 4, vocab=1000, context=64, kind="encoder-decoder", encoder_depth=12, placement="post")
    return {name: moments_of(tree, name) for name in ("xavier", "deepnorm")}


def allocation():
    kinds = dict.fromkeys(range(8, 12), "diffuse")
    return allocate_heads(1024, 2048, design_needs(12, 2048, kinds=kinds), kv_heads=4)


def optima():
    return [compute_optimum(1e20, law, Template.of("gpt3")) for law in LAWS]


def front():
    scorer = Scorer(Template.of("gpt3"), accelerator("H100"), 1e10, "hoffmann2022")
    every = scorer.candidates(5e8, 0.5)
    best = every.at(unbeaten(every.loss, every.decode_seconds, every.serving_memory))
    return best, thin_evenly(best, 8)


PICTURES = {
    "plan": lambda theme: plan_figure(plan("7B", preset="llama3"), theme=theme),
    "plan of little": lambda theme: plan_figure(plan("10M"), theme=theme),
    "plan of much, with limits": lambda theme: plan_figure(plan("1T", layers_at_most=64), theme=theme),
    "plan of experts": lambda theme: plan_figure(plan("30B", preset="llama3", experts=64, top_k=8), theme=theme),
    "plan of bytes": lambda theme: plan_figure(plan("80GB", kind="memory", preset="llama3", rule="marin"), theme=theme),
    "plan for images": lambda theme: plan_figure(plan("1B", patch=14, image=224, channels=3, classes=10), theme=theme),
    "moments": lambda theme: moments_figure({name: moments_of(SMALL, name) for name in ("gpt2", "deepscale")}, theme=theme),
    "moments of many": lambda theme: moments_figure(
        {name: moments_of(SMALL, name) for name in ("gpt2", "xavier", "kaiming", "mup", "deepscale", "rezero", "t-fixup")},
        theme=theme,
    ),
    "moments of two stacks": lambda theme: moments_figure(of_two_stacks(), theme=theme),
    "heads": lambda theme: heads_figure(allocation(), heads=16, theme=theme),
    "heads of one layer": lambda theme: heads_figure(allocate_heads(512, 256, design_needs(1, 256)), theme=theme),
    "collapse": lambda theme: collapse_figure(256, 6, betas=(0.5, 1.0), theme=theme),
    "evidence": lambda theme: evidence_figure(published_scores(), theme=theme),
    "evidence of one set": lambda theme: evidence_figure(
        [one for one in published_scores() if one.data == "gemstones/dclm"], theme=theme
    ),
    "rules": lambda theme: rules_figure(theme=theme),
    "compute": lambda theme: compute_figure(optima(), theme=theme),
    "compute by one law": lambda theme: compute_figure(optima()[:1], theme=theme),
    "pareto": lambda theme: pareto_figure(*front(), [0.002] * 8, law="hoffmann2022", theme=theme),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_sound(name):
    figure = PICTURES[name]("dark" if len(name) % 2 else "light")
    assert faults(figure) == SOUND
    texts = [axis.get_text() for axes in figure.axes for axis in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    assert not any("\N{MULTIPLICATION SIGN}" in text or re.search(r"\d\.\d{4}", text) for text in texts)
    for axes in figure.axes:
        assert axes.get_xlabel() or axes.get_shared_x_axes().get_siblings(axes)[1:] or axes.get_label() == "<colorbar>" or (
            axes.get_title(loc="left")
        )  # fmt: skip


@pytest.mark.slow
def test_a_plan_for_images_stands_beside_no_language_models():
    images, text = (
        plan_figure(found).axes[1] for found in (plan("1B", patch=14, image=224, channels=3, classes=10), plan("1B"))
    )
    drawn = [{text.get_text() for text in axes.texts} for axes in (images, text)]
    assert drawn[0] == {"suggested", "sovit2023"}
    assert any("Llama" in words for words in drawn[1])
    few = {text.get_text() for text in plan_figure(plan("10M")).axes[1].texts}
    assert any(re.fullmatch(r"levine2020 at [\d.]+", words) for words in few)


def points(axes, marker):
    """Positions of a marker, over all lines that have it."""
    return {tuple(map(float, place)) for line in axes.lines if line.get_marker() == marker for place in line.get_xydata()}


def line_of(axes, name):
    return next(line for line in axes.lines if line.get_label() == name).get_xydata()


@pytest.mark.slow
def test_a_plan_shows_the_numbers_of_its_table():
    found = plan("1.3B")
    losses, shapes = plan_figure(found).axes
    table = {(float(row["depth"]), row["loss_at_budget"]): row for row in found.table()}
    drawn = set().union(*(points(losses, marker) for marker in "*oDP"))
    assert drawn == set(table)
    assert points(losses, "*") == {(found.shape.depth, 0.0)}
    bars = {round(float(bar[1][1] - bar[0][1]) / 2, 12) for group in losses.collections if hasattr(group, "get_segments")
            for bar in group.get_segments()}  # fmt: skip
    assert bars == {round(row["loss_at_budget_stderr"], 12) for row in table.values()}
    for best in found.best_depths:
        assert [x for x, _ in line_of(losses, f"best depth {best.level:.0%}")] == pytest.approx(best.depth)
    assert len(found.best_depths) == 2
    assert points(shapes, "*") == {(found.shape.depth, found.shape.width)}
    for rule in found.rules.values():
        assert any((rule.depth, rule.width) == pytest.approx(place) for line in shapes.lines for place in line.get_xydata()
                   if len(line.get_xydata()) == 1)  # fmt: skip
    curve = loss_curve(found, POINTS)
    assert line_of(losses, "loss by levine2020")[:, 1].tolist() == [one.loss for one in curve]
    # The line passes through the rows but for the rounding of their feed-forward widths.
    for (depth, loss), row in table.items():
        if row["choice"] in ("suggested", "wider", "deeper"):
            assert np.interp(math.log(depth), [math.log(one.depth) for one in curve], [one.loss for one in curve]) == (
                pytest.approx(loss, abs=2e-4)
            )
    best = min(curve, key=lambda one: one.loss)
    assert best.depth == pytest.approx(found.best_depth, rel=0.03)
    for band in found.ranges:  # whose loss is that against the best depth
        for end in band.depth:
            at = np.interp(math.log(end), [math.log(one.depth) for one in curve], [one.loss for one in curve])
            assert (1 + at) / (1 + best.loss) - 1 == pytest.approx(band.loss, abs=2e-5)


@pytest.mark.slow
def test_moments_show_their_rows_and_the_thresholds_of_the_diagnosis():
    from depthwidth.analysis.diagnosis.checks import correlation_at_top

    rows = moments_of(SMALL, "xavier")
    signal, likeness, gradient = moments_figure({"xavier": rows}).axes
    stream = {(row["direction"], row["layer"]): row for row in rows if row["site"] == f"decoder.block.{row['layer']}"}
    for axes, direction, base in ((signal, "forward", 0), (gradient, "gradient", 11)):
        for layer, value in line_of(axes, "xavier"):
            assert value == stream[direction, layer]["second_moment"] / stream[direction, base]["second_moment"]
    assert [value for _, value in line_of(likeness, "xavier")] == [
        stream["forward", layer]["correlation"] for layer in range(12)
    ]
    across = [line.get_ydata()[0] for line in likeness.lines if len(set(line.get_ydata())) == 1]
    assert correlation_at_top.COLLAPSE.threshold in across
    deep = Transformer(60, 64, 4, vocab=100, context=32, placement="post")
    apart = moments_figure({"xavier": moments_of(deep, "xavier")}).axes[1]
    assert apart.get_yscale() == "log"
    assert [axes.get_yscale() for axes in (signal, likeness, gradient)].count("linear") >= 1
    assert 1 - correlation_at_top.COLLAPSE.threshold in [line.get_ydata()[0] for line in apart.lines]


def test_moments_without_a_stream_are_refused():
    with pytest.raises(InputError, match="no residual stream"):
        moments_figure({"gpt2": []})
    with pytest.raises(InputError, match="0 schemes were given"):
        moments_figure({})


@pytest.mark.slow
def test_heads_show_the_allocation():
    found = allocation()
    sizes, errors, models = heads_figure(found, heads=16).axes
    steps = line_of(sizes, "query and key")
    assert [value for _, value in steps[::2]] == [layer.head_dim for layer in found.layers]
    assert [value for _, value in line_of(sizes, "value")[1::2]] == [layer.value_dim for layer in found.layers]
    assert [value for _, value in points_in_order(errors)] == [layer.error for layer in found.layers]
    assert points(models, "*") == {(found.width, layer.heads) for layer in found.layers}


def points_in_order(axes):
    return next(line for line in axes.lines if line.get_marker() == "o").get_xydata()


@pytest.mark.slow
def test_evidence_shows_each_mean_with_its_interval():
    means = [one for one in published_scores() if one.parameters is None and not one.rule.startswith("head")]
    axes = evidence_figure(published_scores()).axes[0]
    drawn = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert len(drawn) == len(means)
    for one in means:
        name = one.rule + (", refitted" if one.refitted else "")
        line = drawn[f"{one.data}|{name}"]
        assert line.get_xdata()[0] == one.cost
        assert (line.get_markerfacecolor() == LIGHT.background) == (one.inside < 0.75)
        row = axes.get_yticklabels()[round(float(line.get_ydata()[0]))]
        assert row.get_text() == name
    bars = [bar for group in axes.collections for bar in group.get_segments()]
    assert {round(float(bar[1][0]), 9) for bar in bars} == {round(max(one.high, one.cost), 9) for one in means}


@pytest.mark.slow
def test_optima_and_fronts_are_those_of_their_tables():
    found = optima()
    panels = compute_figure(found).axes
    for axes, name in zip(panels, ("depth", "width", "parameters", "tokens"), strict=True):
        markers = [line for line in axes.lines if line.get_marker() not in "|_"]
        assert [float(line.get_xdata()[0]) for line in markers] == [getattr(one, name) for one in found]
        assert [line.get_markerfacecolor() == LIGHT.background for line in markers] == [
            name in one.extrapolated for one in found
        ]
        bars = [bar[:, 0].tolist() for group in axes.collections for bar in group.get_segments()]
        assert bars == [pytest.approx(one.bands[name]) for one in found if one.bands]
    best, named = front()
    errors = [0.01 * i for i in range(len(named.loss))]
    axes = pareto_figure(best, named, errors).axes[0]
    assert np.allclose(axes.collections[0].get_offsets(), np.stack([1e3 * best.decode_seconds, best.loss], axis=1))
    assert np.allclose(axes.collections[0].get_array(), best.serving_memory)
    bars = [bar[1][1] - bar[0][1] for group in axes.collections[1:] for bar in group.get_segments()]
    assert bars == pytest.approx([2 * error * min(best.loss) for error in errors])
    assert {text.get_text() for text in axes.texts} <= {f"{row['depth']} x {row['width']:,}" for row in named.rows()}


@pytest.mark.slow
def test_the_gains_of_a_model_are_marked():
    gains = query_key_gains(SMALL, "xavier")
    rows = moments_of(SMALL, "xavier")
    scores = [
        row["second_moment"] for row in rows if row["site"].endswith("attention.scores") and row["direction"] == "forward"
    ]
    assert [gain**2 * math.log(128) for gain in gains] == pytest.approx(scores)
    with pytest.raises(InputError, match="one token"):
        query_key_gains(SMALL, "xavier", context=1)
    marked = collapse_figure(64, 2, betas=gains).axes[0]
    assert any([float(x) for x in line.get_xdata()] == list(gains) for line in marked.lines)


@pytest.mark.slow
def test_a_fit_shows_its_intervals_and_errors(invoke, tmp_path):
    rows = [{"width": w, "loss": 2 + 30 / w**0.5 + 1e-3 * (w % 7)} for w in range(60, 900, 60)]
    found = fit(rows, "loss = E + A * width**-p + B * width**-(p / 2)", draws=20, starts=4)
    assert any(row["verdict"] for row in found.rows())
    figure = fit_figure(found)
    assert faults(figure) == SOUND
    coefficients, errors = figure.axes
    for place, row in enumerate(found.rows()):
        drawn = [line for line in coefficients.lines if list(line.get_ydata()) == [place, place]]
        wanted = sorted(max(-1.5, min(1.5, end / row["value"] - 1)) for end in (row["low"], row["high"]))
        assert drawn[0].get_xdata() == pytest.approx(wanted)
    dots = [line.get_xdata()[0] for line in errors.lines if line.get_marker() == "D"]
    assert dots[:2] == [found.residual_rms, found.held_out.one_model]
    runs = tmp_path / "runs.csv"
    runs.write_text("width,loss\n" + "".join(f"{row['width']},{row['loss']}\n" for row in rows))
    law = ("--law", "loss = E + A * width**-p", "--errors", "none", "--no-held-out", "--starts", "4")
    assert invoke("fit", runs, *law, "--plot", tmp_path / "fit.png").status == 0
    assert (tmp_path / "fit.png").stat().st_size > 5000


def test_evidence_needs_a_mean():
    with pytest.raises(InputError, match="no mean cost"):
        evidence_figure([one for one in published_scores() if one.parameters is not None])


@pytest.mark.slow
def test_head_sizes_of_a_table_of_ones_own_are_drawn_alone():
    rows = [
        {"width": 512, "depth": d, "head_dim": h, "loss": 3 + 0.03 * math.log(h / 100) ** 2 + 1e-4 * ((7 * d + h) % 5)}
        for d in (4, 8, 12)
        for h in (32, 64, 128, 256)
    ]
    figure = evidence_figure(head_sizes(rows, draws=20))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Head dimension at equal shape"]
    assert faults(figure) == SOUND


@pytest.mark.slow
def test_the_bands_of_the_rules_are_those_of_the_combined_one():
    axes = rules_figure().axes[0]
    band = best_width_band(1e9, 0.9)
    edges = axes.collections[0].get_paths()[0].vertices
    at = edges[np.isclose(np.log(edges[:, 0]), math.log(1e9), atol=1e-6)][:, 1]
    assert {round(float(y), 9) for y in at} == {round(band.low / band.width, 9), round(band.high / band.width, 9)}
    assert all(y == pytest.approx(1) for _, y in line_of(axes, "combined2026") if not math.isnan(y))


@pytest.mark.slow
def test_collapse_shows_the_recursion():
    found = trainability(np.linspace(0.05, 4.0, 60), np.linspace(0.0, 3.0, 40), depth=4, length=128)
    apart, together = (axes for axes in collapse_figure(128, 4).axes if axes.get_label() != "<colorbar>")
    for axes, values in ((apart, 1 - found.correlation), (together, found.squared_sum)):
        assert np.allclose(axes.collections[0].get_array().reshape(values.shape), values)


@pytest.mark.slow
def test_the_same_picture_is_the_same_file(tmp_path):
    rows = moments_of(SMALL, "gpt2")
    for i in range(2):
        figure = moments_figure({"gpt2": rows})
        for ending in ("svg", "pdf"):
            save(figure, tmp_path / f"{i}.{ending}")
    for ending in ("svg", "pdf"):
        assert (tmp_path / f"0.{ending}").read_bytes() == (tmp_path / f"1.{ending}").read_bytes()


@pytest.mark.slow
def test_a_drawing_for_both_pages_has_the_colours_of_both():
    svg = for_both_pages(svg_of(evidence_figure(published_scores())))
    for light, dark in ((LIGHT.background, DARK.background), *itertools.islice(zip(LIGHT.series, DARK.series, strict=True), 5)):
        assert f"{light}" in svg.partition("</style>")[2]
        assert f"{dark}!important" in svg.partition("</style>")[0]
    assert svg.count("<style>") == 1
    assert not re.search(r'(?:href|src)="http', svg)


@pytest.mark.slow
def test_pictures_from_the_command_line(invoke, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 100}))
    commands = {
        "moments.svg": ("moments", config, "--beside", "xavier", "--theme", "dark", "--plot"),
        "heads.png": ("heads", config, "--plot"),
        "collapse.png": ("heads", config, "--theme", "dark", "--plot-collapse"),
        "evidence.pdf": ("evidence", "--plot"),
        "rules.jpg": ("rules", "--plot"),
        "pareto.png": ("pareto", "50M", "--plot"),
        "compute.png": ("compute", "1e20", "--law", "liu2026", "--plot"),
    }
    for name, words in commands.items():
        done = invoke(*words, tmp_path / name)
        assert done.status == 0, done.error
        assert (tmp_path / name).stat().st_size > 5000
    assert DARK.background in (tmp_path / "moments.svg").read_text()


REFUSED = [
    (("plan", "1B", "--theme", "dark"), "--theme has no meaning without --plot"),
    (("plan", "1B", "--theme", "sepia", "--plot", "x.png"), "the theme 'sepia' is not one of light, dark"),
    (("moments", "x.json", "--beside", "xavier"), "--beside has no meaning without --plot"),
    (("moments", "x.json", "--attention", "--plot", "x.png"), "give --attention or --plot, not both"),
    (("rules", "--plot", "x.gif"), "does not end in .png, .pdf, .svg, .jpg"),
    (("heads", "--width", "64", "--plot-collapse", "x.doc"), "does not end in"),
    (("evidence", "--plot", "/nowhere/at/all.svg"), "cannot be written"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_picture_that_cannot_be_is_refused_beforehand(invoke, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    done = invoke(*words)
    assert (done.status, done.output, done.error.count("\n")) == (2, "", 1)
    assert sentence in done.error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_pictures_of_the_documentation_are_small_and_current():
    """If it fails, ``python tests/pictures.py`` draws them again."""
    from pictures import FOLDER, MOST_BYTES, drawn
    from pictures import PICTURES as ON_PAGES

    assert {path.stem for path in FOLDER.glob("*.svg")} == set(ON_PAGES)
    for name in ON_PAGES:
        text = drawn(name)
        assert len(text) < MOST_BYTES
        if f"matplotlib=={matplotlib.__version__}" in (FOLDER.parents[1] / "constraints.txt").read_text():
            assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == text, name
