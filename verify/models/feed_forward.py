# mypy: disable-error-code="misc, no-any-return"
"""The feed-forward part of a block: plain or gated, dense or a mixture of experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers

from .activations import Activation
from .base import Branch, Pass, apply_dropout, builds, module, optional, scale_by


@builds(layers.FeedForward)
class FeedForward(Branch):
    """Two linear maps with an activation between, or three with a gate."""

    def __init__(self, layer: layers.FeedForward) -> None:
        super().__init__()
        self.gate = optional(layer.gate)
        self.up = module(layer.up)
        self.activation = Activation(layer.activation)
        self.up_activation = None if layer.up_activation == "identity" else Activation(layer.up_activation)
        self.hidden_rate = layer.dropout
        self.inner_norm = optional(layer.inner_norm)
        self.down = module(layer.down)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (..., width) to features of the same shape."""
        up = self.up(x) if self.up_activation is None else self.up_activation(self.up(x))
        hidden = self.activation(up, None if self.gate is None else self.gate(x))
        hidden = apply_dropout(hidden, self.hidden_rate, self.training)
        return self.down(hidden if self.inner_norm is None else self.inner_norm(hidden))


class StackedLinear(nn.Module):
    """A linear map for each expert, their weights stacked: (experts, outputs, inputs)."""

    multiplier = 1.0

    def __init__(self, layer: layers.Linear, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, layer.outputs, layer.inputs))
        self.bias = nn.Parameter(torch.empty(experts, layer.outputs)) if layer.bias else None

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Features (tokens, inputs) of one expert's tokens to features (tokens, outputs)."""
        y = F.linear(x, self.weight[expert], None if self.bias is None else self.bias[expert])
        return scale_by(y, self.multiplier)


class Experts(nn.Module):
    """Feed-forward parts of one shape, their weights stacked."""

    def __init__(self, layer: layers.FeedForward, experts: int) -> None:
        super().__init__()
        self.gate = None if layer.gate is None else StackedLinear(layer.gate, experts)
        self.up = StackedLinear(layer.up, experts)
        self.activation = Activation(layer.activation)
        self.up_activation = None if layer.up_activation == "identity" else Activation(layer.up_activation)
        self.rate = layer.dropout
        self.down = StackedLinear(layer.down, experts)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """Features (tokens, width) of one expert's tokens to features of the same shape."""
        up = self.up(x, expert) if self.up_activation is None else self.up_activation(self.up(x, expert))
        hidden = self.activation(up, None if self.gate is None else self.gate(x, expert))
        return self.down(apply_dropout(hidden, self.rate, self.training), expert)


@builds(layers.MixtureOfExperts)
class MixtureOfExperts(Branch):
    """Each token through the `top_k` experts of highest router score, and through a shared part if there is one.

    If `renormalized`, the router's probabilities are divided by their sum over the chosen experts. The routing depends on the
    data, so ``torch.compile`` breaks its graph here. A bias on the choice that no gradient trains is a buffer.
    """

    def __init__(self, layer: layers.MixtureOfExperts) -> None:
        super().__init__()
        self.experts, self.top_k, self.renormalized = layer.experts, layer.top_k, layer.renormalized
        self.router = module(layer.router)
        self.rule = layer.rule
        bias = torch.empty(layer.experts) if layer.choice_bias else None
        if layer.rule.untrained_bias:
            self.register_buffer("choice_bias", bias)
        else:
            self.choice_bias = None if bias is None else nn.Parameter(bias)
        self.expert = Experts(layer.expert, layer.experts)
        self.shared_gate = module(layers.Linear(layer.expert.width, 1, bias=False)) if layer.shared_gate else None
        self.shared = optional(layer.shared)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (..., width) to features of the same shape."""
        flat = x.flatten(0, -2)
        weights, chosen = self.route(self.router(flat))
        y = torch.zeros_like(flat)
        for expert in range(self.experts):
            token, place = torch.where(chosen == expert)
            weight, read = weights[token, place, None], flat[token]
            if self.rule.scales_input:
                part = self.expert(weight.to(read.dtype) * read, expert)
            else:
                part = weight * self.expert(read, expert)
            y = y.index_add(0, token, part.to(y.dtype))
        if self.shared is not None:
            common = self.shared.branch(flat)
            y = y + (common if self.shared_gate is None else torch.sigmoid(self.shared_gate(flat)) * common)
        return y.view_as(x)

    def route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and the numbers of each token's experts, (tokens, top_k) each, from the scores (tokens, experts)."""
        rule = self.rule
        shares = torch.sigmoid(scores.float()) if rule.scores == "sigmoid" else F.softmax(scores, dim=-1, dtype=torch.float32)
        if self.choice_bias is None and not rule.limited:
            weights, chosen = shares.topk(self.top_k, dim=-1)
        else:
            choice = shares if self.choice_bias is None else shares + self.choice_bias.float()
            chosen = (self._best_groups(choice) if rule.limited else choice).topk(self.top_k, dim=-1).indices
            weights = shares.gather(-1, chosen)
        if self.renormalized:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return scale_by(weights, rule.factor), chosen

    def _best_groups(self, choice: Tensor) -> Tensor:
        """The values by which experts are chosen, minus infinity outside the best groups."""
        rule = self.rule
        grouped = choice.unflatten(-1, (rule.groups, -1))
        sizes = grouped.topk(min(rule.counted, grouped.shape[-1]), dim=-1).values.sum(-1)
        best = torch.zeros_like(sizes, dtype=torch.bool).scatter(-1, sizes.topk(rule.top_groups, dim=-1).indices, True)
        return grouped.masked_fill(~best[..., None], -torch.inf).flatten(-2)
