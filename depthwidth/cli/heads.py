"""``depthwidth heads``: the command and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, shown
from ..quantities import format_count
from .inputs import recipe_of, say_source
from .options import COUNT, NUMBER, NumberFirst, formats, option
from .output import emit, print_table, say
from .plots import picture_asked, plot_options

if TYPE_CHECKING:
    from ..planning.head_allocation import Allocation


@click.command(cls=NumberFirst)
@click.argument("model", required=False)
@option("--width", type=COUNT, help="Width of a new design.")
@option("--layers", type=COUNT, help="Number of layers of a new design.")
@option("--context", type=COUNT, help="Tokens that a query can attend to.", show_default="the model's context")
@option("--heads", type=COUNT, help="Present number of heads.", show_default="width / head dimension")
@option("--head-dim", type=COUNT, help="Present head dimension.", show_default="128 from width 1536, 64 below")
@option(
    "--kv-heads", type=COUNT, help="Number of key-value heads; query heads remain a multiple of it.", show_default="as --heads"
)
@option("--value-dim", type=COUNT, help="Value dimension (fixed for a new design).", show_default="as --head-dim")
@option("--multiple", type=COUNT, help="Step of head dimensions.", show_default="8")
@option("--tensor-parallel", "--tp", type=COUNT, help="Number of devices that divide the heads.", show_default="1")
@option("--budget", type=COUNT, help="Attention parameters of all layers together, e.g. 1.5B: finds the exact optimum.")
@option("--features", type=COUNT, help="Positions or features per layer: each layer gets at least as many heads.")
@option("--diffuse", metavar="LAYERS", help="Layers without retrieval, e.g. 20-31,3; an assumed power-law spectrum.")
@option("--positional", metavar="LAYERS", help="Layers that attend by position alone, e.g. 0-2.")
@option("--share", type=NUMBER, help="Dimensions of retrieval layers in units of 2 ln n.", show_default="2")
@option("--tolerance", type=NUMBER, help="Relative error allowed in diffuse layers.", show_default="0.05")
@option("--measure", is_flag=True, help="Measure MODEL on a text instead of assuming needs (requires depthwidth[hf]).")
@option("--keep-values", is_flag=True, help="With --measure: reduce queries and keys only, not values.")
@option("--text", metavar="FILE", help="With --measure: the text.", show_default="Python's standard library")
@plot_options("Draw dimensions and error of every layer, and your heads among known models.")
@option("--plot-collapse", metavar="FILE", help="Draw rank and entropy collapse over query-key gain and residual gain.")
@formats
def heads(
    model: str | None,
    measure: bool,
    keep_values: bool,
    text: str | None,
    plot: str | None,
    plot_collapse: str | None,
    theme: str | None,
    form: str | None,
    **options: Any,
) -> None:
    """Choose heads and head dimensions of every layer, for a new design or for MODEL, with the reason.

    A new design needs --width, --layers and --context. MODEL is a Hugging Face config.json, a model's folder, or the name of a
    repository of the hub. Every layer is assumed to retrieve single tokens unless --diffuse, --positional or --measure says
    otherwise. Savings are relative to the present heads.
    """
    from ..architecture.hf import read_source
    from ..planning.head_allocation import allocate_heads, design_needs, layer_ranges, present_shape

    picture = picture_asked(plot, theme if plot is not None or plot_collapse is None else None)
    collapse = picture_asked(plot_collapse, theme if plot_collapse is not None else None)
    whole = ("width", "layers", "context", "heads", "head_dim", "kv_heads", "value_dim", "multiple", "tensor_parallel",
             "budget", "features")  # fmt: skip
    given: dict[str, Any] = {name: options[name] for name in whole if options[name] is not None}
    if text is not None and not measure:
        raise InputError("--text applies with --measure only")
    if keep_values and not measure:
        raise InputError("--keep-values applies with --measure only: a new design keeps its value dimension")
    if options["tolerance"] is not None and options["diffuse"] is None and not measure:
        raise InputError("--tolerance applies with --diffuse or --measure only")
    fields = None
    if measure:
        found, report = _measured_heads(model, text, not keep_values, given, options)
    else:
        if model is not None:
            fields = read_source(model)
        shape = {} if fields is None else present_shape(fields)
        for name in ("width", "layers"):
            if model is not None and name in given:
                raise InputError(f"--{name} is given by {shown(model)}; give it for a new design only")
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
    if picture is not None:
        picture.write("heads_figure", found, heads=options["heads"] if model is None else given.get("heads"))
    if collapse is not None:
        collapse.write("collapse_figure", found.context, len(found.layers), betas=_gains(fields, found.context))
    data = found.to_dict() | ({} if report is None else {"measured": report.rows()})

    def page() -> None:
        print_heads(found, report)
        say_source(fields)

    emit(form, data, found.rows(), page)


def _gains(fields: Any, context: int) -> tuple[float, ...]:
    """The query-key gains of a configuration's own initialisation; none of a design, or of a model without moments."""
    from ..analysis.concentration import query_key_gains

    if fields is None:
        return ()
    try:
        return query_key_gains(*recipe_of(fields, "shipped"), context=context)
    except InputError:
        return ()


