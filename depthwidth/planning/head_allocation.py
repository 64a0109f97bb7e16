"""Allocation of heads and head dimensions: per layer by a criterion, or over all layers by an exact optimum.

The input is a :class:`LayerNeed` for each layer: the rank that its queries and keys must have, the criterion, and the error at
every smaller rank. For a new design the needs are assumed (:func:`design_needs`), for an existing model they are measured
(``verify.measure.heads``); the allocation is the same.

Yu et al. 2025 (arXiv 2510.03784) let early layers trade heads against their dimension under one budget and let later ones
shrink the dimension alone; that structure is confirmed. They do not define where the early layers end, so each layer is judged
by itself here; thresholds and error curves are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..checks import ceiling, check_whole
from ..errors import InputError, shown
from ..formulas import heads as laws
from ..layers.attention import Attention
from ..layers.base import Run
from ..quantities import plain_number
from . import policy

if TYPE_CHECKING:
    from ..architecture import Transformer

KINDS = ("retrieval", "diffuse", "positional")
RECONSTRUCTION = (
    "thresholds and error curves are our reconstruction; of Yu et al. 2025 (arXiv 2510.03784) only the structure is confirmed"
)
UNCHANGED = "unchanged"
"""The criterion of value dimensions if a need sets none."""

SHARE = 2.0
"""Default dimensions of a retrieval layer in units of 2 ln n. Ours: with twice the critical dimension the predicted error is
below 0.01 from 1,024 tokens on."""
DIFFUSE_ERROR = 0.05
"""Default relative error of a diffuse layer. Ours: a round number."""
NEGLIGIBLE_SHARE = 3.5
"""Retrieval errors are computed up to this share, 7 ln n dimensions (error 5e-6 at 1,024 tokens), and are constant beyond."""
MULTIPLE = 8
"""Default step of head dimensions, as tensor cores need."""

_EQUAL = 1e-12
"""Errors that differ by less are equal."""
_MOST_STATES = 2_000_000
"""Sums of costs that the exact optimum keeps at one layer, 32 bytes each."""
_MOST_PAIRS = 50 * _MOST_STATES
"""Pairs of such a sum and an option that it compares in one layer, 16 bytes each."""


@dataclass(frozen=True)
class LayerNeed:
    """The requirements of one layer's heads."""

    kind: str
    """The task of the layer's heads: retrieval, diffuse or positional; of a mixture, the most demanding kind."""
    rank: int
    """Dimensions of queries and keys that meet the criterion, before rounding."""
    criterion: str
    """The criterion that set the rank, in words."""
    error: Callable[[int], float] = field(repr=False, compare=False)
    """Predicted relative error of a head by its number of dimensions, 0 to 1."""
    floor: int = 1
    """Dimensions below which the layer fails at its task."""
    value_rank: int | None = None
    """Dimensions of a value that meet the values' criterion, before rounding; None if values stay unchanged."""
    value_criterion: str = ""
    """The criterion that set the value rank, in words."""
    value_error: Callable[[int], float] | None = field(default=None, repr=False, compare=False)
    """Predicted relative error of the layer's output by the number of value dimensions, 0 to 1."""

    def error_of(self, head_dim: int, value_dim: int) -> float:
        """Both errors together, combined as independent losses are."""
        lost = 0.0 if self.value_error is None else self.value_error(value_dim)
        return lost + (1 - lost) * self.error(head_dim)


