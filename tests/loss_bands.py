"""Bands of the loss penalty, each source left out in turn: ``python tests/loss_bands.py [--write]``.

A source of losses is a set of shapes at equal size and tokens of which each lost so much above the best one there. The best
width comes from the line of the other sources (tests/combined_rule.py), the curvature from those of the others that have one:
ln k of each source is its mean plus an error plus a spread between sources, whose likelihood is at its restricted maximum. A
cell is inside a band if its loss, which is seen with an error of its own, lies between the quantiles of k x^2 plus that error.
"""

import csv
import functools
import math
import sys
from dataclasses import dataclass

import numpy as np
from combined_rule import (
    BLOCKS_OF_ENCODER_AND_DECODER,
    LEVELS,
    STEP_OF_RATIOS,
    judged_cells,
    lines_without,
    published_calibration,
)
from scipy import optimize

from depthwidth.coefficients import coefficient, data_directory, reference
from depthwidth.fitting import read_runs
from depthwidth.fitting.tournament import Surface
from depthwidth.formulas import rules as laws

WITHIN = 0.01
"""Loss above the best one at CompleteP's lowest ratios."""
DRAWS = 20_000
COUNTS = ("50B", "100B", "200B", "300B")


@dataclass(frozen=True)
class Curvature:
    """k of one source, by its logarithm."""

    name: str
    log_k: float
    stderr: float


@dataclass(frozen=True)
class Cell:
    """A shape of one source: its relative loss above the best one of its size, with errors."""

    name: str
    size: float
    log_width: float
    width_error: float
    lost: float
    noise: float


# Sources of curvature.


def of_runs(name, k, error):
    return Curvature(name, math.log(k), error / k)


def gadre_curvature():
    cells = list(judged_cells("gadre"))
    return of_runs("gadre", float(np.mean([one[5] for one in cells])), min(one[6] for one in cells))


def narang_bend():
    """Parabola of ln loss over ln depth, and its covariance; at equal size ln depth is -2 ln width."""
    rows = reference("t5_depth_sweep_narang2021")
    depth, loss = (np.array([float(row[name]) for row in rows]) for name in ("depth", "final_loss"))
    bend, covariance = np.polyfit(np.log(depth), np.log(loss), 2, cov=True)
    return rows, depth, np.log(loss), bend, covariance


def completep_offsets():
    """Size, best ln width, that of the lowest ratio within 1 %, and the error of their difference."""
    for row in reference("completep_optimal_aspect"):
        size, best, low = (
            float(row[name]) for name in ("nonembedding_params", "completep_best_ratio", "completep_lowest_ratio_within_1pct")
        )
        widths = [math.log(laws.constant_aspect_width(size, ratio)) for ratio in (best, low)]
        yield size, *widths, math.sqrt(2) * math.log(STEP_OF_RATIOS) / 3


def curvatures():
    """Each source that has one; the cells of CompleteP share their sweep, so that their mean is no better than one of them."""
    pooled = coefficient("shape_penalty", "k")
    _, _, _, bend, covariance = narang_bend()
    ratios = [
        (math.log(WITHIN) - 2 * math.log(best - low), 2 * error / (best - low)) for _, best, low, error in completep_offsets()
    ]
    return [
        of_runs("gemstones", pooled.value, pooled.stderr), gadre_curvature(),
        Curvature("narang2021", math.log(4 * bend[0]), math.sqrt(covariance[0, 0]) / bend[0]),
        Curvature("completep2025", *(float(np.mean(column)) for column in zip(*ratios, strict=True))),
    ]  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """The curvature of a source of which nothing is known yet: Student's, about ln k."""

    log_k: float
    error: float
    spread: float
    degrees: int


def pooled(found):
    """Mean of ln k with the spread between sources at the restricted maximum of likelihood."""
    seen, own = np.array([(one.log_k, one.stderr) for one in found]).T

    def at(spread):
        weight = 1 / (own**2 + spread**2)
        mean = weight @ seen / weight.sum()
        return mean, weight, (weight @ (seen - mean) ** 2 - np.log(weight).sum() + math.log(weight.sum())) / 2

    spread = float(optimize.minimize_scalar(lambda one: at(one)[2], bounds=(0, 3), method="bounded").x)
    mean, weight, _ = at(spread)
    return Pool(float(mean), math.sqrt(1 / weight.sum() + spread**2), spread, len(found) - 1)


