"""Comparison of two or more models: cost of the differences in shape and size, with its error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..display import Overview, with_overview
from ..errors import InputError, shown
from ..formulas import shape_penalty
from ..quantities import numbered
from .budget import Budget
from .caveats import loss_change_error, penalty_caveats, penalty_error
from .costs import Costs, costs
from .requests import template_with_width
from .rules import Rule, default_rule, find_rule, meet
from .template import Template

_SHAPE = re.compile(r"\s*([0-9]{1,6})\s*[xX×]\s*([0-9]{1,7})\s*")


def is_shape(model: Any) -> bool:
    """True of layers times width, such as ``32x4096``, to which a template gives its architecture."""
    return isinstance(model, str) and _SHAPE.fullmatch(model) is not None


class Compared(NamedTuple):
    """One model of a comparison; changes are relative to the first."""

    name: str
    depth: int
    width: int
    heads: int
    """0, like the next two, without softmax attention."""
    kv_heads: int
    head_dim: int
    parameters: int
    non_embedding_parameters: int
    active_parameters: int
    loss_penalty: float
    """Relative loss of its shape compared with the rule's optimum at its own size."""
    loss_penalty_stderr: float
    loss_change: float
    """Predicted relative loss compared with the first model, for the same number of training tokens."""
    loss_change_stderr: float
    change_by_shape: float
    """The part of it that is due to the shapes, at equal size."""
    change_by_size: float
    """The part that is due to the sizes, for the best shape of each."""


@with_overview
@dataclass(frozen=True, repr=False)
class Comparison:
    """The answer of ``depthwidth compare``."""

    rule: Rule
    models: tuple[Compared, ...]
    costs: tuple[Costs, ...]
    """Of each model."""
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row per model."""
        return [{**one._asdict(), **cost._asdict()} for one, cost in zip(self.models, self.costs, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``depthwidth compare --json`` prints it."""
        from ..hardware.latency import GUESSES

        return {
            "rule": self.rule.name, "models": self.rows(), "sentences": self.sentences(), "guesses": dict(GUESSES),
            "notes": list(self.notes),
        }  # fmt: skip

    def overview(self) -> Overview:
        """The models with their losses against the first, and a sentence on each."""
        facts = {one.name: sentence for one, sentence in zip(self.models[1:], self.sentences(), strict=True)}
        rows = [
            (
                one.name, str(one.depth), f"{one.width:,}", f"{one.parameters:,}",
                f"{one.loss_change:+.2%} +- {one.loss_change_stderr:.2%}",
            )
            for one in self.models
        ]  # fmt: skip
        title = f"Comparison of {len(self.models)} models by {self.rule.name}"
        return Overview(title, facts, ("model", "layers", "width", "parameters", "loss"), rows, whole=".rows()")

    def sentences(self) -> list[str]:
        """One sentence on each model but the first."""
        first = self.models[0]
        return [_sentence(first, one) for one in self.models[1:]]


def compare(
    models: Sequence[Any], *, template: Template | None = None, rule: str | None = None, budget: Budget | None = None
) -> Comparison:
    """Compare the predicted loss and the costs of models.

    Parameters
    ----------
    models : two or more, each a :class:`~depthwidth.architecture.Transformer`, a configuration (file, folder, mapping), or a
        shape such as ``32x4096`` (layers x width), which has the architecture of `template`.
    template : the architecture of shapes; that of GPT-3 by default.
    rule : the rule for the best shape at a size; as for :func:`~depthwidth.planning.plan.plan`.
    budget : its context, batch, number format and recomputation are those of the costs.

    Raises
    ------
    InputError
        if there are fewer than two models, one cannot be read, or some models read images and others texts.

    Examples
    --------
    >>> found = compare(["24x1024", "12x1408"])
    >>> found.models[1].loss_change > found.models[1].loss_change_stderr > 0
    True
    """
    if len(models) < 2:
        raise InputError("compare takes two models or more")
    made = Template.of() if template is None else template
    read = [_read(model, made) for model in models]
    trees = [tree for tree, _ in read]
    if len({tree.stem.images for tree in trees}) > 1:
        raise InputError("compare: models of images and models of texts have no common rule")
    chosen = default_rule(images=trees[0].stem.images) if rule is None else find_rule(rule)
    conventions = Budget("parameters", Fraction(1)) if budget is None else budget
    places = [_place(tree, chosen) for tree in trees]
    compared = [
        _compare_tree(_name(model, tree), tree, place, places[0])
        for model, tree, place in zip(models, trees, places, strict=True)
    ]
    return Comparison(chosen, tuple(compared), tuple(costs(tree, conventions) for tree in trees), tuple(_notes(read, places)))


