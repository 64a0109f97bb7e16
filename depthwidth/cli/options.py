"""Options that several commands share: counts, output formats, the scheme."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..quantities import parse_whole

F = TypeVar("F", bound=Callable[..., Any])


def formats(function: F) -> F:
    """The options that choose how a command prints; the command gets the choice as `form`."""
    for form, text in (("json", "JSON, everything"), ("csv", "CSV, one row each"), ("markdown", "a Markdown table")):
        function = click.option(f"--{form}", "form", flag_value=form, help=f"Print {text}.")(function)
    return function


class _Count(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """An option's value as :func:`parse_whole` reads it, called by the option's own name."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        return parse_whole(value, "count" if param is None else param.opts[0].lstrip("-").replace("-", "_"))


COUNT = _Count()

DTYPES = "fp64, fp32, tf32, fp16, bf16, fp8, e4m3, e5m2, int8, fp4, int4"
"""The names of number formats. Written out, as importing them would double the time of a help page; a test compares."""


def scheme_option(text: str) -> Callable[[F], F]:
    """The initialisation scheme that a command starts from, as `scheme`; `text` is the command's help on it."""
    return click.option("--scheme", metavar="NAME", default="shipped", show_default=True, help=text)


class NumberFirst(click.Command):
    """A command whose first argument may be a negative number, which must be refused for what it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put a first argument like ``-5`` behind ``--`` so that it is not taken for an option."""
        first = args[0] if args else ""
        if re.fullmatch(r"-(\d|\.\d|inf|nan).*", first, re.IGNORECASE) and "--" not in args:
            args = [*args[1:], "--", first]
        return super().parse_args(ctx, args)
