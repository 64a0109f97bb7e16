"""The moments of a tensor at one site, in two grains; the recursion over residual branches; the trace that records them."""

from .residual import NormFactors, add_branch, add_gradient, advance, norm_factors, post_norm_drift, pull_post_norm
from .signal import (
    AnySignal,
    DrawSpread,
    Number,
    Offset,
    Pullback,
    Signal,
    Spread,
    TokenSignal,
    check_signal,
    finite,
    quotient,
)
from .trace import LogVariance, Record, Scales, Site, Trace

__all__ = [
    "AnySignal",
    "DrawSpread",
    "LogVariance",
    "NormFactors",
    "Number",
    "Offset",
    "Pullback",
    "Record",
    "Scales",
    "Signal",
    "Site",
    "Spread",
    "TokenSignal",
    "Trace",
    "add_branch",
    "add_gradient",
    "advance",
    "check_signal",
    "finite",
    "norm_factors",
    "post_norm_drift",
    "pull_post_norm",
    "quotient",
]
