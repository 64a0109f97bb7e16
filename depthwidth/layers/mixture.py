"""A mixture of experts in place of one feed-forward part."""

from __future__ import annotations

import functools
import math
from typing import Any

from ..checks import check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..formulas.experts import router_gradient_gain, sigmoid_gate_second_moment
from ..formulas.moments import linear_second_moment
from ..numerics.homogeneity import Place, Powers
from ..numerics.interpolation import Table, TableFamily
from ..signal import AnySignal, DrawSpread, Number, Pullback, Site, TokenSignal, Trace, quotient
from .activation_entries import check_activation
from .base import Branch, Child, Run, component
from .feed_forward import FeedForward
from .feed_forward_moments import angle_of
from .interfaces import FeedForwardLike, MixtureLike
from .linear import Linear
from .router import SOFTMAX, RouterRule
from .tensor import ZEROS, Tensor

_PROBABILITY_BYTES = 4  # routers compute their softmax in float32, whatever the precision of the activations


@component
class MixtureOfExperts(Branch):
    """`experts` equal feed-forward parts; a router picks `top_k` of them for each token (arXiv 1701.06538, 2401.04088).

    An optional `shared` part serves every token; with `shared_gate` a learnt factor for each token scales it (Qwen2-MoE, arXiv
    2407.10671). With `renormalized` the weights of the chosen experts are rescaled to a sum of 1 (Mixtral); otherwise they are
    those of the softmax over all experts (Qwen's ``norm_topk_prob=false``). A `rule` other than the softmax is DeepSeek's.
    """

    expert: FeedForward
    experts: int
    top_k: int
    shared: FeedForward | None = None
    shared_gate: bool = False
    renormalized: bool = True
    choice_bias: bool = False
    """True if a term for each expert, zero at first, moves the scores by which experts are chosen, and not their weights."""
    router_bias: bool = False
    """True if the router's scores have a bias (gpt-oss)."""
    rule: RouterRule = SOFTMAX

    def __post_init__(self) -> None:
        check_whole("MixtureOfExperts", experts=self.experts, top_k=self.top_k)
        if not is_symbolic(self.experts, self.top_k) and self.top_k > self.experts:
            raise InputError(f"MixtureOfExperts: top_k={self.top_k} is more than experts={self.experts}")
        if self.shared_gate and self.shared is None:
            raise InputError("MixtureOfExperts: shared_gate needs a shared part to scale")
        for part in (self.expert, self.shared):
            if part is not None:
                check_activation("MixtureOfExperts", part.activation)
        misfit = "" if is_symbolic(self.experts, self.top_k) else self.rule.misfit(self.experts, self.top_k)
        if misfit:
            raise InputError(f"MixtureOfExperts: {misfit}")

    def tensors(self) -> dict[str, Tensor]:
        trained = self.choice_bias and not self.rule.untrained_bias
        return {"choice_bias": Tensor((self.experts,), "bias", start=ZEROS)} if trained else {}

    @property
    def router(self) -> Linear:
        """The map that scores the experts for a token."""
        return Linear(self.expert.width, self.experts, bias=self.router_bias)

    def children(self) -> tuple[Child, ...]:
        router = Child("router", self.router, kind="router")
        parts = (router, Child("expert", self.expert, copies=self.experts, active=self.top_k))
        if self.shared is None:
            return parts
        gate = Child("shared_gate", Linear(self.expert.width, 1, bias=False), kind="shared_gate")
        return (*parts, *((gate,) if self.shared_gate else ()), Child("shared", self.shared))

    def degree(self, x: Powers, at: Place) -> Powers:
        """Experts are chosen by their order, and weighed by a function of the router's scores that is not homogeneous."""
        scores = at.at("router").through(self.router, x)
        if self.choice_bias and not self.rule.untrained_bias:
            scores = at.apply("sum", scores, at.weight("choice_bias"), reason="a bias of another degree moves the choice")
        at.apply("softmax", scores, reason=f"{self.rule.scores} of the router's scores")
        y = at.at("expert").through(self.expert, x)
        if self.shared is None:
            return y
        shared = at.at("shared").through(self.shared, x)
        if self.shared_gate:
            gate = Linear(self.expert.width, 1, bias=False)
            at.apply("gelu", at.at("shared_gate").through(gate, x), reason="sigmoid of the shared part's gate")
        return at.apply("sum", y, shared, reason="the shared part has another degree than the experts")

    last = "mix"
    pulls_several = True
    routed_parts = ("expert",)

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.expert.width

    @property
    def as_feed_forward(self) -> FeedForwardLike:
        return self.expert

    @property
    def as_mixture(self) -> MixtureLike:
        return self

    def choices(self) -> dict[str, Any]:
        return {
            "experts": self.experts,
            "top_k": self.top_k,
            "shared_gate": self.shared_gate,
            "renormalized": self.renormalized,
            "choice_bias": self.choice_bias,
            "router_bias": self.router_bias,
            "router": self.rule,
            "shared_ffn": None if self.shared is None else self.shared.hidden,
        }

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        if self.rule.scales_input:
            raise InputError(f"{site.role}: the moments of experts whose inputs the router scales are not known")
        router = site.at("router")
        scores, pull_router = self.router.moments(x, router)
        y, pull_expert = self.expert.moments(x, site.at("expert"))
        angle = angle_of(scores.correlation)
        overlap, pair, jacobian, pair_jacobian = self.routing_tables(site.trace)(scores.averages[0], angle)
        if isinstance(x, TokenSignal):
            # Those of tokens are given at pairs, and of one block are the same at all of them.
            first = 0 if x.positions.of_kinds else (0,) * overlap.ndim
            overlap, jacobian = overlap[first], jacobian[first]
        # A factor on the weights is one on the experts' part of the output.
        overlap, pair, jacobian, pair_jacobian = (
            self.rule.factor**2 * part for part in (overlap, pair, jacobian, pair_jacobian)
        )
        # The gradient of a score is that of a weighted sum of the experts' outputs, each of the size of y.
        score_gain = router_gradient_gain.body(y.second_moment, jacobian, self.expert.width, self.experts)
        pair_score_gain = router_gradient_gain.body(y.covariance, pair_jacobian, self.expert.width, self.experts)
        y = y.times(overlap, pair)
        pull_shared: Pullback | None = None
        if self.shared is not None:
            shared, pull_shared = self.shared.moments(x, site.at("shared"))
            gate = self._gate_second_moment(x, site)
            y = y.plus(shared.times(gate))
        site.at("mix").record(y)

        def pull(g: AnySignal) -> AnySignal:
            input_gradient = pull_expert(g.times(overlap, pair))
            input_gradient = input_gradient.plus(pull_router(g.times(score_gain, pair_score_gain)))
            if pull_shared is not None:
                input_gradient = input_gradient.plus(pull_shared(g.times(gate)))
            return input_gradient

        return y, site.at("mix").record_gradient(pull)

    def routing_tables(self, trace: Trace) -> TableFamily:
        """The averages of :class:`~depthwidth.numerics.routing.Routing` over the scores' variance and the tokens' angle."""
        rule = self.rule
        groups = (rule.groups, rule.top_groups, rule.counted) if rule.limited else (1, 1, 1)
        settings = (self.experts, self.top_k, self.renormalized, rule.scores == "sigmoid", groups)
        # A variance 1 % off changes the averages by a few parts in a thousand, at most the error of their own sample.
        return trace.family(("routing", *settings), functools.partial(_routing_table, *settings), 0.5, same=0.02)

    def _gate_second_moment(self, x: AnySignal, site: Site) -> Number:
        """Second moment of the learnt factor on the shared part; 1 without a gate."""
        if not self.shared_gate:
            return 1.0
        variance = linear_second_moment.body(x.averages[0], self.expert.width, site.at("shared_gate").variance("weight"))
        return sigmoid_gate_second_moment.body(variance)

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """The spread of a sum of the chosen experts, of equal weights, and the shared part."""
        one, share = self.expert.draw_spread(x, site.at("expert")), 1.0
        parts = []
        if self.shared is not None:
            with site.trace.silence():
                routed, total = self._routed_part(x, site), self.moments(x, site)[0].averages[0]
            share = quotient(routed, total)
            parts.append((1 - share, self.shared.draw_spread(x, site.at("shared"))))
        return DrawSpread.of_sum([*parts, *[(share / self.top_k, one)] * self.top_k])

    def _routed_part(self, x: AnySignal, site: Site) -> Number:
        """Second moment of the chosen experts' sum, averaged over positions."""
        routed: Number = self.replace(shared=None, shared_gate=False).moments(x, site)[0].averages[0]
        return routed

    def own_saved(self, run: Run) -> int:
        # The router's input, which a shared part reads as well; every chosen expert's output, or its input before the weight,
        # from which the gradient of the weight follows; the shared part's output if a learnt factor scales it; and the router's
        # probabilities.
        values = (self.shared is None) * self.width + self.top_k * self.width + self.shared_gate * self.width
        return run.positions * (values * run.value_bytes + self.experts * _PROBABILITY_BYTES)

    def own_stream(self, run: Run) -> int:
        return run.positions * self.width * run.value_bytes  # the input of the router and of a shared part


@functools.lru_cache(maxsize=64)
def _routing_table(
    experts: int, top_k: int, renormalized: bool, sigmoid: bool, groups: tuple[int, int, int], variance: float
) -> Table:
    """The four averages of :func:`~depthwidth.numerics.routing.routing` over the angle between two tokens."""
    from ..numerics.routing import routing

    def columns(angles: Any) -> Any:
        import numpy as np

        options = (experts, top_k, renormalized, sigmoid, groups)
        return np.array([routing(variance, float(np.cos(angle)), *options) for angle in angles])

    return Table(columns, 0.0, math.pi, nodes=_ROUTING_NODES)


_ROUTING_NODES = 13
