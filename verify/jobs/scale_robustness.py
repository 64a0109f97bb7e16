"""Final losses after rescaled starts and losses, in runs so long that the law says they forget both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from depthwidth.formulas.scale_invariance import angle_per_step

from ..rows import Row
from . import Job, Prediction, Run, Verdict, version_of
from .scale_invariance import ADAM, INVARIANT, OPTIMIZERS, Setting, Sizes, judge_spread, measure, runs_of

_SIZES: dict[str, Sizes] = {
    "tiny": Sizes(1, 16, 2, 4, 8, 20, 4, 1),
    "small": Sizes(1, 24, 2, 4, 8, 1600, 64, 3),
    "gpu": Sizes(2, 64, 4, 8, 16, 8000, 128, 3),
    "full": Sizes(12, 768, 12, 512, 4096, 200_000, 64, 5),
}
COOLDOWN = 0.4
"""Share of the updates over which the learning rate falls to zero; those before are enough to forget a factor of 100."""
STRENGTH = 8.0
"""Strength of the Markov chain: with it the neighbours of a hidden token tell most of it."""
_STARTS: tuple[Setting, ...] = ((0.01, 1.0), (1.0, 1.0), (100.0, 1.0))
_LOSSES: tuple[Setting, ...] = ((1.0, 0.1), (1.0, 10.0))
SETTINGS: dict[str, tuple[Setting, ...]] = {arm: _STARTS if arm == ADAM else (*_STARTS, *_LOSSES) for arm in OPTIMIZERS}
"""Factors on the start and on the loss, of each arm. AdamW leaves one on the loss out by itself, and has starts alone."""
_INVARIANT = OPTIMIZERS[INVARIANT] | {"weight_decay": 0.035}


def runs(size: str) -> Iterator[Run]:
    """Each arm at each of its settings with each seed."""
    made = _SIZES[size]
    corpus: dict[str, Any] = {"tokens": 200_000 if size != "tiny" else 4000, "vocab": made.vocab, "strength": STRENGTH}
    arms = {arm: (_INVARIANT if arm == INVARIANT else optimizer, SETTINGS[arm]) for arm, optimizer in OPTIMIZERS.items()}
    yield from runs_of(made, corpus, arms, COOLDOWN)


def predict(size: str) -> Iterator[Prediction]:
    """The angle of a step, which nothing but the two settings decides."""
    angle = angle_per_step(_INVARIANT["learning_rate"], _INVARIANT["weight_decay"])
    yield Prediction("angle", angle, "scale_invariance.angle_per_step", version_of("depthwidth.formulas.scale_invariance"))


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Spread of the final loss over settings that a run forgets."""
    return judge_spread(rows, SETTINGS)


JOB = Job(
    name="scale-robustness",
    question="Does the loss of a scale-invariant encoder depend on the scale of its start and of the loss, once a run is long "
    "enough to forget both?",
    claim="Its loss does not depend on them, unlike that of an ordinary encoder (SIBERT: Li et al. 2022, arXiv 2202.00980).",
    measured="Validation loss of hidden tokens of a Markov chain after initial weights times 0.01, 1 and 100, and the loss "
    "times 0.1 and 10, in windows of four tokens, of which even equal attention to all tells something. Before the learning "
    "rate begins to fall, a factor of 100 is forgotten by the law. Learning rates are those of scale-invariance; chain, window "
    "and decay were chosen at the usual start and loss alone, by runs of seed 0.",
    criterion="Over the factors on the start, and over those on the loss, the loss of the scale-invariant encoder spreads less "
    "than that of the ordinary one by more than two standard errors over seeds: over starts than with SGD and with AdamW, over "
    "losses than with SGD. Untested where a run forgets no factor by the law, or an encoder has learnt less than a quarter of "
    "what the best run has.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
)
