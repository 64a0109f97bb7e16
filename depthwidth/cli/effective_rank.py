"""``depthwidth effective-rank``: the command and its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .options import COUNT, NUMBER, formats, option
from .output import emit, print_table, say

if TYPE_CHECKING:
    from ..analysis.head_ranks import HeadRanks


@click.command("effective-rank")
@click.argument("checkpoint")
@click.argument("config", required=False)
@option("--tolerance", type=NUMBER, help="Share of the largest singular value below which one is 0.", default=1e-3)
@option("--per-head", is_flag=True, help="Print each head, not each layer.")
@option("--decay", type=NUMBER, help="Coupled weight decay of the training: adds certified ranks (requires depthwidth[hf]).")
@option("--text", metavar="FILE", help="With --decay: the text of the training.", show_default="Python's standard library")
@option("--context", type=COUNT, help="With --decay: tokens per sequence.", show_default="the model's, at most 1024")
@formats
def effective_rank(
    checkpoint: str,
    config: str | None,
    tolerance: float,
    per_head: bool,
    decay: float | None,
    text: str | None,
    context: int | None,
    form: str | None,
) -> None:
    """Measure the ranks that the heads of a CHECKPOINT use.

    CHECKPOINT is a safetensors file, its index, or a folder with one; CONFIG is a config.json, by default that of the same
    folder. Two products are measured for each head: of query and key maps, and of value and output maps. The tensors are read
    one at a time, without torch. The row of a layer shows medians over its heads.

    \b
    effective  exponential of the entropy of the singular values' shares
    stable     squared Frobenius norm over squared spectral norm
    nuclear    nuclear norm over spectral norm
    numerical  singular values above --tolerance of the largest
    balance    half the squared norms of both factors over the nuclear norm: 1 if weight decay has balanced them

    With --decay, CHECKPOINT must be a folder. The gradient of the loss on a text with respect to each product then certifies
    the rank that this decay allows at a minimum. The decay must have been part of the gradient, as in SGD; AdamW's decay has
    no certificate.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..analysis.head_ranks import head_ranks
    from ..analysis.trained_weights import open_trained

    for name, value in (("--text", text), ("--context", context)):
        if value is not None and decay is None:
            raise InputError(f"{name} applies with --decay only")
    if config is not None and decay is not None:
        raise InputError("with --decay CHECKPOINT is a folder, whose config.json is read; give no CONFIG")
    found = head_ranks(open_trained(checkpoint, config), tolerance)
    if decay is None:
        emit(form, found.to_dict() if form == "json" else None, found.rows(), lambda: print_ranks(found, per_head=per_head))
        return
    certificates, source = _certificates(checkpoint, decay, text, context, tolerance)

    def print_both() -> None:
        print_ranks(found, per_head=per_head)
        _print_certificates(certificates, source, decay)

    emit(form, found.to_dict() | {"certificates": certificates}, found.rows(), print_both)


def _certificates(
    checkpoint: str, decay: float, text: str | None, context: int | None, tolerance: float
) -> tuple[list[dict[str, Any]], str]:
    try:
        from verify.measure.head_certificates import certify_folder
    except ImportError:
        raise InputError("--decay needs torch and transformers; pip install 'depthwidth[hf]'") from None
    rows, source = certify_folder(checkpoint, decay, text=text, context=context, share=tolerance)
    return [row.to_dict() for row in rows], source


def _print_certificates(rows: list[dict[str, Any]], source: str, decay: float) -> None:
    say("")
    print_table(
        ("layer", "key head", "product", "dimensions", "certified", "numerical", "effective", "largest / decay",
         "misalignment"),
        (
            (
                f"{row['stack']} {row['layer']}", str(row["kv_head"]), row["product"], str(row["dim"]),
                str(row["predicted_rank"]), str(row["numerical_rank"]), f"{row['effective_rank']:.1f}",
                f"{row['excess'] + 1:.3g}", f"{row['misalignment']:.3g}",
            )
            for row in rows
        ),
        title=f"Ranks that the gradient certifies at a decay of {decay:g}, on {source}",
        words=("product",),
    )  # fmt: skip
    far = sum(not row["optimal"] for row in rows)
    if far:
        say(f"{far} of {len(rows)} products are not at a minimum of this decay; their certified ranks say nothing.")


def print_ranks(found: HeadRanks, *, per_head: bool = False) -> None:
    """Print the ranks of layers, or of heads, and a sentence for each product."""
    if per_head:
        print_rank_table(found.rows(), "head")
    else:
        print_rank_table(found.layers(), "heads")
    for sentence in found.sentences():
        say(f"{sentence}.")
    for note in found.notes:
        say(f"Note: {note}.")


def print_rank_table(rows: Iterable[Mapping[str, Any]], count: str) -> None:
    """Print a table of ranks: one row per layer with its number of heads, or per head with its number."""
    print_table(
        ("layer", count, "product", "dimensions", "effective", "numerical", "stable", "nuclear", "spectral norm", "balance",
         "effective at start"),
        (
            (
                f"{row['stack']} {row['layer']}", str(row[count]), row["product"], str(row["dim"]), _range(row),
                f"{row['numerical_rank']:g}", f"{row['stable_rank']:.1f}", f"{row['nuclear_rank']:.1f}",
                f"{row.get('largest_spectral_norm', row.get('spectral_norm')):.4g}", f"{row['balance']:.3f}",
                f"{row['start']:.1f}",
            )
            for row in rows
        ),
        title="Ranks of the products of a head's maps",
        words=("product",),
    )  # fmt: skip


def _range(row: Mapping[str, Any]) -> str:
    if "least_effective_rank" not in row:
        return f"{row['effective_rank']:.1f}"
    return f"{row['effective_rank']:.1f} ({row['least_effective_rank']:.1f} to {row['largest_effective_rank']:.1f})"
