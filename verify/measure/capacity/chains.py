"""The results of a chain of matrices and ReLUs: the margin bound, path norms, and capacities with their factors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from depthwidth.analysis.capacity import CapacityResult, evaluated, nature_of, reported, without_value
from depthwidth.formula import Formula
from depthwidth.formulas import capacity as laws
from depthwidth.numerics.network_norms import (
    NetworkNorms,
    counted_margin,
    group_norm,
    margin_loss,
    network_norms,
    spectral_norm,
    training_margin,
    with_biases,
)

from .chain import Chain
from .points import Fit, Parameters, Points

MARGINS = tuple(2.0**k for k in range(-10, 21))
"""Margins fixed beforehand, over which the margin bound is united."""
BIASES = "biases are left out"

_ALL: dict[str, Formula] = {
    "l2": laws.l2_capacity,
    "l1-path": laws.l1_path_capacity,
    "l2-path": laws.l2_path_capacity,
    "spectral": laws.spectral_capacity,
    "spectral complexity": laws.spectral_complexity,
    "spectral margin bound": laws.spectral_margin_gap,
    "spectral margin gap": laws.spectral_margin_gap,
    "spectral margin order": laws.spectral_margin_order,
    "VC order": laws.layered_vc_order,
    "path-norm": laws.reported_measure,
    "path-norm-over-margin": laws.reported_measure,
}


def missing(sentence: str) -> Iterator[CapacityResult]:
    """The results of chains without values, for a model that is none."""
    for name, law in _ALL.items():
        yield without_value(name, law, sentence)


def no_margin(margin: float | None) -> str:
    """The sentence of a measure that divides by a margin that is not positive."""
    return f"the margin of the 5th percentile is {0.0 if margin is None else margin:.3g}: the network does not fit its data"


STILL = "the weights are still those of the start"
UNCOUNTED = "the 10th percentile of the margins is 0, or there are fewer than 10 targets"


def counted(fit: Fit) -> float | None:
    """The margin of the comparisons, the absolute value of the 10th percentile; None if it is 0 or not defined."""
    return (counted_margin(fit.margins) or None) if len(fit.margins) >= 10 else None


def results(
    chain: Chain, model: nn.Module, points: Points, fit: Fit, margin: float, start: Parameters | None, failure: float,
    input_norm: float | None, tolerance: float,
) -> Iterator[CapacityResult]:  # fmt: skip
    """All results of a chain; without those that divide by a margin if it is not positive."""
    state = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    weights, biases = chain.matrices(state)
    sizes = network_norms(weights, tolerance)
    yield from _capacities(sizes, margin, [b for b in biases if b is not None])
    yield from _bounds(weights, biases, points, fit, margin, failure, input_norm, tolerance)
    given = {"depth": sizes.depth, "weights": sizes.weights}
    yield evaluated("VC order", laws.layered_vc_order, given, sentence="points, up to a constant and logarithms")
    yield from _paths(sizes, counted(fit), points.counted)
    if start is not None:
        yield from _from_start(chain, weights, {**state, **start}, sizes, fit, points.counted)


def _capacities(sizes: NetworkNorms, margin: float, biases: list[Any]) -> Iterator[CapacityResult]:
    notes = BIASES if biases else ""
    shared = {"margin": margin}
    arguments: dict[str, dict[str, Any]] = {
        "l2": {"squared_norms": sizes.frobenius_product**2, "depth": sizes.depth, **shared},
        "l1-path": {"paths": sizes.l1_paths, "depth": sizes.depth, **shared},
        "l2-path": {"squared_paths": sizes.l2_paths, "depth": sizes.depth, "widths": sizes.width_product, **shared},
        "spectral": {"squared_spectra": sizes.spectral_product**2, "widths": sizes.width_product, **shared},
        "spectral complexity": {"spectra": sizes.spectral_product, "group_sum": sizes.row_group_sum},
    }
    for name, given in arguments.items():
        if "margin" in given and margin <= 0:
            yield without_value(name, _ALL[name], no_margin(margin))
        else:
            yield evaluated(name, _ALL[name], given, sentence=notes)


def _bounds(
    weights: list[Any], biases: list[Any], points: Points, fit: Fit, margin: float, failure: float, input_norm: float | None,
    tolerance: float,
) -> Iterator[CapacityResult]:  # fmt: skip
    """The margin bound at the best margin of the grid, and the expression under its O at the training margin."""
    largest = fit.input_norm if input_norm is None else input_norm
    assert largest is not None  # noqa: S101, a chain reads vectors
    notes = "of the data, strictly of all inputs" if input_norm is None else "given"
    if any(b is not None for b in biases):
        weights, largest = with_biases(weights, biases), math.hypot(largest, 1)
        notes += "; biases are weights of one more input, which is 1"
    sizes = network_norms(weights, tolerance)
    given: dict[str, Any] = {
        "depth": sizes.depth, "width": sizes.width, "norm": largest, "squared_spectra": sizes.spectral_product**2,
        "stable_ranks": sizes.stable_ranks, "samples": points.samples,
    }  # fmt: skip
    best: CapacityResult | None = None
    for one in MARGINS:
        gap = evaluated("gap", laws.spectral_margin_gap, given | {"margin": one, "failure": failure / len(MARGINS)})
        if gap.value is None:
            continue
        loss = margin_loss(fit.margins, one)
        if best is None or best.value is None or loss + gap.value < best.value:
            value = loss + gap.value
            sentence = (
                f"test error; margin loss {loss:.3g} plus gap {gap.value:.3g} at margin {one:g}, of {len(MARGINS)} that are "
                f"paid for; largest input {largest:.4g}, {notes}"
            )
            best = CapacityResult(
                "spectral margin bound", value, "bound", laws.spectral_margin_gap.name, "", value >= 1, sentence
            )
    yield best or without_value("spectral margin bound", laws.spectral_margin_gap, "no margin of the grid gives a finite value")
    below = [one for one in MARGINS if one <= margin]
    if below:
        arguments = given | {"margin": below[-1], "failure": failure / len(MARGINS)}
        sentence = f"test error less margin loss at margin {below[-1]:g}; as a relative index rather than a guarantee"
        yield evaluated("spectral margin gap", laws.spectral_margin_gap, arguments, of_error=True, sentence=sentence)
    else:
        yield without_value("spectral margin gap", laws.spectral_margin_gap, no_margin(margin))
    if margin > 0:
        arguments = given | {"margin": margin, "failure": failure}
        yield evaluated("spectral margin order", laws.spectral_margin_order, arguments, sentence="share, up to a constant")
    else:
        yield without_value("spectral margin order", laws.spectral_margin_order, no_margin(margin))


def _paths(sizes: NetworkNorms, margin: float | None, samples: int) -> Iterator[CapacityResult]:
    law = laws.reported_measure
    yield CapacityResult(
        "path-norm", reported(sizes.l2_paths, samples, logarithm=False), nature_of(law), law.name, sentence=BIASES
    )
    name = "path-norm-over-margin"
    if margin is None:
        yield without_value(name, law, UNCOUNTED)
    else:
        value = reported(sizes.l2_paths / margin**2, samples, logarithm=False)
        yield CapacityResult(name, value, nature_of(law), law.name, sentence=BIASES)


def _from_start(
    chain: Chain, weights: list[Any], start: Any, sizes: NetworkNorms, fit: Fit, samples: int
) -> Iterator[CapacityResult]:
    """The measures with distances from the start in place of norms."""
    spectra = [spectral_norm(w).value for w in weights]
    moves = [w - before for w, before in zip(weights, chain.matrices(start)[0], strict=True)]
    ratios = [float((move**2).sum()) / s**2 for move, s in zip(moves, spectra, strict=True)]
    distances = math.fsum(ratio * len(w) for ratio, w in zip(ratios, weights, strict=True))
    groups = math.fsum((group_norm(move, 2, 1) / s) ** (2 / 3) for move, s in zip(moves, spectra, strict=True))
    margin, own = training_margin(fit.margins), counted(fit)
    given: dict[str, Any] = {"margin": margin, "samples": samples}
    by_distance = given | {"depth": sizes.depth, "spectra": sizes.spectral_product, "distance_sum": distances}
    by_group = given | {"complexity": sizes.spectral_product * groups**1.5, "weights": sizes.weights}
    for name, law, arguments in (
        ("spectral distance index", laws.spectral_distance_index, by_distance),
        ("spectral group index", laws.spectral_group_index, by_group),
    ):
        yield evaluated(name, law, arguments) if margin > 0 else without_value(name, law, no_margin(margin))
    name, measure = "log-spec-init-main", laws.spectral_margin_measure
    if own is None or not distances:
        yield without_value(name, measure, UNCOUNTED if own is None else STILL)
        return
    value = math.log(measure(sizes.spectral_product**2, math.fsum(ratios), own))
    yield CapacityResult(name, reported(value, samples, logarithm=True), nature_of(measure), measure.name)
