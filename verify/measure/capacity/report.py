"""Capacity of a model on its training data: bounds, measures and proxies, each with its nature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from depthwidth.analysis.capacity import (
    CapacityResult,
    MatrixNorms,
    evaluated,
    matrix_norms,
    nature_of,
    norm_sums,
    reported,
    state_results,
    without_value,
)
from depthwidth.analysis.head_capacity import HeadNorms, attention_results, layer_heads
from depthwidth.errors import InputError, shown
from depthwidth.formulas import capacity as laws
from depthwidth.numerics.network_norms import TOLERANCE, spectral_norm, training_margin

from ...models.live_weights import LiveWeights
from ...models.locate import unwrap
from . import chains, noise
from .chain import NoChain, find_chain
from .heads import NoHeads, input_norms, our_model
from .points import Fit, Parameters, Points

MOST = 100_000
"""Draws, and steps of an ascent."""
SHARE = 0.05
"""Share of training points whose margin may be below the margin by which capacities are divided. Measures of the comparisons
take the absolute value of the 10th percentile, as their code does."""


@dataclass(frozen=True)
class CapacityReport:
    """All results of one model, and the facts they rest on."""

    results: tuple[CapacityResult, ...]
    matrices: tuple[MatrixNorms, ...]
    heads: tuple[HeadNorms, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Weights, samples, targets, loss, error, margin, largest input norm, tolerance of norms, seed; None if unknown."""

    def value(self, name: str, site: str = "") -> float:
        """The value of one result.

        Raises
        ------
        InputError
            if there is none of that name, or its formula does not apply.
        """
        for one in self.results:
            if one.name == name and one.site == site:
                if one.value is None:
                    raise InputError(f"{name}: {one.sentence}")
                return one.value
        raise InputError(f"no result has name={shown(name)} and site={shown(site)}")

    def rows(self) -> list[dict[str, Any]]:
        """One row per result."""
        return [one.to_dict() for one in self.results]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "facts": dict(self.facts),
            "results": self.rows(),
            "matrices": [one.to_dict() for one in self.matrices],
            "heads": [one.to_dict() for one in self.heads],
        }


def capacity(
    model: nn.Module,
    data: Any = None,
    *,
    initial: Mapping[str, Tensor] | nn.Module | None = None,
    failure: float = 0.05,
    input_norm: float | None = None,
    noisy: bool = True,
    worst_case: bool = False,
    draws: int = 10,
    steps: int = 60,
    seed: int = 0,
    batch: int | None = None,
    tolerance: float = TOLERANCE,
) -> CapacityReport:
    """Bounds, measures and proxies of a model's capacity.

    Parameters
    ----------
    model : any torch module whose output is logits. A chain of linear maps and ReLUs has all results; attention heads are read
        in models of :func:`verify.build` and of the transformers library.
    data : the training data: inputs and targets, (points, ...) and (points,) or (sequences, length) both; or tokens (sequences,
        length) of a model that predicts the next one. Targets of -100 are left out. Without data, results of weights alone.
    initial : the weights before training, or a model that has them: then also distances from the start.
    failure : probability with which each bound may fail.
    input_norm : a bound on the norm of all inputs that can occur; by default the largest of the data.
    noisy : also measure sharpness, expected sharpness and the noise that the model bears: a few hundred passes over the data.
    worst_case : with `noisy`, also measure the largest box of changes that the training accuracy bears: up to 60 ascents.
    draws : noisy weights of each mean.
    steps : of the ascent to the worst weights, from each of two starts.
    seed : of all random numbers.
    batch : samples of a forward pass.
    tolerance : of spectral norms, relative (:func:`depthwidth.numerics.network_norms.spectral_norm`).

    Raises
    ------
    InputError
        if weights hold NaN, the data are empty or do not fit the model, or `initial` are other weights.

    Notes
    -----
    A sample is a point or a sequence: bounds count samples, as tokens of a sequence are not independent; measures are divided
    by the number of targets. Bounds hold for data drawn independently and models trained on no others.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    >>> with torch.no_grad():
    ...     first, second = net[0].weight, net[2].weight
    ...     _ = first.copy_(torch.tensor([[1, -2], [3, 0.5]])), second.copy_(torch.tensor([[1.0, -1], [2, 1]]))
    >>> found = capacity(net, (torch.tensor([[1.0, 0.0], [0.5, 0.2]]), torch.tensor([1, 1])), noisy=False)
    >>> round(found.value("l1-path") * found.facts["margin"] ** 2), [one.name for one in found.results if one.vacuous]
    (4096, ['spectral margin bound', 'spectral margin gap'])
    """
    checked_settings(failure, draws, steps, seed)
    if not isinstance(model, nn.Module):
        raise InputError(f"capacity: {shown(model)} is no torch module")
    inner = unwrap(model)
    _check_weights(inner)
    start = _start(inner, initial)
    was_training = inner.training
    inner.eval()
    try:
        points = None if data is None else Points(inner, data, batch)
        fit = None if points is None else points.fit()
        near = noise.Near(draws, steps, seed)
        return _report(inner, points, fit, start, failure, input_norm, near if noisy else None, tolerance, worst_case)
    finally:
        inner.train(was_training)