@dataclass(frozen=True)
class LayerHeads:
    """The heads of one layer."""

    layer: int
    kind: str
    heads: int
    kv_heads: int
    head_dim: int
    """Dimensions of a query and a key."""
    value_dim: int
    criterion: str
    """The reason for `head_dim`."""
    value_criterion: str
    """The reason for `value_dim`."""
    error: float
    """Predicted relative error of the layer, 0 to 1, from dimensions, values and missing heads together."""
    value_error: float
    """The part of it from values: relative to the layer's output, 0 if values stay unchanged."""
    parameters: int
    """Of the layer's attention."""
    parameters_saved: int
    flops_saved: int | float
    """Of the forward pass, per token at full context; scores hidden by the mask are counted."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))


@dataclass(frozen=True)
class Allocation:
    """Heads and head dimensions of every layer."""

    width: int
    context: int
    layers: tuple[LayerHeads, ...]
    budget: int | None
    """Attention parameters allowed for all layers together, if given."""
    notes: tuple[str, ...] = ()
    measured: Any = field(default=None, repr=False, compare=False)
    """The measurement it rests on, a ``verify.measure.heads.HeadsReport``; None for a design."""

    @property
    def parameters(self) -> int:
        """Parameters of all attention layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def parameters_saved(self) -> int:
        """Reduction of the parameters; negative if layers grew."""
        return sum(layer.parameters_saved for layer in self.layers)

    @property
    def flops_saved(self) -> int | float:
        """Forward FLOPs saved per token at full context."""
        return sum(layer.flops_saved for layer in self.layers)

    @property
    def key_dim(self) -> int:
        """The budget variable D of Yu et al. 2025 over all layers: the sum of heads times head dimensions."""
        return sum(layer.heads * layer.head_dim for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``depthwidth heads --json`` prints it."""
        return {
            "width": self.width,
            "context": self.context,
            "budget": self.budget,
            "total_key_dim": self.key_dim,
            "parameters": self.parameters,
            "parameters_saved": self.parameters_saved,
            "flops_saved_per_token": self.flops_saved,
            "mean_error": math.fsum(layer.error for layer in self.layers) / len(self.layers),
            "layers": self.rows(),
            "notes": list(self.notes),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer."""
        return [layer.to_dict() for layer in self.layers]

    def runs(self) -> list[tuple[LayerHeads, LayerHeads]]:
        """The first and the last layer of each run of consecutive layers with equal heads."""
        alike = [list(same) for _, same in groupby(self.layers, key=lambda layer: replace(layer, layer=0))]
        return [(same[0], same[-1]) for same in alike]


# The needs of layers.


def retrieval_need(context: int, share: float = SHARE) -> LayerNeed:
    """The need of a layer that must find one token among `context`: 2 `share` ln n dimensions, at least 2 ln n.

    Raises
    ------
    InputError
        if `share` is below 1, at which no head can retrieve.

    Examples
    --------
    >>> need = retrieval_need(1024)
    >>> need.rank, need.floor, round(need.error(32), 3)
    (28, 14, 0.002)
    """
    from ..numerics.retrieval import best_retrieval

    if not share >= 1:
        raise InputError(f"share={share} is below 1: no head retrieves a token with fewer than 2 ln n dimensions")
    rank = math.ceil(laws.comfortable_head_dim(context, share))
    floor = math.ceil(laws.critical_head_dim(context))
    # Integrals beyond it are of no interest and would take most of the time.
    most = math.ceil(laws.comfortable_head_dim(context, NEGLIGIBLE_SHARE))
    return LayerNeed(
        "retrieval", rank, f"retrieval: {2 * share:g} ln n", lambda d: best_retrieval(context, min(d, most)).error, floor
    )


def diffuse_need(
    spectrum: Sequence[float], tolerance: float = DIFFUSE_ERROR, gains: Sequence[float] | None = None
) -> LayerNeed:
    """The need of a layer of diffuse heads with this spectrum: the rank at which both error laws are within `tolerance`.

    One law is for values independent of the keys, (F(R) - F(r))/F(R), if it exists; the other is for values that the keys
    predict, the share of s_m^2 times gain beyond the rank. The larger of the two errors counts.

    Raises
    ------
    InputError
        if `tolerance` is not between 0 and 1.

    Examples
    --------
    >>> need = diffuse_need(laws.power_spectrum(32, 2.0, 0.5))
    >>> need.rank, need.criterion
    (9, 'diffuse: read-out within 5 %')
    """
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance={tolerance} is not between 0 and 1")
    readout = laws.readout_errors(spectrum, gains)
    whole = readout[0]
    readout = [e / whole if whole else 0.0 for e in readout]
    fluctuation = [0.0] * len(readout)
    if spectrum[0] < 0.5:
        grown = laws.weight_growth(spectrum)
        fluctuation = [1 - f / grown[-1] for f in grown]
    errors = [max(pair) for pair in zip(readout, fluctuation, strict=True)]
    limit = tolerance * (1 + 1e-12)
    by = {"read-out": laws.saturation_dim(readout, limit), "fluctuation": laws.saturation_dim(fluctuation, limit)}
    name = max(by, key=lambda which: by[which])
    return LayerNeed(
        "diffuse", max(1, by[name]), f"diffuse: {name} within {100 * tolerance:g} %", lambda d: errors[min(d, len(errors) - 1)]
    )


def positional_need(frequencies: int = 1) -> LayerNeed:
    """The need of a layer that attends by position alone: two dimensions for each of its frequencies."""
    check_whole("heads", frequencies=frequencies)
    rank = 2 * frequencies
    return LayerNeed("positional", rank, "positional: 2 per frequency", lambda d: max(0.0, 1 - d / rank))


def design_needs(
    layers: int,
    context: int,
    *,
    kinds: Mapping[int, str] | None = None,
    share: float = SHARE,
    tolerance: float = DIFFUSE_ERROR,
    rank: int = 128,
    exponent: float = 1.0,
    logit_variance: float = 1.0,
    frequencies: int = 1,
) -> list[LayerNeed]:
    """Needs of a design without measurements: every layer must be able to retrieve, except those in `kinds`.

    Parameters
    ----------
    layers : number of layers.
    context : n, tokens that a query can attend to. From 2.
    kinds : from a layer's number to "retrieval", "diffuse" or "positional".
    share : dimensions of a retrieval layer, in units of 2 ln n.
    tolerance : relative error allowed in a diffuse layer.
    rank, exponent, logit_variance : the assumed spectrum of diffuse layers: s_m^2 proportional to m^-exponent up to this rank,
        with this sum in nats^2.
    frequencies : number of frequencies of a positional layer.

    Raises
    ------
    InputError
        if a number is out of range or a kind is unknown.
    """
    check_whole("heads", largest=ceiling("layers"), layers=layers)
    check_whole("heads", 2, context=context)
    kinds = kinds or {}
    for layer, kind in kinds.items():
        if kind not in KINDS:
            raise InputError(f"heads: {shown(kind)} is not one of {', '.join(KINDS)}")
        if not 0 <= layer < layers:
            raise InputError(f"heads: there is no layer {layer}; layers are numbered 0 to {layers - 1}")
    if logit_variance < 0:
        raise InputError(f"heads: logit_variance={logit_variance} is negative")
    made = {"retrieval": retrieval_need(context, share)}
    if "diffuse" in kinds.values():
        made["diffuse"] = diffuse_need(laws.power_spectrum(rank, exponent, logit_variance), tolerance)
    if "positional" in kinds.values():
        made["positional"] = positional_need(frequencies)
    return [made[kinds.get(layer, "retrieval")] for layer in range(layers)]


def layer_ranges(text: str, layers: int) -> list[int]:
    """Parse layers written as ``3`` or ``20-31``, separated by commas.

    Raises
    ------
    InputError
        if a part is neither, or a layer does not exist.

    Examples
    --------
    >>> layer_ranges("0,4-6", 8)
    [0, 4, 5, 6]
    """
    found = set()
    for part in text[:_LONGEST_RANGES].split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and first.isascii() and (not dash or (last.isdecimal() and last.isascii()))):
            raise InputError(f"heads: {shown(part)} is not a layer like 3 or a range like 20-31")
        start, end = int(first[:9]), int((last or first)[:9])
        if not start <= end < layers:
            raise InputError(f"heads: there are no layers {part.strip()}; layers are numbered 0 to {layers - 1}")
        found |= set(range(start, end + 1))
    return sorted(found)