# Measured losses.


def runs_cells(name, rows):
    """The models of a set: ln loss above that of the best width of the set's own quadratic surface, mean over token counts."""
    read = read_runs(rows, ("width", "depth", "non_embedding", "loss"), optional=("parameters", "tokens"))
    surface = Surface.of(read)
    fitted = surface.design @ surface.fitted
    found = {}
    for row, (log_width, *at) in enumerate(surface.logs.T):
        off = log_width - float(surface.best(surface.fitted, np.array(at)))
        lost = surface.target[row] - fitted[row] + surface.fitted[surface.bend] * off**2
        place = (math.exp(at[0] + surface.centres[1]), log_width + surface.centres[0])
        found.setdefault(int(surface.model[row]), []).append((*place, lost))
    for cells in found.values():
        size, log_width, lost = np.mean(cells, axis=0)
        yield Cell(name, float(size), float(log_width), 0.0, math.expm1(lost), surface.residual)


def gemstones_rows():
    for row in reference("gemstones_models_loss"):
        for count in COUNTS:
            yield {
                "model": f"{row['width']} x {row['depth']}", "width": row["width"], "depth": row["depth"],
                "non_embedding": row["nonembedding_params"], "parameters": row["total_params"],
                "tokens": float(count.removesuffix("B")) * 1e9, "loss": row[f"loss_nats_{count}_tokens"],
            }  # fmt: skip


def gadre_rows():
    for row in reference("gadre_shapes_loss"):
        yield {
            "width": row["width"], "depth": row["depth"], "non_embedding": row["nonembedding_params"],
            "parameters": row["total_params"], "tokens": row["tokens"], "loss": row["loss_nats"],
        }  # fmt: skip


def narang_cells():
    """As in its source of widths, one or two blocks a layer: the width of a plain block of equal size."""
    rows, depth, loss, bend, _ = narang_bend()
    best = np.polyval(bend, -bend[1] / (2 * bend[0]))
    noise = math.sqrt(np.sum((loss - np.polyval(bend, np.log(depth))) ** 2) / (len(rows) - 3))
    size = float(rows[0]["total_params"])
    for layers, seen in zip(depth, loss, strict=True):
        low, high = sorted(0.5 * math.log(size / (12 * layers * blocks)) for blocks in (1, BLOCKS_OF_ENCODER_AND_DECODER))
        yield Cell("narang2021", size, (low + high) / 2, (high - low) / 2, math.expm1(seen - best), noise)


def completep_cells():
    for size, _, low, error in completep_offsets():
        yield Cell("completep2025", size, low, error, WITHIN, 0.0)


def cells():
    return [
        *runs_cells("gemstones", list(gemstones_rows())), *runs_cells("gadre", list(gadre_rows())), *narang_cells(),
        *completep_cells(),
    ]  # fmt: skip


# Bands.


def band(cell, line, pool, level):
    """Quantiles of the loss that a source left out may show for a cell, by draws."""
    rng = np.random.default_rng(0)
    k = np.exp(pool.log_k + pool.error * rng.standard_t(pool.degrees, DRAWS))
    value, error = line.at(cell.size)
    off = cell.log_width - value + error * rng.standard_t(line.degrees, DRAWS) + cell.width_error * rng.standard_normal(DRAWS)
    return np.quantile(k * off**2 + cell.noise * rng.standard_normal(DRAWS), ((1 - level) / 2, (1 + level) / 2))


@functools.cache
def calibration():
    """Per cell: the curvature of the sources but its own, its bands by them, and if its loss is inside of each."""
    found, every = [], cells()
    for name in KINDS:
        line, pool = lines_without()[name], pooled([one for one in curvatures() if one.name != name])
        for cell in every:
            if cell.name == name:
                bands = [band(cell, line, pool, level) for level in LEVELS]
                found.append((cell, pool, bands, [low <= cell.lost <= high for low, high in bands]))
    return tuple(found)


# Coefficients and pages.

OURS = "random effects over four sources of curvature, tests/loss_bands.py"


