"""What must be said beside a predicted loss penalty: where its measurement does not reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from ..architecture import Transformer
from ..coefficients import coefficient
from ..layers import PatchStem, TokenStem
from ..quantities import format_count
from .rules import MEASURED_SIZES


def penalty_caveats(tree: Transformer, size: float, width_ratios: Iterable[float]) -> Iterator[str]:
    """Sentences on the penalty of a tree of this size, and of shapes whose width over the best one is given."""
    if isinstance(tree.stem, PatchStem):
        yield "loss penalties were measured on language models; for images they are a guess"
    elif tree.kind != "decoder" or tree.experts is not None:
        yield "loss penalties were measured on dense decoders; for this kind of model they are a guess"
    low, high = MEASURED_SIZES
    if not low <= size <= high:
        yield (f"loss penalties were measured on {format_count(low)} to {format_count(high)} parameters; here they extrapolate")
    farthest = coefficient("shape_penalty", "x_max").value
    if any(abs(math.log(ratio)) > farthest for ratio in width_ratios):
        yield f"penalties of widths off by more than a factor of {math.exp(farthest):.1f} extrapolate the measured parabola"


def shape_caveats(tree: Transformer) -> Iterator[str]:
    """Sentences on what limits a shape whatever the rules say."""
    if isinstance(tree.stem, TokenStem):
        rank = min(tree.stem.tokens.width, tree.vocab)
        if rank < tree.width:
            yield (
                f"the input embedding has rank {rank}, below the width {tree.width}: by Wies et al. 2021 (arXiv 2105.03928) "
                "width beyond it is of limited use, and depth is worth more"
            )
    inner = tree.heads * tree.head_dim
    if inner < tree.width:
        yield f"queries span {inner} dimensions in all, fewer than the width {tree.width}"
    if tree.kind == "encoder-decoder":
        yield "the rules were fitted on one stack; here they judge the decoder's blocks against all parameters"
    if tree.embedding_parameters > tree.non_embedding_parameters:
        share = tree.embedding_parameters / tree.parameters
        yield f"the embedding takes {share:.0%} of the parameters, which the rules do not speak of"
