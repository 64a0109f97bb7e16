"""``depthwidth describe``: the command and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import click

from ..errors import InputError
from ..quantities import format_bytes
from .inputs import norms_option, recipe_of, say_source
from .mixture_page import print_mixture
from .options import (
    COUNT,
    DTYPES,
    Sections,
    formats,
    option,
    parallel_options,
    parallelism_of,
    scheme_option,
    setup_of,
    setup_options,
)
from .output import emit, fitted_range, print_facts, print_table, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verify.measure.library import LibraryCounts

    from ..analysis.description import Description
    from ..analysis.diagnosis import Finding
    from ..analysis.trained_description import TrainedDescription
    from ..architecture.hf import NoTreeError, SourcedFields, Towers
    from ..stored_counts import StoredCounts


class _Describe(Sections):
    sections: ClassVar = {"Devices": "--data-parallel", "Training": "--optimizer", "Output": "--json"}


@click.command(cls=_Describe)
@click.argument("config")
@option("--context", type=COUNT, help="Sequence length in tokens.", show_default="the model's context")
@option("--source", type=COUNT, help="Sequence length of the encoder.", show_default="as --context")
@option("--batch", type=COUNT, default=1, help="Sequences per batch.")
@option("--masked", is_flag=True, help="Exclude attention scores hidden by the causal mask from FLOPs.")
@option("--dtype", metavar="NAME", default="bf16", help=f"Number format: {DTYPES}.")
@option("--cache-dtype", metavar="NAME", help="Number format of keys and values.", show_default="as --dtype")
@scheme_option("Initialisation scheme to diagnose; `depthwidth init` lists them.")
@norms_option
@option("--trained", metavar="CHECKPOINT", help="Add ranks of heads, norms and capacity of trained weights (safetensors).")
@option("--diagnosis/--no-diagnosis", "diagnosed", default=None, help="Run the diagnosis.", show_default="only if it is fast")
@parallel_options
@setup_options
@formats
def describe(
    config: str,
    context: int | None,
    source: int | None,
    batch: int,
    masked: bool,
    dtype: str,
    cache_dtype: str | None,
    scheme: str,
    no_norms: bool,
    trained: str | None,
    diagnosed: bool | None,
    form: str | None,
    **training: Any,
) -> None:
    """Count the model in a Hugging Face CONFIG, judge its shape, and diagnose its initialisation.

    CONFIG is a config.json, the folder that holds it, or the name of a repository of the hub, owner/name or
    owner/name@revision; its config.json is read from the local cache or else from the hub. CONFIG may also be a GGUF file, or
    a safetensors file in the folder of its config.json; only their headers are read. Weights are read only with --trained.
    Four tables are printed:

    \b
    counts      parameters, FLOPs per token and memory, exact
    rules       the best shape by each rule at equal size, and the loss penalty
    components  parameters and FLOPs of each component
    diagnosis   findings on signal and gradient at initialisation

    Options on devices and training count the memory of each device. --frozen takes components as the table names them.

    Each finding compares one predicted number with a threshold: gradients that vanish or explode, tokens that become alike,
    saturated attention, headroom of the number format, spread between seeds. A finding beyond its threshold is explained, with
    a remedy, its effect, and the source of the threshold.

    With --trained, three more tables follow: the ranks that heads use, norms of matrices, and measures of capacity. The
    checkpoint is read one tensor at a time, without torch.

    A model of two towers, one for images and one for texts, is described as two trees, with their total parameters and those
    outside both. --context applies to texts.

    A model without a tree here is built by the transformers library without weights, if it is installed: its counts are exact,
    but there are no rules and no diagnosis.
    """  # noqa: D301  (a backspace tells click to keep the lines of a paragraph)
    from ..analysis.description import describe as make_description
    from ..architecture import Transformer
    from ..architecture.hf import NoConfigError, NoTreeError, notes_on, read_source, read_towers

    try:
        fields = read_source(config)
    except NoConfigError as error:
        _refuse_trained(trained, "no tree")
        stored = error.counts
        emit(form, stored.to_dict(), stored.rows(), lambda: _print_stored(stored))
        return
    conventions: dict[str, Any] = {
        "source": source, "batch": batch, "masked": masked, "dtype": dtype, "diagnosed": diagnosed, "cache_dtype": cache_dtype,
        "parallelism": parallelism_of(training), "setup": setup_of(training, dtype),
    }  # fmt: skip
    try:
        towers = read_towers(fields)
        if towers is not None:
            _refuse_trained(trained, "two towers")
            _describe_towers(towers, fields, scheme, form, context, conventions, norms=not no_norms)
            return
        tree, made = _tree_and_recipe(fields, scheme, diagnosed, norms=not no_norms)
    except NoTreeError as error:
        _refuse_trained(trained, "no tree")
        _check_plain(error, conventions, dtype)
        counts = _library_counts(fields, error, context, source=source, batch=batch)

        def page() -> None:
            _print_counts(counts, dtype)
            say_source(fields)

        emit(form, counts.to_dict(dtype) | {"read_from": fields.read_from} if form == "json" else None, counts.rows(), page)
        return
    found = make_description(
        tree,
        context,
        init=made,
        notes=[*notes_on(fields), *_disagreements(fields, tree, norms=not no_norms)],
        read_from=fields.read_from,
        **conventions,
    )
    if trained is None:
        emit(form, found.to_dict() if form == "json" else None, found.rows(), lambda: print_description(found))
        return
    from ..analysis.trained_description import describe_trained
    from ..analysis.trained_weights import weights_of
    from ..hub import local_checkpoint
    from ..stored_tensors import open_tensors

    tensors = open_tensors(local_checkpoint(trained))
    weights = describe_trained(weights_of(tensors, Transformer.from_config(fields), fields))

    def print_both() -> None:
        print_description(found)
        print_trained(weights)

    emit(form, found.to_dict() | {"trained": weights.to_dict()} if form == "json" else None, found.rows(), print_both)


def _refuse_trained(trained: str | None, what: str) -> None:
    if trained is not None:
        raise InputError(f"--trained reads the weights of one tree, and this configuration has {what}")


def _tree_and_recipe(fields: Any, scheme: str, diagnosed: bool | None, *, norms: bool) -> tuple[Any, Any]:
    """The tree of a configuration, and the recipe of a scheme for it; the scheme itself if there is no recipe."""
    from ..architecture import Transformer
    from ..initialization import NoRecipeError

    if diagnosed is not False:
        try:
            return recipe_of(fields, scheme, norms=norms)
        except NoRecipeError:  # then there is no diagnosis either, as its own sentence says
            pass
    tree = Transformer.from_config(fields)
    return tree if norms else tree.without_norms(), "shipped" if diagnosed is False else scheme


def _describe_towers(
    towers: Towers,
    whole: SourcedFields,
    scheme: str,
    form: str | None,
    context: int | None,
    conventions: dict[str, Any],
    *,
    norms: bool,
) -> None:
    """Print the description of both towers and the sum of their parameters."""
    from ..analysis.description import describe as make_description
    from ..architecture.hf import notes_on

    found = {}
    for name, fields in towers.configs.items():
        tree, made = _tree_and_recipe(fields, scheme, conventions["diagnosed"], norms=norms)
        length = None if tree.stem.images else context
        found[name] = make_description(tree, length, init=made, notes=notes_on(fields), **conventions)
    facts: dict[str, Any] = {
        "model_type": towers.model_type,
        "parameters": towers.parameters,
        **{f"{name}_parameters": one.tree.parameters for name, one in found.items()},
        "other_parameters": towers.joint,
    }
    rows = [{"tower": name, **row} for name, one in found.items() for row in one.rows()]

    def print_page() -> None:
        words = {name: value if isinstance(value, str) else f"{value:,}" for name, value in facts.items()}
        print_facts({name.replace("_", " "): word for name, word in words.items()})
        say(f"Outside of both towers: {towers.words}.")
        say_source(whole)
        for name, one in found.items():
            say(f"The tower for {_TOWERS[name]}:")
            print_description(one)

    data = {**facts, "read_from": whole.read_from, "towers": {name: one.to_dict() for name, one in found.items()}}
    emit(form, data, rows, print_page)


_TOWERS = {"text": "texts", "vision": "images"}


def _check_plain(error: NoTreeError, conventions: dict[str, Any], dtype: str) -> None:
    """Refuse options that a model without a tree cannot follow."""
    from ..hardware.parallelism import ONE_DEVICE, TrainingSetup

    plain = conventions["parallelism"] == ONE_DEVICE and conventions["setup"] == TrainingSetup(dtype=dtype)
    if not plain or conventions["cache_dtype"] is not None:
        raise InputError(f"the memory of devices and of caches is counted from a tree, and this model has none: {error.reason}")


def _library_counts(fields: Any, error: NoTreeError, *lengths: int | None, **options: Any) -> LibraryCounts:
    """The counts of a configuration that theory does not reach, by the transformers library."""
    from verify.measure.library import library_counts

    return library_counts(fields, *lengths, reason=error.reason, **options)


def _print_counts(found: LibraryCounts, dtype: str) -> None:
    """Print counts without a theory: sizes, operations, modules, notes."""
    data = found.to_dict(dtype)
    print_facts({"model type": found.model_type, "model class": found.model_class, "transformers": found.transformers})
    print_facts({name.replace("_", " "): f"{data[name]:,}" for name in _COUNTED})
    costs = {"weights": format_bytes(data["weight_bytes"]) + f" in {dtype}"}
    if found.forward_flops is not None:
        costs["forward FLOPs"] = f"{found.forward_flops:.4g}"
    if found.flops_per_token is not None:
        costs["forward FLOPs per token"] = f"{found.flops_per_token:.4g}"
    lengths = "whole inputs" if found.tokens is None else f"{found.tokens} tokens"
    if found.source is not None:
        lengths += f" and a source of {found.source}"
    say(f"At {lengths}, batch {found.batch}:")
    print_facts(costs)
    print_table(
        ("module", "class", "copies", "parameters"),
        ((row["site"], row["component"], str(row["copies"]), f"{row['parameters']:,}") for row in found.rows()),
        title="Modules",
        words=("class",),
    )
    for note in (*found.notes, *([f"the FLOPs were not counted: {found.uncounted}"] if found.uncounted else [])):
        say(f"Note: {note}.")


def _disagreements(fields: SourcedFields, tree: Any, *, norms: bool) -> list[str]:
    """Notes on tensors of the file that the tree of its configuration does not have, and on missing ones."""
    if fields.tensors is None or not norms:
        return []
    from ..analysis.stored_check import disagreements

    return disagreements(fields.tensors, tree, fields)


def _print_stored(found: StoredCounts) -> None:
    """Print the counts of stored tensors: sizes, modules, notes."""
    size = {} if found.bytes is None else {"bytes of weights": format_bytes(found.bytes)}
    print_facts({"parameters": f"{found.parameters:,}", "tensors": f"{found.tensors:,}", **size, "read from": found.read_from})
    rows, most = found.rows(), 200
    print_table(
        ("module", "number format", "copies", "parameters"),
        ((row["site"], row["dtype"], f"{row['copies']:,}", f"{row['parameters']:,}") for row in rows[:most]),
        title="Modules",
        words=("number format",),
    )
    if len(rows) > most:
        say(f"{len(rows) - most:,} more kinds of module are listed by --csv.")
    for note in found.notes:
        say(f"Note: {note}.")


_COUNTED = ("parameters", "non_embedding_parameters", "embedding_parameters")


def print_description(found: Description) -> None:
    """Print a description: dimensions, counts and costs, verdicts of the rules, components, findings, notes."""
    shape, counts, costs = found.shape(), found.parameters(), found.costs
    lengths = f"{costs['counted_context']} tokens" + (
        f" and a source of {costs['counted_source']}" if costs["counted_source"] is not None else ""
    )
    print_facts({name.replace("_", " "): f"{value}" for name, value in shape.items() if value is not None})
    print_facts({name.replace("_", " "): f"{value:,}" for name, value in counts.items()})
    say(f"At {lengths}, batch {costs['counted_batch']}, {costs['dtype']}, "
                  f"attention scores hidden by the mask {'excluded' if costs['masked'] else 'included'}:")  # fmt: skip
    print_facts(found.cost_facts())
    _print_verdicts(found)
    if found.mixture:
        print_mixture(found.mixture, "20 training tokens per active parameter")
    _print_components(found)
    _print_diagnosis(found)
    for finding in found.findings():
        say(f"Note: {finding}.")


def _print_verdicts(found: Description) -> None:
    from ..planning.caveats import with_error

    print_table(
        ("rule", "best depth", "best width", "width / best", "loss penalty", "kind", "fitted range"),
        (
            (
                v.rule, f"{v.best_depth:.1f}", f"{v.best_width:,.0f}", f"{v.width_ratio:.2f}",
                with_error(v.loss_penalty, v.loss_penalty_stderr),
                v.kind, fitted_range(v.extrapolated),
            )
            for v in found.verdicts
        ),
        title="Best shape by each rule at equal non-embedding (active) parameters",
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


def _group_findings(findings: Sequence[Finding]) -> list[tuple[Finding, str, str]]:
    """Findings with their names and sites, the most severe first; overflows, and underflows, that are fine share a line each.

    The finding of such a line is the one nearest to its threshold.
    """
    from ..analysis.diagnosis.base import SEVERITIES

    lines: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        kind = one.name.partition("_")[0] if one.name.startswith(("overflow_", "underflow_")) else one.name
        lines.setdefault((kind, kind if one.severity == "fine" else one.name), []).append(one)
    found = []
    for (kind, _), alike in lines.items():
        worst = min(alike, key=lambda one: one.value) if len(alike) > 1 else alike[0]
        name = worst.name if len(alike) == 1 else f"{kind}, {len(alike)} kinds of tensor"
        found.append((worst, name.replace("_", " "), worst.site))
    return sorted(found, key=lambda line: -SEVERITIES.index(line[0].severity))


def _print_diagnosis(found: Description) -> None:
    """Print one line per finding, or per group of equal ones, and a sentence on each that is not fine."""
    if found.diagnosis:
        judged = found.diagnosed_dtype
        if judged != found.dtype:
            judged = f"{judged} (weights in {found.dtype})"
        print_table(
            ("finding", "verdict", "value", "site"),
            [(names, f.severity, f.comparison, site) for f, names, site in _group_findings(found.diagnosis)],
            title=f"Diagnosis at initialisation, {found.diagnosed_context:,} tokens, {judged} (overflow and underflow in bits)",
            words=("verdict", "value", "site"),
        )
    for f, _, _ in _group_findings(found.diagnosis):
        if f.severity != "fine":
            say(f.advice)
    if found.undiagnosed:
        say(f"Note: {found.undiagnosed}.")


def print_trained(found: TrainedDescription) -> None:
    """Print trained weights: ranks of heads by layer, norms by kind of matrix, measures of capacity, notes."""
    from .effective_rank import print_rank_table

    if found.ranks is not None:
        print_rank_table(found.ranks.layers(), "heads")
        for sentence in found.ranks.sentences():
            say(f"{sentence}.")
        say("")
    print_table(
        ("matrix", "copies", "outputs", "inputs", "spectral norm", "largest", "stable rank", "Frobenius norm"),
        (
            (
                row["site"], str(row["copies"]), f"{row['outputs']:,}", f"{row['inputs']:,}", _number(row["spectral_norm"]),
                _number(row["largest_spectral_norm"]), _number(row["stable_rank"]), _number(row["frobenius_norm"]),
            )
            for row in found.norms()
        ),
        title="Norms of the matrices, medians over blocks (embedding tables have no spectral norm)",
    )  # fmt: skip
    print_table(
        ("measure", "value", "nature", "formula"),
        ((one.name, _number(one.value), one.nature, one.formula) for one in found.capacity),
        title="Capacity, from the weights alone",
        words=("nature", "formula"),
    )
    for note in found.notes:
        say(f"Note: {note}.")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
