"""Verdicts in words: the margin to a criterion, its noise, and the results that would change the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..jobs import Comparison, Outcome, Verdict, find_job
from ..rows import Row
from .plans import predictions_of

MOST_FLIPS = 4
"""Comparisons, those nearest to their limit, for which a report says what would change them."""
MOST_SEEDS = 12
"""Seeds that are left out one at a time; each is another judgement."""


def outcome_in_noise(verdict: Verdict) -> Outcome:
    """The outcome, if comparisons count as undecided when their noise exceeds the allowed range."""
    noisy = [line for line in verdict.comparisons if line.is_noisy]
    if not noisy or verdict.outcome not in ("holds", "holds on a range"):
        return verdict.outcome
    return "holds on a range" if any(line.passes and not line.is_noisy for line in verdict.comparisons) else "undecided"


def seeds_of(rows: Iterable[Row]) -> list[int]:
    """The seeds of rows, in order."""
    return sorted({row.seed for row in rows if row.seed is not None})


def distance(line: Comparison) -> float | None:
    """From the measured value to the nearest end of its limit; negative if the value lies outside.

    None without a limit, or if the limit counts a noise that is not known.
    """
    if line.limit is None or line.measured is None or not math.isfinite(line.measured):
        return None
    if line.limit.sigmas > 0 and line.stderr is None:
        return None
    low, high = line.limit.ends(line.stderr)
    return min(line.measured - low, high - line.measured)


def nearest_first(verdict: Verdict) -> list[Comparison]:
    """The comparisons with a limit: first those outside of it, then by their distance in standard errors, or in its size."""
    limited = [line for line in verdict.comparisons if distance(line) is not None]
    return sorted(limited, key=lambda line: (line.passes is True and not line.is_noisy, _relative(line)))


def _relative(line: Comparison) -> float:
    found = distance(line) or 0.0
    ends = [abs(end) for end in (line.limit.low, line.limit.high) if end] if line.limit else []
    unit = line.stderr or (line.limit.tolerance if line.limit else None) or (min(ends) if ends else 1.0)
    return abs(found) / unit


def margin_in_words(verdict: Verdict) -> str:
    """One sentence on the margin of a verdict."""
    lines = nearest_first(verdict)
    noisy = [line for line in lines if line.is_noisy]
    judged = sum(line.passes is not None for line in verdict.comparisons) or len(lines)
    if not lines:
        if any(line.limit for line in verdict.comparisons):
            return "The criterion counts the noise, which is not known, so no margin can be stated"
        return "The criterion is not a limit on one measured number, so no margin can be stated"
    first = lines[0]
    if noisy:
        return (
            f"In {len(noisy)} of {judged} comparisons the noise exceeds the allowed range: in {noisy[0].what} "
            f"two standard errors are {number(2 * (noisy[0].stderr or 0.0))}"
        )
    by = _by(first)
    if first.passes is False:
        return f"{first.what} misses its limit by {by}"
    if first.passes is None:
        return f"{first.what} is {'inside' if (distance(first) or 0) >= 0 else 'outside'} its limit by {by}"
    if judged == 1:
        return f"{first.what} is inside its limit by {by}"
    return f"Of {judged} comparisons the closest to its limit, {first.what}, is inside by {by}"


def _by(line: Comparison) -> str:
    found = abs(distance(line) or 0.0)
    return number(found) + (f", which is {found / line.stderr:.1f} standard errors" if line.stderr else "")


def flips(verdict: Verdict, seeds: int) -> list[str]:
    """For the comparisons nearest to their limit, the value or the number of seeds that would change them.

    Without limits, the comparisons that are not decided, each with the reason that its job gives.
    """
    if lines := nearest_first(verdict)[:MOST_FLIPS]:
        return [f"{line.what}: {_flip(line, seeds)}" for line in lines]
    waiting = [line for line in verdict.comparisons if line.passes is None and line.predicted is not None and line.note]
    if verdict.outcome != "undecided":
        return []
    return [f"{line.what}, if it were measured; so far {line.note}" for line in waiting[:MOST_FLIPS]]


def _flip(line: Comparison, seeds: int) -> str:
    limit, measured, stderr = line.limit, line.measured, line.stderr
    assert limit is not None  # noqa: S101
    assert measured is not None  # noqa: S101
    low, high = limit.ends(stderr)
    now = f"it is {number(measured)}" + (f" +- {number(stderr)}" if stderr else "")
    if line.is_noisy and stderr:
        allowed = limit.tolerance or min(abs(measured - low), abs(measured - high))
        return f"undecided, {now}; {_more(seeds, 2 * stderr / allowed)} would bring two standard errors to {number(allowed)}"
    inside = (distance(line) or 0.0) >= 0
    if line.passes or (line.passes is None and inside):
        ends = [f"below {number(low)}" if math.isfinite(low) else "", f"above {number(high)}" if math.isfinite(high) else ""]
        return f"a value {' or '.join(filter(None, ends))} would not meet the criterion; {now}"
    wanted = f"between {number(low)} and {number(high)}" if math.isfinite(low) and math.isfinite(high) else (
        f"above {number(low)}" if math.isfinite(low) else f"below {number(high)}"
    )  # fmt: skip
    plain = (limit.low is None or measured > limit.low) and (limit.high is None or measured < limit.high)
    if plain and limit.sigmas > 0 and stderr:  # the sign is right, the noise too large
        gap = min(abs(measured - end) for end in (limit.low, limit.high) if end is not None)
        many = _more(seeds, limit.sigmas * stderr / gap) if gap else "no number of seeds"
        return f"{now}; at this mean {many} would meet the criterion"
    beyond = "; more seeds at this mean would not" if limit.sigmas >= 0 and stderr else ""
    return f"a value {wanted} would meet the criterion; {now}{beyond}"


def _more(seeds: int, ratio: float) -> str:
    """The number of seeds that divides a standard error by a ratio."""
    if not seeds or not math.isfinite(ratio):
        return "more seeds"
    return f"about {math.ceil(seeds * ratio**2):,} seeds in place of {seeds}"


def verdicts_without_seeds(plan: Mapping[str, Any], rows: Sequence[Row], outcome: str) -> list[str]:
    """The verdict with each seed left out, in sentences; none with fewer than three seeds, or if the job is not installed."""
    seeds = seeds_of(rows)
    if not 3 <= len(seeds) <= MOST_SEEDS:
        return []
    try:
        job = find_job(plan["job"])
        found = {seed: job.judge([row for row in rows if row.seed != seed], predictions_of(plan)).outcome for seed in seeds}
    except Exception:  # a job may come from anyone, and need all of its seeds
        return []
    changed = {seed: other for seed, other in found.items() if other != outcome}
    if not changed:
        return [f"With any one of the {len(seeds)} seeds left out, the criterion gives the same verdict"]
    return [f"Without seed {seed} the criterion gives: {other}" for seed, other in changed.items()]


def number(value: float | None) -> str:
    """A number in a sentence or a table.

    Examples
    --------
    >>> number(0.123456), number(123456.0), number(1.23e-9), number(None), number(float("inf"))
    ('0.1235', '123,456', '1.23e-09', '', 'infinite')
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    if abs(value) >= 1000 and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}"
