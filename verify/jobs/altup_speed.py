"""The time that alternating updates add, compared with the prediction from operations and traffic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

from depthwidth.architecture import Transformer
from depthwidth.formulas import altup

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._timing import PASSES, ratio_of, seconds_of, times_in_turn

# layers, width, heads, vocab, context, batch, repetitions, values copied to measure the rate of memory
_SIZES: dict[str, tuple[int, int, int, int, int, int, int, int]] = {
    "tiny": (2, 32, 2, 64, 32, 2, 3, 1 << 16),
    "small": (4, 256, 4, 2048, 256, 4, 12, 1 << 24),
    "gpu": (12, 1024, 16, 32128, 512, 8, 30, 1 << 26),
    "full": (24, 2048, 32, 32128, 512, 16, 50, 1 << 26),
}
FORMS: dict[str, dict[str, Any]] = {
    "recycled, 2 streams": {"altup": 2, "altup_form": "recycled"},
    "recycled, 4 streams": {"altup": 4, "altup_form": "recycled"},
    "full, 2 streams": {"altup": 2},
    "full, 4 streams": {"altup": 4},
}
_BYTES = 4  # of a value in float32


def runs(size: str) -> Iterator[Run]:
    """One run for each form and number of streams, each with the dense model."""
    layers, width, heads, vocab, context, batch, repetitions, copied = _SIZES[size]
    dense = {
        "depth": layers, "width": width, "heads": heads, "vocab": vocab, "context": context, "positions": "rotary",
        "norm": "rmsnorm", "bias": False, "tied": False,
    }  # fmt: skip
    version = version_of("depthwidth.formulas.altup", "depthwidth.layers")
    for name, more in FORMS.items():
        spec: dict[str, Any] = {
            "dense": dense,
            "altup": dense | more,
            "batch": batch,
            "repetitions": repetitions,
            "copied": copied,
        }
        flops, every = flops_of(dense, spec), flops_of(spec["altup"], spec)
        low = float(altup.time_ratio(float(flops), float(every - flops), 0.0, 1.0, 1.0))
        predictions = tuple(Prediction("time_ratio", low, "altup.time_ratio", version, site) for site in PASSES)
        labels = {"form": name, "dense_flops": flops, "added_flops": every - flops, "traffic_bytes": traffic_of(spec)}
        yield Run(spec, 0, labels, predictions, cost=float(every * repetitions))


def flops_of(tree: Mapping[str, Any], spec: Mapping[str, Any]) -> int:
    """Operations of a forward pass of one batch."""
    made = Transformer(**tree)
    return int(made.flops(made.run(batch=spec["batch"])))


def traffic_of(spec: Mapping[str, Any]) -> float:
    """Bytes that prediction, innovation and correction read and write in a forward pass, as three kernels a block."""
    made = Transformer(**spec["altup"])
    per_token = altup.unfused_traffic(made.width, spec["altup"]["altup"])
    return float(_BYTES * per_token * made.depth * made.context * spec["batch"])


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Time both models in turn, so that a slow machine slows both; processor time on a CPU, elapsed time on a GPU.

    Measures ``time_ratio`` with its standard error over repetitions, ``flop_rate`` of the dense model, and ``byte_rate`` of a
    copy from memory to memory.
    """
    import torch

    from ..models.model import build

    names = ("dense", "altup")
    models = {name: build(Transformer(**spec[name]), "xavier", seed=context.seed).to(context.device) for name in names}
    shape = spec["batch"], spec["dense"]["context"]
    generator = torch.Generator().manual_seed(context.seed)
    tokens = torch.randint(spec["dense"]["vocab"], shape, generator=generator).to(context.device)

    def forward(model: Any) -> None:
        with torch.no_grad():
            model(tokens)

    def training(model: Any) -> None:
        model.zero_grad()
        model(tokens, tokens)[1].backward()

    for site, work in zip(PASSES, (forward, training), strict=True):
        works = {name: partial(work, model) for name, model in models.items()}
        times = times_in_turn(works, spec["repetitions"], context.device)
        ratio, error = ratio_of(times, "altup", "dense")
        yield Measurement("time_ratio", ratio, site, stderr=error)
        passes = 1 if site == "forward" else 3
        yield Measurement("flop_rate", passes * flops_of(spec["dense"], spec) / mean(times["dense"]), site)
    source, target = (torch.zeros(spec["copied"], device=context.device) for _ in range(2))
    copies = [seconds_of(lambda: target.copy_(source), context.device) for _ in range(6)][1:]
    yield Measurement("byte_rate", 2 * _BYTES * spec["copied"] / mean(copies))


def upper_end(labels: Mapping[str, Any], flop_rate: float, byte_rate: float) -> float:
    """The ratio if nothing hides the traffic. A training pass has three times the operations and traffic of a forward pass."""
    dense, added, traffic = (float(labels[name]) for name in ("dense_flops", "added_flops", "traffic_bytes"))
    return float(altup.time_ratio(dense, added, traffic, flop_rate, byte_rate))


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each ratio must lie between those of the operations and of operations and traffic, to two standard errors."""
    of_run: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        of_run.setdefault(row.run, {})[row.quantity, row.site] = row
    lines = []
    for found in of_run.values():
        for site in PASSES:
            ratio, rate, memory = found.get(("time_ratio", site)), found.get(("flop_rate", site)), found.get(("byte_rate", ""))
            if ratio is None or rate is None or memory is None or ratio.predicted is None or ratio.stderr is None:
                continue
            form = ratio.labels["form"]
            high = upper_end(ratio.labels, rate.value, memory.value)
            inside = ratio.predicted - 2 * ratio.stderr <= ratio.value <= high + 2 * ratio.stderr
            lines.append(Comparison(f"{form}, {site}: time over that of the dense model", ratio.predicted, ratio.value,
                                    ratio.stderr, inside, f"with traffic {high:.3f}",
                                    Limit(ratio.predicted, high, -2)))  # fmt: skip
    if not lines:
        return Verdict("undecided", "runs are missing")
    met = sum(bool(line.passes) for line in lines)
    worst = max(lines, key=lambda line: (line.measured or 0) - (line.predicted or 0))
    summary = (
        f"{met} of {len(lines)} ratios lie in the band; the largest is {worst.measured:.3f}: {worst.what.partition(':')[0]}"
    )
    return Verdict(outcome_of(met, len(lines) - met), summary, tuple(lines))


JOB = Job(
    name="altup-speed",
    question="How much time do alternating updates add, and do operations and memory traffic tell?",
    claim="The added time lies between that of the added operations and that of operations and unfused traffic together.",
    measured="Time of a model with AltUp over that of the dense model, forward and in training, timed in turn.",
    criterion="Every ratio lies in the band, to two standard errors.",
    runs=runs,
    measure=measure,
    judge=judge,
)
