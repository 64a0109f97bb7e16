"""The progress that a computation announces, and its display on the command line."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import PATIENCE

from depthwidth import Transformer, propagate
from depthwidth.cli import live
from depthwidth.cli.live import Computing, Display, Line, reporting
from depthwidth.progress import announced, current_progress, during, facts_in_words, is_quiet


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, until, *, wanted=True):
    """The text shown while parts of a computation are announced, until `until` is on the stream; without it for a moment."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(live, "FIRST_S", 0.01)
    monkeypatch.setattr(live, "LOG_S", 0.01)
    with (
        reporting(wanted, 0.01),
        during("text 2 of 3", lambda: 1 / 3, 1 / 3),
        during(lambda: "decoder block 7 of 12", lambda: 0.5),
    ):
        end = time.monotonic() + (PATIENCE if until else 0.1)
        while (not until or until not in stream.getvalue()) and time.monotonic() < end:
            time.sleep(0.005)
    return stream.getvalue()


def test_a_log_gets_plain_lines(monkeypatch):
    page = shown(monkeypatch, io.StringIO(), "\n")
    assert page.splitlines()[0] == "Computing for 0 s, text 2 of 3, decoder block 7 of 12, 50% done; Ctrl-C stops it."
    assert page.isprintable() or page.replace("\n", "").isprintable()
    assert current_progress().words == ""


