"""Pictures of measured rows: means with their errors over seeds, measured against predicted."""

import math
from statistics import mean, stdev

import pytest
from picture_checks import SOUND, faults

pytest.importorskip("matplotlib")

from depthwidth.plots.measured import draw_against, draw_means
from depthwidth.plots.theme import DARK, LIGHT, drawing, new_figure

LINES = {
    "2 layers": {1.0e5: [2.1, 2.14], 3.1e5: [2.0, 2.05, 2.02], 9.8e5: [1.95]},
    "4 layers": {1.9e5: [2.03, 1.97], 8.0e5: [1.94, math.nan], 1.9e6: [math.inf]},
}


def begun(theme=LIGHT):
    figure = new_figure(3.6, theme)
    return figure, figure.subplots()


def test_means_have_the_errors_of_their_seeds():
    with drawing("dark") as theme:
        figure, axes = begun(theme)
        draw_means(axes, LINES, "parameters", "loss", marks={"2 layers": 4e5})
        assert faults(figure) == SOUND
        drawn = {line.get_label(): line for line in axes.lines}
        assert axes.lines[0].get_color() in DARK.series
    bars = [bar for group in axes.collections for bar in group.get_segments()]
    values = LINES["2 layers"][3.1e5]
    half = stdev(values) / math.sqrt(3)
    assert any((bar[:, 1] == pytest.approx([mean(values) - half, mean(values) + half])) for bar in bars)
    assert {text.get_text() for text in axes.texts} == set(LINES)
    assert [line.get_xdata()[0] for line in drawn.values() if len(set(line.get_xdata())) == 1][-1:] == [4e5]
    points = [tuple(place) for line in axes.lines if line.get_marker() in "os" for place in line.get_xydata()]
    assert (8.0e5, 1.94) in points
    assert not any(x == 1.9e6 for x, _ in points)


def test_measured_stand_against_predicted():
    with drawing():
        figure, axes = begun()
        draw_against(axes, [(0.1, 0.12, 0.01), (10.0, 9.0, 0.5), (math.nan, 1.0, 0.0)])
        assert faults(figure) == SOUND
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [tuple(place) for place in axes.lines[0].get_xydata()] == [(0.1, 0.12), (10.0, 9.0)]


@pytest.mark.parametrize("triples", [[], [(-1.0, 2.0, 0.1), (0.0, 0.0, 0.0)], [(1e308, -1e308, 0.0)], [(5.0, 5.0, 0.0)]])
def test_numbers_at_the_edge_are_drawn_or_left_out(triples):
    with drawing():
        draw_against(begun()[1], triples)
