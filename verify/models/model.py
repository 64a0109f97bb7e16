# mypy: disable-error-code="misc, no-any-return"
"""A whole model: a tree as a torch module.

Each component of :mod:`depthwidth.layers` has its module in the file of the same name here, registered with
:func:`~verify.models.base.builds`. A parameter's name is its place in the tree, ``decoder.block.17.attention.query.weight``:
recipes, probes and copied weights find it by name.

>>> from depthwidth import Transformer
>>> tree = Transformer(depth=2, width=32, heads=4, vocab=50, context=16)
>>> model = build(tree, seed=1)
>>> sum(p.numel() for p in model.parameters()) == tree.parameters
True
>>> tokens = torch.arange(16)[None]
>>> model(tokens).shape
torch.Size([1, 16, 50])
>>> logits, loss = model(tokens[:, :-1], tokens[:, 1:])
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError, shown
from depthwidth.formula import is_symbolic
from depthwidth.initialization import Recipe, at_block, parameters
from depthwidth.initialization import recipe as find_recipe

from . import registered  # noqa: F401
from .base import module, optional, set_multiplier

IGNORED = -100
"""Target of positions that are left out of the loss."""


class Model(nn.Module):
    """A transformer, described by its ``tree``; :func:`build` makes it."""

    def __init__(self, tree: Transformer) -> None:
        super().__init__()
        self.tree = tree
        self.stem = module(tree.stem)
        self.source = optional(tree.source)
        if self.source is not None and hasattr(self.source, "share"):
            self.source.share(self.stem)
        self.encoder = optional(tree.encoder)
        self.decoder = optional(tree.decoder)
        self.head = optional(tree.head)

    def features(self, tokens: Tensor, source: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """The stream after the last norm: (batch, length, width)."""
        if self.encoder is None or self.decoder is None:
            if source is not None:
                raise InputError("source has no meaning for a model of one stack")
            x = self.stem(tokens, segments)
            return (self.decoder or self.encoder)(x, None, block_inputs(self.stem, tokens, x), segments)
        if source is None:
            raise InputError("an encoder-decoder model takes source tokens besides its own: model(tokens, source=...)")
        reader = self.stem if self.source is None else self.source
        x = reader(source, segments)
        memory = self.encoder(x, None, block_inputs(reader, source, x), segments)
        x = self.stem(tokens)
        return self.decoder(x, memory, block_inputs(self.stem, tokens, x))

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        *,
        source: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, and the loss if targets are given.

        Parameters
        ----------
        tokens : (batch, length) whole numbers; images (batch, channels, height, width) for a model of images.
        targets : (batch, length), not shifted; positions with -100 are left out. A classifier's are (batch,).
        source : (batch, source length), the encoder's input in an encoder-decoder model; of a model of sound, spectrograms
            (batch, mel bins, steps).
        segments : of `tokens`, or of `source` if given, for a model that has them; all 0 by default.

        Returns
        -------
        Logits (batch, length, vocab) or (batch, classes); a model without a head gives its features. With `targets` also the
        cross-entropy in nats, averaged over the positions that are not left out.
        """
        x = self.features(tokens, source, segments)
        logits = x if self.head is None else self.head(x, getattr(self.stem, "table", None))
        if targets is None:
            return logits
        if not getattr(self.head, "logits", False):
            raise InputError("targets need a model with a language head or a classifier")
        loss = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED)
        return logits, loss

    def apply_multipliers(self, recipe: Recipe | None) -> None:
        """Set the multipliers and residual scales of a recipe, or reset them to 1; the weights stay.

        A scheme that trains the scale of each branch, such as ReZero, adds one parameter per branch to those of the tree.
        """
        for name, role, block, _ in parameters(self.tree):
            multiplier = 1.0 if recipe is None else at_block(recipe.tensor(role).multiplier, block)
            for one in self._homes(name, block):
                place, _, tensor = one.rpartition(".")
                set_multiplier(self.get_submodule(place), tensor, multiplier)
        for name, stack in self.tree.stacks.items():
            for index, layer in enumerate(stack.blocks()):
                for branch, _ in layer.branches:
                    self._scale(f"{name}.block.{index}.{branch}", f"{name}.block.{branch}", index, recipe)

    def _homes(self, name: str, block: int | None) -> list[str]:
        """The place of a tensor in every block that shares it."""
        stack = self.tree.stacks.get(name.partition(".")[0])
        if block is None or stack is None or stack.sharing is None:
            return [name]
        own = f".block.{block}."
        return [name.replace(own, f".block.{one}.", 1) for one, first in enumerate(stack.sharing) if first == block]

    def _scale(self, place: str, role: str, block: int, recipe: Recipe | None) -> None:
        residual = self.get_submodule(place)
        line = None if recipe is None else recipe.residual(role)
        residual.skip = 1.0 if line is None else float(at_block(line.skip, block))
        residual.scale = residual.own_scale if line is None else float(at_block(line.branch, block))
        residual.alpha = None
        if line is not None and line.trained:
            some = next(self.parameters())
            residual.alpha = nn.Parameter(torch.full((), residual.scale, dtype=some.dtype, device=some.device))


def block_inputs(stem: nn.Module, tokens: Tensor, x: Tensor) -> Tensor | None:
    """The stem's second output for each block, besides `x`: (batch, length, blocks, features); None if it gives nothing."""
    make = getattr(stem, "block_inputs", None)
    return None if make is None else make(tokens, x)


def build(
    tree: Transformer,
    recipe: Recipe | str | None = None,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Model:
    """The torch module of a tree, initialised by a recipe.

    Parameters
    ----------
    tree : a :class:`~depthwidth.Transformer` whose dimensions are numbers.
    recipe : a :class:`~depthwidth.Recipe` of this tree, or the name of a scheme; ``shipped`` by default. The modules, not the
        weights, carry its multipliers and residual scales.
    seed : of the weights; by default drawn from torch's global generator, which ``torch.manual_seed`` seeds.
    dtype, device : of the weights. On the device ``meta`` the model has shapes and no weights.

    Raises
    ------
    InputError
        if the tree has symbols for dimensions or a component without a module, or the recipe is for another tree.
    """
    if not isinstance(tree, Transformer):
        raise InputError(f"build: {shown(tree)} is not a Transformer")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise InputError(f"build: seed={shown(seed)} is not a whole number from 0")
    if any(is_symbolic(getattr(node.layer, one.name)) for node in tree.walk() for one in fields(node.layer)):
        raise InputError("build: a dimension of the tree is a symbol; give every dimension a number")
    with torch.device("meta"):
        model = Model(tree).to(dtype)
    place = torch.device("cpu" if device is None else device)
    if place.type != "meta":
        from .initialize import apply_init

        model.to_empty(device=place)
        for buffer in model.buffers():
            buffer.zero_()
        if recipe is None or isinstance(recipe, str):
            recipe = find_recipe(tree, recipe or "shipped")
        apply_init(model, recipe, seed=int(torch.randint(2**31, ())) if seed is None else seed)
    return model
