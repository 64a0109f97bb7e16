"""The best width, depth and number of tokens for a fixed number of FLOPs, of training alone or of training and serving.

A law gives the loss; the operations are the exact count of the architecture, attention and output matrix included, as a
polynomial of depth and width. A grid in the logarithms of both, narrowed around its least loss, finds the optimum; the tokens
follow from the budget.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..checks import check_choice
from ..coefficients import coefficient, covariance, reference
from ..errors import InputError, shown
from ..formulas.compute_optimal import hoffmann_loss
from ..formulas.scaling import gemstones_loss, liu_loss
from ..formulas.shape_penalty import penalised_best_width, shape_penalty
from ..values import frozen
from .caveats import penalty_error
from .template import Template

if TYPE_CHECKING:
    import numpy as np

DRAWS = 200
"""Draws of a law's coefficients for its error."""
_COARSE, _FINE, _ROUNDS = 60, 15, 4
_DEPTHS, _WIDTHS = (1.0, 1e4), (16.0, 1e6)


@frozen
class LawInput:
    """The quantities of shapes that a law may use; numbers or arrays."""

    width: Any
    depth: Any
    parameters: Any
    """All parameters."""
    size: Any
    """Parameters without the embedding, active ones."""
    tokens: Any


@frozen
class Refits:
    """Coefficients of one law by several fits, whose scatter is the law's error."""

    fits: tuple[Mapping[str, float], ...]
    """Coefficients that replace the law's own; empty if no error of the law is known."""
    scale: float
    """Standard error over standard deviation: 1 for draws, sqrt(n - 1) for n fits that leave out one model each."""


@frozen
class LossLaw:
    """A law of the loss from shape, size and tokens."""

    name: str
    source: str
    words: str
    """The terms of the shape that it has, and what its error covers, or why none is known."""
    loss: Callable[[LawInput, Mapping[str, float]], Any]
    """Nats per token, given coefficients that replace the law's own."""
    coefficients: str
    """Name of the file of its coefficients."""
    moved: tuple[str, ...] = ()
    """Coefficients whose covariance is known, logarithms by the name ``ln_A``."""
    left_out: str = ""
    """Table of fits that leave out one model each, which is preferred to a covariance: far from linear, they hold more."""
    fitted_on: tuple[tuple[str, float, float], ...] = ()
    """Ranges of ``depth``, ``width``, ``parameters`` or ``tokens`` of its data."""
    penalised: bool = False
    """True if the shape penalty of this project is a factor of the loss."""

    @functools.cached_property
    def refits(self) -> Refits:
        """Fits without one model each, or draws from the covariance, taken as Gaussian; none if the error is not known."""
        if self.left_out:
            rows = [
                {name: float(text) for name, text in row.items() if name not in _NO_COEFFICIENTS}
                for row in reference(self.left_out)
            ]
            return Refits(tuple(map(_without_logarithms, rows)), math.sqrt(len(rows) - 1))
        if not self.moved:
            return Refits((), math.nan)
        import numpy as np

        known = covariance(self.coefficients)
        matrix = np.array([[known[a, b] for b in self.moved] for a in self.moved])
        mean = [coefficient(self.coefficients, name).value for name in self.moved]
        drawn = np.random.default_rng(0).multivariate_normal(mean, matrix, DRAWS, check_valid="ignore", method="eigh")
        return Refits(tuple(_without_logarithms(dict(zip(self.moved, map(float, row), strict=True))) for row in drawn), 1.0)

    def spread(self, quantity: Callable[[Mapping[str, float]], Any]) -> Any:
        """Standard error of a quantity of the coefficients, an array or a number; None if no error of the law is known."""
        import numpy as np

        found = []
        for moved in self.refits.fits:
            with suppress(InputError):  # a coefficient outside its domain, as an exponent below zero
                found.append(quantity(moved))
        return self.refits.scale * np.std(found, axis=0) if found else None

    def loss_error(self, counts: LawInput) -> Any:
        """Standard error of the loss, in nats, if the law is right; None if no error of the law is known.

        It holds the errors of all coefficients, and that of the shape penalty if it is a factor of the loss.
        """
        import numpy as np

        error = self.spread(lambda moved: self.loss(counts, moved))
        if error is None or not self.penalised:
            return error
        best = penalised_best_width.with_fixed()(counts.size)
        bare = self.loss(counts, {}) / (1 + shape_penalty.with_fixed()(counts.width, best))
        return np.hypot(error, bare * np.vectorize(penalty_error)(counts.width, best, counts.size))


