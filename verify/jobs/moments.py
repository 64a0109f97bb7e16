"""Moments of signal and gradient at initialisation, block by block, against their prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from depthwidth.analysis.propagation import propagate

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of
from ._training import check_decisions, decisions_of, recipe_of, tree_of

CORRELATION = 0.2
"""Between two tokens of the input; what a text's unigram counts imply is of this order."""

TOLERANCE = {"variance": 0.03, "correlation": 0.02, "gradient_variance": 0.05}
"""Largest error of a prediction: relative for variances, absolute for the correlation."""

NOISE = 3.0
"""Standard errors of the measurement that are allowed on top: three of a thousand right predictions lie further off."""

WITHIN = (
    f"variance within {100 * TOLERANCE['variance']:g} %, correlation within {TOLERANCE['correlation']}, "
    f"gradient variance within {100 * TOLERANCE['gradient_variance']:g} %, each widened by {NOISE:g} standard errors"
)

_STACKS = tuple(product(("pre", "post"), ("xavier", "deepscale"), ("full", "causal"), ("relu", "gelu", "silu")))
_GELU = tuple(stack for stack in _STACKS if stack[3] == "gelu")
_STEADY = tuple(stack for stack in _GELU if stack[:2] != ("post", "xavier"))  # whose gradients are not log-normal
# depth, width, tokens, draws, dropout rate, and which stacks
_SIZES: dict[str, tuple[tuple[int, int, int, int, float, tuple[tuple[str, str, str, str], ...]], ...]] = {
    "tiny": ((3, 64, 16, 16, 0.0, (_STACKS[0], _STACKS[11], _STACKS[19])), (2, 64, 16, 16, 0.1, _STACKS[16:17])),
    "small": (
        (12, 128, 64, 192, 0.0, _STACKS), (12, 128, 64, 96, 0.1, _GELU), (1, 256, 64, 96, 0.0, _GELU),
        (4, 512, 64, 48, 0.0, _GELU), (4, 1024, 64, 24, 0.0, _GELU),
        (48, 64, 32, 96, 0.0, _STACKS[:12]), (192, 64, 32, 24, 0.0, _STEADY),
        # Deep and wide: draws differ little there, so that a few are a sharp test.
        (48, 512, 32, 24, 0.0, _STEADY), (48, 1024, 32, 12, 0.0, _STEADY), (192, 512, 32, 12, 0.0, _STEADY),
        (192, 1024, 32, 6, 0.0, _STEADY), (1000, 256, 32, 16, 0.0, _STEADY),
    ),
    # A GPU is kept waiting for calls: about 0.1 ms a block, forward and back, whatever the width.
    "gpu": (
        (12, 512, 256, 256, 0.0, _STACKS), (12, 512, 256, 256, 0.1, _GELU), (48, 256, 128, 128, 0.0, _STACKS),
        (192, 128, 64, 48, 0.0, _STACKS),
    ),
    "full": (
        *((12, width, 256, 1024, rate, _STACKS) for width in (128, 256, 512, 1024) for rate in (0.0, 0.1)),
        *((depth, 256, 128, 1024, 0.0, _STACKS) for depth in (1, 3, 48, 192)),
        (1000, 256, 128, 256, 0.0, _STACKS),
    ),
}  # fmt: skip


