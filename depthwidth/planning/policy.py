"""The numbers of a plan that no formula and no paper gives, each with its reason.

Losses are relative (1e-3 is 0.1 % of the loss); misses are relative distances from the budget.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

# The default rule, if the caller names none.

DEFAULT_RULE = "levine2020"
"""For text: the only published curve with a fit, a covariance and a range of several sizes."""
DEFAULT_IMAGE_RULE = "sovit2023"
"""For images: the only rule that was fitted on them."""
FALLBACK_RULE = "combined2026"
"""For text, if the default has no shape at a budget: it has one at any, and an error that grows beyond its sources."""

# The cost of a shape that misses its budget.

FREE_MISS = 0.01
"""Misses up to this one cost nothing: no budget is meant more exactly than to 1 %."""
TOLERATED_MISS = 0.05
"""Beyond it a miss costs its own size, far more than the loss it makes: such a shape answers another budget."""
LARGEST_OVERSHOOT = 0.5
"""A budget that even the best shape exceeds by more is refused as too small."""

# The search over whole numbers.

GOOD_ENOUGH = 2e-3
"""Cost at which the search ends: a fifth of the 1 % by which the published rules differ in predicted loss at 1T parameters."""
UNUSUAL_HEADS = 2e-4
"""Loss that a head dimension must win for each step away from the usual one: a tenth of :data:`GOOD_ENOUGH`, as kernels are
tuned for the usual one."""
NEARER_CURVE = 1e-2
"""Share of a shape's penalty at its own size that counts beside its loss at equal budget, to decide between depths of one
width, which are equal by the latter."""
UNEVEN_HEADS = 3e-5
"""Loss that a number of heads must win for each factor of two that it lacks to divide among :data:`EVEN_AMONG` devices: in all
less than a hundredth of a per cent, far below the error of the predicted loss."""
EVEN_AMONG = 8
"""Devices of one machine, among which tensor parallelism divides heads."""
ROUNDING = 0.02
"""Screening counts feed-forward widths unrounded, so it keeps shapes up to this much above a limit. Half a step of 128 is 2.3 %
of the 2,731 hidden features at width 1024, and those are two thirds of a block: 1.6 %."""
SHORTLIST = 4
"""Shapes that are counted exactly after screening, which is wrong by rounding alone."""
RUNNER_UP_SHORTLIST = 2
"""Shapes of one depth that are counted exactly: the two widths beside it are screened well enough."""
SAMPLED_WIDTHS = 65
"""Target widths of one search: 0.7 % apart within a factor of 1.25, finer than steps of 128 up to a width of 18,000."""
SEARCH_FACTORS = (1.25, 2.0, 8.0, 64.0)
"""Factors around the rule's width in which the search looks, one after the other, until a shape is good enough."""
ROUND_AMOUNT = 1000
"""Budgets that are multiples of it were typed; others may be the count of a shape, which is then the plan."""
MOST_STEPS = 1024
"""Steps of the width beyond which no allowed one is sought: key-value heads and devices may exclude all of them."""
OWN_WIDTHS = 12
"""Widths at which a budget that was not typed is held against the exact counts of shapes."""
DEEPEST = 10**6
"""Depths beyond it are not offered: a width that needs more is far too narrow."""
HEAD_DIMS = (128, 96, 80, 64, 48, 32, 16, 8)
"""Head dimensions that may be tried, all of them multiples of 8, as tensor cores need."""

TOKENS_PER_PARAMETER = 20.0
"""Training tokens per parameter, by default: compute-optimal by Hoffmann et al. 2022, arXiv 2203.15556."""

# The shape itself.

WIDE = 1024
"""From this width, widths and feed-forward widths are multiples of 128, the tile of a matrix product on current GPUs."""
MIDDLE = 256
"""From this width, of 64; below, finer steps, as a step of 64 would be more than a quarter of the width."""
NARROW = 128
"""From this width, widths are multiples of 32."""
SMALLEST_STEP = 8
"""Below, of 8, the least that tensor cores need."""
LARGE_HEADS_FROM = 1536
"""From this width heads have 128 dimensions, as in the larger models of the GPT-3 and Llama families; below it 64."""
REFERENCE_WIDTH = 1024
"""An open head dimension is counted as that of this width while counts are polynomials of the width."""

# Runners-up and notes.

