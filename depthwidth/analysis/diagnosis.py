"""What will vanish, explode, collapse in rank or saturate at initialisation, and what would mend it.

>>> from depthwidth import Transformer
>>> deep = Transformer(depth=96, width=256, heads=4, vocab=1000, context=64, kind="encoder", placement="post")
>>> worst = [finding for finding in diagnose(deep, "xavier") if finding.severity == "problem"]
>>> [(finding.name, finding.remedy, finding.severity_after) for finding in worst]
[('correlation_at_top', 'scheme deepscale', 'fine')]

Each finding holds one number of :func:`~depthwidth.analysis.propagation.propagate` against a threshold that says where it
comes from, and names the remedy together with the number that the remedied network has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any, NamedTuple, Unpack

from ..architecture import Transformer
from ..architecture.number_formats import NumberFormat, formats_of, number_format
from ..checks import check_whole
from ..errors import InputError
from ..formulas.attention import score_variance
from ..formulas.depth import feed_forward_matrix_moment, feed_forward_matrix_spread
from ..formulas.moments import post_norm_log_drift, post_norm_log_variance
from ..formulas.saturation import LARGEST_VARIANCE, condensation_point, condensed_length
from ..initialization import Recipe, at_block, recipe, stacks
from ..layers import Attention, FeedForward, LanguageHead, MixtureOfExperts, Residual
from .propagation import PropagationOptions, moments_of

SEVERITIES = ("fine", "watch", "problem")

_OURS = "ours"
_TRAINABLE = "Schoenholz et al. 2017, arXiv 1611.01232: trained to about 6 e-foldings (recalled)"


class Thresholds(NamedTuple):
    """The thresholds of one kind of finding; a value beyond `threshold` is to be watched, one beyond `limit` is a problem."""

    threshold: float
    limit: float
    source: str
    """Where both come from; ``ours`` where nobody else has them."""
    at_most: bool = True
    """Whether the value should stay below them; otherwise above."""

    def severity(self, value: float) -> str:
        """One of :data:`SEVERITIES`."""
        beyond = [value > bound if self.at_most else value < bound for bound in (self.threshold, self.limit)]
        return SEVERITIES[2 if beyond[1] else 1 if beyond[0] else 0]


@dataclass(frozen=True)
class Finding:
    """One number of a network at initialisation beside the threshold it is held against."""

    name: str
    """``gradient_ratio``, ``forward_growth``, ``correlation_at_top``, ``branch_share``, ``score_variance``,
    ``effective_tokens``, ``overflow_KIND``, ``underflow_KIND`` (bits of headroom), ``gradient_spread``, ``depth_to_width``."""
    site: str
    """Where in the network it is worst."""
    value: float
    rule: Thresholds
    sentence: str
    """What the number means here."""
    remedy: str | None = None
    """``scheme NAME`` for :func:`~depthwidth.initialization.recipe`, or what to multiply and by which number. None where
    nothing needs one, or none of those tried makes it better."""
    after: float | None = None
    """The same number of the remedied network, propagated anew."""

    @property
    def threshold(self) -> float:
        """The bound that the value is held against: the limit where it is beyond that, otherwise the first threshold."""
        return self.rule.limit if self.severity == "problem" else self.rule.threshold

    @property
    def source(self) -> str:
        """Where the threshold comes from."""
        return self.rule.source

    @property
    def severity(self) -> str:
        """``fine``, ``watch`` or ``problem``."""
        return self.rule.severity(self.value)

    @property
    def severity_after(self) -> str | None:
        """The severity of :attr:`after`; None without a remedy."""
        return None if self.after is None else self.rule.severity(self.after)

    @property
    def advice(self) -> str:
        """What it means, what mends it, and where the threshold comes from, as one line."""
        mended = "no remedy known here makes it better" if self.remedy is None else f"{self.remedy} makes it {self.after:.4g}"
        return f"{self.severity.capitalize()}: {self.sentence}; {mended}. Threshold: {self.source}."

    def to_dict(self) -> dict[str, Any]:
        """Plain data. ``direction`` says on which side of ``threshold`` the value should be."""
        return {
            "name": self.name,
            "site": self.site,
            "value": self.value,
            "threshold": self.threshold,
            "direction": "at most" if self.rule.at_most else "at least",
            "source": self.source,
            "severity": self.severity,
            "sentence": self.sentence,
            "remedy": self.remedy,
            "after": self.after,
            "severity_after": self.severity_after,
        }


def diagnose(
    tree: Transformer,
    init: str | Recipe = "shipped",
    dtype: str = "bf16",
    *,
    batch: int = 1,
    loss_scale: float = 1.0,
    remedies: Sequence[str | Recipe] = ("deepscale",),
    **given: Unpack[PropagationOptions],
) -> list[Finding]:
    """What the moments of a transformer at initialisation say about training it.

    Parameters
    ----------
    tree : the transformer.
    init : a scheme by name, or a recipe.
    dtype : number format of activations and gradients: fp64, fp32, tf32, fp16, bf16, e4m3, e5m2, or fp8, which is e4m3 forward
        and e5m2 backward and holds only what goes into matrix products.
    batch : sequences that the loss is averaged over; with the tokens of a sequence it sets the size of gradients.
    loss_scale : what the loss is multiplied by before the backward pass.
    remedies : schemes or recipes to try where something stands out, the first that makes it better is named.
    given : further arguments of :func:`~depthwidth.analysis.propagation.propagate` (variance, correlation, context, dropout,
    ...).

    Returns
    -------
    Every finding, the fine ones too, in a fixed order; of each kind the worst place in the network.

    Raises
    ------
    InputError
        if an argument is out of range, the scheme or format is unknown, or the tree holds a component whose moments are not
        known.

    Notes
    -----
    Headroom is that of Gaussian values with the predicted variance: the largest of n is below ``sqrt(2 ln 2n)`` standard
    deviations on average. Outliers that training makes are not in it.
    """
    check_whole("diagnose", batch=batch)
    if not (isinstance(loss_scale, (int, float)) and 0 < loss_scale < math.inf):
        raise InputError(f"diagnose: loss_scale={loss_scale} is not a positive number")
    setting = _Setting(tree, formats_of(dtype), dtype == "fp8", batch, float(loss_scale), given)
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    state = _State(setting, made)
    tried = [_Candidate(setting, remedy) for remedy in remedies]
    return [_remedied(found, setting, state, tried) for check in _CHECKS for found in check(state)]


def headroom(
    tree: Transformer,
    init: str | Recipe = "shipped",
    formats: Sequence[str] = ("fp16", "bf16", "e4m3", "e5m2"),
    *,
    batch: int = 1,
    loss_scale: float = 1.0,
    **given: Unpack[PropagationOptions],
) -> list[dict[str, Any]]:
    """Bits of headroom of activations, scores, logits and gradients in several number formats.

    Parameters
    ----------
    tree, init, batch, loss_scale, given : as in :func:`diagnose`.
    formats : names of :data:`~depthwidth.architecture.number_formats.NUMBER_FORMATS`.

    Returns
    -------
    A row for each format and kind of tensor: `format`, `kind`, `overflow_site`, `overflow_bits` (binary logarithm of the
    largest number over the largest value expected), `underflow_site`, `underflow_bits` (of the smallest standard deviation over
    the smallest number) and `lost`, the share of values there that is rounded to zero.

    Examples
    --------
    >>> small = Transformer(depth=2, width=64, heads=4, vocab=500, context=32)
    >>> row = headroom(small, "xavier", ["fp16"])[0]
    >>> row["kind"], round(row["overflow_bits"]), row["lost"] < 1e-4
    ('activations', 14, True)
    """
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    rows = []
    known = [number_format(name) for name in formats]
    state = _State(_Setting(tree, (number_format("fp32"),) * 2, False, batch, float(loss_scale), given), made)
    for one in known:
        for kind, sites in state.sizes.items():
            if sites:
                high, low = max(sites, key=lambda site: site.peak), min(sites, key=lambda site: site.deviation)
                rows.append(
                    {
                        "format": one.name,
                        "kind": kind,
                        "overflow_site": high.site,
                        "overflow_bits": _overflow_bits(one, high),
                        "underflow_site": low.site,
                        "underflow_bits": _underflow_bits(one, low),
                        "lost": share_lost(low.deviation, one),
                    }
                )
    return rows


def share_lost(deviation: float, held_in: NumberFormat) -> float:
    """The share of Gaussian values of this standard deviation that a format rounds to zero.

    >>> share_lost(1.0, number_format("fp16")) < 1e-7
    True
    """
    return math.erf(held_in.smallest / 2 / (deviation * math.sqrt(2))) if deviation > 0 else 1.0


# What the checks look at.


class _Size(NamedTuple):
    """How large the values at one site are."""

    site: str
    deviation: float
    """Root of the second moment."""
    peak: float
    """The largest of all of them in one pass, on average."""


@dataclass(frozen=True)
class _Setting:
    tree: Transformer
    formats: tuple[NumberFormat, ...]
    """Of activations and of gradients."""
    matrices_only: bool
    """Whether only what goes into matrix products is held in the format, as with 8 bits."""
    batch: int
    loss_scale: float
    given: PropagationOptions

    @cached_property
    def run(self) -> Any:
        return self.tree.run(self.given.get("context"), self.given.get("source"), batch=self.batch)

    @property
    def dropout(self) -> bool:
        return bool(self.given.get("dropout", True))


class _Branch(NamedTuple):
    """One residual branch of one block: what is kept of the stream and what is added to it."""

    stack: str
    layer: int
    name: str
    residual: Residual
    kept: float
    added: float


@dataclass
class _State:
    """One network with one recipe, propagated."""

    setting: _Setting
    made: Recipe

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        try:
            rows = moments_of(self.setting.tree, self.made, **self.setting.given)
        except InputError:
            raise
        except (ArithmeticError, ValueError):
            rows = []
        if not rows or not all(math.isfinite(row["second_moment"]) for row in rows):
            raise InputError("diagnose: with this initialisation the moments leave the range of floating-point numbers")
        return rows

    @cached_property
    def _index(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(row["site"], row["direction"]): row for row in self.rows}

    def at(self, site: str, direction: str = "forward") -> dict[str, Any] | None:
        return self._index.get((site, direction))

    def q(self, site: str, direction: str = "forward") -> float:
        row = self.at(site, direction)
        return 0.0 if row is None else float(row["second_moment"])

    @property
    def stacks(self) -> list[tuple[str, int]]:
        return [(name, depth) for name, depth, _ in stacks(self.setting.tree)]

    def last_gain(self, stack: str, depth: int) -> float:
        """Squared factor that the norm behind the last block has and that behind the first has not: it belongs to the head.

        Where the output matrix is tied and nothing else stands before it, a scheme's factor on logits is put there.
        """
        role = f"{stack}.block.feed_forward.norm_stream.weight"
        multiplier = next((line.multiplier for line in self.made.tensors if line.role == role), 1.0)
        return (at_block(multiplier, depth - 1) / at_block(multiplier, 0)) ** 2

    @cached_property
    def branches(self) -> list[_Branch]:
        found = []
        tree = self.setting.tree
        for name, stack in (("encoder", tree.encoder), ("decoder", tree.decoder)):
            if stack is None:
                continue
            before = self.q(f"{name}.input")
            for layer, block in enumerate(stack.blocks()):
                place = f"{name}.block.{layer}"
                start = before
                for child in block.children():
                    if not isinstance(child.layer, Residual):
                        continue
                    site, scales = f"{place}.{child.name}", self.made.residual(f"{name}.block.{child.name}")
                    rate = child.layer.dropout if self.setting.dropout else 0.0
                    mixed = isinstance(child.layer.branch, MixtureOfExperts)
                    end = "norm_out" if child.layer.norm_out is not None else "mix" if mixed else _LAST[child.name]
                    added = at_block(scales.branch, layer) ** 2 * self.q(f"{site}.{end}") / (1 - rate)
                    kept = at_block(scales.skip, layer) ** 2 * before
                    found.append(_Branch(name, layer, child.name, child.layer, kept, added))
                    before = start if block.parallel else self.q(site)
                before = self.q(place)
        return found

    @cached_property
    def loss_gradient(self) -> float:
        """Root mean square of the gradient behind the last norm, per feature."""
        setting = self.setting
        mean = float(setting.loss_scale / (setting.batch * setting.run.tokens))
        head, vocab = setting.tree.head, setting.tree.vocab
        logits, top = self.q("head.unembedding"), self.q(setting.tree.stack_name)
        if not (
            isinstance(head, LanguageHead) and head.transform is None and head.norm is None and logits and top and vocab > 1
        ):
            return mean
        from ..formulas.moments import loss_gradient_second_moment
        from ..numerics.softmax import overlap

        weight = logits / (head.unembedding.width * top)
        shared = overlap(min(logits, LARGEST_VARIANCE), vocab).P
        return float(mean * math.sqrt(loss_gradient_second_moment(weight, shared, vocab)))

    @cached_property
    def sizes(self) -> dict[str, list[_Size]]:
        """Standard deviation and expected peak at every site, by kind of tensor."""
        found: dict[str, list[_Size]] = {"activations": [], "scores": [], "logits": [], "gradients": []}
        run, tree = self.setting.run, self.setting.tree
        unit = self.loss_gradient / math.sqrt(float(self.setting.given.get("gradient", (1.0, 0.0))[0]))
        heads = max(1, tree.heads) if isinstance(tree.heads, int) else 1
        longest = max(run.tokens, run.memory or 0)
        features = {
            "activations": tree.ffn, "gradients": tree.ffn, "scores": heads * longest, "logits": max(2, tree.vocab),
        }  # fmt: skip
        for row in self.rows:
            forward, site = row["direction"] == "forward", row["site"]
            kind = "gradients" if not forward else "scores" if site.endswith("scores") else "activations"
            kind = "logits" if site == "head.unembedding" and forward else kind
            deviation = math.sqrt(row["second_moment"]) * (1.0 if forward else unit)
            if deviation > 0:
                count = self.setting.batch * longest * features[kind]
                found[kind].append(_Size(site, deviation, deviation * math.sqrt(2 * math.log(2 * count))))
        return found


_LAST = {"attention": "out", "cross_attention": "out", "feed_forward": "down"}


@dataclass
class _Candidate:
    """A remedy to try, propagated when it is first needed."""

    setting: _Setting
    remedy: str | Recipe

    @property
    def name(self) -> str:
        return f"scheme {self.remedy if isinstance(self.remedy, str) else self.remedy.scheme}"

    @cached_property
    def state(self) -> _State | None:
        try:
            made = self.remedy if isinstance(self.remedy, Recipe) else recipe(self.setting.tree, self.remedy)
            state = _State(self.setting, made)
            state.rows  # noqa: B018  (fails here, where it can be left out)
        except InputError:
            return None  # a scheme that does not fit the tree is no remedy for it
        return state


# The checks. Each yields what it found in one network, and can be run again on the remedied one.

_Check = Callable[[_State], Iterator["_Found"]]


@dataclass(frozen=True)
class _Found:
    finding: Finding
    again: Callable[[_State], Finding | None]
    """The same finding in another network."""
    own: Callable[[], tuple[str, float] | None] | None = None
    """A remedy of its own, with the number after it, where no scheme is meant to help."""


def _remedied(found: _Found, setting: _Setting, state: _State, tried: Sequence[_Candidate]) -> Finding:
    finding = found.finding
    if finding.severity == "fine":
        return finding
    ranked = SEVERITIES.index
    if found.own is not None:
        made = found.own()
        if made is not None and ranked(finding.rule.severity(made[1])) < ranked(finding.severity):
            return replace(finding, remedy=made[0], after=made[1])
    best: tuple[int, str, float] | None = None
    for candidate in tried:
        other = None if candidate.state is None else found.again(candidate.state)
        if other is None:
            continue
        rank = ranked(finding.rule.severity(other.value))
        if rank < ranked(finding.severity) and (best is None or rank < best[0]):
            best = (rank, candidate.name, other.value)
    return finding if best is None else replace(finding, remedy=best[1], after=best[2])


def _simple(check: Callable[[_State], Finding | None]) -> _Check:
    """A check with one finding at most, for which schemes are the remedies."""

    def run(state: _State) -> Iterator[_Found]:
        finding = check(state)
        if finding is not None:
            yield _Found(finding, check)

    return run


def _over_stacks(measure: Callable[[_State, str, int], Finding | None]) -> Callable[[_State], Finding | None]:
    """The worst of the stacks of a tree."""

    def check(state: _State) -> Finding | None:
        found = [f for name, depth in state.stacks if (f := measure(state, name, depth)) is not None]
        return max(found, key=lambda f: (SEVERITIES.index(f.severity), abs(math.log(max(f.value, 1e-300)))), default=None)

    return check


_TENFOLD = math.log(10)
_FOLDS = 6.0


def _ratio_rule(ratio: float, reason: str) -> Thresholds:
    """A ratio may lie within a factor on either side of 1."""
    sign = 1.0 if ratio >= 1 else -1.0
    source = f"{_OURS}: {reason}; limit by {_TRAINABLE}"
    return Thresholds(math.exp(sign * _TENFOLD), math.exp(sign * _FOLDS), source, at_most=ratio >= 1)


def _gradient_ratio(state: _State, stack: str, depth: int) -> Finding | None:
    first, last = f"{stack}.block.0", f"{stack}.block.{depth - 1}"
    above = state.q(last, "gradient") * state.last_gain(stack, depth)
    if not above:
        return None
    ratio = state.q(first, "gradient") / above
    rule = _ratio_rule(ratio, "beyond a factor of 10 one step size of SGD, or one clipping threshold, cannot suit both ends")
    if rule.severity(ratio) == "fine":
        what = "stays within a factor of ten along the depth"
    else:
        what = "explodes towards the input" if ratio > 1 else "vanishes towards the input"
    sentence = f"the gradient's variance behind the first block is {ratio:.3g} times that behind the last: it {what}"
    return Finding("gradient_ratio", first, ratio, rule, sentence)


def _forward_growth(state: _State, stack: str, depth: int) -> Finding | None:
    start, top = state.q(f"{stack}.block.0"), state.q(f"{stack}.block.{depth - 1}") / state.last_gain(stack, depth)
    if not start:
        return None
    ratio = top / start
    reason = "past tenfold a late block moves the stream a tenth as much as an early one (Sun et al. 2025, arXiv 2502.05795)"
    rule = _ratio_rule(ratio, reason)
    sentence = f"the signal's second moment behind the last block is {ratio:.3g} times that behind the first"
    return Finding("forward_growth", f"{stack}.block.{depth - 1}", ratio, rule, sentence)


_COLLAPSE = Thresholds(
    0.9,
    0.99,
    f"{_OURS}: query gradients go as (1 - r)^2 (attention.query_gradient_second_moment; Noci et al. 2022, arXiv 2206.03126), "
    "which leaves 1 % and 0.01 %",
)


def _correlation(state: _State, stack: str, depth: int) -> Finding | None:
    row = state.at(f"{stack}.block.{depth - 1}")
    if row is None:
        return None
    r = float(row["covariance"] + row["mean"] ** 2) / float(row["second_moment"])
    left = (1 - r) ** 2
    sentence = f"two tokens behind the last block correlate by {r:.4g}: queries and keys keep {left:.2g} of their gradient"
    return Finding("correlation_at_top", row["site"], r, _COLLAPSE, sentence)


def _branch_share(state: _State) -> Finding | None:
    """The branch that moves the stream least, against what the format can add."""
    held = state.setting.formats[0]
    # A branch whose scale starts at zero is meant to be silent.
    shares = [(math.sqrt(b.added / b.kept), b) for b in state.branches if b.added > 0 and b.kept > 0]
    if not shares or state.setting.matrices_only:
        return None
    share, branch = min(shares, key=lambda pair: pair[0])
    rule = Thresholds(
        4 * held.roundoff,
        held.roundoff,
        f"{_OURS}, from {held.name}: a branch below half a step of the sum ({held.roundoff:.2g}) is rounded away, one below "
        "four such keeps less than 2 bits",
        at_most=False,
    )
    site = f"{branch.stack}.block.{branch.layer}.{branch.name}"
    return Finding("branch_share", site, share, rule, f"the least branch adds {share:.3g} of the stream's own size to it")


def _scores(state: _State) -> tuple[dict[str, Any], float, int] | None:
    """The attention whose scores are nearest to condensing: its row, variance within a row, and length."""
    worst = None
    run = state.setting.run
    for branch in state.branches:
        attention = branch.residual.branch
        row = state.at(f"{branch.stack}.block.{branch.layer}.{branch.name}.scores")
        if row is None or not isinstance(attention, Attention):
            continue
        sourced = branch.stack == "encoder" and state.setting.tree.kind == "encoder-decoder"
        n = run.memory if attention.cross or sourced else run.tokens
        if attention.window is not None and not attention.cross:
            n = min(n, attention.window)
        variance = float(score_variance(row["second_moment"], min(1.0, max(-1.0, row["correlation"]))))
        if n > 1 and (worst is None or variance / math.log(n) > worst[1] / math.log(worst[2])):
            worst = (row, variance, n)
    return worst


def _score_variance(state: _State) -> Iterator[_Found]:
    def check(other: _State) -> Finding | None:
        found = _scores(other)
        if found is None:
            return None
        from .concentration import phase_of

        row, variance, n = found
        rule = Thresholds(
            math.log(n) / 2,
            condensation_point(n) ** 2,
            "random-energy model: past (ln n)/2 the largest probability takes over the sum of squares, past 2 ln n attention "
            "condenses on a few tokens",
        )
        where = phase_of(math.sqrt(variance / rule.limit))
        # Beyond 700 nobody's model has such a context.
        context = f"; it would condense at {condensed_length(variance):.3g} tokens or fewer" if 1 < variance < 700 else ""
        sentence = f"scores vary by {variance:.3g} within a row of {n} tokens: attention is {where}{context}"
        return Finding("score_variance", row["site"], variance, rule, sentence)

    finding = check(state)
    if finding is None:
        return

    def own() -> tuple[str, float] | None:
        factor = math.sqrt(finding.rule.threshold / 2 / finding.value)
        made, names = _with_scores(state.made, state.setting.tree, factor)
        after = check(_State(state.setting, made))
        return None if after is None else (f"multiply {names} by {factor:.4g}", after.value)

    yield _Found(finding, check, own)


def _with_scores(made: Recipe, tree: Transformer, factor: float) -> tuple[Recipe, str]:
    """A recipe whose attention scores are `factor` times as large: at the query's norm where it has one."""
    normed = tree.attention.query_norm is not None and tree.attention.query_norm.affine
    ending = ".query_norm.weight" if normed else ".query.weight"

    def scaled(value: Any) -> Any:
        return tuple(factor * one for one in value) if isinstance(value, tuple) else factor * value

    lines = tuple(
        line._replace(multiplier=scaled(line.multiplier)) if line.role.endswith(ending) else line for line in made.tensors
    )
    return replace(made, tensors=lines), "the gain of the query's norm" if normed else "query weights"


