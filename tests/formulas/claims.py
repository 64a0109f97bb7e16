"""Arguments drawn over all of the range for which a formula states its accuracy, each with the exact value there."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from depthwidth.errors import InputError

DRAWS = 40
FAR = 1e6
"""An open range is sampled this many times beyond its lower end."""


class Case(NamedTuple):
    arguments: dict[str, float]
    exact: float
    noise: float = 0.0
    """Standard error of the exact value, if it is a simulation's; of its distance from the formula, if that is known better."""


@dataclass(frozen=True)
class Exact:
    """An exact value as a function of the formula's arguments and of what its claim takes for granted besides them."""

    value: Callable[..., float]
    hidden: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Ranges of quantities that are no arguments; whole numbers if both ends are."""
    tie: Callable[..., None] = lambda values, rng: None
    """Brings drawn values into the relation that the claim assumes, in place."""
    draws: int = DRAWS
    least: float = 1e-9
    """Exact values below it are passed over: the rounding of both sides shows there."""

    def cases(self, f, rng):
        """Corners of the range, draws with one argument at an end of its range, and draws from within, a third each."""
        ranges = {name: ends(f, name) for name in f.parameters}
        ranges |= {name: (low, high, isinstance(low, int)) for name, (low, high) in self.hidden.items()}
        corners = list(itertools.product(*((low or 1e-3, high) for low, high, _ in ranges.values())))
        chosen = [corners[i] for i in rng.permutation(len(corners))[: self.draws // 3]]

        def drawn(pinned=None):
            return [rng.choice([low or 1e-3, high]) if i == pinned else between(rng, low, high)
                    for i, (low, high, _) in enumerate(ranges.values())]  # fmt: skip

        faces = (drawn(rng.integers(len(ranges))) for _ in range(self.draws // 3))
        found = []
        for tried, numbers in enumerate(itertools.chain(chosen, faces, (drawn() for _ in itertools.count()))):
            values = {
                name: round(v) if whole else float(v) for v, (name, (*_, whole)) in zip(numbers, ranges.items(), strict=True)
            }
            self.tie(values, rng)
            arguments = {name: values[name] for name in f.parameters}
            if self._admitted(f, arguments):
                found.append(Case(arguments, float(self.value(**values))))
            if len(found) == self.draws:
                return [case for case in found if abs(case.exact) > self.least]
            assert tried < 10_000, f"{f.name}: hardly any draw lies in its range"
        return found

    @staticmethod
    def _admitted(f, arguments):
        try:
            f(**arguments)
        except InputError:
            return False
        return not f.outside_claim(arguments)


@dataclass(frozen=True)
class Drawn:
    """Cases from simulations, which give the arguments that go together with their exact values."""

    draw: Callable[..., list[Case]]

    def cases(self, f, rng):
        return self.draw(rng)


def ends(f, name):
    parameter = f.parameters[name]
    low, high = f.within.get(name, (parameter.domain.low, parameter.domain.high))
    if math.isinf(low):
        low = parameter.domain.typical[0]
    return low, min(high, FAR * max(low, 1.0)), parameter.domain.integer or name in ("layers", "blocks")


def between(rng, low, high):
    """A number from a range, evenly in the logarithm if it is positive."""
    if low >= 0 < high:
        return math.exp(rng.uniform(math.log(max(low, 1e-3)), math.log(high)))
    return rng.uniform(low, high)


def error(f, case):
    """The formula's error, and the noise of it, both as its accuracy measures them."""
    value = float(f(**case.arguments))
    found = f.error(value, case.exact, case.arguments)
    moved = f.error(value, case.exact + case.noise, case.arguments)
    return found, abs(moved - found) if case.noise else 0.0