def checked_settings(failure: float, draws: int, steps: int, seed: int) -> None:
    """Refuse settings outside their domains."""
    if isinstance(failure, bool) or not isinstance(failure, (int, float)) or not 0 < failure < 1:
        raise InputError(f"capacity: failure={shown(failure)} is not between 0 and 1")
    for name, value, least, most in (("draws", draws, 1, MOST), ("steps", steps, 0, MOST), ("seed", seed, 0, 2**40)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InputError(f"capacity: {name}={shown(value)} is not a whole number from {least} to {most:,}")


def _check_weights(model: nn.Module) -> None:
    named = [*model.named_parameters(), *model.named_buffers()]
    if next(iter(model.parameters()), None) is None:
        raise InputError(f"capacity: {type(model).__name__} has no weights")
    for name, value in named:
        if value.is_meta:
            raise InputError(f"capacity: {name} has no values yet: give the model a device first")
        # Masks of attention are buffers, and may hold minus infinity.
        bad = value.isnan() if name not in dict(model.named_parameters()) else ~value.isfinite()
        if value.is_floating_point() and bool(bad.any()):
            raise InputError(f"capacity: {name} holds NaN or infinity")


def _start(model: nn.Module, initial: Mapping[str, Tensor] | nn.Module | None) -> Parameters | None:
    """The weights before training, by name, with the batch norms' statistics of today."""
    if initial is None:
        return None
    given = unwrap(initial).state_dict() if isinstance(initial, nn.Module) else initial
    found = {}
    for name, value in model.named_parameters():
        if name not in given or tuple(given[name].shape) != tuple(value.shape):
            raise InputError(f"capacity: the initial weights have no {name} of shape {tuple(value.shape)}")
        found[name] = given[name].detach().to(value.device, value.dtype)
        if not found[name].isfinite().all():
            raise InputError(f"capacity: the initial {name} holds NaN or infinity")
    return found


def _report(
    model: nn.Module, points: Points | None, fit: Fit | None, start: Parameters | None, failure: float,
    input_norm: float | None, near: noise.Near | None, tolerance: float, worst_case: bool,
) -> CapacityReport:  # fmt: skip
    margin = None if fit is None else training_margin(fit.margins, SHARE)
    matrices = tuple(
        matrix_norms(name, value, table=table, tolerance=tolerance) for name, value, table in state_matrices(model)
    )
    results = [*_of_chain(model, points, fit, margin, start, failure, input_norm, tolerance)]
    samples = None if points is None else points.counted
    counted = None if fit is None else chains.counted(fit)
    results += state_results(norm_sums(matrices), samples=samples, margin=counted)
    if fit is not None:
        results.append(_inverse_margin(counted, samples))
    if start is not None:
        results += _distances(model, start, samples, tolerance)
    if points is not None and fit is not None and near is not None:
        results += _of_noise(points, fit, start, failure, near)
        results += _of_boxes(points, near) if worst_case else ()
    found, heads = _of_attention(model, points, failure)
    facts = {
        "model": type(model).__name__, "weights": sum(one.numel() for one in model.parameters()),
        "samples": None if points is None else points.samples, "targets": samples,
        "loss": None if fit is None else fit.loss, "error": None if fit is None else fit.error, "margin": margin,
        "input_norm": None if fit is None else fit.input_norm, "tolerance": tolerance, "failure": failure,
        "seed": None if near is None else near.seed,
    }  # fmt: skip
    return CapacityReport((*results, *found), matrices, heads, facts)


def state_matrices(model: nn.Module, values: Parameters | None = None) -> Iterator[tuple[str, Any, bool]]:
    """The matrices of a model with names; true for tables of embeddings that are not also an output matrix.

    They hold the model's weights, or other `values` by the names of its parameters. Kernels of convolutions are (outputs,
    rest), as in the comparisons; further stacks are split.
    """
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    tied = _tied(model)
    kernels = {id(part.weight) for part in model.modules() if type(part).__name__.startswith(("Conv1d", "Conv2d", "Conv3d"))}
    for name, value in model.named_parameters():
        if value.ndim < 2:
            continue
        w = (value if values is None else values[name]).detach().double().cpu().numpy()
        table = id(value) in tables and id(value) not in tied
        if value.ndim == 2 or id(value) in kernels:
            yield name, w.reshape(len(w), -1), table
        else:
            for i, one in enumerate(w.reshape(-1, *w.shape[-2:])):
                yield f"{name}[{i}]", one, table


def _tied(model: nn.Module) -> set[int]:
    """Tables that are also the matrix of the output."""
    found = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)}
    head = getattr(getattr(model, "head", None), "unembedding", None)
    table = getattr(getattr(model, "stem", None), "table", None)
    if head is not None and getattr(head, "weight", head) is None and isinstance(table, Tensor):
        found.add(id(table))
    return found


