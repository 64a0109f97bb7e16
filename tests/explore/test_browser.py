"""The page in a real Chromium without a window: every control, the keyboard alone, a phone, the console, the network."""

import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import PATIENCE, heed_ctrl_c

pytestmark = [pytest.mark.browser, pytest.mark.slow]

for _module in ("starlette", "uvicorn", "jinja2"):
    pytest.importorskip(_module)
sync_playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; pip install 'depthwidth[test]'"
).sync_playwright

from depthwidth.explore.controls import Settings, controls, groups  # noqa: E402
from depthwidth.explore.state import answer  # noqa: E402

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed; on Debian: apt-get install chromium", allow_module_level=True)

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
SMALL = "?budget=20M&preset=gpt3&vocab=1000&context=128"
DONE = "body[data-state=ready], body[data-state=refused]"
UNPREPARED = """
import sys
from depthwidth.__main__ import main
from depthwidth.explore import server
server.prepare = lambda: None
sys.argv = ["depthwidth", "explore", "--port", "0", "--no-browser"]
main()
"""
SERVER = [sys.executable, "-c", UNPREPARED]
"""The command without what it computes ahead: ten seconds of processor time, for answers that would be the same."""
LIMIT = 60_000
"""Milliseconds after which an answer counts as lost; machines of the tests are busy."""


@pytest.fixture(scope="module")
def address():
    """The page, served by the command."""
    process = subprocess.Popen(SERVER, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)  # noqa: S603
    yield re.search(r"http://\S+/", process.stdout.readline())[0]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:  # each start has a user folder of its own
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(QUIET))
        yield browser
        browser.close()


