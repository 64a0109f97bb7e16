"""A learning rate of their own for tables of positions."""

from __future__ import annotations

from dataclasses import replace

from .recipes import PerBlock, Recipe, TensorInit

_PLACES = ("position", "positions")
"""The names of the parts of attention, stacks and stems that hold positions."""


def with_position_rate(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with the learning rate of every table of positions multiplied by `factor`, and no weight decay for them.

    An optimizer like Adam moves an entry of a score bias by the sum of the learning rates at most: by 0.8 nats in 800 steps at
    a mean rate of 1e-3. In a short training the biases need a higher rate before schemes of positions can be compared.

    Parameters
    ----------
    recipe : of any tree.
    factor : above 0.

    Raises
    ------
    InputError
        if the factor is not a positive number.

    Examples
    --------
    >>> from depthwidth import Transformer, recipe
    >>> tree = Transformer(depth=2, width=64, positions="diet-rel", vocab=100, context=16)
    >>> with_position_rate(recipe(tree, "xavier"), 15).tensor("decoder.block.attention.position.weight").learning_rate
    15.0
    """
    from .draft import finite_number

    factor = finite_number("with_position_rate", "factor", factor)

    def faster(line: TensorInit) -> TensorInit:
        if not any(place in _PLACES for place in line.role.split(".")[:-1]):
            return line
        rate: PerBlock = line.learning_rate
        rate = tuple(one * factor for one in rate) if isinstance(rate, tuple) else rate * factor
        return line._replace(learning_rate=rate, weight_decay=0.0, reason=f"{line.reason}; {factor:g} times the learning rate")

    return replace(recipe, tensors=tuple(map(faster, recipe.tensors)))