def _attended(state: _State) -> Finding | None:
    found = _scores(state)
    if found is None:
        return None
    from ..numerics.softmax import overlap

    row, variance, n = found
    kept = overlap(min(variance, LARGEST_VARIANCE), n)
    tokens, entropy = 1 / float(kept.P), float(kept.entropy)
    rule = Thresholds(
        math.sqrt(n), 2.0, f"{_OURS}: n exp(-s2) at s2 = (ln n)/2, where that ends; below 2 one token decides", at_most=False
    )
    sentence = (
        f"a query attends to {tokens:.3g} of {n} tokens (entropy {entropy:.3g} of at most {math.log(n):.3g} nats); the softmax "
        f"passes {1 - float(kept.P):.3g} of its gradient"
    )
    return Finding("effective_tokens", row["site"], tokens, rule, sentence)


# Headroom.

_OUTLIERS = 4.0
_LOST, _HALF_LOST = 0.01, 0.5


def _overflow_bits(held_in: NumberFormat, size: _Size) -> float:
    return math.log2(held_in.largest / size.peak)


def _underflow_bits(held_in: NumberFormat, size: _Size) -> float:
    return math.log2(size.deviation / held_in.smallest)


def _bits_where(lost: float) -> float:
    """Standard deviation in bits above the smallest number at which this share of a Gaussian is rounded to zero."""
    return -1 - math.log2(NormalDist().inv_cdf(0.5 + lost / 2))


