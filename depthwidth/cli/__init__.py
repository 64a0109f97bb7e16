"""The command line: commands and their options, pages, tables and pictures."""

from .commands import cli

__all__ = ["cli"]