_NO_COEFFICIENTS = ("left_out_width", "left_out_depth", "status")


def _without_logarithms(row: Mapping[str, float]) -> dict[str, float]:
    """The same coefficients, ``A`` in place of ``ln_A``."""
    return {name.removeprefix("ln_"): math.exp(value) if name.startswith("ln_") else value for name, value in row.items()}


def _gemstones(counts: LawInput, moved: Mapping[str, float]) -> Any:
    return gemstones_loss.with_fixed(**moved)(counts.width, counts.depth, counts.parameters, counts.tokens)


def _liu(counts: LawInput, moved: Mapping[str, float]) -> Any:
    return liu_loss.with_fixed(**moved)(counts.width, counts.depth, counts.tokens)


def _hoffmann(counts: LawInput, moved: Mapping[str, float]) -> Any:
    penalty = shape_penalty.with_fixed()(counts.width, penalised_best_width.with_fixed()(counts.size))
    return hoffmann_loss.with_fixed(**moved)(counts.parameters, counts.tokens) * (1 + penalty)


LAWS = {
    law.name: law
    for law in (
        LossLaw(
            "gemstones2025", gemstones_loss.source,
            "width, depth, parameters and tokens; its error is that of leaving out one of its 22 models at a time",
            _gemstones, "gemstones2025", left_out="gemstones_left_out",
            fitted_on=(("depth", 3, 80), ("width", 256, 3072), ("parameters", 4.8e7, 2e9), ("tokens", 1e10, 3.5e11)),
        ),
        LossLaw(
            "hoffmann2022", hoffmann_loss.source,
            "parameters and tokens, times the shape penalty of this project; the penalty's error is in that of the loss alone",
            _hoffmann, "hoffmann2022", ("E", "ln_A", "alpha", "ln_B", "beta"),
            fitted_on=(("parameters", 5.7e7, 1.6e10), ("tokens", 2e8, 3e11)), penalised=True,
        ),
        LossLaw(
            "liu2026", liu_loss.source,
            "width, depth and tokens; its error is not known: the source gives errors of coefficients, but no covariance",
            _liu, "liu2026", fitted_on=(("width", 448, 8192), ("depth", 3, 80)),
        ),
    )
}  # fmt: skip
"""Laws with an optimum at fixed FLOPs, by name."""


