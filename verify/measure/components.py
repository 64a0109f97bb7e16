"""Single components simulated over the official grids and beyond them, beside what is predicted.

    python -m verify.measure.components --out results                  # everything; about ten minutes on one core
    python -m verify.measure.components --out results --cells 20       # a seeded sample of the settings of each component

Each *problem* is a setting that has to be drawn; the settings of a grid that differ from it by an exact factor (the scale of a
weight, of an input, of a gradient) share its draws, and a row says in `cells` how many it stands for. What can be averaged
exactly is: over the output's gradient, over the mask of dropout and over value weights an expectation of a quadratic form is a
trace. What is left is drawn; known moments of the drawn input are subtracted as controls, the common part of inputs is
stratified, and the standard error is that over draws.

Rows are appended to ``components.csv`` in the folder as problems end; the same command continues an interrupted run.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import functools
import hashlib
import itertools
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from depthwidth import __version__
from depthwidth.analysis.component_grid import GRIDS, predict
from depthwidth.errors import InputError
from depthwidth.formulas import attention as formulas
from depthwidth.formulas.attention import attention_moments
from depthwidth.formulas.moments import norm_correlation
from depthwidth.layers import ALiBi
from depthwidth.signal.alibi_attention import BiasedAttention, biased_attention
from depthwidth.signal.positions import Distances

Tensor: TypeAlias = Any  # torch.Tensor, which mypy does not follow here
Row = dict[str, Any]

COLUMNS = (
    "component", "grid", "cell", "quantity", "predicted", "published", "measured", "stderr", "scale", "relative_error", "z",
    "cells", "draws", "seed", "version", "torch", "device", "date",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A setting to be drawn. `settings` are those that cannot be scaled away."""

    component: str
    grid: str
    settings: tuple[tuple[str, float], ...]

    @property
    def key(self) -> str:
        """What rows of this problem begin their `cell` with."""
        return " ".join(f"{name}={_short(value)}" for name, value in self.settings)

    def __getitem__(self, name: str) -> Any:
        return dict(self.settings)[name]


def _short(value: float) -> str:
    return f"{value:.4g}"


@dataclass(frozen=True)
class Draws:
    """How a setting is drawn: where, from which seed, and how many times the usual number."""

    device: str = "cpu"
    seed: int = 1
    effort: float = 1.0

    def generator(self, problem: Problem) -> torch.Generator:
        """A generator of this problem's own, so that neither order nor interruption changes a row."""
        text = f"{self.seed} {problem.component} {problem.grid} {problem.key}"
        return torch.Generator(self.device).manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))

    def count(self, usual: float, least: int = 4) -> int:
        """A number of draws."""
        return max(least, math.ceil(self.effort * usual))


# ---- the settings ----


def problems() -> list[Problem]:
    """All settings to be drawn: the official grids, and those outside them."""
    found = [Problem(component, "official", settings) for component, settings in _official()]
    return found + list(_outside())


_DRAWN = {
    "linear": ("inputs", "outputs", "length"),
    "relu": ("std", "correlation", "length"),
    "gelu": ("std", "correlation", "length"),
    "layernorm": ("correlation", "width", "length"),
    "dropout": ("dropout", "width", "length"),
    "softmax": ("std", "correlation", "length"),
    "attention": ("correlation", "score_std", "width", "head_dim", "length"),
}
"""The axes of each grid that have to be drawn; the others enter by exact factors, or sums of them."""


def _official() -> Iterator[tuple[str, tuple[tuple[str, float], ...]]]:
    for component, names in _DRAWN.items():
        for values in itertools.product(*(GRIDS[component][name] for name in names)):
            yield component, tuple(zip(names, values, strict=True))


def _outside() -> Iterator[Problem]:
    """Short sequences, large score variances, masks, cross-attention and ALiBi, of tokens that a norm made equally long."""
    for width, head_dim in ((128, 64), (512, 64)):
        for r, s in itertools.product((0.0, 0.3, 0.8), (1.0, 4.0)):
            for length in (2, 4, 8, 16, 32, 64):
                yield _attention("short", r, s, width, head_dim, length)
    for r, s, length in itertools.product((0.0, 0.3, 0.8), (4.0, 9.0), (128, 256)):
        yield _attention("large variance", r, s, 256, 64, length)
    for width, r, s, length in itertools.product((128, 512), (0.0, 0.3, 0.8), (0.25, 1.0, 4.0), (8, 64, 256)):
        yield _attention("causal", r, s, width, 64, length)
    for r, rho, s, (queries, keys) in itertools.product(
        (0.0, 0.5), (0.0, 0.3, 0.8), (0.25, 1.0, 4.0), ((16, 64), (64, 16), (128, 128))
    ):
        yield _attention("cross", r, s, 256, 64, keys, row_correlation=rho, queries=queries)
    for r, s, length, heads in itertools.product((0.0, 0.3), (0.01, 0.25, 1.0, 4.0), (16, 64, 256), (1, 4, 16)):
        yield _attention("alibi", r, s, 256, 64, length, heads=heads)


