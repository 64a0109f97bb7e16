"""Predicted against trained and measured heads: what jobs on heads carry out, and three experiments that are no jobs.

    python -m verify.jobs._head_experiments diffuse-saturation --out data/measured/diffuse_saturation.csv

Diffuse students, heads that share lags, and attention along a training: each of these functions is one experiment. It writes
its predictions down first, then trains or measures, and yields one row a number. Sizes are those of a CPU in minutes; arguments
make them larger.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import datetime
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from depthwidth import __version__
from depthwidth.analysis.propagation import moments_of
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.formulas import heads as laws
from depthwidth.formulas.attention import score_variance
from depthwidth.initialization import recipe, shipped_options
from depthwidth.layers import Stack
from depthwidth.numerics.softmax import overlap

from ..training.checkpoints import latest, save_checkpoint
from ..training.settings import Training
from ..training.train import WithLoss, language_loss, train, validation_loss, weights_digest

if TYPE_CHECKING:
    from ..training.corpus import Corpus

Row = dict[str, Any]
FIELDS = (
    "experiment",
    "setting",
    "length",
    "heads",
    "head_dim",
    "layer",
    "quantity",
    "predicted",
    "measured",
    "stderr",
    "seed",
    "steps",
)


def row(experiment: str, quantity: str, predicted: float | None, measured: float, stderr: float | None, **where: Any) -> Row:
    """One number of an experiment, every column there."""
    found = dict.fromkeys(FIELDS)
    found |= {"experiment": experiment, "quantity": quantity, "predicted": predicted, "measured": measured, "stderr": stderr}
    return found | where


# ---- parameters that are fitted to what is drawn ----


def _fit(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    generator: torch.Generator,
    *,
    steps: int,
    rate: float,
    rise: float = 0.3,
    folder: Path | None = None,
) -> None:
    """Make `loss` small by Adam with a one-cycle rate, in place; with a folder it can be killed, and goes on bit for bit.

    Parameters
    ----------
    loss : draws by `generator` alone, so that with the generator's state in a checkpoint it draws on as if nothing had been.
    rate : the highest learning rate, reached at the share `rise` of the steps.
    folder : for checkpoints, one every tenth of the steps and one at the end.

    Raises
    ------
    InputError
        where the folder holds the checkpoints of another fit.
    """
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=rise)
    identity = "" if folder is None else f"{weights_digest(parameters)} {steps} {rate} {rise}"
    found, done = None if folder is None else latest(folder), 0
    if found is not None:
        if found.state["identity"] != identity:
            raise InputError(f"{folder} holds another fit: give this one a folder of its own")
        done = found.step
        memory: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for name, tensor in found.tensors.items():
                kind, _, place = name.partition("/")
                if kind == "generator":
                    generator.set_state(tensor)
                elif kind == "parameter":
                    parameters[int(place)].copy_(tensor)
                else:
                    memory.setdefault(int(place), {})[kind] = tensor
        optimizer.load_state_dict({"state": memory, "param_groups": found.state["groups"]})
        schedule.load_state_dict(found.state["schedule"])
    for step in range(done + 1, steps + 1):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
        if folder is not None and (step == steps or step % max(1, steps // 10) == 0):
            tensors = {f"parameter/{i}": parameter for i, parameter in enumerate(parameters)}
            kept = optimizer.state_dict()
            tensors |= {f"{name}/{i}": value for i, memory in kept["state"].items() for name, value in memory.items()}
            state = {"identity": identity, "groups": kept["param_groups"], "schedule": schedule.state_dict()}
            with contextlib.suppress(OSError):  # a full disk costs the checkpoint that did not fit, not the training
                save_checkpoint(folder, step, {**tensors, "generator": generator.get_state()}, state)


# ---- one head that looks a token up ----


def _errors(weights: Tensor, targets: Tensor, gain: Tensor | float) -> Tensor:
    """Squared error of copying the target's value, exactly averaged over independent values of variance 1."""
    hit = weights.gather(-1, targets[..., None])[..., 0]
    return 1 - 2 * gain * hit + gain**2 * (weights**2).sum(-1)


