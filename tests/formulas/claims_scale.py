"""Exact values of scale-invariant training: the recursion of the norm, step by step."""

import math

from depthwidth.formulas import scale_invariance

from .claims import Case, Drawn, Exact, between


def decay_at_most(most):
    """The product eta lambda brought to at most this."""

    def tie(values, rng):
        values["weight_decay"] = min(values["weight_decay"], most * (1 - 1e-9) / values["learning_rate"])

    return tie


def linear_time_constant(learning_rate, weight_decay):
    """From the factor 2 (1 - eta lambda)^2 - 1 by which a small distance from the fixed point shrinks in a step."""
    return -1 / math.log(2 * (1 - learning_rate * weight_decay) ** 2 - 1)


def squares(learning_rate, weight_decay, gradient_norm, start_norm):
    """The squared norm after 1, 2, 3... steps."""
    square = start_norm**2
    keep, kick = (1 - learning_rate * weight_decay) ** 2, (learning_rate * gradient_norm) ** 2
    while True:
        square = keep * square + kick / square
        yield square


def starts(rng, largest):
    """Rates, and a start from which the first step leads to at most this times the equilibrium norm."""
    for _ in range(40):
        rate = between(rng, 1e-3, 10)
        decay = rng.choice([between(rng, 5e-5, 0.01), 0.01 * (1 - 1e-9)])
        sigma = between(rng, 1e-2, 1e2)
        balance = scale_invariance.equilibrium_norm(rate, decay / rate, sigma)
        lowest = balance * math.sqrt(2 * decay) / largest  # below, the first step leads further out
        start = between(rng, lowest / balance, largest) * balance
        if rng.random() < 0.4:
            start = math.sqrt(rate) * sigma**0.5 * between(rng, 0.5, 2.0)  # near which nothing of the first step is small
        yield {"learning_rate": rate, "weight_decay": decay / rate, "gradient_norm": sigma, "start_norm": start}


def norms(rng):
    cases = []
    for given in starts(rng, 1000):
        tau = 1 / (4 * given["learning_rate"] * given["weight_decay"])
        arrives = scale_invariance.relaxation_steps.body(
            **given, fraction=1.0
        )  # from far above, errors of the rate add up until then
        asked = {1, 2, 3, 5, 10, round(tau), round(4 * tau), math.ceil(arrives), math.ceil(max(1, arrives - tau))}
        for step, square in zip(range(1, max(asked) + 1), squares(**given), strict=False):
            if step in asked:
                cases.append(Case(given | {"steps": step}, math.sqrt(square)))
    return cases


def times(rng):
    cases = []
    for given in starts(rng, 1000):
        fraction = rng.choice([between(rng, 0.005, 0.5), 0.005, 0.5])
        balance = scale_invariance.equilibrium_norm(given["learning_rate"], given["weight_decay"], given["gradient_norm"]) ** 4
        exact = next(t for t, square in enumerate(squares(**given), 1) if abs(square**2 / balance - 1) <= fraction)
        cases.append(Case(given | {"fraction": fraction}, exact))
    return cases


EXACT = {
    "scale_invariance.adamw_small_angle_per_step": Exact(scale_invariance.adamw_angle_per_step, tie=decay_at_most(0.1)),
    "scale_invariance.norm_time_constant": Exact(linear_time_constant, tie=decay_at_most(0.01)),
    "scale_invariance.relaxation_steps": Drawn(times),
    "scale_invariance.relaxed_norm": Drawn(norms),
    "scale_invariance.small_angle_per_step": Exact(scale_invariance.angle_per_step, tie=decay_at_most(0.1)),
}
