"""Training of single attention heads on synthetic tasks: retrieval, random-attention teachers, several lags."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError
from depthwidth.formulas import heads as laws
from depthwidth.progress import during

from .checkpoints import latest_checkpoint, save_checkpoint
from .train import weights_digest


def fit_parameters(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    generator: torch.Generator,
    *,
    steps: int,
    rate: float,
    rise: float = 0.3,
    folder: Path | None = None,
) -> None:
    """Minimise `loss` over `parameters`, in place, by Adam with a one-cycle learning rate.

    With a folder, a fit that was killed resumes and gives bitwise equal results.

    Parameters
    ----------
    parameters : tensors to optimise, changed in place.
    loss : called once per step. It must draw random numbers from `generator` only, whose state is saved in checkpoints.
    generator : source of all random numbers of the fit.
    steps : number of updates.
    rate : peak learning rate, reached after the fraction `rise` of the steps.
    folder : folder for checkpoints, which are written after every tenth of the steps and at the end.

    Raises
    ------
    InputError
        if the folder contains checkpoints of another fit.
    """
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=rise)
    identity = "" if folder is None else f"{weights_digest(parameters)} {steps} {rate} {rise}"
    found, done = None if folder is None else latest_checkpoint(folder), 0
    if found is not None:
        if found.state["identity"] != identity:
            raise InputError(f"{folder} contains checkpoints of another fit; choose another folder")
        done = found.step
        memory: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in found.tensors.items():
                kind, _, place = name.partition("/")
                if kind == "generator":
                    generator.set_state(tensor)
                elif kind == "parameter":
                    parameters[int(place)].copy_(tensor)
                else:
                    memory.setdefault(int(place), {})[kind] = tensor
        optimizer.load_state_dict({"state": memory, "param_groups": found.state["groups"]})
        schedule.load_state_dict(found.state["schedule"])
    step = done
    with during(done=lambda: step / steps, facts=lambda: {"step": step, "steps": steps}):
        for step in range(done + 1, steps + 1):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            schedule.step()
            if folder is not None and (step == steps or step % max(1, steps // 10) == 0):
                tensors = {f"parameter/{i}": parameter for i, parameter in enumerate(parameters)}
                kept = optimizer.state_dict()
                tensors |= {f"{name}/{i}": value for i, memory in kept["state"].items() for name, value in memory.items()}
                state = {"identity": identity, "groups": kept["param_groups"], "schedule": schedule.state_dict()}
                with contextlib.suppress(OSError):  # if the disk is full, training continues without this checkpoint
                    save_checkpoint(folder, step, {**tensors, "generator": generator.get_state()}, state)


def _errors(weights: Tensor, targets: Tensor, gain: Tensor | float) -> Tensor:
    """Mean squared error of the output as a copy of the target's value, exact for independent values of variance 1.

    Shapes: weights (..., queries, tokens), targets (..., queries), result (..., queries).
    """
    hit = weights.gather(-1, targets[..., None])[..., 0]
    return 1 - 2 * gain * hit + gain**2 * (weights**2).sum(-1)


def train_retrieval(
    length: int,
    head_dim: int,
    *,
    seed: int = 0,
    steps: int = 1500,
    batch: int = 32,
    queries: int = 16,
    rate: float = 6e-3,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Train a head to copy the value of one of `length` Gaussian tokens.

    Keys are N(0, I) in 64 dimensions (32 for 64 tokens and more); the query equals the key of the target. The learned
    parameters are the two maps to `head_dim` dimensions, a logit scale and an output gain. Weights and tokens are drawn on
    `device`. If training is killed, it resumes from the checkpoints in `folder`.

    Returns
    -------
    Mean squared error on fresh tokens, and its standard error.
    """
    generator = torch.Generator(device).manual_seed(seed)
    width = 64 if length < 64 else 32

    def random_map() -> nn.Parameter:
        return nn.Parameter(torch.randn(width, head_dim, generator=generator, device=device) / width**0.5)

    maps = [random_map() for _ in range(2)]
    scale, gain = (nn.Parameter(torch.tensor(start, device=device)) for start in (0.3, 1.0))

    def errors(rows: int, count: int) -> Tensor:
        keys = torch.randn(rows, length, width, generator=generator, device=device)
        targets = torch.randint(0, length, (rows, count), generator=generator, device=device)
        sources = keys.gather(1, targets[..., None].expand(-1, -1, width))
        logits = scale * (sources @ maps[0]) @ (keys @ maps[1]).transpose(1, 2)
        return _errors(torch.softmax(logits, -1), targets, gain)

    fit_parameters(
        [*maps, scale, gain], lambda: errors(batch, queries).mean(), generator, steps=steps, rate=rate, folder=folder
    )
    # Long rows are expensive to draw, so each is used for more queries; a standard error of 0.002 still needs many rows.
    batches, count = (max(8, 8192 // length), queries) if length < 1024 else (16, 4 * queries)
    with torch.no_grad():
        samples = torch.cat([errors(64, count).mean(1) for _ in range(batches)])
    return float(samples.mean()), float(samples.std() / math.sqrt(len(samples)))


def train_diffuse(
    length: int,
    head_dim: int,
    spectrum: Sequence[float],
    *,
    seed: int = 0,
    steps: int = 800,
    batch: int = 64,
    rate: float = 1e-2,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Train a student of `head_dim` dimensions to match the attention weights of a random teacher with this spectrum.

    The error is the sum of squared differences of the attention weights. It equals the squared error per channel of the output
    for values of unit variance that are independent of the keys. If training is killed, it resumes from the checkpoints in
    `folder`.

    Returns
    -------
    Mean error on fresh tokens, and its standard error.
    """
    generator = torch.Generator(device).manual_seed(seed)
    rank = len(spectrum)
    teacher = torch.tensor(spectrum, device=device).sqrt()
    # The student's logits start with a variance near 0.1; from larger initial values it does not learn long rows.
    size = (0.1 / (rank * rank * head_dim)) ** 0.25
    maps = [nn.Parameter(size * torch.randn(rank, head_dim, generator=generator, device=device)) for _ in range(2)]

    def errors(rows: int) -> Tensor:
        keys, queries = (torch.randn(rows, n, rank, generator=generator, device=device) for n in (length, 8))
        expected = torch.softmax((queries * teacher) @ keys.transpose(1, 2), -1)
        weights = torch.softmax((queries @ maps[0]) @ (keys @ maps[1]).transpose(1, 2), -1)
        return ((expected - weights) ** 2).sum(-1)

    fit_parameters(maps, lambda: length * errors(batch).mean(), generator, steps=steps, rate=rate, folder=folder)
    with torch.no_grad():
        samples = torch.cat([errors(64).mean(1) for _ in range(max(16, 4096 // length))])
    return float(samples.mean()), float(samples.std() / math.sqrt(len(samples)))


def lag_maps(lags: int, size: int, generator: torch.Generator) -> Tensor:
    """Random maps, one per lag: shape (lags, size, size), singular values proportional to 1/k, total squared norm 1."""
    values = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    sides = [torch.linalg.qr(torch.randn(lags, size, size, generator=generator, dtype=torch.float64))[0] for _ in range(2)]
    maps = sides[0] * values @ sides[1].transpose(1, 2)
    return maps / maps.square().sum().sqrt()


def lag_floor(heads: int, *, lags: int = 4, size: int = 16, seed: int = 0) -> float:
    """Lower bound on the relative loss of `heads` heads, by :func:`depthwidth.formulas.heads.lag_floor` for one seed's maps."""
    maps = lag_maps(lags, size, torch.Generator().manual_seed(seed))
    return float(laws.lag_floor(torch.einsum("mij,nij->mn", maps, maps).tolist(), heads))


def train_lag_split(
    heads: int,
    *,
    lags: int = 4,
    size: int = 16,
    budget: int = 32,
    seed: int = 0,
    start: int = 0,
    steps: int = 4000,
    rate: float = 2e-2,
    folder: Path | None = None,
) -> float:
    """Relative loss, after training, of heads with free position biases that read several lags.

    The task is to compute the sum, over lags 1 to `lags`, of a linear map of the token at that lag; tokens are white noise, and
    the loss is its exact expectation. The `heads` heads share `budget` value dimensions; each learns its attention weights over
    lags 0 to 2 * `lags` and its value map. `seed` determines the maps and `start` the initial weights. If training is killed,
    it resumes from the checkpoints in `folder`.
    """
    maps = lag_maps(lags, size, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(1000 * (seed + 1) + start)
    reach, rank = 2 * lags + 1, budget // heads
    expected = torch.zeros(reach, size, size, dtype=torch.float64)
    expected[1 : lags + 1] = maps
    logits = nn.Parameter(torch.randn(heads, reach, generator=generator, dtype=torch.float64))
    sides = [
        nn.Parameter(torch.randn(heads, rank, size, generator=generator, dtype=torch.float64) / (size * budget**0.5) ** 0.5)
        for _ in range(2)
    ]

    def loss() -> Tensor:
        values = sides[0].transpose(1, 2) @ sides[1]
        learned = torch.softmax(logits, -1).T @ values.flatten(1)
        return (learned - expected.flatten(1)).square().sum()

    fit_parameters([logits, *sides], loss, generator, steps=steps, rate=rate, rise=0.1, folder=folder)
    return float(loss().detach())
