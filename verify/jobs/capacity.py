"""Measures of capacity on true and on random labels, over widths, and in a small language model."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, difference_error, outcome_of, version_of
from ._digits import DIGITS, USES, digits, error_of, measurements, perceptron, quantity_of, train_until
from ._training import data_spec, planned_text

# samples of true and random labels, width and layers there; widths of the sweep, its samples; width and sequences of the
# language model; seeds
_SIZES: dict[str, tuple[tuple[int, ...], int, int, tuple[int, ...], int, int, int, int]] = {
    "tiny": ((60,), 16, 3, (8, 16), 60, 16, 4, 1),
    "small": ((200, 400, 800, 1400), 128, 3, (8, 32, 128, 512), 1000, 64, 32, 3),
    "gpu": ((200, 400, 800, 1400), 512, 4, (8, 32, 128, 512, 2048), 1000, 128, 128, 5),
    "full": ((200, 400, 800, 1400), 1024, 5, (8, 32, 128, 512, 2048, 8192), 1000, 256, 512, 10),
}
_BYTES = {"tiny": 1 << 18, "small": 1 << 20, "gpu": 1 << 22, "full": 1 << 25}
_LENGTH, _UNTOLD = 32, 8
"""Tokens of a sequence of the language model, and those at its start without a target: equal starts go on differently, and no
model can learn that."""
FITTING_WIDTH = 32
"""Of the sweep: it fits the data, and the norms turn there in the published sweep."""
_STEPS = {"tiny": 3000, "small": 20_000, "gpu": 50_000, "full": 100_000}

DIVERGENCE = "divergence at expected sharpness 0.05"
NORMS = ("l2", "l1-path", "l2-path", "spectral", DIVERGENCE)
"""Of perceptrons."""
TOGETHER = ("log-prod-of-fro-over-margin", "log-prod-of-spec-over-margin", DIVERGENCE)
"""Of the language model: of all its matrices together, and of its noise."""
PLAIN = {"path-norm-over-margin": "l2-path", "log-prod-of-spec-over-margin": "spectral"}
"""Of the sweep: a norm over the margin without factors of width, and the capacity with them."""


def runs(size: str) -> Iterator[Run]:
    """Perceptrons on both kinds of labels at each number of samples, and at each width; the language model on both kinds."""
    samples, width, layers, widths, points, model_width, sequences, seeds = _SIZES[size]
    stop = 0.1 if size == "tiny" else 0.01
    training = {"learning_rate": 1e-3, "batch": 50, "stop": stop, "most_steps": _STEPS[size]}
    base: dict[str, Any] = {"data": DIGITS, "training": training, "dtype": "float32"}
    tree = {"depth": 2, "width": model_width, "heads": 4, "vocab": 256, "context": _LENGTH}
    language: dict[str, Any] = {
        "data": data_spec(_BYTES[size]), "tree": tree, "sequences": sequences, "dtype": "float32",
        "training": training | {"learning_rate": 3e-3, "batch": 16, "stop": 5 * stop, "most_steps": _STEPS[size] // 10},
    }  # fmt: skip
    for seed in range(seeds):
        for labels in ("true", "random"):
            for m in samples:
                spec = base | {"part": "labels", "labels": labels, "samples": m, "width": width, "layers": layers}
                yield Run(spec, seed, _labels(spec), cost=2.0 + m / 200)
            spec = language | {"part": "language", "labels": labels}
            yield Run(
                spec,
                seed,
                _labels(spec | {"samples": sequences * (_LENGTH - _UNTOLD), "width": model_width, "layers": 2}),
                cost=10.0,
            )
        for h in widths:
            spec = base | {"part": "width", "labels": "true", "samples": points, "width": h, "layers": 2}
            yield Run(spec, seed, _labels(spec), cost=4.0)


def _labels(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: spec[name] for name in ("part", "labels", "samples", "width", "layers")}


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train one network to the stated loss and measure its capacity on its own training data."""
    from ..measure.capacity import capacity

    model, train, test = (_language if spec["part"] == "language" else _perceptron)(spec, context.seed)
    start = copy.deepcopy(model)
    steps, _ = train_until(model, train, spec["training"], context, context.seed)
    report = capacity(model, train, initial=start, seed=context.seed)
    yield from measurements(report, steps, error_of(model, test), spec["training"]["stop"])


def _perceptron(spec: Mapping[str, Any], seed: int) -> tuple[Any, Any, Any]:
    train, test = digits(spec["samples"], spec["labels"], seed)
    return perceptron(spec["width"], spec["layers"], seed), train, test


def _language(spec: Mapping[str, Any], seed: int) -> tuple[Any, Any, Any]:
    """A small decoder; windows of bytes and those that follow, in random order of all of them for random labels."""
    import torch

    from depthwidth.architecture import Transformer

    from ..models.model import IGNORED, build

    text, wanted = planned_text(spec["data"]), spec["sequences"]
    generator = torch.Generator().manual_seed(seed)

    def windows(tokens: Any) -> tuple[Any, Any]:
        starts = torch.randint(len(tokens) - _LENGTH - 1, (wanted,), generator=generator)
        whole = torch.stack([tokens[i : i + _LENGTH + 1] for i in starts.tolist()]).long()
        return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()

    train, test = windows(text.train), windows(text.validation)
    if spec["labels"] == "random":
        order = torch.randperm(train[1].numel(), generator=generator)
        train = (train[0], train[1].flatten()[order].view_as(train[1]))
    train[1][:, :_UNTOLD] = IGNORED
    return build(Transformer(**spec["tree"]), seed=seed), train, test


