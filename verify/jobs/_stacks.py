"""Simulation of whole stacks at initialisation: random weights, Gaussian inputs, and an independent gradient sent back."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from depthwidth.architecture import Transformer
from depthwidth.initialization import Recipe

from ..files import write_whole
from ..rows import digest_of
from . import Context


def simulated_stream(tree: Transformer, made: Recipe, correlation: float, draws: int, context: Context) -> NDArray[np.float64]:
    """Second moment and covariance behind every block, and second moment of the gradient in front of it, for each draw.

    Parameters
    ----------
    tree, made : a stack without embedding and head, and its recipe.
    correlation : between the tokens of the Gaussian input, whose variance is 1.
    draws : of weights, input and output gradient; each has a generator of its own.
    context : where to compute. Draws are kept in its folder, so that a killed simulation goes on where it was.

    Returns
    -------
    Array of shape (draws, 3, depth).
    """
    kept = context.folder / "draws.csv"
    done = _read_draws(kept, 3 * tree.depth)[:draws]
    saved = time.monotonic()
    for draw in range(len(done), draws):
        # Drawn where they are used: a host would take longer to draw them than a GPU to do all the rest. So one seed means one
        # network on one kind of device; what is compared with theory are means over draws.
        generator = torch.Generator(context.device).manual_seed(context.seed * 1_000_003 + draw)
        done.append(one_draw(tree, made, correlation, generator, context.device).flatten().tolist())
        if time.monotonic() - saved > SAVE_S:
            lines = "\n".join(",".join(map(repr, values)) for values in done)
            write_whole(kept, f"{lines}\n{digest_of(lines.encode())}\n".encode())
            saved = time.monotonic()
            context.progress(draw / draws)
    return np.array(done).reshape(draws, 3, tree.depth)


SAVE_S = 2.0
"""How often draws are kept, in seconds: the work that a kill can cost."""


def _read_draws(path: Path, numbers: int) -> list[list[float]]:
    """The draws that were kept; none where the file is not what was written."""
    try:
        lines, _, seal = path.read_text().rstrip("\n").rpartition("\n")
        if digest_of(lines.encode()) != seal:
            return []
        found = [[float(cell) for cell in line.split(",")] for line in lines.splitlines()]
    except (OSError, ValueError):
        return []
    return found if all(len(values) == numbers for values in found) else []


def one_draw(tree: Transformer, made: Recipe, correlation: float, generator: torch.Generator, device: str) -> torch.Tensor:
    """Shape (3, depth), in float64, on the host; `generator` is one of `device`."""
    length, width = tree.context, tree.width
    shared = torch.randn(1, width, generator=generator, device=device)
    own = torch.randn(length, width, generator=generator, device=device)
    x = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    stream = [x.requires_grad_()]
    for layer in range(tree.depth):
        stream.append(_block(tree, made, layer, stream[-1], generator))
    behind = torch.randn(length, width, generator=generator, device=device)
    gradients = torch.autograd.grad(stream[-1], stream[:-1], behind)
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
        activation: Any = {
            "relu": functional.relu,
            "gelu": functional.gelu,
            "silu": functional.silu,
        }[part.activation]
        up = y @ drawn("feed_forward.up", width, part.hidden)
        hidden = activation(y @ drawn("feed_forward.gate", width, part.hidden)) * up if part.gated else activation(up)
        return dropped(hidden, part.dropout) @ drawn("feed_forward.down", part.hidden, width)

    block = tree.stack.repeats[0].block
    pre = block.attention.norm_in is not None
    for role, branch in (("attention", attend), ("feed_forward", feed_forward)):
        scales = made.residual(f"{name}.block.{role}")
        skip, scale = (s[layer] if isinstance(s, tuple) else s for s in (scales.skip, scales.branch))
        y = functional.layer_norm(x, x.shape[1:]) if pre else x
        x = skip * x + scale * dropped(branch(y), block.attention.dropout)
        if not pre:
            x = functional.layer_norm(x, x.shape[1:])
    return x
