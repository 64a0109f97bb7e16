"""Stacks of residual branches at initialisation, many draws at once, written out in torch: independent of what they check."""

import math

import torch
from torch.nn import functional

ACTIVATIONS = {"relu": functional.relu, "silu": functional.silu}


def normed(norm, y):
    """The norm of a residual by its kind; None passes."""
    if norm is None:
        return y
    y = y - y.mean(-1, keepdim=True) if norm.centred else y
    return y / (y.square().mean(-1, keepdim=True) + norm.eps).sqrt()


def moments(y):
    """Second moment and covariance of two tokens in each draw: shape (2, draws)."""
    y = y.double()
    length, width = y.shape[1:]
    square = y.square().sum((1, 2))
    return torch.stack([square / (length * width), (y.sum(1).square().sum(1) - square) / (length * (length - 1) * width)])


def simulate(tree, made, correlation, draws, seed, size=1.0, fixed=None):
    """Moments of the stream, of Gaussian input, and of an independent Gaussian gradient at the output of the last norm.

    `size` is the second moment of the input, to which the vectors `fixed` (length, width) are added.

    Returns
    -------
    Two arrays (sites, 2, draws), of the stream and of its gradient: second moment and covariance at the input of the first
    block and at the output of each.
    """
    generator = torch.Generator().manual_seed(seed)
    length, width = tree.context, tree.width
    block, name = tree.stack.repeats[0].block, tree.stack_name
    heads, kv_heads, hidden = tree.heads, tree.attention.kv_heads, tree.feed_forward.hidden

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    def weight(role, inputs, outputs):
        return drawn(draws, inputs, outputs) * made.tensor(f"{name}.block.{role}.weight").std

    def split(part, count, y):
        y = y @ weight(f"attention.{part}", width, width // heads * count)
        return y.reshape(draws, length, count, -1).transpose(1, 2).repeat_interleave(heads // count, 1)

    def attend(y):
        query, key, value = split("query", heads, y), split("key", kv_heads, y), split("value", kv_heads, y)
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // heads)
        if tree.attention.causal:
            scores = scores + torch.full((length, length), -math.inf).triu(1)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(draws, length, width)
        return mixed @ weight("attention.out", width, width)

    def feed(y):
        active = ACTIVATIONS[tree.feed_forward.activation]
        up = y @ weight("feed_forward.up", width, hidden)
        features = active(y @ weight("feed_forward.gate", width, hidden)) * up if tree.feed_forward.gated else active(up)
        return features @ weight("feed_forward.down", hidden, width)

    start = math.sqrt(correlation) * drawn(draws, 1, width) + math.sqrt(1 - correlation) * drawn(draws, length, width)
    stream = [math.sqrt(size) * start + (0.0 if fixed is None else fixed)]
    stream[0].requires_grad_()
    for _ in range(tree.depth):
        y = stream[-1]
        for branch, (_, part) in zip((attend, feed), block.branches, strict=True):
            y = normed(part.norm_stream, y + normed(part.norm_out, branch(normed(part.norm_in, y))))
        stream.append(y)
    gradients = torch.autograd.grad(normed(tree.stack.norm, stream[-1]), stream, drawn(draws, length, width))
    with torch.no_grad():
        return tuple(torch.stack([moments(y) for y in tensors]).numpy() for tensors in (stream, gradients))
