"""Options that several commands share: counts, output formats, the scheme."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from ..checks import read_count
from ..errors import InputError, shown

if TYPE_CHECKING:
    from ..hardware.parallelism import Parallelism, TrainingSetup

F = TypeVar("F", bound=Callable[..., Any])


class _Option(click.Option):
    """An option whose help prints a default given in words like any other, without click's parentheses."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Names and help, or None if hidden."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], re.sub(r"\[default: \((.*)\)([;\]])", r"[default: \1\2", record[1]))


option = functools.partial(click.option, cls=_Option)


FORMATS = {"json": "everything as JSON", "csv": "rows as CSV", "markdown": "rows as a Markdown table"}


def formats(function: F) -> F:
    """The options for the output format, which the command receives as `form`; more than one of them is refused."""

    @functools.wraps(function)
    def in_one_format(*args: Any, **given: Any) -> Any:
        chosen = [form for form in FORMATS if given.pop(form)]
        if len(chosen) > 1:
            raise InputError(f"{' and '.join(f'--{form}' for form in chosen)} exclude each other; give one")
        return function(*args, form=chosen[0] if chosen else None, **given)

    command: Any = option("--quiet", is_flag=True, expose_value=False, help="Show no progress.")(in_one_format)
    for form, text in reversed(FORMATS.items()):
        command = option(f"--{form}", form, is_flag=True, help=f"Print {text}.")(command)
    found: F = command
    return found


class _Count(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """An option's value as :func:`~depthwidth.quantities.parse_whole` reads it; errors call it by the option's name."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        name = "count" if param is None or param.name is None else param.name
        return read_count(value, "count" if param is None else param.opts[0].lstrip("-").replace("-", "_"), name)


COUNT = _Count()
"""A whole number from 1, in the notation of counts, up to the ceiling of its name (:data:`~depthwidth.checks.CEILINGS`)."""


class _Number(click.ParamType):  # type: ignore[type-arg]
    """An option's value as a finite number."""

    name = "X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise InputError(f"{'number' if param is None else param.name}={shown(value)} is not a finite number")
        return found


NUMBER = _Number()

DTYPES = "fp64, fp32, tf32, fp16, bf16, fp8, e4m3, e5m2, int8, fp4, int4"
"""The names of number formats. Written out, as importing them would double the time of a help page; a test compares."""

OPTIMIZERS = "adamw, adamw-8bit, adafactor, muon, momentum, sgd"
"""The names of optimisers, written out like those of number formats."""


def scheme_option(text: str) -> Callable[[F], F]:
    """The option for an initialisation scheme, with `text` as its help."""
    text += " shipped is that of the installed transformers, shipped@5.10 that of version 5.10."
    return option("--scheme", metavar="NAME", default="shipped", help=text)


PARALLEL = {
    "data_parallel": "data", "tensor_parallel": "tensor", "sequence_parallel": "sequence", "pipeline_parallel": "pipeline",
    "microbatches": "microbatches", "expert_parallel": "expert", "zero": "zero", "context_parallel": "context",
}  # fmt: skip
"""The names under which a command receives the options of :func:`parallel_options`, each with its field."""
SETUP = ("optimizer", "gradients", "no_master", "recompute", "scores_kept", "lora", "lora_on", "frozen", "frozen_dtype")
"""The options of :func:`setup_options`."""
_ZERO = click.IntRange(0, 3)


def parallel_options(function: F) -> F:
    """The options that divide a training among devices; :func:`parallelism_of` reads them."""
    for added in reversed((
        option("--data-parallel", "--dp", type=COUNT, default=1, help="Replicas of the model."),
        option("--tensor-parallel", "--tp", type=COUNT, default=1, help="Devices that divide heads and hidden features."),
        option("--sequence-parallel", is_flag=True, help="Also divide the tokens of norms and dropout among these devices."),
        option("--pipeline-parallel", "--pp", type=COUNT, default=1, help="Stages of blocks, scheduled as 1F1B."),
        option("--microbatches", type=COUNT, help="Micro-batches of a step.", show_default="as many as stages"),
        option("--expert-parallel", "--ep", type=COUNT, default=1, help="Replicas that divide the experts."),
        option("--context-parallel", "--cp", type=COUNT, default=1, help="Devices that divide each sequence (ring attention)."),
        option("--zero", type=_ZERO, metavar="STAGE", default=0, help="Stage of ZeRO; 3 is fully sharded data parallelism."),
    )):  # fmt: skip
        function = added(function)
    return function


def setup_options(function: F) -> F:
    """The options on the states and saved tensors of a training; :func:`setup_of` reads them."""
    for added in reversed((
        option("--optimizer", metavar="NAME", default="adamw", help=f"Optimiser: {OPTIMIZERS}."),
        option("--gradients", metavar="DTYPE", help="Number format of gradients.", show_default="as --dtype"),
        option("--no-master", is_flag=True, help="Keep no float32 copy of the weights."),
        option("--recompute", metavar="NAME", default="none", help="Recompute activations: none, selective or full."),
        option("--scores-kept", is_flag=True, help="Keep the attention scores, as unfused kernels do."),
        option("--lora", type=COUNT, metavar="RANK", help="Train adapters of this rank on frozen weights."),
        option("--lora-on", metavar="NAME", default="all", help="Maps with adapters: all, attention or query-value."),
        option("--frozen", multiple=True, metavar="SITE", help="Component that is not trained; may be repeated."),
        option("--frozen-dtype", metavar="DTYPE", help="Number format of frozen weights.", show_default="as --dtype"),
    )):  # fmt: skip
        function = added(function)
    return function


def parallelism_of(given: dict[str, Any]) -> Parallelism:
    """Take the options of :func:`parallel_options` out of the values that a command received."""
    from ..hardware.parallelism import Parallelism

    return Parallelism(**{field: given.pop(name) for name, field in PARALLEL.items()})


def setup_of(given: dict[str, Any], dtype: str) -> TrainingSetup:
    """Take the options of :func:`setup_options` out of the values that a command received."""
    from ..hardware.parallelism import TrainingSetup

    own = {name: given.pop(name) for name in SETUP}
    own["master"], own["fused"] = not own.pop("no_master"), not own.pop("scores_kept")
    return TrainingSetup(dtype=dtype, **own)


class Listing(click.Group):
    """A group whose help lists each command with a whole sentence: click itself cuts what does not fit one line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the section of commands."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(limit=10_000)) for name, one in found if one is not None and not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Sections(click.Command):
    """A command whose help lists its options in sections."""

    sections: ClassVar[Mapping[str, str]] = {}
    """From a section's title to the name of its first option; the other options follow in order."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        titles = {first: title for title, first in self.sections.items()}
        found: list[tuple[str, list[tuple[str, str]]]] = [("Options", [])]
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is None:
                continue
            names = (*parameter.opts, *parameter.secondary_opts)
            title = next((titles[name] for name in names if name in titles), None)
            if title is not None:
                found.append((title, []))
            found[-1][1].append(record)
        for title, records in found:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=26)


class NumberFirst(click.Command):
    """A command whose first argument may be a negative number, so that it is refused as one and not as an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move a first argument like ``-5`` to after ``--``."""
        first = args[0] if args else ""
        if re.fullmatch(r"-(\d|\.\d|inf|nan).*", first, re.IGNORECASE) and "--" not in args:
            args = [*args[1:], "--", first]
        return super().parse_args(ctx, args)
