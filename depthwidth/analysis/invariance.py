"""The degrees of homogeneity of a model in its weights: which of them are scale invariant, alone and together.

Weights are scale invariant if a positive factor on them leaves the output as it is (degree 0). It follows from the tree alone,
by the rules of :mod:`depthwidth.numerics.homogeneity`; nothing is drawn. :func:`verify.measure.invariance.measure_invariance`
measures it on a torch module of any kind.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..architecture import Transformer
from ..architecture.design import SCALE_INVARIANT
from ..errors import InputError, shown
from ..initialization.tensors import site_of, weights
from ..numerics.homogeneity import Place, Powers, Walk, joint_degree
from ..values import frozen


@frozen
class Scaling:
    """The output under one factor on some weights.

    Parameters
    ----------
    name : role of a weight, or words for a group of weights.
    weights : roles of the weights.
    parameters : their number.
    degree : k, if a factor c on all of them multiplies the output by c^k; None if the rules do not show that it does.
    exact : False without a degree, and if an epsilon in a norm breaks it: it then holds while variances are far above that.
    breaks : the place and the reason of each break, those by epsilons last; equal ones of several blocks once.
    of_head : True if the output is the head's, False if it is the head's input.
    """

    name: str
    weights: tuple[str, ...]
    parameters: int
    degree: float | None
    exact: bool
    breaks: tuple[tuple[str, str], ...]
    of_head: bool = True

    @property
    def invariant(self) -> bool:
        """True if the output stays as it is, but for epsilons."""
        return self.degree == 0

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, ``invariant`` among them."""
        breaks = [{"place": place, "reason": reason} for place, reason in self.breaks]
        return {
            "name": self.name,
            "parameters": self.parameters,
            "degree": self.degree,
            "invariant": self.invariant,
            "exact": self.exact,
            "breaks": breaks,
        }


