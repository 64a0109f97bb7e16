"""Causal stacks by the token-kernel recursion of :mod:`depthwidth.token_attention`, against simulation.

    python -m verify.attention_kernels --depth 12 --draws 96

A private recursion, norm, attention, ReLU and residual alone, so that the attention kernel is tried on its own: the same stacks
as :mod:`verify.moments`, under a causal mask, at every position or at few.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from depthwidth.architecture import Transformer
from depthwidth.initialization import Recipe
from depthwidth.token_attention import TokenAttention
from depthwidth.token_positions import Positions

from . import moments

Array = Any


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
            x + q, xc + c,
            s4 * self.v + (4 * x * q + om * q * q) / width,
            s4 * self.w + (4 * xc * c + om * c * c) / width,
            s4 * self.u + (2 * (x[:, None] * c + xc * q[:, None]) + om * q[:, None] * c) / width,
        )  # fmt: skip

    def normed(self) -> tuple[Array, Array]:
        """Correlations behind a norm."""
        q, r = self.q, self.c / np.sqrt(np.outer(self.q, self.q))
        share = self.v / q**2
        pull = self.u / q[:, None]
        bent = 3 / 8 * (share[:, None] + share) + self.w / np.outer(q, q) / 4
        return np.ones_like(q), r * (1 + bent) - (pull + pull.T) / 2 / np.sqrt(np.outer(q, q))

    def norm_pull(self, gq: Array, gc: Array) -> tuple[Array, Array]:
        """The gradient in front of the norm."""
        q = self.q
        share = self.v / q**2
        bent = 3 / 8 * (share[:, None] + share) + self.w / np.outer(q, q) / 4
        return gq / q * (1 + share), gc / np.sqrt(np.outer(q, q)) * (1 + bent)


def relu_pair(q: Array, c: Array) -> tuple[Array, Array]:
    """E f f' and E f'f' of the rectifier, over pairs of nodes."""
    root = np.sqrt(np.outer(q, q))
    r = np.clip(c / root, -1, 1)
    angle = np.arccos(r)
    return root * (np.sqrt(1 - r * r) + (math.pi - angle) * r) / (2 * math.pi), (math.pi - angle) / (2 * math.pi)


def predict(tree: Transformer, made: Recipe, positions: Positions, finite_width: bool = True) -> tuple[float, float, float]:
    """Second moment and covariance behind the last block, second moment of the gradient in front of the first."""
    width, hidden = tree.width, tree.feed_forward.hidden
    name = "encoder" if tree.decoder is None else "decoder"
    large = width if finite_width else 1e30
    attention = TokenAttention(
        positions, causal=tree.attention.causal, head_dim=tree.attention.head_dim if finite_width else None,
        width=width if finite_width else None,
    )  # fmt: skip
    pre = tree.stack.repeats[0].block.attention.norm_in is not None

    def weight(role: str, layer: int) -> float:
        std = made.tensor(f"{name}.block.{role}.weight").std
        return float(std[layer] if isinstance(std, tuple) else std) ** 2

    x = Kernels.gaussian(*positions.alike(1.0, moments.CORRELATION), large)
    pulls = []
    for layer in range(tree.depth):
        for role in ("attention", "feed_forward"):
            scales = made.residual(f"{name}.block.{role}")
            skip, branch = (float(s[layer] if isinstance(s, tuple) else s) for s in (scales.skip, scales.branch))
            q, c = x.normed() if pre else (x.q, x.c)
            if role == "attention":
                a = {part: width * weight(f"attention.{part}", layer) for part in ("query", "key", "value", "out")}
                done = attention(q, c, a["query"] * a["key"])
                gain = branch**2 * a["value"] * a["out"]
                y, om = (gain * done.second_moment, gain * done.covariance), 4.0

                def back(gq: Array, gc: Array, done: Any = done, gain: float = gain) -> tuple[Array, Array]:
                    (aq, ac), (bq, bc) = done.pull(gq, gc)
                    return gain * (aq + bq), gain * (ac + bc)
            else:
                up, down = width * weight("feed_forward.up", layer), hidden * weight("feed_forward.down", layer)
                value, slope = relu_pair(up * q, up * c)
                y, om = (branch**2 * down * up * q / 2, branch**2 * down * value), 2 + 5 * width / hidden
                gain = branch**2 * up * width * weight("feed_forward.down", layer) * hidden / width

                def back(gq: Array, gc: Array, slope: Array = slope, gain: float = gain) -> tuple[Array, Array]:
                    return gain * gq / 2, gain * gc * slope
            front = x
            x = x.plus(skip, *y, om, large)
            pulls.append((front, x, skip, back))
            if not pre:
                x = Kernels(*x.normed(), *(0 * p for p in (x.v, x.w, x.u)))
    top = positions.mean(x.q), positions.pair_mean(x.c)
    g = positions.alike(1.0, 0.0)
    for front, behind, skip, back in reversed(pulls):
        if not pre:
            g = behind.norm_pull(*g)
        b = back(*g)
        if pre:
            b = front.norm_pull(*b)
        g = skip**2 * g[0] + b[0], skip**2 * g[1] + b[1]
    return (*top, positions.mean(g[0]))


def main() -> None:
    """Print predicted against measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--draws", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name, tree, made in moments.stacks(given.depth, given.width, given.length):
        if not name.endswith("causal relu"):
            continue
        every, few = (predict(tree, made, kind(given.length)) for kind in (Positions.every, Positions.smooth))
        wide = predict(tree, made, Positions.smooth(given.length), finite_width=False)
        print(name, *(f"{quantity} {a:.4f} {b:.4f} ({c:.4f})" for quantity, a, b, c in zip(moments.QUANTITIES, every, few, wide, strict=True)))
        if given.draws:
            values = moments.simulate(tree, made, given.draws, given.seed).double()
            for quantity, expected, mean, error in zip(moments.QUANTITIES, few, values.mean(0), values.std(0) / math.sqrt(given.draws), strict=True):
                print(f"  {quantity:18s} {expected:.4f} measured {mean:.4f}({error:.4f}) {expected / mean - 1:+.2%} z {(expected - mean) / max(error,1e-9):+.1f}")


if __name__ == "__main__":
    main()
