"""Spread between seeds: the gradient of a deep post-norm stack is log-normal over draws of the weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Unpack

from ....architecture import Transformer
from ....architecture.number_formats import number_format
from ....formulas.depth import (
    feed_forward_matrix_moment,
    feed_forward_matrix_spread,
    post_norm_log_drift,
    post_norm_log_variance,
)
from ....formulas.finite_width import gated_common_kurtosis, gated_kurtosis, gated_slope_kurtosis
from ....initialization import Recipe, recipe
from ....layers import Branch
from ...propagation import PropagationOptions
from ..base import OURS, TENFOLD, Check, Finding, Thresholds
from ..network import Network, Setting

SPREAD = Thresholds(math.log(2), TENFOLD, f"{OURS}: the gradient variance of one draw is then off by a factor of 2, or 10")


def gradient_log_normal(
    tree: Transformer, init: str | Recipe = "shipped", **given: Unpack[PropagationOptions]
) -> tuple[float, float]:
    """Mean and variance, over draws of the weights, of the logarithm of a post-norm stack's gradient ratio.

    Parameters
    ----------
    tree, init, given : as in :func:`~depthwidth.analysis.diagnosis.diagnose`.

    Returns
    -------
    Mean relative to the logarithm at infinite width, and variance; of the stack with the larger one, and zeros for a tree that
    has no norms after its sums.

    Raises
    ------
    InputError
        for the reasons of :func:`~depthwidth.analysis.propagation.propagate`.

    Notes
    -----
    To first order in 1/width, for tokens that have aligned (:func:`~depthwidth.formulas.depth.post_norm_log_drift`).
    """
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    return log_normal_of(Network(Setting(tree, (number_format("fp32"),) * 2, False, 1, 1.0, given), made))


def log_normal_of(network: Network) -> tuple[float, float]:
    """:func:`gradient_log_normal` of a network that may be propagated already."""
    found = _log_normal(network)
    return (0.0, 0.0) if found is None else found[1:]


def _log_normal(network: Network) -> tuple[str, float, float] | None:
    """The stack with the larger variance, and mean and variance of the logarithm."""
    sums: dict[str, list[float]] = {}
    width = network.setting.tree.width
    for branch in network.branches:
        if branch.residual.norm_stream is None or not (branch.kept and branch.added):
            continue
        moment, omega, shared = _matrix_moments(branch.residual.branch)
        strength = branch.added / branch.kept
        into = sums.setdefault(branch.stack, [0.0, 0.0])
        into[0] += post_norm_log_drift.body(strength, width, moment)
        into[1] += post_norm_log_variance.body(strength, width, omega, shared)
    if not sums:
        return None
    stack, (drift, variance) = max(sums.items(), key=lambda item: item[1][1])
    return stack, drift, variance


def gradient_spread(network: Network) -> Iterator[Finding]:
    """The finding for the post-norm stack that varies most between draws; none without post-norm stacks."""
    found = _log_normal(network)
    if found is None:
        return
    stack, drift, variance = found
    deviation = math.sqrt(variance)
    typical = math.exp(drift)
    low, high = typical / math.exp(deviation), typical * math.exp(deviation)
    sentence = (
        "once tokens have aligned, the gradient of this post-norm stack is log-normal over draws of the weights: "
        f"typically {typical:.3g} times the infinite-width value, and {low:.2g} to {high:.3g} times it for two draws in three"
    )
    yield Finding("gradient_spread", stack, deviation, SPREAD, sentence)


def _matrix_moments(branch: Branch) -> tuple[float, float, float]:
    """mu_2, omega and c of :func:`~depthwidth.formulas.depth.post_norm_log_drift` and its variance."""
    part = branch.as_feed_forward  # of a mixture, as if one expert served every token
    if part is None:
        return 3.0, 4.0, 0.0
    ratio = part.hidden / part.width
    kurtosis, common, slope_kurtosis, even = _kurtoses(part.activation, part.gated)
    moment = feed_forward_matrix_moment(ratio, slope_kurtosis, even)
    return moment, feed_forward_matrix_spread(ratio, kurtosis), (common - 1) / ratio


@functools.lru_cache(maxsize=32)
def _kurtoses(name: str, gated: bool) -> tuple[float, float, float, float]:
    """Four numbers of hidden features h at unit variance, with j their squared slope.

    E h^4 / (E h^2)^2, E h^2 j / (E h^2 E j), E j^2 / (E j)^2, and the sum of the squared shares of the first matrices in E j.
    """
    from ....layers.activations import activation
    from ....numerics.hermite import gauss_hermite

    x, weights = gauss_hermite(256)
    f, slope = activation(name)(x), activation(name).derivative(x)
    size, squared_slope = float(weights @ f**2), float(weights @ slope**2)
    kurtosis, slope_kurtosis = float(weights @ f**4) / size**2, float(weights @ slope**4) / squared_slope**2
    common = float(weights @ (f * slope) ** 2) / (size * squared_slope)
    if not gated:
        return kurtosis, common, slope_kurtosis, 1.0
    share = squared_slope / size
    both = gated_slope_kurtosis(slope_kurtosis, common, kurtosis, share)
    return gated_kurtosis(kurtosis), gated_common_kurtosis(common, kurtosis, share), both, (share**2 + 1) / (share + 1) ** 2


CHECK = Check(80, gradient_spread)
