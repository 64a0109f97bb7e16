"""Schemes of positions at equal parameters: on tasks for which the position matters, and on one for which it does not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from depthwidth.initialization import Recipe
from depthwidth.initialization.position_rates import with_position_rate

from ..rows import Row, canonical
from . import (
    BELOW_ZERO,
    Comparison,
    Context,
    Ensemble,
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
from ._heads import BYTES
from ._training import check_decisions, data_spec, decisions_of, planned_text, recipe_of, training_flops, training_of, tree_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.corpus import Corpus
    from ..training.train import Outcome

_TOKENS, _SYMBOLS = 32, 16
_SHIFT, _HIDDEN = 3, 6


class _Size(NamedTuple):
    width: int
    heads: int
    steps: Mapping[str, int]
    """updates, by task"""
    seeds: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size(16, 2, {"bytes": 8, "count": 8, "shift": 8, "permutation": 8}, 1),
    "small": _Size(32, 4, {"bytes": 500, "count": 600, "shift": 250, "permutation": 250}, 3),
    "gpu": _Size(128, 4, {"bytes": 5000, "count": 1000, "shift": 1000, "permutation": 1000}, 3),
    "full": _Size(512, 8, {"bytes": 50_000, "count": 5000, "shift": 5000, "permutation": 5000}, 5),
}
_LAYERS = 2
SCHEMES = ("none", "input", "shaw", "t5", "tupe", "diet-rel", "diet-abs", "rotary", "alibi")
WITHOUT_TABLES = ("none", "rotary", "alibi")
PROBED = ("none", "input", "diet-rel", "diet-abs")
"""The schemes on the two synthetic tasks."""
RATES = (1, 15)
"""Factors on the learning rate of tables of positions."""
SOLVED, UNSOLVED, MARGIN = 0.1, 1.0, 0.02
"""Losses below which a synthetic task counts as learnt and above which as not, and the least gain that counts; nats."""


def arm(task: str, positions: str | Mapping[str, Any], width: int, heads: int) -> dict[str, Any]:
    """The tree of a scheme: an encoder with as many hidden features as give it the parameters of input-additive positions."""
    tree: dict[str, Any] = {
        "depth": _LAYERS, "width": width, "heads": heads, "ffn": 4 * width, "context": _TOKENS, "kind": "encoder",
        "vocab": 257 if task == "bytes" else _SYMBOLS, "positions": positions, "head": "masked-lm",
    }  # fmt: skip

    def parameters(**changed: Any) -> int:
        return tree_of({"tree": tree | changed}).parameters

    each = parameters(ffn=4 * width + 1) - parameters()
    return tree | {"ffn": 4 * width + round((parameters(positions="input") - parameters()) / each)}


def spec_of(task: str, tree: Mapping[str, Any], rate: int, steps: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """The description of one training."""
    spec: dict[str, Any] = {
        "task": task, "tree": tree, "scheme": "xavier", "options": {}, "rate": rate, "data": data, "dtype": "float32",
        "training": {
            "steps": steps, "batch": 32, "context": _TOKENS, "learning_rate": 2e-3, "warmup": steps // 10,
            "evaluate_batches": 16, "precision": "float32",
        },
    }  # fmt: skip
    return spec | {"decided": decisions_of(spec)}


def runs(size: str) -> Iterator[Run]:
    """Each scheme with each seed, on text at both rates; the two tasks of one answer each with four schemes."""
    made = _SIZES[size]
    text = data_spec(BYTES[size])
    for task, steps in made.steps.items():
        data = text if task == "bytes" else {"symbols": _SYMBOLS, "tokens": 200_000, "seed": 0}
        for positions in SCHEMES if task in ("bytes", "count") else PROBED:
            rates = RATES[:1] if positions in WITHOUT_TABLES else RATES if task == "bytes" else RATES[1:]
            for rate in rates:
                for seed in range(made.seeds):
                    spec = spec_of(task, arm(task, positions, made.width, made.heads), rate, steps, data)
                    labels = {"task": task, "positions": positions, "rate": rate}
                    yield Run(spec, seed, labels, cost=training_flops(spec))


# The tasks: tokens that the model reads, and its targets, from windows of the corpus.


def masked(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Every sixth byte is hidden, from a place that depends on the window; the targets are the hidden bytes."""
    import torch

    from ..models.model import IGNORED

    place = torch.arange(tokens.shape[1], device=tokens.device)
    hidden = (place + tokens.sum(1, keepdim=True)) % _HIDDEN == 0
    return tokens.masked_fill(hidden, 256), tokens.masked_fill(~hidden, IGNORED)