# ---- chains of matrices and ReLUs ----


def _of_chain(
    model: nn.Module, points: Points | None, fit: Fit | None, margin: float | None, start: Parameters | None, failure: float,
    input_norm: float | None, tolerance: float,
) -> Iterator[CapacityResult]:  # fmt: skip
    if points is None or fit is None or margin is None:
        yield from chains.missing("they need data: margins, and inputs on which the model is compared with a chain")
        return
    try:
        chain = find_chain(model, points.inputs)
    except NoChain as why:
        yield from chains.missing(str(why))
        return
    yield from chains.results(chain, model, points, fit, margin, start, failure, input_norm, tolerance)


# ---- measures of the comparisons ----


def _inverse_margin(margin: float | None, samples: int | None) -> CapacityResult:
    name, law = "inverse-margin", laws.reported_measure
    if margin is None:
        return without_value(name, law, chains.UNCOUNTED)
    return CapacityResult(name, reported(margin**-2, samples, logarithm=False), nature_of(law), law.name)


def _distances(model: nn.Module, start: Parameters, samples: int | None, tolerance: float) -> Iterator[CapacityResult]:
    squared = spectral = 0.0
    law = laws.reported_measure
    moves = {name: one.detach() - start[name] for name, one in model.named_parameters()}
    for _, value, _ in state_matrices(model, moves):
        squared += float((value**2).sum())
        spectral += spectral_norm(value, tolerance).value ** 2
    for name, value in (("fro-dist", squared), ("dist-spec-init", spectral)):
        if value:
            yield CapacityResult(name, reported(value, samples, logarithm=False), nature_of(law), law.name)
        else:
            yield without_value(name, law, chains.STILL)


# ---- noise ----


def _of_noise(points: Points, fit: Fit, start: Parameters | None, failure: float, near: noise.Near) -> Iterator[CapacityResult]:
    worst = noise.worst_loss(points, fit.loss, near)
    yield evaluated(
        "sharpness", laws.relative_sharpness, {"worst": worst, "loss": fit.loss},
        sentence=f"largest loss of {noise.STARTS} ascents of {near.steps} steps within {noise.BOX} (|w| + 1), from below",
    )  # fmt: skip
    scale = noise.scale_at_rise(points, fit.loss, near)
    law = laws.gaussian_divergence
    yield CapacityResult(
        "expected sharpness", noise.expected_rise(points, fit.loss, noise.BOX, near), "measure", laws.magnitude_noise.name,
        sentence=f"nats, mean of {near.draws} draws with standard deviation {noise.BOX} (10 |w| + 1)",
    )  # fmt: skip
    yield CapacityResult(
        "divergence at expected sharpness 0.05", noise.magnitude_divergence(points.parameters, scale), "measure", law.name,
        sentence=f"noise of standard deviation {scale:.3g} (10 |w| + 1), which depends on the weights: a prior may not",
    )  # fmt: skip
    yield from _flatness(points, start, near)
    bound = noise.noisy_bound(points, start, failure, near)
    yield CapacityResult(
        "PAC-Bayes bound of noisy weights", bound.value, "bound", laws.pac_bayes_penalty.name, "", bound.value >= 1,
        f"test error of weights with noise {bound.noise:.3g}; prior about {'zero' if start is None else 'the start'}; holds "
        f"for any network; {points.samples} samples, {len(noise.GRID)} standard deviations and {near.draws} draws are paid for",
    )  # fmt: skip


