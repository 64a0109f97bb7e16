"""Branches that a trainable scalar lets grow from nothing: ReZero and SkipInit."""

from __future__ import annotations

from ..architecture import Transformer
from .draft import Draft, finite_number, scheme
from .tensor_rules import XAVIER, fan_rule, without_norms, xavier_std


def _zero_branch(tree: Transformer, alpha: float, embedding_std: float | None, reason: str) -> Draft:
    base = fan_rule(tree, embedding_std, lambda weight: (xavier_std(weight), XAVIER))
    draft = without_norms(Draft(tree, base, lambda stack, branch, index: (1.0, alpha, reason)))
    draft.notes.append("each branch ends with a trainable scalar, which the model must have; it is not decayed")
    return draft


@scheme("rezero", "Bachlechner et al. 2020, arXiv 2003.04887, equation 1", "recalled; the rule is in the abstract")
def rezero(tree: Transformer, embedding_std: float | None = None) -> Draft:
    """Branches start at nothing."""
    return _zero_branch(tree, 0.0, embedding_std, "ReZero: x + a f(x) with a trainable a that starts at zero")


@scheme("skipinit", "De & Smith 2020, arXiv 2002.10444, section 3", "recalled; made for residual networks, carried over here")
def skipinit(tree: Transformer, alpha: float = 0.0, embedding_std: float | None = None) -> Draft:
    """Branches start at `alpha` times what they are."""
    value = finite_number("skipinit", "alpha", alpha, closed=True)
    return _zero_branch(tree, value, embedding_std, "SkipInit: a trainable scalar ends the branch; 0, or 1/sqrt(blocks)")
