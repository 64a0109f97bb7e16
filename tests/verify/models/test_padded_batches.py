"""Torch's own stacks on padded batches, beside the moments predicted for the lengths of the sequences in them."""

import functools
import math

import numpy as np
import pytest

from depthwidth.analysis.propagation import moments_of
from depthwidth.architecture import Transformer
from depthwidth.initialization import recipe

torch = pytest.importorskip("torch")

from verify.jobs.moments import NOISE, TOLERANCE  # noqa: E402

pytestmark = pytest.mark.slow

WIDTH, HEADS, DEPTH, CORRELATION, STD = 64, 2, 2, 0.1, 0.15
LENGTHS = (2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 16)
"""Most sequences are short: 44 of 176 places are no padding."""
PAIRS = ((2, 4),) * 4 + ((4, 2),) * 4 + ((16, 2), (2, 16))
"""Lengths of a target and of its source."""


class Stack:
    """An encoder or a decoder of torch's own, and what is seen in it: by site and direction, :func:`numbers`."""

    def __init__(self, name, placement, reads=False):
        options = {"dropout": 0.0, "batch_first": True, "norm_first": placement == "pre"}
        kind = torch.nn.TransformerDecoderLayer if reads else torch.nn.TransformerEncoderLayer
        layer = kind(WIDTH, HEADS, 4 * WIDTH, **options)
        norm = torch.nn.LayerNorm(WIDTH) if placement == "pre" else None
        more = {} if reads else {"enable_nested_tensor": False}
        self.module = (torch.nn.TransformerDecoder if reads else torch.nn.TransformerEncoder)(layer, DEPTH, norm, **more)
        self.name, self.real, self.seen = name, None, {}
        for place, block in enumerate(self.module.layers):
            block.register_forward_hook(functools.partial(self.see, f"{name}.block.{place}"))
            for part, attention in (("attention", "self_attn"), ("cross_attention", "multihead_attn")):
                if hasattr(block, attention):
                    see = functools.partial(self.see, f"{name}.block.{place}.{part}.out")
                    getattr(block, attention).register_forward_hook(see)
        if norm is not None:
            self.module.norm.register_forward_hook(functools.partial(self.see, name))

    def see(self, site, part, given, out):
        x = out[0] if isinstance(out, tuple) else out
        real = self.real
        x.register_hook(lambda g: self.seen.__setitem__((site, "gradient"), numbers(g, real)))
        self.seen[site, "forward"] = numbers(x, real)

    def run(self, x, real, causal, generator, memory=None):
        """The output of the stack, with newly drawn weights."""
        self.real = real
        with torch.no_grad():
            for weight in self.module.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=STD, generator=generator)
        self.see(f"{self.name}.input", None, None, x.requires_grad_())
        if memory is None:
            return self.module(x, mask=hidden(real, real, causal))
        read, read_real = memory
        return self.module(x, read, tgt_mask=hidden(real, real, causal), memory_mask=hidden(real, read_real, False))


def drawn(kind, stacks, side, seed):
    """One draw of weights and of a padded batch: the numbers of each site."""
    generator = torch.Generator().manual_seed(seed)
    lengths, memory = LENGTHS, None
    if kind == "encoder-decoder":
        lengths, sources = zip(*PAIRS, strict=True)
        x, real = batch(sources, side, generator)
        memory = stacks[-1].run(x, real, False, generator), real
    x, real = batch(lengths, side, generator)
    y = stacks[0].run(x, real, kind != "encoder", generator, memory)
    y.backward(torch.randn(y.shape, generator=generator) * real[..., None])  # padding carries no loss
    return {key: value for stack in stacks for key, value in stack.seen.items()}


def batch(lengths, side, generator):
    """Correlated Gaussian tokens (batch, longest, width) with loud padding on one side, and which places are no padding."""
    longest = max(lengths)
    shared, own = (torch.randn(len(lengths), count, WIDTH, generator=generator) for count in (1, longest))
    place = torch.arange(longest)
    real = torch.stack([place < n if side == "right" else place >= longest - n for n in lengths])
    x = math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own
    return torch.where(real[..., None], x, 5.0 * torch.ones(WIDTH)), real


def hidden(asking, read, causal):
    """True where a query may not look, (batch * heads, queries, keys): at padding. Padding must see something, and sees all."""
    seen = read[:, None, :] & asking[:, :, None]
    if causal:
        seen = seen.tril()
    seen = seen | ~seen.any(-1, keepdim=True)
    return (~seen).repeat_interleave(HEADS, 0)


def numbers(x, real):
    """Second moment of a real token, and mean product with another of its sequence."""
    x, kept = x.detach().double() * real[..., None], real.sum(1).double()
    own, every = x.square().sum((1, 2)) / WIDTH, x.sum(1).square().sum(1) / WIDTH
    pair = (every - own) / (kept * (kept - 1))
    return (own.sum() / kept.sum()).item(), ((pair * kept).sum() / kept.sum()).item()


KINDS = {
    "full, padded right": ("encoder", "pre", "right"),
    "causal, padded left, norms after": ("decoder", "post", "left"),
    "cross": ("encoder-decoder", "pre", "right"),
}


@functools.cache
def simulated(name, draws):
    """By site and direction, the numbers of each draw: shape (draws, 2)."""
    kind, placement, side = KINDS[name]
    stacks = [Stack(kind, placement)]
    if kind == "encoder-decoder":
        stacks = [Stack("decoder", placement, reads=True), Stack("encoder", placement)]
    found = [drawn(kind, stacks, side, seed) for seed in range(draws)]
    return {key: np.array([one[key] for one in found]) for key in found[0]}


def predicted(name, **given):
    kind, placement, _ = KINDS[name]
    tree = Transformer(
        DEPTH, WIDTH, HEADS, kind=kind, placement=placement, activation="relu", positions="none", vocab=100, context=64,
        head="none",
    )  # fmt: skip
    made = recipe(tree, "normal", std=STD)
    rows = moments_of(tree, made, variance=1.0, correlation=CORRELATION, **given)
    return {(row["site"], row["direction"]): row for row in rows}


def worst(name, rows, draws):
    """Distance of predictions from the criterion of the job `moments`, by quantity: the worst site, 0 if all meet it."""
    found = dict.fromkeys(TOLERANCE, 0.0)
    for (site, direction), values in simulated(name, draws).items():
        row, mean = rows[site, direction], values.mean(0)
        error = values.std(0, ddof=1) / math.sqrt(draws) / mean[0]
        size = abs(row["second_moment"] / mean[0] - 1), error[0]
        if direction == "gradient":
            off = {"gradient_variance": size}
        else:
            off = {
                "variance": size,
                "correlation": (abs(row["covariance"] / row["second_moment"] - mean[1] / mean[0]), error[1]),
            }
        for quantity, (miss, noise) in off.items():
            found[quantity] = max(found[quantity], miss - TOLERANCE[quantity] - NOISE * noise)
    return found


DRAWS = 40


def lengths_of(name):
    return PAIRS if KINDS[name][0] == "encoder-decoder" else LENGTHS


@pytest.mark.parametrize("name", KINDS)
def test_the_real_tokens_of_a_padded_batch(name):
    assert max(worst(name, predicted(name, lengths=lengths_of(name)), DRAWS).values()) == 0


@pytest.mark.parametrize("name", KINDS)
def test_padding_taken_for_tokens_is_told_apart(name):
    """As many tokens as there are places: attention then averages over more of them, and leaves less."""
    assert min(worst(name, predicted(name, context=max(LENGTHS)), DRAWS).values()) > 0
