# mypy: disable-error-code="misc, no-any-return"
"""Mamba, one token after another: exact and slow."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers

from .activations import Activation
from .base import Branch, Pass, add_children, add_tensors, builds


@builds(layers.Mamba)
class Mamba(Branch):
    """A selective state space for each feature; its decays and states are in float32."""

    def __init__(self, layer: layers.Mamba) -> None:
        super().__init__()
        self.layer = layer
        add_tensors(self, layer)
        add_children(self, layer)
        self.activation = Activation(layer.activation)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        u = self.activation(self.convolution(self.read(x)))
        step, write, read = self.select(u).split([self.layer.rank, self.layer.state, self.layer.state], dim=-1)
        if self.layer.norm is not None:
            step, write, read = self.step_norm(step), self.write_norm(write), self.read_norm(read)
        steps = F.softplus(self.step(step) + self.step_bias)
        y = scan(u, steps, -self.log_decay.float().exp(), write, read) + self.direct * u
        return self.write(y * F.silu(self.gate(x)))


def scan(u: Tensor, steps: Tensor, decay: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """``h_t = exp(steps_t decay) h_{t-1} + steps_t u_t write_t`` and ``h_t read_t``, for each of the last features of `u`.

    Parameters
    ----------
    u, steps : (batch, length, features).
    decay : (features, state), or (features, 1).
    write, read : (batch, length, state), or one for each feature: (batch, length, features, state).
    """
    if write.dim() == 3:
        write, read = write[:, :, None], read[:, :, None]
    state = torch.zeros(u.shape[0], u.shape[2], write.shape[-1], device=u.device)
    outputs = []
    for t in range(u.shape[1]):
        step = steps[:, t, :, None].float()
        state = torch.exp(step * decay) * state + step * u[:, t, :, None].float() * write[:, t].float()
        outputs.append((state * read[:, t].float()).sum(-1))
    return torch.stack(outputs, dim=1).to(u.dtype)


@builds(layers.Mamba2)
class Mamba2(Branch):
    """A state space with one decay for each head; its decays and states are in float32."""

    least_step = 0.0
    most_step = float("inf")
    norm_first = False
    """True if the norm is before the gate (Falcon-H1)."""
    settings: ClassVar = {"least_step": "least_step", "most_step": "most_step", "norm_before_gate": "norm_first"}

    def __init__(self, layer: layers.Mamba2) -> None:
        super().__init__()
        self.layer = layer
        add_tensors(self, layer)
        add_children(self, layer)
        self.activation = Activation(layer.activation)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        layer, shared = self.layer, self.layer.groups * self.layer.state
        mixed = torch.cat([self.read(x), self.key(x), self.query(x)], dim=-1)
        u, key, query = self.activation(self.convolution(mixed)).split([layer.inner, shared, shared], dim=-1)
        steps = F.softplus(self.step(x) + self.step_bias).clamp(self.least_step, self.most_step)
        # One group's vectors serve heads / groups heads, and all their features have the head's step, decay and direct path.
        features = layer.inner // layer.groups
        vectors = (part.unflatten(-1, (layer.groups, layer.state)).repeat_interleave(features, dim=2) for part in (key, query))
        steps, direct = steps.repeat_interleave(layer.head_dim, dim=-1), self.direct.repeat_interleave(layer.head_dim)
        decay = -self.log_decay.float().exp().repeat_interleave(layer.head_dim)[:, None]
        y, gate = scan(u, steps, decay, *vectors) + direct * u, F.silu(self.gate(x))
        if not layer.normed:
            return self.write(y * gate)
        y = (y if self.norm_first else y * gate).unflatten(-1, (layer.groups, -1))
        y = self.norm(y).flatten(-2)
        return self.write(y * gate if self.norm_first else y)
