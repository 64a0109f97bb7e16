"""Final losses after rescaled initialisations and losses: the scale-invariant encoder with its recipe, and an ordinary one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from depthwidth.architecture.design import SCALE_INVARIANT
from depthwidth.formulas.scale_invariance import angle_per_step, effective_learning_rate, equilibrium_norm, relaxed_norm

from ..rows import Row
from . import (
    BELOW_ZERO,
    Comparison,
    Context,
    Job,
    Limit,
    Measurement,
    Prediction,
    Run,
    Verdict,
    difference_error,
    outcome_of,
    version_of,
)
from ._training import check_decisions, decisions_of, model_of, recipe_of, training_flops, training_of

if TYPE_CHECKING:
    import torch

INVARIANT, SGD, ADAM = "scale invariant", "ordinary, SGD", "ordinary, AdamW"
BODY = ("stem.", "encoder.")
"""The weights that are rescaled, and that are scale invariant in the encoder of that name."""
STARTS, LOSSES = (0.01, 0.1, 1.0, 10.0, 100.0), (0.1, 10.0)
COOLDOWN = 0.3
"""Share of the updates over which the learning rate falls to zero; before, it is constant."""
HIDDEN = 0.3
"""Share of the tokens that are hidden."""
LEARNT = 0.25
"""Least share of what can be learnt, from the frequencies of tokens to the best loss of all runs, for a comparison to count."""


class Sizes(NamedTuple):
    """Shape and length of the runs of one size."""

    layers: int
    width: int
    heads: int
    context: int
    vocab: int
    steps: int
    batch: int
    seeds: int


_SIZES: dict[str, Sizes] = {
    "tiny": Sizes(1, 16, 2, 8, 8, 20, 4, 1),
    "small": Sizes(1, 24, 2, 8, 8, 700, 64, 3),
    "gpu": Sizes(2, 64, 4, 16, 16, 8000, 128, 3),
    "full": Sizes(12, 768, 12, 512, 4096, 200_000, 64, 5),
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    INVARIANT: {
        "optimizer": "scale-invariant", "learning_rate": 0.14, "weight_decay": 0.014, "relative_clip": 4.0, "clip": None,
    },
    SGD: {"optimizer": "sgd", "learning_rate": 0.3, "momentum": 0.9, "weight_decay": 0.0},
    ADAM: {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.01},
}  # fmt: skip
"""Settings of each arm, chosen at the usual initialisation and loss; the ordinary arms clip the gradient's norm at 1."""
HEAD_RATE = 5e-3
"""Learning rate of the head of the scale-invariant encoder, by AdamW."""


Setting = tuple[float, float]
"""A factor on the initial weights of the body, and one on the loss."""


def settings() -> Iterator[Setting]:
    """Factors on the initial weights of the body, and on the loss."""
    yield from ((start, 1.0) for start in STARTS)
    yield from ((1.0, loss) for loss in LOSSES)


def absorbed(
    start: float, loss: float, steps: int, made: Mapping[str, Any] = OPTIMIZERS[INVARIANT], cooldown: float = COOLDOWN
) -> bool:
    """True if a run forgets these factors by the law: eta lambda, summed over its steps, is at least |ln c|.

    By Lemma 2.4 the two act as one factor c on the initial weights, ``start/sqrt(loss)``.
    """
    total: float = made["learning_rate"] * made["weight_decay"] * steps * (1 - cooldown / 2)
    return abs(math.log(start / math.sqrt(loss))) <= total


def runs(size: str) -> Iterator[Run]:
    """Each arm at each setting with each seed."""
    made = _SIZES[size]
    corpus = {"tokens": 200_000 if size != "tiny" else 4000, "vocab": made.vocab, "strength": 3.0}
    yield from runs_of(made, corpus, {arm: (optimizer, tuple(settings())) for arm, optimizer in OPTIMIZERS.items()}, COOLDOWN)