def _attention(grid: str, correlation: float, s: float, width: int, head_dim: int, length: int, **others: float) -> Problem:
    settings = {"correlation": correlation, "score_variance": s, "width": width, "head_dim": head_dim, "length": length}
    return Problem("attention", grid, tuple((settings | others).items()))


def sampled(wanted: int | None, seed: int) -> list[Problem]:
    """All problems, or a seeded sample of `wanted` of each component and grid."""
    every = problems()
    if wanted is None:
        return every
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in every:
        groups.setdefault((problem.component, problem.grid), []).append(problem)
    chosen = random.Random(seed)  # noqa: S311  (which settings are drawn, not a secret)
    return [p for group in groups.values() for p in sorted(chosen.sample(group, min(wanted, len(group))), key=every.index)]


# ---- attention: sums of one draw of tokens, query and key weights, averaged exactly over the rest ----


def attention_sums(
    x: Tensor, query_weight: Tensor, key_weight: Tensor, asking: Tensor | None = None, causal: bool = False, slope: float = 0.0
) -> dict[str, Tensor]:
    r"""Second moments of one head's output and of the gradient at its input, given tokens, query and key weights.

    Averaged exactly over the value weights (independent, variance 1/d), the output's gradient (independent features, covariance
    over tokens gamma I + kappa (11' - I)) and the mask of dropout.

    Parameters
    ----------
    x : tokens attended to, (..., L, d).
    query_weight, key_weight : (..., d, d_h); a score is q.k / sqrt(d_h).
    asking : tokens that ask, (..., L_q, d); those attended to by default, and then the sums of the three paths are added.
    causal : token i attends to tokens up to i.
    slope : a score is smaller by this times the distance of its two tokens (ALiBi).

    Returns
    -------
    Sums over tokens and features, each of shape (...): `own` of the output, `own_ep` what the mask adds per e_p = p/(1-p), and
    `all` of the sum over tokens; and for each path of the gradient the six of ``_SUMS``.
    """
    itself = asking is None
    ask = x if asking is None else asking
    d, head = x.shape[-1], query_weight.shape[-1]
    q, k = ask @ query_weight, x @ key_weight
    scores = q @ k.mT / math.sqrt(head)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1 if causal else scores.shape[-1])
    place = torch.arange(x.shape[-2], device=x.device)
    biased = scores - slope * (place[:, None] - place).abs() if slope else scores
    a = biased.masked_fill(hidden, -math.inf).softmax(-1)
    norms = x.square().sum(-1)[..., None, :]
    columns, squares = a.sum(-2), a.square()

    def total(value: Tensor) -> Tensor:
        return value.double().flatten(-2).sum(-1) if value.ndim > x.ndim - 1 else value.double().sum(-1)

    mixed = a @ x
    sums = {
        "own": total(mixed.square()) / d,
        "own_ep": total(squares * norms) / d,
        "all": mixed.sum(-2).double().square().sum(-1) / d,
    }
    # Rows J_i = diag a_i - a_i a_i' of Jacobians: they ignore what all tokens share, so that everything may be centred.
    apart = x - x.mean(-2, keepdim=True)
    kc = k - k.mean(-2, keepdim=True)
    cq, ck = query_weight.mT @ query_weight / head, key_weight.mT @ key_weight / head
    gram, other = apart @ apart.mT, (kc @ cq) @ kc.mT  # x.x', and what the query weights make of the keys
    ma, mk = a @ apart, a @ kc
    ag, ah = ma @ apart.mT, (mk @ cq) @ kc.mT
    aga, aha = ma.square().sum(-1), ((mk @ cq) * mk).sum(-1)
    # query path: trace of J G J H for each row, and of their sums
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
    # key path: trace of J_i G J_i' times the product of what the two queries weigh
    weights = ((q @ ck) * q).sum(-1)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)[..., None, :]
    own_k = total(((squares * diagonal).sum(-1) - 2 * (squares * ag).sum(-1) + squares.sum(-1) * aga) * weights)
    first, second = a.mT @ q, (a * ag).mT @ q
    all_k = (
        total(diagonal.mT * ((first @ ck) * first))
        - 2 * total((first @ ck) * second)
        + total((q @ ck @ q.mT) * (a @ a.mT) * (ma @ ma.mT))
    )
    dropped_k = total((norm_rows - 2 * (squares * a * norms).sum(-1) + squares.sum(-1) * norm_rows) * weights)
    zero = 0 * own_k
    paths = {  # of gradients that are independent over tokens, and of equal ones; `ep` is what the mask adds
        "value": (d * total(squares), d * total(columns.square()), d * total(squares), d * a.sum(-1).double().square().sum(-1),
                  d * a.double().sum((-2, -1)).square(), d * total(squares)),
        "query": (own_q, own_q, dropped_q, own_q, all_q, dropped_q),
        "key": (own_k, all_k, dropped_k, zero, zero, zero),
    }  # fmt: skip
    rows = a * (scores - (a * scores).sum(-1, keepdim=True))
    paths["value key"] = (
        2 * total(a * rows), 2 * total(columns * rows.sum(-2)), 2 * total(squares * (1 - a) * scores), zero, zero, zero,
    )  # fmt: skip
    if itself:
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


