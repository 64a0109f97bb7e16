"""Alternating updates (AltUp): blocks that keep K streams, read one of them and update all; and along the sequence.

Baykal et al. 2023, arXiv 2301.13310: section 3 with Algorithm 1, 4.1, 4.2 with Algorithm 2, all recalled. Costs are formulas of
:mod:`depthwidth.formulas.altup`, moments are derived in docs/derivations/altup.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..checks import check_choice, check_whole
from ..errors import InputError
from ..formulas.altup import predict_flops
from ..numerics.altup import SELECTIONS, active_stream, mixing
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Scales, Signal, Site, Trace
from ..signal.streams import StreamSignal
from .base import Child, Run, component
from .block import BlockLike, check_block
from .streams import MOST_STREAMS, Streams
from .tensor import IDENTITY, ONES, ZEROS, Tensor


@component
class PartStreams(Streams):
    """Streams that are the equal parts of a wider input, joined side by side at the end."""

    keeps_degree = True

    def outer_width(self, width: int) -> int:
        return self.count * width

    def choices(self) -> dict[str, Any]:
        return {"altup_form": "full"}

    def open(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        part = x
        if x.spread is not None:  # a K-th of the features vary K times as much, but in one text
            *drawn, covariances = x.spread
            covariances = self.count * (covariances - x.text_variance) + x.text_variance
            part = x.spread_as(type(x.spread)(*(self.count * one for one in drawn), covariances))
        return StreamSignal.apart(part, self.count), lambda g: g.joined

    def close(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        y, one = x.joined, x.stream(0)

        def pull(g: AnySignal) -> StreamSignal:
            if g.leaning is not None:
                # A gradient falls with the size of all streams together, of which one stream's is a part.
                share = y.spread.second_moment / one.spread.second_moment
                g = g.leaning_as(g.leaning.times(share if isinstance(share, float) else float(share.mean())))
            return StreamSignal.apart(g, self.count)

        return y, pull


@component
class SummedStreams(Streams):
    """Equal copies, and their sum at the end."""

    keeps_degree = True

    def choices(self) -> dict[str, Any]:
        return {"altup_form": "recycled"}

    def open(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        ones = [1.0] * self.count
        return StreamSignal.alike(x, self.count), lambda g: g.combined(ones)

    def close(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        total, count = x.combined([1.0] * self.count), self.count
        if x.stream(0).spread is not None:
            total = StreamSignal(((total,),)).with_spread_of(x.stream(0)).stream(0)
        return total, lambda g: StreamSignal.alike(g, count)


class AroundBlock(BlockLike):
    """A block that works by another one, its `layer`, and has that one's width, norms and inputs."""

    layer: BlockLike

    @property
    def width(self) -> int:
        """Features of one residual stream."""
        return self.layer.width

    @property
    def inputs_width(self) -> int | None:
        return self.layer.inputs_width

    @property
    def parallel(self) -> bool:  # type: ignore[override]
        return self.layer.parallel

    def without_shared_norm(self) -> BlockLike:
        return self.replace(layer=self.layer.without_shared_norm())  # type: ignore[no-any-return]

    def children(self) -> tuple[Child, ...]:
        return (Child("layer", self.layer),)


