"""Simulation of single components at initialisation, for comparison with the means that their formulas predict.

Averages that are known exactly are not sampled: over the output's gradient, the dropout mask and the value weights, the
expectation of a quadratic form is a trace. The rest is drawn. Known moments of the drawn input are subtracted as control
variates, the common part of the input is stratified, and the standard error is that over draws.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from depthwidth.analysis.component_grid import GRIDS
from depthwidth.formulas.moments import norm_correlation
from depthwidth.layers import ALiBi

from .attention_sums import attention_sums, gradient_moments
from .component_settings import Problem, mixes, site

Tensor: TypeAlias = Any  # torch.Tensor, which mypy does not follow here


@dataclass(frozen=True)
class Draws:
    """The draws of a simulation: their device, seed, and number relative to the default."""

    device: str = "cpu"
    seed: int = 1
    effort: float = 1.0

    def generator(self, problem: Problem) -> torch.Generator:
        """The random generator of one problem, independent of the order of problems and of interruptions."""
        text = f"{self.seed} {problem.component} {problem.grid} {problem.key}"
        return torch.Generator(self.device).manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))

    def count(self, usual: float, least: int = 4) -> int:
        """The number of draws, given the default number and a minimum."""
        return max(least, math.ceil(self.effort * usual))


@dataclass(frozen=True)
class Simulated:
    """One simulated number."""

    site: str
    """The setting, from :func:`verify.measure.component_settings.site`."""
    quantity: str
    value: float
    stderr: float
    draws: int
    scale: float | None = None
    """Denominator of a relative error, if it is not the value."""


def _summarise(
    problem: Problem, free: Mapping[str, float], quantity: str, values: Any, scale: float | None = None
) -> Simulated:
    """Mean and standard error over draws. `values` has one entry per draw, or is a tuple of independent parts of a sum."""
    parts = [np.asarray(part, dtype=float) for part in (values if isinstance(values, tuple) else (values,))]
    mean = float(sum(part.mean() for part in parts))
    stderr = math.sqrt(sum(part.var(ddof=1) / part.size for part in parts))
    return Simulated(site(problem, dict(free)), quantity, mean, stderr, min(part.size for part in parts), scale)


# ---- attention ----


def tokens(shape: Sequence[int], correlation: float, width: int, generator: torch.Generator, normed: bool) -> Tensor:
    """Gaussian tokens (..., L, d) of unit variance with this correlation; with `normed`, each rescaled to length sqrt(d)."""
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


def _attention_draws(problem: Problem, draws: Draws) -> Iterator[Simulated]:
    settings = dict(problem.settings)
    official, causal, cross = problem.grid == "official", problem.grid in ("causal", "alibi"), problem.grid == "cross"
    slopes = ALiBi().slopes(int(settings["heads"])) if problem.grid == "alibi" else (0.0,)
    width, head, length = int(settings["width"]), int(settings["head_dim"]), int(settings["length"])
    queries = int(settings.get("queries", length))
    r0, s = settings["correlation"], settings["score_std"] ** 4 if official else settings["score_variance"]
    rho0 = settings.get("row_correlation", r0)
    r, rho = (v if official else float(norm_correlation(v, width + 1)) for v in (r0, rho0))
    generator = draws.generator(problem)
    if official:
        number, batch = draws.count({100: 16, 316: 8, 1000: 4}[width]), 1
    else:
        number = draws.count(min(2000, 40_000_000 / (max(length, queries) * (width + length) * len(slopes))), 48)
        batch = max(1, min(number, 4_000_000 // (max(length, queries) * (width + length))))
    parts: list[dict[str, Tensor]] = []
    finished = 0
    while finished < number:
        size = min(batch, number - finished)
        x = tokens((size, length), r0, width, generator, not official)
        query_tokens = tokens((size, queries), rho0, width, generator, True) if cross else None
        scale = s**0.25 / math.sqrt(width)
        heads: list[dict[str, Tensor]] = []
        for slope in slopes:
            wq, wk = (scale * torch.randn(size, width, head, generator=generator, device=draws.device) for _ in range(2))
            heads.append(attention_sums(x, wq, wk, query_tokens, causal, slope))
        q_in, c_in = _gram_moments(x)
        mean = {name: sum(each[name] for each in heads) / len(heads) for name in heads[0]}
        parts.append(mean | {"q_in": q_in, "c_in": c_in})
        finished += size
    sums = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    p_row = _overlap(problem, s, r, rho)
    # Control variates: the expected mean square and mean product of the drawn tokens are known.
    own_control = p_row[0] * (sums["q_in"] - 1) + (1 - p_row[0]) * (sums["c_in"] - r)
    pair_control = p_row[1] * (sums["q_in"] - 1) + (1 - p_row[1]) * (sums["c_in"] - r)
    seen: set[tuple[Any, ...]] = set()
    for p, r_g in mixes(problem):
        ep = p / (1 - p)
        own = (sums["own"] + ep * sums["own_ep"]) / queries
        values = {
            "variance": own - own_control,
            "covariance": (sums["all"] - sums["own"]) / (queries * (queries - 1)) - pair_control,
            **gradient_moments(sums, r_g, ep, length, queries, width, head if official else width, cross),
        }
        for quantity, value in values.items():
            free = {"variance": {"dropout": p}, "covariance": {}}.get(quantity, {"dropout": p, "gradient_correlation": r_g})
            if (quantity, *free.values()) not in seen:
                seen.add((quantity, *free.values()))
                yield _summarise(problem, free, quantity, value)


def _overlap(problem: Problem, s: float, r: float, rho: float) -> tuple[float, float]:
    from depthwidth.numerics.softmax import attention_overlap

    overlap = attention_overlap((1 - r) * s, rho, int(problem["length"]), problem.grid == "causal")
    return float(overlap.P), float(overlap.P2)


# ---- the other components ----


_REUSED = 16


def _linear_draws(problem: Problem, draws: Draws) -> Iterator[Simulated]:
    """Simulation of a linear map: many weights for the common part of the input, a few for the tokens' separate parts.

    x = m + std (sqrt(r) z + sqrt(1-r) e): products of two of these parts give every mean, deviation and correlation.
    """
    d_in, d_out, length = (int(problem[name]) for name in ("inputs", "outputs", "length"))
    generator = draws.generator(problem)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=draws.device)

    def common(number: int) -> tuple[Any, Any]:
        """Products of the outputs of a mean of 1 and of a common part z, per weight variance, and of z' in the backward pass.

        Every W is used with several z and several random signs of its rows, each of which gives another draw of W.
        """
        products: list[Tensor] = []
        batch = max(1, 2_000_000 // (d_in * d_out))
        for start in range(0, number, batch):
            size = min(batch, number - start)
            w, z, g = normal(size, d_in, d_out), normal(size, _REUSED, d_in), normal(size, _REUSED, d_out)
            signs = normal(size, _REUSED, d_in).sign()
            one, through, back = signs @ w, z @ w, g @ w.mT
            # Control variates: the deviations of the moments of W and z from their known values are subtracted.
            weight = w.square().mean((-2, -1)) - 1
            products.append(
                torch.stack(
                    [
                        one.square().mean((-2, -1)) - d_in * weight,
                        (one * through).mean((-2, -1)) - d_in * (signs * z).mean((-2, -1)),
                        through.square().mean((-2, -1)) - d_in * (z.square().mean((-2, -1)) - 1 + weight),
                        back.square().mean((-2, -1)) - d_out * (g.square().mean((-2, -1)) - 1 + weight),
                    ]
                )
            )
        values = torch.cat(products, dim=1).double().cpu().numpy()
        return values[:3], values[3]

    def own(number: int) -> tuple[Any, Any]:
        """Products with the tokens' separate parts e: e with a mean of 1, with z, with itself, and with another token's e."""
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
            row = _summarise(problem, free, quantity, (shared, rest), scale)
            scale = row.value
            yield row
    for r in grid["gradient_correlation"]:
        scale = None
        for quantity, which in (("gradient_variance", 1), ("gradient_covariance", 2)):
            rest = 2 * math.sqrt(r * (1 - r)) * backward_own[0] + (1 - r) * backward_own[which]
            row = _summarise(problem, {"gradient_correlation": r}, quantity, (r * backward, rest), scale)
            scale = row.value
            yield row


def _activation_draws(problem: Problem, draws: Draws) -> Iterator[Simulated]:
    """Simulation of an activation on one feature of a sequence, with its common part stratified over the samples."""
    std, r, length = problem["std"], problem["correlation"], int(problem["length"])
    generator = draws.generator(problem)
    samples, number = 2_000_000 // length, draws.count(16)
    results = []
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
        results.append(torch.stack([m, q, c, dq, dc]))
    mean, q, c, dq, dc = torch.stack(results, 1).double().cpu().numpy()
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
        yield _summarise(problem, {}, quantity, value, scale)


def _tokens_of_one_feature(f: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square, and mean product of two tokens, of samples of shape (samples, L)."""
    length = f.shape[-1]
    squares, sums = f.double().square().sum(-1), f.double().sum(-1).square()
    return squares.mean() / length, (sums - squares).mean() / (length * (length - 1))


