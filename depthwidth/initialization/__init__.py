"""Recipes: the starting standard deviation of every tensor of a transformer, the scales of outputs and branches, and reasons.

>>> from depthwidth import Transformer
>>> gpt2 = Transformer(depth=12, width=768, heads=12, vocab=50257, context=1024)
>>> made = recipe(gpt2, "gpt2")
>>> round(made.tensor("decoder.block.attention.out.weight").std, 6)
0.004082
>>> made.residual("decoder.block.attention").branch
1.0

A tensor's *role* is its path in the tree without the number of its block. A setting that differs between blocks is a tuple with
one value per block. Standard deviations are those of the stored weights; a multiplier scales the output of the layer that holds
the tensor.
"""

from .activation_moment import activation_second_moment
from .deepscale import deepscale_scales, embedding_correlation
from .draft import Choice, Draft, NoRecipeError, Scheme, TensorRule, scheme
from .position_rates import with_position_rate
from .recipes import Mean, PerBlock, Recipe, ResidualScale, TensorInit, at_block
from .registry import recipe, register_scheme, scheme_lines, scheme_options, schemes
from .shipped import shipped_options
from .tensor_rules import stated_choice
from .tensors import TABLES, Weight, parameters, site_of, stacks, weights

__all__ = [
    "TABLES",
    "Choice",
    "Draft",
    "Mean",
    "NoRecipeError",
    "PerBlock",
    "Recipe",
    "ResidualScale",
    "Scheme",
    "TensorInit",
    "TensorRule",
    "Weight",
    "activation_second_moment",
    "at_block",
    "deepscale_scales",
    "embedding_correlation",
    "parameters",
    "recipe",
    "register_scheme",
    "scheme",
    "scheme_lines",
    "scheme_options",
    "schemes",
    "shipped_options",
    "site_of",
    "stacks",
    "stated_choice",
    "weights",
    "with_position_rate",
]
