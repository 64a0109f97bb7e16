"""The configuration of a tree: its design, the fields of a family, and a check that the result reads back as the tree."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from ...checks import DEEPEST
from ...errors import InputError
from ...formula import is_symbolic
from ...layers import AttentionLike, BlockLike, Branch, Stack
from ..design import ATTENTION_CHOICES, BLOCK_CHOICES, ENCODER_CHOICES, FEED_FORWARD_CHOICES, Design
from ..transformer import Transformer
from .family import Family
from .fields import brief


def as_config(tree: Transformer, family: Family) -> dict[str, Any]:
    """The configuration of `family` that reads back as `tree`.

    Raises
    ------
    InputError
        which names the first choice that the family cannot express.
    """
    name = family.model_type
    if not isinstance(tree, Transformer):
        raise InputError(f"{brief(tree)} is not a Transformer")
    if is_symbolic(*_numbers(tree)):
        raise InputError(f"{name} cannot express symbols; every dimension must be a number")
    if max(stack.depth for stack in (tree.encoder, tree.decoder) if stack is not None) > DEEPEST:
        raise InputError(f"{name} cannot express more than {DEEPEST:,} blocks")
    config = family.fields(design_of(tree))
    try:
        again = Transformer.of_design(family.design(config))
    except InputError as error:
        # The sentence names the field of this family that cannot hold the tree's value.
        raise InputError(f"{name} cannot express this tree: {error}") from None
    if again != tree:
        raise InputError(f"{name} cannot express {_difference(tree, again)}")
    return config


def design_of(tree: Transformer) -> Design:
    """The flat design of a tree, as far as a design can express it: if blocks differ otherwise, that of the first block.

    It combines the choices of all components (:meth:`Layer.choices <depthwidth.layers.Layer.choices>`); the first component to
    state a choice decides it.
    """
    choices: dict[str, Any] = {}
    for node in tree.walk():
        if tree.kind != "encoder-decoder" or node.site.partition(".")[0] not in ("encoder", "source"):
            choices = node.layer.choices() | choices
    local = choices.get("window_positions")
    choices.setdefault("positions", "none" if local is None else local.word)
    if tree.stack.first("as_feed_forward") is None:
        choices["ffn"] = 0
    each = [_attention(repeat.block) for repeat in tree.stack.repeats for _ in range(repeat.times)]
    present = [attention for attention in each if attention is not None]
    near, far = ({one.position for one in present if (one.window is not None) is windowed} for windowed in (True, False))
    if near == {None} and far not in (set(), {None}):
        choices["window_positions"] = "none"
    choices["blocks"] = _own_choices(tree, choices, positions=len(near) > 1 or len(far) > 1)
    for name in ("heads", "window") if present else ():
        values = [getattr(attention or present[0], name) for attention in each]
        choices[name] = values[0] if len(set(values)) == 1 else tuple(values)
    if tree.encoder is not None and tree.decoder is not None:
        choices |= _encoder_choices(tree, tree.encoder, choices)
    return Design(**choices)


def _encoder_choices(tree: Transformer, encoder: Stack, base: dict[str, Any]) -> dict[str, Any]:
    """The choices of a design about the encoder of a model of two stacks."""
    reader = tree.reader
    context = tree.context if reader.fixed_context is None else reader.fixed_context
    alone = design_of(Transformer.of_parts(reader, encoder, None, None, context))
    usual = {one.name: one.default for one in fields(Design)}
    own = {name: getattr(alone, name) for name in ENCODER_CHOICES}
    own = {name: value for name, value in own.items() if value != base.get(name, usual[name])}
    source = "shared" if tree.source is None else "positions" if reader.shares_tokens else "own"
    return {"encoder": own or None, "source": source}


def _own_choices(tree: Transformer, base: dict[str, Any], *, positions: bool) -> tuple[dict[str, Any], ...] | None:
    """The choices of each block that differ from `base`; None if none does. Positions are compared if `positions`."""
    if len(tree.stack.repeats) == 1:
        return None
    usual = {one.name: one.default for one in fields(Design)}
    each: list[dict[str, Any]] = []
    for run in tree.stack.repeats:
        own: dict[str, Any] = {}
        for node in run.block.walk():
            own = node.layer.choices() | own
        attention, feed_forward = run.block.as_attention, run.block.as_feed_forward
        if positions and attention is not None:
            own["positions"] = "none" if attention.position is None else attention.position.word
        if feed_forward is None:
            own["ffn"] = 0
        without = {
            *(() if positions else ("positions",)),
            *(() if attention is not None else ATTENTION_CHOICES),
            *(() if feed_forward is not None else FEED_FORWARD_CHOICES),
        }
        names = [name for name in BLOCK_CHOICES if name not in without]
        found = {name: own.get(name, usual[name]) for name in names}
        each += [{name: value for name, value in found.items() if value != base.get(name, usual[name])}] * run.times
    if positions:
        base["window_positions"] = None
    return tuple(each) if any(each) else None


def _attention(block: BlockLike) -> AttentionLike | None:
    """The self-attention of a block that a configuration can describe; None if a mixer is in its place."""
    attention, mixer = block.as_attention, block.choices().get("mixer")
    if attention is None and mixer == "attention":
        raise InputError("a configuration needs softmax attention, or a mixer, in every block")
    if isinstance(mixer, Branch) and not hasattr(mixer, "at_width"):
        raise InputError(f"a configuration has no {type(mixer).__name__}")
    return attention


def _numbers(tree: Transformer) -> list[Any]:
    return [getattr(node.layer, f.name) for node in tree.walk() for f in fields(node.layer)] + [tree.context]


def _difference(tree: Any, other: Any) -> str:
    """The first difference between a tree and the tree of a family's configuration, in words."""
    site, here, there = _first_difference(tree, other, [])
    return f"{site}={_name(here)}, which it would read back as {_name(there)}"


def _first_difference(here: Any, there: Any, site: list[str]) -> tuple[str, Any, Any]:
    if type(here) is type(there) and is_dataclass(here):
        for item in fields(here):
            one, two = getattr(here, item.name), getattr(there, item.name)
            if one != two:
                # Runs of equal blocks are of one kind, so their number is not part of the name.
                step = [] if item.name in ("repeats", "branch") else [item.name]
                return _first_difference(one, two, [*site, *step])
    if isinstance(here, tuple) and isinstance(there, tuple):
        for one, two in zip(here, there, strict=False):
            if one != two:
                return _first_difference(one, two, site)
        return ".".join([*site, "blocks"]), f"{len(here)} kinds", f"{len(there)}"
    return ".".join(site), here, there


def _name(value: Any) -> str:
    if is_dataclass(value):
        return type(value).__name__
    return value if isinstance(value, str) else brief(value)
