"""``propagate``: the moments of a signal through any tree, and those of a gradient back to its input."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ..architecture import Transformer
from ..checks import DEEPEST_TRACED, LONGEST_TRACED, check_whole
from ..errors import AccuracyWarning, InputError
from ..formulas.moments import zipf_match_probability
from ..initialization import Recipe, recipe
from ..layers.stem import SEGMENT_MATCH
from ..numerics.threads import one_thread
from ..progress import announced
from ..signal import AnySignal, GradientStep, Pullback, Record, Signal, Site, Spread, TokenSignal, Trace, check_signal

if TYPE_CHECKING:
    import pandas

    from ..signal.positions import Positions


LONGEST_APART = 2048
"""Longest context that is followed with ALiBi; longer ones count as it. Its flattest head forgets within some 256 tokens."""


class TraceOptions(TypedDict, total=False):
    """The arguments of :func:`propagate` after `init`, except `lengths`."""

    variance: float | None
    correlation: float | None
    gram: Any
    token_match: Any
    segment_match: float
    gradient: tuple[float, float] | str
    context: int | None
    source: int | None
    dropout: bool
    finite_width: bool


class PropagationOptions(TraceOptions, total=False):
    """The arguments of :func:`propagate` after `init`."""

    lengths: Iterable[Any] | Mapping[Any, float] | None


def propagate(
    tree: Transformer,
    init: str | Recipe = "shipped",
    *,
    variance: float | None = None,
    correlation: float | None = None,
    gram: Any = None,
    token_match: Any = None,
    segment_match: float = SEGMENT_MATCH,
    gradient: tuple[float, float] | str = (1.0, 0.0),
    context: int | None = None,
    source: int | None = None,
    lengths: Iterable[Any] | Mapping[Any, float] | None = None,
    dropout: bool = True,
    finite_width: bool = True,
) -> pandas.DataFrame:
    """Predict the moments at every site of a transformer at initialisation.

    Parameters
    ----------
    tree : the transformer.
    init : a scheme by name (:func:`~depthwidth.initialization.schemes`), or a recipe.
    variance, correlation : of the first block's input, if known; by default they follow from the embedding.
    gram : the same, token by token: a symmetric array of shape (L, L) that holds E x_t.x_t'/width of that input, second moments
        on its diagonal. L then is the context. The encoder of an encoder-decoder has its averages.
    token_match : probability that two positions hold the same token; by default that of Zipf's law over the vocabulary (0 for
        image patches). Measure it on your text: the sum of squared frequencies. Pairs of one token and of two tokens are then
        followed apart, in a text of Zipf's law with that probability; with ALiBi, in an encoder-decoder, with other mixers
        than attention, or if `correlation` is given, every pair has the mean correlation. An array of shape (L, L) holds 1
        for two positions of a text with the same token; moments are averaged over the S texts of an array (S, L, L).
        ``"sample"`` draws eight texts of Zipf's law, position by position: L^3 operations a layer, for L up to 512.
    segment_match : probability that two positions are of the same segment, if the embedding has segments.
    gradient : second moment and correlation of the gradient at the last norm's output. By default 1 and 0: a language model's
        correlation is near 0. ``"loss"`` is the gradient of a language model's cross-entropy, summed over positions; it also
        passes the head's transform if there is one (BERT).
    context, source : tokens of a sequence (and of the encoder's); the tree's context by default.
    lengths : in place of `context`, for a padded batch: the length of each sequence without its padding, or a mapping from a
        length to how many sequences have it. In a model of two stacks a length may be a pair (of the decoder's sequence, of the
        encoder's). Rows are then averages over the real tokens, see :mod:`depthwidth.analysis.padding`.
    dropout : whether the network is in training mode.
    finite_width : whether to correct for finite width, to first order.

    Returns
    -------
    A data frame with a row for each site and direction: `site`, `layer` (missing outside the blocks), `direction` (``forward``
    or ``gradient``), `mean`, `second_moment`, `variance`, `covariance` and `correlation` between two different tokens. Forward
    rows describe a component's output, gradient rows the loss's derivative with respect to it. Moments are averages per
    feature, without a unit; those of the gradient are in the unit of `gradient`, with ``"loss"`` nats^2. If positions differ,
    numbers are averages over them. Two columns say how far one draw of the weights lies from the mean. `spread` is the relative
    standard deviation of the residual stream's second moment (missing elsewhere). `log_variance` is the variance of the
    logarithm of a post-norm stack's gradient (missing elsewhere), whose typical value is smaller than its mean by
    exp(log_variance / 2).

    Raises
    ------
    InputError
        if a number is out of range, the scheme is unknown, or the tree holds a component whose moments are not known.

    Warns
    -----
    AccuracyWarning
        if scores of an attention vary by more than 64 nats^2, as which they are then treated.

    Notes
    -----
    Means are over weights and inputs. Tokens are exchangeable, all pairs of one token with the same correlation and all pairs
    of two tokens, unless a causal mask or a Gram matrix makes them differ; each position then has moments of its own
    (:mod:`depthwidth.signal.attention`). With ALiBi in a causal stack each position is paired with some positions before it
    (:mod:`depthwidth.signal.alibi_attention`). Contexts above 2048 tokens then count as 2048; at 8192 that shows only in the
    covariance of gradients, which falls as 1/L. ALiBi is left out of stacks without a mask and of encoder-decoders. So are
    relative position biases: at T5's own scale they change E sum p^2 by 0.2 %.
    """
    import pandas

    columns = _columns_of(
        tree, init, variance=variance, correlation=correlation, gram=gram, token_match=token_match,
        segment_match=segment_match, gradient=gradient, context=context, source=source, lengths=lengths, dropout=dropout,
        finite_width=finite_width,
    )  # fmt: skip
    labels = columns.pop("labels", None)
    scores = slice(None) if labels is None else labels.scores
    if sentence := large_scores(tree, columns["site"][scores], columns["second_moment"][scores]):
        warnings.warn(sentence, AccuracyWarning, stacklevel=2)
    columns["site"] = columns["site"].copy() if labels is None else labels.text.copy()
    columns["layer"] = pandas.arrays.IntegerArray(columns["layer"].copy(), columns["layer"] < 0)
    columns["direction"] = pandas.Categorical.from_codes(columns["direction"], dtype=_direction_type())
    return pandas.DataFrame(columns, copy=False)  # no other reference to them exists


def large_scores(tree: Transformer, sites: Any, second_moments: Any) -> str:
    """The sentence on attention scores that vary more than the integrals of the softmax cover; empty if there are none.

    Parameters
    ----------
    tree : the transformer.
    sites, second_moments : the columns of a table of moments, as arrays or lists; only scores are looked at.
    """
    import numpy as np

    from ..layers.attention_moments import LARGEST_SCORES, soft_variance

    large = np.flatnonzero(np.asarray(second_moments) > LARGEST_SCORES).tolist()
    beyond = {sites[row]: float(second_moments[row]) for row in large if sites[row].endswith(".scores")}
    capped = {
        name: next((one for repeat in stack.repeats if (one := repeat.block.as_attention) is not None), None)
        for name, stack in tree.stacks.items()
    }
    found = {site: soft_variance(attention, variance) for site, variance in beyond.items()
             if (attention := capped.get(site.partition(".")[0])) is not None}  # fmt: skip
    found = {site: variance for site, variance in found.items() if variance > LARGEST_SCORES}
    if not found:
        return ""
    first, worst = next(iter(found)), max(found.values())
    limit = f"{LARGEST_SCORES:g}"
    return (
        f"attention scores vary by up to {worst:.3g} nats^2, beyond {limit} from {first} on, and are treated as varying by "
        f"{limit}: gradients through them are too small"
    )


def moments_of(tree: Transformer, init: str | Recipe = "shipped", **given: Unpack[PropagationOptions]) -> list[dict[str, Any]]:
    """The rows of :func:`propagate` as plain data, with the same arguments."""
    found = _columns_of(tree, init, **given)
    columns = {name: values.tolist() for name, values in found.items() if name != "labels"}
    for name in ("spread", "log_variance"):
        columns[name] = [None if math.isnan(value) else value for value in columns[name]]
    columns["layer"] = [None if layer < 0 else layer for layer in columns["layer"]]
    columns["direction"] = [_DIRECTIONS[code] for code in columns["direction"]]
    return [
        {
            "site": site, "layer": layer, "direction": direction, "mean": mean, "second_moment": second, "variance": variance,
            "covariance": pair, "correlation": correlation, "spread": spread, "log_variance": log_variance,
        }
        for site, layer, direction, mean, second, variance, pair, correlation, spread, log_variance
        in zip(*(columns[name] for name in _COLUMNS), strict=True)
    ]  # fmt: skip


def _columns_of(tree: Transformer, init: str | Recipe = "shipped", *, lengths: Any = None, **given: Any) -> dict[str, Any]:
    """The rows as arrays: of one length, or averaged over those of a padded batch, or over texts."""
    texts = _texts(tree, given.get("token_match"), given.get("context"), lengths)
    if texts is not None:
        made = init if isinstance(init, Recipe) else recipe(tree, init)
        traced = (trace_tree(tree, made, **{**given, "token_match": one}) for one in announced("text", texts))
        return _average_tables([_uncentred_columns(trace) for trace in traced])
    if lengths is None:
        return _columns(trace_tree(tree, init, **given))
    from .padding import Batch

    context, source = given.pop("context", None), given.pop("source", None)
    if context is not None:
        raise InputError(f"propagate: lengths cannot be combined with context={context}; give one of the two")
    for name in ("gram", "token_match"):
        if given.get(name) is not None and not isinstance(given[name], float | int):
            raise InputError(f"propagate: lengths cannot be combined with {name} as an array, which has one length")
    batch = Batch.of(tree, lengths, source)
    made = init if isinstance(init, Recipe) else recipe(tree, init)

    def columns(tokens: int, memory: int | None) -> dict[str, Any]:
        return _columns(trace_tree(tree, made, context=tokens, source=memory, smallest=1, **given))

    return batch.averages(tree, columns)


LONGEST_SAMPLED = 512
"""Longest context for which texts are drawn: all of its pairs are followed."""
_SAMPLED = 8


def _texts(tree: Transformer, match: Any, context: int | None, lengths: Any) -> Any:
    """The matches of several texts, shape (S, L, L); None for a single text or none."""
    import numpy as np

    if isinstance(match, str) and match == "sample":
        from .text import zipf_matches

        tokens = tree.run(context).tokens
        if lengths is not None or not tree.vocab or tokens > LONGEST_SAMPLED:
            limit = f"a language model's texts of up to {LONGEST_SAMPLED} tokens of one length"
            raise InputError(f"propagate: token_match='sample' is for {limit}; this has {tokens}")
        return zipf_matches(tree.vocab, tokens, _SAMPLED)
    if getattr(match, "ndim", 0) != 3:
        return None
    if len(match) == 0 or lengths is not None:
        raise InputError("propagate: token_match holds no text, or both lengths and texts of one length")
    return np.asarray(match)


def _average_tables(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The tables of several texts as one, its moments the means of theirs."""
    import numpy as np

    means = {name: np.mean([table[name] for table in tables], axis=0) for name in (*_NUMBERS, "log_variance")}
    return _with_variances({**tables[0], **means})


def trace_tree(tree: Transformer, init: str | Recipe = "shipped", *, smallest: int = 2, **given: Unpack[TraceOptions]) -> Trace:
    """The :class:`~depthwidth.signal.Trace` from which :func:`propagate` makes its table; the same arguments.

    `smallest` is the least number of tokens of a sequence.
    """
    import numpy as np

    # The next linear layer refuses an overflow, in a sentence.
    with np.errstate(over="ignore", invalid="ignore"), one_thread():
        try:
            trace = _trace_tree(tree, init, smallest=smallest, **given)
        except InputError:
            raise
        except (ArithmeticError, ValueError) as error:
            if isinstance(error, ValueError) and str(error) != "math domain error":
                raise
            raise InputError(_OUT_OF_RANGE) from error
    return trace


_OUT_OF_RANGE = "propagate: the moments leave the range of floating-point numbers at this input and these weights"


def _trace_tree(
    tree: Transformer,
    init: str | Recipe = "shipped",
    *,
    variance: float | None = None,
    correlation: float | None = None,
    gram: Any = None,
    token_match: Any = None,
    segment_match: float = SEGMENT_MATCH,
    gradient: tuple[float, float] | str = (1.0, 0.0),
    context: int | None = None,
    source: int | None = None,
    dropout: bool = True,
    finite_width: bool = True,
    smallest: int = 2,
) -> Trace:
    given = _Input.of(tree, variance, correlation, gram, token_match)
    run = tree.run(given.tokens or context, source)
    check_whole("propagate", smallest=smallest, largest=LONGEST_TRACED, context=run.tokens)
    if run.memory:
        check_whole("propagate", largest=LONGEST_TRACED, source=run.memory)
    for name, stack in tree.stacks.items():
        if stack.depth > DEEPEST_TRACED:
            raise InputError(
                f"propagate: the {name} has {stack.depth:,} blocks; moments are followed through {DEEPEST_TRACED:,}"
            )
    if given.tokens is not None and context not in (None, given.tokens):
        raise InputError(f"propagate: context={context} is not the {given.tokens} tokens of the array that is given")
    if isinstance(gradient, str) and gradient != "loss":
        raise InputError(f"propagate: gradient={gradient!r} is not 'loss' or a second moment and a correlation")
    if not 0 <= segment_match <= 1:
        raise InputError(f"propagate: segment_match={segment_match} is not a probability")
    at_output = None if isinstance(gradient, str) else check_signal("propagate: gradient", *gradient, tokens=run.tokens)
    given.check(max(run.tokens, run.memory or 0) if tree.kind == "encoder-decoder" else run.tokens)
    made = init if isinstance(init, Recipe) else recipe(tree, init)
    trace = Trace(made, run.tokens, run.memory or run.tokens, dropout, finite_width)
    root = Site(trace, "")
    pull_encoder = _encode(tree, root, given, segment_match)
    trace.length = run.tokens
    trace.positions = given.positions(tree, run.tokens)
    identity = given.identity(trace.positions)
    x, pull_stem = tree.stem.embed(root.at("stem"), identity, segment_match)
    x = given.replaced(x, tree.stack.outer_width)
    y, pull = tree.stack.moments(x, root.at(tree.stack_name))
    head = tree.language_head
    z, pull_head = y, None
    if head is not None:
        z, pull_head = head.features(y, root.at("head"))
        head.logits(z, root.at("head"), root.at("stem"))
    if at_output is not None:
        back = at_output.spread_over(y)
    elif head is None or pull_head is None:
        raise InputError("propagate: gradient='loss' needs a language-model head; give a second moment and a correlation")
    else:
        loss = Signal(*head.loss_gradient(z, root.at("head"), root.at("stem"), given.mean_match))
        back = pull_head(loss.spread_over(z))
    front = pull(back)
    pull_stem(front)
    if pull_encoder is not None and trace.memory_gradient is not None:
        pull_encoder(trace.memory_gradient)
    return trace


def _encode(tree: Transformer, root: Site, given: _Input, segment_match: float) -> Pullback | None:
    """The encoder's pass in a model of two stacks, whose output the trace keeps, and its pullback; None for other models."""
    if tree.encoder is None or tree.decoder is None:
        return None
    trace = root.trace
    trace.length = trace.source_length
    # Steps of a sound have the correlation of image patches: none, unless it is given.
    read = Signal(1.0, given.mean_match if tree.reader.vocab else 0.0)
    pull_source: Pullback = lambda g: g  # noqa: E731
    if tree.source is not None:
        encoded, pull_source = tree.source.embed(root.at("source"), read, segment_match)
    else:
        with trace.silence():  # the stem is recorded once, at the input of the last stack
            encoded, _ = tree.stem.embed(root.at("stem"), read, segment_match)
    trace.memory, pull = tree.encoder.moments(given.replaced(encoded, tree.encoder.outer_width), root.at("encoder"))
    return lambda g: pull_source(pull(g))


_SHORT = 3
"""From this multiple of the shortest window on, pairs of tokens are followed by their distance."""


@dataclass(frozen=True)
class _Input:
    """The tokens and the first block's input, as the caller gives them."""

    match: Any
    """Probability that two positions hold the same token: a number or an array of shape (L, L)"""
    variance: float | None
    correlation: float | None
    gram: Any

    @classmethod
    def of(cls, tree: Transformer, variance: Any, correlation: Any, gram: Any, match: Any) -> _Input:
        """The input, checked."""
        import numpy as np

        if gram is not None:
            if variance is not None or correlation is not None or match is not None:
                raise InputError("propagate: gram cannot be combined with variance, correlation or token_match")
            gram = _token_array("gram", gram)
            if not (gram.diagonal() > 0).all():
                raise InputError("propagate: gram has a second moment on its diagonal that is not positive")
            _check_products("gram", gram)
        if match is None:
            match = float(zipf_match_probability(tree.vocab)) if tree.vocab else 0.0
        elif isinstance(match, float | int):
            if not 0 <= match <= 1:
                raise InputError(f"propagate: token_match={match} is not a probability")
        else:
            match = _token_array("token_match", match)
            if match.min() < 0 or match.max() > 1:
                raise InputError("propagate: token_match holds a value that is not a probability")
            _check_products("token_match", match + np.diag(1 - match.diagonal()))
        return cls(match, variance, correlation, gram)

    def check(self, tokens: int) -> None:
        """Refuse moments that the tokens of so long a sequence cannot have."""
        check_signal(
            "propagate",
            1.0 if self.variance is None else self.variance,
            0.0 if self.correlation is None else self.correlation,
            tokens,
        )

    @property
    def tokens(self) -> int | None:
        """Positions of the given array; None without one."""
        array = self.gram if self.gram is not None else self.match
        return None if isinstance(array, float | int) else len(array)

    @property
    def mean_match(self) -> float:
        """Probability that two different positions hold the same token."""
        if isinstance(self.match, float | int):
            return float(self.match)
        n = len(self.match)
        return float((self.match.sum() - self.match.trace()) / (n * (n - 1)))

    def positions(self, tree: Transformer, tokens: int) -> Positions | None:
        """The positions to follow one by one; None for exchangeable tokens."""
        from ..signal.positions import ALL_NODES, Alike, Distances, Positions
        from ..signal.window_pairs import WindowPairs

        if self.tokens is not None:
            return Positions.every(tokens)
        if tree.stack.penalises_distance and tree.kind != "encoder-decoder" and tokens > 1:
            return Distances.back(min(tokens, LONGEST_APART))
        # Pairs of equal tokens and of different ones keep moments of their own, unless the caller gives every pair the same.
        some = 0 < self.mean_match < 1 - _ROUNDING  # Zipf's sums for a vocabulary of one token are 1 to rounding
        apart = self.correlation is None and tree.kind != "encoder-decoder" and some
        apart = apart and tree.stack.separates_equal_tokens
        match = self.mean_match if apart else None
        if not tree.stack.causal and tokens > 1:
            return None if match is None else Alike.of(tokens, match)
        reaches = () if tree.kind == "encoder-decoder" else _windows_of(tree.stack, tokens)
        if tokens > ALL_NODES and reaches and tokens >= _SHORT * reaches[0]:
            return WindowPairs.of(tokens, reaches, match)
        return Positions.smooth(tokens, match)

    def identity(self, positions: Positions | None) -> AnySignal:
        """A signal of second moment 1 whose covariance is the match probability."""
        import numpy as np

        if positions is None:
            return Signal(1.0, self.mean_match)
        if isinstance(self.match, float | int):
            q, c = positions.uniform(1.0, self.match)
            if positions.match is not None:
                c[0], c[1] = 0.0, 1.0
            return TokenSignal(q, c, positions)
        return TokenSignal(np.ones(len(self.match)), self.match, positions)

    def replaced(self, x: AnySignal, width: int) -> AnySignal:
        """The first block's input: the embedding's output `x`, with the moments that the caller gives instead of its own."""
        if self.gram is not None and isinstance(x, TokenSignal):
            y: AnySignal = x.of(self.gram.diagonal().copy(), self.gram)
        elif self.gram is not None:  # exchangeable tokens, as those of an encoder before a decoder: its averages
            n = len(self.gram)
            second = float(self.gram.trace()) / n
            y = x.of(second, (float(self.gram.sum()) / n - second) / (n - 1))
        elif self.variance is not None or self.correlation is not None:
            q, c = x.whole().averages
            size = q if self.variance is None else self.variance
            if self.correlation is None and isinstance(x, TokenSignal) and x.positions.match is not None:
                y = x.whole().times(size / q)
            else:
                r = max(-1.0, min(1.0, c / q)) if self.correlation is None else self.correlation
                y = x.of(size + 0.0 * x.second_moment, size * r + 0.0 * x.covariance)
        else:
            return x
        return y.spread_as(x.spread and Spread.of_gaussian(y, width))


def _windows_of(stack: Any, tokens: int) -> tuple[int, ...]:
    """The sliding windows of a stack that are shorter than a sequence of so many tokens, ascending."""
    attention = [repeat.block.as_attention for repeat in stack.repeats]
    found = {part.window for part in attention if part is not None and part.window is not None}
    return tuple(sorted(window for window in found if window < tokens))


def _token_array(name: str, values: Any) -> Any:
    """A symmetric array over pairs of tokens.

    Raises
    ------
    InputError
        if it is none, or holds what is not a finite number.
    """
    import numpy as np

    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"propagate: {name} is not an array of numbers") from None
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < 2:
        raise InputError(f"propagate: {name} has shape {array.shape}, not (L, L) over two tokens or more")
    if not np.isfinite(array).all() or not np.allclose(array, array.T, rtol=1e-6, atol=1e-9 * np.abs(array).max()):
        raise InputError(f"propagate: {name} is not symmetric, or holds a value that is not a finite number")
    return array


def _check_products(name: str, array: Any) -> None:
    """Refuse an array that no vectors have as their products: a negative eigenvalue is a combination of negative square."""
    import numpy as np

    size = float(array.diagonal().max())
    try:
        np.linalg.cholesky(array + _ROUNDING * len(array) * size * np.eye(len(array)))
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(array)[0])
        raise InputError(f"propagate: no tokens have {name} as their products: its least eigenvalue is {least:.3g}") from None


