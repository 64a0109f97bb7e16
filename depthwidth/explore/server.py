"""The page as a web application, served on the loopback interface only."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..errors import InputError
from . import page, pieces
from .ahead import Ahead, collect_rarely
from .controls import Settings
from .state import answer, prepare, stability

HOST = "127.0.0.1"
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    # The page may load nothing from elsewhere and send nothing elsewhere, and no other page may frame it.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def _page(request: Request) -> Response:
    """The page; with ``depth=1`` in the query its stability is in it, for a browser without scripts."""
    settings = Settings.of(request.query_params)
    found = answer(settings)
    steady = stability(settings) if "depth" in request.query_params and found.plan is not None else None
    return HTMLResponse(page.whole_page(settings, found, steady), headers=_HEADERS)


async def _plan(request: Request) -> Response:
    """The answer of :func:`.pieces.plan_pieces`."""
    settings, kept = Settings.of(request.query_params), request.app.state
    sent = kept.under_way[settings] = asyncio.Event()
    try:
        data = _known(kept.ahead, settings, "plan") or await run_in_threadpool(pieces.plan_pieces, settings)
        return JSONResponse(data, headers=_HEADERS)
    finally:
        if kept.under_way.get(settings) is sent:
            del kept.under_way[settings]
        asyncio.get_running_loop().call_soon(sent.set)  # after the response, which is written before the loop turns


async def _depth(request: Request) -> Response:
    """The answer of :func:`.pieces.depth_pieces`.

    The page asks for it together with the plan. It is computed after the plan of these settings has been sent; one at a time,
    and none for settings that have been left meanwhile, so that they do not hold up the next.
    """
    settings, kept = Settings.of(request.query_params), request.app.state
    if settings in kept.under_way:
        await kept.under_way[settings].wait()
    async with kept.one_at_a_time:
        if await request.is_disconnected():
            return Response(status_code=204)
        data = _known(kept.ahead, settings, "depth") or await run_in_threadpool(pieces.depth_pieces, settings)
    if kept.ahead is not None:
        kept.ahead.look(settings)
    return JSONResponse(data, headers=_HEADERS)


def _known(ahead: Ahead | None, settings: Settings, which: str) -> dict[str, Any] | None:
    """An answer that was computed ahead; None if it was not."""
    found = None if ahead is None else ahead.known(settings)
    return None if found is None else found[which]


def application(ahead: Ahead | None = None) -> Starlette:
    """The application. It answers only requests that name this machine as host: a foreign name may lead here too.

    `ahead` computes answers before they are asked for; None for an application without.
    """
    made = Starlette(
        routes=[
            Route("/", _page),
            Route("/plan", _plan),
            Route("/depth", _depth),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )
    made.state.one_at_a_time = asyncio.Lock()
    made.state.ahead = ahead
    made.state.under_way = {}  # from the settings of a plan to the event that it has been sent
    return made


def listen_on(port: int) -> socket.socket:
    """A socket that listens on a port of the loopback interface; 0 takes a free one.

    Raises
    ------
    InputError
        if the port is in use or not allowed.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HOST, port))
        opened.listen(64)
    except OSError as error:
        opened.close()
        reason = str(error.strerror).lower()
        raise InputError(f"--port {port} cannot be used ({reason}); give another one, or 0 for one that is free") from None
    return opened


def serve(opened: socket.socket) -> None:
    """Serve the page on a listening socket until the process is interrupted.

    A thread computes shared integrals meanwhile, for some ten seconds, and a process of the lowest priority likely answers.
    """
    collect_rarely()
    threading.Thread(target=prepare, daemon=True).start()
    ahead = Ahead()
    try:
        made = application(ahead)
        config = uvicorn.Config(made, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        uvicorn.Server(config).run(sockets=[opened])
    finally:
        ahead.close()


def _is_news(record: logging.LogRecord) -> bool:
    """False for the message that an interrupted server did not wait for open connections: it need not wait."""
    return "timeout graceful shutdown exceeded" not in record.getMessage()
