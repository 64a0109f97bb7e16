"""u-muP: unit weights, with scales in the forward pass."""

from __future__ import annotations

import math

from ..architecture import Transformer
from ..layers import AttentionLike
from .activation_moment import activation_second_moment
from .draft import Choice, Draft, Values, finite_number, scheme
from .tensor_rules import stated_choice
from .tensors import Weight, depths_of, sums_before
from .width_transfer import scales_scores


@scheme(
    "unit-scaling",
    "Blake et al. 2024 (u-muP), arXiv 2407.17465, table 2 and appendix G; graphcore-research/unit-scaling",
    "primary for scales; activation constants are exact second moments here, where the library has empirical ones",
)
def unit_scaling(tree: Transformer, residual_mult: float = 1.0, residual_attn_ratio: float = 1.0) -> Draft:
    """`residual_mult` weights branches relative to the embedding, `residual_attn_ratio` attention relative to feed-forward."""
    size = finite_number("unit-scaling", "residual_mult", residual_mult)
    ratio = finite_number("unit-scaling", "residual_attn_ratio", residual_attn_ratio)
    depths = depths_of(tree)
    tables = tree.stem.summed_tables

    def rule(weight: Weight) -> Choice:
        rate = depths[weight.stack] ** -0.5 if weight.stack else 1.0
        plain = stated_choice(weight)
        if plain is not None:
            choice = plain._replace(learning_rate=rate if plain.learning_rate else 0.0)
        elif weight.job.group == "table":
            rate = weight.shape[-1] ** -0.5
            scale = 1 / (tree.stem.table_scale(weight.kind) * math.sqrt(tables))
            choice = Choice(1.0, "unit weights; learning rate over sqrt(fan-out)", scale, rate, 1 / rate)
        elif weight.job.group == "output" and weight.kind != "shared_gate":
            # The 1/fan-in of the output matrix is the draft's multiplier on the logits.
            scale = 1.0 if weight.kind in ("unembedding", "classifier") else 1 / weight.fan_in
            choice = Choice(1.0, "unit weights, output over fan-in", scale, rate, 1 / rate)
        else:
            rate *= weight.fan_in**-0.5
            scale = weight.fan_in**-0.5 * _output_factor(tree, weight)
            choice = Choice(1.0, "unit weights; output and learning rate over sqrt(fan-in)", scale, rate, 1 / rate)
        attention = weight.owner.as_attention
        if scales_scores(weight) and attention is not None:
            scale = choice.multiplier if isinstance(choice.multiplier, float) else 1.0
            reason = f"{choice.reason}; scores by 1/head_dim"
            choice = choice._replace(multiplier=scale * _score_factor(attention), reason=reason)
        return choice

    ffn2 = size * size * 2 / (1 + ratio * ratio)
    attn2 = ratio * ratio * ffn2

    def share(branch: str) -> float:
        return ffn2 if branch == "feed_forward" else attn2

    earlier = {name: sums_before(tree, name, share) for name in tree.stacks}

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        def tau2(block: int) -> float:
            return share(branch) / (depths[stack] + earlier[stack][branch][block])

        reason = "u-muP: attention, feed-forward and embedding contribute alike, and the sum keeps unit variance"
        return (lambda b: (1 + tau2(b)) ** -0.5), (lambda b: (tau2(b) / (1 + tau2(b))) ** 0.5), reason

    head = tree.language_head
    width = tree.width if head is None else head.unembedding.width
    draft = Draft(tree, rule, scales, output=1 / width, output_reason="logits over the width")
    draft.remarks.append("the library scales its backward pass separately, which multiplies gradients by constants")
    return draft


def _output_factor(tree: Transformer, weight: Weight) -> float:
    """The factor that gives the output of a feed-forward part, or of attention, unit variance."""
    attention = weight.owner.as_attention
    if weight.reads:
        return 1 / math.sqrt(activation_second_moment(weight.reads))
    if weight.kind == "out" and attention is not None:
        # The library's empirical model of the spread of attention's output, for independent tokens.
        tokens = max(tree.context, 2)
        flat = math.sqrt((math.log(tokens) if attention.causal else 1) / tokens)
        share = 1 / (1 + 4 * attention.head_dim)
        return float(1 / flat ** (1 - share))
    return 1.0


def _score_factor(attention: AttentionLike) -> float:
    return 1 / (attention.head_dim * attention.score_scale)