def runs(size: str) -> Iterator[Run]:
    """One run a stack: norm placement, scheme, mask, activation, and shape."""
    for depth, width, tokens, draws, rate, stacks in _SIZES[size]:
        for placement, scheme, mask, activation in stacks:
            tree = {
                "depth": depth, "width": width, "heads": max(1, width // 64), "context": tokens, "vocab": 100,
                "kind": "encoder" if mask == "full" else "decoder", "activation": activation, "gated": activation == "silu",
                "bias": False, "positions": "none", "placement": placement, "head": "none", "final_norm": False,
                "norm_affine": False, "dropout": rate, "attention_dropout": rate, "ffn_dropout": rate,
            }  # fmt: skip
            spec = {
                "tree": tree, "scheme": scheme, "draws": draws, "correlation": CORRELATION, "dtype": "float32",
                "options": {"embedding_correlation": CORRELATION} if scheme == "deepscale" else {},
            }  # fmt: skip
            spec["decided"] = decisions_of(spec)
            labels = {
                "placement": placement,
                "scheme": scheme,
                "mask": mask,
                "activation": activation,
                "depth": depth,
                "width": width,
                "dropout": rate,
            }
            # A draw costs its matrices, drawn and multiplied: about depth * width^2 * tokens.
            cost = draws * depth * (width / 64) ** 2 * (1 + tokens / 64)
            yield Run(spec, 1, labels, tuple(_predictions(spec)), cost)


def _predictions(spec: Mapping[str, Any]) -> Iterator[Prediction]:
    tree, made = tree_of(spec), recipe_of(spec)
    frame = propagate(tree, made, variance=1.0, correlation=spec["correlation"])
    name = tree.stack_name
    version = version_of("depthwidth.analysis.propagation", "depthwidth.initialization")
    blocks = {f"{name}.block.{layer}": layer for layer in range(tree.depth)}
    for row in frame.itertuples():
        if row.site not in blocks and row.site != f"{name}.input":
            continue
        if row.direction == "gradient":
            if blocks.get(row.site) != tree.depth - 1:  # at the last block's output it is given
                yield Prediction("gradient_variance", row.second_moment, "depthwidth.propagate", version, row.site)
        elif row.site in blocks:
            yield Prediction("variance", row.second_moment, "depthwidth.propagate", version, row.site)
            yield Prediction("correlation", row.covariance / row.second_moment, "depthwidth.propagate", version, row.site)


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Means over draws of weights, input and output gradient, with their standard errors."""
    import numpy

    from ..measure.stacks import sample_stack

    tree, made = tree_of(spec), recipe_of(spec)
    check_decisions(spec)
    name = tree.stack_name
    first = context.seed * 1_000_003
    found = sample_stack(
        tree, made, spec["correlation"], spec["draws"], seed=first, device=context.device, folder=context.folder,
        progress=context.progress,
    )  # fmt: skip
    draws = len(found)
    mean, error = found.mean(0), found.std(0, ddof=1) / math.sqrt(draws)
    for layer in range(tree.depth):
        site = f"{name}.block.{layer}"
        variance, pair = found[:, 0, layer], found[:, 1, layer]
        yield Measurement("variance", mean[0, layer], site, stderr=error[0, layer])
        ratio = pair.mean() / variance.mean()
        spread = numpy.std((pair - ratio * variance) / variance.mean(), ddof=1)  # of a ratio of means, to first order
        yield Measurement("correlation", ratio, site, stderr=spread / math.sqrt(draws))
        input_site = site.replace(f".block.{layer}", f".block.{layer - 1}") if layer else f"{name}.input"
        yield Measurement("gradient_variance", mean[2, layer], input_site, stderr=error[2, layer])


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Every stack by its worst site."""
    stacks: dict[str, list[Row]] = {}
    for row in rows:
        stacks.setdefault(_name(row.labels), []).append(row)
    lines, passing, noisy = [], [], []
    for name, its in stacks.items():
        worst = {q: max((r for r in its if r.quantity == q), key=_excess, default=None) for q in TOLERANCE}
        found = [row for row in worst.values() if row is not None]
        if all(_excess(row) <= 0 for row in found):
            passing.append(name)
        if any(_allowed(row)[1] > _allowed(row)[0] for row in found):
            noisy.append(name)
        for row in found:
            note = "noise above the tolerance" if _allowed(row)[1] > _allowed(row)[0] else ""
            lines.append(
                Comparison(f"{name}: {row.quantity} at {row.site}", row.predicted, row.value, row.stderr,
                           _excess(row) <= 0, note, Limit.around(row.expected, _allowed(row)[0], -NOISE))
            )  # fmt: skip
    summary = f"{len(passing)} of {len(stacks)} stacks are predicted within the tolerance at every site"
    if noisy:
        summary += (
            f"; in {len(noisy)} the noise of the worst site is above the tolerance, so that they are checked less sharply"
        )
    outcome = outcome_of(len(passing), len(stacks) - len(passing))
    if outcome == "holds on a range":
        summary += f": {', '.join(passing)}"
    return Verdict(outcome, summary if stacks else "no rows", tuple(lines))


def _name(labels: Mapping[str, Any]) -> str:
    """A stack by its labels: words as they are, depth x width, and what else there is of numbers that are not 0."""
    words = [value for value in labels.values() if isinstance(value, str)]
    shape = "x".join(str(labels[name]) for name in ("depth", "width") if name in labels)
    others = [f"{name} {value}" for name, value in labels.items() if not isinstance(value, str) and value]
    return " ".join([*words, shape, *(part for part in others if not part.startswith(("depth ", "width ")))]).strip()


def _allowed(row: Row) -> tuple[float, float]:
    """The tolerance and the noise of a row, in the row's unit."""
    scale = 1.0 if row.quantity == "correlation" else abs(row.value)
    return TOLERANCE[row.quantity] * scale, NOISE * (row.stderr or 0.0)


def _excess(row: Row) -> float:
    """Excess of a prediction's error over its tolerance, in units of the tolerance; not positive if it is within.

    NaN, which no comparison would catch, counts as infinitely far.
    """
    tolerance, noise = _allowed(row)
    off = abs(row.expected - row.value)
    return (off - tolerance - noise) / tolerance if math.isfinite(off) and tolerance > 0 else math.inf


JOB = Job(
    name="moments",
    question="Are the moments of signal and gradient at initialisation those that propagation predicts, at every block?",
    claim="Variance, token correlation and gradient variance follow the recursion of moments, with nothing fitted.",
    measured="Second moment and correlation of the residual stream, and second moment of its gradient, over random draws.",
    criterion=f"At every site: {WITHIN}. It holds on the stacks where all sites meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
)
