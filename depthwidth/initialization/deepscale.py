"""DeepScaleLM: unit variance at every site and depth, by a recursion of the tokens' correlation along the stack."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..errors import InputError, shown
from ..formulas.gaussian import relu_pair_moment
from ..formulas.moments import zipf_match_probability
from ..layers import AttentionLike, FeedForwardLike, MixtureLike, Stack
from ..layers.stem import SEGMENT_MATCH
from ..signal.residual import advance
from .activation_moment import activation_second_moment
from .draft import Choice, Draft, Values, finite_number, scheme
from .tensor_rules import stated_choice
from .tensors import Weight, branch_counts

ROUTER_STD = 0.1
"""Standard deviation of a router's scores."""
PATCH_CORRELATION = 0.2
"""Correlation of two image patches: an assumption, since the similarity of neighbouring patches depends on the images."""


def embedding_correlation(tree: Transformer, token_match: float | None = None) -> float:
    """The correlation of two tokens' embeddings due to repeated words and shared segments, before dropout.

    Parameters
    ----------
    tree : the transformer. Each of k tables of equal variance contributes 1/k of its correlation, and two segments agree with
        probability :data:`~depthwidth.layers.stem.SEGMENT_MATCH`.
    token_match : the probability that two positions hold the same token, as :func:`~depthwidth.analysis.text.read_text`
        measures it. By default words follow Zipf's law: :func:`~depthwidth.formulas.moments.zipf_match_probability`.

    Raises
    ------
    InputError
        if `token_match` is not a probability.

    Examples
    --------
    >>> bert = Transformer(depth=1, width=64, kind="encoder", segments=2, vocab=32000)
    >>> round(embedding_correlation(bert), 4), round(embedding_correlation(bert, 0.0074), 4)
    (0.2268, 0.2247)
    """
    stem = tree.stem
    if token_match is not None and not 0 <= token_match <= 1:
        raise InputError(f"embedding_correlation: token_match={shown(token_match)} is not a probability")
    if stem.images:
        return PATCH_CORRELATION
    repeat = float(zipf_match_probability(stem.vocab)) if token_match is None else token_match
    shared = SEGMENT_MATCH if stem.segmented else 0.0
    return (repeat + shared) / tree.stem.summed_tables


def deepscale_scales(branches: int, k: float = 2.0, alpha: float = 1.0, together: int = 1) -> tuple[float, float]:
    """Lambda (skip) and beta (branch) of a stack: beta^2 = k / branches^alpha, and lambda^2 + beta^2 = 1.

    If blocks add `together` branches at once, lambda^2 + together beta^2 = 1.

    >>> [round(value**2, 6) for value in deepscale_scales(384)]
    [0.994792, 0.005208]
    """
    beta2 = min(k / branches**alpha, 1 / together)
    return math.sqrt(1 - together * beta2), math.sqrt(beta2)


class _Blocks(NamedTuple):
    """Result of the recursion along the depth of one stack."""

    value: dict[str, list[float]]
    """D_l per attention branch and block: the variance of its output over that of its values, without dropout."""
    correlation: list[float]
    """The correlation of tokens at the input of each block, and at the end of the stack."""


