"""Heads, which read the residual stream: a language-model head, a classifier, a pooler."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..checks import check_whole
from ..errors import InputError
from ..formulas.moments import centred_moment, linear_second_moment
from ..signal import AnySignal, Pullback, Site, Spread, TokenSignal
from .activation_entries import check_activation
from .base import Child, Layer, Run, component
from .feed_forward import activation_tables, hidden_moments
from .linear import Linear
from .norms import Norm
from .tensor import ZEROS, Tensor

_LOGIT_BYTES = 4  # the loss is taken in float32 whatever the activations are


@component
class Unembedding(Layer):
    """The matrix from features to one logit for each token; `tied` uses the token embedding's and has no weights."""

    width: int
    vocab: int
    tied: bool = True
    bias: bool = False
    embedding = True

    def __post_init__(self) -> None:
        check_whole("Unembedding", width=self.width, vocab=self.vocab)

    def tensors(self) -> dict[str, Tensor]:
        weights = {}
        if not self.tied:
            weights["weight"] = Tensor((self.vocab, self.width), "unembedding", self.width, self.vocab)
        if self.bias:
            weights["bias"] = Tensor((self.vocab,), "bias", start=ZEROS)
        return weights

    def choices(self) -> dict[str, Any]:
        return {"tied": self.tied, "head_bias": self.bias}

    def own_flops(self, run: Run) -> int:
        return 2 * run.positions * self.width * self.vocab

    def own_saved(self, run: Run) -> int:
        return run.positions * (self.width * run.value_bytes + self.vocab * _LOGIT_BYTES)


@component
class Head(Layer):
    """A component that reads the residual stream and puts out logits or features. Each answer has a default."""

    @property
    def logits_tensor(self) -> str | None:
        """Path, from the head, of the weight where a factor on its logits belongs.

        An empty path says that the weight stands before the head, at the last norm of the stack, as the output matrix is tied.
        None if the head has no logits.
        """
        return None

    @property
    def as_language_head(self) -> LanguageHead | None:
        """The language-model head that this component is or wraps; None if there is none."""
        return None

    def choices(self) -> dict[str, Any]:
        raise InputError(f"a design has no word for the head {type(self).__name__}")


