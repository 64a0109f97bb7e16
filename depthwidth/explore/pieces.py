"""The two answers for which the page asks, as plain data: pieces of HTML, and sentences on refused settings."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from . import page
from .controls import Settings
from .state import answer, stability


def plan_pieces(settings: Settings) -> dict[str, Any]:
    """Headline, results and evidence as pieces of HTML, and a sentence for each setting that is refused."""
    return _plan_pieces(replace(settings, scheme=""))  # the scheme has no part in them


@functools.lru_cache(maxsize=64)
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


def depth_pieces(settings: Settings) -> dict[str, Any]:
    """The stability as a piece of HTML, and a sentence if the scheme is refused."""
    steady = stability(settings)
    return {"depth": page.depth(steady), "refused": steady.error}
