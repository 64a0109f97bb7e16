"""The committed table of the tournament, computed again: ``python tests/rule_tournament.py GEMSTONES TRAINING_RUNS [--write]``.

Without folders it prints the table of docs/evidence.md.

GEMSTONES is the folder with ``training_runs.jsonl`` of the Gemstones (github.com/mcleish7/gemstone-scaling-laws), TRAINING_RUNS
that with ``gemstones_extra`` (the same models on other texts and tasks) and ``gadre_grid`` (github.com/mlfoundations/scaling).
"""

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from depthwidth.coefficients import coefficients, data_directory
from depthwidth.fitting import fit, read_runs
from depthwidth.fitting.tournament import head_sizes, published_scores, tournament
from depthwidth.planning.rules import rules

TOKENS_A_STEP = 4_194_304
VOCABULARY = 50_304
OWN = ("gemstones2025", "measured2025")
JUDGED = [rule for rule in rules().values() if not rule.pooled]  # which is calibrated by tests/combined_rule.py


def rms(errors):
    return np.sqrt(np.mean(errors**2))


def tell(text):
    sys.stdout.write(text + "\n")


def tell_of(found):
    tell(f"{found.data}: {found.models} models, {found.rows} rows, k {found.curvature:.4f} +- {found.curvature_stderr:.4f}")
    tell(f"  residual {found.residual:.2%} {found.notes}")


