"""RWKV 4: a weighted mean over the past with a decay for each feature, and a feed-forward part that reads two tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from ..checks import check_whole
from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, DrawSpread, Pullback, Site
from .base import Child, Run, component
from .feed_forward import FeedForward
from .linear import Linear
from .mixer import Mixer, Proportional
from .tensor import ONES, Special, Tensor

_SHARE = Special("powers of a feature's place in the row, by block")


@component
class TimeMix(Mixer):
    """``write(sigmoid(receptance) * wkv)``: keys and values averaged over the past (Peng et al. 2023, arXiv 2305.13048).

    Key, value and receptance read a mixture of a token and the one before it, with a share for each feature. The weights of
    the average are exponentials of the keys, which decay with distance at a rate for each feature.
    """

    width: int
    inner: int

    proportional: ClassVar = ("inner",)

    def __post_init__(self) -> None:
        check_whole("TimeMix", width=self.width, inner=self.inner)

    def tensors(self) -> dict[str, Tensor]:
        return {
            "decay": Tensor((self.inner,), "vector", start=Special("a power of a feature's place, by block")),
            "bonus": Tensor((self.inner,), "vector", start=ONES),
            **{f"{name}_share": Tensor((self.width,), "vector", start=_SHARE) for name in ("key", "value", "receptance")},
        }

    def children(self) -> tuple[Child, ...]:
        inward = Linear(self.width, self.inner, bias=False)
        return (
            Child("key", inward, kind="key"),
            Child("value", inward, kind="value"),
            Child("receptance", inward, kind="gate"),
            Child("out", Linear(self.inner, self.width, bias=False), kind="out"),
        )

    def degree(self, x: Powers, at: Place) -> Powers:
        """Weights of the average are exponentials; shares of two tokens add up to one."""
        part = self.degrees_of_parts(at)
        for name in ("key_share", "value_share", "receptance_share"):
            at.require(at.weight(name), "a share and its complement add up to one")
        at.apply("gelu", part("key", x), reason="exponentials of the keys")
        for name in ("decay", "bonus"):
            at.require(at.weight(name), f"exponentials of the {name}")
        at.apply("gelu", part("receptance", x), reason="sigmoid of the receptance")
        return part("out", part("value", x))

    def own_saved(self, run: Run) -> int:
        # The input, and its three mixtures with the token before; keys, values, receptances and their sigmoid, the average,
        # and the input of the last map.
        return run.positions * (4 * self.width + 5 * self.inner) * run.value_bytes

    def own_cache(self, run: Run) -> int:
        # The latest input; numerator, denominator and largest exponent of the average.
        return run.batch * (self.width + 3 * self.inner)


@component
class ChannelMix(FeedForward, Proportional):
    """``sigmoid(receptance) * down(f(up(..)))`` where `up` and `receptance` read mixtures of a token and the one before it."""

    activation: str = "relu2"
    bias: bool = False

    causal = True
    proportional: ClassVar = ("hidden",)

    def tensors(self) -> dict[str, Tensor]:
        return {f"{name}_share": Tensor((self.width,), "vector", start=_SHARE) for name in ("up", "receptance")}

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"channel_mixer": self}

    def children(self) -> tuple[Child, ...]:
        receptance = Child("receptance", Linear(self.width, self.width, bias=False), kind="gate")
        return (receptance, *super().children())

    def degree(self, x: Powers, at: Place) -> Powers:
        for name in self.tensors():
            at.require(at.weight(name), "a share and its complement add up to one")
        receptance = Linear(self.width, self.width, bias=False)
        at.apply("gelu", at.at("receptance").through(receptance, x), reason="sigmoid of the receptance")
        return super().degree(x, at)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(f"{site.role}: the moments of ChannelMix are not derived")

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        return DrawSpread.of_matrices(1.0, 3.0, 1.0)

    def own_saved(self, run: Run) -> int:
        # In addition to those of a feed-forward part: a second mixture, the receptance's sigmoid, and its factor.
        return super().own_saved(run) + 4 * run.positions * self.width * run.value_bytes

    def own_cache(self, run: Run) -> int:
        return run.batch * self.width  # its latest input
