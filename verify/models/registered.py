"""The torch modules of the library's own components; importing this file registers them."""

from . import attention, block, convolution, feed_forward, head, linear, norms, positions, stack, stem

__all__ = ["attention", "block", "convolution", "feed_forward", "head", "linear", "norms", "positions", "stack", "stem"]