def tokens(shape: Sequence[int], correlation: float, width: int, generator: torch.Generator, normed: bool) -> Tensor:
    """Gaussian tokens (..., L, d) of unit variance with this correlation; with `normed`, each then made of length sqrt(d)."""
    *batch, length = shape
    common = torch.randn(*batch, 1, width, generator=generator, device=generator.device)
    own = torch.randn(*batch, length, width, generator=generator, device=generator.device)
    x = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    return x * (math.sqrt(width) / x.norm(dim=-1, keepdim=True)) if normed else x


def _gram_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of a feature, and mean product of two tokens."""
    length, width = x.shape[-2:]
    own = x.double().square().sum((-2, -1))
    every = x.double().sum(-2).square().sum(-1)
    return own / (length * width), (every - own) / (length * (length - 1) * width)


def _attention_draws(problem: Problem, draws: Draws) -> Iterator[Row]:
    given = dict(problem.settings)
    official, causal, cross = problem.grid == "official", problem.grid in ("causal", "alibi"), problem.grid == "cross"
    slopes = ALiBi().slopes(int(given["heads"])) if problem.grid == "alibi" else (0.0,)
    width, head, length = int(given["width"]), int(given["head_dim"]), int(given["length"])
    queries = int(given.get("queries", length))
    r0, s = given["correlation"], given["score_std"] ** 4 if official else given["score_variance"]
    rho0 = given.get("row_correlation", r0)
    r, rho = (v if official else float(norm_correlation(v, width + 1)) for v in (r0, rho0))
    generator = draws.generator(problem)
    if official:
        number, batch = draws.count({100: 16, 316: 8, 1000: 4}[width]), 1
    else:
        number = draws.count(min(2000, 40_000_000 / (max(length, queries) * (width + length) * len(slopes))), 48)
        batch = max(1, min(number, 4_000_000 // (max(length, queries) * (width + length))))
    parts: list[dict[str, Tensor]] = []
    done = 0
    while done < number:
        size = min(batch, number - done)
        x = tokens((size, length), r0, width, generator, not official)
        asking = tokens((size, queries), rho0, width, generator, True) if cross else None
        scale = s**0.25 / math.sqrt(width)
        heads: list[dict[str, Tensor]] = []
        for slope in slopes:
            wq, wk = (scale * torch.randn(size, width, head, generator=generator, device=draws.device) for _ in range(2))
            heads.append(attention_sums(x, wq, wk, asking, causal, slope))
        q_in, c_in = _gram_moments(x)
        mean = {name: sum(each[name] for each in heads) / len(heads) for name in heads[0]}
        parts.append(mean | {"q_in": q_in, "c_in": c_in})
        done += size
    sums = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    p_row = _overlap(problem, s, r, rho)
    # What is known of the tokens drawn: their mean square and mean product.
    own_control = p_row[0] * (sums["q_in"] - 1) + (1 - p_row[0]) * (sums["c_in"] - r)
    pair_control = p_row[1] * (sums["q_in"] - 1) + (1 - p_row[1]) * (sums["c_in"] - r)
    mixes = itertools.product(GRIDS["attention"]["dropout"], GRIDS["attention"]["gradient_correlation"]) if official else (
        (0.0, 0.0), (0.0, 0.3), (0.1, 0.3))  # fmt: skip
    seen: set[tuple[Any, ...]] = set()
    for p, r_g in mixes:
        ep = p / (1 - p)
        own = (sums["own"] + ep * sums["own_ep"]) / queries
        values = {
            "variance": own - own_control,
            "covariance": (sums["all"] - sums["own"]) / (queries * (queries - 1)) - pair_control,
            **_gradients(sums, r_g, ep, length, queries, width, head if official else width, cross),
        }
        for quantity, value in values.items():
            free = {"variance": {"dropout": p}, "covariance": {}}.get(quantity, {"dropout": p, "gradient_correlation": r_g})
            if (quantity, *free.values()) not in seen:
                seen.add((quantity, *free.values()))
                yield _row(problem, draws, free, quantity, value, {0: 81, 1: 27, 2: 9}[len(free)] if official else 1)


def _gradients(
    sums: Mapping[str, Any], r_g: float, ep: float, length: int, queries: int, width: int, head: int, cross: bool
) -> dict[str, Any]:
    """Gradient moments per feature from the sums of the paths; in cross-attention those of the asking side apart."""

    def moments(paths: Iterable[str], rows: int) -> tuple[Any, Any]:
        def mixed(suffix: str) -> Any:
            terms = ((1 - r_g, "independent"), (r_g, "equal"), (ep, "dropped"))
            return sum(factor * sums[f"{path} {name}{suffix}"] for path in paths for factor, name in terms)

        own, every = mixed(""), mixed(" all")
        unit = head / (width * width)
        return own * unit / rows, (every - own) * unit / (rows * (rows - 1))

    if not cross:
        own, pair = moments(("value", "query", "key", "value key", "value query", "query key"), length)
        return {"gradient_variance": own, "gradient_covariance": pair}
    asked, pair = moments(("value", "key", "value key"), length)
    ask, ask_pair = moments(("query",), queries)
    return {"gradient_variance": asked, "gradient_covariance": pair, "query_gradient_variance": ask,
            "query_gradient_covariance": ask_pair}  # fmt: skip


def _overlap(problem: Problem, s: float, r: float, rho: float) -> tuple[float, float]:
    from depthwidth.numerics.softmax import attention_overlap

    found = attention_overlap((1 - r) * s, rho, int(problem["length"]), problem.grid == "causal")
    return float(found.P), float(found.P2)


# ---- what is predicted at a setting ----

_UNSCALED = {
    "mean": 0.0, "std": 1.0, "correlation": 0.0, "weight_std": 1.0, "value_std": 1.0, "gradient_std": 1.0, "dropout": 0.0,
    "gradient_correlation": 1.0,
}  # fmt: skip
"""Where a row is, on the axes that enter by an exact factor and are not written in its `cell`."""

Prediction = dict[str, float]


@functools.lru_cache(maxsize=64)
def predictions(component: str, grid: str, settings: tuple[tuple[str, float], ...]) -> tuple[Prediction, Prediction]:
    """By this package, and by the published forms where they differ, of each quantity at one setting."""
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


def _beyond(grid: str, given: Mapping[str, float]) -> tuple[Prediction, Prediction]:
    """Attention outside the official grid: tokens of one norm, all heads of a layer."""
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


def _penalised(r: float, r_g: float, s: float, layer: BiasedAttention) -> Prediction:
    """Causal attention with a penalty on distance."""
    positions = layer.positions
    out = layer(*positions.alike(1.0, r), s)
    (asked, asked_pair), (sent, sent_pair) = out.pull(*positions.alike(1.0, r_g))
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


def settings_of(row: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    """The settings that a row's `cell` says, with the grid's own digits."""
    axes = GRIDS[row["component"]] if row["grid"] == "official" else {}
    axes = axes | ({} if axes else {"gradient_correlation": (0.0, 0.3), "dropout": (0.0, 0.1)})
    found = []
    for part in row["cell"].split():
        name, _, text = part.partition("=")
        found.append((name, next((value for value in axes.get(name, ()) if _short(value) == text), float(text))))
    return tuple(found)


def refreshed(row: Mapping[str, str]) -> dict[str, str]:
    """A row as today's formulas would have it, its measurement as it was."""
    expected, published = predictions(row["component"], row["grid"], settings_of(row))
    predicted, measured, stderr = expected[row["quantity"]], float(row["measured"]), float(row["stderr"])
    scale = float(row["scale"]) if row["scale"] else None
    new = _compared(predicted, published.get(row["quantity"]), measured, stderr, scale)
    return {**row, **{name: _digits(name, value) for name, value in new.items()}}


