"""Response time of the page of ``depthwidth explore``, in a Chromium without a window.

    python tests/benchmarks/explore.py             # a table; --json for machines

Each control moves through a few values. The page itself measures from the event to the changed page, for the shape and for the
stability; the processor time of the server stays valid on a busy machine. Values are new to the server in the first round, in
the second they come from its memory. In the third, sliders go on by one step after a pause, in which the server has computed
ahead. This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
MOVES = {
    "budget": ("1B", "1.5B", "2B", "3B", "5B", "8B", "13B", "30B", "70B", "200B"),
    "vocab": ("32K", "64K", "100K", "200K"),
    "context": ("2048", "4096", "16384", "131072"),
    "rule": ("liu2026", "gemstones2025", "combined2026"),
    "tensor_parallel": ("2", "4", "8"),
    "data_parallel": ("2", "8", "64"),
    "zero": ("1", "2", "3"),
    "optimizer": ("muon", "sgd"),
    "preset": ("llama2", "gpt3", "mixtral"),
    "scheme": ("xavier", "gpt2", "mup", "completep", "deepscale"),
}
STEPS = {"budget": "ArrowRight", "vocab": "ArrowRight", "context": "ArrowLeft"}
PAUSE, COUNT = 2.5, 4
"""Seconds between two steps of a slider, and steps of each."""
ROUNDS = {1: "new settings", 2: "settings seen before", 3: f"steps {PAUSE:g} s apart"}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no Chromium is installed")
    command = [sys.executable, "-m", "depthwidth", "explore", "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        address = re.search(r"http://\S+/", process.stdout.readline() if process.stdout else "")
        assert address is not None
        with sync_playwright() as playwright:
            _settled(process.pid)
            browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(ARGUMENTS))
            rows = list(_measured(browser.new_page(), address[0], process.pid))
            browser.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    print(json.dumps(rows, indent=2) if options.json else _table(rows))  # noqa: T201


def _measured(page: Any, address: str, server: int) -> Iterator[dict[str, Any]]:
    page.set_default_timeout(60_000)
    for number in (1, 2):
        for name, values in MOVES.items():
            page.goto(address)
            page.wait_for_selector("body[data-state=ready]")
            for value in values:
                field, before = page.locator(f"#{name}"), _processor(server)
                (field.select_option if field.evaluate("field => field.tagName") == "SELECT" else field.fill)(value)
                page.wait_for_selector("body[data-state=ready]")
                shape, stability = map(int, re.findall(r"(\d+) ms", page.inner_text("#time")))
                spent = 1e3 * (_processor(server) - before)
                yield {"round": number, "control": name, "value": value, "shape": shape, "both": stability, "processor": spent}
    for name, key in STEPS.items():
        page.goto(address)
        page.wait_for_selector("body[data-state=ready]")
        slider = page.locator(f"[data-for={name}]")
        slider.focus()
        for _ in range(COUNT):
            page.wait_for_timeout(1e3 * PAUSE)
            before = _processor(server)
            page.keyboard.press(key)
            page.wait_for_selector("body[data-state=ready]")
            shape, stability = map(int, re.findall(r"(\d+) ms", page.inner_text("#time")))
            value, spent = page.locator(f"#{name}").input_value(), 1e3 * (_processor(server) - before)
            yield {"round": 3, "control": name, "value": value, "shape": shape, "both": stability, "processor": spent}


def _settled(process: int) -> None:
    """Wait until the server has prepared what most settings share: until it takes no more processor time."""
    before = -1.0
    while (spent := _processor(process)) > before:
        before = spent
        time.sleep(1.0)


def _processor(process: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["milliseconds: median, 90th percentile, worst"]
    for number, words in ROUNDS.items():
        for what in ("shape", "both", "processor"):
            values = sorted(row[what] for row in rows if row["round"] == number)
            high = values[int(0.9 * (len(values) - 1))]
            label = {"shape": "shape, cost, evidence", "both": "and stability", "processor": "processor time of the server"}[
                what
            ]
            lines.append(f"{words:<22}{label:<30}{statistics.median(values):6.0f}{high:6.0f}{values[-1]:6.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
