"""The combined rule from the tables of the repository: ``python tests/combined_rule.py [--write]``.

A random-effects model of the best ln width over ln N. Each source is a line whose height and slope differ from those of the
common line by a between-source spread, and its points lie off its line by a third one; the spreads are at the restricted
maximum of likelihood. It prints the sources and the
calibration of docs/evidence.md, and writes data/coefficients/combined2026.csv.
"""

import csv
import functools
import math
import sys
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from depthwidth.coefficients import coefficient, coefficients, data_directory, reference
from depthwidth.fitting.tournament import published_scores
from depthwidth.formulas import rules as laws

LEVELS = (0.5, 0.9)
NEAR = 0.1
"""|ln(width/best width)| of a rule up to which its cost says too little about the error of the best width."""
STEP_OF_RATIOS = 1.25
"""Argued error of CompleteP's ratios, a factor: they are read as "about", from a sweep with few ratios at each size."""
BLOCKS_OF_ENCODER_AND_DECODER = 2
"""T5 has as many decoder as encoder blocks; its depth counts one of both."""


@dataclass(frozen=True)
class Source:
    name: str
    status: str
    error: str
    size: np.ndarray
    log_width: np.ndarray
    stderr: np.ndarray


def source(name, status, error, points):
    return Source(name, status, error, *(np.array(column, dtype=float) for column in zip(*points, strict=True)))


def judged_cells(prefix):
    """Size, data set, tokens, best ln width, its error and the curvature with its error, of each cell of the tournament."""
    cells = {}
    for one in published_scores():
        if one.data.startswith(prefix) and one.parameters is not None and one.width and not one.refitted:
            cells.setdefault((one.parameters, one.data, one.tokens), []).append(one)
    for (size, data, tokens), scores in cells.items():
        best = math.log(scores[0].best_width)
        off = [(abs(math.log(one.width) - best), one) for one in scores]
        far, farthest = max(off, key=lambda pair: pair[0])
        k = math.log1p(farthest.cost) / far**2
        # cost = k x^2, so that the error of x is at most that of the cost over 2 k |x|.
        errors = [one.stderr / (2 * k * x) for x, one in off if x > NEAR]
        yield size, data, tokens, best, float(np.median(errors)), k, farthest.stderr / far**2


def runs_source(name, prefix):
    """One point a size: texts and token counts share their models, so that their mean is no better than one of them."""
    cells = list(judged_cells(prefix))
    points = []
    for size in sorted({one[0] for one in cells}):
        best, errors = np.array([(one[3], one[4]) for one in cells if one[0] == size]).T
        points.append((size, best.mean(), math.hypot(np.median(errors), best.std())))
    return source(name, "measured", "scatter over resampled models, and over texts and tokens", points)


def levine():
    law = {row.name: row.value for row in coefficients("levine2020")}
    depths = np.geomspace(law["depth_min"], law["depth_max"], 4)
    sizes = [laws.levine_transition_parameters(depth) for depth in depths]
    points = [
        (
            size,
            math.log(laws.levine_optimal_width(size)),
            laws.levine_optimal_width_error(size) / laws.levine_optimal_width(size),
        )
        for size in sizes
    ]
    return source("levine2020", "secondary", "covariance of its fit, recalled", points)


def completep():
    points = []
    for row in reference("completep_optimal_aspect"):
        size = float(row["nonembedding_params"])
        width = laws.constant_aspect_width(size, float(row["completep_best_ratio"]))
        points.append((size, math.log(width), math.log(STEP_OF_RATIOS) / 3))
    return source("completep2025", "secondary", "argued: a factor of 1.25 in the ratio", points)


def narang():
    """The shapes of the sweep share their model width, so that it is the width of a plain block of equal size that counts."""
    rows = reference("t5_depth_sweep_narang2021")
    depth, loss = (np.array([float(row[name]) for row in rows]) for name in ("depth", "final_loss"))
    bend, slope, _ = np.polyfit(np.log(depth), loss, 2)
    best = math.exp(-slope / (2 * bend))
    size = float(rows[0]["total_params"])
    blocks = [best, BLOCKS_OF_ENCODER_AND_DECODER * best]
    low, high = sorted(0.5 * math.log(size / (12 * layers)) for layers in blocks)
    return source("narang2021", "secondary", "argued: one or two blocks a layer", [(size, (low + high) / 2, (high - low) / 2)])


def kaplan(k):
    """Two shapes differ by 0 to 3 %: the best width lies between that of a gap of 3 % and their geometric mean."""
    (n1, d1), (n2, d2) = ((6, 4288), (48, 1600))
    gap = coefficient("kaplan2020", "shallow_wide_gap").value
    middle, apart = math.log(d1 * d2) / 2, math.log(d1 / d2)
    low, high = middle - gap / (2 * k * apart), middle
    size = 12 * math.sqrt(n1 * n2) * d1 * d2
    return source("kaplan2020", "primary", "argued: a gap of 0 to 3 %", [(size, (low + high) / 2, (high - low) / 2)])


