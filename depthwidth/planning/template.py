"""An architecture without its depth and width, and its counts as polynomials of the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ..architecture import Transformer
from ..architecture.design import Design, with_choices
from ..checks import check_whole
from ..errors import InputError, nearest, shown
from ..values import cached_property, frozen
from . import policy
from .continuous import Continuous

PRESETS: dict[str, dict[str, Any]] = {
    "gpt3": {},
    "llama2": {
        "positions": "rotary", "norm": "rmsnorm", "bias": False, "activation": "silu", "gated": True, "tied": False,
        "vocab": 32000, "context": 4096,
    },
    "llama3": {
        "positions": "rotary", "norm": "rmsnorm", "bias": False, "activation": "silu", "gated": True, "tied": False,
        "vocab": 128256, "context": 8192, "kv_heads": 8,
    },
    "mixtral": {
        "positions": "rotary", "norm": "rmsnorm", "bias": False, "activation": "silu", "gated": True, "tied": False,
        "vocab": 32000, "context": 4096, "kv_heads": 8, "experts": 8, "top_k": 2,
    },
    "vit": {"kind": "encoder", "patch": 16, "head": "classifier"},
}  # fmt: skip
"""Choices that belong together, by the model that made them known; the rest are the defaults of
:class:`~depthwidth.architecture.design.Design`."""

_FFN_RATIOS = {"llama2": Fraction(8, 3), "llama3": Fraction(7, 2), "mixtral": Fraction(7, 2)}
_MOST_TREES = 64
_SHAPE = frozenset({"depth", "width", "heads", "ffn"})
_TEXT = frozenset({"vocab", "context", "kind", "tied", "segments"})


@frozen
class Template:
    """A design without its depth and width.

    Widths are multiples of `multiple`, or of 64 or 128 by default, and hold a number of heads that divides evenly among the
    key-value heads and among the `tensor_parallel` devices. Depths are multiples of `pipeline`.
    """

    design: Design
    ffn_ratio: Fraction = Fraction(4)
    """Feed-forward width over the width."""
    head_dim: int | None = None
    """None if it follows from the width."""
    tensor_parallel: int = 1
    multiple: int | None = None
    group: int = 1
    """Query heads per key-value head of the model that is followed; a fixed number of key-value heads is `design.kv_heads`."""
    kv_usual: int | None = None
    """Key-value heads of the preset or model that is followed; :meth:`kv_heads_at` departs from it by a factor of 2 at most."""
    heads: int | None = None
    """Query heads, if their number is given; the head dimension then follows from the width."""
    pipeline: int = 1
    """Stages of the pipeline among which blocks divide."""
    attention_ratio: Fraction = Fraction(1)
    """Dimensions of all query heads together over the width; 4 and 16 in T5's largest models."""
    shared_ratio: Fraction = Fraction(0)
    """Hidden features of the shared expert over those of a routed one."""
    scaled_embedding: bool = False
    """True if the token embedding is multiplied by the square root of the width, as in Gemma."""
    scaled_head: bool = False
    """True if the head's input is divided by it, as in T5 with a tied embedding."""
    first_blocks: tuple[Mapping[str, Any], ...] = ()
    """Choices of the first blocks if they differ from what follows (dense blocks below mixtures), feed-forward widths as
    fractions of the design's."""
    encoder_ratio: Fraction = Fraction(1)
    """Blocks of the encoder of a model of two stacks over those of its decoder."""
    blocks: tuple[Mapping[str, Any], ...] = ()
    """Choices of the other blocks, one period of them; empty if all blocks have the design's."""

    @classmethod
    def of(
        cls,
        preset: str = "gpt3",
        *,
        ffn_ratio: Fraction | None = None,
        head_dim: int | None = None,
        tensor_parallel: int = 1,
        multiple: int | None = None,
        heads: int | None = None,
        pipeline: int = 1,
        vocab_multiple: int | None = None,
        **choices: Any,
    ) -> Template:
        """A preset with some choices of :class:`~depthwidth.architecture.design.Design` changed.

        The vocabulary is rounded up to a multiple of `vocab_multiple`, if that is given.

        Raises
        ------
        InputError
            if the preset or a choice is unknown, or a choice is out of range.
        """
        design, usual = _preset(preset, choices, vocab_multiple)
        ratio = _FFN_RATIOS.get(preset, Fraction(8, 3) if design.gated else Fraction(4)) if ffn_ratio is None else ffn_ratio
        return cls(design, ratio, head_dim, tensor_parallel, multiple, kv_usual=usual, heads=heads, pipeline=pipeline)

    @classmethod
    def like(
        cls, design: Design, choices: Mapping[str, Any] | None = None, *, vocab_multiple: int | None = None, **shape: Any
    ) -> Template:
        """A design without its shape; its ratios, head dimension and pattern of windows are kept.

        `choices` change the design first; `shape` are fields that override those kept. An encoder keeps its depth relative to
        that of its decoder, and gets its features and heads. `vocab_multiple` is as in :meth:`of`.

        Raises
        ------
        InputError
            if the blocks differ in their number of heads, or a value is out of range.
        """
        kept, given = _kept_choices(design, choices or {}, vocab_multiple, with_heads=shape.get("heads") is None)
        return cls(kept, **(given | without_none(shape)))

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "pipeline", "multiple", "head_dim", "heads"):
            if getattr(self, name) is not None:
                check_whole("plan", largest=2**20, **{name: getattr(self, name)})
        object.__setattr__(self, "ffn_ratio", _checked_ratio(self.ffn_ratio))
        _check_heads(self)

    @property
    def exact(self) -> bool:
        """True if its polynomials equal the counts of its trees: nothing is rounded for hardware."""
        ratios = (self.ffn_ratio, self.shared_ratio)
        whole = all(ratio.denominator == 1 for ratio in (*ratios, self.encoder_ratio))
        return whole and self.tensor_parallel == 1 and not self.blocks and self.kv_usual is None

    def head_dim_at(self, width: float) -> int:
        """Head dimension at about this width: the one given, or 128 for wide models, 64 for narrower ones."""
        if self.heads is not None:
            return max(policy.SMALLEST_STEP, int(width * self.attention_ratio) // self.heads)
        if self.head_dim is not None:
            return self.head_dim
        if width >= policy.NARROW:
            return policy.usual_head_dim(width)
        return max(policy.SMALLEST_STEP, int(2.0 ** int(math.log2(width) - 1)))

    def with_kv_heads(self, kv_heads: int) -> Template:
        """The same architecture with exactly this number of key-value heads at every width."""
        return replace(self, design=replace(self.design, kv_heads=kv_heads), kv_usual=None, group=1)

    def heads_at(self, width: int) -> int:
        """Query heads at a width that holds whole ones."""
        return self.heads or int(width * self.attention_ratio) // self.head_dim_at(width)

    def kv_heads_at(self, heads: int) -> int | None:
        """Key-value heads for a number of query heads; None if no suitable number divides them.

        A number that was given is exact. That of a preset or a model is halved or doubled at most, to a number that divides
        the query heads and divides among devices: powers of two, times the odd part of the usual number or of the devices'.
        """
        fixed = self.design.kv_heads
        if fixed is not None or self.kv_usual is None:
            kv = heads if fixed is None else fixed
            return kv if heads % kv == 0 else None
        odd = frozenset((_odd_part(self.kv_usual), _odd_part(self.tensor_parallel), 1))
        return policy.kv_heads_near(heads, self._kv_wanted(heads), odd, self.tensor_parallel)

    def _kv_wanted(self, heads: int) -> Fraction:
        """Key-value heads before any rounding."""
        return Fraction(heads, self.group) if self.group > 1 else Fraction(self.kv_usual or heads)

    def step_at(self, width: float) -> int:
        """The step of allowed widths near `width`."""
        if self.heads is not None:
            return math.lcm(_width_of(self, self.heads * policy.SMALLEST_STEP), self.multiple or 1, *self._mixer_steps)
        sizes = self.head_dim_at(width), self.multiple or policy.width_step(width)
        if sizes not in self._steps:
            # With a usual number of key-value heads, half of it suffices; `fits` sees to the rest.
            kv = self.design.kv_heads or (max(1, self.kv_usual // 2) if self.kv_usual and self.group == 1 else 1)
            own = _width_of(self, math.lcm(kv, self.tensor_parallel) * sizes[0])
            self._steps[sizes] = math.lcm(own, sizes[1], *self._mixer_steps)
        return self._steps[sizes]

    @cached_property
    def _steps(self) -> dict[tuple[int, int], int]:
        """Known steps of widths, by head dimension and step of the hardware."""
        return {}

    @cached_property
    def _mixer_steps(self) -> tuple[int, ...]:
        """Widths whose multiples give every mixer whole sizes."""
        each = (self.design.mixer, self.design.channel_mixer, *(own.get("mixer") for own in (*self.first_blocks, *self.blocks)))
        return tuple(one.width_step for one in each if one is not None and not isinstance(one, str))

    def holds(self, width: int) -> bool:
        """True if a width holds whole heads, which divide among key-value heads and devices, and whole mixers."""
        if width <= 0:
            return False
        inner = width * self.attention_ratio.numerator
        unit = (self.heads or self.head_dim_at(width)) * self.attention_ratio.denominator
        heads = self.heads or inner // unit
        if heads < 1 or inner % unit or heads % self.tensor_parallel or any(width % step for step in self._mixer_steps):
            return False
        return self.kv_heads_at(heads) is not None

    def fits(self, width: int) -> bool:
        """True if a width is a multiple of its step, and holds its heads."""
        return width > 0 and width % self.step_at(width) == 0 and self.holds(width)

    def nearest_widths(self, width: float) -> list[int]:
        """The nearest allowed widths on either side; refused in a sentence if there is none far and wide."""
        step = self.step_at(width)
        below, above = int(width / step) * step, (int(width / step) + 1) * step
        while below > 0 and not self.fits(below):
            below -= step
        for _ in range(policy.MOST_STEPS):
            if self.fits(above):
                return [found for found in (below, above) if found > 0]
            above += step
        raise InputError(_no_width(self, step))

    def at(self, depth: int, width: int) -> Transformer:
        """The tree at a given shape, its feed-forward width rounded to a multiple that suits hardware."""
        found = self._trees.get((depth, width))
        if found is None:
            found = self._trees[depth, width] = _rounded(self, depth, width)
            if len(self._trees) > _MOST_TREES:
                self._trees.clear()
        return found

    @cached_property
    def _trees(self) -> dict[tuple[int, int], Transformer]:
        return {}  # recent trees: a plan asks for most of them several times

    def _tree(self, depth: int, width: int, head_dim: int, ffn: int, *, rounded: bool = True) -> Transformer:
        """The tree of given sizes; with key-value heads before any rounding if `rounded` is false."""
        inner = int(width * self.attention_ratio)
        heads, head_dim = (inner // head_dim, head_dim) if self.heads is None else (self.heads, inner // self.heads)
        kv_heads = self.design.kv_heads
        if self.kv_usual is not None and kv_heads is None:
            kv_heads = (self.kv_heads_at(heads) if rounded else None) or int(self._kv_wanted(heads))
        window, encoder = self.design.window, self.design.encoder
        encoder_depth = max(1, round(depth * self.encoder_ratio)) if self.design.kind == "encoder-decoder" else depth
        if encoder or encoder_depth != depth:  # the decoder's pattern of blocks, at another depth
            own = _windows_at_depth((encoder or {}).get("window", window), encoder_depth)
            encoder = {**(encoder or {}), "blocks": _blocks(self, encoder_depth, width, ffn), "window": own}
        design = with_choices(
            self.design,
            depth=depth,
            encoder_depth=encoder_depth,
            encoder=encoder,
            width=width,
            heads=heads,
            head_dim=head_dim,
            kv_heads=kv_heads,
            ffn=0 if self.design.ffn == 0 else ffn,
            mixer=_mixer_at_width(self.design.mixer, width),
            channel_mixer=_mixer_at_width(self.design.channel_mixer, width),
            shared_ffn=int(self.shared_ratio * ffn) or self.design.shared_ffn,
            window=_windows_at_depth(window, depth),
            blocks=_blocks(self, depth, width, ffn),
            embedding_scale=math.sqrt(width) if self.scaled_embedding else self.design.embedding_scale,
            head_scale=width**-0.5 if self.scaled_head else self.design.head_scale,
        )
        return Transformer.of_design(design)

    @property
    def least_depth(self) -> int:
        """The fewest blocks that have the pattern: the first ones that differ, and one beyond."""
        return len(self.first_blocks) + 1

    def polynomial(
        self, reading: Callable[[Transformer], int | Fraction], trees: dict[tuple[int, int], Transformer] | None = None
    ) -> CountPolynomial:
        """The polynomial of `reading`, a count that is affine in the depth and quadratic in the width.

        Trees at two depths and three widths determine it exactly, in rational arithmetic. Neither the feed-forward width nor
        the number of key-value heads is rounded. An open head dimension is taken as that of width 1024. `trees` keeps the
        sampled trees, for other readings of the same template.
        """
        return _sample_count(self, reading, {} if trees is None else trees)


@frozen
class CountPolynomial:
    """``sum_k (around[k] + depth * per_block[k]) width^k`` for k = 0, 1, 2, with exact coefficients."""

    around: tuple[Fraction, ...]
    per_block: tuple[Fraction, ...]

    def exact(self, depth: int, width: int) -> Fraction:
        """The value at a shape of whole numbers, exact."""
        return sum(
            ((a + depth * b) * width**k for k, (a, b) in enumerate(zip(self.around, self.per_block, strict=True))),
            start=Fraction(0),
        )

    def continuous(self) -> Continuous:
        """The same polynomial for real depths and widths, in floating point."""
        a0, a1, a2 = map(float, self.around)
        b0, b1, b2 = map(float, self.per_block)
        return Continuous((a0, a1, a2), (b0, b1, b2))


def _rounded(template: Template, depth: int, width: int) -> Transformer:
    exact = template.ffn_ratio * width
    # A whole multiple of the width needs no rounding.
    step = 1 if template.ffn_ratio.denominator == 1 else policy.ffn_step(width)
    step = math.lcm(step, template.tensor_parallel)
    return template._tree(depth, width, template.head_dim_at(width), max(step, step * round(exact / step)))


def _sample_count(
    template: Template, reading: Callable[[Transformer], int | Fraction], trees: dict[tuple[int, int], Transformer]
) -> CountPolynomial:
    """:meth:`Template.polynomial`; trees that are known are not built again."""
    head_dim, unit, first, period = _sampling(template)

    def tree(depth: int, width: int) -> Transformer:
        if (depth, width) not in trees:
            ffn = int(template.ffn_ratio * width)
            trees[depth, width] = template._tree(depth, width, head_dim, ffn, rounded=False)
        return trees[depth, width]

    def sample(depth: int) -> list[int | Fraction]:
        read = (reading(tree(depth, width)) for width in (unit, 2 * unit, 3 * unit))
        return [value if isinstance(value, int) else Fraction(value) for value in read]

    once, twice = sample(first + period), sample(first + 2 * period)
    # Divided at the end, so that almost all of the arithmetic is on whole numbers.
    gained = [b - a for a, b in zip(once, twice, strict=True)]
    begun = [period * a - (first + period) * gain for a, gain in zip(once, gained, strict=True)]
    return CountPolynomial(_quadratic(begun, unit, period), _quadratic(gained, unit, period))


def _sampling(template: Template) -> tuple[int, int, int, int]:
    """Head dimension, unit of width, first depth and period of depths at which a count is sampled."""
    head_dim = template.head_dim_at(policy.REFERENCE_WIDTH)
    # A width whose heads and hidden features, those of a shared expert too, are whole on each device.
    kv = template.design.kv_heads or (template.kv_usual if template.kv_usual and template.group == 1 else 1)
    divided = math.lcm(kv, template.group * template.tensor_parallel), head_dim
    heads, each = divided if template.heads is None else (template.heads, policy.SMALLEST_STEP)
    ratios = template.ffn_ratio.denominator * template.shared_ratio.denominator * template.tensor_parallel
    unit = math.lcm(_width_of(template, heads * each), ratios, *template._mixer_steps)
    if template.design.embedding_width in (unit, 2 * unit, 3 * unit):  # a model of that very width has no projection
        unit *= 4
    windows = len(template.design.window) if isinstance(template.design.window, Sequence) else 1
    period = math.lcm(windows, len(template.blocks) or 1, template.encoder_ratio.denominator, template.pipeline)
    return head_dim, unit, len(template.first_blocks), period


def _quadratic(values: list[int | Fraction], unit: int, divisor: int) -> tuple[Fraction, ...]:
    """Coefficients of the parabola through `values` at unit, 2 unit and 3 unit, lowest first (Newton's differences).

    The values are divided by `divisor`.
    """
    first, second, third = values
    twice_bend = third - 2 * second + first
    twice_slope = 2 * (second - first) - 3 * twice_bend
    twice_first = 2 * first - twice_slope - twice_bend
    scale = 2 * divisor
    return Fraction(twice_first, scale), Fraction(twice_slope, scale * unit), Fraction(twice_bend, scale * unit**2)


def _preset(preset: str, choices: Mapping[str, Any], vocab_multiple: int | None) -> tuple[Design, int | None]:
    """The design of a preset with some choices changed, and its usual number of key-value heads; None if it is exact."""
    if preset not in PRESETS:
        raise InputError(f"there is no preset {shown(preset)}{nearest(str(preset), PRESETS)}; known are {', '.join(PRESETS)}")
    for name in _SHAPE & set(choices):
        raise InputError(f"plan: {name} is part of the shape to be found; give head_dim, kv_heads or ffn_ratio instead")
    if PRESETS[preset].get("patch") and _TEXT & set(choices):
        raise InputError(f"plan: {min(_TEXT & set(choices))} has no meaning for images")
    kept = PRESETS[preset] | dict(choices)
    # The preset's number of key-value heads is a habit, one that the caller gives is exact.
    usual = kept.pop("kv_heads") if "kv_heads" in PRESETS[preset] and "kv_heads" not in choices else None
    design = _pad_vocabulary(Design.of(depth=1, width=64, **kept), vocab_multiple)
    _check_top_k(design, choices)
    return design, usual


def _check_top_k(design: Design, choices: Mapping[str, Any], blocks: Iterable[Mapping[str, Any]] = ()) -> None:
    """Refuse a number of experts for each token where there are no experts."""
    if "top_k" in choices and design.experts is None and not any("experts" in block for block in blocks):
        raise InputError("plan: top_k has no meaning without experts")


def _checked_ratio(ratio: Any) -> Fraction:
    """A ratio of feed-forward width to width, exact."""
    if not isinstance(ratio, (int, float, Fraction)):
        raise InputError(f"plan: ffn_ratio={shown(ratio)} is not a number")
    if not 0 < ratio <= 1024:
        raise InputError(f"plan: ffn_ratio={float(ratio):g} is not in (0, 1024]")
    # A typed ratio is simple; the ratio of an existing model is exact.
    return Fraction(ratio).limit_denominator(2**20 if isinstance(ratio, Fraction) else 1000)


def _check_heads(template: Template) -> None:
    """Refuse heads that do not divide among devices or key-value heads."""
    kv, heads, devices = template.design.kv_heads, template.heads, template.tensor_parallel
    if kv is not None and kv % devices and devices % kv:
        raise InputError(f"plan: kv_heads={kv} cannot be divided evenly among tensor_parallel={devices} devices")
    if heads is not None and heads % devices:
        raise InputError(f"plan: heads={heads} cannot be divided evenly among tensor_parallel={devices} devices")
    if heads is not None and template.kv_heads_at(heads) is None:
        shared = template.kv_usual if kv is None else kv
        raise InputError(f"plan: heads={heads} cannot be divided evenly among {shared} key-value heads")


def _no_width(template: Template, step: int) -> str:
    """The sentence for heads that never divide."""
    return (
        f"plan: no multiple of {step:,} holds heads that divide among about {template.kv_usual} key-value heads and "
        f"tensor_parallel={template.tensor_parallel} devices; give kv_heads"
    )


def _kept_choices(
    design: Design, choices: Mapping[str, Any], vocab_multiple: int | None, *, with_heads: bool
) -> tuple[Design, dict[str, Any]]:
    """A design without its shape, and the fields of a template that keep its ratios and patterns.

    The head dimension is kept if `with_heads`.
    """
    tree = Transformer.of_design(replace(design, blocks=None, mixer="attention" if design.attends else design.mixer))
    attention, ffn = tree.stack.first("as_attention"), _own_ffn(design, tree)
    if not isinstance(design.heads, (int, type(None))):
        raise InputError("plan: the blocks of this model differ in their number of heads; a plan has one number for all")
    if any(len(stack.weight_sets) < stack.depth for stack in tree.stacks.values()):
        raise InputError("plan: blocks of this model share weights, so its budget does not determine its depth")
    group = 1 if attention is None else attention.heads // attention.kv_heads
    single = attention is not None and attention.kv_heads == 1
    without_shape: dict[str, Any] = {
        "depth": 1, "width": 64, "heads": None, "ffn": 0 if design.ffn == 0 else None, "head_dim": None,
        "value_dim": None if design.latent is None else design.value_dim,
        "kv_heads": 1 if single and design.latent is None else None, "encoder_depth": None, "pooler_width": None,
        "embedding_width": design.embedding_width if design.embedding_width != design.width else None,
        "window": _period(design.window), "blocks": None, "shared_groups": None,
        "encoder": _without_shape(design.encoder),
    }  # fmt: skip
    chosen = without_none(choices)
    if "bias" in chosen:  # of all linear maps: the design's own values for some of them would override it
        without_shape |= dict.fromkeys(("attention_bias", "attention_out_bias", "ffn_bias"))
    kept = _pad_vocabulary(replace(design, **(without_shape | chosen)), vocab_multiple)
    _check_top_k(kept, chosen, design.blocks or ())
    if kept.kv_heads is not None:
        group = 1
    first_blocks, blocks = _pattern([_relative(block, ffn) for block in design.blocks or ()])
    given: dict[str, Any] = {
        "first_blocks": first_blocks,
        "blocks": blocks,
        "encoder_ratio": Fraction(design.encoder_depth or design.depth, design.depth),
        "ffn_ratio": Fraction(ffn or 4 * tree.width, tree.width),
        "head_dim": 1 if attention is None else attention.head_dim if with_heads else None,
        "group": group,
        "kv_usual": attention.kv_heads if attention is not None and group > 1 else None,
        "attention_ratio": Fraction(1 if attention is None else attention.heads * attention.head_dim, tree.width),
        "shared_ratio": Fraction(design.shared_ffn or 0, ffn or 1),
        "scaled_head": design.head_scale != 1 and math.isclose(design.head_scale, tree.width**-0.5),
        "scaled_embedding": design.embedding_scale != 1 and math.isclose(design.embedding_scale, math.sqrt(tree.width)),
    }
    return kept, given


def _pad_vocabulary(design: Design, multiple: int | None) -> Design:
    """The design with its vocabulary rounded up to a multiple."""
    if multiple is None:
        return design
    check_whole("plan", largest=2**20, vocab_multiple=multiple)
    if design.patch is not None:
        raise InputError("plan: vocab_multiple has no meaning for images")
    return replace(design, vocab=-(-design.vocab // multiple) * multiple)


def _width_of(template: Template, inner: int) -> int:
    """The smallest width whose heads have a multiple of `inner` dimensions together."""
    scaled = inner * template.attention_ratio.denominator
    return scaled // math.gcd(scaled, template.attention_ratio.numerator)


def _odd_part(number: int) -> int:
    return number // (number & -number)


_ENCODER_SHAPE = (
    "width", "heads", "kv_heads", "head_dim", "value_dim", "ffn", "shared_ffn", "blocks", "embedding_width",
    "embedding_scale",
)  # fmt: skip
"""The choices of an encoder that are its shape."""


def _blocks(template: Template, depth: int, width: int, ffn: int) -> tuple[Mapping[str, Any], ...] | None:
    """The choices of single blocks at a depth, a width and a feed-forward width; None if blocks do not differ."""
    if not template.blocks:
        return None
    beyond = (template.blocks[layer % len(template.blocks)] for layer in range(depth))
    return tuple(_absolute(block, width, ffn) for block in (*template.first_blocks, *beyond))[:depth]


def _without_shape(encoder: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The choices of an encoder that remain if it has its decoder's shape."""
    kept = {name: value for name, value in (encoder or {}).items() if name not in _ENCODER_SHAPE}
    return {**kept, "window": _period(kept["window"])} if "window" in kept else kept or None


_WIDTHS = ("ffn", "shared_ffn")
"""Choices of a block that grow with the model's width."""


def _relative(block: Mapping[str, Any], ffn: int) -> dict[str, Any]:
    """The choices of a block, with feed-forward widths as fractions of `ffn`."""
    return {name: Fraction(value, ffn) if name in _WIDTHS and value else value for name, value in block.items()}


def _absolute(block: Mapping[str, Any], width: int, ffn: int) -> dict[str, Any]:
    """The inverse of :func:`_relative`, with mixers for a stream of this width."""
    mixer = {"mixer": _mixer_at_width(block["mixer"], width)} if "mixer" in block else {}
    sizes = {name: max(1, round(value * ffn)) if name in _WIDTHS and value else value for name, value in block.items()}
    return sizes | mixer


def _mixer_at_width(part: Any, width: int) -> Any:
    """A mixer for a stream of this width; a word, or None, as it is."""
    return part if part is None or isinstance(part, str) else part.at_width(width)


def _own_ffn(design: Design, tree: Transformer) -> int:
    """The feed-forward width that those of single blocks are relative to: the design's, or the first; 0 if there is none."""
    if design.ffn is None:
        return 4 * tree.width
    return design.ffn or next((own["ffn"] for own in design.blocks or () if own.get("ffn")), 0)


def _pattern(blocks: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The first blocks, and one period of the blocks that follow them and repeat at least once."""
    for first in range(len(blocks)):
        rest = blocks[first:]
        for length in range(1, len(rest) // 2 + 1):
            if all(entry == rest[i % length] for i, entry in enumerate(rest)):
                return tuple(blocks[:first]), tuple(rest[:length])
    return (), tuple(blocks)


def _windows_at_depth(window: int | Sequence[int | None] | None, depth: int) -> int | tuple[int | None, ...] | None:
    """The window of each block at a depth, or that of all."""
    return tuple(window[i % len(window)] for i in range(depth)) if isinstance(window, Sequence) else window


def _period(window: int | Sequence[int | None] | None) -> int | tuple[int | None, ...] | None:
    if not isinstance(window, Sequence):
        return window
    entries = tuple(window)
    for length in range(1, len(entries) + 1):
        if all(entry == entries[i % length] for i, entry in enumerate(entries)):
            return entries[:length] if length > 1 else entries[0]
    return entries


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}
