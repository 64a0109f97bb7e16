"""Tree attention against a fused kernel of full attention: operations, time, and the length from which the tree is faster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from depthwidth.formulas.treeformer import break_even_length, leaf_attention_flops, random_imbalance

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of

LEAF = 64
"""Tokens of a balanced leaf; the height follows from the length."""
FACTOR = 2.0
"""Allowed factor between the measured and the predicted length of break-even."""
FLOPS_TOLERANCE = 0.05
OFTEN = 8192
"""Tokens below which a length is timed more often, since its time is short and the machine is shared."""
STEP_REPEATS = 16
"""Repetitions of a step, which is short, for one of a whole attention."""


class _Size(NamedTuple):
    lengths: tuple[int, ...]
    heads: int
    head_dim: int
    seeds: int
    repeats: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size((128, 512), 1, 16, 1, 1),
    "small": _Size((256, 512, 1024, 2048, 4096, 8192, 16384), 2, 64, 3, 2),
    "gpu": _Size((512, 1024, 2048, 4096, 8192, 16384, 32768, 65536), 8, 64, 3, 3),
    "full": _Size((512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072), 12, 64, 5, 5),
}


def height_of(length: int) -> int:
    """Levels of a tree whose balanced leaf holds :data:`LEAF` tokens."""
    return max(1, round(math.log2(length / LEAF)))


def runs(size: str) -> Iterator[Run]:
    """One run for each length and seed, and one for each seed that times single steps."""
    made, version = _SIZES[size], version_of("depthwidth.formulas.treeformer")
    common = {"heads": made.heads, "head_dim": made.head_dim, "repeats": made.repeats, "dtype": "float32"}
    for seed in range(made.seeds):
        # Steps are timed at lengths of their own, two and eight leaves, from which the break-even of the table is predicted.
        steps = {**common, "repeats": STEP_REPEATS * made.repeats, "lengths": [2 * LEAF, 8 * LEAF], "steps": True}
        yield Run(steps, seed, {"part": "steps"}, cost=1e3)
        for length in made.lengths:
            height = height_of(length)
            # Vectors around zero: their cosines have the variance 1/head_dim.
            spread = float(random_imbalance(height, 0.0)) + height * (height - 1) * 2 / math.pi**2 / made.head_dim
            flops = float(leaf_attention_flops(length, height, made.heads * made.head_dim, spread + 2**height / length))
            predicted = (Prediction("leaf_flops", flops, "treeformer.leaf_attention_flops", version),)
            labels = {"part": "length", "length": length, "height": height}
            often = {**common, "repeats": made.repeats * max(1, OFTEN // length)}
            yield Run({**often, "length": length, "steps": False}, seed, labels, predicted, cost=length**2 / 1e3)


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Times of one length, or of single steps."""
    from ..measure.tree_timing import attention_times, step_times

    sizes = {"heads": spec["heads"], "head_dim": spec["head_dim"]}
    options = {"seed": context.seed, "repeats": spec["repeats"], "device": context.device}
    if spec["steps"]:
        found: Any = step_times(tuple(spec["lengths"]), **sizes, leaf=LEAF, **options)
    else:
        found = attention_times(spec["length"], **sizes, height=height_of(spec["length"]), **options)
    for name, value in found._asdict().items():
        unit = "" if name in ("leaf_flops", "imbalance") else "_seconds"
        yield Measurement(f"{name}{unit}", float(value))


def predicted_break_even(steps: Mapping[str, float], reads: str) -> float:
    """The length at which the times of steps add up to that of full attention, with leaves of :data:`LEAF` tokens.

    A token of TF-attention takes two decisions a level and its share in the leaf's attention, sorting included; in TC-attention
    it takes two decisions and one sum a level. Kernels are started for each of them, whatever the length.
    """
    length = 1024.0
    for _ in range(100):
        height = max(1.0, math.log2(length / LEAF))
        token, start = (2 * height * steps[f"level_{part}"] for part in ("seconds", "start_seconds"))
        if reads == "leaf":
            token += steps["leaf_token_seconds"]
            start += steps["leaf_start_seconds"]
        else:
            token += (height + 1) * steps["node_token_seconds"]
            start += (height + 1) * steps["node_start_seconds"]
        length = float(break_even_length(steps["pair_seconds"], token, start))
    return length