def _headroom(state: _State) -> Iterator[_Found]:
    setting = state.setting
    kinds = ("activations", "gradients") if setting.matrices_only else ("activations", "scores", "logits", "gradients")
    for kind in kinds:
        held = setting.formats[kind == "gradients"]
        over = Thresholds(
            _OUTLIERS, 0.0, f"{_OURS}: below 0 it overflows; 4 bits are kept for what training adds ({held.source})", False
        )
        under = Thresholds(
            _bits_where(_LOST),
            _bits_where(_HALF_LOST),
            f"{_OURS}: {_LOST:.0%} and {_HALF_LOST:.0%} of a Gaussian rounded to zero ({held.source}; for gradients see "
            "Micikevicius et al. 2018, arXiv 1710.03740)",
            at_most=False,
        )

        def overflow(other: _State, kind: str = kind, held: NumberFormat = held, rule: Thresholds = over) -> Finding | None:
            sizes = other.sizes[kind]
            if not sizes:
                return None
            top = max(sizes, key=lambda size: size.peak)
            bits = _overflow_bits(held, top)
            text = f"{kind} reach {top.peak:.3g} and {held.name} ends at {held.largest:.3g}: {bits:.1f} bits"
            return Finding(f"overflow_{kind}", top.site, bits, rule, text)

        def underflow(other: _State, kind: str = kind, held: NumberFormat = held, rule: Thresholds = under) -> Finding | None:
            sizes = other.sizes[kind]
            if not sizes:
                return None
            low = min(sizes, key=lambda size: size.deviation)
            bits = _underflow_bits(held, low)
            lost = share_lost(low.deviation, held)
            zeros = f", which rounds {lost:.2%} of them to zero" if lost > 1e-4 else ""
            text = f"the smallest {kind} have size {low.deviation:.2g}, {bits:.1f} bits above the least of {held.name}{zeros}"
            return Finding(f"underflow_{kind}", low.site, bits, rule, text)

        for check in (overflow, underflow):
            finding = check(state)
            if finding is not None:
                scale = kind == "gradients" or setting.matrices_only
                yield _Found(finding, check, _rescaling(state, kind, finding, check) if scale else None)


