"""Stacks whose tokens are not exchangeable, by the token-kernel recursion of :mod:`depthwidth.token_attention`, and simulated.

    python -m verify.attention_kernels --out data/measured/attention_kernels.csv

A recursion of its own, norm, attention, ReLU and residual alone, so that the attention kernel is tried alone. The stacks are
those of :mod:`verify.moments` with ReLU: under a causal mask, from exchangeable tokens, at few positions; and from a text whose
tokens repeat as Zipf's law has it, at every position. The prediction is written down before anything is drawn.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from depthwidth import __version__
from depthwidth.architecture import Transformer
from depthwidth.initialization import Recipe
from depthwidth.token_attention import Attended, TokenAttention
from depthwidth.token_positions import Positions

from . import moments

Array = Any
Pair = tuple[Array, Array]
VOCABULARY = 1000
TOKEN_SHARE = 0.5
"""Of an embedding's second moment; the rest is the position's."""


class Kernels:
    """Moments at the nodes, with how far they vary between draws at finite width.

    `v` is Var(q_t), `w` Cov(q_t, q_t') and `u[t, t']` Cov(c_tt', q_t).
    """

    def __init__(self, q: Array, c: Array, v: Array, w: Array, u: Array) -> None:
        self.q, self.c, self.v, self.w, self.u = q, c, v, w, u

    @classmethod
    def gaussian(cls, q: Array, c: Array, width: float) -> Kernels:
        """Independent Gaussian features."""
        return cls(q, c, 2 * q * q / width, 2 * c * c / width, 2 * q[:, None] * c / width)

    def plus(self, skip: float, q: Array, c: Array, om: float, width: float) -> Kernels:
        """The residual stream, times `skip`, with a branch added."""
        s2, s4 = skip**2, skip**4
        x, xc = s2 * self.q, s2 * self.c
        return Kernels(
            x + q,
            xc + c,
            s4 * self.v + (4 * x * q + om * q * q) / width,
            s4 * self.w + (4 * xc * c + om * c * c) / width,
            s4 * self.u + (2 * (x[:, None] * c + xc * q[:, None]) + om * q[:, None] * c) / width,
        )

    def _bent(self) -> Array:
        share = self.v / self.q**2
        return 3 / 8 * (share[:, None] + share) + self.w / np.outer(self.q, self.q) / 4

    def normed(self) -> Pair:
        """Correlations behind a norm."""
        roots = np.sqrt(np.outer(self.q, self.q))
        pull = self.u / self.q[:, None]
        return np.ones_like(self.q), (self.c * (1 + self._bent()) - (pull + pull.T) / 2) / roots

    def norm_pull(self, gq: Array, gc: Array, width: float = math.inf) -> Pair:
        """The gradient in front of the norm. Given `width`, that of one that points anywhere.

        Two directions of its d are projected out, and the variance about the mean is 1/d smaller than the second moment.
        """
        roots = np.sqrt(np.outer(self.q, self.q))
        lost = 1 / width, (2 - np.clip(self.c / roots, -1, 1) ** 2) / width
        return gq / self.q * (1 + self.v / self.q**2 - lost[0]), gc / roots * (1 + self._bent() - lost[1])

    def orthogonal(self, q: Array, c: Array, mu: float, width: float) -> Kernels:
        """What the gradient sees of a residual whose sum is normed.

        Behind the norm it is orthogonal to the stream, and what the block makes of it is so to the stream in front: part of the
        spread does not reach it (mu_2 of :func:`~depthwidth.formulas.moments.post_norm_log_drift`).
        """
        x, xc = self.q - q, self.c - c
        v = self.v - (2 * x * q + (mu - 1) * q * q) / width
        return Kernels(self.q, self.c, v, self.w - (2 * xc * c + (mu - 1) * c * c) / width, self.u)


def relu_pair(q: Array, c: Array) -> Pair:
    """E f f' and E f'f' of the rectifier, over pairs of nodes."""
    root = np.sqrt(np.outer(q, q))
    r = np.clip(c / root, -1, 1)
    angle = np.arccos(r)
    return root * (np.sqrt(1 - r * r) + (math.pi - angle) * r) / (2 * math.pi), (math.pi - angle) / (2 * math.pi)


def _through_attention(done: Attended, gain: float) -> Callable[[Pair], Pair]:
    def back(g: Pair) -> Pair:
        (aq, ac), (bq, bc) = done.pull(*g)
        return gain * (aq + bq), gain * (ac + bc)

    return back


def _through_relu(slope: Array, gain: float) -> Callable[[Pair], Pair]:
    return lambda g: (gain * g[0] / 2, gain * g[1] * slope)


def predict(
    tree: Transformer, made: Recipe, positions: Positions, signal: Pair, finite_width: bool = True
) -> tuple[float, float, float]:
    """Second moment and covariance behind the last block, second moment of the gradient in front of the first."""
    width, hidden = tree.width, tree.feed_forward.hidden
    name = "encoder" if tree.decoder is None else "decoder"
    large = width if finite_width else math.inf
    part = tree.attention
    attention = TokenAttention(
        positions,
        causal=part.causal,
        head_dim=part.head_dim if finite_width else None,
        width=width if finite_width else None,
    )
    pre = tree.stack.repeats[0].block.attention.norm_in is not None

    def gain(role: str, layer: int, inputs: int) -> float:
        std = made.tensor(f"{name}.block.{role}.weight").std
        return inputs * float(std[layer] if isinstance(std, tuple) else std) ** 2

    x = Kernels.gaussian(*signal, large)
    pulls = []
    for layer in range(tree.depth):
        for role in ("attention", "feed_forward"):
            scales = made.residual(f"{name}.block.{role}")
            skip, branch = (float(s[layer] if isinstance(s, tuple) else s) for s in (scales.skip, scales.branch))
            q, c = x.normed() if pre else (x.q, x.c)
            if role == "attention":
                query, key, value, out = (gain(f"attention.{w}", layer, width) for w in ("query", "key", "value", "out"))
                done = attention(q, c, query * key)
                total = branch**2 * value * out
                y, om, back = (total * done.second_moment, total * done.covariance), 4.0, _through_attention(done, total)
            else:
                up, down = gain("feed_forward.up", layer, width), gain("feed_forward.down", layer, hidden)
                both, slope = relu_pair(up * q, up * c)
                total = branch**2 * down
                om = 2 + 5 * width / hidden  # 5: kurtosis 6 of the rectified, less 1
                y, back = (total * up * q / 2, total * both), _through_relu(slope, total * up)
            front, x = x, x.plus(skip, *y, om, large)
            mu = 3.0 if role == "attention" else 2 + 2 * width / hidden
            pulls.append((front, x.orthogonal(*y, mu, large), skip, back))
            if not pre:
                x = Kernels(*x.normed(), *(np.zeros_like(p) for p in (x.v, x.w, x.u)))
    g = positions.alike(1.0, 0.0)
    for front, behind, skip, back in reversed(pulls):
        if not pre:
            g = behind.norm_pull(*g)
        b = back(g)
        if pre:
            b = front.norm_pull(*b, large)
        g = skip**2 * g[0] + b[0], skip**2 * g[1] + b[1]
    return positions.mean(x.q), positions.pair_mean(x.c), positions.mean(g[0])


def text_gram(length: int, seed: int) -> Array:
    """Gram matrix of the embeddings of a text: equal tokens correlate, positions do not; every one has second moment 1."""
    share = 1 / np.arange(1, VOCABULARY + 1)
    tokens = np.random.default_rng(seed).choice(VOCABULARY, length, p=share / share.sum())
    return TOKEN_SHARE * (tokens[:, None] == tokens) + (1 - TOKEN_SHARE) * np.eye(length)


def simulate(tree: Transformer, made: Recipe, gram: Array, draws: int, seed: int) -> torch.Tensor:
    """The three quantities for each draw of weights, input of this Gram matrix, and output gradient; shape (draws, 3)."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(torch.tensor(gram) + 1e-9 * torch.eye(len(gram))).float()
    found = []
    for _ in range(draws):
        x = (root @ torch.randn(len(gram), tree.width, generator=generator)).requires_grad_()
        y = x
        for layer in range(tree.depth):
            y = moments._block(tree, made, layer, y, generator)
        with torch.no_grad():
            product = y @ y.T / tree.width
            pair = (product.sum() - product.trace()) / (len(gram) * (len(gram) - 1))
        (front,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=generator))
        found.append(torch.stack([product.trace() / len(gram), pair, front.square().mean()]))
    return torch.stack(found)


def measure(draws: int, seed: int, **shape: int) -> Iterator[dict[str, Any]]:
    """One row for each stack and quantity."""
    for name, tree, made in moments.stacks(**shape):
        if not name.endswith("relu"):
            continue
        length = tree.context
        alike = (1 - moments.CORRELATION) * np.eye(length) + moments.CORRELATION
        few = Positions.smooth(length) if "causal" in name else Positions.one(length)
        cases = {
            "exchangeable": (alike, few, few.alike(1.0, moments.CORRELATION)),
            "text": (text := text_gram(length, seed), Positions.every(length), (np.ones(length), text)),
        }
        for tokens, (gram, positions, signal) in cases.items():
            predicted = predict(tree, made, positions, signal)
            values = simulate(tree, made, gram, draws, seed).double()
            means, errors = values.mean(0).tolist(), (values.std(0) / math.sqrt(draws)).tolist()
            for quantity, expected, mean, error in zip(moments.QUANTITIES, predicted, means, errors, strict=True):
                yield {
                    "stack": name, "tokens": tokens, "depth": tree.depth, "width": tree.width, "heads": tree.heads,
                    "length": length, "nodes": positions.count, "quantity": quantity, "predicted": expected, "measured": mean,
                    "stderr": error, "relative_error": expected / mean - 1,
                    "z": (expected - mean) / error if error > 1e-6 * abs(mean) else 0.0, "draws": draws, "seed": seed,
                    "version": __version__, "torch": torch.__version__, "device": "cpu", "dtype": "float32",
                    "date": datetime.date.today().isoformat(),
                }  # fmt: skip


def main() -> None:
    """Measure and write a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--length", type=int, default=64)
    given = parser.parse_args()
    rows = list(measure(given.draws, given.seed, depth=given.depth, width=given.width, length=given.length))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    waiting = given.out.with_suffix(".part")  # a table is there whole, or not at all
    with waiting.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    waiting.replace(given.out)


if __name__ == "__main__":
    main()
