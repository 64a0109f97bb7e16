"""Labels are placed beside their points, without collisions, in the same way every time."""

import pytest
from picture_checks import SOUND, collisions, cut, empty, faults

pytest.importorskip("matplotlib")

import numpy as np

from depthwidth.plots.labels import Label, label_columns, overlap, place_labels, spread
from depthwidth.plots.theme import drawing, new_figure


def crowded(points=30, seed=3):
    """Axes with points in a crowd, and their labels."""
    figure = new_figure(4.0)
    axes = figure.subplots()
    places = np.random.default_rng(seed).normal(size=(points, 2)).tolist()
    axes.plot(*zip(*places, strict=True), linestyle="", marker="o")
    axes.set_xlim(-3, 3)
    axes.set_ylim(-3, 3)
    return figure, axes, [Label(x, y, f"point {i}", {"fontsize": 8}) for i, (x, y) in enumerate(places)]


@pytest.mark.slow
def test_labels_in_a_crowd_do_not_collide():
    with drawing("light"):
        figure, axes, labels = crowded()
        made = place_labels(axes, labels)
        assert len(made) > 20
        assert faults(figure) == SOUND
        again = place_labels(*crowded()[1:])
        assert [text.xyann for text in made] == [text.xyann for text in again]
        # the control: two labels on one point
        axes.annotate("one label", (0, 0))
        axes.annotate("another", (0.05, 0.05))
        assert ("one label", "another") in collisions(figure)


def test_a_text_beyond_the_page_and_empty_axes_are_found():
    with drawing("light"):
        figure = new_figure(2.0)
        axes = figure.subplots(2, 1)
        axes[0].plot([0, 1], [0, 1])
        axes[1].set_title("nothing here")
        axes[1].plot([5, 6], [5, 6])
        axes[1].set_xlim(0, 1)
        assert empty(figure) == ["nothing here"]
        assert cut(figure) == []
        figure.text(0.95, 0.5, "a long text at the edge")
        assert cut(figure) == ["a long text at the edge"]


def test_a_column_keeps_its_order_and_its_distances():
    with drawing("light"):
        figure = new_figure(3.0)
        axes = figure.subplots()
        axes.set_ylim(0, 1)
        made = label_columns([(axes, [Label(1.0, 0.5 + 0.001 * i, f"line {i}") for i in range(8)])])
        heights = [text.get_position()[1] for text in made]
        assert heights == sorted(heights)
        assert faults(figure)["collisions"] == []
        assert len(axes.lines) == 8
        label_columns([(axes, [Label(-5.0, 0.5, "out of sight")])])
        assert len(axes.lines) == 8


def test_spread_moves_no_further_than_it_must():
    assert spread([0.0, 10.0], 1.0, 0.0, 10.0) == [0.0, 10.0]
    assert spread([5.0, 5.0, 5.0], 1.0, 0.0, 10.0) == [4.0, 5.0, 6.0]
    assert spread([10.0, 10.0], 1.0, 0.0, 10.0) == [9.0, 10.0]
    assert spread([3.0, 1.0], 5.0, 0.0, 4.0) == [4.0, 0.0]
    assert spread([], 1.0, 0.0, 1.0) == []
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == 1
    assert overlap((0, 0, 1, 1), (1, 1, 2, 2)) == 0
