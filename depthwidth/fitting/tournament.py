"""A tournament of rules: the loss that each rule's shape costs on runs whose shapes vary, against the best shape there.

A quadratic surface in ln width, ln size and, if they vary on their own, ln tokens is fitted to ln loss by least squares. At a
size it has one best width, and the cost of another width follows in closed form, so that resampling models is quick.

>>> rows = [{"width": w, "depth": l, "non_embedding": 12 * l * w**2, "loss": 3 + (0.1 * (w / l - 40) / 40) ** 2}
...         for w in (256, 384, 512, 768) for l in (6, 10, 16, 24)]
>>> found = tournament(rows, draws=20)
>>> found.models, sorted({score.rule for score in found.scores})[:2]
(16, ['combined2026', 'completep2025'])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_whole
from ..coefficients import reference
from ..errors import InputError, nearest, shown
from ..formulas.compute_optimal import hoffmann_loss
from ..planning.rules import Curve, Rule, curves_of_law, meet, rules
from ..progress import announced
from .fit import FAR_OFF, MOST_DRAWS, fit, fit_runs, objective_of
from .laws import find_law, shape_penalty_law
from .result import central
from .table import Runs, read_runs

Array = NDArray[np.float64]
Index = NDArray[np.intp]

REFITTED = {"gemstones2025": "gemstones", "measured2025": "shape-penalty"}
"""From a rule that can be fitted again without a model to its law."""
SIZES = 4
"""Sizes at which rules are judged."""
HEAD_DIMENSIONS = (32, 64, 96, 128, 256)
"""Head dimensions that are judged."""
FEWEST = 8
"""Shapes that a surface of six coefficients needs at least."""
REFIT_STARTS = 6
"""Searches of a law that is fitted without a model."""
ALONE = 0.1
"""Scatter of ln tokens about a quadratic in ln width and ln size, from which tokens count as varying on their own."""

LARGEST = 10.0
"""Cost in ln loss at which an extrapolated surface is cut off."""
SAME = 0.02
"""Scatter of ln tokens at equal size up to which they count as equal."""
TOKEN_TERM_ERROR = 0.2
"""Error of the token term by which losses are taken to equal tokens. Published fits differ in its slope by half of that."""


@dataclass(frozen=True)
class Score:
    """The cost of one rule's shape in one cell, or its mean over all cells of a set if there is no size."""

    data: str
    """Name of the data set."""
    rule: str
    """Name of the rule, or ``head dimension 64``."""
    parameters: float | None
    """Size of the cell, without embeddings; None for the mean over cells."""
    tokens: float | None
    """Training tokens of the cell; None if they follow the size, and for the mean over cells."""
    depth: float | None
    width: float | None
    """Shape that the rule prefers."""
    best_width: float | None
    """Width of least loss on the surface."""
    cost: float
    """Relative loss above that of the best shape: 0.01 is 1 %."""
    stderr: float
    """Standard deviation of `cost` over surfaces of resampled models."""
    low: float
    high: float
    """Ends of its 68.3 % interval."""
    inside: float
    """1 if the shape lies within the measured shapes, else 0; of the mean, the share of cells within."""
    refitted: int
    """1 if the rule was fitted again without the model nearest to the cell, as it was first fitted on this set; else 0."""


