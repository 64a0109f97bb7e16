"""Rotary positions stretched beyond the length of training: the types that the transformers library knows (release 5).

Angles are divided, by one factor for all pairs of dimensions or by one for each. YaRN and LongRoPE also multiply queries and
keys by a factor a, so that the scores of rotated dimensions are a^2 times larger.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import InputError, shown
from ..values import frozen

KINDS = ("linear", "dynamic", "yarn", "longrope", "llama3", "proportional")


@frozen
class RotaryScaling:
    """A way to stretch rotary positions.

    ========== =====================================================================================================
    linear     all angles divided by `factor`
    dynamic    a base that grows with the length, for sequences longer than `original` ("NTK")
    yarn       slow angles divided by `factor`, fast ones kept, a ramp between; `amplitude` (arXiv 2309.00071)
    longrope   angles divided by `short`, or for sequences longer than `original` by `long`; `amplitude` (2402.13753)
    llama3     slow angles divided by `factor`, fast ones kept, another ramp between
    proportional   the first pairs of a head rotate, by angles over `factor`; exponents count all pairs (Gemma 4)
    ========== =====================================================================================================
    """

    kind: str
    factor: float = 1.0
    original: int = 1
    """tokens of training"""
    amplitude: float = 1.0
    """a, on queries and on keys"""
    fast: float = 32.0
    """turns over `original` tokens (yarn), or its ratio to a wavelength (llama3), from which on an angle is kept"""
    slow: float = 1.0
    """the same, up to which an angle is divided by the whole factor"""
    truncate: bool = True
    """whether the ends of yarn's ramp are whole numbers"""
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"RotaryScaling: kind={shown(self.kind)} is not one of {', '.join(KINDS)}")
        for name in ("factor", "original", "amplitude", "fast", "slow"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"RotaryScaling: {name}={shown(value)} is not a positive number")
        if not all(0 < value < math.inf for value in (*self.short, *self.long)):
            raise InputError("RotaryScaling: short and long hold a value that is not a positive number")
        if self.kind in ("llama3", "yarn") and self.fast < self.slow:  # Llama 4 has equal ends of the ramp: a step
            raise InputError(f"RotaryScaling: fast={self.fast} is not at least slow={self.slow}")

    @property
    def partial(self) -> bool:
        """True if its table names the share of pairs that rotate, in whatever family."""
        return self.kind == "proportional"

    def regime(self, length: int) -> int:
        """A length that has the same angles as this one: of those that share angles always the same."""
        if self.kind == "dynamic":
            return max(length, self.original)
        return self.original + 1 if self.kind == "longrope" and length > self.original else 1

    def frequencies(self, base: float, dims: int, head_dim: int, length: int) -> Any:
        """Angle per position of each pair of the `dims` rotated dimensions, in a sequence of `length` tokens.

        Pairs of a head that do not turn have 0 if the kind is ``proportional``, and are left out otherwise.

        Raises
        ------
        InputError
            if there are factors of single pairs, and not one for each.
        """
        import numpy as np

        pairs = np.arange(0, dims, 2)
        if self.kind == "proportional":
            turned = base ** (-pairs / head_dim) / self.factor
            return np.concatenate([turned, np.zeros(head_dim // 2 - turned.size)])
        far = length > self.original
        if self.kind == "dynamic" and far and dims > 2:
            base *= (self.factor * length / self.original - self.factor + 1) ** (dims / (dims - 2))
        plain = base ** (-pairs / dims)
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "longrope":
            factors = self.long if far else self.short
            if len(factors) != pairs.size:
                name = "long" if far else "short"
                raise InputError(f"RotaryScaling: {len(factors)} factors {name} are not one for each of {pairs.size} pairs")
            return plain / np.array(factors)
        if self.kind == "dynamic":
            return plain
        kept = self._kept(plain) if self.kind == "llama3" else 1 - self._ramp(base, dims)
        return plain * kept + plain / self.factor * (1 - kept)

    def _kept(self, plain: Any) -> Any:
        """Share of each angle that Llama 3 keeps."""
        turns = self.original * plain / (2 * math.pi)
        if self.fast == self.slow:
            return (turns >= self.fast) * 1.0
        return ((turns - self.slow) / (self.fast - self.slow)).clip(0.0, 1.0)

    def _ramp(self, base: float, dims: int) -> Any:
        """Share of each angle that YaRN divides."""
        import numpy as np

        def dimension(turns: float) -> float:
            return dims * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = dimension(self.fast), dimension(self.slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dims - 1)
        return ((np.arange((dims + 1) // 2) - low) / (high - low if high != low else 0.001)).clip(0.0, 1.0)
