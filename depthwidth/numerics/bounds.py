"""Limits of the arguments for which averages over softmax rows are computed and tested."""

from __future__ import annotations

LONGEST = 2**40
"""Largest number of entries in a row."""

LARGEST_VARIANCE = 1e4
"""Largest variance of the logits, nats^2. There logits differ by hundreds of nats, so attention is one-hot at any length."""
