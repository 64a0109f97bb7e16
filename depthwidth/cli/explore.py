"""``depthwidth explore``: the command that serves the page."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import webbrowser

import click

from ..errors import InputError
from .options import option
from .output import say

_NEEDED = ("jinja2", "starlette", "uvicorn")


@click.command()
@option("--port", type=click.IntRange(0, 65535), metavar="N", default=8765, help="Port of the page; 0 takes a free one.")
@option("--no-browser", is_flag=True, help="Open no browser.")
def explore(port: int, no_browser: bool) -> None:
    """Serve a page with live settings that shows shape, range, costs, stability and evidence.

    The page is for this machine only (loopback), loads nothing from elsewhere, and shows the commands that print the same
    numbers. Ctrl-C ends it.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise InputError("explore needs starlette, uvicorn and jinja2; pip install 'depthwidth[explore]'")
    from ..explore.server import listen_on, serve

    opened = listen_on(port)
    host, found = opened.getsockname()
    address = f"http://{host}:{found}/"
    say(f"The page is at {address}, for this machine only (loopback). Ctrl-C ends it.")
    if not no_browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        serve(opened)
    say("Ended.")
