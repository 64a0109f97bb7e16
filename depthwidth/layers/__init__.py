"""The components of a transformer, one a file: what each is, its weights, its operations, its memory."""

from .attention import Attention
from .base import Child, Layer, Node, Run
from .block import Block, Residual
from .feed_forward import ACTIVATIONS, FeedForward, MixtureOfExperts
from .head import ClassifierHead, LanguageHead, Pooler, Unembedding
from .linear import Linear
from .norms import LayerNorm, Norm, RMSNorm
from .positions import ALiBi, LearnedPositions, RelativeBias, Rotary, SinusoidalPositions
from .stack import Repeat, Stack
from .stem import Embedding, PatchStem, TokenStem

__all__ = [
    "ACTIVATIONS",
    "ALiBi",
    "Attention",
    "Block",
    "Child",
    "ClassifierHead",
    "Embedding",
    "FeedForward",
    "LanguageHead",
    "Layer",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "MixtureOfExperts",
    "Node",
    "Norm",
    "PatchStem",
    "Pooler",
    "RMSNorm",
    "RelativeBias",
    "Repeat",
    "Residual",
    "Rotary",
    "Run",
    "SinusoidalPositions",
    "Stack",
    "TokenStem",
    "Unembedding",
]
