"""``depthwidth`` and ``python -m depthwidth``: run the command line; invalid input gives one sentence and status 2."""

from __future__ import annotations

import os
import sys

import click

from .cli import cli
from .errors import InputError


def main() -> None:
    """Run the command line and exit."""
    try:
        status = cli(prog_name="depthwidth", standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except BrokenPipeError:
        # The reader of our output has closed the pipe; nothing more may be written to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(sentence: str, status: int) -> None:
    print(f"Error: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(status)


if __name__ == "__main__":
    main()
