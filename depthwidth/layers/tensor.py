"""The weights of a component: the shape, kind, fans and starting values of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import InputError, nearest, shown
from ..values import frozen

Shape = tuple[int, ...]


@frozen
class Draw:
    """A random draw of mean 0. The initialisation scheme chooses its standard deviation, by the tensor's kind and fans."""


@frozen
class Constant:
    """Every entry has this value: 1 for the gain of a norm, 0 for a bias."""

    value: float


@frozen
class Identity:
    """Ones on the diagonal of the last two dimensions and zeros elsewhere: an identity matrix, or a batch of them."""


@frozen
class Special:
    """Starting values of another kind, in words. No scheme states them, so there is no recipe for a tree that has some."""

    words: str


@frozen
class Fixed:
    """Values that the component computes, and that are not trained, such as stored sines and cosines."""


Start = Draw | Constant | Identity | Special | Fixed
"""The starting values of a tensor, unless a scheme sets others."""

DRAW, ZEROS, ONES, IDENTITY, FIXED = Draw(), Constant(0.0), Constant(1.0), Identity(), Fixed()


class Kind(NamedTuple):
    """The job of a tensor; schemes choose by it."""

    name: str
    job: str
    """The job in one phrase."""
    group: str
    """``table`` (a row is looked up), ``input`` (its fan-in does not grow with the width), ``hidden`` (both fans grow),
    ``output`` (its fan-out does not grow), ``vector`` (one number a feature, position or head)."""
    carries: bool = False
    """True if the size of a branch's output is proportional to it; schemes that start branches smaller scale it."""
    writes: bool = False
    """True if its output is added to the residual stream, through at most a norm and dropout."""
    generic: bool = False
    """True if the component that holds it does not know its job; the parent may name one (:attr:`Child.kind`)."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("tokens", "a row for each token", "table"),
        Kind("positions", "a row for each position", "table"),
        Kind("segments", "a row for each segment", "table"),
        Kind("class_token", "the row before the patches of an image", "table"),
        Kind("table", "rows that are looked up", "table", generic=True),
        Kind("routing", "features of a head to the sides of the nodes of its tree", "input"),
        Kind("patch", "pixels of a patch to the stream", "input"),
        Kind("mixing", "a few entries that mix heads, positions or copies of the stream", "input"),
        Kind("projection", "a narrow embedding to the stream", "hidden"),
        Kind("query", "the stream to queries", "hidden"),
        Kind("key", "the stream to keys", "hidden"),
        Kind("value", "the stream to values", "hidden", carries=True),
        Kind("latent", "the stream to few features, which a norm follows", "hidden"),
        Kind("out", "heads to the stream", "hidden", carries=True, writes=True),
        Kind("gate", "the stream to a gate", "hidden", carries=True),
        Kind("up", "the stream to hidden features", "hidden", carries=True),
        Kind("down", "hidden features to the stream", "hidden", carries=True, writes=True),
        Kind("read", "the stream into a branch", "hidden", carries=True),
        Kind("write", "a branch to the stream", "hidden", carries=True, writes=True),
        Kind("kernel", "a convolution inside a branch", "hidden", carries=True),
        Kind("matrix", "a matrix of any other kind", "hidden", generic=True),
        Kind("transform", "the stream to the features of a head", "hidden"),
        Kind("pooler", "the first token's features to a head", "hidden"),
        Kind("router", "the stream to a score for each expert", "output"),
        Kind("shared_gate", "the stream to the gate of a shared expert", "output"),
        Kind("classifier", "features to classes", "output"),
        Kind("unembedding", "features to tokens", "output"),
        Kind("gain", "a factor for each feature", "vector"),
        Kind("layer_scale", "a factor for each feature of a branch's output", "vector"),
        Kind("bias", "a term for each feature", "vector"),
        Kind("score_bias", "a term of attention scores", "vector"),
        Kind("vector", "a vector or scalar of any other kind", "vector"),
    )
}
"""Every kind of tensor by name. A user's component takes the kinds of its tensors from here."""


class _Fields(NamedTuple):
    shape: Shape
    kind: str
    fan_in: int
    fan_out: int
    start: Start
    offset: float


class Tensor(_Fields):
    """One weight of a component.

    Parameters
    ----------
    shape : the stored shape.
    kind : its job, a name of :data:`KINDS`.
    fan_in : number of terms in the sum of one output; 1 for a table (a single row is looked up) and for a vector.
    fan_out : number of outputs to which one input contributes; the last dimension by default.
    start : the starting values, unless a scheme sets others.
    offset : added to the stored values before they are used: 1 for a gain that is stored as its difference from one.

    Raises
    ------
    InputError
        if there is no such kind.

    Examples
    --------
    >>> Tensor((64, 4), "kernel", fan_in=4, fan_out=4).start
    Draw()
    >>> Tensor((2, 2), "mixin", start=IDENTITY)
    Traceback (most recent call last):
    depthwidth.errors.InputError: Tensor: there is no kind of tensor 'mixin' (did you mean 'mixing'?)
    """

    __slots__ = ()

    def __new__(
        cls,
        shape: Shape,
        kind: str,
        fan_in: Any = 1,
        fan_out: Any = None,
        start: Start = DRAW,
        offset: float = 0.0,
    ) -> Tensor:
        if kind not in KINDS:
            raise InputError(f"Tensor: there is no kind of tensor {shown(kind)}{nearest(str(kind), KINDS)}")
        if fan_out is None:
            fan_out = shape[-1] if shape else 1
        return tuple.__new__(cls, (shape, kind, fan_in, fan_out, start, offset))
