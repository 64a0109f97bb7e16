"""The moments of a tensor at one site, in two grains, and the pass that carries them through a network."""

from .signal import (
    AnySignal,
    DrawSpread,
    Number,
    Place,
    Pullback,
    Row,
    Scales,
    Signal,
    Spread,
    TokenSignal,
    Walk,
    check_signal,
    common,
    finite,
    quotient,
)

__all__ = [
    "AnySignal",
    "DrawSpread",
    "Number",
    "Place",
    "Pullback",
    "Row",
    "Scales",
    "Signal",
    "Spread",
    "TokenSignal",
    "Walk",
    "check_signal",
    "common",
    "finite",
    "quotient",
]
