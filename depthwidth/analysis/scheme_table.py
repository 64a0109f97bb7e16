"""What every initialisation scheme does to signal and gradient at depth 12, 192 and 1000: ``depthwidth table schemes``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ..architecture import Transformer
from ..errors import InputError
from ..initialization import recipe, schemes
from ..layers import Residual, Stack
from .diagnosis import SEVERITIES, diagnose, gradient_log_normal

DEPTHS = (12, 192, 1000)
MADE_FOR = {
    "t-fixup": ("none",), "rezero": ("none",), "skipinit": ("none",),
    "deepnorm": ("post",), "admin": ("post",), "layernorm-scaling": ("pre",),
}  # fmt: skip
"""Placements of norms that a scheme is made for, where it is not made for both; its scales mean something else elsewhere."""

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
    ratio of the second moment behind the last block to that behind the first (`growth`), the correlation of two tokens behind
    the last (`correlation`), the ratio of the gradient's second moment behind the first block to that behind the last
    (`gradient`); `gradient_low` and `gradient_high`, between which two draws of the weights in three lie at this width once
    tokens have aligned, for post-norm; `verdict` (of :func:`~depthwidth.analysis.diagnosis.diagnose`) and `because`, what
    stands out.

    Raises
    ------
    InputError
        if there is no such scheme, or a size is not a positive whole number.

    Notes
    -----
    Deep post-norm stacks without residual scaling are where a single number fails: their gradient is log-normal over draws, and
    the band is what one run will see. Schemes that wait for training to grow (ReZero, SkipInit) or act through learning rates
    (muP and its kin) are seen here at initialisation alone.
    """
    return [row for name in (schemes() if names is None else names) for row in _rows(name, tuple(depths), width, context)]


def _rows(name: str, depths: tuple[int, ...], width: int, context: int) -> Iterator[dict[str, Any]]:
    for norms in MADE_FOR.get(name, ("pre", "post")):
        for depth in depths:
            tree = reference_tree(depth, norms, width, context)
            yield {"scheme": name, "norms": norms, "depth": depth, **_measured(tree, name, norms)}


def reference_tree(depth: int, norms: str, width: int = 1024, context: int = 256) -> Transformer:
    """The network of the table; with ``none`` its norms are taken out."""
    tree = Transformer(
        depth, width, max(1, width // 64), vocab=32000, context=context, kind="encoder",
        placement="post" if norms == "post" else "pre", logit_scale=0.0 if norms == "none" else None,
    )  # fmt: skip
    if norms != "none":
        return tree
    # Inputs of size 1/sqrt(width) that no norm enlarges give scores a variance of 1e-6 and less, which is taken as 0 here: the
    # integrals are then the same in every block.
    return Transformer.of_parts(tree.stem, _bare(tree.encoder), None, tree.head, tree.context)


def _bare(stack: Stack | None) -> Stack | None:
    if stack is None:
        return None

    def bare(part: Residual) -> Residual:
        return replace(part, norm_in=None, norm_out=None, norm_stream=None)

    repeats = tuple(
        replace(
            repeat,
            block=replace(repeat.block, attention=bare(repeat.block.attention), feed_forward=bare(repeat.block.feed_forward)),
        )
        for repeat in stack.repeats
    )
    return replace(stack, repeats=repeats, norm=None)


def _measured(tree: Transformer, name: str, norms: str) -> dict[str, Any]:
    made = recipe(tree, name)
    try:
        findings = {f.name: f for f in diagnose(tree, made, remedies=(), finite_width=False)}
    except InputError as error:
        nothing = dict.fromkeys(("growth", "correlation", "gradient", "gradient_low", "gradient_high"))
        return {**nothing, "verdict": "problem", "because": f"not predicted: {error}"}
    gradient = findings["gradient_ratio"].value
    drift, variance = gradient_log_normal(tree, made) if norms == "post" else (0.0, 0.0)
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
    """The rows as the page ``docs/schemes.md``: a table for each placement, a line for each scheme."""
    depths = sorted({row["depth"] for row in rows})
    lines = [_HEAD]
    for norms, title in _TITLES.items():
        chosen = [row for row in rows if row["norms"] == norms]
        if not chosen:
            continue
        lines.append(f"\n## {title}\n")
        lines.append("| scheme | " + " | ".join(f"{depth} layers" for depth in depths) + " | stands out |")
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

What `propagate` says each initialisation scheme does, for an encoder 1024 wide with GELU, 256 tokens and 32,000 words, without
dropout. `depthwidth table schemes` computes it again (`--csv` and `--json` give a row a depth), and
`python -m depthwidth.analysis.scheme_table > docs/schemes.md` writes this page.

Each cell: how much the signal's second moment grows from behind the first block to behind the last / the correlation of two
tokens behind the last / the gradient's second moment behind the first block over that behind the last. All at infinite width.
Behind post-norm stacks a band stands in brackets: at this width, two draws of the weights in three lie in it once tokens have
aligned. Where it is wide, no single number describes a run, and the predicted mean over draws is one that hardly any draw has.
GELU hands a little more back than on, which a thousand unscaled post-norm layers turn into powers of ten; those cells are an
exponential extrapolated far beyond what has been simulated (N/d up to 1.5, ReLU).

All of it is initialisation. Schemes that act through learning rates (muP, depth-muP, CompleteP) or let branches grow from zero
(ReZero, SkipInit) are only seen from that side. A scheme made for one placement of norms stands under that one alone.
Thresholds are those of `depthwidth describe`."""


if __name__ == "__main__":
    import sys

    sys.stdout.write(scheme_document(scheme_rows()))
