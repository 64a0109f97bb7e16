"""The moments of a tensor at one site, in two grains; the recursion over residual branches; the trace that records them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..lazy import load_name

if TYPE_CHECKING:
    from .gradient_spread import gradient_step, unit_gradients
    from .residual import (
        MixedTokens,
        NormFactors,
        NormSpread,
        PostNormDrift,
        add_branch,
        add_gradient,
        advance,
        branch_spread,
        covariance_factor,
        lean_on_norm,
        norm_factors,
        norm_spread,
        normed_input,
        post_norm_drift,
        pull_branch_norm,
        pull_mixed_norms,
        pull_past_norms,
        pull_post_norm,
        residual_pullback,
        scaled,
    )
    from .signal import (
        AnySignal,
        DrawSpread,
        NormedOutput,
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
    from .trace import BlockRecords, GradientStep, Record, Scales, Site, StepRecord, Trace

# File -> the public names that it defines. A file is loaded when one of its names is first used: components are counted
# without any. The imports above repeat this for type checkers.
_FILES = {
    "gradient_spread": "gradient_step unit_gradients",
    "residual": (
        "MixedTokens NormFactors NormSpread PostNormDrift add_branch add_gradient advance branch_spread covariance_factor "
        "lean_on_norm norm_factors norm_spread normed_input pull_past_norms post_norm_drift pull_branch_norm "
        "pull_mixed_norms pull_post_norm residual_pullback scaled"
    ),
    "signal": "AnySignal DrawSpread NormedOutput Number Offset Pullback Signal Spread TokenSignal check_signal finite quotient",
    "trace": "BlockRecords GradientStep Record Scales Site StepRecord Trace",
}
_HOME = {name: file for file, names in _FILES.items() for name in names.split()}

__all__ = [
    "AnySignal",
    "BlockRecords",
    "DrawSpread",
    "GradientStep",
    "MixedTokens",
    "NormFactors",
    "NormSpread",
    "NormedOutput",
    "Number",
    "Offset",
    "PostNormDrift",
    "Pullback",
    "Record",
    "Scales",
    "Signal",
    "Site",
    "Spread",
    "StepRecord",
    "TokenSignal",
    "Trace",
    "add_branch",
    "add_gradient",
    "advance",
    "branch_spread",
    "check_signal",
    "covariance_factor",
    "finite",
    "gradient_step",
    "lean_on_norm",
    "norm_factors",
    "norm_spread",
    "normed_input",
    "post_norm_drift",
    "pull_branch_norm",
    "pull_mixed_norms",
    "pull_past_norms",
    "pull_post_norm",
    "quotient",
    "residual_pullback",
    "scaled",
    "unit_gradients",
]


def __getattr__(name: str) -> Any:
    return load_name(__name__, name, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
