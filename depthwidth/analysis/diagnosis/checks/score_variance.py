"""Saturated attention: the variance of the scores within a row, against the condensation point of the softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ....architecture import Transformer
from ....formulas.attention import score_variance as variance_within_row
from ....formulas.saturation import condensation_point, condensed_length
from ....initialization import Recipe
from ..base import Check, Finding, Remedy, Thresholds
from ..network import Network

LARGEST_SHOWN = 700
"""Score variance up to which the condensing context, exp(variance/2), is printed. Beyond, it is longer than any context."""
AIM = 0.5
"""The remedy brings the scores to this share of the first threshold. Ours: halfway, as training lets scores grow."""


def thresholds(n: int) -> Thresholds:
    """The bounds for rows of n tokens, in nats^2."""
    return Thresholds(
        math.log(n) / 2,
        condensation_point(n) ** 2,
        "random-energy model: above (ln n)/2 the largest probability dominates the sum of squares, above 2 ln n attention "
        "condenses on a few tokens",
    )


def worst_scores(network: Network) -> tuple[dict[str, Any], float, int] | None:
    """The attention whose scores are nearest to condensing: its row, variance within a row of scores, and length."""
    worst = None
    run = network.setting.run
    for branch in network.branches:
        attention = branch.residual.branch.as_attention
        row = network.at(f"{branch.stack}.block.{branch.layer}.{branch.name}.scores")
        if row is None or attention is None:
            continue
        sourced = branch.stack == "encoder" and network.setting.tree.kind == "encoder-decoder"
        n = run.memory if attention.cross or sourced else run.tokens
        if attention.window is not None and not attention.cross:
            n = min(n, attention.window)
        variance = float(variance_within_row.body(row["second_moment"], min(1.0, max(-1.0, row["correlation"]))))
        if n > 1 and (worst is None or variance / math.log(n) > worst[1] / math.log(worst[2])):
            worst = (row, variance, n)
    return worst


def score_variance(network: Network) -> Iterator[Finding]:
    """The finding for the attention nearest to condensing; none in a network without attention."""
    found = network.once(worst_scores)
    if found is None:
        return
    from ...concentration import phase_of

    row, variance, n = found
    rule = thresholds(n)
    phase = phase_of(math.sqrt(variance / rule.limit))
    context = f", and condensed at {condensed_length(variance):.3g} tokens or fewer" if 1 < variance < LARGEST_SHOWN else ""
    sentence = f"scores have variance {variance:.3g} within a row of {n} tokens: attention is {phase}{context}"
    yield Finding("score_variance", row["site"], variance, rule, sentence)


def smaller_scores(network: Network, finding: Finding) -> Remedy | None:
    """A factor on the query weights that brings the scores well below the first threshold."""
    factor = math.sqrt(AIM * finding.rule.threshold / finding.value)
    made, names = _with_scores(network.made, network.setting.tree, factor)
    after = CHECK.again(Network(network.setting, made), finding)
    return None if after is None else Remedy(f"multiply {names} by {factor:.4g}", after.value)


def _with_scores(made: Recipe, tree: Transformer, factor: float) -> tuple[Recipe, str]:
    """A recipe whose attention scores are `factor` times as large: at the query's norm if there is one."""
    normed = tree.attention.query_norm is not None and tree.attention.query_norm.affine
    ending = ".query_norm.weight" if normed else ".query.weight"

    def scaled(value: Any) -> Any:
        return tuple(factor * one for one in value) if isinstance(value, tuple) else factor * value

    lines = tuple(
        line._replace(multiplier=scaled(line.multiplier)) if line.role.endswith(ending) else line for line in made.tensors
    )
    return replace(made, tensors=lines), "the gain of the query norm" if normed else "query weights"


CHECK = Check(50, score_variance, smaller_scores)