@frozen
class Invariance:
    """The scalings of a model: groups of weights that are scaled together, and each weight alone."""

    groups: tuple[Scaling, ...]
    each: tuple[Scaling, ...]

    @property
    def invariant(self) -> tuple[str, ...]:
        """Roles of scale-invariant weights: those of the largest group that is together, and all others that are alone.

        They are scale invariant together too, as conditions on powers are linear and these weights do not overlap.
        """
        largest = max((group for group in self.groups if group.invariant), key=lambda group: group.parameters, default=None)
        together = () if largest is None else largest.weights
        return tuple(one.name for one in self.each if one.invariant or one.name in together)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each group and each weight."""
        return [
            {"scaled": kind, **one.to_dict()}
            for kind, every in (("together", self.groups), ("alone", self.each))
            for one in every
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "invariant": list(self.invariant),
            "groups": [{**one.to_dict(), "weights": list(one.weights)} for one in self.groups],
            "weights": [one.to_dict() for one in self.each],
        }


def scale_invariance(tree: Transformer, patterns: Sequence[str] = ()) -> Invariance:
    """The degrees of a model's output in its weights, together and each alone.

    The groups are all weights, whose output is that of the head; those of the stems and stacks, whose output is what the head
    reads; and those whose roles match each of `patterns`. All blocks' weights of one role are scaled together.

    Parameters
    ----------
    tree : any tree. A component whose degrees are not derived breaks every weight in it and before it, with that reason.
    patterns : patterns of roles as of file names, such as ``*.attention.query.*``; several joined by commas are one group.

    Raises
    ------
    InputError
        if no weight matches a pattern.

    Notes
    -----
    A degree is proved; that there is none is not. Rules see a component as a whole, and not that a bias of keys is left out by
    the softmax unless nothing stands between them.

    Examples
    --------
    >>> from depthwidth import SCALE_INVARIANT, Transformer
    >>> found = scale_invariance(Transformer(2, 64, 2, **SCALE_INVARIANT, vocab=100, context=16, head="masked-lm"))
    >>> [(group.name, group.degree) for group in found.groups]
    [('all weights', 1), ('stem and encoder', 0)]
    >>> scale_invariance(Transformer(2, 64, 2, bias=False, vocab=100, context=16, qk_norm="head")).invariant
    ('decoder.block.attention.query.weight', 'decoder.block.attention.key.weight')
    """
    pass_ = _Pass(tree)
    roles = list(pass_.sites)
    body = [role for role in roles if not role.startswith("head.")]
    groups = [pass_.scaling("all weights", roles, whole=True)]
    if len(body) < len(roles):
        parts = [name for name in ("stem", "source", "encoder", "decoder") if getattr(tree, name) is not None]
        groups.append(pass_.scaling(" and ".join((", ".join(parts[:-1]), parts[-1])), body, whole=False))
    for pattern in patterns:
        matching = [role for role in roles if any(fnmatch.fnmatchcase(role, one.strip()) for one in pattern.split(","))]
        if not matching:
            raise InputError(f"no weight matches {shown(pattern)}; one is {roles[0]}")
        groups.append(pass_.scaling(pattern, matching, whole=True))
    return Invariance(tuple(groups), tuple(pass_.scaling(role, [role], whole=True) for role in roles))


def scale_invariant_twin(tree: Transformer) -> Transformer:
    """The scale-invariant encoder of a model's sizes: :data:`~depthwidth.SCALE_INVARIANT` with its depth, width and heads.

    Raises
    ------
    InputError
        if the model reads images, or has no attention or no feed-forward part.
    """
    if not tree.vocab:
        raise InputError("a scale-invariant encoder reads tokens, and this model reads none")
    shape = {"ffn": tree.ffn, "head_dim": tree.head_dim, "vocab": tree.vocab, "context": tree.context}
    head = "none" if tree.language_head is None else "masked-lm"
    return Transformer(tree.depth, tree.width, tree.heads, head=head, **shape, **SCALE_INVARIANT)


class _Pass:
    """One pass of powers through a tree."""

    def __init__(self, tree: Transformer) -> None:
        walk = Walk()
        x: Powers = Place("stem", walk).through(tree.stem, {})
        if tree.encoder is not None:
            read = x if tree.source is None else Place("source", walk).through(tree.source, {})
            walk.memory = Place("encoder", walk).through(tree.encoder, read)
        self.body: Powers = walk.memory or {}
        if tree.decoder is not None:
            self.body = Place("decoder", walk).through(tree.decoder, x)
        self.before_head = len(walk.conditions)
        self.output = self.body if tree.head is None else Place("head", walk).through(tree.head, self.body)
        self.conditions = walk.conditions
        self.sites: dict[str, set[str]] = {}
        self.parameters: dict[str, int] = {}
        for weight in weights(tree):
            blocks: Iterable[int | None] = weight.blocks if weight.stack else (None,)
            self.sites.setdefault(weight.role, set()).update(site_of(weight.role, block) for block in blocks)
            count = math.prod(weight.shape) * len(weight.blocks)
            self.parameters[weight.role] = self.parameters.get(weight.role, 0) + count

    def scaling(self, name: str, roles: Sequence[str], *, whole: bool) -> Scaling:
        """The scaling of the weights of some roles, at the output of the head or of what it reads."""
        sites = set().union(*(self.sites[role] for role in roles))
        conditions = self.conditions if whole else self.conditions[: self.before_head]
        broken = sorted((one for one in conditions if one.broken_by(sites)), key=lambda one: not one.exact)
        degree = None
        if not any(one.exact for one in broken):
            degree = joint_degree(self.output if whole else self.body, sites)
        breaks = dict.fromkeys((_without_block(one.place), one.reason) for one in broken)
        parameters = sum(self.parameters[role] for role in roles)
        return Scaling(name, tuple(roles), parameters, _whole(degree), not broken, tuple(breaks), whole)


def _whole(degree: float | None) -> float | None:
    return int(degree) if degree is not None and degree == int(degree) else degree


def _without_block(place: str) -> str:
    """The path of a place without the number of its block."""
    stack, block, rest = place.partition(".block.")
    return f"{stack}.block.{rest.partition('.')[2]}".rstrip(".") if block else place