@component
class LanguageHead(Head):
    """Logits over the vocabulary, after a transform of the features where the family has one.

    BERT transforms by a linear map, an activation and a norm; OPT's smallest-embedding model projects to a narrower width.
    """

    unembedding: Unembedding
    transform: Linear | None = None
    norm: Norm | None = None
    softcap: float | None = None
    activation: str = "gelu"
    """Between a transform and its norm; a transform without a norm is a projection and has none."""

    @property
    def as_language_head(self) -> LanguageHead:
        return self

    @property
    def logits_tensor(self) -> str:
        if not self.unembedding.tied:
            return "unembedding.weight"
        if self.norm is not None:
            return "norm.weight"
        return "" if self.transform is None else "transform.weight"

    def choices(self) -> dict[str, Any]:
        masked = self.norm is not None
        return {
            "head": "masked-lm" if masked else "lm",
            "logit_softcap": self.softcap,
            "head_activation": self.activation if masked else None,
        }

    def __post_init__(self) -> None:
        check_activation("LanguageHead", self.activation)

    def children(self) -> tuple[Child, ...]:
        transform = () if self.transform is None else (Child("transform", self.transform, kind="transform"),)
        norm = () if self.norm is None else (Child("norm", self.norm),)
        return (*transform, *norm, Child("unembedding", self.unembedding))

    def features(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """What the output matrix reads of the stream, and the map from its gradient to the stream's."""
        pulls: list[Pullback] = []
        if self.transform is not None:
            x, pull_transform = self.transform.moments(x, site.at("transform"))
            pulls.append(pull_transform)
        if self.transform is not None and self.norm is not None:
            x, pull_activation = self._activated(x, site)
            pulls.append(pull_activation)
        if self.norm is not None:
            x, pull_norm = self.norm.moments(x, site.at("norm"))
            pulls.append(pull_norm)

        def pull(g: AnySignal) -> AnySignal:
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g

        return x, pull

    def _activated(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """What the norm normalises of the activated features, and the map from their gradient.

        A LayerNorm takes off the mean over the features, which these have, unlike those of the stream.
        """
        width = self.unembedding.width if site.trace.finite_width else math.inf
        known = hidden_moments(self.activation, x, None, width, activation_tables(self.activation, site.trace))
        inner = site.at("activation")
        hidden = inner.record(x.of(known.second_moment, known.pair), known.mean)
        pull = inner.record_gradient(lambda g: g.times(known.gate_gradient, known.gate_gradient_pair))
        if self.norm is not None and self.norm.centred:
            mean, centred = known.mean, centred_moment.body
            first = mean[:, None] if isinstance(x, TokenSignal) else mean
            hidden = hidden.of(centred(hidden.second_moment, mean, mean), centred(hidden.covariance, first, mean))
        if site.trace.finite_width:  # as of Gaussian features, which these nearly are
            hidden = hidden.spread_as(Spread.of_gaussian(hidden, self.unembedding.width))
        return hidden, pull

    def logits(self, x: AnySignal, site: Site, stem: Site) -> Any:
        """The logits' moments, of `x` that the output matrix reads; a tied matrix finds its weights at the stem's place."""
        gain = linear_second_moment.body(1.0, self.unembedding.width, self.weight_variance(site, stem))
        return site.at("unembedding").record(x.times(gain))

    def weight_variance(self, site: Site, stem: Site) -> float:
        """Variance of one entry of the output matrix, its own or the token embedding's."""
        return float((stem.at("tokens") if self.unembedding.tied else site.at("unembedding")).variance("weight"))

    def loss_gradient(self, x: AnySignal, site: Site, stem: Site, token_match: float) -> tuple[float, float]:
        """Moments, in front of the output matrix, of the gradient of the summed cross-entropy of every position.

        `x` is what that matrix reads. The targets are random: nothing is learnt yet. `token_match` is the probability that two
        of them are the same token.
        """
        from ..formulas.moments import loss_gradient_covariance, loss_gradient_second_moment
        from ..numerics.softmax import overlap, pair_overlap

        weight, vocab = self.weight_variance(site, stem), self.unembedding.vocab
        q, c = x.averages
        variance = linear_second_moment.body(q, self.unembedding.width, weight)
        one, two = overlap(variance, vocab), pair_overlap(variance, max(-1.0, min(1.0, c / q)), vocab)
        return (
            float(loss_gradient_second_moment(weight, one.P, vocab)),
            float(loss_gradient_covariance(weight, two.P2, vocab, token_match)),
        )

    def own_saved(self, run: Run) -> int:
        if self.transform is None:
            return 0
        # What the transform reads, and its result before the activation.
        return run.positions * (self.transform.inputs + self.transform.outputs) * run.value_bytes


@component
class Pooler(Head):
    """A linear map and a tanh of the first token's features, as BERT and ViT end with."""

    width: int
    outputs: int

    def children(self) -> tuple[Child, ...]:
        return (Child("linear", Linear(self.width, self.outputs), kind="pooler"),)

    def choices(self) -> dict[str, Any]:
        return {"head": "none", "pooler": True, "pooler_width": self.outputs}

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=1)


@component
class ClassifierHead(Head):
    """One logit for each of `classes`, read from the first token's features; a `pooler` before it where there is one."""

    width: int
    classes: int
    pooler: Pooler | None = None
    bias: bool = True

    def children(self) -> tuple[Child, ...]:
        linear = Child("linear", Linear(self.width, self.classes, self.bias), kind="classifier")
        return (linear,) if self.pooler is None else (Child("pooler", self.pooler), linear)

    logits_tensor = "linear.weight"

    def choices(self) -> dict[str, Any]:
        return {"head": "classifier", "classes": self.classes}

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=1)
