"""The command line: a file for each command or group, with its options and its pages."""

from .main import cli

__all__ = ["cli"]
