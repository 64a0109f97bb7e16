"""The rule that turns a router's scores into the choice and the weights of experts."""

from __future__ import annotations

from ..checks import check_choice, check_whole
from ..errors import InputError, shown
from ..values import frozen

SCORES = ("softmax", "sigmoid")


@frozen
class RouterRule:
    """A function of the scores, ``softmax`` over all experts or ``sigmoid`` of each, and a limit on the experts to choose from.

    With several `groups` of equal size, experts are chosen from the `top_groups` best. The size of a group is the sum of its
    `counted` largest values: one in DeepSeek-V2 (arXiv 2405.04434), two in DeepSeek-V3 (arXiv 2412.19437). The weights of the
    chosen experts are multiplied by `factor`.
    """

    scores: str = "softmax"
    groups: int = 1
    top_groups: int = 1
    counted: int = 1
    factor: float = 1.0
    untrained_bias: bool = False
    """True if the bias on the choice (``choice_bias`` of the mixture) is no parameter: the load of the experts moves it, no
    gradient does, and no count includes it."""

    scales_input: bool = False
    """True if the weights multiply the inputs of the experts instead of their outputs (Llama 4)."""

    def __post_init__(self) -> None:
        check_choice("RouterRule", SCORES, scores=self.scores)
        check_whole("RouterRule", groups=self.groups, top_groups=self.top_groups, counted=self.counted)
        if self.top_groups > self.groups:
            raise InputError(f"RouterRule: top_groups={self.top_groups} is more than groups={self.groups}")
        if not 0 < self.factor < float("inf"):
            raise InputError(f"RouterRule: factor={shown(self.factor)} is not a positive number")

    @property
    def limited(self) -> bool:
        """True if experts of some groups cannot be chosen."""
        return self.top_groups < self.groups

    def misfit(self, experts: int, top_k: int) -> str:
        """The reason why these numbers of experts do not go with the groups; empty if they do."""
        if experts % self.groups:
            return f"groups={self.groups} do not divide experts={experts}"
        if top_k > experts // self.groups * self.top_groups:
            return f"top_k={top_k} is more than the experts of top_groups={self.top_groups} of groups={self.groups}"
        return ""


SOFTMAX = RouterRule()
"""The softmax over all experts, any of which can be chosen."""
