"""Training, shared by jobs: the text, the description of a run, and its training."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError, shown
from depthwidth.initialization import Recipe, recipe
from depthwidth.layers import DietAbs, DietRel, Position, Tree

from ..rows import canonical, digest_of
from . import Context, Ensemble, Measurement

if TYPE_CHECKING:
    from ..models.model import Model
    from ..training.corpus import Corpus
    from ..training.settings import Training
    from ..training.train import Outcome

CORPUS_VARIABLE = "DEPTHWIDTH_CORPUS"
"""Environment variable with a file or folder of text to train on, instead of the sources of the installed packages."""
SCORE_POSITIONS: Mapping[str, Callable[..., Position]] = {"diet-rel": DietRel, "diet-abs": DietAbs}
"""Positions in scores that a spec gives with options."""
CACHE_VARIABLE = "DEPTHWIDTH_CACHE"
"""Environment variable with the folder of cached tokens."""


def data_spec(limit: int, vocab: int = 256) -> dict[str, Any]:
    """The description of the text that a run trains on, with the hash of its tokens.

    Parameters
    ----------
    limit : bytes of text at most.
    vocab : 256 for bytes; more for byte-level byte-pair encoding trained on the text itself.
    """
    about = corpus_of(limit, vocab).identity()
    return {"limit": limit, "vocab": vocab, "sha256": about["sha256"], "train_tokens": about["train_tokens"]}


def planned_text(data: Mapping[str, Any]) -> Corpus:
    """The text that a run was planned with, from its :func:`data_spec`.

    Raises
    ------
    InputError
        if the text on this machine is a different one.
    """
    text = corpus_of(data["limit"], data["vocab"])
    if text.identity()["sha256"] != data["sha256"]:
        raise InputError("the text on this machine is not the one that was planned with: use the same text for both")
    return text


def corpus_of(limit: int, vocab: int) -> Corpus:
    """The tokens of the text, read once per process and cached between processes."""
    return _corpus(limit, vocab, os.environ.get(CORPUS_VARIABLE, ""))


@functools.cache
def _corpus(limit: int, vocab: int, own: str) -> Corpus:
    from ..training import corpus

    name = digest_of(canonical([limit, vocab, own, _stamp(own)]).encode())
    place = _cache() / name
    if place.is_dir():
        try:
            return corpus.load(place)
        except InputError:
            # Damaged, or half-written by an older version: out of the way, as who reads it may still have it open.
            with contextlib.suppress(OSError):
                place.rename(place.with_name(f".{name}.{uuid.uuid4().hex[:8]}.damaged"))
    made = corpus.text(own, limit=limit) if own else corpus.python_sources(limit)
    if vocab != 256:
        made = _paired(made, vocab)
    waiting = place.with_name(f".{name}.{uuid.uuid4().hex[:8]}")
    try:
        made.save(waiting)
        waiting.rename(place)
    except OSError:  # another process was first, or the disk is full; we have the tokens
        shutil.rmtree(waiting, ignore_errors=True)
    return made


def _cache() -> Path:
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home folder, as in some containers
        raise InputError(f"there is no home folder to keep tokens in; set {CACHE_VARIABLE} to a folder for them") from None
    return home / "depthwidth" / "corpora"


def _stamp(own: str) -> list[Any]:
    """Path, time and size: they distinguish texts without reading them."""
    import sysconfig

    place = Path(own or sysconfig.get_paths()["purelib"])
    try:
        about = place.stat()
    except OSError:
        raise InputError(f"{CORPUS_VARIABLE}={own!r} is neither a file nor a folder") from None
    return [str(place.resolve()), about.st_mtime_ns, about.st_size]


def _paired(made: Corpus, vocab: int) -> Corpus:
    """Byte-level byte-pair encoding of `vocab` tokens, trained on the training part alone."""
    import dataclasses

    try:
        import tokenizers
    except ImportError:
        raise InputError("a vocabulary beyond bytes needs tokenizers; pip install 'depthwidth[hf]'") from None
    import torch

    def as_text(tokens: Any) -> str:
        return bytes(tokens.numpy().tobytes()).decode("utf-8", errors="replace")

    encoder = tokenizers.Tokenizer(tokenizers.models.BPE())
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=sorted(alphabet), show_progress=False)
    parts = [as_text(part) for part in made.train.split(1 << 16)]
    encoder.train_from_iterator(parts, trainer)

    def encoded(tokens: Any) -> Any:
        texts = [as_text(part) for part in tokens.split(1 << 16)]
        return torch.tensor([i for one in encoder.encode_batch(texts) for i in one.ids], dtype=torch.int32)

    source = {**made.source, "tokenizer": f"byte-level BPE {vocab}"}
    return dataclasses.replace(made, train=encoded(made.train), validation=encoded(made.validation), vocab=vocab, source=source)


def decisions_of(spec: Mapping[str, Any]) -> str:
    """A digest of the decisions in a spec: every component of the tree, and the recipe's settings of each tensor.

    With it in the spec, a changed default or rule makes other runs, and changed code that decides the same does not. Numbers
    count to six digits, to which different machines agree.
    """

    def plain(value: Any) -> Any:
        return f"{value:.6g}" if isinstance(value, float) else value

    tree, made = tree_of(spec), recipe_of(spec)
    rows = [*made.rows(tree), *made.residual_rows(tree)]
    values = [[plain(value) for name, value in row.items() if name != "reason"] for row in rows]
    return digest_of(canonical([tree.in_full(), values]).encode())


def check_decisions(spec: Mapping[str, Any]) -> None:
    """Refuse to measure a run whose tree or recipe has changed since it was planned.

    Raises
    ------
    InputError
        if it has.
    """
    if decisions_of(spec) != spec["decided"]:
        raise InputError(
            "its tree or recipe is different in this code from the one that was planned; `depthwidth verify run` plans it again"
        )


def tree_of(spec: Mapping[str, Any]) -> Transformer:
    """The tree of a run; in a spec the `tree` of tree attention is a mapping, and `positions` may be one.

    Such positions are a ``scheme`` of :data:`SCORE_POSITIONS` and the component's options beside heads and context.
    """
    choices = dict(spec["tree"])
    if isinstance(choices.get("positions"), Mapping):
        options = dict(choices["positions"])
        made = SCORE_POSITIONS[options.pop("scheme")]
        choices["positions"] = made(choices["heads"], context=choices["context"], **options)
    if choices.get("tree") is not None:
        choices["tree"] = Tree(**choices["tree"])
    return Transformer(**choices)


def recipe_of(spec: Mapping[str, Any]) -> Recipe:
    """The recipe of a run, with the `changes` of its spec if it has any: fields of the recipe's lines, by the tensor's role."""
    made = recipe(tree_of(spec), spec["scheme"], **spec["options"])
    changes: Mapping[str, Mapping[str, Any]] = spec.get("changes", {})
    unknown = set(changes) - {line.role for line in made.tensors}
    if unknown:
        raise InputError(f"changes of {', '.join(map(shown, sorted(unknown)))}: the model has no such tensors")
    return replace(made, tensors=tuple(line._replace(**changes.get(line.role, {})) for line in made.tensors))


def measure_training(spec: Mapping[str, Any], context: Context, model: Model | None = None) -> Iterator[Measurement]:
    """Train the model of a run and measure its losses and divergence.

    Measures ``loss``, ``validation_loss`` at the steps of evaluation, ``training_loss`` at the last step, and ``diverged`` (0
    or 1). ``loss`` is the final validation loss in nats per token, infinite if it diverged, with its standard error over
    batches of windows.
    """
    from ..training.train import train

    text, plan = planned_text(spec["data"]), training_of(spec, context)
    outcome = train(
        model_of(spec, context) if model is None else model, text, plan, folder=context.folder / "training",
        recipe=recipe_of(spec), tree=tree_of(spec), device=context.device, progress=False,
        loggers=(_Progress(context, plan.steps),), log_every=1,
    )  # fmt: skip
    yield from _found(outcome)


def measure_trainings(
    specs: Sequence[Mapping[str, Any]],
    contexts: Sequence[Context],
    folder: Path,
    made: Callable[[Mapping[str, Any], Context], Model] | None = None,
) -> Iterator[tuple[Measurement, ...]]:
    """The measurements of :func:`measure_training` for several runs of one :func:`shape_of`, trained in one program.

    `made` makes the fresh model of a run, :func:`model_of` if it is None.
    """
    from ..models.initialize import parameter_groups
    from ..training.ensemble import train_ensemble

    both = list(zip(specs, contexts, strict=True))
    models, plans = [(made or model_of)(*one) for one in both], [training_of(*one) for one in both]
    rates = [
        parameter_groups(model, recipe_of(spec), plan.learning_rate, plan.weight_decay, tree=tree_of(spec))
        for model, plan, spec in zip(models, plans, specs, strict=True)
    ]
    reports = [_Progress(context, plan.steps) for context, plan in zip(contexts, plans, strict=True)]

    def on_step(step: int, _: Any) -> None:
        for report in reports:
            report.log(step, {})

    # Always the same mode: choosing the quicker one would change the last bits of the numbers.
    outcomes = train_ensemble(
        models, planned_text(specs[0]["data"]), plans, mode="batched", folder=folder, groups=rates, device=contexts[0].device,
        on_step=on_step,
    )  # fmt: skip
    for outcome in outcomes:
        yield tuple(_found(outcome))


def shape_of(spec: Mapping[str, Any]) -> str:
    """Everything that runs in one program have in common: all but the seed and the settings that an ensemble varies."""
    from ..training.ensemble import ALIKE

    return canonical({**spec, "training": {name: value for name, value in spec["training"].items() if name in ALIKE}})


TOGETHER = Ensemble(shape_of, measure_trainings)
"""The ensemble of jobs whose runs are :func:`measure_training`."""


def model_of(spec: Mapping[str, Any], context: Context) -> Model:
    """The fresh model of a run, once its tree and recipe are known to be those that were planned."""
    from ..models.model import build

    check_decisions(spec)
    return build(tree_of(spec), recipe=recipe_of(spec), seed=context.seed)


def training_of(spec: Mapping[str, Any], context: Context) -> Training:
    """The training of a run, with its seed for random numbers and for the order of the data."""
    from ..training.settings import Training

    return Training.from_dict({**spec["training"], "seed": context.seed, "data_seed": context.seed})


def _found(outcome: Outcome) -> Iterator[Measurement]:
    diverged = outcome.status == "diverged"
    for step, loss, error in outcome.evaluations:
        yield Measurement("validation_loss", loss, step=step, stderr=error if math.isfinite(error) else None)
    final = outcome.evaluations[-1] if outcome.evaluations and not diverged else (0, math.inf, math.inf)
    yield Measurement("loss", final[1], stderr=final[2] if math.isfinite(final[2]) else None)
    yield Measurement("training_loss", outcome.final_loss, step=outcome.steps)
    yield Measurement("diverged", float(diverged))


class _Progress:
    """Reports the progress of a training to ``status``, at most every two seconds."""

    def __init__(self, context: Context, steps: int) -> None:
        self.context, self.steps, self.told = context, steps, 0.0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if time.monotonic() - self.told > 2:
            self.context.progress(step / self.steps)
            self.told = time.monotonic()

    def close(self) -> None:
        """Nothing is open."""


def training_flops(spec: Mapping[str, Any]) -> float:
    """The cost of a run, for the estimate of time: exact FLOPs per token times tokens, and an overhead per block and step."""
    tree, plan = tree_of(spec), spec["training"]
    tokens = plan["steps"] * plan["batch"] * plan["context"]
    # Starting a block's kernels, forward, backward and in the optimizer, takes about as long as 30 MFLOPs on one core.
    return float(3 * tree.flops_per_token() * tokens + 3e7 * tree.depth * plan["steps"])
