"""``depthwidth heads``: the command and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, shown
from ..quantities import format_count
from .options import COUNT, NumberFirst, formats
from .output import emit, print_table

if TYPE_CHECKING:
    from ..planning.head_allocation import Allocation


@click.command(cls=NumberFirst)
@click.argument("model", required=False)
@click.option("--width", type=COUNT, help="Width of a new design.")
@click.option("--layers", type=COUNT, help="Its layers.")
@click.option("--context", type=COUNT, help="Tokens a query can attend to  [the model's].")
@click.option("--heads", type=COUNT, help="Heads as they are  [width / head-dim].")
@click.option("--head-dim", type=COUNT, help="Dimensions of a head as they are  [128 for widths from 1536, 64 below].")
@click.option("--kv-heads", type=COUNT, help="Key and value heads, which heads stay multiples of  [as many as heads].")
@click.option("--value-dim", type=COUNT, help="Dimensions of a value, which stay in a design  [head-dim].")
@click.option("--multiple", type=COUNT, help="Head dimensions are multiples of N  [8].")
@click.option("--tensor-parallel", "--tp", type=COUNT, help="Heads divide among N devices  [1].")
@click.option("--budget", type=COUNT, help="Attention parameters of all layers together, as 1.5B: the exact optimum.")
@click.option("--features", type=COUNT, help="Positions or features each layer must deliver: at least as many heads.")
@click.option("--diffuse", metavar="LAYERS", help="Layers without look-ups, as 20-31,3, of an assumed power-law spectrum.")
@click.option("--positional", metavar="LAYERS", help="Layers that attend by position alone.")
@click.option("--share", type=float, help="Dimensions of look-up layers in units of 2 ln n  [2].")
@click.option("--tolerance", type=float, help="Relative error of diffuse layers  [0.05].")
@click.option("--measure", is_flag=True, help="Measure MODEL, a folder or config.json, on a text: no assumptions.")
@click.option("--keep-values", is_flag=True, help="With --measure: values stay as they are, queries and keys alone are cut.")
@click.option("--text", metavar="FILE", help="Text to measure on  [Python's own library].")
@click.option("--plot", metavar="FILE", help="Draw rank and entropy collapse over query-key gain and residual gain.")
@formats
def heads(
    model: str | None, measure: bool, keep_values: bool, text: str | None, plot: str | None, form: str | None, **options: Any
) -> None:
    """Heads and head dimension of every layer, of a design (--width --layers --context) or of MODEL, with the reason."""
    from ..planning.head_allocation import allocate_heads, design_needs, layer_ranges, present_shape

    if plot is not None:
        from .plots import check_target, plot_trainability

        check_target(plot)
    whole = ("width", "layers", "context", "heads", "head_dim", "kv_heads", "value_dim", "multiple", "tensor_parallel",
             "budget", "features")  # fmt: skip
    given: dict[str, Any] = {name: options[name] for name in whole if options[name] is not None}
    if text is not None and not measure:
        raise InputError("--text has a meaning with --measure only")
    if keep_values and not measure:
        raise InputError("--keep-values has a meaning with --measure only: values of a design stay as they are")
    if measure:
        found, report = _measured_heads(model, text, not keep_values, given, options)
    else:
        shape = {} if model is None else present_shape(model)
        for name in ("width", "layers"):
            if model is not None and name in given:
                raise InputError(f"--{name} is {shown(model)}'s own; give it for a new design only")
        given = shape | given
        missing = [f"--{name}" for name in ("width", "layers", "context") if given.get(name) is None]
        if missing:
            raise InputError(f"heads needs {', '.join(missing)}" + ("" if model else ", or a model's folder or config.json"))
        width, layers, context = (given.pop(name) for name in ("width", "layers", "context"))
        kinds = {
            layer: kind
            for kind in ("diffuse", "positional") if options[kind] is not None
            for layer in layer_ranges(options[kind], layers)
        }  # fmt: skip
        assumed = {name: options[name] for name in ("share", "tolerance") if options[name] is not None}
        needs = design_needs(layers, context, kinds=kinds, **assumed)
        found, report = allocate_heads(width, context, needs, **given), None
    if plot is not None:
        plot_trainability(plot, length=found.context, depth=len(found.layers))
    data = found.to_dict() | ({} if report is None else {"measured": report.rows()})
    emit(form, data, found.rows(), lambda: print_heads(found, report))


def _measured_heads(
    model: str | None, text: str | None, values: bool, given: dict[str, Any], options: dict[str, Any]
) -> tuple[Any, Any]:
    """An existing model's allocation and what was measured for it."""
    if model is None:
        raise InputError("--measure needs a model's folder or config.json")
    for name, value in {**given, **options}.items():
        if value is not None and name not in (
            "context",
            "multiple",
            "tensor_parallel",
            "budget",
            "features",
            "share",
            "tolerance",
        ):
            raise InputError(f"--{name.replace('_', '-')} has no meaning with --measure: the model says it")
    try:
        from verify.measure.heads import measure_heads
    except ImportError:
        raise InputError("--measure needs torch and transformers; pip install 'depthwidth[hf]'") from None

    report = measure_heads(model, text=text, context=given.pop("context", None))
    assumed = {name: options[name] for name in ("share", "tolerance") if options[name] is not None}
    return report.allocate(values=values, **assumed, **given), report


def print_heads(found: Allocation, report: Any) -> None:
    """An allocation of heads, equal layers in one line, and before it what was measured of each head, if anything was."""
    if report is not None:
        _print_measured_heads(report)
    _print_layers(found)
    total = found.parameters + found.parameters_saved
    saved = f" ({found.parameters_saved / total:.1%})"
    click.echo(f"{format_count(found.parameters)} attention parameters, {format_count(found.parameters_saved)}{saved} fewer.")
    for note in found.notes:
        click.echo(f"Note: {note}.")


def _print_measured_heads(report: Any) -> None:
    print_table(
        ("layer", "head", "kind", "logit std", "tokens attended", "entropy", "largest weight", "by position", "rank 99 %"),
        (
            (
                str(r["layer"]), str(r["head"]), r["kind"], f"{r['logit_std']:.3f}", f"{r['effective_tokens']:.1f}",
                f"{r['entropy']:.3f}", f"{r['largest_weight']:.3f}", f"{r['positional_share']:.1%}", str(r["rank_99"]),
            )
            for r in report.rows()
        ),
        title=f"Measured on {report.tokens:,} tokens of {report.source}, {report.context} at a time",
        words=("kind",),
    )  # fmt: skip


def _print_layers(found: Allocation) -> None:
    print_table(
        ("layers", "heads", "query, key dims", "value dims", "error", "of it values", "parameters saved", "FLOPs saved",
         "criterion; values"),
        (
            (
                f"{first.layer}" if first is last else f"{first.layer} to {last.layer}",
                f"{last.heads}" + (f" ({last.kv_heads} kv)" if last.kv_heads != last.heads else ""), str(last.head_dim),
                str(last.value_dim), f"{last.error:.2%}", f"{last.value_error:.2%}", format_count(last.parameters_saved),
                format_count(last.flops_saved), f"{last.criterion}; {last.value_criterion}",
            )
            for first, last in found.runs()
        ),
        title=f"Heads at {found.context:,} tokens; savings are a layer's, FLOPs per token forward",
        words=("criterion; values",),
    )  # fmt: skip
