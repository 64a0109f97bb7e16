"""Run every check on a network, and try remedies for its findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Unpack

from ...architecture import Transformer
from ...architecture.number_formats import formats_of
from ...checks import check_whole
from ...errors import InputError
from ...initialization import Recipe, recipe
from ..propagation import PropagationOptions
from .base import SEVERITIES, Check, Finding
from .checks import all_checks
from .network import Network, Setting


def diagnose(
    tree: Transformer,
    init: str | Recipe = "shipped",
    dtype: str = "bf16",
    *,
    batch: int = 1,
    loss_scale: float = 1.0,
    remedies: Sequence[str | Recipe] = ("deepscale",),
    **given: Unpack[PropagationOptions],
) -> list[Finding]:
    """Compare the moments of a transformer at initialisation with thresholds for training.

    Parameters
    ----------
    tree : the transformer.
    init : a scheme by name, or a recipe.
    dtype : number format of activations and gradients: fp64, fp32, tf32, fp16, bf16, e4m3, e5m2, or fp8, which is e4m3 in the
        forward pass and e5m2 in the backward pass and holds only the operands of matrix products.
    batch : sequences that the loss is averaged over; with the tokens of a sequence it sets the size of gradients.
    loss_scale : factor on the loss before the backward pass.
    remedies : schemes or recipes to try on each finding that is not fine; the first of those that improve it most is named.
    given : further arguments of :func:`~depthwidth.analysis.propagation.propagate` (variance, correlation, context, dropout,
        ...).

    Returns
    -------
    Every finding, fine ones included, in a fixed order; each at the worst site of the network.

    Raises
    ------
    InputError
        if an argument is out of range, the scheme or format is unknown, or the tree holds a component whose moments are not
        known.

    Notes
    -----
    Headroom is that of Gaussian values with the predicted variance: the largest of n is below ``sqrt(2 ln 2n)`` standard
    deviations on average. Outliers that develop in training are not included.
    """
    network = network_of(tree, init, dtype, batch=batch, loss_scale=loss_scale, **given)
    candidates = [_Candidate(network.setting, remedy) for remedy in remedies]
    return [_with_remedy(check, found, network, candidates) for check in all_checks() for found in check.findings(network)]


def network_of(
    tree: Transformer,
    init: str | Recipe = "shipped",
    dtype: str = "bf16",
    *,
    batch: int = 1,
    loss_scale: float = 1.0,
    **given: Unpack[PropagationOptions],
) -> Network:
    """The network that :func:`diagnose` judges, with the same arguments; it is propagated once, when a check first asks."""
    check_whole("diagnose", batch=batch)
    if not (isinstance(loss_scale, (int, float)) and 0 < loss_scale < math.inf):
        raise InputError(f"diagnose: loss_scale={loss_scale} is not a positive number")
    setting = Setting(tree, formats_of(dtype), dtype == "fp8", batch, float(loss_scale), given)
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    return Network(setting, made)


def findings_of(network: Network) -> list[Finding]:
    """The findings of :func:`diagnose` without remedies."""
    return [found for check in all_checks() for found in check.findings(network)]


@dataclass
class _Candidate:
    """A scheme or recipe to try as a remedy, propagated when it is first needed."""

    setting: Setting
    remedy: str | Recipe

    @property
    def name(self) -> str:
        return f"scheme {self.remedy if isinstance(self.remedy, str) else self.remedy.scheme}"

    @cached_property
    def network(self) -> Network | None:
        """The remedied network; None if the scheme does not fit the tree."""
        try:
            made = self.remedy if isinstance(self.remedy, Recipe) else recipe(self.setting.tree, self.remedy)
            network = Network(self.setting, made)
            network.rows  # noqa: B018  (fails here, where the candidate can be skipped)
        except InputError:
            return None
        return network


def _with_remedy(check: Check, finding: Finding, network: Network, candidates: Sequence[_Candidate]) -> Finding:
    """The finding with its remedy: the check's own if it lowers the severity, else the candidate that lowers it most."""
    if finding.severity == "fine":
        return finding

    def rank(value: float) -> int:
        return SEVERITIES.index(finding.rule.severity(value))

    now = rank(finding.value)
    own = check.own_remedy(network, finding)
    if own is not None and rank(own.after) < now:
        return replace(finding, remedy=own.text, after=own.after)
    best: tuple[int, str, float] | None = None
    for candidate in candidates:
        other = None if candidate.network is None else check.again(candidate.network, finding)
        if other is not None and rank(other.value) < (now if best is None else best[0]):
            best = rank(other.value), candidate.name, other.value
    return finding if best is None else replace(finding, remedy=best[1], after=best[2])
