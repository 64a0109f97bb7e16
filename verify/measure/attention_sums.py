"""Moments of one attention head for given tokens, query and key weights, averaged exactly over everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch

from .attention import squared_sum

Tensor: TypeAlias = Any  # torch.Tensor, which mypy does not follow here


def attention_sums(
    x: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    query_tokens: Tensor | None = None,
    causal: bool = False,
    slope: float = 0.0,
) -> dict[str, Tensor]:
    r"""Second moments of one head's output and of the gradient with respect to its input, for given tokens and weights.

    The average is exact over the value weights (independent, variance 1/d), the gradient with respect to the output
    (independent features, covariance over tokens gamma I + kappa (11' - I)) and the dropout mask.

    Parameters
    ----------
    x : tokens of the keys and values, (..., L, d).
    query_weight, key_weight : (..., d, d_h); a score is q.k / sqrt(d_h).
    query_tokens : tokens of the queries, (..., L_q, d). By default they are `x` (self-attention), and then the value, query and
        key paths of the gradient are correlated.
    causal : token i attends to tokens up to i.
    slope : slope of ALiBi: each score is reduced by this times the distance between its two tokens.

    Returns
    -------
    Sums over tokens and features, each of shape (...): `own` is the sum of squares of the output, `own_ep` the contribution of
    the dropout mask per e_p = p/(1-p), and `all` the sum of squares of the output summed over tokens. For each path of the
    gradient there are the six sums named in ``_SUMS``.
    """
    self_attention = query_tokens is None
    ask = x if query_tokens is None else query_tokens
    d, head = x.shape[-1], query_weight.shape[-1]
    q, k = ask @ query_weight, x @ key_weight
    scores = q @ k.mT / math.sqrt(head)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1 if causal else scores.shape[-1])
    place = torch.arange(x.shape[-2], device=x.device)
    biased = scores - slope * (place[:, None] - place).abs() if slope else scores
    a = biased.masked_fill(hidden, -math.inf).softmax(-1)
    norms = x.square().sum(-1)[..., None, :]
    columns, squares, shared = a.sum(-2), a.square(), squared_sum(a)

    def total(value: Tensor) -> Tensor:
        return value.double().flatten(-2).sum(-1) if value.ndim > x.ndim - 1 else value.double().sum(-1)

    mixed = a @ x
    sums = {
        "own": total(mixed.square()) / d,
        "own_ep": total(squares * norms) / d,
        "all": mixed.sum(-2).double().square().sum(-1) / d,
    }
    # The Jacobians J_i = diag a_i - a_i a_i' map constant vectors to zero, so tokens and keys may be centred.
    apart = x - x.mean(-2, keepdim=True)
    kc = k - k.mean(-2, keepdim=True)
    cq, ck = query_weight.mT @ query_weight / head, key_weight.mT @ key_weight / head
    gram, other = apart @ apart.mT, (kc @ cq) @ kc.mT  # Gram matrices of the tokens, and of the keys times the query weights
    ma, mk = a @ apart, a @ kc
    ag, ah = ma @ apart.mT, (mk @ cq) @ kc.mT
    aga, aha = ma.square().sum(-1), ((mk @ cq) * mk).sum(-1)
    # Query path: trace of J G J H for each row, and for the sum over rows.
    own_q = total((a @ (gram * other)) * a) - 2 * total(a * ag * ah) + total(aga * aha)
    bar = columns[..., None] * kc - a.mT @ mk  # (sum of J_i) K
    crossed = apart.mT @ bar
    all_q = total((crossed @ cq) * crossed)
    norm_rows = (squares * norms).sum(-1)
    dropped_q = (
        total(squares * norms * other.diagonal(dim1=-2, dim2=-1)[..., None, :])
        - 2 * total(squares * norms * ah)
        + total(norm_rows * aha)
    )
    # Key path: trace of J_i G J_i' times the product of the two queries, weighted by the key weights.
    weights = ((q @ ck) * q).sum(-1)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)[..., None, :]
    own_k = total(((squares * diagonal).sum(-1) - 2 * (squares * ag).sum(-1) + shared * aga) * weights)
    first, second = a.mT @ q, (a * ag).mT @ q
    all_k = (
        total(diagonal.mT * ((first @ ck) * first))
        - 2 * total((first @ ck) * second)
        + total((q @ ck @ q.mT) * (a @ a.mT) * (ma @ ma.mT))
    )
    dropped_k = total((norm_rows - 2 * (squares * a * norms).sum(-1) + shared * norm_rows) * weights)
    zero = 0 * own_k
    paths = {  # for output gradients that are independent or equal over tokens; "dropped" is the dropout mask's contribution
        "value": (d * total(squares), d * total(columns.square()), d * total(squares), d * a.sum(-1).double().square().sum(-1),
                  d * a.double().sum((-2, -1)).square(), d * total(squares)),
        "query": (own_q, own_q, dropped_q, own_q, all_q, dropped_q),
        "key": (own_k, all_k, dropped_k, zero, zero, zero),
    }  # fmt: skip
    rows = a * (scores - (a * scores).sum(-1, keepdim=True))
    paths["value key"] = (
        2 * total(a * rows), 2 * total(columns * rows.sum(-2)), 2 * total(squares * (1 - a) * scores), zero, zero, zero,
    )  # fmt: skip
    if self_attention:
        own, every = a.diagonal(dim1=-2, dim2=-1), scores.diagonal(dim1=-2, dim2=-1)[..., None, :]
        mean = a @ scores.mT  # of row j by the weights of row i
        trace = (a * (every - mean)).sum(-1)  # of J_i S
        shares = squares * (every - mean)
        paths["value query"] = (
            2 * total(own * trace), 2 * total(columns * trace), 2 * total(shares.diagonal(dim1=-2, dim2=-1)),
            2 * total(trace), 2 * columns.shape[-1] * total(trace), 2 * total(shares),
        )  # fmt: skip
        both = query_weight.mT @ key_weight / head
        twice = q @ both.mT @ k.mT  # x_i' M M x_k, where a score is x_i' M x_k
        mean = (a @ k) @ both @ q.mT
        met = a.mT * (
            ((gram * a) @ k) @ both @ q.mT - a @ (ag * twice).mT - mean * ((gram * a).sum(-1)[..., None] - ma @ ma.mT)
        )
        at = a * (twice - mean.diagonal(dim1=-2, dim2=-1)[..., None])
        dropped = own * (norms[..., 0, :] * at.diagonal(dim1=-2, dim2=-1) - (a * norms * at).sum(-1))
        paths["query key"] = (2 * total(met.diagonal(dim1=-2, dim2=-1)), 2 * total(met), 2 * total(dropped), zero, zero, zero)
    for path, values in paths.items():
        sums |= {f"{path} {name}": value for name, value in zip(_SUMS, values, strict=True)}
    return sums


_SUMS = ("independent", "equal", "dropped", "independent all", "equal all", "dropped all")


def gradient_moments(
    sums: Mapping[str, Any], r_g: float, ep: float, length: int, queries: int, width: int, head: int, cross: bool
) -> dict[str, Any]:
    """Moments of the gradient with respect to the input, per feature, from the result of :func:`attention_sums`.

    Parameters
    ----------
    sums : result of :func:`attention_sums`.
    r_g : correlation of the output's gradient between two tokens.
    ep : p / (1 - p) for the dropout rate p of the attention weights.
    length, queries : number of tokens of the keys, and of the queries.
    width, head : d and d_h.
    cross : cross-attention, for which the moments of the queries' tokens are returned separately.
    """

    def moments(paths: Iterable[str], rows: int) -> tuple[Any, Any]:
        def mixture(suffix: str) -> Any:
            terms = ((1 - r_g, "independent"), (r_g, "equal"), (ep, "dropped"))
            return sum(factor * sums[f"{path} {name}{suffix}"] for path in paths for factor, name in terms)

        own, every = mixture(""), mixture(" all")
        unit = head / (width * width)
        return own * unit / rows, (every - own) * unit / (rows * (rows - 1))

    if not cross:
        own, pair = moments(("value", "query", "key", "value key", "value query", "query key"), length)
        return {"gradient_variance": own, "gradient_covariance": pair}
    source, pair = moments(("value", "key", "value key"), length)
    query, query_pair = moments(("query",), queries)
    return {
        "gradient_variance": source,
        "gradient_covariance": pair,
        "query_gradient_variance": query,
        "query_gradient_covariance": query_pair,
    }