def runs_of(
    made: Sizes, corpus: Mapping[str, Any], arms: Mapping[str, tuple[Mapping[str, Any], Sequence[Setting]]], cooldown: float
) -> Iterator[Run]:
    """Each arm with its optimizer at each of its settings, with each seed."""
    sizes = {"depth": made.layers, "width": made.width, "heads": made.heads, "ffn": 2 * made.width, "vocab": made.vocab + 1,
             "context": made.context, "head": "masked-lm"}  # fmt: skip
    for arm, (optimizer, varied) in arms.items():
        tree = {**sizes, **(dict(SCALE_INVARIANT) if arm == INVARIANT else {"kind": "encoder", "tied": False})}
        training = {"steps": made.steps, "batch": made.batch, "context": made.context, "schedule": "wsd", "cooldown": cooldown,
                    "final": 0.0, "evaluate_batches": 32, "diverged_above": 1e4, **optimizer}  # fmt: skip
        for start, loss in varied:
            spec: dict[str, Any] = {
                "arm": arm, "start": start, "loss_factor": loss, "tree": tree, "scheme": "normal", "options": {},
                "corpus": dict(corpus), "training": training, "dtype": "float32",
            }  # fmt: skip
            spec["decided"] = decisions_of(spec)
            labels = {
                "arm": arm,
                "start": start,
                "loss_factor": loss,
                "absorbed": absorbed(start, loss, made.steps, arms[INVARIANT][0], cooldown),
            }
            for seed in range(made.seeds):
                yield Run(spec, seed, labels, cost=training_flops(spec))


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """The validation loss of hidden tokens; of scale-invariant weights also the norm, the gradient and the angle of a step."""
    import torch

    from ..models.initialize import parameter_groups
    from ..training.corpus import zipf_markov
    from ..training.masking import masked_loss
    from ..training.scale_invariant import scale_invariant_groups
    from ..training.train import train

    check_decisions(spec)
    corpus, plan, model = zipf_markov(**spec["corpus"]), training_of(spec, context), model_of(spec, context)
    body = [weight for name, weight in model.named_parameters() if name.startswith(BODY)]
    with torch.no_grad():
        for weight in body:
            if weight.dim() > 1:  # not gains of one and biases of zero
                weight.mul_(spec["start"])
    if spec["arm"] == INVARIANT:
        groups = scale_invariant_groups(model, plan, BODY, HEAD_RATE, 0.0)
    else:
        groups = parameter_groups(model, recipe_of(spec), plan.learning_rate, plan.weight_decay, tree=model.tree)
    watch = _Watch(body, range(*_watched(plan.steps, plan.cooldown)), plan.weight_decay)
    plain, factor = masked_loss(spec["corpus"]["vocab"], HIDDEN), spec["loss_factor"]
    outcome = train(
        model, corpus, plan, folder=context.folder / "training", groups=groups, device=context.device,
        loss=lambda one, inputs, targets: factor * plain(one, inputs, targets),
        probes=(watch,) if spec["arm"] == INVARIANT else (), progress=False, checkpoint_every=plan.steps,
    )  # fmt: skip
    _, loss, error = outcome.evaluations[-1] if outcome.status == "finished" else (0, math.inf, math.inf)
    yield Measurement("loss", loss / factor, stderr=error / factor if math.isfinite(error) else None)
    yield Measurement("unigram_loss", _entropy(corpus.train))
    if spec["arm"] == INVARIANT:
        yield from watch.measurements()


def _watched(steps: int, cooldown: float) -> tuple[int, int]:
    """The updates in which norms are averaged: the last third of those at the full learning rate."""
    stable = steps - round(cooldown * steps)
    return stable - stable // 3, stable


def _entropy(tokens: torch.Tensor) -> float:
    """Mean loss in nats of a model that knows only the frequency of each token."""
    shares = tokens.long().bincount().double() / tokens.numel()
    return float(-(shares * shares.clamp(min=1e-300).log()).sum())


