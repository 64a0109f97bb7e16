"""Recipes: with which standard deviation every tensor of a transformer starts, how outputs and branches are scaled, and why.

>>> from depthwidth import Transformer
>>> gpt2 = Transformer(depth=12, width=768, heads=12, vocab=50257, context=1024)
>>> found = recipe(gpt2, "gpt2")
>>> round(found.tensor("decoder.block.attention.out.weight").std, 6)
0.004082
>>> found.residual("decoder.block.attention").branch
1.0

A tensor's *role* is its path in the tree without the number of its block. What depends on the depth is a tuple with a value
for each block. Standard deviations are those of the stored weights; a multiplier scales what the tensor makes of its input.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple

from .architecture import Transformer
from .errors import InputError, nearest, shown
from .formula import is_symbolic
from .formulas.gaussian import relu_pair_moment, relu_second_moment
from .formulas.moments import zipf_match_probability
from .layers import (
    Attention,
    Block,
    ClassifierHead,
    Embedding,
    FeedForward,
    LanguageHead,
    LearnedPositions,
    Linear,
    MixtureOfExperts,
    Norm,
    PatchStem,
    RelativeBias,
    RMSNorm,
    SinusoidalPositions,
    Stack,
    TokenStem,
    Unembedding,
)
from .layers.base import Layer, Shape
from .layers.stem import SEGMENT_MATCH

PerBlock = float | tuple[float, ...]
"""One number for every block alike, or one for each block of the stack."""


class TensorInit(NamedTuple):
    """How one role starts and trains."""

    role: str
    std: PerBlock
    """Standard deviation of the stored weights; 0 sets them to the mean."""
    mean: float
    """Mean of the stored weights: 1 for the gain of a norm, 0 where a norm stores its gain less one, 0 for the rest."""
    multiplier: PerBlock
    """What the tensor's output is multiplied by in the forward pass."""
    learning_rate: PerBlock
    """Factor on the base learning rate, for Adam and its kin."""
    weight_decay: PerBlock
    """Factor on the base weight decay, for an optimizer that multiplies it by the learning rate (as torch's AdamW)."""
    reason: str


class ResidualScale(NamedTuple):
    """How a residual branch is added: ``skip * x + branch * f(x)``, before a post-norm.

    Branches in parallel share one sum and one skip, which each of them states.
    """

    role: str
    skip: PerBlock
    branch: PerBlock
    reason: str