def _rescaling(
    state: _State, kind: str, finding: Finding, check: Callable[[_State], Finding | None]
) -> Callable[[], tuple[str, float] | None]:
    """A power of two that leaves the wanted room above the largest value: the loss scale, or the scale of 8-bit tensors."""

    def own() -> tuple[str, float] | None:
        held, sizes = state.setting.formats[kind == "gradients"], state.sizes[kind]
        room = _overflow_bits(held, max(sizes, key=lambda size: size.peak)) - _OUTLIERS
        factor = 2.0 ** math.floor(room)
        if kind == "gradients":
            setting = replace(state.setting, loss_scale=state.setting.loss_scale * factor)
            after = check(_State(setting, state.made))
            return None if after is None else (f"loss scale {setting.loss_scale:.17g}", after.value)
        move = math.log2(factor)
        moved = finding.value + (move if finding.name.startswith("underflow") else -move)
        return f"scale {factor:.17g} on {kind}", moved

    return own


# Width.


def gradient_log_normal(
    tree: Transformer, init: str | Recipe = "shipped", **given: Unpack[PropagationOptions]
) -> tuple[float, float]:
    """Mean and variance, over draws of the weights, of the logarithm of a post-norm stack's gradient ratio.

    Parameters
    ----------
    tree, init, given : as in :func:`diagnose`.

    Returns
    -------
    Mean relative to the logarithm at infinite width, and variance; of the stack with the larger one, and zeros for a tree that
    has no norms after its sums.

    Notes
    -----
    To first order in 1/width, for tokens that have aligned (:func:`~depthwidth.formulas.moments.post_norm_log_drift`).
    """
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    found = _log_normal(_State(_Setting(tree, (number_format("fp32"),) * 2, False, 1, 1.0, given), made))
    return (0.0, 0.0) if found is None else found[1:]


