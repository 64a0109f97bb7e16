"""The range on which averages over softmax rows are computed and checked."""

from __future__ import annotations

LONGEST = 2**40
"""Tokens up to which averages over rows are computed."""

LARGEST_VARIANCE = 1e4
"""sigma^2, nats^2, up to which they are: logits differ by hundreds of nats there, and attention is one-hot at any length."""
