"""The command line: each command parses, calls one library function and prints what it returns."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..architecture.number_formats import DTYPES
from ..errors import InputError, shown
from ..quantities import parse_count, parse_whole
from .options import COUNT, NumberFirst, Renamed, formats, scheme_option
from .output import Row, emit, print_facts, print_table
from .pages import print_attention, print_description, print_formula, print_heads, print_moments, print_plan, print_recipe

if TYPE_CHECKING:
    from ..analysis.propagation import WalkOptions


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="depthwidth")
def cli() -> None:
    """How deep, how wide: shapes, counts and formulas of transformers, with sources and errors."""


class _Verify(click.Group):
    """The commands of the verifier, a package of its own: imported when one of them is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._group().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._group().get_command(ctx, cmd_name)

    @staticmethod
    def _group() -> click.Group:
        from importlib import import_module

        found = import_module("verify.cli").commands
        assert isinstance(found, click.Group)  # noqa: S101
        return found


cli.add_command(_Verify("verify", help="Jobs that check predictions on real transformers, and the rows they leave."))


_MEANT_FOR = {
    "tokens": ("flops",),
    "tokens_per_parameter": ("flops",),
    "masked": ("flops",),
    "batch": ("memory",),
    "recompute": ("memory",),
    "dtype": ("memory", "weights"),
}
"""The kinds of budget that each convention belongs to."""


@cli.command(cls=NumberFirst)
@click.argument("budget", required=False)
@click.option("--non-embedding", "counts", flag_value="non_embedding", help="BUDGET leaves out the embedding.")
@click.option("--active", "counts", flag_value="active", help="BUDGET counts what one token meets (mixtures of experts).")
@click.option("--flops", metavar="N", help="Budget of training FLOPs, as 1e22.")
@click.option("--memory", metavar="BYTES", help="Budget of training memory, as 80GB.")
@click.option("--weights", metavar="BYTES", help="Budget of bytes of weights, as 16GB.")
@click.option("--rule", metavar="NAME", help="Rule that decides between depth and width  [levine2020].")
@click.option("--preset", help="Architecture: gpt3, llama2, llama3, mixtral, vit  [gpt3].")
@click.option("--like", metavar="CONFIG", help="Architecture: all but the shape of a Hugging Face config.json.")
@click.option("--vocab", type=COUNT, help="Number of tokens.")
@click.option("--context", type=COUNT, help="Positions.")
@click.option(
    "--head-dim",
    type=COUNT,
    help="Dimensions of a head  [128 for widths from 1536, 64 below, others where heads must divide].",
)
@click.option("--kv-heads", type=COUNT, help="Key and value heads.")
@click.option("--ffn-ratio", metavar="R", help="Feed-forward width per width, as 4 or 8/3.")
@click.option("--gated/--plain", default=None, help="Gated or plain feed-forward part.")
@click.option("--tied/--untied", default=None, help="Whether the output matrix is the token embedding.")
@click.option("--bias/--no-bias", default=None, help="Whether linear maps have biases.")
@click.option("--norm", help="layernorm or rmsnorm.")
@click.option("--positions", help="learned, sinusoidal, rotary, alibi, relative or none.")
@click.option("--experts", type=COUNT, help="Experts of each feed-forward part.")
@click.option("--top-k", type=COUNT, help="Experts that a token is routed to.")
@click.option("--kind", help="decoder, encoder or encoder-decoder.")
@click.option("--tensor-parallel", "--tp", type=COUNT, default=1, help="Heads divide among N devices.")
@click.option("--multiple", type=COUNT, help="Widths are multiples of N  [64 or 128].")
@click.option("--tokens", type=COUNT, help="Training tokens, for a FLOPs budget.")
@click.option("--tokens-per-parameter", type=float, metavar="R", help="Training tokens per parameter  [20].")
@click.option("--batch", type=COUNT, help="Sequences at once, for a memory budget  [1].")
@click.option("--dtype", help=f"Number format: {', '.join(DTYPES)}  [bf16].")
@click.option("--recompute", help="none or full, for a memory budget  [none].")
@click.option("--masked", is_flag=True, default=None, help="Leave attention scores behind the causal mask out of FLOPs.")
@click.option("--plot", metavar="FILE", help="Draw the curve of equal budget with the rules and known models.")
@formats
def plan(
    budget: str | None,
    counts: str | None,
    flops: str | None,
    memory: str | None,
    weights: str | None,
    rule: str | None,
    preset: str | None,
    like: str | None,
    head_dim: int | None,
    ffn_ratio: str | None,
    tensor_parallel: int,
    multiple: int | None,
    tokens: int | None,
    tokens_per_parameter: float | None,
    batch: int | None,
    dtype: str | None,
    recompute: str | None,
    masked: bool | None,
    plot: str | None,
    form: str | None,
    **design: Any,
) -> None:
    """The shape to build with BUDGET parameters (1T, 1.3B, 6.7e9), or with --flops, --memory or --weights.

    Counts are exact for the real architecture: embedding, vocabulary, biases, gates and experts included.
    """
    from ..planning.plan import plan as make_plan
    from ..planning.template import Template, without_none

    given = {"flops": flops, "memory": memory, "weights": weights, counts or "parameters": budget}
    asked = {kind: amount for kind, amount in given.items() if amount is not None}
    if len(asked) != 1:
        raise InputError("plan takes one budget: BUDGET parameters, --flops, --memory or --weights")
    ((kind, amount),) = asked.items()
    for name, value in (("tokens", tokens), ("tokens_per_parameter", tokens_per_parameter), ("batch", batch), ("dtype", dtype),
                        ("recompute", recompute), ("masked", masked)):  # fmt: skip
        if value is not None and kind not in _MEANT_FOR[name]:
            option = name.replace("_", "-")
            raise InputError(f"--{option} has no meaning for a budget of {kind.replace('_', ' ')}")
    if plot is not None:
        from .plots import check_target, plot_plan

        check_target(plot)
    options = {
        "tokens": tokens, "tokens_per_parameter": tokens_per_parameter, "batch": batch, "dtype": dtype, "recompute": recompute,
        "masked": masked,
    }  # fmt: skip
    shape: dict[str, Any] = {
        "ffn_ratio": None if ffn_ratio is None else _ratio(ffn_ratio),
        "head_dim": head_dim, "tensor_parallel": tensor_parallel, "multiple": multiple,
    }  # fmt: skip
    choices = without_none(design)
    if like is None:
        template = Template.of("gpt3" if preset is None else preset, **shape, **choices)
    elif preset is not None:
        raise InputError("give an architecture by --preset or by --like, not both")
    else:
        from ..architecture.hf import read_design

        template = Template.like(read_design(like), choices, **without_none(shape))
    found = make_plan(amount, rule=rule, kind=kind, template=template, **without_none(options))
    if plot is not None:
        plot_plan(found, plot)
    emit(form, found.to_dict(), found.rows(), lambda: print_plan(found))


