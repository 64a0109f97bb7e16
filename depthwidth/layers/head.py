"""Heads, which read the residual stream: the language-model head, a classifier, a pooler."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import signal
from ..checks import check_whole
from ..errors import InputError
from ..formulas.moments import centred_moment, linear_second_moment
from .activation_entries import check_activation, keeps_input
from .base import Child, Layer, Run, component
from .linear import Linear
from .norms import Norm
from .tensor import ZEROS, Tensor

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, Pullback, Site

_LOGIT_BYTES = 4  # the loss is computed in float32, whatever the precision of the activations


@component
class Unembedding(Layer):
    """The matrix from features to one logit per token. With `tied` it is the token embedding and holds no weights itself.

    A `spare_bias` is a second bias that the logits do not depend on.
    """

    width: int
    vocab: int
    tied: bool = True
    bias: bool = False
    spare_bias: bool = False
    embedding = True

    def __post_init__(self) -> None:
        check_whole("Unembedding", width=self.width, vocab=self.vocab)
        if self.spare_bias and not self.bias:
            raise InputError("Unembedding: spare_bias is a second bias, and bias=False leaves out the first")

    def tensors(self) -> dict[str, Tensor]:
        weights = {}
        if not self.tied:
            weights["weight"] = Tensor((self.vocab, self.width), "unembedding", self.width, self.vocab)
        if self.bias:
            weights["bias"] = Tensor((self.vocab,), "bias", start=ZEROS)
        if self.spare_bias:
            weights["spare_bias"] = Tensor((self.vocab,), "bias", start=ZEROS)
        return weights

    def degree(self, x: Powers, at: Place) -> Powers:
        y = at.apply("linear", x, own={"stem.tokens.weight": 1} if self.tied else at.weight("weight"))
        return (
            at.apply("bias", y, own=at.weight("bias"), reason="a bias is added to logits of another degree") if self.bias else y
        )

    def choices(self) -> dict[str, Any]:
        return {"tied": self.tied, "head_bias": self.bias, "spare_bias": self.spare_bias}

    def own_flops(self, run: Run) -> int:
        return 2 * run.positions * self.width * self.vocab

    def own_saved(self, run: Run) -> int:
        return run.positions * (self.width * run.value_bytes + self.vocab * _LOGIT_BYTES)

    def own_stream(self, run: Run) -> int:
        return run.positions * self.width * run.value_bytes

    def sharded(self, devices: int) -> Any:
        """A part of the vocabulary, which is filled up to a multiple of the devices."""
        return self.replace(vocab=-(-self.vocab // devices))


@component
class Head(Layer):
    """A component that reads the residual stream and returns logits or features. Each method has a default."""

    every = False
    """True if it returns features of each token."""

    @property
    def logits_tensor(self) -> str | None:
        """Path, from the head, of the weight that takes a factor on the logits.

        It is empty if the output matrix is tied and the factor belongs to the last norm of the stack, before the head. None if
        the head has no logits.
        """
        return None

    @property
    def as_language_head(self) -> LanguageHead | None:
        """The language-model head that this component is or wraps; None if there is none."""
        return None

    def choices(self) -> dict[str, Any]:
        raise InputError(f"a design cannot express the head {type(self).__name__}")


@component
class LanguageHead(Head):
    """Logits over the vocabulary, after an optional transform of the features.

    BERT's transform is a linear map, an activation and a norm; OPT-350M's is a projection to its narrower embedding.
    """

    unembedding: Unembedding
    transform: Linear | None = None
    norm: Norm | None = None
    softcap: float | None = None
    activation: str = "gelu"
    """The activation between a transform and its norm; a transform without a norm is a projection and has none."""
    scale: float = 1.0
    """A fixed factor on the input of the output matrix (T5, Granite, Cohere)."""

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
            "head_scale": self.scale,
            "head_activation": self.activation if masked else None,
            "transform_bias": self.transform.bias if masked and self.transform is not None else True,
        }

    def __post_init__(self) -> None:
        check_activation("LanguageHead", self.activation)

    def children(self) -> tuple[Child, ...]:
        transform = () if self.transform is None else (Child("transform", self.transform, kind="transform"),)
        norm = () if self.norm is None else (Child("norm", self.norm),)
        return (*transform, *norm, Child("unembedding", self.unembedding))

    def degree(self, x: Powers, at: Place) -> Powers:
        from .activations import activated_degree

        if self.transform is not None:
            x = at.at("transform").through(self.transform, x)
        if self.transform is not None and self.norm is not None:
            x = activated_degree(self.activation, x, at)
        if self.norm is not None:
            x = at.at("norm").through(self.norm, x)
        logits = at.at("unembedding").through(self.unembedding, x)
        return logits if self.softcap is None else at.apply("gelu", logits, reason="tanh caps the logits")

    def features(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The input of the output matrix, and the map from its gradient to the stream's."""
        pulls: list[Pullback] = []
        if self.transform is not None:
            x, pull_transform = self.transform.moments(x, site.at("transform"))
            pulls.append(pull_transform)
        if self.transform is not None and self.norm is not None:
            x, pull_activation = self._activate(x, site)
            pulls.append(pull_activation)
        if self.norm is not None:
            x, pull_norm = self.norm.moments(x, site.at("norm"))
            pulls.append(pull_norm)

        def pull(g: AnySignal) -> AnySignal:
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g

        return x, pull

    def _activate(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The input of the norm after the activation, and the map from its gradient.

        A LayerNorm subtracts the mean over the features, which is not zero here, unlike in the stream.
        """
        from .feed_forward_moments import activation_tables, hidden_moments

        width = self.unembedding.width if site.trace.finite_width else math.inf
        features = hidden_moments(self.activation, x, None, width, activation_tables(self.activation, site.trace))
        inner = site.at("activation")
        hidden = inner.record(x.of(features.second_moment, features.pair), features.mean)
        pull = inner.record_gradient(lambda g: g.times(features.gate_gradient, features.gate_gradient_pair))
        if self.norm is not None and self.norm.centred:
            mean, centred = features.mean, centred_moment.body
            hidden = hidden.of(
                centred(hidden.second_moment, mean, mean), centred(hidden.covariance, x.of_first_token(mean), mean)
            )
        if site.trace.finite_width:  # as for Gaussian features, nearly the case here
            hidden = hidden.spread_as(signal.Spread.of_gaussian(hidden, self.unembedding.width))
        return hidden, pull

    def logits(self, x: AnySignal, site: Site, stem: Site) -> Any:
        """The moments of the logits, given the output matrix's input `x`; a tied matrix has its weights at the site `stem`."""
        gain = linear_second_moment.body(1.0, self.unembedding.width, self.weight_variance(site, stem))
        return site.at("unembedding").record(x.times(gain * self.scale**2))

    def weight_variance(self, site: Site, stem: Site) -> float:
        """Variance of the entries of the output matrix, which is the token embedding if it is tied."""
        return float((stem.at("tokens") if self.unembedding.tied else site.at("unembedding")).variance("weight"))

    def loss_gradient(self, x: AnySignal, site: Site, stem: Site, token_match: float) -> tuple[float, float]:
        """Second moment and covariance, at the input of the output matrix, of the gradient of the summed cross-entropy.

        Parameters
        ----------
        x : moments of the matrix's input.
        token_match : probability that the targets of two positions are the same token; targets are random before training.
        """
        from ..formulas.moments import loss_gradient_covariance, loss_gradient_second_moment
        from ..numerics.softmax import overlap, pair_overlap, pair_squares

        weight, vocab = self.weight_variance(site, stem), self.unembedding.vocab
        q, c = x.averages
        weight *= self.scale**2  # the matrix and the factor before it are one map
        variance = linear_second_moment.body(q, self.unembedding.width, weight)
        r = max(-1.0, min(1.0, c / q))
        one, two, squares = overlap(variance, vocab), pair_overlap(variance, r, vocab), pair_squares(variance, r, vocab)
        d = self.unembedding.width if site.trace.finite_width else math.inf
        pair = (one.P, two.P2, two.M21, two.T2, squares.S2D, squares.S22)
        return (
            float(loss_gradient_second_moment.body(weight, one.P, one.M3, one.M4 + one.A22, vocab, variance, d)),
            float(loss_gradient_covariance.body(weight, *pair, vocab, token_match, variance, r, d)),
        )

    def own_saved(self, run: Run) -> int:
        if self.transform is None:
            return 0
        # The transform's input, and the activation's input if its derivative needs it: the norm keeps the output.
        kept = self.transform.outputs if self.norm is not None and keeps_input(self.activation) else 0
        return run.positions * (self.transform.inputs + kept) * run.value_bytes