_ROUNDING = 1e-9
_DIRECTIONS = ("forward", "gradient")
_COLUMNS = (
    "site", "layer", "direction", "mean", "second_moment", "variance", "covariance", "correlation", "spread", "log_variance",
)  # fmt: skip
_NUMBERS = ("mean", "second_moment", "covariance", "spread")
_USUAL = {"mean": 0.0, "second_moment": 0.0, "covariance": 0.0, "spread": math.nan, "log_variance": math.nan}
"""The numbers of a row that nothing else is said of"""


def _columns(trace: Trace) -> dict[str, Any]:
    """The table of a trace as columns by name."""
    return _with_variances(_uncentred_columns(trace))


def _uncentred_columns(trace: Trace) -> dict[str, Any]:
    """The records as columns by name, in the order of the pass: blocks ascend forward and descend for the gradient.

    A layer of -1 is none, and directions are indices into _DIRECTIONS. `labels` has the sites as text.
    """
    import numpy as np

    log_variances = _log_variances(trace)
    # A component evaluated for a range of blocks has one record for each site; the table is sorted by block.
    groups = [(key, list(group)) for key, group in groupby(trace.records, key=_evaluated_together)]
    labels = _labels(tuple((layer, direction, tuple(r.role for r in sites)) for (layer, direction, _), sites in groups))
    found = {name: np.full(len(labels.site), usual) for name, usual in _USUAL.items()}
    start = 0
    for (layer, direction, stack), sites in groups:
        forward, layers = direction == "forward", _layers(layer)
        rows, start = slice(start, start + len(layers) * len(sites)), start + len(layers) * len(sites)
        varies = not forward and (stack in log_variances or (stack == "stem" and log_variances))
        blocks = {
            name: values[rows].reshape(len(layers), -1)[:: 1 if forward else -1] for name, values in found.items()
        }  # fmt: skip
        for k, record in enumerate(sites):
            for name in _NUMBERS:
                value, usual = getattr(record, name), _USUAL[name]
                if not (isinstance(value, float) and (value == usual or (usual != usual and value != value))):
                    blocks[name][:, k] = value
            if varies:
                blocks["log_variance"][:, k] = _log_variance(log_variances, record.role, layers)
    if not all(np.isfinite(found[name]).all() for name in ("mean", "second_moment", "covariance")):
        raise InputError(_OUT_OF_RANGE)
    return {"labels": labels, "site": labels.site, "layer": labels.layer, "direction": labels.direction, **found}