@dataclass(frozen=True)
class Tournament:
    """The costs of rules on one data set."""

    data: str
    scores: tuple[Score, ...]
    """The means over cells, least cost first, then the cells of each rule."""
    models: int
    rows: int
    curvature: float
    """Second coefficient of ln loss in ln width."""
    curvature_stderr: float
    residual: float
    """Root mean square distance of ln loss from the surface."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def tournament(
    runs: Any,
    *,
    name: str = "runs",
    columns: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    least: bool = False,
    candidates: Iterable[Rule] | None = None,
    refit: Sequence[str] = (),
    draws: int = 200,
    seed: int = 0,
) -> Tournament:
    """Judge rules on a table of runs in which width and size vary.

    Parameters
    ----------
    runs : a table as :func:`~depthwidth.fitting.fit` takes it, with width, depth, size without embeddings and loss.
    name : of the data set.
    columns, where, least : as :func:`~depthwidth.fitting.fit` takes them.
    candidates : the rules; by default all rules for text.
    refit : names of rules of :data:`REFITTED` that were fitted on these runs. At each cell they are fitted again without the
        model whose shape is nearest to the best one; both results are listed.
    draws : samples of models; errors are the scatter over them.
    seed : of these samples.

    Raises
    ------
    InputError
        if the table cannot be used, has too few models, or its losses have no least width.
    """
    check_whole("evidence", 2, MOST_DRAWS, draws=draws)
    for again in refit:
        if again not in REFITTED:
            raise InputError(
                f"evidence: {shown(again)} cannot be refitted{nearest(again, REFITTED)}; {' and '.join(REFITTED)} can"
            )
    read = read_runs(
        runs, ("width", "depth", "non_embedding", "loss"), columns=columns, where=where, optional=("parameters", "tokens")
    )
    if least:
        read = read.least("loss")
    surface = Surface.of(read)
    samples, failed = surface.resampled(draws, np.random.default_rng(seed))
    notes = [*read.notes, *surface.notes]
    if failed:
        notes.append(f"{failed} of {draws} samples of models have no least width and are left out of the errors")
    scores: list[Score] = []
    for rule in announced("rule", list(rules().values() if candidates is None else candidates)):
        judged = list(_scores(name, rule, surface, samples, None))
        if judged and rule.name in refit:
            judged.extend(_scores(name, rule, surface, samples, read))
        if judged:
            scores.extend(judged)
        else:
            notes.append(f"the rule {rule.name} has no shape at these sizes")
    scores.sort(key=lambda score: (score.parameters is not None, score.cost if score.parameters is None else 0.0))
    curvature = samples[:, surface.bend]
    return Tournament(
        name, tuple(scores), len(read.models), read.rows, float(surface.fitted[surface.bend]), float(curvature.std(ddof=1)),
        surface.residual, tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """A quadratic in centred logarithms of width, size and perhaps tokens, fitted to ln loss."""

    design: Array
    """Shape (rows, terms): 1, the logarithms, and their products."""
    target: Array
    """ln loss, at equal tokens if these do not vary on their own, shape (rows,)."""
    by_tokens: Array
    """The ln loss that this added."""
    model: Index
    centres: Array
    """Means of the logarithms, shape (2 or 3,)."""
    fitted: Array
    """Coefficients, shape (terms,)."""
    c: float
    """Median number of parameters of a block per squared width."""
    logs: Array
    """Centred logarithms of the rows, shape (2 or 3, rows)."""
    notes: tuple[str, ...]

    @classmethod
    def of(cls, runs: Runs) -> Surface:
        """The surface of runs.

        Raises
        ------
        InputError
            if there are too few models, or no least width.
        """
        quantities = [np.log(runs["width"]), np.log(runs["non_embedding"])]
        shape, target, share = _products(_centre_columns(quantities)), np.log(runs["loss"]), 0 * runs["loss"]
        note = "the runs have no tokens; at equal size they count as trained on equally many"
        if "tokens" in runs.columns:
            tokens = np.log(runs["tokens"])
            if _rest(tokens, shape).std() > ALONE:
                quantities.append(tokens)
                note = ""
            else:
                excess = _rest(tokens, _products(_centre_columns(quantities[1:])))
                share, note = _loss_of_tokens(runs, excess), "tokens follow the size"
                if excess.std() > SAME:
                    note += (
                        ", and at equal size differ by the width; losses are taken to equal tokens by the token term of "
                        f"Hoffmann et al. 2022 (at most {np.abs(share).max():.1%}), itself uncertain by {TOKEN_TERM_ERROR:.0%}"
                    )
                else:
                    share = 0 * target
        logs = _centre_columns(quantities)
        design = _products(logs)
        shapes = min(len(runs.models), len(set(zip(runs["width"], runs["non_embedding"], strict=True))))
        if shapes < FEWEST:
            raise InputError(f"evidence: {shapes} shapes are too few to judge rules; {FEWEST} are needed")
        target = np.asarray(target + share)
        fitted, _, rank, _ = np.linalg.lstsq(design, target, rcond=1e-8)
        if rank < design.shape[1]:
            raise InputError("evidence: width and size do not vary independently, so no shape can be judged")
        c = float(np.median(runs["non_embedding"] / (runs["depth"] * runs["width"] ** 2)))
        centres = np.array([q.mean() for q in quantities])
        made = cls(
            design, target, share, runs.model, centres, np.asarray(fitted, dtype=float), c, logs, (note,) if note else ()
        )
        if fitted[made.bend] <= 0:
            raise InputError("evidence: the losses have no least width: the surface bends downward in ln width")
        return made

    @property
    def dimensions(self) -> int:
        """2, or 3 with tokens."""
        return len(self.centres)

    @property
    def bend(self) -> int:
        """Place of the squared ln width among the terms, which is the first product."""
        return 1 + self.dimensions

    @property
    def residual(self) -> float:
        """Root mean square residual in ln loss."""
        return float(np.sqrt(np.mean((self.target - self.design @ self.fitted) ** 2)))

    def resampled(self, draws: int, rng: np.random.Generator) -> tuple[Array, int]:
        """Coefficients for models drawn with replacement, shape (draws, terms), and how many draws have no least width."""
        count = int(self.model.max()) + 1
        found = []
        for _ in announced("sample", range(draws)):
            times = np.sqrt(np.bincount(rng.integers(0, count, count), minlength=count)[self.model])
            target = self.target + TOKEN_TERM_ERROR * rng.standard_normal() * self.by_tokens
            fitted, _, rank, _ = np.linalg.lstsq(self.design * times[:, None], target * times, rcond=1e-8)
            if rank == len(fitted) and fitted[self.bend] > 0:
                found.append(fitted)
        if len(found) < max(2, draws // 2):
            raise InputError("evidence: most samples of the models have no least width; the runs do not distinguish shapes")
        return np.array(found), draws - len(found)

    def best(self, coefficients: Array, at: Array) -> Array:
        """Centred ln width of least loss at the other centred logarithms `at`; one for each row of `coefficients`."""
        slope = coefficients[..., 1]
        for i, value in enumerate(at):
            slope = slope + coefficients[..., self.bend + 1 + i] * value
        return np.asarray(-slope / (2 * coefficients[..., self.bend]))

    def cells(self) -> list[Array]:
        """Centred logarithms of size, and of tokens, of the cells: evenly over the sizes at which runs surround the best width.

        Raises
        ------
        InputError
            if there is no such size.
        """
        times = np.linspace(self.logs[2].min(), self.logs[2].max(), 3) if self.dimensions == 3 else np.empty(0)
        middle = times[1:2]
        sizes = np.linspace(self.logs[1].min(), self.logs[1].max(), 200)
        places = (np.array([size, *middle]) for size in sizes)
        known = [at[0] for at in places if self.inside(float(self.best(self.fitted, at)), at)]
        if not known:
            raise InputError("evidence: at no size do the widths of the runs lie on both sides of the best one")
        spread = np.linspace(known[0], known[-1], SIZES)
        return [np.array([size, time]) for size in spread for time in times] or [np.array([size]) for size in spread]

    def inside(self, log_width: float, at: Array) -> bool:
        """True if a width is within those of the runs whose size is within a factor of two."""
        widths = self.logs[0][np.abs(self.logs[1] - at[0]) <= np.log(2)]
        return bool(len(widths) and widths.min() <= log_width <= widths.max())

    def nearest_model(self, log_width: float, at: Array) -> int:
        """The model whose shape is nearest in ln width and ln size."""
        distance = (self.logs[0] - log_width) ** 2 + (self.logs[1] - at[0]) ** 2
        return int(self.model[np.argmin(distance)])


def _centre_columns(columns: Sequence[Array]) -> Array:
    return np.stack([column - column.mean() for column in columns])


def _rest(column: Array, design: Array) -> Array:
    """The residual of the column after a linear fit of the design."""
    return np.asarray(column - design @ np.linalg.lstsq(design, column, rcond=None)[0])


def _loss_of_tokens(runs: Runs, excess: Array) -> Array:
    """The ln loss that fewer tokens, by `excess` in their logarithm, would add."""
    size = runs.columns.get("parameters", runs["non_embedding"])
    tokens = runs["tokens"]
    return np.asarray(np.log(hoffmann_loss(size, tokens * np.exp(-excess)) / hoffmann_loss(size, tokens)))


def _products(logs: Array) -> Array:
    """1, the logarithms, and their products: the square of the first, and its products, come first among these."""
    pairs = [logs[i] * logs[j] for i in range(len(logs)) for j in range(i, len(logs))]
    return np.stack([np.ones(logs.shape[1]), *logs, *pairs], axis=1)


def _scores(name: str, rule: Rule, surface: Surface, samples: Array, refit: Runs | None) -> Iterator[Score]:
    """The mean of a rule over cells, and its cells; nothing if it has no shape at any of them."""
    curves: dict[int, Curve] = {}
    cells: list[tuple[Score, Array]] = []
    for at in surface.cells():
        size = float(np.exp(at[0] + surface.centres[1]))
        best = float(surface.best(surface.fitted, at))
        curve = rule.curve(surface.c)
        if refit is not None:
            left = surface.nearest_model(best, at)
            if left not in curves:
                curves[left] = _refit(rule.name, refit, left, surface)
            curve = curves[left]
        shape = meet(curve, lambda depth, width: surface.c * depth * width**2, size)
        if shape is None:
            continue
        log_width = float(np.log(shape[1])) - surface.centres[0]
        cost = float(np.expm1(min(surface.fitted[surface.bend] * (log_width - best) ** 2, LARGEST)))
        drawn = np.expm1(np.minimum(samples[:, surface.bend] * (log_width - surface.best(samples, at)) ** 2, LARGEST))
        score = Score(
            name, rule.name, size, float(np.exp(at[1] + surface.centres[2])) if len(at) > 1 else None, shape[0], shape[1],
            float(np.exp(best + surface.centres[0])), cost, *_spread(drawn), float(surface.inside(log_width, at)),
            int(refit is not None),
        )  # fmt: skip
        cells.append((score, drawn))
    if not cells:
        return
    drawn = np.mean([one for _, one in cells], axis=0)
    cost, inside = (float(np.mean([getattr(score, what) for score, _ in cells])) for what in ("cost", "inside"))
    yield Score(
        name, rule.name, None, None, None, None, None, cost, *_spread(drawn), inside, int(refit is not None)
    )  # fmt: skip
    yield from (score for score, _ in cells)


def _spread(drawn: Array) -> tuple[float, float, float]:
    """Standard deviation of resampled costs, and their 68.3 % interval.

    A draw further than :data:`FAR_OFF` robust standard errors from the median counts as that far, as in a fit.
    """
    low, high = central(drawn[:, None])[0]
    middle, far = np.median(drawn), FAR_OFF * (high - low) / 2
    return float(np.clip(drawn, middle - far, middle + far).std(ddof=1)), float(low), float(high)


def _refit(rule: str, runs: Runs, left: int, surface: Surface) -> Curve:
    """The rule of its law refitted without one model."""
    law = find_law(REFITTED[rule])
    if law.name == "shape-penalty":
        law = shape_penalty_law(tokens=surface.dimensions == 3)
    missing = [need for need in law.needs if need not in runs.columns]
    if missing:
        raise InputError(f"evidence: {rule} cannot be refitted without {' and '.join(missing)}")
    found = fit_runs(
        runs.only(runs.model != left), law, objective=objective_of(law), errors="none", held_out=False, starts=REFIT_STARTS
    )
    values = dict(zip(found.names, map(float, found.values), strict=True)) | dict(law.constants)
    for column, (low, high) in found.ranges.items():
        values |= {f"{column}_min": low, f"{column}_max": high}
    return curves_of_law(law.name, values)(surface.c)


def head_sizes(
    runs: Any, *, name: str = "runs", columns: Mapping[str, str] | None = None, where: Sequence[str] = (), least: bool = False,
    draws: int = 100, seed: int = 0,
) -> tuple[Score, ...]:  # fmt: skip
    """The costs of head dimensions at equal shape, by the law ``head-size``.

    Parameters
    ----------
    runs, name, columns, where, least, draws, seed : as of :func:`tournament`.

    Raises
    ------
    InputError
        if the table cannot be used, or its losses have no best head dimension.
    """
    found = fit(runs, "head-size", columns=columns, where=where, least=least, draws=draws, held_out=False, seed=seed)
    low, high = found.ranges["head_dim"]
    if found["q"] <= 0:
        raise InputError("evidence: the losses have no best head dimension: they bend downward in its logarithm")
    q, h = (found.draws[:, found.names.index(one)] for one in ("q", "h"))
    return tuple(
        Score(
            name, f"head dimension {size}", None, None, None, None, None,
            found["q"] * float(np.log(size / found["h"])) ** 2, *_spread(q * np.log(size / h) ** 2),
            float(low <= size <= high), 0,
        )
        for size in HEAD_DIMENSIONS
    )  # fmt: skip


def published_scores() -> tuple[Score, ...]:
    """The committed results on public runs, ``data/reference/rule_tournament.csv``."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    words = ("data", "rule")
    return tuple(
        Score(
            **{key: value if key in words else number(value) for key, value in row.items() if key != "refitted"},  # type: ignore[arg-type]
            refitted=int(row["refitted"]),
        )
        for row in reference("rule_tournament")
    )
