"""DeepNorm: a skip path multiplied by alpha before each norm, and branch weights multiplied by beta."""

from __future__ import annotations

from ..architecture import Transformer
from .draft import Choice, Draft, Values, scheme
from .tensor_rules import XAVIER, fan_rule, remark_placement, scale_std, xavier_std
from .tensors import Weight, depths_of


@scheme(
    "deepnorm",
    "Wang et al. 2022 (DeepNet), arXiv 2203.00555, figure 2; torchscale's code",
    "primary; torchscale writes 1/1.15 for the paper's 0.87",
)
def deepnorm(tree: Transformer, embedding_std: float | None = None) -> Draft:
    """Xavier, with alpha and beta by depth; tables start with `embedding_std`, by default 1/sqrt(width)."""
    base = fan_rule(tree, embedding_std, lambda weight: (xavier_std(weight), XAVIER))
    depths = depths_of(tree)
    alphas, betas = {}, {}
    for name, depth in depths.items():
        if tree.kind != "encoder-decoder":
            alphas[name], betas[name] = (2 * depth) ** 0.25, (8 * depth) ** -0.25
        elif name == "decoder":
            alphas[name], betas[name] = (3 * depth) ** 0.25, (12 * depth) ** -0.25
        else:
            both = (depths["encoder"] ** 4 * depths["decoder"]) ** (1 / 16)
            alphas[name], betas[name] = 0.81 * both, 0.87 / both

    def rule(weight: Weight) -> Choice:
        choice = base(weight)
        if not weight.job.carries:
            return choice
        beta = betas.get(weight.stack, 1.0)
        return scale_std(choice, beta, f"times beta = {beta:.6g}")

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        return alphas[stack], 1.0, "DeepNorm: the skip is multiplied by alpha, so that one step changes the output by O(1)"

    return remark_placement(Draft(tree, rule, scales, {"alpha": alphas, "beta": betas}), "deepnorm")