def test_a_terminal_shows_a_bar_and_removes_it(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    page = shown(monkeypatch, Terminal(), "50%")
    assert "text 2 of 3, decoder block 7 of 12" in page
    assert page.endswith("\x1b[2K")


def test_a_terminal_without_rich_or_cursor_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(monkeypatch, Terminal(), "50% done")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(sys.modules, "rich.live", None)
    assert "\x1b" not in shown(monkeypatch, Terminal(), "50% done")


def test_nothing_is_shown_unless_it_is_wanted(monkeypatch):
    assert shown(monkeypatch, Terminal(), "", wanted=False) == ""
    monkeypatch.setenv("DEPTHWIDTH_QUIET", "")
    assert is_quiet(["moments", "x", "--json"])
    assert is_quiet(["moments", "x", "--quiet"])
    assert not is_quiet(["moments", "x"])
    monkeypatch.setenv("DEPTHWIDTH_QUIET", "1")
    assert is_quiet(["moments", "x"])


def test_shares_of_nested_parts_add_up():
    assert current_progress().share is None
    with during("outer", lambda: 0.25, 0.5):
        assert current_progress().share == 0.25
        with during("words alone"):
            seen = [current_progress().share for _ in announced("shape", [1, 2, 3, 4])]
        assert seen == [0.25, 0.375, 0.5, 0.625]
        with during("too much", lambda: 7.0):
            assert current_progress().share == 0.75
    with during("no span", lambda: 0.5), during("inner", lambda: 1.0, facts=lambda: {"loss": 2.0}):
        assert current_progress() == live.current_progress()
        assert (current_progress().share, current_progress().facts) == (0.5, {"loss": 2.0})
    with during("fails"), pytest.raises(ZeroDivisionError), during("inner"):
        1 / 0  # noqa: B018
    assert current_progress().words == ""


def test_the_time_left_follows_the_measured_pace(monkeypatch):
    clock, done = [100.0], [0.1]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    computing = Computing()
    with during("", lambda: done[0]):
        assert computing.lines()[0].tail == ""  # nothing has been measured yet
        clock[0], done[0] = 110.0, 0.2
        assert computing.lines()[0].tail == "about 1 min left"  # 10 s a tenth
        done[0] = 0.05  # another part
        assert computing.lines()[0].tail == ""
        clock[0], done[0] = 111.0, 0.55
        assert computing.lines()[0].tail == "about 1 s left"


def test_lines_in_a_log_become_rarer(monkeypatch):
    clock, stream = [0.0], io.StringIO()
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    display = Display(stream)
    times = []
    for second in range(400):
        clock[0], before = float(second), stream.tell()
        display.show([Line("at work", 0.5, "about 3 s left")])
        if stream.tell() > before:
            times.append(second)
    assert times == [10, 30, 70, 130, 190, 250, 310, 370]
    assert stream.getvalue().splitlines()[0] == "at work, 50% done, about 3 s left"
    display.tell("a run\nended \x1b[31m")  # names are anyone's
    assert "\x1b" not in stream.getvalue()
    clock[0] = 420.0
    display.show([Line("at work")])
    assert stream.getvalue().splitlines()[-1] == r"a run\nended \x1b[31m"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_longer_than_the_terminal(width):
    pytest.importorskip("rich")
    from rich.console import Console

    page = io.StringIO()
    facts = facts_in_words({"step": 1234, "steps": 100_000, "loss": 3.14159, "rate": 1.2e7})
    lines = [Line("0 of 6 runs done, 2 at work", 0.4, "about 2 h 30 min left"), Line(f"{facts}, [bold]moments[/] seed=1", None)]
    Console(file=page, width=width, force_terminal=True, no_color=True).print(live._picture(lines, width))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", page.getvalue()).splitlines()
    assert len(plain) == 2
    assert all(len(line) <= width for line in plain)
    assert "[bold]" in page.getvalue() or width < 80  # a label is text, not markup


def test_a_computation_says_its_text_and_block(monkeypatch):
    """Read at each attention layer, forward and backward."""
    from depthwidth.layers import Attention

    seen, moments = [], Attention.moments

    def watched(self, x, site):
        seen.append(current_progress().words)
        y, pull = moments(self, x, site)

        def pull_watched(g):
            seen.append(current_progress().words)
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


SLOW = """
import os, sys, time
from depthwidth.cli import live
from depthwidth.cli.main import COMMANDS, Entry, cli
from depthwidth.cli.options import formats
from depthwidth.cli.output import emit, say
from depthwidth.progress import announced
live.LOG_S = 1.0

@cli.command("slow")
@formats
def slow(form):
    for window in announced("window", range(30)):
        time.sleep(0.1)
        while window == 25 and "SEEN" in os.environ and not os.path.exists(os.environ["SEEN"]):
            time.sleep(0.1)
    emit(form, {"answer": 42}, [], lambda: say("the answer is 42"))

COMMANDS["slow"] = Entry("__main__", "slow", "")
from depthwidth.__main__ import main
main()
"""


def slow_command(*arguments, terminal, seen=None):
    """The output and the error stream of a command that takes three seconds; the error stream is a terminal or a pipe.

    With a file `seen`, the command takes as long as it takes until something is on the error stream.
    """
    environment = {**os.environ, "TERM": "xterm", "DEPTHWIDTH_QUIET": "", "NO_COLOR": "1", "COLUMNS": "40"}
    environment |= {} if seen is None else {"SEEN": str(seen)}
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", SLOW, "slow", *arguments], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)

    def collect():
        page = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # a terminal whose other side is closed
                read = b""
            if not read:
                break
            page += read
            if seen is not None:
                seen.touch()
        os.close(ours)
        output = process.stdout.read().decode()
        process.stdout.close()
        assert process.wait(timeout=PATIENCE) == 0
        return output, page.decode()

    return collect


@pytest.mark.slow
def test_a_real_command_in_a_terminal_and_in_a_log(tmp_path):
    """Nothing of it on the output, none with --json or --quiet; forty columns are enough; a log has plain lines."""
    kinds = {
        name: slow_command(*arguments, terminal=terminal, seen=None if arguments else tmp_path / name)
        for name, arguments, terminal in (
            ("terminal", (), True), ("log", (), False), ("quiet", ("--quiet",), True), ("json", ("--json",), True),
        )
    }  # fmt: skip
    found = {name: collect() for name, collect in kinds.items()}
    assert found["quiet"] == ("the answer is 42\n", "")
    assert json.loads(found["json"][0]) == {"answer": 42}
    assert found["json"][1] == ""
    output, page = found["terminal"]
    assert output == "the answer is 42\n"
    assert re.search(r"Computing for \d+ s.*\d\d%", page)
    assert page.endswith("\x1b[2K")
    assert not re.search(r"\x1b\[[0-9;]*m", page)
    frames = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "\n", page).replace("\r", "\n").splitlines()
    assert max(map(len, frames)) <= 40
    output, page = found["log"]
    assert output == "the answer is 42\n"
    assert re.fullmatch(r"(Computing for \d+ s, window \d+ of 30, \d+% done(, about \d+ s left)?; Ctrl-C stops it\.\n)+", page)