@cli.command()
@click.argument("config")
@click.option("--context", type=COUNT, help="Length of a sequence  [the model's].")
@click.option("--source", type=COUNT, help="Length of the encoder's sequence  [as --context].")
@click.option("--batch", type=COUNT, default=1, help="Sequences at once  [1].")
@click.option("--masked", is_flag=True, help="Leave attention scores behind the causal mask out of FLOPs.")
@click.option("--dtype", default="bf16", show_default=True, help=f"Number format: {', '.join(DTYPES)}.")
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

    tree, made = (Transformer.from_config(config), "shipped") if diagnosed is False else _recipe_of(config, scheme)
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


@cli.group()
def formulas() -> None:
    """Every formula with its source, kind of claim and domain."""


@formulas.command("list")
@click.option("--kind", help="Only this kind: exact, asymptotic, approximation, fitted, heuristic.")
@click.option("--topic", help="Only this topic.")
@formats
def formulas_list(kind: str | None, topic: str | None, form: str | None) -> None:
    """One line for each formula."""
    from ..checks import check_choice
    from ..formula import KINDS
    from ..formula import formulas as find

    if kind is not None:
        check_choice("formulas list", tuple(KINDS), kind=kind)
    if topic is not None:
        check_choice("formulas list", tuple(sorted({f.topic for f in find()})), topic=topic)
    cards = [f.card() for f in find(kind, topic)]  # type: ignore[arg-type]
    columns = ("name", "kind", "status", "source", "summary")
    rows: list[Row] = [{key: card[key] for key in columns} for card in cards]
    emit(
        form,
        cards,
        rows,
        lambda: print_table(
            ("name", "kind", "status", "summary"),
            ([row[c] for c in columns if c != "source"] for row in rows),
            words=("kind", "status", "summary"),
        ),
    )