def counted(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The target of a token is how often its symbol stands elsewhere in the window: its order does not matter."""
    found = (tokens[:, :, None] == tokens[:, None]).sum(-1) - 1
    return tokens, found.clamp(max=_SYMBOLS - 1)


def shifted(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The target is the token a few places before, around the ends."""
    return tokens, tokens.roll(_SHIFT, 1)


def permuted(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The target is the token at another place, by one fixed random permutation."""
    import torch

    order = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(0)).to(tokens.device)
    return tokens, tokens[:, order]


TASKS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "bytes": masked,
    "count": counted,
    "shift": shifted,
    "permutation": permuted,
}


def corpus_of(spec: Mapping[str, Any]) -> Corpus:
    """The text, or random symbols."""
    if spec["task"] == "bytes":
        return planned_text(spec["data"])
    return _symbols(**spec["data"])


@functools.cache
def _symbols(symbols: int, tokens: int, seed: int) -> Corpus:
    import torch

    from ..training.corpus import Corpus

    drawn = torch.randint(symbols, (tokens,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    cut = tokens - tokens // 10
    return Corpus(drawn[:cut], drawn[cut:], symbols, {"kind": "random symbols", "seed": seed})


def recipe_with_rate(spec: Mapping[str, Any]) -> Recipe:
    """The recipe of a run, with the rate of its tables."""
    return with_position_rate(recipe_of(spec), spec["rate"])


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train the model of a run on its task: its loss on held-out windows, in nats per target."""
    from ..models.model import build
    from ..training.train import train

    check_decisions(spec)
    made, tree, plan = recipe_with_rate(spec), tree_of(spec), training_of(spec, context)
    outcome = train(
        build(tree, made, seed=context.seed), corpus_of(spec), plan, folder=context.folder / "training", recipe=made, tree=tree,
        device=context.device, progress=False, loss=loss_of(spec),
    )  # fmt: skip
    yield from _found(outcome)


def measure_together(
    specs: Sequence[Mapping[str, Any]], contexts: Sequence[Context], folder: Path
) -> Iterator[tuple[Measurement, ...]]:
    """The measurements of :func:`measure` for the seeds of one spec, trained in one program."""
    from ..models.initialize import parameter_groups
    from ..models.model import build
    from ..training.ensemble import train_ensemble

    spec = specs[0]
    check_decisions(spec)
    made, tree = recipe_with_rate(spec), tree_of(spec)
    plans = [training_of(spec, context) for context in contexts]
    models = [build(tree, made, seed=context.seed) for context in contexts]
    rates = [
        parameter_groups(model, made, plan.learning_rate, plan.weight_decay, tree=tree)
        for model, plan in zip(models, plans, strict=True)
    ]
    outcomes = train_ensemble(
        models, corpus_of(spec), plans, mode="batched", folder=folder, groups=rates, device=contexts[0].device,
        loss=loss_of(spec),
    )  # fmt: skip
    for outcome in outcomes:
        yield tuple(_found(outcome))


def loss_of(spec: Mapping[str, Any]) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """The loss of a model on windows of the corpus."""
    task = TASKS[spec["task"]]

    def loss(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = model(*task(inputs))[1]
        return found

    return loss


def _found(outcome: Outcome) -> Iterator[Measurement]:
    diverged = outcome.status == "diverged"
    final = outcome.evaluations[-1] if outcome.evaluations and not diverged else (0, math.inf, math.inf)
    yield Measurement("loss", final[1], stderr=final[2] if math.isfinite(final[2]) else None)
    yield Measurement("diverged", float(diverged))


def predict(size: str) -> Iterator[Prediction]:
    """The sign of a difference: on text the loss of each of DIET's schemes less that of input-additive positions is below 0."""
    yield Prediction("loss_difference", 0.0, "positions.decoupled_rank", version_of("depthwidth.formulas.positions"), "bytes")


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Three parts: text, counting, and the two synthetic tasks."""
    every: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        if row.quantity == "loss":
            place = row.labels["task"], row.labels["positions"], int(row.labels["rate"])
            every.setdefault(place, []).append(row.value)
    wanted = {(task, name) for task in TASKS for name in (SCHEMES if task in ("bytes", "count") else PROBED)}
    if wanted - {place[:2] for place in every}:
        return Verdict("undecided", "runs are missing")
    if not all(math.isfinite(loss) for losses in every.values() for loss in losses):
        return Verdict("undecided", "a run diverged")
    if any(len(losses) < 2 for losses in every.values()):
        return Verdict("undecided", "one seed does not show the noise")
    best = {place: min((k for k in every if k[:2] == place), key=lambda k: mean(every[k])) for place in wanted}
    lines = [*_of_text(every, best), *_of_counts(every, best), *_of_symbols(every, best)]
    passing = [line.passes for line in lines if line.passes is not None]
    first, second = lines[:2]
    summary = (
        f"on text DIET-REL is {first.measured:+.3f} +- {first.stderr:.3f} and DIET-ABS {second.measured:+.3f} +- "
        f"{second.stderr:.3f} nats from positions at the input; {sum(passing)} of {len(passing)} comparisons as claimed"
    )
    return Verdict(outcome_of(sum(passing), len(passing) - sum(passing)), summary, tuple(lines))


_Losses = Mapping[tuple[str, str, int], Sequence[float]]
_Best = Mapping[tuple[str, str], tuple[str, str, int]]


def _of_text(every: _Losses, best: _Best) -> Iterator[Comparison]:
    base = every[best["bytes", "input"]]
    others = [name for name in SCHEMES if name not in ("input", "diet-rel", "diet-abs")]
    for name in ("diet-rel", "diet-abs", *others):
        place = best["bytes", name]
        gain, noise = mean(every[place]) - mean(base), difference_error(every[place], base)
        passes = gain < -2 * noise if name.startswith("diet") else None
        note = f"{mean(every[place]):.4f} at {place[2]} times the rate, input {mean(base):.4f} at {best['bytes', 'input'][2]}"
        yield Comparison(
            f"text: loss of {name} less that of input", None, gain, noise, passes, note, None if passes is None else BELOW_ZERO
        )


def _of_counts(every: _Losses, best: _Best) -> Iterator[Comparison]:
    base = every[best["count", "none"]]
    for name in SCHEMES[1:]:
        place = best["count", name]
        gain, noise = mean(every[place]) - mean(base), difference_error(every[place], base)
        limit = Limit(low=-max(2 * noise, MARGIN), tolerance=MARGIN)
        yield Comparison(
            f"counting: loss of {name} less that of none", None, gain, noise, gain > limit.ends(None)[0], limit=limit
        )


def _of_symbols(every: _Losses, best: _Best) -> Iterator[Comparison]:
    for task in ("shift", "permutation"):
        for name in PROBED:
            losses = every[best[task, name]]
            found, noise = mean(losses), stdev(losses) / math.sqrt(len(losses))
            limit = None
            if name.startswith("diet"):
                limit = Limit(low=UNSOLVED) if (task, name) == ("permutation", "diet-rel") else Limit(high=SOLVED)
            passes = None if limit is None else limit.is_met(found, noise)
            yield Comparison(f"{task}: loss of {name}", None, found, noise, passes, limit=limit)


JOB = Job(
    name="diet-positions",
    question="Do positions in the head do better than positions at the input, at equal parameters?",
    claim="Score biases by position give lower losses than positions added to the embedding; a bias of differences expresses "
    "shifts alone, a product of two tables any map of positions (Chen et al. 2021, arXiv 2104.08698).",
    measured="Held-out loss of encoders of equal parameters: hidden bytes of text, counting symbols, a shift, a permutation; "
    "tables of positions learn at the common rate or at 15 times it, and the better counts.",
    criterion="On text DIET-REL and DIET-ABS are each below input-additive positions by more than two standard errors over "
    "seeds; on counting no scheme is below none by more than two standard errors and 0.02 nats; DIET-REL learns the shift "
    "(below 0.1 nats) and not the permutation (above 1), and DIET-ABS learns both.",
    runs=runs,
    measure=measure,
    judge=judge,
    ensemble=Ensemble(canonical, measure_together),
    predict=predict,
    uses=("depthwidth.initialization.position_rates",),
)
