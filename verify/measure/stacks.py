"""Moments of signal and gradient in random stacks: many random models from :func:`verify.build`, measured by probes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from depthwidth.architecture import Transformer
from depthwidth.files import read_regular
from depthwidth.initialization import Recipe

from ..files import write_whole
from ..models.initialize import apply_init
from ..models.model import Model, build
from ..rows import digest_of
from .probes import probe

Array = NDArray[np.float64]

SAVE_S = 2.0
"""Seconds between two saves of the results, hence the largest loss if the process is killed."""

_INPUT_SEED = 2**62
"""Offset of the seed of the input and the output gradient, so that they are independent of the weights."""


def sample_stack(
    tree: Transformer,
    recipe: Recipe,
    correlation: float,
    draws: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    folder: Path | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Array:
    """Moments of a stack for random weights, random inputs and random gradients with respect to its output.

    Parameters
    ----------
    tree, recipe : a transformer with one stack, and its initialisation. The model is in training mode, with random dropout.
    correlation : correlation between two tokens of the Gaussian input, which has variance 1; from 0 to 1.
    draws : number of networks. Network i has the seed `seed` + i. A seed always gives the same network on one kind of device.
    device : device on which the networks are drawn and run.
    folder : folder for finished results. If the measurement is killed, it resumes from them with the same numbers.
    progress : called with the fraction that is done.

    Returns
    -------
    Array of shape (draws, 3, depth): the second moment of each block's output, its uncentred covariance between two tokens, and
    the second moment of the gradient with respect to each block's input.
    """
    kept = None if folder is None else folder / "draws.csv"
    done = [] if kept is None else _read_draws(kept, 3 * tree.depth)[:draws]
    model: Model | None = None
    saved = time.monotonic()
    for draw in range(len(done), draws):
        model = build(tree, recipe, seed=0, device=device) if model is None else model
        done.append(one_draw(model, recipe, correlation, seed + draw).flatten().tolist())
        if time.monotonic() - saved > SAVE_S:
            if kept is not None:
                lines = "\n".join(",".join(map(repr, values)) for values in done)
                write_whole(kept, f"{lines}\n{digest_of(lines.encode())}\n".encode())
            saved = time.monotonic()
            progress(draw / draws)
    return np.array(done).reshape(draws, 3, tree.depth)


def one_draw(model: Model, recipe: Recipe, correlation: float, seed: int) -> Array:
    """The moments of one network, shape (3, depth), as in :func:`sample_stack`. Draws new weights for the model in place."""
    apply_init(model, recipe, seed=seed)
    stack: Any = model.get_submodule(model.tree.stack_name)
    length, width, depth = model.tree.context, model.tree.width, model.tree.depth
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(_INPUT_SEED + seed)
    shared = torch.randn(1, 1, width, generator=generator, device=device)
    own = torch.randn(1, length, width, generator=generator, device=device)
    x = (math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own).requires_grad_()
    output_gradient = torch.randn(1, length, width, generator=generator, device=device)
    torch.manual_seed(seed)  # for the dropout masks
    with probe(
        stack, ("mean", "second_moment", "covariance", "gradient_second_moment"), lambda name, _: bool(_BLOCK(name))
    ) as rows:
        stack(x).backward(output_gradient)
    model.zero_grad(set_to_none=True)
    known = {(row["site"], row["quantity"]): row["value"] for row in rows}
    found = np.empty((3, depth))
    for layer in range(depth):
        mean, second, covariance = (known[f"block.{layer}", name] for name in ("mean", "second_moment", "covariance"))
        found[:2, layer] = second, covariance + mean**2
        found[2, layer] = known[f"block.{layer - 1}", "gradient_second_moment"] if layer else 0.0
    assert x.grad is not None  # noqa: S101
    found[2, 0] = float(x.grad.double().square().mean())
    return found


_BLOCK = re.compile(r"block\.\d+").fullmatch

LARGEST_RESULTS = 2**28
"""Bytes of results that are read back."""


def _read_draws(path: Path, numbers: int) -> list[list[float]]:
    """Results saved by :func:`sample_stack`; an empty list if the file is missing or damaged."""
    try:
        text = read_regular(path, "results", LARGEST_RESULTS).decode()
        lines, _, seal = text.rstrip("\n").rpartition("\n")
        if digest_of(lines.encode()) != seal:
            return []
        found = [[float(cell) for cell in line.split(",")] for line in lines.splitlines()]
    except ValueError:  # InputError, if there is no such file, among them
        return []
    return found if all(len(values) == numbers for values in found) else []
