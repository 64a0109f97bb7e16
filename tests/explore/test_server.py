"""The page without a browser: pieces, headers, hosts, the command."""

import contextlib
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from html.parser import HTMLParser

import pytest
from helpers import PATIENCE, heed_ctrl_c

pytest.importorskip("starlette")
pytest.importorskip("jinja2")
pytest.importorskip("uvicorn")

import uvicorn

from depthwidth.errors import InputError
from depthwidth.explore import page, pieces, server
from depthwidth.explore.charts import Dot, growth_chart, rules_chart
from depthwidth.explore.controls import Settings, controls
from depthwidth.explore.server import listen_on
from depthwidth.explore.state import Stability, answer, stability

SMALL = {"budget": "20M", "preset": "gpt3", "vocab": "1000", "context": "128"}


@pytest.fixture(scope="module")
def small():
    settings = Settings.of(SMALL)
    return settings, answer(settings)


class _Tags(HTMLParser):
    """Every tag with its attributes, and whether they are closed in order."""

    VOID = frozenset(("meta", "link", "input", "br", "line", "circle", "rect", "polyline"))

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.whole = [], [], True
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.whole = False


def test_the_page_is_whole_and_refers_to_nothing_elsewhere(small):
    text = page.whole_page(*small, None)
    tags = _Tags(text)
    assert tags.whole
    assert tags.open == []
    links = [attrs[name] for _, attrs in tags.found for name in ("href", "src", "action") if name in attrs]
    assert sorted(links) == ["/", "/", "/static/script.js", "/static/style.css", "data:,"]
    assert "style=" not in text  # the page's own policy forbids it
    assert not _Tags("<p><b>x</p>").whole


def test_every_control_has_a_label_and_a_place_for_its_sentence(small):
    tags = _Tags(page.whole_page(*small, None)).found
    for control in controls():
        (field,) = [attrs for _, attrs in tags if attrs.get("name") == control.name]
        assert field["aria-describedby"] == f"error-{control.name}"
        assert [attrs for tag, attrs in tags if tag == "label" and attrs["for"] == control.name]
        assert [attrs for _, attrs in tags if attrs.get("id") == f"error-{control.name}"]


def test_the_first_line_is_the_shape_with_its_band(small):
    found = small[1]
    text = page.headline(found)
    assert found.plan.headline.replace(" x ", " × ") in text
    assert re.search(r"\d+ to \d+ layers lose less than 0.4% ± ", text)


def test_text_of_a_setting_is_escaped():
    settings = Settings.of({**SMALL, "budget": "<script>alert(1)</script>\x1b"})
    text = page.whole_page(settings, answer(settings), None)
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.slow
def test_a_browser_without_scripts_gets_everything_at_once(small):
    settings, found = small
    steady = stability(settings)
    text = page.whole_page(settings, found, steady)
    assert f'id="forward-growth">{steady.forward_growth:.4g}<' in text
    assert _Tags(text).whole


def test_charts_stay_inside_and_show_every_value():
    dots = [Dot("a", 3.0, "3", "own"), Dot("b & c", 300.0, "300", "rule")]
    chart = rules_chart(dots, [(5.0, 80.0)], 20)
    assert "b &amp; c" in chart
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', chart)]
    assert places == sorted(places)
    assert 96 < places[0] < places[1] < 300
    line = re.search(r'class="line forward" points="([^"]*)"', growth_chart([1.0, 10.0, 100.0], [4.0, 2.0, 1.0]))[1]
    points = [tuple(map(float, pair.split(","))) for pair in line.split()]
    assert [x for x, _ in points] == [44.0, 218.0, 392.0]
    ys = [y for _, y in points]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)  # equal factors, equal steps
    assert "points" in growth_chart([1.0], [1.0])
    assert "nan" not in growth_chart([0.0, 0.0], [1.0, float("inf")])


def test_only_the_loopback_interface_listens_and_a_port_in_use_is_one_sentence(invoke):
    opened = listen_on(0)
    try:
        host, port = opened.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=f"--port {port} cannot be used .address already in use.; give another one"):
            listen_on(port)
        printed = invoke("explore", "--no-browser", "--port", port)
    finally:
        opened.close()
    assert printed.status == 2
    assert printed.error.count("\n") == 1
    assert printed.error.startswith(f"Error: --port {port} cannot be used")


def test_bad_ports_are_one_sentence(invoke):
    for port in ("-1", "65536", "web"):
        printed = invoke("explore", "--port", port)
        assert printed.status == 2
        assert printed.error.count("\n") == 1


def test_a_missing_extra_is_one_sentence(invoke, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else found(name, *rest))
    printed = invoke("explore", "--no-browser")
    assert printed.status == 2
    assert printed.error == "Error: explore needs starlette, uvicorn and jinja2; pip install 'depthwidth[explore]'\n"


@pytest.mark.parametrize("extra", [(), ("--no-browser",)])
def test_a_browser_opens_unless_it_is_not_wanted(extra, invoke, monkeypatch):
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(server, "serve", lambda socket: socket.close())
    printed = invoke("explore", "--port", "0", *extra)
    assert printed.status == 0
    address = re.search(r"http://127\.0\.0\.1:\d+/", printed.output)[0]
    assert "loopback" in printed.output
    assert opened == ([] if extra else [address])