@formulas.command("show")
@click.argument("name")
@formats
def formulas_show(name: str, form: str | None) -> None:
    """One formula: LaTeX, arguments and their domains, source, documentation, and how far measurements are from it."""
    from ..evidence import evidence
    from ..formula import find_formula

    found = find_formula(name)
    measured = evidence(found.name)
    card = {
        **found.card(), "latex": found.latex() if found.closed else None,
        "expression": str(found.expr) if found.closed else None, "documentation": found.__doc__,
        "evidence": [item.to_dict() for item in measured],
    }  # fmt: skip

    emit(form, card, card["arguments"], lambda: print_formula(found, card, measured))


@formulas.command("eval")
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT=VALUE]...")
@formats
def formulas_eval(name: str, arguments: tuple[str, ...], form: str | None) -> None:
    """The value of a formula, as in `eval levine_width depth=24`.

    A value is a number (24, 6.7e9, 1.3B), several numbers (6,12,24), or a letter, which stays symbolic.
    """
    from ..formula import find_formula

    found = find_formula(name)
    values = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise InputError(f"{shown(argument)} is not of the form ARGUMENT=VALUE, as depth=24")
        if key in values:
            raise InputError(f"the argument {key!r} is given twice")
        values[key] = _value(key, text)
    import numpy

    with numpy.errstate(all="ignore"):  # what overflows is refused in the next line, in a sentence
        result = found(**values)
    if not hasattr(result, "free_symbols") and not numpy.isfinite(result).all():
        raise InputError(f"{found.name} leaves the range of floating-point numbers at these arguments")
    plain = result.tolist() if hasattr(result, "tolist") else result
    plain = plain if isinstance(plain, (int, float, list)) else str(plain)
    row = {"name": found.name, "value": plain, "kind": found.kind, "status": found.status, "source": found.source}
    emit(form, row, [row], lambda: click.echo(str(plain)))


_LETTER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


