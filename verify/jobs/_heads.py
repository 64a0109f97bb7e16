"""What jobs on heads that train small language models share: how they are trained, on what, and the model that is measured."""

from __future__ import annotations

from typing import Any

BYTES = {"tiny": 1 << 18, "small": 1 << 22, "gpu": 1 << 25, "full": 1 << 28}
"""Of text, by size: more than the largest training of that size reads, but for ``full``, which reads its own 1.2 times."""


def training_spec(steps: int, context: int) -> dict[str, Any]:
    """How a small language model is trained; the loss is that of 512 windows of the validation text."""
    return {
        "steps": steps, "batch": 16, "context": context, "learning_rate": 2e-3, "warmup": steps // 10, "evaluate_batches": 32,
        "precision": "float32",
    }  # fmt: skip


def gpt2_config(context: int, width: int, layers: int) -> dict[str, Any]:
    """The configuration of a small GPT-2 on bytes, four heads a layer, without dropout."""
    return {
        "model_type": "gpt2", "vocab_size": 256, "n_embd": width, "n_head": 4, "n_layer": layers, "n_positions": context,
        "bos_token_id": 0, "eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip
