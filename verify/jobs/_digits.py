"""Perceptrons on scikit-learn's digits: data, training to a stated loss, and the results of capacity as measurements."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from depthwidth.errors import InputError

from . import Context, Measurement

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..measure.capacity import CapacityReport

DIGITS = "scikit-learn's digits: 1,797 images of 8 x 8 pixels, in [0, 1]"
POINTS, FEATURES, CLASSES = 1797, 64, 10
USES = ("depthwidth.analysis.capacity", "depthwidth.numerics.network_norms", "depthwidth.formulas.capacity.measures")
"""Modules of the calculator that decide the measured numbers."""


def perceptron(width: int, layers: int, seed: int) -> nn.Sequential:
    """A perceptron of linear maps with torch's own start. The caller's random state stays as it was."""
    import torch
    from torch import nn

    sizes = [FEATURES, *[width] * (layers - 1), CLASSES]
    parts: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for before, after in itertools.pairwise(sizes):
            parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def digits(samples: int, labels: str, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test points; with `random` labels those of the training points are drawn, those of the test stay.

    Training points are the first `samples` of an order drawn by the seed; all others are test points.

    Raises
    ------
    InputError
        if scikit-learn is not installed.
    """
    import torch

    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("the digits come with scikit-learn; pip install 'depthwidth[digits]'") from None
    x, y = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(POINTS, generator=generator)
    inputs, targets = torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y, dtype=torch.long)[order]
    train = (inputs[:samples], targets[:samples])
    if labels == "random":
        train = (train[0], torch.randint(CLASSES, (samples,), generator=generator))
    return train, (inputs[samples:], targets[samples:])


def train_until(
    model: nn.Module, data: tuple[Tensor, Tensor], training: Mapping[str, Any], context: Context, seed: int
) -> tuple[int, float]:
    """Train with Adam until the mean cross-entropy over all data is at most ``stop``, or for ``most_steps`` updates.

    Returns
    -------
    The number of updates, and the last cross-entropy.
    """
    import torch
    from torch.nn import functional as F  # noqa: N812

    inputs, targets = data
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), training["learning_rate"])
    steps, loss = 0, float("inf")
    while steps < training["most_steps"] and loss > training["stop"]:
        for part in torch.randperm(len(inputs), generator=generator).split(training["batch"]):
            optimiser.zero_grad()
            _loss(model, inputs[part], targets[part], F).backward()
            optimiser.step()
            steps += 1
        with torch.no_grad():
            loss = float(_loss(model, inputs, targets, F))
        context.progress(min(1.0, steps / training["most_steps"]))
    return steps, loss


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor, functional: Any) -> Tensor:
    logits = model(inputs)
    found: Tensor = functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
    return found


def error_of(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of targets that are not the largest logit's."""
    import torch

    with torch.no_grad():
        return float((model(data[0]).argmax(-1) != data[1]).double().mean())


def measurements(report: CapacityReport, steps: int, test_error: float, stop: float) -> Iterator[Measurement]:
    """The results of a model as measurements, those of single layers left out, with its errors and convergence."""
    facts = report.facts
    yield Measurement("steps", float(steps))
    yield Measurement("converged", float(facts["loss"] <= stop))
    yield Measurement("training_error", facts["error"])
    yield Measurement("test_error", test_error)
    yield Measurement("margin", facts["margin"])
    yield Measurement("bounds_below_one", float(sum(one.vacuous is False for one in report.results)))
    for one in report.results:
        if not one.site and one.value is not None:
            yield Measurement(quantity_of(one.name), one.value)


def quantity_of(name: str) -> str:
    """The quantity of a result in rows.

    Examples
    --------
    >>> quantity_of("divergence at expected sharpness 0.05")
    'divergence_at_expected_sharpness_0_05'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower())
