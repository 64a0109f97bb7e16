"""A recipe on a live model: weights set in place, parameter groups for an optimizer, and a list of the model code's own tasks.

No part of the model is replaced or wrapped, so compiled and sharded models keep working. Tensors are found by name
(:mod:`depthwidth.initialization.named_tensors`): a model whose parameters have the tree's names
(``decoder.block.3.attention.query.weight``) needs nothing else, and those of the transformers library are named by their
:class:`~depthwidth.architecture.hf.family.Family`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf.weights import WeightNames
from depthwidth.display import Overview, with_overview
from depthwidth.errors import InputError, shown
from depthwidth.initialization import Recipe, TensorInit, at_block
from depthwidth.initialization.named_tensors import Key, places_of
from depthwidth.initialization.starting_laws import StartingLaw
from depthwidth.initialization.tensors import site_of
from depthwidth.layers import Residual, Stack
from depthwidth.layers.base import Layer

from .locate import locate, tree_of, unwrap


@with_overview
@dataclass(frozen=True)
class InitReport:
    """The work of :func:`apply_init`, and the work left to the model's code."""

    initialised: tuple[dict[str, Any], ...]
    """Parameter, tensor, standard deviation and mean, one entry for each tensor of the tree."""
    folded: tuple[dict[str, Any], ...]
    """Multipliers and residual scales that weights carry: tensor, factor, reason. The function is the same, up to a norm's
    epsilon; :func:`parameter_groups` adapts learning rate and decay."""
    needs_code: tuple[str, ...]
    """Tasks of the model's own code, one sentence each."""
    streams: tuple[str, ...] = ()
    """Residual streams with another size than in the recipe, since a skip scale was folded into branches, one sentence each."""

    def overview(self) -> Overview:
        """The numbers of tensors and the remaining work, for a prompt or a notebook."""
        facts = {"initialised": f"{len(self.initialised):,} tensors", "folded": f"{len(self.folded):,} factors"}
        rows = [("needs code", one) for one in self.needs_code] + [("stream", one) for one in self.streams]
        return Overview("Initialisation of a model", facts, ("kind", "note"), rows, ("note",), ".to_dict()")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {name: list(getattr(self, name)) for name in ("initialised", "folded", "needs_code", "streams")}