class _Watch:
    """A probe of the updates of some weights, all together: norm, gradient at norm 1 as applied, and angle of the step.

    Beside the norm it keeps the one that the law gives step by step, from the first norm and all gradients before.
    """

    def __init__(self, weights: Sequence[torch.nn.Parameter], steps: range, decay: float) -> None:
        self.weights, self.steps, self.decay = weights, steps, decay
        self.rows: list[tuple[float, float, float, float]] = []
        self.told: float | None = None

    def __call__(self, model: Any, step: int, optimizer: Any) -> contextlib.AbstractContextManager[None] | None:
        rate = float(optimizer.param_groups[0]["lr"])
        return self._update(step in self.steps, rate) if step < self.steps.stop else None

    @contextlib.contextmanager
    def _update(self, kept: bool, rate: float) -> Iterator[None]:
        import torch

        def joined(tensors: Any) -> torch.Tensor:
            return torch.cat([one.detach().double().flatten() for one in tensors])

        before = joined(self.weights)
        yield
        after, gradient = joined(self.weights), joined(weight.grad for weight in self.weights)
        size = before.norm()
        told = float(size) if self.told is None else self.told
        sigma = float(gradient.norm() * size)
        if kept:
            sine = (after - before * (after @ before) / size**2).norm() / after.norm()
            self.rows.append((float(size), sigma, math.asin(min(1.0, float(sine))), told))
        self.told = float(relaxed_norm(rate, self.decay, sigma, told, 1)) if rate and sigma else told

    def measurements(self) -> Iterator[Measurement]:
        """The norm by the mean of its fourth power, the others as root mean squares."""
        if not self.rows:
            return
        norms, gradients, angles, told = zip(*self.rows, strict=True)
        yield Measurement("norm", mean(norm**4 for norm in norms) ** 0.25)
        yield Measurement("relaxed_norm", mean(norm**4 for norm in told) ** 0.25)
        yield Measurement("gradient", mean(one**2 for one in gradients) ** 0.5)
        yield Measurement("angle", mean(one**2 for one in angles) ** 0.5)


def predict(size: str) -> Iterator[Prediction]:
    """The angle of a step, which nothing but the two settings decides; norms follow from measured gradients in the verdict."""
    eta, decay = OPTIMIZERS[INVARIANT]["learning_rate"], OPTIMIZERS[INVARIANT]["weight_decay"]
    yield Prediction(
        "angle",
        angle_per_step(eta, decay),
        "scale_invariance.angle_per_step",
        version_of("depthwidth.formulas.scale_invariance"),
    )


MOST = 0.05
"""Largest relative error of the predicted norm and effective learning rate."""


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Spread of the final loss over settings that a run forgets, and norms and learning rates against the law."""
    found: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if row.quantity not in ("loss", "unigram_loss") and float(row.labels["loss_factor"]) == 1:
            found.setdefault((row.quantity, float(row.labels["start"])), []).append(row.value)
    return judge_spread(rows, dict.fromkeys(OPTIMIZERS, tuple(settings())), _laws(found, predictions))


def judge_spread(rows: Sequence[Row], wanted: Mapping[str, Sequence[Setting]], further: Iterable[Comparison] = ()) -> Verdict:
    """Spread of the final loss over settings that a run forgets, and `further` comparisons.

    `wanted` has the settings of each arm.
    """
    losses: dict[str, dict[Setting, list[float]]] = {}
    unigram, forgotten = [], set()
    for row in rows:
        arm, setting = row.labels["arm"], (float(row.labels["start"]), float(row.labels["loss_factor"]))
        if row.labels["absorbed"]:
            forgotten.add(setting)
        if row.quantity == "loss":
            losses.setdefault(arm, {}).setdefault(setting, []).append(row.value)
        elif row.quantity == "unigram_loss":
            unigram.append(row.value)
    if any(setting not in losses.get(arm, {}) for arm, its in wanted.items() for setting in its) or not unigram:
        return Verdict("undecided", "runs are missing")
    if min(len(values) for its in losses.values() for values in its.values()) < 2:
        return Verdict("undecided", "one seed does not show the noise")
    best = min(mean(values) for its in losses.values() for values in its.values())
    learnt = {arm: (unigram[0] - mean(its[_USUAL])) / (unigram[0] - best) for arm, its in losses.items()}
    lines = [_spread(kind, arm, losses, learnt, forgotten) for kind, arm in _JUDGED]
    lines += further
    judged = [one.passes for one in lines if one.passes is not None]
    lines += [
        Comparison(f"{arm}: loss at start {start:g}, loss factor {loss:g}", None, mean(values), _error(values))
        for arm, its in losses.items() for (start, loss), values in its.items()
    ]  # fmt: skip
    outcome = outcome_of(sum(judged), len(judged) - sum(judged), sum(one.passes is None for one in lines[: len(_JUDGED)]))
    return Verdict(outcome, "; ".join(f"{one.what}: {one.note}" for one in lines[: len(_JUDGED)]), tuple(lines))


_USUAL = (1.0, 1.0)
_JUDGED = (("start", SGD), ("start", ADAM), ("loss", SGD))
"""The varied quantity, and the ordinary arm that must spread more. AdamW leaves a factor on the loss out by itself."""


def _spread(
    kind: str,
    arm: str,
    losses: Mapping[str, Mapping[tuple[float, float], list[float]]],
    learnt: Mapping[str, float],
    forgotten: set[tuple[float, float]],
) -> Comparison:
    """Spread of the scale-invariant encoder's mean loss over settings less that of an ordinary one."""
    place = 0 if kind == "start" else 1
    varied = sorted(one for one in losses[arm] if one[1 - place] == 1)
    what = f"spread over the factors on the {kind}, less that of {arm}"
    kept = [one for one in varied if one in forgotten]
    own, own_noise = _range(losses[INVARIANT], kept or varied)
    other, noise = _range(losses[arm], kept or varied)
    gap, error = own - other, math.hypot(own_noise, noise)
    words = f"{own:.3f} and {other:.3f}" if math.isfinite(gap) else "a run diverged"
    if len(kept) < 2:
        own, other = (_range(losses[one], varied)[0] for one in (INVARIANT, arm))
        words = f"untested, as the law asks for more steps to forget any; over all {own:.3f} and {other:.3f}"
        return Comparison(what, None, own - other if math.isfinite(own - other) else None, None, None, words)
    if min(learnt[INVARIANT], learnt[arm]) < LEARNT:
        return Comparison(what, None, gap, error, None, f"untested, as one learnt too little; {words}")
    span = ", ".join(f"{one[place]:g}" for one in sorted(kept))
    return Comparison(what, None, gap, error, gap < -2 * error, f"{words} over {span}", BELOW_ZERO)