@scheme(
    "deepscale",
    "Kedia et al. 2024 (DeepScaleLM), arXiv 2403.09635, authors' code",
    "primary: the released code; gated, grouped and mixture parts, other activations and exact=True are derived",
)
def deepscale(
    tree: Transformer,
    dropout: float | None = None,
    embedding_correlation: float | None = None,
    k: float = 2.0,
    alpha: float = 1.0,
    exact: bool = False,
    context: int | None = None,
) -> Draft:
    """Unit variance everywhere, with beta^2 = k / branches^alpha from `k` and `alpha`.

    Dropout is the tree's, or `dropout` everywhere. With `exact`, the variance of attention's output is from softmax integrals
    over `context` tokens; the released code sets it to the correlation. The correlation of tokens starts with
    `embedding_correlation`, by default that of :func:`embedding_correlation`.
    """
    name = "deepscale"
    if dropout is not None:
        dropout = finite_number(name, "dropout", dropout, high=1 - 1e-9, closed=True)
    k, alpha = finite_number(name, "k", k, closed=True), finite_number(name, "alpha", alpha, closed=True)
    start = _start_correlation(tree) if embedding_correlation is None else embedding_correlation
    start = finite_number(name, "embedding_correlation", start, high=1.0, closed=exact)
    tokens = int(finite_number(name, "context", context or tree.context))
    embedding_dropout = tree.stem.dropout if dropout is None else dropout
    scales, recursions = {}, {}
    memory: float | None = None
    for stack_name, stack in tree.stacks.items():
        count = branch_counts(tree)[stack_name]
        if k > count**alpha:
            raise InputError(f"deepscale: k={k:g} is more than the number of branches to the power alpha, so beta exceeds 1")
        together = len(stack.repeats[0].block.branches) if stack.repeats[0].block.parallel else 1
        scales[stack_name] = deepscale_scales(count, k, alpha, together)
        recursions[stack_name] = _follow_depth(
            stack, scales[stack_name], start * (1 - embedding_dropout), memory, dropout, tokens, exact
        )
        memory = recursions[stack_name].correlation[-1]

    def rule(weight: Weight) -> Choice:
        plain = stated_choice(weight)
        if plain is not None:
            return _embedding_norm_choice(weight, plain, embedding_dropout) if weight.role == "stem.norm.weight" else plain
        if weight.job.group == "table" or weight.kind == "patch":
            return _table_choice(tree, weight, embedding_dropout)
        if weight.stack:
            rate = _branch_dropout(tree, weight, dropout)
            return _block_choice(weight, rate, dropout, recursions[weight.stack], exact)
        return Choice(1 / math.sqrt(weight.fan_in), "1/sqrt(fan-in), which preserves the variance")

    def residual(stack: str, branch: str, index: int) -> tuple[Values, Values, str]:
        skip, scale = scales[stack]
        if tree.stack.repeats[0].block.parallel:
            return skip, scale, f"one sum with one skip: lambda^2 + 2 beta^2 = 1 with beta^2 = {k:g} / branches^{alpha:g}"
        return skip, scale, f"lambda^2 + beta^2 = 1 with beta^2 = {k:g} / branches^{alpha:g}"

    draft = Draft(tree, rule, residual)
    draft.extras |= {
        "lambda": {stack: value[0] for stack, value in scales.items()},
        "beta": {stack: value[1] for stack, value in scales.items()},
        "embedding_correlation": start,
        "correlation": {stack: tuple(value.correlation) for stack, value in recursions.items()},
    }
    head = tree.language_head
    if head is not None and head.unembedding.tied:
        std = _table_std(tree, embedding_dropout)[0] / tree.stem.table_scale("tokens")
        draft.output = 1 / (std * math.sqrt(head.unembedding.width))
        draft.output_reason = "logits over std sqrt(width) of the tied table, for unit variance"
    if tree.stem.images and embedding_correlation is None:
        draft.remarks.append(
            f"the correlation of image patches is assumed to be {PATCH_CORRELATION}; measure it and set embedding_correlation"
        )
    return draft


def _start_correlation(tree: Transformer) -> float:
    return embedding_correlation(tree)


def _embedding_norm_choice(weight: Weight, plain: Choice, dropout: float) -> Choice:
    """The choice for the gain of an embedding norm, which compensates for the dropout after it."""
    if not dropout:
        return plain
    gain = math.sqrt(1 - dropout) - weight.tensor.offset
    return plain._replace(mean=gain, reason="sqrt(1 - p), for unit variance after the dropout that follows")


def _table_std(tree: Transformer, dropout: float) -> tuple[float, str]:
    """Standard deviation of one table's contribution to the stream, and the reason."""
    stem, tables = tree.stem, tree.stem.summed_tables
    if stem.fixed_variance and dropout < 0.5:
        return math.sqrt((0.5 - dropout) / tables), "sqrt((1/2 - p) / tables): sines and cosines have variance 1/2 already"
    return math.sqrt((1 - dropout) / tables), f"sqrt((1 - p) / {tables}): unit variance after the sum of tables and dropout"


def _table_choice(tree: Transformer, weight: Weight, dropout: float) -> Choice:
    std, reason = _table_std(tree, dropout)
    if weight.kind == "class_token":
        reason = "sqrt((1 - p) / 2), as for the patches"
    return Choice(std / math.sqrt(weight.fan_in) / tree.stem.table_scale(weight.kind), reason)


def _branch_dropout(tree: Transformer, weight: Weight, dropout: float | None) -> float:
    if dropout is not None:
        return dropout
    branches = tree.stacks[weight.stack].repeats[0].block.branches
    return float(dict(branches).get(weight.branch, branches[0][1]).dropout)