def _with_variances(found: dict[str, Any]) -> dict[str, Any]:
    """The columns of the table, from those of uncentred moments."""
    import numpy as np

    square = found["mean"] ** 2
    variance, covariance = found["second_moment"] - square, found["covariance"] - square
    correlation = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance != 0)
    return {
        **{name: found[name] for name in ("labels", "site", "layer", "direction", "mean", "second_moment")},
        "variance": variance,
        "covariance": covariance,
        "correlation": correlation,
        "spread": found["spread"],
        "log_variance": found["log_variance"],
    }


def _evaluated_together(record: Record) -> tuple[int | range | None, str, str]:
    return record.layer, record.direction, record.role.partition(".")[0]


_LogVariances = dict[str, dict[str, Any]]
"""For each stack with norms after the sum, the variance of the log gradient at the input of each of its residuals, in the order
of the pass: an array over blocks"""


def _log_variances(trace: Trace) -> _LogVariances:
    import numpy as np

    steps: dict[str, dict[str, Any]] = {}
    for role, layer, step in reversed(trace.gradient_steps):  # the pass goes backward
        layers = layer if isinstance(layer, range) else range(layer, layer + 1)
        parts = steps.setdefault(role.partition(".")[0], {}).setdefault(role, {})
        rows = np.array([np.broadcast_to(number, len(layers)) for number in step]).T.tolist()
        parts.update(zip(layers, (GradientStep(*row) for row in rows), strict=True))
    return {stack: _variances_at_inputs(parts) for stack, parts in steps.items()}