def mobilellm():
    """Accuracies, not losses: the vertex of the parabola through the best shape of a class and its two neighbours."""
    points = []
    for name in ("125M", "350M"):
        rows = sorted(
            (row for row in reference("mobilellm_depth_width") if row["class"] == name), key=lambda row: int(row["depth"])
        )
        depth, width, accuracy = (np.array([float(row[key]) for row in rows]) for key in ("depth", "width", "accuracy"))
        near = slice(accuracy.argmax() - 1, accuracy.argmax() + 2)
        bend, slope, _ = np.polyfit(np.log(width[near]), accuracy[near], 2)
        size = math.exp(np.log(12 * depth[near] * width[near] ** 2).mean())
        points.append((size, -slope / (2 * bend), math.log(width[near].max() / width[near].min()) / 2))
    return source("mobilellm2024", "secondary", "argued: between the neighbours of the best of four", points)


def chinchilla():
    moved = {name: coefficient("liu2026", name) for name in ("alpha_m", "alpha_l")}
    points = []
    for size in (1e8, 1e9, 1e10):
        shifts = [
            math.log(laws.liu_optimal_width(size, **{name: row.value + row.stderr}) /
                     laws.liu_optimal_width(size, **{name: row.value - row.stderr})) / 2
            for name, row in moved.items()
        ]  # fmt: skip
        points.append((size, math.log(laws.liu_optimal_width(size)), math.hypot(*shifts)))
    return source("liu2026 (Chinchilla)", "derived", "of its exponents, one at a time", points)


def sources():
    return [
        runs_source("gemstones", "gemstones"), runs_source("gadre", "gadre"), levine(), completep(), narang(),
        kaplan(coefficient("shape_penalty", "k").value), mobilellm(), chinchilla(),
    ]  # fmt: skip


@dataclass(frozen=True)
class Line:
    centre: float
    height: float
    slope: float
    variance: np.ndarray
    spread: tuple[float, float, float]
    """Standard deviations of heights and slopes between sources, and of points about the line of their source."""
    degrees: int

    def at(self, size):
        """ln of the best width of a source of which nothing is known yet, and its standard error."""
        x = np.array([1.0, math.log(size) - self.centre])
        height, slope, point = self.spread
        between = height**2 + (slope * x[1]) ** 2 + point**2
        return self.height + self.slope * x[1], math.sqrt(x @ self.variance @ x + between)

    def half_width(self, level, error):
        return stats.t.ppf((1 + level) / 2, self.degrees) * error


def solved(found, centre, spread):
    """Coefficients, their variance and minus the restricted ln likelihood at given spreads."""
    normal, right, value = np.zeros((2, 2)), np.zeros(2), 0.0
    blocks = []
    for one in found:
        design = np.stack([np.ones(len(one.size)), np.log(one.size) - centre], axis=1)
        variance = np.diag(one.stderr**2 + spread[2] ** 2) + design @ np.diag(np.square(spread[:2])) @ design.T
        inverse = np.linalg.inv(variance)
        normal += design.T @ inverse @ design
        right += design.T @ inverse @ one.log_width
        value += np.linalg.slogdet(variance)[1] / 2
        blocks.append((design, inverse, one.log_width))
    line = np.linalg.solve(normal, right)
    for design, inverse, seen in blocks:
        value += (seen - design @ line) @ inverse @ (seen - design @ line) / 2
    return line, np.linalg.inv(normal), value + np.linalg.slogdet(normal)[1] / 2


def combined(found):
    """The line, about the size at which the errors of its height and slope do not depend on each other."""
    centre = float(np.mean(np.concatenate([np.log(one.size) for one in found])))
    for _ in range(30):
        best = optimize.minimize(
            lambda logs, centre=centre: solved(found, centre, np.exp(logs))[2], np.log([0.1, 0.05, 0.05]),
            method="Nelder-Mead", bounds=[(-9, 1)] * 3, options={"xatol": 1e-4, "fatol": 1e-8, "maxiter": 2000},
        )  # fmt: skip
        spread = np.exp(best.x)
        line, variance, _ = solved(found, centre, spread)
        shift = -variance[0, 1] / variance[1, 1]
        if abs(shift) < 1e-3:
            break
        centre += shift
    return Line(centre, *line, variance, tuple(spread), len(found) - 2)


def calibration(found, lines=None):
    """Per source: distance of each cell from the line of the others, in its standard errors, and if it is in the bands."""
    for left in found:
        line = lines[left.name] if lines else combined([one for one in found if one is not left])
        for size, seen, own in zip(left.size, left.log_width, left.stderr, strict=True):
            value, error = line.at(size)
            error = math.hypot(error, own)  # a cell is seen with its own error
            inside = [abs(seen - value) <= line.half_width(level, error) for level in LEVELS]
            yield left, size, seen - value, error, inside


@functools.cache
def lines_without():
    """The line of the published sources without each of them, by its name."""
    found = sources()
    return {left.name: combined([one for one in found if one is not left]) for left in found}


@functools.cache
def published_calibration():
    return tuple(calibration(sources(), lines_without()))