def test_no_progress_is_reported_while_the_page_is_served():
    from depthwidth.__main__ import _prints_own_progress

    assert _prints_own_progress(["explore", "--port", "0"])
    assert not _prints_own_progress(["plan", "explore"])


@pytest.mark.slow
def test_the_stability_of_settings_that_are_left_is_not_computed(monkeypatch):
    computed, begun, free = [], threading.Event(), threading.Event()

    def compute(settings):
        computed.append(settings.budget)
        begun.set()
        assert free.wait(PATIENCE)
        return Stability("not known", ())

    monkeypatch.setattr(pieces, "stability", compute)
    with _asked() as ask:
        try:
            first = ask("/depth?budget=1M")
            assert begun.wait(PATIENCE)
            left, last = ask("/depth?budget=2M"), ask("/depth?budget=3M")
            left.close()
            time.sleep(0.1)
            free.set()
            for connection in (first, last):
                assert b"not known" in _read(connection)
        finally:
            free.set()
    assert computed == ["1M", "3M"]


@pytest.mark.slow
def test_the_stability_waits_for_the_plan_that_is_asked_for_with_it(monkeypatch):
    computed, begun, free = [], threading.Event(), threading.Event()

    def plan(settings):
        begun.set()
        assert free.wait(PATIENCE)
        computed.append("plan")
        return {"errors": {}}

    def depth(settings):
        computed.append(settings.budget)
        return {"depth": ""}

    monkeypatch.setattr(pieces, "plan_pieces", plan)
    monkeypatch.setattr(pieces, "depth_pieces", depth)
    with _asked() as ask:
        try:
            planned = ask("/plan?budget=1M")
            assert begun.wait(PATIENCE)
            same, left = ask("/depth?budget=1M"), ask("/depth?budget=1M")
            assert b"200 OK" in _read(ask("/depth?budget=2M"))  # other settings wait for none
            left.close()
            time.sleep(0.1)
            assert computed == ["2M"]
            free.set()
            for connection in (planned, same):
                assert b"200 OK" in _read(connection)
            assert b"200 OK" in _read(ask("/depth?budget=1M"))  # no plan is under way any more
        finally:
            free.set()
    assert computed == ["2M", "plan", "1M", "1M"]


class _Known:
    """What is known ahead of one choice of settings, and the settings that were answered."""

    def __init__(self, settings, found):
        self.settings, self.found, self.answered = settings, found, []

    def known(self, settings):
        return self.found if settings == self.settings else None

    def look(self, settings):
        self.answered.append(settings)


def test_the_server_sends_the_known_answers_and_computes_others(monkeypatch):
    monkeypatch.setattr(pieces, "plan_pieces", lambda settings: {"computed": settings.budget})
    monkeypatch.setattr(pieces, "depth_pieces", lambda settings: {"computed": settings.budget})
    ahead = _Known(Settings("2M"), {"plan": {"known": "plan"}, "depth": {"known": "depth"}})
    with _asked(ahead) as ask:
        for which in ("plan", "depth"):
            assert _read(ask(f"/{which}?budget=2M")).endswith(b'{"known":"%s"}' % which.encode())
            assert _read(ask(f"/{which}?budget=3M")).endswith(b'{"computed":"3M"}')
    assert ahead.answered == [Settings("2M"), Settings("3M")]


@contextlib.contextmanager
def _asked(ahead=None):
    """A server, and a function that sends it a request and returns the connection."""
    opened = listen_on(0)
    port = opened.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(server.application(ahead), log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]})
    thread.start()

    def ask(address):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        return connection

    try:
        yield ask
    finally:
        running.should_exit = True
        thread.join(PATIENCE)


def _read(connection):
    with connection, connection.makefile("rb") as answers:
        return answers.read()


@pytest.mark.parametrize(
    ("message", "told"), [("Cancel %s running task(s), timeout graceful shutdown exceeded", False), ("%s went wrong", True)]
)
def test_connections_that_an_interruption_cuts_are_no_error(message, told):
    record = logging.LogRecord("uvicorn.error", logging.ERROR, __file__, 1, message, (0,), None)
    assert server._is_news(record) == told


@pytest.mark.slow
def test_the_command_serves_and_ctrl_c_ends_it():
    command = [sys.executable, "-m", "depthwidth", "explore", "--port", "0", "--no-browser"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, preexec_fn=heed_ctrl_c)  # noqa: S603
    try:
        address = re.search(r"http://\S+/", process.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}?budget=7X") as got:  # noqa: S310
            assert got.status == 200
            assert "default-src 'none'" in got.headers["Content-Security-Policy"]
            assert "is not a positive size" in got.read().decode()
        for path in ("static/style.css", "static/script.js"):
            with urllib.request.urlopen(address + path) as got:  # noqa: S310
                assert got.status == 200
        foreign = urllib.request.Request(address, headers={"Host": "example.org"})  # noqa: S310
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(foreign)  # noqa: S310
        port = int(address.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):  # an open connection does not hold it up
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0
    assert printed == "Ended.\n"
    assert errors == ""
