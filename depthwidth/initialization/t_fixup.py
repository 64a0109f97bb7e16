"""T-Fixup: branches scaled so that a model needs no norms."""

from __future__ import annotations

from ..architecture import Transformer
from .draft import Choice, Draft, scheme
from .tensor_rules import XAVIER, fan_rule, note_norms, scale_std, xavier_std
from .tensors import Weight, depths_of


@scheme(
    "t-fixup",
    "Huang et al. 2020 (ICML), section 3.2, and the authors' code",
    "primary for encoder-decoder models; a decoder alone takes the encoder's rule, which is ours",
)
def t_fixup(tree: Transformer, embedding_std: float | None = None) -> Draft:
    """Xavier, with tables and the branches' values and feed-forward matrices scaled by the number of layers."""
    base = fan_rule(tree, embedding_std, lambda weight: (xavier_std(weight), XAVIER))
    depths = depths_of(tree)
    both = tree.kind == "encoder-decoder"
    table = (9 * depths.get("encoder", tree.depth)) ** -0.25

    def rule(weight: Weight) -> Choice:
        choice = base(weight)
        if weight.job.group == "table":
            return scale_std(choice, table, "times (9N)^(-1/4)")
        if not weight.stack or not weight.job.carries:
            return choice
        decoder = both and weight.stack == "decoder"
        factor = (9 * depths[weight.stack]) ** -0.25 if decoder else 0.67 * depths[weight.stack] ** -0.25
        return scale_std(choice, factor, "times (9N)^(-1/4)" if decoder else "times 0.67 N^(-1/4)")

    return note_norms(Draft(tree, rule))
