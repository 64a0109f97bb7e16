"""A user's own components, torch modules, positions, activation, scheme, rule, family and job, by the public API alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from depthwidth.architecture.hf import FAMILIES
from depthwidth.initialization import Choice, Draft, scheme
from depthwidth.layers import (
    IDENTITY,
    ONES,
    ZEROS,
    ActivationEntry,
    Block,
    BlockLike,
    Branch,
    Child,
    Linear,
    Norm,
    Position,
    PositionEntry,
    Tensor,
    component,
)
from depthwidth.planning.rules import Rule
from verify.jobs import Job
from verify.models import base as models
from verify.models import positions

# ---- a residual branch: each token times the mean of all tokens ----


@component
class GatedMean(Branch):
    """``write(gate(x) * mean over tokens of read(x))``: every token sees the whole sequence, without attention."""

    width: int
    hidden: int

    @property
    def maps(self):
        """The three linear maps and their jobs."""
        inward, outward = Linear(self.width, self.hidden, bias=False), Linear(self.hidden, self.width, bias=False)
        return (("gate", inward, "gate"), ("read", inward, "read"), ("write", outward, "write"))

    def children(self):
        return tuple(Child(name, layer, kind=kind) for name, layer, kind in self.maps)

    def moments(self, x, site):
        n = site.trace.length
        parts = {name: layer.moments for name, layer, _ in self.maps}
        gate, pull_gate = parts["gate"](x, site.at("gate"))
        read, pull_read = parts["read"](x, site.at("read"))
        mean = (read.second_moment + (n - 1) * read.covariance) / n
        y, pull_write = parts["write"](x.of(gate.second_moment * mean, gate.covariance * mean), site.at("write"))

        def pull(g):
            g = pull_write(g)
            to_gate = pull_gate(g.times(mean))
            shared = (g.second_moment * gate.second_moment + (n - 1) * g.covariance * gate.covariance) / n
            return to_gate.plus(pull_read(g.of(shared, shared)))

        return y, pull


@models.builds(GatedMean)
class GatedMeanModule(models.Branch):
    def __init__(self, layer):
        super().__init__()
        for name, part, _ in layer.maps:
            self.add_module(name, models.module(part))

    def branch(self, x, run):
        return self.write(self.gate(x) * self.read(x).mean(1, keepdim=True))


# ---- a block that keeps several copies of the stream: predict, compute on one copy, correct all ----


@component
class Alternating(BlockLike):
    """``copies = P @ copies``, then ``copies_i += g_i (block(copy_j) - predicted copy_j)`` for the active copy j."""

    block: Block
    streams: int = 2
    active: int = 0

    @property
    def width(self):
        return self.block.width

    def tensors(self):
        k = self.streams
        return {
            "predict": Tensor((k, k), "mixing", k, k, start=IDENTITY),
            "correct": Tensor((k,), "vector", start=ONES),
        }

    def children(self):
        return (Child("block", self.block),)

    def own_flops(self, run):
        return 2 * self.streams**2 * run.positions * self.width

    def moments(self, x, site):
        # From equal copies, an identity and ones keep all copies equal: they are the stream of the block alone.
        predict, correct = (site.trace.recipe.tensor(f"{site.role}.{name}") for name in ("predict", "correct"))
        if (predict.mean, predict.std, correct.mean, correct.std) != ("identity", 0.0, 1.0, 0.0):
            return super().moments(x, site)
        y, pull = self.block.moments(x, site.at("block"))
        return site.record(y), site.record_gradient(pull)


@models.builds(Alternating)
class AlternatingModule(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.active = layer.active
        self.predict = nn.Parameter(torch.empty(layer.streams, layer.streams))
        self.correct = nn.Parameter(torch.empty(layer.streams))
        self.multipliers = {"predict": 1.0, "correct": 1.0}
        self.block = models.module(layer.block)

    def forward(self, x, run):
        predicted = self.multipliers["predict"] * torch.einsum("ij,bjtd->bitd", self.predict, x)
        change = self.block(x[:, self.active], run) - predicted[:, self.active]
        return predicted + self.multipliers["correct"] * self.correct[:, None, None] * change[:, None]


# ---- a norm with one gain for all features ----


@component
class ScaleNorm(Norm):
    """``g x / rms(x)`` with a single trainable number g (Nguyen & Salazar 2019, arXiv 1910.05895, up to a constant)."""

    def tensors(self):
        return {"weight": Tensor((1,), "gain", start=ONES)}


@models.builds(ScaleNorm)
class ScaleNormModule(nn.Module):
    multiplier = 1.0

    def __init__(self, layer):
        super().__init__()
        self.eps = layer.eps
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, x):
        return self.multiplier * self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


# ---- positions: a score bias for even and one for odd distances ----


@component
class Parity(Position):
    """A trained score bias for each head and parity of the distance."""

    heads: int
    home = "attention"
    adds_scores = True

    def fitted(self, heads, width):
        return replace(self, heads=heads)

    def tensors(self):
        return {"weight": Tensor((2, self.heads), "score_bias", start=ZEROS)}


@models.builds(Parity)
class ParityModule(positions.TableBias):
    multiplier = 1.0

    def __init__(self, layer):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, layer.heads))

    def table(self, length):
        place = torch.arange(length)
        return self.multiplier * self.weight[(place[:, None] - place) % 2].permute(2, 0, 1)


parity = PositionEntry("parity", lambda sizes: Parity(sizes.heads), "a score bias for even and one for odd distances")


# ---- an activation, a scheme, a rule, a family, a job ----

sharp = ActivationEntry("sharp", "x*sigmoid(3*x)", spellings=("sharp_swish",))


@scheme("thirds", "this test", "primary")
def thirds(tree, share: float = 1 / 3):
    """Every tensor that is drawn starts with `share` / sqrt(fan-in); all others as their components state."""

    def rule(weight):
        from depthwidth.initialization import stated_choice

        return stated_choice(weight) or Choice(share / weight.fan_in**0.5, "a share of 1/sqrt(fan-in)")

    return Draft(tree, rule)


@scheme("gentle", "this test", "primary")
def gentle(tree, start: float = 0.25):
    """Branches with a trainable factor that starts at `start`."""
    draft = thirds.make(tree)
    return replace(draft, scales=lambda stack, branch, index: (1.0, start, "a trained factor"), trained_scales=True)


square = Rule("square", "this test", "fitted", lambda c: lambda depth: (depth, 50.0 * depth))

tinylm = replace(
    FAMILIES["llama"],
    model_type="tinylm",
    models={"TinyForCausalLM": {"head": "lm", "pooler": False}},
)


def _runs(size):
    return []


def _measure(spec, context):
    return []


def _judge(rows, predictions):
    raise NotImplementedError


JOB = Job("outsider-claim", "Does it work?", "It does.", "nothing", "always", _runs, _measure, _judge)