_LONGEST_RANGES = 10_000
"""Characters that are read; a longer text is a mistake."""


def present_shape(model: Any) -> dict[str, int | None]:
    """Width, layers, context and heads of a Hugging Face configuration, as arguments of :func:`allocate_heads`.

    Raises
    ------
    InputError
        if a block has no softmax attention.
    """
    from ..architecture import Transformer

    tree = Transformer.from_config(model)
    layer = tree.attention
    check_attention_alone(tree)
    if layer.factorised:
        raise InputError("heads: the keys and values of this model have one set of latent features for all heads, not one each")
    return {
        "width": tree.width, "layers": tree.depth, "context": tree.context, "heads": layer.heads, "head_dim": layer.head_dim,
        "kv_heads": layer.kv_heads, "value_dim": layer.value_dim, "bias": layer.bias,
    }  # fmt: skip


def check_attention_alone(tree: Transformer) -> None:
    """Refuse a model in which a block mixes tokens by something else than softmax attention, or keeps copies of the stream.

    Raises
    ------
    InputError
        which names the mixer.
    """
    if tree.stack.streams > 1:
        raise InputError(
            f"heads: the blocks of this model keep {tree.stack.streams} copies of the stream, and heads read only one of them"
        )
    for block in (repeat.block for repeat in tree.stack.repeats):
        if block.reads_memory and tree.encoder is None:
            raise InputError("heads: some blocks of this model attend to images, not to the text")
        mixers = [type(residual.branch).__name__ for name, residual in block.branches if name == "mixer"]
        if mixers or block.as_attention is None:
            inside = ", ".join(mixers or [type(residual.branch).__name__ for _, residual in block.branches])
            raise InputError(f"heads: some blocks of this model have no softmax attention or not that alone, but {inside}")
        if block.as_attention.routed:
            raise InputError(
                "heads: a query of tree attention sees only the keys of a leaf; no allocation of heads is known for it"
            )


