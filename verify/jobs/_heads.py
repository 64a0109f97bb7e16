"""Small language models for the jobs on heads: their configuration, text and training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from depthwidth.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.corpus import Corpus

BYTES = {"tiny": 1 << 18, "small": 1 << 22, "gpu": 1 << 25, "full": 1 << 28}
"""Bytes of text, by size: more than the largest training of that size reads; ``full`` reads its text 1.2 times."""

CALIBRATION_SEQUENCES = 16
"""Number of sequences on which the heads of a small language model are measured."""


def training_spec(steps: int, context: int) -> dict[str, Any]:
    """The training of a small language model; the loss is that of 512 windows of the validation text."""
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


def fresh_gpt2(config: Mapping[str, Any], seed: int) -> Any:
    """A GPT-2 as transformers initialises it. The caller's random state stays as it was."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    fields = {name: value for name, value in config.items() if name != "model_type"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**fields))


def calibration_rows(text: Corpus, sequences: int, context: int) -> Tensor:
    """The first tokens of the training text, on which attention is measured: (sequences, context).

    Raises
    ------
    InputError
        if the text is shorter.
    """
    wanted = sequences * context
    if len(text.train) < wanted:
        raise InputError(
            f"heads are measured on {sequences} sequences of {context} tokens, and the text has {len(text.train):,}"
        )
    return text.train[:wanted].long().view(sequences, context)
