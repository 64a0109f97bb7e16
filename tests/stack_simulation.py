"""A transformer stack at initialisation, written out by hand: independent of the components and modules that it checks."""

import math

import torch
from torch.nn import functional

from depthwidth.architecture import Transformer
from depthwidth.initialization import Recipe


def one_draw(tree: Transformer, made: Recipe, correlation: float, generator: torch.Generator, device: str) -> torch.Tensor:
    """Moments of one network with Gaussian input, and of an independent Gaussian gradient at its output.

    `correlation` is that of two tokens of the input, whose variance is 1; `generator` is one of `device`.

    Returns
    -------
    Second moment and covariance of each block's output, and second moment of the gradient at each block's input: shape
    (3, depth), float64, on the host.
    """
    length, width = tree.context, tree.width
    shared = torch.randn(1, width, generator=generator, device=device)
    own = torch.randn(length, width, generator=generator, device=device)
    x = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    stream = [x.requires_grad_()]
    for layer in range(tree.depth):
        stream.append(_block(tree, made, layer, stream[-1], generator))
    output_gradient = torch.randn(length, width, generator=generator, device=device)
    gradients = torch.autograd.grad(stream[-1], stream[:-1], output_gradient)
    found = torch.empty(3, tree.depth, dtype=torch.float64, device=device)
    with torch.no_grad():
        for layer, (y, gradient) in enumerate(zip(stream[1:], gradients, strict=True)):
            y, gradient = y.double(), gradient.double()
            square = y.square().sum()
            found[0, layer] = square / (length * width)
            found[1, layer] = (y.sum(0).square().sum() - square) / (length * (length - 1) * width)
            found[2, layer] = gradient.square().mean()
    return found.cpu()  # once: a device that is asked for every number waits as often


def _block(tree: Transformer, made: Recipe, layer: int, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    name = tree.stack_name
    heads, causal = tree.heads, tree.attention.causal

    def drawn(role: str, inputs: int, outputs: int) -> torch.Tensor:
        std = made.tensor(f"{name}.block.{role}.weight").std
        return torch.randn(inputs, outputs, generator=generator, device=x.device) * (
            std[layer] if isinstance(std, tuple) else std
        )

    def split(y: torch.Tensor) -> torch.Tensor:
        return y.reshape(y.shape[0], heads, -1).transpose(0, 1)

    def dropped(y: torch.Tensor, rate: float) -> torch.Tensor:
        if not rate:
            return y
        return y * (torch.rand(y.shape, generator=generator, device=y.device) >= rate) / (1 - rate)

    def attend(y: torch.Tensor) -> torch.Tensor:
        width = y.shape[1]
        q, k, v = (split(y @ drawn(f"attention.{part}", width, width)) for part in ("query", "key", "value"))
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        if causal:
            scores = scores + torch.full_like(scores[0], -math.inf).triu(1)
        mixed = dropped(scores.softmax(-1), tree.attention.dropout) @ v
        return mixed.transpose(0, 1).reshape_as(y) @ drawn("attention.out", width, width)

    def feed_forward(y: torch.Tensor) -> torch.Tensor:
        part, width = tree.feed_forward, y.shape[1]
        activation = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}[part.activation]
        up = y @ drawn("feed_forward.up", width, part.hidden)
        hidden = activation(y @ drawn("feed_forward.gate", width, part.hidden)) * up if part.gated else activation(up)
        return dropped(hidden, part.dropout) @ drawn("feed_forward.down", part.hidden, width)

    (_, first), *_ = tree.stack.repeats[0].block.branches
    pre = first.norm_in is not None
    for role, branch in (("attention", attend), ("feed_forward", feed_forward)):
        scales = made.residual(f"{name}.block.{role}")
        skip, scale = (s[layer] if isinstance(s, tuple) else s for s in (scales.skip, scales.branch))
        y = functional.layer_norm(x, x.shape[1:]) if pre else x
        x = skip * x + scale * dropped(branch(y), first.dropout)
        if not pre:
            x = functional.layer_norm(x, x.shape[1:])
    return x
