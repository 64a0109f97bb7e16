"""The components of a transformer, one a file: the weights, operations, memory and moments of each.

To write one of your own, subclass :class:`Branch` (added to the residual stream), :class:`BlockLike` (repeated by a stack),
:class:`Norm`, :class:`Position`, :class:`Stem`, :class:`Head` or plain :class:`Layer`, and decorate it with :func:`component`.
"""

from .activation_entries import ACTIVATIONS, ActivationEntry, register_activation
from .attention import Attention
from .base import Branch, Child, Layer, Node, Run, component
from .block import PLACEMENTS, Block, BlockLike, Residual
from .feed_forward import FeedForward, MixtureOfExperts
from .head import ClassifierHead, Head, LanguageHead, Pooler, Unembedding
from .interfaces import AttentionLike, FeedForwardLike, MixtureLike
from .linear import Linear
from .norms import LayerNorm, Norm, RMSNorm
from .positions import ALiBi, LearnedPositions, Position, RelativeBias, Rotary, SinusoidalPositions
from .rotary_scaling import RotaryScaling
from .stack import Repeat, Stack, shared_pattern
from .stem import Embedding, PatchStem, Stem, TokenStem
from .tensor import DRAW, IDENTITY, KINDS, ONES, ZEROS, Constant, Draw, Identity, Kind, Start, Tensor

__all__ = [
    "ACTIVATIONS",
    "DRAW",
    "IDENTITY",
    "KINDS",
    "ONES",
    "PLACEMENTS",
    "ZEROS",
    "ALiBi",
    "ActivationEntry",
    "Attention",
    "AttentionLike",
    "Block",
    "BlockLike",
    "Branch",
    "Child",
    "ClassifierHead",
    "Constant",
    "Draw",
    "Embedding",
    "FeedForward",
    "FeedForwardLike",
    "Head",
    "Identity",
    "Kind",
    "LanguageHead",
    "Layer",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "MixtureLike",
    "MixtureOfExperts",
    "Node",
    "Norm",
    "PatchStem",
    "Pooler",
    "Position",
    "RMSNorm",
    "RelativeBias",
    "Repeat",
    "Residual",
    "Rotary",
    "RotaryScaling",
    "Run",
    "SinusoidalPositions",
    "Stack",
    "Start",
    "Stem",
    "Tensor",
    "TokenStem",
    "Unembedding",
    "component",
    "register_activation",
    "shared_pattern",
]
