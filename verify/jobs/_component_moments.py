"""Predicted moments of single components, by this package and by the forms that Kedia et al. published."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from depthwidth.analysis.component_grid import GRIDS, predict
from depthwidth.formulas import attention as formulas
from depthwidth.formulas.attention import attention_moments
from depthwidth.formulas.moments import norm_correlation
from depthwidth.layers import ALiBi
from depthwidth.signal.alibi_attention import BiasedAttention, biased_attention
from depthwidth.signal.positions import Distances

_UNSCALED = {
    "mean": 0.0, "std": 1.0, "correlation": 0.0, "weight_std": 1.0, "value_std": 1.0, "gradient_std": 1.0, "dropout": 0.0,
    "gradient_correlation": 1.0,
}  # fmt: skip
"""Values on the axes that enter by an exact factor and do not stand in a row's site."""

Moments = dict[str, float]


@functools.lru_cache(maxsize=64)
def predictions(component: str, grid: str, settings: tuple[tuple[str, float], ...]) -> tuple[Moments, Moments]:
    """Each quantity at one setting, by this package and, if they differ, by the published forms."""
    given = dict(settings)
    if grid != "official":
        return _beyond(grid, given)
    every = {name: given[name] if name in given else _UNSCALED[name] for name in GRIDS[component]}
    expected = {name: float(value) for name, value in predict(component, every).items()}
    if component == "attention":
        return expected, _published_attention(
            every["correlation"], every["score_std"] ** 4, every["width"], every["length"], every["dropout"],
            every["gradient_correlation"], every["head_dim"] / every["width"],
        )  # fmt: skip
    if component == "layernorm":
        r = every["correlation"]
        return expected, {"covariance": r * (1 - 1 / every["width"]), "gradient_variance": 1.0, "gradient_covariance": 1.0}
    if component == "softmax":
        s2, length = (1 - every["correlation"]) * every["std"] ** 2, every["length"]
        return expected, {
            "variance": formulas.softmax_variance_full_published(s2, length),
            "gradient_variance": formulas.softmax_gradient_full_published(s2, length),
        }
    return expected, {}


def _beyond(grid: str, given: Mapping[str, float]) -> tuple[Moments, Moments]:
    """Attention beyond the grid: tokens of one norm, all heads of a layer."""
    width, length, s = int(given["width"]), int(given["length"]), given["score_variance"]
    r = float(norm_correlation(given["correlation"], width + 1))
    p, r_g, cross = given.get("dropout", 0.0), given.get("gradient_correlation", 0.0), grid == "cross"
    if grid == "alibi":
        slopes = ALiBi().slopes(int(given["heads"]))
        return _penalised(r, r_g, s, biased_attention(
            Distances.back(length), slopes, head_dim=int(given["head_dim"]), width=width, dropout=p,
        )), {}  # fmt: skip
    asking: dict[str, Any] = {}
    if cross:
        asking = {
            "queries": int(given["queries"]),
            "row_correlation": float(norm_correlation(given["row_correlation"], width + 1)),
        }
    layer = attention_moments(
        1.0, r, length=length, width=width, head_dim=int(given["head_dim"]), score_gain=s, dropout=p, gradient_correlation=r_g,
        causal=grid == "causal", equal_norms=True, **asking,
    )  # fmt: skip
    expected = {"variance": float(layer.second_moment), "covariance": float(layer.covariance)}
    if cross:
        expected |= {
            "gradient_variance": float(layer.value_gradient + layer.key_gradient),
            "gradient_covariance": float(layer.value_gradient_covariance + layer.key_gradient_covariance),
            "query_gradient_variance": float(layer.query_gradient),
            "query_gradient_covariance": float(layer.query_gradient_covariance),
        }
        return expected, {}
    expected |= {"gradient_variance": float(layer.gradient), "gradient_covariance": float(layer.gradient_covariance)}
    return expected, _published_attention(r, s, width, length, p, r_g, 1.0)


def _penalised(r: float, r_g: float, s: float, layer: BiasedAttention) -> Moments:
    """Causal attention with a penalty on distance."""
    positions = layer.positions
    out = layer(*positions.uniform(1.0, r), s)
    (asked, asked_pair), (sent, sent_pair) = out.pull(*positions.uniform(1.0, r_g))
    return {
        "variance": positions.mean(out.second_moment), "covariance": positions.pair_mean(out.covariance),
        "gradient_variance": positions.mean(asked + sent), "gradient_covariance": positions.pair_mean(asked_pair + sent_pair),
    }  # fmt: skip


def _published_attention(
    r: float, s: float, width: float, length: float, p: float, r_g: float, share: float
) -> dict[str, float]:  # fmt: skip
    return {
        "variance": formulas.output_second_moment_published(1.0, r, s, width, length, p),
        "covariance": formulas.output_covariance_published(1.0, r, s, width, length),
        "gradient_variance": share * formulas.gradient_second_moment_published(1.0, 1.0, r_g, length, p),
        "gradient_covariance": share * formulas.gradient_covariance_published(1.0, 1.0, r_g, length),
    }