class _Folds:
    """The factors that weights carry for a recipe's multipliers and residual scales."""

    def __init__(self, tree: Transformer, recipe: Recipe) -> None:
        self.tree, self.recipe = tree, recipe
        self.factors: dict[Key, float] = {}
        self.reasons: dict[Key, list[str]] = {}
        self.needs_code: list[str] = list(recipe.notes)
        self.streams: list[str] = []
        self.carried: dict[tuple[str, int], float] = {}  # by branch and block, the factor that its weights carry
        self.places = places_of(tree)
        self.writers: dict[Key, list[Key]] = {}  # by branch and block, the tensors that write to the residual stream
        for key, weight in self.places.items():
            if weight.branch and weight.job.writes:
                self.writers.setdefault((f"{weight.stack}.block.{weight.branch}", key[1]), []).append(key)
        self._multipliers()
        for name, stack in tree.stacks.items():
            self._residuals(name, stack)

    def scale(self, key: Key, factor: float, reason: str) -> None:
        """Fold a factor into a tensor and its bias."""
        if factor == 1.0:
            return
        for one in (key, (key[0].removesuffix("weight") + "bias", key[1])):
            if one in self.places:
                self.factors[one] = self.factors.get(one, 1.0) * factor
                self.reasons.setdefault(one, []).append(reason)

    def _is_tied(self) -> bool:
        return "head.unembedding.weight" not in {role for role, _ in self.places} and self.tree.vocab > 0

    def _multipliers(self) -> None:
        for line in self.recipe.tensors:
            factors = {key: at_block(line.multiplier, key[1]) for key in self.places if key[0] == line.role}
            if all(factor == 1.0 for factor in factors.values()):
                continue
            weight = next(iter(self.places[key] for key in factors))
            if weight.kind == "tokens" and self._is_tied():
                self.needs_code.append(f"{line.role}: multiply by {at_block(line.multiplier, None):.6g} in the lookup")
            elif weight.kind == "query" and _norm_lacks_weights(weight.owner):
                self.needs_code.append(f"{line.role}: multiply the scores, as a norm without weights follows the query")
            elif weight.kind == "bias":
                continue  # carried with its weight
            else:
                for key, factor in factors.items():
                    self.scale(key, factor, "multiplier")

    def _residuals(self, name: str, stack: Stack) -> None:
        carried = 1.0  # the recipe's stream is the model's, multiplied by this
        for index, block in enumerate(stack.blocks()):
            summed = False
            for branch, residual in block.branches:
                place = f"{name}.block.{branch}"
                line = self.recipe.residual(place)
                skip, scale = at_block(line.skip, index), at_block(line.branch, index)
                if skip <= 0 or scale == 0:
                    scales = f"skip {skip:g} and branch {scale:g}"
                    self._once(f"{place}: {scales} need a separate scalar in the model ({line.reason})")
                    continue
                scale /= residual.scale  # the model has this factor already
                if residual.norm_stream is not None:
                    self._carry(place, index, residual, scale / skip)
                    continue
                if not (block.parallel and summed):
                    carried *= skip
                summed = True
                normed = residual.norm_in is not None or block.norm is not None
                if skip != 1.0 and not (normed and block.plain and stack.norm is not None):
                    self._once(f"{name}: the skip scale {skip:.6g} needs code, as not every reader of the stream has a norm")
                    carried = 1.0
                self._carry(place, index, residual, scale / carried)
        if not math.isclose(carried, 1.0, rel_tol=1e-3):
            self.streams.append(
                f"{name}: the last norm reads a stream of {carried**-2:.3g} times the recipe's second moment, as weights carry "
                "the skip scales; the function is the same, but the moments that the recipe promises hold with fold=False only"
            )

    def _once(self, sentence: str) -> None:
        if sentence not in self.needs_code:
            self.needs_code.append(sentence)

    def _carry(self, place: str, index: int, residual: Residual, factor: float) -> None:
        """Fold a factor on a branch's output into its last tensors, once for blocks that share them."""
        reason = "residual scale"
        if self._is_carried(place, index, factor):
            return
        if residual.norm_out is not None:
            if (f"{place}.norm_out.weight", index) in self.places:
                self.scale((f"{place}.norm_out.weight", index), factor, reason)
            elif factor != 1.0:
                self._once(f"{place}: multiply the branch by {factor:.6g}, as the norm after it has no weights")
            return
        writers = self.writers.get((place, index), [])
        for key in writers:
            self.scale(key, factor, reason)
        if not writers and factor != 1.0:
            self._once(f"{place}: multiply the branch by {factor:.6g}, as none of its matrices writes to the stream")

    def _is_carried(self, place: str, index: int, factor: float) -> bool:
        """True if the branch of an earlier block, whose weights this one shares, carries the factor."""
        first = self.tree.stacks[place.partition(".")[0]].first_use(index)
        carried = self.carried.setdefault((place, first), factor)
        if not math.isclose(factor, carried, rel_tol=1e-9):
            blocks = f"in block {index}, which has the weights of block {first}"
            self._once(f"{place}: multiply the branch by {factor / carried:.6g} {blocks}")
        return first != index

    def start(self, key: Key, line: TensorInit) -> tuple[float | str, float]:
        """Mean and standard deviation of a tensor, with its factor folded in."""
        factor = self.factors.get(key, 1.0)
        std = abs(factor) * at_block(line.std, key[1])
        if isinstance(line.mean, str):
            if factor != 1.0:
                words = {"identity": "starts as an identity matrix", "fixed": "has fixed values"}[line.mean]
                raise InputError(f"{site_of(*key)} {words} and cannot carry the factor {factor:.6g}")
            return line.mean, std
        offset = self.places[key].tensor.offset
        return factor * (at_block(line.mean, key[1]) + offset) - offset, std


def _mean_of(line: TensorInit, block: int | None) -> float | str:
    """The mean of a tensor in one block."""
    return line.mean if isinstance(line.mean, str) else at_block(line.mean, block)


def _norm_lacks_weights(attention: Layer) -> bool:
    norm = getattr(attention, "query_norm", None)
    return norm is not None and not norm.parameters


def _check(model: nn.Module, recipe: Recipe, tree: Transformer | None) -> Transformer:
    """The tree of the model.

    Raises
    ------
    InputError
        if the recipe is for a tree of another size.
    """
    tree = tree_of(model) if tree is None else tree
    ours = {"depth": tree.depth, "width": tree.width, "parameters": tree.parameters}
    theirs = recipe.extras.get("tree", ours)
    for name, value in ours.items():
        if theirs[name] != value:
            raise InputError(f"the recipe is for a model of {name} {theirs[name]:,}, and this one has {value:,}")
    return tree


