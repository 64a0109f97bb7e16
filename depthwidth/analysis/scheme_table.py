"""Signal and gradient of every initialisation scheme at depth 12, 192 and 1000: ``depthwidth table schemes``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from ..architecture import Transformer
from ..errors import InputError
from ..formulas.moments import zipf_match_probability
from ..initialization import Recipe, recipe, schemes
from ..layers.stem import SEGMENT_MATCH
from ..signal import Signal, Site, Trace
from .diagnosis import SEVERITIES
from .diagnosis.checks.gradient_spread import log_normal_of
from .diagnosis.judge import findings_of, network_of

DEPTHS = (12, 192, 1000)
MADE_FOR = {
    "t-fixup": ("none",), "rezero": ("none",), "skipinit": ("none",),
    "deepnorm": ("post",), "admin": ("post",), "layernorm-scaling": ("pre",),
}  # fmt: skip
"""Placements of norms that a scheme is made for, if not for both; under another placement its scales mean something else."""

_JUDGED = ("gradient_ratio", "forward_growth", "correlation_at_top", "branch_share", "score_variance")
_WIDE_SPREAD = math.log(2)


def scheme_rows(
    depths: Iterable[int] = DEPTHS, names: Iterable[str] | None = None, width: int = 1024, context: int = 256
) -> list[dict[str, Any]]:
    """One row for each scheme, placement of norms and depth.

    Parameters
    ----------
    depths : numbers of layers.
    names : of schemes; all by default.
    width, context : of the network: an encoder with GELU, heads of 64, 32,000 tokens, no dropout.

    Returns
    -------
    Rows with `scheme`, `norms` (``pre``, ``post``, or ``none`` for the schemes made for that), `depth`; at infinite width the
    ratio of the second moment after the last block to that after the first (`growth`); the correlation of two tokens after
    the last (`correlation`); the ratio of the gradient's second moment at the first block's output to that at the last's
    (`gradient`); for post-norm `gradient_low` and `gradient_high`, between which two draws of the weights in three lie at this
    width once tokens have aligned; `verdict` (of :func:`~depthwidth.analysis.diagnosis.diagnose`) and `because`, the findings
    that decide it.

    Raises
    ------
    InputError
        if there is no such scheme, or a size is not a positive whole number.

    Notes
    -----
    A single number fails for deep post-norm stacks without residual scaling: their gradient is log-normal over draws, and
    one run lies within the band. Schemes whose branches grow in training (ReZero, SkipInit) or that act through learning rates
    (muP and related schemes) are described at initialisation only.
    """
    return [row for name in (schemes() if names is None else names) for row in _rows(name, tuple(depths), width, context)]


def _rows(name: str, depths: tuple[int, ...], width: int, context: int) -> Iterator[dict[str, Any]]:
    for norms in MADE_FOR.get(name, ("pre", "post")):
        for depth in depths:
            tree = reference_tree(depth, norms, width, context)
            yield {"scheme": name, "norms": norms, "depth": depth, **_judge_scheme(tree, name, norms)}


def reference_tree(depth: int, norms: str, width: int = 1024, context: int = 256) -> Transformer:
    """The network of the table with this placement of its norms."""
    # Inputs of size 1/sqrt(width) that no norm enlarges give scores a variance of 1e-6 and less, which is taken as 0 here: the
    # integrals are then the same in every block.
    return Transformer(
        depth, width, max(1, width // 64), vocab=32000, context=context, kind="encoder",
        placement=norms, logit_scale=0.0 if norms == "none" else None,
    )  # fmt: skip


def input_correlation(tree: Transformer, made: Recipe) -> float:
    """The mean correlation of two tokens of Zipf's law after the embedding; deep stacks are quick if all pairs have it."""
    site = Site(Trace(made, tree.run().tokens, 0, finite_width=False), "stem")
    x, _ = tree.stem.embed(site, Signal(1.0, float(zipf_match_probability(tree.vocab))), SEGMENT_MATCH)
    return float(x.whole().correlation)


