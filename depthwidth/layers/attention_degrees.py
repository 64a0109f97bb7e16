"""Degrees of attention in its weights, for ``check-invariance``: the parts that kinds of attention have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from .linear import Linear


def attention_degree(layer: Any, x: Powers, at: Place) -> Powers:
    """The powers of the output; the softmax has a condition on its scores, positive scores over their sum have none."""
    return at.at("out").through(layer.out, joined_degree(layer, x, at))


def joined_degree(layer: Any, x: Powers, at: Place) -> Powers:
    """The powers of the joined heads, which the output map reads."""
    source = (at.walk.memory or {}) if layer.cross else x
    query = query_degree(layer, x, at)
    if layer.borrows:
        if layer.window not in at.walk.kept:
            return at.unknown(layer, x, "the degrees of borrowed keys and values are not derived")
        key, value = at.walk.kept[layer.window]
        return mixed_degree(layer, at.apply("product", query, key), value, at)
    key, value = key_degree(layer, source, at), layer.value_degree(source, at)
    if layer.position is not None and not layer.cross:
        place = at.at("position")
        key, value = layer.position.key_degree(key, place), layer.position.value_degree(value, place)
    if not layer.cross:
        at.walk.kept[layer.window] = key, value
    return mixed_degree(layer, at.apply("product", query, key), value, at)


def query_degree(layer: Any, x: Powers, at: Place) -> Powers:
    """The powers of queries, after their norm."""
    query = at.at("query").through(layer.query, x)
    return query if layer.query_norm is None else at.at("query_norm").through(layer.query_norm, query)


def key_degree(layer: Any, source: Powers, at: Place, key: Linear | None = None) -> Powers:
    """The powers of keys, after their norm; by default without a bias that the softmax leaves out."""
    found = at.at("key").through(_key_that_counts(layer) if key is None else key, source)
    return found if layer.key_norm is None else at.at("key_norm").through(layer.key_norm, found)


def value_degree(layer: Any, source: Powers, at: Place) -> Powers:
    """The powers of values, given those of their input."""
    return at.at("value").through(layer.value, source)


def mixed_degree(layer: Any, scores: Powers, value: Powers, at: Place) -> Powers:
    """The powers of the joined heads, given those of scores before positions and of values."""
    if layer.softcap is not None:
        scores = at.apply("gelu", scores, reason="tanh caps the scores")
    if layer.position is not None and not layer.cross:
        scores = at.at("position").through(layer.position, scores)
    if at.walk.score_bias is not None and not layer.cross:
        scores = at.apply("sum", scores, at.walk.score_bias, reason="a score bias of another degree is added to scores")
    if layer.sinks:
        scores = at.apply("sum", scores, at.weight("sinks"), reason="sinks are joined to scores of another degree")
    weights = at.apply("row_norm", at.apply("relu", scores))
    if layer.takes_softmax:
        weights = at.apply("softmax", scores, reason="softmax of scores that are not of degree 0")
    mixed = at.apply("product", weights, value)
    return mixed if layer.inner_norm is None else at.at("inner_norm").through(layer.inner_norm, mixed)


def _key_that_counts(layer: Any) -> Linear:
    """The key map without a bias that adds one number to all scores of a query, which the softmax leaves out."""
    alike = layer.takes_softmax and layer.softcap is None and layer.key_norm is None and not layer.sinks
    turned = layer.position is not None and not layer.position.adds_scores and not layer.cross
    key: Linear = layer.key
    return key.replace(bias=False) if key.bias and alike and not turned else key