def predict(size: str) -> Iterator[Prediction]:
    """The sign of each logarithm of a ratio: random labels need more capacity than true ones."""
    version = version_of("depthwidth.formulas.capacity")
    laws = ("l2_capacity", "l1_path_capacity", "l2_path_capacity", "spectral_capacity", "gaussian_divergence")
    for name, law in zip(NORMS, laws, strict=True):
        yield Prediction("log_ratio", 0.0, f"capacity.{law}", version, name)


Found = dict[tuple[str, str, int, int], dict[str, list[float]]]


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each difference must exceed twice its noise over seeds; parts that do not are named."""
    found: Found = {}
    for row in sorted(rows, key=lambda row: row.seed or 0):
        at = row.labels
        key = (str(at["part"]), str(at["labels"]), int(at["samples"]), int(at["width"]))
        found.setdefault(key, {}).setdefault(row.quantity, []).append(row.value)
    if not found or min(len(some.get("converged", ())) for some in found.values()) < 2:
        return Verdict("undecided", "runs are missing, or one seed does not show the noise")
    late = [key for key, some in found.items() if not all(some["converged"])]
    below = sum(sum(some["bounds_below_one"]) for some in found.values())
    lines = [*_of_labels(found), *_of_widths(found)]
    lines.append(
        Comparison("bounds on an error that are below 1, over all networks", 0.0, below, None, below == 0, limit=Limit(high=0))
    )
    met = sum(line.passes is True for line in lines)
    failed = [line.what for line in lines if line.passes is False]
    open_ = sum(line.passes is None for line in lines)
    summary = f"{met} of {len(lines)} comparisons are as predicted" + (f"; not: {'; '.join(failed)}" if failed else "")
    if late:
        summary += f"; {len(late)} settings have a network that did not reach the loss"
    return Verdict(outcome_of(met, len(failed), open_), summary, tuple(lines))


def _of_labels(found: Found) -> Iterator[Comparison]:
    """Random less true, at each number of samples; and its growth from the fewest to the most."""
    for part, names in (("labels", NORMS), ("language", TOGETHER)):
        sizes = sorted({key[2:] for key in found if key[0] == part})
        for name in names:
            differences = {}
            for m, width in sizes:
                one, other = (_logs(found, (part, labels, m, width), name) for labels in ("random", "true"))
                what = f"{name}, {part}, {m} targets: logarithm on random less true labels"
                if one is None or other is None:
                    yield Comparison(what, 0.0, None, None, None, "a network does not have it")
                    continue
                differences[m] = (one, other)
                yield _line(what, 0.0, one, other)
            if len(differences) > 1:
                few, most = min(differences), max(differences)
                change = [[a - b for a, b in zip(*differences[m], strict=True)] for m in (most, few)]
                yield _line(f"{name}: its growth from {few} to {most} targets", 0.0, *change)


def _of_widths(found: Found) -> Iterator[Comparison]:
    """Norms over the margin fall with the width; capacities, with their factors, do not from the fitting width on."""
    widths = sorted(key[3] for key in found if key[0] == "width")
    if len(widths) < 2:
        return
    samples = next(key[2] for key in found if key[0] == "width")
    first = FITTING_WIDTH if FITTING_WIDTH in widths[:-1] else widths[0]
    for plain, factored in PLAIN.items():
        for name, low, sign in ((plain, widths[0], -1.0), (factored, first, 1.0)):
            one, other = (_logs(found, ("width", "true", samples, h), name) for h in (widths[-1], low))
            what = f"{name}: its {'rise' if sign > 0 else 'fall'} from width {low} to {widths[-1]}, logarithm"
            if one is None or other is None:
                yield Comparison(what, 0.0, None, None, None, "a network does not have it")
            else:
                yield _line(what, 0.0, *((one, other) if sign > 0 else (other, one)))


def _logs(found: Found, key: tuple[str, str, int, int], name: str) -> list[float] | None:
    """Logarithms of a quantity over seeds; None if a run lacks it."""
    some = found.get(key, {})
    values = some.get(quantity_of(name), [])
    if not values or len(values) < len(some["converged"]):
        return None
    # A measure that is a logarithm is (ln mu - ln m)/2.
    return [2 * value for value in values] if name.startswith("log-") else [math.log(value) for value in values]


def _line(what: str, predicted: float, one: Sequence[float], other: Sequence[float]) -> Comparison:
    difference, noise = mean(one) - mean(other), difference_error(one, other)
    passes = None if abs(difference - predicted) <= 2 * noise else difference > predicted
    return Comparison(what, predicted, difference, noise, passes, limit=Limit(low=predicted, sigmas=2))


JOB = Job(
    name="capacity",
    question="Do measures of capacity tell networks that fit true labels from those that fit random ones, and wide from narrow "
    "ones?",
    claim="Every norm over the margin, and the divergence at a fixed expected sharpness, is larger on random labels, the more "
    "so the more samples; spectral and l2-path norms fall with the width, and their width factors cancel that "
    "(arXiv 1706.08947).",
    measured="Capacities of perceptrons on scikit-learn's digits and of a small language model on bytes, trained to one loss.",
    criterion="Each logarithm of a ratio has the predicted sign by more than two standard errors over seeds, and every bound "
    "on an error is 1 or more.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
    uses=USES,
)
