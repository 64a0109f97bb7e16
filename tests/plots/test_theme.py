"""Colours, dashes, markers, ticks: readable on both pages, in grey, and the same in every picture."""

import itertools
import math

import pytest
from picture_checks import contrast

from depthwidth import InputError, schemes
from depthwidth.planning.rules import rule_names
from depthwidth.plots.theme import _DASHES, _MARKERS, _PLACES, DARK, LIGHT, THEMES, nth_style, style_of, theme_of
from depthwidth.plots.ticks import MOST, count, is_logarithmic, linear_ticks, log_ticks, percent, plain


@pytest.mark.parametrize("theme", THEMES.values(), ids=lambda theme: theme.name)
def test_colours_stand_out_from_the_page(theme):
    assert contrast(theme.text, theme.background) > 7
    assert min(contrast(color, theme.background) for color in (theme.accent, theme.muted)) > 4.5
    assert min(contrast(color, theme.background) for color in theme.series) > 3
    assert contrast("#f0e442", LIGHT.background) < 3  # the yellow of Okabe and Ito, on white


def test_every_rule_and_every_scheme_has_a_style_of_its_own_also_in_grey():
    for names in (rule_names(), schemes()):
        assert set(names) <= set(_PLACES)
        places = [_PLACES[name] for name in names]
        assert len({(color, dash) for color, dash, _ in places}) == len(names)
        assert len({(dash, marker) for _, dash, marker in places}) == len(names)


def test_a_style_depends_on_the_name_alone():
    for name in ("levine2020", "deepscale", "a rule of a plugin"):
        light, dark = style_of(name, LIGHT), style_of(name, DARK)
        assert (light.dash, light.marker) == (dark.dash, dark.marker)
        assert LIGHT.series.index(light.color) == DARK.series.index(dark.color)
        assert style_of(name, LIGHT) == light
    assert style_of("one plugin", LIGHT) != style_of("another plugin", LIGHT)


def test_lines_without_names_differ():
    styles = [nth_style(i, LIGHT) for i in range(14)]
    assert len({(str(style.dash), style.marker) for style in styles}) == 14
    assert len(_DASHES) == len(_MARKERS) == len(LIGHT.series) == len(DARK.series)


def test_a_theme_is_refused_by_its_name():
    assert theme_of("dark") is theme_of(DARK)
    with pytest.raises(InputError, match="the theme 'sepia' is not one of light, dark"):
        theme_of("sepia")


RANGES = [(1.1, 1.9), (3, 40), (15, 375), (0.98, 1.02), (1e-9, 1e-2), (1e-30, 1e30), (5e6, 7e12), (4999.0, 5001.0)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks_are_few_round_and_inside(low, high):
    for made in (log_ticks, linear_ticks):
        found = made(low, high)
        assert 2 <= len(found) <= MOST + 1
        slack = 1e-9 * (high - low)
        assert all(low - slack <= tick <= high + slack for tick in found)
        assert found == sorted(set(found))
        for form in (plain, percent, *((count,) if high < 1e15 and high / low > 1.1 and low >= 1 else ())):
            texts = [form(tick) for tick in found]
            assert len(set(texts)) == len(texts)
            assert not any("e" in text or "\N{MULTIPLICATION SIGN}" in text for text in texts)


def test_ticks_have_few_digits():
    for low, high in itertools.pairwise([10.0**k for k in range(-6, 13, 3)]):
        for tick in log_ticks(low, high):
            digits = f"{tick:.6e}".partition("e")[0].rstrip("0").replace(".", "")
            assert len(digits) <= 2


def test_an_axis_is_logarithmic_by_its_range():
    assert is_logarithmic([1e-3, 1.0, math.nan])
    assert not is_logarithmic([0.5, 1.0])
    assert not is_logarithmic([-1.0, 100.0])
    assert not is_logarithmic([])