def _compared(predicted: float, published: float | None, mean: float, stderr: float, scale: float | None) -> Row:
    """The columns of a row that depend on the prediction."""
    unit = abs(mean if scale is None else scale)
    return {
        "predicted": predicted, "published": "" if published is None else published, "measured": mean, "stderr": stderr,
        "scale": "" if scale is None else scale, "relative_error": (predicted - mean) / unit if unit else 0.0,
        "z": (predicted - mean) / stderr if stderr > 1e-9 * unit else 0.0,
    }  # fmt: skip


# ---- the other components ----


_REUSED = 16


def _linear_draws(problem: Problem, draws: Draws) -> Iterator[Row]:
    """Common parts of the input through many weights; own parts of every token through a few.

    x = m + std (sqrt(r) z + sqrt(1-r) e): products of two of these parts give every mean, deviation and correlation.
    """
    d_in, d_out, length = (int(problem[name]) for name in ("inputs", "outputs", "length"))
    generator = draws.generator(problem)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=draws.device)

    def common(number: int) -> tuple[Any, Any]:
        """Products of the outputs of a mean of 1 and of a common part z, per weight variance, and of z' in the backward pass.

        Every W serves with several z, and with several signs of its rows, which make it another draw of the same kind.
        """
        found: list[Tensor] = []
        batch = max(1, 2_000_000 // (d_in * d_out))
        for start in range(0, number, batch):
            size = min(batch, number - start)
            w, z, g = normal(size, d_in, d_out), normal(size, _REUSED, d_in), normal(size, _REUSED, d_out)
            signs = normal(size, _REUSED, d_in).sign()
            one, through, back = signs @ w, z @ w, g @ w.mT
            # The drawn W and z have known moments: what they are off by is taken out.
            weight = w.square().mean((-2, -1)) - 1
            found.append(torch.stack([
                one.square().mean((-2, -1)) - d_in * weight,
                (one * through).mean((-2, -1)) - d_in * (signs * z).mean((-2, -1)),
                through.square().mean((-2, -1)) - d_in * (z.square().mean((-2, -1)) - 1 + weight),
                back.square().mean((-2, -1)) - d_out * (g.square().mean((-2, -1)) - 1 + weight),
            ]))  # fmt: skip
        values = torch.cat(found, dim=1).double().cpu().numpy()
        return values[:3], values[3]

    def own(number: int) -> tuple[Any, Any]:
        """Products with the tokens' own parts e: e with a mean of 1, with z, with itself, and with another token's."""
        forward, backward = [], []
        for _ in range(number):
            w, z, e, g = normal(d_in, d_out), normal(1, d_in), normal(length, d_in), normal(length, d_out)
            z2 = normal(1, d_out)
            ye, yz, one = e @ w, z @ w, w.sum(0, keepdim=True)
            q, c = _gram_moments(ye)
            q0, c0 = _gram_moments(e)
            mean = ye.mean(0, keepdim=True)
            weight = w.square().mean() - 1
            forward.append(torch.stack([(one * mean).mean(), (yz * mean).mean(), q - d_in * (q0 - 1 + weight), c - d_in * c0]))
            back, common_back = g @ w.mT, z2 @ w.mT
            q, c = _gram_moments(back)
            q0, c0 = _gram_moments(g)
            backward.append(torch.stack([(common_back * back.mean(0)).mean(), q - d_out * (q0 - 1 + weight), c - d_out * c0]))
        return torch.stack(forward, 1).cpu().numpy(), torch.stack(backward, 1).cpu().numpy()

    smallest = min(d_in, d_out)
    forward, backward = common(draws.count(120_000 / smallest))
    forward_own, backward_own = own(draws.count(12_000 / math.sqrt(smallest * length)))
    grid = GRIDS["linear"]
    for mean, std, r in itertools.product(grid["mean"], grid["std"], grid["correlation"]):
        shared = mean**2 * forward[0] + 2 * mean * std * math.sqrt(r) * forward[1] + std**2 * r * forward[2]
        mixed = 2 * std * math.sqrt(1 - r) * (mean * forward_own[0] + std * math.sqrt(r) * forward_own[1])
        free = {"mean": mean, "std": std, "correlation": r}
        scale = None
        for quantity, which in (("variance", 2), ("covariance", 3)):
            rest = mixed + std**2 * (1 - r) * forward_own[which]
            row = _row(problem, draws, free, quantity, (shared, rest), 27, scale)
            scale = row["measured"]
            yield row
    for r in grid["gradient_correlation"]:
        scale = None
        for quantity, which in (("gradient_variance", 1), ("gradient_covariance", 2)):
            rest = 2 * math.sqrt(r * (1 - r)) * backward_own[0] + (1 - r) * backward_own[which]
            row = _row(problem, draws, {"gradient_correlation": r}, quantity, (r * backward, rest), 243, scale)
            scale = row["measured"]
            yield row


def _activation_draws(problem: Problem, draws: Draws) -> Iterator[Row]:
    """One feature of a sequence at a time; its common part stratified over the samples of a draw."""
    std, r, length = problem["std"], problem["correlation"], int(problem["length"])
    generator = draws.generator(problem)
    samples, number = 2_000_000 // length, draws.count(16)
    found = []
    for _ in range(number):
        u = torch.rand(samples, 1, generator=generator, device=draws.device, dtype=torch.float64)
        z = torch.special.ndtri((torch.arange(samples, device=draws.device)[:, None] + u) / samples).float()
        x = torch.randn(samples, length, generator=generator, device=draws.device).mul_(math.sqrt(1 - r)).add_(math.sqrt(r) * z)
        x.mul_(std)
        if problem.component == "relu":
            f, slope = functional.relu(x), (x > 0).float()
        else:
            below = torch.special.ndtr(x)
            f, slope = x * below, below + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        m, (q, c), (dq, dc) = f.double().mean(), _tokens_of_one_feature(f), _tokens_of_one_feature(slope)
        found.append(torch.stack([m, q, c, dq, dc]))
    mean, q, c, dq, dc = torch.stack(found, 1).double().cpu().numpy()
    centre = mean.mean() * (2 * mean - mean.mean())  # the square of the mean, to first order in the noise
    values = {
        "mean": mean,
        "variance": q - centre,
        "covariance": c - centre,
        "gradient_variance": dq,
        "gradient_covariance": dc,
    }
    variance = float((q - centre).mean())
    for quantity, value in values.items():
        scale = variance if quantity == "covariance" else None
        yield _row(problem, draws, {}, quantity, value, 15, scale)


def _tokens_of_one_feature(f: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square, and mean product of two tokens, of samples of shape (samples, L)."""
    length = f.shape[-1]
    squares, sums = f.double().square().sum(-1), f.double().sum(-1).square()
    return squares.mean() / length, (sums - squares).mean() / (length * (length - 1))


def _layernorm_draws(problem: Problem, draws: Draws) -> Iterator[Row]:
    """The norm's Jacobian, averaged exactly over the output's gradient; controls are the moments of the drawn input."""
    r, width, length = problem["correlation"], int(problem["width"]), int(problem["length"])
    generator = draws.generator(problem)
    found = []
    for _ in range(draws.count(20_000 / width)):
        x = tokens((length,), r, width, generator, False).double()
        x = x - x.mean(-1, keepdim=True)
        s2 = x.square().mean(-1)
        y = x / s2.sqrt()[:, None]
        (q, c), (own, pair) = _gram_moments(x), _gram_moments(y)
        free = (width - 1) / width  # of q, and of c over r: the mean is taken out
        within = q - free
        cosines = (y @ y.T / width).square()
        inverse = 1 / s2.sqrt()
        products = inverse[:, None] * inverse * (width - 3 + cosines)
        products.fill_diagonal_(0.0)
        found.append(torch.stack([
            own, pair - (c - r * free) + r * within, (width - 2) / width * ((1 / s2).mean() + within),
            products.sum() / (width * length * (length - 1)) + within,
        ]))  # fmt: skip
    values = torch.stack(found, 1).cpu().numpy()
    quantities = ("variance", "covariance", "gradient_variance", "gradient_covariance")
    for value, quantity in zip(values, quantities, strict=True):
        # Correlations of the gradient are a factor, so that all of them share one row; the means and scales of inputs too.
        yield _row(problem, draws, {}, quantity, value, 135, 1.0 if quantity == "covariance" else None)


def _dropout_draws(problem: Problem, draws: Draws) -> Iterator[Row]:
    """Products of the masked parts of x = m + std (sqrt(r) z + sqrt(1-r) e), as for linear maps."""
    p, width, length = problem["dropout"], int(problem["width"]), int(problem["length"])
    generator = draws.generator(problem)
    found = []
    for _ in range(draws.count(min(2000, 3e7 / (width * length)) if p else 4)):
        keep = (torch.rand(length, width, generator=generator, device=draws.device) >= p) / (1 - p)
        z = torch.randn(1, width, generator=generator, device=draws.device)
        e = torch.randn(length, width, generator=generator, device=draws.device)
        parts = [part.expand(length, width).double() for part in (torch.ones_like(z), z, e)]
        sums = [(part * keep).sum(0) for part in parts]
        for own in (True, False):
            for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
                a, b = parts[i], parts[j]
                masked, bare = (a * b * keep * keep).sum(), (a * b).sum()
                if own:
                    value, known, factor = masked / (length * width), bare / (length * width), 1 / (1 - p)
                else:
                    pairs = length * (length - 1) * width
                    value = ((sums[i] * sums[j]).sum() - masked) / pairs
                    known, factor = ((a.sum(0) * b.sum(0)).sum() - bare) / pairs, 1.0
                found.append(value - factor * (known - (float(own or i < 2) if i == j else 0.0)))
        found.extend(s.mean() / length - part.mean() for s, part in zip(sums, parts, strict=True))
    values = torch.stack(found).reshape(-1, 15).T.cpu().numpy()
    own, pair, (m1, mz, me) = values[:6], values[6:12], values[12:]
    grid = GRIDS["dropout"]
    for mean, std, r in itertools.product(grid["mean"], grid["std"], grid["correlation"]):
        free = {"mean": mean, "std": std, "correlation": r}
        a, b = std * math.sqrt(r), std * math.sqrt(1 - r)
        weights = (mean * mean, 2 * mean * a, 2 * mean * b, a * a, 2 * a * b, b * b)
        average = mean * (1 + m1) + a * mz + b * me
        # Centred on the exact mean: E (y - m)(y' - m) = E y y' - 2 m E y + m^2.
        shift = mean * mean - 2 * mean * average
        values_of = {
            "variance": sum(w * v for w, v in zip(weights, own, strict=True)) + shift,
            "covariance": sum(w * v for w, v in zip(weights, pair, strict=True)) + shift,
        }
        if mean:
            yield _row(problem, draws, free, "mean", average, 9)
        scale = None
        for quantity, value in values_of.items():
            row = _row(problem, draws, free, quantity, value, 9, scale)
            scale = row["measured"]
            yield row
    for r in grid["gradient_correlation"]:
        a, b = math.sqrt(r), math.sqrt(1 - r)
        scale = None
        for quantity, basis in (("gradient_variance", own), ("gradient_covariance", pair)):
            value = a * a * basis[3] + 2 * a * b * basis[4] + b * b * basis[5]
            row = _row(problem, draws, {"gradient_correlation": r}, quantity, value, 81, scale)
            scale = row["measured"]
            yield row


def _softmax_draws(problem: Problem, draws: Draws) -> Iterator[Row]:
    """Rows of logits; the Jacobian's squared norm is the average over gradients."""
    std, r, length = problem["std"], problem["correlation"], int(problem["length"])
    generator = draws.generator(problem)
    rows, number = max(8, 400_000 // length), draws.count(16)
    found = []
    for _ in range(number):
        common = torch.randn(rows, 1, generator=generator, device=draws.device, dtype=torch.float64)
        own = torch.randn(rows, length, generator=generator, device=draws.device, dtype=torch.float64)
        p = (std * (math.sqrt(r) * common + math.sqrt(1 - r) * own)).softmax(-1)
        apart, square = (p - 1 / length).square().mean(), p.square()
        jacobian = square.sum(-1) - 2 * (square * p).sum(-1) + square.sum(-1).square()
        found.append(torch.stack([apart, jacobian.mean() / length]))
    values = torch.stack(found, 1).cpu().numpy()
    for quantity, value in zip(("variance", "gradient_variance"), values, strict=True):
        yield _row(problem, draws, {}, quantity, value, 5)


_SIMULATIONS: dict[str, Callable[[Problem, Draws], Iterator[Row]]] = {
    "linear": _linear_draws, "relu": _activation_draws, "gelu": _activation_draws, "layernorm": _layernorm_draws,
    "dropout": _dropout_draws, "softmax": _softmax_draws, "attention": _attention_draws,
}  # fmt: skip


def simulate(problem: Problem, draws: Draws) -> list[Row]:
    """The rows of one problem: what is predicted, what was measured, and how far apart they are."""
    return list(_SIMULATIONS[problem.component](problem, draws))


# ---- rows ----


def _row(
    problem: Problem,
    draws: Draws,
    free: Mapping[str, float],
    quantity: str,
    values: Any,
    cells: int,
    scale: float | None = None,
) -> Row:
    """One comparison: mean and standard error over draws, and the relative error of what was predicted.

    `values` are those of the draws, or a tuple of such arrays, drawn independently, whose means add up. `free` are the settings
    that its problem leaves open.
    """
    parts = [np.asarray(part, dtype=float) for part in (values if isinstance(values, tuple) else (values,))]
    mean = float(sum(part.mean() for part in parts))
    stderr = math.sqrt(sum(part.var(ddof=1) / part.size for part in parts))
    expected, published = predictions(problem.component, problem.grid, (*problem.settings, *free.items()))
    cell = " ".join((problem.key, *(f"{name}={_short(value)}" for name, value in free.items())))
    return {
        "component": problem.component, "grid": problem.grid, "cell": cell, "quantity": quantity,
        **_compared(expected[quantity], published.get(quantity), mean, stderr, scale), "cells": cells,
        "draws": min(part.size for part in parts), "seed": draws.seed, "version": __version__,
        "torch": torch.__version__.partition("+")[0], "device": draws.device, "date": datetime.date.today().isoformat(),
    }  # fmt: skip


# ---- a run: rows on disk, continued where it stopped ----


class Table:
    """``components.csv`` of a folder: whole problems are appended, and a half-written one is dropped when a run continues."""

    def __init__(self, folder: Path, draws: Draws) -> None:
        self.path = folder / "components.csv"
        self.rows = self._kept(draws) if self.path.exists() else []
        folder.mkdir(parents=True, exist_ok=True)
        self._write(self.rows)
        self.done = {(row["component"], row["grid"], row["problem"]) for row in self.rows}

    def _kept(self, draws: Draws) -> list[dict[str, str]]:
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path} cannot be read as a table of measurements") from error
        for row in rows:
            if (row.get("seed"), row.get("effort"), row.get("version")) != (str(draws.seed), f"{draws.effort:g}", __version__):
                raise InputError(
                    f"{self.path} holds rows of another run (seed {row.get('seed')}, effort {row.get('effort')}, version "
                    f"{row.get('version')}); continue that one, or choose another folder"
                )
        last = {row["problem"] for row in rows if row["of"] == row["row"]}  # problems whose last row is there
        return [row for row in rows if row["problem"] in last]

    def _write(self, rows: list[dict[str, str]]) -> None:
        waiting = self.path.with_suffix(".part")
        with waiting.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _RUN_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(self.path)

    def refresh(self) -> list[dict[str, str]]:
        """Replace the predictions of all rows by today's, and return the rows."""
        self.rows = [refreshed(row) for row in self.rows]
        self._write(self.rows)
        return self.rows

    def append(self, problem: Problem, rows: Sequence[Row], draws: Draws) -> None:
        """Add the rows of one problem in one write."""
        printed = []
        for number, row in enumerate(rows, 1):
            run = {"problem": _identity(problem), "row": number, "of": len(rows), "effort": f"{draws.effort:g}"}
            printed.append({**{k: _digits(k, v) for k, v in row.items()}, **{k: str(v) for k, v in run.items()}})
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, _RUN_COLUMNS, lineterminator="\n").writerows(printed)
        self.rows += printed


_RUN_COLUMNS = (*COLUMNS, "problem", "row", "of", "effort")


def _identity(problem: Problem) -> str:
    return f"{problem.component}, {problem.grid}: {problem.key}"


def _digits(column: str, value: Any) -> str:
    """Enough digits for what the column says; errors and z are no better than the noise."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.6g}" if column in ("predicted", "measured", "published", "scale") else f"{value:.3g}"


def run(
    folder: Path, draws: Draws, cells: int | None = None, only: Iterable[str] = (), report: Any = None
) -> list[dict[str, str]]:
    """Simulate what is not in the folder's table yet, and return all of its rows.

    Parameters
    ----------
    folder : where ``components.csv`` is kept.
    draws : seed, device and effort.
    cells : how many settings of each component and grid, drawn with the seed; all of them by default.
    only : names of components and of grids; all components, and all grids, where none is named.
    report : a text stream for progress, or None.

    Raises
    ------
    InputError
        if a name is unknown or the folder holds rows of another run.
    """
    wanted = tuple(only)
    chosen = sampled(cells, draws.seed)
    known = {p.component for p in chosen} | {p.grid for p in chosen}
    for name in wanted:
        if name not in known:
            raise InputError(f"there is no component or grid {name!r}; there are {', '.join(sorted(known))}")
    for names in ({p.component for p in chosen} & set(wanted), {p.grid for p in chosen} & set(wanted)):
        chosen = [p for p in chosen if not names or p.component in names or p.grid in names]
    table = Table(folder, draws)
    missing = [p for p in chosen if (p.component, p.grid, _identity(p)) not in table.done]
    start = time.monotonic()
    for number, problem in enumerate(missing, 1):
        table.append(problem, simulate(problem, draws), draws)
        if report is not None and (report.isatty() or number % 50 == 0 or number == len(missing)):
            spent = time.monotonic() - start
            report.write(f"{number} of {len(missing)} settings, {spent:.0f} s; now {problem.component}, {problem.grid}\n")
    return table.rows


# ---- what the rows say together ----

PERCENTILES = (50, 90, 99)


def summary(rows: Iterable[Mapping[str, str]]) -> list[Row]:
    """Percentiles of the error over settings, with the noise of the measurement and with it taken out, for each quantity.

    Noise is taken out in squares: sqrt(max(0, error^2 - stderr^2)). Each row counts for the settings it stands for.
    """
    from depthwidth.coefficients import reference

    theirs = {(r["component"], r["quantity"]): r for r in reference("kedia2024_component_errors")}
    groups: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["component"], row["grid"], row["quantity"]), []).append(row)
    found = []
    for (component, grid, quantity), members in groups.items():
        error = np.abs([float(r["relative_error"]) for r in members])
        noise = np.array([float(r["stderr"]) / (abs(float(r["scale"] or r["measured"])) or 1.0) for r in members])
        weight = np.array([int(r["cells"]) for r in members])
        z = np.abs([float(r["z"]) for r in members])
        line: Row = {"component": component, "grid": grid, "quantity": quantity, "settings": int(weight.sum()),
                     "rows": len(members)}  # fmt: skip
        line |= _percentiles("error", error, weight)
        line |= _percentiles("noise", noise, weight)
        line |= _percentiles("clean", np.sqrt(np.maximum(error**2 - noise**2, 0)), weight)
        by = theirs.get((component, quantity)) if grid == "official" else None
        line |= {f"authors_p{p}": float(by[f"p{p}_percent"]) if by else "" for p in PERCENTILES}
        published = [r for r in members if r["published"]]
        if published:
            other = np.abs(
                [(float(r["published"]) - float(r["measured"])) / abs(float(r["scale"] or r["measured"])) for r in published]
            )
            line |= _percentiles("published", other, np.array([int(r["cells"]) for r in published]))
        else:
            line |= {f"published_p{p}": "" for p in PERCENTILES}
        line |= {"worst": round(100 * float(error.max()), 3), "worst_at": members[int(error.argmax())]["cell"],
                 "beyond_3_stderr": round(float(weight[z > 3].sum() / weight.sum()), 4),
                 "seed": members[0]["seed"], "version": members[0]["version"], "torch": members[0]["torch"],
                 "device": members[0]["device"], "date": max(r["date"] for r in members)}  # fmt: skip
        found.append(line)
    return found


def _percentiles(name: str, values: Any, weights: Any) -> Row:
    """Weighted percentiles, in per cent."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return {
        f"{name}_p{p}": round(100 * float(values[order][min(int(np.searchsorted(reached, p / 100)), order.size - 1)]), 4)
        for p in PERCENTILES
    }


