"""Transfer of hyperparameters from a small model to a large one: muP, depth-muP and CompleteP."""

from __future__ import annotations

import math

from ..architecture import Transformer
from .draft import Choice, Draft, TensorRule, Values, finite_number, scheme
from .tensor_rules import stated_choice
from .tensors import Weight, depths_of


def scales_scores(weight: Weight) -> bool:
    """True if this weight takes a factor on the attention scores: the query norm's gain, or without one the query matrix."""
    attention = weight.owner.as_attention
    return attention is not None and weight.role.endswith(f".{attention.scores_tensor}")


def _width_rule(tree: Transformer, std: float, m_width: float, score: float, depth_rate: float) -> TensorRule:
    """The table of muP for Adam, relative to a base model; `depth_rate` is the learning-rate factor inside blocks."""

    def rule(weight: Weight) -> Choice:
        rate = depth_rate if weight.stack else 1.0
        choice = stated_choice(weight)
        if choice is not None:
            choice = choice._replace(learning_rate=rate if choice.learning_rate else 0.0)
        elif weight.job.group == "hidden":
            reason = f"hidden: variance and learning rate over the width ratio {m_width:g}, decay times it"
            choice = Choice(std / math.sqrt(m_width), reason, learning_rate=rate / m_width, weight_decay=m_width)
        elif weight.job.group == "output":
            inner = 1.0 if weight.kind in ("unembedding", "classifier") else 1 / m_width
            reason = "output: constant variance and learning rate, output over the width ratio"
            choice = Choice(std, reason, multiplier=inner, learning_rate=rate)
        else:
            choice = Choice(std, "input: constant variance and learning rate", learning_rate=rate)
        if score != 1.0 and scales_scores(weight):
            reason = f"{choice.reason}; scores by 1/head_dim, relative to the base"
            choice = choice._replace(multiplier=score, reason=reason)
        return choice

    return rule


def _mup_draft(
    tree: Transformer, scheme: str, std: float, base_width: float, base_head_dim: int | None, rate: float = 1.0
) -> Draft:
    std = finite_number(scheme, "std", std)
    m_width = tree.width / finite_number(scheme, "base_width", base_width)
    attention = tree.stack.first("as_attention")
    head_dim = 1 if attention is None else attention.head_dim
    score = math.sqrt(finite_number(scheme, "base_head_dim", base_head_dim or head_dim) / head_dim)
    reason = f"logits over the width ratio {m_width:g}"
    draft = Draft(tree, _width_rule(tree, std, m_width, score, rate), output=1 / m_width, output_reason=reason)
    draft.extras["width_ratio"] = m_width
    return draft


@scheme(
    "mup",
    "Yang et al. 2022, arXiv 2203.03466, table 8; microsoft/mup's optimizer",
    "primary; relative to a base model, where all factors are 1",
)
def mup(tree: Transformer, std: float = 0.02, base_width: float = 256, base_head_dim: int | None = None) -> Draft:
    """`std` and learning rates are those tuned on a model `base_width` wide."""
    return _mup_draft(tree, "mup", std, base_width, base_head_dim)


def _depth_transfer(
    tree: Transformer, scheme: str, std: float, base_width: float, base_depth: float, base_head_dim: int | None, alpha: float
) -> Draft:
    base = finite_number(scheme, "base_depth", base_depth)
    alpha = finite_number(scheme, "alpha", alpha, high=1.0, closed=True)
    depth_ratio = {name: depth / base for name, depth in depths_of(tree).items()}
    m_depth = depth_ratio[tree.stack_name]
    draft = _mup_draft(tree, scheme, std, base_width, base_head_dim, m_depth ** (alpha - 1))

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        return 1.0, depth_ratio[stack] ** -alpha, f"branches over the depth ratio to the power {alpha:g}"

    draft.scales = scales
    draft.extras["depth_ratio"] = m_depth
    draft.extras["adam_epsilon"] = m_depth**-alpha / draft.extras["width_ratio"]
    draft.notes.append(f"multiply Adam's epsilon by {draft.extras['adam_epsilon']:.6g}, as gradients shrink by that factor")
    return draft


@scheme(
    "depth-mup",
    "Yang et al. 2023, arXiv 2310.02244, as Dey et al. 2025 write it (alpha = 1/2)",
    "secondary: public code of CompleteP with alpha = 1/2",
)
def depth_mup(
    tree: Transformer, std: float = 0.02, base_width: float = 256, base_depth: float = 2, base_head_dim: int | None = None
) -> Draft:
    """`std` and learning rates are those tuned on a model of `base_depth` blocks `base_width` wide."""
    return _depth_transfer(tree, "depth-mup", std, base_width, base_depth, base_head_dim, 0.5)


@scheme(
    "completep",
    "Dey et al. 2025, arXiv 2505.01618, table 1; EleutherAI's nanoGPT-mup, branch completep",
    "primary: public code; base width 256 and depth 2 are the paper's",
)
def completep(
    tree: Transformer,
    std: float = 0.02,
    base_width: float = 256,
    base_depth: float = 2,
    base_head_dim: int | None = None,
    alpha: float = 1.0,
) -> Draft:
    """As depth-muP, with branches over the depth ratio to the power `alpha`."""
    return _depth_transfer(tree, "completep", std, base_width, base_depth, base_head_dim, alpha)