def _layernorm_draws(problem: Problem, draws: Draws) -> Iterator[Simulated]:
    """Simulation of a LayerNorm; its Jacobian is averaged exactly over the output's gradient."""
    r, width, length = problem["correlation"], int(problem["width"]), int(problem["length"])
    generator = draws.generator(problem)
    results = []
    for _ in range(draws.count(20_000 / width)):
        x = tokens((length,), r, width, generator, False).double()
        x = x - x.mean(-1, keepdim=True)
        s2 = x.square().mean(-1)
        y = x / s2.sqrt()[:, None]
        (q, c), (own, pair) = _gram_moments(x), _gram_moments(y)
        free = (width - 1) / width  # of q, and of c over r, after subtraction of the mean
        within = q - free
        cosines = (y @ y.T / width).square()
        inverse = 1 / s2.sqrt()
        products = inverse[:, None] * inverse * (width - 3 + cosines)
        products.fill_diagonal_(0.0)
        results.append(
            torch.stack(
                [
                    own,
                    pair - (c - r * free) + r * within,
                    (width - 2) / width * ((1 / s2).mean() + within),
                    products.sum() / (width * length * (length - 1)) + within,
                ]
            )
        )
    values = torch.stack(results, 1).cpu().numpy()
    quantities = ("variance", "covariance", "gradient_variance", "gradient_covariance")
    for value, quantity in zip(values, quantities, strict=True):
        # The correlation of the gradient and the mean and scale of the input are exact factors, so all values share one row.
        yield _summarise(problem, {}, quantity, value, 1.0 if quantity == "covariance" else None)