def _read(model: Any, template: Template) -> tuple[Transformer, tuple[str, ...]]:
    """The tree of a model, and notes on where its configuration was read from."""
    if isinstance(model, Transformer):
        return model, ()
    shape = _SHAPE.fullmatch(model) if isinstance(model, str) else None
    if shape is None:
        from ..architecture.hf import as_fields, source_notes

        fields = as_fields(model)
        return Transformer.from_config(fields), source_notes(fields)
    depth, width = int(shape[1]), int(shape[2])
    if depth < template.least_depth or width < 1:
        raise InputError(f"compare: {shown(model)} needs {numbered(template.least_depth, 'layer')} or more and a width")
    return template_with_width(template, width).at(depth, width), ()


def _name(model: Any, tree: Transformer) -> str:
    return model if isinstance(model, str) else f"{tree.depth} x {tree.width:,}"


Place = tuple[float, float | None, float]
"""Width, the rule's width at the model's size, and that size."""


def _place(tree: Transformer, rule: Rule) -> Place:
    size = tree.trained_size
    # The tree's own parameters per layer and squared width stand in for those of a plain block.
    density = size / (tree.depth * tree.width**2)
    best = meet(rule.curve(density), lambda depth, width: density * depth * width**2, size)
    return tree.width, None if best is None else best[1], size


def _penalty(place: Place) -> float:
    width, best, _ = place
    return 0.0 if best is None else float(shape_penalty.shape_penalty(width, best))


def _compare_tree(name: str, tree: Transformer, place: Place, first: Place) -> Compared:
    width, best, size = place
    attention = tree.stack.first("as_attention")
    by_shape = (1 + _penalty(place)) / (1 + _penalty(first)) - 1
    exponent = float(shape_penalty.loss_exponent(math.sqrt(size * first[2])))
    by_size = (size / first[2]) ** exponent - 1
    return Compared(
        name=name,
        depth=tree.depth,
        width=tree.width,
        heads=0 if attention is None else attention.heads,
        kv_heads=0 if attention is None else attention.kv_heads,
        head_dim=0 if attention is None else attention.head_dim,
        parameters=tree.parameters,
        non_embedding_parameters=tree.non_embedding_parameters,
        active_parameters=tree.active_parameters,
        loss_penalty=_penalty(place),
        loss_penalty_stderr=0.0 if best is None else penalty_error(width, best, size),
        loss_change=(1 + by_shape) * (1 + by_size) - 1,
        loss_change_stderr=loss_change_error(first, place),
        change_by_shape=by_shape,
        change_by_size=by_size,
    )


def _sentence(first: Compared, one: Compared) -> str:
    """A sentence on the difference between two models."""
    more = "more" if one.loss_change >= 0 else "less"
    change = f"{abs(one.loss_change):.2%} +- {one.loss_change_stderr:.2%}"
    size = one.non_embedding_parameters / first.non_embedding_parameters - 1
    return (
        f"{one.name} has {change} {more} predicted loss than {first.name}: {one.change_by_shape:+.2%} from its shape, "
        f"{one.change_by_size:+.2%} from its size ({size:+.1%} parameters without the embedding)"
    )


def _notes(read: Sequence[tuple[Transformer, tuple[str, ...]]], places: Sequence[Place]) -> Iterator[str]:
    """Notes on configurations, and caveats, each once."""
    seen = set()
    for (tree, notes), (width, best, size) in zip(read, places, strict=True):
        for note in (*notes, *penalty_caveats(tree, size, [] if best is None else [width / best])):
            if note not in seen:
                seen.add(note)
                yield note
        if best is None and (note := "the rule has no shape at the size of one of these models") not in seen:
            seen.add(note)
            yield note
