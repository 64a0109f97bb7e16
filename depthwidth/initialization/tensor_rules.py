"""Rules that several schemes start from, and what they say of a tree that they were not made for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..architecture import Transformer
from ..layers import RMSNorm
from .draft import Choice, Draft, TensorRule, finite_number
from .tensors import TABLES, Weight, branch_counts, weights


def vector_choice(weight: Weight) -> Choice | None:
    """Norms that pass the signal on and biases of zero, which every scheme has; never decayed."""
    if weight.kind == "gain":
        offset = isinstance(weight.layer, RMSNorm) and weight.layer.unit_offset
        reason = "a gain of one, stored as its difference from one" if offset else "a gain of one"
        return Choice(0.0, reason, weight_decay=0.0, mean=0.0 if offset else 1.0)
    if weight.kind == "bias":
        return Choice(0.0, "biases start at zero", weight_decay=0.0)
    if weight.kind == "score_bias":
        return Choice(0.0, "score biases start at zero, so that scores have the variance of query and key", weight_decay=0.0)
    return None


def normal_rule(tree: Transformer, std: float, *, deep: bool = False, where: str = "") -> TensorRule:
    """One standard deviation for every matrix and table; with `deep` GPT-2's smaller one at the end of branches.

    `where` starts the reasons, and marks a rule of transformers, which also draws score biases.
    """
    counts = branch_counts(tree)

    def rule(weight: Weight) -> Choice:
        plain = vector_choice(weight)
        if plain is not None and not (weight.kind == "score_bias" and where):
            return plain
        if deep and weight.kind in ("out", "down"):
            branches = counts[weight.stack]
            reason = f"{where}normal with {std:g}/sqrt({branches}), one over the root of the number of residual branches"
            return Choice(std / math.sqrt(branches), reason)
        return Choice(std, f"{where}normal with one standard deviation for every matrix and table")

    return rule


def fan_rule(tree: Transformer, embedding_std: float | None, matrix: Callable[[Weight], tuple[float, str]]) -> TensorRule:
    """A rule for matrices by their fans; tables and the output matrix as in Vaswani et al.'s code."""
    table = 1 / math.sqrt(tree.width) if embedding_std is None else finite_number("recipe", "embedding_std", embedding_std)
    why = "1/sqrt(width), as tensor2tensor and fairseq start tables" if embedding_std is None else "embedding_std as given"

    def rule(weight: Weight) -> Choice:
        plain = vector_choice(weight)
        if plain is not None:
            return plain
        if weight.kind in TABLES:
            return Choice(table, why)
        if weight.kind in ("unembedding", "classifier"):
            return Choice(1 / math.sqrt(weight.fan_in), "1/sqrt(width), for logits of unit variance")
        std, reason = matrix(weight)
        return Choice(std, reason)

    return rule


def xavier_std(weight: Weight) -> float:
    """sqrt(2 / (fan-in + fan-out))."""
    return math.sqrt(2 / (weight.fan_in + weight.fan_out))


XAVIER = "Xavier: sqrt(2 / (fan-in + fan-out))"


_NO_NORMS = "made for a model without norms: remove them, or the scales below mean something else"


def _has_norms(tree: Transformer) -> bool:
    return any(weight.kind == "gain" and weight.stack for weight in weights(tree))


def without_norms(draft: Draft) -> Draft:
    """The draft of a scheme for models without norms, with a note where this one has some."""
    draft.extras["norms"] = "removed"
    if _has_norms(draft.tree):
        draft.notes.append(_NO_NORMS)
    return draft


def scaled(weight: Weight, rule: TensorRule, factor: float, kinds: Sequence[str], reason: str) -> Choice:
    """What `rule` says, with the standard deviations of these kinds of tensor multiplied by `factor`."""
    choice = rule(weight)
    if weight.kind in kinds and not callable(choice.std):
        return choice._replace(std=choice.std * factor, reason=f"{choice.reason}; {reason}")
    return choice


BRANCH_KINDS = ("value", "out", "gate", "up", "down")


def for_post_norm(draft: Draft, scheme: str) -> Draft:
    """The draft of a scheme for norms after the sum, with a remark where this tree has them elsewhere."""
    block = draft.tree.stack.repeats[0].block
    if block.attention.norm_stream is None:
        draft.remarks.append(f"{scheme} is made for norms after the sum, and this tree has them elsewhere")
    return draft