def _judge_scheme(tree: Transformer, name: str, norms: str) -> dict[str, Any]:
    made = recipe(tree, name)
    network = network_of(tree, made, finite_width=False, correlation=input_correlation(tree, made))
    try:
        findings = {f.name: f for f in findings_of(network)}
    except InputError as error:
        nothing = dict.fromkeys(("growth", "correlation", "gradient", "gradient_low", "gradient_high"))
        return {**nothing, "verdict": "problem", "because": f"not predicted: {error}"}
    gradient = findings["gradient_ratio"].value
    drift, variance = log_normal_of(network) if norms == "post" else (0.0, 0.0)
    spread = math.sqrt(variance)
    band = (gradient * math.exp(drift - spread), gradient * math.exp(drift + spread)) if norms == "post" else (None, None)
    judged = [findings[key] for key in _JUDGED if key in findings]
    standing_out = [f.name.replace("_", " ") for f in judged if f.severity != "fine"]
    if spread > _WIDE_SPREAD:
        standing_out.append("gradient is log-normal")
    return {
        "growth": findings["forward_growth"].value,
        "correlation": findings["correlation_at_top"].value,
        "gradient": gradient,
        "gradient_low": band[0],
        "gradient_high": band[1],
        "verdict": max((f.severity for f in judged), key=SEVERITIES.index),
        "because": ", ".join(standing_out),
    }


_TITLES = {"pre": "Norms before the branches", "post": "Norms after the sum", "none": "Without norms"}


def scheme_document(rows: list[dict[str, Any]]) -> str:
    """The page ``docs/schemes.md``: one table per placement of norms, one line per scheme."""
    depths = sorted({row["depth"] for row in rows})
    lines = [_HEAD]
    for norms, title in _TITLES.items():
        chosen = [row for row in rows if row["norms"] == norms]
        if not chosen:
            continue
        lines.append(f"\n## {title}\n")
        lines.append("| scheme | " + " | ".join(f"{depth} layers" for depth in depths) + " | findings |")
        lines.append("|" + " --- |" * (len(depths) + 2))
        for name in dict.fromkeys(row["scheme"] for row in chosen):
            by_depth = {row["depth"]: row for row in chosen if row["scheme"] == name}
            cells = [_cell(by_depth[depth]) for depth in depths if depth in by_depth]
            words = [f"{depth}: {by_depth[depth]['because']}" for depth in depths if by_depth[depth]["because"]]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {'; '.join(words)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    if row["growth"] is None:
        return "not predicted"
    band = "" if row["gradient_low"] is None else f" ({row['gradient_low']:.2g} to {row['gradient_high']:.2g})"
    return f"{row['growth']:.3g} / {row['correlation']:.3g} / {row['gradient']:.2g}{band}"


_HEAD = """# Every scheme at depth 12, 192 and 1000

Predictions of `propagate` for each initialisation scheme: an encoder of width 1024 with GELU, 256 tokens and 32,000 words,
without dropout; every pair of tokens has the mean correlation of Zipf's law. `depthwidth table schemes` computes the table
again (`--csv` and `--json` give one row per depth), and
`python -m depthwidth.analysis.scheme_table > docs/schemes.md` writes this page.

Each cell has three numbers, all at infinite width: the ratio of the signal's second moment after the last block to that after
the first; the correlation of two tokens after the last block; and the ratio of the gradient's second moment at the first
block's output to that at the last's. For post-norm stacks a band follows in brackets: at this width, once tokens have
aligned, two draws of the weights in three lie within it. If the band is wide, no single number describes a run, and hardly
any draw has the predicted mean over draws. A GELU branch amplifies gradients slightly more than signals, which a thousand
unscaled post-norm layers turn into powers of ten. Those cells are an exponential extrapolation far beyond what has been
simulated (depth over width up to 1.5, ReLU).

The table covers initialisation only. Schemes that act through learning rates (muP, depth-muP, CompleteP) or let branches grow
from zero (ReZero, SkipInit) have further effects in training. A scheme made for one placement of norms is listed under that
placement only. Thresholds are those of `depthwidth describe`."""


if __name__ == "__main__":
    import sys

    sys.stdout.write(scheme_document(scheme_rows()))