def apply_init(
    model: nn.Module,
    recipe: Recipe,
    *,
    tree: Transformer | None = None,
    names: WeightNames | None = None,
    seed: int = 0,
    fold: bool | None = None,
) -> InitReport:
    """Set every weight of `model` by `recipe`, in place.

    Parameters
    ----------
    model : any module; before or after ``torch.compile``, wrapped or not.
    recipe : of the model's tree.
    tree : the model's tree; by default read from its configuration.
    names : its weight names (:func:`~verify.models.locate.locate`); by default its family's.
    seed : of the random generator; equal seeds give equal weights on equal devices.
    fold : let weights carry multipliers and residual scales as far as the function stays the same; otherwise all of them are
        listed in ``needs_code``. By default models of :func:`verify.build` are not folded, because their modules apply the
        scales, and all others are.

    Raises
    ------
    InputError
        if the recipe is for another model, or a parameter is not recognised.

    Notes
    -----
    The scale of a stream is free if every reader of it starts with a norm. So the last matrix of a branch carries
    ``skip x + branch f(norm(x))``: as ``branch`` over the product of all skips so far (pre-norm, with a final norm), or as
    ``branch / skip`` (post-norm).
    """
    tree = _check(model, recipe, tree)
    found = locate(model, tree, names)
    folds = _Folds(tree, recipe)
    apply_multipliers = getattr(unwrap(model), "apply_multipliers", None)
    fold = apply_multipliers is None if fold is None else fold
    carried, reasons = (folds.factors, folds.reasons) if fold else ({}, {})
    generators: dict[torch.device, torch.Generator] = {}
    done = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                raise InputError(f"{name} has no memory yet: give the model a device before its weights are set")
            for one in found[name]:
                line = recipe.tensor(one.role)
                mean, std = folds.start(one.key, line) if fold else (_mean_of(line, one.block), at_block(line.std, one.block))
                if std != 0 and parameter.device not in generators:
                    generators[parameter.device] = torch.Generator(parameter.device).manual_seed(seed)
                if line.law is not None:
                    depth = tree.stacks[one.role.partition(".")[0]].depth
                    _set_by_law(one.view(parameter), line.law, one.block or 0, depth, generators.get(parameter.device))
                elif mean != "fixed":
                    _set(one.view(parameter), mean, std, generators.get(parameter.device))
                done.append({"parameter": name, "tensor": site_of(*one.key), "std": std, "mean": mean})
        _set_undrawn(model)
    folded = [
        {"tensor": site_of(*key), "factor": factor, "reason": " and ".join(dict.fromkeys(reasons[key]))}
        for key, factor in carried.items()
    ]
    needs = list(folds.needs_code)
    if apply_multipliers is not None:
        apply_multipliers(None if fold else recipe)
    if apply_multipliers is not None and not fold:
        needs = list(recipe.notes)
    elif not fold:
        needs += [f"{site_of(*key)}: multiply its output by {factor:.6g}" for key, factor in folds.factors.items()]
    streams = folds.streams if fold else []
    for sentence in streams:
        warnings.warn(sentence, stacklevel=2)
    return InitReport(tuple(done), tuple(folded), tuple(needs), tuple(streams))


def _set_undrawn(model: nn.Module) -> None:
    """Set the rows of padding tokens to zero, and fixed values; a model of the library has set the latter when it was made."""
    for part in model.modules():
        if hasattr(part, "fill"):
            part.fill()
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            part.weight[part.padding_idx].zero_()


def _set_by_law(part: Tensor, law: StartingLaw, block: int, depth: int, generator: torch.Generator | None) -> None:
    """Set a tensor to the values of a law for uniform numbers."""
    uniform = torch.rand(part.shape, generator=generator, dtype=torch.float64, device=part.device).cpu().numpy()
    part.copy_(torch.from_numpy(law.values(uniform, block, depth).copy()))


def _set(part: Tensor, mean: float | str, std: float, generator: torch.Generator | None) -> None:
    """Draw a tensor around its mean, or set it to the mean if its standard deviation is 0."""
    center = 0.0 if isinstance(mean, str) else mean
    if std == 0:
        part.fill_(center)
    else:
        part.normal_(center, std, generator=generator)
    if mean == "identity":
        part += torch.eye(*part.shape[-2:], dtype=part.dtype, device=part.device)


def parameter_groups(
    model: nn.Module,
    recipe: Recipe,
    lr: float,
    weight_decay: float = 0.0,
    *,
    tree: Transformer | None = None,
    names: WeightNames | None = None,
    fold: bool | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: the parameters of one learning rate and weight decay, with their ``names``.

    Parameters
    ----------
    model, recipe, tree, names, fold : as for :func:`apply_init`.
    lr, weight_decay : of the base; each group has them times its recipe's factors.

    Raises
    ------
    InputError
        if a rate is not a number from 0, the recipe is for another model, or a parameter is not recognised.

    Notes
    -----
    For Adam and related optimizers, whose steps do not depend on the size of a gradient. A weight that carries a factor c has
    c times the learning rate and 1/c times the decay, which moves the function as the unfolded model would. A parameter that
    holds tensors of different rates (query, key and value in one matrix) has their geometric mean.
    """
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise InputError(f"parameter_groups: {name}={shown(value)} is not a number from 0")
    tree = _check(model, recipe, tree)
    found = locate(model, tree, names)
    fold = not hasattr(unwrap(model), "apply_multipliers") if fold is None else fold
    factors: Mapping[Key, float] = _Folds(tree, recipe).factors if fold else {}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        rate, decay = 1.0, 1.0 if found[name] else 0.0
        for one in found[name]:
            line = recipe.tensor(one.role)
            factor = abs(factors.get(one.key, 1.0))
            share = 1 / len(found[name])
            rate *= (at_block(line.learning_rate, one.block) * factor) ** share
            decay *= (at_block(line.weight_decay, one.block) / factor) ** share
        # Rates that differ by rounding only are one group.
        key = (float(f"{lr * rate:.9g}"), float(f"{weight_decay * decay:.9g}"))
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())