def _keep(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """What is kept: the rows without the columns of the run, and the summary."""
    for name, columns, lines in (
        ("components_cells.csv", COLUMNS, rows),
        ("components_summary.csv", None, summary(rows)),
    ):
        waiting = folder / f"{name}.part"
        with waiting.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns or list(lines[0]), lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(lines)
        waiting.replace(folder / name)


def main() -> int:
    """Measure, continue or finish a run, and write its rows and percentiles."""
    parser = argparse.ArgumentParser(prog="python -m verify.measure.components", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--cells", type=int, help="settings of each component and grid, sampled with the seed; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--effort", type=float, default=1.0, help="times the usual number of draws")
    parser.add_argument("--refresh", action="store_true", help="only predict again, for the measurements that are there")
    parser.add_argument("--only", nargs="*", default=(), metavar="NAME", help="components or grids")
    given = parser.parse_args()
    try:
        _check(given)
        draws = Draws(given.device, given.seed, given.effort)
        if given.refresh:
            rows = Table(given.out, draws).refresh()
        else:
            rows = run(given.out, draws, given.cells, given.only, sys.stderr)
        _keep(given.out, rows)
    except InputError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    for line in summary(rows):
        errors, clean, theirs = (
            "/".join(f"{line[f'{kind}_p{p}']:.2g}" if line[f"{kind}_p{p}"] != "" else "-" for p in PERCENTILES)
            for kind in ("error", "clean", "authors")
        )
        sys.stdout.write(
            f"{line['component']:<10} {line['grid']:<14} {line['quantity']:<25} {line['settings']:>6} settings: "
            f"{errors} % (without noise {clean}; authors {theirs})\n"
        )
    return 0


def _check(given: argparse.Namespace) -> None:
    if given.cells is not None and given.cells < 1:
        raise InputError(f"--cells {given.cells} is not a whole number from 1")
    if not 0 < given.effort < 1e4:
        raise InputError(f"--effort {given.effort} is outside (0, 10000)")
    if given.device != "cpu" and not (given.device.startswith("cuda") and torch.cuda.is_available()):
        raise InputError(f"there is no device {given.device!r} here")


if __name__ == "__main__":
    raise SystemExit(main())