def measured_break_even(times: Mapping[int, tuple[float, float]]) -> float:
    """The length at which full attention and a tree take the same time, between lengths by powers of the length.

    `times` are seconds of both by length. Infinite if the tree is never faster, 0 if it always is.
    """
    lengths = sorted(times)
    ahead = [math.log(times[n][0] / times[n][1]) for n in lengths]
    if ahead[0] >= 0:
        return 0.0
    for i in range(1, len(lengths)):
        if ahead[i] >= 0:
            share = -ahead[i - 1] / (ahead[i] - ahead[i - 1])
            return float(math.exp(math.log(lengths[i - 1]) + share * math.log(lengths[i] / lengths[i - 1])))
    return math.inf


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Operations at each length, the gain at the longest, and the length of break-even."""
    steps: dict[str, list[float]] = {}
    found: dict[int, dict[str, list[Row]]] = {}
    for row in rows:
        if row.labels.get("part") == "steps":
            steps.setdefault(row.quantity, []).append(row.value)
        elif row.labels.get("part") == "length":
            found.setdefault(int(row.labels["length"]), {}).setdefault(row.quantity, []).append(row)
    names = ("full_seconds", "leaf_seconds", "path_seconds", "leaf_flops")
    if not steps or not found or any(name not in its for its in found.values() for name in names):
        return Verdict("undecided", "runs are missing")
    lines: list[Comparison] = []
    for length, its in sorted(found.items()):
        flops = mean(row.value for row in its["leaf_flops"])
        expected = mean(row.expected for row in its["leaf_flops"])
        limit = Limit.around(expected, FLOPS_TOLERANCE * expected)
        passes = abs(flops / expected - 1) <= FLOPS_TOLERANCE
        lines.append(Comparison(f"{length:,} tokens: operations of TF-attention", expected, flops, None, passes, limit=limit))
    unit, longest = {name: mean(values) for name, values in steps.items()}, max(found)
    words = []
    for reads, name in (("leaf", "TF"), ("path", "TC")):
        times = {n: (_mean(its["full_seconds"]), _mean(its[f"{reads}_seconds"])) for n, its in found.items()}
        gains = [a.value / b.value for a, b in _pairs(found[longest], reads)]
        gain, error = mean(gains), stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
        lines.append(
            Comparison(f"{longest:,} tokens: full attention over {name}, time", None, gain, error, gain > 1, limit=Limit(low=1))
        )
        even, measured = predicted_break_even(unit, reads), measured_break_even(times)
        within = measured / FACTOR <= even <= FACTOR * measured
        if math.isinf(measured):
            within = even > longest / FACTOR
        elif not measured:  # the tree is faster at every length
            within = even <= FACTOR * min(found)
        near = Limit(even / FACTOR, even * FACTOR) if 0 < measured < math.inf else None
        lines.append(Comparison(f"length of break-even of {name}, tokens", even, measured, None, within, limit=near))
        words.append(f"{name} {gain:.1f} times as fast at {longest:,} tokens, even at {measured:,.0f} (predicted {even:,.0f})")
    judged = [line.passes for line in lines if line.passes is not None]
    return Verdict(outcome_of(sum(judged), len(judged) - sum(judged)), "; ".join(words), tuple(lines))


def _mean(rows: Sequence[Row]) -> float:
    return mean(row.value for row in rows)


def _pairs(its: Mapping[str, Sequence[Row]], reads: str) -> Iterator[tuple[Row, Row]]:
    other = {row.seed: row for row in its[f"{reads}_seconds"]}
    return ((row, other[row.seed]) for row in its["full_seconds"] if row.seed in other)


JOB = Job(
    name="treeformer-cost",
    question="From what length is tree attention faster than a fused kernel of full attention, and is that predicted?",
    claim="Operations follow the formulas at the imbalance of random trees; times of single steps add up to the break-even.",
    measured="Operations by torch's counter, and times of one thread, of full attention and of both trees over the length.",
    criterion=f"Operations of TF-attention within {100 * FLOPS_TOLERANCE:g} % of the formula at every length; both trees "
    f"faster at the longest; measured and predicted break-even within a factor of {FACTOR:g}.",
    runs=runs,
    measure=measure,
    judge=judge,
)