def curvature(prefix):
    """Curvature of a set over ln width, and an upper limit of its error, from the cost that knows it best."""
    cells = list(judged_cells(prefix))
    return float(np.mean([one[5] for one in cells])), min(one[6] for one in cells)


def cost_without(name):
    """Mean and largest cost, on a set of runs, of the line of the other sources."""
    k = curvature(name)[0]
    costs = [math.expm1(k * off**2) for left, _, off, _, _ in published_calibration() if left.name == name]
    return float(np.mean(costs)), max(costs)


OURS = "random effects over eight sources, tests/combined_rule.py"


def rows():
    found = sources()
    line = combined(found)
    sizes = np.concatenate([one.size for one in found])
    pooled = "ln of the best width over ln N, eight sources"
    yield "N_0", math.exp(line.centre), None, "parameters", "measured", OURS, "size at which ln_width and slope are independent"
    yield "ln_width", line.height, math.sqrt(line.variance[0, 0]), "1", "measured", OURS, f"{pooled}: at N_0"
    yield "slope", line.slope, math.sqrt(line.variance[1, 1]), "1", "measured", OURS, f"{pooled}: slope"
    yield "height_spread", line.spread[0], None, "1", "measured", OURS, "standard deviation of ln_width between sources"
    yield "slope_spread", line.spread[1], None, "1", "measured", OURS, "standard deviation of slope between sources"
    yield (
        "point_spread",
        line.spread[2],
        None,
        "1",
        "measured",
        OURS,
        "standard deviation of ln width about the line of its source",
    )
    for name, at in (("height_error", 0), ("slope_error", 1)):
        yield (
            name,
            math.sqrt(line.variance[at, at]),
            None,
            "1",
            "measured",
            OURS,
            f"standard error of {('ln_width', 'slope')[at]}",
        )
    yield "degrees", line.degrees, None, "1", "measured", OURS, "degrees of freedom: sources less coefficients"
    for level in LEVELS:
        name = f"quantile_{100 * level:.0f}"
        yield name, line.half_width(level, 1.0), None, "1", "derived", OURS, f"half width of the {level:.0%} band, in errors"
    cells = published_calibration()
    yield "calibration_cells", len(cells), None, "1", "measured", OURS, "cells of sources left out, one source at a time"
    for at, level in enumerate(LEVELS):
        inside = sum(cell[4][at] for cell in cells)
        yield f"inside_{100 * level:.0f}", inside, None, "1", "measured", OURS, f"those inside the {level:.0%} band"
    from loss_bands import rows_of_losses  # which takes the sources of this file

    yield from rows_of_losses()
    pooled_k = coefficient("shape_penalty", "k")
    yield (
        "k_low",
        pooled_k.value,
        pooled_k.stderr,
        "1",
        "measured",
        pooled_k.source,
        "curvature of over-trained models; five extreme ones carry it",
    )
    k, error = curvature("gadre")
    yield "k_high", k, error, "1", "measured", "reference/rule_tournament.csv, Gadre grid", "curvature at 20 tokens a parameter"
    for name, value in (("non_embedding_min", sizes.min()), ("non_embedding_max", sizes.max())):
        yield name, value, None, "parameters", "measured", OURS, "range of the sources"


def as_text(value):
    return "" if value is None else f"{value:.6g}"


def table():
    for name, value, stderr, unit, status, where, note in rows():
        yield {
            "edition": "pooled", "name": name, "value": as_text(value), "stderr": as_text(stderr), "unit": unit,
            "status": status, "source": where, "note": note,
        }  # fmt: skip


def page_table():
    """The sources and the calibration, as docs/evidence.md shows them."""
    found = sources()
    cells = published_calibration()
    lines = [
        "| source | status | error | cells | off by | error of that | in 50 % | in 90 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        own = [cell for cell in cells if cell[0].name == one.name]
        off = ", ".join(f"{cell[2]:+.2f}" for cell in own)
        errors = f"{min(cell[3] for cell in own):.2f} to {max(cell[3] for cell in own):.2f}"
        inside = " | ".join(f"{sum(cell[4][at] for cell in own)}" for at in range(len(LEVELS)))
        lines.append(f"| {one.name} | {one.status} | {one.error} | {len(own)} | {off} | {errors} | {inside} |")
    shares = " | ".join(f"{sum(cell[4][at] for cell in cells)} of {len(cells)}" for at in range(len(LEVELS)))
    return "\n".join([*lines, f"| all | | | {len(cells)} | | | {shares} |"])


if __name__ == "__main__":
    sys.stdout.write(page_table() + "\n")
    for runs in ("gemstones", "gadre"):
        mean, largest = cost_without(runs)
        sys.stdout.write(f"fitted without {runs}, it loses {mean:.3%} there, at most {largest:.2%}\n")
    made = list(table())
    for row in made:
        sys.stdout.write(f"{row['name']:20} {row['value']:>12} {row['stderr']}\n")
    if "--write" in sys.argv:
        path = data_directory() / "coefficients" / "combined2026.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, made[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(made)
