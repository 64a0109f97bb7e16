"""A transformer as a tree of components: its design, its counts, its Hugging Face configuration."""

from .design import Design
from .transformer import RECOMPUTE, TrainingMemory, Transformer

__all__ = ["RECOMPUTE", "Design", "TrainingMemory", "Transformer"]