def _log_normal(state: _State) -> tuple[str, float, float] | None:
    """Stack, mean and variance of the logarithm."""
    sums: dict[str, list[float]] = {}
    width = state.setting.tree.width
    for branch in state.branches:
        if branch.residual.norm_stream is None or not (branch.kept and branch.added):
            continue
        moment, omega = _matrix_moments(branch.residual.branch)
        strength = branch.added / branch.kept
        into = sums.setdefault(branch.stack, [0.0, 0.0])
        into[0] += post_norm_log_drift(strength, width, moment)
        into[1] += post_norm_log_variance(strength, width, omega)
    if not sums:
        return None
    stack, (drift, variance) = max(sums.items(), key=lambda item: item[1][1])
    return stack, drift, variance


def _spread(state: _State) -> Finding | None:
    """How far the gradient varies between draws of the weights, in a deep post-norm stack."""
    found = _log_normal(state)
    if found is None:
        return None
    stack, drift, variance = found
    deviation = math.sqrt(variance)
    rule = Thresholds(
        math.log(2), _TENFOLD, f"{_OURS}: the gradient's variance of one draw is then off by a factor of 2, or 10"
    )
    typical = math.exp(drift)
    low, high = typical / math.exp(deviation), typical * math.exp(deviation)
    sentence = (
        f"once its tokens have aligned the gradient of this post-norm stack is log-normal over draws of the weights: "
        f"typically {typical:.3g} times the infinite-width value, two draws of three within {low:.2g} and {high:.3g}"
    )
    return Finding("gradient_spread", stack, deviation, rule, sentence)