def gemstones(folder):
    for line in (folder / "training_runs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield counted(row["width"], row["depth"], row["step"], row["final_loss"])


def counted(width, depth, step, loss):
    size = depth * (15 * width**2 + 2 * width) + width
    return {
        "model": f"{width}x{depth}", "width": width, "depth": depth, "non_embedding": size,
        "parameters": size + 2 * VOCABULARY * width, "tokens": step * TOKENS_A_STEP, "step": step, "loss": loss,
    }  # fmt: skip


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def step_of(checkpoint):
    """Step of a checkpoint; None for the last one, whose name does not say it."""
    return int(checkpoint.removeprefix("step_")) if checkpoint.startswith("step_") else None


def other_texts(folder):
    found = {}
    for row in rows_of(folder / "gemstones_extra" / "other_validation_losses.csv"):
        if step := step_of(row["checkpoint"]):
            one = counted(int(row["width"]), int(row["depth"]), step, float(row["loss"]))
            found.setdefault(row["valset"], []).append(one)
    return found


def downstream(folder, draws=1000):
    """Points of mean accuracy for a factor e of width at equal size and DCLM loss, and the standard error over shapes."""
    losses = {(row["width"], row["depth"], row["step"]): row["loss"] for row in other_texts(folder)["dclm"]}
    table = []
    for row in rows_of(folder / "gemstones_extra" / "downstream_accuracy.csv"):
        width, depth, step = int(row["width"]), int(row["depth"]), step_of(row["checkpoint"])
        if step and step * TOKENS_A_STEP >= 3e10 and (width, depth, step) in losses:
            accuracy = 100 * np.mean([float(v) for k, v in row.items() if k not in ("width", "depth", "checkpoint")])
            table.append((width, depth, losses[width, depth, step], accuracy))
    width, depth, loss, accuracy = np.array(table).T
    size = np.log(depth * 15 * width**2)
    lost = loss - loss.mean()
    design = np.stack([np.log(width), size - size.mean(), np.ones(len(loss)), lost, lost**2, lost**3], axis=1)
    _, shape = np.unique(width * 1000 + depth, return_inverse=True)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(draws):
        times = np.sqrt(np.bincount(rng.integers(0, shape.max() + 1, shape.max() + 1), minlength=shape.max() + 1)[shape])
        drawn.append(np.linalg.lstsq(design * times[:, None], accuracy * times, rcond=None)[0][0])
    return len(table), np.linalg.lstsq(design, accuracy, rcond=None)[0][0], np.std(drawn, ddof=1)


def additive(gemstones_folder, runs_folder):
    """Errors of the additive inverse-depth law on runs whose shapes vary: as published, and fitted anew."""
    late = ("tokens >= 4.9e10", "step % 4770 == 0")
    grid = runs_folder / "gadre_grid" / "grid435.csv"
    for rows, where, least in ((list(gemstones(gemstones_folder)), late, False), (grid, ("width >= 512", "loss < 4.7"), True)):
        found = fit(rows, "inverse-depth", where=where, least=least, errors="none")
        read = read_runs(rows, ("width", "depth", "tokens", "loss"), where=where, optional=())
        read = read.least("loss") if least else read
        law = {row.name: row.value for row in coefficients("liu2026")}
        powers = (("c_m", "alpha_m", "width"), ("c_l", "alpha_l", "depth"), ("c_D", "alpha_D", "tokens"))
        published = sum(law[factor] * read[column] ** -law[exponent] for factor, exponent, column in powers) + law["L_0"]
        free = published + np.mean(read["loss"] - published)
        shifted, errors = (np.log(one / read["loss"]) for one in (free, published))
        tell(f"inverse-depth law, {found.points} rows: as published {rms(errors):.2%}")
        tell(f"  with L_0 set anew {rms(shifted):.2%}, largest {np.abs(shifted).max():.2%}")
        tell(f"  refitted {found.residual_rms:.2%}, largest {found.residual_worst:.2%}")
        tell(f"  unseen models {found.held_out.one_model:.2%}, by a surface in the same columns {found.held_out.surface:.2%}")


def results(gemstones_folder, runs_folder):
    late = ("tokens >= 4.9e10", "step % 4770 == 0")
    texts = {"dolma": list(gemstones(gemstones_folder)), **other_texts(runs_folder)}
    for text, rows in texts.items():
        where = late if text != "fineweb" else late[:1]
        found = tournament(rows, name=f"gemstones/{text}", where=where, refit=OWN, candidates=JUDGED)
        tell_of(found)
        yield from found.scores
    grid = runs_folder / "gadre_grid" / "grid435.csv"
    good = {"where": ("width >= 512", "loss < 4.7"), "least": True, "name": "gadre"}
    found = tournament(grid, candidates=JUDGED, **good)
    tell_of(found)
    yield from found.scores
    yield from head_sizes(grid, **good)


def page_table():
    """The table of docs/evidence.md: mean costs by rule and data set."""
    means = [score for score in published_scores() if score.parameters is None and not score.rule.startswith("head")]
    sets = list(dict.fromkeys(score.data for score in means))
    lines = ["| rule | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets)]
    for rule, refitted in sorted({(score.rule, score.refitted) for score in means}):
        cells = {one.data: one for one in means if (one.rule, one.refitted) == (rule, refitted)}
        costs = (
            f"{100 * one.cost:.3f} ± {100 * one.stderr:.3f} ({one.inside:.0%})" if (one := cells.get(data)) else ""
            for data in sets
        )
        lines.append(f"| {rule}{', refitted' if refitted else ''} | " + " | ".join(costs) + " |")
    return "\n".join(lines)


def written(scores, path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = None
        for score in scores:
            row = {k: f"{v:.4g}" if isinstance(v, float) else "" if v is None else v for k, v in asdict(score).items()}
            if writer is None:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__" and len(sys.argv) == 1:
    tell(page_table())
elif __name__ == "__main__":
    folders = [Path(word) for word in sys.argv[1:3]]
    count, gain, error = downstream(folders[1])
    tell(f"downstream: {count} checkpoints, {gain:+.2f} +- {error:.2f} points of accuracy for a factor e of width")
    additive(*folders)
    scores = list(results(*folders))
    for score in scores:
        if score.parameters is None:
            again = " refitted" if score.refitted else ""
            tell(f"{score.data:21} {score.rule:18} {score.cost:.3%} +- {score.stderr:.3%} inside {score.inside:.2f}{again}")
    if "--write" in sys.argv:
        written(scores, data_directory() / "reference" / "rule_tournament.csv")
