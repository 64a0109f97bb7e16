"""The weights of a live model as arrays, tensor by tensor: what :mod:`depthwidth.analysis.head_ranks` reads of a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import nn

from depthwidth.architecture import Transformer
from depthwidth.initialization.named_tensors import places_of

from .base import multiplier_of
from .locate import locate, tree_of, unwrap


class LiveWeights:
    """The weights of a model of :func:`verify.build` or of the transformers library, by the roles of its tree.

    Parameters
    ----------
    multiplied : true for the weights of a forward pass, multiplied by the recipe's factors; false for the stored weights.

    Raises
    ------
    InputError
        if the model's parameters are not those of its tree.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, tree: Transformer | None = None, *, multiplied: bool = False) -> None:
        self.multiplied = multiplied
        self.model, self.tree = unwrap(model), tree_of(model) if tree is None else tree
        self._parameters = dict(model.named_parameters())
        self._shapes = {key: one.shape for key, one in places_of(self.tree).items()}
        self._places = {one.key: (name, one) for name, slices in locate(model, self.tree).items() for one in slices}

    def read(self, role: str, block: int | None = None) -> Any:
        """A tensor of the tree as doubles in its shape, matrices as (outputs, inputs); None if there is none.

        Of experts that are separate modules it is the last one.
        """
        if (role, block) not in self._places:
            return None
        name, one = self._places[role, block]
        view = one.view(self._parameters[name].detach())
        place, _, tensor = name.rpartition(".")
        owner = self.model.get_submodule(place)
        if view.dim() == 2 and type(owner).__name__ == "Conv1D":
            view = view.T
        if one.copy is None:
            view = view.reshape(self._shapes[role, block])
        factor = multiplier_of(owner, tensor) if self.multiplied else 1.0
        return factor * view.double().cpu().numpy()
