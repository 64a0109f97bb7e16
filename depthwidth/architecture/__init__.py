"""A transformer as a tree of components: its design, its counts, its Hugging Face configuration."""

from .design import Design
from .length_counts import RECOMPUTE, TrainingMemory
from .transformer import Transformer

__all__ = ["RECOMPUTE", "Design", "TrainingMemory", "Transformer"]
