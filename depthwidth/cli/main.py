"""The command group ``depthwidth``; a command's file is imported when that command runs."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click

from .. import __version__


class Entry(NamedTuple):
    """A command that is not imported yet."""

    module: str
    name: str
    summary: str
    """Its line in ``depthwidth --help``."""


COMMANDS = {
    "plan": Entry("depthwidth.cli.plan", "plan", "Choose a shape for a budget of parameters, FLOPs or bytes."),
    "compare": Entry("depthwidth.cli.compare", "compare", "Compare the predicted loss and the cost of models."),
    "rules": Entry("depthwidth.cli.rules", "rules", "List the rules for depth and width, with their papers."),
    "describe": Entry("depthwidth.cli.describe", "describe", "Count a model, judge its shape and its initialisation."),
    "compute": Entry("depthwidth.cli.compute", "compute", "Find the best shape and tokens for a number of FLOPs."),
    "pareto": Entry("depthwidth.cli.pareto", "pareto", "List shapes unbeaten in loss, latency and memory."),
    "serve": Entry("depthwidth.cli.serve", "serve", "Estimate the time to generate a token on accelerators."),
    "moments": Entry("depthwidth.cli.moments", "moments", "Predict signal and gradient moments at initialisation."),
    "init": Entry("depthwidth.cli.init", "init", "List the initialisation of every tensor under a scheme."),
    "heads": Entry("depthwidth.cli.heads", "heads", "Choose heads and head dimensions layer by layer."),
    "effective-rank": Entry(
        "depthwidth.cli.effective_rank", "effective_rank", "Measure the ranks that the heads of a checkpoint use."
    ),
    "fit": Entry("depthwidth.cli.fit", "fit", "Fit a law to training runs, with errors and a verdict."),
    "evidence": Entry("depthwidth.cli.evidence", "evidence", "Judge the rules on training runs of many shapes."),
    "check-invariance": Entry("depthwidth.cli.invariance", "check_invariance", "Find the weights that are scale invariant."),
    "text": Entry("depthwidth.cli.text", "text", "Measure how often the tokens of a text repeat."),
    "formulas": Entry("depthwidth.cli.formulas", "formulas", "List, show and evaluate formulas."),
    "derive": Entry("depthwidth.cli.derive", "derive", "Derive a closed form step by step."),
    "table": Entry("depthwidth.cli.table", "table", "Print a published table with our formulas' values."),
    "explore": Entry("depthwidth.cli.explore", "explore", "Serve a page with live settings and results."),
    "verify": Entry("verify.cli", "commands", "Check predictions by training real transformers."),
}
"""In the order of the help page."""


class _OnDemand(click.Group):
    """A group whose commands are imported one at a time; its help page imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        found = getattr(import_module(entry.module), entry.name)
        assert isinstance(found, click.Command)  # noqa: S101
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=_OnDemand, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="depthwidth")
def cli() -> None:
    """Compute shapes, counts and signal moments of transformers from published theory.

    Every command prints a table, or the same numbers with --json, --csv or --markdown. `depthwidth COMMAND --help` explains
    a command.
    """
