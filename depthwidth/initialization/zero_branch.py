"""Branches with a trainable scalar factor that starts at or near zero: ReZero and SkipInit."""

from __future__ import annotations

from ..architecture import Transformer
from .draft import Draft, finite_number, scheme
from .tensor_rules import XAVIER, fan_rule, note_norms, xavier_std


def _zero_branch(tree: Transformer, alpha: float, embedding_std: float | None, reason: str) -> Draft:
    base = fan_rule(tree, embedding_std, lambda weight: (xavier_std(weight), XAVIER))
    draft = note_norms(Draft(tree, base, lambda stack, branch, index: (1.0, alpha, reason), trained_scales=True))
    draft.notes.append("the model must multiply each branch by a trainable scalar, without weight decay")
    return draft


@scheme("rezero", "Bachlechner et al. 2020, arXiv 2003.04887, equation 1", "recalled; the rule is in the abstract")
def rezero(tree: Transformer, embedding_std: float | None = None) -> Draft:
    """The factor of each branch starts at 0."""
    return _zero_branch(tree, 0.0, embedding_std, "ReZero: x + a f(x) with a trainable a that starts at zero")


@scheme("skipinit", "De & Smith 2020, arXiv 2002.10444, section 3", "recalled; made for residual networks, carried over here")
def skipinit(tree: Transformer, alpha: float = 0.0, embedding_std: float | None = None) -> Draft:
    """The factor of each branch starts at `alpha`."""
    value = finite_number("skipinit", "alpha", alpha, closed=True)
    return _zero_branch(tree, value, embedding_std, "SkipInit: a trainable scalar ends the branch; 0, or 1/sqrt(blocks)")