def train_retrieval(
    length: int,
    head_dim: int,
    *,
    seed: int = 0,
    steps: int = 1500,
    batch: int = 32,
    queries: int = 16,
    rate: float = 6e-3,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Least error that a trained head reaches when it copies the value of one of `length` Gaussian tokens, and its stderr.

    Keys are N(0, I) in 64 dimensions (32 from 64 tokens on), the query is one of them. Learned: the two maps to `head_dim`
    dimensions, a scale and an output gain; Adam with a one-cycle rate. Weights and tokens are drawn on the device, where they
    stay; `folder` keeps checkpoints, from which a training that was killed goes on.
    """
    generator = torch.Generator(device).manual_seed(seed)
    width = 64 if length < 64 else 32

    def drawn_map() -> nn.Parameter:
        return nn.Parameter(torch.randn(width, head_dim, generator=generator, device=device) / width**0.5)

    maps = [drawn_map() for _ in range(2)]
    scale, gain = (nn.Parameter(torch.tensor(start, device=device)) for start in (0.3, 1.0))

    def errors(rows: int, asking: int) -> Tensor:
        keys = torch.randn(rows, length, width, generator=generator, device=device)
        targets = torch.randint(0, length, (rows, asking), generator=generator, device=device)
        asked = keys.gather(1, targets[..., None].expand(-1, -1, width))
        logits = scale * (asked @ maps[0]) @ (keys @ maps[1]).transpose(1, 2)
        return _errors(torch.softmax(logits, -1), targets, gain)

    _fit([*maps, scale, gain], lambda: errors(batch, queries).mean(), generator, steps=steps, rate=rate, folder=folder)
    # Long rows cost most to draw, so that each answers more queries; a standard error of 0.002 there still needs many of them.
    fresh, asking = (max(8, 8192 // length), queries) if length < 1024 else (16, 4 * queries)
    with torch.no_grad():
        drawn = torch.cat([errors(64, asking).mean(1) for _ in range(fresh)])
    return float(drawn.mean()), float(drawn.std() / math.sqrt(len(drawn)))


def train_diffuse(
    length: int,
    head_dim: int,
    spectrum: Sequence[float],
    *,
    seed: int = 0,
    steps: int = 800,
    batch: int = 64,
    rate: float = 1e-2,
) -> tuple[float, float]:
    """Error of a student of `head_dim` dimensions for a random-attention teacher with this spectrum, and its stderr.

    Per channel of unit-variance values that are independent of the keys: the sum of squared differences of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    rank = len(spectrum)
    teacher = torch.tensor(spectrum).sqrt()
    # Small enough that the student's own logits start with a variance near 0.1: larger starts stay stuck at long rows.
    size = (0.1 / (rank * rank * head_dim)) ** 0.25
    maps = [nn.Parameter(size * torch.randn(rank, head_dim, generator=generator)) for _ in range(2)]

    def errors(rows: int) -> Tensor:
        keys, asked = torch.randn(rows, length, rank, generator=generator), torch.randn(rows, 8, rank, generator=generator)
        wanted = torch.softmax((asked * teacher) @ keys.transpose(1, 2), -1)
        given = torch.softmax((asked @ maps[0]) @ (keys @ maps[1]).transpose(1, 2), -1)
        return ((wanted - given) ** 2).sum(-1)

    _fit(maps, lambda: length * errors(batch).mean(), generator, steps=steps, rate=rate)
    with torch.no_grad():
        drawn = torch.cat([errors(64).mean(1) for _ in range(max(16, 4096 // length))])
    return float(drawn.mean()), float(drawn.std() / math.sqrt(len(drawn)))


def diffuse_saturation(
    lengths: Sequence[int] = (64, 256), dims: Sequence[int] = (1, 4, 8, 12), seeds: int = 1, steps: int = 800
) -> Iterator[Row]:
    """Diffuse heads of fewer dimensions: does what they lose fall as 1/n, as the large-length law says.

    Prediction: :func:`~depthwidth.formulas.heads.diffuse_errors` of a harmonic spectrum, an over-estimate at finite n. Holds
    where the trained error is 0.5 to 1 times it, nearer to 1 at the larger length.
    """
    spectrum = laws.power_spectrum(16, 1.0, 1.0)
    predicted = {n: laws.diffuse_errors(spectrum, n) for n in lengths}
    for n in lengths:
        for d in dims:
            for seed in range(seeds):
                error, stderr = train_diffuse(n, d, spectrum, seed=seed, steps=steps)
                where = {"length": n, "heads": 1, "head_dim": d, "seed": seed, "steps": steps}
                yield row("diffuse-saturation", "truncation error", predicted[n][d], error, stderr, **where)


# ---- heads that read several lags ----


def lag_maps(lags: int, size: int, generator: torch.Generator) -> Tensor:
    """Maps of size x size, one a lag: singular values 1/k, directions drawn, squares that add up to 1 over all lags."""
    values = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    sides = [torch.linalg.qr(torch.randn(lags, size, size, generator=generator, dtype=torch.float64))[0] for _ in range(2)]
    maps = sides[0] * values @ sides[1].transpose(1, 2)
    return maps / maps.square().sum().sqrt()


def train_lag_split(
    heads: int,
    *,
    lags: int = 4,
    size: int = 16,
    budget: int = 32,
    seed: int = 0,
    start: int = 0,
    steps: int = 4000,
    rate: float = 2e-2,
) -> tuple[float, float]:
    """Least relative loss that training finds for heads with free position biases, and the floor that no heads can pass.

    Task: the sum over lags 1 to `lags` of a map of the token that far back, tokens white noise; the loss is the population's,
    exact. `heads` share `budget` dimensions of values; each learns its weights over lags 0 to twice `lags` and its value map.
    `seed` decides the maps, `start` where training begins.
    """
    maps = lag_maps(lags, size, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(1000 * (seed + 1) + start)
    floor = laws.lag_floor(torch.einsum("mij,nij->mn", maps, maps).tolist(), heads)
    reach, rank = 2 * lags + 1, budget // heads
    wanted = torch.zeros(reach, size, size, dtype=torch.float64)
    wanted[1 : lags + 1] = maps
    logits = nn.Parameter(torch.randn(heads, reach, generator=generator, dtype=torch.float64))
    sides = [
        nn.Parameter(torch.randn(heads, rank, size, generator=generator, dtype=torch.float64) / (size * budget**0.5) ** 0.5)
        for _ in range(2)
    ]

    def loss() -> Tensor:
        values = sides[0].transpose(1, 2) @ sides[1]
        made = torch.softmax(logits, -1).T @ values.flatten(1)
        return (made - wanted.flatten(1)).square().sum()

    _fit([logits, *sides], loss, generator, steps=steps, rate=rate, rise=0.1)
    return float(loss().detach()), floor


def head_split(
    heads: Sequence[int] = (1, 2, 4, 8, 16, 32),
    lags: int = 4,
    size: int = 16,
    budget: int = 32,
    seeds: int = 3,
    starts: int = 2,
    steps: int = 4000,
) -> Iterator[Row]:
    """One budget of value dimensions, split among ever more heads that read four lags: is sharing better than dedication.

    Predictions: no head count passes the floor; with as many heads as lags or more, training is not above the bound of heads
    dedicated to lags, :func:`~depthwidth.formulas.heads.dedicated_lag_loss`, which is the same at every split. Each row is the
    best of a few starts on one draw of the maps; `predicted` is the floor where heads are fewer than lags, and else the bound.
    """
    bound = laws.dedicated_lag_loss(budget // lags, size, 1)
    for count in heads:
        for seed in range(seeds):
            found = [
                train_lag_split(count, lags=lags, size=size, budget=budget, seed=seed, start=start, steps=steps)
                for start in range(starts)
            ]
            floor = found[0][1]
            where = {"length": lags, "heads": count, "head_dim": budget // count, "seed": seed, "steps": steps}
            predicted = floor if count < lags else bound
            yield row("head-split", "relative loss", predicted, min(loss for loss, _ in found), None, **where)


def calibration_rows(text: Corpus, sequences: int, context: int) -> Tensor:
    """The first tokens of the training text, (sequences, context), that attention is measured on.

    Raises
    ------
    InputError
        where the text is shorter.
    """
    wanted = sequences * context
    if len(text.train) < wanted:
        raise InputError(
            f"heads are measured on {sequences} sequences of {context} tokens, and the text has {len(text.train):,}"
        )
    return text.train[:wanted].long().view(sequences, context)


# ---- entropy at initialisation ----

Concentrated = tuple[float, float, float]
ENTROPY_QUANTITIES = ("logit_variance", "entropy", "squared_sum")


def predicted_attention(fields: Mapping[str, Any], batches: Tensor) -> list[Concentrated]:
    """Logit variance, entropy and sum of squared weights of each layer of a configuration at initialisation.

    Score variance and token correlation are those of the walk through the tree; the text, `batches` of shape (sequences,
    context), enters by how often two tokens of a sequence are equal. Averages are over the rows that
    :func:`measured_attention` takes: the later half.
    """
    tree = Transformer.from_config(dict(fields))
    n = batches.shape[1]
    counts = torch.stack([torch.bincount(b, minlength=tree.vocab) for b in batches]).double()
    match = float((counts / n).square().sum(1).mean())
    match = (match - 1 / n) / (1 - 1 / n)  # between different positions of one sequence
    made = recipe(tree, "shipped", **shipped_options(dict(fields)))
    sites = moments_of(tree, made, token_match=match, context=n, dropout=False)
    scores = [r for r in sites if r["site"].endswith("attention.scores") and r["direction"] == "forward"]
    lengths, found = range(n // 2 + 1, n + 1), []
    for r in scores:
        variance = float(score_variance(r["second_moment"], r["correlation"]))
        rows = overlap([variance] * len(lengths), list(lengths), tree.head_dim)
        found.append((variance, float(rows.entropy.mean()), float(rows.P.mean())))
    return found


def measured_attention(
    fields: Mapping[str, Any], seed: int, batches: Tensor, device: torch.device | str = "cpu"
) -> list[list[Concentrated]]:
    """The same of every head of the model that transformers initialises, layer by layer."""
    from ..measure.heads import load_model, measure_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(dict(fields)), encoding="utf-8")
        model, tree, _ = load_model(path, seed)
    report = measure_model(model.to(device), batches, tree=tree)
    layers: list[list[Concentrated]] = [[] for _ in report.forms]
    for head in report.heads:
        layers[head.layer].append((head.logit_std**2, head.entropy, head.squared_sum))
    return layers


# ---- small language models ----

CALIBRATION_SEQUENCES = 16
"""How many sequences the heads of a small language model are measured on."""


def _fresh_gpt2(config: Mapping[str, Any], seed: int) -> Any:
    """A GPT-2 as transformers initialises it. Whoever calls keeps their random numbers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    fields = {name: value for name, value in config.items() if name != "model_type"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**fields))


def train_language_model(
    model: nn.Module, text: Corpus, training: Training, folder: Path | None, device: torch.device | str
) -> tuple[float, float | None]:
    """Train in place by :func:`verify.training.train.train`, and go on from what the folder holds of it.

    Returns
    -------
    Loss on the validation text, nats per token, infinite where it diverged; its standard error over batches of windows.
    """
    outcome = train(model, text, training, folder=folder, device=device, progress=False)
    if outcome.status == "diverged":
        return math.inf, None
    return _with_error(*outcome.evaluations[-1][1:])


def held_out_loss(model: nn.Module, text: Corpus, training: Training) -> tuple[float, float | None]:
    """What :func:`train_language_model` says of a model as it is; the text lies where the model does."""
    module = WithLoss(model, language_loss(model))
    return _with_error(*validation_loss(module, text, training.evaluate_batches, training.batch, training.context))


def _with_error(loss: float, error: float) -> tuple[float, float | None]:
    return loss, error if math.isfinite(error) else None


@dataclass(frozen=True)
class Setting:
    """What a model to be measured is, what it is trained on, and where."""

    config: Mapping[str, Any]
    """of a GPT-2, see :func:`verify.jobs._heads.gpt2_config`"""
    text: Corpus
    training: Training
    """its seeds among it; the first is that of the weights too"""
    folder: Path | None = None
    """for checkpoints: every training has a folder of its own in it"""
    device: torch.device | str = "cpu"

    def place(self, name: str) -> Path | None:
        """The folder of one training."""
        return None if self.folder is None else self.folder / name

    def trained(self) -> tuple[Any, float, float | None]:
        """The model, trained; its loss and standard error.

        Raises
        ------
        InputError
            where it diverged.
        """
        model = _fresh_gpt2(self.config, self.training.seed)
        loss, stderr = train_language_model(model, self.text, self.training, self.place("whole"), self.device)
        if not math.isfinite(loss):
            raise InputError("the model whose heads were to be measured diverged in training")
        return model, loss, stderr

    def measured(self, model: Any) -> Any:
        """Its heads on the first sequences of the text."""
        from ..measure.heads import measure_model

        return measure_model(model, calibration_rows(self.text, CALIBRATION_SEQUENCES, self.training.context))


Cut = tuple[str, float, int, float, float, float | None]


def cut_losses_of(setting: Setting, shares: Sequence[float]) -> Iterator[Cut]:
    """Train a GPT-2, measure it, and cut it four times to each share of its dimensions, all heads together.

    Yields (cut, share, dimensions, predicted relative error, loss, its standard error) with cut "whole", "uniform" (one head
    dimension in every layer), "allocated" (the exact optimum over layers at no more parameters), and both again with the share
    taken of values as of queries and keys: "uniform with values", "allocated with values".
    """
    from ..measure.heads import shrink_heads

    model, loss, stderr = setting.trained()
    report = setting.measured(model)
    whole, layers = report.tree.head_dim, report.tree.depth
    yield "whole", 1.0, whole, 0.0, loss, stderr
    text = setting.text.to(setting.device)
    needs, free = report.needs(), report.allocate(multiple=1)
    for share in shares:
        dims = max(1, round(share * whole))
        for values, suffix in ((False, ""), (True, " with values")):
            flat = _of_one_size(free, dims, dims if values else whole)
            best = report.allocate(multiple=1, budget=flat.parameters, values=values)
            for name, made in (("uniform", flat), ("allocated", best)):
                other = copy.deepcopy(model)
                shrink_heads(other, made, report)
                error = math.fsum(n.error_of(got.head_dim, got.value_dim) for n, got in zip(needs, made.layers, strict=True))
                yield name + suffix, share, dims, error / layers, *held_out_loss(other, text, setting.training)


@dataclass(frozen=True)
class Scratch:
    """A model trained from scratch with these dimensions."""

    name: str
    """"uniform", "allocated" or "reversed" """
    share: float
    dims: tuple[tuple[int, int], ...]
    """of each layer: of a query and key, of a value"""
    parameters: int
    """of the whole model"""
    loss: float
    stderr: float | None


def scratch_losses_of(setting: Setting, shares: Sequence[float]) -> Iterator[Scratch]:
    """Train small models from scratch, with one head dimension in every layer and with allocated ones, at equal parameters.

    The allocation is that of a GPT-2 with full heads that was trained by the same seed and measured: query-key and value
    dimensions of each layer by the exact optimum under the uniform model's parameters. "reversed" is the control: the same
    dimensions, the last layer's in the first. All models start from weights of the same seed and see the same batches.
    """
    from ..models.model import build

    model, _, _ = setting.trained()
    report = setting.measured(model)
    free = report.allocate(multiple=1)
    for share in shares:
        dims = max(1, round(share * report.tree.head_dim))
        flat = _of_one_size(free, dims, dims)
        best = report.allocate(multiple=1, budget=flat.parameters)
        even, found = (tuple((got.head_dim, got.value_dim) for got in made.layers) for made in (flat, best))
        for name, sizes in (("uniform", even), ("allocated", found), ("reversed", found[::-1])):
            tree = with_head_dims(report.tree, sizes)
            # A folder is called as the dimensions: on a GPU a second measurement may round to another allocation.
            place = setting.place("-".join(f"{head_dim}.{value_dim}" for head_dim, value_dim in sizes))
            fresh = build(tree, seed=setting.training.seed)
            loss, stderr = train_language_model(fresh, setting.text, setting.training, place, setting.device)
            yield Scratch(name, share, sizes, tree.parameters, loss, stderr)


def with_head_dims(tree: Transformer, sizes: Sequence[tuple[int, int]]) -> Transformer:
    """A decoder with so many dimensions of queries and keys, and of values, in each of its layers.

    Raises
    ------
    InputError
        where there are not as many sizes as layers, or the model is no decoder alone.
    """
    stack = tree.decoder
    if stack is None or tree.encoder is not None or len(sizes) != tree.depth:
        raise InputError(f"{len(sizes)} head sizes are given to a model that is no decoder of {len(sizes)} layers")
    blocks = []
    for block, (head_dim, value_dim) in zip(stack.blocks(), sizes, strict=True):
        branch = block.attention.branch.replace(head_dim=head_dim, value_dim=value_dim)
        blocks.append(block.replace(attention=block.attention.replace(branch=branch)))
    return tree.replace(decoder=Stack.of(blocks, stack.norm, stack.position))


class _Looks:
    """A probe that measures a model's heads in front of the updates with these numbers."""

    def __init__(self, marks: Sequence[int], batches: Tensor) -> None:
        self.marks, self.batches, self.reports = marks, batches, dict[int, Any]()

    def __call__(self, model: nn.Module, step: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        from ..measure.heads import measure_model

        if step in self.marks:
            self.reports[step] = measure_model(model, self.batches)


def attention_training(
    marks: Sequence[int] = (0, 50, 200, 600), context: int = 64, width: int = 96, layers: int = 4, seeds: int = 1
) -> Iterator[Row]:
    """A model while it trains: does a head's logit variance still say how concentrated it is.

    A GPT-2 on bytes is measured after so many updates. Prediction: the softmax integrals at each head's own measured logit
    variance; what is tested is the Gaussian shape of its logits. Holds where the entropy's distance from uniform attention is
    within 20 % of the predicted one.
    """
    from ._heads import BYTES, gpt2_config, training_spec
    from ._training import corpus_of

    text = corpus_of(BYTES["small"], 256)
    batches = calibration_rows(text, CALIBRATION_SEQUENCES, context)
    setting = f"gpt2 in training, text {text.identity()['sha256'][:16]}"
    rows = range(context // 2 + 1, context + 1)
    for seed in range(seeds):
        look = _Looks(marks, batches)
        model = _fresh_gpt2(gpt2_config(context, width, layers), seed)
        if max(marks):
            training = Training(**training_spec(max(marks), context), seed=seed, data_seed=seed)
            train(model, text, training, device="cpu", probes=(look,), progress=False)
        look(model, max(marks))
        for mark, report in sorted(look.reports.items()):
            found: list[list[tuple[float, float]]] = [[] for _ in range(layers)]
            for head in report.heads:
                theory = overlap([head.logit_std**2] * len(rows), list(rows)).entropy.mean()
                found[head.layer].append((float(theory), head.entropy))
            for layer, pairs in enumerate(found):
                predicted, measured = (math.fsum(pair[k] for pair in pairs) / len(pairs) for k in (0, 1))
                where = {"length": context, "heads": 4, "head_dim": width // 4, "layer": layer, "seed": seed, "steps": mark}
                yield row("attention-training", "entropy", predicted, measured, None, setting=setting, **where)


def _of_one_size(allocation: Any, dims: int, value_dim: int) -> Any:
    """The same allocation with one head dimension and one value dimension in every layer, its parameters counted."""
    layer = allocation.measured.tree.attention.replace(head_dim=dims, value_dim=value_dim)
    sizes = {"head_dim": dims, "value_dim": value_dim, "parameters": layer.parameters}
    return replace(allocation, layers=tuple(replace(got, **sizes) for got in allocation.layers))


EXPERIMENTS: dict[str, Callable[..., Iterator[Row]]] = {
    "diffuse-saturation": diffuse_saturation,
    "head-split": head_split,
    "attention-training": attention_training,
}


def main() -> None:
    """Run one experiment and write its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("seeds", "steps") if getattr(options, name) is not None}
    if options.experiment == "attention-training" and "steps" in given:
        parser.error("attention-training takes no --steps")
    stamp = {"version": __version__, "torch": torch.__version__, "device": "cpu", "dtype": "float32",
             "date": datetime.date.today().isoformat()}  # fmt: skip
    waiting = options.out.with_suffix(".part")  # a table is there whole, or not at all
    with waiting.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*FIELDS, *stamp], lineterminator="\n")
        writer.writeheader()
        for found in EXPERIMENTS[options.experiment](**given):
            numbers = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in found.items()}
            writer.writerow(numbers | stamp)
            file.flush()
            print(*(f"{k}={v}" for k, v in numbers.items() if v is not None), file=sys.stderr)  # noqa: T201
    waiting.replace(options.out)


if __name__ == "__main__":
    main()
