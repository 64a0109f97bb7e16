"""Small trees, inputs for the models of any tree, and the checks that every component's module passes."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SMALL = {"depth": 2, "width": 24, "heads": 4, "vocab": 31, "context": 12}


def some_inputs(tree, batch=2, length=None):
    generator = torch.Generator().manual_seed(3)
    if not tree.vocab:
        return {"tokens": torch.randn(batch, tree.stem.channels, tree.stem.height, tree.stem.width_pixels, generator=generator)}
    length = min(tree.context, 9) if length is None else length
    given = {"tokens": torch.randint(tree.vocab, (batch, length), generator=generator)}
    if tree.kind == "encoder-decoder":
        given["source"] = torch.randint(tree.vocab, (batch, max(1, min(tree.context, length - 2))), generator=generator)
    return given


def tokens_of(tree, **more):
    return some_inputs(tree, **more)["tokens"]


def counted_flops(call):
    """The operations of matrix products that torch counts in a call, attention spelled out."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()
