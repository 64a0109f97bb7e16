"""From settings to results: the numbers of the page, and the commands that print the same numbers. It contains no HTML."""

from __future__ import annotations

import functools
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..analysis.description import LONGEST_DIAGNOSED
from ..analysis.diagnosis import Finding
from ..analysis.diagnosis.base import SEVERITIES
from ..analysis.diagnosis.judge import findings_of, network_of
from ..architecture import Transformer
from ..architecture.hf import write_config
from ..errors import InputError
from ..fitting.tournament import Score, published_scores
from ..planning.costs import Costs, costs
from ..planning.plan import Plan
from ..planning.plan import plan as make_plan
from ..planning.saving import family_of_preset
from .controls import Settings, controls

FILE = "model.json"
"""The configuration that the commands write and read."""
_PREPARED = (
    *(Settings(budget) for budget in ("7B", "1.2B", "3.5B", "14B", "35B", "75B", "210B")),
    *(Settings("6B", scheme=scheme) for scheme in ("xavier", "mup")),
    *(Settings("6B", context=context) for context in ("2048", "1024", "512", "256", "128")),
    *(Settings("6B", preset=preset) for preset in ("gpt3", "mixtral")),
    Settings("600M", preset="vit"),
)
"""Budgets from one power of two of the score variance to the next, then schemes, contexts and presets."""


class Evidence(NamedTuple):
    """The cost of the plan's rule on one public data set."""

    data: str
    nearest: Score
    """At the measured size, and tokens if those vary, that are nearest to the plan."""
    mean: Score
    """Over all sizes and tokens."""


@dataclass(frozen=True)
class Answer:
    """Everything but the stability: the plan of the settings, or one sentence for each setting that is refused."""

    settings: Settings
    errors: Mapping[str, str]
    """From the field of a setting to the sentence on it."""
    plan: Plan | None
    """None if a setting is refused."""

    @property
    def command(self) -> str:
        """The command line that prints the same shape, range, rules, costs and notes, or the same sentence."""
        return shlex.join(("depthwidth", *plan_arguments(self.settings), "--rules"))

    @functools.cached_property
    def costs(self) -> Costs | None:
        """Operations, memory of each device, cache and time to generate a token of the suggested shape."""
        return None if self.plan is None else costs(self.plan.tree, self.plan.budget)

    @functools.cached_property
    def evidence(self) -> tuple[Evidence, ...]:
        """The costs of the plan's rule on public runs; empty for a rule that none tests."""
        return () if self.plan is None else tuple(_evidence(self.plan))

    @property
    def evidence_command(self) -> str:
        """The command line that prints these costs."""
        return "depthwidth evidence --cells"


@dataclass(frozen=True)
class Stability:
    """The signal and the gradient along the depth at initialisation, or one sentence if they are not known."""

    error: str
    """Empty if they are known."""
    commands: tuple[str, ...]
    """Command lines that print the same numbers, to be run one after the other; none if nothing was planned."""
    unwritten: str = ""
    """The reason why no configuration holds this model, so that its command line is one of Python; mostly empty."""
    context: int = 0
    """Tokens of the sequence that is followed."""
    forward: tuple[float, ...] = ()
    """Second moment of the residual stream after each block."""
    gradient: tuple[float, ...] = ()
    """Second moment of the loss's gradient there."""
    findings: tuple[Finding, ...] = ()
    """Findings of the diagnosis, the most severe first."""

    @property
    def forward_growth(self) -> float:
        """Second moment after the last block over that after the first."""
        return self.forward[-1] / self.forward[0]

    @property
    def gradient_growth(self) -> float:
        """Second moment of the gradient after the first block over that after the last: above 1 it grows on its way back."""
        return self.gradient[0] / self.gradient[-1]


def answer(settings: Settings) -> Answer:
    """The plan of the settings; refusals have the sentences of the command line. All schemes share one."""
    found = _answer(replace(settings, scheme=""))
    return replace(found, settings=settings) if settings.scheme else found


@functools.lru_cache(maxsize=64)
def _answer(settings: Settings) -> Answer:
    options, errors = _options(settings)
    try:
        found = make_plan(settings.budget, kind=settings.kind, **options)
    except InputError as error:  # in addition to the sentences on other settings
        errors.setdefault(_field_of(str(error), settings), str(error))
    return Answer(settings, errors, None if errors else found)


@functools.lru_cache(maxsize=64)
def stability(settings: Settings) -> Stability:
    """The moments of the plan's tree under the chosen scheme, and the findings of the diagnosis."""
    planned = answer(settings).plan
    if planned is None:
        return Stability("there is no model, as a setting is refused", ())
    tree, scheme = planned.tree, settings.scheme or "shipped"
    context = min(tree.context, LONGEST_DIAGNOSED)
    batch = planned.budget.batch
    commands, unwritten = stability_commands(settings, planned, context)
    try:
        return Stability("", commands, unwritten, context, *_moments(tree, scheme, context, batch))
    except InputError as error:
        return Stability(str(error), commands, unwritten)


