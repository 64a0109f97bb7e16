"""Masked-language modelling with full attention, TF- and TC-attention, with and without bootstrapping."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from ..rows import Row
from . import (
    BELOW_ZERO,
    Comparison,
    Context,
    Job,
    Measurement,
    Prediction,
    Run,
    Verdict,
    difference_error,
    outcome_of,
    version_of,
)
from ._training import check_decisions, decisions_of, recipe_of, training_flops, training_of

if TYPE_CHECKING:
    from ..training.corpus import Corpus

ARMS = ("full", "TF", "TF bootstrapped", "TC", "TC bootstrapped")
FIXED, WINDOW = " fixed tree", "local window"
CONTROLS = (f"TF{FIXED}", f"TC{FIXED}", WINDOW)
"""Trees whose hyperplanes stay as they were drawn, and a window of as many keys as a balanced leaf holds, with the own key."""
UNTIL = 0.5
"""Share of the updates after which a bootstrapped model has its whole trees."""


class _Size(NamedTuple):
    layers: int
    width: int
    heads: int
    context: int
    height: int
    vocab: int
    steps: int
    batch: int
    seeds: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size(2, 16, 2, 16, 2, 12, 12, 4, 1),
    "small": _Size(2, 32, 2, 32, 3, 32, 600, 32, 3),
    "gpu": _Size(4, 128, 4, 256, 4, 256, 4000, 32, 3),
    "full": _Size(12, 768, 12, 1024, 5, 4096, 100_000, 64, 5),
}


def runs(size: str) -> Iterator[Run]:
    """One training for each arm and seed, all with as many updates."""
    from ..training.bootstrap import Bootstrap

    made = _SIZES[size]
    corpus = {"tokens": max(400_000 if size != "tiny" else 4000, 64 * made.context), "vocab": made.vocab, "strength": 3.0}
    for arm in (*ARMS, *CONTROLS):
        tree: dict[str, Any] = {
            "depth": made.layers, "width": made.width, "heads": made.heads, "ffn": 2 * made.width, "vocab": made.vocab + 1,
            "context": made.context, "kind": "encoder", "head": "masked-lm",
        }  # fmt: skip
        if arm == WINDOW:  # so many keys on each side, the own one included
            tree["window"] = made.context // 2 ** (made.height + 1) + 1
        elif arm != "full":
            tree["tree"] = {"height": made.height, "reads": "leaf" if arm.startswith("TF") else "path"}
        training = {
            "steps": made.steps, "batch": made.batch, "context": made.context, "learning_rate": 1e-2,
            "warmup": made.steps // 20, "evaluate_batches": 16,
        }  # fmt: skip
        stages = Bootstrap.two_way(made.height, made.layers, made.steps, UNTIL).to_dict() if "bootstrapped" in arm else None
        spec: dict[str, Any] = {
            "tree": tree, "scheme": "xavier", "options": {}, "corpus": corpus, "training": training, "stages": stages,
            "dtype": "float32", "changes": _STILL if arm.endswith(FIXED) else {},
        }  # fmt: skip
        spec["decided"] = decisions_of(spec)
        for seed in range(made.seeds):
            yield Run(spec, seed, {"arm": arm, "height": made.height, "length": made.context}, cost=training_flops(spec))


_STILL = {f"encoder.block.attention.{name}": {"learning_rate": 0.0, "weight_decay": 0.0} for name in ("planes", "thresholds")}


@functools.cache
def _corpus(tokens: int, vocab: int, strength: float) -> Corpus:
    from ..training.corpus import zipf_markov

    return zipf_markov(tokens, vocab=vocab, strength=strength)


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """The validation loss of hidden tokens, and for each layer the leaves of validation text."""
    import torch

    from ..models.tree_attention import take_census
    from ..training.bootstrap import Bootstrap
    from ..training.masking import masked_loss
    from ..training.train import train
    from ._training import model_of

    check_decisions(spec)
    corpus, plan = _corpus(**spec["corpus"]), training_of(spec, context)
    model, given = model_of(spec, context), spec["stages"]
    stages = None if given is None else Bootstrap.from_dict(given)
    outcome = train(
        model, corpus, plan, folder=context.folder / "training", recipe=recipe_of(spec), tree=model.tree, device=context.device,
        loss=masked_loss(spec["corpus"]["vocab"]), stages=stages, progress=False,
    )  # fmt: skip
    _, loss, error = outcome.evaluations[-1] if outcome.status == "finished" else (0, math.inf, math.inf)
    yield Measurement("loss", loss, stderr=error if math.isfinite(error) else None)
    model.eval()
    windows = [inputs for inputs, _ in corpus.validation_batches(1, 32, plan.context)]
    for layer, census in enumerate(take_census(model, torch.cat(windows).to(context.device))):
        for name, value in census._asdict().items():
            yield Measurement(name, value, f"layer.{layer}")


def predict(size: str) -> Iterator[Prediction]:
    """The sign of a difference: bootstrapping makes the loss of each tree smaller."""
    version = version_of("depthwidth.formulas.treeformer")
    for reads in ("TF", "TC"):
        yield Prediction("loss_difference", 0.0, "Madaan et al. 2023, recalled", version, reads)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """For each tree the losses with bootstrapping and with learned hyperplanes less those without, over the noise of seeds."""
    losses: dict[str, list[float]] = {}
    pairs: dict[str, list[float]] = {}
    for row in rows:
        if row.quantity == "loss":
            losses.setdefault(row.labels["arm"], []).append(row.value)
        elif row.quantity == "imbalance":
            pairs.setdefault(row.labels["arm"], []).append(row.value)
    if any(arm not in losses for arm in ARMS):
        return Verdict("undecided", "runs are missing")
    if not all(math.isfinite(loss) for its in losses.values() for loss in its):
        return Verdict("undecided", "a run diverged")
    if min(map(len, losses.values())) < 2:
        return Verdict("undecided", "one seed does not show the noise")

    def line(one: str, other: str, what: str, judged: bool, note: str = "") -> Comparison:
        gap, noise = mean(losses[one]) - mean(losses[other]), difference_error(losses[one], losses[other])
        return Comparison(what, None, gap, noise, gap < -2 * noise if judged else None, note, BELOW_ZERO if judged else None)

    lines, words = [], []
    for reads in ("TF", "TC"):
        found = line(f"{reads} bootstrapped", reads, f"{reads}: loss with bootstrapping less that without", True)
        lines.append(found)
        share = -(found.measured or 0.0) / (mean(losses[reads]) - mean(losses["full"]))
        words.append(f"bootstrapping regains {100 * share:.0f} % of what {reads} loses")
        if reads + FIXED in losses:
            lines.append(line(reads, reads + FIXED, f"{reads}: loss with a learned tree less that with a fixed one", True))
    for arm in [arm for arm in (*ARMS[1:], *CONTROLS) if arm in losses]:
        note = f"imbalance {mean(pairs[arm]):.2f}" if arm in pairs else ""
        lines.append(line(arm, "full", f"{arm}: loss less that of full attention", False, note))
    lines.append(line("TC bootstrapped", "TF bootstrapped", "TC less TF, both bootstrapped, at the same height", False))
    if WINDOW in losses:
        lines.append(line("TF bootstrapped", WINDOW, "TF bootstrapped less a window of as many keys", False))
    judged = [one.passes for one in lines if one.passes is not None]
    return Verdict(outcome_of(sum(judged), len(judged) - sum(judged)), "; ".join(words), tuple(lines))


JOB = Job(
    name="treeformer-quality",
    question="How much does masked-language modelling lose by tree attention, and does bootstrapping regain it?",
    claim="Trees from the start lose; layers that turn into trees, and trees that grow, regain a part (arXiv 2208.09015).",
    measured="Validation loss of hidden tokens of a Markov chain, after as many updates, and the leaves of each layer.",
    criterion="With bootstrapping the loss of TF and of TC is smaller by more than two standard errors over seeds, and with "
    "learned hyperplanes smaller by as much than with those drawn at the start. It holds for what meets this; the gaps to full "
    "attention and to a local window of as many keys are reported.",
    runs=runs,
    measure=measure,
    judge=judge,
    predict=predict,
)
