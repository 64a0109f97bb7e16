"""Score biases by position that layers or heads share, against tables of their own, at equal parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from ..rows import Row, canonical
from . import ABOVE_ZERO, Comparison, Ensemble, Job, Limit, Prediction, Run, Verdict, difference_error, outcome_of, version_of
from ._heads import BYTES
from ._training import data_spec, training_flops
from .diet_positions import MARGIN, RATES, arm, measure, measure_together, spec_of

# width, heads, updates, seeds
_SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (16, 2, 8, 1),
    "small": (32, 4, 500, 3),
    "gpu": (128, 4, 5000, 3),
    "full": (512, 8, 50_000, 5),
}
SHARED: Mapping[str, Mapping[str, bool]] = {
    "none": {"shared_layers": False},
    "layers": {"shared_layers": True},
    "heads": {"shared_layers": False, "shared_heads": True},
}
SCHEMES = ("diet-rel", "diet-abs")


def runs(size: str) -> Iterator[Run]:
    """Each scheme and sharing with each seed: hidden bytes of text, tables at the higher rate."""
    width, heads, steps, seeds = _SIZES[size]
    data = data_spec(BYTES[size])
    for scheme in SCHEMES:
        for shared, options in SHARED.items():
            positions = {"scheme": scheme, **options} | ({"rank": width // heads} if scheme == "diet-abs" else {})
            spec = spec_of("bytes", arm("bytes", positions, width, heads), RATES[-1], steps, data)
            for seed in range(seeds):
                yield Run(spec, seed, {"positions": scheme, "shared": shared}, cost=training_flops(spec))


def predict(size: str) -> Iterator[Prediction]:
    """The sign of a difference: the loss of tables that heads share less that of tables of their own is above 0."""
    for scheme in SCHEMES:
        yield Prediction(
            "loss_difference", 0.0, "Chen et al. 2021, Table 5", version_of("depthwidth.formulas.positions"), scheme
        )


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """The paper's three rules of sharing, each against the noise over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.quantity == "loss":
            found.setdefault((row.labels["positions"], row.labels["shared"]), []).append(row.value)
    if any((scheme, shared) not in found for scheme in SCHEMES for shared in SHARED):
        return Verdict("undecided", "runs are missing")
    if not all(math.isfinite(loss) for losses in found.values() for loss in losses):
        return Verdict("undecided", "a run diverged")
    if min(map(len, found.values())) < 2:
        return Verdict("undecided", "one seed does not show the noise")

    def line(scheme: str, shared: str, claim: str) -> Comparison:
        one, other = found[scheme, shared], found[scheme, "none"]
        gap, noise = mean(one) - mean(other), difference_error(one, other)
        # Worse beyond the noise; or not worse, or not better, beyond the noise and a margin.
        limit = {
            "worse": ABOVE_ZERO,
            "no worse": Limit(high=max(2 * noise, MARGIN), tolerance=MARGIN),
            "no better": Limit(low=-max(2 * noise, MARGIN), tolerance=MARGIN),
        }[claim]
        what = f"{scheme}: loss with tables that {shared} share less that without, {claim} by the paper"
        return Comparison(what, None, gap, noise, limit.is_met(gap, noise), f"{mean(one):.4f}, {mean(other):.4f}", limit)

    lines = [
        line("diet-rel", "heads", "worse"),
        line("diet-abs", "heads", "worse"),
        line("diet-abs", "layers", "no worse"),
        line("diet-rel", "layers", "no better"),
    ]
    met = sum(bool(one.passes) for one in lines)
    summary = f"{met} of the paper's 4 rules are seen: " + ", ".join(
        f"{one.measured:+.3f} +- {one.stderr:.3f}" for one in lines
    )
    return Verdict(outcome_of(met, len(lines) - met), summary, tuple(lines))


JOB = Job(
    name="diet-sharing",
    question="Which score biases by position may layers or heads share?",
    claim="Never share across heads; share products of tables across layers, and not biases of differences (Chen et al. 2021, "
    "Table 5).",
    measured="Held-out loss of hidden bytes of encoders of equal parameters, with tables of every layer and head, of every "
    "head, and of every layer; tables learn at 15 times the common rate.",
    criterion="Shared across heads, each scheme is worse by more than two standard errors over seeds; shared across layers, "
    "DIET-ABS is not worse and DIET-REL not better by more than that and 0.02 nats.",
    runs=runs,
    measure=measure,
    judge=judge,
    ensemble=Ensemble(canonical, measure_together),
    predict=predict,
    uses=("depthwidth.initialization.position_rates",),
)
