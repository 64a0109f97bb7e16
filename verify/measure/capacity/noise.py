"""The loss of a model at weights near its own: sharpness, expected sharpness, and the largest noise that it bears."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from depthwidth.formulas import capacity as laws

from .points import Parameters, Points

BOX = 5e-4
"""alpha of the paper's experiments: a weight moves by at most alpha (|w| + 1)."""
ASCENT_STEP = 0.1
"""Of the sign ascent, in units of the box."""
STARTS = 2
RISE = 0.05
"""Expected sharpness at which divergences are compared, in nats of cross-entropy."""
DROP, DROP_WITHIN = 0.1, 0.01
"""Expected fall of the training accuracy at which noise is called the largest, and the fall's tolerance."""
LARGEST_NOISE, HALVINGS = 2.0, 15
FLOOR = 1e-3
"""Standard deviation of the noise on a weight of 0, of magnitude-aware noise."""
GRID = tuple(2.0**-k for k in range(16))
"""Standard deviations fixed beforehand, over which the PAC-Bayes bound of noisy weights is united."""


@dataclass(frozen=True)
class Near:
    """Settings of the search around the weights."""

    draws: int = 10
    """Noisy weights of each mean."""
    steps: int = 60
    """Of the ascent, from each of two starts."""
    seed: int = 0


def worst_loss(points: Points, loss: float, near: Near, box: float = BOX) -> float:
    """The largest loss found within the box |nu| <= box (|w| + 1), by projected ascent along the gradient's signs.

    It is at least `loss`, the one at the weights themselves, and a lower bound of the true maximum.
    """
    reach = {name: box * (one.abs() + 1) for name, one in points.parameters.items()}
    for found, weights in _ascents(points, reach, near):
        loss = max(loss, found, points.loss(weights))
    return loss


def _ascents(points: Points, reach: Parameters, near: Near) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """For each start the largest loss along its ascent within |nu| <= reach, and the weights at the ascent's end."""
    for start in range(STARTS):
        generator, worst = _generator(points, near.seed, start), -math.inf
        nu = {name: (2 * _uniform(one, generator) - 1) * one if start else torch.zeros_like(one) for name, one in reach.items()}
        for _ in range(near.steps):
            found, gradient = points.loss_and_gradient({name: w + nu[name] for name, w in points.parameters.items()})
            worst = max(worst, found)
            for name, most in reach.items():
                moved = nu[name] + ASCENT_STEP * most * gradient[name].sign()
                nu[name] = torch.minimum(torch.maximum(moved, -most), most)
        yield worst, {name: w + nu[name] for name, w in points.parameters.items()}


def expected_rise(points: Points, loss: float, scale: float, near: Near) -> float:
    """Mean rise of the loss under noise of standard deviation scale (10 |w| + 1): the expected sharpness.

    Every scale is tried with the same standard normal numbers.
    """
    return _mean(points, near, lambda w: scale * (10 * w.abs() + 1), points.loss) - loss


def scale_at_rise(points: Points, loss: float, near: Near, rise: float = RISE) -> float:
    """The scale of the noise at which the expected sharpness is `rise`, by bisection of its logarithm from 1e-7 to 1."""
    low, high = math.log(1e-7), 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = expected_rise(points, loss, math.exp(middle), near)
        low, high = (middle, high) if found < rise else (low, middle)
    return math.exp((low + high) / 2)


def magnitude_divergence(parameters: Parameters, scale: float) -> float:
    """Sum over weights of :func:`~depthwidth.formulas.capacity.gaussian_divergence` with noise of scale (10 |w| + 1)."""
    total = 0.0
    for one in parameters.values():
        w = one.detach().double().abs()
        total += float(laws.gaussian_divergence(w**2, laws.magnitude_noise(w, scale)).sum())
    return total


def largest_noise(points: Points, error: float, near: Near, *, magnitude: bool) -> float:
    """The largest sigma under which the training accuracy falls by a tenth on average, by bisection on [0, 2].

    A weight's noise has standard deviation sigma, or sqrt(sigma^2 w^2 + eps^2) if it follows the `magnitude`. The published
    code passes the squares of these as standard deviations; its sigmas are others.
    """

    def spread(sigma: float) -> Callable[[Tensor], Tensor]:
        return lambda w: (sigma**2 * w**2 + FLOOR**2).sqrt() if magnitude else torch.full_like(w, sigma)

    return _size_at_drop(lambda sigma: _mean(points, near, spread(sigma), points.errors) - error)