def _variances_at_inputs(parts: dict[str, dict[int, GradientStep]]) -> dict[str, Any]:
    """The variances along a stack, from the steps of each residual at each block."""
    import numpy as np

    depth = 1 + max(layer for steps in parts.values() for layer in steps)
    found = {role: np.zeros(depth) for role in parts}
    spread = (0.0, 0.0, 0.0)
    for layer in range(depth - 1, -1, -1):
        for role in reversed(parts):
            step = parts[role].get(layer)
            if step is not None:
                spread = step.advance(spread)
            found[role][layer] = spread[0]
    return found


def _log_variance(log_variances: _LogVariances, role: str, layers: Sequence[int | None]) -> Any:
    """The variance of the log gradient at a site: that at the input of the first residual which follows."""
    import numpy as np

    stack, _, inside = role.partition(".")
    last = list(log_variances)[-1] if stack == "stem" else stack  # the stem's gradient is that of the last stack's input
    inputs = log_variances[last]
    names = list(inputs)
    front = inputs[names[0]]
    if stack == "stem" or inside == "input":
        return front[0]
    if layers[0] is None:
        return 0.0
    at, after = np.array(layers), np.append(front, 0.0)
    if "." not in inside:  # a block's output
        return after[at + 1]
    own = next((k for k, name in enumerate(names) if role == name or role.startswith(f"{name}.")), 0)
    # At a residual's output, and at that of its norm, which is the same, its own share is still to come.
    first = own + 1 if role in (names[own], f"{names[own]}.norm_stream") else own
    return inputs[names[first]][at] if first < len(names) else after[at + 1]