@component
class AltUp(AroundBlock):
    """``x_i' = xhat_i + g_i (layer(x_j) - xhat_j)`` with ``xhat = P x``: one block's work on K streams.

    Parameters
    ----------
    layer : the block that reads the active stream, of `width` features.
    k : streams, at least 2. The stack's input and output have k times the features of a stream, split and joined.
    select : the active stream: ``alternating`` (block l has l mod k) or ``same`` (always the first, the paper's SameUp).

    Raises
    ------
    InputError
        if `k` is no whole number from 2, there is no such selection, or `layer` keeps streams of its own.

    Notes
    -----
    P starts as the identity and g at ones. The paper's start is not known; this one leaves the streams unmixed, and equal
    streams equal, so that :class:`RecycledAltUp` starts as the model without it.

    Examples
    --------
    >>> from depthwidth import Transformer
    >>> block = Transformer(depth=1, width=64, heads=4).first_block
    >>> AltUp(block, 2).parameters - block.parameters
    6
    """

    layer: BlockLike
    k: int = 2
    select: str = "alternating"

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_block(name, self.layer)
        check_whole(name, smallest=2, largest=MOST_STREAMS, k=self.k)
        check_choice(name, SELECTIONS, select=self.select)
        if self.layer.streams > 1:
            raise InputError(f"{name}: its layer already keeps {self.layer.streams} streams")

    @property
    def streams(self) -> int:  # type: ignore[override]
        return self.k

    @property
    def own_streams(self) -> Streams:
        return PartStreams(self.k)

    @property
    def separates_equal_tokens(self) -> bool:
        return self.layer.separates_equal_tokens

    def tensors(self) -> dict[str, Tensor]:
        return {
            "predict": Tensor((self.k, self.k), "mixing", self.k, self.k, start=IDENTITY),
            "correct": Tensor((self.k,), "vector", start=ONES),
        }

    def choices(self) -> dict[str, Any]:
        return {"altup": self.k, "altup_select": self.select}

    def own_flops(self, run: Run) -> int:
        return run.positions * predict_flops.body(self.width, self.k)  # type: ignore[no-any-return]

    def own_saved(self, run: Run) -> int:
        # The prediction keeps all streams, of which the layer counts the active one; the correction keeps the innovation.
        return run.positions * self.k * self.width * run.value_bytes

    def coefficients(self, recipe: Scales, role: str, index: int) -> tuple[list[list[float]], list[float]]:
        """P and g in block `index` of a stack whose blocks have this role, multipliers included.

        Raises
        ------
        InputError
            if they are drawn at random: the moments are known for fixed ones.
        """
        k, found = self.k, []
        for name in ("predict", "correct"):
            line = recipe.tensor(f"{role}.{name}")
            if _value_of_block(line.std, index):
                raise InputError(f"{role}.{name}: the moments of AltUp are known for fixed values, not for drawn ones")
            found.append((line.mean, _value_of_block(line.multiplier, index)))
        (start, scale), (correct, factor) = found
        matrix = [[scale * (float(i == j) if start == "identity" else float(start)) for j in range(k)] for i in range(k)]
        return matrix, [factor * float(correct)] * k

    def mixing(self, recipe: Scales, role: str, index: int) -> list[list[float]]:
        """R of :func:`depthwidth.numerics.altup.mixing` in this block.

        Raises
        ------
        InputError
            if P and g are drawn at random, or the layer has norms after the sum.
        """
        active = active_stream(index, self.k, self.select)
        skip = skip_of(self.layer, recipe, f"{role}.layer", index, type(self).__name__)
        return mixing(*self.coefficients(recipe, role, index), active, skip)

    def degree(self, x: Powers, at: Place) -> Powers:
        return _correct_powers(self.layer, x, at.apply("product", x, at.weight("predict")), at)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        if not isinstance(x, StreamSignal):
            return self._of_equal_copies(x, site)
        inner = site.at("layer")
        place = site.trace.recipe, site.role, _index(site)
        skip = skip_of(self.layer, site.trace.recipe, inner.role, _index(site), type(self).__name__)
        active = active_stream(_index(site), self.k, self.select)
        _, correction = self.coefficients(*place)
        mixed = self.mixing(*place)
        z = x.stream(active)
        y, pull_layer = self.layer.moments(z, inner)
        added = y.plus(z.times(-(skip**2)))
        result = x.mixed(mixed).plus(correction, added.of(added.second_moment, added.covariance))
        result = result.with_spread_between(z, y, correction)
        site.record(result)

        def pull(g: StreamSignal) -> StreamSignal:
            reaching = g.combined(correction)
            back = pull_layer(reaching)
            change = back.plus(reaching.times(-(skip**2)))
            unit = [float(i == active) for i in range(self.k)]
            return g.mixed([list(column) for column in zip(*mixed, strict=True)]).plus(unit, change)

        return result, site.record_gradient(pull)

    def _of_equal_copies(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Of copies whose mean is read, which stay equal from an identity and ones: they are the stream of the layer alone."""
        identity = [[float(i == j) for j in range(self.k)] for i in range(self.k)]
        if self.coefficients(site.trace.recipe, site.role, _index(site)) != (identity, [1.0] * self.k):
            raise InputError(f"{site.role}: moments of copies that do not stay equal need streams that are split or summed")
        y, pull = self.layer.moments(x, site.at("layer"))
        return site.record(y), site.record_gradient(pull)


@component
class RecycledAltUp(AltUp):
    """AltUp whose streams start as copies of the stack's input, and are summed at the end (section 4.1).

    Embedding, last norm and head keep the width of one stream: P and g are all that it adds.
    """

    @property
    def own_streams(self) -> Streams:
        return SummedStreams(self.k)


def _correct_powers(layer: BlockLike, x: Powers, predicted: Powers, at: Place) -> Powers:
    """The powers of predictions after the correction by the layer's innovation."""
    y = at.at("layer").through(layer, x)
    innovation = at.apply("sum", predicted, y, reason="a prediction has another degree than what the layer computes")
    correction = at.apply("product", innovation, at.weight("correct"))
    return at.apply("sum", predicted, correction, reason="a correction has another degree than its prediction")


def skip_of(block: BlockLike, recipe: Scales, role: str, index: int, owner: str) -> float:
    """The factor of a block's own skip paths, from its input to its output.

    Raises
    ------
    InputError
        if it has norms after the sum, or acts on the stream otherwise than by branches.
    """
    if not block.plain or any(part.norm_stream is not None for _, part in block.branches):
        raise InputError(f"{role}: the moments of {owner} around blocks with norms after the sum are not known")
    parts = block.branches[:1] if block.parallel else block.branches
    return math.prod(_value_of_block(recipe.residual(f"{role}.{name}").skip, index) for name, _ in parts)


def _value_of_block(value: Any, index: int) -> float:
    """A number of one block, given one for every block alike or one for each."""
    return float(value[index] if isinstance(value, tuple) else value)


def _index(site: Site) -> int:
    """The number of the block at work: these blocks are followed one by one."""
    layer = site.trace.layer
    return layer if isinstance(layer, int) else 0


class StridedSignal(Signal):
    """Moments of tokens in runs that share a base, averaged over all pairs, and those of the bases.

    Of a gradient, `bases` are the moments of its sums over runs.
    """

    bases: Signal

    @classmethod
    def around(cls, mean: Signal, bases: Signal) -> StridedSignal:
        """The averages, with the signal of the bases attached."""
        made = cls(*mean)
        made.bases = bases
        return made


@component
class SequenceAltUp(AroundBlock):
    """``y_i = yhat_i + b (layer(x)_base(i) - yhat_base(i))``, ``yhat_i = a_1 x_i + a_2 x_base(i)``: a block on each k-th token.

    The base of token i is token k floor(i / k); the layer sees bases alone, at consecutive positions.

    Parameters
    ----------
    layer : the block.
    stride : k, at least 2.

    Raises
    ------
    InputError
        if `stride` is no whole number from 2, or `layer` keeps several streams.

    Notes
    -----
    The start is a_1 = 1, a_2 = 0, b = 1: each token receives what the layer adds to its base.
    """

    layer: BlockLike
    stride: int

    def __post_init__(self) -> None:
        check_block("SequenceAltUp", self.layer)
        check_whole("SequenceAltUp", smallest=2, stride=self.stride)
        if self.layer.streams > 1:
            raise InputError(f"SequenceAltUp: its layer keeps {self.layer.streams} streams; it works on one")

    def tensors(self) -> dict[str, Tensor]:
        return {
            "own": Tensor((1,), "vector", start=ONES),
            "base": Tensor((1,), "vector", start=ZEROS),
            "correct": Tensor((1,), "vector", start=ONES),
        }

    def choices(self) -> dict[str, Any]:
        return {"sequence_stride": self.stride}

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=-(-run.tokens // self.stride))

    def own_saved(self, run: Run) -> int:
        # The prediction keeps all tokens, of which the layer counts the bases; the correction keeps the bases' innovations.
        return run.positions * self.width * run.value_bytes

    def degree(self, x: Powers, at: Place) -> Powers:
        own, base = (at.apply("product", x, at.weight(name)) for name in ("own", "base"))
        predicted = at.apply("sum", own, base, reason="a token's own part has another degree than its base's")
        return _correct_powers(self.layer, x, predicted, at)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        if not isinstance(x, Signal):
            raise InputError(
                f"{site.role}: the moments of SequenceAltUp are known without a causal mask, for exchangeable tokens"
            )
        inner, trace = site.at("layer"), site.trace
        self._check_start(site)
        if skip_of(self.layer, trace.recipe, inner.role, _index(site), "SequenceAltUp") != 1:
            raise InputError(f"{site.role}: the moments of SequenceAltUp are known for skip paths without a factor")
        length, k = trace.length, self.stride
        count = -(-length // k)
        # Of ordered pairs of different tokens, the share that has one base, and the share of pairs of bases.
        pairs = max(1, length * (length - 1))
        last = length - (count - 1) * k
        share, of_bases = ((count - 1) * k * (k - 1) + last * (last - 1)) / pairs, count * (count - 1) / pairs
        bases = x.bases if isinstance(x, StridedSignal) else x
        with _shorten_sequences(trace, count):
            y, pull_layer = self.layer.moments(bases, inner)
        added = Signal(y.second_moment - bases.second_moment, y.covariance - bases.covariance)
        covariance = x.covariance + share * added.second_moment + (1 - share) * added.covariance
        mean = Signal(x.second_moment + added.second_moment, covariance, y.spread)
        result = StridedSignal.around(mean, y)
        site.record(result)

        def pull(g: Signal) -> Signal:
            sums = g.bases if isinstance(g, StridedSignal) else _sums(g, k)
            with _shorten_sequences(trace, count):
                back = pull_layer(sums)
            change = back.plus(sums.times(-1.0))
            # Only bases receive what comes through the layer.
            second = g.second_moment + change.second_moment * count / length
            found = Signal(second, g.covariance + change.covariance * of_bases)
            return StridedSignal.around(found, back)

        return result, site.record_gradient(pull)

    def _check_start(self, site: Site) -> None:
        of = site.trace.recipe.tensor
        for name, value in (("own", 1.0), ("base", 0.0), ("correct", 1.0)):
            line = of(f"{site.role}.{name}")
            if (line.mean, site.at_layer(line.std), site.at_layer(line.multiplier)) != (value, 0.0, 1.0):
                raise InputError(f"{site.role}: the moments of SequenceAltUp are known for its own start, {name}={value:g}")


def _sums(g: Signal, k: int) -> Signal:
    """The moments of the sums of a gradient over runs of k tokens."""
    return Signal(k * g.second_moment + k * (k - 1) * g.covariance, k * k * g.covariance)


@contextmanager
def _shorten_sequences(trace: Trace, length: int) -> Iterator[None]:
    """The trace with sequences of this length."""
    before, trace.length = trace.length, length
    try:
        yield
    finally:
        trace.length = before
