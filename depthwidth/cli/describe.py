"""``depthwidth describe``: the command and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .inputs import recipe_of
from .options import COUNT, DTYPES, formats, scheme_option
from .output import emit, fitted_range, print_facts, print_table

if TYPE_CHECKING:
    from ..analysis.description import Description


@click.command()
@click.argument("config")
@click.option("--context", type=COUNT, help="Length of a sequence  [the model's].")
@click.option("--source", type=COUNT, help="Length of the encoder's sequence  [as --context].")
@click.option("--batch", type=COUNT, default=1, help="Sequences at once  [1].")
@click.option("--masked", is_flag=True, help="Leave attention scores behind the causal mask out of FLOPs.")
@click.option("--dtype", default="bf16", show_default=True, help=f"Number format: {DTYPES}.")
@scheme_option("Scheme whose signal and gradient are judged.")
@click.option("--diagnosis/--no-diagnosis", "diagnosed", default=None, help="Judge them  [where it takes no time to speak of].")
@formats
def describe(
    config: str,
    context: int | None,
    source: int | None,
    batch: int,
    masked: bool,
    dtype: str,
    scheme: str,
    diagnosed: bool | None,
    form: str | None,
) -> None:
    """Counts, verdict and diagnosis for a Hugging Face CONFIG (a config.json, or the folder that holds it)."""
    from ..analysis.description import describe as make_description
    from ..architecture import Transformer

    tree, made = (Transformer.from_config(config), "shipped") if diagnosed is False else recipe_of(config, scheme)
    found = make_description(
        tree,
        context,
        source=source,
        batch=batch,
        masked=masked,
        dtype=dtype,
        init=made,
        diagnosed=diagnosed,
    )
    emit(form, found.to_dict() if form == "json" else None, found.rows(), lambda: print_description(found))


def print_description(found: Description) -> None:
    """A description: the shape, its counts and costs, the rules' verdicts, the components, and what moments say of training."""
    shape, counts, costs = found.shape(), found.parameters(), found.costs
    lengths = f"{costs['counted_context']} tokens" + (
        f" after {costs['counted_source']}" if costs["counted_source"] is not None else ""
    )
    print_facts({name.replace("_", " "): f"{value}" for name, value in shape.items() if value is not None})
    print_facts({name.replace("_", " "): f"{value:,}" for name, value in counts.items()})
    click.echo(f"\nAt {lengths}, batch {costs['counted_batch']}, {costs['dtype']}, "
                  f"scores behind the mask {'left out' if costs['masked'] else 'counted'}:")  # fmt: skip
    print_facts(found.cost_facts())
    _print_verdicts(found)
    _print_components(found)
    _print_diagnosis(found)
    for finding in found.findings():
        click.echo(f"Note: {finding}")


def _print_verdicts(found: Description) -> None:
    print_table(
        ("rule", "best depth", "best width", "width is", "loss penalty", "kind", "fitted range"),
        (
            (
                v.rule, f"{v.best_depth:.1f}", f"{v.best_width:,.0f}", f"{v.width_ratio:.2f} x", f"{v.loss_penalty:.2%}",
                v.kind, fitted_range(v.extrapolated),
            )
            for v in found.verdicts
        ),
        title="The shape, by rules at the same number of parameters without the embedding (those that a token meets)",
        words=("kind", "fitted range"),
    )  # fmt: skip


def _print_components(found: Description) -> None:
    print_table(
        ("component", "kind", "copies", "parameters", "active", "forward FLOPs"),
        (
            (
                row["site"], row["component"], str(row["copies"]), f"{row['parameters']:,}",
                f"{row['active_parameters']:,}", f"{float(row['forward_flops']):.4g}",
            )
            for row in found.rows()
        ),
        title="Components",
        words=("kind",),
    )  # fmt: skip


def _print_diagnosis(found: Description) -> None:
    """Each kind of finding in a line, and those that stand out in a sentence."""
    if found.diagnosis:
        judged = found.diagnosed_dtype
        if judged != found.dtype:
            judged = f"{judged} beside weights of {found.dtype}"
        print_table(
            ("finding", "value", "threshold", "verdict", "where"),
            (
                (
                    f.name.replace("_", " "), f"{f.value:.4g}", f"{'<' if f.rule.at_most else '>'} {f.threshold:.3g}",
                    f.severity, f.site,
                )
                for f in found.diagnosis
            ),
            title=f"Signal and gradient at initialisation, {found.diagnosed_context:,} tokens, {judged} (headroom in bits)",
            words=("verdict", "where"),
        )  # fmt: skip
    for f in found.diagnosis:
        if f.severity != "fine":
            click.echo(f.advice)
    if found.undiagnosed:
        click.echo(f"Note: {found.undiagnosed}")
