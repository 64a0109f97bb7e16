"""Answers computed ahead: the likely settings, the same answers as without, and nothing that holds the server up."""

import os
import sys
import time

import pytest
from helpers import PATIENCE

pytest.importorskip("jinja2")

from depthwidth.explore import pieces
from depthwidth.explore.ahead import MOST_ASKED, Ahead, next_settings
from depthwidth.explore.controls import Settings, controls

SMALL = {"budget": "20M", "preset": "gpt3", "vocab": "1000", "context": "128"}


def values(settings, moved, name, **instead):
    return [
        getattr(one, name) for one in next_settings(settings, moved, instead) if getattr(one, name) != getattr(settings, name)
    ]


def test_the_next_steps_of_the_moved_slider_come_first():
    assert values(Settings("7B"), "budget", "budget") == ["10B", "5B", "20B", "3B", "30B", "2B"]
    assert values(Settings("6.9B"), "budget", "budget")[:2] == ["10B", "5B"]  # the slider stands at 7B
    assert values(Settings("no number"), "budget", "budget")[0] == "7M"  # the slider stands at its first step, 5M
    assert next(next_settings(Settings("7B"), "vocab", {"vocab": 128256})) == Settings("7B", vocab="262144")


def test_every_choice_of_a_moved_list_is_likely():
    by_name = {control.name: control for control in controls()}
    for name in ("rule", "scheme", "zero"):
        expected = {value for value, _ in by_name[name].choices}
        assert {"", *values(Settings(), name, name)} == expected | {""}


def test_likely_settings_are_bounded_and_differ_from_the_present_ones():
    for name in ("", *(control.name for control in controls())):
        found = list(next_settings(Settings(), name, {"vocab": 128256, "context": 8192}))
        assert len(set(found)) == len(found) <= MOST_ASKED
        assert Settings() not in found
        assert name in ("", "kind") or any(getattr(one, name) != getattr(Settings(), name) for one in found)


def test_a_process_that_hangs_holds_nothing_up():
    ahead = Ahead((sys.executable, "-c", "import time; time.sleep(600)"))
    try:
        start = time.process_time()
        for number in range(3000):
            ahead.look(Settings(str(number + 1)))  # more than a pipe holds
        assert time.process_time() - start < 2
        assert ahead.known(Settings("1")) is None
    finally:
        ahead.close()
    assert ahead.process.returncode is not None
    ahead.look(Settings("1M"))  # after the end it does nothing


@pytest.mark.slow
def test_answers_computed_ahead_are_those_computed_at_once():
    ahead, settings = Ahead(), Settings.of(SMALL)
    expected = next(next_settings(settings, "budget", {}))
    try:
        ahead.look(settings)
        until = time.monotonic() + PATIENCE
        while (found := ahead.known(expected)) is None and time.monotonic() < until:
            time.sleep(0.05)
        if hasattr(os, "getpriority"):
            assert os.getpriority(os.PRIO_PROCESS, ahead.process.pid) == 19
        assert found == {"plan": pieces.plan_pieces(expected), "depth": pieces.depth_pieces(expected)}
        ahead.process.stdin.close()  # as when the server ends, however it does
        ahead.process.wait(PATIENCE)
    finally:
        ahead.close()
