"""The numbers behind a plan that no formula and no paper gives, each with its reason.

Losses are relative (1e-3 is 0.1 % of the loss); misses are relative distances from the budget.
"""

from __future__ import annotations

# The default rule, if the caller names none.

DEFAULT_RULE = "levine2020"
"""For text: the only published curve with a fit, a covariance and a range of several sizes."""
DEFAULT_IMAGE_RULE = "sovit2023"
"""For images: the only rule that was fitted on them."""

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
ROUNDING = 0.02
"""Screening counts feed-forward widths unrounded, so it keeps shapes up to this much above a limit. Half a step of 128 is 2.3 %
of the 2,731 hidden features at width 1024, and those are two thirds of a block: 1.6 %."""
SHORTLIST = 4
"""Shapes that are counted exactly after screening, which is wrong by rounding alone."""
SAMPLED_WIDTHS = 65
"""Target widths of one search: 0.7 % apart within a factor of 1.25, finer than steps of 128 up to a width of 18,000."""
SEARCH_FACTORS = (1.25, 2.0, 8.0, 64.0)
"""Factors around the rule's width in which the search looks, one after the other, until a shape is good enough."""
ROUND_AMOUNT = 1000
"""Budgets that are multiples of it were typed; others may be the count of a shape, which is then the plan."""
DEEPEST = 10**6
"""Depths beyond it are not offered: a width that needs more is far too narrow."""
HEAD_DIMS = (128, 96, 80, 64, 48, 32, 16, 8)
"""Head dimensions that may be tried, all of them multiples of 8, as tensor cores need."""

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
NEAR_DEPTH = 1.2
"""Factor by which a runner-up may leave its intended depth to come closer to the budget: the ratio of two intended depths."""
RUNNER_UP_MISS = 0.06
"""Runners-up that miss the budget by more are left out: a little above :data:`TOLERATED_MISS`, at which they already lose."""
DISTINCT_DEPTHS = 0.08
"""In ln(depth). Shapes closer than 8 % in depth are the same advice, and only the first is listed."""
MOVED = 0.15
"""In ln(depth). A recommendation further than this from its rule's own shape gets a note with the reason."""
BETTER_LOSS = 5e-4
"""A runner-up whose predicted loss is lower by more gets a note: a quarter of :data:`GOOD_ENOUGH`, as the search ends there."""
BETTER_MISS = 0.01
"""That note is for runners-up within 1 % above the budget; a larger shape is always better."""


def usual_head_dim(width: float) -> int:
    """The head dimension of most published models of this width.

    >>> usual_head_dim(1024), usual_head_dim(2048)
    (64, 128)
    """
    return 128 if width >= LARGE_HEADS_FROM else 64


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