@frozen
class ComputeOptimum:
    """The shape and tokens of least predicted loss at a fixed number of operations."""

    law: str
    depth: float
    width: float
    parameters: float
    tokens: float
    loss: float
    loss_stderr: float | None
    """Standard error of the loss of this shape, :meth:`LossLaw.loss_error`; None if that is not known."""
    training_flops: float
    serving_flops: float
    bands: Mapping[str, tuple[float, float]] | None
    """The middle 68 % of each quantity over the law's refits, or its standard error either way in the logarithm if these leave
    out one model each; None if that is not known."""
    extrapolated: tuple[str, ...]
    """Quantities outside the range of the law's data."""
    at_edge: bool
    """True if the optimum is at the edge of the searched shapes, so that the law has none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        names = (
            "law", "depth", "width", "parameters", "tokens", "loss", "loss_stderr", "training_flops", "serving_flops",
            "at_edge",
        )  # fmt: skip
        bands = None if self.bands is None else {name: list(ends) for name, ends in self.bands.items()}
        return {**{name: getattr(self, name) for name in names}, "bands": bands, "extrapolated": list(self.extrapolated)}


class Architecture:
    """The counts of a template at any depth and width, as polynomials."""

    def __init__(self, template: Template, context: int | None = None, *, masked: bool = False) -> None:
        if template.design.patch is not None:
            raise InputError("compute: the laws are those of language models, and this design reads images")
        if template.design.experts is not None:
            raise InputError("compute: the laws are those of dense models; a mixture of experts has laws of its own")
        if template.head_dim is None:
            template = replace(template, head_dim=template.head_dim_at(1536))
        self.template = template
        lengths: dict[str, Any] = {"masked": masked}

        def polynomial(reading: Callable[[Any], Any]) -> Any:
            return template.polynomial(reading).continuous()

        self.parameters = polynomial(lambda tree: tree.parameters)
        self.size = polynomial(lambda tree: tree.trained_size)
        self.training = polynomial(lambda tree: tree.flops_per_token(context, training=True, **lengths))
        self.serving = polynomial(lambda tree: tree.flops_per_token(context, **lengths))
        self.exact = template.polynomial(lambda tree: tree.parameters)

    def counts(self, depth: Any, width: Any, tokens: Any) -> LawInput:
        """The counts of shapes trained on so many tokens."""
        return LawInput(width, depth, self.parameters(depth, width), self.size(depth, width), tokens)


def compute_optimum(
    flops: float,
    law: str = "gemstones2025",
    template: Template | None = None,
    *,
    served: float = 0.0,
    context: int | None = None,
    masked: bool = False,
    errors: bool = True,
) -> ComputeOptimum:
    """The shape and the tokens of least predicted loss at a fixed number of operations.

    Parameters
    ----------
    flops : operations of training, and of serving if `served` tokens are counted.
    law : one of :data:`LAWS`.
    template : the architecture; that of GPT-3 by default.
    served : tokens that the model will read and write in its life, each at the cost of a forward pass (Sardana et al. 2024).
    context, masked : length of sequences, and whether scores hidden by the mask are excluded.
    errors : whether errors are found; the optimum is then sought again by each of the law's refits, about 0.2 s.

    Raises
    ------
    InputError
        if a number is out of range, or the budget leaves less than one token for training in any shape.

    Examples
    --------
    >>> alone, with_serving = (compute_optimum(1e21, "hoffmann2022", served=served) for served in (0.0, 1e12))
    >>> with_serving.parameters < alone.parameters
    True
    """
    check_choice("compute", tuple(LAWS), law=law)
    for name, value in (("flops", flops), ("served", served)):
        if not (isinstance(value, (int, float)) and 0 <= value < 1e40) or (name == "flops" and value == 0):
            raise InputError(f"compute: {name}={shown(value)} is not a positive number")
    made = Architecture(Template.of() if template is None else template, context, masked=masked)
    chosen = LAWS[law]
    budget = functools.partial(_loss_at_budget, made, chosen, float(flops), float(served))
    depth, width, at_edge = _least(functools.partial(budget, {}))
    each = float(made.training(depth, width)), float(made.serving(depth, width))
    serving = each[1] * served
    tokens = (flops - serving) / each[0]
    if tokens <= 0:
        raise InputError(f"compute: serving {served:g} tokens takes more than {flops:g} operations for any shape")
    if tokens < 1:
        raise InputError(f"compute: {flops:g} operations are fewer than one token takes in any shape")
    counts = made.counts(depth, width, tokens)
    known = {"depth": depth, "width": width, "parameters": float(counts.parameters), "tokens": tokens}
    bands = error = None
    if errors:
        error = chosen.loss_error(counts)
        bands = _bands(made, float(flops), float(served), chosen.refits, list(_moved_optima(chosen, budget)), known)
    return ComputeOptimum(
        law=law,
        **known,
        loss=float(chosen.loss(counts, {})),
        loss_stderr=None if error is None else float(error),
        training_flops=flops - serving,
        serving_flops=serving,
        bands=bands,
        extrapolated=tuple(name for name, low, high in chosen.fitted_on if not low <= known[name] <= high),
        at_edge=at_edge,
    )


def parameter_optimum(
    parameters: float,
    tokens: float,
    law: str = "gemstones2025",
    template: Template | None = None,
    context: int | None = None,
) -> tuple[float, float, float]:
    """Depth, width and loss of the best shape with so many parameters, trained on so many tokens, whatever it costs.

    Raises
    ------
    InputError
        if the law is unknown, or the parameters are too few for one block.
    """
    import numpy as np

    check_choice("compute", tuple(LAWS), law=law)
    made = Architecture(Template.of() if template is None else template, context)
    around, block = (np.array([float(one) for one in part]) for part in (made.exact.around, made.exact.per_block))

    def widths(depth: np.ndarray) -> np.ndarray:
        c, b, a = ((around[k] + depth * block[k]) for k in range(3))
        root = np.sqrt(np.maximum(b * b - 4 * a * (c - parameters), 0))
        found: np.ndarray = (root - b) / (2 * a)
        return found

    low, high = map(math.log, _DEPTHS)
    for _ in range(_ROUNDS + 2):
        depth = np.exp(np.linspace(low, high, 400))
        width = widths(depth)
        with np.errstate(all="ignore"):
            loss = LAWS[law].loss(made.counts(depth, np.where(width > 1, width, np.nan), tokens), {})
        if np.isnan(loss).all():
            raise InputError(f"compute: {parameters:g} parameters are too few for one block")
        best = int(np.nanargmin(loss))
        step = (high - low) / 399
        low, high = (math.log(depth[best]) - 2 * step, math.log(depth[best]) + 2 * step)
    return float(depth[best]), float(width[best]), float(loss[best])


def _moved_optima(law: LossLaw, budget: Callable[..., Any]) -> Iterator[tuple[float, float]]:
    """The optimum for each refit of the law; one without an optimum is left out."""
    for moved in law.refits.fits:
        try:
            depth, width, edge = _least(functools.partial(budget, moved), coarse=True)
        except InputError:  # a coefficient outside its domain, as an exponent below zero
            continue
        if not edge:
            yield depth, width


def _loss_at_budget(
    made: Architecture, law: LossLaw, flops: float, served: float, moved: Mapping[str, float], depth: Any, width: Any
) -> Any:
    """The loss of shapes whose tokens follow from the budget; infinite if serving leaves none."""
    import numpy as np

    tokens = (flops - made.serving(depth, width) * served) / made.training(depth, width)
    with np.errstate(all="ignore"):
        loss = law.loss(made.counts(depth, width, np.where(tokens > 0, tokens, np.nan)), moved)
    return np.where(np.isfinite(loss), loss, np.inf)


def _least(loss: Callable[[Any, Any], Any], *, coarse: bool = False) -> tuple[float, float, bool]:
    """Depth and width of the least loss, and whether they are at the edge of the searched shapes."""
    import numpy as np

    (low_d, high_d), (low_w, high_w) = (tuple(map(math.log, ends)) for ends in (_DEPTHS, _WIDTHS))
    number, edge = _COARSE, False
    for turn in range(3 if coarse else _ROUNDS):
        depths, widths = np.linspace(low_d, high_d, number), np.linspace(low_w, high_w, number)
        grid = loss(np.exp(depths)[:, None], np.exp(widths)[None, :])
        i, j = np.unravel_index(int(np.argmin(grid)), grid.shape)
        if turn == 0:
            edge = bool(i in (0, number - 1) or j in (0, number - 1))
        step_d, step_w = depths[1] - depths[0], widths[1] - widths[0]
        low_d, high_d = depths[i] - 1.5 * step_d, depths[i] + 1.5 * step_d
        low_w, high_w = widths[j] - 1.5 * step_w, widths[j] + 1.5 * step_w
        number = _FINE
    return float(np.exp(depths[i])), float(np.exp(widths[j])), edge


def _bands(
    made: Architecture,
    flops: float,
    served: float,
    refits: Refits,
    shapes: list[tuple[float, float]],
    best: Mapping[str, float],
) -> dict[str, tuple[float, float]] | None:
    if not shapes or len(shapes) < len(refits.fits) // 2:  # most have no optimum in the law's range
        return None
    import numpy as np

    depth, width = np.array(shapes).T
    tokens = (flops - made.serving(depth, width) * served) / made.training(depth, width)
    values = {"depth": depth, "width": width, "parameters": made.parameters(depth, width), "tokens": tokens}
    if refits.scale == 1:
        return {name: tuple(map(float, np.quantile(value, (0.16, 0.84)))) for name, value in values.items()}  # type: ignore[misc]
    factors = {name: math.exp(refits.scale * float(np.std(np.log(value)))) for name, value in values.items()}
    return {name: (best[name] / factor, best[name] * factor) for name, factor in factors.items()}