def _measured_heads(
    model: str | None, text: str | None, values: bool, given: dict[str, Any], options: dict[str, Any]
) -> tuple[Any, Any]:
    """The allocation of an existing model, and the measurement it rests on."""
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
            raise InputError(f"--{name.replace('_', '-')} has no meaning with --measure: it follows from the model")
    try:
        from verify.measure.heads import measure_heads
    except ImportError:
        raise InputError("--measure needs torch and transformers; pip install 'depthwidth[hf]'") from None

    import numpy
    import torch

    assumed = {name: options[name] for name in ("share", "tolerance") if options[name] is not None}
    try:
        report = measure_heads(model, text=text, context=given.pop("context", None))
        return report.allocate(values=values, **assumed, **given), report
    except (torch.linalg.LinAlgError, numpy.linalg.LinAlgError):
        raise InputError(
            "heads: the weights are too ill-conditioned to be measured: an eigenvalue routine does not converge"
        ) from None


def print_heads(found: Allocation, report: Any) -> None:
    """Print an allocation, equal layers on one line, after the measurement of each head if there is one."""
    if report is not None:
        _print_measured_heads(report)
    _print_layers(found)
    total = found.parameters + found.parameters_saved
    saved = f" ({found.parameters_saved / total:.1%})"
    say(f"{format_count(found.parameters)} attention parameters, {format_count(found.parameters_saved)}{saved} saved.")
    for note in found.notes:
        say(f"Note: {note}.")


def _print_measured_heads(report: Any) -> None:
    print_table(
        ("layer", "head", "kind", "logit std", "effective tokens", "entropy", "largest weight", "by position", "rank for 99 %",
         "rank of weights"),
        (
            (
                str(r["layer"]), str(r["head"]), r["kind"], f"{r['logit_std']:.3f}", f"{r['effective_tokens']:.1f}",
                f"{r['entropy']:.3f}", f"{r['largest_weight']:.3f}", f"{r['positional_share']:.1%}", str(r["rank_99"]),
                "" if r["weight_rank"] is None else f"{r['weight_rank']} ({r['weight_effective_rank']:.1f})",
            )
            for r in report.rows()
        ),
        title=f"Measured on {report.tokens:,} tokens of {report.source}, in windows of {report.context}",
        words=("kind",),
    )  # fmt: skip


def _print_layers(found: Allocation) -> None:
    print_table(
        ("layers", "heads", "query-key dim", "value dim", "error", "from values", "parameters saved", "FLOPs saved",
         "criterion; of values"),
        (
            (
                f"{first.layer}" if first is last else f"{first.layer} to {last.layer}",
                f"{last.heads}" + (f" ({last.kv_heads} key-value)" if last.kv_heads != last.heads else ""), str(last.head_dim),
                str(last.value_dim), f"{last.error:.2%}", f"{last.value_error:.2%}", format_count(last.parameters_saved),
                format_count(last.flops_saved), f"{last.criterion}; {last.value_criterion}",
            )
            for first, last in found.runs()
        ),
        title=f"Heads at {found.context:,} tokens; savings per layer, forward FLOPs per token",
        words=("criterion; of values",),
    )  # fmt: skip