# From needs to heads.


def allocate_heads(
    width: int,
    context: int,
    needs: Sequence[LayerNeed],
    *,
    heads: int | None = None,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    value_dim: int | None = None,
    multiple: int = MULTIPLE,
    tensor_parallel: int = 1,
    features: int | None = None,
    budget: int | None = None,
    bias: bool = False,
    notes: Sequence[str] = (),
) -> Allocation:
    """Allocate heads and head dimensions to every layer.

    Parameters
    ----------
    width : d.
    context : n, tokens that a query can attend to. From 2.
    needs : one for each layer.
    heads, head_dim, kv_heads, value_dim : the present design, relative to which savings are counted. By default heads of 128
        dimensions, 64 below width 1536, as many as fill the width, each with its own key and value of the same size. The number
        of key-value heads stays; value dimensions stay too unless a need gives their error, and never grow.
    multiple : step of head dimensions, and of value dimensions that change.
    tensor_parallel : number of devices among which heads divide.
    features : M, distinct positions or features that each layer must deliver: it gets at least as many heads.
    budget : attention parameters allowed for all layers together. The allocation then has the least sum of errors over layers
        of all choices of multiples for queries, keys and values (and, with `features`, of head counts), by dynamic programming.
    bias : True if query, key, value and output maps have biases.
    notes : further notes on the result.

    Returns
    -------
    :class:`Allocation`. Without a budget each layer meets its own criterion.

    Raises
    ------
    InputError
        if dimensions do not fit together, or the budget is below the least possible number of parameters.

    Examples
    --------
    >>> made = allocate_heads(4096, 8192, design_needs(32, 8192))
    >>> first = made.layers[0]
    >>> first.heads, first.head_dim, first.criterion, round(first.error, 4)
    (32, 40, 'retrieval: 4 ln n', 0.0009)
    """
    present = _present(width, context, heads, head_dim, kv_heads, value_dim, bias)
    check_whole("heads", multiple=multiple, tensor_parallel=tensor_parallel)
    for name in ("heads", "kv_heads"):
        if getattr(present, name) % tensor_parallel:
            raise InputError(f"heads: {name}={getattr(present, name)} do not divide among {tensor_parallel} devices")
    if not needs:
        raise InputError("heads: there are no layers")
    step = math.lcm(present.kv_heads, tensor_parallel)
    choices = _Choices(present, multiple, step, features)
    if budget is None:
        chosen = [choices.for_need(need) for need in needs]
    else:
        check_whole("heads", budget=budget)
        chosen = _choose_within(budget, choices, needs)
    run = Run(tokens=context)
    before = present.parameters, present.flops(run)
    layers = tuple(
        LayerHeads(
            layer=index, kind=need.kind, heads=got.heads, kv_heads=got.kv_heads, head_dim=got.head_dim, value_dim=got.value_dim,
            criterion=why, value_criterion=values, error=choices.error(need, got), value_error=choices.value_error(need, got),
            parameters=got.parameters, parameters_saved=before[0] - got.parameters,
            flops_saved=plain_number(Fraction(before[1] - got.flops(run), context)),
        )
        for index, (need, (got, why, values)) in enumerate(zip(needs, chosen, strict=True))
    )  # fmt: skip
    return Allocation(width, context, layers, budget, (*notes, RECONSTRUCTION))


