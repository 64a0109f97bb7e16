"""Norms of attention heads, and the bounds that published covering arguments derive from them.

A head takes tokens x, rows of norm at most B, to W_V sum_t p_t x_t with p = softmax(x_t' W_QK z) for the query token z. W_QK is
the scaled product of key and query matrices, W_V that of output and value matrices: the layer's output is the sum of its heads.
Biases, rotations of queries and keys, and norms of queries and keys are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..formulas import capacity as laws
from ..layers import AttentionLike
from ..numerics.network_norms import group_norm, matrix
from ..numerics.spectra import product_sizes, ranks
from ..values import frozen
from .capacity import CapacityResult, evaluated, without_value
from .head_ranks import Weights, attentions

Array = Any


@frozen
class HeadNorms:
    """The norms of one head."""

    site: str
    """The attention layer."""
    head: int
    score_spectral: float
    """Spectral norm of W_QK."""
    score_group: float
    """Sum of the norms of its rows, which are its outputs."""
    score_entries: float
    """Sum of its absolute entries."""
    score_nuclear: float
    """Sum of its singular values."""
    score_rank: int
    """Singular values above a thousandth of the largest."""
    score_effective_rank: float
    """Exponential of the entropy of the singular values; 0 of a head without scores."""
    value_spectral: float
    """Spectral norm of W_V."""
    value_group: float
    value_entries: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dict(vars(self))


def head_norms(site: str, head: int, query: Any, key: Any, value: Any, out: Any, scale: float) -> HeadNorms:
    """The norms of one head.

    Parameters
    ----------
    query, key : (head dim, width); of grouped heads the shared key.
    value : (value dim, width).
    out : (width, value dim), the columns of the output matrix that read this head.
    scale : factor on the scores.

    Raises
    ------
    InputError
        if shapes do not fit, or a matrix holds NaN.
    """
    q, k, v, o = (matrix(one, f"{site} head {head}: {name}") for name, one in
                  (("query", query), ("key", key), ("value", value), ("out", out)))  # fmt: skip
    if len(q) != len(k) or o.shape[1] != len(v):
        raise InputError(
            f"{site} head {head}: query {q.shape} and key {k.shape}, or value {v.shape} and out {o.shape}, do not fit"
        )
    own = ranks(abs(scale) * product_sizes(k.T, q))
    scores, values = scale * (k.T @ q), o @ v
    return HeadNorms(
        site, head, own.spectral_norm, group_norm(scores, 2, 1), float(np.abs(scores).sum()), own.nuclear_norm, own.numerical,
        own.effective, float(product_sizes(o, v)[0]), group_norm(values, 2, 1), float(np.abs(values).sum()),
    )  # fmt: skip


def layer_heads(weights: Weights) -> tuple[dict[str, tuple[HeadNorms, ...]], str]:
    """The norms of all heads by attention layer, and the reason why layers are left out, empty if none is.

    Parameters
    ----------
    weights : of a tree, a checkpoint's or a live model's; one layer's are held at a time.

    Raises
    ------
    InputError
        if a weight is not finite, or has another shape than the tree's.
    """
    found, reason = {}, "" if any(True for _ in attentions(weights.tree)) else "the model has no attention"
    for stack, block, path, attention in attentions(weights.tree):
        site, role = f"{stack}.block.{block}.{path}", f"{stack}.block.{path}"
        if not getattr(attention, "plain", False):
            reason = (
                f"{site} is no plain attention of a stack to itself, without norms inside, to which the arguments are confined"
            )
            continue
        maps = [weights.read(f"{role}.{name}.weight", block) for name in ("query", "key", "value", "out")]
        if any(one is None for one in maps):
            reason = f"the weights of {site} are not there"
            continue
        found[site] = _split(site, attention, maps)
    return found, reason


def _split(site: str, attention: AttentionLike, maps: Sequence[Array]) -> tuple[HeadNorms, ...]:
    q, k, v, o = maps
    dim, value_dim = attention.head_dim, attention.value_dim
    heads = []
    for head in range(attention.heads):
        shared = head * attention.kv_heads // attention.heads
        own, key = (slice(i * dim, (i + 1) * dim) for i in (head, shared))
        value, out = (slice(i * value_dim, (i + 1) * value_dim) for i in (shared, head))
        heads.append(head_norms(site, head, q[own], k[key], v[value], o[:, out], attention.score_scale))
    return tuple(heads)


_ALONE = (
    "of one layer whose heads have these norms as limits fixed beforehand, the rest of the model being fixed and the loss "
    "1-Lipschitz in the layer's output; not of the whole model"
)


def attention_results(
    heads: Sequence[HeadNorms], *, width: int, input_norm: float, samples: int, length: int, failure: float = 0.05
) -> tuple[CapacityResult, ...]:
    """The covering results of one attention layer.

    Parameters
    ----------
    heads : of that layer.
    width : features of a token.
    input_norm : B, largest norm of a token at the layer's input.
    samples : independent training sequences.
    length : tokens of a sequence.
    failure : probability with which the bound may fail.
    """
    site = heads[0].site
    known = [one for one in heads if one.score_spectral > 0 and one.value_spectral > 0]
    if len(known) < len(heads):
        reason = "a head has scores or values of zero"
        return tuple(
            without_value(name, law, reason, site=site)
            for name, law in (
                ("attention covering order", laws.head_covering_order),
                ("attention covering scale", laws.joint_covering_scale),
                ("attention layer gap", laws.rademacher_gap),
            )
        )
    order = math.fsum(_covering_order(one, input_norm, samples, length) for one in heads)
    proxy = CapacityResult(
        "attention covering order", order, "proxy", laws.head_covering_order.name, site,
        sentence="nats at resolution 1, up to a constant, summed over heads",
    )  # fmt: skip
    scale = laws.joint_covering_scale(math.fsum(c ** (2 / 3) for one in heads for c in covering_parts(one, width, input_norm)))
    covering = CapacityResult(
        "attention covering scale", float(scale), "bound", laws.joint_covering_scale.name, site, sentence=f"C {_ALONE}"
    )
    return proxy, covering, _layer_gap(site, float(scale), samples, failure)


def _covering_order(head: HeadNorms, input_norm: float, samples: int, length: int) -> float:
    return float(
        laws.head_covering_order(
            input_norm, head.value_spectral, head.value_group, head.score_group, samples=samples, length=length
        )
    )


def covering_parts(head: HeadNorms, width: int, input_norm: float) -> tuple[float, float]:
    """C of a head's value map and of its score map, both seen in its output.

    A score map within eps changes a score by at most B eps, and the output by B |W_V| times that
    (:func:`~depthwidth.formulas.capacity.head_perturbation`).
    """
    value = laws.map_covering_scale(input_norm, head.value_entries, width, width)
    score = laws.map_covering_scale(input_norm, head.score_entries, width, width, input_norm**2 * head.value_spectral)
    return float(value), float(score)


def _layer_gap(site: str, scale: float, samples: int, failure: float) -> CapacityResult:
    name = "attention layer gap"
    if 3 * scale > math.sqrt(samples):
        return CapacityResult(
            name, None, "bound", laws.rademacher_gap.name, site, True,
            f"3 C = {3 * scale:.3g} exceeds sqrt(m) = {math.sqrt(samples):.3g}: above the largest loss; {_ALONE}",
        )  # fmt: skip
    complexity = laws.covered_rademacher(scale, samples)
    given = {"complexity": complexity, "samples": samples, "failure": failure}
    return evaluated(name, laws.rademacher_gap, given, of_error=True, site=site, sentence=_ALONE)