RUNNER_UP_DEPTHS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 5 / 4, 3 / 2, 2)
"""Depths of the runners-up, relative to the recommended one: a quarter to twice, closer together near 1."""
FEW_RUNNERS_UP = 4
"""Runners-up below which other head dimensions are tried for more: the printed table has four."""
NEAR_DEPTH = 1.2
"""Factor by which a runner-up may leave its intended depth to come closer to the budget: the ratio of two intended depths."""
RUNNER_UP_MISS = 0.06
"""Runners-up that miss the budget by more are left out: a little above :data:`TOLERATED_MISS`, at which they already lose."""
DISTINCT_DEPTHS = 0.08
"""In ln(depth). Shapes closer than 8 % in depth are the same advice, and only the first is listed."""
MOVED = 0.15
"""In ln(depth). A recommendation further than this from its rule's own shape gets a note with the reason."""
TABLE_DEPTHS = (1 / 2, 2 / 3, 3 / 2, 2)
"""Depths of a plan's printed table, relative to the suggestion."""
KNOWN_MODELS = 2
"""The number of published models that a plan lists."""
FARTHEST_DEPTH = 4.0
"""Factor from the rule's own depth within which the least loss is sought: the penalty was measured at widths from 0.4 to 2
times the best, and at equal size half the width is four times the depth."""
FAR_DEPTH = 5e-3
"""Loss that a shape must win for each factor e of depth beyond :data:`FARTHEST_DEPTH`, half of the error of a loss there.
Without it budgets that are mostly embedding get hundreds of layers of a few dimensions, by a parabola that nothing supports."""
FAR_ENOUGH = 4e-3
"""Price of such a shape from which other head dimensions are tried for a nearer one: some nine times the rule's depth."""
NEGLIGIBLE_LOSSES = (4e-3, 3e-4)
"""Relative losses whose ranges of depth a plan states: what the published rules disagree by at most, and what no experiment
resolves, as the loss of one model differs by more between seeds."""

MEASURED_COST = 1e-3
"""Cost of a rule's shapes on public runs of about the plan's size from which a note says so: a third of it is within the error
of a cost there, and a third of the rules stay below it."""
SAME_SIZE = 2.0
"""Factor between sizes that count as about the same: cells of the public runs are a factor of 2.3 to 4.3 apart."""


def head_dims_by_distance(usual: int) -> list[int]:
    """The other head dimensions that may be tried, the nearest first.

    >>> head_dims_by_distance(128)[:3]
    [96, 80, 64]
    """
    return sorted(set(HEAD_DIMS) - {usual}, key=lambda dim: abs(math.log(dim / usual)))


def head_dims_near(usual: int) -> list[int]:
    """Head dimensions for a width that is given: multiples of 8 within a factor of 2 of the usual one, the nearest first.

    >>> head_dims_near(64)[:5]
    [64, 72, 56, 80, 48]
    """
    step = SMALLEST_STEP
    found = range(-(-usual // (2 * step)) * step, 2 * usual + step, step)
    return sorted((dim for dim in found if dim <= 2 * usual), key=lambda dim: abs(math.log(dim / usual)))


def missing_factors(heads: int) -> int:
    """Factors of two that a number of heads lacks to divide among :data:`EVEN_AMONG` devices.

    >>> [missing_factors(heads) for heads in (32, 28, 26, 25)]
    [0, 1, 2, 3]
    """
    return (EVEN_AMONG // math.gcd(heads, EVEN_AMONG)).bit_length() - 1


def usual_head_dim(width: float) -> int:
    """The head dimension of most published models of this width.

    >>> usual_head_dim(1024), usual_head_dim(2048)
    (64, 128)
    """
    return 128 if width >= LARGE_HEADS_FROM else 64


KV_FACTOR = 2
"""The number of key-value heads departs from the usual one by this factor at most: published families keep to 4, 8 or 16."""


@functools.cache
def kv_heads_near(heads: int, usual: Fraction, odd: frozenset[int], devices: int) -> int | None:
    """The number of key-value heads nearest to `usual`; None if none within a factor of 2 suits.

    It is a power of two, times one of the numbers `odd`, so that it divides among devices; it divides the query heads.

    >>> [kv_heads_near(heads, Fraction(8), frozenset({1}), devices=1) for heads in (32, 28, 26)]
    [8, 4, None]
    """
    found = {
        size << power
        for size in odd
        for power in range(heads.bit_length())
        if heads % (size << power) == 0 and ((size << power) % devices == 0 or devices % (size << power) == 0)
    }
    near = [number for number in found if usual <= number * KV_FACTOR and number <= usual * KV_FACTOR]
    return min(near, key=lambda number: (abs(math.log(number / usual)), number), default=None)


def width_step(width: float) -> int:
    """The step of widths that suits hardware.

    >>> [width_step(width) for width in (64, 200, 512, 4096)]
    [8, 32, 64, 128]
    """
    return 128 if width >= WIDE else 64 if width >= MIDDLE else 32 if width >= NARROW else SMALLEST_STEP


def ffn_step(width: float) -> int:
    """The step of feed-forward widths that suits hardware.

    >>> [ffn_step(width) for width in (64, 200, 512, 4096)]
    [8, 8, 64, 128]
    """
    return 128 if width >= WIDE else 64 if width >= MIDDLE else SMALLEST_STEP
