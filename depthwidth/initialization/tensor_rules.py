"""Rules that several schemes start from, and remarks on a tree outside a scheme's scope."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from ..architecture import Transformer
from ..layers import Constant, Draw, Fixed, Identity, Special
from ..layers.tensor import KINDS
from .draft import Choice, Draft, TensorRule, finite_number
from .tensors import Weight, branch_counts, weights

WRITING = tuple(kind.name for kind in KINDS.values() if kind.writes)
"""The kinds of weights at the ends of branches."""


def stated_choice(weight: Weight) -> Choice | None:
    """The start that the component states: ones, zeros, an identity, fixed values, without decay; None for a random draw.

    Every scheme uses these, unless it sets others.
    """
    start = weight.start
    if isinstance(start, Draw | Special):  # a recipe refuses the second before it asks
        return None
    if isinstance(start, Identity):
        return Choice(0.0, "an identity matrix", weight_decay=0.0, mean="identity")
    if isinstance(start, Fixed):
        return Choice(0.0, "fixed values, which are not trained", learning_rate=0.0, weight_decay=0.0, mean="fixed")
    return Choice(0.0, _reason(weight, start), weight_decay=0.0, mean=start.value)


def _reason(weight: Weight, start: Constant) -> str:
    if weight.kind == "gain":
        size = start.value + weight.tensor.offset
        gain = "a gain of one" if size == 1 else f"a gain of {size:g}"
        return f"{gain}, stored as its difference from one" if weight.tensor.offset == 1 else gain
    if start.value:
        return f"starts at {start.value:g}"
    if weight.kind == "score_bias":
        return "score biases start at zero, so that scores have the variance of query and key"
    return "biases start at zero" if weight.kind == "bias" else "starts at zero"


def normal_rule(tree: Transformer, std: float, *, deep: Collection[str] = (), where: str = "") -> TensorRule:
    """One standard deviation for every matrix and table; GPT-2's smaller one for the kinds in `deep`.

    `where` begins each reason; if it is not empty, the rule is that of transformers, which draws score biases too.
    """
    counts = branch_counts(tree)

    def rule(weight: Weight) -> Choice:
        plain = stated_choice(weight)
        if plain is not None and not (weight.kind == "score_bias" and where):
            return plain
        if weight.stack and weight.kind in deep:
            branches = counts[weight.stack]
            reason = f"{where}normal with {std:g}/sqrt({branches}), one over the square root of the number of residual branches"
            return Choice(std / math.sqrt(branches), reason)
        return Choice(std, f"{where}normal with one standard deviation for every matrix and table")

    return rule


def fan_rule(tree: Transformer, embedding_std: float | None, matrix: Callable[[Weight], tuple[float, str]]) -> TensorRule:
    """A rule for matrices by their fans; tables and the output matrix as in Vaswani et al.'s code."""
    table = 1 / math.sqrt(tree.width) if embedding_std is None else finite_number("recipe", "embedding_std", embedding_std)
    why = "1/sqrt(width), as in tensor2tensor and fairseq" if embedding_std is None else "embedding_std as given"

    def rule(weight: Weight) -> Choice:
        plain = stated_choice(weight)
        if plain is not None:
            return plain
        if weight.job.group == "table":
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


_NO_NORMS = (
    "the scheme is for models without norms: remove them (Transformer.without_norms, --no-norms), or its scales do not have "
    "their effect"
)


def _has_norms(tree: Transformer) -> bool:
    return any(weight.kind == "gain" and weight.stack for weight in weights(tree))


def note_norms(draft: Draft) -> Draft:
    """The draft of a scheme for models without norms, with a note if this tree has norms."""
    draft.extras["norms"] = "removed"
    if _has_norms(draft.tree):
        draft.notes.append(_NO_NORMS)
    return draft


def scale_std(choice: Choice, factor: float, reason: str) -> Choice:
    """The choice with its standard deviation multiplied by `factor`."""
    if callable(choice.std) or not choice.std:
        return choice
    return choice._replace(std=choice.std * factor, reason=f"{choice.reason}; {reason}")


def remark_placement(draft: Draft, scheme: str) -> Draft:
    """The draft of a scheme for norms after the sum, with a remark if this tree has them elsewhere."""
    branches = draft.tree.stack.repeats[0].block.branches
    if branches and branches[0][1].norm_stream is None:
        draft.remarks.append(f"{scheme} is for models with norms after the sum; this tree has them elsewhere")
    return draft