def _range(its: Mapping[tuple[float, float], list[float]], kept: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Largest less smallest mean loss over some settings, and its standard error."""
    ordered = sorted((its[one] for one in kept), key=mean)
    spread = mean(ordered[-1]) - mean(ordered[0])
    return spread, difference_error(ordered[-1], ordered[0]) if math.isfinite(spread) else math.inf


def _laws(found: Mapping[tuple[str, float], list[float]], predictions: Sequence[Prediction]) -> Iterator[Comparison]:
    """Norm, effective learning rate and angle against the law, at the size of the gradients that was measured."""
    eta, decay = OPTIMIZERS[INVARIANT]["learning_rate"], OPTIMIZERS[INVARIANT]["weight_decay"]
    for start in STARTS:
        norms, sizes = found.get(("norm", start), []), found.get(("gradient", start), [])
        if not norms or not all(map(math.isfinite, (*norms, *sizes))):
            continue
        size, norm = mean(sizes), mean(norms)
        for what, told, value in (
            ("norm", equilibrium_norm(eta, decay, size), norm),
            ("effective learning rate", effective_learning_rate(eta, decay, size), eta / norm**2),
        ):
            passes = abs(value / told - 1) < MOST if start == 1 else None
            limit = Limit.around(told, MOST * told) if start == 1 else None
            yield Comparison(f"{what} from start {start:g}", told, value, None, passes, limit=limit)
        if told := found.get(("relaxed_norm", start)):
            note = "added after the first verdict, and not judged"
            yield Comparison(f"norm from start {start:g}, by all gradients before", mean(told), norm, None, None, note)
        angle = next(iter(predictions)).value
        yield Comparison(f"angle per step from start {start:g}", angle, mean(found["angle", start]))


def _error(values: Sequence[float]) -> float | None:
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return difference_error(values, values) / math.sqrt(2)


JOB = Job(
    name="scale-invariance",
    question="Does a scale-invariant encoder train as well from any scale of its weights and of the loss?",
    claim="Its loss does not depend on them, unlike that of an ordinary encoder; norm and learning rate come to an equilibrium "
    "(SIBERT: Li et al. 2022, arXiv 2202.00980).",
    measured="Validation loss of hidden tokens of a Markov chain after initial weights times 0.01 to 100, and the loss "
    "times 0.1 and 10; the norm, the gradient and the angle per step of scale-invariant weights, and the norm that the law "
    "gives step by step from all gradients before.",
    criterion="Over the factors on the start, and over those on the loss, that a run forgets by the law (eta lambda, summed "
    "over its steps, is at least |ln c|), the loss of the scale-invariant encoder spreads less than that of the ordinary "
    "one by more than two standard errors over seeds: over starts than with SGD and with AdamW, over losses than with SGD. "
    "At the usual setting norm and effective learning rate are within 5 % of the law at the measured gradients. Untested "
    "where a run forgets no factor, or an encoder has learnt less than a quarter of what the best run has.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
)