def _present(
    width: int,
    context: int,
    heads: int | None,
    head_dim: int | None,
    kv_heads: int | None,
    value_dim: int | None,
    bias: bool,
) -> Attention:
    """The present attention layer, every dimension checked."""
    check_whole("heads", width=width)
    check_whole("heads", 2, context=context)
    for name, value in (("heads", heads), ("head_dim", head_dim), ("kv_heads", kv_heads), ("value_dim", value_dim)):
        if value is not None:
            check_whole("heads", **{name: value})
    if heads is None:
        size = head_dim or policy.usual_head_dim(width)
        heads = max(1, width // size)
        if kv_heads is not None:
            heads = max(kv_heads, heads // kv_heads * kv_heads)
        if head_dim is None and width > size and width % size:
            raise InputError(f"heads: width={width} is not a multiple of {size}; give heads or head_dim")
    if head_dim is None:
        if width % heads:
            raise InputError(f"heads: heads={heads} does not divide width={width}; give head_dim or other heads")
        head_dim = width // heads
    kv_heads = heads if kv_heads is None else kv_heads
    if heads % kv_heads:
        raise InputError(f"heads: kv_heads={kv_heads} does not divide heads={heads}")
    return Attention(width, heads, kv_heads, head_dim, head_dim if value_dim is None else value_dim, bias=bias, out_bias=bias)


Choice = tuple[Attention, str, str]
"""A layer, and the reasons for its head dimension and its value dimension."""


class _Choices:
    """The possible heads of a layer, and the best of them without a budget."""

    def __init__(self, present: Attention, multiple: int, step: int, features: int | None) -> None:
        if features is not None:
            check_whole("heads", features=features)
        self.present, self.multiple, self.step, self.features = present, multiple, step, features
        self.heads = present.heads if features is None else max(present.heads, step * math.ceil(features / step))

    def rounded(self, dims: int) -> int:
        return self.multiple * math.ceil(dims / self.multiple)

    def error(self, need: LayerNeed, layer: Attention) -> float:
        """The error of a layer: missing heads deliver nothing, the others have the error of their dimensions."""
        missing = 0.0 if self.features is None else max(0.0, 1 - layer.heads / self.features)
        return missing + (1 - missing) * need.error_of(layer.head_dim, layer.value_dim)

    @staticmethod
    def value_error(need: LayerNeed, layer: Attention) -> float:
        return 0.0 if need.value_error is None else need.value_error(layer.value_dim)

    def for_need(self, need: LayerNeed) -> Choice:
        dims = self.rounded(max(need.rank, need.floor))
        why = need.criterion if need.rank >= need.floor else "retrieval: floor of 2 ln n"
        if self.heads > self.present.heads:
            why = f"head count: {self.features} features; {why}"
        values, value_why = self.present.value_dim, UNCHANGED
        if need.value_rank is not None:
            values, value_why = min(values, self.rounded(need.value_rank)), need.value_criterion
        return self.present.replace(heads=self.heads, head_dim=dims, value_dim=values), why, value_why

    def options(self, need: LayerNeed) -> list[Attention]:
        """Every choice that may be part of an optimum: none is larger than the layer can use."""
        widest = self.rounded(max(need.rank, need.floor, self.present.head_dim))
        counts = [self.present.heads] if self.features is None else range(self.step, self.heads + 1, self.step)
        whole = self.present.value_dim
        values = [whole] if need.value_error is None else [*range(self.multiple, whole, self.multiple), whole]
        return [
            self.present.replace(heads=count, head_dim=dims, value_dim=size)
            for count in counts
            for dims in range(self.multiple, widest + 1, self.multiple)
            for size in values
        ]


def _choose_within(budget: int, choices: _Choices, needs: Sequence[LayerNeed]) -> list[Choice]:
    """The choices of least total error within a budget, with reasons."""
    table = {id(need): choices.options(need) for need in needs}
    costs = {key: [layer.parameters for layer in options] for key, options in table.items()}
    errors = {id(need): [choices.error(need, layer) for layer in table[id(need)]] for need in needs}
    picked = least_error([costs[id(n)] for n in needs], [errors[id(n)] for n in needs], budget)
    if picked is None:
        least = sum(min(costs[id(n)]) for n in needs)
        raise InputError(f"heads: the budget of {budget:,} attention parameters is below the least possible, {least:,}")
    result = []
    for need, option in zip(needs, picked, strict=True):
        layer = table[id(need)][option]
        alone, why, values = choices.for_need(need)
        if (layer.heads, layer.head_dim) != (alone.heads, alone.head_dim):
            why = f"budget; without it {alone.heads} x {alone.head_dim} by {why}"
            if layer.head_dim < need.floor:
                why = f"budget, below the floor of {need.floor}; {why.partition('; ')[2]}"
        if layer.value_dim != alone.value_dim:
            values = f"budget; without it {alone.value_dim} by {values}"
        result.append((layer, why, values))
    return result


# The exact optimum.


def least_error(costs: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: int) -> list[int] | None:
    """The option of each item with the least sum of errors whose costs sum to at most `budget`.

    Exact: item by item, all sums of costs are kept that no cheaper sum with at most the same error beats.

    Parameters
    ----------
    costs : the cost of each option of each item, whole numbers.
    errors : the error of each option, in the same shape.
    budget : the largest sum of costs allowed.

    Returns
    -------
    An option's index for each item, the cheapest if several are best to 1e-12; None if nothing fits.

    Raises
    ------
    InputError
        if there are too many different sums of costs to keep.

    Examples
    --------
    >>> least_error([[1, 2, 3], [1, 2, 3]], [[9, 4, 1], [5, 3, 2]], 4)
    [2, 0]
    """
    import numpy as np

    rest = [0]
    for options in reversed(costs):
        rest.append(rest[-1] + min(options))
    rest.reverse()
    if rest[0] > budget:
        return None
    cost, error = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps = []
    for index, (all_costs, all_errors) in enumerate(zip(costs, errors, strict=True)):
        options = _unbeaten(all_costs, all_errors)
        own_costs, own_errors = ([each[i] for i in options] for each in (all_costs, all_errors))
        if cost.size * len(options) > _MOST_PAIRS:
            raise InputError("heads: this budget has too many different sums for an exact optimum; use a larger multiple")
        total = (cost[:, None] + np.asarray(own_costs, dtype=np.int64)).ravel()
        sums = (error[:, None] + np.asarray(own_errors, dtype=float)).ravel()
        places = np.flatnonzero(total <= budget - rest[index + 1])
        places = places[np.lexsort((sums[places], total[places]))]
        best = np.minimum.accumulate(sums[places])
        better = np.ones(places.size, dtype=bool)
        better[1:] = sums[places][1:] < best[:-1] - _EQUAL
        places = places[better]
        if places.size > _MOST_STATES:
            raise InputError("heads: this budget has too many different sums for an exact optimum; use a larger multiple")
        before, chosen = np.divmod(places, len(options))
        steps.append((before, np.asarray(options)[chosen]))
        cost, error = total[places], sums[places]
    state, picked = int(np.argmin(error)), []
    for before, option in reversed(steps):
        picked.append(int(option[state]))
        state = int(before[state])
    return picked[::-1]


def _unbeaten(costs: Sequence[int], errors: Sequence[float]) -> list[int]:
    """Options with less error than every cheaper one, cheapest first: no other is part of an optimum."""
    kept: list[int] = []
    for option in sorted(range(len(costs)), key=lambda i: (costs[i], errors[i])):
        if not kept or errors[option] < errors[kept[-1]]:
            kept.append(option)
    return kept


def split_groups(curves: Sequence[Callable[[int, int], float]], budget: int) -> tuple[list[tuple[int, int]], float]:
    """Split one budget of key dimensions among groups of heads, by your own error curves.

    Parameters
    ----------
    curves : the error of each group as a function of its number of heads H and their dimension d, both whole.
    budget : D, the largest sum of H d over groups; at least one for each group.

    Returns
    -------
    (H, d) of each group with the least sum of errors, and that sum.

    Raises
    ------
    InputError
        if the budget is too small, or above 4096, at which listing every pair takes too long.

    Examples
    --------
    >>> pairs, error = split_groups([lambda h, d: h**-2 + 1 / d, lambda h, d: 4 * h**-2 + 1 / d], 24)
    >>> pairs, round(error, 6)
    ([(3, 3), (5, 3)], 0.937778)
    """
    if not curves:
        raise InputError("heads: there are no groups to split the budget among")
    check_whole("heads", len(curves), 4096, budget=budget)
    pairs = [(h, d) for h in range(1, budget + 1) for d in range(1, budget // h + 1)]
    costs = [[h * d for h, d in pairs]] * len(curves)
    errors = [[curve(h, d) for h, d in pairs] for curve in curves]
    picked = least_error(costs, errors, budget)
    assert picked is not None  # noqa: S101  (one head of one dimension each fits)
    total = math.fsum(own[i] for own, i in zip(errors, picked, strict=True))
    return [pairs[i] for i in picked], total
