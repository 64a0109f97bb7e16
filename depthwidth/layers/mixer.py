"""A mixer: a branch between tokens that is not softmax attention, with a state of fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import InputError
from ..signal import AnySignal, Pullback, Site
from .base import Branch, component

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers

M = TypeVar("M")


def mixer_as(kind: type[M], mixer: object) -> M | None:
    """The mixer if it is of this class, otherwise None."""
    return mixer if isinstance(mixer, kind) else None


@component
class Proportional(Branch):
    """A branch that can be made for a stream of another width: some of its sizes grow in proportion."""

    proportional: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that grow in proportion to the width."""

    @property
    def width_step(self) -> int:
        """The smallest width of the stream at which all proportional sizes are whole; its multiples are so as well."""
        return self.width // math.gcd(self.width, *(getattr(self, name) for name in self.proportional))

    def at_width(self, width: int) -> Any:
        """The same branch for a stream of another width, its proportional sizes rounded to whole numbers of at least 1."""
        grown = {name: max(1, round(getattr(self, name) * width / self.width)) for name in self.proportional}
        return self.replace(width=width, **grown)


@component
class Mixer(Proportional):
    """A causal branch that carries the past of a sequence in a state of fixed size.

    Operations of a recurrence are those of its sequential form: two per multiply-add of the outer product that adds a token to
    the state, and of each product that reads the state. Decay, gates and other steps that act on single entries are left out,
    like softmax. Training in chunks does more.
    """

    causal = True

    def degrees_of_parts(self, at: Place) -> Callable[[str, Powers], Powers]:
        """The powers of a part's output, given its name and those of its input."""
        parts = {child.name: child.layer for child in self.children()}
        return lambda name, x: at.at(name).through(parts[name], x)

    def degree_of_state(self, at: Place, step: Powers, u: Powers, write: Powers, read: Powers, gate: Powers) -> Powers:
        """The powers of a gated state of the features `u`, which decays by learned steps, and of its direct path."""
        steps = at.apply("bias", step, own=at.weight("step_bias"), reason="a bias is added to steps")
        at.apply("gelu", steps, reason="softplus of the steps")
        at.require(at.weight("log_decay"), "decays are exponentials of their weights")
        direct = at.apply("product", u, at.weight("direct"))
        y = at.apply(
            "sum", at.apply("product", u, write, read), direct, reason="the direct path has another degree than the state"
        )
        at.apply("gelu", gate, reason="silu of the gate")
        return y

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused, unless a subclass derives them.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(f"{site.role}: the moments of {type(self).__name__} are not derived")
