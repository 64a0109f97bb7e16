"""``depthwidth`` and ``python -m depthwidth``: run the command line; invalid input gives one sentence and status 2."""

from __future__ import annotations

import os
import sys

import click

from .cli import cli
from .errors import InputError, printable


def main() -> None:
    """Run the command line and exit."""
    try:
        status = cli(prog_name="depthwidth", standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except BrokenPipeError:
        _silence()
        sys.exit(1)
    except OSError as error:
        _silence()
        _fail(f"the output cannot be written: {error.strerror or error}", 3)
    except MemoryError:
        _fail("this takes more memory than there is", 3)
    sys.exit(status if isinstance(status, int) else 0)


def _silence() -> None:
    """After a write failed: nothing more may be written to the output, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, status: int) -> None:
    print(f"Error: {printable(sentence)}", file=sys.stderr)  # noqa: T201
    sys.exit(status)


if __name__ == "__main__":
    main()
