"""Listings of commands, rules and schemes are whole, at the width of a terminal and of half of one."""

import json

import click
import pytest

from depthwidth.cli.main import COMMANDS, cli
from depthwidth.initialization import scheme_lines, schemes


def groups(command=cli, path=("depthwidth",), parent=None):
    """Every group of the command tree, with its context."""
    ctx = click.Context(command, info_name=path[-1], parent=parent)
    if isinstance(command, click.Group):
        yield command, ctx
        for name in command.list_commands(ctx):
            yield from groups(command.get_command(ctx, name), (*path, name), ctx)


def listing(group, ctx, width):
    """The lines of a help page below "Commands:", at a width."""
    ctx.terminal_width = ctx.max_content_width = width
    return group.get_help(ctx).partition("Commands:\n")[2]


def whole(text):
    return " ".join(text.split())


@pytest.mark.parametrize("width", [80, 40])
def test_every_listing_is_whole(width):
    seen = []
    for group, ctx in groups():
        lines = listing(group, ctx, width)
        assert "..." not in lines
        assert max(map(len, lines.splitlines())) <= width
        for name in group.list_commands(ctx):
            seen.append(name)
            said = group.get_command(ctx, name).get_short_help_str(limit=10_000) if group is not cli else COMMANDS[name].summary
            assert whole(said).endswith(".")
            assert f"{name} {whole(said)}" in whole(lines)
    assert {"formulas", "show", "verify", "report", "describe"} <= set(seen)


def test_a_plain_group_is_cut():
    """The negative control."""

    @click.group()
    def plain():
        """A group."""

    @plain.command()
    def one():
        """Do something that takes so many words that no line of half a terminal can hold them."""

    assert "..." in listing(plain, click.Context(plain, info_name="plain"), 40)


def test_schemes_are_listed_with_one_line_each(invoke):
    rows = scheme_lines()
    assert [row["scheme"] for row in rows] == schemes()
    assert all(row["starts"] and row["source"] and not row["starts"].endswith((".", "...")) for row in rows)
    assert json.loads(invoke("init", "--json").output) == rows
    lines = invoke("init").output.splitlines()
    for row in rows:
        (line,) = [line for line in lines if line.startswith(f"{row['scheme']} ")]
        assert row["starts"] in line
        assert row["source"] in line


def test_rules_are_listed_with_one_line_each(invoke):
    rows = json.loads(invoke("rules", "--json").output)
    lines = invoke("rules").output.splitlines()
    for row in rows:
        (line,) = [line for line in lines if line.startswith(f"{row['rule']} ") and row["source"] in line]
        assert row["kind"] in line
