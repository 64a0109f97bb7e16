"""Depth against width: the published rules, and their inverses for a parameter budget. One paper a file.

Three kinds of function share a rule's name. ``*_width`` and ``*_depth`` are the curve on which the rule calls a shape
balanced; ``*_optimal_width`` and ``*_optimal_depth`` give the point of that curve with a parameter budget N = c L d_x^2;
``*_error`` give one standard error. Every value is continuous: rounding to whole layers and head multiples comes last.
"""

from .combined import combined_optimal_width, combined_relative_width_error
from .completep import completep_aspect, completep_lowest_aspect
from .constant_aspect import constant_aspect_depth, constant_aspect_width
from .depth_delusion import depth_delusion_critical_depth, depth_delusion_critical_depth_power
from .gemstones import (
    gemstones_depth,
    gemstones_optimal_depth,
    gemstones_optimal_width,
    gemstones_relative_width_error,
    gemstones_width,
)
from .levine import (
    levine_depth,
    levine_depth_exponent,
    levine_optimal_depth,
    levine_optimal_depth_error,
    levine_optimal_width,
    levine_optimal_width_error,
    levine_relative_transition_error,
    levine_relative_width_error,
    levine_transition_parameters,
    levine_width,
    levine_width_exponent,
)
from .liu import liu_depth, liu_optimal_depth, liu_optimal_width, liu_width
from .marin import marin_depth
from .nanochat import nanochat_depth, nanochat_width
from .sovit import sovit_depth, sovit_scaled, sovit_shape_exponent, sovit_width
