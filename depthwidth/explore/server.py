"""The page as a web application, served on the loopback interface only."""

from __future__ import annotations

import asyncio
import gc
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
from . import page
from .controls import Settings
from .state import answer, prepare, stability

HOST = "127.0.0.1"
_GARBAGE_STEP = 200_000
"""Objects made between two searches for garbage. With Python's 700 to 2,000, searches through the objects of modules and caches
took half the time of an answer; an answer makes some ten thousand objects."""
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    # The page may load nothing from elsewhere and send nothing elsewhere, and no other page may frame it.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def _whole(request: Request) -> Response:
    """The page; with ``depth=1`` in the query its stability is in it, for a browser without scripts."""
    settings = Settings.of(request.query_params)
    found = answer(settings)
    steady = stability(settings) if "depth" in request.query_params and found.plan is not None else None
    return HTMLResponse(page.whole_page(settings, found, steady), headers=_HEADERS)


async def _plan(request: Request) -> Response:
    """Headline, results and evidence as pieces of HTML, and a sentence for each setting that is refused."""
    settings, under_way = Settings.of(request.query_params), request.app.state.under_way
    sent = under_way[settings] = asyncio.Event()
    try:
        return JSONResponse(await run_in_threadpool(_plan_pieces, settings), headers=_HEADERS)
    finally:
        if under_way.get(settings) is sent:
            del under_way[settings]
        asyncio.get_running_loop().call_soon(sent.set)  # after the response, which is written before the loop turns


def _plan_pieces(settings: Settings) -> dict[str, Any]:
    found = answer(settings)
    return {
        "headline": page.headline(found),
        "results": page.results(found),
        "evidence": page.evidence(found),
        "errors": page.sentences(found),
        "hints": page.hints(found),
        "values": page.values(found),
        "refused": found.plan is None,
    }


async def _depth(request: Request) -> Response:
    """The stability as a piece of HTML, and a sentence if the scheme is refused.

    The page asks for it together with the plan. It is computed after the plan of these settings has been sent; one at a time,
    and none for settings that have been left meanwhile, so that they do not hold up the next.
    """
    settings, kept = Settings.of(request.query_params), request.app.state
    if settings in kept.under_way:
        await kept.under_way[settings].wait()
    async with kept.one_at_a_time:
        if await request.is_disconnected():
            return Response(status_code=204)
        data = await run_in_threadpool(_depth_pieces, settings)
    return JSONResponse(data, headers=_HEADERS)


def _depth_pieces(settings: Settings) -> dict[str, Any]:
    steady = stability(settings)
    return {"depth": page.depth(steady), "refused": steady.error}


def application() -> Starlette:
    """The application. It answers only requests that name this machine as host: a foreign name may lead here too."""
    made = Starlette(
        routes=[
            Route("/", _whole),
            Route("/plan", _plan),
            Route("/depth", _depth),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )
    made.state.one_at_a_time = asyncio.Lock()
    made.state.under_way = {}  # from the settings of a plan to the event that it has been sent
    return made


def listening(port: int) -> socket.socket:
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

    A thread computes shared integrals meanwhile, for some ten seconds.
    """
    gc.freeze()
    gc.set_threshold(_GARBAGE_STEP, 50, 50)
    threading.Thread(target=prepare, daemon=True).start()
    config = uvicorn.Config(application(), log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[opened])