@dataclass(frozen=True)
class Recipe:
    """Everything a scheme says about one tree."""

    scheme: str
    source: str
    status: str
    """How the rules reached us, in the words of data/README.md."""
    tensors: tuple[TensorInit, ...]
    residuals: tuple[ResidualScale, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)
    """By name: ``options`` as used, size of the ``tree``, ``notes`` on what weights cannot say, ``remarks``, by-products."""

    def tensor(self, role: str) -> TensorInit:
        """The line of one role.

        Raises
        ------
        InputError
            if the tree has no such tensor.
        """
        index: dict[str, TensorInit] | None = self.__dict__.get("_index")
        if index is None:
            index = {line.role: line for line in self.tensors}
            object.__setattr__(self, "_index", index)
        if role not in index:
            raise InputError(f"recipe: there is no tensor {shown(role)}{nearest(str(role), index)}")
        return index[role]

    def residual(self, role: str) -> ResidualScale:
        """The scales of one residual branch; 1 and 1 where the scheme says nothing of it."""
        for line in self.residuals:
            if line.role == role:
                return line
        return ResidualScale(role, 1.0, 1.0, "the plain sum")

    def varies(self, role: str) -> bool:
        """Whether any number under this role, or that of a residual there, differs from block to block."""
        lines = [line for line in self.tensors if line.role.startswith(role)]
        numbers = [number for line in lines for number in (line.std, line.multiplier)]
        numbers += [scale for line in self.residuals if line.role.startswith(role) for scale in (line.skip, line.branch)]
        return any(isinstance(number, tuple) and min(number) != max(number) for number in numbers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What weights alone cannot say, one sentence each."""
        return tuple(self.extras.get("notes", ()))

    def rows(self, tree: Transformer) -> list[dict[str, Any]]:
        """One row for each tensor of `tree`, in the order a signal meets them; equal experts share one, stacked."""
        rows = []
        for parameter, role, block, shape in parameters(tree):
            line = self.tensor(role)
            rows.append(
                {
                    "parameter": parameter,
                    "shape": list(shape),
                    "std": at_block(line.std, block),
                    "mean": line.mean,
                    "multiplier": at_block(line.multiplier, block),
                    "learning_rate": at_block(line.learning_rate, block),
                    "weight_decay": at_block(line.weight_decay, block),
                    "reason": line.reason,
                }
            )
        return rows

    def residual_rows(self, tree: Transformer) -> list[dict[str, Any]]:
        """One row for each residual branch of `tree`: its place, the two scales, the reason."""
        return [
            {
                "branch": f"{stack}.block.{block}.{branch}",
                "skip_scale": at_block(line.skip, block),
                "branch_scale": at_block(line.branch, block),
                "reason": line.reason,
            }
            for stack, depth, branches in stacks(tree)
            for block in range(depth)
            for branch in branches
            for line in [self.residual(f"{stack}.block.{branch}")]
        ]

    def to_dict(self, tree: Transformer | None = None) -> dict[str, Any]:
        """Plain numbers, lists and strings; with a tree also its rows."""
        data: dict[str, Any] = {
            "scheme": self.scheme,
            "source": self.source,
            "status": self.status,
            "tensors": [_plain(line._asdict()) for line in self.tensors],
            "residuals": [_plain(line._asdict()) for line in self.residuals],
            "extras": _plain(dict(self.extras)),
        }
        if tree is not None:
            data |= {"parameters": self.rows(tree), "branches": self.residual_rows(tree)}
        return data

    def to_yaml(self, tree: Transformer | None = None) -> str:
        """:meth:`to_dict` as YAML text."""
        return _yaml(self.to_dict(tree))


def at_block(value: PerBlock, block: int | None) -> float:
    """The value of one block."""
    return value[block or 0] if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _yaml(value: Any, indent: str = "") -> str:
    """Mappings and lists as YAML blocks; scalars and lists of numbers as JSON, of which YAML is a superset."""
    lines = []
    items = value.items() if isinstance(value, dict) else ((None, inner) for inner in value)
    for key, inner in items:
        head = "- " if key is None else f"{json.dumps(key) if not re.fullmatch('[A-Za-z_]+', key) else key}: "
        nested = isinstance(inner, dict) or (isinstance(inner, list) and any(isinstance(one, (dict, list)) for one in inner))
        if not (nested and inner):
            lines.append(f"{indent}{head}{json.dumps(inner)}\n")
        elif key is None:
            # The first line of the entry stands behind its dash.
            lines.append(f"{indent}- {_yaml(inner, indent + '  ').lstrip(' ')}")
        else:
            lines.append(f"{indent}{head.rstrip()}\n{_yaml(inner, indent + '  ')}")
    return "".join(lines)


# The tensors of a tree.


class Weight(NamedTuple):
    """A tensor that stands at one place in each of several equal blocks, or once outside of them."""

    role: str
    kind: str
    """What it does: tokens, positions, segments, class_token, patch, projection, query, key, value, out, gate, up, down,
    router, shared_gate, gain, bias, score_bias, transform, pooler, classifier, unembedding."""
    shape: Shape
    """Of all copies together: equal experts are stacked."""
    layer: Layer
    owner: Layer
    """The attention, feed-forward part or stem that it belongs to; otherwise the layer itself."""
    mixture: MixtureOfExperts | None
    """The mixture of experts that the owner is part of, where it is."""
    stack: str
    """``encoder`` or ``decoder`` for what stands in a block, otherwise empty."""
    blocks: tuple[int, ...]
    """The blocks that have it, (0,) outside of blocks."""

    @property
    def branch(self) -> str:
        """``attention``, ``cross_attention`` or ``feed_forward``, empty for what belongs to no branch."""
        parts = self.role.split(".")
        return parts[2] if self.stack and parts[2] in _BRANCHES else ""

    @property
    def fan_in(self) -> int:
        """Numbers that one output is a sum over; a table looks one row up."""
        if isinstance(self.layer, Linear):
            return self.layer.inputs
        if self.kind == "patch":
            return math.prod(self.shape[1:])
        return self.shape[-1] if self.kind == "unembedding" else 1

    @property
    def fan_out(self) -> int:
        """Outputs that one input contributes to."""
        if isinstance(self.layer, Linear):
            return self.layer.outputs
        return self.shape[0] if self.kind in ("patch", "unembedding") else self.shape[-1]


_BRANCHES = ("attention", "cross_attention", "feed_forward")
TABLES = ("tokens", "positions", "segments", "class_token")
VECTORS = ("gain", "bias", "score_bias")
INNER = ("query", "key", "value", "out", "gate", "up", "down")
_LINEARS = {name: name for name in (*INNER, "router", "shared_gate", "projection", "transform")}


def weights(tree: Transformer) -> Iterator[Weight]:
    """The tensors of a tree, those of equal blocks once."""
    for child in tree.children():
        if not isinstance(child.layer, Stack):
            yield from _weights_of(tree, child.layer, child.name, "", (0,))
            continue
        stack, name = child.layer, child.name
        if stack.position is not None:
            yield from _weights_of(tree, stack.position, f"{name}.position", "", (0,))
        kinds: dict[Block, list[int]] = {}
        for index, block in enumerate(stack.blocks()):
            kinds.setdefault(block, []).append(index)
        for block, places in kinds.items():
            yield from _weights_of(tree, block, f"{name}.block", name, tuple(places))
        if stack.norm is not None:
            yield from _weights_of(tree, stack.norm, f"{name}.norm", "", (0,))


def _weights_of(tree: Transformer, layer: Layer, site: str, stack: str, blocks: tuple[int, ...]) -> Iterator[Weight]:
    owner: Layer | None = None
    mixture: MixtureOfExperts | None = None
    place = around = ""
    for node in layer.walk(site):
        if isinstance(node.layer, (Attention, FeedForward, TokenStem, PatchStem)):
            place, owner = node.site, node.layer
        elif isinstance(node.layer, MixtureOfExperts):
            around, mixture = node.site, node.layer
        mine = owner if owner is not None and node.site.startswith(place) else node.layer
        group = mixture if mixture is not None and node.site.startswith(around) else None
        for name, shape in node.layer.tensors().items():
            role = f"{node.site}.{name}"
            whole = (node.copies, *shape) if node.copies > 1 else shape
            yield Weight(role, _kind(tree, role, node.layer, name), whole, node.layer, mine, group, stack, blocks)


def _kind(tree: Transformer, role: str, layer: Layer, name: str) -> str:
    if isinstance(layer, Norm):
        return "gain" if name == "weight" else "bias"
    if name.endswith("bias"):
        return "bias"
    if isinstance(layer, PatchStem):
        return {"patch.weight": "patch", "class_token": "class_token"}.get(name, "positions")
    if isinstance(layer, LearnedPositions):
        return "positions"
    if isinstance(layer, RelativeBias):
        return "score_bias"
    if isinstance(layer, Unembedding):
        return "unembedding"
    last = role.split(".")[-2]
    if isinstance(layer, Embedding):
        return last
    if last in _LINEARS:
        return last
    return "classifier" if isinstance(tree.head, ClassifierHead) and role == "head.linear.weight" else "pooler"


def parameters(tree: Transformer) -> Iterator[tuple[str, str, int | None, Shape]]:
    """Name, role, block and shape of every tensor, in the order a signal meets them; equal experts are one, stacked."""
    every = list(weights(tree))
    done = set()
    for weight in every:
        if not weight.stack:
            yield weight.role, weight.role, None, weight.shape
        elif weight.stack not in done:
            done.add(weight.stack)
            inside: dict[int, list[Weight]] = {}
            for one in every:
                if one.stack == weight.stack:
                    for block in one.blocks:
                        inside.setdefault(block, []).append(one)
            for block in sorted(inside):
                for one in inside[block]:
                    yield one.role.replace(".block.", f".block.{block}.", 1), one.role, block, one.shape


def stacks(tree: Transformer) -> list[tuple[str, int, tuple[str, ...]]]:
    """Name, depth and branches of each stack, the branches in order."""
    found: list[tuple[str, int, tuple[str, ...]]] = []
    for name, stack in (("encoder", tree.encoder), ("decoder", tree.decoder)):
        if stack is not None:
            cross = any(repeat.block.cross_attention is not None for repeat in stack.repeats)
            found.append((name, stack.depth, _BRANCHES if cross else ("attention", "feed_forward")))
    return found


# How a scheme is written: a rule for each tensor, and scales for each branch.

Values = float | Callable[[int], float]
"""A number, or a function of the block's index from 0."""


class Choice(NamedTuple):
    """What a rule says of one tensor."""

    std: Values
    reason: str
    multiplier: Values = 1.0
    learning_rate: Values = 1.0
    weight_decay: Values = 1.0
    mean: float = 0.0


Rule = Callable[[Weight], Choice]


@dataclass
class _Draft:
    """A recipe in the making."""

    tree: Transformer
    rule: Rule
    scales: Callable[[str, str, int], tuple[Values, Values, str]] | None = None
    """Skip, branch and reason by stack, branch and the branch's index in its block."""
    extras: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What weights cannot say."""
    remarks: list[str] = field(default_factory=list)
    """What else one should know."""
    output: float = 1.0
    """Multiplier on logits; it stands at the output matrix, or at what is before it where the matrix is tied."""
    output_reason: str = ""

    def lines(self) -> tuple[TensorInit, ...]:
        depths = {name: depth for name, depth, _ in stacks(self.tree)}
        found: dict[str, dict[str, Any]] = {}
        for weight in weights(self.tree):
            choice = self.rule(weight)
            line = found.setdefault(
                weight.role, {"role": weight.role, "mean": choice.mean, "reason": choice.reason, "depth": 0, "parts": []}
            )
            line["depth"] = depths.get(weight.stack, 0)
            line["parts"].append((weight, choice))
        place = self._output_place()
        made = []
        for role, line in found.items():
            values = {
                name: _joined(line["parts"], name, line["depth"])
                for name in ("std", "multiplier", "learning_rate", "weight_decay")
            }
            reason = line["reason"]
            if role == place and self.output != 1.0:
                values["multiplier"] = self._with_output(values["multiplier"], line["depth"])
                reason = f"{reason}; {self.output_reason}"
            made.append(TensorInit(role=role, mean=line["mean"], reason=reason, **values))
        if self.output != 1.0:
            self.extras["output_multiplier"] = self.output
            if place not in found:
                self.notes.append(f"multiply the logits by {self.output:.6g}: no tensor of this tree can carry it")
        return tuple(made)

    def _with_output(self, multiplier: PerBlock, depth: int) -> PerBlock:
        if not depth:
            return at_block(multiplier, None) * self.output
        # A post-norm of the last block is the last thing before the head.
        each = [at_block(multiplier, block) for block in range(depth)]
        each[-1] *= self.output
        return tuple(each)

    def _output_place(self) -> str:
        tree, head = self.tree, self.tree.head
        if isinstance(head, ClassifierHead):
            return "head.linear.weight"
        if not isinstance(head, LanguageHead):
            return ""
        if not head.unembedding.tied:
            return "head.unembedding.weight"
        if head.norm is not None:
            return "head.norm.weight"
        if head.transform is not None:
            return "head.transform.weight"
        name = tree.stack_name
        last = tree.stack.repeats[-1].block.feed_forward
        if tree.stack.norm is None and last.norm_stream is not None:
            return f"{name}.block.feed_forward.norm_stream.weight"
        return f"{name}.norm.weight" if tree.stack.norm is not None else ""

    def residuals(self) -> tuple[ResidualScale, ...]:
        if self.scales is None:
            return ()
        return tuple(
            ResidualScale(f"{stack}.block.{branch}", _spread(skip, depth), _spread(scale, depth), reason)
            for stack, depth, branches in stacks(self.tree)
            for index, branch in enumerate(branches)
            for skip, scale, reason in [self.scales(stack, branch, index)]
        )


def _spread(value: Values, depth: int) -> PerBlock:
    return tuple(value(block) for block in range(depth)) if callable(value) else value


def _joined(parts: list[tuple[Weight, Choice]], name: str, depth: int) -> PerBlock:
    """One number where all blocks agree, otherwise one for each; a block without the tensor takes that before it."""
    if not depth:
        value = getattr(parts[0][1], name)
        return float(value(0) if callable(value) else value)
    if all(not callable(getattr(choice, name)) for _, choice in parts):
        values = {float(getattr(choice, name)) for _, choice in parts}
        if len(values) == 1:
            return values.pop()
    each: dict[int, float] = {}
    for weight, choice in parts:
        value = getattr(choice, name)
        for block in weight.blocks:
            each[block] = float(value(block) if callable(value) else value)
    latest = each[min(each)]
    filled = []
    for block in range(depth):
        latest = each.get(block, latest)
        filled.append(latest)
    return tuple(filled)


def _vector(weight: Weight) -> Choice | None:
    """Norms that pass the signal on and biases of zero, which every scheme has; never decayed."""
    if weight.kind == "gain":
        offset = isinstance(weight.layer, RMSNorm) and weight.layer.unit_offset
        reason = "a gain of one, stored as its difference from one" if offset else "a gain of one"
        return Choice(0.0, reason, weight_decay=0.0, mean=0.0 if offset else 1.0)
    if weight.kind == "bias":
        return Choice(0.0, "biases start at zero", weight_decay=0.0)
    if weight.kind == "score_bias":
        return Choice(0.0, "score biases start at zero, so that scores have the variance of query and key", weight_decay=0.0)
    return None


# The schemes.


class _Scheme(NamedTuple):
    make: Callable[..., _Draft]
    source: str
    status: str


_SCHEMES: dict[str, _Scheme] = {}


def _scheme(name: str, source: str, status: str) -> Callable[[Callable[..., _Draft]], Callable[..., _Draft]]:
    def register(make: Callable[..., _Draft]) -> Callable[..., _Draft]:
        _SCHEMES[name] = _Scheme(make, source, status)
        return make

    return register


def schemes() -> list[str]:
    """The schemes that :func:`recipe` knows.

    >>> "deepscale" in schemes()
    True
    """
    return list(_SCHEMES)


def scheme_options(scheme: str) -> dict[str, Any]:
    """The options of a scheme and their defaults.

    >>> scheme_options("gpt2")
    {'std': 0.02}
    """
    signature = inspect.signature(_known(scheme).make)
    return {name: one.default for name, one in list(signature.parameters.items())[1:]}


def _known(scheme: str) -> _Scheme:
    if not isinstance(scheme, str) or scheme not in _SCHEMES:
        hint = nearest(scheme, _SCHEMES) if isinstance(scheme, str) else ""
        raise InputError(f"there is no scheme {shown(scheme)}{hint}; known are {', '.join(_SCHEMES)}")
    return _SCHEMES[scheme]


def recipe(tree: Transformer, scheme: str = "shipped", **options: Any) -> Recipe:
    """What `scheme` says of every tensor of `tree`.

    Parameters
    ----------
    tree : the transformer, with numbers for dimensions.
    scheme : one of :func:`schemes`.
    options : of the scheme, see :func:`scheme_options`: standard deviations, base width and depth, dropout, ...

    Raises
    ------
    InputError
        if there is no such scheme or option, or a value is out of range.

    Examples
    --------
    >>> bert = Transformer(depth=192, width=1024, kind="encoder", placement="post", segments=2, dropout=0.1)
    >>> found = recipe(bert, "deepscale", embedding_correlation=0.221)
    >>> round(found.tensor("encoder.block.attention.value.weight").std[0], 4)
    0.0456
    """
    known = _known(scheme)
    takes = scheme_options(scheme)
    for name in options:
        if name not in takes:
            has = f"its options are {', '.join(takes)}" if takes else "it has none"
            raise InputError(f"{scheme}: there is no option {shown(name)}{nearest(str(name), takes)}; {has}")
    if not isinstance(tree, Transformer):
        raise InputError(f"recipe: {shown(tree)} is not a Transformer")
    if is_symbolic(tree.width, tree.depth, tree.vocab):
        raise InputError("recipe: the tree has symbols for dimensions, and standard deviations need numbers")
    draft = known.make(tree, **options)
    lines, residuals = draft.lines(), draft.residuals()
    used = {name: options.get(name, default) for name, default in takes.items()}
    size = {"depth": tree.depth, "width": tree.width, "parameters": tree.parameters}
    extras: dict[str, Any] = {"options": used, "tree": size, **draft.extras}
    for name, sentences in (("notes", draft.notes), ("remarks", draft.remarks)):
        if sentences:
            extras[name] = tuple(sentences)
    return Recipe(scheme, known.source, known.status, lines, residuals, extras)


def _number(scheme: str, name: str, value: Any, low: float = 0.0, high: float = math.inf, *, closed: bool = False) -> float:
    """A finite number above `low` (or equal, if closed) and at most `high`."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not (low <= value <= high if closed else low < value <= high):
        bounds = f"{'[' if closed else '('}{low:g}, {high:g}{']' if high < math.inf else ')'}"
        raise InputError(f"{scheme}: {name}={shown(value)} is not a number in {bounds}")
    return float(value)


def _depths(tree: Transformer) -> dict[str, int]:
    return {name: depth for name, depth, _ in stacks(tree)}


def _branch_counts(tree: Transformer) -> dict[str, int]:
    return {name: depth * len(branches) for name, depth, branches in stacks(tree)}


@_scheme(
    "shipped",
    "transformers 5, `_init_weights` of each family",
    "primary; measured on small models of every family (tests/verify/test_initialize.py)",
)
def _shipped(tree: Transformer, family: str | None = None, initializer_range: float | None = None) -> _Draft:
    from .hf import FAMILIES

    if family is not None and family not in FAMILIES:
        raise InputError(f"shipped: there is no family {shown(family)}{nearest(str(family), FAMILIES)}")
    name = _family_like(tree) if family is None else family
    default = {"starcoder2": 0.018042, "t5": 1.0}.get(name, 0.02)
    # Transformers takes 0.02 where a file says 0.
    std = _number("shipped", "initializer_range", initializer_range or default)
    draft = _Draft(tree, _t5(tree, std) if name == "t5" else _normal_rule(tree, std, deep=name == "gpt2", where=f"{name}: "))
    draft.extras["family"] = name
    if family is None:
        draft.remarks.append(f"no family was named; the rule of {name}, whose architecture is nearest, was taken")
    draft.remarks.append("a padding token's row of the token table starts at zero where the configuration names one")
    return draft


def _family_like(tree: Transformer) -> str:
    """The family whose initialisation a tree without a name most likely means."""
    stem, attention = tree.stem, tree.attention
    if isinstance(stem, PatchStem):
        return "vit"
    if tree.stack.position is not None and attention.scale == 1.0:
        return "t5"
    if tree.kind != "decoder":
        return "bert"
    plain = isinstance(stem.positions, LearnedPositions) and not tree.feed_forward.gated and tree.experts is None
    return "gpt2" if plain else "llama"


def shipped_options(config: Mapping[str, Any] | str | PathLike[str]) -> dict[str, Any]:
    """The options with which ``recipe(tree, "shipped")`` is what transformers does for a configuration.

    >>> shipped_options({"model_type": "opt", "init_std": 0.006})
    {'family': 'opt', 'initializer_range': 0.006}
    """
    from .hf import read_design
    from .hf.files import read_json

    fields = config if isinstance(config, Mapping) else read_json(config)
    read_design(fields)  # a broken file gets its own sentence
    for name in ("initializer_range", "init_std", "initializer_factor"):
        if fields.get(name) is not None:
            return {"family": fields["model_type"], "initializer_range": _number("config", name, fields[name], closed=True)}
    return {"family": fields["model_type"], "initializer_range": None}


def _normal_rule(tree: Transformer, std: float, *, deep: bool = False, where: str = "") -> Rule:
    counts = _branch_counts(tree)

    def rule(weight: Weight) -> Choice:
        plain = _vector(weight)
        if plain is not None and not (weight.kind == "score_bias" and where):
            return plain
        if deep and weight.kind in ("out", "down"):
            branches = counts[weight.stack]
            reason = f"{where}normal with {std:g}/sqrt({branches}), one over the root of the number of residual branches"
            return Choice(std / math.sqrt(branches), reason)
        return Choice(std, f"{where}normal with one standard deviation for every matrix and table")

    return rule


def _t5(tree: Transformer, factor: float) -> Rule:
    """T5 has no 1/sqrt(head_dim) on scores; the query's standard deviation makes up for it."""

    def rule(weight: Weight) -> Choice:
        if weight.kind == "gain":
            return Choice(0.0, "t5: a gain of the factor", weight_decay=0.0, mean=factor)
        if weight.kind == "query":
            per_head = weight.owner.head_dim if isinstance(weight.owner, Attention) else 1
            return Choice(factor / math.sqrt(weight.fan_in * per_head), "t5: factor / sqrt(width head_dim)")
        if weight.kind in ("tokens", "unembedding"):
            return Choice(factor, "t5: the factor itself")
        if weight.kind == "score_bias":
            return Choice(factor / math.sqrt(tree.width), "t5: factor / sqrt(width)", weight_decay=0.0)
        return _vector(weight) or Choice(factor / math.sqrt(weight.fan_in), "t5: factor / sqrt(fan-in)")

    return rule


@_scheme("normal", "BERT (Devlin et al. 2018, arXiv 1810.04805) and most that follow", "primary")
def _normal(tree: Transformer, std: float = 0.02) -> _Draft:
    return _Draft(tree, _normal_rule(tree, _number("normal", "std", std, closed=True)))


@_scheme(
    "gpt2",
    "Radford et al. 2019, section 2.3, as transformers and Megatron-LM write it",
    "primary for the code; OpenAI's released code has 0.01 for positions and no 1/sqrt(N)",
)
def _gpt2(tree: Transformer, std: float = 0.02) -> _Draft:
    return _Draft(tree, _normal_rule(tree, _number("gpt2", "std", std, closed=True), deep=True))


def _fan_rule(tree: Transformer, embedding_std: float | None, matrix: Callable[[Weight], tuple[float, str]]) -> Rule:
    """A rule for matrices by their fans; tables and the output matrix as in Vaswani et al.'s code."""
    table = 1 / math.sqrt(tree.width) if embedding_std is None else _number("recipe", "embedding_std", embedding_std)
    why = "1/sqrt(width), as tensor2tensor and fairseq start tables" if embedding_std is None else "embedding_std as given"

    def rule(weight: Weight) -> Choice:
        plain = _vector(weight)
        if plain is not None:
            return plain
        if weight.kind in TABLES:
            return Choice(table, why)
        if weight.kind in ("unembedding", "classifier"):
            return Choice(1 / math.sqrt(weight.fan_in), "1/sqrt(width), for logits of unit variance")
        std, reason = matrix(weight)
        return Choice(std, reason)

    return rule


def _xavier_std(weight: Weight) -> float:
    return math.sqrt(2 / (weight.fan_in + weight.fan_out))


_XAVIER = "Xavier: sqrt(2 / (fan-in + fan-out))"


@_scheme("xavier", "Glorot & Bengio 2010", "primary")
def _xavier(tree: Transformer, embedding_std: float | None = None, per_head: bool = False) -> _Draft:
    def matrix(weight: Weight) -> tuple[float, str]:
        if per_head and weight.kind in ("query", "key", "value") and isinstance(weight.owner, Attention):
            features = weight.owner.value_dim if weight.kind == "value" else weight.owner.head_dim
            return math.sqrt(2 / (weight.fan_in + features)), "Xavier for each head's map: sqrt(2 / (width + head_dim))"
        return _xavier_std(weight), _XAVIER

    return _Draft(tree, _fan_rule(tree, embedding_std, matrix))


@_scheme("kaiming", "He et al. 2015, arXiv 1502.01852, equation 10; other activations by E f^2", "primary; constants derived")
def _kaiming(tree: Transformer, embedding_std: float | None = None) -> _Draft:
    def matrix(weight: Weight) -> tuple[float, str]:
        if weight.kind == "down" and isinstance(weight.owner, FeedForward):
            gain = 1 / activation_second_moment(weight.owner.activation)
            return math.sqrt(gain / weight.fan_in), "sqrt(1 / (E f^2 fan-in)), which undoes the activation before it"
        return math.sqrt(1 / weight.fan_in), "sqrt(1 / fan-in): no activation stands before it"

    return _Draft(tree, _fan_rule(tree, embedding_std, matrix))


_NO_NORMS = "made for a model without norms: remove them, or the scales below mean something else"


def _has_norms(tree: Transformer) -> bool:
    return any(weight.kind == "gain" and weight.stack for weight in weights(tree))


def _no_norms(draft: _Draft) -> _Draft:
    draft.extras["norms"] = "removed"
    if _has_norms(draft.tree):
        draft.notes.append(_NO_NORMS)
    return draft


def _scaled(weight: Weight, rule: Rule, factor: float, kinds: Sequence[str], reason: str) -> Choice:
    choice = rule(weight)
    if weight.kind in kinds and not callable(choice.std):
        return choice._replace(std=choice.std * factor, reason=f"{choice.reason}; {reason}")
    return choice


_BRANCH_KINDS = ("value", "out", "gate", "up", "down")


@_scheme(
    "t-fixup",
    "Huang et al. 2020 (ICML), section 3.2, and the authors' code",
    "primary for encoder-decoder models; a decoder alone takes the encoder's rule, which is ours",
)
def _t_fixup(tree: Transformer, embedding_std: float | None = None) -> _Draft:
    base = _fan_rule(tree, embedding_std, lambda weight: (_xavier_std(weight), _XAVIER))
    depths = _depths(tree)
    both = tree.kind == "encoder-decoder"
    table = (9 * depths.get("encoder", tree.depth)) ** -0.25

    def rule(weight: Weight) -> Choice:
        if weight.kind in TABLES:
            return _scaled(weight, base, table, TABLES, "times (9N)^(-1/4)")
        if not weight.stack:
            return base(weight)
        decoder = both and weight.stack == "decoder"
        factor = (9 * depths[weight.stack]) ** -0.25 if decoder else 0.67 * depths[weight.stack] ** -0.25
        return _scaled(weight, base, factor, _BRANCH_KINDS, "times (9N)^(-1/4)" if decoder else "times 0.67 N^(-1/4)")

    return _no_norms(_Draft(tree, rule))


def _post_norm_only(draft: _Draft, scheme: str) -> _Draft:
    block = draft.tree.stack.repeats[0].block
    if block.attention.norm_stream is None:
        draft.remarks.append(f"{scheme} is made for norms after the sum, and this tree has them elsewhere")
    return draft


@_scheme(
    "deepnorm",
    "Wang et al. 2022 (DeepNet), arXiv 2203.00555, figure 2; torchscale's code",
    "primary; torchscale writes 1/1.15 for the paper's 0.87",
)
def _deepnorm(tree: Transformer, embedding_std: float | None = None) -> _Draft:
    base = _fan_rule(tree, embedding_std, lambda weight: (_xavier_std(weight), _XAVIER))
    depths = _depths(tree)
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
        beta = betas.get(weight.stack, 1.0)
        return _scaled(weight, base, beta, _BRANCH_KINDS, f"times beta = {beta:.6g}")

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        return alphas[stack], 1.0, "DeepNorm: the skip is multiplied by alpha, so that one step changes the output by O(1)"

    return _post_norm_only(_Draft(tree, rule, scales, {"alpha": alphas, "beta": betas}), "deepnorm")


@_scheme(
    "admin",
    "Liu et al. 2020, arXiv 2004.08249, and the authors' code (adaptive-profiling)",
    "primary; branch variances are measured in the paper and 1 here unless given",
)
def _admin(tree: Transformer, branch_variance: float | Sequence[float] = 1.0, embedding_std: float | None = None) -> _Draft:
    base = _fan_rule(tree, embedding_std, lambda weight: (_xavier_std(weight), _XAVIER))
    longest = max(_branch_counts(tree).values())
    if isinstance(branch_variance, (list, tuple)):
        if len(branch_variance) < longest:
            raise InputError(f"admin: branch_variance has {len(branch_variance)} entries for {longest} branches")
        each = [_number("admin", "branch_variance", value, closed=True) for value in branch_variance]
    else:
        each = [_number("admin", "branch_variance", branch_variance, closed=True)] * longest
    # The first shortcut keeps its weight of one; each later one carries the variance of all branches before it.
    omega = [1.0]
    for variance in each[:-1]:
        omega.append(math.sqrt(omega[-1] ** 2 + variance))
    per_block = {name: len(branches) for name, _, branches in stacks(tree)}

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        reason = "Admin: omega_i^2 = 1 + the variances of the branches before it"
        return (lambda block: omega[block * per_block[stack] + index]), 1.0, reason

    return _post_norm_only(_Draft(tree, base, scales), "admin")


@_scheme("ds-init", "Zhang, Titov & Sennrich 2019, arXiv 1908.11365, equation 5", "secondary: read in the authors' notes")
def _ds_init(tree: Transformer, alpha: float = 1.0, embedding_std: float | None = None) -> _Draft:
    base = _fan_rule(tree, embedding_std, lambda weight: (_xavier_std(weight), _XAVIER))
    factor = _number("ds-init", "alpha", alpha, high=1.0)

    def rule(weight: Weight) -> Choice:
        choice = base(weight)
        std = choice.std
        if not weight.stack or weight.kind in VECTORS or callable(std):
            return choice
        reason = f"{choice.reason}; times alpha / sqrt(layer), alpha = {factor:g}"
        return choice._replace(std=lambda block: std * factor / math.sqrt(block + 1), reason=reason)

    return _Draft(tree, rule)


def _zero_branch(tree: Transformer, alpha: float, embedding_std: float | None, reason: str) -> _Draft:
    base = _fan_rule(tree, embedding_std, lambda weight: (_xavier_std(weight), _XAVIER))
    draft = _no_norms(_Draft(tree, base, lambda stack, branch, index: (1.0, alpha, reason)))
    draft.notes.append("each branch ends with a trainable scalar, which the model must have; it is not decayed")
    return draft


@_scheme("rezero", "Bachlechner et al. 2020, arXiv 2003.04887, equation 1", "recalled; the rule is in the abstract")
def _rezero(tree: Transformer, embedding_std: float | None = None) -> _Draft:
    return _zero_branch(tree, 0.0, embedding_std, "ReZero: x + a f(x) with a trainable a that starts at zero")


@_scheme("skipinit", "De & Smith 2020, arXiv 2002.10444, section 3", "recalled; made for residual networks, carried over here")
def _skipinit(tree: Transformer, alpha: float = 0.0, embedding_std: float | None = None) -> _Draft:
    value = _number("skipinit", "alpha", alpha, closed=True)
    return _zero_branch(tree, value, embedding_std, "SkipInit: a trainable scalar ends the branch; 0, or 1/sqrt(blocks)")


@_scheme("layernorm-scaling", "Sun et al. 2025, arXiv 2502.05795, equation 7, and code", "primary; std is the base model's")
def _layernorm_scaling(tree: Transformer, std: float = 0.02) -> _Draft:
    base = _normal_rule(tree, _number("layernorm-scaling", "std", std, closed=True))
    reads = re.compile(r"(encoder|decoder)\.block\.(norm|(attention|cross_attention|feed_forward)\.norm_in)\.(weight|bias)")

    def rule(weight: Weight) -> Choice:
        choice = base(weight)
        if not reads.fullmatch(weight.role):
            return choice
        reason = f"{choice.reason}; its output is multiplied by 1/sqrt(layer), which stops the variance from growing"
        return choice._replace(multiplier=lambda block: 1 / math.sqrt(block + 1), reason=reason)

    draft = _Draft(tree, rule)
    if not any(reads.fullmatch(weight.role) for weight in weights(tree)):
        draft.notes.append("layernorm-scaling needs norms with gains before the branches, and this tree has none")
    return draft


# Transfer from a small model to a large one.

_HIDDEN = (*INNER, "projection", "transform", "pooler")
_OUTPUT = ("unembedding", "classifier", "router", "shared_gate")


def _query_role(weight: Weight) -> bool:
    """Where a factor on attention scores stands: at the query's norm where it has one, otherwise at the query's matrix."""
    attention = weight.owner
    if not isinstance(attention, Attention):
        return False
    if attention.query_norm is not None and attention.query_norm.affine:
        return weight.role.endswith(".query_norm.weight")
    return weight.kind == "query"


def _width_rule(tree: Transformer, std: float, m_width: float, score: float, depth_rate: float) -> Rule:
    """The table of muP for Adam, relative to a base model; `depth_rate` is the learning-rate factor of what is in blocks."""

    def rule(weight: Weight) -> Choice:
        rate = depth_rate if weight.stack else 1.0
        choice = _vector(weight)
        if choice is not None:
            choice = choice._replace(learning_rate=rate)
        elif weight.kind in _HIDDEN:
            reason = f"hidden: variance and learning rate over the width ratio {m_width:g}, decay times it"
            choice = Choice(std / math.sqrt(m_width), reason, learning_rate=rate / m_width, weight_decay=m_width)
        elif weight.kind in _OUTPUT:
            inner = 1.0 if weight.kind in ("unembedding", "classifier") else 1 / m_width
            reason = "output: constant variance and learning rate, output over the width ratio"
            choice = Choice(std, reason, multiplier=inner, learning_rate=rate)
        else:
            choice = Choice(std, "input: constant variance and learning rate", learning_rate=rate)
        if score != 1.0 and _query_role(weight):
            reason = f"{choice.reason}; scores by 1/head_dim, relative to the base"
            choice = choice._replace(multiplier=score, reason=reason)
        return choice

    return rule


def _mup_draft(
    tree: Transformer, scheme: str, std: float, base_width: float, base_head_dim: int | None, rate: float = 1.0
) -> _Draft:
    std = _number(scheme, "std", std)
    m_width = tree.width / _number(scheme, "base_width", base_width)
    head_dim = tree.head_dim
    score = math.sqrt(_number(scheme, "base_head_dim", base_head_dim or head_dim) / head_dim)
    reason = f"logits over the width ratio {m_width:g}"
    draft = _Draft(tree, _width_rule(tree, std, m_width, score, rate), output=1 / m_width, output_reason=reason)
    draft.extras["width_ratio"] = m_width
    return draft


@_scheme(
    "mup",
    "Yang et al. 2022, arXiv 2203.03466, table 8; microsoft/mup's optimizer",
    "primary; relative to a base model, where all factors are 1",
)
def _mup(tree: Transformer, std: float = 0.02, base_width: float = 256, base_head_dim: int | None = None) -> _Draft:
    return _mup_draft(tree, "mup", std, base_width, base_head_dim)


def _depth_transfer(
    tree: Transformer, scheme: str, std: float, base_width: float, base_depth: float, base_head_dim: int | None, alpha: float
) -> _Draft:
    base = _number(scheme, "base_depth", base_depth)
    alpha = _number(scheme, "alpha", alpha, high=1.0, closed=True)
    depth_ratio = {name: depth / base for name, depth in _depths(tree).items()}
    m_depth = depth_ratio[tree.stack_name]
    draft = _mup_draft(tree, scheme, std, base_width, base_head_dim, m_depth ** (alpha - 1))

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        return 1.0, depth_ratio[stack] ** -alpha, f"branches over the depth ratio to the power {alpha:g}"

    draft.scales = scales
    draft.extras["depth_ratio"] = m_depth
    draft.extras["adam_epsilon"] = m_depth**-alpha / draft.extras["width_ratio"]
    draft.notes.append(f"multiply Adam's epsilon by {draft.extras['adam_epsilon']:.6g}, as gradients shrink by that factor")
    return draft


@_scheme(
    "depth-mup",
    "Yang et al. 2023, arXiv 2310.02244, as Dey et al. 2025 write it (alpha = 1/2)",
    "secondary: public code of CompleteP with alpha = 1/2",
)
def _depth_mup(
    tree: Transformer, std: float = 0.02, base_width: float = 256, base_depth: float = 2, base_head_dim: int | None = None
) -> _Draft:
    return _depth_transfer(tree, "depth-mup", std, base_width, base_depth, base_head_dim, 0.5)


@_scheme(
    "completep",
    "Dey et al. 2025, arXiv 2505.01618, table 1; EleutherAI's nanoGPT-mup, branch completep",
    "primary: public code; base width 256 and depth 2 are the paper's",
)
def _completep(
    tree: Transformer,
    std: float = 0.02,
    base_width: float = 256,
    base_depth: float = 2,
    base_head_dim: int | None = None,
    alpha: float = 1.0,
) -> _Draft:
    return _depth_transfer(tree, "completep", std, base_width, base_depth, base_head_dim, alpha)


@_scheme(
    "unit-scaling",
    "Blake et al. 2024 (u-muP), arXiv 2407.17465, table 2 and appendix G; graphcore-research/unit-scaling",
    "primary for scales; activation constants are exact second moments here, where the library has empirical ones",
)
def _unit_scaling(tree: Transformer, residual_mult: float = 1.0, residual_attn_ratio: float = 1.0) -> _Draft:
    size = _number("unit-scaling", "residual_mult", residual_mult)
    ratio = _number("unit-scaling", "residual_attn_ratio", residual_attn_ratio)
    depths = _depths(tree)
    tables = _tables(tree)

    def rule(weight: Weight) -> Choice:
        rate = depths[weight.stack] ** -0.5 if weight.stack else 1.0
        plain = _vector(weight)
        if plain is not None:
            choice = plain._replace(learning_rate=rate)
        elif weight.kind in TABLES:
            rate = weight.shape[-1] ** -0.5
            scale = 1 / (_stem_scale(tree, weight.kind) * math.sqrt(tables))
            choice = Choice(1.0, "unit weights; learning rate over sqrt(fan-out)", scale, rate, 1 / rate)
        elif weight.kind in _OUTPUT and weight.kind != "shared_gate":
            # The output's own 1/fan-in is the draft's multiplier on logits.
            scale = 1.0 if weight.kind in ("unembedding", "classifier") else 1 / weight.fan_in
            choice = Choice(1.0, "unit weights, output over fan-in", scale, rate, 1 / rate)
        else:
            rate *= weight.fan_in**-0.5
            scale = weight.fan_in**-0.5 * _unit_output(tree, weight)
            choice = Choice(1.0, "unit weights; output and learning rate over sqrt(fan-in)", scale, rate, 1 / rate)
        if _query_role(weight) and isinstance(weight.owner, Attention):
            scale = choice.multiplier if isinstance(choice.multiplier, float) else 1.0
            reason = f"{choice.reason}; scores by 1/head_dim"
            choice = choice._replace(multiplier=scale * _to_inverse_head_dim(weight.owner), reason=reason)
        return choice

    ffn2 = size * size * 2 / (1 + ratio * ratio)
    attn2 = ratio * ratio * ffn2

    def scales(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        own = ffn2 if branch == "feed_forward" else attn2
        before = [ffn2 if name == "feed_forward" else attn2 for name in _BRANCHES]
        count = next(len(branches) for name, _, branches in stacks(tree) if name == stack)
        order = before if count == 3 else [attn2, ffn2]

        def tau2(block: int) -> float:
            return own / (depths[stack] + block * sum(order) + sum(order[:index]))

        reason = "u-muP: attention, feed-forward and embedding contribute alike, and the sum keeps unit variance"
        return (lambda b: (1 + tau2(b)) ** -0.5), (lambda b: (tau2(b) / (1 + tau2(b))) ** 0.5), reason

    width = tree.head.unembedding.width if isinstance(tree.head, LanguageHead) else tree.width
    draft = _Draft(tree, rule, scales, output=1 / width, output_reason="logits over the width")
    draft.remarks.append("the backward pass of the library has scales of its own, which change gradients by constants alone")
    return draft


def _unit_output(tree: Transformer, weight: Weight) -> float:
    """What gives the output of a feed-forward part, or of attention, unit variance."""
    owner = weight.owner
    if weight.kind == "down" and isinstance(owner, FeedForward):
        return 1 / math.sqrt(activation_second_moment(owner.activation))
    if weight.kind == "out" and isinstance(owner, Attention):
        # The library's empirical model of the spread of attention's output, for independent tokens.
        tokens = max(tree.context, 2)
        flat = math.sqrt((math.log(tokens) if owner.causal else 1) / tokens)
        share = 1 / (1 + 4 * owner.head_dim)
        return float(1 / flat ** (1 - share))
    return 1.0


def _to_inverse_head_dim(attention: Attention) -> float:
    scale = attention.head_dim**-0.5 if attention.scale is None else attention.scale
    return 1 / (attention.head_dim * scale)


# DeepScaleLM.


def _tables(tree: Transformer) -> int:
    """Number of tables of equal variance whose rows are summed into the stream's input."""
    stem = tree.stem
    if isinstance(stem, PatchStem):
        return 2  # the patches' own map and their positions
    return 1 + isinstance(stem.positions, LearnedPositions) + (stem.segments is not None)


def _stem_scale(tree: Transformer, kind: str) -> float:
    return tree.stem.scale if isinstance(tree.stem, TokenStem) and kind == "tokens" else 1.0


def embedding_correlation(tree: Transformer, token_match: float | None = None) -> float:
    """The correlation of two tokens' inputs that repeated words and shared segments cause, before dropout.

    Parameters
    ----------
    tree : the transformer; of k tables with equal variance each contributes 1/k of its own correlation, and two segments agree
        with probability :data:`~depthwidth.layers.stem.SEGMENT_MATCH`.
    token_match : the chance that two positions hold the same token, as :func:`~depthwidth.text.read_text` measures it. By
        default words follow Zipf's law: :func:`~depthwidth.formulas.moments.zipf_match_probability`.

    Raises
    ------
    InputError
        if that is not a probability.

    Examples
    --------
    >>> bert = Transformer(depth=1, width=64, kind="encoder", segments=2, vocab=32000)
    >>> round(embedding_correlation(bert), 4), round(embedding_correlation(bert, 0.0074), 4)
    (0.2268, 0.2247)
    """
    stem = tree.stem
    if token_match is not None and not 0 <= token_match <= 1:
        raise InputError(f"embedding_correlation: token_match={shown(token_match)} is not a probability")
    if isinstance(stem, PatchStem):
        return 0.2  # assumed: neighbouring patches are alike, and how much depends on the images
    repeat = float(zipf_match_probability(max(stem.vocab, 2))) if token_match is None else token_match
    shared = SEGMENT_MATCH if stem.segments is not None else 0.0
    return (min(repeat, 1.0) + shared) / _tables(tree)


def deepscale_scales(branches: int, k: float = 2.0, alpha: float = 1.0, together: int = 1) -> tuple[float, float]:
    """Lambda and beta of a stack: beta^2 = k / branches^alpha, and lambda^2 + beta^2 = 1.

    Where blocks add `together` branches at once, lambda^2 + together beta^2 = 1.

    >>> [round(value**2, 6) for value in deepscale_scales(384)]
    [0.994792, 0.005208]
    """
    beta2 = min(k / branches**alpha, 1 / together)
    return math.sqrt(1 - together * beta2), math.sqrt(beta2)


class _Blocks(NamedTuple):
    """What the recursion along depth found for one stack."""

    value: dict[str, list[float]]
    """Per attention branch and block, D_l: the variance of its output over that of its values, dropout left out."""
    correlation: list[float]
    """Of tokens at the input of each block, and at the end."""


@_scheme(
    "deepscale",
    "Kedia et al. 2024 (DeepScaleLM), arXiv 2403.09635, authors' code",
    "primary: the released code; gated, grouped and mixture parts, other activations and exact=True are derived",
)
def _deepscale(
    tree: Transformer,
    dropout: float | None = None,
    embedding_correlation: float | None = None,
    k: float = 2.0,
    alpha: float = 1.0,
    exact: bool = False,
    context: int | None = None,
) -> _Draft:
    name = "deepscale"
    if dropout is not None:
        dropout = _number(name, "dropout", dropout, high=1 - 1e-9, closed=True)
    k, alpha = _number(name, "k", k, closed=True), _number(name, "alpha", alpha, closed=True)
    start = _correlation_at_start(tree) if embedding_correlation is None else embedding_correlation
    start = _number(name, "embedding_correlation", start, high=1.0, closed=exact)
    tokens = int(_number(name, "context", context or tree.context))
    early = tree.stem.dropout if dropout is None else dropout
    scales, found = {}, {}
    memory = 0.0
    for (where, depth, branches), stack in zip(stacks(tree), filter(None, (tree.encoder, tree.decoder)), strict=True):
        count = depth * len(branches)
        if k > count**alpha:
            raise InputError(f"deepscale: k={k:g} is more than the number of branches to the power alpha, so beta exceeds 1")
        together = len(branches) if stack.repeats[0].block.parallel else 1
        scales[where] = deepscale_scales(count, k, alpha, together)
        found[where] = _along_depth(stack, scales[where], start * (1 - early), memory, dropout, tokens, exact)
        memory = found[where].correlation[-1]

    def rule(weight: Weight) -> Choice:
        plain = _vector(weight)
        if plain is not None:
            return _after_embedding(plain, early) if weight.role == "stem.norm.weight" else plain
        if weight.kind in (*TABLES, "patch"):
            return _deepscale_table(tree, weight, early)
        if weight.stack:
            rate = _dropout_of(tree, weight, dropout)
            return _deepscale_inner(weight, rate, dropout, found[weight.stack], exact)
        return Choice(1 / math.sqrt(weight.fan_in), "1/sqrt(fan-in), which keeps the variance")

    def residual(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        skip, scale = scales[stack]
        if tree.stack.repeats[0].block.parallel:
            return skip, scale, f"one sum with one skip: lambda^2 + 2 beta^2 = 1 with beta^2 = {k:g} / branches^{alpha:g}"
        return skip, scale, f"lambda^2 + beta^2 = 1 with beta^2 = {k:g} / branches^{alpha:g}"

    draft = _Draft(tree, rule, residual)
    draft.extras |= {
        "lambda": {stack: value[0] for stack, value in scales.items()},
        "beta": {stack: value[1] for stack, value in scales.items()},
        "embedding_correlation": start,
        "correlation": {stack: tuple(value.correlation) for stack, value in found.items()},
    }
    head = tree.head
    if isinstance(head, LanguageHead) and head.unembedding.tied:
        std = _table_std(tree, early)[0] / _stem_scale(tree, "tokens")
        draft.output = 1 / (std * math.sqrt(head.unembedding.width))
        draft.output_reason = "logits over std sqrt(width) of the tied table, for unit variance"
    if isinstance(tree.stem, PatchStem) and embedding_correlation is None:
        draft.remarks.append("the correlation of image patches is assumed to be 0.2; measure it and give embedding_correlation")
    return draft


def _correlation_at_start(tree: Transformer) -> float:
    return embedding_correlation(tree)


def _after_embedding(plain: Choice, dropout: float) -> Choice:
    """A norm of the embedding stands before its dropout, which the gain makes up for."""
    if not dropout:
        return plain
    gain = math.sqrt(1 - dropout) - (1.0 - plain.mean)
    return plain._replace(mean=gain, reason="sqrt(1 - p), so that the dropout after it leaves unit variance")


def _table_std(tree: Transformer, dropout: float) -> tuple[float, str]:
    """What one of the summed tables puts into the stream."""
    stem, tables = tree.stem, _tables(tree)
    if isinstance(stem, TokenStem) and isinstance(stem.positions, SinusoidalPositions) and dropout < 0.5:
        return math.sqrt((0.5 - dropout) / tables), "sqrt((1/2 - p) / tables): sines and cosines have variance 1/2 already"
    return math.sqrt((1 - dropout) / tables), f"sqrt((1 - p) / {tables}): unit variance after the sum of tables and dropout"


def _deepscale_table(tree: Transformer, weight: Weight, dropout: float) -> Choice:
    std, reason = _table_std(tree, dropout)
    if weight.kind == "class_token":
        reason = "sqrt((1 - p) / 2), as the patches it stands beside"
    return Choice(std / math.sqrt(weight.fan_in) / _stem_scale(tree, weight.kind), reason)


def _dropout_of(tree: Transformer, weight: Weight, dropout: float | None) -> float:
    if dropout is not None:
        return dropout
    stack = tree.decoder if weight.stack == "decoder" else tree.encoder
    branch = getattr(stack.repeats[0].block, weight.branch or "attention")  # type: ignore[union-attr]
    return float(branch.dropout)


def _deepscale_inner(weight: Weight, rate: float, override: float | None, blocks: _Blocks, exact: bool) -> Choice:
    owner, kind = weight.owner, weight.kind
    if isinstance(owner, Attention) and kind in ("query", "key"):
        scale = owner.head_dim**-0.5 if owner.scale is None else owner.scale
        # Scores of unit variance whatever the scale is that the model multiplies them by.
        std = (scale * scale * owner.head_dim) ** -0.25 / math.sqrt(weight.fan_in)
        return Choice(std, "1/sqrt(width): unit score variance")
    if isinstance(owner, Attention):
        spread = blocks.value[weight.branch]
        name = "D_l" if exact else "r_l"
        reason = f"sqrt(sqrt((1 - p) / {name}) / fan-in), value and output together undo the averaging over tokens"
        return Choice(lambda block: math.sqrt(math.sqrt((1 - rate) / spread[block]) / weight.fan_in), reason)
    if isinstance(owner, FeedForward):
        hidden_rate = 0.0 if override == 0 else owner.dropout
        return _deepscale_ffn(weight, owner, (1 - rate) * (1 - hidden_rate))
    if kind == "router":
        return Choice(0.1 / math.sqrt(weight.fan_in), "0.1/sqrt(width), so that the chosen experts weigh nearly alike (ours)")
    return Choice(1 / math.sqrt(weight.fan_in), "1/sqrt(fan-in), which keeps the variance")


def _deepscale_ffn(weight: Weight, part: FeedForward, keep: float) -> Choice:
    second = activation_second_moment(part.activation)
    if part.activation == "relu" and not part.gated and weight.mixture is None:
        std = (2 * keep / (part.width * part.hidden)) ** 0.25
        return Choice(std, "(2 (1 - p) / (width hidden))^(1/4); at four times the width, sqrt(sqrt((1 - p) / 2) / width)")
    if weight.kind != "down":
        return Choice(1 / math.sqrt(weight.fan_in), "1/sqrt(width): the activation sees unit variance")
    reason = "sqrt((1 - p) / (hidden E f^2)) with the activation's own second moment"
    factor = 1.0
    if weight.mixture is not None:
        factor, more = _mixture_factor(weight, weight.mixture)
        reason = f"{reason}; {more}"
    return Choice(math.sqrt(factor * keep / (part.hidden * second)), reason)


def _mixture_factor(weight: Weight, mixture: MixtureOfExperts) -> tuple[float, str]:
    half = 0.5 if mixture.shared is not None else 1.0
    if ".shared." in weight.role:
        gate = ", and a gate of one half scales it" if mixture.shared_gate else ""
        return half * (4.0 if gate else 1.0), f"half of the variance{gate} (ours)"
    return half * mixture.top_k, f"times sqrt({mixture.top_k}), as that many experts are averaged (ours)"


def _along_depth(
    stack: Stack,
    scales: tuple[float, float],
    start: float,
    memory: float,
    dropout: float | None,
    tokens: int,
    exact: bool,
) -> _Blocks:
    """The correlation of tokens along a stack, with the variance that each attention branch gives for it."""
    skip2, scale2 = (value * value for value in scales)
    r = start
    value: dict[str, list[float]] = {"attention": [], "cross_attention": []}
    correlations = [r]
    spreads: dict[Any, Callable[[float], tuple[float, float]]] = {}
    kernels: dict[Any, Callable[[float], float]] = {}
    for block in stack.blocks():
        added = 0.0
        before = r
        for name in _BRANCHES:
            residual = getattr(block, name)
            if residual is None:
                continue
            rate = residual.dropout if dropout is None else dropout
            branch = residual.branch
            if isinstance(branch, Attention):
                reads = memory if branch.cross else (before if block.parallel else r)
                kind = (branch.causal, branch.window, branch.cross, branch.dropout)
                if kind not in spreads:
                    spreads[kind] = _attention_spread(branch, tokens, dropout) if exact else _released_spread
                variance, covariance = spreads[kind](reads)
                value[name].append(variance)
                out = (1 - rate) * covariance / variance
            else:
                part = branch.expert if isinstance(branch, MixtureOfExperts) else branch
                unit = (part.activation, part.gated)
                if unit not in kernels:
                    kernels[unit] = _kernel(*unit)
                out = (1 - rate) * kernels[unit](before if block.parallel else r)
            if block.parallel:
                added += scale2 * out
            else:
                r = (skip2 * r + scale2 * out) / (skip2 + scale2)
        if block.parallel:
            count = 2 + (block.cross_attention is not None)
            r = (skip2 * before + added) / (skip2 + count * scale2)
        correlations.append(r)
    return _Blocks(value, correlations)


def _released_spread(r: float) -> tuple[float, float]:
    """The released recursion's leading order for long sequences: variance and covariance are both r."""
    return r, r


def activation_second_moment(name: str) -> float:
    """E f(z)^2 for a standard normal z."""
    if name not in _SECOND:
        if name == "relu":
            _SECOND[name] = float(relu_second_moment(1.0))
        else:
            from .activations import activation

            _SECOND[name] = float(activation(name).second_moment(1.0))
    return _SECOND[name]


_SECOND: dict[str, float] = {}


def _kernel(name: str, gated: bool) -> Callable[[float], float]:
    """E f(x) f(y) / E f^2 at unit variance, as a function of the correlation; for a gated unit times the correlation."""
    if name == "relu":
        pair = _relu_kernel
    else:
        import numpy as np

        from .activations import activation

        grid = np.linspace(0.0, 1.0, 257)
        values = np.asarray(activation(name).pair_moment(1.0, grid)) / activation_second_moment(name)

        def pair(r: float) -> float:
            return float(np.interp(r, grid, values))

    return (lambda r: r * pair(r)) if gated else pair


def _relu_kernel(r: float) -> float:
    return 2 * float(relu_pair_moment(1.0, 1.0, min(max(r, -1.0), 1.0)))  # rounding may leave [-1, 1]


def _attention_spread(attention: Attention, tokens: int, override: float | None) -> Callable[[float], tuple[float, float]]:
    """D(r) = r + (1 - r) P + e_p P and the covariance over r, averaged over the rows of a causal mask.

    The covariance takes P2 ~ exp(r s) / (exp(r s) + n - 1) with s = 1 - r: it matters where it is small beside r.
    """
    import numpy as np

    rate = attention.dropout if override is None else override
    reach = min(tokens, attention.window or tokens)
    grid, share, pair = _overlap_table(tokens, reach, attention.causal)
    variances = grid + (1 - grid) * share + rate / (1 - rate) * share
    covariances = grid + (1 - grid) * pair

    def spread(r: float) -> tuple[float, float]:
        return float(np.interp(r, grid, variances)), float(np.interp(r, grid, covariances))

    return spread


@functools.lru_cache(maxsize=64)
def _overlap_table(tokens: int, reach: int, causal: bool) -> tuple[Any, Any, Any]:
    """P and P2 at unit score variance on a grid of correlations, averaged over the rows of a mask."""
    import numpy as np

    from .softmax_integrals import overlap

    grid = 1 - (1 - np.linspace(0.0, 1.0, 33)) ** 2  # finer towards 1, where correlations go
    lengths, rows = [tokens], np.array([tokens])
    if causal:
        lengths = sorted({*range(1, min(reach, 8) + 1), *(round(reach ** (i / 24)) for i in range(25))})
        rows = np.minimum(np.arange(1, tokens + 1), reach)
    table = overlap((1 - grid)[:, None], np.array(lengths)[None, :]).P
    shares = [np.interp(np.log(rows), np.log(lengths), line).mean() for line in table]
    shared = np.exp(grid * (1 - grid))
    pair = [(one / (one + rows - 1)).mean() for one in shared]
    return grid, np.array(shares), np.array(pair)