def _block_choice(weight: Weight, rate: float, override: float | None, blocks: _Blocks, exact: bool) -> Choice:
    attention, feed_forward, kind = weight.owner.as_attention, weight.owner.as_feed_forward, weight.kind
    if attention is not None and kind in ("query", "key"):
        scale = attention.score_scale
        # Unit variance of the scores for any factor on them in the model.
        std = (scale * scale * attention.head_dim) ** -0.25 / math.sqrt(weight.fan_in)
        return Choice(std, "1/sqrt(width): unit score variance")
    if attention is not None and attention.normed_inside:
        std = math.sqrt((1 - rate if kind == "out" else 1.0) / weight.fan_in)
        return Choice(std, "1/sqrt(fan-in): the norm before the output map fixes the variance")
    if attention is not None and weight.job.carries and weight.branch:  # a skipped one is not a branch
        spread = blocks.value[weight.branch]
        name = "D_l" if exact else "r_l"
        reason = f"sqrt(sqrt((1 - p) / {name}) / fan-in): value and output together compensate for the averaging over tokens"
        return Choice(lambda block: math.sqrt(math.sqrt((1 - rate) / spread[block]) / weight.fan_in), reason)
    if kind == "router":
        reason = f"{ROUTER_STD:g}/sqrt(width), so that the chosen experts have nearly equal weights (ours)"
        return Choice(ROUTER_STD / math.sqrt(weight.fan_in), reason)
    if feed_forward is not None and kind in ("gate", "up", "down"):
        hidden_rate = 0.0 if override == 0 else feed_forward.dropout
        return _feed_forward_choice(weight, feed_forward, (1 - rate) * (1 - hidden_rate))
    return Choice(1 / math.sqrt(weight.fan_in), "1/sqrt(fan-in), which preserves the variance")


def _feed_forward_choice(weight: Weight, part: FeedForwardLike, keep: float) -> Choice:
    second = activation_second_moment(part.activation) * activation_second_moment(part.up_activation)
    if part.normed_inside:
        second = 1.0
    elif part.activation == "relu" and not part.gated and weight.mixture is None:
        std = (2 * keep / (part.width * part.hidden)) ** 0.25
        return Choice(std, "(2 (1 - p) / (width hidden))^(1/4); at four times the width, sqrt(sqrt((1 - p) / 2) / width)")
    if weight.kind != "down":
        return _reading_choice(weight)
    reason = "sqrt((1 - p) / (hidden E f^2)) with the second moment of the activation"
    if part.normed_inside:
        reason = "sqrt((1 - p) / hidden), as the norm before this map fixes the variance"
    factor = 1.0
    if weight.mixture is not None:
        factor, more = _mixture_factor(weight, weight.mixture)
        reason = f"{reason}; {more}"
    return Choice(math.sqrt(factor * keep / (part.hidden * second)), reason)


def _reading_choice(weight: Weight) -> Choice:
    """The choice for a matrix that reads the stream, or the stream times the weight of the expert."""
    reason, mixture = "1/sqrt(width): unit variance at the input of the activation", weight.mixture
    if mixture is None or not mixture.rule.scales_input or ".shared." in weight.role:
        return Choice(1 / math.sqrt(weight.fan_in), reason)
    square = _weight_squares(mixture) / mixture.top_k
    return Choice(
        1 / math.sqrt(square * weight.fan_in), f"{reason}, times the router's weight of {math.sqrt(square):.3g} (ours)"
    )


def _weight_squares(mixture: MixtureLike) -> float:
    """E sum w^2 of the weights that a token's experts have; those that sum to 1 are taken as equal."""
    from ..numerics.routing import routing

    rule = mixture.rule
    if mixture.renormalized:
        return rule.factor**2 / mixture.top_k
    groups = (rule.groups, rule.top_groups, rule.counted) if rule.limited else (1, 1, 1)
    options = (mixture.experts, mixture.top_k, False, rule.scores == "sigmoid", groups)
    return rule.factor**2 * routing(ROUTER_STD**2, 1.0, *options).overlap


def _mixture_factor(weight: Weight, mixture: MixtureLike) -> tuple[float, str]:
    half = 0.5 if mixture.shared is not None else 1.0
    if ".shared." in weight.role:
        gate = ", after a gate of one half" if mixture.shared_gate else ""
        return half * (4.0 if gate else 1.0), f"half of the variance{gate} (ours)"
    if mixture.rule.scales_input:
        return half / mixture.top_k, f"over sqrt({mixture.top_k}), the number of experts in the sum (ours)"
    if not mixture.renormalized:
        square = _weight_squares(mixture)
        return half / square, f"over {math.sqrt(square):.3g}, the root of the sum of the squares of the experts' weights (ours)"
    factor = mixture.rule.factor
    more = "" if factor == 1 else f" over their factor {factor:g}"
    return half * mixture.top_k / factor**2, f"times sqrt({mixture.top_k}){more}, the number of experts in the average (ours)"