class _Labels:
    """The site, the layer and the direction of each row of a table, which the tables of one tree share; not to be changed."""

    def __init__(self, groups: Iterable[_Group]) -> None:
        import numpy as np

        sites, layers, directions = list[str](), list[int](), list[int]()
        for layer, direction, roles in groups:
            for at in _layers(layer)[:: 1 if direction == "forward" else -1]:
                sites += roles if at is None else [role.replace(".block", f".block.{at}", 1) for role in roles]
                layers += [-1 if at is None else at] * len(roles)
            directions += [_DIRECTIONS.index(direction)] * (len(sites) - len(directions))
        self.site = np.array(sites, dtype=object)
        self.layer, self.direction = np.array(layers, dtype=int), np.array(directions, dtype=int)

    @functools.cached_property
    def scores(self) -> Any:
        """The rows of attention scores."""
        import numpy as np

        return np.flatnonzero([site.endswith(".scores") for site in self.site])

    @functools.cached_property
    def text(self) -> Any:
        """The sites as pandas keeps text: its search for other objects among them takes as long as the whole backward pass."""
        import pandas

        return pandas.Series(self.site).array


_Group = tuple[int | range | None, str, tuple[str, ...]]
"""Sites that are evaluated together: their block or blocks, the direction and their roles"""


@functools.lru_cache(maxsize=16)
def _labels(groups: tuple[_Group, ...]) -> _Labels:
    return _Labels(groups)


def _layers(layer: int | range | None) -> Sequence[int | None]:
    return layer if isinstance(layer, range) else [layer]


@functools.cache
def _direction_type() -> Any:
    import pandas

    return pandas.CategoricalDtype(list(_DIRECTIONS))
