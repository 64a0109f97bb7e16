"""The line that the command line prints while it computes."""

import io
import json
import re
import sys
import threading
import time

import numpy as np
import pytest

from depthwidth import Transformer, propagate
from depthwidth.__main__ import _report
from depthwidth.progress import doing, during


class Terminal(io.StringIO):
    def isatty(self):
        return True


def reported(monkeypatch, arguments, stream, work, *, speaks=False):
    """Text printed while `work` runs; `work` receives a function that waits for the first line or 50 ms."""
    monkeypatch.setattr(sys, "argv", ["depthwidth", *arguments])
    monkeypatch.setattr(sys, "stderr", stream)
    done = threading.Event()
    thread = threading.Thread(target=_report, args=(done, 0.01), daemon=True)

    def wait():
        thread.start()
        until = time.monotonic() + (10 if speaks else 0.05)
        while not stream.getvalue() and time.monotonic() < until:
            time.sleep(0.005)

    work(wait)
    done.set()
    thread.join()
    return stream.getvalue()


def test_a_terminal_is_told_what_is_done(monkeypatch):
    def work(wait):
        with during("text 2 of 3"), during(lambda: "decoder block 7 of 12"):
            wait()

    found = reported(monkeypatch, ["moments", "x"], Terminal(), work, speaks=True).splitlines()
    assert found[0] == "Computing for 0 s, text 2 of 3, decoder block 7 of 12; Ctrl-C stops it."
    assert doing() == ""


@pytest.mark.parametrize(
    ("arguments", "stream"),
    [(["moments", "x", "--json"], Terminal()), (["verify", "run"], Terminal()), (["moments", "x"], io.StringIO())],
)
def test_nothing_is_said_to_programs(monkeypatch, arguments, stream):
    assert reported(monkeypatch, arguments, stream, lambda wait: wait()) == ""


def test_a_computation_says_its_text_and_block(monkeypatch):
    """Read at each attention layer, forward and backward."""
    from depthwidth.layers import Attention

    seen, moments = [], Attention.moments

    def watched(self, x, site):
        seen.append(doing())
        y, pull = moments(self, x, site)

        def pull_watched(g):
            seen.append(doing())
            return pull(g)

        return y, pull_watched

    monkeypatch.setattr(Attention, "moments", watched)
    propagate(Transformer(depth=3, width=16, heads=2, vocab=9, context=4), token_match=np.stack([np.eye(4, dtype=bool)] * 2))
    forward = [f"text {text} of 2, decoder block {block} of 3" for text in (1, 2) for block in (1, 2, 3)]
    assert [one for one in seen if "block" in one] == forward
    assert "text 2 of 2, gradient through the decoder" in seen


def test_windows_that_take_too_much_are_refused_with_a_length_that_does_not(invoke, tmp_path):
    config, text = tmp_path / "config.json", tmp_path / "text.txt"
    text.write_text("to be or not " * 1000)
    for length in (2048, None):
        config.write_text(json.dumps({"model_type": "gpt2", "n_positions": 2048, "n_layer": 12}))
        page = invoke("moments", config, "--text", text, "--windows", 8, *(("--context", length) if length else ()))
        assert page.status == 2
        assert page.error.startswith("Error: --windows 8 of 2,048 tokens, position by position through 12 blocks, take about")
    fewer = int(re.search(r"give --context (\d+)", page.error)[1])
    assert 512 < fewer < 2048
    from depthwidth.cli.inputs import _check_work

    tree = Transformer.from_config(config)
    _check_work(tree, fewer, 8)  # the length that was named is taken
    with pytest.raises(ValueError, match=f"give --context {fewer}"):
        _check_work(tree, fewer + 2, 8)
