"""Random models of one tree, in simulations of many draws."""

from collections.abc import Iterator

from depthwidth import Recipe, Transformer
from verify import apply_init, build
from verify.models.model import Model


def drawn_models(tree: Transformer, made: Recipe, draws: int) -> Iterator[tuple[int, Model]]:
    """Each seed with its model, of the same weights as ``build(tree, made, seed=seed)``.

    It is one module whose weights are drawn anew, since making one takes as long as a pass. Hooks stay for one draw.
    """
    model = build(tree, made, seed=0)
    for seed in range(draws):
        apply_init(model, made, seed=seed)
        yield seed, model
        for part in model.modules():
            part._forward_hooks.clear()