def prepare() -> None:
    """Compute integrals of the softmax that most settings share, by the stability of a few settings.

    They depend on the context, the head dimension, and the power of two above the score variance, which grows with the width.
    """
    for settings in _PREPARED:
        stability(settings)


@functools.lru_cache(maxsize=64)
def _moments(
    tree: Transformer, scheme: str, context: int, batch: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[Finding, ...]]:
    """Second moments of signal and gradient after each block, and findings: the same for all plans with this tree."""
    network = network_of(tree, scheme, batch=batch, context=context)
    findings = sorted(findings_of(network), key=lambda one: -SEVERITIES.index(one.severity))
    forward, gradient = (
        tuple(network.q(f"{tree.stack_name}.block.{layer}", direction) for layer in range(tree.stack.depth))
        for direction in ("forward", "gradient")
    )
    return forward, gradient, tuple(findings)


def plan_arguments(settings: Settings) -> tuple[str, ...]:
    """The arguments of the command line for these settings, without the initialisation scheme."""
    words = ["plan"]
    flags = {"non_embedding": "--non-embedding", "active": "--active"}
    if settings.kind in ("flops", "memory", "weights"):
        words += [f"--{settings.kind}", settings.budget]
    else:
        words += [settings.budget, *([flags[settings.kind]] if settings.kind in flags else [])]
    for control in controls():
        text = getattr(settings, control.name)
        if text and control.name not in ("budget", "kind", "scheme"):
            words += [control.option, text]
    return tuple(words)


def stability_commands(settings: Settings, planned: Plan, context: int) -> tuple[tuple[str, ...], str]:
    """The command lines that print the moments and the diagnosis, and the reason if no configuration holds the model."""
    scheme = settings.scheme or "shipped"
    try:
        write_config(planned.tree, family_of_preset(planned.architecture))
    except InputError as error:
        options = {"kind": settings.kind, **_options(settings)[0]}
        given = "".join(f", {name}={json.dumps(value)}" for name, value in options.items() if value is not None)
        source = (
            "from depthwidth import diagnose, plan, propagate; "
            f"tree, scheme = plan({json.dumps(settings.budget)}{given}).tree, {json.dumps(scheme)}; "
            f"print(propagate(tree, scheme, context={context}).to_csv()); "
            f'print(*diagnose(tree, scheme, context={context}, batch={planned.budget.batch}), sep="\\n")'
        )
        return (shlex.join(("python", "-c", source)),), str(error)
    save = ("depthwidth", *plan_arguments(settings), "--save", FILE)
    length = () if context == planned.tree.context else ("--context", str(context))
    batch = ("--batch", str(planned.budget.batch)) if planned.budget.batch > 1 else ()
    return (
        shlex.join(save),
        shlex.join(("depthwidth", "moments", FILE, "--scheme", scheme, *length)),
        shlex.join(("depthwidth", "describe", FILE, "--scheme", scheme, "--diagnosis", *length, *batch)),
    ), ""


def _options(settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments of :func:`~depthwidth.planning.plan.plan` besides the budget, and a sentence for each invalid one."""
    options, errors = {}, {}
    for control in controls():
        if control.name in ("budget", "kind", "scheme"):
            continue
        try:
            options[control.name] = control.value(getattr(settings, control.name))
        except InputError as error:
            errors[control.name] = str(error)
    return options, errors


def _field_of(sentence: str, settings: Settings) -> str:
    """The setting that a sentence names first, of those that are given; the budget if it names none.

    The word before a colon at its start is the function that refuses.
    """
    sentence = re.sub(r"^\w+: ", "", sentence)
    places: dict[str, int] = {}
    for control in controls():
        if not getattr(settings, control.name):
            continue
        for word in (control.name, control.name.replace("_", "-"), *control.words):
            found = re.search(rf"\b{word}\b", sentence)
            if found is not None:
                places[control.name] = min(found.start(), places.get(control.name, found.start()))
    return min(places, key=places.__getitem__, default="budget")


@functools.lru_cache(maxsize=1)
def _scores() -> tuple[Score, ...]:
    return tuple(score for score in published_scores() if not score.refitted)


def _evidence(planned: Plan) -> Iterator[Evidence]:
    """The cell of each data set nearest to the plan, and the mean over cells."""
    own = [score for score in _scores() if score.rule == planned.rule.name]
    size, tokens = math.log(planned.shape.trained_size), math.log(planned.tokens)
    for mean in (score for score in own if score.parameters is None):
        cells = [score for score in own if score.data == mean.data and score.parameters is not None]

        def distance(score: Score) -> tuple[float, float]:
            apart = 0.0 if score.tokens is None else abs(math.log(score.tokens) - tokens)
            return abs(math.log(score.parameters or 1.0) - size), apart

        if cells:
            yield Evidence(mean.data, min(cells, key=distance), mean)
