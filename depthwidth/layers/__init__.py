"""The components of a transformer, one a file: the weights, operations, memory and moments of each.

To write one of your own, decorate a subclass with :func:`component`: of :class:`Branch` (added to the residual stream),
:class:`BlockLike` (repeated by a stack), :class:`Norm`, :class:`Position`, :class:`Stem`, :class:`Head` or plain
:class:`Layer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..lazy import load_name

if TYPE_CHECKING:
    from .activation_entries import ACTIVATIONS, ActivationEntry, register_activation
    from .alibi import ALiBi
    from .altup import AltUp, PartStreams, RecycledAltUp, SequenceAltUp, SummedStreams
    from .attention import Attention
    from .attention_pooling import AttentionPooling
    from .audio import AudioStem, TimeConvolution
    from .base import Branch, Child, Layer, Node, Run, component
    from .block import PLACEMENTS, Block, BlockLike, Residual
    from .borrowed_attention import BorrowedAttention
    from .chunked_attention import ChunkedAttention
    from .classifier import ClassifierHead, Pooler
    from .convolution import Convolution, ShortConvolution
    from .delta_net import GatedDeltaNet
    from .disentangled_attention import Disentangled, DisentangledAttention, RelativeVectors
    from .feed_forward import FeedForward
    from .gated_attention import GatedAttention
    from .head import Head, LanguageHead, Unembedding
    from .image_bias import ImageBias
    from .interfaces import AttentionLike, FeedForwardLike, MixtureLike
    from .latent_attention import Latent, LatentAttention
    from .laurel import Laurel
    from .laurel_block import LaurelBlock
    from .layer_gate import LayerGate
    from .layered_stem import LayeredStem, LayerInputs
    from .linear import Linear
    from .lone_decoder import LoneDecoderBlock
    from .mamba import Mamba
    from .mamba2 import Mamba2
    from .memory_block import MemoryBlock
    from .mixer import Mixer, Proportional
    from .mixture import MixtureOfExperts
    from .norms import LayerNorm, Norm, RMSNorm
    from .parallel_mixer import ParallelMixer
    from .patch_logits import PatchLogits
    from .patch_mean import PatchMean
    from .patch_stem import PatchStem
    from .position_entries import POSITION_ENTRIES, PositionEntry, PositionSizes, register_position
    from .positions import LearnedPositions, Position
    from .pretraining_head import PretrainingHead
    from .projected_streams import ProjectedStreams
    from .projection import Projection
    from .relative_bias import BlockRelativeBias, RelativeBias
    from .relu_attention import ReluAttention
    from .rotary import Rotary
    from .rotary_scaling import RotaryScaling
    from .routed_altup import AltUpRouting, RoutedAltUp
    from .router import RouterRule
    from .rwkv import ChannelMix, TimeMix
    from .score_positions import DietAbs, DietRel, SegmentBias, ShawVectors, UntiedPositions
    from .sinusoidal_positions import SinusoidalPositions, SinusoidalTable
    from .sparse_feed_forward import SparseFeedForward
    from .sparse_mixer import SparseMixer
    from .stack import Repeat, Stack, shared_pattern
    from .stem import Embedding, SharedEmbedding, Stem, TokenStem
    from .streams import Streams
    from .tensor import (
        DRAW,
        FIXED,
        IDENTITY,
        KINDS,
        ONES,
        ZEROS,
        Constant,
        Draw,
        Fixed,
        Identity,
        Kind,
        Special,
        Start,
        Tensor,
    )
    from .trained_activation import TrainedActivation
    from .tree_attention import Tree, TreeAttention
    from .value_norm import ValueNormAttention

# File -> the public names that it defines. A file is loaded when one of its names is first used, as most models need a few of
# them. The imports above repeat this for type checkers.
_FILES = {
    "activation_entries": "ACTIVATIONS ActivationEntry register_activation",
    "alibi": "ALiBi",
    "altup": "AltUp PartStreams RecycledAltUp SequenceAltUp SummedStreams",
    "attention": "Attention",
    "attention_pooling": "AttentionPooling",
    "audio": "AudioStem TimeConvolution",
    "base": "Branch Child Layer Node Run component",
    "block": "PLACEMENTS Block BlockLike Residual",
    "borrowed_attention": "BorrowedAttention",
    "chunked_attention": "ChunkedAttention",
    "classifier": "ClassifierHead Pooler",
    "convolution": "Convolution ShortConvolution",
    "delta_net": "GatedDeltaNet",
    "disentangled_attention": "Disentangled DisentangledAttention RelativeVectors",
    "feed_forward": "FeedForward",
    "gated_attention": "GatedAttention",
    "head": "Head LanguageHead Unembedding",
    "image_bias": "ImageBias",
    "interfaces": "AttentionLike FeedForwardLike MixtureLike",
    "latent_attention": "Latent LatentAttention",
    "laurel": "Laurel",
    "laurel_block": "LaurelBlock",
    "layer_gate": "LayerGate",
    "layered_stem": "LayeredStem LayerInputs",
    "linear": "Linear",
    "mamba": "Mamba",
    "mamba2": "Mamba2",
    "lone_decoder": "LoneDecoderBlock",
    "memory_block": "MemoryBlock",
    "mixer": "Mixer Proportional",
    "mixture": "MixtureOfExperts",
    "norms": "LayerNorm Norm RMSNorm",
    "parallel_mixer": "ParallelMixer",
    "patch_logits": "PatchLogits",
    "patch_mean": "PatchMean",
    "patch_stem": "PatchStem",
    "position_entries": "POSITION_ENTRIES PositionEntry PositionSizes register_position",
    "positions": "LearnedPositions Position",
    "pretraining_head": "PretrainingHead",
    "projected_streams": "ProjectedStreams",
    "projection": "Projection",
    "relative_bias": "BlockRelativeBias RelativeBias",
    "relu_attention": "ReluAttention",
    "rotary": "Rotary",
    "rotary_scaling": "RotaryScaling",
    "routed_altup": "AltUpRouting RoutedAltUp",
    "router": "RouterRule",
    "rwkv": "ChannelMix TimeMix",
    "score_positions": "DietAbs DietRel SegmentBias ShawVectors UntiedPositions",
    "sinusoidal_positions": "SinusoidalPositions SinusoidalTable",
    "sparse_feed_forward": "SparseFeedForward",
    "sparse_mixer": "SparseMixer",
    "stack": "Repeat Stack shared_pattern",
    "stem": "Embedding SharedEmbedding Stem TokenStem",
    "streams": "Streams",
    "tensor": "DRAW FIXED IDENTITY KINDS ONES ZEROS Constant Draw Fixed Identity Kind Special Start Tensor",
    "trained_activation": "TrainedActivation",
    "tree_attention": "Tree TreeAttention",
    "value_norm": "ValueNormAttention",
}
_HOME = {name: file for file, names in _FILES.items() for name in names.split()}

__all__ = [
    "ACTIVATIONS",
    "DRAW",
    "FIXED",
    "IDENTITY",
    "KINDS",
    "ONES",
    "PLACEMENTS",
    "POSITION_ENTRIES",
    "ZEROS",
    "ALiBi",
    "ActivationEntry",
    "AltUp",
    "AltUpRouting",
    "Attention",
    "AttentionLike",
    "AttentionPooling",
    "AudioStem",
    "Block",
    "BlockLike",
    "BlockRelativeBias",
    "BorrowedAttention",
    "Branch",
    "ChannelMix",
    "Child",
    "ChunkedAttention",
    "ClassifierHead",
    "Constant",
    "Convolution",
    "DietAbs",
    "DietRel",
    "Disentangled",
    "DisentangledAttention",
    "Draw",
    "Embedding",
    "FeedForward",
    "FeedForwardLike",
    "Fixed",
    "GatedAttention",
    "GatedDeltaNet",
    "Head",
    "Identity",
    "ImageBias",
    "Kind",
    "LanguageHead",
    "Latent",
    "LatentAttention",
    "Laurel",
    "LaurelBlock",
    "Layer",
    "LayerGate",
    "LayerInputs",
    "LayerNorm",
    "LayeredStem",
    "LearnedPositions",
    "Linear",
    "LoneDecoderBlock",
    "Mamba",
    "Mamba2",
    "MemoryBlock",
    "Mixer",
    "MixtureLike",
    "MixtureOfExperts",
    "Node",
    "Norm",
    "ParallelMixer",
    "PartStreams",
    "PatchLogits",
    "PatchMean",
    "PatchStem",
    "Pooler",
    "Position",
    "PositionEntry",
    "PositionSizes",
    "PretrainingHead",
    "ProjectedStreams",
    "Projection",
    "Proportional",
    "RMSNorm",
    "RecycledAltUp",
    "RelativeBias",
    "RelativeVectors",
    "ReluAttention",
    "Repeat",
    "Residual",
    "Rotary",
    "RotaryScaling",
    "RoutedAltUp",
    "RouterRule",
    "Run",
    "SegmentBias",
    "SequenceAltUp",
    "SharedEmbedding",
    "ShawVectors",
    "ShortConvolution",
    "SinusoidalPositions",
    "SinusoidalTable",
    "SparseFeedForward",
    "SparseMixer",
    "Special",
    "Stack",
    "Start",
    "Stem",
    "Streams",
    "SummedStreams",
    "Tensor",
    "TimeConvolution",
    "TimeMix",
    "TokenStem",
    "TrainedActivation",
    "Tree",
    "TreeAttention",
    "Unembedding",
    "UntiedPositions",
    "ValueNormAttention",
    "component",
    "register_activation",
    "register_position",
    "shared_pattern",
]


def __getattr__(name: str) -> Any:
    return load_name(__name__, name, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
