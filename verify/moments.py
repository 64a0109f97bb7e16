"""Predicted against measured moments of whole stacks at initialisation, by simulation on random weights and inputs.

    python -m verify.moments --out data/measured/moments_stacks.csv

For each stack, `draws` networks are drawn, a Gaussian input with a given correlation between tokens is sent through, and an
independent Gaussian gradient is sent back by autograd. The prediction is written down before anything is drawn.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from depthwidth import __version__
from depthwidth.architecture import Transformer
from depthwidth.initialization import Recipe, recipe
from depthwidth.propagation import walk_tree

from .jobs import Context
from .tables import digest_of, write_whole

CORRELATION = 0.2
QUANTITIES = ("variance", "covariance", "gradient_variance")


def predict(tree: Transformer, made: Recipe) -> tuple[float, float, float]:
    """Second moment and covariance behind the last block, second moment of the gradient in front of the first."""
    name = "encoder" if tree.decoder is None else "decoder"
    rows = walk_tree(tree, made, variance=1.0, correlation=CORRELATION, dropout=False).rows
    top = next(row for row in rows if (row.role, row.direction) == (name, "forward"))
    front = next(row for row in rows if (row.role, row.direction) == (f"{name}.input", "gradient"))
    return top.second_moment, top.covariance, front.second_moment


def simulate(tree: Transformer, made: Recipe, draws: int, seed: int) -> torch.Tensor:
    """The same three quantities for each draw of weights, input and output gradient: shape (draws, 3)."""
    generator = torch.Generator().manual_seed(seed)
    length, width = tree.context, tree.width
    found = []
    for _ in range(draws):
        shared = torch.randn(1, width, generator=generator)
        own = torch.randn(length, width, generator=generator)
        x = (math.sqrt(CORRELATION) * shared + math.sqrt(1 - CORRELATION) * own).requires_grad_()
        y = x
        for layer in range(tree.depth):
            y = _block(tree, made, layer, y, generator)
        with torch.no_grad():
            gram = y @ y.T / width
            trace = gram.trace()
            pair = (gram.sum() - trace) / (length * (length - 1))
        (front,) = torch.autograd.grad(y, x, torch.randn(length, width, generator=generator))
        found.append(torch.stack([trace / length, pair, front.square().mean()]))
    return torch.stack(found)


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
        # Weights are drawn on the CPU, so that one seed means the same network on every device.
        generator = torch.Generator().manual_seed(context.seed * 1_000_003 + draw)
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
    """Shape (3, depth), in float64."""
    length, width = tree.context, tree.width
    shared = torch.randn(1, width, generator=generator)
    own = torch.randn(length, width, generator=generator)
    x = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    stream = [x.to(device).requires_grad_()]
    for layer in range(tree.depth):
        stream.append(_block(tree, made, layer, stream[-1], generator))
    behind = torch.randn(length, width, generator=generator).to(device)
    gradients = torch.autograd.grad(stream[-1], stream[:-1], behind)
    found = torch.empty(3, tree.depth, dtype=torch.float64)
    with torch.no_grad():
        for layer, (y, gradient) in enumerate(zip(stream[1:], gradients, strict=True)):
            y, gradient = y.double(), gradient.double()
            square = y.square().sum()
            found[0, layer] = square / (length * width)
            found[1, layer] = (y.sum(0).square().sum() - square) / (length * (length - 1) * width)
            found[2, layer] = gradient.square().mean()
    return found


def _block(tree: Transformer, made: Recipe, layer: int, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    name = "encoder" if tree.decoder is None else "decoder"
    heads, causal = tree.heads, tree.attention.causal

    def drawn(role: str, inputs: int, outputs: int) -> torch.Tensor:
        std = made.tensor(f"{name}.block.{role}.weight").std
        return torch.randn(inputs, outputs, generator=generator).to(x.device) * (std[layer] if isinstance(std, tuple) else std)

    def split(y: torch.Tensor) -> torch.Tensor:
        return y.reshape(y.shape[0], heads, -1).transpose(0, 1)

    def attend(y: torch.Tensor) -> torch.Tensor:
        width = y.shape[1]
        q, k, v = (split(y @ drawn(f"attention.{part}", width, width)) for part in ("query", "key", "value"))
        mixed = functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=causal)[0]
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
        return hidden @ drawn("feed_forward.down", part.hidden, width)

    pre = tree.stack.repeats[0].block.attention.norm_in is not None
    for role, branch in (("attention", attend), ("feed_forward", feed_forward)):
        scales = made.residual(f"{name}.block.{role}")
        skip, scale = (s[layer] if isinstance(s, tuple) else s for s in (scales.skip, scales.branch))
        y = functional.layer_norm(x, x.shape[1:]) if pre else x
        x = skip * x + scale * branch(y)
        if not pre:
            x = functional.layer_norm(x, x.shape[1:])
    return x


def stacks(depth: int = 12, width: int = 128, length: int = 64) -> Iterator[tuple[str, Transformer, Recipe]]:
    """The stacks that are measured, with a name and the recipe of each."""
    for placement in ("pre", "post"):
        for scheme in ("xavier", "deepscale"):
            for mask in ("full", "causal"):
                for activation in ("relu", "gelu", "silu"):
                    tree = Transformer(
                        depth, width, width // 64, kind="encoder" if mask == "full" else "decoder", activation=activation,
                        gated=activation == "silu", bias=False, positions="none", vocab=100, context=length,
                        placement=placement, head="none", final_norm=False, norm_affine=False,
                    )  # fmt: skip
                    options = {"embedding_correlation": CORRELATION} if scheme == "deepscale" else {}
                    yield f"{placement} {scheme} {mask} {activation}", tree, recipe(tree, scheme, **options)


def measure(draws: int, seed: int, **shape: int) -> Iterator[dict[str, Any]]:
    """One row for each stack and quantity."""
    for name, tree, made in stacks(**shape):
        predicted = predict(tree, made)
        values = simulate(tree, made, draws, seed).double()
        means, errors = values.mean(0), values.std(0) / math.sqrt(draws)
        for quantity, expected, mean, error in zip(QUANTITIES, predicted, means.tolist(), errors.tolist(), strict=True):
            yield {
                "stack": name, "depth": tree.depth, "width": tree.width, "heads": tree.heads, "length": tree.context,
                "quantity": quantity, "predicted": expected, "measured": mean, "stderr": error,
                "relative_error": expected / mean - 1, "z": (expected - mean) / error if error > 1e-6 * abs(mean) else 0.0,
                "draws": draws, "seed": seed, "version": __version__, "torch": torch.__version__, "device": "cpu",
                "dtype": "float32", "date": datetime.date.today().isoformat(),
            }  # fmt: skip


def main() -> None:
    """Measure and write a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=128)
    given = parser.parse_args()
    rows = list(measure(given.draws, given.seed, depth=given.depth, width=given.width))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    waiting = given.out.with_suffix(".part")  # a table is there whole, or not at all
    with waiting.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    waiting.replace(given.out)


if __name__ == "__main__":
    main()