def _follow_depth(
    stack: Stack,
    scales: tuple[float, float],
    start: float,
    memory: float | None,
    dropout: float | None,
    tokens: int,
    exact: bool,
) -> _Blocks:
    """The correlation of tokens along a stack, and the variance of each attention branch's output at that correlation."""
    skip, scale2 = scales[0], scales[1] ** 2
    r = start
    value: dict[str, list[float]] = {name: [] for name in stack.branches}
    correlations = [r]
    spreads: dict[Any, Callable[[float], tuple[float, float]]] = {}
    kernels: dict[Any, Callable[[float], float]] = {}
    for block in stack.blocks():
        added = 0.0
        block_input = r
        passed_over = memory is None and block.reads_memory  # without anything to attend to, as in a text without images
        for name, residual in () if passed_over else block.branches:
            rate = residual.dropout if dropout is None else dropout
            attention, feed_forward = residual.branch.as_attention, residual.branch.as_feed_forward
            if attention is not None:
                correlation = (memory or 0.0) if attention.cross else (block_input if block.parallel else r)
                kind = (attention.causal, attention.window, attention.cross, attention.dropout)
                if kind not in spreads:
                    spreads[kind] = _attention_spread(attention, tokens, dropout) if exact else _released_spread
                variance, covariance = spreads[kind](correlation)
                value[name].append(variance)
                output = (1 - rate) * covariance / variance
            elif feed_forward is None:
                other = type(residual.branch).__name__
                raise InputError(f"deepscale: the scheme is for attention and feed-forward parts, but {name} is a {other}")
            else:
                nonlinearity = (feed_forward.activation, feed_forward.gated, feed_forward.up_activation)
                if nonlinearity not in kernels:
                    kernels[nonlinearity] = _kernel(*nonlinearity)
                output = (1 - rate) * kernels[nonlinearity](block_input if block.parallel else r)
            if block.parallel:
                added += scale2 * output
            else:
                r = _next_correlation(r, 1, scale2 * output, scale2, skip)
        if block.parallel:
            r = _next_correlation(block_input, len(block.branches), added, scale2, skip)
        correlations.append(r)
        for variances in value.values():  # of a branch that this block lacks
            variances += [1.0] * (len(correlations) - 1 - len(variances))
    return _Blocks(value, correlations)


def _next_correlation(r: float, branches: int, added: float, scale2: float, skip: float) -> float:
    """The correlation of a stream of unit variance after branches of unit variance, with `added` their total covariance."""
    q, c, *_ = advance(1.0, r, None, branches * scale2, added, 0.0, 1, skip)
    return float(c / q)


def _released_spread(r: float) -> tuple[float, float]:
    """Variance and covariance in the released recursion, both r: the leading order for long sequences."""
    return r, r


def _kernel(name: str, gated: bool, other: str) -> Callable[[float], float]:
    """E f(x) f(y) / E f^2 at unit variance as a function of the correlation, and times that of the other factor if gated."""
    pair = _relu_kernel if name == "relu" else _tabulated_kernel(name)
    if gated and other != "identity":
        second = _tabulated_kernel(other)
        return lambda r: second(r) * pair(r)
    return (lambda r: r * pair(r)) if gated else pair


@functools.lru_cache(maxsize=64)
def _tabulated_kernel(name: str) -> Callable[[float], float]:
    import numpy as np

    from ..layers.activations import activation

    grid = np.linspace(0.0, 1.0, 257)
    values = np.asarray(activation(name).pair_moment(1.0, grid)) / activation_second_moment(name)
    return lambda r: float(np.interp(r, grid, values))


def _relu_kernel(r: float) -> float:
    return 2 * float(relu_pair_moment(1.0, 1.0, min(max(r, -1.0), 1.0)))  # rounding may leave [-1, 1]


def _attention_spread(attention: AttentionLike, tokens: int, override: float | None) -> Callable[[float], tuple[float, float]]:
    """D(r) = r + (1 - r) P + e_p P and the covariance, as functions of r, averaged over the rows of a causal mask.

    The covariance uses the approximation P2 ~ exp(r s) / (exp(r s) + n - 1) with s = 1 - r, whose share is small relative to r.
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

    from ..numerics.softmax import overlap

    grid = 1 - (1 - np.linspace(0.0, 1.0, 33)) ** 2  # finer near 1, which correlations approach
    lengths, rows = [tokens], np.array([tokens])
    if causal:
        lengths = sorted({*range(1, min(reach, 8) + 1), *(round(reach ** (i / 24)) for i in range(25))})
        rows = np.minimum(np.arange(1, tokens + 1), reach)
    table = overlap((1 - grid)[:, None], np.array(lengths)[None, :]).P
    shares = [np.interp(np.log(rows), np.log(lengths), line).mean() for line in table]
    shared = np.exp(grid * (1 - grid))
    pair = [(one / (one + rows - 1)).mean() for one in shared]
    return grid, np.array(shares), np.array(pair)