def largest_box(points: Points, error: float, near: Near, *, magnitude: bool) -> float:
    """The alpha up to which no change of the weights that is found costs a tenth of the training accuracy.

    A weight's change is at most alpha, or alpha |w| + eps if it follows the `magnitude`. Changes are found by the ascent of
    :func:`worst_loss`, and there may be worse ones: alpha is found from above.
    """

    def drop(alpha: float) -> float:
        reach = {
            name: alpha * one.abs() + FLOOR if magnitude else torch.full_like(one, alpha)
            for name, one in points.parameters.items()
        }
        return max(points.errors(weights) for _, weights in _ascents(points, reach, near)) - error

    return _size_at_drop(drop)


def _size_at_drop(drop: Callable[[float], float]) -> float:
    """The size at which the training accuracy falls by a tenth, by bisection on [0, 2]."""
    low, high = 0.0, LARGEST_NOISE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = drop(middle)
        if abs(found - DROP) < DROP_WITHIN:
            return middle
        low, high = (middle, high) if found < DROP else (low, middle)
    return (low + high) / 2


def magnitude_flatness(points: Points, start: Parameters, sigma: float, *, from_start: bool) -> float:
    """The sum over weights of the magnitude-aware measure, without ln(m/sigma) + 10.

    Its numerator has the weights' squared norm, or that of their way `from_start`; its denominator always has the way.
    """
    squared = squared_distance(points.parameters, start if from_start else None)
    count = sum(one.numel() for one in points.parameters.values())
    return math.fsum(
        float(laws.magnitude_flatness_term(squared, count, (w - start[name]).double().abs(), sigma, FLOOR).sum())
        for name, w in points.parameters.items()
    )


def squared_distance(parameters: Parameters, start: Parameters | None) -> float:
    """Squared norm of all weights, or of their way from a start."""
    parts = parameters.values() if start is None else (w - start[name] for name, w in parameters.items())
    return math.fsum(float(one.double().square().sum()) for one in parts)


@dataclass(frozen=True)
class NoisyBound:
    """The bound on the error of noisy weights at the best standard deviation of the grid."""

    value: float
    noise: float
    error: float
    """Training error of noisy weights, with the error of its mean over draws."""


def noisy_bound(points: Points, start: Parameters | None, failure: float, near: Near) -> NoisyBound:
    """The PAC-Bayes bound on the error of weights with isotropic noise, for any network.

    The prior is noise about the `start`, or about zero. Half of `failure` pays for the grid of standard deviations, half for
    the mean over draws (Hoeffding). A standard deviation whose penalty exceeds the best bound is not tried.
    """
    squared = squared_distance(points.parameters, start)
    share = failure / (2 * len(GRID))
    of_draws = math.sqrt(math.log(1 / share) / (2 * near.draws))
    divergences = {sigma: laws.gaussian_divergence(squared, sigma) for sigma in GRID}
    penalties = sorted((float(laws.pac_bayes_penalty(k, points.samples, share)), sigma) for sigma, k in divergences.items())
    best: NoisyBound | None = None
    for penalty, sigma in penalties:
        if best is not None and penalty + of_draws >= best.value:
            break

        def spread(w: Tensor, sigma: float = sigma) -> Tensor:
            return torch.full_like(w, sigma)

        error = min(1.0, _mean(points, near, spread, points.errors) + of_draws)
        if best is None or error + penalty < best.value:
            best = NoisyBound(error + penalty, sigma, error)
    assert best is not None  # noqa: S101, the grid is not empty
    return best


def _mean(points: Points, near: Near, spread: Callable[[Tensor], Tensor], value: Callable[[Parameters], float]) -> float:
    total = 0.0
    for draw in range(near.draws):
        generator = _generator(points, near.seed, STARTS + draw)
        total += value({name: w + spread(w) * _normal(w, generator) for name, w in points.parameters.items()})
    return total / near.draws


def _generator(points: Points, seed: int, number: int) -> torch.Generator:
    return torch.Generator(points.inputs.device).manual_seed(1000 * seed + number)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float32, device=like.device).to(like.dtype)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=torch.float32, device=like.device).to(like.dtype)