STANDARD = "of standard deviations; the published code passes variances in their place, so its values are others"


def _flatness(points: Points, start: Parameters | None, near: noise.Near) -> Iterator[CapacityResult]:
    error, m = points.errors(points.parameters), points.counted
    if error > 1 - noise.DROP:
        for name in ("pacbayes-flatness", "pacbayes-mag-flatness", "pacbayes-orig"):
            reason = f"the training accuracy is {1 - error:.3g}, which cannot fall by {noise.DROP}"
            yield without_value(name, laws.flatness_measure, reason)
        return
    plain = noise.largest_noise(points, error, near, magnitude=False)
    relative = noise.largest_noise(points, error, near, magnitude=True)

    def line(name: str, value: float, law: Any, sentence: str = STANDARD) -> CapacityResult:
        return CapacityResult(name, reported(value, m, logarithm=False), "measure", law.name, sentence=sentence)

    for name, sigma in (("pacbayes-flatness", plain), ("pacbayes-mag-flatness", relative)):
        yield line(name, sigma**-2, laws.reported_measure, f"sigma = {sigma:.4g}; {STANDARD}")
    whole = noise.squared_distance(points.parameters, None)
    yield line("pacbayes-orig", laws.flatness_measure(whole, plain, m), laws.flatness_measure)
    if start is None:
        return
    way = noise.squared_distance(points.parameters, start)
    yield line("pacbayes-init", laws.flatness_measure(way, plain, m), laws.flatness_measure)
    for name, from_start in (("pacbayes-mag-init", True), ("pacbayes-mag-orig", False)):
        value = noise.magnitude_flatness(points, start, relative, from_start=from_start) + math.log(m / relative) + 10
        if value > 0:
            yield line(name, value, laws.magnitude_flatness_term)
        else:
            yield without_value(name, laws.magnitude_flatness_term, "the sum of logarithms is negative and has no root")


def _of_boxes(points: Points, near: noise.Near) -> Iterator[CapacityResult]:
    """The worst-case counterparts of the flatness measures."""
    error, law = points.errors(points.parameters), laws.reported_measure
    for name, magnitude in (("sharpness-flatness", False), ("sharpness-mag-flatness", True)):
        if error > 1 - noise.DROP:
            yield without_value(name, law, f"the training accuracy is {1 - error:.3g}, which cannot fall by {noise.DROP}")
            continue
        alpha = noise.largest_box(points, error, near, magnitude=magnitude)
        box = f"alpha |w| + {noise.FLOOR:g}" if magnitude else "alpha"
        yield CapacityResult(
            name, reported(alpha**-2, points.counted, logarithm=False), "measure", law.name,
            sentence=f"alpha = {alpha:.4g}, from above: a weight moves by at most {box}; other sources take a ball of the norm",
        )  # fmt: skip


# ---- attention ----


def _of_attention(
    model: nn.Module, points: Points | None, failure: float
) -> tuple[tuple[CapacityResult, ...], tuple[HeadNorms, ...]]:
    try:
        ours = our_model(model)
        heads, reason = layer_heads(LiveWeights(ours, multiplied=True))
        if not heads:
            raise NoHeads(reason)
    except NoHeads as why:
        laws_of = (("attention covering order", laws.head_covering_order), ("attention layer gap", laws.rademacher_gap))
        return tuple(without_value(name, law, str(why)) for name, law in laws_of), ()
    norms = input_norms(ours, points, heads)
    length = (ours.tree.context or 1) if points is None else points.inputs.shape[-1]
    results: list[CapacityResult] = []
    if points is not None:
        for site, layer in heads.items():
            results += attention_results(
                layer, width=ours.tree.width, input_norm=norms[site], samples=points.samples, length=length, failure=failure
            )
    weights = sum(one.numel() for one in ours.parameters())
    given = {"blocks": ours.tree.depth, "weights": weights, "length": length}
    results.append(evaluated("transformer VC order", laws.vc_order, given, sentence="points, up to a constant"))
    return tuple(results), tuple(one for layer in heads.values() for one in layer)