def _value(name: str, text: str) -> Any:
    if "," in text and not re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        import numpy

        return numpy.array([_number(name, part) for part in text.split(",")])
    if _LETTER.fullmatch(text) and text.lower() not in ("nan", "inf", "infinity"):
        import sympy

        return sympy.Symbol(text, real=True)
    return _number(name, text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float(parse_count(text, name))


@cli.command()
@click.argument("name", required=False)
@formats
def derive(name: str | None, form: str | None) -> None:
    """A closed form derived from its definition, step by step; without NAME, those that can be."""
    from ..formulas._derivation import derivable
    from ..formulas._derivation import derive as derivation_of

    if name is None:
        rows: list[Row] = [{"formula": known} for known in derivable()]
        emit(form, rows, rows, lambda: click.echo("\n".join(derivable())))
        return
    found = derivation_of(name)
    data = found.to_dict()
    emit(form, data, data["steps"], lambda: click.echo(str(found)))


_tokenizer = click.option(
    "--tokenizer", "--tokens", cls=Renamed, metavar="KIND",
    help="Its tokens: bytes, words, ids or a tokenizer.json  [words; bytes for few].",
)  # fmt: skip


def _match_of(
    tree: Any, context: int | None, text: str | None, tokenizer: str | None, windows: int | None, correlation: float | None
) -> tuple[Any, str]:
    """How often positions of a text match, for ``propagate``, and a sentence that says how that was found."""
    if text is None:
        for option, value in (("--tokenizer", tokenizer), ("--windows", windows)):
            if value is not None:
                raise InputError(f"{option} has no meaning without --text")
        return None, ""
    if correlation is not None:
        raise InputError("give the input by --text or by --correlation, not both")
    if not tree.vocab:
        raise InputError("--text has no meaning for a model of images")
    from ..analysis.text import read_text

    found, length = read_text(text, tokenizer, tree.vocab), tree.run(context).tokens
    measured = found.within(length)
    error = "" if measured.stderr is None else f" +- {measured.stderr:.2g}"
    start = f"the first {len(found):,}" if found.truncated else f"{len(found):,}"
    sentence = (
        f"Text: {start} tokens ({found.kind}) of {found.source}; two positions within windows of {min(length, len(found))} "
        f"hold the same one with probability {measured.value:.4g}{error}, over the whole text {found.match_probability():.4g}."
    )
    return (measured.value if windows is None else found.match_matrix(length, windows)), sentence


@cli.command("text")
@click.argument("file")
@click.option(
    "--tokenizer",
    "--tokens",
    cls=Renamed,
    metavar="KIND",
    default="words",
    show_default=True,
    help="bytes, words, ids or a tokenizer.json.",
)
@click.option("--context", type=COUNT, default=1024, show_default=True, help="Tokens of a window.")
@formats
def text_command(file: str, tokenizer: str, context: int, form: str | None) -> None:
    """How often two positions of the text in FILE hold the same token, beside Zipf's law."""
    from ..analysis.text import read_text

    row = read_text(file, tokenizer).summary(context)

    def human() -> None:
        print_facts({key.replace("_", " "): f"{v:.5g}" if isinstance(v, float) else str(v) for key, v in row.items()})

    emit(form, row, [row], human)


@cli.command()
@click.argument("name", required=False)
@formats
def table(name: str | None, form: str | None) -> None:
    """A published table beside what the formulas give; without NAME, the list of tables."""
    from ..analysis.published_tables import table as rows_of
    from ..analysis.published_tables import table_names

    rows: list[Row] = list(rows_of(name)) if name is not None else [{"table": known} for known in table_names()]
    emit(
        form,
        rows,
        rows,
        lambda: print_table(
            tuple(rows[0]), ([f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)
        ),
    )


@cli.command()
@click.argument("config")
@scheme_option("Scheme; `depthwidth init` lists them.")
@click.option("--context", type=COUNT, help="Tokens of a sequence  [the model's].")
@click.option("--source", type=COUNT, help="Tokens of the encoder's sequence  [as --context].")
@click.option(
    "--lengths", metavar="L,L,..", help="A padded batch: its sequences' lengths without padding, which no token attends to."
)
@click.option("--variance", type=float, help="Variance of the first block's input  [the embedding's].")
@click.option("--correlation", type=float, help="Its correlation between tokens  [the embedding's, by Zipf's law].")
@click.option("--text", metavar="FILE", help="Text whose repeated tokens make the inputs correlate.")
@_tokenizer
@click.option("--windows", type=COUNT, help="Follow positions one by one, over N windows of the text.")
@click.option("--gradient", metavar="KIND", help="Behind the last norm: unit, of second moment 1, or the loss's own  [unit].")
@click.option("--gradient-correlation", type=float, help="Of the unit gradient between tokens  [0].")
@click.option("--no-dropout", is_flag=True, help="Evaluation mode.")
@click.option("--attention", is_flag=True, help="How concentrated each layer's attention is, instead.")
@click.option("--plot", metavar="FILE", help="Draw variance, correlation and gradient along the depth.")
@formats
def moments(
    config: str,
    scheme: str,
    context: int | None,
    source: int | None,
    lengths: str | None,
    variance: float | None,
    correlation: float | None,
    text: str | None,
    tokenizer: str | None,
    windows: int | None,
    gradient: str | None,
    gradient_correlation: float | None,
    no_dropout: bool,
    attention: bool,
    plot: str | None,
    form: str | None,
) -> None:
    """Predicted moments of signal and gradient at every site of the transformer in CONFIG, at initialisation.

    With --lengths they are averages over the tokens of a batch that are no padding; a length may stand several times, and in a
    model of two stacks be a pair, decoder:encoder.
    """
    from ..analysis.propagation import moments_of

    if plot is not None:
        from .plots import check_target, plot_moments

        check_target(plot)
    tree, made = _recipe_of(config, scheme)
    batch = None if lengths is None else _lengths(lengths)
    for option, value in (("--context", context), ("--windows", windows), ("--attention", attention or None)):
        if batch is not None and value is not None:
            raise InputError(f"give --lengths or {option}, not both")
    match, sentence = _match_of(tree, context, text, tokenizer, windows, correlation)
    given: WalkOptions = {
        "variance": variance, "correlation": correlation, "token_match": match,
        "gradient": _gradient(gradient, gradient_correlation), "context": context, "source": source, "dropout": not no_dropout,
    }  # fmt: skip
    if sentence and form is None:
        click.echo(f"{sentence}\n")
    if attention:
        from ..analysis.concentration import attention_profile

        profile: list[Row] = list(attention_profile(tree, made, **given))
        emit(form, profile, profile, lambda: print_attention(profile))
        return
    rows: list[Row] = list(moments_of(tree, made, lengths=batch, **given))
    if plot is not None:
        plot_moments(rows, plot)
    emit(form, rows, rows, lambda: print_moments(rows))


def _gradient(kind: str | None, correlation: float | None) -> tuple[float, float] | str:
    """The gradient behind the last norm, as ``propagate`` takes it."""
    from ..checks import check_choice

    if kind is not None:
        check_choice("moments", ("unit", "loss"), gradient=kind)
    if kind != "loss":
        return 1.0, correlation or 0.0
    if correlation is not None:
        raise InputError("--gradient-correlation has no meaning for --gradient loss, which has a correlation of its own")
    return "loss"


def _lengths(text: str) -> list[Any]:
    """Lengths, or pairs of them, as they are typed: ``512,128,64`` or ``64:512,32:128``."""
    found: list[Any] = []
    for part in text.split(","):
        lengths = [parse_whole(one, "lengths") for one in part.split(":")]
        found.append(lengths[0] if len(lengths) == 1 else tuple(lengths))
    return found


def _recipe_of(config: str, scheme: str) -> tuple[Any, Any]:
    """The tree in a configuration file, and a scheme's recipe for it."""
    from ..architecture import Transformer
    from ..architecture.hf import read_json
    from ..initialization import recipe, shipped_options

    fields = read_json(config)
    tree = Transformer.from_config(fields)
    return tree, recipe(tree, scheme, **(shipped_options(fields) if scheme == "shipped" else {}))


@cli.command("init")
@click.argument("config", required=False)
@click.option("--scheme", metavar="NAME", default="deepscale", show_default=True, help="Name of a scheme.")
@click.option("--text", metavar="FILE", help="Text whose repeated tokens DeepScaleLM makes up for  [Zipf's law].")
@_tokenizer
@click.option("--yaml", "form", flag_value="yaml", help="Print YAML, everything.")
@formats
def init_command(config: str | None, scheme: str, text: str | None, tokenizer: str | None, form: str | None) -> None:
    """What to set each tensor of the transformer in CONFIG to, and why; without CONFIG, the schemes."""
    from ..initialization import embedding_correlation, recipe, scheme_options, schemes

    if text is not None and "embedding_correlation" not in scheme_options(scheme):
        able = ", ".join(name for name in schemes() if "embedding_correlation" in scheme_options(name))
        raise InputError(f"--text has no meaning for {scheme}, which does not ask how often tokens repeat; {able} does")
    if config is None:
        if text is not None or tokenizer is not None:
            raise InputError("--text and --tokenizer have no meaning without CONFIG")
        known: list[Row] = [{"scheme": name} for name in schemes()]
        emit(form, known, known, lambda: click.echo("\n".join(schemes())))
        return
    tree, made = _recipe_of(config, scheme)
    match, source = _match_of(tree, None, text, tokenizer, None, None)
    if match is not None:
        made = recipe(tree, scheme, embedding_correlation=embedding_correlation(tree, match))
        if form is None:
            click.echo(f"{source}\n")
    rows: list[Row] = made.rows(tree)
    if form == "yaml":
        click.echo(made.to_yaml(tree), nl=False)
        return
    emit(form, rows, rows, lambda: print_recipe(made))


@cli.command("heads", cls=NumberFirst)
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
def heads_command(
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


def _ratio(text: str) -> Fraction:
    try:
        return Fraction(text[:32])
    except (ValueError, ZeroDivisionError):
        raise InputError(f"ffn_ratio {shown(text)} is not a ratio like 4, 2.6875 or 8/3") from None
