"""u-muP: unit weights, with scales in the forward pass."""

from __future__ import annotations

import math

from ..architecture import Transformer
from ..layers import Attention, FeedForward, LanguageHead
from .activation_moment import activation_second_moment
from .draft import Choice, Draft, Values, finite_number, scheme
from .tensor_rules import vector_choice
from .tensors import BRANCHES, TABLES, Weight, depths_of, stacks, stem_scale, summed_tables
from .width_transfer import OUTPUT, scales_scores


@scheme(
    "unit-scaling",
    "Blake et al. 2024 (u-muP), arXiv 2407.17465, table 2 and appendix G; graphcore-research/unit-scaling",
    "primary for scales; activation constants are exact second moments here, where the library has empirical ones",
)
def unit_scaling(tree: Transformer, residual_mult: float = 1.0, residual_attn_ratio: float = 1.0) -> Draft:
    """`residual_mult` weighs branches against the embedding, `residual_attn_ratio` attention against the feed-forward part."""
    size = finite_number("unit-scaling", "residual_mult", residual_mult)
    ratio = finite_number("unit-scaling", "residual_attn_ratio", residual_attn_ratio)
    depths = depths_of(tree)
    tables = summed_tables(tree)

    def rule(weight: Weight) -> Choice:
        rate = depths[weight.stack] ** -0.5 if weight.stack else 1.0
        plain = vector_choice(weight)
        if plain is not None:
            choice = plain._replace(learning_rate=rate)
        elif weight.kind in TABLES:
            rate = weight.shape[-1] ** -0.5
            scale = 1 / (stem_scale(tree, weight.kind) * math.sqrt(tables))
            choice = Choice(1.0, "unit weights; learning rate over sqrt(fan-out)", scale, rate, 1 / rate)
        elif weight.kind in OUTPUT and weight.kind != "shared_gate":
            # The output's own 1/fan-in is the draft's multiplier on logits.
            scale = 1.0 if weight.kind in ("unembedding", "classifier") else 1 / weight.fan_in
            choice = Choice(1.0, "unit weights, output over fan-in", scale, rate, 1 / rate)
        else:
            rate *= weight.fan_in**-0.5
            scale = weight.fan_in**-0.5 * _unit_output(tree, weight)
            choice = Choice(1.0, "unit weights; output and learning rate over sqrt(fan-in)", scale, rate, 1 / rate)
        if scales_scores(weight) and isinstance(weight.owner, Attention):
            scale = choice.multiplier if isinstance(choice.multiplier, float) else 1.0
            reason = f"{choice.reason}; scores by 1/head_dim"
            choice = choice._replace(multiplier=scale * _to_inverse_head_dim(weight.owner), reason=reason)
        return choice

    ffn2 = size * size * 2 / (1 + ratio * ratio)
    attn2 = ratio * ratio * ffn2

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        own = ffn2 if branch == "feed_forward" else attn2
        before = [ffn2 if name == "feed_forward" else attn2 for name in BRANCHES]
        count = next(len(branches) for name, _, branches in stacks(tree) if name == stack)
        order = before if count == 3 else [attn2, ffn2]

        def tau2(block: int) -> float:
            return own / (depths[stack] + block * sum(order) + sum(order[:index]))

        reason = "u-muP: attention, feed-forward and embedding contribute alike, and the sum keeps unit variance"
        return (lambda b: (1 + tau2(b)) ** -0.5), (lambda b: (tau2(b) / (1 + tau2(b))) ** 0.5), reason

    width = tree.head.unembedding.width if isinstance(tree.head, LanguageHead) else tree.width
    draft = Draft(tree, rule, scales, output=1 / width, output_reason="logits over the width")
    draft.remarks.append("the backward pass of the library has scales of its own, which change gradients by constants alone")
    return draft


def _unit_output(tree: Transformer, weight: Weight) -> float:
    """What gives the output of a feed-forward part, or of attention, unit variance."""
    owner = weight.owner
    if weight.kind == "down" and isinstance(owner, FeedForward):
        return 1 / math.sqrt(activation_second_moment(owner.activation))
    if weight.kind == "out" and isinstance(owner, Attention):
        # The library's empirical model of the spread of attention's output, for independent tokens.
        tokens = max(tree.context, 2)
        flat = math.sqrt((math.log(tokens) if owner.causal else 1) / tokens)
        share = 1 / (1 + 4 * owner.head_dim)
        return float(1 / flat ** (1 - share))
    return 1.0


def _to_inverse_head_dim(attention: Attention) -> float:
    scale = attention.head_dim**-0.5 if attention.scale is None else attention.scale
    return 1 / (attention.head_dim * scale)
