"""The rank that heads of small language models use under weight decay, compared with the certificate of the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median
from typing import TYPE_CHECKING, Any, NamedTuple

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._training import check_decisions, data_spec, decisions_of, model_of, planned_text

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.model import Model

WITHIN = 1.0
"""Largest mean difference of the measured and the certified rank, in dimensions."""
NEAR = 0.15
"""Largest median misalignment of a product that counts as near a minimum."""
TOLERANCE, SHARE = 0.05, 1e-2
"""Of the comparison of a gradient with the decay; of the largest singular value, above which one counts as used."""
COUPLED = ("adam", "sgd")
"""Optimisers whose decay is part of the gradient: their minima are those of the penalised loss."""
RATES = {"adam": 2e-2, "sgd": 5e-2, "adamw": 2e-2}


class _Size(NamedTuple):
    width: int
    sequences: int
    context: int
    steps: int
    decays: tuple[float, ...]
    """of coupled decay; those of AdamW are :data:`DECOUPLED`"""
    head_dims: tuple[int, ...]
    """all for Adam, the last for the others"""
    seeds: int
    longer: int
    """updates of a second training by Adam, at the largest head dimension and the two largest decays"""
    longest: int
    """updates of a third, at the smaller one of these decays, whose minima are reached later"""


DECOUPLED = (0.1, 0.5, 2.0)
BYTES = 1 << 21
"""Of text: more than the largest run reads."""
START = "at the start"
"""The site of the mean effective rank over heads before training."""
_SIZES: dict[str, _Size] = {
    "tiny": _Size(8, 4, 8, 20, (1e-2,), (4,), 1, 30, 40),
    "small": _Size(16, 96, 16, 1000, (3e-3, 1e-2, 2e-2), (4, 16), 3, 3000, 10_000),
    "gpu": _Size(64, 2048, 64, 5000, (1e-3, 3e-3, 1e-2), (8, 32, 64), 3, 15_000, 50_000),
    "full": _Size(256, 4096, 256, 50_000, (1e-4, 1e-3, 3e-3), (16, 64, 128), 5, 150_000, 500_000),
}


def runs(size: str) -> Iterator[Run]:
    """Adam with coupled decay over head dimensions and decays, and longer; SGD and AdamW at the largest head dimension."""
    from depthwidth.numerics.gaussian_product import starting_ranks

    made = _SIZES[size]
    data = data_spec(BYTES)
    largest = made.head_dims[-1]
    settings = [("adam", largest, decay, made.longer) for decay in made.decays[-2:]]
    settings.append(("adam", largest, made.decays[-2:][0], made.longest))
    settings += [("adam", dim, decay, made.steps) for dim in made.head_dims for decay in made.decays]
    settings += [("sgd", largest, decay, made.steps) for decay in made.decays]
    settings += [("adamw", largest, decay, made.steps) for decay in DECOUPLED[: len(made.decays)]]
    for optimizer, head_dim, decay, steps in settings:
        spec: dict[str, Any] = {
            # A trained gain of the norm before the maps would let decay shrink them for nothing: the loss stays, and no minimum
            # is attained. There is none here.
            "tree": {
                "depth": 1, "width": made.width, "heads": 2, "head_dim": head_dim, "ffn": 2 * made.width, "vocab": 256,
                "context": made.context, "positions": "learned", "norm": "rmsnorm", "norm_affine": False, "bias": False,
                "tied": False,
            },
            "scheme": "xavier",
            "options": {},
            "data": data,
            "optimizer": optimizer,
            "learning_rate": RATES[optimizer],
            "decay": decay,
            "steps": steps,
            "sequences": made.sequences,
            "dtype": "float32",
        }  # fmt: skip
        spec["decided"] = decisions_of(spec)
        labels = {"optimizer": optimizer, "head_dim": head_dim, "decay": decay, "steps": steps}
        start = Prediction(
            "effective_rank", head_dim * starting_ranks(head_dim / made.width).effective,
            "depthwidth.numerics.gaussian_product.starting_ranks", version_of("depthwidth.numerics.gaussian_product"), START,
        )  # fmt: skip
        for seed in range(made.seeds):
            yield Run(spec, seed, labels, (start,), cost=steps * made.sequences * made.context * made.width)


def whole_text(spec: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """All that a run trains on, each update on all of it: inputs and targets (sequences, context)."""
    sequences, context = spec["sequences"], spec["tree"]["context"]
    tokens = planned_text(spec["data"]).train[: sequences * context + 1].long()
    return tokens[:-1].view(sequences, context), tokens[1:].view(sequences, context)


def trained(spec: Mapping[str, Any], context: Context) -> Model:
    """The model of a run after training on the whole text at every update, with rates that fall to zero."""
    import torch

    model: Model = model_of(spec, context).to(context.device)
    inputs, targets = (one.to(context.device) for one in whole_text(spec))
    # Without decay of the embedding the stream keeps its size. With it every map that writes to the stream could shrink in
    # proportion, at no loss, and no minimum would be attained.
    stem = [one for name, one in model.named_parameters() if name.startswith("stem.")]
    rest = [one for name, one in model.named_parameters() if not name.startswith("stem.")]
    groups = [{"params": stem, "weight_decay": 0.0}, {"params": rest, "weight_decay": spec["decay"]}]
    rate, steps = spec["learning_rate"], spec["steps"]
    kinds = {
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.99)),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99)),
    }
    optimizer = kinds[spec["optimizer"]]()
    warm = max(1, steps // 50)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        _, loss = model(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            context.progress(step / steps)
    return model


def effective_rank_of(model: Model) -> float:
    """Mean effective rank of the products of query and key maps."""
    from depthwidth.analysis.head_ranks import head_ranks

    from ..models.live_weights import LiveWeights

    return mean(one.ranks.effective for one in head_ranks(LiveWeights(model)).heads if one.product == "query-key")


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train, and take the certificate of each head at the end by the gradient of the whole text."""
    import torch

    from ..measure.head_certificates import certify

    check_decisions(spec)
    yield Measurement("effective_rank", effective_rank_of(model_of(spec, context)), START)
    model, (inputs, targets) = trained(spec, context), whole_text(spec)
    inputs, targets = inputs.to(context.device), targets.to(context.device)
    with torch.no_grad():
        yield Measurement("loss", float(model(inputs, targets)[1]), step=spec["steps"])
    part = math.gcd(len(inputs), 64)  # sequences at once: equal parts, as their gradients are averaged
    batches = zip(inputs.split(part), targets.split(part), strict=True)
    for one in certify(model, batches, spec["decay"], tolerance=TOLERANCE, share=SHARE):
        site = f"{one.product} {one.kv_head}"
        yield Measurement("certified_rank", float(one.predicted), site)
        yield Measurement("numerical_rank", float(one.ranks.numerical), site)
        yield Measurement("effective_rank", one.ranks.effective, site)
        yield Measurement("excess", one.found.excess, site)
        yield Measurement("misalignment", one.found.misalignment, site)