class Watch:
    """Console messages and network requests of a page."""

    def __init__(self, page):
        self.said, self.asked = [], []
        page.on("console", lambda message: self.said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def outside(self, address):
        return [url for url in self.asked if not url.startswith((address, "data:"))]


@pytest.fixture
def opened(chromium, address):
    """A function that opens the page; afterwards its console is empty, and every request went to its own server."""
    contexts, watches = [], []

    def open_page(query=SMALL, viewport=LAPTOP, **options):
        contexts.append(chromium.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(LIMIT)
        watches.append(Watch(page))
        page.goto(address + query)
        page.wait_for_selector(DONE)
        return page

    yield open_page
    for context in contexts:
        context.close()
    for watch in watches:
        assert watch.said == []
        assert len(watch.asked) >= 4
        assert watch.outside(address) == []


def put(page, **values):
    """Give controls values as a person does, and wait for the answer."""
    for name, value in values.items():
        field = page.locator(f"#{name}")
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
    page.wait_for_selector(DONE)


def text(page, selector):
    return page.locator(selector).inner_text()


def cost(page, name):
    return page.locator("#results dl div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text()


def test_a_violation_would_be_seen(chromium, address):
    """The negative control of both watches: a request to elsewhere, and what the page's policy says to it."""
    context = chromium.new_context()
    page = context.new_page()
    watch = Watch(page)
    page.goto(address + SMALL)
    page.wait_for_selector(DONE)
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    page.wait_for_timeout(200)
    assert any("Content Security Policy" in said for said in watch.said)
    free = chromium.new_context(bypass_csp=True)
    page = free.new_page()
    watch = Watch(page)
    page.goto(address + "static/style.css")
    page.evaluate("fetch('http://127.0.0.1:9/x').catch(() => 0)")
    assert watch.outside(address) == ["http://127.0.0.1:9/x"]
    context.close()
    free.close()


def test_it_loads_with_the_numbers_of_the_library(opened):
    page = opened()
    found = answer(Settings.of({"budget": "20M", "preset": "gpt3", "vocab": "1000", "context": "128"}))
    assert text(page, "#headline .shape") == found.plan.headline.replace(" x ", " × ")
    assert cost(page, "total parameters") == f"{found.plan.shape.parameters:,}"
    assert found.command in text(page, "#results")
    assert float(text(page, "#forward-growth")) > 0
    for title in ("Shape and range", "Cost and memory", "Stability at depth", "Evidence"):
        assert page.get_by_role("heading", name=title).is_visible()
    assert page.locator("svg.chart").count() == 2
    assert "Shape in" in text(page, "#time")


MOVES = {
    # control: its value, further settings that it needs, and the place on the page that changes with it
    "budget": ("50M", "", lambda page: text(page, "#headline .shape")),
    "kind": ("non_embedding", "", lambda page: text(page, "#headline .rest >> nth=1")),
    "preset": ("llama3", "", lambda page: text(page, "#headline .rest >> nth=0")),
    "vocab": ("8000", "", lambda page: cost(page, "non-embedding")),
    "context": ("512", "", lambda page: text(page, "#depth dl")),
    "experts": ("4", "", lambda page: cost(page, "active") if page.get_by_text("active", exact=True).count() else ""),
    "top_k": ("1", "&experts=4", lambda page: cost(page, "active")),
    "rule": ("completep2025", "", lambda page: text(page, "#evidence p >> nth=0")),
    "layers_at_most": ("8", "", lambda page: text(page, "#headline .shape")),
    "tensor_parallel": ("5", "", lambda page: cost(page, "training memory per device")),
    "pipeline": ("2", "", lambda page: cost(page, "training memory per device")),
    "data_parallel": ("4", "", lambda page: cost(page, "devices")),
    "expert_parallel": ("2", "&experts=4&data_parallel=2", lambda page: cost(page, "training memory per device")),
    "zero": ("3", "&data_parallel=4", lambda page: cost(page, "training memory per device")),
    "batch": ("8", "", lambda page: cost(page, "training memory per device")),
    "recompute": ("full", "&batch=8", lambda page: cost(page, "training memory per device")),
    "optimizer": ("sgd", "", lambda page: cost(page, "training memory per device")),
    "scheme": ("xavier", "", lambda page: text(page, "#forward-growth")),
}


def test_every_control_changes_what_it_should(opened):
    assert set(MOVES) == {control.name for control in controls()}
    by_name = {control.name: control for control in controls()}
    page = opened()
    start = {more: None for _, more, _ in MOVES.values()}
    for more in sorted(start):
        if more:
            page.goto(page.url.partition("?")[0] + SMALL + more)
            page.wait_for_selector(DONE)
        for name, (value, needed, place) in MOVES.items():
            if needed != more:
                continue
            before, old = place(page), page.locator(f"#{name}").input_value()
            put(page, **{name: value})
            assert place(page) != before, name
            words = shlex.join((by_name[name].option, value))
            flags = {"budget": value, "kind": "--non-embedding"}
            commands = "\n".join(page.locator(".command code").all_inner_texts())
            assert flags.get(name, words) in commands, name
            assert f"{name}={value}" in page.url
            put(page, **{name: old})
            assert place(page) == before, name


def test_a_slider_moves_its_field(opened):
    page = opened()
    slider = page.locator("[data-for=vocab]")
    slider.focus()
    assert slider.get_attribute("aria-valuetext") == "1000"
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(DONE)
    assert page.locator("#vocab").input_value() == "2048"
    assert "--vocab 2048" in text(page, "#results")


def test_bad_input_is_one_sentence_beside_its_control(opened):
    page = opened()
    put(page, vocab="many", batch="0.5")
    for name in ("vocab", "batch"):
        assert text(page, f"#error-{name}").startswith(f"{name} '")
        assert page.locator(f"#{name}").get_attribute("aria-invalid") == "true"
        field, line = (page.locator(f"#{one}").bounding_box() for one in (name, f"error-{name}"))
        assert 0 < line["y"] - field["y"] < 80
    assert page.locator("#results.stale").count() == 1
    assert text(page, "#headline .shape") == "No shape"
    put(page, vocab="1000", batch="")
    assert page.locator("[aria-invalid]").count() == 0
    assert page.locator(".stale").count() == 0


def test_the_keyboard_alone_is_enough(opened):
    page = opened()
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate(
            "[document.activeElement.id, document.activeElement.dataset.for || '', document.activeElement.tagName]"
        )
        visible = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert visible != "none"
        reached.append(at)
        if at[0] == "vocab":
            page.keyboard.type("2000")  # the field's text is selected
            page.wait_for_selector(DONE)
            assert "--vocab 2000" in text(page, "#results")
        if at[2] == "BUTTON":
            break
    names = [identity for identity, _, tag in reached if tag in ("INPUT", "SELECT") and identity]
    assert names == [control.name for control in controls()]
    assert [target for _, target, _ in reached if target] == [control.name for control in controls() if control.steps]
    assert sum(tag == "SUMMARY" for _, _, tag in reached) == len(groups())
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert not page.locator("#budget").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(opened, scheme):
    page = opened(viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True)
    page.evaluate("document.querySelectorAll('details').forEach((group) => { group.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    put(page, vocab="1" * 60)
    assert text(page, "#error-vocab")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light")
    assert abs(light[0] - light[1]) > 500


def test_without_scripts_a_button_computes(opened, chromium, address):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + SMALL)
    page.fill("#vocab", "2000")
    page.click("button:has-text('Compute')")
    assert "--vocab 2000" in text(page, "#results")
    assert float(text(page, "#forward-growth")) > 0
    context.close()


def test_a_server_that_has_ended_is_said(chromium):
    process = subprocess.Popen(SERVER, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)  # noqa: S603
    address = re.search(r"http://\S+/", process.stdout.readline())[0]
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(LIMIT)
    page.goto(address + SMALL)
    page.wait_for_selector(DONE)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert printed == "Ended.\n"
    page.fill("#vocab", "2000")
    page.wait_for_selector("body[data-state=unanswered]")
    assert text(page, "#time") == "The server does not answer; start depthwidth explore again."
    context.close()