def _matrix_moments(branch: Any) -> tuple[float, float]:
    """mu_2 and omega of :func:`~depthwidth.formulas.moments.post_norm_log_drift` and its variance."""
    if isinstance(branch, MixtureOfExperts):
        branch = branch.expert  # as if one served every token
    if not isinstance(branch, FeedForward):
        return 3.0, 4.0
    ratio = branch.hidden / branch.width
    return feed_forward_matrix_moment(ratio), feed_forward_matrix_spread(ratio, _kurtosis(branch.activation, branch.gated))


@functools.lru_cache(maxsize=32)
def _kurtosis(name: str, gated: bool) -> float:
    """E f^4 / (E f^2)^2 of the hidden features at unit variance; a Gaussian linear part has 3 of its own."""
    from ..layers.activations import activation
    from ..numerics.hermite import gauss_hermite

    x, weights = gauss_hermite(256)
    f = activation(name)(x)
    return float(weights @ f**4) / float(weights @ f**2) ** 2 * (3.0 if gated else 1.0)


def _depth_to_width(state: _State) -> Finding | None:
    tree = state.setting.tree
    depth = max(depth for _, depth in state.stacks)
    ratio = depth / tree.width
    rule = Thresholds(
        1.5, 15.0, f"{_OURS}: corrections for finite width were compared with simulations up to N/d = 1.5 (d = 128, N = 192)"
    )
    sentence = f"depth over width is {ratio:.3g}; the predictions are to first order in it"
    return Finding("depth_to_width", max(state.stacks, key=lambda s: s[1])[0], ratio, rule, sentence)


_CHECKS: tuple[_Check, ...] = (
    _simple(_over_stacks(_gradient_ratio)),
    _simple(_over_stacks(_forward_growth)),
    _simple(_over_stacks(_correlation)),
    _simple(_branch_share),
    _score_variance,
    _simple(_attended),
    _headroom,
    _simple(_spread),
    _simple(_depth_to_width),
)