def judge(rows: Sequence[Row], predictions: Sequence[object]) -> Verdict:
    """Each setting and product; medians and means over heads and seeds. AdamW is reported, and not judged."""
    found: dict[tuple[str, int, float, int, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.site not in ("", START):
            labels = row.labels
            setting = str(labels["optimizer"]), int(labels["head_dim"]), float(labels["decay"]), int(labels["steps"])
            key = (*setting, row.site.rpartition(" ")[0])
            found.setdefault(key, {}).setdefault(row.quantity, []).append(row.value)
    lines, met, failed, far = [], 0, 0, 0
    for (optimizer, head_dim, decay, steps, product), its in sorted(found.items()):
        if not its.keys() >= {"certified_rank", "numerical_rank", "misalignment", "effective_rank"}:
            continue
        certified, measured = mean(its["certified_rank"]), mean(its["numerical_rank"])
        apart = median(its["misalignment"])
        note = f"effective rank {mean(its['effective_rank']):.1f}, misalignment {apart:.2g}"
        passes: bool | None = None
        limit: Limit | None = None
        if optimizer in COUPLED and apart <= NEAR:
            limit = Limit.around(certified, WITHIN)
            passes = limit.is_met(measured, None)
            met, failed = met + passes, failed + (not passes)
        elif optimizer in COUPLED:
            far += 1
            note += ": not near a minimum, not judged"
        else:
            note += ": decoupled decay, not judged"
        what = f"{optimizer}, head dim {head_dim}, decay {decay:g}, {steps:,} updates: rank of {product}"
        lines.append(Comparison(what, certified, measured, None, passes, note, limit))
    if not lines:
        return Verdict("undecided", "no rows")
    summary = f"{met} of {met + failed} settings near a minimum use the certified rank; {far} of coupled decay are not near one"
    return Verdict(outcome_of(met, failed, far), summary, tuple(lines))


JOB = Job(
    name="head-rank",
    question="Do the heads of a small language model use the rank that the gradient's certificate gives at their weight decay?",
    claim="Under coupled decay, near a minimum: as many dimensions as singular values of the gradient equal the decay.",
    measured="Certified, numerical and effective rank of the products of each head's maps after training on all of a short "
    "text, over head dimensions, decays and optimisers.",
    criterion=f"In every setting of coupled decay (Adam with L2, SGD) whose median misalignment is at most {NEAR:g} the mean "
    f"numerical rank ({100 * SHARE:g} % of the largest singular value) is within {WITHIN:g} of the mean certified rank "
    f"(gradients within {100 * TOLERANCE:g} %). AdamW is reported and not judged.",
    runs=runs,
    measure=measure,
    judge=judge,
)