def _dropout_draws(problem: Problem, draws: Draws) -> Iterator[Simulated]:
    """Simulation of dropout: products of the masked parts of x = m + std (sqrt(r) z + sqrt(1-r) e), as for linear maps."""
    p, width, length = problem["dropout"], int(problem["width"]), int(problem["length"])
    generator = draws.generator(problem)
    results = []
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
                results.append(value - factor * (known - (float(own or i < 2) if i == j else 0.0)))
        results.extend(s.mean() / length - part.mean() for s, part in zip(sums, parts, strict=True))
    values = torch.stack(results).reshape(-1, 15).T.cpu().numpy()
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
            yield _summarise(problem, free, "mean", average)
        scale = None
        for quantity, value in values_of.items():
            row = _summarise(problem, free, quantity, value, scale)
            scale = row.value
            yield row
    for r in grid["gradient_correlation"]:
        a, b = math.sqrt(r), math.sqrt(1 - r)
        scale = None
        for quantity, basis in (("gradient_variance", own), ("gradient_covariance", pair)):
            value = a * a * basis[3] + 2 * a * b * basis[4] + b * b * basis[5]
            row = _summarise(problem, {"gradient_correlation": r}, quantity, value, scale)
            scale = row.value
            yield row


def _softmax_draws(problem: Problem, draws: Draws) -> Iterator[Simulated]:
    """Simulation of softmax rows; the squared norm of the Jacobian is its average over gradients."""
    std, r, length = problem["std"], problem["correlation"], int(problem["length"])
    generator = draws.generator(problem)
    rows, number = max(8, 400_000 // length), draws.count(16)
    results = []
    for _ in range(number):
        common = torch.randn(rows, 1, generator=generator, device=draws.device, dtype=torch.float64)
        own = torch.randn(rows, length, generator=generator, device=draws.device, dtype=torch.float64)
        p = (std * (math.sqrt(r) * common + math.sqrt(1 - r) * own)).softmax(-1)
        apart, square = (p - 1 / length).square().mean(), p.square()
        jacobian = square.sum(-1) - 2 * (square * p).sum(-1) + square.sum(-1).square()
        results.append(torch.stack([apart, jacobian.mean() / length]))
    values = torch.stack(results, 1).cpu().numpy()
    for quantity, value in zip(("variance", "gradient_variance"), values, strict=True):
        yield _summarise(problem, {}, quantity, value)


_SIMULATIONS: dict[str, Callable[[Problem, Draws], Iterator[Simulated]]] = {
    "linear": _linear_draws,
    "relu": _activation_draws,
    "gelu": _activation_draws,
    "layernorm": _layernorm_draws,
    "dropout": _dropout_draws,
    "softmax": _softmax_draws,
    "attention": _attention_draws,
}


def simulate(problem: Problem, draws: Draws) -> list[Simulated]:
    """Simulate one problem, with one result for each quantity of :func:`verify.measure.component_settings.cells`."""
    return list(_SIMULATIONS[problem.component](problem, draws))
