"""A mixture of experts by four published laws: the dense model that it is worth.

The laws disagree, and few models are inside their data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, shown
from ..formulas.mixtures import (
    abnar_loss,
    clark_dense_equivalent,
    krajewski_dense_loss,
    krajewski_loss,
    ling_efficiency_leverage,
)
from ..numerics.roots import bisect
from ..values import frozen

MEMORY_NOTE = (
    "laws of mixtures compare at equal operations; under a limit on memory fewer experts may win (arXiv 2601.08215), "
    "as all parameters must be held"
)


@frozen
class Mixture:
    """A mixture's sizes as the laws take them."""

    experts: int
    top_k: int
    shared: float
    """Size of the part that every token passes, in experts."""
    total: int
    """Parameters without the embedding."""
    active: int
    """Those of them that one token passes through."""
    granularity: float
    """2 d_model / d_expert, as Tian et al. define it."""
    fineness: float
    """Hidden features of a dense part of usual size over those of an expert: 4 times the width, 8/3 with a gate."""
    expansion: float
    """Hidden features of all experts over those of that dense part."""

    @classmethod
    def of(cls, tree: Transformer) -> Mixture:
        """The mixture of the first block that has one.

        Raises
        ------
        InputError
            if no block has one.
        """
        found = tree.experts
        if found is None:
            raise InputError("this model has no experts")
        dense = tree.width * (8 / 3 if found.expert.gated else 4)
        return cls(
            experts=found.experts,
            top_k=found.top_k,
            shared=0.0 if found.shared is None else found.shared.hidden / found.expert.hidden,
            total=tree.non_embedding_parameters,
            active=tree.trained_size,
            granularity=2 * tree.width / found.expert.hidden,
            fineness=dense / found.expert.hidden,
            expansion=found.experts * found.expert.hidden / dense,
        )

    @property
    def active_share(self) -> float:
        """Share of experts that a token passes, shared ones included in both."""
        return (self.top_k + self.shared) / (self.experts + self.shared)


@frozen
class MixtureVerdict:
    """The worth of a mixture by one law."""

    law: str
    source: str
    worth: float | None
    """Size (FLOPs for Tian et al.) of the dense model of equal loss over the active one of the mixture; None without one."""
    outside: tuple[str, ...]
    """Quantities outside the law's data, or that it does not know."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "outside": list(self.outside)}


def mixture_verdicts(tree: Transformer, tokens: float) -> tuple[MixtureVerdict, ...]:
    """The dense model that a mixture is worth, by each law, after training on so many tokens.

    Raises
    ------
    InputError
        if the model has no experts, or the tokens are not a positive number.

    Examples
    --------
    >>> mixtral = Transformer.from_config({"model_type": "mixtral"})
    >>> [(found.law, round(found.worth, 1)) for found in mixture_verdicts(mixtral, 1e12)][:2]
    [('ling2025', 1.8), ('clark2022', 1.2)]
    """
    if not (isinstance(tokens, (int, float)) and 0 < tokens < 1e30):
        raise InputError(f"mixtures: tokens={shown(tokens)} is not a positive number")
    mixture = Mixture.of(tree)
    flops = float(tree.flops_per_token(training=True)) * tokens
    return tuple(make(mixture, float(tokens), flops) for make in (_judge_by_ling, _clark, _krajewski, _abnar))


def spread(verdicts: tuple[MixtureVerdict, ...]) -> tuple[float, float] | None:
    """The least and the largest worth; None if no law has one."""
    found = [verdict.worth for verdict in verdicts if verdict.worth is not None]
    return (min(found), max(found)) if found else None


def _outside(**ranges: tuple[float, float, float]) -> tuple[str, ...]:
    """The quantities, each with its value and range, that are outside; half a per cent of tolerance for rounded ranges."""
    return tuple(
        name.replace("_", " ") for name, (value, low, high) in ranges.items() if not 0.995 * low <= value <= 1.005 * high
    )


def _judge_by_ling(mixture: Mixture, tokens: float, flops: float) -> MixtureVerdict:
    worth = ling_efficiency_leverage.with_fixed()(mixture.active_share, mixture.granularity, flops)
    outside = _outside(
        active_share=(mixture.active_share, 0.008, 1), granularity=(mixture.granularity, 2, 16),
        training_FLOPs=(flops, 1e18, 1e22),
    )  # fmt: skip
    return MixtureVerdict("ling2025", ling_efficiency_leverage.source, float(worth), outside)


def _clark(mixture: Mixture, tokens: float, flops: float) -> MixtureVerdict:
    # The law is for one expert per token, as large as the dense part; with k experts, their number is that of groups of k.
    experts = mixture.experts / mixture.top_k
    worth = clark_dense_equivalent.with_fixed()(mixture.active, experts) / mixture.active
    outside = _outside(
        active_parameters=(mixture.active, 1.5e7, 1.3e9), experts=(experts, 1, 512), training_tokens=(tokens, 1.3e11, 1.3e11)
    )
    own = ("several experts a token",) if mixture.top_k > 1 or mixture.shared else ()
    return MixtureVerdict("clark2022", clark_dense_equivalent.source, float(worth), outside + own)


def _krajewski(mixture: Mixture, tokens: float, flops: float) -> MixtureVerdict:
    loss = krajewski_loss.with_fixed()(mixture.total, tokens, mixture.fineness)
    dense = krajewski_dense_loss.with_fixed()
    worth = _dense_size(lambda size: dense(size, tokens), float(loss), mixture.active)
    outside = _outside(
        total_parameters=(mixture.total, 1.29e8, 3.7e9), granularity=(mixture.fineness, 1, 16),
        training_tokens=(tokens, 1.6e10, 1.3e11), expansion=(mixture.expansion, 64, 64),
    )  # fmt: skip
    return MixtureVerdict("krajewski2024", krajewski_loss.source, worth, outside)


def _abnar(mixture: Mixture, tokens: float, flops: float) -> MixtureVerdict:
    law = abnar_loss.with_fixed()
    sparsity = 1 - mixture.active_share
    loss = law(mixture.total, sparsity, tokens)
    worth = _dense_size(lambda size: law(size, 0.0, tokens), float(loss), mixture.active)
    outside = (*_outside(sparsity=(sparsity, 0, 0.98)), "range of sizes unknown to us")
    return MixtureVerdict("abnar2025", abnar_loss.source, worth, outside)


def _dense_size(dense: Callable[[float], Any], loss: float, active: float) -> float | None:
    """The size of a dense model of this loss over that of the active one; None if no size between 1 and 1e16 has it."""
    ends = math.log(1.0), math.log(1e16)
    if not dense(math.exp(ends[0])) > loss > dense(math.exp(ends[1])):
        return None
    return math.exp(bisect(lambda log_size: loss - float(dense(math.exp(log_size))), *ends)) / active