def rows_of_losses():
    """The coefficients of combined2026 that the bands of a loss need, and how often they held."""
    pool = pooled(curvatures())
    about = "curvature of the loss in ln width"
    yield "ln_k", pool.log_k, None, "1", "measured", OURS, f"ln of the {about}, mean over sources"
    yield "k_error", pool.error, None, "1", "measured", OURS, "standard error of ln k of one more source"
    yield "k_spread", pool.spread, None, "1", "measured", OURS, "standard deviation of ln k between sources"
    yield "k_degrees", pool.degrees, None, "1", "measured", OURS, "degrees of freedom: sources of curvature less one"
    found = calibration()
    yield "loss_cells", len(found), None, "1", "measured", OURS, "measured losses of sources left out, one source at a time"
    for at, level in enumerate(LEVELS):
        inside = sum(cell[-1][at] for cell in found)
        yield f"loss_inside_{100 * level:.0f}", inside, None, "1", "measured", OURS, f"those inside the {level:.0%} band"


KINDS = {
    "gemstones": "22 models, mean over 50B to 300B tokens, Dolma", "gadre": "25 shapes from width 512, best recipe",
    "narang2021": "T5 at 223M parameters", "completep2025": "lowest ratios within 1 %, read as 1 %",
}  # fmt: skip


def page_table():
    """The calibration of losses, as docs/evidence.md shows it."""
    found, own = calibration(), {one.name: one for one in curvatures()}
    lines = [
        "| source | k | k of the others | cells | lost | in 50 % | in 90 % | |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, about in KINDS.items():
        some = [one for one in found if one[0].name == name]
        k, error, pool = math.exp(own[name].log_k), own[name].stderr, some[0][1]
        lost = [cell.lost for cell, *_ in some]
        inside = " | ".join(f"{sum(one[-1][at] for one in some)}" for at in range(len(LEVELS)))
        others = f"{math.exp(pool.log_k):.3f}, factor {math.exp(pool.error):.1f}"
        range_lost = f"{min(lost):+.1%} to {max(lost):+.1%}"
        lines.append(f"| {name} | {k:.3f} ± {k * error:.3f} | {others} | {len(some)} | {range_lost} | {inside} | {about} |")
    shares = " | ".join(f"{sum(one[-1][at] for one in found)} of {len(found)}" for at in range(len(LEVELS)))
    return "\n".join([*lines, f"| all | | | {len(found)} | | {shares} | |"])


def telling(found):
    """The cells of which the middle of what the other sources expect is more than the noise of the cell."""
    return [one for one in found if sum(one[2][0]) / 2 > max(one[0].noise, 1e-9)]


def calibration_rows():
    """Rows of data/reference/combined_calibration.csv: best widths, then losses."""
    for left, size, off, error, inside in published_calibration():
        line = lines_without()[left.name]
        seen = left.log_width[np.argmin(np.abs(left.size - size))]
        ends = [[math.exp(seen - off + way * line.half_width(level, error)) for way in (-1, 1)] for level in LEVELS]
        yield written("width", left.name, left.status, size, "", math.exp(seen), ends, inside)
    for cell, _, bands, inside in calibration():
        status = "secondary" if cell.name in ("narang2021", "completep2025") else "measured"
        yield written("loss", cell.name, status, cell.size, f"{math.exp(cell.log_width):.6g}", cell.lost, bands, inside)


def written(what, source, status, size, width, value, bands, inside):
    row = {"quantity": what, "source": source, "parameters": f"{size:.6g}", "width": width, "value": f"{value:.4g}"}
    for level, (low, high), held in zip(LEVELS, bands, inside, strict=True):
        name = f"{100 * level:.0f}"
        row |= {f"low_{name}": f"{low:.4g}", f"high_{name}": f"{high:.4g}", f"inside_{name}": int(held)}
    return {**row, "status": status}


if __name__ == "__main__":
    sys.stdout.write(page_table() + "\n")
    some = telling(calibration())
    counts = " and ".join(str(sum(one[-1][at] for one in some)) for at in range(len(LEVELS)))
    sys.stdout.write(f"of {len(some)} cells above their noise {counts} are inside\n")
    if "--write" in sys.argv:
        made = list(calibration_rows())
        with (data_directory() / "reference" / "combined_calibration.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, made[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(made)
